"""What the figures show: the data they were given, under the names they were given."""

import os
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.container import ErrorbarContainer
from matplotlib.text import Text

from midas_lib import analysis, plots
from midas_lib.analysis import Interval
from midas_lib.config import CLASS_NAMES, ROOT
from midas_lib.plots import ARM_STYLES

RNG = np.random.default_rng(0)
NAN, INF = np.nan, np.inf
WORSE = plots.LOOKS["differences"]["worse"]["color"]


def spans(keys, means, lows, highs):
    """{key: Interval} of parallel columns."""
    columns = zip(means, lows, highs, strict=True)
    return {key: Interval(*ends, 5) for key, ends in zip(keys, columns, strict=True)}


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


def bands(ax):
    """{x: (low, high)} of every shaded band, in drawing order."""
    corners = [band.get_paths()[0].vertices for band in ax.collections]
    return [
        {
            x: (c[c[:, 0] == x, 1].min(), c[c[:, 0] == x, 1].max())
            for x in np.unique(c[:, 0]).tolist()
        }
        for c in corners
    ]


def test_import_brings_neither_pyplot_nor_tensorflow():
    check = (
        "import sys, midas_lib.plots, midas_lib.analysis;"
        "sys.exit(bool({'matplotlib.pyplot', 'tensorflow'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=True)


def drawn():
    accuracy = {5: Interval(0.7, 0.6, 0.8, 5), 10: Interval(0.8, 0.7, 0.9, 5)}
    return plots.size_curve(accuracy)


HOSTILE = {
    "font.size": 30, "axes.grid": False, "xtick.major.size": 20, "savefig.bbox": "tight",
    "savefig.dpi": 31, "savefig.facecolor": "red", "savefig.transparent": True, "figure.dpi": 40,
}  # fmt: skip


def test_figures_look_the_same_whatever_the_users_settings():
    plain, vector = plots.png(drawn()), plots.svg(drawn())
    with matplotlib.rc_context(HOSTILE):
        before = dict(matplotlib.rcParams)
        assert plots.png(drawn()) == plain
        assert plots.svg(drawn()) == vector
        assert dict(matplotlib.rcParams) == before
    code = (
        "import sys, runpy; sys.path[:0] = sys.argv[1:]; import test_plots;"
        "sys.stdout.buffer.write(test_plots.plots.png(test_plots.drawn()))"
    )
    with tempfile.TemporaryDirectory() as folder:
        settings = Path(folder, "matplotlibrc")
        settings.write_text("".join(f"{k}: {v}\n" for k, v in HOSTILE.items()))
        environment = os.environ | {"MPLCONFIGDIR": folder}
        command = [sys.executable, "-c", code, str(ROOT), str(Path(__file__).parent)]
        assert subprocess.check_output(command, env=environment) == plain


def test_a_figure_at_a_cells_end_is_a_picture():
    from IPython.core.formatters import DisplayFormatter

    shown, _ = DisplayFormatter().format(drawn())
    assert shown["image/png"] == plots.png(drawn())
    assert shown["image/png"].startswith(b"\x89PNG")


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


def test_network_strip_has_a_box_a_layer_and_fills_what_is_taken_over():
    layers = {"picture": ((28, 28, 1), 0), "conv 1": ((14, 14, 32), 928), "answer": ((10,), 20490)}
    ax = plots.network_strip(layers, taken=["conv 1"]).axes[0]
    boxes = [bar.get_width() for bar in ax.patches]
    assert boxes == [pytest.approx(h) for h in (1.5, 1.0, 0.5 + 1 / 28)]
    assert [bar.get_facecolor()[:3] == to_rgb(plots.BLUE) for bar in ax.patches] == [0, 1, 0]
    assert texts(ax) == [
        "picture", "28×28×1", "–", "conv 1", "14×14×32", "928", "answer", "10", "20,490",
    ]  # fmt: skip


def test_what_falls_is_drawn_on_the_axes_asked_for():
    loss = {"held out": ([0, 6], [[2.0, 1.0], [4.0, 2.0]])}
    ax = plots.convergence(loss, "Loss (nats)", "", "Training steps", "count").axes[0]
    np.testing.assert_allclose(ax.lines[0].get_xydata(), [[0, 3], [6, 1.5]])
    assert bands(ax) == [{0: (2, 4), 6: (1, 2)}]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("Training steps", "Loss (nats)")
    assert (ax.get_xscale(), ax.get_yscale()) == ("linear", "linear")


def test_reliability_draws_each_bin_where_its_confidence_is_with_its_interval():
    figure = plots.reliability(
        {"before": {0.4: Interval(0.5, 0.3, 0.7, 9)}, "after": {0.9: Interval(0.9, NAN, NAN, 9)}}
    )
    agree, before, *_ = figure.axes[0].lines
    np.testing.assert_array_equal(agree.get_xdata(), agree.get_ydata())
    np.testing.assert_allclose(before.get_xydata(), [[0.4, 0.5]])
    bar = figure.axes[0].containers[0].lines[2][0].get_segments()[0]
    np.testing.assert_allclose(bar[:, 1], [0.3, 0.7])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["before", "after"]


def test_size_curve_ticks_are_the_sizes_and_points_carry_their_value():
    sizes, means = [5, 10, 40], [0.7, 0.8, 0.905]
    figure = plots.size_curve(spans(sizes, means, [0.6, 0.75, 0.9], [0.75, 0.85, 0.91]))
    ax = figure.axes[0]
    np.testing.assert_array_equal(ax.lines[0].get_xydata(), np.column_stack([sizes, means]))
    assert tick_labels(ax.xaxis) == [(5, "5"), (10, "10"), (40, "40")]
    assert texts(ax) == ["70.0 %", "80.0 %", "90.5 %"]
    bars = ax.containers[0].lines[2][0].get_segments()
    np.testing.assert_allclose(
        [bar[:, 1] for bar in bars], [[0.6, 0.75], [0.75, 0.85], [0.9, 0.91]]
    )
    assert ax.get_xlabel() == "Training images per class (log scale)"
    other = plots.size_curve({5: Interval(0.7, 0.6, 0.8, 5)}, "Images of a hand")
    assert other.axes[0].get_xlabel() == "Images of a hand (log scale)"


def test_headline_labels_each_interval_top_down():
    single = {"single": Interval(0.9, 0.88, 0.91, 5)}
    figure = plots.headline(single | {"merged": Interval(0.95, NAN, NAN, 1)})
    ax = figure.axes[0]
    assert texts(ax) == ["single", "90.0 %", "merged", "95.0 %"]
    np.testing.assert_allclose(ax.lines[0].get_xydata(), [[0.9, 0], [0.95, -1]])
    np.testing.assert_allclose(intervals(ax), [(0.88, 0.91)])
    assert ax.texts[0].xy[1] > ax.texts[2].xy[1]


def test_ablation_tells_better_worse_and_undecided_apart():
    differences = [
        Interval(0, NAN, NAN, 5),
        Interval(0.02, 0.01, 0.03, 5),
        Interval(-0.03, -0.04, -0.02, 5),
        Interval(0.001, -0.01, 0.012, 5),
        Interval(-0.01, -0.015, -0.005, 5),
    ]
    # The last difference's own interval excludes zero, which the correction for many takes back.
    columns = zip(
        ["Kernel", "Kernel", "Dropout", "Dropout", "Dropout"],
        ["3 (baseline)", "5", "none", "0.5", "0.4"],
        differences, ["", "better", "worse", "within noise", "within noise"], strict=True,
    )  # fmt: skip
    names = ("group", "variant", "interval", "verdict")
    figure = plots.ablation([dict(zip(names, row, strict=True)) for row in columns])
    ax = figure.axes[0]
    points = [item.lines[0] for item in ax.containers]
    assert [point.get_xdata()[0] for point in points] == [d.mean for d in differences]
    undecided, better, worse, *also_undecided = points
    assert [point.get_color() for point in points] == [
        plots.GREY, plots.BLUE, WORSE, plots.GREY, plots.GREY,
    ]  # fmt: skip
    legend = figure.legends[0]
    named = dict(
        zip([text.get_text() for text in legend.get_texts()], legend.get_lines(), strict=True)
    )
    assert {name: line.get_color() for name, line in named.items()} == {
        "better": plots.BLUE, "worse": WORSE, "undecided": plots.GREY,
    }  # fmt: skip
    assert {p.get_markerfacecolor() for p in (undecided, *also_undecided)} == {"white"}
    assert len({point.get_color() for point in points}) == 3
    assert better.get_marker() != worse.get_marker()
    np.testing.assert_allclose(
        intervals(ax), [(0.01, 0.03), (-0.04, -0.02), (-0.01, 0.012), (-0.015, -0.005)]
    )
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels == ["Kernel", "3 (baseline)", "5", "Dropout", "none", "0.5", "0.4"]
    weights = [label.get_fontweight() == "bold" for label in ax.get_yticklabels()]
    assert weights == [True, False, False, True, False, False, False]
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


# --- starts compared ----------------------------------------------------------------------------


def box(label):
    """Where a label's text stands, in pixels, its leader not counted."""
    return Text.get_window_extent(label)


def luminance(color):
    """Relative luminance as in WCAG 2.1."""
    rgb = np.array(to_rgb(color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def test_arms_can_be_told_apart_in_gray_and_their_names_read_on_white():
    for trait in ("label", "marker", "linestyle"):
        assert len({style[trait] for style in ARM_STYLES.values()}) == len(ARM_STYLES)
    levels = sorted(luminance(style["color"]) for style in ARM_STYLES.values())
    assert all((b + 0.05) / (a + 0.05) > 1.15 for a, b in pairwise(levels))
    others = [luminance(style["color"]) for style in plots.OTHER_STYLES]
    assert all(1.05 / (level + 0.05) > 4.5 for level in levels + others)
    taken = {style["color"] for style in ARM_STYLES.values()}
    assert taken.isdisjoint(style["color"] for style in plots.OTHER_STYLES)


def test_convergence_draws_mean_and_range_on_logarithmic_axes():
    errors = np.array([[0.5, 0.1, 0.02], [0.7, 0.3, 0.04]])
    figure = plots.convergence(
        {"digits": ([10, 100, 1000], errors), "random": ([20, 2000], [[0.9, 0.1]])}
    )
    ax = figure.axes[0]
    digits, random = ax.lines
    np.testing.assert_allclose(digits.get_xydata(), [[10, 0.6], [100, 0.2], [1000, 0.03]])
    np.testing.assert_allclose(random.get_xydata(), [[20, 0.9], [2000, 0.1]])
    assert bands(ax)[0] == {10: (0.5, 0.7), 100: (0.1, 0.3), 1000: (0.02, 0.04)}
    assert [tuple(bound) for bound in digits.bounds] == [(0.5, 0.7), (0.1, 0.3), (0.02, 0.04)]
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert ax.yaxis.get_major_formatter()(0.005) == "0.5 %"
    assert ax.xaxis.get_major_formatter()(2000) == "2,000"
    assert texts(ax) == ["400 digits", "random start"]
    for arm, line in (("digits", digits), ("random", random)):
        style = ARM_STYLES[arm]
        drawn = (line.get_color(), line.get_marker(), line.get_linestyle())
        assert drawn == (style["color"], style["marker"], style["linestyle"])


def test_labels_of_lines_that_end_together_keep_apart_and_in_order():
    ends = {"digits": 0.0050, "a third": 0.0052, "random": 0.0051, "a fourth, a long one": 0.0052}
    figure = plots.convergence({arm: ([10, 1000], [[0.9, end]]) for arm, end in ends.items()})
    figure.draw_without_rendering()
    ax = figure.axes[0]
    labels = sorted(ax.texts, key=lambda text: box(text).y0)
    assert [label.get_text() for label in labels] == [
        "400 digits",
        "random start",
        "a third",
        "a fourth, a\nlong one",
    ]
    boxes = [box(label) for label in labels]
    assert all(below.y1 <= above.y0 for below, above in pairwise(boxes))
    assert all(ax.bbox.x1 < place.x0 and place.x1 <= figure.bbox.x1 for place in boxes)


def test_a_label_with_room_is_level_with_its_line():
    figure = plots.transplant(
        {
            way: {k: Interval(end, end, end, 3) for k in "ab"}
            for way, end in (("fine-tuned", 0.9), ("frozen", 0.2))
        }
    )
    figure.draw_without_rendering()
    ax = figure.axes[0]
    for label, line in zip(ax.texts, ax.lines, strict=True):
        end = ax.transData.transform(line.get_xydata()[-1])
        assert (box(label).y0 + box(label).y1) / 2 == pytest.approx(end[1], abs=3)


def test_dot_rows_have_a_row_a_name_and_a_dot_an_arm_but_where_it_never_came():
    keys = [("95 %", "random"), ("95 %", "digits"), ("99 %", "random"), ("99 %", "digits")]
    means, lows, highs = [200, 90, 3000, INF], [150, 80, 2500, 700], [260, 100, INF, INF]
    figure = plots.dot_rows(spans(keys, means, lows, highs), "log count", "Steps", "Accuracy")
    ax = figure.axes[0]
    dots = [item.lines[0] for item in ax.containers]
    assert [dot.get_xdata()[0] for dot in dots[:3]] == means[:3]
    assert np.isnan(dots[3].get_xdata()[0])
    assert intervals(ax)[:2] == [(150, 260), (80, 100)]
    for (_, arm), dot in zip(keys, dots, strict=True):
        assert dot.get_color() == ARM_STYLES[arm]["color"]
        assert dot.get_marker() == ARM_STYLES[arm]["marker"]
    places = [dot.get_ydata()[0] for dot in dots]
    assert places == sorted(places, reverse=True)
    assert [round(-place) for place in places] == [0, 0, 1, 1]
    assert tick_labels(ax.yaxis) == [(-1, "99 %"), (0, "95 %")]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["random start", "400 digits"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("Steps (log scale)", "Accuracy")
    assert np.isfinite(ax.get_xlim()).all()
    alone = plots.dot_rows(spans([("W", "accuracy")], [0.5], [NAN], [NAN]), "percent", "Accuracy")
    assert alone.legends == []
    assert alone.axes[0].xaxis.get_major_formatter()(0.9) == "90 %"


def test_labels_of_a_log_axis_do_not_touch():
    for end in (30, 3e6):
        ax = plots.convergence({"digits": ([1, end], [[0.9, 0.1]])}).axes[0]
        shown = [label for label in ax.get_xticklabels() if label.get_text()]
        boxes = [label.get_window_extent() for label in shown]
        assert all(a.x1 < b.x0 for a, b in pairwise(boxes))
        assert ("5" in [label.get_text() for label in shown]) == (end == 30)


def test_sizes_are_all_ticked_and_labelled_where_there_is_room():
    sizes = [10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 60_000]
    ax = plots.label_factors(spans(sizes, *np.full((3, 12), 2.0))).axes[0]
    ax.figure.draw_without_rendering()
    ticks = tick_labels(ax.xaxis)
    assert {place for place, _ in ticks} == set(sizes)
    shown = [label for label in ax.get_xticklabels() if label.get_text()]
    labels = [label.get_text() for label in shown]
    assert (len(labels) >= 5, labels[-1]) == (True, "60,000")
    assert {(size, f"{size:,}") for size in sizes} > {tick for tick in ticks if tick[1]}
    boxes = [label.get_window_extent() for label in shown]
    assert all(a.x1 < b.x0 for a, b in pairwise(boxes))


def test_long_names_of_rows_stand_on_several_lines_and_leave_room_for_the_dots():
    rows = ["trained as asked, answering with the least likely", "what labels rule out, stage 2"]
    keys = [(row, "error") for row in rows]
    ax = plots.dot_rows(spans(keys, [0.1, 0.2], [0.1, 0.1], [0.2, 0.3]), "percent", "E").axes[0]
    names = ax.get_yticklabels()
    assert [" ".join(name.get_text().split()) for name in names] == rows
    assert ax.get_window_extent().width > 0.5 * ax.figure.bbox.width
    upper, lower = (name.get_window_extent() for name in names)
    assert lower.y1 < upper.y0


@pytest.mark.parametrize("draw", ["narrow", "wide"])
def test_no_text_is_under_ten_pixels_where_a_figure_is_shown_smallest(draw):
    if draw == "wide":
        figure = plots.confusion_matrix(np.eye(62, dtype=int), CLASS_NAMES)
    else:
        layers = {"picture": ((28, 28, 1), 0), "scores": ((10,), 20490)}
        figure = plots.network_strip(layers)
    figure.draw_without_rendering()
    shown = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
    assert min(text.get_fontsize() for text in shown) * 96 / 72 * 0.76 >= 10


def test_an_arm_is_drawn_alike_by_its_name_and_by_its_label():
    by_label = plots.styles_of(["400 digits", "anything else"])
    assert by_label["400 digits"] == ARM_STYLES["digits"]
    assert by_label["anything else"]["color"] not in {s["color"] for s in ARM_STYLES.values()}


def test_label_efficiency_turns_accuracies_into_errors():
    curves = {"random": spans([10, 100], [0.5, 0.75], [0.25, 0.7], [0.6, 0.8])}
    ax = plots.label_efficiency(curves, {"digits": 0.75}).axes[0]
    curve, zero_shot = ax.lines
    np.testing.assert_allclose(curve.get_xydata(), [[10, 0.5], [100, 0.25]])
    assert {x: pytest.approx(ends) for x, ends in bands(ax)[0].items()} == {
        10: (0.4, 0.75),
        100: (0.2, 0.3),
    }
    np.testing.assert_allclose(curve.bounds, [(0.4, 0.75), (0.2, 0.3)])
    left, error = zero_shot.get_xydata()[0]
    assert (left < 10, error) == (True, 0.25)
    assert zero_shot.get_color() == ARM_STYLES["digits"]["color"]
    assert zero_shot.get_markerfacecolor() == "white"
    assert texts(ax) == ["random start"]
    assert [label for _, label in tick_labels(ax.xaxis) if label] == ["none", "10", "100"]
    assert ax.get_xlim()[0] < left
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    curves["once"] = {10: Interval(0.9, 0.8, 0.95, 5)}
    ax = plots.label_efficiency(curves, {"once": 0.6}).axes[0]
    _, once, hollow = ax.lines
    np.testing.assert_allclose(once.get_xydata(), [[10, 0.1]])
    assert once.get_color() == hollow.get_color()
    (beside,) = (text for text in ax.texts if text.get_text() == "once")
    assert beside.xy == (10, pytest.approx(0.1))
    del curves["once"]
    alone = plots.label_efficiency(curves).axes[0]
    assert [label for _, label in tick_labels(alone.xaxis) if label] == ["10", "100"]


def test_label_factors_point_up_where_there_is_no_bound():
    middle, lows, highs = [8, 3, INF, INF], [5, 2, 1.5, INF], [12, INF, INF, INF]
    figure = plots.label_factors(spans([10, 100, 1000, 2000], middle, lows, highs))
    ax = figure.axes[0]
    dots, arrows, one = ax.lines
    np.testing.assert_array_equal(dots.get_ydata(), [8, 3, np.nan, np.nan])
    top = 2 * 12
    np.testing.assert_array_equal(arrows.get_xydata(), [[100, top], [1000, top], [2000, top]])
    assert arrows.get_marker() == "^"
    bars = [segment[:, 1].tolist() for segment in ax.collections[0].get_segments()]
    assert bars == [[5, 12], [2, top], [1.5, top], [top / 1.5, top]]
    assert list(one.get_ydata()) == [1, 1]
    assert ax.get_ylim()[0] < 1 < top < ax.get_ylim()[1]
    assert "no upper bound" in ax.get_xlabel()
    assert ax.yaxis.get_major_formatter()(5) == "5×"
    assert ax.get_yscale() == "log"
    bounded = plots.label_factors(spans([10, 100], [8, 3], [5, 2], [12, 4])).axes[0]
    assert "no upper bound" not in bounded.get_xlabel()
    assert len(bounded.lines[1].get_xdata()) == 0


def test_transplant_names_the_layers_and_both_ways():
    layers = ["none", "conv 1"]
    tuned = spans(layers, [0.9, 0.94], [0.88, 0.93], [0.92, 0.95])
    frozen = spans(layers, [0.9, 0.8], [0.88, 0.7], [0.92, 0.85])
    ax = plots.transplant({"fine-tuned": tuned, "frozen": frozen}).axes[0]
    tuned, frozen = ax.lines
    assert (tuned.get_ydata().tolist(), frozen.get_ydata().tolist()) == ([0.9, 0.94], [0.9, 0.8])
    assert bands(ax) == [
        {0: (0.88, 0.92), 1: (0.93, 0.95)},
        {0: (0.88, 0.92), 1: (0.7, 0.85)},
    ]
    assert texts(ax) == ["fine-tuned", "frozen"]
    assert tick_labels(ax.xaxis) == [(0, "none"), (1, "conv\n1")]
    assert tuned.get_color() != frozen.get_color()
    assert tuned.get_linestyle() != frozen.get_linestyle()


def test_numbers_in_words_name_the_arms():
    values = {"random": 0.953, "digits": [0.9, 0.99], "1,000 labels": np.array([1])}
    expected = "random start 95.3%; 400 digits 90.0%, 99.0%; 1,000 labels 100.0%"
    assert plots.in_words(values) == expected
    assert plots.in_words({"a": 2.25}, "{:.1f} steps") == "a 2.2 steps"
    spread = Interval(0.5, 0.4, 0.7, 5)
    assert plots.in_words({"digits": {10: spread, 20: spread}, "b": spread}) == (
        "400 digits 50.0%, 50.0%; b 50.0%"
    )


# --- wrong labels -------------------------------------------------------------------------------


def test_folder_sheets_lay_each_folders_pictures_in_rows_of_ten():
    pictures = RNG.integers(0, 256, (12, 4, 3))
    figure = plots.folder_sheets({"0": pictures, "1": pictures[:2]}, rows=2)
    first, second = (ax.images[0].get_array() for ax in figure.axes)
    assert first.shape == (8, 30)
    np.testing.assert_array_equal(first[:4, 27:], pictures[9])
    np.testing.assert_array_equal(first[4:, 3:6], pictures[11])
    assert (second[:, 6:] == 255).all()
    assert title(figure.axes[1]) or figure.axes[1].get_title() == "folder 1"


def test_transition_writes_each_share_in_its_cell():
    figure = plots.transition([[0.9, 0.1], [0.25, 0.75]], ["a", "b"])
    ax = figure.axes[0]
    assert texts(ax) == ["90.0", "10.0", "25.0", "75.0"]
    assert [text.get_position() for text in ax.texts] == [(0, 0), (1, 0), (0, 1), (1, 1)]
    assert [label for _, label in tick_labels(ax.xaxis)] == ["a", "b"]


def test_told_and_true_has_a_row_a_loss_and_keeps_what_is_told_over_100_percent_in_sight():
    one = (Interval(0.9, 0.88, 0.92, 1), 0.91)
    ax = plots.told_and_true({"one": one, "other": (Interval(1.01, 0.98, 1.03, 1), 0.99)}).axes[0]
    dots = [item.lines[0].get_xdata()[0] for item in ax.containers]
    np.testing.assert_allclose(dots, [0.1, 0.09, 0.001, 0.01])
    np.testing.assert_allclose(intervals(ax)[0], (0.08, 0.12))
    assert (0.001, 0.02) in [tuple(np.round(bar, 6)) for bar in intervals(ax)]
    assert tick_labels(ax.yaxis) == [(-1, "other"), (0, "one")]
    assert ax.get_xscale() == "log"


def test_accuracy_curves_draw_the_mean_and_chance():
    ax = plots.accuracy_curves({"one": ([1, 10], [[0.9, 0.1], [0.7, 0.3]])}, chance=0.1).axes[0]
    mean, chance = ax.lines
    np.testing.assert_allclose(mean.get_xydata(), [[1, 0.8], [10, 0.2]])
    np.testing.assert_allclose(chance.get_ydata(), 0.1)


def test_misread_shows_the_errors_of_every_pass_and_counts_them_all():
    images = np.arange(4, dtype=np.uint8)[:, None, None] * np.ones((1, 2, 3), np.uint8)
    labels = np.array([0, 0, 1, 0])
    predictions = np.array([[1, 0, 1, 1], [1, 1, 1, 0]])
    cells = plots.misread(images, labels, predictions, "ab", most=2)
    assert set(cells) == {(0, 1)}
    text, pictures = cells[0, 1]
    assert text == "a read as b: 3 images, 4 times"
    np.testing.assert_array_equal(pictures, 255 - np.concatenate([images[0], images[1]], 1))
