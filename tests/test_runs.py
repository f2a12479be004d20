"""The run store: names, finished runs, damage, interruption, failure."""

import dataclasses
import fcntl
import functools
import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from midas_lib import config, runs
from midas_lib.__main__ import main
from midas_lib.config import Network, Settings, Training, UserError, vary
from midas_lib.data import Examples

SETTINGS = Settings(network=Network(width=0.25, depth=(1, 1, 1)), training=Training(epochs=2))


def examples(n=8, seed=0):
    rng = np.random.default_rng(seed)
    pictures = rng.integers(0, 256, (n, 12, 12, 1)).astype(np.uint8)
    return Examples(pictures=pictures, labels=np.arange(n) % 4)


def task(seed=0, data=0, **changes):
    return runs.Task(
        settings=vary(SETTINGS, seed=seed, **changes),
        examples=examples(seed=data),
        held_out=examples(4, 9),
        classes=4,
        views=True,
    )


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a.weights, b.weights, strict=True))


def test_a_name_tells_settings_data_and_version(monkeypatch):
    names = {
        task().name,
        task(seed=1).name,
        task(data=1).name,
        task(training__rate=0.1).name,
        runs.Task(settings=SETTINGS, examples=examples(), classes=4).name,
        dataclasses.replace(task(), start=(np.zeros(3), np.ones(2))).name,
        dataclasses.replace(task(), start=(np.zeros(3), np.zeros(2))).name,
        dataclasses.replace(task(), tests={"test": examples(4)}).name,
        dataclasses.replace(task(), tests={"other": examples(4)}).name,
    }
    assert len(names) == 9
    assert task().name == task().name
    before = task().name
    monkeypatch.setattr(runs, "TRAINING_VERSION", runs.TRAINING_VERSION + 1)
    assert task().name != before


def test_only_what_differs_from_the_defaults_is_in_a_name():
    assert config.changed(Settings()) == {}
    settings = vary(Settings(), seed=3, training__rate=0.5, network__depth=(1, 1, 1))
    assert config.changed(settings) == {
        "seed": 3,
        "training": {"rate": 0.5},
        "network": {"depth": (1, 1, 1)},
    }


def test_a_finished_run_is_found_again_and_a_damaged_one_done_anew(tmp_path):
    (first,) = runs.run_all([task()], jobs=1, folder=tmp_path)
    assert not first.reused
    assert first.probabilities.shape == first.views.shape == (4, 4)
    assert {name: len(values) for name, values in first.history.items()} == {
        "step": 2, "loss": 2, "gradient_norm": 2, "val_loss": 2, "val_accuracy": 2,
    }  # fmt: skip
    (again,) = runs.run_all([task()], jobs=1, folder=tmp_path)
    assert again.reused
    assert same(first, again)
    entry = tmp_path / f"{task().name}.npz"
    content = bytearray(entry.read_bytes())
    content[len(content) // 2] ^= 1
    entry.write_bytes(content)
    (mended,) = runs.run_all([task()], jobs=1, folder=tmp_path)
    assert not mended.reused
    assert same(first, mended)
    assert entry.with_suffix(".damaged").read_bytes() == content


def test_results_come_in_the_tasks_order_and_twice_for_a_task_named_twice(tmp_path):
    tasks = [task(seed=2), task(seed=1), task(seed=2)]
    together = runs.run_all(tasks, jobs=2, folder=tmp_path)
    alone = runs.run_all([task(seed=1)], jobs=1, fresh=True, folder=tmp_path / "other")
    assert same(together[1], alone[0])  # side by side or alone, the same to the last bit
    assert same(together[0], together[2])
    assert not same(together[0], together[1])


def test_a_run_begins_at_its_start_and_ends_at_its_tests(tmp_path):
    (first,) = runs.run_all([task()], jobs=1, folder=tmp_path)
    still = dataclasses.replace(
        task(seed=1, training__epochs=0),
        start=tuple(first.weights),
        tests={"held out": examples(4, 9), "others": examples(6, 3)},
    )
    (again,) = runs.run_all([still], jobs=1, folder=tmp_path)
    assert same(first, again)
    np.testing.assert_array_equal(again.tests["held out"], first.probabilities)
    assert again.tests["others"].shape == (6, 4)


def test_a_run_that_fails_is_told_and_does_not_stop_the_others(tmp_path):
    bad = runs.Task(settings=SETTINGS, examples=examples(), held_out=examples(4), classes=0)
    with pytest.raises(RuntimeError, match="1 of 2 runs failed"):
        runs.run_all([bad, task()], jobs=1, folder=tmp_path)
    assert runs.run_all([task()], jobs=1, folder=tmp_path)[0].reused


def test_a_killed_study_ends_its_workers_and_keeps_what_was_done(tmp_path):
    code = textwrap.dedent(f"""
        import sys
        sys.path[:0] = {[os.path.dirname(__file__), os.getcwd()]!r}
        from pathlib import Path
        import test_runs
        slow = test_runs.task(training__epochs=2000)
        test_runs.runs.run_all([slow], jobs=1, folder=Path({str(tmp_path)!r}))
    """)
    long = task(training__epochs=2000)
    partial = tmp_path / f"{long.name}.part.npz"
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not partial.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert workers
    alive = psutil.wait_procs(workers, timeout=2)[1]
    # An orphan stays a zombie where the first process of a container reaps none.
    assert [one for one in alive if one.status() != psutil.STATUS_ZOMBIE] == []
    assert partial.exists()
    assert not (tmp_path / f"{long.name}.npz").exists()
    state = runs._read(partial)
    assert 1 <= int(state["epochs"]) < 2000
    assert len(state["history_loss"]) == int(state["epochs"])


def test_by_default_there_is_a_run_for_each_gpu_or_core(monkeypatch):
    cores = os.cpu_count()
    monkeypatch.setattr(Path, "glob", lambda *_: iter(()))
    assert runs._default_jobs() == cores
    monkeypatch.setattr(Path, "glob", lambda *_: iter(("nvidia0",)))  # seen, or not, by TensorFlow
    for seen, jobs in ((2, 2), (0, cores)):
        monkeypatch.setattr(runs, "_count_gpus", functools.partial(int, seen))
        assert runs._default_jobs() == jobs


# -- damage, and disks that refuse

STORED = {"weight_0": np.arange(1500, dtype=np.float32).reshape(50, 30), "seconds": np.array(1.5)}


def damaged(content, count):
    """So many of a file's bytes one by one with a bit flipped, and ends cut off, and all."""
    rng = np.random.default_rng(0)
    rows = (b"(50, 30)", b"(50, 20)")  # fewer than there are, before any checksum is met
    yield content.replace(*rows)
    yield b""
    for at in rng.integers(len(content), size=count):
        yield content[:at]
        yield content[:at] + bytes([content[at] ^ 1 << rng.integers(8)]) + content[at + 1 :]
    for at in range(len(content) - 200, len(content)):  # the directory of what is in it
        yield content[:at] + bytes([content[at] ^ 1 << rng.integers(8)]) + content[at + 1 :]


def test_whatever_is_damaged_is_set_aside_or_does_not_matter(tmp_path):
    entry = tmp_path / "entry.npz"
    runs._write(entry, STORED)
    aside, whole = 0, entry.read_bytes()
    for content in damaged(whole, 300):
        assert content != whole
        entry.write_bytes(content)
        found = runs._read(entry)
        if found is None:
            aside += 1
            assert entry.with_suffix(".damaged").read_bytes() == content
            assert not entry.exists()
        else:  # a date, say
            assert found.keys() == STORED.keys()
            assert all(np.array_equal(found[name], STORED[name]) for name in STORED)
    assert aside > 700


def done(task, state, save):
    """In place of `runs._train`: no training."""
    return {"weight_0": np.zeros(task.settings.seed * 1000), "seconds": np.array(0.0)}


def test_a_full_disk_is_told_in_a_line_and_keeps_what_was_done(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "_train", done)
    small, large = task(seed=1), task(seed=9)
    assert runs._work(small.name, small, tmp_path, False) == (small.name, None)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(UserError) as failure:
            runs._work(large.name, large, tmp_path, False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(failure.value).startswith(f"{tmp_path}: File too large; finished runs are kept")
    assert [path.name for path in tmp_path.iterdir()] == [f"{small.name}.npz"]
    assert runs._work(large.name, large, tmp_path, False) == (large.name, None)
    assert len(runs.finished(tmp_path)) == 2


def test_a_store_that_cannot_be_written_stops_the_study_and_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=f"{tmp_path}/file/runs: Not a directory; finished runs"):
        runs.run_all([task()], jobs=1, folder=tmp_path / "file" / "runs")
    (tmp_path / f"{task().name}.lock").mkdir()  # what only a worker meets
    with pytest.raises(UserError, match=f"{tmp_path}: Is a directory; finished runs are kept"):
        runs.run_all([task()], jobs=1, folder=tmp_path)


# -- looking after the store


def test_a_lock_is_held_by_one_and_leaves_nothing(tmp_path):
    path, order = tmp_path / "a.lock", []

    def hold(name):
        with runs._lock(path):
            order.append(name)
            time.sleep(0.05)
            order.append(name)

    threads = [threading.Thread(target=hold, args=(i,)) for i in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert order[::2] == order[1::2]
    assert sorted(order[::2]) == [0, 1, 2, 3, 4]
    assert list(tmp_path.iterdir()) == []


def test_the_store_tells_what_it_holds_and_finds_damage(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(config, "RUNS", tmp_path)
    first, second = task(training__epochs=0), task(seed=1, training__epochs=3)
    runs.run_all([first, second], jobs=1)
    assert main(["runs", "list", "--json"]) == 0
    listed = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert listed.keys() == {first.name, second.name}
    assert listed[second.name]["settings"]["training"]["epochs"] == 3
    assert listed[second.name]["last"]["step"] == 3
    assert listed[first.name]["last"] == {}
    assert main(["runs", "show", second.name[:8], "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == listed[second.name]
    assert main(["runs", "show", "no such"]) == 2
    assert "0 runs are called that" in capsys.readouterr().err
    assert main(["runs", "show"]) == 2
    assert "say which run" in capsys.readouterr().err

    entry = tmp_path / f"{first.name}.npz"
    content = bytearray(entry.read_bytes())
    content[len(content) // 2] ^= 1
    entry.write_bytes(content)
    assert main(["runs", "verify", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == {"whole": 1, "damaged": [first.name]}
    assert f"{first.name}.npz: damaged, set aside" in err


def test_pruning_takes_what_no_run_needs_and_nothing_else(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(config, "RUNS", tmp_path)
    useless = ("a.part.npz", "b.damaged", "c.tmp", "d.lock")
    kept = ["a.npz", "e.part.npz", "f.lock", "young.tmp"]
    for name in (*kept, *useless):
        (tmp_path / name).touch()
    os.utime(tmp_path / "c.tmp", (0, 0))
    with (tmp_path / "f.lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert main(["runs", "prune", "--json"]) == 0
    assert sorted(json.loads(capsys.readouterr().out)) == sorted(useless)
    assert sorted(path.name for path in tmp_path.iterdir()) == kept
