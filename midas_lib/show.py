"""What a notebook shows: figures, tables and text, as HTML that a page keeps."""

import base64
import hashlib
import html
import io
import math
import re
from pathlib import Path

import jinja2
import numpy as np
from IPython.display import HTML, Markdown, display, publish_display_data
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.ticker import FixedLocator, FuncFormatter

from midas_lib import files, pad, plots, results

TEMPLATES = Path(__file__).parent / "templates"
NOTE = "midas_lib_results"  # under which a notebook tells where its results lie


def figure(
    fig: Figure, alt: str, caption: str, cells: dict | None = None, name: str | None = None
) -> None:
    """Show a Matplotlib figure, as SVG, or as PNG at twice the screen's resolution where it holds
    pictures, with alt text and caption. The numbers of its points show under the pointer. cells:
    where the first axes show a matrix, what there is to see behind each cell: (row, column) ->
    (text, gray picture). name: what a link in the text, `[](#name)`, calls it; the page puts its
    number there."""
    from matplotlib import pyplot

    pictures = any(ax.images for ax in fig.axes)
    with plots.in_style():
        save = plots.png if pictures else plots.svg
        content = save(fig, dpi=192, bbox_inches="tight")
        box = fig.get_tightbbox().padded(0.1)  # what the picture shows, in inches
        lines, matrix = _lines(fig, box), cells and _matrix(fig, box, cells)
    pyplot.close(fig)  # or the notebook would show it a second time
    texts = {"alt": typeset(alt), "caption": typeset(caption), "name": name}
    given = {"png": _base64(content)} if pictures else {"svg": _inline(content)}
    given |= {"width": round(96 * box.width), "lines": lines, "matrix": matrix}
    _show("figure", **texts, **given)


def _inline(svg: bytes) -> dict[str, str]:
    """A drawing's view box, and what it consists of, whose names no other on the page has."""
    text, names = svg.decode(), hashlib.sha256(svg).hexdigest()[:8]
    parts = re.sub(r'( id="|="#|url\(#)', rf"\g<1>d{names}-", text.partition("</metadata>")[2])
    box = re.search(r'viewBox="([\d. ]+)"', text)[1]
    return {"box": box, "parts": parts.removesuffix("</svg>\n")}


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _matrix(fig, box, cells: dict) -> dict:
    """The cells of the first axes' matrix as data for the page's script."""
    ax, found = fig.axes[0], []
    corners = ax.transAxes.transform([(0, 1), (1, 0)]) / fig.dpi  # upper left, lower right
    (left, upper), (right, lower) = (corners - box.min) / box.size
    for (row, column), (text, picture) in sorted(cells.items()):
        buffer = io.BytesIO()
        imsave(buffer, picture, cmap="gray", vmin=0, vmax=255, format="png")
        png = _base64(buffer.getvalue())
        found.append({"row": row, "column": column, "text": text, "png": png})
    columns, rows = (round(abs(np.ptp(ends))) for ends in (ax.get_xlim(), ax.get_ylim()))
    box = [left, 1 - upper, right, 1 - lower]
    return {"box": box, "columns": columns, "rows": rows, "cells": found}


def _lines(fig, box) -> list[list[tuple[float, float, str]]]:
    """Of each line of a figure that has a label, and of each dot with its interval: where its
    points lie in the picture, which shows `box`, as shares of width and height from the top left,
    and what to say of each. A label after "_" is a name that the figure does not show."""
    found = []
    for ax in fig.axes:
        bars = {bar[0]: bar for bar in ax.containers if isinstance(bar, ErrorbarContainer)}
        for line in ax.get_lines():
            bar, values = bars.get(line), np.column_stack(line.get_data()).astype(float)
            name, across = (bar or line).get_label(), bool(bar and bar.has_xerr)
            if name.startswith(("_child", "_nolegend")):
                continue
            ends = [np.reshape(end, (-1, 2)) for end in bar[2][0].get_segments()] if bar else []
            bounds = getattr(line, "bounds", [end[:, int(not across)] for end in ends])
            places = (ax.transData.transform(values) / fig.dpi - box.min) / box.size
            name = "" if name.startswith("_container") else name.removeprefix("_")
            points = []
            for i in np.flatnonzero(np.isfinite(values).all(1)):
                said = _say(ax, values[i], bounds[i] if len(bounds) else (), across)
                text = typeset(f"{name}: {said}" if name else said)
                points.append((*np.abs([0, 1] - places[i]).round(4).tolist(), text))
            found += [points] * bool(points)
    return found


def _say(ax, values, bounds, across: bool) -> str:
    """The values (x, y) of a point, each after its axis' name, and the bounds of the second, or of
    the first where the interval lies across."""
    told = []
    for axis, value, own in zip((ax.xaxis, ax.yaxis), values, (across, not across), strict=True):
        label = axis.get_label_text() or ax.figure.axes[-1].get_xlabel() * (axis is ax.xaxis)
        label = re.sub(r"( \(log scale\)|,| with |;).*", "", label, flags=re.DOTALL)
        ticks, linear = axis.get_majorticklocs(), axis.get_scale() == "linear"
        near = ticks[np.argmin(abs(ticks - value))]
        fixed = isinstance(axis.get_major_locator(), FixedLocator)
        if fixed and (linear or np.isclose(near, value)):  # a row or a column, by its name
            word = axis.get_major_formatter()(near)
            told.append(f"{label} {word}".strip() * bool(word))
            continue
        ends = [_read(axis, end) for end in sorted(bounds) if own and np.isfinite(end)]
        interval = f" [{', '.join(ends)}]" * (len(set(ends)) == 2)
        told.append(f"{label} {_read(axis, value)}{interval}".strip())
    return ", ".join(filter(None, told))


def _read(axis, value: float) -> str:
    """A value as the axis' own ticks would show it, or as a number where they do not."""
    formatter = axis.get_major_formatter()
    text = formatter(value) if isinstance(formatter, FuncFormatter) else ""
    if value % 1 and (not text or text.isdigit()):
        return f"{value:.4g}"
    return text or f"{value:,.0f}"


def table(rows, caption: str, folded: str | None = None, name: str | None = None) -> None:
    """Show a table: a data frame (without its index) or a list of dicts with the same keys. The
    first column names the row. A column of floats shows as many decimals as give its largest four
    digits, p-values three; None and NaN show as a dash. folded: the words behind which a long table
    lies closed, but in print. name: as a `figure`'s."""
    rows = rows.to_dict("records") if hasattr(rows, "to_dict") else list(rows)
    columns = []
    for title in rows[0] if rows else []:
        values = [results.plain(row[title]) for row in rows]
        number = all(isinstance(value, int | float | None) for value in values)
        cells = zip(_cells(values, bool(re.match(r"p\b", title))), _ranks(values), strict=True)
        columns.append({"name": typeset(title), "cells": list(cells), "number": number})
    texts = {"caption": typeset(caption), "folded": folded and typeset(folded), "name": name}
    _show("table", columns=columns, length=len(rows), **texts)


def _cells(values: list, p_values: bool = False) -> list[str]:
    """A column's values as text."""
    sizes = [abs(value) for value in values if isinstance(value, float) and value]
    decimals = max(0, 3 - math.floor(math.log10(max(sizes, default=1))))

    def text(value):
        if value is None:
            return "–"
        if p_values and isinstance(value, int | float):
            return f"{value:.3f}" if value >= 0.001 else "< 0.001"
        form = f",.{decimals}f" if isinstance(value, float) else ","
        if isinstance(value, int | float) and not isinstance(value, bool):
            return f"{value:{form}}".replace("-", "−")
        return typeset(str(value))

    return [text(value) for value in values]


def _ranks(values: list) -> list[int | None]:
    """Each value's place in its column's order, None for None: first those that begin with a
    number, after nothing but signs, by it, then words, the numbers in them by size."""

    def key(value):
        text = str(value).lower().replace("−", "-").replace(",", "")
        found = re.match(r"[^\w-]*(-?\d*\.?\d+|inf)", text)
        if found or isinstance(value, float):  # 1e-05 as text begins with 1
            return 0, value if isinstance(value, float) else float(found[1]), ""
        return 1, 0, re.sub(r"\d+(\.\d+)?", lambda n: f"{float(n[0]):020.6f}", text)

    keys = [None if value is None else key(value) for value in values]
    order = sorted(set(keys) - {None})
    return [None if key is None else order.index(key) for key in keys]


def typeset(text: str) -> str:
    """The text with each percent sign a narrow space, at which no line breaks, from its number, but
    not in an address, where letters or digits follow it; "n = 2480" becomes an unbroken 2,480."""
    text = re.sub(r"\bn = (\d+)", lambda n: f"n\u00a0=\u00a0{int(n[1]):,}", text)
    return re.sub(r"(?<=\d) ?%(?!\w)", "\u202f%", text)


def fill(template: str, **values) -> str:
    """A template of ours as HTML."""
    loader = jinja2.FileSystemLoader(TEMPLATES / "midas")
    ours = jinja2.Environment(loader=loader, autoescape=True)
    return ours.get_template(f"{template}.html.j2").render(values)


def _show(template: str, **values) -> None:
    display(HTML(fill(template, **values)))


def drawing_pad(networks: dict[str, dict], guides: dict[str, float], caption: str) -> None:
    """Show a pad on which one draws a character, which networks, title -> `pad.export`'s, read at
    once, in the page. guides: name -> where the ink's edges lie on the mean, as shares from the
    top: of capitals, of small letters, and the base line. The pen's middle goes inside of them."""
    capitals, small, base = sorted(guides.values())
    # Half a pen puts the ink there; strokes on the lines tell small from capital with a whole one.
    heights = capitals + pad.PEN / 2, small + pad.PEN, base - pad.PEN
    guides = dict(zip(sorted(guides, key=guides.get), heights, strict=True))
    given = {"networks": networks, "guides": guides, "caption": caption}
    _show("pad", samples=pad.samples(*heights), script=scripts()["pad"], **given)


def game(given: dict, names: list[str], guides: dict[str, float], caption: str) -> None:
    """Show `pad.game`'s characters, of the classes `names`, one at a time: the page's reader reads
    them and is then set beside the network. guides: as a `drawing_pad`'s."""
    texts = {"names": names, "guides": guides, "caption": typeset(caption)}
    _show("game", given=given, script=scripts()["game"], **texts)


def scripts() -> dict[str, str]:
    """The scripts that a page may run, and no others: of every "page", of the "pad", and of the
    "game"."""
    names = ("page", "pad", "game")
    found = {name: (TEMPLATES / "midas" / f"{name}.js").read_text() for name in names}
    for name in names[1:]:
        found[name] += f'{name}.start(document.currentScript.closest("figure"));'
    return found


def markdown(text: str) -> None:
    """Show computed Markdown as running text; tags in it are text too."""
    display(Markdown(typeset(html.escape(text, quote=False))))


def finding(text: str, detail: str = "") -> None:
    """Show computed Markdown as a finding, set off from the running text, and `detail`, plain text
    such as intervals, below it in small type."""
    from nbconvert.filters import markdown2html

    found = markdown2html(typeset(html.escape(text, quote=False)))
    small = f"<p><small>{typeset(html.escape(detail))}</small></p>" if detail else ""
    display(HTML(f'<div class="finding">{found}{small}</div>'))


def brief(text: str) -> str:
    """An interval's text without its n, for where a caption tells that once."""
    return re.sub(r", n = [\d,]+", "", text)


def finish(found: results.Results, finding: str, picture: Figure | None) -> None:
    """End a notebook: put its finding, plain text, and its key figure beside its results. The index
    shows only what ended thus, and `pages.run_notebook` puts the page there."""
    if picture is not None:
        name = f"{results.stem(found.info['part'])}.png"
        files.write(found.path.parent.parent / name, plots.png(picture, dpi=144))
    results.annotate(found, finding=finding)
    note = {"text/plain": f"Results: {results.relative(found.path)}"}
    publish_display_data(note, metadata={NOTE: str(found.path)})
