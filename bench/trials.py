"""Networks and tricks compared on training images held out: what was chosen, and what was not."""

import dataclasses
import re
import time

import keras

from bench import apart, fast, numbers
from bench.plan import ENVIRONMENT, Plan
from midas_lib import data

HELD_OUT_SEED = 7
# Channels of the convolutions, from the input on; "/2" halves the picture, "5:" is a 5x5 kernel.
SHAPES = ("8/2 16/2", "5:8/2 16/2 32", "5:16/2 32/2 32", "16/2 32/2 64", "5:16/2 32/2 64",
          "5:24/2 48/2 64", "5:32/2 64/2 96", "5:24/2 5:48/2 64", "16/2 32 64/2",
          "5:24/2 48 64/2", "16 32/2 64/2")  # fmt: skip
# Changes to the bench's preset and to how it is trained: arguments of `trial`.
TRIED = {
    "as it is": {},
    "one call from Python for each step": {"options": {"every": 1}},
    "XLA": {"options": {"jit": True}},
    "bfloat16": {"dtype": "mixed_bfloat16"},
    "batch 64": {"preset": {"batch": 64, "rate": 1.4e-2}},
    "batch 256": {"preset": {"batch": 256, "rate": 2.8e-2}},
    "whole pictures": {"preset": {"frame": 0}},
    "half the rate": {"preset": {"rate": 1e-2}},
    "no smoothing": {"preset": {"smoothing": 0.0}},
}
# Changes to the process that it is trained in: environment variables.
SURROUNDINGS = {
    "1 thread": {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"},
    "2 threads, one operation at a time": {"TF_NUM_INTEROP_THREADS": "1"},
    "1 thread each for two operations": {"TF_NUM_INTRAOP_THREADS": "1"},
    "no oneDNN": {"TF_ENABLE_ONEDNN_OPTS": "0"},
}


def shapes(plan: Plan) -> dict:
    """Result "shapes": every network's operations and parameters, and after one epoch of the
    bench's training its accuracy on the images held out; and whether none does more with less."""
    rows = [{"shape": name, **trial(plan, preset=shape(name))} for name in SHAPES]
    costs = [row["operations_per_image"] for row in rows]
    errors = [1 - row["accuracy"] for row in rows]
    for row, best in zip(rows, numbers.efficient(costs, errors), strict=True):
        row["efficient"] = best
    return {"shapes": rows}


def shape(name: str) -> dict:
    """What a name of `SHAPES` says, as settings of a preset."""
    found = [re.fullmatch(r"(?:(\d):)?(\d+)(?:/(\d))?", part) for part in name.split()]
    kernels, channels, strides = zip(*(match.groups() for match in found), strict=True)
    return {
        "channels": tuple(map(int, channels)),
        "kernels": tuple(int(kernel or 3) for kernel in kernels),
        "strides": tuple(int(stride or 1) for stride in strides),
    }


def tried(plan: Plan) -> dict:
    """Result "tried": seconds of one epoch of the bench's training, and the accuracy on the images
    held out, as it is and with one thing changed."""
    rows = [{"change": name, **trial(plan, **how)} for name, how in TRIED.items()]
    for name, environment in SURROUNDINGS.items():
        environment = ENVIRONMENT | environment
        rows.append(
            {"change": name, **apart.call(__name__, "trial", plan, environment=environment)}
        )
    return {"tried": rows}


def trial(plan: Plan, preset=None, options=None, dtype: str = "float32") -> dict:
    """One epoch of the bench's preset with changes to it, after two steps that are not counted, as
    a process' first ones load libraries. options: as `fast.fit`'s. dtype: Keras' policy."""
    keras.config.set_dtype_policy(dtype)
    dataset = data.load_mnist("train", plan.data)
    images, labels = dataset.images[: plan.images], dataset.labels[: plan.images]
    rest, held_out = data.split(labels, plan.held_out, HELD_OUT_SEED)
    changed = dataclasses.replace(fast.FAST, epochs=1, **(preset or {}))
    some = rest[: 2 * changed.batch]
    fast.fit(changed, images[some], labels[some], **(options or {}))
    begin = time.monotonic()
    model = fast.fit(changed, images[rest], labels[rest], **(options or {}))
    seconds = time.monotonic() - begin
    return {
        "seconds": seconds,
        "accuracy": fast.accuracy(model, images[held_out], labels[held_out]),
        "operations_per_image": numbers.operations(model),
        "parameters": model.count_params(),
    }
