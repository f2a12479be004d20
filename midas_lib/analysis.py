"""Metrics and intervals: arrays in, numbers out.

Throughout, `labels` and `predictions` are int arrays (n,) of class indices, `probabilities` a float
array (n, classes) in [0, 1], `correct` a bool array (n,), or float where it is a mean over repeats.
Accuracies, errors and intervals are fractions, not percent. Arrays of unequal length raise
ValueError.
"""

import math
from collections import namedtuple
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import optimize, special, stats
from sklearn import metrics


def accuracy(labels, predictions):
    """Share of predictions equal to the label."""
    return float(metrics.accuracy_score(labels, predictions))


def top_k_accuracy(labels, probabilities, k):
    """Share of images whose label is among the `k` most probable classes; of equals, the last."""
    best = np.argsort(probabilities, axis=1, kind="stable")[:, ::-1][:, :k]
    return float((best == np.reshape(labels, (len(best), 1))).any(1).mean())


def case_groups(class_names):
    """Group id of each class, int (classes,), where upper and lower case are one group."""
    return np.unique([name.lower() for name in class_names], return_inverse=True)[1]


def merged_accuracy(labels, predictions, groups):
    """Accuracy when classes of one group count as the same; `groups` as from `case_groups`."""
    return accuracy(np.take(groups, labels), np.take(groups, predictions))


@dataclass(frozen=True)
class Interval:
    """A mean, its 95 % confidence interval and the number `n` of independent units it rests on. The
    bounds are nan where no interval can be given (fewer than two units)."""

    mean: float
    low: float
    high: float
    n: int

    def verdict(self):
        """A difference in words: 'better' or 'worse' than zero, 'within noise' when the interval
        includes it, 'one pair only' when there is none."""
        if np.isnan(self.low):
            return "one pair only"
        if self.low <= 0 <= self.high:
            return "within noise"
        return "better" if self.mean > 0 else "worse"

    def scaled(self, factor):
        """The interval in a unit of which one of its own has `factor` > 0."""
        return Interval(*(factor * value for value in (self.mean, self.low, self.high)), self.n)

    def within(self, margin):
        """Whether a difference is equivalent to none: the whole interval lies inside -margin to
        margin (two one-sided tests, Schuirmann 1987). False without an interval."""
        return bool(-margin < self.low and self.high < margin)

    def __str__(self):
        """With as many decimals as give half the interval's width two digits."""
        width = (self.high - self.low) / 2
        decimals = 1 - math.floor(math.log10(width)) if 0 < width < np.inf else 4
        return self._told(f",.{min(max(decimals, 0), 6)}f")

    def percent(self, digits=1):
        """An accuracy in words: '90.5 % [89.9, 91.1], n = 5'."""
        return self._told(f"z.{digits}f", 100, " %")  # z: no minus sign before what rounds to zero

    def points(self, digits=1):
        """A difference of accuracies in words: '+1.2 points [+0.3, +2.1], n = 5'."""
        return self._told(f"+z.{digits}f", 100, " points")

    def _told(self, form, scale=1, unit=""):
        mean, low, high = (f"{scale * end:{form}}" for end in (self.mean, self.low, self.high))
        bounds = "" if np.isnan(self.low) else f" [{low}, {high}]"
        return f"{mean}{unit}{bounds}, n = {self.n}"


def mean_interval(values):
    """Mean of independent values (n,) with Student's t interval."""
    return cluster_interval(values, np.arange(len(values)))


def rate_interval(values):
    """Mean of independent shares (n,), each in [0, 1], with Student's t interval of their logits,
    brought back: no bound lies outside of 0 and 1. A share of 0 or 1 counts as one in a million
    from it."""
    values = np.asarray(values, float)
    logits = mean_interval(special.logit(np.clip(values, 1e-6, 1 - 1e-6)))
    low, high = special.expit([logits.low, logits.high]).tolist()
    return Interval(float(values.mean()), low, high, logits.n)


def as_rate(interval):
    """The interval of a mean of shares, brought to where its bounds lie between 0 and 1: as wide
    at the mean, but in logits (delta method)."""
    mean = interval.mean
    if not 0 < mean < 1:
        return interval
    half = (interval.high - interval.low) / 2 / (mean * (1 - mean))
    low, high = special.expit(special.logit(mean) + half * np.array([-1, 1])).tolist()
    return Interval(mean, low, high, interval.n)


def paired_interval(a, b):
    """Interval of the mean of a - b for paired values (n,), such as two arms at the same seeds."""
    return mean_interval(np.subtract(*_paired(a, b)))


def proportion_interval(successes, n):
    """Wilson's score interval of `successes` among `n` >= 1 independent trials (Wilson 1927)."""
    test = stats.binomtest(int(successes), int(n))
    low, high = test.proportion_ci(method="wilson")
    return Interval(test.statistic, float(low), float(high), int(n))


def even_split(counts):
    """Probability that chance, each class being as likely, gives exactly these counts (k,) of as
    many in all (multinomial)."""
    even = np.full(len(counts), 1 / len(counts))
    return float(stats.multinomial.pmf(counts, np.sum(counts), even))


def cluster_interval(correct, clusters):
    """Mean of `correct` with an interval that holds when images of one cluster are correlated.
    `correct` is (n,), one value per image: average repeated predictions of an image first.
    `clusters` is (n,), e.g. the writer. The variance is the cluster-robust (sandwich) one of a
    mean, with Student's t at clusters - 1 degrees of freedom (Cameron & Miller 2015, "A
    Practitioner's Guide to Cluster-Robust Inference"). The result's `n` counts clusters; with one
    image to a cluster this is the plain t interval."""
    index = np.unique(clusters, return_inverse=True)[1]
    correct, _ = _paired(correct, index)
    mean = float(correct.mean())
    residuals = np.bincount(index, weights=correct - mean)
    n = len(residuals)
    if n < 2:
        return Interval(mean, np.nan, np.nan, n)
    error = np.sqrt(n / (n - 1) * np.sum(residuals**2)) / len(correct)
    half = float(stats.t.ppf(0.975, n - 1) * error)
    return Interval(mean, mean - half, mean + half, n)


def crossed_interval(values, networks):
    """Mean of values (passes, images), with its interval and the p-value of a mean of zero. In each
    pass one of some networks reads an image; networks, of the same shape, tells which. Values of
    one image and values of one network are correlated: the variance is two-way cluster-robust
    (Cameron, Gelbach & Miller 2011, equation 2.12), with Student's t at Satterthwaite's degrees of
    freedom. The result's `n` counts images."""
    values = np.asarray(values, float)
    mean, n, total = float(values.mean()), values.shape[1], values.size
    residual = values - mean
    index = np.unique(networks, return_inverse=True)[1].ravel()
    by_network = np.bincount(index, residual.ravel())
    count = len(by_network)
    if n < 2 or count < 2:
        return Interval(mean, np.nan, np.nan, n), np.nan
    of_images = n / (n - 1) * (residual.sum(0) ** 2).sum() / total**2
    of_networks = count / (count - 1) * (by_network**2).sum() / total**2
    of_networks = max(0.0, of_networks - (residual**2).sum() / (total - 1) / total)
    variance = of_images + of_networks
    if variance == 0:
        return Interval(mean, mean, mean, n), float(mean == 0)
    freedom = variance**2 / (of_images**2 / (n - 1) + of_networks**2 / (count - 1))
    half = float(stats.t.ppf(0.975, freedom) * variance**0.5)
    p = float(2 * stats.t.sf(abs(mean) / variance**0.5, freedom))
    return Interval(mean, mean - half, mean + half, n), p


def holm(p_values):
    """p-values adjusted for their number, in their order (Holm 1979), float (m,)."""
    p_values = np.asarray(p_values, float)
    order = np.argsort(p_values)
    scaled = p_values[order] * (len(p_values) - np.arange(len(p_values)))
    adjusted = np.empty_like(scaled)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return adjusted


def _paired(a, b):
    a, b = np.asarray(a, float), np.asarray(b, float)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"expected two arrays (n,) of equal length, not {a.shape} and {b.shape}")
    return a, b


ReliabilityCurve = namedtuple("ReliabilityCurve", "confidence accuracy count")


def reliability_curve(labels, probabilities, bins=15, even=False):
    """Mean confidence (the largest probability), accuracy and images of each bin, (bins,) each; nan
    where a bin is empty. Bins are as wide as each other and closed on the right, as in Guo et al.
    2017, "On Calibration of Modern Neural Networks", or, if `even`, hold as many examples each, but
    for one. Probabilities outside [0, 1] (logarithms, say) raise ValueError."""
    confidence = np.max(probabilities, axis=1).astype(float)
    if not (confidence.min() >= 0 and confidence.max() <= 1 + 1e-4):
        raise ValueError("reliability needs probabilities between 0 and 1")
    correct = np.equal(*_paired(np.argmax(probabilities, axis=1), labels))
    if even:
        index = confidence.argsort(kind="stable").argsort() * bins // len(confidence)
    else:
        index = np.digitize(confidence, np.linspace(0, 1, bins + 1)[1:-1], right=True)
    by_bin = pd.DataFrame({"confidence": confidence, "accuracy": correct}).groupby(index)
    means = by_bin.mean().reindex(range(bins)).to_numpy()
    return ReliabilityCurve(*means.T, np.bincount(index, minlength=bins))


def expected_calibration_error(labels, probabilities, bins=15):
    """Mean gap between confidence and accuracy over the bins of `reliability_curve` (ECE)."""
    curve = reliability_curve(labels, probabilities, bins)
    gaps = np.abs(curve.confidence - curve.accuracy) * curve.count
    return float(np.nansum(gaps) / curve.count.sum())


def negative_log_likelihood(labels, log_probabilities):
    """Mean of -log p(label), in nats; `log_probabilities` float (n, classes), at most 0."""
    log_probabilities = np.asarray(log_probabilities, float)
    if log_probabilities.max() > 1e-4:
        raise ValueError("the likelihood needs logarithms of probabilities, none above 0")
    return float(-np.mean(log_probabilities[np.arange(len(labels)), labels]))


def apply_temperature(log_probabilities, t):
    """Log-probabilities (n, classes) after dividing the logits by `t` > 0; the argmax stays."""
    return special.log_softmax(np.asarray(log_probabilities, float) / t, axis=1)


def fit_temperature(labels, log_probabilities):
    """The temperature in [0.05, 20] of least negative log-likelihood (Guo et al. 2017). Fit it on
    images that neither trained the network nor are scored with it. Infinite log-probabilities raise
    ValueError: put a floor under the probabilities first."""
    if not np.isfinite(log_probabilities).all():
        raise ValueError("the temperature needs finite log-probabilities")

    def loss(log_t):
        return negative_log_likelihood(labels, apply_temperature(log_probabilities, np.exp(log_t)))

    return float(np.exp(optimize.minimize_scalar(loss, bounds=np.log([0.05, 20])).x))


def confusion(labels, predictions, classes):
    """Counts, int (classes, classes): rows are true classes, columns predicted ones."""
    return metrics.confusion_matrix(labels, predictions, labels=np.arange(classes))


def most_confused(matrix, class_names, count):
    """The `count` pairs confused most, [(name, name, errors in both directions), ...], sorted.
    `matrix` is (classes, classes) as from `confusion`; pairs never confused are left out, ties stay
    in class order."""
    both = np.triu(np.asarray(matrix) + np.transpose(matrix), 1)
    order = np.argsort(-both, axis=None, kind="stable")[:count]
    pairs = zip(*np.unravel_index(order, both.shape), strict=True)
    return [(class_names[a], class_names[b], both[a, b].item()) for a, b in pairs if both[a, b]]


def class_likelihood(geometry, labels, classes):
    """Each class's Gaussian log-likelihood of the geometry, up to a constant, as a linear layer.
    Class means and one covariance shared by all (linear discriminant analysis, Hastie et al. 2009,
    section 4.3). geometry: (n, d). Returns kernel (d, classes) and bias (classes,). Every class
    must have an example."""
    geometry, labels = np.asarray(geometry, float), np.asarray(labels)
    means = np.stack([geometry[labels == c].mean(0) for c in range(classes)])
    residual = geometry - means[labels]
    covariance = residual.T @ residual / len(labels) + 1e-6 * np.eye(geometry.shape[1])
    kernel = np.linalg.solve(covariance, means.T)
    return kernel, -0.5 * (kernel * means.T).sum(0)


def remove_writer_offsets(geometry, labels, writers, known, shrinkage=0.5, rounds=3):
    """Geometry with each writer's own habit of size and place taken out.

    geometry: (n, d). labels, writers: (n,) ints. known: (n,) bool, the examples whose labels may be
    used. A writer's offset is the mean distance of their known examples from the class means,
    shrunk towards 0 as if `shrinkage` more examples had none (a random-effects estimate); a known
    example's own distance is left out of the offset applied to it, so that known and unknown
    examples are treated alike. Which classes a writer has contributed enters only through those
    means. Class means and offsets are estimated in turn, `rounds` times. Returns (n, d)."""
    geometry, offsets = pd.DataFrame(np.asarray(geometry, float)), 0.0
    known = pd.Series(known, dtype=bool)
    others = known.groupby(writers).transform("sum") - known
    for _ in range(rounds):
        means = (geometry - offsets)[known].groupby(labels[known]).mean().reindex(labels)
        residual = (geometry - means.to_numpy()).where(known, 0)
        total = residual.groupby(writers).transform("sum")
        offsets = (total - residual).div(others + shrinkage, axis=0)
    return (geometry - offsets).to_numpy()


class Hands(NamedTuple):
    """How geometry varies: means (classes, d) of each class; covariances (d, d), `between` writers'
    offsets and `within` one hand."""

    means: np.ndarray
    between: np.ndarray
    within: np.ndarray


def hands(geometry, labels, writers, classes):
    """`Hands` of labelled geometry, float (n, d), by the method of moments: the writers' mean
    residuals vary by their offsets and by what is left of each one's images."""
    geometry, labels = np.asarray(geometry, float), np.asarray(labels)
    means = np.stack([geometry[labels == c].mean(0) for c in range(classes)])
    residual = geometry - means[labels]
    by_writer = pd.DataFrame(residual).groupby(np.asarray(writers))
    offsets, count = by_writer.transform("mean").to_numpy(), by_writer.ngroups
    left, spare = residual - offsets, 1e-6 * np.eye(geometry.shape[1])
    within = left.T @ left / max(1, len(labels) - count) + spare
    between = (offsets.T @ offsets - count * within) / len(labels)
    values, vectors = np.linalg.eigh(between)
    return Hands(means, (vectors * np.maximum(values, 1e-6)) @ vectors.T, within)


def one_hand(logs, geometry, hands, weight, rounds=10):
    """Log-probabilities (n, classes), up to a constant an image, of images by one writer. logs: of
    the pictures alone, (n, classes). geometry: (n, d), whose log-likelihood counts by `weight`. The
    writer's offset from the class means is normal with covariance `hands.between`; its posterior
    and the classes' are found in turn (expectation maximisation, Dempster et al. 1977), from these
    images alone: no label is asked for. An image is judged by the offset that the others tell, so
    that its own evidence counts once."""
    away = np.asarray(geometry, float)[:, None] - hands.means
    precision = np.linalg.inv(hands.within)
    posterior = np.linalg.inv(np.linalg.inv(hands.between) + (len(logs) - 1) * precision)

    def score(distance, covariance):
        inverse = np.linalg.inv(covariance)
        return logs - weight / 2 * np.einsum("nci,ij,ncj->nc", distance, inverse, distance)

    scores = score(away, hands.between + hands.within)
    for _ in range(rounds):
        own = np.einsum("nc,nci->ni", special.softmax(scores, 1), away)
        offsets = (own.sum(0) - own) @ precision @ posterior
        scores = score(away - offsets[:, None], hands.within + posterior)
    return scores


def steps_to(steps, values, threshold):
    """The first of `steps` (checks,) from which on `values` (checks,) stay at or above the
    threshold, or inf: reached, and kept."""
    below = np.flatnonzero(np.asarray(values) < threshold)
    first = below[-1] + 1 if len(below) else 0
    return float(steps[first]) if first < len(values) else np.inf


def ratio_interval(a, b):
    """Geometric mean of the paired ratios a / b, (n,) each, with a t interval on their logarithms.
    Raises ValueError for values that are not positive."""
    if not (np.greater(a, 0).all() and np.greater(b, 0).all()):
        raise ValueError("ratios need positive values")
    logs = paired_interval(np.log(a), np.log(b))
    return Interval(*np.exp([logs.mean, logs.low, logs.high]).tolist(), logs.n)


def labels_needed(sizes, accuracies, wanted):
    """How many labels give the accuracy `wanted`, by accuracies (s,) at increasing sizes (s,). The
    error is taken as falling, its logarithm and that of the size joined by straight lines; inf
    where even the largest size is worse, the smallest where it is already as good."""
    error = np.minimum.accumulate(1 - np.asarray(accuracies))
    if 1 - wanted < error[-1] - 1e-9:  # rounding must not turn a tie into a lower bound
        return np.inf
    errors = np.log(np.maximum(error, 1e-9))[::-1]
    return float(np.exp(np.interp(np.log(max(1 - wanted, 1e-9)), errors, np.log(sizes)[::-1])))


def label_factor(sizes, baseline, other, size, draws=2000, seed=0):
    """k such that `other` with `size` labels is as good as the baseline with k times `size`. sizes:
    (s,) increasing; baseline, other: accuracies (rows, s), paired by row, such as a draw of the
    labels; `labels_needed` of the baseline's mean. Percentile interval of the bootstrap over rows
    (Efron & Tibshirani 1993, chapter 13); nan bounds for a single row. Raises ValueError where the
    rows do not pair."""
    sizes, baseline, other = np.asarray(sizes, float), np.asarray(baseline), np.asarray(other)
    if baseline.shape != other.shape:
        raise ValueError(f"accuracies {baseline.shape} and {other.shape} are not paired by row")
    at = sizes.tolist().index(size)

    def factor(rows):
        return labels_needed(sizes, baseline[rows].mean(0), other[rows, at].mean()) / size

    count = len(baseline)
    estimate = factor(np.arange(count))
    if count < 2:
        return Interval(estimate, np.nan, np.nan, count)
    rng = np.random.default_rng(seed)
    found = np.sort([factor(rng.integers(0, count, count)) for _ in range(draws)])
    low, high = found[round(0.025 * (draws - 1))], found[round(0.975 * (draws - 1))]
    return Interval(estimate, float(low), float(high), count)


def linear_cka(x, y):
    """Linear centred kernel alignment of two feature matrices, (n, p) and (n, q), in [0, 1]. 1
    means equal up to rotation and scale (Kornblith et al. 2019, section 3)."""
    x, y = (np.asarray(features, float) - np.mean(features, axis=0) for features in (x, y))
    norms = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    return float(np.linalg.norm(y.T @ x) ** 2 / norms)
