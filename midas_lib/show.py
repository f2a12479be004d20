"""What a notebook shows: figures, tables and text, as HTML that a page keeps."""

import base64
import html
import io
import itertools
import math
import re
from pathlib import Path

import jinja2
import numpy as np
from IPython.display import HTML, Markdown, display, publish_display_data
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.ticker import FuncFormatter

from midas_lib import files, plots, results

TEMPLATES = Path(__file__).parent / "templates"
NOTE = "midas_lib_results"  # under which a notebook tells where its results lie


def figure(fig: Figure, alt: str, caption: str, cells: dict | None = None) -> None:
    """Show a Matplotlib figure at twice the screen's resolution, with alt text and caption. The
    numbers of the points on its named lines show under the pointer. cells: where the first axes
    show a matrix, what there is to see behind each cell: (row, column) -> (text, gray picture)."""
    from matplotlib import pyplot

    with plots.in_style():
        png = plots.png(fig, dpi=192, bbox_inches="tight")
        box = fig.get_tightbbox().padded(0.1)  # what the picture shows, in inches
        points, matrix = _points(fig, box), cells and _matrix(fig, box, cells)
    pyplot.close(fig)  # or the notebook would show it a second time
    width = int.from_bytes(png[16:20], "big") // 2  # from the PNG header, in CSS pixels
    texts = {"alt": typeset(alt), "caption": typeset(caption)}
    _show("figure", png=_base64(png), width=width, **texts, points=points, matrix=matrix)


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


def _points(fig, box) -> list[tuple[float, float, str]]:
    """Where the points of a figure's named lines lie in its picture, which shows `box`, as shares
    of width and height from the top left, and what to say of each."""
    points = []
    for line in [line for ax in fig.axes for line in ax.get_lines()]:
        ax, values = line.axes, np.column_stack(line.get_data()).astype(float)
        places = (ax.transData.transform(values) / fig.dpi - box.min) / box.size
        bounds = getattr(line, "bounds", itertools.repeat((), len(values)))
        for (x, y), (across, up), bound in zip(values, places, bounds, strict=True):
            if np.isfinite([x, y]).all() and not line.get_label().startswith("_"):
                text = f"{line.get_label()}: {_read(ax.xaxis, x)}, {_read(ax.yaxis, y)}"
                if len(bound):
                    text += f" [{', '.join(_read(ax.yaxis, end) for end in bound)}]"
                points.append((round(across, 4), round(1 - up, 4), typeset(text)))
    return points


def _read(axis, value: float) -> str:
    """A value as the axis' own ticks would show it, or as a number where they are fixed."""
    formatter = axis.get_major_formatter()
    if isinstance(formatter, FuncFormatter):
        return formatter(value)
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def table(rows, caption: str, folded: str | None = None) -> None:
    """Show a table: a data frame (without its index) or a list of dicts with the same keys. The
    first column names the row. A column of floats shows as many decimals as give its largest four
    digits; None and NaN show as a dash. folded: the words behind which a long table lies closed,
    but in print."""
    rows = rows.to_dict("records") if hasattr(rows, "to_dict") else list(rows)
    columns = []
    for name in rows[0] if rows else []:
        values = [results.plain(row[name]) for row in rows]
        number = all(isinstance(value, int | float | None) for value in values)
        columns.append({"name": typeset(name), "cells": _cells(values), "number": number})
    texts = {"caption": typeset(caption), "folded": folded and typeset(folded)}
    _show("table", columns=columns, length=len(rows), **texts)


def _cells(values: list) -> list[str]:
    """A column's values as text."""
    sizes = [abs(value) for value in values if isinstance(value, float) and value]
    decimals = max(0, 3 - math.floor(math.log10(max(sizes, default=1))))

    def text(value):
        if isinstance(value, float):
            return f"{value:.{decimals}f}".replace("-", "−")
        return "–" if value is None else typeset(str(value))

    return [text(value) for value in values]


def typeset(text: str) -> str:
    """The text with each percent sign a narrow space, at which no line breaks, from its number, but
    not in an address, where letters or digits follow it."""
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
    once, in the page. guides: name -> height of a faint line, as a share from the top."""
    script = scripts()["pad"]
    _show("pad", networks=networks, guides=guides, caption=caption, script=script)


def scripts() -> dict[str, str]:
    """The scripts that a page may run, and no others: of every "page", and of the "pad"."""
    vendored = sorted((TEMPLATES / "vendor").glob("tf-*.js"), reverse=True)  # the core goes first
    parts = [path.read_text("utf-8") for path in (*vendored, TEMPLATES / "midas" / "pad.js")]
    parts.append('pad.start(document.currentScript.closest("figure"));')
    page = (TEMPLATES / "midas" / "page.js").read_text("utf-8")
    return {"page": page, "pad": "\n".join(parts)}


def markdown(text: str) -> None:
    """Show computed Markdown as running text; tags in it are text too."""
    display(Markdown(typeset(html.escape(text, quote=False))))


def finding(text: str) -> None:
    """Show computed Markdown as a finding, set off from the running text."""
    from nbconvert.filters import markdown2html

    found = markdown2html(typeset(html.escape(text, quote=False)))
    display(HTML(f'<div class="finding">{found}</div>'))


def finish(found: results.Results, finding: str, picture: Figure | None) -> None:
    """End a notebook: put its finding, plain text, and its key figure beside its results. The index
    shows only what ended thus, and `pages.run_notebook` puts the page there."""
    if picture is not None:
        name = f"{results.stem(found.info['part'])}.png"
        files.write(found.path.parent.parent / name, plots.png(picture, dpi=144))
    results.annotate(found, finding=finding)
    note = {"text/plain": f"Results: {results.relative(found.path)}"}
    publish_display_data(note, metadata={NOTE: str(found.path)})
