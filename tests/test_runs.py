"""The run store: names, finished runs, damage, interruption, failure."""

import ast
import dataclasses
import fcntl
import functools
import hashlib
import inspect
import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import Future
from pathlib import Path

import loky
import numpy as np
import psutil
import pytest

from midas_lib import augment, config, losses, model, runs, store, train
from midas_lib.__main__ import main
from midas_lib.config import Network, Settings, Training, UserError, vary
from midas_lib.data import Examples

SMALL = Network(channels=(8, 16, 32), strides=(2, 2, 1))
SETTINGS = Settings(network=SMALL, training=Training(epochs=2, every=1))


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


def settled(condition, minutes=5):
    """Wait until a condition holds; a loaded machine gets minutes."""
    deadline = time.monotonic() + 60 * minutes
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_name_tells_all_that_decides_what_a_run_leaves(monkeypatch):
    plain = task()
    others = [
        task(seed=1),
        task(data=1),
        task(training__rate=0.1),
        *(
            dataclasses.replace(plain, **change)
            for change in (
                {"classes": 5},
                {"views": False},
                {"held_out": None},
                {"held_out": examples(4, 8)},
                {"start": task(seed=1)},
                {"start": task(seed=2)},
                {"start": dataclasses.replace(task(seed=1), start=plain)},
                {"tests": {"test": examples(4)}},
                {"tests": {"other": examples(4)}},
                {"tests": {"test": examples(4, 1)}},
                {"examples": examples, "origin": "noise"},
                {"examples": examples, "origin": "other noise"},
                {"held_out": examples, "origin": "noise"},
            )
        ),
    ]
    assert len({one.name for one in [plain, *others]}) == len(others) + 1
    assert task().name == plain.name
    monkeypatch.setattr(runs, "TRAINING_VERSION", runs.TRAINING_VERSION + 1)
    assert task().name != plain.name


def test_an_origin_is_told_for_a_function_and_only_for_one():
    for change in ({"examples": examples}, {"origin": "noise"}):
        with pytest.raises(ValueError, match="origin: say what examples are made from"):
            _ = dataclasses.replace(task(), **change).name


def essence(node):
    """What a piece of a program does: its syntax tree without docstrings, annotations and places,
    as nested lists; the same for all versions of Python."""
    if isinstance(node, list):
        return [essence(one) for one in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = dict(ast.iter_fields(node))
    documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
    if documented and ast.get_docstring(node, clean=False) is not None:
        fields["body"] = fields["body"][1:]
    silent = ("annotation", "returns", "ctx", "kind", "type_comment", "type_params")
    kept = {k: v for k, v in fields.items() if k not in silent and v is not None and v != []}
    return [type(node).__name__, *([key, essence(value)] for key, value in sorted(kept.items()))]


def test_what_decides_a_training_changes_with_its_version_alone():
    """Fails after a change to how networks are trained, or to a default."""
    decisive = [augment, losses, model, train]
    content = [
        runs.TRAINING_VERSION,
        [essence(ast.parse(inspect.getsource(one))) for one in decisive],
        dataclasses.asdict(Settings()),
        config.LOSSES,
    ]
    found = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
    assert found == runs.TRAINING_DIGEST, (
        "What decides a training's result has changed. Unless every result stays the same to the"
        f" last bit, raise runs.TRAINING_VERSION; then set runs.TRAINING_DIGEST to what this test"
        f' now finds, "{found}".'
    )


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("x = f(a, b)", "x = f(  # why\n    a,\n    b,\n)", True),
        ("def f(x): return x", 'def f(x: int) -> int:\n    """Doc."""\n    return x', True),
        ('x = f"{a!r:>3}"', "x = f'{a!r:>3}'", True),
        ("momentum = 0.9", "momentum = 0.99", False),
        ("def f(x=1): return x", "def f(x=2): return x", False),
        ("x = a - b", "x = b - a", False),
        ("x = 1", "x = 1.0", False),
    ],
)
def test_the_essence_of_a_program_is_what_it_does(one, other, alike):
    assert (essence(ast.parse(one)) == essence(ast.parse(other))) == alike


def test_only_what_differs_from_the_defaults_is_in_a_name():
    assert config.changed(Settings()) == {}
    settings = vary(Settings(), seed=3, training__rate=0.5, network__channels=(8, 16))
    assert config.changed(settings) == {
        "seed": 3,
        "training": {"rate": 0.5},
        "network": {"channels": (8, 16)},
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
    still = dataclasses.replace(
        task(seed=1, training__epochs=0),
        start=task(),
        tests={"held out": examples(4, 9), "others": examples(6, 3)},
    )
    (again,) = runs.run_all([still], jobs=1, folder=tmp_path)  # trains its start too
    (first,) = runs.run_all([task()], jobs=1, folder=tmp_path)
    assert first.reused
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
        slow = test_runs.task(training__epochs=200_000)
        test_runs.runs.run_all([slow], jobs=1, folder=Path({str(tmp_path)!r}))
    """)
    long = task(training__epochs=200_000)
    partial = tmp_path / f"{long.name}.part.npz"
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    settled(partial.exists)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert workers
    alive = psutil.wait_procs(workers, timeout=120)[1]
    # An orphan stays a zombie where the first process of a container reaps none.
    assert [one for one in alive if one.status() != psutil.STATUS_ZOMBIE] == []
    assert partial.exists()
    assert not (tmp_path / f"{long.name}.npz").exists()
    state = store.read(partial)
    assert 1 <= int(state["epochs"]) < 200_000
    assert len(state["history_loss"]) == int(state["epochs"])


def test_by_default_there_is_a_run_for_each_gpu_or_core(monkeypatch):
    monkeypatch.setattr(loky, "cpu_count", lambda: 3)
    monkeypatch.setattr(Path, "glob", lambda *_: iter(()))
    assert runs._default_jobs() == 3
    monkeypatch.setattr(Path, "glob", lambda *_: iter(("nvidia0",)))  # seen, or not, by TensorFlow
    for seen, jobs in ((2, 2), (0, 3)):
        monkeypatch.setattr(runs, "_count_gpus", functools.partial(int, seen))
        assert runs._default_jobs() == jobs


# -- what is trained, and in which order: without training


class Trainer:
    """In place of worker processes and of `runs._train`: notes what would be trained, and leaves
    weights that tell the seeds of the run and of its starts."""

    def __init__(self):
        self.trained, self.workers = [], []

    def submit(self, function, *arguments):
        future = Future()
        future.set_result(function(*arguments))
        return future

    def shutdown(self, **_):
        pass

    def workers_of(self, count):
        self.workers.append(count)
        return self

    def train(self, task, weights, state=None, save=None):
        seed = task.settings.seed
        self.trained.append(seed)
        assert task.start is None  # its own start's pictures would travel to the worker
        if seed == 99:
            raise ValueError("a bad seed")
        return {
            "weight_0": np.append([] if weights is None else weights[0], seed),
            "test_labels": task.examples.labels,
            "test_held out": task.held_out.labels,
            "seconds": np.array(0.0),
            "settings": np.array("{}"),
        }


@pytest.fixture
def trainer(monkeypatch):
    trainer = Trainer()
    monkeypatch.setattr(runs, "_workers", trainer.workers_of)
    monkeypatch.setattr(runs, "_train", trainer.train)
    return trainer


def chain(*seeds):
    """A task, which starts from another, and so on; the last seed's is the one returned."""
    last = None
    for seed in seeds:
        last = dataclasses.replace(task(seed=seed), start=last)
    return last


def seeds_of(outcome):
    return outcome.weights[0].tolist()


def test_starts_are_trained_first_and_once_and_found_again(trainer, tmp_path):
    tasks = [chain(1, 2, 3), chain(1, 2, 4), chain(5)]
    outcomes = runs.run_all(tasks, folder=tmp_path)
    assert list(map(seeds_of, outcomes)) == [[1, 2, 3], [1, 2, 4], [5]]
    assert not any(outcome.reused for outcome in outcomes)
    assert sorted(trainer.trained) == [1, 2, 3, 4, 5]
    order = list(map(trainer.trained.index, (1, 2, 3, 4)))
    assert order[0] < order[1] < min(order[2:])
    trainer.trained.clear()
    again = runs.run_all([chain(1, 2, 3), chain(1, 2)], folder=tmp_path)
    assert trainer.trained == []
    assert list(map(seeds_of, again)) == [[1, 2, 3], [1, 2]]
    assert all(outcome.reused for outcome in again)


def test_a_start_that_was_lost_is_trained_only_where_one_needs_it(trainer, tmp_path):
    runs.run_all([chain(1, 2)], folder=tmp_path)
    (tmp_path / f"{chain(1).name}.npz").write_bytes(b"damaged")
    trainer.trained.clear()
    runs.run_all([chain(1, 2)], folder=tmp_path)
    assert trainer.trained == []
    runs.run_all([chain(1, 3)], folder=tmp_path)
    assert trainer.trained == [1, 3]


def test_fresh_trains_what_is_listed_and_takes_other_starts_from_the_store(trainer, tmp_path):
    runs.run_all([chain(1, 2)], folder=tmp_path)
    trainer.trained.clear()
    (outcome,) = runs.run_all([chain(1, 2)], fresh=True, folder=tmp_path)
    assert trainer.trained == [2]
    assert not outcome.reused
    trainer.trained.clear()
    runs.run_all([chain(1, 2), chain(1), chain(1)], fresh=True, folder=tmp_path)
    assert trainer.trained == [1, 2]


def test_fresh_does_not_go_on_from_an_interrupted_run(trainer, tmp_path, monkeypatch):
    one, states = task(), []
    monkeypatch.setattr(
        runs, "_train", lambda task, weights, state, save: states.append(state) or STORED
    )
    partial = tmp_path / f"{one.name}.part.npz"
    for fresh, expected in ((False, {"epochs": 3}), (True, None)):
        store.write(partial, {"epochs": np.array(3)})
        (tmp_path / f"{one.name}.npz").unlink(missing_ok=True)
        runs.run_all([one], fresh=fresh, folder=tmp_path)
        assert states.pop() == expected
        assert not partial.exists()


def test_examples_are_made_after_the_start_and_only_for_a_training(trainer, tmp_path):
    made = []

    def recover():
        made.append(trainer.trained[:])
        return examples(6)

    late = dataclasses.replace(
        chain(1, 2), examples=recover, held_out=lambda: examples(5), origin="what 1 recovered"
    )
    (outcome,) = runs.run_all([late], folder=tmp_path)
    assert made == [[1]]
    np.testing.assert_array_equal(outcome.tests["labels"], examples(6).labels)
    assert outcome.tests["held out"].shape == (5,)
    runs.run_all([late], folder=tmp_path)
    assert made == [[1]]


def test_what_starts_from_a_failed_run_fails_and_the_rest_goes_on(trainer, tmp_path):
    with pytest.raises(RuntimeError) as failure:
        runs.run_all([chain(1, 99, 3, 4), chain(1, 2)], folder=tmp_path)
    told = str(failure.value)
    assert told.startswith("3 of 5 runs failed")
    assert "ValueError('a bad seed')" in told
    for lost in (chain(1, 99, 3), chain(1, 99, 3, 4)):
        assert f"{lost.name} ({lost.settings}): its start failed" in told
    assert trainer.trained == [1, 99, 2]
    assert runs.run_all([chain(1, 2)], folder=tmp_path)[0].reused


def test_there_are_no_more_workers_than_jobs_tasks_and_cores(trainer, tmp_path, monkeypatch):
    monkeypatch.setattr(loky, "cpu_count", lambda: 3)
    some = [task(seed=seed) for seed in range(5)]
    for tasks, jobs in ((some, 2), (some, 7), (some[:1], None), (some, None)):
        runs.run_all(tasks, jobs=jobs, fresh=True, folder=tmp_path)
    assert trainer.workers == [2, 3, 1, 3]


# -- damage, and disks that refuse

STORED = {
    "weight_0": np.arange(1500, dtype=np.float32).reshape(50, 30),
    "seconds": np.array(1.5),
    "settings": np.array("{}"),
}


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
    store.write(entry, STORED)
    aside, whole = 0, entry.read_bytes()
    for content in damaged(whole, 300):
        assert content != whole
        entry.write_bytes(content)
        found = store.read(entry)
        if found is None:
            aside += 1
            assert entry.with_suffix(".damaged").read_bytes() == content
            assert not entry.exists()
        else:  # a date, say
            assert found.keys() == STORED.keys()
            assert all(np.array_equal(found[name], STORED[name]) for name in STORED)
    assert aside > 700


@pytest.mark.parametrize("lacking", STORED)
def test_an_entry_that_is_whole_but_lacks_something_is_set_aside(tmp_path, lacking):
    entry = tmp_path / "entry.npz"
    rest = {name: array for name, array in STORED.items() if name != lacking}
    store.write(entry, rest)
    assert runs._load(tmp_path, "entry") is None
    assert entry.with_suffix(".damaged").exists()
    store.write(tmp_path / "entry.part.npz", rest)  # an interrupted run holds other things
    assert store.read(tmp_path / "entry.part.npz").keys() == rest.keys()


def test_an_entry_that_would_grow_is_set_aside(tmp_path):
    np.savez_compressed(tmp_path / "entry.npz", **STORED)
    assert store.read(tmp_path / "entry.npz") is None


def test_no_run_is_done_no_times_at_once(tmp_path):
    for jobs in (0, -1):
        with pytest.raises(UserError, match=f"JOBS={jobs}: give 1 or more"):
            runs.run_all([task()], jobs=jobs, folder=tmp_path)


def done(task, weights, state, save):
    """In place of `runs._train`: no training."""
    return STORED | {"weight_0": np.zeros(task.settings.seed * 1000)}


def test_a_full_disk_is_told_in_a_line_and_keeps_what_was_done(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "_train", done)
    small, large = task(seed=1), task(seed=9)
    assert runs._work(small.name, small, None, tmp_path, False) == (small.name, None)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(UserError) as failure:
            runs._work(large.name, large, None, tmp_path, False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(failure.value).startswith(f"{tmp_path}: File too large; finished runs are kept")
    assert [path.name for path in tmp_path.iterdir()] == [f"{small.name}.npz"]
    assert runs._work(large.name, large, None, tmp_path, False) == (large.name, None)
    assert len(store.finished(tmp_path)) == 2


def test_a_run_that_another_process_finished_meanwhile_is_not_done_again(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(runs, "_train", lambda *args: calls.append(args) or done(*args))
    one = task()
    for anew, count in ((False, 1), (False, 1), (True, 2)):
        runs._work(one.name, one, None, tmp_path, anew)
        assert len(calls) == count


def test_a_store_that_cannot_be_written_stops_the_study_and_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=f"{tmp_path}/file/runs: Not a directory; finished runs"):
        runs.run_all([task()], jobs=1, folder=tmp_path / "file" / "runs")
    (tmp_path / f"{task().name}.lock").mkdir()  # what only a worker meets
    with pytest.raises(UserError, match=f"{tmp_path}: Is a directory; finished runs are kept"):
        runs.run_all([task()], jobs=1, folder=tmp_path)


# -- looking after the store


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


def test_what_a_run_holds_is_told_without_reading_the_rest(tmp_path):
    entry = tmp_path / "entry.npz"
    settings = {"training": {"epochs": 1}}
    history = {"history_loss": np.array([2.0, 1.0])}
    store.write(entry, STORED | history | {"settings": np.array(json.dumps(settings))})
    content = entry.read_bytes()
    at = content.index(STORED["weight_0"].tobytes()) + 100
    entry.write_bytes(content[:at] + b"\xff" + content[at + 1 :])
    told = store.details(entry)
    assert (told["last"], told["seconds"]) == ({"loss": 1.0}, 1.5)
    assert (told["name"], told["settings"]) == ("entry", settings)
    with pytest.raises(UserError, match=r"entry\.npz: damaged, set aside"):
        store.details(entry, whole=True)
    assert not entry.exists()


def test_pruning_takes_what_no_run_needs_and_nothing_else(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(config, "RUNS", tmp_path)
    useless = ("a.part.npz", "b.damaged", "c.tmp", "d.lock")
    kept = ["a.npz", "e.part.npz", "f.lock", "young.tmp"]
    for name in (*kept, *useless):
        (tmp_path / name).touch()
    assert [path.name for path in store.finished()] == ["a.npz"]
    os.utime(tmp_path / "c.tmp", (0, 0))
    with (tmp_path / "f.lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert main(["runs", "prune", "--json"]) == 0
    assert sorted(json.loads(capsys.readouterr().out)) == sorted(useless)
    assert sorted(path.name for path in tmp_path.iterdir()) == kept
