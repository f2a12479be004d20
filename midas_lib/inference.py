"""Use a trained network: load a checkpoint, read images, measure a test set."""

import dataclasses
import json
import re
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from midas_lib import files, images, network
from midas_lib.config import CLASS_NAMES, Preprocessing, UserError

BATCH = 256
NO_HANDS = "hands: this network does not know how hands vary; take --network characters"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classifier:
    """A network with all it takes to read raw images. network: from pictures, and geometry where it
    takes that, to class probabilities. class_names: in the order of its outputs. preprocessing: of
    its input. geometry: whether it takes it. hands: an `analysis.Hands` by name, how geometry
    varies, and its "weight", for `read_hands`; None where the checkpoint has none."""

    network: Callable[..., np.ndarray]
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    geometry: bool = False
    hands: dict | None = None

    def predict(self, image):
        """The answer for an image: `(label, index, probabilities)`, the latter float32 (classes,).
        image: a path, a PIL image or an array, see `images.read_image`; a list gives a list of
        answers. Raises `UserError`, naming it, for an image that cannot be read or has no ink."""
        if not isinstance(image, list | tuple):
            return self.predict([image])[0]
        if not image:
            return []
        scans = [images.read_scan(one, f"image {i}") for i, one in enumerate(image)]
        rows = self.probabilities(np.stack(scans))
        return [(self.class_names[row.argmax()], int(row.argmax()), row) for row in rows]

    def probabilities(self, scans: np.ndarray) -> np.ndarray:
        """Class probabilities, float32 (n, classes), of n >= 1 scans, uint8 (n, 225, 300). Raises
        `UserError` where the network's answers are no numbers."""
        return self.answer(*images.preprocess(scans, self.preprocessing))

    def answer(self, pictures: np.ndarray, geometry: np.ndarray) -> np.ndarray:
        """The same of what `images.preprocess` makes of scans."""
        found = self.network(pictures, geometry) if self.geometry else self.network(pictures)
        if not np.isfinite(found).all():
            raise UserError("the network's answers are no numbers: its weights are damaged")
        return found

    def read_hands(
        self, logits: np.ndarray, geometry: np.ndarray, writers: np.ndarray
    ) -> np.ndarray:
        """The answers, int (n,), to images when all those by one writer are read together, see
        `analysis.one_hand`: nobody's labels are asked for. logits: the network's, of the pictures
        alone, (n, classes). geometry: (n, 2). writers: (n,)."""
        from midas_lib import analysis

        known, answers = dict(self.hands), np.empty(len(writers), int)
        weight, hands = known.pop("weight"), analysis.Hands(**known)
        for writer in np.unique(writers):
            own = writers == writer
            logs = analysis.one_hand(logits[own], geometry[own], hands, weight)
            answers[own] = logs.argmax(1)
        return answers


def save_classifier(model, path: Path, description: dict) -> None:
    """Write a Keras model as `path` (a .keras file), and the .json beside it, each whole or not at
    all. description: JSON-ready, with at least "class_names" and "settings", whose "preprocessing"
    holds `config.Preprocessing`'s fields."""
    text = json.dumps(description, indent=1, sort_keys=True) + "\n"
    with tempfile.TemporaryDirectory() as folder:
        network = Path(folder, "model.keras")  # Keras tells the format by the name
        model.save(network)
        files.write(path, network.read_bytes())
    files.write(path.with_suffix(".json"), text.encode())


def load_classifier(path) -> Classifier:
    """The classifier saved as `path`, a .keras file with its .json beside it. A network of this
    project's family is run in NumPy; another is loaded with Keras, in its safe mode, and without
    Lambda layers, of which that mode lets some pass. Raises `UserError` when the file is missing,
    no checkpoint, too large, carries code, or does not fit its .json."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint; make part1, or name another .keras file")
    if path.suffix != ".keras":  # Keras would read it as another format, with other safeguards
        raise UserError(f"{path}: not a checkpoint, by its name; give a .keras file")
    try:
        try:
            found = network.read(path)
            geometry, shape = found.geometry, (found.size, found.classes)
        except network.UnknownLayerError:
            found, geometry, shape = _from_keras(path)
    except Exception as error:  # Keras, HDF5 and zip raise whatever their parts happen to raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{path}: not a checkpoint that can be loaded safely ({reason})") from None
    notes = path.with_suffix(".json")
    try:
        description = json.loads(notes.read_text())
        class_names = tuple(map(str, description["class_names"]))
        preprocessing = Preprocessing(**description["settings"]["preprocessing"])
        hands = _hands(description.get("hands"), len(class_names))
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"does not describe {path.name} ({error!r}); put the .json saved with it there"
        raise UserError(f"{notes}: {reason}") from None
    wanted = preprocessing.size, len(class_names)
    if shape != wanted:
        raise UserError(
            f"{path}: its side and classes {shape} are not what {notes.name} says, {wanted}"
        )
    return Classifier(
        network=found, class_names=class_names, preprocessing=preprocessing, geometry=geometry,
        hands=hands if geometry and hasattr(found, "logits") else None,
    )  # fmt: skip


def _hands(described: dict | None, classes: int) -> dict | None:
    """A checkpoint's `analysis.Hands`, by name, and their weight."""
    if not described:
        return None
    shapes = {"means": (classes, 2), "between": (2, 2), "within": (2, 2)}
    known = {name: np.array(described[name], float).reshape(s) for name, s in shapes.items()}
    return known | {"weight": float(described["weight"])}


def _from_keras(path: Path) -> tuple[Callable, bool, tuple]:
    """A network of another family, whether it takes geometry, its input's side and its classes."""
    config, _ = network.read_members(path)
    if re.search(r'"class_name": "[^"]*Lambda"|__lambda__', json.dumps(config)):
        raise ValueError("it carries code, in a Lambda layer")
    with files.quiet():
        import keras  # loads TensorFlow

    model = keras.saving.load_model(path, compile=False, safe_mode=True)
    shapes = [tuple(tensor.shape) for tensor in (*model.inputs, *model.outputs)]
    side, classes, geometry = shapes[0][1:2], shapes[-1][1:], len(shapes) > 2
    if shapes != [(None, *side, *side, 1), *[(None, 2)] * geometry, (None, *classes)]:
        raise ValueError(f"its shapes are {shapes}, not a square picture's and its classes'")

    def ask(*inputs):
        inputs = [values.astype(np.float32) for values in inputs]
        return model.predict(inputs if geometry else inputs[0], BATCH, 0)

    return ask, geometry, (*side, *classes)


def predict_files(
    classifier: Classifier, paths: list[Path], hand: bool = False
) -> tuple[list[dict], list[dict]]:
    """An answer for each image file that can be read, {"file", "label", "index", "probability"},
    and the others, {"file", "reason"}. hand: whether all are by one writer and also read together:
    then each answer has a "hand_label". Raises `UserError` where the checkpoint does not know how
    hands vary."""
    if hand and classifier.hands is None:
        raise UserError(NO_HANDS)
    scans, skipped = {}, []
    for path in paths:
        try:
            scans[str(path)] = images.read_scan(Path(path))
        except UserError as error:
            reason = str(error).removeprefix(f"{path}: ")
            skipped.append({"file": str(path), "reason": reason})
    if not scans:
        return [], skipped
    pictures, geometry = images.preprocess(np.stack(list(scans.values())), classifier.preprocessing)
    more = {}
    if hand:
        logits = classifier.network.logits(pictures)
        more["hand_label"] = classifier.read_hands(logits, geometry, np.zeros(len(scans), int))
    probabilities = classifier.answer(pictures, geometry)
    return _rows(scans, probabilities, classifier.class_names, **more), skipped


def evaluate(classifier: Classifier, path, hands: bool = False) -> dict:
    """Measure the network on a folder or zip of images; zips inside are opened too.

    The folder that an image lies in tells its class, see `data.labels_of`. Returns, JSON-ready: n,
    accuracy, accuracy_interval (Wilson, 95 %), top5_accuracy, case_merged_accuracy, ece, per_class
    ({name: {"n", "accuracy"}}), confused ([name, name, errors both ways], most first), predictions
    (with "true", the class's name) and skipped ([{"file", "reason"}]). Where no image has a class:
    n, predictions and skipped. hands: whether all images of one writer, whom the last number in a
    file's name tells, are also read together: then each prediction has a "hand_label", and "hands"
    holds writers, accuracy and accuracy_interval. Raises `UserError` when nothing can be read, or
    the checkpoint or a name does not tell of hands."""
    from midas_lib import data  # with what it imports, half a second that one picture need not wait

    if hands and classifier.hands is None:
        raise UserError(NO_HANDS)
    skipped, names, answers, logits, places = [], [], [], [], []
    for found, scans in data.read_scans(path, skipped):
        names += found
        pictures, geometry = images.preprocess(scans, classifier.preprocessing)
        answers.append(classifier.answer(pictures, geometry))
        if hands:
            logits.append(classifier.network.logits(pictures))
            places.append(geometry)
    if not names:
        reason = f" ({skipped[0]['file']}: {skipped[0]['reason']})" if skipped else ""
        raise UserError(f"{path}: holds no readable image{reason}; give a folder or zip of images")
    labels = data.labels_of(path, names, classifier.class_names, skipped)
    known = [i for i, label in enumerate(labels) if label is not None]
    measured = known or range(len(names))
    names, probabilities = [names[i] for i in measured], np.concatenate(answers)[measured]
    labels = np.array([labels[i] for i in known])
    document, more = {"n": len(names), "skipped": skipped}, {}
    if known:
        document |= _measures(labels, probabilities, classifier.class_names)
        more["true"] = labels
    if hands:
        writers = np.array([_writer(name) for name in names])
        given = np.concatenate(logits)[measured], np.concatenate(places)[measured]
        more["hand_label"] = together = classifier.read_hands(*given, writers)
        right = _accuracy(together == labels) if known else {}
        document["hands"] = {"writers": len(np.unique(writers))} | right
    document["predictions"] = _rows(names, probabilities, classifier.class_names, **more)
    return document


def _writer(name: str) -> int:
    """The last number in a file's name."""
    numbers = re.findall(r"\d+", Path(name).stem)
    if not numbers:
        raise UserError(f"{name}: its name ends with no writer's number, as in img001-023.png")
    return int(numbers[-1])


def _accuracy(right: np.ndarray) -> dict:
    from midas_lib import analysis

    interval = analysis.proportion_interval(int(right.sum()), len(right))
    return {"accuracy": interval.mean, "accuracy_interval": [interval.low, interval.high]}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Filed:
    """Pictures as somebody filed them. names: of n files. classes: K names, sorted. folders: int
    (n,), the class that each was filed under. pictures: uint8 (n, 28, 28), bright ink on black.
    answers: a reference's probabilities of the classes, (n, K), or None. skipped: as `evaluate`'s.
    """

    names: list[str]
    classes: list[str]
    folders: np.ndarray
    pictures: np.ndarray
    answers: np.ndarray | None
    skipped: list[dict]


def read_folders(path, reference: Classifier | None = None, limit: int | None = None) -> Filed:
    """The pictures of a folder or zip with one folder for each class. Where all folders name
    characters, see `data.class_folders`, those are the classes; else a class is what the folder is
    called. reference: answers beside the folders, if it knows the classes. limit: images looked at,
    drawn at random; None for all. Raises `UserError` for an image in no folder, a folder without
    images, a class with too few, or fewer than three classes."""
    from midas_lib import audit, data

    path, skipped, names, pictures, answers = Path(path), [], [], [], []
    found = [name for name, _ in files.walk(path, [])]
    where = {name: name.rpartition("/")[0] for name in found}
    known = data.class_folders(where.values(), CLASS_NAMES)
    if "" in known:
        stray = next(name for name, folder in where.items() if not folder)
        raise UserError(f"{path}: {stray} lies in no class folder; move it into one")
    for folder in path.rglob("*") if path.is_dir() else ():
        inside = f"{files.printable(folder.relative_to(path))}/"
        empty = folder.is_dir() and not any(name.startswith(inside) for name in found)
        if empty and not files.SYSTEM_FILE.search(inside):
            raise UserError(f"{folder}: holds no image; remove it")
    spoken = None not in known.values()
    named = {f: CLASS_NAMES[c] if spoken else f.rpartition("/")[2] for f, c in known.items()}
    classes = sorted(set(named.values()))
    if reference is not None and not set(classes) <= set(reference.class_names):
        warnings.warn(f"{path}: the reference does not know all classes; not asked", stacklevel=2)
        reference = None
    chosen = {found[i] for i in np.random.default_rng(0).permutation(len(found))[:limit]}
    for some, scans in data.read_scans(path, skipped, chosen):
        names += some
        pictures.append(images.preprocess(scans, Preprocessing(mode="mnist"))[0][..., 0])
        if reference is not None:
            columns = [reference.class_names.index(name) for name in classes]
            answers.append(reference.probabilities(scans)[:, columns])
    folders = np.array([classes.index(named[where[name]]) for name in names], int)
    if len(classes) < 3:
        raise UserError(f"{path}: holds images of {len(classes)} classes; an audit takes 3 or more")
    counts = np.bincount(folders, minlength=len(classes))
    if counts.min() < audit.FEWEST:
        seen = f"of those looked at, {counts.min()} readable images are of folder"
        seen += f" {classes[counts.argmin()]}; an audit takes {audit.FEWEST} of each"
        raise UserError(f"{path}: {seen}")
    return Filed(
        names=names, classes=classes, folders=folders, pictures=np.concatenate(pictures),
        answers=np.concatenate(answers) if answers else None, skipped=skipped,
    )  # fmt: skip


def audit_folders(path, reference: Classifier | None = None, limit: int = 20_000) -> dict:
    """`audit.audit` of the folders that `read_folders`, which takes the same, finds. Returns,
    JSON-ready: n, classes, verdict, reason, advice, own_folder_rate, own_folder_rate_interval,
    transition, transition_low, transition_high, counts, evidence and skipped ([{"file",
    "reason"}])."""
    from midas_lib import audit

    filed = read_folders(path, reference, limit)
    found = audit.audit(filed.pictures, filed.folders, filed.answers)
    own = found.own_folder_rate
    return {
        "n": len(filed.names), "classes": filed.classes,
        "verdict": found.verdict, "reason": found.reason, "advice": found.advice,
        "own_folder_rate": own.mean, "own_folder_rate_interval": [own.low, own.high],
        "transition": found.transition.tolist(), "transition_low": found.low.tolist(),
        "transition_high": found.high.tolist(), "counts": found.counts.tolist(),
        "evidence": found.evidence, "skipped": filed.skipped,
    }  # fmt: skip


def _measures(labels: np.ndarray, probabilities: np.ndarray, class_names) -> dict:
    from midas_lib import analysis

    predictions = probabilities.argmax(1)
    groups = analysis.case_groups(class_names)
    counts = analysis.confusion(labels, predictions, len(class_names))
    right = {c: predictions[labels == c] == c for c in np.unique(labels)}
    return {
        **_accuracy(predictions == labels),
        "top5_accuracy": analysis.top_k_accuracy(labels, probabilities, 5),
        "case_merged_accuracy": analysis.merged_accuracy(labels, predictions, groups),
        "ece": analysis.expected_calibration_error(labels, probabilities),
        "per_class": {
            class_names[c]: {"n": len(of_class), "accuracy": float(of_class.mean())}
            for c, of_class in right.items()
        },
        "confused": list(map(list, analysis.most_confused(counts, class_names, 10))),
    }


def _rows(names, probabilities: np.ndarray, class_names, **more: np.ndarray) -> list[dict]:
    """An answer for each image, with the names of `more` classes, by what they are."""
    best = probabilities.argmax(1).tolist()
    return [
        {"file": str(name), "label": class_names[i], "index": i, "probability": float(row[i])}
        | {field: class_names[of[n]] for field, of in more.items()}
        for n, (name, row, i) in enumerate(zip(names, probabilities, best, strict=True))
    ]
