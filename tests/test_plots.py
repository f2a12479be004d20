"""What the figures show: the data they were given, under the names they were given."""

import subprocess
import sys
from itertools import pairwise

import matplotlib
import numpy as np
import pytest
from matplotlib.container import ErrorbarContainer

from midas_lib import analysis, plots
from midas_lib.config import CLASS_NAMES, ROOT

RNG = np.random.default_rng(0)


def title(ax):
    return ax.get_title(loc="left")


def texts(ax):
    return [text.get_text() for text in ax.texts]


def tick_labels(axis):
    """(position, label) of every tick, major and minor, in order of position."""
    ticks = axis.get_major_ticks() + axis.get_minor_ticks()
    return sorted((tick.get_loc(), tick.label1.get_text()) for tick in ticks)


def intervals(ax):
    """[(low, high), ...] along x of every horizontal error bar, in drawing order."""
    bars = [item for item in ax.containers if isinstance(item, ErrorbarContainer)]
    segments = [segment for bar in bars for segment in bar.lines[2][0].get_segments()]
    return [(segment[0][0], segment[-1][0]) for segment in segments if len(segment)]


def test_import_brings_neither_pyplot_nor_tensorflow():
    check = (
        "import sys, midas_lib.plots, midas_lib.analysis;"
        "sys.exit(bool({'matplotlib.pyplot', 'tensorflow'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=True)


def test_figures_look_the_same_whatever_the_callers_settings(tmp_path):
    def drawn(name):
        path = tmp_path / name
        plots.size_curve([5, 10], [0.7, 0.8], [0.6, 0.7], [0.8, 0.9]).savefig(path)
        return path.read_bytes()

    plain = drawn("plain.png")
    with matplotlib.rc_context({"font.size": 30, "axes.grid": False, "xtick.major.size": 20}):
        before = dict(matplotlib.rcParams)
        # building is ours, saving is the caller's: only the former may not depend on settings
        figure = plots.size_curve([5, 10], [0.7, 0.8], [0.6, 0.7], [0.8, 0.9])
        assert dict(matplotlib.rcParams) == before
    figure.savefig(tmp_path / "other.png")
    assert (tmp_path / "other.png").read_bytes() == plain


def test_image_grid_shows_each_image_as_it_is_under_its_title():
    images = RNG.integers(0, 256, (5, 28, 20), np.uint8)
    figure = plots.image_grid(images, list("abcde"), columns=3)
    assert len(figure.axes) == 5
    for ax, image, name in zip(figure.axes, images, "abcde", strict=True):
        np.testing.assert_array_equal(ax.images[0].get_array(), image)
        assert ax.images[0].get_clim() == (0, 255)
        assert title(ax) == name
        box = ax.get_window_extent()
        assert box.height / box.width == pytest.approx(28 / 20)


def test_image_grid_takes_network_input_and_refuses_titles_that_do_not_fit():
    images = RNG.integers(0, 256, (2, 28, 28, 1), np.uint8)
    shown = plots.image_grid(images).axes[1].images[0].get_array()
    np.testing.assert_array_equal(shown, images[1, :, :, 0])
    with pytest.raises(ValueError, match="shorter"):
        plots.image_grid(images, ["one"])


def test_first_look_has_raw_left_of_processed_for_every_class():
    raw = RNG.integers(0, 256, (62, 9, 12), np.uint8)
    processed = RNG.integers(0, 256, (62, 7, 7), np.uint8)
    figure = plots.first_look(raw, processed, CLASS_NAMES)
    assert [title(ax) for ax in figure.axes] == list(CLASS_NAMES)
    left, right = figure.axes[40].images
    np.testing.assert_array_equal(left.get_array(), raw[40])
    np.testing.assert_array_equal(right.get_array(), processed[40])
    assert left.get_extent()[1] == right.get_extent()[0] == 12 / 9


def test_worst_losses_sorts_by_the_probability_of_the_truth():
    images = np.arange(3, dtype=np.uint8)[:, None, None] * np.ones((3, 4, 4), np.uint8)
    own, given = [0.9, 0.02, 0.05], [0.9, 0.98, 0.7]
    figure = plots.worst_losses(images, [0, 1, 1], [0, 0, 2], own, given, "abc", count=2)
    assert [title(ax) for ax in figure.axes] == [
        "true b: 2.0 %\nread a: 98 %",
        "true b: 5.0 %\nread c: 70 %",
    ]
    assert [ax.images[0].get_array()[0, 0] for ax in figure.axes] == [1, 2]


def test_confused_pairs_show_the_pairs_errors_first():
    images = np.arange(6, dtype=np.uint8)[:, None, None] * np.ones((6, 4, 4), np.uint8)
    labels = np.array([0, 0, 0, 1, 1, 2])
    predictions = np.array([2, 0, 1, 1, 1, 2])
    figure = plots.confused_pairs(
        images, labels, predictions, CLASS_NAMES, [("0", "1", 1)], examples=4
    )
    shown = [(ax.images[0].get_array()[0, 0], title(ax)) for ax in figure.axes if ax.images]
    # 0 read as 1, 0 read rightly, 0 read as something else; then the ones
    assert shown == [(2, "1 ✗"), (1, "0 ✓"), (0, "2 ✗"), (3, "1 ✓"), (4, "1 ✓")]
    assert sum(ax.get_visible() for ax in figure.axes) == 5
    assert [text for ax in figure.axes for text in texts(ax)] == [
        "0 / 1: 1 errors. Drawn as 0, read as",
        "Drawn as 1, read as",
    ]


def test_attribution_lays_each_map_scaled_to_itself_over_its_image():
    images = RNG.integers(0, 256, (2, 28, 28), np.uint8)
    maps = np.array([[[0, 4], [-1, 2]], [[0, 0], [0, 0]]], float)
    figure = plots.attribution(images, maps, ["a", "b"])
    image, heat = figure.axes[0].images
    np.testing.assert_array_equal(image.get_array(), images[0])
    np.testing.assert_array_equal(heat.get_array(), [[0, 4], [0, 2]])
    assert heat.get_clim() == (0, 4)
    assert heat.get_cmap()(0.0)[3] == 0  # what did not matter stays clear
    assert image.get_extent() == heat.get_extent()


def test_counts_draws_every_class_and_writer():
    classes = {name: 30 + i for i, name in enumerate(CLASS_NAMES)}
    figure = plots.counts(classes, {1: 62, 3: 61, 55: 60})
    *class_axes, writer_axes = figure.axes
    heights = [bar.get_height() for ax in class_axes for bar in ax.patches]
    labels = [label.get_text() for ax in class_axes for label in ax.get_xticklabels()]
    assert heights == list(classes.values())
    assert labels == list(CLASS_NAMES)
    assert [bar.get_height() for bar in writer_axes.patches] == [62, 61, 60]
    assert [bar.get_center()[0] for bar in writer_axes.patches] == [1, 3, 55]
    assert title(class_axes[0]) == f"{sum(classes.values()):,} images of 62 classes"


def test_learning_curves_draw_the_mean_of_the_runs_from_epoch_one():
    runs = np.array([[0.2, 0.4, 0.9], [0.4, 0.6, 0.7]])
    histories = {
        "one": {"val_accuracy": runs, "accuracy": runs / 2, "val_loss": 1 - runs},
        "two": {"val_accuracy": [0.1, 0.2, 0.3], "learning_rate": [1, 1, 1]},
        "trained on all": {"loss": [3, 2, 1]},
    }
    figure = plots.learning_curves(histories)
    accuracy, loss = figure.axes
    held_out, training, second = accuracy.lines
    np.testing.assert_allclose(held_out.get_ydata(), [0.3, 0.5, 0.8])
    np.testing.assert_allclose(training.get_ydata(), [0.15, 0.25, 0.4])
    np.testing.assert_allclose(second.get_ydata(), [0.1, 0.2, 0.3])
    np.testing.assert_array_equal(held_out.get_xdata(), [1, 2, 3])
    assert held_out.get_linestyle() != training.get_linestyle()
    assert held_out.get_color() != second.get_color()
    assert held_out.get_marker() != second.get_marker()
    assert [line.get_ydata().tolist() for line in loss.lines[1:]] == [[3, 2, 1]]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["one", "two", "trained on all", "held-out images", "training images"]
    assert accuracy.yaxis.get_major_formatter()(0.5) == "50 %"


def test_rate_test_marks_the_chosen_rate():
    rates, losses = np.geomspace(1e-4, 1, 5), np.array([4, 3, 1, 2, 9])
    figure = plots.rate_test(rates, losses, chosen=0.01)
    curve, mark = figure.axes[0].lines
    np.testing.assert_array_equal(curve.get_xydata(), np.column_stack([rates, losses]))
    assert mark.get_xdata()[0] == 0.01
    assert "0.01" in texts(figure.axes[0])[0]
    assert figure.axes[0].get_xscale() == "log"
    assert len(plots.rate_test(rates, losses).axes[0].lines) == 1


def test_size_curve_ticks_are_the_sizes_and_points_carry_their_value():
    sizes, means = [5, 10, 40], [0.7, 0.8, 0.905]
    figure = plots.size_curve(sizes, means, [0.6, 0.75, 0.9], [0.75, 0.85, 0.91])
    ax = figure.axes[0]
    np.testing.assert_array_equal(ax.lines[0].get_xydata(), np.column_stack([sizes, means]))
    assert tick_labels(ax.xaxis) == [(5, "5"), (10, "10"), (40, "40")]
    assert texts(ax) == ["70.0 %", "80.0 %", "90.5 %"]
    bars = ax.containers[0].lines[2][0].get_segments()
    np.testing.assert_allclose(
        [bar[:, 1] for bar in bars], [[0.6, 0.75], [0.75, 0.85], [0.9, 0.91]]
    )


def test_headline_labels_each_interval_top_down():
    figure = plots.headline([("single", 0.9, 0.88, 0.91), ("merged", 0.95, np.nan, np.nan)])
    ax = figure.axes[0]
    assert texts(ax) == ["single", "90.0 %  [88.0, 91.0]", "merged", "95.0 %"]
    np.testing.assert_allclose(ax.lines[0].get_xydata(), [[0.9, 0], [0.95, -1]])
    np.testing.assert_allclose(intervals(ax), [(0.88, 0.91)])
    assert ax.texts[0].xy[1] > ax.texts[2].xy[1]


def test_ablation_tells_better_worse_and_undecided_apart():
    frame = {
        "group": ["Kernel", "Kernel", "Dropout", "Dropout"],
        "variant": ["3 (baseline)", "5", "none", "0.5"],
        "difference": [0, 0.02, -0.03, 0.001],
        "low": [np.nan, 0.01, -0.04, -0.01],
        "high": [np.nan, 0.03, -0.02, 0.012],
        "accuracy": [0.9, 0.92, 0.87, 0.901],
    }
    figure = plots.ablation(frame)
    ax = figure.axes[0]
    points = [item.lines[0] for item in ax.containers]
    assert [point.get_xdata()[0] for point in points] == frame["difference"]
    undecided, better, worse, also_undecided = points
    assert undecided.get_markerfacecolor() == also_undecided.get_markerfacecolor() == "white"
    assert len({point.get_color() for point in points}) == 3
    assert better.get_marker() != worse.get_marker()
    np.testing.assert_allclose(intervals(ax), [(0.01, 0.03), (-0.04, -0.02), (-0.01, 0.012)])
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels == ["Kernel", "3 (baseline)", "5", "Dropout", "none", "0.5"]
    weights = [label.get_fontweight() == "bold" for label in ax.get_yticklabels()]
    assert weights == [True, False, False, True, False, False]
    right = [label.get_text() for label in ax.child_axes[0].get_yticklabels()]
    assert right == ["Accuracy", "90.0 %", "92.0 %", "", "87.0 %", "90.1 %"]
    assert any(list(line.get_xdata()) == [0, 0] for line in ax.lines)  # the zero line
    assert ax.xaxis.get_major_formatter()(0.01) == "+1"


def test_confusion_matrix_labels_every_class_and_sets_errors_apart():
    labels = np.repeat(np.arange(62), 3)
    predictions = labels.copy()
    predictions[:2] = 24
    figure = plots.confusion_matrix(analysis.confusion(labels, predictions, 62), CLASS_NAMES)
    ax = figure.axes[0]
    diagonal, errors = (image.get_array() for image in ax.images)
    assert diagonal.count() == 62
    assert diagonal[0, 0] == pytest.approx(1 / 3)
    assert errors.count() == 1
    assert errors[0, 24] == 2
    for axis in (ax.xaxis, ax.yaxis):
        assert [label for _, label in tick_labels(axis)] == list(CLASS_NAMES)
        assert [place for place, _ in tick_labels(axis)] == list(range(62))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("Predicted class", "True class")


def test_confusion_matrix_without_a_single_error():
    figure = plots.confusion_matrix(np.eye(3, dtype=int), "abc")
    assert figure.axes[0].images[1].get_array().count() == 0


def test_labels_of_62_classes_do_not_touch():
    figure = plots.confusion_matrix(np.eye(62, dtype=int), CLASS_NAMES)
    ax = figure.axes[0]
    for axis, low, high in ((ax.xaxis, "x0", "x1"), (ax.yaxis, "y0", "y1")):
        for minor in (False, True):
            boxes = [label.get_window_extent() for label in axis.get_ticklabels(minor=minor)]
            edges = sorted((getattr(box, low), getattr(box, high)) for box in boxes)
            assert all(a[1] <= b[0] for a, b in pairwise(edges))


@pytest.mark.parametrize(
    "draw",
    [
        lambda values, names: plots.per_class_accuracy(values, names),
        lambda values, names: plots.per_writer_accuracy(dict(zip(names, values, strict=True))),
    ],
)
def test_dots_run_from_best_to_worst(draw):
    values, names = [0.7, 0.9, 0.8, 1.0, 0.6], ["1", "2", "3", "4", "5"]
    left, right = draw(values, names).axes
    dots = [ax.lines[0].get_xdata().tolist() for ax in (left, right)]
    assert dots == [[1.0, 0.9, 0.8], [0.7, 0.6]]
    for ax, expected in ((left, ["4", "2", "3"]), (right, ["1", "5"])):
        assert [label.get_text() for label in ax.get_yticklabels()] == expected
        assert ax.lines[1].get_xdata()[0] == pytest.approx(0.8)


def test_reliability_draws_filled_bins_and_names_the_errors():
    before = analysis.ReliabilityCurve(
        np.array([np.nan, 0.9]), np.array([np.nan, 0.5]), np.array([0, 4])
    )
    after = analysis.ReliabilityCurve(np.array([0.4, 0.6]), np.array([0.5, 0.5]), np.array([1, 3]))
    figure = plots.reliability(before, after, 0.4, 0.1)
    upper, lower = figure.axes
    perfect, first, second = upper.lines
    np.testing.assert_array_equal(perfect.get_xdata(), perfect.get_ydata())
    np.testing.assert_allclose(first.get_xydata(), [[0.9, 0.5]])
    np.testing.assert_allclose(second.get_xydata(), [[0.4, 0.5], [0.6, 0.5]])
    np.testing.assert_allclose(lower.patches[1].get_data().values, [0.25, 0.75])
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "40.0 %" in legend[0]
    assert "10.0 %" in legend[1]
