"""Archives to arrays: decoded images, and the one preprocessing that every network's input takes.

A character is first *scanned*: brought to gray at 225 x 300 pixels, a quarter of the archive's
1200x900 each way, whatever the picture was. From the scan come the network's two inputs, the
cropped glyph and where it stood. Training, evaluation and prediction all call these functions.
"""

import hashlib
import os
import re
import tempfile
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from sklearn.model_selection import GroupKFold, StratifiedKFold, train_test_split

from midas_lib import config, sources
from midas_lib.config import Preprocessing, UserError

SCAN_SHAPE = (225, 300)
INK = 127  # a pixel above this, ink bright, is ink
# The archive's tablet left a pen dot at one spot of some scans: a fraction of the scan's width
# and height (both from-to), and the largest such dot's side in pixels.
STRAY_DOT = {"x": (0.65, 0.75), "y": (0.06, 0.13), "side": 25}
MAX_PIXELS = 50_000_000
CACHE_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class ImageDataset:
    """Images with what is known about them, in the order of their sorted names.

    images: uint8 (n, height, width), as stored. labels: int64 (n,), indices into class_names.
    writers: int64 (n,), or None where unknown. names: n member names. source, digest: where the
    archive came from and its content digest (see `sources.Source`).
    """

    images: np.ndarray
    labels: np.ndarray
    writers: np.ndarray | None
    names: tuple[str, ...]
    class_names: tuple[str, ...]
    source: str
    digest: str


@dataclass(frozen=True, kw_only=True)
class Examples:
    """What a network is trained or measured on.

    pictures: uint8 (n, size, size, 1). labels: int64 (n,).
    """

    pictures: np.ndarray
    labels: np.ndarray

    def take(self, where) -> "Examples":
        """The examples at an index array or boolean mask."""
        return Examples(pictures=self.pictures[where], labels=self.labels[where])

    def join(self, other: "Examples") -> "Examples":
        """These examples, then the other's."""
        return Examples(
            pictures=np.concatenate([self.pictures, other.pictures]),
            labels=np.concatenate([self.labels, other.labels]),
        )


def load_characters(profile: str = "standard") -> ImageDataset:
    """The 62 classes of `trainPart1.zip`: scans of dark ink on light, uint8 (n, 225, 300).

    Raises `UserError` when no source has the archive, or an image in it cannot be decoded.
    """
    archive = sources.fetch("characters", profile=profile)

    def decode():
        members = list(sources.read_members(archive.paths[0], "characters"))
        # OpenCV releases the interpreter while it decodes.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            images = list(pool.map(_scan_member, members))
        matches = [re.search(r"img(\d{3})-(\d{3})\.png$", name) for name, _ in members]
        return {
            "images": np.stack(images),
            "labels": np.array([int(m[1]) - 1 for m in matches]),
            "writers": np.array([int(m[2]) for m in matches]),
            "names": np.array([name for name, _ in members]),
        }

    return _dataset(archive, config.CLASS_NAMES, decode)


def load_mnist(split: str, profile: str = "standard") -> ImageDataset:
    """MNIST's "train" or "test" split: uint8 (n, 28, 28), bright ink on black.

    Raises `UserError` when no source has the files, `ValueError` for another split.
    """
    prefix = {"train": "train", "test": "t10k"}.get(split)
    if prefix is None:
        raise ValueError(f"split {split!r}: choose train or test")
    archive = sources.fetch("mnist", profile=profile)
    paths = {path.name: path for path in archive.paths}
    images = sources.read_idx(paths[f"{prefix}-images-idx3-ubyte.gz"])
    labels = sources.read_idx(paths[f"{prefix}-labels-idx1-ubyte.gz"])
    return ImageDataset(
        images=images,
        labels=labels.astype(np.int64),
        writers=None,
        names=tuple(f"{split}/{i:06d}" for i in range(len(images))),
        class_names=config.DIGIT_NAMES,
        source=archive.source,
        digest=archive.digest,
    )


def load_mislabelled(profile: str = "standard") -> ImageDataset:
    """`mnistTask3.zip`: uint8 (n, 28, 28); a label is the folder's digit, which need not be true.

    Raises `UserError` when no source has the archive, or an image in it cannot be decoded.
    """
    archive = sources.fetch("mislabelled", profile=profile)

    def decode():
        members = list(sources.read_members(archive.paths[0], "mislabelled"))
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            images = list(pool.map(lambda member: read_image(member[1], member[0]), members))
        return {
            "images": np.stack(images),
            "labels": np.array([int(name.split("/")[1]) for name, _ in members]),
            "names": np.array([name for name, _ in members]),
        }

    return _dataset(archive, config.DIGIT_NAMES, decode)


def _scan_member(member: tuple[str, bytes]) -> np.ndarray:
    return scan(read_image(member[1], member[0]))


def _dataset(archive: sources.Source, class_names: tuple[str, ...], decode) -> ImageDataset:
    cache = (
        config.data_dir() / "cache" / f"{archive.name}-{archive.digest[:16]}-{CACHE_VERSION}.npz"
    )
    try:
        with np.load(cache) as stored:
            return _filled(archive, class_names, stored)
    except Exception:  # not there, or damaged, which numpy tells in many ways: decode again
        arrays = decode()
        _save_cache(cache, arrays)
    return _filled(archive, class_names, arrays)


def _filled(archive: sources.Source, class_names: tuple[str, ...], arrays) -> ImageDataset:
    return ImageDataset(
        images=arrays["images"],
        labels=arrays["labels"],
        writers=arrays.get("writers"),
        names=tuple(arrays["names"].tolist()),
        class_names=class_names,
        source=archive.source,
        digest=archive.digest,
    )


def _save_cache(path: Path, arrays: dict[str, np.ndarray]) -> None:
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
            temporary = Path(file.name)
            np.savez(file, **arrays)
        os.replace(temporary, path)
    except OSError as error:
        warnings.warn(
            f"{path}: not cached ({error.strerror}); decoding again next time", stacklevel=2
        )
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def read_image(image, name: str = "image") -> np.ndarray:
    """A picture as gray uint8 (height, width).

    image: a path, the bytes of an image file, a PIL image, or an array (h, w), (h, w, 1),
    (h, w, 3) or (h, w, 4) of integers, floats in 0-1, or booleans; colours in RGB order. Palette
    and 16-bit files are read too; transparent pixels count as white paper, or as black where the
    ink would not show on white.
    name: what an error calls it. Raises `UserError` when it cannot be read.
    """
    if isinstance(image, (str, Path)):
        name = str(image)
        try:
            image = Path(image).read_bytes()
        except OSError as error:
            raise UserError(f"{name}: {error.strerror}; give the path of an image file") from None
    if isinstance(image, bytes):
        return _gray(_decode(image, name), name, cv2.COLOR_BGR2GRAY)
    if hasattr(image, "convert") and not image.mode.startswith("I"):  # 16 bits would be clipped
        image = image.convert("RGBA")
    return _gray(np.asarray(image), name, cv2.COLOR_RGB2GRAY)


def _decode(content: bytes, name: str) -> np.ndarray:
    try:
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:  # an empty buffer, or a size beyond OpenCV's limits
        pixels = None
    if pixels is None:
        raise UserError(f"{name}: not a readable image; give a PNG, JPEG, BMP or TIFF file")
    return pixels


def _gray(pixels: np.ndarray, name: str, conversion: int) -> np.ndarray:
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    colours = pixels.ndim == 3 and pixels.shape[2] in (3, 4)
    if not (colours or pixels.ndim == 2) or not pixels.size or pixels.dtype.kind not in "uifb":
        raise UserError(
            f"{name}: an array of shape {pixels.shape} is no image; give (h, w[, 1|3|4])"
        )
    if pixels.size > MAX_PIXELS * 4:
        raise UserError(f"{name}: over {MAX_PIXELS // 10**6} million pixels; make it smaller")
    if pixels.dtype.kind == "f":
        if not np.isfinite(pixels).all() or pixels.min() < 0 or pixels.max() > 1:
            raise UserError(f"{name}: floating-point pixels must lie between 0 and 1")
        pixels = pixels.astype(np.float32)
    elif pixels.dtype.kind == "b":
        pixels = pixels.astype(np.float32)
    elif pixels.dtype != np.uint8:
        if pixels.min() < 0 or pixels.max() > 65535:
            raise UserError(f"{name}: integer pixels must lie between 0 and 65535")
        full = 255 if pixels.max() <= 255 and pixels.dtype != np.uint16 else 65535
        pixels = pixels.astype(np.float32) / full
    if colours:
        unit = 255.0 if pixels.dtype == np.uint8 else 1.0
        gray = cv2.cvtColor(np.ascontiguousarray(pixels[..., :3]), conversion)
        if pixels.shape[2] == 4:
            opacity = pixels[..., 3] / unit
            on_white = gray * opacity + unit * (1 - opacity)
            gray = on_white if np.ptp(on_white) > unit / 8 else gray * opacity
            gray = np.rint(gray).astype(np.uint8) if pixels.dtype == np.uint8 else gray
        pixels = gray
    if pixels.dtype != np.uint8:
        pixels = np.rint(pixels * 255).astype(np.uint8)
    return pixels


def scan(image: np.ndarray) -> np.ndarray:
    """Gray uint8 (h, w) of any size to the scan's uint8 (225, 300): resized, by area (down) or
    linearly (up), until it fits, and padded with its own paper, the picture in the middle."""
    height, width = image.shape
    scale = min(SCAN_SHAPE[0] / height, SCAN_SHAPE[1] / width)
    fitted = [max(1, round(side * scale)) for side in (width, height)]
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    resized = cv2.resize(image, fitted, interpolation=interpolation)
    spare = [whole - part for whole, part in zip(SCAN_SHAPE, resized.shape, strict=True)]
    padding = [(extra // 2, extra - extra // 2) for extra in spare]
    return np.pad(resized, padding, constant_values=_paper(image))


def _paper(image: np.ndarray) -> int:
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    return int(np.median(border))


def ink(scanned: np.ndarray) -> np.ndarray:
    """A scan, dark on light or light on dark, as uint8 with black paper and the ink at up to 255.

    The border's median is the paper; the stray pen dot of the archive's tablet is wiped out where
    there is other ink. Raises `UserError` for an image without ink.
    """
    paper = _paper(scanned)
    strength = np.abs(scanned.astype(np.int16) - paper)
    if strength.max() < 32:
        raise UserError("no ink in the image: it is one even colour; give a picture of a character")
    bright = np.rint(strength * (255.0 / strength.max())).astype(np.uint8)
    count, parts, boxes, centres = cv2.connectedComponentsWithStats(
        (bright > INK).astype(np.uint8), connectivity=8
    )
    for part in range(1, count if count > 2 else 0):
        x, y = centres[part] / SCAN_SHAPE[::-1]
        at_spot = _between(x, STRAY_DOT["x"]) and _between(y, STRAY_DOT["y"])
        if at_spot and boxes[part, 2:4].max() <= STRAY_DOT["side"]:
            bright[cv2.dilate((parts == part).astype(np.uint8), np.ones((3, 3))) > 0] = 0
    return bright


def _between(value: float, bounds: tuple[float, float]) -> bool:
    return bounds[0] < value < bounds[1]


def preprocess(scans: np.ndarray, settings: Preprocessing) -> tuple[np.ndarray, np.ndarray]:
    """Scans uint8 (n, 225, 300) to the network's inputs.

    Returns the pictures, uint8 (n, size, size, 1), bright ink on black, and the geometry, float32
    (n, 2): the glyph's top and bottom edge as shares of the scan's height, from the top.
    Raises `UserError` for a scan without ink.
    """
    pictures = np.empty((len(scans), settings.size, settings.size, 1), np.uint8)
    geometry = np.empty((len(scans), 2), np.float32)
    for i, scanned in enumerate(scans):
        bright = ink(scanned)
        rows, columns = (np.flatnonzero((bright > INK).any(axis)) for axis in (1, 0))
        top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
        geometry[i] = top / SCAN_SHAPE[0], bottom / SCAN_SHAPE[0]
        centre, side = ((left + right) / 2, (top + bottom) / 2), float(SCAN_SHAPE[1])
        if settings.mode == "crop":
            side = max(bottom - top, right - left) * (1 + 2 * settings.margin)
        elif settings.mode == "mnist":
            mass = bright[top:bottom, left:right].astype(float)
            centre = (
                left + mass.sum(0) @ (np.arange(right - left) + 0.5) / mass.sum(),
                top + mass.sum(1) @ (np.arange(bottom - top) + 0.5) / mass.sum(),
            )
            side = max(bottom - top, right - left) * 28 / 20
        elif settings.mode == "scale":
            side = 190.0  # the largest glyph still fits, all but its outermost pixels
        else:
            centre = (SCAN_SHAPE[1] / 2, SCAN_SHAPE[0] / 2)
        pictures[i, ..., 0] = _window(bright, centre, side, settings.size)
    return pictures, geometry


def _window(image: np.ndarray, centre, side: float, size: int) -> np.ndarray:
    """The square of `side` pixels round `centre`, resized to `size` without aliasing."""
    fine = 4 * size
    scale = fine / side
    shift = [fine / 2 - c * scale for c in centre]
    matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]], np.float32)
    window = cv2.warpAffine(image, matrix, (fine, fine), flags=cv2.INTER_LINEAR)
    return cv2.resize(window, (size, size), interpolation=cv2.INTER_AREA)


def folds(labels: np.ndarray, partition: int, writers: np.ndarray | None = None) -> np.ndarray:
    """The fold, 0 to 4, of every image in a 5-fold partition numbered `partition`.

    Stratified by class; with `writers`, no writer stands in two folds instead. Returns int64 (n,).
    """
    if writers is None:
        splits = StratifiedKFold(5, shuffle=True, random_state=partition).split(labels, labels)
    else:
        splits = GroupKFold(5, shuffle=True, random_state=partition).split(labels, groups=writers)
    fold = np.empty(len(labels), np.int64)
    for k, (_, held_out) in enumerate(splits):
        fold[held_out] = k
    return fold


def split(labels: np.ndarray, held_out: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the training examples and of `held_out` others, sorted, stratified by class."""
    rest, chosen = train_test_split(
        np.arange(len(labels)), test_size=held_out, stratify=labels, random_state=seed
    )
    return np.sort(rest), np.sort(chosen)


def balanced(labels: np.ndarray, count: int, draw: int) -> np.ndarray:
    """Sorted indices of `count` examples, equally many of each class, or all of them.

    Draw `draw` of a smaller count is part of draw `draw` of a larger one. Raises `UserError` for a
    count that no balanced draw has: over the number of examples, or not a multiple of the classes.
    """
    classes = np.unique(labels)
    if count == len(labels):
        return np.arange(count)
    each, rest = divmod(count, len(classes))
    if rest or not each or each > np.bincount(labels)[classes].min():
        raise UserError(
            f"{count} labelled images: give a multiple of {len(classes)} up to"
            f" {len(classes) * np.bincount(labels)[classes].min()}, or all {len(labels)}"
        )
    order = np.random.default_rng(draw).permutation(len(labels))
    return np.sort(np.concatenate([order[labels[order] == c][:each] for c in classes]))


def array_digest(*arrays: np.ndarray) -> str:
    """SHA-256 (hex) over the type, shape and content of arrays."""
    sha = hashlib.sha256()
    for array in arrays:
        sha.update(f"{array.dtype.str}{array.shape}".encode())
        sha.update(np.ascontiguousarray(array).data)
    return sha.hexdigest()
