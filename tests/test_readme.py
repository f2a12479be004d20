"""What the documents say is what the files beside them say."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PUBLISHED = sorted((ROOT / "executed" / "results").glob("*.json"))
CHECKPOINTS = sorted((ROOT / "checkpoints").glob("part*/*.json"))


@pytest.mark.parametrize("results", PUBLISHED, ids=lambda path: path.stem)
def test_the_finding_is_the_results_files(results):
    finding = json.loads(results.read_text())["finding"]
    assert finding in " ".join((ROOT / "README.md").read_text().split())


def test_the_model_card_has_every_network_with_its_measured_accuracy():
    card = (ROOT / "checkpoints" / "README.md").read_text()
    stated = dict(re.findall(r"^\| (part\S+\.keras) \|.* (\d\.\d{4}) \|$", card, re.MULTILINE))
    measured = {}
    for path in CHECKPOINTS:
        about = json.loads(path.read_text())
        part1 = json.loads((ROOT / "executed" / "results" / "part1.json").read_text())
        accuracy = about.get("test_accuracy", part1["headline"]["mean"])
        measured[f"{path.parent.name}/{path.stem}.keras"] = f"{accuracy:.4f}"
    assert len(measured) >= 9
    assert stated == measured


def test_the_readme_names_files_that_exist():
    readme = (ROOT / "README.md").read_text()
    names = re.findall(
        r"`((?:midas_lib|bench|tests|data|checkpoints|executed|notebooks)/[\w./-]+)`", readme
    )
    missing = {name for name in names if not (ROOT / name).exists()}
    assert missing <= {"checkpoints/runs/", "checkpoints/partN/", "data/"}


def test_the_citation_has_the_librarys_version():
    from midas_lib import __version__

    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text()
