"""Runs on a Dask cluster: a real scheduler and two real workers, of which one dies."""

import dataclasses
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from test_runs import examples, same, settled, task

from midas_lib import runs
from midas_lib.config import UserError

ROOT = Path(runs.__file__).parent.parent


@pytest.fixture
def scheduler(tmp_path, monkeypatch):
    """The address of a scheduler with two workers, and the workers' processes by address."""
    distributed = pytest.importorskip("distributed", reason="no Dask: pip install distributed")
    file, started = tmp_path / "scheduler.json", []
    path = os.pathsep.join([str(ROOT), os.path.dirname(__file__)])

    def start(program, *options):
        command = [sys.executable, "-m", f"distributed.cli.{program}", *options]
        command += ["--scheduler-file", str(file), "--no-dashboard", "--host", "127.0.0.1"]
        process = subprocess.Popen(
            command, env=os.environ | {"PYTHONPATH": path}, cwd=tmp_path,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        started.append(process)
        return process

    start("dask_scheduler", "--port", "0")
    workers = {
        name: start("dask_worker", "--no-nanny", "--nthreads", "1", "--name", name)
        for name in ("one", "two")
    }
    with distributed.Client(scheduler_file=str(file), timeout=300) as client:
        client.wait_for_workers(2, timeout=300)
        monkeypatch.setenv("SCHEDULER", client.scheduler.address)
        yield client, workers
    for process in started:
        process.kill()
        process.wait()


def test_a_worker_dies_and_every_number_is_that_of_this_machine(scheduler, tmp_path, monkeypatch):
    client, workers = scheduler
    tasks = [task(seed=seed, training__epochs=200) for seed in (0, 1)]
    tasks += [runs.Task(settings=tasks[0].settings, examples=examples(8, 3), classes=2)]  # fails
    tasks += [task(seed=seed, training__epochs=2) for seed in (2, 3)]
    tasks += [dataclasses.replace(task(seed=4), start=tasks[-1])]
    errors = []

    def study():
        try:
            runs.run_all(tasks, folder=tmp_path / "there")
        except RuntimeError as error:
            errors.append(str(error))

    thread = threading.Thread(target=study, daemon=True)
    thread.start()
    settled(lambda: sum(map(bool, client.processing().values())) == 2)
    workers["one"].kill()
    thread.join(900)
    assert not thread.is_alive()
    assert len(errors) == 1
    assert errors[0].startswith("1 of 6 runs failed"), errors[0]
    assert "there are 2 classes" in errors[0]

    whole = tasks[:2] + tasks[3:]
    there = runs.run_all(whole, folder=tmp_path / "there")
    assert all(outcome.reused for outcome in there)
    monkeypatch.delenv("SCHEDULER")
    for ours, theirs in zip(runs.run_all(whole, folder=tmp_path / "here"), there, strict=True):
        assert same(ours, theirs)
        np.testing.assert_array_equal(ours.probabilities, theirs.probabilities)
        for metric, values in ours.history.items():
            np.testing.assert_array_equal(values, theirs.history[metric])


def test_a_scheduler_that_is_not_there_is_named(tmp_path, monkeypatch):
    pytest.importorskip("distributed", reason="no Dask: pip install distributed")
    monkeypatch.setenv("SCHEDULER", "tcp://127.0.0.1:1")
    with pytest.raises(UserError, match="SCHEDULER=tcp://127.0.0.1:1: no Dask scheduler answers"):
        runs.run_all([task()], folder=tmp_path)
    monkeypatch.setenv("SCHEDULER", "nonsense://x")
    with pytest.raises(UserError, match="SCHEDULER=nonsense://x: no Dask scheduler answers"):
        runs.run_all([task()], folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_dask_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("SCHEDULER", "tcp://127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UserError, match="no Dask here; pip install distributed"):
        runs.run_all([task()], folder=tmp_path)
