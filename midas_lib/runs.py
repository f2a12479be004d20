"""The run store: every training has a name, is done once, and goes on where it was interrupted."""

import contextlib
import dataclasses
import datetime
import fcntl
import io
import json
import os
import tempfile
import threading
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import as_completed
from pathlib import Path

import numpy as np
from joblib.externals.loky import get_reusable_executor
from tqdm import tqdm

from midas_lib import config
from midas_lib.config import Settings, UserError
from midas_lib.data import Examples, array_digest

# Raise by one whenever the same settings and data would train to another result than before, or a
# default changes.
TRAINING_VERSION = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """One training to be done: `train.fit` on `examples`, then predictions.

    held_out, start: as in `train.fit`. views: whether `held_out` is also predicted with test-time
    augmentation. tests: examples, by name, that the finished network alone gets to see.
    """

    settings: Settings
    examples: Examples
    classes: int
    held_out: Examples | None = None
    start: tuple[np.ndarray, ...] | None = None
    views: bool = False
    tests: dict[str, Examples] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        """What the run is filed under: 24 hex digits of its settings', data's and
        `TRAINING_VERSION`'s digest. A new setting whose default is as before renames no run."""
        held_out = [] if self.held_out is None else [self.held_out]
        content = {
            "settings": config.changed(self.settings),
            "classes": self.classes,
            "data": [array_digest(s.pictures, s.labels) for s in [self.examples, *held_out]],
            "start": None if self.start is None else array_digest(*self.start),
            "views": self.views,
            "tests": {n: array_digest(s.pictures, s.labels) for n, s in self.tests.items()},
            "version": TRAINING_VERSION,
        }
        return config.digest(content)[:24]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a finished run left.

    history: as `train.Run`. probabilities: of the held-out examples, float32 (n, classes), or None;
    views: the same with test-time augmentation. tests: probabilities by the tests' names. weights:
    the network's, in Keras' order. seconds: training time. reused: whether it was found in the
    store.
    """

    history: dict[str, np.ndarray]
    probabilities: np.ndarray | None
    views: np.ndarray | None
    tests: dict[str, np.ndarray]
    weights: list[np.ndarray]
    seconds: float
    reused: bool


def run_all(
    tasks: list[Task], *, jobs: int | None = None, fresh: bool = False, folder: Path | None = None
) -> list[Outcome]:
    """Do the tasks, `jobs` at a time (default: one a GPU, or one a core where there is none), each
    in a process of its own; or on the Dask cluster whose scheduler's address the environment
    variable SCHEDULER gives.

    Finished runs come from the store `folder` (default `config.RUNS`), unless `fresh`; of two
    tasks with one name, the second is the first's result. A run that fails does not stop the
    others: afterwards `RuntimeError` tells each one's settings and error. Raises `UserError` when
    there is no scheduler at that address, or the store cannot be read or written.
    """
    folder = Path(folder or config.RUNS)
    names = [task.name for task in tasks]
    with _on_disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
        found = {} if fresh else {n: o for n in set(names) if (o := _load(folder / f"{n}.npz"))}
    todo = {name: task for name, task in zip(names, tasks, strict=True) if name not in found}
    if todo:
        address = os.environ.get("SCHEDULER")
        if address:
            done = _on_cluster(todo, folder, address)
        else:
            done = _on_this_machine(todo, folder, jobs or _default_jobs(), fresh)
        errors = dict(tqdm(done, total=len(todo), desc="runs", mininterval=20))
        errors = {name: error for name, error in errors.items() if error}
        if errors:
            lines = [f"{name} ({todo[name].settings}): {error}" for name, error in errors.items()]
            raise RuntimeError(f"{len(errors)} of {len(todo)} runs failed: " + "; ".join(lines))
        for name in todo:
            outcome = _load(folder / f"{name}.npz")
            found[name] = dataclasses.replace(outcome, reused=False)
    return [found[name] for name in names]


def finished(folder: Path | None = None) -> list[Path]:
    """The store's finished runs, oldest first."""
    found = [p for p in Path(folder or config.RUNS).glob("*.npz") if ".part" not in p.suffixes]
    return sorted(found, key=lambda path: path.stat().st_mtime)


def details(path: Path) -> dict:
    """What a finished run holds: name, date, seconds of training, bytes, settings, and the last
    entry of each metric in its history. Raises `UserError` for a damaged one, which is set aside.
    """
    date = datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.UTC)
    size, arrays = path.stat().st_size, _read(path)
    if arrays is None:
        raise UserError(f"{path.name}: damaged, set aside; its study will train it anew")
    return {
        "name": path.stem,
        "date": date.strftime("%Y-%m-%d %H:%M UTC"),
        "seconds": float(arrays["seconds"]),
        "bytes": size,
        "settings": json.loads(str(arrays["settings"])),
        "last": {
            name.removeprefix("history_"): float(values[-1])
            for name, values in arrays.items()
            if name.startswith("history_") and len(values)  # a start may be only looked at
        },
    }


def prune(folder: Path | None = None) -> list[Path]:
    """Remove what no run needs: damaged entries, temporary files an hour old (a younger one may be
    in the making), locks that nobody holds, and states of runs that were finished since. Returns
    what was removed."""
    folder = Path(folder or config.RUNS)
    leftovers = list(folder.glob("*.damaged"))
    for path in folder.glob("*.tmp"):
        with contextlib.suppress(FileNotFoundError):  # it was in the making, and is made
            if time.time() - path.stat().st_mtime > 3600:
                leftovers.append(path)
    for state in folder.glob("*.part.npz"):
        if (folder / state.name.replace(".part", "")).exists():
            leftovers.append(state)
    for path in folder.glob("*.lock"):
        with path.open("r+") as file, contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            leftovers.append(path)
    for path in leftovers:
        path.unlink(missing_ok=True)
    return leftovers


def _default_jobs() -> int:
    """One run for each GPU that TensorFlow sees, or for each core. A worker is asked, as this
    process need not load TensorFlow, and only where there is a device to be seen."""
    if any(Path("/dev").glob("nvidia[0-9]*")):
        return _workers(1).submit(_count_gpus).result() or os.cpu_count()
    return os.cpu_count()


def _count_gpus() -> int:
    from midas_lib import train

    return len(train.gpus())


def _workers(count: int):
    """This process' worker processes."""
    return get_reusable_executor(
        max_workers=count, initializer=_end_with, initargs=(os.getpid(),), timeout=300
    )


def _end_with(parent: int) -> None:
    """Let this worker end soon after its parent does, however that ends: a worker would look up
    only when its run, which may take minutes, is done."""

    def watch():
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _on_this_machine(
    todo: dict[str, Task], folder: Path, jobs: int, fresh: bool
) -> Iterator[tuple[str, str | None]]:
    """Do the tasks in worker processes; yields each one's name, and what went wrong, as it ends."""
    # A worker that has grown is replaced after its run, which is no cause for alarm.
    warnings.filterwarnings("ignore", message="A worker stopped")
    executor = _workers(jobs)
    try:
        calls = [executor.submit(_work, name, task, folder, fresh) for name, task in todo.items()]
        for call in as_completed(calls):
            yield call.result()
    except BaseException:
        executor.shutdown(wait=True, kill_workers=True)
        raise


def _on_cluster(
    todo: dict[str, Task], folder: Path, address: str
) -> Iterator[tuple[str, str | None]]:
    """The same on a Dask cluster, whose workers get each set of examples once."""
    try:
        import distributed
    except ImportError:
        raise UserError(
            f"SCHEDULER={address}: a cluster takes more packages; install requirements-cluster.txt"
        ) from None
    try:
        client = distributed.Client(address, timeout=10)
    except (OSError, ValueError):
        raise UserError(
            f"SCHEDULER={address}: no Dask scheduler answers there; start one, or unset SCHEDULER"
        ) from None
    warnings.filterwarnings("ignore", message="Sending large graph")
    with client:
        sent = {}

        def send(examples):
            if examples is None:
                return None
            digest = array_digest(examples.pictures, examples.labels)
            if digest not in sent:
                # As a task, not scattered: the scheduler can do it again when a worker is lost.
                sent[digest] = client.submit(_itself, examples, key=f"examples-{digest}")
            return sent[digest]

        calls = [
            client.submit(
                _train_there,
                dataclasses.replace(task, examples=None, held_out=None, tests={}),
                send(task.examples),
                send(task.held_out),
                {test: send(examples) for test, examples in task.tests.items()},
                key=name,
            )
            for name, task in todo.items()
        ]
        for call in distributed.as_completed(calls):
            if call.status == "finished":
                with _on_disk(folder):
                    _write(folder / f"{call.key}.npz", call.result())
                yield call.key, None
            else:
                yield call.key, _described(call.exception())
            call.release()


def _itself(value):
    return value


def _train_there(task: Task, examples: Examples, held_out: Examples | None, tests: dict) -> dict:
    """Do a task beside a Dask worker, not in it: there, other threads draw random numbers too."""
    task = dataclasses.replace(task, examples=examples, held_out=held_out, tests=tests)
    return _workers(1).submit(_train, task).result()


def _work(name: str, task: Task, folder: Path, fresh: bool) -> tuple[str, str | None]:
    """Do one task in a worker process, unless another process has done it meanwhile."""
    finished, partial = folder / f"{name}.npz", folder / f"{name}.part.npz"
    try:
        with _on_disk(folder), _lock(folder / f"{name}.lock"):
            if not fresh and _load(finished):
                return name, None
            state = None if fresh else _read(partial)
            _write(finished, _train(task, state, lambda state: _write(partial, state)))
            partial.unlink(missing_ok=True)
    except UserError:  # other runs would fare no better
        raise
    except Exception as error:
        return name, _described(error)
    return name, None


def _described(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _train(
    task: Task, state: dict | None = None, save: Callable[[dict], None] | None = None
) -> dict[str, np.ndarray]:
    """Do one task in a process of its own; returns what the store keeps of it."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras  # in the worker, so that the parent need not load TensorFlow

    from midas_lib import train

    keras.backend.clear_session()  # or the last run's graphs stay in memory
    train.set_threads(task.settings.threads)
    train.take_gpu()
    run = train.fit(
        task.examples, task.classes, task.settings, task.held_out, task.start, state, save
    )
    arrays = {f"history_{key}": np.array(values) for key, values in run.history.items()}
    arrays |= {f"weight_{i}": w for i, w in enumerate(run.model.get_weights())}
    if task.held_out is not None:
        arrays["probabilities"] = train.predict(run.model, task.held_out)
    if task.views:
        arrays["views"] = train.predict_views(run.model, task.held_out, task.settings.augmentation)
    for test, examples in task.tests.items():
        arrays[f"test_{test}"] = train.predict(run.model, examples)
    arrays["seconds"] = np.array(run.seconds)
    arrays["settings"] = np.array(json.dumps(dataclasses.asdict(task.settings)))
    return arrays


def _load(path: Path) -> Outcome | None:
    arrays = _read(path)
    if arrays is None:
        return None
    count = sum(key.startswith("weight_") for key in arrays)

    def group(prefix):
        return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}

    return Outcome(
        history=group("history_"),
        probabilities=arrays.get("probabilities"),
        views=arrays.get("views"),
        tests=group("test_"),
        weights=[arrays[f"weight_{i}"] for i in range(count)],
        seconds=float(arrays["seconds"]),
        reused=True,
    )


def _read(path: Path) -> dict[str, np.ndarray] | None:
    """An entry's arrays, each verified by the archive's checksum; a damaged entry is set aside."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            # To its end, where the checksum is compared, before anything believes what it says.
            stored = {name: archive.read(name) for name in archive.namelist()}
        if len(stored) != int.from_bytes(content[-12:-10], "little"):  # of the archive's end record
            raise zipfile.BadZipFile("members are missing")
        return {name.removesuffix(".npy"): np.load(io.BytesIO(c)) for name, c in stored.items()}
    except Exception:  # damage trips zipfile and numpy up in many ways
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            path.replace(path.with_suffix(".damaged"))
        return None


def _write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
        try:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
            os.replace(file.name, path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def _on_disk(folder: Path) -> Iterator[None]:
    """Tells the user what the disk refuses."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{folder}: {reason}; finished runs are kept, mend it and go on") from None


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Held by one process at a time; released by the system when the process ends, however."""
    while True:
        with path.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not _is_at(path, file):  # whoever held it before has removed it
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _is_at(path: Path, file) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
