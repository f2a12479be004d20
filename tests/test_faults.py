"""Studies that run twice at once, are killed, and find their store damaged.

Whatever happened, the outcomes are in the end those of an undisturbed study but for their seconds.
KILLS says how many times a study is killed; `make faults` takes many.
"""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from test_runs import task

from midas_lib import config, runs, store

KILLS = int(os.environ.get("KILLS", 2))
STUDY = "import sys, test_faults; test_faults.study(*map(test_faults.Path, sys.argv[1:]))"


def study(folder: Path, runs_folder: Path) -> None:
    """Four runs, two of which start where another ended, on labels that it recovered."""

    def recovered(first):
        (outcome,) = runs.run_all([first], folder=runs_folder)
        return dataclasses.replace(first.examples, labels=outcome.tests["own"].argmax(1))

    tasks = []
    for seed in (0, 1):
        first = task(seed=seed, training__epochs=100)
        first = dataclasses.replace(first, tests={"own": first.examples})
        second = dataclasses.replace(
            task(seed=seed + 2, training__epochs=100),
            examples=lambda first=first: recovered(first),
            origin=f"labels recovered by {first.name}",
            start=first,
        )
        tasks += [second, first]
    for i, outcome in enumerate(runs.run_all(tasks, jobs=2, folder=runs_folder)):
        arrays = {f"weight_{j}": weight for j, weight in enumerate(outcome.weights)}
        arrays |= (
            outcome.tests
            | outcome.history
            | {
                "seconds": np.array(outcome.seconds),
                "settings": np.array("{}"),
            }
        )
        store.write(folder / f"{i}.npz", arrays)


def kill(process):
    """End a study and its workers, all at once, unless it has ended."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class Studies:
    """Studies, each in a process of its own."""

    def __init__(self):
        path = os.pathsep.join([str(config.ROOT), os.path.dirname(__file__)])
        self.environment = os.environ | {"PYTHONPATH": path, "SCHEDULER": ""}
        self.started = []

    def start(self, folder, runs_folder):
        """One that leaves its outcomes in `folder`; in a group with its workers."""
        folder.mkdir(exist_ok=True)
        with (folder / "log").open("a") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", STUDY, str(folder), str(runs_folder)],
                cwd=folder, env=self.environment, start_new_session=True, stdout=log, stderr=log,
            )  # fmt: skip
        self.started.append(process)
        return process

    def finish(self, process, folder):
        """The outcomes of one."""
        assert process.wait(1200) == 0, (folder / "log").read_text()
        return [store.read(folder / f"{i}.npz") for i in range(4)]


@pytest.fixture(scope="module")
def studies():
    studies = Studies()
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


def assert_same(found, expected, but=("seconds",)):
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name in one.keys() - set(but):
            np.testing.assert_array_equal(one[name], other[name], name)


def entries(folder):
    """What a store's finished runs hold, by name; none may be damaged."""
    found = {path.stem: store.read(path) for path in store.finished(folder)}
    assert all(found.values())
    return found


def assert_whole(folder, expected):
    """Every finished run in the store is the one that an undisturbed study finished; returns their
    names."""
    found = entries(folder)
    assert_same(found.values(), [expected[name] for name in found])
    return found.keys()


def damage(path, rng):
    """Do one of the things to a file that happen to files."""
    content = bytearray(path.read_bytes())
    what, at = rng.integers(3), rng.integers(len(content) // 4, len(content) // 2)
    if what == 0:
        content[at] ^= 1 << rng.integers(8)
    path.write_bytes(content[: (len(content), at, 0)[what]])


def test_two_studies_at_once_train_each_run_once(pair):
    folder, (one, two), _ = pair
    assert_same(one, two, but=())  # to the second
    assert len(store.finished(folder)) == 4


def test_a_killed_study_goes_on_to_the_same_results(studies, pair, tmp_path):
    undisturbed, (expected, _), seconds = pair
    undisturbed, rng = entries(undisturbed), np.random.default_rng(KILLS)
    kills, finished, name = 0, 0, "0"
    while kills < KILLS:
        folder, runs_folder = tmp_path / name, tmp_path / f"runs{name}"
        before = {path.stem for path in store.finished(runs_folder)}
        process, begin = studies.start(folder, runs_folder), time.monotonic()
        try:
            process.wait(rng.uniform(0, seconds))
        except subprocess.TimeoutExpired:
            kill(process)
            kills += 1
            assert before <= assert_whole(runs_folder, undisturbed)
        else:  # go on with an empty store
            assert_same(studies.finish(process, folder), expected)
            finished, name = finished + 1, str(finished + 1)
            if not before:  # what the machine does beside has changed
                seconds = time.monotonic() - begin
    hit = list(rng.permutation(store.finished(runs_folder))[:3])
    for path in hit:
        damage(path, rng)
    assert_same(studies.finish(studies.start(folder, runs_folder), folder), expected)
    assert len(list(runs_folder.glob("*.damaged"))) == len(hit)
    for left in runs_folder.glob("*.tmp"):
        os.utime(left, (0, 0))  # a young one could be another study's
    store.prune(runs_folder)
    assert {path.name for path in runs_folder.iterdir()} == {f"{n}.npz" for n in undisturbed}
    assert_whole(runs_folder, undisturbed)
    print(f"{kills} kills, {finished + 1} studies ended alike")
