"""Pages: run a notebook, render what it shows as one file of HTML, and the index of them all."""

import base64
import hashlib
import html
import re
import sys
import tempfile
from pathlib import Path

import nbformat
import papermill
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec
from nbclient.exceptions import DeadKernelError

from midas_lib import config, files, results, show
from midas_lib.config import UserError
from midas_lib.results import BENCH, PARTS, stem

TYPES = {"int": {int}, "float": {int, float}, "bool": {bool}, "str": {str}}  # of parameters


class _Kernel(AsyncKernelManager):
    """A kernel of this interpreter that finds this library, whatever kernels a user installed."""

    kernel_spec = KernelSpec(
        **get_kernel_dict(["--log-level=ERROR"]),  # it warns of unencrypted loopback otherwise
        env={"PYTHONPATH": str(Path(__file__).resolve().parent.parent)},
    )


def parts() -> list[int]:
    """The parts that have a notebook."""
    return [part for part in PARTS if _notebook(part)]


def _notebook(part: int | str) -> Path | None:
    return min((config.ROOT / "notebooks").glob(f"{stem(part)}_*.ipynb"), default=None)


def run_notebook(part: int | str, *, profile: str, parameters: dict | None = None) -> Path:
    """Execute a part's notebook, or the `BENCH`'s, put its page beside the results that it ended
    with, and return the page. `parameters` are the notebook's own; unless they say otherwise, a
    part trains what is missing (`train=True`). Raises `UserError` for a parameter the notebook does
    not have, and when a cell fails: the unfinished notebook and its page then lie in
    `executed/failed/`, and the last good report is left as it was."""
    config.check_profile(profile)
    notebook = _notebook(part)
    if notebook is None:
        raise UserError(f"{stem(part)}: no notebook {stem(part)}_*.ipynb in notebooks/")
    train = {} if part == BENCH else {"train": True}
    parameters = {"profile": profile, **train, **(parameters or {})}
    _check_parameters(notebook, parameters)
    failed = config.ROOT / "executed" / "failed" / f"{stem(part)}.html"
    message = ""
    with tempfile.TemporaryDirectory() as folder:
        executed = Path(folder) / notebook.name
        try:
            papermill.execute_notebook(
                notebook, executed, parameters, kernel_name="python3", language="python",
                kernel_manager_class=_Kernel, progress_bar=False,
                shutdown_kernel="immediate",  # asked politely, an interrupted one argues
                stdout_file=sys.stderr, stderr_file=sys.stderr,  # stdout is the program's own
            )  # fmt: skip
        except (papermill.PapermillExecutionError, DeadKernelError) as error:
            message = _message(error)
        run = nbformat.read(executed, as_version=4)
    if message:
        files.write(failed.with_suffix(".ipynb"), nbformat.writes(run).encode())
        files.write(failed, _render(run, error=message).encode())
        reason = message.splitlines()[0]
        if not parameters.get("train"):
            lacking = r"its results file has no \1; run the part anew"
            reason = re.sub(r"^KeyError: (.*)", lacking, reason)
        raise UserError(f"{stem(part)} failed: {reason} (see {results.relative(failed)})")
    ended = next(filter(None, map(_note, reversed(run.cells))), None)
    if ended is None:
        raise RuntimeError(f"the last cell of {notebook.name} must call show.finish")
    page = ended.parent.parent / f"{stem(part)}.html"
    files.write(page, _render(run, info=results.read_info(ended)).encode())
    for stale in (failed, failed.with_suffix(".ipynb")):
        stale.unlink(missing_ok=True)
    return page


def _check_parameters(notebook: Path, parameters: dict) -> None:
    known = papermill.inspect_notebook(notebook)
    for name, value in parameters.items():
        if name not in known:
            names = ", ".join(sorted(known))
            raise UserError(f"{notebook.name} has no parameter {name!r}; it has: {names}")
        wanted = known[name]["inferred_type_name"]
        if wanted in TYPES and type(value) not in TYPES[wanted]:  # a bool is no int here
            raise UserError(f"{notebook.name}: parameter {name} is {wanted}, not {value!r}")


def _message(error: Exception) -> str:
    """One exception as text; a user's mistake speaks for itself, others carry their type."""
    name = getattr(error, "ename", type(error).__name__)
    value = getattr(error, "evalue", str(error)).strip()
    return value if name == "UserError" and value else f"{name}: {value}".removesuffix(": ")


def _note(cell) -> Path | None:
    """The results file that a cell ended its notebook with, as `show.finish` noted it."""
    notes = (output.get("metadata", {}).get(show.NOTE) for output in cell.get("outputs", []))
    return next(map(Path, filter(None, notes)), None)


def _render(run, *, info: dict | None = None, error: str | None = None) -> str:
    """The executed notebook as one self-contained HTML page."""
    from nbconvert import HTMLExporter

    hidden = "papermill-error-cell-tag"  # the template shows errors in its own way
    shown = [cell for cell in run.cells if hidden not in cell.metadata.get("tags", [])]
    for cell in shown:
        if _note(cell):  # where the files lie on this machine is not the reader's business
            cell.outputs = []
        if cell.cell_type == "markdown":
            cell.source = show.typeset(cell.source)
    run.cells = _join(shown)
    texts = [cell.source for cell in run.cells if cell.cell_type == "markdown"]
    title = re.search(r"(?m)^# +(.+?) *$", "\n".join([*texts, "# Report"]))[1]
    exporter = HTMLExporter(
        template_name="midas", extra_template_basedirs=[str(show.TEMPLATES)], embed_images=True,
        exclude_input_prompt=True, exclude_output_prompt=True, exclude_anchor_links=True,
    )  # fmt: skip
    scripts = show.scripts()
    resources = {
        "metadata": {"name": title, "path": str(config.ROOT / "notebooks")},
        "script": scripts["page"],
        "script_hashes": [
            base64.b64encode(hashlib.sha256(one.encode()).digest()).decode()
            for one in scripts.values()
        ],
        "results": info,
        "standin": results.is_standin(info or {}),
        "error": error,
        "neighbours": _neighbours(info or {}),
        "table": f"results/{stem(info['part'])}.csv" if info and info.get("part") in PARTS else "",
        "index_href": "../index.html" if error else "index.html",
    }
    return _finish(exporter.from_notebook_node(run, resources)[0])


def _join(cells: list) -> list:
    """The cells, with the code of those that show nothing before that of the next that does."""
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


def _finish(page: str) -> str:
    """The page with an anchor on each section and a list of them where the template asks; figures,
    tables and the code that makes them numbered; and links to figures and sources."""
    entries, numbers, counts = [], {}, {"Figure": 0, "Table": 0}

    def anchor(heading):
        title = html.unescape(re.sub(r"<[^>]+>", "", heading[1]))
        name = re.sub(r"\W+", "-", title.lower()).strip("-")
        entries.append(f'<li><a href="#{name}">{heading[1]}</a></li>')
        return f'<h2 id="{name}">{heading[1]}</h2>'

    def number(figure):
        tag, rest = figure.groups()
        kind = "Table" if 'class="table"' in tag else "Figure"
        counts[kind] += 1
        title = f"{kind} {counts[kind]}"
        given = re.search(r' id="([^"]*)"', tag)
        name = given[1] if given else title.lower().replace(" ", "-")
        numbers[name] = title
        tag = tag if given else f'<figure id="{name}"{tag.removeprefix("<figure")}'
        return f"{tag}{rest}<figcaption><b>{title}.</b> "

    page = re.sub(r"<h2>(.*?)</h2>", anchor, page)
    page = page.replace("<!--contents-->", f"<ol>{''.join(entries)}</ol>", 1)
    page = re.sub(r"(?s)(<figure(?! class=\"pad)[^>]*>)(.*?)<figcaption>", number, page)
    before, *cells = page.split("<summary>Code</summary>")
    for cell in cells:
        made = ", ".join(re.findall(r"<figcaption><b>(.*?)\.</b>", cell))
        before += f"<summary>Code{made and f' for {made}'}</summary>{cell}"
    page = re.sub(r'(<a href="#([^"]+)">)(?=</a>)', lambda a: a[1] + numbers.get(a[2], ""), before)
    text, heading, sources = page.partition('<h2 id="sources">')
    *sources, end = sources.split("<li>")
    sources = "".join(f'{one}<li id="source-{i}">' for i, one in enumerate(sources, 1))

    def link(found):
        there = found[2] and f'<li id="source-{found[2]}">' in sources
        return f'[<a href="#source-{found[2]}">{found[2]}</a>]' if there else found[0]

    unread = r"(?s)<(script|style|title|pre|code)\b.*?</\1>|<[^>]*>"  # no text of the page's
    return re.sub(unread + r"|\[(\d+)\]", link, text) + heading + sources + end


def _neighbours(info: dict) -> list[tuple[str, str]]:
    """The pages of the parts before and after a results file's, where they have results, and what
    to call them."""
    part, found = info.get("part"), []
    for words, other in (("Before", part - 1), ("Next", part + 1)) if part in PARTS else ():
        if other in PARTS and results.exists(other, info["profile"]):
            found.append((f"{stem(other)}.html", f"{words}: {PARTS[other][0]}"))
    return found


def render_pages(profile: str = "full") -> list[Path]:
    """Draw the pages of all that has results anew, without training; then the index."""
    pages = [
        run_notebook(part, profile=profile, parameters={} if part == BENCH else {"train": False})
        for part in [*parts(), BENCH]
        if results.exists(part, profile)
    ]
    return [*pages, write_index(results.pages_folder(profile))]


def write_index(folder: Path) -> Path:
    """Write a folder's `index.html`, of the results whose pages were drawn; return its path."""
    entries = {part: _entry(folder, part) for part in [*PARTS, BENCH]}
    standin = any(entry and results.is_standin(entry["info"]) for entry in entries.values())
    page = show.fill("contents", parts=PARTS, entries=entries, standin=standin)
    files.write(folder / "index.html", page.encode())
    return folder / "index.html"


def _entry(folder: Path, part: int | str) -> dict | None:
    """What the index tells of a part, or of the `BENCH`; None where it has no finding yet."""
    path, page = folder / "results" / f"{stem(part)}.json", folder / f"{stem(part)}.html"
    info = results.read_info(path) if path.exists() else {}
    if "finding" not in info:
        return None
    picture = page.with_suffix(".png")
    return {
        "info": info,
        "finding": show.typeset(info["finding"]),
        "page": page.name if page.exists() else None,
        "picture": base64.b64encode(picture.read_bytes()).decode() if picture.exists() else None,
        "standin": results.is_standin(info),
    }
