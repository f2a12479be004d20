"""Datasets as arrays: the three archives, or any folder or zip with a folder for each class.

Decoded archives are cached; how they are divided for training and measuring stands here too.
"""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import re
import sys
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import loky
import numpy as np
from sklearn.model_selection import GroupKFold, StratifiedKFold, train_test_split
from tqdm import tqdm

from midas_lib import config, files, images, sources
from midas_lib.config import UserError

CACHE_VERSION = 1
BATCH = 64  # images of a set that are in memory at once
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
NAMING = (
    "name a folder by its class (7, A), as Sample001 (its number from 1), upper_a or lower_a, zero"
    " to nine, all by the character's hex code (4a), or all by the class's number from 0"
)


@dataclass(frozen=True, kw_only=True)
class ImageDataset:
    """Images with what is known about them, in the order of their sorted names. images: uint8 (n,
    height, width), as stored. labels: int64 (n,), indices into class_names. names: n member names.
    source: "folder", or as in `sources.Source`; digest: of the content. writers: int64 (n,), or
    None where unknown."""

    images: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]
    class_names: tuple[str, ...]
    source: str
    digest: str
    writers: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class Examples:
    """What a network is trained or measured on: pictures, uint8 (n, size, size, 1), and labels,
    int64 (n,)."""

    pictures: np.ndarray
    labels: np.ndarray

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of pictures and labels, computed once."""
        return array_digest(self.pictures, self.labels)

    def take(self, where) -> "Examples":
        """The examples at an index array or boolean mask."""
        return Examples(pictures=self.pictures[where], labels=self.labels[where])

    def join(self, other: "Examples") -> "Examples":
        """These examples, then the other's."""
        pictures = np.concatenate([self.pictures, other.pictures])
        return Examples(pictures=pictures, labels=np.concatenate([self.labels, other.labels]))


def load_characters(profile: str = "standard") -> ImageDataset:
    """The 62 classes of `trainPart1.zip`: scans of dark ink on light, uint8 (n, 225, 300). Raises
    `UserError` when no source has the archive, or an image in it cannot be decoded."""
    archive, pictures, names = _decoded("characters", profile, images.read_scan)
    numbers = [re.search(r"(\d{3})-(\d{3})\.png$", name).groups() for name in names]
    labels, writers = np.array(numbers, np.int64).T
    return _dataset(archive, config.CLASS_NAMES, pictures, labels - 1, names, writers)


def load_mnist(split: str, profile: str = "standard") -> ImageDataset:
    """MNIST's "train" or "test" split: uint8 (n, 28, 28), bright ink on black. Raises `UserError`
    when no source has the files, `ValueError` for another split."""
    if split not in ("train", "test"):
        raise ValueError(f"split {split!r}: choose train or test")
    archive = sources.fetch("mnist", profile=profile)
    paths = archive.paths[:2] if split == "train" else archive.paths[2:]
    pictures, labels = map(files.read_idx, paths)
    names = tuple(f"{split}/{i:06d}" for i in range(len(pictures)))
    return _dataset(archive, config.DIGIT_NAMES, pictures, labels.astype(np.int64), names)


def load_mislabelled(profile: str = "standard") -> ImageDataset:
    """`mnistTask3.zip`: uint8 (n, 28, 28); a label is the folder's digit, which need not be true.
    Raises `UserError` when no source has the archive, or an image in it cannot be decoded."""
    archive, pictures, names = _decoded("mislabelled", profile, images.read_image)
    labels = np.array([int(name.split("/")[1]) for name in names])
    return _dataset(archive, config.DIGIT_NAMES, pictures, labels, names)


def read_scans(
    path: str | Path, skipped: list[dict], chosen: set | None = None
) -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
    """Yield the images below a folder or in a zip, see `files.walk`, a few at a time: their names,
    and their scans, uint8 (n, 225, 300). chosen: names of the images to be read, None for all. What
    cannot be read, or holds no ink, is added to `skipped`, as {"file", "reason"}. Long work shows
    its progress."""

    def read(one):
        name, content = one
        try:
            return name, images.read_scan(content, name)
        except UserError as error:
            return {"file": name, "reason": str(error).removeprefix(f"{name}: ")}

    contents = (one for one in files.walk(path, skipped) if chosen is None or one[0] in chosen)
    often = 0.2 if sys.stderr.isatty() else 60
    shown = tqdm(desc="read", unit=" images", delay=5, mininterval=often, total=None)
    with shown, ThreadPoolExecutor(loky.cpu_count()) as pool:
        while batch := list(itertools.islice(contents, BATCH)):
            found = list(pool.map(read, batch))  # OpenCV decodes without the interpreter
            shown.update(len(batch))
            skipped += [one for one in found if isinstance(one, dict)]
            if whole := [one for one in found if isinstance(one, tuple)]:
                names, scans = zip(*whole, strict=True)
                yield names, np.stack(scans)


def labels_of(
    path: str | Path, names: Iterable[str], class_names: tuple[str, ...], skipped: list[dict]
) -> list[int | None]:
    """Each image's label by the folder that it lies in, see `class_folders`, or None; where others
    have one, those without are added to `skipped`. Raises `UserError` where some folders name a
    class, but most do not."""
    where = [name.rpartition("/")[0] for name in names]
    labels = class_folders(where, class_names)
    unknown = [folder for folder, label in labels.items() if folder and label is None]
    folders = len(labels.keys() - {""})
    said = f"{len(unknown)} of {folders} folders name no class ({', '.join(unknown[:3])} ...)"
    said = f"{path}: {said}; {NAMING}"
    if len(unknown) == folders:
        if folders:
            warnings.warn(said, stacklevel=2)
        return [None] * len(where)
    if len(unknown) > folders / 2:
        raise UserError(said)
    for folder, name in zip(where, names, strict=True):
        if labels[folder] is None:  # a stray image beside the class folders
            lies = f"in a folder {folder} that names no class" if folder else "in no class folder"
            skipped.append({"file": name, "reason": f"lies {lies}"})
    return [labels[folder] for folder in where]


def class_folders(folders: Iterable[str], class_names: tuple[str, ...]) -> dict[str, int | None]:
    """What folders, given as paths, are taken for: {folder: label, or None}, sorted; the innermost
    folder that names a class decides. A name may mean one thing in one set and another in the next,
    so all are read in the same way, the one that understands most of them, the first of equals:
    `SampleCCC`, CCC the class's number from 1, its own name, and `upper_a`, `a_lower`, `zero` ...;
    the hex code of the character (NIST's 4a for J), codes without a letter only if all folders have
    one; or the number from 0, if all folders have one and it is above 9 once."""
    folders, best = sorted(set(folders)), []
    spoken, coded, numbered = _names(class_names)
    for names in (spoken, coded, numbered):
        plain = class_names if names is spoken else ()
        labels = [_innermost(folder, plain, names) for folder in folders]
        known = {label for label in labels if label is not None}
        sure = all(label is not None for f, label in zip(folders, labels, strict=True) if f)
        if names is coded:
            sure |= any(code[1].isalpha() for code, label in coded.items() if label in known)
        elif names is numbered:
            sure &= max(known, default=0) > 9
        if sure or names is spoken:
            best = max(best or labels, labels, key=lambda found: len(found) - found.count(None))
    return dict(zip(folders, best, strict=True))


def _names(class_names: tuple[str, ...]) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
    """What folders may be called, {name: label}: in words, by the character's code, by number."""
    spoken, coded, numbered = {}, {}, {}
    for label, name in enumerate(class_names):
        numbered |= {str(label): label, f"{label:02}": label}
        if name in config.CLASS_NAMES:
            coded[f"{ord(name):02x}"] = label
            words = "upper" if name.isupper() else "lower", name.lower()
            spoken |= {"_".join(words): label, "_".join(words[::-1]): label}
        if name in config.DIGIT_NAMES:
            spoken[WORDS[int(name)]] = label
    return spoken, coded, numbered


def _innermost(folder: str, class_names: tuple[str, ...], names: dict[str, int]) -> int | None:
    for part in reversed(folder.split("/")):
        sample = re.fullmatch(r"[Ss]ample0*([1-9]\d{0,5})", part, re.ASCII)
        if sample and int(sample[1]) <= len(class_names):
            return int(sample[1]) - 1
        if part in class_names:
            return class_names.index(part)
        if (spelt := re.sub("[- ]", "_", part.lower())) in names:
            return names[spelt]
    return None


def _dataset(archive, class_names, pictures, labels, names, writers=None) -> ImageDataset:
    known = {"class_names": class_names, "source": archive.source, "digest": archive.digest}
    return ImageDataset(images=pictures, labels=labels, names=names, writers=writers, **known)


def _decoded(name: str, profile: str, read) -> tuple[sources.Source, np.ndarray, tuple[str, ...]]:
    """An archive, its pictures as `read` gives them, and their names; from the cache if there."""
    archive = sources.fetch(name, profile=profile)
    cache = config.data_dir() / "cache" / f"{name}-{archive.digest[:16]}-{CACHE_VERSION}.npz"
    with contextlib.suppress(Exception):  # not there, or damaged, which is told in many ways
        stored = files.read_npz(cache)
        return archive, stored["images"], tuple(stored["names"].tolist())
    names, contents = zip(*sources.read_members(archive.paths[0], name), strict=True)
    with ThreadPoolExecutor(loky.cpu_count()) as pool:  # OpenCV decodes without the interpreter
        pictures = np.stack(list(pool.map(read, contents, names)))
    try:
        with files.replacing(cache) as temporary, open(temporary, "wb") as file:
            np.savez(file, images=pictures, names=np.array(names))
    except OSError as error:
        reason = f"not cached ({error.strerror}); decoding again next time"
        warnings.warn(f"{cache}: {reason}", stacklevel=3)
    return archive, pictures, names


def folds(labels: np.ndarray, partition: int, writers: np.ndarray | None = None) -> np.ndarray:
    """The fold, 0 to 4, of every image in a 5-fold partition numbered `partition`. Stratified by
    class; with `writers`, no writer stands in two folds instead. Returns int64 (n,)."""
    kind = StratifiedKFold if writers is None else GroupKFold
    splits = kind(5, shuffle=True, random_state=partition).split(labels, labels, writers)
    fold = np.empty(len(labels), np.int64)
    for k, (_, held_out) in enumerate(splits):
        fold[held_out] = k
    return fold


def split(labels: np.ndarray, held_out: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the training examples and of `held_out` others, sorted, stratified by class."""
    how = {"test_size": held_out, "stratify": labels, "random_state": seed}
    rest, chosen = train_test_split(np.arange(len(labels)), **how)
    return np.sort(rest), np.sort(chosen)


def balanced(labels: np.ndarray, count: int, draw: int) -> np.ndarray:
    """Sorted indices of `count` examples, equally many of each class, or all of them. Draw `draw`
    of a smaller count is part of draw `draw` of a larger one. Raises `UserError` for a count that
    no balanced draw has: over the number of examples, or not a multiple of the classes."""
    if count == len(labels):
        return np.arange(count)
    classes, sizes = np.unique(labels, return_counts=True)
    each, rest = divmod(count, len(classes))
    if rest or not 1 <= each <= sizes.min():
        fit = f"a multiple of {len(classes)} up to {len(classes) * sizes.min()}"
        raise UserError(f"{count} labelled images: give {fit}, or all {len(labels)}")
    order = np.random.default_rng(draw).permutation(len(labels))
    return np.sort(np.concatenate([order[labels[order] == c][:each] for c in classes]))


def limit(dataset: ImageDataset, per_class: int | None) -> ImageDataset:
    """Up to `per_class` images of every class, from its first to its last; all of them for None."""
    if per_class is None:
        return dataset
    of_class = [np.flatnonzero(dataset.labels == c) for c in np.unique(dataset.labels)]
    ends = [np.linspace(0, len(rows) - 1, min(per_class, len(rows))) for rows in of_class]
    picked = [rows[at.astype(int)] for rows, at in zip(of_class, ends, strict=True)]
    where = np.sort(np.concatenate(picked))
    writers = None if dataset.writers is None else dataset.writers[where]
    kept = {"images": dataset.images[where], "labels": dataset.labels[where], "writers": writers}
    return dataclasses.replace(dataset, names=tuple(dataset.names[i] for i in where), **kept)


def array_digest(*arrays: np.ndarray) -> str:
    """SHA-256 (hex) over the type, shape and content of arrays."""
    sha = hashlib.sha256()
    for array in arrays:
        sha.update(f"{array.dtype.str}{array.shape}".encode())
        sha.update(np.ascontiguousarray(array).data)
    return sha.hexdigest()
