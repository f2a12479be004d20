"""Use a trained network: load a checkpoint, read images, measure a test set."""

import dataclasses
import json
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np

from midas_lib import analysis, audit, data, sources
from midas_lib.config import DIGIT_NAMES, Preprocessing, UserError

BATCH = 256
NESTING = 3  # zips within zips are opened this deep
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".pgm", ".ppm")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classifier:
    """A network with all it takes to read raw images. model: from pictures (and geometry) to class
    probabilities. class_names: in the order of its outputs. preprocessing: of its input."""

    model: keras.Model
    class_names: tuple[str, ...]
    preprocessing: Preprocessing

    def predict(self, image):
        """The answer for an image: `(label, index, probabilities)`, the latter float32 (classes,).

        image: a path, a PIL image or an array (see `data.read_image`); a list of such gives a list
        of answers. Raises `UserError`, naming the image, for one that cannot be read or holds no
        ink.
        """
        if not isinstance(image, list | tuple):
            return self.predict([image])[0]
        if not image:
            return []
        names = [
            str(one) if isinstance(one, str | Path) else f"image {i}" for i, one in enumerate(image)
        ]
        return self.answers(np.stack([_scan(*one) for one in zip(image, names, strict=True)]))

    def answers(self, scans: np.ndarray) -> list[tuple]:
        """`(label, index, probabilities)` of each of n >= 1 scans, uint8 (n, 225, 300)."""
        return [
            (self.class_names[row.argmax()], int(row.argmax()), row)
            for row in self.probabilities(scans)
        ]

    def probabilities(self, scans: np.ndarray) -> np.ndarray:
        """Class probabilities, float32 (n, classes), of n >= 1 scans, uint8 (n, 225, 300)."""
        inputs = data.preprocess(scans, self.preprocessing)[: len(self.model.inputs)]
        parts = []
        for start in range(0, len(scans), BATCH):
            batch = [values[start : start + BATCH].astype(np.float32) for values in inputs]
            parts.append(self.model.predict_on_batch(batch if len(batch) > 1 else batch[0]))
        return np.concatenate(parts)


def save_classifier(model: keras.Model, path: Path, description: dict) -> None:
    """Write `path` (a .keras file) and the .json beside it, each whole or not at all.

    description: JSON-ready, with at least "class_names" and "settings", whose "preprocessing"
    holds `config.Preprocessing`'s fields.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".saving-") as folder:
        network, text = Path(folder, "model.keras"), Path(folder, "model.json")
        model.save(network)
        text.write_text(json.dumps(description, indent=1, sort_keys=True) + "\n")
        os.replace(network, path)
        os.replace(text, path.with_suffix(".json"))


def load_classifier(path) -> Classifier:
    """The classifier saved as `path`, a .keras file with its .json beside it.

    Loaded in Keras' safe mode. Raises `UserError` when the file is missing, no checkpoint, carries
    code, or does not fit its .json.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint; make part1, or name another .keras file")
    if path.suffix != ".keras":  # Keras would read it as another format, with other safeguards
        raise UserError(f"{path}: not a checkpoint, by its name; give a .keras file")
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises whatever its parts happen to raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{path}: not a checkpoint that can be loaded safely ({reason})") from None
    notes = path.with_suffix(".json")
    try:
        description = json.loads(notes.read_text())
        class_names = tuple(map(str, description["class_names"]))
        preprocessing = Preprocessing(**description["settings"]["preprocessing"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{notes}: does not describe {path.name} ({error!r}); put the .json saved with it there"
        ) from None
    picture, geometry = (None, preprocessing.size, preprocessing.size, 1), (None, 2)
    inputs = [picture, geometry] if len(model.inputs) > 1 else [picture]
    wanted = [*inputs, (None, len(class_names))]
    found = [tuple(tensor.shape) for tensor in (*model.inputs, *model.outputs)]
    if found != wanted:
        raise UserError(f"{path}: its shapes {found} are not what {notes.name} says, {wanted}")
    return Classifier(model=model, class_names=class_names, preprocessing=preprocessing)


def predict_files(classifier: Classifier, paths: list[Path]) -> list[dict]:
    """An answer for each image file: {"file", "label", "index", "probability"}.

    Raises `UserError`, naming the file, for the first that cannot be read.
    """
    return _rows(paths, classifier.predict([Path(path) for path in paths]))


def evaluate(classifier: Classifier, path) -> dict:
    """Measure the network on a folder or zip of images.

    An image's class is told by the folder it lies in, `SampleCCC` (CCC the class's number from 1)
    or a class's own name; zips inside are opened too. Returns, JSON-ready: n, accuracy,
    accuracy_interval (Wilson, 95 %), top5_accuracy, case_merged_accuracy, ece, per_class ({name:
    {"n", "accuracy"}}), predictions and skipped ([{"file", "reason"}]). Where no image has a
    class: n, predictions and skipped. Raises `UserError` when nothing can be read.
    """
    path = Path(path)
    files, scans, labels, skipped = [], [], [], []
    for name, content in _contents(path, skipped):
        try:
            scans.append(_scan(content, name))
        except UserError as error:
            skipped.append({"file": name, "reason": str(error).removeprefix(f"{name}: ")})
            continue
        files.append(name)
        labels.append(_label(name, classifier.class_names))
    if not files:
        reason = f" ({skipped[0]['file']}: {skipped[0]['reason']})" if skipped else ""
        raise UserError(f"{path}: holds no readable image{reason}; give a folder or zip of images")
    known = [i for i, label in enumerate(labels) if label is not None]
    if known:  # a stray image beside the class folders has nothing to be measured against
        skipped += [
            {"file": files[i], "reason": "lies in no class folder"}
            for i in range(len(files))
            if labels[i] is None
        ]
        files, scans = [files[i] for i in known], [scans[i] for i in known]
    answers = classifier.answers(np.stack(scans))
    document = {"n": len(files), "predictions": _rows(files, answers), "skipped": skipped}
    if known:
        truth = np.array([labels[i] for i in known])
        probabilities = np.stack([row for _, _, row in answers])
        document |= _measures(truth, probabilities, classifier.class_names)
    return document


def audit_folders(path, witness: Classifier | None = None, limit: int = 20_000) -> dict:
    """`audit.audit` of a folder or zip of digits, one folder for each class.

    A class's folder is named by its digit, or `SampleCCC` with CCC from 001 for 0. witness: answers
    beside the folders; it must know the classes. limit: images looked at, drawn at random. Returns,
    JSON-ready: n, classes, verdict, reason, advice, own_folder_rate, own_folder_rate_interval,
    transition, transition_low, transition_high, counts, evidence and skipped ([{"file",
    "reason"}]). Raises `UserError` for a folder that is no class, a class without enough readable
    images, fewer than three classes, or a witness that does not know them.
    """
    path = Path(path)
    if witness is not None and not set(DIGIT_NAMES) <= set(witness.class_names):
        raise UserError("the witness does not know the digits 0 to 9; name another, or none")
    total = sum(1 for _ in _contents(path, []))
    chosen = set(np.random.default_rng(0).permutation(total)[:limit].tolist())
    skipped, scans, labels, pictures, answers = [], [], [], [], []

    def look():
        stacked = np.stack(scans)
        pictures.append(data.preprocess(stacked, Preprocessing(mode="mnist"))[0][..., 0])
        if witness is not None:
            answers.append(witness.probabilities(stacked))
        scans.clear()

    for i, (name, content) in enumerate(_contents(path, skipped)):
        label = _label(name, DIGIT_NAMES)
        if label is None:
            raise UserError(
                f"{path}: {name} lies in no class folder; name them 0 to 9, and keep others away"
            )
        if i not in chosen:
            continue
        try:
            scans.append(_scan(content, name))
        except UserError as error:
            skipped.append({"file": name, "reason": str(error).removeprefix(f"{name}: ")})
            continue
        labels.append(label)
        if len(scans) == BATCH:
            look()
    if scans:
        look()
    classes, folders, counts = np.unique(labels, return_inverse=True, return_counts=True)
    _check_classes(path, classes, counts)
    names = [DIGIT_NAMES[c] for c in classes]
    probabilities = None
    if witness is not None:
        columns = [witness.class_names.index(name) for name in names]
        probabilities = np.concatenate(answers)[:, columns]
    found = audit.audit(np.concatenate(pictures), folders, probabilities)
    return {
        "n": len(labels),
        "classes": names,
        "verdict": found.verdict,
        "reason": found.reason,
        "advice": found.advice,
        "own_folder_rate": found.own_folder_rate.mean,
        "own_folder_rate_interval": [found.own_folder_rate.low, found.own_folder_rate.high],
        "transition": found.transition.tolist(),
        "transition_low": found.low.tolist(),
        "transition_high": found.high.tolist(),
        "counts": found.counts.tolist(),
        "evidence": found.evidence,
        "skipped": skipped,
    }


def _check_classes(path: Path, classes: np.ndarray, counts: np.ndarray) -> None:
    folders = [folder for folder in path.rglob("*") if folder.is_dir()] if path.is_dir() else []
    for folder in folders:
        label = _label(f"{folder.name}/", DIGIT_NAMES)
        if label is not None and label not in classes:
            raise UserError(
                f"{folder}: holds no readable image among those looked at; fill it, or remove it"
            )
    if len(classes) < 3:
        raise UserError(f"{path}: holds images of {len(classes)} classes; an audit takes 3 or more")
    if counts.min() < audit.FEWEST:
        rarest = DIGIT_NAMES[classes[counts.argmin()]]
        raise UserError(
            f"{path}: {counts.min()} readable images of folder {rarest} among those looked at; an"
            f" audit takes {audit.FEWEST} of each class or more (--limit looks at more)"
        )


def _measures(labels: np.ndarray, probabilities: np.ndarray, class_names) -> dict:
    predictions = probabilities.argmax(1)
    interval = analysis.proportion_interval(int((predictions == labels).sum()), len(labels))
    groups = analysis.case_groups(class_names)
    return {
        "accuracy": interval.mean,
        "accuracy_interval": [interval.low, interval.high],
        "top5_accuracy": analysis.top_k_accuracy(labels, probabilities, 5),
        "case_merged_accuracy": analysis.merged_accuracy(labels, predictions, groups),
        "ece": analysis.expected_calibration_error(labels, probabilities),
        "per_class": {
            class_names[c]: {
                "n": int((labels == c).sum()),
                "accuracy": float((predictions[labels == c] == c).mean()),
            }
            for c in np.unique(labels)
        },
    }


def _rows(files, answers: list[tuple]) -> list[dict]:
    return [
        {"file": str(file), "label": label, "index": index, "probability": float(row.max())}
        for file, (label, index, row) in zip(files, answers, strict=True)
    ]


def _scan(image, name: str) -> np.ndarray:
    """An image's scan; `UserError`, naming it, when it cannot be read or holds no ink."""
    scanned = data.scan(data.read_image(image, name))
    try:
        data.ink(scanned)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    return scanned


def _contents(path: Path, skipped: list[dict]) -> Iterator[tuple[str, bytes]]:
    """The images below a folder or in a zip, as (name, bytes), sorted by name; what cannot be read
    is noted in `skipped`."""
    if path.is_file():
        yield from _members(path, "", 0, skipped)
        return
    if not path.is_dir():
        raise UserError(f"{path}: no such folder or zip")
    for file in sorted(path.rglob("*")):
        name = file.relative_to(path).as_posix()
        if file.is_dir() or sources.SYSTEM_FILE.search(name):
            continue
        if name.lower().endswith(".zip"):
            yield from _inner_zip(file, name, 0, skipped)
        elif name.lower().endswith(IMAGE_ENDINGS):
            try:
                content = file.read_bytes()
            except OSError as error:
                skipped.append({"file": name, "reason": error.strerror})
            else:
                yield name, content


def _members(path: Path, prefix: str, depth: int, skipped: list[dict]):
    for member, content in sources.read_members(path):
        name = prefix + member
        if name.lower().endswith(IMAGE_ENDINGS):
            yield name, content
        elif name.lower().endswith(".zip"):
            with tempfile.TemporaryDirectory() as folder:
                inner = Path(folder, "inner.zip")
                inner.write_bytes(content)
                yield from _inner_zip(inner, name, depth + 1, skipped)


def _inner_zip(path: Path, name: str, depth: int, skipped: list[dict]):
    if depth > NESTING:
        skipped.append({"file": name, "reason": f"more than {NESTING} zips deep"})
        return
    try:
        yield from _members(path, f"{name}/", depth, skipped)
    except sources.UnreadableError as error:
        skipped.append({"file": name, "reason": error.reason})


def _label(name: str, class_names: tuple[str, ...]) -> int | None:
    """The class that the innermost folder saying one names."""
    for folder in reversed(name.split("/")[:-1]):
        sample = re.fullmatch(r"[Ss]ample0*(\d+)", folder)
        if sample and 1 <= int(sample[1]) <= len(class_names):
            return int(sample[1]) - 1
        if folder in class_names:
            return class_names.index(folder)
    return None
