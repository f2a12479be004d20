"""What several parts' studies do with a finished run."""

import dataclasses

import numpy as np

from midas_lib import analysis, runs
from midas_lib.config import Settings
from midas_lib.data import Examples, ImageDataset

THRESHOLDS = (0.95, 0.97, 0.98, 0.99, 0.995)


class Stages:
    """A study's runs, done in stages, as a later one starts where an earlier one ended. done: the
    outcomes so far. jobs, fresh: as in `runs.run_all`."""

    def __init__(self, jobs: int | None, fresh: bool):
        self.jobs, self.fresh, self.done = jobs, fresh, []

    def train(self, tasks: dict) -> dict:
        """Key of each task -> its outcome."""
        outcomes = runs.run_all(list(tasks.values()), jobs=self.jobs, fresh=self.fresh)
        self.done += outcomes
        return dict(zip(tasks, outcomes, strict=True))

    def train_together(self, *groups: dict) -> list[dict]:
        """As `train`, for each of several groups: no core is idle while one group ends."""
        tasks = {(i, key): task for i, group in enumerate(groups) for key, task in group.items()}
        outcomes = self.train(tasks)
        return [{key: outcomes[i, key] for key in group} for i, group in enumerate(groups)]

    def counts(self) -> dict:
        """How many runs the results rest on, and how many of them the store already held."""
        return {"runs": len(self.done), "reused_runs": sum(o.reused for o in self.done)}


def as_examples(dataset: ImageDataset, count: int | None = None) -> Examples:
    """The first `count` (None: all) images of a dataset of the network's own size."""
    return Examples(pictures=dataset.images[:count, ..., None], labels=dataset.labels[:count])


def tested(outcome: runs.Outcome, labels: np.ndarray) -> dict:
    """What a finished run's one look at MNIST's test set gave."""
    probabilities = outcome.tests["mnist"]
    logs = np.log(np.maximum(probabilities, 1e-12))
    return {
        "test_accuracy": analysis.accuracy(labels, probabilities.argmax(1)),
        "test_nll": analysis.negative_log_likelihood(labels, logs),
        "test_ece": analysis.expected_calibration_error(labels, probabilities),
        "steps": int(outcome.history["step"][-1]),
        "seconds": outcome.seconds,
    }


def first_classes(outcome: runs.Outcome, classes: int) -> tuple[np.ndarray, ...]:
    """A network's weights, the last layer's for the first `classes` classes only."""
    *backbone, kernel, bias = outcome.weights
    return (*backbone, kernel[:, :classes], bias[:classes])


def as_row(interval: analysis.Interval) -> dict:
    """The interval as part of a results file."""
    return dataclasses.asdict(interval)


def rebuild(weights: tuple[np.ndarray, ...], settings: Settings):
    """The network of these settings with the weights of a finished run."""
    from midas_lib.model import build_cnn  # loads TensorFlow

    model = build_cnn(len(weights[-1]), settings.preprocessing.size, settings.network)
    model.set_weights(weights)
    return model


def pace(outcome: runs.Outcome, jump_start: float) -> dict:
    """How fast a run learned, by its accuracy on the held-out examples: the curve's mean height,
    and the steps to each of `THRESHOLDS`, None where it never got there. jump_start: the accuracy
    before the first step."""
    steps = np.append(0, outcome.history["step"])
    curve = np.append(jump_start, outcome.history["val_accuracy"])
    reached = {f"steps_to_{t}": analysis.steps_to(steps, curve, t) for t in THRESHOLDS}
    return {
        "area_under_curve": analysis.area_under_curve(steps, curve, steps[-1]),
        **{key: None if np.isinf(value) else value for key, value in reached.items()},
    }


def column(arms: dict, arm: str, key: str) -> np.ndarray:
    """One value of each of an arm's runs, (runs,); inf for None."""
    values = [run[key] for run in arms[arm]["runs"]]
    return np.array([np.inf if value is None else value for value in values], float)


def convergence(arms: dict, names: tuple[str, ...], horizon: int) -> list[dict]:
    """Steps to each of `THRESHOLDS` by arm: restricted mean, and ratio of the first arm's to it,
    over the seeds that both have."""
    rows = []
    for threshold in THRESHOLDS:
        key = f"steps_to_{threshold}"
        # A network that starts above the threshold needs no step: one keeps the ratio finite.
        base = np.clip(column(arms, names[0], key), 1, horizon)
        for name in names:
            times = column(arms, name, key)
            ratio = analysis.ratio_interval(base[: len(times)], np.clip(times, 1, horizon))
            rows.append(
                {
                    "threshold": threshold,
                    "arm": name,
                    **as_row(analysis.restricted_mean(times, horizon)),
                    "arrived": int(np.isfinite(times).sum()),
                    "ratio": as_row(ratio),
                }
            )
    return rows
