"""Figures of the reports: arrays in, a matplotlib `Figure` out.

pyplot's global state is never touched. Images are (n, height, width) or (n, height, width, 1),
uint8 or float in 0-255. An Interval is `analysis.Interval`, of 95 % unless it says otherwise; nan
bounds are not drawn. Accuracies and differences are fractions, shown as percent. An arm is a key of
`ARM_STYLES`, or its label; any other name is drawn under itself. The look is `report.mplstyle`. A
page shows an inch as 96 pixels, and as no fewer than 0.76 of them on a telephone: a text of 10
points, of which none is smaller, has 10 pixels there, and a figure of `WIDTH` fits.
"""

import functools
import io
import textwrap
from dataclasses import replace
from itertools import cycle, pairwise
from pathlib import Path

import matplotlib.figure
import matplotlib.style
import numpy as np
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullLocator
from PIL import Image

from midas_lib import config

STYLE = Path(__file__).with_name("report.mplstyle")
WIDTH, WIDE = 4.4, 6.0  # inches; what is wide scrolls sideways on a telephone
BLUE, GREY, DARK = "#00599C", "#6B6B6B", "#222222"
DASHED = {"color": GREY, "linestyle": "--", "linewidth": 1.2, "marker": ""}
SMALL = 10  # points

LOOKS = config.read_table("looks")
ARM_STYLES, OTHER_STYLES = LOOKS["arms"], LOOKS["others"]
FORMATS = {  # what an axis shows -> what its ticks say
    "count": lambda value, _: f"{value:,.0f}",
    "millions": lambda value, _: f"{value / 1e6:g}",
    "percent": lambda value, _: f"{100 * value:.4g} %",
    "points": lambda value, _: f"{100 * value:+.3g}" if value else "0",
    "times": lambda value, _: f"{value:g}×",
}

# Within it, all is drawn and saved in the report's style, whatever the user's settings are.
in_style = functools.partial(matplotlib.style.context, STYLE, after_reset=True)


class Figure(matplotlib.figure.Figure):
    """A figure that shows as a picture where a notebook's cell ends with it."""

    def _repr_png_(self):
        return png(self)


def png(figure, **options) -> bytes:
    """A figure as a PNG of 64 colours, in the report's style; `options` are `savefig`'s."""
    buffer = io.BytesIO()
    picture = Image.open(io.BytesIO(_saved(figure, format="png", **options)))
    picture.convert("RGB").quantize(64).save(buffer, "png", optimize=True)
    return buffer.getvalue()


def svg(figure, **options) -> bytes:
    """A figure as an SVG file, in which text is text; else as `png`."""
    return _saved(figure, format="svg", metadata={"Date": None}, **options)


def _saved(figure, **options):
    buffer = io.BytesIO()
    with in_style():
        figure.savefig(buffer, **options)
    return buffer.getvalue()


def styled(draw):
    """Make the figure wholly in the report's style; a log axis whose labels would touch has fewer:
    powers of ten, or of named places, from the right, those with room."""

    @functools.wraps(draw)
    def drawn(*args, **kwargs):
        with in_style():
            figure = draw(*args, **kwargs)
            figure.draw_without_rendering()  # ticks are made late: let them see the style
            for axis in [ax.xaxis for ax in figure.axes]:
                labels = [label for label in axis.get_ticklabels() if label.get_text()]
                boxes = [label.get_window_extent().padded(4) for label in labels]
                if axis.get_scale() != "log" or all(a.x1 <= b.x0 for a, b in pairwise(boxes)):
                    continue
                if isinstance(axis.get_major_locator(), LogLocator):
                    axis.set_major_locator(LogLocator(numticks=6))
                    continue
                named, left = {}, np.inf
                for label, box in zip(labels[::-1], boxes[::-1], strict=True):
                    if box.x1 <= left:
                        named[label.get_position()[0]], left = label.get_text(), box.x0
                axis.set_ticks(list(named)[::-1], list(named.values())[::-1])
        return figure

    return drawn


def in_words(values, form="{:.1%}"):
    """{arm or name: what it has} as text, for a figure's alternative text: a number, an Interval,
    of which the mean is told, or several of them in an array or as a mapping's values."""
    told = []
    for name, value in values.items():
        several = list(value.values()) if isinstance(value, dict) else np.ravel(value)
        means = [form.format(one.mean if hasattr(one, "low") else one) for one in several]
        told.append(f"{ARM_STYLES.get(name, {'label': name})['label']} {', '.join(means)}")
    return "; ".join(told)


@styled
def image_grid(images, titles=None, *, columns=6):
    """Gray images (n, height, width) in rows, shown as they are, with optional `titles` (n,)."""
    titles = [""] * len(images) if titles is None else titles
    figure, axes = _grid(titles, columns, images[0].shape)
    for image, ax, title in zip(images, axes, titles, strict=True):
        _show(ax, image, title)
    return figure


@styled
def folder_sheets(images, *, rows=3):
    """Contact sheets: the first pictures of each folder, {name: images (n, height, width)}, in
    `rows` rows of ten under the folder's name."""
    figure = Figure(figsize=(WIDE, 0.27 * len(images) * (rows + 1) / 2 + 0.5))
    axes = figure.subplots(-(-len(images) // 2), 2, squeeze=False).ravel()
    for ax in axes:
        ax.axis("off")
    for ax, (name, pictures) in zip(axes, images.items(), strict=False):
        count, height, width = pictures[: rows * 10].shape
        sheet = np.full((rows * 10, height, width), 255.0)
        sheet[:count] = pictures[: rows * 10]
        sheet = sheet.reshape(rows, 10, height, width).swapaxes(1, 2)
        _show(ax, sheet.reshape(rows * height, 10 * width), f"folder {name}")
    return figure


@styled
def first_look(raw, processed, class_names):
    """One image of each class, as scanned, `raw` (classes, height, width), and beside it as the
    network sees it, `processed` (classes, size, size)."""
    split = raw.shape[2] / raw.shape[1]  # widths in units of the height
    end = split + processed.shape[2] / processed.shape[1]
    figure, axes = _grid(class_names, 4, (1, end))
    for ax, before, after, name in zip(axes, raw, processed, class_names, strict=True):
        _show(ax, before, name, extent=(0, split, 0, 1))
        _show(ax, after, name, extent=(split, end, 0, 1))
        ax.set(xlim=(0, end), ylim=(0, 1))
    return figure


@styled
def attribution(images, maps, titles, *, columns=6):
    """Where the network looked: each image, bright on black, as dark ink, and over it its map of
    `maps` (n, h, w), maybe coarser, each scaled to its own largest value, the negative as zero."""
    heat = LinearSegmentedColormap.from_list("heat", ["#FFB00000", "#FF8C00A0", "#D94000E6"])
    figure, axes = _grid(titles, columns, images[0].shape)
    over = {"cmap": heat, "extent": (0, 1, 0, 1), "interpolation": "bilinear"}
    for ax, image, weights, title in zip(axes, images, maps, titles, strict=True):
        _show(ax, image, title, cmap="gray_r", extent=(0, 1, 0, 1))
        _show(ax, weights.clip(0), title, **over, vmax=max(weights.max(), 1e-12))
    return figure


@styled
def network_strip(layers, taken=()):
    """A network from its input to its answer, downwards, a box a layer, of which the wider have the
    larger picture: {name: (output shape, parameters)}. Those of the names in `taken` are filled."""
    y = -np.arange(len(layers))
    size = WIDTH - 0.2, 0.38 * len(layers)  # a page adds an edge
    ax = Figure(figsize=size, layout="none").add_axes((0, 0, 1, 1))
    ax.set(xlim=(-1.6, 1.4), ylim=(y[-1] - 0.5, 0.5))
    ax.axis("off")
    sides = np.array([shape[0] if len(shape) > 1 else 1 for shape, _ in layers.values()])
    widths = 0.5 + sides / sides.max()
    faces = [BLUE if name in taken else "#EEF2F6" for name in layers]
    ax.barh(y, widths, 0.84, -widths / 2, color=faces, edgecolor=BLUE)
    for place, (name, (shape, parameters)) in zip(y, layers.items(), strict=True):
        look = {"va": "center_baseline", "size": SMALL, "color": DARK}
        ax.text(-1.6, place, name, **look)
        own = {"ha": "center", "color": "w" if name in taken else DARK}
        ax.text(0, place, "×".join(map(str, shape)), **look | own)
        ax.text(1.4, place, f"{parameters:,}" if parameters else "–", **look, ha="right")
    return ax.figure


@styled
def size_curve(accuracy, xlabel="Training images per class"):
    """Accuracy against so many images, with intervals: {size: Interval}."""
    ax = new_axes(2.6, xlabel, "Accuracy", "log count", "percent")
    sizes, (means, *ends) = np.array(list(accuracy)), _bounds(accuracy.values())
    ax.fill_between(sizes, *ends, color=BLUE, alpha=0.15, lw=0)
    ax.errorbar(sizes, means, abs(ends - means), color=BLUE, marker="o", capsize=4)
    for size, mean, top in zip(sizes, means, np.fmax(means, ends[1]), strict=True):
        note(ax, _percent(mean), (size, top), (0, 4), ha="center", size=SMALL)
    ax.margins(x=0.1)
    ax.xaxis.set_major_locator(FixedLocator(sizes))
    return ax.figure


@styled
def headline(accuracy):
    """The key accuracies {label: Interval}."""
    y = -np.arange(len(accuracy), dtype=float)
    ax = new_axes(0.9 + 0.47 * len(y), "Accuracy, with 95 % interval", x="percent")
    ax.set(ylim=(y[-1] - 0.5, 0.8), yticks=y, yticklabels=accuracy)  # a page tells them
    means, *ends = _bounds(accuracy.values())
    ax.errorbar(means, y, xerr=abs(ends - means), fmt="o", color=BLUE, capsize=4, ms=8)
    spot = {"xycoords": ("axes fraction", "data")}
    for place, (label, interval) in zip(y, accuracy.items(), strict=True):
        note(ax, label, (0, place), (0, 9), **spot)
        note(ax, _percent(interval.mean), (1, place), (0, 9), **spot, ha="right", weight="bold")
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0, labelleft=False)
    return ax.figure


@styled
def ablation(rows):
    """Differences from the baseline, "interval" of `rows`, dicts with "group", "variant" and
    "verdict" as well; a group's stand together, and its baseline has difference 0. A change whose
    verdict is neither "better" nor "worse" is undecided."""
    lines = []  # (text, row), the latter None for a heading
    for row in rows:
        if (row["group"], None) not in lines:
            lines.append((row["group"], None))
        lines.append((row["variant"], row))
    y = -np.arange(len(lines))
    ax = new_axes(1.4 + 0.2 * len(lines), "Difference (points)", x="points")
    ax.set_ylim(y[-1] - 0.6, 0.6)
    kinds, used = LOOKS["differences"], {}
    for place, (_, row) in zip(y, lines, strict=True):
        if row is not None:
            mean, *ends = _bounds([row["interval"]])
            look = kinds.get(row["verdict"], kinds["undecided"])
            used[look["label"]] = look
            ax.errorbar(mean, place, xerr=abs(ends - mean), capsize=3, **look | {"linestyle": ""})
    ax.axvline(0, color=DARK, linewidth=1.2, marker="", zorder=1)
    ax.set_yticks(y, [text for text, _ in lines])
    ax.tick_params(axis="y", length=0)
    for label, (_, row) in zip(ax.get_yticklabels(), lines, strict=True):
        label.set_fontweight("bold" if row is None else "normal")
    ax.grid(axis="y", visible=False)
    return _legend(ax.figure, used.values(), 3)


@styled
def confusion_matrix(matrix, class_names):
    """Confusions (classes, classes), rows true and columns predicted: errors by the square root of
    their number, so that single ones show, and a diagonal too pale to outshine them."""
    matrix, n = np.asarray(matrix), len(class_names)
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    share = np.ma.masked_where(~np.eye(n, dtype=bool), share)
    errors = np.ma.masked_where(np.eye(n, dtype=bool) | (matrix == 0), matrix)
    ax = new_axes(WIDE + 0.8, "Predicted class", "True class")
    ax.figure.set_figwidth(WIDE)
    ax.imshow(share, cmap="Greys", vmin=0, vmax=2.5, interpolation="nearest", zorder=1)
    norm = PowerNorm(0.5, 0, max(errors.max() or 1, 1))
    drawn = ax.imshow(errors, cmap="magma_r", norm=norm, interpolation="nearest", zorder=1)
    for axis in (ax.xaxis, ax.yaxis):  # every other label further out: 62 of them would touch
        axis.set_ticks(range(0, n, 2), class_names[::2])
        axis.set_ticks(range(1, n, 2), class_names[1::2], minor=True)
    ax.tick_params(which="major", labelsize=SMALL, length=2, pad=1)
    ax.tick_params(which="minor", labelsize=SMALL, length=12, pad=1, color="#C8C8C8")
    ax.grid(which="both", color="#EEEEEE", linewidth=0.4)
    bar = ax.figure.colorbar(drawn, location="bottom", aspect=40, shrink=0.7, pad=0.02)
    bar.set_label("Images misread (square-root scale); right answers in gray")
    bar.ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    return ax.figure


def misread(images, labels, predictions, class_names, *, most=12):
    """What the cells of `confusion_matrix` hold: {(true, answer): (text, pictures side by side)}.
    `images` are uint8, bright on black, `labels` (n,) and `predictions` (passes, n) class indices.
    The pictures, dark on white, are the first `most`; the text counts them all."""
    predictions, cells = np.asarray(predictions), {}
    wrong = predictions != labels
    pairs = np.broadcast_to(labels, predictions.shape)[wrong], predictions[wrong]
    for true, answer in {*zip(*pairs, strict=True)}:
        rows = np.flatnonzero((labels == true) & (predictions == answer).any(0))
        times = (predictions[:, rows] == answer).sum()
        what = f"{class_names[true]} read as {class_names[answer]}"
        pictures = 255 - np.concatenate(images[rows[:most]], 1)
        cells[int(true), int(answer)] = f"{what}: {len(rows)} images, {times} times", pictures
    return cells


@styled
def transition(shares, class_names):
    """Shares (classes, folders) as a picture with its numbers, in percent."""
    shares, n = np.asarray(shares, float), len(class_names)
    ax = new_axes(3.6, "Folder; numbers in percent of the row", "Digit")
    ax.imshow(shares, cmap="Blues", vmin=0, vmax=1.6 * max(shares.max(), 1e-9), aspect="auto")
    for (row, column), share in np.ndenumerate(shares):
        ax.text(column, row, f"{100 * share:.1f}", ha="center", va="center", fontsize=SMALL)
    ax.set_xticks(range(n), class_names)
    ax.set_yticks(range(n), class_names)
    ax.tick_params(length=0)
    ax.grid(visible=False)
    return ax.figure


def told_and_true(losses):
    """Error told without truth and error on the test set, a row a loss: {loss: (Interval of the
    accuracy that is told, true accuracy)}. What is below 0.1 % stands there."""
    rows = {}
    for name, (told, true) in losses.items():
        middle, low, high, error = (
            max(1 - value, 1e-3) for value in (told.mean, told.high, told.low, true)
        )
        rows[name, "told by folders"] = replace(told, mean=middle, low=low, high=high)
        rows[name, "on the test set"] = replace(told, mean=error, low=np.nan, high=np.nan)
    return dot_rows(rows, "log percent", "Error")


@styled
def reliability(curves):
    """Accuracy against stated confidence, {label: {confidence: Interval}}; they agree on the dotted
    line."""
    ax = new_axes(2.8, "Confidence (largest probability)", "Accuracy", "percent", "percent")
    least = min(map(min, curves.values()))
    ax.plot([least, 1], [least, 1], **DASHED | {"linestyle": ":"}, label="_agree")
    for label, style in styles_of(curves).items():
        means, *ends = _bounds(curves[label].values())
        ax.errorbar(list(curves[label]), means, abs(ends - means), **style)
    return _legend(ax.figure, styles_of(curves).values())


@styled
def convergence(
    curves, ylabel="Validation error", y="log percent", xlabel="Training images seen", x="log count"
):
    """What falls in training, by default the error: {arm: (images seen (checks,), error shares
    (seeds, checks))}, the mean over the seeds and a band from the least to the largest; on a log
    axis above 0 images."""
    ax = new_axes(2.8, xlabel, ylabel, x, y)
    _draw_ranges(ax, curves, markevery=0.1)
    return label_ends(ax)


@styled
def accuracy_curves(curves, *, chance):
    """Accuracy in training, as `convergence` draws the error; a dashed line at `chance`."""
    scales = {"xscale": "log", "ylim": (-0.02, 1.02)}
    ax = new_axes(2.8, "Training steps (log scale)", "Accuracy", "count", "percent", **scales)
    _draw_ranges(ax, curves, markevery=0.1)
    ax.axhline(chance, **DASHED, label="_chance")
    return label_ends(ax)


@styled
def dot_rows(intervals, shows, xlabel, ylabel=""):
    """A row for each first part of the keys (row, arm) of `intervals`, and in it a dot with its
    interval for each arm; shows: as `new_axes` takes it for x. What is inf is not drawn."""
    rows, arms = (list(dict.fromkeys(names)) for names in zip(*intervals, strict=True))
    labels = [textwrap.fill(row, 22) for row in rows]
    lines, styles = max(label.count("\n") + 1 for label in labels), styles_of(arms)
    height = max(0.1 + 0.12 * len(arms), 0.2 * lines)
    ax = new_axes(1.1 + len(rows) * height, xlabel, ylabel, x=shows, ylim=(0.5 - len(rows), 0.5))
    for (row, arm), interval in intervals.items():
        y = -rows.index(row) - 0.8 * ((arms.index(arm) + 0.5) / len(arms) - 0.5)
        mean, *ends = np.nan_to_num(_bounds([interval]), nan=np.nan, posinf=np.nan)
        ax.errorbar(mean, y, xerr=abs(ends - mean), **styles[arm] | {"linestyle": ""})
    for place in range(0, len(rows), 2):
        ax.axhspan(-place - 0.5, -place + 0.5, color="#F2F2F2", zorder=0)
    ax.set_yticks(-np.arange(len(rows)), labels)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="y", visible=False)
    if len(arms) == 1:  # its rows and axes say it all
        return ax.figure
    return _legend(ax.figure, [style | {"linestyle": ""} for style in styles.values()])


@styled
def label_efficiency(accuracy, zero_shot=None, xlabel="Labelled training images (log scale)"):
    """Test error against labelled images: {arm: {size: Interval of the accuracy}}, where an arm may
    lack sizes. `zero_shot`, {arm: accuracy without a label}, stands hollow at the left."""
    zero_shot = zero_shot or {}
    styles = styles_of(accuracy | zero_shot)
    sizes = sorted({size for by_size in accuracy.values() for size in by_size})
    ax = new_axes(2.8, xlabel, "Test error", y="log percent")
    for name, by_size in accuracy.items():
        errors = 1 - _bounds(by_size.values())
        _band(ax, list(by_size), errors[[0, 2, 1]], styles[name])
    none = sizes[0] / max(2.5, (sizes[-1] / sizes[0]) ** (1 / 4))
    for name, reached in zero_shot.items():
        hollow = {"markerfacecolor": "white", "label": f"_{styles[name]['label']}"}
        ax.plot(none, 1 - reached, **styles[name] | hollow)
    _size_ticks(ax, sizes, {none: "none"} if zero_shot else {})
    return label_ends(ax)


@styled
def label_factors(factors):
    """How many times as many labels a random start needs: {labels: Interval of the factor}. What is
    inf becomes an arrow to the top: the random start needs more labels than were tried."""
    sizes, values = np.array(list(factors), float), _bounds(factors.values())
    middle, lows, highs = values
    top = 2 * values[np.isfinite(values)].max(initial=1)
    beyond = np.isinf(middle) | np.isinf(highs)
    ax = new_axes(2.8, "", "Labels a random start needs,\nas a multiple", y="log times")
    ax.vlines(sizes, np.minimum(lows, top / 1.5), np.where(beyond, top, highs), color=BLUE)
    ax.plot(sizes, np.where(np.isinf(middle), np.nan, middle), "o", color=BLUE, label="_")
    ax.plot(sizes[beyond], np.full(beyond.sum(), top), "^", color=BLUE, ms=9)
    ax.axhline(1, **DASHED)
    note = "\narrow: no upper bound" if beyond.any() else ""
    ax.set_xlabel(f"Labels of the pre-trained start (log scale){note}")
    _size_ticks(ax, sizes, {})
    return ax.figure


@styled
def transplant(accuracy):
    """Accuracy against the layers taken over, up to one, the first being none:
    {"fine-tuned" or "frozen": {layer: Interval}}."""
    ax = new_axes(2.8, "Layers taken over, up to", "Test accuracy", y="percent")
    for way, style in styles_of(accuracy).items():
        _band(ax, range(len(accuracy[way])), _bounds(accuracy[way].values()), style)
        ax.set_xticks(range(len(accuracy[way])), [k.replace(" ", "\n") for k in accuracy[way]])
    return label_ends(ax)


def styles_of(names):
    """How to draw each name: an arm, or its label, in its own style, another in one that no arm
    has."""
    own = ARM_STYLES | {style["label"]: style for style in ARM_STYLES.values()}
    others = cycle(OTHER_STYLES)
    return {name: own.get(name) or {"label": name, **next(others)} for name in names}


def new_axes(height, xlabel="", ylabel="", x="", y="", **settings):
    """The one pair of axes of a figure of the full width, `height` in inches. x, y: what they show,
    "log", which the labels tell, and one of `FORMATS`."""
    ax = Figure(figsize=(WIDTH, height)).subplots()
    ax.set(xlabel=xlabel, ylabel=ylabel, **settings)
    for axis, shows in ((ax.xaxis, x.split()), (ax.yaxis, y.split())):
        if "log" in shows:
            ax.set(**{f"{axis.axis_name}scale": "log"})
            if "(log scale)" not in (label := axis.get_label_text()):
                axis.set_label_text(f"{label} (log scale)")
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_minor_locator(NullLocator())
        for form in FORMATS.keys() & shows:
            axis.set_major_formatter(FORMATS[form])
    return ax


def note(ax, text, at, by, **look):
    """A text at a place, moved `by` so many points."""
    ax.annotate(text, at, by, textcoords="offset points", **look)


def _legend(figure, styles, columns=2):
    """The figure, with a legend of these styles below its axes."""
    handles = [Line2D([], [], **style) for style in styles]
    figure.legend(handles=handles, loc="outside lower center", ncols=columns)
    return figure


def _bounds(intervals):
    """The intervals' means, lows and highs, (3, n)."""
    return np.array([(one.mean, one.low, one.high) for one in intervals], float).T


def _draw_ranges(ax, curves, **more):
    """A line for each arm, {arm: (xs (n,), runs (runs, n))}: the runs' mean, and a band from the
    least to the largest."""
    for arm, style in styles_of(curves).items():
        xs, runs = curves[arm]
        values = np.array([function(runs, axis=0) for function in (np.mean, np.min, np.max)])
        _band(ax, xs, values, style | more)


def _band(ax, x, values, style):
    """A line and the band about it: `values` (3, n), middle, low and high."""
    (line,) = ax.plot(x, values[0], **style)
    line.bounds = values[1:].T  # a page shows them under the pointer; its label without its "_"
    ax.fill_between(x, *values[1:], color=style["color"], alpha=0.15, lw=0)


def label_ends(ax):
    """Each line's label right of the axes, level with its end or as near as the others allow, or
    beside its end where that lies so far left that others would be crossed; returns the figure."""
    lines = [line for line in ax.lines if not line.get_label().startswith("_")]
    labels = [textwrap.fill(line.get_label(), 14) for line in lines]
    ax.set(xlim=ax.get_xlim(), ylim=ax.get_ylim())  # the labels' places hold for these only
    ends = np.array([line.get_xydata()[-1] for line in lines])
    across, places = (ax.transData - ax.transAxes).transform(ends).T
    line_height = 1.3 * matplotlib.rcParams["font.size"] / 72 * ax.figure.dpi
    heights = line_height * np.array([label.count("\n") + 1 for label in labels])
    right = across >= 0.7
    places[right] = _spread(places[right], heights[right] / ax.get_window_extent().height)
    for i, line in enumerate(lines):
        look = {"va": "center", "color": line.get_color()}
        leader = {"arrowstyle": "-", "relpos": (0, 0.5), "color": line.get_color()}
        if right[i]:
            place = 1.05, places[i]
            ax.annotate(labels[i], ends[i], place, "data", "axes fraction", leader, **look)
        else:
            look["bbox"] = {"fc": "w", "ec": "none", "alpha": 0.8, "pad": 1}
            note(ax, labels[i], ends[i], (8, 0), **look)
    return ax.figure


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


def _grid(titles, columns, shape):
    """Figure and axes (titles,) for pictures of `shape` (height, width), with room for the titles
    above."""
    count, columns = len(titles), min(columns, len(titles))
    rows = -(-count // columns)
    lines = max(str(title).count("\n") + bool(str(title)) for title in titles)
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


def _show(ax, image, title="", **drawn):
    """A picture that fills its axes, gray unless `drawn` says otherwise."""
    settings = {"cmap": "gray", "vmin": 0, "vmax": 255, "aspect": "auto", "interpolation": "auto"}
    ax.imshow(image, **settings | drawn)
    ax.set_title(title, size=SMALL, pad=3, color=DARK, weight="normal")
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set(visible=True, color="#BBBBBB", linewidth=0.8)


def _size_ticks(ax, sizes, others):
    """A log axis with a tick and a label at each size, and at `others` {place: label}."""
    labels = others | {size: f"{size:,.0f}" for size in sizes}
    ax.set_xscale("log")
    ax.set_xticks(list(labels), labels.values())
    ax.set_xticks(sizes, [], minor=True)


def _percent(value):
    return f"{100 * value:.1f} %"
