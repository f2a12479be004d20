"""How the cost of training grows with runs, images, image size and classes."""

import tempfile
from pathlib import Path

from loky import get_reusable_executor

from bench import numbers
from bench.clock import time_of
from bench.plan import Plan
from bench.training import noise
from midas_lib import runs, train
from midas_lib.config import Settings, vary
from midas_lib.data import Examples

SETTINGS = vary(Settings(), network__channels=(16, 32, 48, 64), training__epochs=1)
SIZES, CLASSES = (14, 20, 28, 40), (10, 62, 250)
FEW = 10 * SETTINGS.training.batch


def run(plan: Plan) -> dict:
    """Result "growth": for each quantity its values, the seconds they cost, and the exponent b of
    seconds = a * value^b. runs: whole runs of few images, two at a time, processes and storing
    included. images: one epoch of `train.fit`, compiling included. size, classes: a step."""
    costs = {
        "runs": (plan.runs, _of_runs),
        "images": (plan.growing, _of_images),
        "size": (SIZES, lambda size: _of_step(noise(FEW, size, 10), 10)),
        "classes": (CLASSES, lambda classes: _of_step(noise(FEW, 28, classes), classes)),
    }
    train.set_threads(1)
    results = {}
    for name, (values, cost) in costs.items():
        seconds = [cost(value) for value in values]
        exponent = numbers.exponent(values, seconds)
        results[name] = {"values": values, "seconds": seconds, "exponent": exponent}
    return {"growth": results}


def _of_runs(count: int) -> float:
    examples = noise(FEW, 28, 10)
    tasks = [
        runs.Task(settings=vary(SETTINGS, seed=seed), examples=examples, classes=10)
        for seed in range(count)
    ]

    def do(folder):
        runs.run_all(tasks, jobs=2, folder=Path(folder))
        # Each time pays for its processes; and with them, this one would not end.
        get_reusable_executor(reuse=True).shutdown()

    with tempfile.TemporaryDirectory() as folder:
        return time_of(lambda: do(folder))


def _of_images(count: int) -> float:
    return time_of(lambda: train.fit(noise(count, 28, 10), 10, SETTINGS))


def _of_step(examples: Examples, classes: int) -> float:
    return train.seconds_per_step(examples, classes, SETTINGS)
