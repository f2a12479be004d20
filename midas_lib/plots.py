"""Figures of the reports: arrays in, a matplotlib `Figure` out.

Nothing here trains, loads or saves, and pyplot's global state is never touched. Images are
(n, height, width) or (n, height, width, 1), uint8 or float in 0-255. An Interval is
`analysis.Interval`, of 95 % unless it says otherwise; bounds that are nan are not drawn. Accuracies
and their differences are fractions, shown as percent. A figure's natural size is 100 CSS pixels an
inch, at most 7 inches wide; the look is `report.mplstyle`.
"""

import functools
import io
import textwrap
from itertools import cycle
from pathlib import Path

import matplotlib.figure
import matplotlib.style
import numpy as np
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

STYLE = Path(__file__).with_name("report.mplstyle")
WIDTH = 7.0  # inches
BLUE, RED, GREY, DARK = "#00599C", "#D55E00", "#6B6B6B", "#222222"
DASHED = {"color": GREY, "linestyle": "--", "linewidth": 1.2, "marker": ""}
SMALL = 10  # points, titles of small pictures

# Part 2's arms look the same in every figure. The colours differ in lightness too, and each is dark
# enough for text on white; what is no arm takes a style of OTHER_STYLES.
_LOOKS = {
    "random": ("random start", "#C85200", "s", "--"),
    "digits": ("400 digits", "#7A2E8E", "D", "-."),
    "characters": ("62 characters", "#07706B", "^", ":"),
    "characters-digits": ("62 characters, then digits", "#12305A", "o", "-"),
}
ARM_STYLES = {
    arm: dict(zip(("label", "color", "marker", "linestyle"), look, strict=True))
    for arm, look in _LOOKS.items()
}
OTHER_STYLES = (
    {"color": DARK, "marker": "v", "linestyle": "-"},
    {"color": GREY, "marker": "P", "linestyle": "--"},
    {"color": "#A8387C", "marker": "X", "linestyle": ":"},
)
# Ten colours for digits (Paul Tol's "muted", https://personal.sron.nl/~pault/).
DIGIT_COLORS = (
    "#332288", "#88CCEE", "#44AA99", "#117733", "#999933",
    "#DDCC77", "#CC6677", "#882255", "#AA4499", "#888888",
)  # fmt: skip

# Within it, all is drawn and saved in the report's style, whatever the user's settings are.
in_style = functools.partial(matplotlib.style.context, STYLE, after_reset=True)


class Figure(matplotlib.figure.Figure):
    """A figure that shows as a picture where a notebook's cell ends with it."""

    def _repr_png_(self):
        return png(self)


def png(figure, **options) -> bytes:
    """A figure as a PNG file, in the report's style; `options` are `Figure.savefig`'s."""
    buffer = io.BytesIO()
    with in_style():
        figure.savefig(buffer, format="png", metadata={"Software": None}, **options)
    return buffer.getvalue()


def _styled(draw):
    """Make the figure wholly in the report's style."""

    @functools.wraps(draw)
    def styled(*args, **kwargs):
        with in_style():
            figure = draw(*args, **kwargs)
            figure.draw_without_rendering()  # ticks are made late: let them see the style
        return figure

    return styled


def in_words(values, form="{:.1%}"):
    """{arm or name: what it has} as text, for a figure's alternative text: a number, an Interval,
    of which the mean is told, or several of them in an array or as a mapping's values."""
    told = {}
    for name, value in values.items():
        several = list(value.values()) if isinstance(value, dict) else np.ravel(value)
        means = [one.mean if hasattr(one, "low") else one for one in several]
        label = ARM_STYLES.get(name, {"label": name})["label"]
        told[label] = ", ".join(form.format(mean) for mean in means)
    return "; ".join(f"{label} {numbers}" for label, numbers in told.items())


# --- pictures -----------------------------------------------------------------------------------


@_styled
def image_grid(images, titles=None, *, columns=8):
    """Gray images (n, height, width) in rows, shown as they are, with optional `titles` (n,)."""
    images = _gray(images)
    titles = [""] * len(images) if titles is None else [str(title) for title in titles]
    figure, axes = _grid(len(images), columns, images[0].shape, _lines(titles))
    for ax, image, title in zip(axes, images, titles, strict=True):
        _show(ax, image, title)
    return figure


@_styled
def folder_sheets(images, *, rows=3):
    """Contact sheets: the first pictures of each folder, {name: images (n, height, width)}, in
    `rows` rows of ten under the folder's name."""
    columns = 10
    figure = Figure(figsize=(WIDTH, 0.27 * len(images) * (rows + 1) / 2 + 0.5))
    axes = figure.subplots(-(-len(images) // 2), 2, squeeze=False).ravel()
    for ax in axes:
        ax.axis("off")
    for ax, (name, pictures) in zip(axes, images.items(), strict=False):
        pictures = _gray(pictures)[: rows * columns]
        height, width = pictures.shape[1:]
        sheet = np.full((rows * columns, height, width), 255.0)
        sheet[: len(pictures)] = pictures
        sheet = sheet.reshape(rows, columns, height, width).swapaxes(1, 2)
        _show(ax, sheet.reshape(rows * height, columns * width), f"folder {name}")
    return figure


@_styled
def first_look(raw, processed, class_names):
    """One image of every class: as scanned, and beside it what the network sees.

    `raw` (classes, height, width) and `processed` (classes, size, size) are in class order.
    """
    raw, processed = _gray(raw), _gray(processed)
    split = raw.shape[2] / raw.shape[1]  # widths in units of the height
    end = split + processed.shape[2] / processed.shape[1]
    figure, axes = _grid(len(class_names), 6, (1, end), lines=1)
    for ax, before, after, name in zip(axes, raw, processed, class_names, strict=True):
        _show(ax, before, name, extent=(0, split, 0, 1))
        _show(ax, after, name, extent=(split, end, 0, 1))
        ax.set(xlim=(0, end), ylim=(0, 1))
    return figure


def worst_losses(images, labels, predictions, own, given, class_names, *, count=24):
    """The `count` images given the least probability of being what they are, worst first.

    `images` (n, height, width), `labels` and `predictions` (n,) class indices, `own` and `given`
    (n,) the probabilities of the true and of the predicted class, which a title names with them.
    """
    own, given = np.asarray(own), np.asarray(given)
    worst = np.argsort(own, kind="stable")[:count]
    titles = [
        f"true {class_names[labels[i]]}: {_percent(own[i])}\nread {class_names[predictions[i]]}: "
        f"{_percent(given[i], 0)}"
        for i in worst
    ]
    return image_grid(np.asarray(images)[worst], titles, columns=6)


@_styled
def confused_pairs(images, labels, predictions, class_names, pairs, *, examples=4):
    """The most confused pairs with pictures: a row for each pair, `examples` images a class.

    `images` (n, height, width), `labels` and `predictions` (n,) class indices, `pairs`
    [(name, name, errors), ...] as from `analysis.most_confused`. Over each image stands what it was
    read as; the pair's own errors come first, then right answers, then other errors.
    """
    images, labels, predictions = _gray(images), np.asarray(labels), np.asarray(predictions)
    columns = 2 * examples + 1  # the middle one stays empty
    figure, axes = _grid(len(pairs) * columns, columns, images[0].shape, lines=2.3)
    for (first, second, errors), line in zip(pairs, axes.reshape(-1, columns), strict=True):
        line[examples].remove()
        a, b = class_names.index(first), class_names.index(second)
        heading = f"{first} / {second}: {errors} errors. Drawn as {first}, read as"
        for true, other, cells, text in (
            (a, b, line[:examples], heading),
            (b, a, line[examples + 1 :], f"Drawn as {second}, read as"),
        ):
            rank = np.select([predictions == other, predictions == true], [0, 1], 2)
            rows = np.flatnonzero(labels == true)
            rows = rows[np.argsort(rank[rows], kind="stable")][:examples]
            for ax, row in zip(cells, rows, strict=False):
                right = predictions[row] == true
                look = {"color": GREY} if right else {"color": RED, "weight": "bold"}
                title = f"{class_names[predictions[row]]} {'✓' if right else '✗'}"
                _show(ax, images[row], title, look)
            for ax in cells[len(rows) :]:
                ax.set_visible(False)
            place = (0, 1), (0, 18), "axes fraction", "offset points"
            cells[0].annotate(text, *place, weight="bold", size=SMALL)
    return figure


@_styled
def attribution(images, maps, titles, *, columns=6):
    """Where the network looked: each image as dark ink, its map laid over it.

    `images` (n, height, width) are bright on black, `maps` (n, h, w), maybe coarser, are each
    scaled to their own largest value; what is negative counts as zero.
    """
    images, maps = _gray(images), _gray(maps)
    heat = LinearSegmentedColormap.from_list("heat", ["#FFB00000", "#FF8C00A0", "#D94000E6"])
    figure, axes = _grid(len(images), columns, images[0].shape, _lines(titles))
    over = {"cmap": heat, "extent": (0, 1, 0, 1), "interpolation": "bilinear"}
    for ax, image, weights, title in zip(axes, images, maps, titles, strict=True):
        _show(ax, image, title, cmap="gray_r", extent=(0, 1, 0, 1))
        _show(ax, weights.clip(0), title, **over, vmax=max(weights.max(), 1e-12))
    return figure


# --- the data and the training ------------------------------------------------------------------


@_styled
def counts(class_counts, writer_counts):
    """Images of each class and of each writer: two mappings {name: images}, drawn as bars."""
    figure = Figure(figsize=(WIDTH, 6.2))
    names, images = list(class_counts), np.array(list(class_counts.values()))
    rows = -(-len(names) // 31)  # so many fit side by side and stay readable
    axes = figure.subplots(rows + 1, 1)
    for ax, part in zip(axes, np.array_split(np.arange(len(names)), rows), strict=False):
        ax.bar([names[i] for i in part], images[part], color=BLUE)
        ax.set(ylim=(0, images.max() * 1.1), ylabel="Images")
    axes[-2].set_xlabel("Class")
    axes[0].set_title(f"{images.sum():,} images of {len(names)} classes")
    axes[-1].bar(list(writer_counts), list(writer_counts.values()), color=BLUE)
    axes[-1].set(xlabel="Writer (number in the file name)", ylabel="Images")
    axes[-1].set_title(f"{len(writer_counts)} writers")
    for ax in axes:
        ax.grid(axis="x", visible=False)
        ax.margins(x=0.01)
        ax.yaxis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 2, 5, 10]))
    return figure


@_styled
def learning_curves(histories):
    """Loss and accuracy by epoch: {arm: {metric: (epochs,) or (runs, epochs)}}.

    The metrics are Keras' "loss", "accuracy", "val_loss", "val_accuracy"; those missing are left
    out. Several runs give their mean and a band from the least to the largest.
    """
    figure = Figure(figsize=(WIDTH, 6.2))
    upper, lower = figure.subplots(2, 1, sharex=True)
    styles = cycle(matplotlib.rcParams["axes.prop_cycle"])
    handles = []
    for (arm, history), style in zip(histories.items(), styles, strict=False):
        handles.append(Line2D([], [], label=arm, **style))
        for ax, metric in ((upper, "accuracy"), (lower, "loss")):
            for name, dashes in ((f"val_{metric}", "-"), (metric, ":")):
                if name in history:
                    runs = np.atleast_2d(history[name])
                    line = style if dashes == "-" else style | {"marker": ""}
                    line = line | {"linestyle": dashes, "markevery": 0.15}
                    _band(ax, np.arange(1, runs.shape[1] + 1), *_range(runs), line)
    upper.set(ylabel="Accuracy")
    _as_percent(upper.yaxis)
    lower.set(ylabel="Loss (nats)", xlabel="Epoch (passes over the training images)")
    lower.xaxis.set_major_locator(MaxNLocator(integer=True))
    handles += [
        Line2D([], [], color=GREY, linestyle=dashes, label=label)
        for dashes, label in (("-", "held-out images"), (":", "training images"))
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


@_styled
def rate_test(rates, losses, *, chosen=None):
    """Learning-rate range test: training loss (steps,) against the growing rate (steps,).

    `chosen` marks the peak rate taken. Source: Smith 2017, "Cyclical Learning Rates".
    """
    figure, ax = _axes(3.4, "Learning rate (log scale)", "Training loss (nats)")
    ax.plot(rates, losses, color=BLUE, marker="")
    ax.set_xscale("log")
    if chosen is not None:
        ax.axvline(chosen, color=RED, linestyle="--", marker="")
        place = {"xycoords": ("data", "axes fraction"), "ha": "right", "va": "top"}
        ax.annotate(f"chosen: {chosen:g} ", (chosen, 1), **place, color=RED)
    return figure


@_styled
def size_curve(accuracy):
    """Accuracy against training images per class, with intervals: {size: Interval}."""
    units = {"x": "log count", "y": "percent"}
    figure, ax = _axes(4, "Training images per class", "Accuracy", **units)
    sizes, (means, lows, highs) = np.array(list(accuracy)), _bounds(accuracy.values())
    ax.fill_between(sizes, lows, highs, color=BLUE, alpha=0.15, lw=0)
    ax.errorbar(sizes, means, _bars(accuracy.values()), color=BLUE, marker="o", capsize=4)
    for place in zip(sizes, means, strict=True):
        beside = {"xytext": (8, -5), "textcoords": "offset points", "va": "top", "color": DARK}
        ax.annotate(_percent(place[1]), place, **beside)
    ax.set_xlim(sizes.min() / 1.15, sizes.max() * 1.4)
    ax.xaxis.set_major_locator(FixedLocator(sizes))
    return figure


# --- results ------------------------------------------------------------------------------------


@_styled
def headline(accuracy, digits=1):
    """The key accuracies {label: Interval}, to so many digits of a percent."""
    y = -np.arange(len(accuracy), dtype=float)
    figure, ax = _axes(0.9 + 0.62 * len(y), "Accuracy, with 95 % interval", x="percent")
    ax.set(ylim=(y[-1] - 0.5, 0.8), yticks=y, yticklabels=[])
    means, bars = _bounds(accuracy.values())[0], _bars(accuracy.values())
    ax.errorbar(means, y, xerr=bars, fmt="o", color=BLUE, capsize=4, ms=8)
    spot = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
    for place, (label, interval) in zip(y, accuracy.items(), strict=True):
        value, form = _percent(interval.mean, digits), f"z.{digits}f"
        if not np.isnan(interval.low):
            value += f"  [{100 * interval.low:{form}}, {100 * interval.high:{form}}]"
        ax.annotate(label, (0, place), (0, 9), **spot)
        ax.annotate(value, (1, place), (0, 9), **spot, ha="right", weight="bold")
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)
    return figure


@_styled
def ablation(rows):
    """Differences from the baseline with their intervals, accuracy on the right.

    `rows` are dicts with "group", "variant", "interval" (the difference) and "accuracy", one a
    variant; a group's stand together, and its baseline has difference 0. A change is undecided when
    its interval includes zero, or there is none.
    """
    lines = []  # (text, accuracy, difference), the last None for a heading
    for row in rows:
        if (row["group"], None) not in [(text, interval) for text, _, interval in lines]:
            lines.append((row["group"], "" if lines else "Accuracy", None))
        lines.append((row["variant"], _percent(row["accuracy"]), row["interval"]))
    y = -np.arange(len(lines))
    figure, ax = _axes(1.4 + 0.25 * len(lines), "Difference from the baseline (points)")
    ax.set_ylim(y[-1] - 0.6, 0.6)
    kinds = {
        "better": {"color": BLUE, "marker": "o"},
        "worse": {"color": RED, "marker": "s"},
        "undecided": {"color": GREY, "marker": "o", "markerfacecolor": "white"},
    }
    for place, (_, _, interval) in zip(y, lines, strict=True):
        if interval is not None:
            kind = "better" if interval.low > 0 else "worse" if interval.high < 0 else "undecided"
            look = {"linestyle": "", "capsize": 3} | kinds[kind]
            ax.errorbar([interval.mean], [place], xerr=_bars([interval]), **look)
    ax.axvline(0, color=DARK, linewidth=1.2, marker="", zorder=1)
    ax.set_yticks(y, [line[0] for line in lines])
    right = ax.secondary_yaxis("right")
    right.set_yticks(y, [line[1] for line in lines])
    right.spines["right"].set_visible(False)
    for axis in (ax, right):
        axis.tick_params(axis="y", length=0)
        for label, line in zip(axis.get_yticklabels(), lines, strict=True):
            label.set_fontweight("bold" if line[2] is None else "normal")
    ax.grid(axis="y", visible=False)
    points = FuncFormatter(lambda value, _: f"{100 * value:+.3g}" if value else "0")
    ax.xaxis.set_major_formatter(points)
    handles = [Line2D([], [], label=label, **kind) for label, kind in kinds.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


@_styled
def confusion_matrix(matrix, class_names):
    """Confusions (classes, classes), rows true and columns predicted, readable for 62 classes.

    Errors are coloured by the square root of their number, so that single ones show; the diagonal
    is gray and pale, so that it does not outshine them.
    """
    matrix = np.asarray(matrix)
    n = len(class_names)
    diagonal = np.eye(n, dtype=bool)
    errors = np.ma.masked_where(diagonal | (matrix == 0), matrix)
    share = np.ma.masked_where(~diagonal, matrix / np.maximum(matrix.sum(1, keepdims=True), 1))
    figure = Figure(figsize=(WIDTH, WIDTH + 0.8))
    ax = figure.subplots()
    ax.imshow(share, cmap="Greys", vmin=0, vmax=2.5, interpolation="nearest", zorder=1)
    norm = PowerNorm(0.5, 0, max(errors.max() or 1, 1))
    drawn = ax.imshow(errors, cmap="magma_r", norm=norm, interpolation="nearest", zorder=1)
    for axis, name in ((ax.xaxis, "x"), (ax.yaxis, "y")):
        # every other label stands further out: 62 of them would touch
        axis.set_ticks(range(0, n, 2), class_names[::2])
        axis.set_ticks(range(1, n, 2), class_names[1::2], minor=True)
        ax.tick_params(axis=name, which="major", labelsize=9, length=2, pad=1)
        ax.tick_params(axis=name, which="minor", labelsize=9, length=11, pad=1, color="#C8C8C8")
    ax.grid(which="both", color="#EEEEEE", linewidth=0.4)
    ax.set(xlabel="Predicted class", ylabel="True class")
    bar = figure.colorbar(drawn, location="bottom", aspect=40, shrink=0.7, pad=0.02)
    bar.set_label("Images misread (square-root scale); right answers in gray")
    bar.ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    return figure


def misread(images, labels, predictions, class_names, *, most=12):
    """What the cells of `confusion_matrix` hold: {(true, answer): (text, pictures side by side)}.

    `images` (n, height, width) uint8, bright ink on black, `labels` (n,), `predictions` (passes, n)
    class indices. The pictures, dark on white, are the first `most`; the text counts them all.
    """
    predictions = np.asarray(predictions)
    cells = {}
    for true, answer in {*zip(np.tile(labels, len(predictions)), predictions.ravel(), strict=True)}:
        if true == answer:
            continue
        rows = np.flatnonzero((labels == true) & (predictions == answer).any(0))
        times = (predictions[:, rows] == answer).sum()
        what = f"{class_names[true]} read as {class_names[answer]}"
        pictures = 255 - np.concatenate(images[rows[:most]], 1)
        cells[int(true), int(answer)] = f"{what}: {len(rows)} images, {times} times", pictures
    return cells


@_styled
def transition(shares, class_names, *, rows="Digit", columns="Folder"):
    """A table of shares (classes, classes) as a picture with its numbers, in percent."""
    shares = np.asarray(shares, float)
    n = len(class_names)
    figure = Figure(figsize=(WIDTH, 0.62 * WIDTH + 0.4))
    ax = figure.subplots()
    ax.imshow(shares, cmap="Blues", vmin=0, vmax=1.6 * max(shares.max(), 1e-9), aspect="auto")
    for (row, column), share in np.ndenumerate(shares):
        ax.text(column, row, f"{100 * share:.1f}", ha="center", va="center", fontsize=SMALL)
    ax.set_xticks(range(n), class_names)
    ax.set_yticks(range(n), class_names)
    ax.tick_params(length=0)
    ax.grid(visible=False)
    ax.set(xlabel=f"{columns}; numbers in percent of the row", ylabel=rows)
    return figure


@_styled
def told_and_true(losses):
    """Accuracy told without truth against accuracy on the test set, a point a loss:
    {loss: (Interval of what is told, true accuracy)}.

    On the line the two agree. Both scales are of the error, logarithmic; what is below 0.1 % stands
    there.
    """
    units = dict.fromkeys("xy", "log percent")
    figure, ax = _axes(4.6, "Test error", "Error told by folders", **units)
    errors = {name: max(1 - true, 1e-3) for name, (_, true) in losses.items()}
    for name, (told, _) in losses.items():
        y, top, bottom = (max(1 - value, 1e-3) for value in (told.mean, told.low, told.high))
        ax.vlines(errors[name], bottom, top, color=BLUE, alpha=0.5)
        ax.plot(errors[name], y, "o", color=BLUE, label=name)
    agree = [0.8 * min(errors.values()), 1.2 * max(errors.values())]
    ax.plot(agree, agree, color=GREY, linestyle="--", marker="", label="_agree")
    _label_ends(ax)
    return figure


@_styled
def accuracy_by(kind, accuracy):
    """Accuracy of each class or writer, which `kind` names, {name: fraction}, as dots, best first;
    the dashed line is the mean."""
    names, values = np.array(list(map(str, accuracy))), np.array(list(accuracy.values()), float)
    halves = np.array_split(np.argsort(-values, kind="stable"), 2)
    figure = Figure(figsize=(WIDTH, 1 + 0.2 * len(halves[0])))
    axes = figure.subplots(1, 2, sharex=True)
    for ax, half in zip(axes, halves, strict=True):
        y = -np.arange(len(half))
        ax.plot(values[half], y, "o", color=BLUE)
        ax.axvline(np.nanmean(values), **DASHED)
        ax.set_yticks(y, names[half])
        ax.set(ylim=(0.5 - len(halves[0]), 0.7), xlabel="Accuracy", ylabel=kind)
        _as_percent(ax.xaxis)
        ax.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        ax.tick_params(axis="y", length=0)
    return figure


@_styled
def reliability(curve_before, curve_after, ece_before, ece_after):
    """Reliability diagram before and after temperature scaling, with the images per bin below.

    The curves are `analysis.ReliabilityCurve`s (confidence, accuracy, count), each (bins,) over
    equal bins of [0, 1]; the errors (ECE) are fractions.
    """
    figure = Figure(figsize=(WIDTH * 0.8, 6.6))
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    upper.plot([0, 1], [0, 1], **DASHED)
    for curve, ece, label, color, marker, dashes in (
        (curve_before, ece_before, "before", RED, "s", ":"),
        (curve_after, ece_after, "after", BLUE, "o", "-"),
    ):
        confidence, accuracy, count = (np.asarray(values) for values in curve)
        filled, look = count > 0, {"color": color, "linestyle": dashes}
        text = f"{label} temperature scaling: ECE {_percent(ece)}"
        upper.plot(confidence[filled], accuracy[filled], **look, marker=marker, label=text)
        edges = np.linspace(0, 1, len(count) + 1)
        lower.stairs(count / count.sum(), edges, **look, linewidth=2)
    place = {"xytext": (4, -12), "textcoords": "offset points"}
    upper.annotate("perfectly calibrated", (0.3, 0.3), **place, color=GREY)
    upper.set(ylabel="Accuracy", ylim=(0, 1.02), xlim=(0, 1.005))
    figure.legend(loc="outside upper left")
    lower.set(xlabel="Confidence (largest probability)", ylabel="Images")
    _as_percent(upper.xaxis, upper.yaxis, lower.yaxis)
    return figure


# --- starts compared ----------------------------------------------------------------------------
# Arms are named by the keys of ARM_STYLES; any other name is drawn under itself.


@_styled
def convergence(curves):
    """Validation error in training: {arm: (steps (checks,), error shares (seeds, checks))}.

    The mean over the seeds and a band from the least to the largest; steps start at 1.
    """
    units = {"x": "log count", "y": "log percent"}
    figure, ax = _axes(4.4, "Training steps", "Validation error", **units)
    _draw_ranges(ax, curves, markevery=0.1)
    _label_ends(ax)
    return figure


@_styled
def accuracy_curves(curves, *, chance):
    """Accuracy in training, as `convergence` draws the error; a dashed line at `chance`."""
    units = {"x": "count", "y": "percent", "xscale": "log", "ylim": (-0.02, 1.02)}
    figure, ax = _axes(4, "Training steps (log scale)", "Accuracy", **units)
    _draw_ranges(ax, curves, markevery=0.1)
    ax.axhline(chance, **DASHED, label="_chance")
    _label_ends(ax)
    return figure


@_styled
def times_to(times, *, lower_bounds=()):
    """Training steps until each threshold, by arm: {(threshold, arm): Interval}.

    Those of `lower_bounds`, keys of `times`, are drawn hollow: some run never arrives.
    """
    note = "; hollow: a lower bound" if lower_bounds else ""
    xlabel = f"Training steps (log scale) with 95 % interval{note}"
    return _dot_rows(times, "log count", xlabel, "Validation accuracy", lower_bounds)


@_styled
def seconds_to(times):
    """Seconds of training to each accuracy, by racer: {(target, racer): median and the least and
    largest of its repeats, as an Interval}. What is inf is not drawn."""
    xlabel = "Seconds of training (log scale), least to largest"
    return _dot_rows(times, "log count", xlabel, "Test accuracy")


@_styled
def race(curves):
    """Test error in training, each run a line: {racer: [(seconds (looks,), errors (looks,)), ...]}.
    The racer's name stands at the end of its first run; an error of 0 is drawn as 0.01 %."""
    units = {"x": "log count", "y": "log percent"}
    figure, ax = _axes(4.4, "Seconds of training", "Test error", **units)
    for runs, style in zip(curves.values(), _styles(curves), strict=True):
        style = style | {"linewidth": 1.2, "markersize": 4}
        for seconds, errors in runs:
            ax.plot(seconds, np.maximum(errors, 1e-4), **style)
            style = style | {"label": "_again"}
    _label_ends(ax)
    return figure


@_styled
def shapes(operations, errors, names, efficient):
    """Error against operations a picture, a point a network; all (networks,). Those that are
    efficient are filled, joined by a line and named."""
    operations, errors, efficient = np.array(operations), np.array(errors), np.array(efficient)
    labels = "Million operations for one picture", "Error, images held out"
    figure, ax = _axes(4.6, *labels, x="log", y="percent")
    order = np.flatnonzero(efficient)[np.argsort(operations[efficient])]
    ax.plot(operations[order], errors[order], color=BLUE, label="efficient")
    ax.plot(operations[~efficient], errors[~efficient], "o", color=GREY, mfc="white", label="other")
    for i, one in enumerate(order):  # above and below the line in turns, or names would overlap
        place = {"xytext": (6, 5)} if i % 2 == 0 else {"xytext": (-6, -11), "ha": "right"}
        at = operations[one], errors[one]
        ax.annotate(names[one], at, textcoords="offset points", size=SMALL, **place)
    ax.margins(x=0.15)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 1e6:g}"))
    return figure


@_styled
def robustness(accuracy):
    """Accuracy on corrupted pictures, by arm: {(corruption, arm): Interval}."""
    return _dot_rows(accuracy, "percent", "Accuracy with 95 % interval")


@_styled
def label_efficiency(accuracy, zero_shot=None):
    """Test error against labelled images: {arm: {size: Interval of the accuracy}}.

    An arm may lack sizes. `zero_shot`, {arm: accuracy without a label}, stands hollow at the left.
    """
    zero_shot = zero_shot or {}
    names = dict.fromkeys([*accuracy, *zero_shot])
    styles = dict(zip(names, _styles(names), strict=True))
    sizes = sorted({size for by_size in accuracy.values() for size in by_size})
    labels = "Labelled training images (log scale)", "Test error"
    figure, ax = _axes(4.6, *labels, y="log percent")
    for name, by_size in accuracy.items():
        xs, (errors, highs, lows), style = (
            list(by_size),
            1 - _bounds(by_size.values()),
            styles[name],
        )
        if xs[-1] != sizes[-1]:  # a line from there to the others' labels would cross them
            place = {"textcoords": "offset points", "va": "center", "color": style["color"]}
            ax.annotate(style["label"], (xs[-1], errors[-1]), (10, 0), **place)
            style = style | {"label": "_short"}
        _band(ax, xs, errors, lows, highs, style)
    none = sizes[0] / 2.5
    for name, reached in zero_shot.items():
        hollow = {"markerfacecolor": "white", "label": "_none"}
        ax.plot(none, 1 - reached, **styles[name] | hollow)
    _size_ticks(ax, sizes, {none: "none"} if zero_shot else {})
    _label_ends(ax)
    return figure


@_styled
def label_factors(factors):
    """How many times as many labels a random start needs: {labels: Interval of the factor}.

    What is inf becomes an arrow to the top: the random start needs more labels than were tried.
    """
    sizes, values = np.array(list(factors), float), _bounds(factors.values())
    middle, lows, highs = values
    top = 2 * values[np.isfinite(values)].max(initial=1)
    beyond = np.isinf(middle) | np.isinf(highs)
    figure, ax = _axes(3.8, ylabel="Labels a random start needs,\nas a multiple", y="log")
    ax.vlines(sizes, np.minimum(lows, top / 1.5), np.where(beyond, top, highs), color=BLUE)
    ax.plot(sizes, np.where(np.isinf(middle), np.nan, middle), "o", color=BLUE)
    ax.plot(sizes[beyond], np.full(beyond.sum(), top), "^", color=BLUE, ms=9)
    ax.axhline(1, **DASHED)
    note = "; arrow: no upper bound" if beyond.any() else ""
    ax.set_xlabel(f"Labelled images of the pre-trained start (log scale){note}")
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    _size_ticks(ax, sizes, {})
    return figure


@_styled
def transplant(accuracy):
    """Accuracy against the layers taken over: {"fine-tuned" or "frozen": {layer: Interval}}.

    A layer is the last one taken over, the first being none.
    """
    figure, ax = _axes(4, "Layers taken over, up to", "Test accuracy", y="percent")
    for by_layer, style in zip(accuracy.values(), _styles(accuracy), strict=True):
        _band(ax, range(len(by_layer)), *_bounds(by_layer.values()), style)
        ax.set_xticks(range(len(by_layer)), by_layer)
    _label_ends(ax)
    return figure


@_styled
def layer_profile(layers, values, ylabel):
    """A quantity, named by `ylabel`, at each layer: {arm: (seeds, layers)}.

    The mean over the seeds and a band from the least to the largest.
    """
    figure, ax = _axes(3.8, "Layer", ylabel)
    _draw_ranges(ax, {arm: (range(len(layers)), runs) for arm, runs in values.items()})
    ax.set_xticks(range(len(layers)), layers)
    _label_ends(ax)
    return figure


@_styled
def interpolation(alphas, errors):
    """Validation error on the straight line between two solutions: {label: (pairs, alphas)}.

    `alphas` (alphas,) run from 0 to 1; the mean over the pairs and a band from least to largest.
    """
    xlabel = "Position on the line from one network (0) to the other (1)"
    figure, ax = _axes(4, xlabel, "Validation error", y="log percent")
    _draw_ranges(ax, {label: (alphas, pairs) for label, pairs in errors.items()})
    figure.legend(loc="outside lower center", ncols=2)  # the lines' ends lie together
    return figure


@_styled
def per_digit(errors):
    """Share of each digit's test images misread: {arm: (10,)}."""
    figure, ax = _axes(4, "Digit", "Images misread", y="percent")
    for shares, style in zip(errors.values(), _styles(errors), strict=True):
        ax.plot(shares, **style | {"linewidth": 1})
    ax.set_xticks(range(10))
    ax.set_ylim(bottom=0)
    _label_ends(ax)
    return figure


@_styled
def embedding(points, labels, names):
    """Pictures as points (n, 2), coloured by digit (n,), its name at each digit's median.

    Only nearness means something: the axes have no unit.
    """
    points, labels = np.asarray(points), np.asarray(labels)
    figure, ax = _axes(5.6, xticks=[], yticks=[], aspect="equal")
    ax.scatter(*points.T, s=8, c=np.array(DIGIT_COLORS)[labels], alpha=0.7, lw=0)
    outlined = [withStroke(linewidth=4, foreground="white")]
    look = {"ha": "center", "va": "center", "size": 18, "weight": "bold"}
    for digit in np.unique(labels):
        middle = np.median(points[labels == digit], axis=0)
        ax.annotate(names[digit], middle, **look, path_effects=outlined)
    ax.spines[:].set_visible(False)
    return figure


@_styled
def filters(kernels):
    """First-layer filters, {title: (k, k, filters)}, side by side on one scale, gray being zero."""
    figure = Figure(figsize=(WIDTH, 1 + WIDTH / len(kernels)))
    axes = figure.subplots(1, len(kernels), squeeze=False)[0]
    top = max(np.abs(weights).max() for weights in kernels.values())
    for ax, (title, weights) in zip(axes, kernels.items(), strict=True):
        drawn = ax.imshow(_mosaic(weights), vmin=-top, vmax=top, interpolation="nearest")
        ax.set_title(textwrap.fill(title, 16))
        ax.set_axis_off()
    figure.colorbar(drawn, ax=axes, location="bottom", label="Weight", aspect=40, shrink=0.6)
    return figure


# --- shared -------------------------------------------------------------------------------------


def _styles(names):
    """How to draw each name: an arm in its own style, another in one that no arm has."""
    others = cycle(OTHER_STYLES)
    return [ARM_STYLES.get(name) or {"label": name, **next(others)} for name in names]


def _axes(height, xlabel="", ylabel="", x="", y="", **settings):
    """A figure of the full width, `height` in inches, and its one pair of axes. x, y: what they
    show, of "log", which the labels tell, "count" and "percent"."""
    figure = Figure(figsize=(WIDTH, height))
    ax = figure.subplots()
    ax.set(xlabel=xlabel, ylabel=ylabel, **settings)
    for axis, shows in ((ax.xaxis, x), (ax.yaxis, y)):
        if "log" in shows:
            if "(log scale)" not in axis.get_label_text():
                axis.set_label_text(f"{axis.get_label_text()} (log scale)")
            ax.set(**{f"{axis.axis_name}scale": "log"})
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_minor_locator(NullLocator())
        if "count" in shows:
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        if "percent" in shows:
            _as_percent(axis)
    return figure, ax


def _bounds(intervals):
    """The intervals' means, lows and highs, (3, n)."""
    return np.array([(one.mean, one.low, one.high) for one in intervals], float).T


def _bars(intervals):
    """The distances from the intervals' means to their bounds, (2, n), as `errorbar` takes them."""
    means, lows, highs = _bounds(intervals)
    return np.array([means - lows, highs - means])


def _draw_ranges(ax, curves, **more):
    """A line for each arm, {arm: (xs (n,), runs (runs, n))}: the runs' mean, and a band from the
    least to the largest."""
    for (xs, runs), style in zip(curves.values(), _styles(curves), strict=True):
        _band(ax, xs, *_range(runs), style | more)


def _range(runs):
    """Mean, least and largest over the first axis of (runs, n)."""
    runs = np.atleast_2d(runs)
    return runs.mean(0), runs.min(0), runs.max(0)


def _band(ax, x, middle, lows, highs, style):
    (line,) = ax.plot(x, middle, **style)
    line.bounds = np.column_stack([lows, highs])  # a page shows them under the pointer
    ax.fill_between(x, lows, highs, color=style["color"], alpha=0.15, lw=0)


def _label_ends(ax):
    """Each line's label right of the axes, level with its end or as near as the others allow."""
    lines = [line for line in ax.lines if not line.get_label().startswith("_")]
    labels = [textwrap.fill(line.get_label(), 16) for line in lines]
    ax.set(xlim=ax.get_xlim(), ylim=ax.get_ylim())  # the labels' places hold for these only
    ends = np.array([line.get_xydata()[-1] for line in lines])
    places = (ax.transData - ax.transAxes).transform(ends)[:, 1]
    line_height = 1.3 * matplotlib.rcParams["font.size"] / 72 * ax.figure.dpi
    heights = line_height * np.array([_lines([label]) for label in labels])
    places = _spread(places, heights / ax.get_window_extent().height)
    for line, label, end, place in zip(lines, labels, ends, places, strict=True):
        ax.annotate(
            label,
            end,
            (1.05, place),
            textcoords="axes fraction",
            va="center",
            color=line.get_color(),
            arrowprops={"arrowstyle": "-", "color": line.get_color(), "relpos": (0, 0.5)},
        )


def _spread(places, heights):
    """The places (n,) moved apart, as little as it takes for things of these heights (n,)."""
    order = np.argsort(places, kind="stable")
    moved = np.array(places, float)[order]
    gaps = (heights[order][1:] + heights[order][:-1]) / 2
    for _ in range(500):
        overlaps = np.maximum(gaps - np.diff(moved), 0) / 2
        moved[1:] += overlaps
        moved[:-1] -= overlaps
    return moved[np.argsort(order)]


def _dot_rows(intervals, shows, xlabel, ylabel="", hollow=()):
    """A row for each first part of the keys (row, arm) of `intervals`, and in it a dot with its
    interval for each arm; those whose keys are in `hollow` are so."""
    rows, arms = (list(dict.fromkeys(names)) for names in zip(*intervals, strict=True))
    styles = dict(zip(arms, _styles(arms), strict=True))
    height = 1.4 + len(rows) * (0.16 + 0.12 * len(arms))
    figure, ax = _axes(height, xlabel, ylabel, x=shows, ylim=(0.5 - len(rows), 0.5))
    for (row, arm), interval in intervals.items():
        face = {"linestyle": ""} | ({"markerfacecolor": "white"} if (row, arm) in hollow else {})
        y = -rows.index(row) - 0.8 * ((arms.index(arm) + 0.5) / len(arms) - 0.5)
        ends = _bounds([interval])
        mean, low, high = np.where(np.isfinite(ends), ends, np.nan)
        ax.errorbar(mean, [y], xerr=[mean - low, high - mean], **styles[arm] | face)
    for place in range(0, len(rows), 2):
        ax.axhspan(-place - 0.5, -place + 0.5, color="#F2F2F2", zorder=0)
    ax.set_yticks(-np.arange(len(rows)), rows)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="y", visible=False)
    handles = [Line2D([], [], **style | {"linestyle": ""}) for style in styles.values()]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def _mosaic(kernels):
    """Filters (k, k, n) as one picture, near to square, nan between them."""
    size, _, count = np.shape(kernels)
    columns = int(np.ceil(np.sqrt(count)))
    tiles = np.full((-(-count // columns) * columns, size + 1, size + 1), np.nan)
    tiles[:count, :size, :size] = np.moveaxis(kernels, -1, 0)
    grid = tiles.reshape(-1, columns, size + 1, size + 1).swapaxes(1, 2)
    return grid.reshape(-1, columns * (size + 1))[:-1, :-1]


def _gray(images):
    images = np.asarray(images)
    return images[..., 0] if images.ndim == 4 else images


def _lines(titles):
    return max(str(title).count("\n") + bool(str(title)) for title in titles)


def _grid(count, columns, shape, lines):
    """Figure and axes (count,) for pictures of `shape` (height, width), `lines` of title above."""
    columns = min(columns, count)
    rows = -(-count // columns)
    gap, title = 0.08, lines * SMALL * 1.3 / 72  # inches
    width = min((WIDTH - gap) / columns - gap, 1.75)
    height = width * shape[0] / shape[1]
    across, down = columns * (width + gap) + gap, rows * (height + title + gap) + gap
    figure = Figure(figsize=(across, down), layout="none")
    edges = {"left": gap / across, "bottom": gap / down}
    edges |= {"right": 1 - gap / across, "top": 1 - (gap + title) / down}
    edges |= {"wspace": gap / width, "hspace": (gap + title) / height}
    axes = figure.subplots(rows, columns, squeeze=False, gridspec_kw=edges).ravel()
    for ax in axes[count:]:
        ax.remove()
    return figure, axes[:count]


def _show(ax, image, title="", look=None, **drawn):
    """A picture that fills its axes, gray unless `drawn` says otherwise, its title in a `look`."""
    settings = {"cmap": "gray", "vmin": 0, "vmax": 255, "aspect": "auto", "interpolation": "auto"}
    ax.imshow(image, **settings | drawn)
    ax.set_title(title, size=SMALL, pad=3, **{"color": DARK, "weight": "normal"} | (look or {}))
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set(visible=True, color="#BBBBBB", linewidth=0.8)


def _size_ticks(ax, sizes, others):
    """A log axis with a tick at each size, some of them labelled, and `others` {place: label}."""
    labels = {size: f"{size:,.0f}" for size in sizes[:: -(-len(sizes) // 4)]} | others
    ax.set_xscale("log")
    ax.set_xticks(list(labels), labels.values())
    ax.set_xticks(sizes, [], minor=True)


def _as_percent(*axes):
    for axis in axes:
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g} %"))


def _percent(value, digits=1):
    return f"{100 * value:.{digits}f} %"
