"""Pages: notebooks run, rendered and listed."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pandas as pd
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from test_show import Page

from midas_lib import config, pages, results
from midas_lib.config import UserError

PARAMETERS = """\
profile: str = "standard"  # smoke, standard or full
seeds: int = 3  # how many
rate: float = 0.1  # learning rate
train: bool = None  # run what is missing; None: only where there are no results to draw
root: str = ""  # where to write
mode: str = ""  # what to do"""
SETUP = """\
import os, time
import pandas as pd
from pathlib import Path
from types import SimpleNamespace
from midas_lib import config, results, show
config.ROOT = Path(root)
data = {"characters": SimpleNamespace(source="mirror", digest="ab")}
if train:
    table = pd.DataFrame({"arm": ["a"], "seed": [0], "digest": ["x"]})
    results.write(results.provenance(profile, data) | {"seeds": seeds}, 1, table)
found = results.read(1, profile)
finding = f"Found with **{found.info['seeds']}** seeds."
show.finding(finding)"""
BODY = """\
if mode == "break":
    raise ValueError("no <good>\\nat all")
if mode == "refuse":
    raise config.UserError("a.zip: not an archive")
if mode == "wait":
    Path(root, "pid").write_text(str(os.getpid()))
    time.sleep(600)"""
TABLE = pd.DataFrame({"arm": ["a"], "seed": [0], "digest": ["x"]})


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project folder with one small notebook."""
    monkeypatch.setattr(config, "ROOT", tmp_path)
    cells = [
        new_markdown_cell("# A small *report*"),
        new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
        new_code_cell(SETUP),
        new_code_cell(BODY),
        new_code_cell("show.finish(found, finding, None)"),
    ]
    (tmp_path / "notebooks").mkdir()
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.write(notebook, tmp_path / "notebooks" / "part1_small.ipynb")
    return tmp_path


def info(profile="full", source="original", **more):
    archive = SimpleNamespace(source=source, digest="ab" * 32)
    return results.provenance(profile, {"characters": archive}) | more


def test_a_page_stands_alone_and_folds_its_code(project):
    outputs = [
        new_output("stream", name="stdout", text="epoch 1\n"),
        new_output("stream", name="stderr", text="/home/me: a warning\n"),
        new_output("display_data", {"text/html": '<figure><img src="data:," alt="x"></figure>'}),
        new_output("display_data", {"application/javascript": "alert(1)"}),
    ]
    cells = [new_markdown_cell("# Title & more\n\n[a](https://example.org)")]
    cells += [new_code_cell("a = 1", outputs=outputs)]
    text = pages._render(new_notebook(cells=cells), info=info())
    page = Page(text)
    assert page.all("html") == [{"lang": "en"}]
    assert "<title>Title &amp; more</title>" in text
    assert all(image["alt"] for image in page.all("img"))
    assert page.all("script") == [{}]  # its own
    assert "alert(1)" not in text
    (policy,) = (m["content"] for m in page.all("meta") if "http-equiv" in m)
    assert policy.startswith("default-src 'none';")
    loaded = [a.get("src") or a.get("href") for t, a in page.tags if t not in ("a", "html")]
    assert all(address.startswith("data:") for address in loaded if address)
    assert not re.search(r"@import|url\(", text)
    folded = [attributes["class"] for attributes in page.all("details")]
    assert folded == ["contents", "code", "log"]
    assert not any("open" in attributes for attributes in page.all("details"))
    assert "Stand-in data" not in text
    assert "/home/me" not in text
    assert "/home/me" in pages._render(new_notebook(cells=cells), error="ValueError")


def test_code_that_shows_nothing_unfolds_with_what_it_prepares(project):
    figure = new_output("display_data", {"text/html": "<p>shown</p>"})
    log = new_output("stream", name="stdout", text="epoch 1\n")
    cells = [
        new_code_cell("first = 1", outputs=[log]),
        new_markdown_cell("## Between"),
        new_code_cell("second = first"),
        new_code_cell("show(second)", outputs=[figure]),
        new_code_cell("last = 1"),
    ]
    joined = pages._join(cells)
    assert [cell.source for cell in joined] == [
        "## Between",
        "first = 1\n\nsecond = first\n\nshow(second)",
        "last = 1",
    ]
    assert joined[1].outputs == [log, figure]


def test_the_contents_lead_to_the_sections(project):
    cells = [new_markdown_cell("# Title\n\n## Is it *safe* & sound?\n\n### Not this\n\n## Sources")]
    page = Page(pages._render(new_notebook(cells=cells)))
    anchors = [h["id"] for h in page.all("h2")]
    assert anchors == ["is-it-safe-sound", "sources"]
    links = [a["href"] for a in page.all("a") if a["href"].startswith("#")]
    assert links == ["#report", "#is-it-safe-sound", "#sources"]


def test_figures_tables_and_sources_are_numbered_and_linked(project):
    made = {
        "draw()": '<figure class="chart">a <figcaption>Late [2]</figcaption></figure>',
        "rows()": '<figure id="rows" class="table"><figcaption>R</figcaption></figure>',
        "pad()": '<figure class="pad"><figcaption>Draw</figcaption></figure>',
    }
    text = "# T\n\nAs [](#rows) has it [1], `a[1]`, not [3].\n\n## Sources\n\n1. One\n2. Two"
    cells = [new_markdown_cell(text.partition("## ")[0])]
    for source, html in made.items():
        output = new_output("display_data", {"text/html": html})
        cells.append(new_code_cell(source, outputs=[output]))
    cells.append(new_markdown_cell("## " + text.partition("## ")[2]))
    page = pages._render(new_notebook(cells=cells))
    assert '<figure id="figure-1" class="chart">a <figcaption><b>Figure 1.</b> Late' in page
    assert '<figure class="table" id="rows"><figcaption><b>Table 1.</b> R' in page
    assert 'As <a href="#rows">Table 1</a> has it [<a href="#source-1">1</a>]' in page
    assert 'Late [<a href="#source-2">2</a>]' in page
    assert "a[1]" in page
    assert "not [3]" in page
    assert '<li id="source-2">Two' in page
    summaries = re.findall("<summary>(Code.*?)</summary>", page)
    assert summaries == ["Code for Figure 1", "Code for Table 1", "Code"]
    assert "<figcaption>Draw" in page


def test_a_part_leads_to_its_neighbours_that_have_results_and_to_its_table(project):
    for part in (1, 3):
        drawn(project / "executed", part)
    text = pages._render(new_notebook(), info=info(part=2))
    assert 'href="part1.html">Before: Part 1' in text
    assert 'href="part3.html">Next: Part 3' in text
    assert 'href="results/part2.csv"' in text
    text = pages._render(new_notebook(), info=info(part=3))
    assert "part2.html" not in text
    assert "Next: " not in text


def test_a_page_made_from_stand_in_data_says_so(project):
    text = pages._render(new_notebook(), info=info("smoke", "stand-in"))
    assert "Stand-in data" in text.split("<footer>")[0]


def test_a_report_runs_fails_and_is_drawn_anew(project, capfd):
    settings = {"root": str(project), "seeds": 7}
    page = pages.run_notebook(1, profile="full", parameters=settings)
    assert page == project / "executed" / "part1.html"
    assert "<title>A small *report*</title>" in page.read_text()
    assert "<strong>7</strong> seeds" in page.read_text()
    assert "part1.json" not in page.read_text()  # no paths of this machine
    good = page.read_bytes()

    failed = project / "executed" / "failed" / "part1.html"
    with pytest.raises(UserError) as error:
        pages.run_notebook(1, profile="full", parameters={**settings, "mode": "break"})
    line = "part1 failed: ValueError: no <good> (see executed/failed/part1.html)"
    assert str(error.value) == line
    text = failed.read_text()
    assert "ValueError: no &lt;good&gt;" in text.split("<h1")[0]
    assert text.count('id="failure"') == 1
    assert failed.with_suffix(".ipynb").exists()
    with pytest.raises(UserError, match=r"failed: a\.zip: not an archive \(see"):
        pages.run_notebook(1, profile="full", parameters={**settings, "mode": "refuse"})
    kept = (project / "executed/results/part1.json").read_bytes()
    assert page.read_bytes() == good
    assert b"finding" not in kept  # the study wrote it anew, its page was not drawn
    assert "Not there yet." in pages.write_index(page.parent).read_text().split("</section>")[0]

    notebook = project / "notebooks" / "part1_small.ipynb"
    notebook.write_text(
        notebook.read_text().replace('root: str = \\"\\"', f"root: str = '{project}'")
    )
    made = pages.render_pages()
    assert made == [page, project / "executed" / "index.html"]
    assert "<strong>7</strong> seeds" in page.read_text()
    assert results.read(1).info["finding"] == "Found with **7** seeds."
    assert os.listdir(failed.parent) == []
    assert capfd.readouterr().out == ""


def test_results_that_lack_a_field_are_refused_and_the_good_page_stays(project):
    parameters = {"root": str(project), "train": False}
    path = results.write(info(), 1, TABLE)
    page = project / "executed" / "part1.html"
    page.write_text("good")
    with pytest.raises(
        UserError, match=r"its results file has no 'seeds'; run the part anew \(see"
    ):
        pages.run_notebook(1, profile="full", parameters=parameters)
    assert page.read_text() == "good"
    assert json.loads(path.read_text())["part"] == 1


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"epoch": 3}, "no parameter 'epoch'; it has: mode, profile, rate, root, seeds, train"),
        ({"seeds": "many"}, "seeds is int, not 'many'"),
        ({"seeds": True}, "seeds is int, not True"),
        ({"train": 1}, "train is bool, not 1"),
        ({"rate": "0.1"}, "rate is float, not '0.1'"),
        ({"rate": True}, "rate is float, not True"),
        ({"mode": 3}, "mode is str, not 3"),
        ({"seeds": 2.0}, "seeds is int, not 2.0"),
    ],
)
def test_a_parameter_the_notebook_does_not_have_is_refused(project, parameters, message):
    with pytest.raises(UserError, match=message):
        pages.run_notebook(1, profile="smoke", parameters=parameters)
    assert not (project / "executed").exists()


def test_a_whole_number_will_do_for_a_float(project):
    pages._check_parameters(project / "notebooks" / "part1_small.ipynb", {"rate": 1})


def test_a_part_without_a_notebook_is_refused(project):
    assert pages.parts() == [1]
    with pytest.raises(UserError, match="part2: no notebook"):
        pages.run_notebook(2, profile="smoke")


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_the_kernel_ends_with_its_parent_and_nothing_half_done_is_left(project, stop):
    code = (
        "import sys; from pathlib import Path; from midas_lib import config, __main__\n"
        "config.ROOT = Path(sys.argv[1])\n"
        "sys.exit(__main__.main(['report', '1', '-p', 'root', sys.argv[1], '-p', 'mode', 'wait']))"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(pages.__file__).parent.parent)}
    command = [sys.executable, "-c", code, str(project)]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    while not (project / "pid").exists() or not (project / "pid").read_text():
        assert process.poll() is None
        time.sleep(0.05)
    kernel = psutil.Process(int((project / "pid").read_text()))
    process.send_signal(stop)
    deadline = time.monotonic() + 120  # it would sleep for 600
    gone = False
    while not gone and time.monotonic() < deadline:
        time.sleep(0.05)
        try:
            gone = kernel.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            gone = True
    error = process.communicate()[1]
    assert gone
    assert process.returncode == (130 if stop == signal.SIGINT else -signal.SIGKILL)
    assert "Traceback" not in error
    assert not list(project.glob("executed/**/*.html"))


def drawn(folder, part, **more):
    """Results of a part whose page was drawn to its end."""
    path = results.write(info(**more), part, TABLE)
    (path.parent.parent / f"part{part}.html").touch()
    return path


HEADLINE = {"arm": "cv", "metric": "accuracy", "mean": 0.9, "low": 0.8, "high": 0.95, "n": 5}


def test_the_index_lists_what_there_is_and_what_is_missing(project):
    drawn(project, 1, headline=HEADLINE, finding="Reads <most> at 5%.")
    drawn(project, 2, finding="Helps.")
    drawn(project, 3)  # its study is done, its page is of an earlier one
    (project / "executed" / "part1.png").write_bytes(b"png")
    (project / "executed" / "part3.png").write_bytes(b"old")
    text = pages.write_index(project / "executed").read_text()
    first, second, third = text.split("<section")[1:]
    assert "<p>Reads &lt;most&gt; at 5\u202f%.</p>" in first
    assert "Part 1: characters" in first
    assert "<p>Helps.</p>" in second
    assert "Part 2: transfer" in second
    assert "Not there yet." in third
    assert text.count("Not there yet.") == 1
    assert "make part1 PROFILE=full</code>" in first
    assert "Profile full, data: original" in first
    assert f"digest <code>{'ab' * 6}</code>" in first
    links = [a["href"] for a in Page(text).all("a")]
    assert links == ["part1.html", "part2.html", "part1.html#try-it-yourself"]
    (picture,) = Page(text).all("img")
    assert picture["src"] == "data:image/png;base64,cG5n"
    assert picture["alt"] == "Key figure: Reads <most> at 5\u202f%."
    assert "Stand-in data" not in text


def test_the_index_names_the_bench_once_it_is_drawn(project):
    path = results.write(info(finding="As fast as <any>."), results.BENCH)
    assert "bench.html" not in pages.write_index(project / "executed").read_text()
    (project / "executed" / "bench.html").touch()
    text = pages.write_index(project / "executed").read_text()
    assert '<a href="bench.html">' in text
    assert "As fast as &lt;any&gt;." in text
    path.write_text(json.dumps({"part": "bench"}))
    assert "bench.html" not in pages.write_index(project / "executed").read_text()


def test_the_index_of_stand_in_reports_says_so_and_bare_results_do(project):
    drawn(project, 1, profile="smoke", source="stand-in", finding="f")
    bare = project / "executed/smoke/results/part2.json"
    bare.write_text('{"part": 2, "finding": "g"}')
    text = pages.write_index(project / "executed" / "smoke").read_text()
    assert "Stand-in data" in text.split("<h1")[0]
    assert "make part1 PROFILE=smoke STANDIN=1" in text
    bare.write_text("{")
    with pytest.raises(UserError, match=r"part2\.json: not a results file"):
        pages.write_index(project / "executed" / "smoke")


def test_a_page_is_joined_from_the_results_its_notebook_ended_with(project):
    """Not from those of the profile that was asked for, or an earlier note."""
    notebook = project / "notebooks" / "part1_small.ipynb"
    content = nbformat.read(notebook, as_version=4)
    content.cells[-1:] = [
        new_code_cell("show.finish(found, 'not the last', None)"),
        new_code_cell(
            "data['characters'].source = 'stand-in'\n"
            "made = results.provenance(profile, data) | {'commit': 'c0ffee'}\n"
            "found = results.read_file(results.write(made, 1, table))"
        ),
        new_code_cell("show.finish(found, 'the last', None)"),
    ]
    nbformat.write(content, notebook)
    page = pages.run_notebook(1, profile="full", parameters={"root": str(project)})
    assert page == project / "executed" / "full" / "part1.html"
    text = page.read_text()
    assert "c0ffee" in text.split("<footer>")[1]
    assert "Stand-in data" in text.split("<footer>")[0]
    assert "Results: executed" not in text


def test_a_notebook_that_ends_otherwise_has_no_page(project):
    notebook = project / "notebooks" / "part1_small.ipynb"
    content = nbformat.read(notebook, as_version=4)
    content.cells = content.cells[:-1]
    nbformat.write(content, notebook)
    with pytest.raises(RuntimeError, match=r"last cell of part1_small.ipynb must call show.finish"):
        pages.run_notebook(1, profile="full", parameters={"root": str(project)})
    assert not (project / "executed" / "part1.html").exists()
