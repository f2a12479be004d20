"""Results files, what notebooks show, and the pages made from them."""

import html.parser
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
import numpy as np
import psutil
import pytest
from matplotlib.figure import Figure
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from midas_lib import config, report
from midas_lib.config import UserError

PARAMETERS = """\
profile: str = "standard"  # smoke, standard or full
seeds: int = 3  # how many
rate: float = 0.1  # learning rate
from_results: bool = False  # draw only
root: str = ""  # where to write
mode: str = ""  # what to do"""
SETUP = """\
import os, time
from pathlib import Path
from types import SimpleNamespace
from midas_lib import config, report
config.ROOT = Path(root)
data = {"characters": SimpleNamespace(source="mirror", digest="ab")}
results = report.provenance(profile, data) | {"seeds": seeds}
if from_results:
    results, _ = report.read_results(1, profile)
report.finding(f"Found with **{results['seeds']}** seeds.")"""
BODY = """\
if mode == "break":
    raise ValueError("no <good>\\nat all")
if mode == "refuse":
    raise config.UserError("a.zip: not an archive")
if mode == "wait":
    Path(root, "pid").write_text(str(os.getpid()))
    time.sleep(60)"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project folder with one small notebook."""
    monkeypatch.setattr(config, "ROOT", tmp_path)
    cells = [
        new_markdown_cell("# A small *report*"),
        new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
        new_code_cell(SETUP),
        new_code_cell(BODY),
        new_code_cell("report.write_results(results, 1)"),
    ]
    (tmp_path / "notebooks").mkdir()
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.write(notebook, tmp_path / "notebooks" / "part1_small.ipynb")
    return tmp_path


def archive(source):
    return SimpleNamespace(source=source, digest="ab" * 32)


def results(profile="full", source="original", **more):
    return report.provenance(profile, {"characters": archive(source)}) | more


@pytest.fixture
def shown(monkeypatch):
    """What a notebook would show, as HTML."""
    outputs = []
    monkeypatch.setattr(report, "display", lambda output: outputs.append(output.data))
    return outputs


class Page(html.parser.HTMLParser):
    """The tags of a page, each with its attributes."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


# -- results files


@pytest.mark.parametrize(
    ("profile", "source", "folder"),
    [
        ("full", "original", "executed"),
        ("full", "mirror", "executed"),
        ("full", "stand-in", "executed/full"),
        ("full", "unrecognised", "executed/full"),
        ("standard", "original", "executed/standard"),
        ("smoke", "stand-in", "executed/smoke"),
    ],
)
def test_only_the_full_profile_on_real_archives_is_published(project, profile, source, folder):
    path = report.write_results(results(profile, source), 2)
    assert path == project / folder / "results" / "part2.json"
    assert os.listdir(path.parent) == ["part2.json"]


def test_one_archive_drawn_by_the_program_is_enough_to_stay_unpublished(project):
    mixed = report.provenance("full", {"a": archive("original"), "b": archive("stand-in")})
    assert report.write_results(mixed, 1).parent.parent.name == "full"


def test_results_come_back_as_plain_json_and_arrays(project):
    values = {"b": np.float32(0.5), "a": [float("nan"), np.inf], "c": np.array([[1, 2]]), 3: True}
    path = report.write_results(results(values=values), 1, {"confusion": np.eye(2, dtype=int)})
    text = path.read_text()
    assert list(json.loads(text)) == sorted(json.loads(text))
    back, arrays = report.read_results(1)
    assert back["part"] == 1
    assert back["values"] == {"a": [None, None], "b": 0.5, "c": [[1, 2]], "3": True}
    np.testing.assert_array_equal(arrays["confusion"], [[1, 0], [0, 1]])
    first = path.with_suffix(".npz").read_bytes()
    report.write_results(results(values=values), 1, {"confusion": np.eye(2, dtype=int)})
    assert path.with_suffix(".npz").read_bytes() == first
    report.write_results(results(), 1)
    assert report.read_results(1)[1] == {}


def test_results_that_cannot_be_written_leave_the_old_ones(project, monkeypatch):
    path = report.write_results(results(seed=1), 1)
    monkeypatch.setattr(os, "replace", lambda *names: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError, match="full"):
        report.write_results(results(seed=2), 1)
    assert json.loads(path.read_text())["seed"] == 1
    assert os.listdir(path.parent) == ["part1.json"]


def test_missing_or_damaged_results_are_the_users_to_mend(project):
    with pytest.raises(UserError, match=r"part3\.json: no such results; make part3 PROFILE=smoke"):
        report.read_results(3, "smoke")
    report.write_results(results(), 3).write_text("{")
    for read in (lambda: report.read_results(3), lambda: report.write_index(project / "executed")):
        with pytest.raises(UserError, match=r"part3\.json: not a results file"):
            read()


def test_provenance_names_versions_machine_and_commit(project):
    made = report.provenance("smoke", {"mnist": archive("mirror")})
    assert made["data"] == {"mnist": {"source": "mirror", "digest": "ab" * 32}}
    assert made["versions"]["numpy"] == np.__version__
    assert {"python", "tensorflow", "keras", "opencv-python-headless"} <= set(made["versions"])
    assert made["machine"]["cores"] >= 1
    assert made["machine"]["memory_gib"] > 0.1
    assert os.uname().nodename not in json.dumps(made["machine"])
    assert made["commit"] == "unknown"
    with pytest.raises(UserError, match="PROFILE=tiny"):
        report.provenance("tiny", {})


def test_the_commit_says_when_the_code_differs(project):
    def git(*arguments):
        author = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        return subprocess.check_output(["git", "-C", project, *author, *arguments], text=True)

    (project / "code.py").write_text("1")
    (project / "executed").mkdir()
    (project / "executed" / "index.html").write_text("old")
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "first")
    commit = git("rev-parse", "HEAD").strip()
    (project / "executed" / "index.html").write_text("new")
    (project / "untracked").write_text("")
    assert results()["commit"] == commit
    (project / "code.py").write_text("2")
    assert results()["commit"] == f"{commit}-dirty"


# -- what a notebook shows


def test_a_figure_carries_its_alt_text_caption_and_width(shown):
    figure = Figure(figsize=(3, 2))
    figure.subplots().plot([1, 2])
    report.figure(figure, 'a "line" rises', "Rising & rising")
    (image,) = Page(shown[0]).all("img")
    assert image["alt"] == 'a "line" rises'
    assert image["src"].startswith("data:image/png;base64,")
    assert 200 < int(image["width"]) <= 3 * 96
    assert "<figcaption>Rising &amp; rising</figcaption>" in shown[0]


def test_a_table_is_escaped_aligned_and_rounded(shown):
    rows = [
        {"name": "<a> 5%", "gain": -0.12345, "n": 5},
        {"name": "b", "gain": float("nan"), "n": 2},
    ]
    report.table(rows, "Gains")
    text = shown[0]
    assert '<th scope="row">&lt;a&gt; 5\u202f%</th>' in text
    assert '<td class="number">−0.1235</td>' in text
    assert '<td class="number">–</td>' in text
    assert '<th scope="col" class="number">n</th>' in text
    assert "<figcaption>Gains</figcaption>" in text


def test_a_table_takes_a_data_frame_as_well(shown):
    import pandas as pd

    report.table(pd.DataFrame({"a": [1.0, 20.5]}), "Frame")
    report.table([{"a": 1.0}, {"a": 20.5}], "Frame")
    assert shown[0] == shown[1]
    assert "20.50" in shown[0]


def test_a_finding_is_markdown_in_a_box(shown):
    report.finding("Reads **90 %**")
    assert '<div class="finding">' in shown[0]
    assert "<strong>90\u202f%</strong>" in shown[0]


# -- pages


def test_a_page_stands_alone_and_folds_its_code(project):
    outputs = [
        new_output("stream", name="stdout", text="epoch 1\n"),
        new_output("stream", name="stderr", text="/home/me: a warning\n"),
        new_output("display_data", {"text/html": '<figure><img src="data:," alt="x"></figure>'}),
        new_output("display_data", {"application/javascript": "alert(1)"}),
    ]
    cells = [new_markdown_cell("# Title & more\n\n[a](https://example.org)")]
    cells += [new_code_cell("a = 1", outputs=outputs)]
    text = report._render(new_notebook(cells=cells), results=results())
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
    assert "/home/me" in report._render(new_notebook(cells=cells), error="ValueError")


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
    joined = report._join(cells)
    assert [cell.source for cell in joined] == [
        "## Between",
        "first = 1\n\nsecond = first\n\nshow(second)",
        "last = 1",
    ]
    assert joined[1].outputs == [log, figure]


def test_the_contents_lead_to_the_sections(project):
    cells = [new_markdown_cell("# Title\n\n## Is it *safe* & sound?\n\n### Not this\n\n## Sources")]
    page = Page(report._render(new_notebook(cells=cells)))
    anchors = [h["id"] for h in page.all("h2")]
    assert anchors == ["is-it-safe-sound", "sources"]
    links = [a["href"] for a in page.all("a") if a["href"].startswith("#")]
    assert links == ["#report", "#is-it-safe-sound", "#sources"]


def test_a_page_made_from_stand_in_data_says_so(project):
    text = report._render(new_notebook(), results=results("smoke", "stand-in"))
    assert "Stand-in data" in text.split("<footer>")[0]


def test_a_report_runs_fails_and_is_drawn_anew(project, capfd):
    settings = {"root": str(project)}
    page = report.run_notebook(1, profile="full", parameters={**settings, "seeds": 7})
    assert page == project / "executed" / "part1.html"
    assert "<title>A small *report*</title>" in page.read_text()
    assert "<strong>7</strong> seeds" in page.read_text()
    assert "part1.json" not in page.read_text()  # no paths of this machine
    good = page.read_bytes(), (project / "executed/results/part1.json").read_bytes()

    failed = project / "executed" / "failed" / "part1.html"
    with pytest.raises(UserError) as error:
        report.run_notebook(1, profile="full", parameters={**settings, "mode": "break"})
    line = "part1 failed: ValueError: no <good> (see executed/failed/part1.html)"
    assert str(error.value) == line
    text = failed.read_text()
    assert "ValueError: no &lt;good&gt;" in text.split("<h1")[0]
    assert text.count('id="failure"') == 1
    assert failed.with_suffix(".ipynb").exists()
    with pytest.raises(UserError, match=r"failed: a\.zip: not an archive \(see"):
        report.run_notebook(1, profile="full", parameters={**settings, "mode": "refuse"})
    assert (page.read_bytes(), (project / "executed/results/part1.json").read_bytes()) == good

    notebook = project / "notebooks" / "part1_small.ipynb"
    notebook.write_text(
        notebook.read_text().replace('root: str = \\"\\"', f"root: str = '{project}'")
    )
    pages = report.render_pages()
    assert pages == [page, project / "executed" / "index.html"]
    assert "<strong>7</strong> seeds" in page.read_text()
    assert (project / "executed/results/part1.json").read_bytes() == good[1]
    assert os.listdir(failed.parent) == []
    assert capfd.readouterr().out == ""


def test_results_that_lack_a_field_are_refused_and_the_good_page_stays(project):
    parameters = {"root": str(project), "from_results": True}
    path = report.write_results(results(), 1)
    page = project / "executed" / "part1.html"
    page.write_text("good")
    with pytest.raises(
        UserError, match=r"its results file has no 'seeds'; run the part anew \(see"
    ):
        report.run_notebook(1, profile="full", parameters=parameters)
    assert page.read_text() == "good"
    assert json.loads(path.read_text())["part"] == 1


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"epoch": 3}, "no parameter 'epoch'; it has: from_results, mode, profile, rate, root"),
        ({"seeds": "many"}, "seeds is int, not 'many'"),
        ({"seeds": True}, "seeds is int, not True"),
        ({"from_results": 1}, "from_results is bool, not 1"),
    ],
)
def test_a_parameter_the_notebook_does_not_have_is_refused(project, parameters, message):
    with pytest.raises(UserError, match=message):
        report.run_notebook(1, profile="smoke", parameters=parameters)
    assert not (project / "executed").exists()


def test_a_whole_number_will_do_for_a_float(project):
    report._check_parameters(project / "notebooks" / "part1_small.ipynb", {"rate": 1})


def test_a_part_without_a_notebook_is_refused(project):
    assert report.parts() == [1]
    with pytest.raises(UserError, match="part2: no notebook"):
        report.run_notebook(2, profile="smoke")


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_the_kernel_ends_with_its_parent_and_nothing_half_done_is_left(project, stop):
    code = (
        "import sys; from pathlib import Path; from midas_lib import config, __main__\n"
        "config.ROOT = Path(sys.argv[1])\n"
        "sys.exit(__main__.main(['report', '1', '-p', 'root', sys.argv[1], '-p', 'mode', 'wait']))"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(report.__file__).parent.parent)}
    command = [sys.executable, "-c", code, str(project)]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    while not (project / "pid").exists() or not (project / "pid").read_text():
        assert process.poll() is None
        time.sleep(0.05)
    kernel = psutil.Process(int((project / "pid").read_text()))
    process.send_signal(stop)
    deadline = time.monotonic() + 2
    gone = False
    while not gone and time.monotonic() < deadline:
        time.sleep(0.05)
        gone = not kernel.is_running() or kernel.status() == psutil.STATUS_ZOMBIE
    error = process.communicate()[1]
    assert gone
    assert process.returncode == (130 if stop == signal.SIGINT else -signal.SIGKILL)
    assert "Traceback" not in error
    assert not list(project.glob("executed/**/*.html"))


def test_the_index_lists_what_there_is_and_what_is_missing(project):
    headline = {"arm": "cv", "metric": "accuracy", "mean": 0.905, "low": 0.899, "high": 0.911}
    report.write_results(results(headline=headline | {"n": 5}, finding="Reads <most>."), 1)
    report.write_results(results(headline={"metric": "test_accuracy", "mean": 0.99, "n": 1}), 2)
    (project / "executed" / "part1.html").touch()
    (project / "executed" / "part1.png").write_bytes(b"png")
    text = report.write_index(project / "executed").read_text()
    assert "Reads &lt;most&gt;." in text
    assert "Test accuracy 99.0 %, n = 1" in text
    assert text.count("Not there yet.") == 1
    assert "make part1 PROFILE=full" in text
    assert "Profile full, data: original" in text
    assert [a["href"] for a in Page(text).all("a")] == ["part1.html", "part1.html#try-it-yourself"]
    (picture,) = Page(text).all("img")
    assert picture["src"] == "data:image/png;base64,cG5n"
    assert picture["alt"] == "Key figure: Accuracy 90.5 % (95 % interval 89.9 to 91.1), n = 5"
    assert "Stand-in data" not in text


def test_the_index_of_stand_in_reports_says_so_and_bare_results_do(project):
    report.write_results(results("smoke", "stand-in"), 1)
    (project / "executed/smoke/results/part2.json").write_text('{"part": 2}')
    text = report.write_index(project / "executed" / "smoke").read_text()
    assert "Stand-in data" in text
    assert "make part1 PROFILE=smoke STANDIN=1" in text


def test_other_results_are_those_of_the_same_data(project):
    report.write_results(results(headline={"n": 1}), 2)
    same, other = archive("original"), SimpleNamespace(source="original", digest="cd" * 32)
    assert report.other_results(2, "full", {"characters": same})["headline"] == {"n": 1}
    assert report.other_results(2, "full", {"characters": other}) is None
    assert report.other_results(3, "full", {"characters": same}) is None
