"""Get an archive: local folder, mirror, built-in URLs, stand-in; verified, and read safely.

Archives are recognised by a digest of their content, so a repacked one, or one with system files
inside, is still the same. Nothing is unpacked to disk unless `extract` is called.
"""

import contextlib
import fcntl
import functools
import gzip
import hashlib
import io
import json
import math
import os
import re
import shutil
import socket
import stat
import struct
import sys
import tempfile
import threading
import time
import urllib.request
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from urllib.parse import urlsplit

import numpy as np
import pooch
from tqdm import tqdm

from midas_lib import config, standin

CONNECT_SECONDS, READ_SECONDS = 5, 20
ATTEMPTS = 3  # for a host that answers, but with a passing error
PAUSE_SECONDS = 1
MAX_MEMBERS, MAX_BYTES, MAX_RATIO = 200_000, 2**30, 200  # of an archive that is read
SYSTEM_FILE = re.compile(r"(^|/)(__MACOSX/|\.[^/]|Thumbs\.db$|desktop\.ini$)", re.IGNORECASE)
GITHUB = "https://github.com/savya08/Modified-MNIST/archive/HEAD.zip"


class UnreadableError(config.UserError):
    """A file that cannot be used: not an archive, damaged, unsafe or of another layout."""

    def __init__(self, path: Path, reason: str):
        super().__init__(f"{path}: {reason}")
        self.reason = reason


class UnavailableError(Exception):
    """A source did not deliver, and the next one is to be tried."""


@dataclass(frozen=True, kw_only=True)
class Archive:
    """What is known about one archive.

    `files` are its file names, `members` matches the end of the names of the zip members that
    matter (from the folder `top` on), `digest` is that of the real content, and `urls` are
    (provenance, URL) pairs in the order in which they are tried. A URL ending in "/" is a folder
    with the files, one ending in the file's name is the file, any other a zip or npz that holds
    the content in another form.
    """

    files: tuple[str, ...]
    digest: str
    urls: tuple[tuple[str, str], ...]
    members: str = ""
    top: str = ""


@dataclass(frozen=True, kw_only=True)
class Source:
    """An archive at hand: its key, its files, where the content comes from and its digest.

    `source` is "original", "mirror", "unrecognised" (not the known content) or "stand-in".
    """

    name: str
    paths: tuple[Path, ...]
    source: str
    digest: str


ARCHIVES = {
    "characters": Archive(
        files=("trainPart1.zip",),
        members=r"Sample\d{3}/img\d{3}-\d{3}\.png$",
        top="train/",
        digest="98e352853982e66040b850951450e17fa75c3dae19a823039ae6765d9d5b29ea",
        urls=(
            ("original", "https://www.dropbox.com/s/pan6mutc5xj5kj0/trainPart1.zip?dl=1"),
            ("mirror", GITHUB),
        ),
    ),
    "mislabelled": Archive(
        files=("mnistTask3.zip",),
        members=r"\d/image_\d{6}\.jpg$",
        top="mnistTask/",
        digest="7270fbe3b5224d6ccdb65994dc953461dd4083a192e8e2062924532533598127",
        urls=(
            ("original", "https://www.dropbox.com/s/otc12z2w7f7xm8z/mnistTask3.zip?dl=1"),
            ("mirror", GITHUB),
        ),
    ),
    "mnist": Archive(
        files=(
            "train-images-idx3-ubyte.gz",
            "train-labels-idx1-ubyte.gz",
            "t10k-images-idx3-ubyte.gz",
            "t10k-labels-idx1-ubyte.gz",
        ),
        digest="474311efcf1fd213e64768801dc6195673bffb8385179d6c55cd8748b9e2e8ca",
        urls=(  # of torchvision and Keras; the original host refuses downloads
            ("mirror", "https://ossci-datasets.s3.amazonaws.com/mnist/"),
            ("mirror", "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz"),
        ),
    ),
}


def fetch(
    name: str,
    *,
    data_dir: str | Path | None = None,
    mirror: str | None = None,
    standin: bool | None = None,
    profile: str = "standard",
    urls: Iterable[tuple[str, str]] | None = None,
) -> Source:
    """Return the archive `name` ("characters", "mislabelled" or "mnist"), fetched if need be.

    In order: the files in `data_dir`, `mirror` (a folder or base URL), `urls` ((provenance, URL)
    pairs, by default the built-in ones), and the drawn stand-in, which goes to
    `data_dir/standin/<profile>`; `standin=True` goes straight there. What is left None comes
    from the environment, see `config`. A download from `urls` is taken only if it has the known
    content; other content in `data_dir` or `mirror` is used with a warning. Provenance and digest
    are noted in `<name>.source.json` beside the files, so a file is verified once.

    Raises `UserError` if an archive of the user's cannot be read, if the folder cannot be
    written, or if nothing was found and `profile` is "full", which refuses the stand-in.
    """
    config.check_profile(profile)
    archive, folder = ARCHIVES[name], Path(data_dir or config.data_dir())
    if config.standin_wanted() if standin is None else standin:
        return _standin(name, folder, profile)
    if not _missing(archive, folder):
        return _identify(name, folder)
    mirror = mirror or config.mirror()
    failures = []
    with _staging(folder) as staging:
        missing = _missing(archive, folder)
        if not missing:  # another process has fetched it meanwhile
            return _identify(name, folder)
        places = [("mirror", mirror)] if mirror else []
        for provenance, place in (*places, *(archive.urls if urls is None else urls)):
            try:
                _obtain(name, place, staging, user=place == mirror)
                found = content_digest(name, staging)
                if place != mirror and found != archive.digest:
                    raise UnavailableError("holds other content than the known one")
            except (UnavailableError, UnreadableError) as error:
                reason = error.reason if isinstance(error, UnreadableError) else error
                if isinstance(error, UnreadableError) and place == mirror:
                    raise config.UserError(
                        f"MIRROR {mirror}: {', '.join(archive.files)}: {reason}; repair or unset it"
                    ) from None
                failures.append(f"{place}: {reason}")
            else:
                for path in missing:
                    os.replace(staging / path.name, path)
                return _identify(name, folder, provenance)
    tried = "; ".join([f"{folder}: no {', '.join(path.name for path in missing)}", *failures])
    if profile == "full":
        raise config.UserError(
            f"{', '.join(archive.files)} not found ({tried}). Get it by hand and put it into "
            f"{folder}, or set MIRROR to a folder or URL that has it; PROFILE=full uses the drawn "
            "stand-in only with STANDIN=1"
        )
    warnings.warn(f"{name}: using the drawn stand-in, not the real data ({tried})", stacklevel=2)
    return _standin(name, folder, profile)


def fetch_all(
    names: Iterable[str], *, standin: bool | None = None, **settings
) -> dict[str, Source]:
    """`fetch` several archives, either all real or all stand-in; `settings` as for `fetch`."""
    found = {name: fetch(name, standin=standin, **settings) for name in names}
    if len({source.source == "stand-in" for source in found.values()}) > 1:
        warnings.warn("using the stand-in for all archives, as one has no other", stacklevel=2)
        return {name: fetch(name, standin=True, **settings) for name in found}
    return found


def read_members(path: str | Path, name: str | None = None) -> Iterator[tuple[str, bytes]]:
    """Yield (member name, content) of a zip, sorted by name, straight from the archive.

    With `name` ("characters" or "mislabelled") only the members that matter there, under their
    canonical names (`train/SampleCCC/...`, `mnistTask/D/...`), wherever in the zip these folders
    lie. Without, every file but system files (`__MACOSX`, dot files, `Thumbs.db`).

    Raises `UnreadableError` (a `UserError`) if the file is missing, is not a zip, is damaged, is
    unsafe (paths that escape, links, encryption, beyond `MAX_MEMBERS`, `MAX_BYTES` or
    `MAX_RATIO`), or has no such members.
    """
    path = Path(path)
    with _open_zip(path) as (archive, infos):
        if name is None:
            chosen = {info.filename: info for info in infos}
        else:
            known = ARCHIVES[name]
            hits = [(re.search(f"(^|/)({known.members})", info.filename), info) for info in infos]
            chosen = {known.top + hit[2]: info for hit, info in hits if hit}
            if len(chosen) < sum(hit is not None for hit, _ in hits):
                raise UnreadableError(path, "holds the same member twice")
        if not chosen:
            raise UnreadableError(
                path, f"holds no {known.top if name else ''} images; is it another zip?"
            )
        for member, info in sorted(chosen.items()):
            # asked for by size, so that a member that lies about it cannot fill the memory
            with archive.open(info) as file:
                content = file.read(info.file_size)
            if len(content) != info.file_size:
                raise UnreadableError(path, f"{member} is damaged")
            yield member, content


def extract(path: str | Path, folder: str | Path) -> Path:
    """Unpack a zip into `folder`, which must not exist yet, and return it.

    Raises `UnreadableError` as `read_members` does, before `folder` is there, and `UserError` if
    `folder` exists or cannot be written.
    """
    folder = Path(folder)
    if folder.exists():
        raise config.UserError(f"{folder}: exists already; choose a new folder")
    try:
        with tempfile.TemporaryDirectory(prefix=".unpack-", dir=folder.parent) as staging:
            for member, content in read_members(path):
                target = Path(staging, "out", member)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
            os.replace(Path(staging, "out"), folder)
    except OSError as error:
        raise config.UserError(f"{folder}: cannot be written ({error.strerror})") from error
    return folder


def read_idx(path: str | Path) -> np.ndarray:
    """Read a gzipped idx file of unsigned bytes (MNIST's format) as a uint8 array.

    Raises `UnreadableError` if it is missing, not gzip, damaged, too large or not such a file.
    """
    return _parse_idx(Path(path), _gunzip(Path(path)))


def content_digest(name: str, folder: Path) -> str:
    """Digest of what the archive `name` in `folder` holds, however it is packed.

    SHA-256 (hex) of the lines "<SHA-256 of the content>  <member name>", sorted by name, which is
    what `sha256sum` prints for the unpacked members; for MNIST of the uncompressed idx files.
    Raises `UnreadableError`, as the functions that read do.
    """
    archive = ARCHIVES[name]
    if archive.members:
        contents = read_members(folder / archive.files[0], name)
    else:
        contents = _idx_contents(archive, folder)
    lines = [f"{hashlib.sha256(content).hexdigest()}  {member}\n" for member, content in contents]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _idx_contents(archive: Archive, folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield (name without .gz, uncompressed bytes) of idx files, checked, sorted by name."""
    shapes = {}
    for file in sorted(archive.files):
        content = _gunzip(folder / file)
        shapes[file] = _parse_idx(folder / file, content).shape
        yield file.removesuffix(".gz"), content
    for images, labels in (archive.files[:2], archive.files[2:]):
        if len(shapes[images]) != 3 or shapes[labels] != shapes[images][:1]:
            raise UnreadableError(folder / images, f"does not go with {labels}; replace both")


def _missing(archive: Archive, folder: Path) -> list[Path]:
    return [folder / file for file in archive.files if not (folder / file).exists()]


def _identify(name: str, folder: Path, provenance: str = "original") -> Source:
    """Say what lies in `folder`; `provenance` is that of known content without a note."""
    archive = ARCHIVES[name]
    paths = tuple(folder / file for file in archive.files)
    stats = {path.name: path.stat() for path in paths}
    stamps = {file: [stat.st_size, stat.st_mtime_ns] for file, stat in stats.items()}
    note = folder / f"{name}.source.json"
    try:
        noted = json.loads(note.read_text())
        files, source, found = noted["files"], noted["source"], noted["digest"]
    except (OSError, ValueError, KeyError, TypeError):
        files = None
    if files == stamps:
        provenance = source
    else:
        try:
            found = content_digest(name, folder)
        except UnreadableError as error:
            raise config.UserError(
                f"{error}; delete it to have it fetched again, or put the right file there"
            ) from None
        _note(note, {"source": provenance, "digest": found, "files": stamps})
    if provenance != "stand-in" and found != archive.digest:
        provenance = "unrecognised"
        warnings.warn(f"{paths[0]}: not the known content, used as it is", stacklevel=3)
    return Source(name=name, paths=paths, source=provenance, digest=found)


def _note(path: Path, content: dict) -> None:
    """Write a JSON file at once; a folder that cannot be written just goes without."""
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    with contextlib.suppress(OSError):
        temporary.write_text(json.dumps(content))
        os.replace(temporary, path)


def _standin(name: str, folder: Path, profile: str) -> Source:
    """Draw the stand-in archive unless it is there."""
    archive, folder = ARCHIVES[name], folder / "standin" / profile
    if _missing(archive, folder):
        with _staging(folder) as staging:
            if _missing(archive, folder):
                print(f"drawing the stand-in {', '.join(archive.files)}", file=sys.stderr)
                standin.draw(name, tuple(staging / file for file in archive.files), profile)
                for file in archive.files:
                    os.replace(staging / file, folder / file)
    return _identify(name, folder, "stand-in")


@contextlib.contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """A temporary folder inside `folder`, for one process at a time.

    Whoever holds the lock removes what killed processes left behind.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for left in folder.glob(".fetch-*"):
                shutil.rmtree(left)
            with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as staging:
                yield Path(staging)
    except OSError as error:
        raise config.UserError(
            f"{error.filename or folder}: {error.strerror}; free space there, or set DATA_DIR"
        ) from error


def _obtain(name: str, place: str, staging: Path, user: bool) -> None:
    """Bring the files of the archive from a folder or URL into `staging`, under their names."""
    archive = ARCHIVES[name]
    if not place.startswith(("http://", "https://")):
        for file in archive.files:
            path = Path(place).expanduser() / file
            if not path.is_file():
                raise UnavailableError(f"no {file} there")
            shutil.copyfile(path, staging / file)
    elif user or place.endswith("/"):
        for file in archive.files:
            _download(f"{place.rstrip('/')}/{file}", staging / file)
    elif urlsplit(place).path.endswith(archive.files[0]):
        _download(place, staging / archive.files[0])
    else:
        _download(place, staging / "whole")
        if archive.members:
            standin.write_zip(staging / archive.files[0], read_members(staging / "whole", name))
        else:
            _convert_npz(staging / "whole", [staging / file for file in archive.files])


def _convert_npz(path: Path, targets: list[Path]) -> None:
    """Turn Keras' npz of MNIST into the four idx files."""
    arrays = dict(read_members(path))
    for key, target in zip(("x_train", "y_train", "x_test", "y_test"), targets, strict=True):
        try:
            array = np.load(io.BytesIO(arrays[f"{key}.npy"]), allow_pickle=False)
        except (KeyError, ValueError, EOFError):
            raise UnreadableError(path, f"holds no readable {key}") from None
        standin.write_idx(target, array)


class _Limited(io.BufferedWriter):
    """A file that takes no more than an archive may hold, however much a server sends."""

    def write(self, content) -> int:
        if self.tell() + len(content) > MAX_BYTES:
            raise UnavailableError(f"refused: over {MAX_BYTES:,} bytes")
        return super().write(content)


def _download(url: str, path: Path) -> None:
    """Download `url` to `path`; raises `UnavailableError` with the reason in a few words."""
    try:
        target = urlsplit(url)
        if not target.hostname:
            raise ValueError("it names no host")
        proxies = urllib.request.getproxies()
        proxy = proxies.get(target.scheme) or proxies.get("all")
        if proxy and not urllib.request.proxy_bypass(target.hostname):
            target = urlsplit(proxy if "//" in proxy else f"//{proxy}")
        port = target.port or (443 if target.scheme == "https" else 80)
    except ValueError as error:
        raise UnavailableError(f"not a usable address ({error})") from None
    if error := _connect_error(target.hostname, port):
        raise UnavailableError(f"{target.hostname} cannot be reached ({error})")
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(attempt * PAUSE_SECONDS)
        try:
            # disable=None: no bar where standard error is not a terminal
            with (
                tqdm(total=1, unit="B", unit_scale=True, desc=path.name, disable=None) as bar,
                _Limited(io.FileIO(path, "w")) as file,
            ):
                pooch.HTTPDownloader(
                    progressbar=bar,
                    chunk_size=2**16,
                    timeout=(CONNECT_SECONDS, READ_SECONDS),
                    headers={"Accept-Encoding": "identity"},  # a .gz must arrive as it is
                )(url, file, None)
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
    raise UnavailableError(f"download failed ({reason})")


@functools.cache  # a host that cannot be reached is tried once
def _connect_error(host: str, port: int) -> str:
    """Try to connect, names looked up and all addresses tried within the limit; "" if it works."""
    outcome = []

    def connect():
        try:
            socket.create_connection((host, port), CONNECT_SECONDS).close()
            outcome.append("")
        except (OSError, ValueError) as error:
            outcome.append(str(error))

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(CONNECT_SECONDS)
    return outcome[0] if outcome else f"no answer within {CONNECT_SECONDS} s"


@contextlib.contextmanager
def _open_zip(path: Path) -> Iterator[tuple[zipfile.ZipFile, list[zipfile.ZipInfo]]]:
    """Open a zip, checked, with its files that are no system files; errors as `UnreadableError`."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            _check_safe(path, entries)
            yield (
                archive,
                [e for e in entries if not e.is_dir() and not SYSTEM_FILE.search(e.filename)],
            )
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as error:
        raise UnreadableError(path, _what_it_is(path, "zip archive", error)) from None
    except OSError as error:
        raise UnreadableError(path, f"cannot be read ({error.strerror})") from None


def _check_safe(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    """Raise `UnreadableError` for a zip that could harm whoever reads or unpacks it."""
    total = sum(entry.file_size for entry in entries)
    if len(entries) > MAX_MEMBERS:
        raise UnreadableError(path, f"refused: more than {MAX_MEMBERS:,} members")
    if total > MAX_BYTES or total > MAX_RATIO * path.stat().st_size:
        raise UnreadableError(
            path, f"refused: unpacks to {total:,} bytes, which looks like a zip bomb"
        )
    for entry in entries:
        name, kind = entry.filename, stat.S_IFMT(entry.external_attr >> 16)
        if ".." in re.split(r"[/\\]", name) or PureWindowsPath(name).anchor or "\\" in name:
            raise UnreadableError(path, f"refused: the member {name!r} leads out of the folder")
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise UnreadableError(path, f"refused: the member {name!r} is a link or device")
        if entry.flag_bits & 1 or entry.compress_type not in (0, zipfile.ZIP_DEFLATED):
            raise UnreadableError(path, f"the member {name!r} is encrypted or oddly compressed")


def _gunzip(path: Path) -> bytes:
    try:
        with gzip.open(path) as file:
            content = file.read(MAX_BYTES + 1)
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise UnreadableError(path, _what_it_is(path, "gzip file", error)) from None
    except OSError as error:
        raise UnreadableError(path, f"cannot be read ({error.strerror})") from None
    if len(content) > MAX_BYTES:
        raise UnreadableError(path, f"refused: unpacks to more than {MAX_BYTES:,} bytes")
    return content


def _parse_idx(path: Path, content: bytes) -> np.ndarray:
    ndim = content[3] if content[:3] == b"\0\0\x08" and len(content) > 3 else 0
    start = 4 + 4 * ndim
    shape = struct.unpack(f">{ndim}I", content[4:start]) if len(content) >= start else ()
    if not shape or len(content) != start + math.prod(shape):
        raise UnreadableError(path, "not a complete idx file of unsigned bytes")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _what_it_is(path: Path, wanted: str, error: Exception) -> str:
    """Explain in a few words why `path` is not the `wanted`."""
    with open(path, "rb") as file:
        start = file.read(256).lstrip()[:1]
    if not path.stat().st_size:
        return f"not a {wanted}, but empty"
    if start == b"<":
        return f"not a {wanted}, but a web page"
    return f"not a {wanted}, or damaged or cut short ({error})"
