"""Results files: what a study found, where that lies, and where it came from.

A part has three files beside each other. `partN.csv` is the table of its finished runs, a row each;
`partN.npz` holds curves and the pictures that figures need; `partN.json` holds all else and the
digests of the other two, which are read only as they were written with it.
"""

import dataclasses
import datetime
import hashlib
import importlib.metadata
import io
import json
import math
import os
import platform
import re
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

from midas_lib import config, files
from midas_lib.analysis import Interval
from midas_lib.config import UserError

PARTS = {
    1: ("Part 1: characters", "How well can a network learn 62 characters from 40 images each?"),
    2: ("Part 2: transfer", "Does a start from part 1's digits help on MNIST?"),
    3: ("Part 3: wrong labels", "What is wrong with this dataset, and can one learn from it?"),
}
BENCH = "bench"  # what is no part, but has a page and results like one
PACKAGES = ("tensorflow", "keras", "numpy", "opencv-python-headless")
COLUMNS = {"arm", "seed", "digest"}  # that every part's table has
KINDS = dict.fromkeys(("data", "machine", "versions", "files"), dict)
KINDS |= dict.fromkeys(("profile", "finding"), str)  # of what every page shows
HEADLINE = {"arm", "metric", "mean", "low", "high", "n"}


@dataclasses.dataclass(frozen=True)
class Results:
    """What was read from results files. info: the JSON; table: a row a run; path: the JSON's."""

    info: dict
    table: pd.DataFrame
    arrays: dict[str, np.ndarray]
    path: Path


def provenance(profile: str, sources: dict) -> dict:
    """What a results file says about its origin: `profile`, `data`, `versions`, `commit` ("-dirty"
    when tracked files other than results differ, "unknown" outside git), `machine` (no host names)
    and `date` (UTC). `sources`: archive's name -> anything with `.source` and `.digest`."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {
        "profile": config.check_profile(profile),
        "data": {k: {"source": v.source, "digest": v.digest} for k, v in sources.items()},
        "versions": {"python": platform.python_version()} | versions,
        "commit": _commit(),
        "machine": _machine(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _commit() -> str:
    if not (config.ROOT / ".git").exists():  # an unpacked archive, perhaps inside another project
        return "unknown"
    git, said = ["git", "-C", config.ROOT], {"text": True, "stderr": subprocess.DEVNULL}
    changes = "status --porcelain -uno -- . :!executed :!checkpoints"
    try:
        commit = subprocess.check_output([*git, "rev-parse", "HEAD"], **said).strip()
        return commit + "-dirty" * bool(subprocess.check_output([*git, *changes.split()], **said))
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _machine() -> dict:
    cpuinfo = Path("/proc/cpuinfo")  # Linux's, which tells more than Python knows
    named = re.search(r"(?m)^model name\s*: (.+)", cpuinfo.read_text() if cpuinfo.exists() else "")
    return {
        "cpu": named[1] if named else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
    }


def is_standin(info: dict) -> bool:
    """Whether any archive behind these results was drawn by the program."""
    return any(archive.get("source") == "stand-in" for archive in info.get("data", {}).values())


def pages_folder(profile: str) -> Path:
    """The folder of a profile's pages; the full profile's is the published one."""
    folder = config.ROOT / "executed"
    return folder if config.check_profile(profile) == "full" else folder / profile


def is_published(info: dict) -> bool:
    """Whether results belong to the published ones: the full profile on the real archives."""
    sources = {archive["source"] for archive in info["data"].values()}
    return info["profile"] == "full" and bool(sources) and sources <= {"original", "mirror"}


def _folder(info: dict) -> Path:
    """Where results belong."""
    folder = config.ROOT / "executed"
    return folder if is_published(info) else folder / info["profile"]


def stem(part: int | str) -> str:
    """How the files of a part, or of the `BENCH`, are called."""
    return part if part == BENCH else f"part{part}"


def _json(folder: Path, part: int | str) -> Path:
    return folder / "results" / f"{stem(part)}.json"


def exists(part: int | str, profile: str) -> bool:
    """Whether there are results of that profile to draw a page from."""
    return _json(pages_folder(profile), part).exists()


def checkpoint_path(info: dict, part: int, name: str) -> Path:
    """Where a part's network is kept: `checkpoints/partN/` for published results, else with the
    profile's other runs in the run store."""
    published = config.ROOT / "checkpoints"
    folder = published if is_published(info) else config.RUNS / info["profile"]
    return folder / f"part{part}" / f"{name}.keras"


def relative(path: Path) -> str:
    """A path as results name it: from the checkout's folder, with slashes."""
    return path.relative_to(config.ROOT).as_posix()


def write(info: dict, part: int | str, table: pd.DataFrame | None = None, arrays=None) -> Path:
    """Write a part's results files, or the `BENCH`'s, and return the JSON's path. `info`: a
    `provenance` with whatever was found; in the JSON, dataclasses are objects and numbers that are
    not finite null. `table`: a row for each finished run; None and nan are empty cells. `arrays`:
    name -> array. The folder is that of the profile's pages, unless that is the published one and
    the data are not. Raises `ValueError` for a part whose table lacks any of `COLUMNS`, or whose
    "headline" has other fields than `HEADLINE`."""
    path, contents = _json(_folder(info), part), {}
    if arrays:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **arrays)
        contents["npz"] = buffer.getvalue()
    if part != BENCH:
        missing = COLUMNS - set(() if table is None else table.columns)
        if missing or set(info.get("headline", HEADLINE)) != HEADLINE:
            raise ValueError(f"part {part}: no {missing or 'headline as it should be'}")
        contents["csv"] = table.to_csv(index=False, lineterminator="\n").encode()
    for kind, content in contents.items():
        files.write(path.with_suffix(f".{kind}"), content)
    for kind in {"npz", "csv"} - contents.keys():
        path.with_suffix(f".{kind}").unlink(missing_ok=True)
    digests = {kind: hashlib.sha256(content).hexdigest() for kind, content in contents.items()}
    return annotate(Results(info, table, arrays, path), part=part, files=digests).path


def annotate(found: Results, **fields) -> Results:
    """The results with these fields in their JSON as well, which is written anew."""
    found = dataclasses.replace(found, info=found.info | fields)
    text = json.dumps(plain(found.info), indent=1, sort_keys=True, allow_nan=False)
    files.write(found.path, (text + "\n").encode())
    return found


def plain(value):
    """`value` as JSON has it: Python's own types, and None for what is not finite."""
    if dataclasses.is_dataclass(value):
        return plain(dataclasses.asdict(value))
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def read(part: int | str, profile: str = "full") -> Results:
    """The results of a part, or of the `BENCH`; `profile` "full" means the published ones. Raises
    `UserError` when there are none or a file is damaged."""
    path = _json(pages_folder(profile), part)
    if not path.exists():
        raise UserError(f"{path}: no such results; make {stem(part)} PROFILE={profile}")
    return read_file(path)


def written(part: int, info: dict) -> Results | None:
    """A part's results that stand where those that `info` tells of belong; None if there are none,
    or, with a warning, if they are damaged."""
    path = _json(_folder(info), part)
    try:
        return read_file(path) if path.exists() else None
    except UserError as error:
        warnings.warn(str(error), stacklevel=2)
        return None


def other(part: int, info: dict) -> Results | None:
    """Another part's results of the same kind, to compare with; None where there are none, or they
    were made from other data."""
    found, ours = written(part, info), info["data"]
    theirs = found.info.get("data", {}) if found else {}
    shared = theirs.keys() & ours.keys()
    same = all(theirs[name].get("digest") == ours[name]["digest"] for name in shared)
    return found if shared and same else None


def read_file(path: Path) -> Results:
    """The results whose JSON lies at `path`. Raises `UserError` unless all files are those that
    were written together, whole."""
    info, table, arrays = read_info(path), pd.DataFrame(), {}
    wanted = {} if info.get("part") == BENCH else {"csv": None}
    for kind, digest in (wanted | info.get("files", {})).items():
        file = path.with_suffix(f".{kind}")
        content = files.read(file) if file.exists() else b""
        if hashlib.sha256(content).hexdigest() != digest:
            raise UserError(f"{file}: not as it was written with {path.name}; make it anew")
        if kind == "npz":
            arrays = files.read_npz(file)
        else:
            cells = {"keep_default_na": False, "na_values": [""]}  # "none" and "NA" are names
            table = pd.read_csv(io.BytesIO(content), dtype={"arm": str, "digest": str}, **cells)
            if missing := COLUMNS - set(table.columns):
                raise UserError(f"{file}: has no {', '.join(sorted(missing))}; make it anew")
    return Results(info, table, arrays, path)


def read_info(path: Path) -> dict:
    """A results file's JSON, intervals as `Interval`s. Raises `UserError` when it is none, or what
    every page shows is not of the kind it has to be."""
    try:
        info = json.loads(files.read(path), object_hook=_revived)
        odd = [name for name, kind in KINDS.items() if not isinstance(info.get(name, kind()), kind)]
        said = [entry for archive in info.get("data", {}).values() for entry in archive.items()]
        odd += [name for name, value in said if not isinstance(value, str | None)]
        if odd:
            raise ValueError(f"{', '.join(odd)}: not what it has to be")
    except (ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: not a results file ({error}); make it anew") from None
    return info


def _revived(value: dict):
    """An object with the fields of an `Interval` as one; null stands for nan."""
    if value.keys() != {"mean", "low", "high", "n"}:
        return value
    return Interval(**{name: math.nan if one is None else one for name, one in value.items()})
