"""The notebooks, run to their last cell on drawn data in a checkout of their own."""

import html
import json
import os
import re
import shutil
import subprocess
import sys

import pandas as pd
import pytest

from midas_lib import config

PARTS = (1, 2, 3)


class Checkout:
    """A copy of the checkout, without results. Commands are not run from its top: a kernel started
    there takes that folder off its path, and would find the library that is installed."""

    def __init__(self, folder, standin):
        self.folder, self.standin = folder, standin
        for name in ("midas_lib", "notebooks"):
            shutil.copytree(
                config.ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__")
            )

    def run(self, *command, **environment):
        env = os.environ | {"PYTHONPATH": str(self.folder), "PYTHONSAFEPATH": "1"}
        env |= {"DATA_DIR": str(self.standin), "STANDIN": "1"} | environment
        env.pop("MIRROR", None)
        return subprocess.run(
            [sys.executable, "-m", "midas_lib", *command],
            cwd=self.folder / "notebooks", env=env, capture_output=True, text=True,
        )  # fmt: skip

    def read(self, name):
        return (self.folder / "executed" / "smoke" / name).read_text(encoding="utf-8")

    def info(self, part):
        return json.loads(self.read(f"results/part{part}.json"))


def plain(page):
    """A page's text: without its code, and what is set for the eye as it was written."""
    text = re.sub(r"<(pre|style|script).*?</\1>", "", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).replace("\u202f", " ").split())


@pytest.fixture(scope="module")
def checkout(tmp_path_factory, standin_folder):
    found = Checkout(tmp_path_factory.mktemp("checkout"), standin_folder)
    done = found.run("report", "--profile", "smoke")
    assert done.returncode == 0, done.stderr[-3000:]
    return found


@pytest.mark.parametrize("part", PARTS)
def test_a_notebook_ends_with_its_finding_on_its_page(checkout, part):
    page, info = checkout.read(f"part{part}.html"), checkout.info(part)
    assert info["profile"] == "smoke"
    assert info["finding"] in plain(checkout.read("index.html"))
    assert "Stand-in data" in page
    notebook = next((config.ROOT / "notebooks").glob(f"part{part}_*.ipynb"))
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    text = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    shown = [plain(found) for found in re.findall(r"<h2[^>]*>(.*?)</h2>", page)]
    for heading in re.findall(r"^## (.*)$", text, flags=re.MULTILINE):
        assert heading.strip() in shown


@pytest.mark.parametrize("part", PARTS)
def test_a_table_has_a_row_for_each_finished_run(checkout, part):
    info = checkout.info(part)
    table = pd.read_csv(
        checkout.folder / "executed" / "smoke" / "results" / f"part{part}.csv",
        dtype={"arm": str, "digest": str}, float_precision="round_trip",
    )  # fmt: skip
    assert list(table)[:2] == ["arm", "seed"]
    assert table["digest"].str.fullmatch("[0-9a-f]{24}").all()
    assert not table.duplicated(["arm", "digest"]).any()
    headline = info["headline"]
    own = table[table["arm"] == headline["arm"]][headline["metric"]]
    assert (own.mean(), len(own)) == (pytest.approx(headline["mean"]), headline["n"])
    stored = {path.stem for path in (checkout.folder / "checkpoints" / "runs").glob("*.npz")}
    single = table if part > 1 else table[table["arm"] == "final"]
    assert set(single["digest"]) <= stored
    for path in info["checkpoints"]:
        notes = json.loads((checkout.folder / path).with_suffix(".json").read_text())
        assert notes["run"] in stored


def test_pages_are_drawn_again_without_archives_network_or_training(checkout, tmp_path):
    before = {part: checkout.read(f"part{part}.html") for part in PARTS}
    written = {part: checkout.info(part) for part in PARTS}
    store = checkout.folder / "checkpoints" / "runs"
    aside = store.rename(store.with_name("aside"))
    shutil.copytree(aside / "smoke", store / "smoke")  # the networks that are drawn with
    nowhere = "http://127.0.0.1:9"
    done = checkout.run(
        "pages", "--profile", "smoke", STANDIN="", DATA_DIR=str(tmp_path / "none"),
        http_proxy=nowhere, https_proxy=nowhere,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert {part: checkout.info(part) for part in PARTS} == written
    assert not list(store.glob("*.npz"))
    assert not (tmp_path / "none").exists()
    for part, page in before.items():
        assert plain(checkout.read(f"part{part}.html")) == plain(page)
    shutil.rmtree(store)
    aside.rename(store)


def test_a_parameter_that_drawing_would_ignore_is_an_error(checkout):
    source = "from midas_lib import pages; pages.run_notebook(2, profile='smoke', parameters={!r})"
    env = os.environ | {"PYTHONPATH": str(checkout.folder)}
    before = checkout.read("part2.html")
    done = subprocess.run(
        [sys.executable, "-c", source.format({"train": False, "seeds": 3})],
        cwd=checkout.folder / "notebooks", env=env, capture_output=True, text=True,
    )  # fmt: skip
    assert "seeds=3: written results are drawn as they are" in done.stderr
    assert checkout.read("part2.html") == before


def test_what_is_in_the_table_is_not_trained_again(checkout):
    for path in (checkout.folder / "checkpoints" / "runs").glob("*.npz"):
        path.unlink()
    before = checkout.info(3)
    done = checkout.run("report", "3", "--profile", "smoke")
    assert done.returncode == 0, done.stderr[-3000:]
    after = checkout.info(3)
    assert after["files"]["csv"] == before["files"]["csv"]
    assert (after["reused_runs"], before["reused_runs"]) == (before["runs"], 0)
