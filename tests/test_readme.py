"""The README says what the published results say."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PUBLISHED = sorted((ROOT / "executed" / "results").glob("*.json"))


@pytest.mark.parametrize("results", PUBLISHED, ids=lambda path: path.stem)
def test_the_finding_is_the_results_files(results):
    finding = json.loads(results.read_text())["finding"]
    assert finding in " ".join((ROOT / "README.md").read_text().split())
