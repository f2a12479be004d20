"""Reports: run a notebook, keep its results, render its page and the index."""

import base64
import contextlib
import datetime
import html
import importlib.metadata
import io
import itertools
import json
import math
import os
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib
import nbformat
import numpy as np
from ipykernel.kernelspec import get_kernel_dict
from IPython.display import HTML, Markdown, display, publish_display_data
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec
from matplotlib.ticker import FuncFormatter

from midas_lib import colab, config
from midas_lib.config import UserError

TEMPLATES = Path(__file__).parent / "templates"
PARTS = {
    1: ("Part 1: characters", "How well can a network learn 62 characters from 40 images each?"),
    2: ("Part 2: transfer", "Does a start from part 1's digits help on MNIST?"),
    3: ("Part 3: wrong labels", "What is wrong with this dataset, and can one learn from it?"),
}
BENCH = "bench"  # what is no part, but has a page and results like one
PACKAGES = ("tensorflow", "keras", "numpy", "opencv-python-headless")
# Where the notebook tells `run_notebook` which folder its results went to.
RESULTS_KEY = "midas_lib_results"


# -- results files


def provenance(profile: str, sources: dict) -> dict:
    """What a results file says about its origin.

    `sources` maps an archive's name to anything with `.source` and `.digest` (a `Source`, an
    `ImageDataset`). Returns `profile`, `data`, `versions`, `commit` ("-dirty" when tracked files
    other than results differ, "unknown" outside git), `machine` (no host names) and `date` (UTC).
    """
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {
        "profile": config.check_profile(profile),
        "data": {
            name: {"source": archive.source, "digest": archive.digest}
            for name, archive in sources.items()
        },
        "versions": {"python": platform.python_version(), **versions},
        "commit": _commit(),
        "machine": _machine(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _commit() -> str:
    if not (config.ROOT / ".git").exists():  # an unpacked archive, perhaps inside another project
        return "unknown"
    git = ["git", "-C", str(config.ROOT)]
    changed = ["status", "--porcelain", "-uno", "--", ".", ":!executed", ":!checkpoints"]
    try:
        commit = subprocess.check_output([*git, "rev-parse", "HEAD"], stderr=subprocess.DEVNULL)
        dirty = subprocess.check_output([*git, *changed], stderr=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit.decode().strip() + ("-dirty" if dirty else "")


def _machine() -> dict:
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        if sys.platform == "darwin":
            brand = ["sysctl", "-n", "machdep.cpu.brand_string"]
            cpu = subprocess.check_output(brand, text=True).strip()
        else:
            model = re.search(
                r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE
            )
            cpu = model[1] if model else cpu
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_gib": round(memory, 1),
        "system": f"{platform.system()} {platform.machine()}",
    }


def pages_folder(profile: str) -> Path:
    """The folder of a profile's pages; the full profile's is the published one."""
    folder = config.ROOT / "executed"
    return folder if config.check_profile(profile) == "full" else folder / profile


def _results_folder(results: dict) -> Path:
    """Where results belong: only the full profile on the real archives is published."""
    sources = {archive["source"] for archive in results["data"].values()}
    if results["profile"] == "full" and not (sources and sources <= {"original", "mirror"}):
        return config.ROOT / "executed" / "full"
    return pages_folder(results["profile"])


def _is_standin(results: dict) -> bool:
    return any(archive.get("source") == "stand-in" for archive in results.get("data", {}).values())


def _stem(part: int | str) -> str:
    """How the files of a part, or of the bench, are called."""
    return part if part == BENCH else f"part{part}"


def write_results(results: dict, part: int | str, arrays=None, picture=None) -> Path:
    """Write `results/partN.json` (or, as everywhere here, `BENCH`'s), and `arrays` beside it as
    `.npz`; return the JSON's path.

    `picture`, a Matplotlib figure, becomes `partN.png` beside the page.

    The folder is `executed/` for the full profile on the real archives, else
    `executed/<profile>/`. Keys are sorted; numbers that are not finite become null. Call it in a
    notebook's last cell: `run_notebook` puts the page beside these results.
    """
    path = _results_folder(results) / "results" / f"{_stem(part)}.json"
    text = json.dumps(_plain({**results, "part": part}), indent=1, sort_keys=True, allow_nan=False)
    npz = path.with_suffix(".npz")
    if arrays:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **arrays)
        _replace(npz, buffer.getvalue())
    else:
        npz.unlink(missing_ok=True)
    if picture is not None:
        buffer = io.BytesIO()
        picture.savefig(buffer, format="png", dpi=144, metadata={"Software": None})
        _replace(path.parent.parent / f"{_stem(part)}.png", buffer.getvalue())
    _replace(path, (text + "\n").encode())
    note = {"text/plain": f"Results: {path.relative_to(config.ROOT)}"}
    publish_display_data(note, metadata={RESULTS_KEY: str(path)})
    return path


def is_published(results: dict) -> bool:
    """Whether results belong to the published ones: the full profile on the real archives."""
    return _results_folder(results) == config.ROOT / "executed"


def checkpoint_path(results: dict, part: int, name: str) -> Path:
    """Where a part's network is kept: `checkpoints/partN/` for published results, else with the
    profile's other runs in the run store."""
    published = is_published(results)
    folder = config.ROOT / "checkpoints" if published else config.RUNS / results["profile"]
    return folder / f"part{part}" / f"{name}.keras"


def has_results(part: int | str, profile: str) -> bool:
    """Whether there is a results file of that profile to draw a page from."""
    return _results_file(part, profile).exists()


def _results_file(part: int | str, profile: str) -> Path:
    return pages_folder(profile) / "results" / f"{_stem(part)}.json"


def read_results(part: int | str, profile: str = "full") -> tuple[dict, dict]:
    """The results of a part and their arrays; `profile` "full" means the published ones.

    Raises `UserError` when there are none or the file is damaged.
    """
    path = _results_file(part, profile)
    if not path.exists():
        raise UserError(f"{path}: no such results; make {_stem(part)} PROFILE={profile}")
    results = _load(path)
    npz = path.with_suffix(".npz")
    if not npz.exists():
        return results, {}
    with np.load(npz) as arrays:
        return results, dict(arrays)


def other_results(part: int, profile: str, sources: dict) -> dict | None:
    """Another part's results of this profile, to compare with; None where there are none, or where
    they were made from other data than `sources`."""
    try:
        results, _ = read_results(part, profile)
        check_data(results, {name: sources[name] for name in results["data"] if name in sources})
    except UserError:
        return None
    return results


def check_data(results: dict, sources: dict) -> None:
    """Raise `UserError` unless the archives at hand are those the results were made from."""
    for name, archive in sources.items():
        if archive.digest != results["data"][name]["digest"]:
            raise UserError(
                f"{name}: the archive at hand is not the one these results were made from; "
                "set MIRROR or DATA_DIR to that one"
            )


def relative(path: Path) -> str:
    """A path as results name it: from the checkout's folder, with slashes."""
    return path.relative_to(config.ROOT).as_posix()


def _load(path: Path) -> dict:
    """A results file, in which what every page shows is of the kind it has to be."""
    number = int | float | None
    kinds = {
        "data": dict, "machine": dict, "versions": dict, "headline": dict | None, "profile": str,
        "commit": str, "date": str, "finding": str,
    }  # fmt: skip
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        _check_kinds(results, kinds)
        for archive in results.get("data", {}).values():
            _check_kinds(archive, {"source": str, "digest": str | None})
        headline = {"metric": str, "mean": number, "low": number, "high": number, "n": number}
        _check_kinds(results.get("headline") or {}, headline)
    except ValueError as error:
        raise UserError(f"{path}: not a results file ({error}); make it anew") from None
    return results


def _check_kinds(values, kinds: dict) -> None:
    if not isinstance(values, dict):
        raise ValueError(f"{values!r:.40} is no object")
    for name, kind in kinds.items():
        if name in values and not isinstance(values[name], kind):
            raise ValueError(f"{name} is {values[name]!r:.40}")


def _plain(value):
    """`value` with NumPy's types turned into Python's, and NaN and infinity into None."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _replace(path: Path, content: bytes) -> None:
    """Write a file so that at any moment it is the old one or the new one, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


# -- what a notebook shows


def figure(fig, alt: str, caption: str, cells: dict | None = None) -> None:
    """Show a Matplotlib figure at twice the screen's resolution, with alt text and caption.

    The numbers of the points on its named lines show under the pointer. cells: where the first axes
    show a matrix, what there is to see behind each cell: (row, column) -> (text, gray picture).
    """
    from matplotlib import pyplot

    alt, caption = _typeset(alt), _typeset(caption)
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=192, bbox_inches="tight", metadata={"Software": None})
    box = fig.get_tightbbox().padded(matplotlib.rcParams["savefig.pad_inches"])
    points = _points(fig, box)
    explorer = _explorer(fig, box, cells) if cells else ""
    pyplot.close(fig)  # or the notebook would show it a second time
    png = buffer.getvalue()
    width = int.from_bytes(png[16:20], "big") // 2  # from the PNG header, in CSS pixels
    data = f' data-points="{html.escape(json.dumps(points))}"' if points else ""
    display(
        HTML(
            f"<figure{data}>"
            f'<img src="data:image/png;base64,{base64.b64encode(png).decode()}" '
            f'width="{width}" alt="{html.escape(alt)}">'
            f"{explorer}<figcaption>{html.escape(caption)}</figcaption></figure>"
        )
    )


def _explorer(fig, box, cells: dict) -> str:
    """The cells of the first axes' matrix as data for the page's script."""
    from matplotlib.image import imsave

    ax = fig.axes[0]
    corners = ax.transAxes.transform([(0, 1), (1, 0)]) / fig.dpi  # upper left, lower right
    (left, upper), (right, lower) = (corners - box.min) / box.size
    shown = []
    for (row, column), (text, picture) in sorted(cells.items()):
        buffer = io.BytesIO()
        imsave(buffer, picture, cmap="gray", vmin=0, vmax=255, format="png")
        png = base64.b64encode(buffer.getvalue()).decode()
        shown.append({"row": row, "column": column, "text": text, "png": png})
    data = {
        "box": [left, 1 - upper, right, 1 - lower],
        "columns": round(abs(np.ptp(ax.get_xlim()))),
        "rows": round(abs(np.ptp(ax.get_ylim()))),
        "cells": shown,
    }
    content = json.dumps(data).replace("<", "\\u003c")
    return f'<script type="application/json">{content}</script>'


def _points(fig, box) -> list[tuple[float, float, str]]:
    """Where the points of a saved figure's named lines lie in its picture, which shows `box`, as
    shares of width and height from the top left, and what to say of each."""
    points = []
    for ax in fig.axes:
        for line in ax.get_lines():
            if line.get_label().startswith("_"):
                continue
            values = np.column_stack(line.get_data()).astype(float)
            places = (ax.transData.transform(values) / fig.dpi - box.min) / box.size
            bounds = getattr(line, "bounds", itertools.repeat((), len(values)))
            for (x, y), (across, up), bound in zip(values, places, bounds, strict=True):
                if np.isfinite([x, y]).all():
                    text = f"{line.get_label()}: {_read(ax.xaxis, x)}, {_read(ax.yaxis, y)}"
                    if len(bound):
                        text += f" [{', '.join(_read(ax.yaxis, end) for end in bound)}]"
                    points.append((round(across, 4), round(1 - up, 4), _typeset(text)))
    return points


def _read(axis, value: float) -> str:
    """A value as the axis' own ticks would show it, or as a number where they are fixed."""
    formatter = axis.get_major_formatter()
    if isinstance(formatter, FuncFormatter):
        return formatter(value)
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def table(rows, caption: str) -> None:
    """Show a table: a data frame (without its index) or a list of dicts with the same keys.

    The first column names the row. A column of floats shows as many decimals as give its largest
    four digits; None and NaN show as a dash.
    """
    rows = rows.to_dict("records") if hasattr(rows, "to_dict") else list(rows)
    columns = []
    for name in rows[0] if rows else []:
        values = [_plain(row[name]) for row in rows]
        number = all(isinstance(value, int | float | None) for value in values)
        columns.append({"name": _typeset(name), "cells": _cells(values), "number": number})
    caption = _typeset(caption)
    display(HTML(_fill("table.html.j2", columns=columns, length=len(rows), caption=caption)))


def _cells(values: list) -> list[str]:
    """A column's values as text."""
    sizes = [abs(value) for value in values if isinstance(value, float) and value]
    decimals = max(0, 3 - math.floor(math.log10(max(sizes, default=1))))
    texts = []
    for value in values:
        if value is None:
            texts.append("–")
        elif isinstance(value, float):
            texts.append(f"{value:.{decimals}f}".replace("-", "−"))
        else:
            texts.append(_typeset(str(value)))
    return texts


def _typeset(text: str) -> str:
    """The text with each percent sign a narrow space, at which no line breaks, from its number."""
    return re.sub(r"(?<=\d) ?%", "\u202f%", text)


def _fill(template: str, **values) -> str:
    import jinja2

    loader = jinja2.FileSystemLoader(TEMPLATES / "midas")
    return jinja2.Environment(loader=loader, autoescape=True).get_template(template).render(values)


def drawing_pad(networks: dict[str, dict], guides: dict[str, float], caption: str) -> None:
    """Show a pad on which one draws a character, which networks read at once, in the page.

    networks: title -> `pad.export`'s. guides: name -> height of a faint line, as a share from the
    top.
    """
    vendored = sorted((TEMPLATES / "vendor").glob("tf-*.js"), reverse=True)  # the core goes first
    files = [*vendored, TEMPLATES / "midas" / "pad.js"]
    scripts = "\n".join(file.read_text(encoding="utf-8") for file in files)
    display(
        HTML(
            _fill("pad.html.j2", networks=networks, guides=guides, caption=caption, scripts=scripts)
        )
    )


def markdown(text: str) -> None:
    """Show computed Markdown as running text."""
    display(Markdown(_typeset(text)))


def finding(text: str) -> None:
    """Show computed Markdown as a finding, set off from the running text."""
    from nbconvert.filters import markdown2html

    display(HTML(f'<div class="finding">{markdown2html(_typeset(text))}</div>'))


# -- pages


class _Kernel(AsyncKernelManager):
    """A kernel of this interpreter that finds this checkout, whatever kernels a user installed."""

    kernel_spec = KernelSpec(
        **get_kernel_dict(["--log-level=ERROR"]),  # it warns of unencrypted loopback otherwise
        env={"PYTHONPATH": str(Path(__file__).resolve().parent.parent)},
    )


def parts() -> list[int]:
    """The parts that have a notebook."""
    return [part for part in PARTS if any(_notebooks(part))]


def _notebooks(part: int | str) -> list[Path]:
    return sorted((config.ROOT / "notebooks").glob(f"{_stem(part)}_*.ipynb"))


def run_notebook(part: int | str, *, profile: str, parameters: dict | None = None) -> Path:
    """Execute a part's notebook and put its page beside the results it wrote; return the page.

    `parameters` are the notebook's own (`from_results=True` draws a page from its results file).
    Raises `UserError` for a parameter the notebook does not have, and when a cell fails: the
    unfinished notebook and its page then lie in `executed/failed/`, and the last good report is
    left as it was.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError

    config.check_profile(profile)
    notebook = next(iter(_notebooks(part)), None)
    if notebook is None:
        raise UserError(f"{_stem(part)}: no notebook {_stem(part)}_*.ipynb in notebooks/")
    parameters = {"profile": profile, "from_results": False, **(parameters or {})}
    _check_parameters(notebook, parameters)
    failed = config.ROOT / "executed" / "failed" / f"{_stem(part)}.html"
    with tempfile.TemporaryDirectory() as folder:
        executed = Path(folder) / notebook.name
        try:
            papermill.execute_notebook(
                notebook,
                executed,
                parameters,
                kernel_name="python3",
                language="python",
                kernel_manager_class=_Kernel,
                shutdown_kernel="immediate",  # asked politely, an interrupted one argues
                progress_bar=False,
                stdout_file=sys.stderr,  # standard output is the program's own
                stderr_file=sys.stderr,
            )
        except (papermill.PapermillExecutionError, DeadKernelError) as error:
            message = _message(error)
            run = nbformat.read(executed, as_version=4)
            _replace(failed.with_suffix(".ipynb"), nbformat.writes(run).encode())
            _replace(failed, _render(run, error=message).encode())
            reason = message.splitlines()[0]
            if parameters.get("from_results") and reason.startswith("KeyError: "):
                missing = reason.removeprefix("KeyError: ")
                reason = f"its results file has no {missing}; run the part anew"
            where = failed.relative_to(config.ROOT)
            raise UserError(f"{_stem(part)} failed: {reason} (see {where})") from None
        run = nbformat.read(executed, as_version=4)
    written = [path for cell in run.cells for path in _notes(cell)]
    if not written:
        raise RuntimeError(f"the last cell of {notebook.name} must call report.write_results")
    results_file = Path(written[-1])
    results = _load(results_file)
    page = results_file.parent.parent / f"{_stem(part)}.html"
    _replace(page, _render(run, results=results).encode())
    for stale in (failed, failed.with_suffix(".ipynb")):
        stale.unlink(missing_ok=True)
    return page


def _check_parameters(notebook: Path, parameters: dict) -> None:
    import papermill

    known = papermill.inspect_notebook(notebook)
    for name, value in parameters.items():
        if name not in known:
            names = ", ".join(sorted(known))
            raise UserError(f"{notebook.name} has no parameter {name!r}; it has: {names}")
        wanted = known[name]["inferred_type_name"]
        types = {"int": int, "float": (int, float), "bool": bool, "str": str}
        is_bool = isinstance(value, bool)  # Python would take it for an int
        if wanted in types and (
            not isinstance(value, types[wanted]) or is_bool != (wanted == "bool")
        ):
            raise UserError(f"{notebook.name}: parameter {name} is {wanted}, not {value!r}")


def _message(error: Exception) -> str:
    """One exception as text; a user's mistake speaks for itself, others carry their type."""
    name = getattr(error, "ename", type(error).__name__)
    value = getattr(error, "evalue", str(error)).strip()
    if name == "UserError" and value:
        return value
    return f"{name}: {value}" if value else name


def _notes(cell) -> list[str]:
    """The results files that a cell wrote, by what `write_results` left in its outputs."""
    metadata = [output.get("metadata", {}) for output in cell.get("outputs", [])]
    return [entry[RESULTS_KEY] for entry in metadata if RESULTS_KEY in entry]


def _render(run, *, results: dict | None = None, error: str | None = None) -> str:
    """The executed notebook as one self-contained HTML page."""
    from nbconvert import HTMLExporter

    # The template shows errors in its own way, and a page loads no badge.
    hidden = {"papermill-error-cell-tag", colab.TAG}
    run.cells = [cell for cell in run.cells if not hidden & set(cell.metadata.get("tags", []))]
    for cell in run.cells:
        if _notes(cell):  # where the files lie on this machine is not the reader's business
            cell.outputs = []
        if cell.cell_type == "markdown":
            cell.source = _typeset(cell.source)
    run.cells = _join(run.cells)
    text = "\n".join(cell.source for cell in run.cells if cell.cell_type == "markdown")
    headings = [line[2:].strip() for line in text.splitlines() if line.startswith("# ")]
    exporter = HTMLExporter(
        template_name="midas",
        extra_template_basedirs=[str(TEMPLATES)],
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        exclude_anchor_links=True,
        embed_images=True,
    )
    resources = {
        "metadata": {
            "name": headings[0] if headings else "Report",
            "path": str(config.ROOT / "notebooks"),
        },
        "results": results,
        "standin": results is not None and _is_standin(results),
        "error": error,
        "index_href": "../index.html" if error else "index.html",
    }
    return _add_contents(exporter.from_notebook_node(run, resources)[0])


def _join(cells: list) -> list:
    """The cells, with the code of those that show nothing put before that of the next one that
    does, so that there is one place to unfold it."""
    joined, silent = [], None
    for cell in cells:
        if cell.cell_type == "code":
            if silent is not None:
                cell.source = f"{silent.source}\n\n{cell.source}"
                cell.outputs = silent.outputs + cell.outputs
            shows = any(output.output_type != "stream" for output in cell.outputs)
            silent = None if shows else cell
        if cell is not silent:
            joined.append(cell)
    return joined if silent is None else [*joined, silent]


def _add_contents(page: str) -> str:
    """The page with an anchor on each section and a list of them where the template asks."""
    entries = []

    def anchor(heading):
        title = html.unescape(re.sub(r"<[^>]+>", "", heading[1]))
        name = re.sub(r"\W+", "-", title.lower()).strip("-")
        entries.append(f'<li><a href="#{name}">{heading[1]}</a></li>')
        return f'<h2 id="{name}">{heading[1]}</h2>'

    page = re.sub(r"<h2>(.*?)</h2>", anchor, page)
    return page.replace("<!--contents-->", f"<ol>{''.join(entries)}</ol>", 1)


def render_pages(profile: str = "full") -> list[Path]:
    """Draw anew, without training, the page of each part that has results, and the bench's; then
    the index."""
    pages = [
        run_notebook(part, profile=profile, parameters={"from_results": True})
        for part in [*parts(), BENCH]
        if has_results(part, profile)
    ]
    return [*pages, write_index(pages_folder(profile))]


def write_index(folder: Path) -> Path:
    """Write `index.html` into a folder of reports, from their results files; return its path."""
    entries = []
    for number, (title, question) in PARTS.items():
        path = folder / "results" / f"part{number}.json"
        results = _load(path) if path.exists() else None
        page, picture = f"part{number}.html", folder / f"part{number}.png"
        drawn = results is not None and picture.exists()
        entries.append(
            {
                "number": number,
                "title": title,
                "question": question,
                "results": results,
                "finding": _typeset((results or {}).get("finding", "")),
                "page": page if (folder / page).exists() else None,
                "picture": base64.b64encode(picture.read_bytes()).decode() if drawn else None,
                "headline": _headline((results or {}).get("headline")),
                "standin": _is_standin(results or {}),
            }
        )
    path = folder / "results" / f"{BENCH}.json"
    bench = _load(path) if path.exists() and (folder / f"{BENCH}.html").exists() else None
    standin = any(entry["standin"] for entry in entries) or _is_standin(bench or {})
    page = _fill("contents.html.j2", parts=entries, bench=bench, standin=standin)
    _replace(folder / "index.html", page.encode())
    return folder / "index.html"


def _headline(headline: dict | None) -> str | None:
    """A results file's headline in words; no interval where there is none."""
    if not headline or headline.get("mean") is None or "metric" not in headline:
        return None
    percent = "accuracy" in headline["metric"]
    mean, low, high = (
        None if value is None else f"{100 * value:.1f}" if percent else f"{value:.4g}"
        for value in (headline.get(key) for key in ("mean", "low", "high"))
    )
    text = f"{headline['metric'].replace('_', ' ').capitalize()} {mean}{' %' if percent else ''}"
    if low is not None and high is not None:
        text += f" (95 % interval {low} to {high})"
    return f"{text}, n = {headline['n']}" if headline.get("n") else text
