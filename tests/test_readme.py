"""The README says what the published results say."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PUBLISHED = ROOT / "executed" / "results" / "part1.json"


@pytest.mark.skipif(not PUBLISHED.exists(), reason="no results are published yet")
def test_the_finding_is_the_results_files():
    finding = json.loads(PUBLISHED.read_text())["finding"]
    assert finding in (ROOT / "README.md").read_text()
