"""From a table of runs to intervals: what all parts' pages compute from their table.

A table is a pandas frame with a row for each finished run: `arm`, `seed`, what varies, `digest`,
then the run's metrics. A time that never came is inf, what was not measured is NaN.
"""

import numpy as np
import pandas as pd

from midas_lib import analysis
from midas_lib.analysis import Interval
from midas_lib.config import Network

THRESHOLDS = (0.95, 0.98, 0.99, 0.993)


def layers(network: Network, size: int, classes: int) -> dict[str, tuple[tuple[int, ...], int]]:
    """The layers of `model.build_cnn`, told without Keras: {name: (output shape, weights)}, the
    four numbers that batch normalisation has of each channel counted."""
    found, side, before = {"picture": ((size, size, 1), 0)}, size, 1
    for i, (channels, stride) in enumerate(zip(network.channels, network.strides, strict=True), 1):
        kernel, side = network.kernel if i == 1 else 3, -(-side // stride)
        weights = kernel**2 * before * channels + channels * (4 if network.normalised else 1)
        found[f"conv {i}, {kernel}×{kernel}, step {stride}"] = (side, side, channels), weights
        before = channels
    side = {"max": -(-side // 2), "quarters": 2, "mean": 1}[network.pooling]
    found[{"max": "largest of 2×2"}.get(network.pooling, "means")] = (side, side, before), 0
    found["scores"] = (classes,), (side * side * before + 1) * classes
    return found


def mean_by(table: pd.DataFrame, by: str | list[str], metric: str) -> dict[object, Interval]:
    """The metric's mean over runs, with Student's t interval, for each value of the column `by` (or
    tuple of values of several), in the order in which they come in the table."""
    groups = table.groupby(by, sort=False)[metric]
    return {_key(key): analysis.mean_interval(values.to_numpy(float)) for key, values in groups}


def paired_by(table: pd.DataFrame, by: str, metric: str, base) -> dict[object, Interval]:
    """For each value of the column `by`, the mean difference of the metric to the runs at the value
    `base` with the same seed, with Student's t interval; runs without such a partner are left
    out."""
    values = table.pivot(index="seed", columns=by, values=metric).astype(float)
    pairs = {key: values[[key, base]].dropna().to_numpy() for key in table[by].unique()}
    return {
        _key(key): analysis.paired_interval(rows[:, 0], rows[:, -1]) for key, rows in pairs.items()
    }


def pace(history: dict[str, np.ndarray], before: float) -> dict[str, float]:
    """How fast a run learned, as columns of its row, by its accuracy on the held-out examples.
    history: as `train.Run`'s, "step" and "val_accuracy" (checks,). before: that accuracy before the
    first step. Returns "steps_to_T" for each of `THRESHOLDS`, from which on the accuracy stays at
    or above it; inf where it never does."""
    steps, curve = np.append(0, history["step"]), np.append(before, history["val_accuracy"])
    return {f"steps_to_{t}": analysis.steps_to(steps, curve, t) for t in THRESHOLDS}


def convergence(table: pd.DataFrame, arms: list[str], horizon: float) -> list[dict]:
    """Steps to each threshold of the table by arm: "threshold", "arm", "time" (restricted mean, of
    Royston & Parmar 2013: who never arrives counts as the horizon), "arrived" (runs), "saved"
    (steps by which it is sooner than the first arm) and "ratio" (the first arm's time to its own),
    over the seeds that both have."""
    rows = []
    for column in table.filter(like="steps_to_"):
        threshold = float(column.removeprefix("steps_to_"))
        times = table.pivot(index="seed", columns="arm", values=column)
        for arm in arms:
            own = times[arm].dropna()
            both = times[[arms[0], arm]].dropna().clip(upper=horizon).to_numpy()
            base, ours = both[:, 0], both[:, -1]
            row = {"threshold": threshold, "arm": arm, "arrived": int(np.isfinite(own).sum())}
            row["time"] = analysis.mean_interval(own.clip(upper=horizon))
            row["saved"] = analysis.paired_interval(base, ours)
            # A network that starts above the threshold needs no step: one keeps the ratio finite.
            row["ratio"] = analysis.ratio_interval(np.maximum(base, 1), np.maximum(ours, 1))
            rows.append(row)
    return rows


def stacked(table: pd.DataFrame, arrays: dict[str, np.ndarray], name: str) -> np.ndarray:
    """An array of each run in the table, one above the other: (runs, ...)."""
    places = table["arm"] + "/" + table["digest"]
    return np.stack([arrays[f"{place}/{name}"] for place in places])


def _key(key):
    """A group's key with whole numbers as ints, which a column with gaps keeps as floats."""
    if isinstance(key, tuple):
        return tuple(map(_key, key))
    return int(key) if isinstance(key, float) and key.is_integer() else key
