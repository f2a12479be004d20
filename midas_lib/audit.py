"""What is wrong with these labels? Judged from the pictures and the folders they lie in alone."""

from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats
from sklearn.cluster import MiniBatchKMeans
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from midas_lib import analysis
from midas_lib.analysis import Interval

FEWEST = 10  # images a folder must hold
NEIGHBOURS = 10
CLEAN = 0.01  # wrong folders below this share are nobody's system
AVOIDED = 0.75  # an own-folder rate below this share of chance: the own folder is avoided
BIASED = 1.5  # factor from which on one wrong folder counts as likelier than another
PAIRED = 0.75  # share of a class' wrong images in one folder that makes a pair flip
SETTLED = 0.5  # least share of images whose neighbours agree on what they are
ADVICE = {
    "clean": "train as usual",
    "symmetric-noise": "train with a loss that is robust to label noise",
    "pair-flip": "correct the loss with the transition matrix, or relabel",
    "permuted": "rename the folders by the permutation, then train as usual",
    "complementary": "train with a complementary-label loss",
    "biased-complementary": "train with the loss corrected by the transition matrix",
    "undetermined": "look at some pictures of each folder, or audit more of them",
}


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What was found, of K classes. verdict: one of `ADVICE`'s keys. reason: the sentence behind
    it. own_folder_rate: share of the settled images that lie in their own class' folder (Wilson
    interval). counts: settled images, (K, K), rows their class, columns their folder; transition,
    low, high: the same as shares of the row, with Wilson intervals. evidence: further numbers,
    JSON-ready. classes: the class found for each image, (n,); settled: whether its neighbours, and
    the reference, agree on it, (n,)."""

    verdict: str
    reason: str
    own_folder_rate: Interval
    counts: np.ndarray
    transition: np.ndarray
    low: np.ndarray
    high: np.ndarray
    evidence: dict
    classes: np.ndarray
    settled: np.ndarray

    @property
    def advice(self) -> str:
        """The next step."""
        return ADVICE[self.verdict]


def audit(
    images: np.ndarray, folders: np.ndarray, reference: np.ndarray | None = None, seed: int = 0
) -> Audit:
    """How the folders of a set of digits go together with what the pictures show.

    images: uint8 (n, 28, 28), bright ink on black. folders: int (n,), 0 to K - 1 for K >= 3
    classes, each with at least `FEWEST` images. reference: some network's probabilities of the K
    classes, (n, K); it need not be a good one. seed: of the clustering.

    Pictures are described by histograms of their gradients' orientations (Dalal & Triggs 2005) and
    cut into many small clusters. An image's folder, and the reference's answer, are taken to depend
    on its class alone (class-conditional noise, Patrini et al. 2017, section 2), which makes the
    clusters' folders a mixture of K multinomials; a hard EM gathers the clusters to classes. An
    image is settled when all its nearest neighbours lie in clusters of one class (clusterability,
    Zhu et al. 2021), and the reference agrees. The settled images' folders give the transition
    matrix. Without one, classes are named after the folder that most of their images lie in
    or, where none holds many, the one that fewest do. Raises `ValueError` for arrays that do not
    fit these descriptions."""
    folders = np.asarray(folders)
    sizes = np.bincount(folders)
    classes = len(sizes)
    if classes < 3 or sizes.min() < FEWEST:
        raise ValueError(f"an audit takes 3 folders or more, each with {FEWEST} images or more")
    shape = (len(folders), classes)
    if len(images) != len(folders) or (reference is not None and reference.shape != shape):
        raise ValueError("images, folders and reference must be of one length, and K classes each")
    clusters, neighbours = _neighbourhoods(_gradients(images), seed)
    seen = _table(clusters, folders, classes)
    evidence = {"images": len(folders), "reference": "none"}
    if reference is not None:
        answers = np.argmax(reference, 1)
        told = _table(clusters, answers, classes)
        agreement = evidence["reference_agreement"] = float(told.max(1).sum() / told.sum())
        doubt = "does not find every class" if len(set(told.argmax(1))) < classes else ""
        doubt = "contradicts the clusters" if agreement < 0.6 else doubt
        evidence["reference"] = f"set aside, as it {doubt}" if doubt else "used"
    used = evidence["reference"] == "used"
    if used:
        group, named_by = _gather([seen, told], told.argmax(1))[0], "the reference"
    else:
        group, named_by = _name(seen)
    votes = group[clusters[neighbours]]
    found = votes[:, 0]
    settled = (votes == found[:, None]).all(1) & (answers == found if used else True)
    counts = _table(found[settled], folders[settled], classes, classes)
    evidence |= {
        "settled": float(settled.mean()),
        "named_by": named_by,
        "neighbours_in_the_same_folder": float((folders[neighbours] == folders[:, None]).mean()),
        "chance_of_that": float(((sizes / len(folders)) ** 2).sum()),
    }
    rates = [_rates(row, [max(row.sum(), 1)] * classes) for row in counts]
    shares = np.array([[(rate.mean, rate.low, rate.high) for rate in row] for row in rates])
    own = analysis.proportion_interval(np.trace(counts), max(counts.sum(), 1))
    verdict, reason = _judge(counts, own, evidence)
    return Audit(
        verdict=verdict, reason=reason, own_folder_rate=own, counts=counts, evidence=evidence,
        transition=shares[..., 0], low=shares[..., 1], high=shares[..., 2],
        classes=found, settled=settled,
    )  # fmt: skip


def posterior(probabilities: np.ndarray, folders: np.ndarray, leak: float) -> np.ndarray:
    """Each picture's probabilities of its class, (n, K), by a network's, (n, K), and its folder,
    int (n,): its own class' with probability `leak`, else any of the others'."""
    likelihood = np.full_like(probabilities, (1 - leak) / (probabilities.shape[1] - 1))
    likelihood[np.arange(len(folders)), folders] = leak
    joint = np.maximum(probabilities, 1e-12) * likelihood
    return joint / joint.sum(1, keepdims=True)


def _rates(hits, totals) -> list[Interval]:
    return [analysis.proportion_interval(*pair) for pair in zip(hits, totals, strict=True)]


def _gradients(images: np.ndarray, bins: int = 8, cell: int = 4) -> np.ndarray:
    """Histograms of gradient orientations over overlapping cells, float32 (n, d), unit length."""
    images = np.pad(images.astype(np.float32), ((0, 0), (1, 1), (1, 1)))
    across = images[:, 1:-1, 2:] - images[:, 1:-1, :-2]
    down = images[:, 2:, 1:-1] - images[:, :-2, 1:-1]
    strength = np.hypot(across, down)
    place = np.arctan2(down, across) % np.pi / np.pi * bins
    lower = place.astype(int)
    upper_share = place - lower
    n, side = len(images), across.shape[1] // cell
    histograms = np.empty((n, side, side, bins), np.float32)
    for b in range(bins):
        share = np.where(lower % bins == b, 1 - upper_share, 0)
        share += np.where((lower + 1) % bins == b, upper_share, 0)
        histograms[..., b] = (strength * share).reshape(n, side, cell, side, cell).sum((2, 4))
    around = np.pad(histograms, ((0, 0), (1, 1), (1, 1), (0, 0)))
    beside = around[:, :-2, 1:-1] + around[:, 2:, 1:-1] + around[:, 1:-1, :-2] + around[:, 1:-1, 2:]
    features = np.sqrt(histograms + beside / 2).reshape(n, -1)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-6)


def _neighbourhoods(features: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Each example's cluster, (n,), and the indices of its nearest others, (n, NEIGHBOURS)."""
    points = PCA(min(32, *features.shape), random_state=seed).fit_transform(features)
    count = int(np.clip(len(points) // 20, 10, 200))
    k_means = MiniBatchKMeans(count, random_state=seed, n_init=5, batch_size=4096)
    clusters = np.unique(k_means.fit_predict(points), return_inverse=True)[1]
    nearest = NearestNeighbors(n_neighbors=NEIGHBOURS, algorithm="brute").fit(points)
    return clusters, nearest.kneighbors(return_distance=False)


def fewest_named(features: np.ndarray, folders: np.ndarray, count: int = 250) -> np.ndarray:
    """What the complementary labels of look-alikes, pooled, say that each picture is, int (n,): the
    class that the fewest of the `count` pictures most alike are filed under. features: (n, d)."""
    points = PCA(min(32, *features.shape), random_state=0).fit_transform(features)
    nearest = NearestNeighbors(n_neighbors=min(count, len(points)), algorithm="brute").fit(points)
    named = folders[nearest.kneighbors(points, return_distance=False)]
    return np.stack([(named == k).sum(1) for k in range(folders.max() + 1)], 1).argmin(1)


def _table(rows, columns, classes: int, height: int | None = None) -> np.ndarray:
    """How often each row and column come together, int (height, classes)."""
    table = np.zeros((height or rows.max() + 1, classes), int)
    np.add.at(table, (rows, columns), 1)
    return table


def _gather(tables: list[np.ndarray], group: np.ndarray) -> tuple[np.ndarray, float]:
    """Hard EM of a mixture of multinomials, from a first grouping (clusters,) of tables' rows.
    tables: counts (clusters, classes), independent given the group. Returns the grouping it settles
    on and its log-likelihood."""
    classes = tables[0].shape[1]
    for _ in range(50):
        before, likelihood = group, 0.0
        for table in tables:
            share = np.eye(classes)[group].T @ table + 0.5
            likelihood = likelihood + table @ np.log(share / share.sum(1, keepdims=True)).T
        group = likelihood.argmax(1)
        if (group == before).all():
            break
    return group, float(likelihood.max(1).sum())


def _name(seen: np.ndarray) -> tuple[np.ndarray, str]:
    """The likelier of two gatherings of clusters to classes, by the folders (clusters, classes)
    that stand out in them as frequent or as missing, and how the classes got their names."""
    expected = seen.sum(1, keepdims=True) * seen.sum(0) / seen.sum()
    surprise = (seen - expected) / np.sqrt(expected)
    starts = (surprise.argmax(1), surprise.argmin(1))
    group, _ = max((_gather([seen], start) for start in starts), key=lambda found: found[1])
    classes = seen.shape[1]
    share = np.eye(classes)[group].T @ seen + 0.5
    share /= share.sum(1, keepdims=True)
    most = optimize.linear_sum_assignment(-share)[1]
    if share[np.arange(classes), most].mean() > 2 / classes:
        return most[group], "the folder that most of a class lies in"
    fewest = optimize.linear_sum_assignment(share)[1]
    return fewest[group], "the folder that fewest of a class lie in"


def _judge(counts: np.ndarray, own: Interval, evidence: dict) -> tuple[str, str]:
    """The verdict on settled images (K, K), and why; adds what it rests on to the evidence."""
    classes, totals = len(counts), counts.sum(1)
    if evidence["settled"] < SETTLED or totals.min() < FEWEST:
        few = f"{evidence['settled']:.0%} of the images are settled, {totals.min()} of the rarest"
        return "undetermined", f"only {few} class: neighbours show no common class"
    share = counts / totals[:, None]
    largest, mapping = share.max(1), share.argmax(1)
    moved = mapping != np.arange(classes)
    off = counts * (1 - np.eye(classes, dtype=int))
    wrong = 1 - own.mean
    astray = f"{wrong:.1%} of the settled images lie in a wrong folder"
    if largest.min() > 0.9 and len(set(mapping)) == classes and (moved.any() or wrong < CLEAN):
        if evidence["reference"] != "used":
            return "undetermined", "clean, or permuted: it takes a reference to tell which"
        if moved.any():
            evidence["permutation"] = mapping.tolist()
            return "permuted", f"{moved.sum()} classes lie, whole, in another one's folder"
        return "clean", f"{wrong:.2%} of the settled images lie in a wrong folder"
    ratios, outliers, evidence["uniformity_p"] = _evenness(off)
    evidence["largest_ratio"], evidence["smallest_ratio"] = ratios.max(), ratios.min()
    even = ratios.max() <= BIASED and ratios.min() >= 1 / BIASED
    avoided = max(rate.low for rate in _rates(np.diag(counts), totals)) < 1 / classes
    if own.mean < AVOIDED / classes and own.high < 1 / classes and avoided:
        rest = f"the others' folders hold {ratios.min():.2f} to {ratios.max():.2f} times"
        reason = f"{own.mean:.2%} of the settled images lie in their own folder, and {rest}"
        return ("" if even else "biased-") + "complementary", f"{reason} their even share"
    if own.low < AVOIDED / classes:
        return "undetermined", f"the own-folder rate, {own.mean:.1%}, is near chance, or uneven"
    paired = off.max(1).sum() / off.sum()
    evidence["share_of_one_wrong_folder"] = float(paired)
    if paired > PAIRED:
        return "pair-flip", f"{astray}, {paired:.0%} of them in the one their class prefers"
    rates = _rates(off.sum(1), totals)
    alike = max(rate.low for rate in rates) < 2 * min(rate.high for rate in rates)
    if moved.any() or paired > 0.5 or outliers > classes / 2 or not alike or wrong < 2 * CLEAN:
        return "undetermined", f"{astray}, by no rule known here"
    redrawn = min(wrong * classes / (classes - 1), 1)
    return "symmetric-noise", f"{astray}, spread over all: as if {redrawn:.0%} were redrawn"


def _evenness(off: np.ndarray) -> tuple[np.ndarray, int, float]:
    """How many times its even share each wrong folder holds, (K, K - 1), how many of them are
    outliers (at 5 % after Bonferroni's correction), and the p-value of evenness (chi-squared).
    Ratios are shrunk towards 1 by the share of their spread that counting alone explains, the
    outliers' excepted."""
    classes = len(off)
    wrong = off[~np.eye(classes, dtype=bool)].reshape(classes, classes - 1)
    totals = wrong.sum(1, keepdims=True)
    expected = np.maximum(totals / (classes - 1), 1e-9)
    spread, freedom = ((wrong - expected) ** 2 / expected).sum(), classes * (classes - 2)
    ratios = wrong / expected
    shrunk = 1 + max(0.0, 1 - freedom / max(spread, 1e-9)) * (ratios - 1)
    chance = stats.binom(totals, 1 / (classes - 1))
    outliers = 2 * np.minimum(chance.cdf(wrong), chance.sf(wrong - 1)) * wrong.size < 0.05
    p = float(stats.chi2.sf(spread, freedom))
    return np.where(outliers, ratios, shrunk), int(outliers.sum()), p
