"""Files: written whole or not at all, locked, and read safely, whoever made them.

Zip archives are checked before they are read, and never unpacked to disk.
"""

import contextlib
import errno
import fcntl
import gzip
import io
import math
import os
import re
import stat
import struct
import tempfile
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

import numpy as np

from midas_lib.config import UserError, printable

MAX_BYTES = 2**30  # of a file, or of one in a zip
MAX_MEMBERS = 200_000  # of the zips of one input, those inside zips counted with them
# By how many bytes such zips may grow when unpacked: beyond a size that harms nobody (pictures of
# one colour pack a thousandfold), MAX_RATIO times what lies on the disk, and never over MAX_GROWTH.
HARMLESS, MAX_RATIO, MAX_GROWTH = 200 * 10**6, 200, 2**32
NESTING = 3  # zips within zips are opened this deep
SYSTEM_FILE = re.compile(r"(^|/)(__MACOSX/|\.[^/]|Thumbs\.db$|desktop\.ini$)", re.IGNORECASE)
# Endings of pictures that OpenCV reads, of others that a folder of pictures may well hold, and how
# the content of the former begins, whatever their names.
IMAGE_ENDINGS = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".tif", ".tiff", ".webp", ".gif"),
    *(".pbm", ".pgm", ".ppm", ".pnm", ".jp2", ".j2k"),
)
OTHER_ENDINGS = (".heic", ".heif", ".avif", ".ico", ".tga", ".pdf", ".svg", ".psd", ".eps", "")
IMAGE_START = re.compile(
    rb"\x89PNG|\xff\xd8\xff|BM|II\*\0|MM\0\*|RIFF....WEBP|GIF8|P[1-6]\s|\0\0\0\x0cjP  "
    rb"|\xff\x4f\xff\x51|....ftypavi[fs]",
    re.DOTALL,
)
HEIC_START = re.compile(rb"....ftyp(hei|hev|mif1|msf1)", re.DOTALL)  # phones name it .jpg, too


class UnreadableError(UserError):
    """A file that cannot be used: not an archive, damaged, unsafe or of another layout."""

    def __init__(self, path: str | Path, reason: str):
        self.reason = reason
        super().__init__(f"{path}: {reason}")


@dataclass(kw_only=True)
class Budget:
    """What the zips of one input have used up, those inside zips counted with them: members, bytes
    that they grew by, and bytes that lie on the disk."""

    members: int = 0
    growth: int = 0
    size: int = 0


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what is written to standard error meanwhile to itself, unless the block fails: libraries
    in C++, such as TensorFlow, greet there, whatever their log's level."""
    kept = os.dup(2)
    with open(kept, "wb") as stderr, tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            yield
        except BaseException:
            said.seek(0)
            stderr.write(said.read())
            raise
        finally:
            os.dup2(kept, 2)


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

    def select(name: str) -> str | None:
        match = re.search(f"(^|/)({pattern})", name)
        return match and top + match[2]

    yield from _members(packed, select, Budget(), top)


def _members(
    packed: str | Path | bytes, select: Callable[[str], str | None], budget: Budget, top: str = ""
) -> Iterator[tuple[str, bytes]]:
    """`read_members` of those that `select` gives a name, and no more of them than the budget, from
    which they are taken, allows."""
    path = "zip" if isinstance(packed, bytes) else packed
    # Each member is an entry of the directory: to have too many parsed would cost the memory.
    if isinstance(packed, bytes) and packed.count(b"PK\1\2") > MAX_MEMBERS - budget.members:
        raise UnreadableError(path, f"refused: more than {MAX_MEMBERS:,} members")
    with _opened(packed, "a zip archive") as file, zipfile.ZipFile(file) as archive:
        for info in archive.infolist():  # Windows' own tools may pack with backslashes
            info.filename = info.filename.replace("\\", "/")
        _check_safe(path, archive, budget, nested=isinstance(packed, bytes))
        chosen = {}
        for info in archive.infolist():
            system = info.filename.endswith("/") or SYSTEM_FILE.search(info.filename)
            member = None if system else select(info.filename)
            if member and chosen.setdefault(member, info) is not info:
                raise UnreadableError(path, f"holds {member} twice; pack it anew")
        if not chosen:
            raise UnreadableError(path, f"holds no {top or 'such'} files; is it another zip?")
        for member, info in sorted(chosen.items()):
            if info.file_size > MAX_BYTES:
                raise UnreadableError(path, f"refused: {member} is over {MAX_BYTES:,} bytes")
            # asked for by size, so that a member that lies about it cannot fill the memory
            with archive.open(info) as unpacked:
                content = unpacked.read(info.file_size)
            if len(content) != info.file_size:
                raise UnreadableError(path, f"{member} is damaged")
            yield member, content


def read_npz(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays in an npz, by name, all of each verified by its checksum. Raises
    `UnreadableError`, as `read_members` does and for what is no array of plain values."""
    arrays = {}
    for name, content in read_members(path, r".+\.npy"):
        try:
            arrays[name.removesuffix(".npy")] = np.load(io.BytesIO(content), allow_pickle=False)
        except Exception:  # numpy tells in many ways
            reason = f"holds no readable {name.removesuffix('.npy')}"
            raise UnreadableError(path, reason) from None
    return arrays


def write_zip(path: Path, members: Iterable[tuple[str, bytes]]) -> None:
    """Write (name, bytes) pairs to a zip, uncompressed and with fixed dates: same in, same out."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content)


def read_idx(path: str | Path) -> np.ndarray:
    """Read an idx file of unsigned bytes (MNIST's format), gzipped or not, as a uint8 array. Raises
    `UnreadableError` if it is missing, damaged, too large or not such a file."""
    with _opened(path, "an idx file") as file:
        zipped = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        with gzip.open(file) if zipped else contextlib.nullcontext(file) as unpacked:
            content = unpacked.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise UnreadableError(path, f"refused: unpacks to more than {MAX_BYTES:,} bytes")
        ndim = content[3] if content[:3] == b"\0\0\x08" and len(content) > 3 else 0
        start = 4 + 4 * ndim
        shape = struct.unpack(f">{ndim}I", content[4:start]) if len(content) >= start else ()
        if not shape or len(content) != start + math.prod(shape):
            raise ValueError("it is not unsigned bytes in the shape it says")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def write_idx(path: Path, array: np.ndarray) -> None:
    """Write a uint8 array as a gzipped idx file: same in, same out."""
    path.write_bytes(gzip.compress(idx_bytes(array), 6, mtime=0))


def idx_bytes(array: np.ndarray) -> bytes:
    """A uint8 array in MNIST's idx format, uncompressed."""
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def walk(path: str | Path, skipped: list[dict]) -> Iterator[tuple[str, bytes]]:
    """Yield (name, bytes) of the images below a folder or in a zip, sorted by name; zips inside are
    opened too, `NESTING` deep, and count as folders. Links are followed, to each folder once. What
    cannot be read is added to `skipped`, as {"file", "reason"}; names are `printable`. Raises
    `UserError` where `path` itself cannot be read."""
    path, budget = Path(path), Budget()
    if not path.exists():
        raise UserError(f"{path}: no such folder or zip")
    found = _below(path, skipped) if path.is_dir() else _members(path, _wanted, budget)
    yield from _walk(found, 0, budget, skipped)


def _wanted(name: str) -> str | None:
    """The `printable` name of a file that may be an image or a zip of images; None for others."""
    ending = os.path.splitext(name)[1].lower()
    known = ending == ".zip" or ending in IMAGE_ENDINGS or ending in OTHER_ENDINGS
    return printable(name) if known and not SYSTEM_FILE.search(name) else None


def _below(folder: Path, skipped: list[dict]) -> Iterator[tuple[str, Path]]:
    """(name, path) of the files below a folder that may be images or zips."""
    found, folders, links = [], [""], []
    seen = {(at.st_dev, at.st_ino) for at in map(os.stat, folder.resolve().parents)}
    while folders or links:  # links last: a folder that a link leads to is read in its own place
        here = (folders or links).pop()
        try:
            at = os.stat(folder / here)
            if (at.st_dev, at.st_ino) in seen:
                raise OSError(errno.ELOOP, "a link to a folder that is read already, or around it")
            seen.add((at.st_dev, at.st_ino))
            names = sorted(os.listdir(folder / here), reverse=True)
        except OSError as error:
            if not here:
                raise UnreadableError(folder, f"cannot be read ({error.strerror})") from None
            skipped.append({"file": printable(here), "reason": error.strerror})
            continue
        for name in names:
            name = os.path.join(here, name)
            if not os.path.isdir(folder / name):
                found += [name] if _wanted(name) else []
            elif not SYSTEM_FILE.search(f"{name}/"):
                (links if os.path.islink(folder / name) else folders).append(name)
    for name in sorted(found, key=lambda name: name.split("/")):
        yield printable(name), folder / name


def _walk(contents: Iterator[tuple[str, bytes | Path]], depth: int, budget: Budget, skipped: list):
    for name, source in contents:
        try:
            if not name.lower().endswith(".zip"):
                content = source if isinstance(source, bytes) else read(source)
                _check_image(name, content)
                yield name, content
            elif depth == NESTING:
                raise UnreadableError(name, f"more than {NESTING} zips deep")
            else:
                members = _members(source, _wanted, budget)
                inside = ((f"{name}/{member}", inner) for member, inner in members)
                yield from _walk(inside, depth + 1, budget, skipped)
        except UnreadableError as error:
            skipped.append({"file": name, "reason": error.reason})


def read(path: str | Path) -> bytes:
    """A file's content. Raises `UnreadableError` where it cannot be read, is no regular file, which
    may never end, or is over MAX_BYTES."""
    with _opened(path, "a file") as file:
        if (size := os.fstat(file.fileno()).st_size) > MAX_BYTES:
            raise UnreadableError(path, f"too large: over {MAX_BYTES:,} bytes")
        return file.read(size)


def _check_image(name: str, content: bytes) -> None:
    """Raise `UnreadableError` for what is no image by its ending, nor by its content."""
    ending = os.path.splitext(name)[1].lower()
    if HEIC_START.match(content):
        ending = ".heic"
    elif ending in IMAGE_ENDINGS or IMAGE_START.match(content):
        return
    kind = f"{ending[1:].upper()} is not read here" if ending else "not an image that is read here"
    raise UnreadableError(name, f"{kind}; save it as JPEG or PNG")


def _check_safe(path: str | Path, archive: zipfile.ZipFile, budget: Budget, nested: bool) -> None:
    """Take a zip's members from the budget, or raise `UnreadableError` where they exceed it, or
    could harm whoever reads or unpacks them."""
    entries, size = archive.infolist(), archive.fp.seek(0, io.SEEK_END)
    total = sum(entry.file_size for entry in entries)
    members, growth = budget.members + len(entries), budget.growth + max(0, total - size)
    on_disk = budget.size + (0 if nested else size)
    if members > MAX_MEMBERS:
        raise UnreadableError(path, f"refused: more than {MAX_MEMBERS:,} members")
    if growth > min(MAX_GROWTH, max(HARMLESS, MAX_RATIO * on_disk)):
        raise UnreadableError(path, f"refused: unpacks to {total:,} bytes, like a zip bomb")
    for entry in entries:
        name, kind = entry.filename, stat.S_IFMT(entry.external_attr >> 16)
        if not name:
            raise UnreadableError(path, "holds a member without a name; pack it anew")
        if ".." in name.split("/") or PureWindowsPath(name).anchor:
            raise UnreadableError(path, f"refused: the member {name} leads out of the folder")
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise UnreadableError(path, f"refused: the member {name} is a link or device")
        if entry.flag_bits & 1 or entry.compress_type not in (0, zipfile.ZIP_DEFLATED):
            raise UnreadableError(path, f"the member {name} is encrypted or oddly compressed")
    budget.members, budget.growth, budget.size = members, growth, on_disk


def _regular(path: str | Path) -> io.BufferedReader:
    """A file opened for reading. Raises `OSError` for what is none: to read from a pipe or device
    may never end, and to open one may not, either."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    raise OSError(errno.EINVAL, "a folder, pipe or device, not a file", path)


@contextlib.contextmanager
def _opened(source: str | Path | bytes, kind: str) -> Iterator[io.BufferedIOBase]:
    """A file, or its bytes, opened. Raises `UnreadableError` where it turns out to be no `kind`."""
    path = "bytes" if isinstance(source, bytes) else source
    damage = (zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError, RuntimeError)
    damage += (ValueError, OverflowError)
    try:
        with io.BytesIO(source) if isinstance(source, bytes) else _regular(source) as file:
            try:
                yield file
            except damage as error:
                file.seek(0)
                start = file.read(256)
                reason = f"or damaged or cut short ({error})" if start else "but empty"
                if start.lstrip().startswith(b"<"):
                    reason = "but a web page"
                raise UnreadableError(path, f"not {kind}, {reason}") from None
    except OSError as error:
        raise UnreadableError(path, f"cannot be read ({error.strerror})") from None
