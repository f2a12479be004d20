"""Results files: what is written comes back, and nothing else does."""

import dataclasses
import hashlib
import io
import json
import math
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from midas_lib import config, results
from midas_lib.analysis import Interval
from midas_lib.config import UserError

HEADLINE = {"arm": "a", "metric": "accuracy", "mean": 0.9, "low": 0.88, "high": 0.92, "n": 5}
TABLE = pd.DataFrame(
    {
        "arm": ["a", "a", "NA"],
        "seed": [0, 1, 0],
        "variant": ["5", "0.50", "None"],
        "size": [10, None, 30],
        "digest": ["1e5", "007", "12"],
        "accuracy": [1 / 3, math.nan, 0.1 + 0.2],
        "steps": [math.inf, 2.0, 1e-300],
    }
)


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "ROOT", tmp_path)
    monkeypatch.setattr(config, "RUNS", tmp_path / "checkpoints" / "runs")
    return tmp_path


def archive(source="original", digest="ab" * 32):
    return SimpleNamespace(source=source, digest=digest)


def info(profile="full", source="original", **more):
    return results.provenance(profile, {"characters": archive(source)}) | more


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
def test_only_the_full_profile_on_real_archives_is_published(root, profile, source, folder):
    path = results.write(info(profile, source), 2, TABLE, {"a": np.eye(2)})
    assert path == root / folder / "results" / "part2.json"
    assert sorted(os.listdir(path.parent)) == ["part2.csv", "part2.json", "part2.npz"]
    published = folder == "executed"
    assert results.is_published(info(profile, source)) == published
    checkpoint = results.checkpoint_path(info(profile, source), 2, "random")
    kept = "checkpoints" if published else f"checkpoints/runs/{profile}"
    assert results.relative(checkpoint) == f"{kept}/part2/random.keras"
    assert results.is_standin(info(profile, source)) == (source == "stand-in")


def test_one_archive_drawn_by_the_program_is_enough_to_stay_unpublished():
    mixed = results.provenance("full", {"a": archive(), "b": archive("stand-in")})
    assert results.is_standin(mixed)
    assert results.write(mixed, 1, TABLE).parent.parent.name == "full"
    assert not results.is_published(results.provenance("full", {}))


def test_the_table_comes_back_in_full_precision_and_text_as_text():
    path = results.write(info(), 1, TABLE)
    back = results.read(1).table
    pd.testing.assert_frame_equal(back, TABLE, check_exact=True, check_dtype=False)
    assert list(map(type, back["digest"])) == [str] * 3
    numbers = np.random.default_rng(0).random(1000) * np.logspace(-300, 300, 1000)
    many = pd.DataFrame({"arm": "a", "seed": range(1000), "digest": "x", "nll": numbers})
    results.write(info(), 2, many)
    np.testing.assert_array_equal(results.read(2).table["nll"], numbers)
    lines = path.with_suffix(".csv").read_bytes().split(b"\n")
    assert lines[0] == b"arm,seed,variant,size,digest,accuracy,steps"
    assert lines[2] == b"a,1,0.50,,007,,2.0"
    assert lines[1].endswith(b",0.3333333333333333,inf")
    assert b"\r" not in path.with_suffix(".csv").read_bytes()


def test_the_rest_comes_back_as_plain_json_and_arrays():
    @dataclasses.dataclass
    class Plan:
        seeds: int
        sizes: tuple

    spread = Interval(0.5, math.nan, 0.75, 5)
    values = {"b": np.float32(0.5), "a": [math.nan, np.inf], "c": np.array([[1, 2]]), 3: True}
    values |= {"plan": Plan(3, (1, 2)), "spread": [spread]}
    arrays = {"confusion": np.eye(2, dtype=int)}
    path = results.write(info(values=values), 1, TABLE, arrays)
    text = path.read_text()
    assert list(json.loads(text)) == sorted(json.loads(text))
    assert json.loads(text)["values"] == {
        "a": [None, None], "b": 0.5, "c": [[1, 2]], "3": True,
        "plan": {"seeds": 3, "sizes": [1, 2]},
        "spread": [{"mean": 0.5, "low": None, "high": 0.75, "n": 5}],
    }  # fmt: skip
    back = results.read(1)
    assert back.path == path
    assert back.info["part"] == 1
    (interval,) = back.info["values"]["spread"]
    assert (interval.mean, interval.high, interval.n) == (0.5, 0.75, 5)
    assert math.isnan(interval.low)
    np.testing.assert_array_equal(back.arrays["confusion"], [[1, 0], [0, 1]])
    written = [path.with_suffix(end).read_bytes() for end in (".npz", ".csv", ".json")]
    results.write(info(values=values) | {"date": back.info["date"]}, 1, TABLE, arrays)
    assert [path.with_suffix(end).read_bytes() for end in (".npz", ".csv", ".json")] == written
    results.write(info(), 1, TABLE)
    assert results.read(1).arrays == {}
    assert not path.with_suffix(".npz").exists()


def test_files_are_written_before_what_vouches_for_them(monkeypatch):
    order, write = [], results.files.write
    monkeypatch.setattr(
        results.files,
        "write",
        lambda path, content: (order.append(path.suffix), write(path, content)),
    )
    results.write(info(), 1, TABLE, {"a": np.eye(2)})
    assert order == [".npz", ".csv", ".json"]


@pytest.mark.parametrize("column", ["arm", "seed", "digest"])
def test_a_part_has_a_table_with_what_names_a_run(root, column):
    for table in (TABLE.drop(columns=column), None):
        with pytest.raises(ValueError, match=column):
            results.write(info(), 1, table)
    assert not (root / "executed").exists()
    results.write(info(), results.BENCH)
    back = results.read(results.BENCH)
    assert (back.table.empty, back.path.name) == (True, "bench.json")


@pytest.mark.parametrize("key", sorted(HEADLINE))
def test_a_headline_has_the_agreed_fields(key):
    results.write(info(headline=HEADLINE), 1, TABLE)
    lacking = {name: value for name, value in HEADLINE.items() if name != key}
    for headline in (lacking, lacking | {f"{key}s": HEADLINE[key]}):
        with pytest.raises(ValueError, match="headline"):
            results.write(info(headline=headline), 1, TABLE)


def test_results_that_cannot_be_written_leave_the_old_ones(monkeypatch):
    path = results.write(info(seed=1), 1, TABLE)
    monkeypatch.setattr(os, "replace", lambda *names: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError, match="full"):
        results.write(info(seed=2), 1, TABLE)
    assert results.read(1).info["seed"] == 1
    assert sorted(os.listdir(path.parent)) == ["part1.csv", "part1.json"]


def test_what_is_noted_later_is_in_the_json_alone():
    path = results.write(info(seed=1), 1, TABLE, {"a": np.eye(2)})
    before = path.with_suffix(".csv").read_bytes()
    noted = results.annotate(results.read(1), finding="It reads.")
    assert noted.info["finding"] == "It reads."
    back = results.read(1)
    assert (back.info["finding"], back.info["seed"]) == ("It reads.", 1)
    assert back.arrays.keys() == {"a"}
    assert path.with_suffix(".csv").read_bytes() == before


def test_there_must_be_results():
    assert not results.exists(3, "smoke")
    with pytest.raises(UserError, match=r"part3\.json: no such results; make part3 PROFILE=smoke"):
        results.read(3, "smoke")
    with pytest.raises(UserError, match="PROFILE=tiny"):
        results.read(3, "tiny")
    results.write(info("smoke"), 3, TABLE)
    assert results.exists(3, "smoke")
    assert not results.exists(3, "full")
    assert results.written(3, info()) is None
    assert results.written(3, info("smoke")).info["part"] == 3


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "1", "[" * 100_000, '{"data": []}', '{"data": {"a": 1}}', '{"machine": 1}',
        '{"data": {"a": {"source": []}}}', '{"finding": []}', '{"versions": "x"}', '{"profile": 1}',
        '{"files": 3}',
    ],
)  # fmt: skip
def test_a_damaged_json_is_the_users_to_mend(text):
    results.write(info(), 3, TABLE).write_text(text)
    with pytest.raises(UserError, match=r"part3\.json: not a results file .*; make it anew"):
        results.read(3)
    with pytest.warns(UserWarning, match=r"part3\.json: not a results file"):
        assert results.other(3, info()) is None


@pytest.mark.parametrize("end", [".csv", ".npz"])
def test_a_file_that_is_not_the_one_written_is_refused(end):
    path = results.write(info(), 3, TABLE, {"a": np.eye(2)}).with_suffix(end)
    content = path.read_bytes()
    for other in (content[:-2], content.replace(b"0.3333", b"0.4444") + b"\n", b""):
        path.write_bytes(other)
        with pytest.raises(UserError, match=rf"part3\{end}: not as it was written with part3"):
            results.read(3)
    path.unlink()
    with pytest.raises(UserError, match=rf"part3\{end}"):
        results.read(3)


def vouched(path, end, content):
    """A results file with that content, vouched for as if it had been written so."""
    path.with_suffix(end).write_bytes(content)
    stored = json.loads(path.read_text())
    stored["files"][end[1:]] = hashlib.sha256(content).hexdigest()
    path.write_text(json.dumps(stored))


@pytest.mark.parametrize("column", sorted(results.COLUMNS))
def test_a_table_that_lacks_a_column_is_refused(column):
    path = results.write(info(), 3, TABLE)
    vouched(path, ".csv", TABLE.drop(columns=column).to_csv().encode())
    with pytest.raises(UserError, match=rf"part3\.csv: has no {column}; make it anew"):
        results.read(3)


def test_arrays_that_are_none_or_grow_without_end_are_refused():
    path = results.write(info(), 3, TABLE, {"a": np.eye(2)})
    large, code = io.BytesIO(), io.BytesIO()
    np.savez_compressed(large, a=np.zeros(2**28, np.uint8))
    np.savez(code, a=np.array([print], object))
    for content in (b"", b"PK", large.getvalue(), code.getvalue()):
        vouched(path, ".npz", content)
        with pytest.raises(UserError, match=r"part3\.npz: (not a zip|refused|holds no readable a)"):
            results.read(3)


def test_other_results_that_do_not_say_their_data_are_none():
    path = results.write(info(), 2, TABLE)
    for data in ({}, {"characters": {}}):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"data": data}))
        assert results.other(2, info()) is None


def test_a_part_without_a_table_is_refused():
    path = results.write(info(), 3, TABLE)
    stored = json.loads(path.read_text())
    assert stored["files"] == {
        "csv": hashlib.sha256(path.with_suffix(".csv").read_bytes()).hexdigest()
    }
    path.write_text(json.dumps(stored | {"files": {}}))
    with pytest.raises(UserError, match=r"part3\.csv"):
        results.read(3)


def test_other_results_are_those_of_the_same_data_and_profile():
    results.write(info(headline=HEADLINE), 2, TABLE)
    assert results.other(2, info()).info["headline"] == HEADLINE
    more = results.provenance("full", {"characters": archive(), "mnist": archive(digest="ef" * 32)})
    assert results.other(2, more).info["part"] == 2
    changed = results.provenance("full", {"characters": archive(digest="cd" * 32)})
    assert results.other(2, changed) is None
    assert results.other(2, results.provenance("full", {"mnist": archive()})) is None
    assert results.other(3, info()) is None
    assert results.other(2, info("standard")) is None
    results.write(info("full", "stand-in", seeds=1), 2, TABLE)
    assert results.other(2, info("full", "stand-in")).info["seeds"] == 1
    assert "seeds" not in results.other(2, info()).info


def test_provenance_names_versions_machine_and_commit():
    made = results.provenance("smoke", {"mnist": archive("mirror")})
    assert made["data"] == {"mnist": {"source": "mirror", "digest": "ab" * 32}}
    assert made["profile"] == "smoke"
    assert made["versions"]["numpy"] == np.__version__
    assert {"python", "tensorflow", "keras", "opencv-python-headless"} <= set(made["versions"])
    assert made["machine"]["cores"] >= 1
    assert made["machine"]["memory_gib"] > 0.1
    assert os.uname().nodename not in json.dumps(made["machine"])
    assert ":" not in made["machine"]["cpu"]
    assert made["commit"] == "unknown"
    with pytest.raises(UserError, match="PROFILE=tiny"):
        results.provenance("tiny", {})


def test_the_commit_says_when_the_code_differs(root):
    def git(*arguments):
        author = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        return subprocess.check_output(["git", "-C", root, *author, *arguments], text=True)

    (root / "code.py").write_text("1")
    for folder in ("executed", "checkpoints"):
        (root / folder).mkdir()
        (root / folder / "made").write_text("old")
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "first")
    commit = git("rev-parse", "HEAD").strip()
    for folder in ("executed", "checkpoints"):
        (root / folder / "made").write_text("new")
    (root / "untracked").write_text("")
    assert info()["commit"] == commit
    (root / "code.py").write_text("2")
    assert info()["commit"] == f"{commit}-dirty"


def test_reading_needs_neither_tensorflow_nor_archives():
    code = (
        "import sys; from midas_lib import results;"
        "sys.exit(bool({'tensorflow', 'keras', 'midas_lib.sources'} & set(sys.modules)))"
    )
    folder = os.path.dirname(os.path.dirname(results.__file__))
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)
