"""Labels for a wrongly filed set of one's own: learned from its folders, whatever it shows."""

import math
from pathlib import Path

import numpy as np

from midas_lib import audit, config, inference, runs
from midas_lib.config import UserError
from midas_lib.data import Examples

FOLDS, STEPS, BATCH = 3, 1500, 64  # steps of each training, at least, and pictures a step


def relabel(path: Path, reference: inference.Classifier | None = None) -> dict:
    """What the pictures of a folder or zip with one folder for each class show, see
    `inference.read_folders`, where their audit says how they came to lie there.

    Permuted folders are renamed. Of complementary ones, and those of symmetric noise, a network
    learns from random weights; a label is the most probable class by its answer and the folder.
    Returns, JSON-ready: verdict, own_folder_rate, n, changed (labels that are not the folder),
    unsure (labels with a confidence below 0.9), labels ([{"file", "folder", "label",
    "confidence"}]) and skipped. Raises `UserError` for any other verdict, telling why."""
    filed = inference.read_folders(path, reference)
    found = audit.audit(filed.pictures, filed.folders, filed.answers)
    own = found.own_folder_rate.mean
    if found.verdict == "permuted":
        labels = np.argsort(found.evidence["permutation"])[filed.folders]
        settled = found.counts / found.counts.sum(0)
        confidence = settled[labels, filed.folders]
    elif found.verdict in ("complementary", "symmetric-noise"):
        # Both are one model: a picture lies in its own folder with this probability, and else in
        # any of the others alike; what sets them apart is whether that is less than chance or more.
        belief = audit.posterior(_learned(filed, own), filed.folders, own)
        labels, confidence = belief.argmax(1), belief.max(1)
    else:
        why = "wrong folders that are not equally likely are not undone here"
        why = {"clean": "nothing to do", "undetermined": found.advice}.get(found.verdict, why)
        raise UserError(f"{path}: not relabelled: {found.verdict}: {found.reason}; {why}")
    names = np.array(filed.classes)
    columns = filed.names, names[filed.folders], names[labels], confidence
    fields = "file", "folder", "label", "confidence"
    rows = zip(*(np.asarray(column).tolist() for column in columns), strict=True)
    return {
        "verdict": found.verdict, "own_folder_rate": own, "n": len(labels),
        "changed": int((labels != filed.folders).sum()), "unsure": int((confidence < 0.9).sum()),
        "labels": [dict(zip(fields, row, strict=True)) for row in rows], "skipped": filed.skipped,
    }  # fmt: skip


def _learned(filed: inference.Filed, leak: float) -> np.ndarray:
    """Class probabilities, (n, K), each picture's by a network that learned from the folders of the
    others: one that has seen a picture's own folder may know it by heart."""
    from midas_lib.studies import part3

    examples = Examples(pictures=filed.pictures[..., None], labels=filed.folders)
    fold, tasks = np.random.default_rng(0).permutation(len(examples.labels)) % FOLDS, []
    for k in range(FOLDS):
        parts = {"examples": examples.take(fold != k), "held_out": examples.take(fold == k)}
        epochs = max(8, math.ceil(STEPS / max(1, (fold != k).sum() // BATCH)))
        settings = config.vary(
            part3.NAIVE, training__loss="forward", training__leak=leak, training__batch=BATCH,
            training__epochs=epochs, training__checks=0, training__every=epochs,
        )  # fmt: skip
        tasks.append(runs.Task(settings=settings, classes=len(filed.classes), **parts))
    found = np.empty((len(fold), len(filed.classes)), np.float32)
    for k, outcome in enumerate(runs.run_all(tasks, label="relabel")):
        found[fold == k] = outcome.probabilities
    return found
