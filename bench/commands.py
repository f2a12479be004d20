"""The command line's start-up, and the pace of reading with a finished network."""

import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from bench.clock import time_of
from bench.plan import Plan
from midas_lib import config, sources

CHECKPOINT = config.ROOT / "checkpoints" / "part1" / "model.keras"
PICTURES = 500  # images that evaluate is timed on


def run(plan: Plan) -> dict:
    """Result "commands", in seconds: the command line's `--help`, TensorFlow's import, one
    `predict` of one image, the first time ("cold": nothing of Python's packages in the system's
    cache; None where that cannot be arranged) and again ("warm"); in a process that runs already,
    loading the network, and the answer to one image; and images a second of `evaluate`.
    Repeated ones are medians."""
    with tempfile.TemporaryDirectory() as folder:
        images = _unpack(Path(folder), plan)
        predict = ["-m", "midas_lib", "predict", str(images[0])]
        cold = time_of(lambda: _program(predict)) if _forget() else None
        results = {
            "help_seconds": _median(plan.times, lambda: _program(["-m", "midas_lib", "--help"])),
            "predict_cold_seconds": cold,
            "predict_warm_seconds": _median(plan.times, lambda: _program(predict)),
            "tensorflow_import_seconds": _median(
                plan.times, lambda: _program(["-c", "import tensorflow"])
            ),
        }
        return {"commands": results | _within(Path(folder), images, plan)}


def _within(folder: Path, images: list[Path], plan: Plan) -> dict:
    from midas_lib import inference  # loads TensorFlow

    classifier = inference.load_classifier(CHECKPOINT)
    loading = _median(plan.times, lambda: inference.load_classifier(CHECKPOINT))
    classifier.predict(images[:1])  # builds the graph
    one = _median(10 * plan.times, lambda: classifier.predict(images[0]))
    inference.evaluate(classifier, folder)
    many = time_of(lambda: inference.evaluate(classifier, folder))
    return {
        "load_network_seconds": loading,
        "one_image_seconds": one,
        "evaluate_images_per_second": len(images) / many,
    }


def _unpack(folder: Path, plan: Plan) -> list[Path]:
    """Some of part 1's images, from all its classes, as files."""
    archive = sources.fetch("characters", profile=plan.data).paths[0]
    members = list(sources.read_members(archive, "characters"))
    paths = []
    for name, content in members[:: -(-len(members) // PICTURES)]:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        paths.append(path)
    return paths


def _forget() -> bool:
    """Take Python's packages and the network out of the system's file cache, where it can be
    asked for that."""
    if not hasattr(os, "posix_fadvise"):
        return False
    folders = {Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")}
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    for path in [*files, CHECKPOINT]:
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return True


def _program(arguments: list[str]) -> None:
    command = [sys.executable, *arguments]
    subprocess.run(command, cwd=config.ROOT, check=True, capture_output=True)


def _median(times: int, function) -> float:
    return statistics.median(time_of(function) for _ in range(times))
