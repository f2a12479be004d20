"""One racer, once, in a process of its own: `python -m bench.racer NAME DATA SEED UNTIL HORIZON
BEGAN` prints what its clock saw as JSON. Imports nothing that a peer's environment may lack."""

import importlib
import json
import sys

import numpy as np

from bench.clock import Clock, FinishedError

MODULES = {"ours": "bench.fast", "keras": "bench.keras_example", "torch": "bench.torch_example"}


def main(name, path, seed, until, horizon, began) -> None:
    """path: an .npz of the pictures and labels. began: when the process was asked for, on the
    monotonic clock, from which start-up counts."""
    racer = importlib.import_module(MODULES[name])
    with np.load(path) as data:
        train, test = ([data[f"{part}_{kind}"] for kind in ("pictures", "labels")]
                       for part in ("train", "test"))  # fmt: skip
    clock = Clock(float(until), float(horizon))
    try:
        racer.race(train, test, clock, int(seed))
    except FinishedError:
        found = {key: getattr(clock, key) for key in ("images", "seconds", "accuracy")}
        startup = clock.started - float(began)
        print(json.dumps({"startup_seconds": startup, "version": racer.VERSION, **found}))


if __name__ == "__main__":
    main(*sys.argv[1:])
