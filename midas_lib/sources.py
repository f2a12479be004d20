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
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pooch
from tqdm import tqdm

from midas_lib import config, files, standin
from midas_lib.files import UnreadableError

CONNECT_SECONDS, READ_SECONDS = 5, 20
ATTEMPTS = 3  # for a host that answers, but with a passing error
PAUSE_SECONDS = 1
GITHUB = "https://github.com/savya08/Modified-MNIST/archive/HEAD.zip"


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
                    wrong = f"{', '.join(archive.files)}: {reason}; repair or unset it"
                    raise config.UserError(f"MIRROR {mirror}: {wrong}") from None
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


def read_members(path: str | Path, name: str) -> Iterator[tuple[str, bytes]]:
    """Yield (member name, content) of what matters in the zip `name` ("characters" or
    "mislabelled"), sorted, under the canonical names (`train/SampleCCC/...`, `mnistTask/D/...`),
    wherever in the zip these folders lie. Raises as `files.read_members`."""
    return files.read_members(path, ARCHIVES[name].members, ARCHIVES[name].top)


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
        arrays = [files.read_idx(folder / file) for file in archive.files]
        for i in (0, 2):
            if arrays[i].ndim != 3 or arrays[i + 1].shape != arrays[i].shape[:1]:
                reason = f"does not go with {archive.files[i + 1]}; replace both"
                raise UnreadableError(folder / archive.files[i], reason)
        named = zip(archive.files, arrays, strict=True)
        contents = sorted((file.removesuffix(".gz"), files.idx_bytes(a)) for file, a in named)
    lines = [f"{hashlib.sha256(content).hexdigest()}  {member}\n" for member, content in contents]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


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
        warnings.warn(f"{paths[0]}: not the known content, used as it is", stacklevel=3)
    return Source(name=name, paths=paths, source=provenance, digest=found)


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
        with files.lock(folder / ".lock"):
            for left in folder.glob(".fetch-*"):
                shutil.rmtree(left)
            with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as staging:
                yield Path(staging)
    except OSError as error:
        reason = f"{error.strerror}; free space there, or set DATA_DIR"
        raise config.UserError(f"{error.filename or folder}: {reason}") from error


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
            files.write_zip(staging / archive.files[0], read_members(staging / "whole", name))
        else:
            _convert_npz(staging / "whole", [staging / file for file in archive.files])


def _convert_npz(path: Path, targets: list[Path]) -> None:
    """Turn Keras' npz of MNIST into the four idx files."""
    arrays = dict(files.read_members(path))
    for key, target in zip(("x_train", "y_train", "x_test", "y_test"), targets, strict=True):
        try:
            array = np.load(io.BytesIO(arrays[f"{key}.npy"]), allow_pickle=False)
        except (KeyError, ValueError, EOFError):
            raise UnreadableError(path, f"holds no readable {key}") from None
        files.write_idx(target, array)


class _Limited(io.BufferedWriter):
    """A file that takes no more than an archive may hold, however much a server sends."""

    def write(self, content) -> int:
        if self.tell() + len(content) > files.MAX_BYTES:
            raise UnavailableError(f"refused: over {files.MAX_BYTES:,} bytes")
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
