"""The run store: what finished and interrupted trainings left on disk, a file of arrays each."""

import contextlib
import datetime
import errno
import io
import json
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from midas_lib import config, files
from midas_lib.config import UserError

NEEDED = {"weight_0", "seconds", "settings"}  # of what every finished run holds


def read(path: Path, prefixes: tuple[str, ...] = ("",)) -> dict[str, np.ndarray] | None:
    """An entry's arrays whose names begin so, each verified by its checksum; None where there is no
    entry. A damaged one, or one that lacks what a finished run has, is set aside, under the suffix
    ".damaged", and counts as none."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    with file:
        try:
            with zipfile.ZipFile(file) as archive:
                if any(info.compress_type for info in archive.infolist()):
                    raise zipfile.BadZipFile("packed, so that it may grow without end")
                names = [name.removesuffix(".npy") for name in archive.namelist()]
                # To its end, where the checksum is compared, before anything believes what it says.
                wanted = [name for name in names if name.startswith(prefixes)]
                stored = {name: archive.read(f"{name}.npy") for name in wanted}
            file.seek(-12, io.SEEK_END)  # the end record says how many members there were
            complete = ".part" in path.suffixes or set(names) >= NEEDED
            if not complete or len(names) != int.from_bytes(file.read(2), "little"):
                raise zipfile.BadZipFile("members are missing")
            return {name: np.load(io.BytesIO(content)) for name, content in stored.items()}
        except Exception as error:  # damage trips zipfile and numpy up in many ways
            if isinstance(error, OSError) and error.errno != errno.EINVAL:  # a damaged offset
                raise
    with contextlib.suppress(FileNotFoundError):  # another process was faster
        path.replace(path.with_suffix(".damaged"))
    return None


def write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Make or replace an entry, as a whole or not at all."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    files.write(path, buffer.getvalue())


def group(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The arrays whose names begin so, in their order, under the rest of their names."""
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


@contextlib.contextmanager
def on_disk(folder: Path) -> Iterator[None]:
    """Tells the user what the disk refuses."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{folder}: {reason}; finished runs are kept, mend it and go on") from None


def finished(folder: Path | None = None) -> list[Path]:
    """The store's finished runs (default store: `config.RUNS`), oldest first."""
    found = [p for p in Path(folder or config.RUNS).glob("*.npz") if ".part" not in p.suffixes]
    return sorted(found, key=lambda path: path.stat().st_mtime)


def details(path: Path, whole: bool = False) -> dict:
    """What a finished run holds: name, date, seconds of training, bytes, settings, and the last
    entry of each metric in its history. Only these are read and verified, unless `whole`. Raises
    `UserError` for a damaged run, which is set aside."""
    stat = path.stat()
    arrays = read(path, ("",) if whole else ("history_", "seconds", "settings"))
    if arrays is None:
        raise UserError(f"{path.name}: damaged, set aside; its study will train it anew")
    date = datetime.datetime.fromtimestamp(stat.st_mtime, datetime.UTC)
    return {
        "name": path.stem,
        "date": f"{date:%Y-%m-%d %H:%M} UTC",
        "seconds": float(arrays["seconds"]),
        "bytes": stat.st_size,
        "settings": json.loads(str(arrays["settings"])),
        # Nothing of a network that was not trained, only asked.
        "last": {k: float(v[-1]) for k, v in group(arrays, "history_").items() if len(v)},
    }


def prune(folder: Path | None = None) -> list[Path]:
    """Remove and return what no run needs: damaged entries, temporary files an hour old (a younger
    one may be in the making), locks that nobody holds, and states of runs finished since."""
    folder = Path(folder or config.RUNS)
    states, leftovers = folder.glob("*.part.npz"), [*folder.glob("*.damaged")]
    leftovers += (p for p in states if (folder / p.name.replace(".part", "")).exists())
    for path in folder.glob("*.tmp"):
        with contextlib.suppress(FileNotFoundError):  # it was in the making, and is made
            if time.time() - path.stat().st_mtime > 3600:
                leftovers.append(path)
    for path in leftovers:
        path.unlink(missing_ok=True)
    for path in folder.glob("*.lock"):
        with contextlib.suppress(BlockingIOError), files.lock(path, wait=False):
            leftovers.append(path)  # removed with the lock on it
    return leftovers
