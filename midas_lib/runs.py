"""Trainings by name: each is done once, many at a time, and goes on where it was interrupted."""

import copy
import dataclasses
import functools
import json
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import as_completed
from pathlib import Path

import loky
import numpy as np
from tqdm import tqdm

from midas_lib import config, files, store
from midas_lib.config import Settings, UserError
from midas_lib.data import Examples

# Raise by one whenever the same settings and data would train to another result than before, or a
# default changes. The digest is of the sources and defaults that decide it: a test compares them.
TRAINING_VERSION = 4
TRAINING_DIGEST = "3526eb92ec19346e"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """One training to be done: `train.fit` on `examples`, then predictions. held_out: as in
    `train.fit`. start: the task with whose weights this one begins. origin: where a function stands
    for examples or held_out (called in this process when the task is trained, after its start), a
    text, for the name, that says what it makes them from. views: whether `held_out` is also
    predicted with test-time augmentation. tests: what the finished network alone sees."""

    settings: Settings
    examples: Examples | Callable[[], Examples]
    classes: int
    held_out: Examples | Callable[[], Examples] | None = None
    start: "Task | None" = None
    origin: str | None = None
    views: bool = False
    tests: dict[str, Examples] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def name(self) -> str:
        """What the run is filed under: 24 hex digits that all of the task and `TRAINING_VERSION`
        decide. A new setting whose default is as before renames no run. Raises ValueError where an
        origin is missing, or tells of nothing."""
        data = [self.examples, self.held_out]
        if any(map(callable, data)) != (self.origin is not None):
            raise ValueError("origin: say what examples are made from, if a function makes them")
        content = {
            "settings": config.changed(self.settings),
            "classes": self.classes,
            "data": [self.origin if callable(one) else one and one.digest for one in data],
            "start": self.start and self.start.name,
            "views": self.views,
            "tests": {name: examples.digest for name, examples in self.tests.items()},
            "version": TRAINING_VERSION,
        }
        return config.digest(content)[:24]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a finished run left. history, seconds: as `train.Run`. probabilities: of the held-out
    examples, float32 (n, classes), or None; views: the same with test-time augmentation; tests: by
    the tests' names. weights: in Keras' order. reused: whether it was found in the store."""

    history: dict[str, np.ndarray]
    probabilities: np.ndarray | None
    views: np.ndarray | None
    tests: dict[str, np.ndarray]
    weights: list[np.ndarray]
    seconds: float
    reused: bool


def run_all(
    tasks: list[Task], *, jobs: int | None = None, fresh: bool = False, folder: Path | None = None,
    label: str = "runs",
) -> list[Outcome]:  # fmt: skip
    """Do the tasks, each in a process of its own, `jobs` at a time (default: one a GPU, or one a
    core where there is none; never more than cores); or on the Dask cluster whose scheduler's
    address the environment variable SCHEDULER gives.

    label: what the line that tells of progress begins with. Finished runs come from the store
    `folder` (default `config.RUNS`), unless `fresh`. Starts are
    done first, those not among the tasks only where the store lacks them. A run that fails does not
    stop the others: afterwards `RuntimeError` tells each one's settings and error. Raises
    `UserError` when no scheduler is at that address, or the store cannot be read or written."""
    if jobs is not None and jobs < 1:
        raise UserError(f"JOBS={jobs}: give 1 or more")
    folder = Path(folder or config.RUNS)
    anew = {task.name for task in tasks} if fresh else set()
    found, todo, errors = {}, {}, {}

    def look_up(task):
        """Put the task in `found` if the store has it, else in `todo`, and its start before it."""
        if task and task.name not in found | todo:
            if task.name not in anew and (outcome := _load(folder, task.name)):
                found[task.name] = outcome
            else:
                look_up(task.start)
                todo[task.name] = task

    with store.on_disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for task in tasks:
            look_up(task)
    left = todo
    shown = {"desc": label, "unit": "run", "dynamic_ncols": True, "disable": not todo}
    with tqdm(total=len(todo), mininterval=1 if sys.stderr.isatty() else 60, **shown) as progress:
        while ready := {n: t for n, t in left.items() if not t.start or t.start.name in found}:
            left = {name: task for name, task in left.items() if name not in ready}
            calls = {name: _call(task, found) for name, task in ready.items()}
            if address := os.environ.get("SCHEDULER"):
                done = _on_cluster(calls, folder, address)
            else:
                done = _on_this_machine(calls, folder, jobs or _default_jobs(), anew)
            for name, error in done:
                progress.update()
                errors[name] = error
                if not error:
                    found[name] = dataclasses.replace(_load(folder, name), reused=False)
    if failed := [name for name in todo if name not in found]:
        lines = [f"{n} ({todo[n].settings}): {errors.get(n, 'its start failed')}" for n in failed]
        raise RuntimeError(f"{len(failed)} of {len(todo)} runs failed: " + "; ".join(lines))
    return [found[task.name] for task in tasks]


def _call(task: Task, found: dict[str, Outcome]) -> tuple[Task, list[np.ndarray] | None]:
    """What a worker is sent: the task with its examples but no start, and the start's weights."""
    weights = found[task.start.name].weights if task.start else None
    made = {name: value() for name, value in vars(task).items() if callable(value)}
    return dataclasses.replace(task, **made, origin=None, start=None), weights


def _default_jobs() -> int:
    """One a GPU that TensorFlow sees in a worker, as this process need not load it; or a core."""
    device = any(Path("/dev").glob("nvidia[0-9]*"))
    return (device and _workers(1).submit(_count_gpus).result()) or loky.cpu_count()


def _count_gpus() -> int:
    from midas_lib import train

    return len(train.gpus())


def _workers(count: int):
    """This process' worker processes."""
    return loky.get_reusable_executor(
        max_workers=count, initializer=_end_with, initargs=(os.getpid(),), timeout=300
    )


def _end_with(parent: int) -> None:
    """Let this worker end soon after its parent does, not only when its run is done."""

    def watch():
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _on_this_machine(calls: dict[str, tuple], folder: Path, jobs: int, anew: set[str]) -> Iterator:
    """Train in worker processes; yields each run's name, and what went wrong, as it ends."""
    # A worker that has grown is replaced after its run, which is no cause for alarm.
    warnings.filterwarnings("ignore", message="A worker stopped")
    executor = _workers(min(jobs, len(calls), loky.cpu_count()))
    try:
        futures = [executor.submit(_work, n, *c, folder, n in anew) for n, c in calls.items()]
        for future in as_completed(futures):
            yield future.result()
    except BaseException:
        executor.shutdown(wait=True, kill_workers=True)
        raise


def _on_cluster(calls: dict[str, tuple], folder: Path, address: str) -> Iterator:
    """The same on a Dask cluster, whose workers get each set of examples once."""
    at = f"SCHEDULER={address}"
    try:
        import distributed

        client = distributed.Client(address, timeout=10)
    except ImportError:
        raise UserError(f"{at}: no Dask here; pip install distributed") from None
    except (OSError, ValueError):
        raise UserError(f"{at}: no Dask scheduler answers; start one, or unset it") from None
    warnings.filterwarnings("ignore", message="Sending large graph")
    with client:

        def send(examples):  # once a key, as long as it is held; again where a worker was lost
            return examples and client.submit(copy.copy, examples, key=f"data-{examples.digest}")

        futures = {}  # the trainings', each with its data's, which are to be held as long
        for name, (task, weights) in calls.items():
            data = {"examples": send(task.examples), "held_out": send(task.held_out)}
            data["tests"] = {test: send(examples) for test, examples in task.tests.items()}
            bare = dataclasses.replace(task, **dict.fromkeys(data))
            futures[client.submit(_train_there, bare, weights, data, key=name)] = data
        for future in distributed.as_completed(futures):
            error = future.exception()
            if not error:
                with store.on_disk(folder):
                    store.write(folder / f"{future.key}.npz", future.result())
            yield future.key, error and repr(error)
            future.release()


def _train_there(task: Task, weights, data: dict) -> dict:
    """Train beside a Dask worker, not in it: there, other threads draw random numbers too."""
    return _workers(1).submit(_train, dataclasses.replace(task, **data), weights).result()


def _work(name: str, task: Task, weights, folder: Path, anew: bool) -> tuple[str, str | None]:
    """Train in a worker process, unless another process has done it meanwhile."""
    finished, partial = folder / f"{name}.npz", folder / f"{name}.part.npz"
    try:
        with store.on_disk(folder), files.lock(folder / f"{name}.lock"):
            if anew or not store.read(finished):
                state = None if anew else store.read(partial)
                save = functools.partial(store.write, partial)
                store.write(finished, _train(task, weights, state, save))
                partial.unlink(missing_ok=True)
    except UserError:  # other runs would fare no better
        raise
    except Exception as error:
        return name, repr(error)
    return name, None


def _train(task: Task, weights, state=None, save=None) -> dict[str, np.ndarray]:
    """Do one task, in a process of its own, as `train.fit`; returns what the store keeps of it."""
    with files.quiet():
        import keras  # in the worker, so that the parent need not load TensorFlow

        from midas_lib import train

        keras.backend.clear_session()  # or the last run's graphs stay in memory
        train.set_threads(task.settings.threads)
        train.take_gpu()
    run = train.fit(task.examples, task.classes, task.settings, task.held_out, weights, state, save)
    arrays = {f"history_{key}": np.array(values) for key, values in run.history.items()}
    arrays |= {f"weight_{i}": w for i, w in enumerate(run.model.get_weights())}
    arrays |= {f"test_{t}": train.predict(run.model, e) for t, e in task.tests.items()}
    if task.held_out is not None:
        arrays["probabilities"] = train.predict(run.model, task.held_out)
    if task.views:
        arrays["views"] = train.predict_views(run.model, task.held_out, task.settings.augmentation)
    settings = json.dumps(dataclasses.asdict(task.settings))
    return arrays | {"seconds": np.array(run.seconds), "settings": np.array(settings)}


def keep(name: str, weights: list[np.ndarray], notes: dict) -> None:
    """File a finished network, of which no more is known, in the store. notes: its checkpoint's,
    with "settings"."""
    arrays = {f"weight_{i}": weight for i, weight in enumerate(weights)}
    arrays["seconds"] = np.array(notes.get("seconds", np.nan))
    arrays["settings"] = np.array(json.dumps(notes["settings"]))
    with store.on_disk(config.RUNS):
        store.write(config.RUNS / f"{name}.npz", arrays)


def _load(folder: Path, name: str) -> Outcome | None:
    arrays = store.read(folder / f"{name}.npz")
    return arrays and Outcome(
        history=store.group(arrays, "history_"), tests=store.group(arrays, "test_"),
        probabilities=arrays.get("probabilities"), views=arrays.get("views"),
        weights=list(store.group(arrays, "weight_").values()),  # stored in their order
        seconds=float(arrays["seconds"]), reused=True,
    )  # fmt: skip
