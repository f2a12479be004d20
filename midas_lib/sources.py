"""Get an archive: local folder, mirror, built-in URLs, stand-in; and verify it.

Archives are recognised by a digest of their content, so a repacked one, or one with system files
inside, is still the same.
"""

import contextlib
import functools
import hashlib
import io
import json
import os
import shutil
import socket
import sys
import tempfile
import threading
import time
import urllib.request
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pooch
from tqdm import tqdm

from midas_lib import config, files, standin
from midas_lib.files import UnreadableError

CONNECT_SECONDS, READ_SECONDS = 5, 20
ATTEMPTS, PAUSE_SECONDS = 3, 1  # for a host that answers, but with a passing error
SLOW_SECONDS, SLOWEST = 30, 1000  # bytes/s over such a time, or a server is given up
NPZ = "mnist.npz"  # MNIST as Keras packs it


class UnavailableError(UnreadableError):
    """A source did not deliver."""


@dataclass(frozen=True, kw_only=True)
class Archive:
    """What is known about one archive. files: its file names. digest: of the real content. urls:
    (provenance, URL) pairs, in order; one ending in "/" is a folder with the files, one ending in
    the file's name is the file, any other a zip or npz that holds the content in another form.
    members: what the names of the zip members that matter end in, from the folder `top` on."""

    files: list[str]
    digest: str
    urls: list[tuple[str, str]]
    members: str = ""
    top: str = ""


@dataclass(frozen=True, kw_only=True)
class Source:
    """An archive at hand: its key, where the content comes from ("original", "mirror", "stand-in",
    or "unrecognised" where it is not the known one), its digest, and its files."""

    name: str
    source: str
    digest: str
    paths: tuple[Path, ...]


ARCHIVES = {name: Archive(**known) for name, known in config.read_table("archives").items()}


def fetch(name: str, profile: str = "standard") -> Source:
    """Return the archive `name` ("characters", "mislabelled" or "mnist"), fetched if need be.

    In order: the files in `config.data_dir`, `config.mirror`, the URLs of `ARCHIVES`, and the drawn
    stand-in, which goes to `standin/<profile>` in the former; if `config.standin_wanted`, straight
    to that. What the URLs give is taken only if it is the known content; other content in folder or
    mirror is used with a warning. In these two, MNIST may have other names, see `_adopt`.
    `<name>.source.json`, beside the files, notes provenance and digest: a file is verified once.

    Raises `UserError` if an archive of the user's cannot be read, the mirror is not there or holds
    no archive at all, the folder cannot be written, or nothing was found and `profile` is "full" or
    there is a mirror: neither is content with the stand-in."""
    config.check_profile(profile)
    folder, mirror = config.data_dir(), config.mirror()
    if mirror and mirror.startswith("file:"):
        mirror = urllib.request.url2pathname(urlsplit(mirror).path)
    places = [("mirror", mirror)] if mirror else []
    places += ARCHIVES[name].urls
    if not config.standin_wanted():
        try:
            return _complete(name, folder, lambda staging: _find(name, places, mirror, staging))
        except UnavailableError as error:
            lacking = ", ".join(path.name for path in _missing(name, folder))
            tried = f"{folder}: no {lacking}{error.reason}"
        if profile == "full" or mirror:
            raise config.UserError(
                f"{', '.join(ARCHIVES[name].files)} not found ({tried}). Get it by hand and put it"
                f" into {folder}, or set MIRROR to a folder or URL that has it; PROFILE=full, or a"
                " MIRROR, goes without the drawn stand-in, unless STANDIN=1 asks for it"
            )
        reason = f"using the drawn stand-in, not the real data ({tried})"
        warnings.warn(f"{name}: {reason}", stacklevel=2)
    drawn = folder / "standin" / profile
    return _complete(name, drawn, lambda staging: _draw(name, profile, staging), "stand-in")


def read_members(path: str | Path, name: str) -> Iterator[tuple[str, bytes]]:
    """Yield (member name, content) of what matters in the zip `name`, sorted, under the canonical
    names (`train/SampleCCC/...`, `mnistTask/D/...`), wherever these folders lie in it. Raises as
    `files.read_members`."""
    return files.read_members(path, ARCHIVES[name].members, ARCHIVES[name].top)


def content_digest(name: str, folder: Path) -> str:
    """Digest of what the archive `name` in `folder` holds, however it is packed. SHA-256 (hex) of
    what `sha256sum` prints for the unpacked members, sorted by name, or for the uncompressed idx
    files. Raises `UnreadableError`, as the functions that read do."""
    archive = ARCHIVES[name]
    if archive.members:
        contents = read_members(folder / archive.files[0], name)
    else:
        arrays = [files.read_idx(folder / file) for file in archive.files]
        for i in (0, 2):
            if arrays[i].ndim != 3 or arrays[i + 1].shape != arrays[i].shape[:1]:
                reason = f"does not go with {archive.files[i + 1]}; replace both"
                raise UnreadableError(folder / archive.files[i], reason)
        named = zip(archive.files, arrays, strict=True)
        contents = sorted((file.removesuffix(".gz"), files.idx_bytes(a)) for file, a in named)
    lines = [f"{hashlib.sha256(content).hexdigest()}  {member}\n" for member, content in contents]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _missing(name: str, folder: Path) -> list[Path]:
    return [folder / file for file in ARCHIVES[name].files if not (folder / file).exists()]


def _complete(name: str, folder: Path, get, provenance: str = "original") -> Source:
    """What lies in `folder`; missing files come from the folder that `get`, which returns their
    provenance, puts them into. `provenance` is that of known content without a note."""
    if not _missing(name, folder):
        return _identify(name, folder, provenance)
    with _staging(folder) as staging:
        if missing := _missing(name, folder):  # else fetched meanwhile by another process
            provenance = get(staging)
            for path in missing:
                os.replace(staging / path.name, path)
        return _identify(name, folder, provenance)


def _identify(name: str, folder: Path, provenance: str) -> Source:
    archive = ARCHIVES[name]
    paths = tuple(folder / file for file in archive.files)
    stamps = {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in paths}
    note = folder / f"{name}.source.json"
    try:
        noted = json.loads(note.read_text())
        if noted["files"] != stamps:
            raise ValueError("of other files")
        provenance, found = noted["source"], noted["digest"]
    except (OSError, ValueError, KeyError, TypeError):
        try:
            found = content_digest(name, folder)
        except UnreadableError as error:
            raise config.UserError(f"{error}; delete it, to have it fetched again") from None
        noted = {"source": provenance, "digest": found, "files": stamps}
        with contextlib.suppress(OSError):  # a folder that cannot be written goes without
            files.write(note, json.dumps(noted).encode())
    if provenance != "stand-in" and found != archive.digest:
        provenance = "unrecognised"
        warnings.warn(f"{paths[0]}: not the known content, used as it is", stacklevel=4)
    return Source(name=name, paths=paths, source=provenance, digest=found)


def _draw(name: str, profile: str, staging: Path) -> str:
    wanted = ARCHIVES[name].files
    print(f"drawing the stand-in {', '.join(wanted)}", file=sys.stderr)
    standin.draw(name, tuple(staging / file for file in wanted), profile)
    return "stand-in"


def _find(name: str, places: list, mirror: str | None, staging: Path) -> str:
    """Bring the archive from the folder that `staging` lies in, if it is there under other names,
    or from the first place that has it, and return its provenance. Raises `UserError` where the
    folder or the user's mirror holds rubbish, `UnavailableError` where no place has it."""
    archive, failures = ARCHIVES[name], ""
    try:
        if _adopt(name, staging.parent, staging):
            return "original"
    except UnreadableError as error:
        raise config.UserError(f"{error}; replace or delete it") from None
    for provenance, place in places:
        try:
            _obtain(name, place, staging, user=place == mirror)
            if content_digest(name, staging) != archive.digest and place != mirror:
                raise UnavailableError(place, "holds other content than the known one")
            return provenance
        except UnreadableError as error:
            if place == mirror and not isinstance(error, UnavailableError):
                wrong = f"{', '.join(archive.files)}: {error.reason}; correct or unset it"
                raise config.UserError(f"MIRROR {mirror}: {wrong}") from None
            failures += f"; {place}: {error.reason}"
    raise UnavailableError(name, failures)


@contextlib.contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """A temporary folder inside `folder`, for one process at a time. Whoever holds the lock removes
    what killed processes left behind."""
    try:
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(files.lock(folder / ".lock", wait=False))
            except BlockingIOError:
                print(f"waiting for another process to fill {folder}", file=sys.stderr, flush=True)
                stack.enter_context(files.lock(folder / ".lock"))
            for left in folder.glob(".fetch-*"):
                shutil.rmtree(left)
            with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as staging:
                yield Path(staging)
    except OSError as error:
        reason = f"{error.strerror}; free space there, or set DATA_DIR"
        refused = error.filename2 or error.filename or folder  # of a copy, what it is written to
        raise config.UserError(f"{refused}: {reason}") from error


def _obtain(name: str, place: str, staging: Path, user: bool) -> None:
    """Bring the files of the archive from a folder or URL into `staging`, under their names."""
    archive, whole = ARCHIVES[name], staging / "whole"
    if user and not place.startswith(("http:", "https:")):
        folder = Path(place).expanduser()
        if not folder.is_dir():
            raise UnreadableError(place, "there is no such folder")
        if _adopt(name, folder, staging):
            return
        if not any((folder / file).exists() for known in ARCHIVES.values() for file in known.files):
            raise UnreadableError(place, "not in this folder, nor is any other archive")
    if user or "://" not in place or place.endswith("/"):
        for file in archive.files:
            _bring(f"{place.rstrip('/')}/{file}", staging / file)
    elif urlsplit(place).path.endswith(archive.files[0]):
        _bring(place, staging / archive.files[0])
    elif archive.members:
        _bring(place, whole)
        files.write_zip(staging / archive.files[0], read_members(whole, name))
    else:
        _bring(place, whole)
        _unpack(whole, staging)


def _adopt(name: str, folder: Path, staging: Path) -> bool:
    """Bring MNIST's files into `staging` from a folder that has them under other names, and say
    whether it has: each begins as the file does (train-images ...), is gzipped or not, and may lie
    in a folder; or all lie in Keras' `mnist.npz`. Raises `UnreadableError` for what is called so
    and is damaged."""
    if name != "mnist" or not _missing(name, folder):
        return False
    if (folder / NPZ).is_file():
        _unpack(folder / NPZ, staging)
        return True
    for file in ARCHIVES[name].files:
        start = file.split("-idx")[0]
        failures = []
        for path in sorted([*folder.glob(f"{start}*"), *folder.glob(f"{start}*/{start}*")]):
            try:
                if path.is_file():
                    files.write_idx(staging / file, files.read_idx(path))
                    break
            except UnreadableError as error:
                failures.append(error)
        else:
            if failures:
                raise failures[0]
            return False
    return True


def _unpack(npz: Path, staging: Path) -> None:
    """Bring MNIST's files into `staging` from Keras' npz. Raises `UnreadableError`."""
    arrays = files.read_npz(npz)
    keys = ("x_train", "y_train", "x_test", "y_test")
    for key, file in zip(keys, ARCHIVES["mnist"].files, strict=True):
        if key not in arrays or arrays[key].dtype != np.uint8:
            raise UnreadableError(npz, f"holds no readable {key}, of unsigned bytes")
        files.write_idx(staging / file, arrays[key])


class _Limited(io.BufferedWriter):
    """A file that takes no more than an archive may hold, however much a server sends."""

    def write(self, content) -> int:
        if self.tell() + len(content) > files.MAX_BYTES:
            raise UnavailableError(self.name, f"refused: over {files.MAX_BYTES:,} bytes")
        return super().write(content)


def _bring(place: str, path: Path) -> None:
    """Copy or download `place`, a path or URL, to `path`. Raises `UnavailableError`, or another
    `UnreadableError` where nothing at all can be had from there."""
    if not place.startswith(("http:", "https:")):
        local = Path(place).expanduser()
        if not local.is_file():
            raise UnavailableError(place, f"no {local.name} there")
        if local.stat().st_size > files.MAX_BYTES:
            raise UnavailableError(place, f"refused: over {files.MAX_BYTES:,} bytes")
        shutil.copyfile(local, path)
        return
    try:
        target = urlsplit(place)
        if not target.hostname:
            raise ValueError("it names no host")
        proxies = urllib.request.getproxies()
        proxy = proxies.get(target.scheme) or proxies.get("all")
        if proxy and not urllib.request.proxy_bypass(target.hostname):
            target = urlsplit(proxy if "//" in proxy else f"//{proxy}")
        port = target.port or (443 if target.scheme == "https" else 80)
    except ValueError as error:
        raise UnreadableError(place, f"not a usable address ({error})") from None
    if error := _connect_error(target.hostname, port):
        raise UnreadableError(place, f"{target.hostname} cannot be reached ({error})")
    for attempt in range(ATTEMPTS):
        time.sleep(attempt * PAUSE_SECONDS)
        try:
            _download(place, path)
            return
        except OSError as error:
            if not hasattr(error, "response"):
                raise  # not from the network, but from the disk
            status = getattr(error.response, "status_code", None)
            reason = f"{type(error).__name__}{f' {status}' if status else ''}"
            if status and status < 500 and status != 429:
                break
        except ValueError as error:  # of a Content-Length that is no number
            reason = str(error)
    raise UnavailableError(place, f"download failed ({reason})")


def _download(url: str, path: Path) -> None:
    """Download a URL to `path`. Raises as requests does, and `UnavailableError` for what is too
    large, or too slow: limits on a single read do not see a server that drips."""
    shown = {"total": 1, "unit": "B", "unit_scale": True, "desc": path.name}
    shown["disable"] = None  # no bar where standard error is not a terminal
    asked = {"timeout": (CONNECT_SECONDS, READ_SECONDS), "chunk_size": 2**12}
    asked["headers"] = {"Accept-Encoding": "identity"}  # a .gz must arrive as it is
    failures = []

    def work(file):
        try:
            with tqdm(**shown) as bar:
                pooch.HTTPDownloader(bar, **asked)(url, file, None)
        except Exception as error:
            failures.append(error)

    with _Limited(io.FileIO(path, "w")) as file:  # once it is closed, the thread can write no more
        thread, size = threading.Thread(target=work, args=(file,), daemon=True), 0
        thread.start()
        while thread.is_alive():
            thread.join(SLOW_SECONDS)
            before, size = size, path.stat().st_size
            if thread.is_alive() and size - before < SLOWEST * SLOW_SECONDS:
                raise UnavailableError(url, f"too slow: under {SLOWEST:,} bytes/s")
    if failures:
        raise failures[0]


@functools.cache  # a host that cannot be reached is tried once
def _connect_error(host: str, port: int) -> str:
    """Try to connect, names looked up and all addresses tried within the limit; "" if it works."""
    outcome = [f"no answer within {CONNECT_SECONDS} s"]

    def connect():
        try:
            socket.create_connection((host, port), CONNECT_SECONDS).close()
            outcome[0] = ""
        except (OSError, ValueError) as error:
            outcome[0] = str(error)

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(CONNECT_SECONDS)
    return outcome[0]
