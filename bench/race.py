"""Time to accuracy: ours and the peers in turns, each run in a process of its own."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from bench import numbers
from bench.plan import ENVIRONMENT, Heat, Plan
from midas_lib import config, data

RACERS = ("ours", "keras", "torch")


def run(plan: Plan) -> dict:
    """Results "time_to_accuracy", by target, and "race": every run, and who was left out and why.

    A run's seconds are of training alone: imports, reading the data and measuring accuracy stand
    outside, building the network and compiling it inside. In `seconds_with_startup` everything
    from the start of the process on counts, but for the measuring.
    """
    racers, left_out = list(RACERS), {}
    if subprocess.run([plan.torch, "-c", "import torch"], capture_output=True).returncode:
        racers.remove("torch")
        left_out["torch"] = (
            f"{Path(plan.torch).name} has no torch: name the Python of an environment that has it,"
            " --torch PYTHON"
        )
        print(f"race: torch left out: {left_out['torch']}", file=sys.stderr)
    results, heats = {}, []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "mnist.npz")
        np.savez(path, **_mnist(plan))
        for heat in plan.heats:
            runs = [
                {"racer": racer, "repeat": repeat, **_run(racer, path, repeat, heat, plan)}
                for repeat in range(heat.repeats)
                for racer in racers[repeat % len(racers) :] + racers[: repeat % len(racers)]
            ]
            results |= numbers.time_to_accuracy(runs, heat.targets)
            heats.append({"targets": heat.targets, "horizon_seconds": heat.horizon, "runs": runs})
    return {"time_to_accuracy": results, "race": {"heats": heats, "left_out": left_out}}


def _mnist(plan: Plan) -> dict[str, np.ndarray]:
    train, test = (data.load_mnist(split, plan.data) for split in ("train", "test"))
    return {
        "train_pictures": train.images[: plan.images],
        "train_labels": train.labels[: plan.images],
        "test_pictures": test.images[: plan.test_images],
        "test_labels": test.labels[: plan.test_images],
    }


def _run(racer: str, path: Path, seed: int, heat: Heat, plan: Plan) -> dict:
    python = plan.torch if racer == "torch" else sys.executable
    command = [python, "-m", "bench.racer", racer, path, seed, heat.targets[-1], heat.horizon]
    done = subprocess.run(
        [*map(str, command), str(time.monotonic())],
        cwd=config.ROOT,
        env={**os.environ, **ENVIRONMENT, "PYTHONPATH": str(config.ROOT)},
        stdout=subprocess.PIPE,
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    print(
        f"race: {racer}, repeat {seed}: accuracy {found['accuracy'][-1]:.4f} after"
        f" {found['seconds'][-1]:.1f} s of training",
        file=sys.stderr,
    )
    return found
