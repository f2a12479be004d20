"""Files: written whole or not at all, locked, and read safely, whoever made them.

Zip archives are checked before they are read, and never unpacked to disk.
"""

import contextlib
import fcntl
import gzip
import io
import math
import os
import re
import stat
import struct
import uuid
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PureWindowsPath

import numpy as np

from midas_lib.config import UserError

MAX_MEMBERS, MAX_BYTES, MAX_RATIO = 200_000, 2**30, 200  # of an archive that is read
NESTING = 3  # zips within zips are opened this deep
SYSTEM_FILE = re.compile(r"(^|/)(__MACOSX/|\.[^/]|Thumbs\.db$|desktop\.ini$)", re.IGNORECASE)
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".pgm", ".ppm")


class UnreadableError(UserError):
    """A file that cannot be used: not an archive, damaged, unsafe or of another layout."""

    def __init__(self, path: str | Path, reason: str):
        super().__init__(f"{path}: {reason}")
        self.reason = reason


def write(path: Path, content: bytes) -> None:
    """Write a file, and the folders it lies in: at any moment it is the old or the new, whole."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, for a file that takes its place when the block succeeds. It
    ends in ".tmp"; a block that fails leaves nothing behind, a killed process this file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())  # before the name is there, or a power cut empties the file
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def lock(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold the lock file `path`, which is removed afterwards; one process at a time can. Raises
    `BlockingIOError` where another process holds it and `wait` is false."""
    path.parent.mkdir(parents=True, exist_ok=True)
    held = False
    while not held:
        with open(path, "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            # The holder before has removed its file: another process may have made a new one.
            with contextlib.suppress(FileNotFoundError):
                held = os.path.samefile(file.fileno(), path)
            if held:
                try:
                    yield
                finally:
                    path.unlink(missing_ok=True)


def read_members(
    packed: str | Path | bytes, pattern: str = "(?s:.+)", top: str = ""
) -> Iterator[tuple[str, bytes]]:
    """Yield (name, content) of a zip's files, sorted by name, straight from the archive. packed:
    the zip's path, or the zip itself. pattern: a regular expression for a name, from its start or
    from a folder on; what it matched, after `top`, is the name given. System files are left out.
    Raises `UnreadableError` if the file is missing, no zip, damaged, unsafe (paths that escape,
    links, encryption, beyond the limits above), holds a name twice or has no such files."""
    path = "zip" if isinstance(packed, bytes) else packed
    with _opened(packed, "zip archive") as file, zipfile.ZipFile(file) as archive:
        _check_safe(path, archive)
        chosen = {}
        for info in archive.infolist():
            match = re.search(f"(^|/)({pattern})", info.filename)
            if match and not info.is_dir() and not SYSTEM_FILE.search(info.filename):
                member = top + match[2]
                if chosen.setdefault(member, info) is not info:
                    raise UnreadableError(path, f"holds {member} twice; pack it anew")
        if not chosen:
            raise UnreadableError(path, f"holds no {top or 'such'} files; is it another zip?")
        for member, info in sorted(chosen.items()):
            # asked for by size, so that a member that lies about it cannot fill the memory
            with archive.open(info) as unpacked:
                content = unpacked.read(info.file_size)
            if len(content) != info.file_size:
                raise UnreadableError(path, f"{member} is damaged")
            yield member, content


def write_zip(path: Path, members: Iterable[tuple[str, bytes]]) -> None:
    """Write (name, bytes) pairs to a zip, uncompressed and with fixed dates: same in, same out."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content)


def read_idx(path: str | Path) -> np.ndarray:
    """Read a gzipped idx file of unsigned bytes (MNIST's format) as a uint8 array. Raises
    `UnreadableError` if it is missing, not gzip, damaged, too large or not such a file."""
    with _opened(path, "gzip file") as file, gzip.open(file) as unpacked:
        content = unpacked.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise UnreadableError(path, f"refused: unpacks to more than {MAX_BYTES:,} bytes")
    ndim = content[3] if content[:3] == b"\0\0\x08" and len(content) > 3 else 0
    start = 4 + 4 * ndim
    shape = struct.unpack(f">{ndim}I", content[4:start]) if len(content) >= start else ()
    if not shape or len(content) != start + math.prod(shape):
        raise UnreadableError(path, "not a complete idx file of unsigned bytes")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def write_idx(path: Path, array: np.ndarray) -> None:
    """Write a uint8 array as a gzipped idx file: same in, same out."""
    path.write_bytes(gzip.compress(idx_bytes(array), 6, mtime=0))


def idx_bytes(array: np.ndarray) -> bytes:
    """A uint8 array in MNIST's idx format, uncompressed."""
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def walk(path: str | Path, skipped: list[dict]) -> Iterator[tuple[str, bytes]]:
    """Yield (name, bytes) of the images below a folder or in a zip, sorted by name; zips inside are
    opened too, `NESTING` deep, and count as folders. What cannot be read is added to `skipped`, as
    {"file", "reason"}. Raises `UserError` where `path` itself cannot be."""
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such folder or zip")
    yield from _walk(_below(path, skipped) if path.is_dir() else read_members(path), 0, skipped)


def _below(folder: Path, skipped: list[dict]) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        wanted = name.lower().endswith((*IMAGE_ENDINGS, ".zip")) and not SYSTEM_FILE.search(name)
        if wanted and not path.is_dir():
            try:
                with path.open("rb") as file:
                    content = file.read(MAX_BYTES)  # no image is larger
            except OSError as error:
                skipped.append({"file": name, "reason": error.strerror})
            else:
                yield name, content


def _walk(contents: Iterator[tuple[str, bytes]], depth: int, skipped: list[dict]):
    for name, content in contents:
        if name.lower().endswith(IMAGE_ENDINGS):
            yield name, content
        elif name.lower().endswith(".zip"):
            try:
                if depth == NESTING:
                    raise UnreadableError(name, f"more than {NESTING} zips deep")
                inside = ((f"{name}/{member}", inner) for member, inner in read_members(content))
                yield from _walk(inside, depth + 1, skipped)
            except UnreadableError as error:
                skipped.append({"file": name, "reason": error.reason})


def _check_safe(path: str | Path, archive: zipfile.ZipFile) -> None:
    """Raise `UnreadableError` for a zip that could harm whoever reads or unpacks it."""
    entries, size = archive.infolist(), archive.fp.seek(0, io.SEEK_END)
    total = sum(entry.file_size for entry in entries)
    if len(entries) > MAX_MEMBERS:
        raise UnreadableError(path, f"refused: more than {MAX_MEMBERS:,} members")
    if total > min(MAX_BYTES, MAX_RATIO * size):
        raise UnreadableError(path, f"refused: unpacks to {total:,} bytes, like a zip bomb")
    for entry in entries:
        name, kind = entry.filename, stat.S_IFMT(entry.external_attr >> 16)
        if ".." in re.split(r"[/\\]", name) or PureWindowsPath(name).anchor or "\\" in name:
            raise UnreadableError(path, f"refused: the member {name!r} leads out of the folder")
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise UnreadableError(path, f"refused: the member {name!r} is a link or device")
        if entry.flag_bits & 1 or entry.compress_type not in (0, zipfile.ZIP_DEFLATED):
            raise UnreadableError(path, f"the member {name!r} is encrypted or oddly compressed")


@contextlib.contextmanager
def _opened(source: str | Path | bytes, kind: str) -> Iterator[io.BufferedIOBase]:
    """A file, or its bytes, opened. Raises `UnreadableError` where it turns out to be no `kind`."""
    path = "bytes" if isinstance(source, bytes) else source
    damage = (zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError, RuntimeError, ValueError)
    try:
        with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file:
            try:
                yield file
            except damage as error:
                file.seek(0)
                start = file.read(256)
                reason = f"or damaged or cut short ({error})" if start else "but empty"
                if start.lstrip().startswith(b"<"):
                    reason = "but a web page"
                raise UnreadableError(path, f"not a {kind}, {reason}") from None
    except OSError as error:
        raise UnreadableError(path, f"cannot be read ({error.strerror})") from None
