"""The bench's arithmetic: spreads and ratios in which "never" is infinite, operation counts."""

import numpy as np

from midas_lib import analysis


def spread(values) -> dict:
    """Median, least and largest of repeats (n,), inf for one that never arrived.

    Least to largest is an interval of the median with confidence 1 - 2^(1 - n), 94 % for n = 5
    (both ends miss it only if all n repeats fall on one side of it).
    """
    values = np.asarray(values, float)
    return {
        "median": float(np.median(values)),
        "low": float(values.min()),
        "high": float(values.max()),
        "repeats": len(values),
        "reached": int(np.isfinite(values).sum()),
    }


def ratio_to_best(ours, peers) -> dict:
    """`spread` of ours (n,) over the best of peers (peers, n), repeat by repeat: 0 where no peer
    arrived, inf where ours did not."""
    ours, best = np.asarray(ours, float), np.min(peers, axis=0)
    never = np.full(len(ours), np.inf)
    return spread(np.divide(ours, best, out=never, where=np.isfinite(ours)))


def times_to(runs: list[dict], racer: str, target: float, startup: bool = False) -> list[float]:
    """Seconds of training, or from the start of the program on, that each of a racer's runs took
    to an accuracy; inf for one that never had it.

    A run is a dict of racer, startup_seconds, and a list each of seconds and accuracy.
    """
    return [
        analysis.steps_to(run["seconds"], run["accuracy"], target)
        + (run["startup_seconds"] if startup else 0.0)
        for run in runs
        if run["racer"] == racer
    ]


def time_to_accuracy(runs: list[dict], targets) -> dict:
    """Per target, as a string, `spread`s of the racers' seconds (see `times_to`), and of the ratio
    of "ours" to the best peer; there must be as many runs of each racer."""
    racers = list(dict.fromkeys(run["racer"] for run in runs))
    results = {}
    for target in targets:
        result = {}
        for name, startup in (("", False), ("_with_startup", True)):
            times = {racer: times_to(runs, racer, target, startup) for racer in racers}
            result[f"seconds{name}"] = {racer: spread(values) for racer, values in times.items()}
            ours = times.pop("ours", None)
            if ours and times:
                result[f"ratio_to_best_peer{name}"] = ratio_to_best(ours, list(times.values()))
        results[str(target)] = result
    return results


def operations(model) -> int:
    """Floating-point operations, two for each multiply-add, of a Keras model's convolutions and
    dense layers on one picture."""
    return sum(_operations(layer) for layer in model.layers)


def training_operations(model) -> int:
    """Operations of a training step, for each picture: the gradients to the weights and to the
    inputs cost as much each as the way forward, but the pixels need no gradient."""
    counts = [count for layer in model.layers if (count := _operations(layer))]
    return 3 * sum(counts) - counts[0]


def _operations(layer) -> int:
    kernel = getattr(layer, "kernel", None)
    if kernel is None:
        return 0
    places = np.prod(layer.output.shape[1:-1], dtype=int)  # of a dense layer's output: one
    return 2 * int(places) * int(np.prod(kernel.shape))


def exponent(sizes, seconds) -> float:
    """b of seconds = a * sizes^b, by least squares on the logarithms; both (n,)."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def efficient(costs, errors) -> list[bool]:
    """Which of n things no other one beats: none costs as little or less and errs less."""
    points = list(zip(costs, errors, strict=True))
    return [not any(c <= cost and e < error for c, e in points) for cost, error in points]
