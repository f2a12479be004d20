"""Studies that run twice at once, are killed, and find their store damaged.

Whatever happened, the results file is in the end that of an undisturbed study but for its date, its
seconds and how many runs the store already held. KILLS says how many times a study is killed;
`make faults` takes many.
"""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from midas_lib import config, runs

KILLS = int(os.environ.get("KILLS", 2))
# Part 3's smoke study, whose stages start where others ended, without its side studies and with
# fewer layers: most of its time goes into starting TensorFlow and building graphs.
STUDY = """
import dataclasses, sys
from pathlib import Path
from midas_lib import config, report
from midas_lib.studies import part3
config.ROOT, config.RUNS = map(Path, sys.argv[1:])
plan = part3.PLANS["smoke"]
changes = plan.changes | {"network__depth": (1, 1, 1)}
part3.PLANS["smoke"] = dataclasses.replace(plan, changes=changes, sizes=(), leaks=())
part3.LOSSES = {"posterior, sharpened": part3.SHARPENED}
part3.TIMES = {"after a half": {}}
datasets = part3.load("smoke")
study = part3.run(datasets, "smoke", jobs=2)
report.write_results(report.provenance("smoke", datasets) | study.results, 3, study.arrays)
"""


def kill(process):
    """End a study and its workers, all at once, unless it has ended."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class Studies:
    """Studies on stand-in data, each in a process of its own."""

    def __init__(self, data):
        self.environment = os.environ | {"DATA_DIR": str(data), "STANDIN": "1", "SCHEDULER": ""}
        self.started = []

    def start(self, folder, store):
        """One that writes its results to `folder`; in a group with its workers."""
        folder.mkdir(exist_ok=True)
        with (folder / "log").open("a") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", STUDY, str(folder), str(store)],
                cwd=config.ROOT, env=self.environment, start_new_session=True,
                stdout=log, stderr=log,
            )  # fmt: skip
        self.started.append(process)
        return process

    def finish(self, process, folder):
        """The results of one, and its arrays."""
        assert process.wait(1200) == 0, (folder / "log").read_text()
        path = folder / "executed" / "smoke" / "results" / "part3.json"
        with np.load(path.with_suffix(".npz")) as arrays:
            return json.loads(path.read_text()), dict(arrays)


@pytest.fixture(scope="module")
def studies(standin_folder):
    studies = Studies(standin_folder)
    yield studies
    for process in studies.started:
        kill(process)


@pytest.fixture(scope="module")
def pair(studies, tmp_path_factory):
    """Two studies that ran at once: their store, what each found, and how long they took."""
    folder = tmp_path_factory.mktemp("pair")
    begin = time.monotonic()
    both = [studies.start(folder / name, folder / "runs") for name in ("one", "two")]
    found = [studies.finish(p, folder / n) for p, n in zip(both, ("one", "two"), strict=True)]
    return folder / "runs", found, time.monotonic() - begin


def lasting(value):
    """Results without what a clock says and what the store held."""
    if isinstance(value, list):
        return [lasting(item) for item in value]
    if isinstance(value, dict):
        passing = {"date", "reused_runs"} | {key for key in value if "seconds" in key}
        return {key: lasting(value[key]) for key in value.keys() - passing}
    return value


def assert_same(found, expected):
    assert lasting(found[0]) == lasting(expected[0])
    assert found[1].keys() == expected[1].keys()
    for name, array in expected[1].items():
        np.testing.assert_array_equal(found[1][name], array, name)


def entries(store):
    """What a store's finished runs hold, by name, without their seconds; none may be damaged."""
    found = {}
    for path in runs.finished(store):
        runs.details(path)
        found[path.stem] = runs._read(path)
        del found[path.stem]["seconds"]
    return found


def assert_whole(store, expected):
    """Every finished run in the store is the one that an undisturbed study finished; returns their
    names."""
    found = entries(store)
    for name, arrays in found.items():
        assert arrays.keys() == expected[name].keys()
        for key, array in arrays.items():
            np.testing.assert_array_equal(array, expected[name][key], f"{name} {key}")
    return found.keys()


def damage(path, rng):
    """Do one of the things to a file that happen to files."""
    content = bytearray(path.read_bytes())
    what, at = rng.integers(3), rng.integers(len(content) // 4, len(content) // 2)
    if what == 0:
        content[at] ^= 1 << rng.integers(8)
    path.write_bytes(content[: (len(content), at, 0)[what]])


def test_two_studies_at_once_train_each_run_once(pair):
    _, (one, two), _ = pair
    assert_same(one, two)
    assert one[0]["arms"] == two[0]["arms"]  # to the second


def test_a_killed_study_goes_on_to_the_same_results(studies, pair, tmp_path):
    undisturbed, (expected, _), seconds = pair
    undisturbed, rng = entries(undisturbed), np.random.default_rng(KILLS)
    kills, finished, name = 0, 0, "0"
    while kills < KILLS:
        folder, store = tmp_path / name, tmp_path / f"runs{name}"
        before = {path.stem for path in runs.finished(store)}
        process, begin = studies.start(folder, store), time.monotonic()
        try:
            process.wait(rng.uniform(0, seconds))
        except subprocess.TimeoutExpired:
            kill(process)
            kills += 1
            assert before <= assert_whole(store, undisturbed)
        else:  # go on with an empty store
            assert_same(studies.finish(process, folder), expected)
            finished, name = finished + 1, str(finished + 1)
            if not before:  # what the machine does beside has changed
                seconds = time.monotonic() - begin
    hit = list(rng.permutation(runs.finished(store))[:3])
    for path in hit:
        damage(path, rng)
    assert_same(studies.finish(studies.start(folder, store), folder), expected)
    assert len(list(store.glob("*.damaged"))) == len(hit)
    for left in store.glob("*.tmp"):
        os.utime(left, (0, 0))  # a young one could be another study's
    runs.prune(store)
    assert {path.name for path in store.iterdir()} == {f"{name}.npz" for name in undisturbed}
    assert_whole(store, undisturbed)
    print(f"{kills} kills, {finished + 1} studies ended alike")
