"""The notebooks, run to their last cell on drawn data in checkouts of their own."""

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


class Checkout:
    """A copy of the checkout, without results. Commands are not run from its top: a kernel started
    there takes that folder off its path, and would find the library that is installed."""

    def __init__(self, folder, part):
        self.folder, self.part = folder, part
        for name in ("midas_lib", "notebooks"):
            shutil.copytree(
                config.ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__")
            )

    def run(self, *command, **environment):
        env = os.environ | {"PYTHONPATH": str(self.folder)} | environment
        env.pop("MIRROR", None)
        return subprocess.run(
            [sys.executable, *command],
            cwd=self.folder / "notebooks", env=env, capture_output=True, text=True,
        )  # fmt: skip

    def read(self, name):
        return (self.folder / "executed" / "smoke" / name).read_text(encoding="utf-8")

    @property
    def page(self):
        return self.read(f"part{self.part}.html")

    @property
    def info(self):
        return json.loads(self.read(f"results/part{self.part}.json"))


def plain(page):
    """A page's text: without code and logs, and what is set for the eye as it was written."""
    text = re.sub(r"<(details|style|script).*?</\1>", "", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).replace("\u202f", " ").split())


class Notebook:
    """What holds of each part's notebook; a class for each, so that they run side by side."""

    part: int
    pretrained = 0  # networks of part 1 that were trained to begin with, and are no runs of its own

    @pytest.fixture(scope="class")
    def drawn(self, standin_folder):
        return {"DATA_DIR": str(standin_folder), "STANDIN": "1"}

    @pytest.fixture(scope="class")
    def checkout(self, tmp_path_factory, drawn):
        found = Checkout(tmp_path_factory.mktemp("checkout"), self.part)
        options = (str(self.part), "--profile", "smoke", "--jobs", "1")
        done = found.run("-m", "midas_lib", "report", *options, **drawn)
        assert done.returncode == 0, done.stderr[-3000:]
        return found

    def test_it_ends_with_its_finding_on_its_page(self, checkout):
        page, info = checkout.page, checkout.info
        assert info["profile"] == "smoke"
        assert info["finding"] in plain(checkout.read("index.html"))
        assert "Stand-in data" in page
        notebook = next((config.ROOT / "notebooks").glob(f"part{self.part}_*.ipynb"))
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        text = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
        shown = [plain(found) for found in re.findall(r"<h2[^>]*>(.*?)</h2>", page)]
        for heading in re.findall(r"^## (.*)$", text, flags=re.MULTILINE):
            assert heading.strip() in shown

    def test_its_table_has_a_row_for_each_finished_run(self, checkout):
        info, results = checkout.info, checkout.folder / "executed" / "smoke" / "results"
        kinds = {"arm": str, "digest": str}
        table = pd.read_csv(results / f"part{self.part}.csv", dtype=kinds)
        assert list(table)[:2] == ["arm", "seed"]
        assert table["digest"].str.fullmatch("[0-9a-f]{24}").all()
        assert not table.duplicated(["arm", "digest"]).any()
        headline = info["headline"]
        own = table[table["arm"] == headline["arm"]][headline["metric"]]
        assert (own.mean(), len(own)) == (pytest.approx(headline["mean"]), headline["n"])
        stored = {path.stem for path in (checkout.folder / "checkpoints" / "runs").glob("*.npz")}
        single = table if self.part > 1 else table[table["arm"] == "final"]
        assert set(single["digest"]) <= stored
        assert info["runs"] + self.pretrained == len(stored)
        for path in info["checkpoints"]:
            notes = json.loads((checkout.folder / path).with_suffix(".json").read_text())
            assert notes["run"] in stored

    def test_it_is_drawn_again_without_archives_network_or_training(self, checkout, tmp_path):
        before, written = checkout.page, checkout.info
        store = checkout.folder / "checkpoints" / "runs"
        for path in store.glob("*.npz"):
            path.unlink()
        nowhere = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")
        done = checkout.run(
            "-m", "midas_lib", "pages", "--profile", "smoke", DATA_DIR=str(tmp_path / "none"),
            **nowhere,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        assert checkout.info == written
        assert not list(store.glob("*.npz"))
        assert not (tmp_path / "none").exists()
        assert plain(checkout.page) == plain(before)


class TestPart1(Notebook):
    part = 1


class TestPart2(Notebook):
    part = 2
    pretrained = 1

    def test_a_parameter_that_drawing_would_ignore_is_an_error(self, checkout):
        parameters = {"train": False, "seeds": 3}
        source = "from midas_lib import pages; pages.run_notebook(2, profile='smoke', "
        before = checkout.page
        done = checkout.run("-c", f"{source}parameters={parameters})")
        assert "seeds=3: written results are drawn as they are" in done.stderr
        assert checkout.page == before


class TestPart3(Notebook):
    part = 3
    pretrained = 1

    def test_what_is_in_the_table_is_not_trained_again(self, checkout, drawn):
        for path in (checkout.folder / "checkpoints" / "runs").glob("*.npz"):
            path.unlink()
        before = checkout.info
        done = checkout.run("-m", "midas_lib", "report", "3", "--profile", "smoke", **drawn)
        assert done.returncode == 0, done.stderr[-3000:]
        after = checkout.info
        assert after["files"]["csv"] == before["files"]["csv"]
        assert (after["reused_runs"], before["reused_runs"]) == (before["runs"], 0)
        assert not list((checkout.folder / "checkpoints" / "runs").glob("*.npz"))
