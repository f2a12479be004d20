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

from midas_lib import analysis, data, sources
from midas_lib.config import Preprocessing, UserError

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
        of answers. Raises `UserError` for an image that cannot be read or holds no ink.
        """
        several = isinstance(image, list | tuple)
        images = image if several else [image]
        scans = np.stack([data.scan(data.read_image(one)) for one in images])
        answers = [
            (self.class_names[row.argmax()], int(row.argmax()), row)
            for row in self.probabilities(scans)
        ]
        return answers if several else answers[0]

    def probabilities(self, scans: np.ndarray) -> np.ndarray:
        """Class probabilities, float32 (n, classes), of scans, uint8 (n, 225, 300)."""
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
        raise UserError(f"{notes}: does not describe a checkpoint ({error!r})") from None
    wanted = (None, preprocessing.size, preprocessing.size, 1), (None, len(class_names))
    found = tuple(model.inputs[0].shape), tuple(model.outputs[0].shape)
    if found != wanted:
        raise UserError(f"{path}: its shapes {found} are not what {notes.name} says, {wanted}")
    return Classifier(model=model, class_names=class_names, preprocessing=preprocessing)


def predict_files(classifier: Classifier, paths: list[Path]) -> list[dict]:
    """An answer for each image file: {"file", "label", "index", "probability"}.

    Raises `UserError`, naming the file, for the first that cannot be read.
    """
    scans = [_scan(path.read_bytes() if path.is_file() else None, str(path)) for path in paths]
    return _answers(classifier, [str(path) for path in paths], np.stack(scans))


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
    for name, content in _contents(path):
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
    probabilities = classifier.probabilities(np.stack(scans))
    document = {
        "n": len(files),
        "predictions": _described(classifier, files, probabilities),
        "skipped": skipped,
    }
    if known:
        truth = np.array([labels[i] for i in known])
        document |= _measures(truth, probabilities, classifier.class_names)
    return document


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


def _answers(classifier: Classifier, files: list[str], scans: np.ndarray) -> list[dict]:
    return _described(classifier, files, classifier.probabilities(scans))


def _described(classifier: Classifier, files: list[str], probabilities: np.ndarray) -> list[dict]:
    return [
        {
            "file": name,
            "label": classifier.class_names[row.argmax()],
            "index": int(row.argmax()),
            "probability": float(row.max()),
        }
        for name, row in zip(files, probabilities, strict=True)
    ]


def _scan(content: bytes | None, name: str) -> np.ndarray:
    """An image file's scan; `UserError`, naming it, when it is none or holds no ink."""
    if content is None:
        raise UserError(f"{name}: no such file; give the path of an image file")
    scanned = data.scan(data.read_image(content, name))
    try:
        data.ink(scanned)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    return scanned


def _contents(path: Path) -> Iterator[tuple[str, bytes]]:
    """The images below a folder or in a zip, as (name, bytes), sorted by name."""
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            name = file.relative_to(path).as_posix()
            if file.is_file() and not _system_file(name):
                yield from _opened(name, file, 0)
    elif path.is_file():
        yield from _opened(path.name, path, 0, archive=True)
    else:
        raise UserError(f"{path}: no such folder or zip")


def _opened(name: str, path: Path, depth: int, archive: bool = False):
    if not archive and not name.lower().endswith(".zip"):
        if name.lower().endswith(IMAGE_ENDINGS):
            yield name, path.read_bytes()
        return
    for member, content in sources.read_members(path):
        if not member.lower().endswith(".zip"):
            if member.lower().endswith(IMAGE_ENDINGS):
                yield member, content
        elif depth < NESTING:
            with tempfile.TemporaryDirectory() as folder:
                inner = Path(folder, Path(member).name)
                inner.write_bytes(content)
                yield from _opened(member, inner, depth + 1)


def _system_file(name: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in name.split("/"))


def _label(name: str, class_names: tuple[str, ...]) -> int | None:
    """The class that the innermost folder saying one names."""
    for folder in reversed(name.split("/")[:-1]):
        sample = re.fullmatch(r"[Ss]ample0*(\d+)", folder)
        if sample and 1 <= int(sample[1]) <= len(class_names):
            return int(sample[1]) - 1
        if folder in class_names:
            return class_names.index(folder)
    return None
