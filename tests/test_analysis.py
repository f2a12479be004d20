"""Every metric against a value worked by hand, and what must hold whatever the data."""

import numpy as np
import pytest
from scipy import stats

from midas_lib import analysis
from midas_lib.config import CLASS_NAMES


def softmax(logits):
    exponentials = np.exp(logits)
    return exponentials / exponentials.sum(axis=1, keepdims=True)


@pytest.fixture
def sampled():
    """Labels drawn from known probabilities: 20,000 images of 5 classes."""
    rng = np.random.default_rng(0)
    probabilities = softmax(rng.normal(size=(20_000, 5)) * 2)
    draws = rng.random((20_000, 1))
    return (draws > probabilities.cumsum(axis=1)[:, :-1]).sum(axis=1), probabilities


# --- accuracy -----------------------------------------------------------------------------------


def test_an_even_split_is_as_likely_as_its_arrangements():
    # Of the 16 ways in which four heads or tails fall, 6 have two of each, 4 one head.
    assert analysis.even_split([2, 2]) == pytest.approx(6 / 16)
    assert analysis.even_split([1, 3]) == pytest.approx(4 / 16)


def test_accuracy_and_top_k():
    probabilities = np.array([[0.6, 0.3, 0.1], [0.5, 0.4, 0.1], [0.2, 0.3, 0.5], [0.7, 0.2, 0.1]])
    labels = np.array([0, 1, 2, 2])  # ranks of the label: first, second, first, third
    assert analysis.accuracy(labels, probabilities.argmax(axis=1)) == 0.5
    assert analysis.top_k_accuracy(labels, probabilities, 1) == 0.5
    assert analysis.top_k_accuracy(labels, probabilities, 2) == 0.75
    assert analysis.top_k_accuracy(labels[:3], probabilities[:3], 2) == 1


def test_case_groups_join_the_two_cases_of_a_letter_only():
    groups = dict(zip(CLASS_NAMES, analysis.case_groups(CLASS_NAMES), strict=True))
    assert len(set(groups.values())) == 36
    assert groups["A"] == groups["a"] != groups["b"]
    assert groups["0"] != groups["O"]


def test_merged_accuracy():
    labels = [CLASS_NAMES.index(name) for name in "cC0x"]
    predictions = [CLASS_NAMES.index(name) for name in "CCOk"]
    # right as they are: C; with case merged also c; with 0/O/o merged also 0
    case = analysis.case_groups(CLASS_NAMES)
    merged = np.where(np.isin(list(CLASS_NAMES), list("0Oo")), case[0], case)
    assert analysis.accuracy(labels, predictions) == 0.25
    assert analysis.merged_accuracy(labels, predictions, case) == 0.5
    assert analysis.merged_accuracy(labels, predictions, merged) == 0.75


def test_merging_never_lowers_accuracy():
    labels, predictions = np.random.default_rng(1).integers(0, 62, (2, 5000))
    plain = analysis.accuracy(labels, predictions)
    case = analysis.merged_accuracy(labels, predictions, analysis.case_groups(CLASS_NAMES))
    assert plain < case < analysis.merged_accuracy(labels, predictions, np.arange(62) // 31)


# --- intervals ----------------------------------------------------------------------------------


def test_mean_interval_is_students():
    # mean 2, deviation 1, error 1 / sqrt(3); t(0.975, 2) = 4.302653
    interval = analysis.mean_interval([1, 2, 3])
    assert interval.mean == 2
    assert interval.n == 3
    assert interval.high - 2 == pytest.approx(4.302653 / np.sqrt(3))
    assert 2 - interval.low == pytest.approx(4.302653 / np.sqrt(3))


def test_mean_interval_agrees_with_scipy():
    values = np.random.default_rng(2).normal(size=9)
    ours = analysis.mean_interval(values)
    theirs = stats.ttest_1samp(values, 0).confidence_interval()
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))


def test_an_interval_as_a_rates_by_hand():
    # logit(.8) = 1.386; half of .4 is .2 / (.8 * .2) = 1.25 in logits
    rate = analysis.as_rate(analysis.Interval(0.8, 0.6, 1.0, 7))
    assert (rate.mean, rate.n) == (0.8, 7)
    ends = 1 / (1 + np.exp(-np.array([1.386294 - 1.25, 1.386294 + 1.25])))
    assert (rate.low, rate.high) == pytest.approx(ends, rel=1e-5)
    narrow = analysis.as_rate(analysis.Interval(0.5, 0.499, 0.501, 7))
    assert (narrow.low, narrow.high) == pytest.approx((0.499, 0.501), abs=1e-6)
    assert analysis.as_rate(analysis.Interval(1.0, 1.0, 1.0, 7)).high == 1
    assert np.isnan(analysis.as_rate(analysis.Interval(0.5, np.nan, np.nan, 1)).low)


def test_one_value_gives_no_interval():
    interval = analysis.mean_interval([0.9])
    assert interval.mean == 0.9
    assert np.isnan([interval.low, interval.high]).all()
    assert interval.percent() == "90.0 %, n = 1"


def test_equal_values_give_an_interval_of_no_width():
    assert analysis.mean_interval([0.5] * 4) == analysis.Interval(0.5, 0.5, 0.5, 4)


def test_interval_covers_as_often_as_it_says():
    values = np.random.default_rng(3).normal(1, 1, size=(4000, 5))
    intervals = [analysis.mean_interval(row) for row in values]
    covered = np.mean([i.low <= 1 <= i.high for i in intervals])
    assert covered == pytest.approx(0.95, abs=0.012)  # 3.5 standard errors of 4,000 draws


def test_a_rates_interval_stays_between_0_and_1():
    found = analysis.rate_interval([0.5, 0.9])
    # Logits 0 and ln 9: mean ln 3, one standard error of it too; t with one degree of freedom.
    ends = np.log(3) * (1 - 12.7062), np.log(3) * (1 + 12.7062)
    expected = [1 / (1 + np.exp(-end)) for end in ends]
    assert (found.mean, found.n) == (0.7, 2)
    assert (found.low, found.high) == pytest.approx(expected, rel=1e-3)
    assert 0 < analysis.rate_interval([1.0, 0.98, 0.99]).low < 1
    assert analysis.rate_interval([1.0, 0.98, 0.99]).high < 1
    assert np.isnan(analysis.rate_interval([0.5]).low)


def test_paired_interval_forgets_what_pairs_share():
    shared = np.array([0.1, 0.5, 0.9])
    interval = analysis.paired_interval(shared + 0.02, shared)
    assert (interval.low, interval.mean, interval.high) == pytest.approx((0.02, 0.02, 0.02))
    assert analysis.mean_interval(shared).high > 1


def test_pairs_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match="equal length"):
        analysis.paired_interval([1, 2, 3], [1])
    with pytest.raises(ValueError, match="equal length"):
        analysis.cluster_interval([1, 0, 1], [1, 2])


def test_proportion_interval_is_wilsons():
    # z = 1.959964, z^2 = 3.841459; centre (8 + z^2 / 2) / (10 + z^2) = 0.716740,
    # half width z / (10 + z^2) * sqrt(8 * 2 / 10 + z^2 / 4) = 0.226579
    interval = analysis.proportion_interval(8, 10)
    assert interval.mean == 0.8
    assert interval.low == pytest.approx(0.716740 - 0.226579, abs=2e-6)
    assert interval.high == pytest.approx(0.716740 + 0.226579, abs=2e-6)
    assert analysis.proportion_interval(10, 10).high == pytest.approx(1)
    assert analysis.proportion_interval(10, 10).low < 0.8


def test_cluster_interval_by_hand():
    # mean 3/6; residual sums of the writers a, b, c: 1, -1, 0
    # variance 3/2 * 2 / 6^2 = 1/12; t(0.975, 2) = 4.302653
    interval = analysis.cluster_interval([1, 1, 0, 0, 1, 0], list("aabbcc"))
    assert (interval.mean, interval.n) == (0.5, 3)
    assert interval.high - 0.5 == pytest.approx(4.302653 * np.sqrt(1 / 12))


def test_cluster_interval_of_single_images_is_the_t_interval():
    values = np.array([0.2, 0.4, 1, 0, 0.6])
    single = analysis.cluster_interval(values, ["e", "d", "c", "b", "a"])
    theirs = stats.ttest_1samp(values, 0).confidence_interval()
    assert (single.low, single.high) == pytest.approx((theirs.low, theirs.high))


def test_repeating_every_image_inside_its_cluster_adds_no_certainty():
    correct, writers = np.array([1, 0, 1, 1, 0, 1.0]), np.array([1, 1, 2, 2, 3, 3])
    once = analysis.cluster_interval(correct, writers)
    assert analysis.cluster_interval(np.tile(correct, 5), np.tile(writers, 5)).high == (
        pytest.approx(once.high)
    )
    assert analysis.mean_interval(np.tile(correct, 5)).high < once.high


@pytest.mark.parametrize(
    ("networks", "of_networks", "freedom"),
    [
        # Sums of 1/2 and -1/2: 2/1 * 1/2 / 6^2 is less than what single values give, 1/20.
        ([[0, 0, 0], [1, 1, 1]], 0, 2),
        # Sums of 3/2 and -3/2: 2/1 * 9/2 / 6^2 - 1/20.
        ([[8, 3, 8], [8, 3, 3]], 1 / 5, (17 / 60) ** 2 / ((1 / 12) ** 2 / 2 + (1 / 5) ** 2)),
    ],
)
def test_crossed_interval_by_hand(networks, of_networks, freedom):
    # mean 3/6; residual sums of the images: 1, -1, 0; 3/2 * 2 / 6^2 = 1/12
    # six values, all 1/2 away: 6 * 1/4 / 5 / 6 = 1/20
    interval, p = analysis.crossed_interval([[1, 0, 1], [1, 0, 0]], networks)
    error = np.sqrt(1 / 12 + of_networks)
    half = stats.t.ppf(0.975, freedom) * error
    assert (interval.mean, interval.n) == (0.5, 3)
    assert (interval.low, interval.high) == pytest.approx((0.5 - half, 0.5 + half))
    assert p == pytest.approx(2 * stats.t.sf(0.5 / error, freedom))


def test_crossed_interval_of_values_that_share_nothing_is_the_t_interval():
    values = np.array([[0.2, 0.4, 1, -0.6, 0.6]])
    interval, p = analysis.crossed_interval(values, [[4, 2, 0, 1, 3]])
    theirs = stats.ttest_1samp(values[0], 0)
    bounds = theirs.confidence_interval()
    assert (interval.low, interval.high) == pytest.approx((bounds.low, bounds.high))
    assert p == pytest.approx(theirs.pvalue)


def test_crossed_interval_of_equal_values_has_no_width():
    networks = [[0, 0, 1], [2, 3, 3]]
    for value, p in ((0.5, 0.0), (0.0, 1.0)):
        found = analysis.crossed_interval(np.full((2, 3), value), networks)
        assert found == (analysis.Interval(value, value, value, 3), p)


def test_crossed_interval_of_one_network_or_one_image_is_none():
    for values, networks in (([[1, 0, 1]], [[0, 0, 0]]), ([[1], [0]], [[0], [1]])):
        interval, p = analysis.crossed_interval(values, networks)
        assert interval.mean == np.mean(values)
        assert np.isnan([interval.low, interval.high, p]).all()


def test_crossed_interval_covers_where_images_and_networks_both_matter():
    rng, networks = np.random.default_rng(0), np.arange(200).reshape(4, 50) // 10
    covered = {"crossed": [], "images alone": []}
    for _ in range(1000):  # 4 passes over 50 images by 20 networks
        of_images, of_networks = rng.normal(size=50), rng.normal(size=20)
        values = of_images + of_networks[networks] + rng.normal(size=(4, 50))
        crossed, _ = analysis.crossed_interval(values, networks)
        alone = analysis.mean_interval(values.mean(0))
        covered["crossed"].append(crossed.low < 0 < crossed.high)
        covered["images alone"].append(alone.low < 0 < alone.high)
    assert np.mean(covered["crossed"]) == pytest.approx(0.95, abs=0.03)
    assert np.mean(covered["images alone"]) < 0.85


def test_holm_by_hand():
    # In order 0.005 * 4, 0.01 * 3, 0.03 * 2 and 0.04 * 1, which may not be less than the last.
    adjusted = analysis.holm([0.01, 0.04, 0.03, 0.005])
    assert adjusted == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert analysis.holm([0.6, 0.02, 0.7]) == pytest.approx([1, 0.06, 1])
    assert analysis.holm([0.04]) == pytest.approx([0.04])


def test_an_interval_in_another_unit():
    assert analysis.Interval(2.0, 1.0, 4.0, 5).scaled(128) == analysis.Interval(256, 128, 512, 5)
    assert str(analysis.Interval(12345.6, 12000, 12691.2, 3)) == "12,346 [12,000, 12,691], n = 3"


def test_interval_in_words():
    interval = analysis.Interval(0.9051, 0.8993, 0.9107, 5)
    assert interval.percent() == "90.5 % [89.9, 91.1], n = 5"
    assert interval.percent(digits=2) == "90.51 % [89.93, 91.07], n = 5"
    assert str(interval) == "0.9051 [0.8993, 0.9107], n = 5"
    narrow, wide = (0.00098, -0.0001003, 0.00206), (187.44, 101.6, 273.3)
    assert str(analysis.Interval(*narrow, 5)) == "0.0010 [-0.0001, 0.0021], n = 5"
    assert analysis.Interval(1e-4, -1e-5, 3e-4, 3).percent() == "0.0 % [0.0, 0.0], n = 3"
    assert str(analysis.Interval(*wide, 5)) == "187 [102, 273], n = 5"
    assert str(analysis.Interval(2.0, np.nan, np.nan, 1)) == "2.0000, n = 1"
    assert str(analysis.Interval(2.0, 1.0, np.inf, 3)) == "2.0000 [1.0000, inf], n = 3"
    assert analysis.Interval(0.012, -0.003, 0.021, 5).points() == (
        "+1.2 points [-0.3, +2.1], n = 5"
    )


@pytest.mark.parametrize(
    ("mean", "low", "high", "words"),
    [
        (0.02, 0.01, 0.03, "better"),
        (-0.02, -0.03, -0.01, "worse"),
        (0.01, -0.01, 0.03, "within noise"),
        (0.01, 0.0, 0.02, "within noise"),  # zero on a bound is included
        (-0.01, -0.02, 0.0, "within noise"),
        (0.02, np.nan, np.nan, "one pair only"),
    ],
)
def test_a_difference_in_words(mean, low, high, words):
    assert analysis.Interval(mean, low, high, 3).verdict() == words


def test_points_have_a_sign_and_percents_none():
    worse = analysis.Interval(-0.0123, -0.02, 0.004, 5)
    assert worse.points() == "-1.2 points [-2.0, +0.4], n = 5"
    assert worse.points(2) == "-1.23 points [-2.00, +0.40], n = 5"
    assert analysis.Interval(0.5, np.nan, np.nan, 1).points() == "+50.0 points, n = 1"
    assert analysis.Interval(0.5, 0.4, 0.6, 2).percent(0) == "50 % [40, 60], n = 2"


def test_what_is_no_log_probability_is_refused():
    with pytest.raises(ValueError, match="none above 0"):
        analysis.negative_log_likelihood([0], [[0.01, -1.0]])


# --- calibration --------------------------------------------------------------------------------


def test_reliability_and_ece_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.3, 0.7]])
    labels = np.array([0, 1, 1, 1])
    # 5 bins; (0.6, 0.8]: confidences 0.8 and 0.7, one of two right; (0.8, 1]: 0.9, right;
    # (0.4, 0.6]: 0.6, right
    curve = analysis.reliability_curve(labels, probabilities, bins=5)
    np.testing.assert_array_equal(curve.count, [0, 0, 1, 2, 1])
    np.testing.assert_allclose(curve.confidence, [np.nan, np.nan, 0.6, 0.75, 0.9])
    np.testing.assert_allclose(curve.accuracy, [np.nan, np.nan, 1, 0.5, 1])
    # (1 * 0.4 + 2 * 0.25 + 1 * 0.1) / 4
    ece = analysis.expected_calibration_error(labels, probabilities, bins=5)
    assert ece == pytest.approx(0.25)


def test_bins_of_as_many_examples_by_hand():
    confidence = np.array([0.95, 0.6, 0.7, 0.6, 0.8])
    labels = [0, 0, 1, 1, 0]
    probabilities = np.column_stack([confidence, 1 - confidence])
    curve = analysis.reliability_curve(labels, probabilities, bins=2, even=True)
    np.testing.assert_array_equal(curve.count, [3, 2])  # 0.6, 0.6, 0.7 and 0.8, 0.95
    np.testing.assert_allclose(curve.confidence, [1.9 / 3, 0.875])
    np.testing.assert_allclose(curve.accuracy, [1 / 3, 1])


def test_ece_of_a_calibrated_toy_is_zero():
    probabilities = np.tile([0.75, 0.25], (4, 1))  # right three times of four, as it says
    assert analysis.expected_calibration_error([0, 0, 0, 1], probabilities) == 0
    assert analysis.expected_calibration_error([1, 1, 1, 1], probabilities) == 0.75


def test_ece_is_small_for_probabilities_that_drew_the_labels(sampled):
    labels, probabilities = sampled
    # chance alone makes about 0.8 * sum over bins of sqrt(count * p * (1 - p)) / n = 0.009
    assert analysis.expected_calibration_error(labels, probabilities) < 0.015
    sharp = np.exp(analysis.apply_temperature(np.log(probabilities), 0.5))
    assert analysis.expected_calibration_error(labels, sharp) > 0.05
    assert analysis.reliability_curve(labels, probabilities).count.sum() == len(labels)


def test_reliability_refuses_logarithms():
    with pytest.raises(ValueError, match="between 0 and 1"):
        analysis.reliability_curve([0], np.log([[0.5, 0.5]]))


def test_negative_log_likelihood():
    log_probabilities = np.log([[0.5, 0.5], [0.25, 0.75]])
    # (ln 2 + ln 4) / 2
    assert analysis.negative_log_likelihood([0, 0], log_probabilities) == pytest.approx(
        1.5 * np.log(2)
    )
    with pytest.raises(ValueError, match="logarithms"):
        analysis.negative_log_likelihood([0, 0], np.exp(log_probabilities))


def test_temperature_by_hand():
    # the odds 4 : 1 at temperature 2 become 2 : 1
    cooled = analysis.apply_temperature(np.log([[0.8, 0.2]]), 2)
    np.testing.assert_allclose(np.exp(cooled), [[2 / 3, 1 / 3]])


@pytest.mark.parametrize("t", [0.4, 1, 3])
def test_temperature_is_recovered_and_repairs_calibration(sampled, t):
    labels, probabilities = sampled
    distorted = analysis.apply_temperature(np.log(probabilities), 1 / t)
    assert analysis.fit_temperature(labels, distorted) == pytest.approx(t, rel=0.03)
    repaired = analysis.apply_temperature(distorted, t)
    np.testing.assert_allclose(np.exp(repaired), probabilities, atol=1e-9)
    np.testing.assert_array_equal(repaired.argmax(axis=1), distorted.argmax(axis=1))


def test_fitted_temperature_never_raises_the_likelihood_loss(sampled):
    labels, probabilities = sampled
    sharp = analysis.apply_temperature(np.log(probabilities), 0.5)
    fitted = analysis.apply_temperature(sharp, analysis.fit_temperature(labels, sharp))
    before, after = (analysis.negative_log_likelihood(labels, p) for p in (sharp, fitted))
    assert after < before


def test_temperature_refuses_infinite_logarithms():
    with pytest.raises(ValueError, match="finite"):
        analysis.fit_temperature([0], np.array([[-np.inf, 0.0]]))


# --- confusion ----------------------------------------------------------------------------------


def test_confusion_has_true_classes_in_rows_and_keeps_absent_ones():
    matrix = analysis.confusion([0, 0, 1, 1], [0, 1, 1, 0], 3)
    np.testing.assert_array_equal(matrix, [[1, 1, 0], [1, 1, 0], [0, 0, 0]])
    matrix = analysis.confusion([0, 0], [2, 2], 3)
    assert matrix[0, 2] == 2
    assert matrix.sum() == 2


def test_most_confused_counts_both_directions_and_sorts():
    matrix = np.array([[9, 1, 4], [2, 9, 0], [0, 0, 9]])
    assert analysis.most_confused(matrix, "abc", 5) == [("a", "c", 4), ("a", "b", 3)]
    assert analysis.most_confused(matrix, "abc", 1) == [("a", "c", 4)]
    assert analysis.most_confused(np.eye(3), "abc", 5) == []


# --- geometry and writers -----------------------------------------------------------------------


def test_class_likelihood_by_hand():
    # Means 0 and 2, one variance of 1 about them: -x^2 / 2 and -(x - 2)^2 / 2 differ by 2x - 2.
    kernel, bias = analysis.class_likelihood([[-1], [1], [1], [3]], [0, 0, 1, 1], 2)
    assert kernel == pytest.approx(np.array([[0, 2]]), abs=1e-5)
    assert bias == pytest.approx([0, -2], abs=1e-5)


def test_class_likelihood_is_the_gaussians():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [30, 50, 70])
    geometry = rng.normal(size=(150, 2)) @ [[0.2, 0.1], [0, 0.05]] + labels[:, None] * [0.1, -0.2]
    means = np.stack([geometry[labels == c].mean(0) for c in range(3)])
    covariance = np.mean([np.outer(x, x) for x in geometry - means[labels]], axis=0)
    theirs = [
        stats.multivariate_normal.logpdf(geometry, mean, covariance + 1e-6 * np.eye(2))
        for mean in means
    ]
    kernel, bias = analysis.class_likelihood(geometry, labels, 3)
    ours = geometry @ kernel + bias
    assert ours - ours[:, :1] == pytest.approx(np.stack(theirs, 1) - theirs[0][:, None])


def test_a_writers_offset_by_hand():
    geometry = np.array([[0.0], [3.0], [6.0], [10.0]])
    labels, writers = np.zeros(4, int), np.array([0, 0, 1, 0])
    known = np.array([True, True, True, False])
    # The mean of the known is 3, from which they are -3, 0 and 3 apart. Without its own, an offset
    # is: 0 / 1.5, -3 / 1.5, 0 / 0.5; that of the unknown, -3 / 2.5.
    once = analysis.remove_writer_offsets(geometry, labels, writers, known, rounds=1)
    assert once[:, 0] == pytest.approx([0, 5, 6, 11.2])
    # Of 0, 5 and 6 the mean is 11 / 3, from which they were -11 / 3, -2 / 3 and 7 / 3 apart.
    twice = analysis.remove_writer_offsets(geometry, labels, writers, known, rounds=2)
    assert twice[:, 0] == pytest.approx([4 / 9, 3 + 22 / 9, 6, 10 + 26 / 15])
    thrice = analysis.remove_writer_offsets(geometry, labels, writers, known, rounds=3)
    assert (analysis.remove_writer_offsets(geometry, labels, writers, known) == thrice).all()
    # As if three more had no offset: 0 / 4, -3 / 4, 0 / 3 and -3 / 5.
    shrunk = analysis.remove_writer_offsets(geometry, labels, writers, known, 3, rounds=1)
    assert shrunk[:, 0] == pytest.approx([0, 3.75, 6, 10.6])


def test_a_writers_offset_is_of_what_is_left_of_the_class():
    # Class 0 lies at 0, class 1 at 4; writer 1 writes 1 higher. Classes nobody knows change none.
    labels, writers = np.array([0, 1, 0, 1, 2]), np.array([0, 0, 1, 1, 1])
    geometry = np.array([[0.0, 5], [4.0, 5], [1.0, 5], [5.0, 5], [9.0, 5]])
    known = labels < 2
    found = analysis.remove_writer_offsets(geometry, labels, writers, known, 0.0, rounds=60)
    assert found[:, 0] == pytest.approx([0.5, 4.5, 0.5, 4.5, 8.5])
    assert found[:, 1] == pytest.approx([5] * 5)


def test_hands_by_hand():
    # Means 10 and 20; the writers' residuals 2, 4 and -2, -4, whose means are 3 and -3. What is
    # left is -1, 1, 1 and -1: 4 / (4 - 2). The offsets vary by (4 * 9 - 2 * 2) / 4.
    found = analysis.hands([[12.0], [24.0], [8.0], [16.0]], [0, 1, 0, 1], ["a", "a", "b", "b"], 2)
    assert found.means == pytest.approx(np.array([[10], [20]]))
    assert found.within == pytest.approx(np.array([[2]]), abs=1e-5)
    assert found.between == pytest.approx(np.array([[8]]), abs=1e-5)


BETWEEN = np.array([[0.010, 0.008], [0.008, 0.010]])
WITHIN = np.array([[0.002, 0.0005], [0.0005, 0.001]])
MEANS = np.array([[0.2, 0.8], [0.4, 0.8], [0.4, 1.0]])


def written(seed, writers, each, between=BETWEEN):
    """Geometry of letters by some hands, (n, 2), with labels and writers."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, writers * each)
    who = np.repeat(np.arange(writers), each)
    offsets = rng.multivariate_normal([0, 0], between, writers)
    noise = rng.multivariate_normal([0, 0], WITHIN, len(who))
    return MEANS[labels] + offsets[who] + noise, labels, who


@pytest.mark.parametrize("each", [4, 40])
def test_hands_recover_what_varies_between_them_and_within_one(each):
    found = analysis.hands(*written(0, 1500, each), 3)
    np.testing.assert_allclose(found.means, MEANS, atol=0.01)
    np.testing.assert_allclose(found.within, WITHIN, rtol=0.1)
    np.testing.assert_allclose(found.between, BETWEEN, rtol=0.15)


def test_hands_that_do_not_differ_still_have_a_covariance():
    found = analysis.hands(*written(1, 50, 4, between=np.zeros((2, 2))), 3)
    values = np.linalg.eigvalsh(found.between)
    assert values.min() > 0.9e-6
    assert values.max() < 5e-4


def test_one_hand_by_hand():
    # One class for sure, at 0: 2 and 3 tell the first of an offset of 5 / (2 + 1), variance 1/3.
    hands = analysis.Hands(np.array([[0.0], [2.0]]), np.eye(1), np.eye(1))
    sure = np.tile([0.0, -99.0], (3, 1))
    found = analysis.one_hand(sure, [[1.0], [2.0], [3.0]], hands, 1, rounds=1)
    away = np.array([1 - 5 / 3, 2 - 4 / 3, 3 - 1])
    expected = np.stack([-(away**2) * 3 / 8, -99 - (away - 2) ** 2 * 3 / 8], 1)
    assert found == pytest.approx(expected)
    again = analysis.one_hand(sure, [[1.0], [2.0], [3.0]], hands, 1)
    assert again == pytest.approx(expected)
    # A single image tells nothing of itself: the variance is that of any hand's, 1 + 1.
    unsure = analysis.one_hand(np.zeros((1, 2)), [[1.0]], hands, 1)
    assert unsure == pytest.approx(-np.full((1, 2), 1 / 4))


def gaussian(geometry, covariance):
    """Each class's log-likelihood, less the part that all classes have in common."""
    found = [stats.multivariate_normal.logpdf(geometry, mean, covariance) for mean in MEANS]
    return np.stack(found, 1) - stats.multivariate_normal.logpdf(MEANS[0], MEANS[0], covariance)


def test_a_hand_before_any_round_is_any_hand():
    geometry, *_ = written(2, 1, 9)
    logs = np.log(softmax(np.random.default_rng(0).normal(size=(9, 3))))
    hands = analysis.Hands(MEANS, BETWEEN, WITHIN)
    for weight in (0.3, 1):
        found = analysis.one_hand(logs, geometry, hands, weight, rounds=0)
        assert found == pytest.approx(logs + weight * gaussian(geometry, BETWEEN + WITHIN))
    assert analysis.one_hand(logs, geometry, hands, 0) == pytest.approx(logs)


def test_hands_that_do_not_differ_are_read_image_by_image():
    geometry, *_ = written(3, 1, 9)
    logs = np.log(softmax(np.random.default_rng(0).normal(size=(9, 3))))
    hands = analysis.Hands(MEANS, 1e-12 * np.eye(2), WITHIN)
    found = analysis.one_hand(logs, geometry, hands, 0.5)
    assert found == pytest.approx(logs + 0.5 * gaussian(geometry, WITHIN), abs=1e-6)


def test_many_images_tell_a_hands_offset_and_what_each_of_them_is():
    rng, right = np.random.default_rng(4), {"alone": [], "together": [], "told": []}
    hands = analysis.Hands(MEANS, BETWEEN, WITHIN)
    for seed in range(40):
        geometry, labels, _ = written(100 + seed, 1, 30)
        logs = rng.normal(size=(30, 3)) + np.eye(3)[labels]
        offset = (geometry - MEANS[labels]).mean(0)  # as if the labels were known
        scores = {
            "alone": logs + gaussian(geometry, BETWEEN + WITHIN),
            "together": analysis.one_hand(logs, geometry, hands, 1),
            "told": logs + gaussian(geometry - offset, WITHIN),
        }
        for name, score in scores.items():
            right[name].append((score.argmax(1) == labels).mean())
    alone, together, told = (np.mean(right[name]) for name in ("alone", "together", "told"))
    assert alone < 0.95 < together
    assert together > told - 0.01


# --- convergence and label efficiency -----------------------------------------------------------


def test_steps_to_is_the_first_check_from_which_on_the_threshold_is_kept():
    steps, values = [10, 20, 30, 40], [0.5, 0.9, 0.85, 0.95]
    assert analysis.steps_to(steps, values, 0.9) == 40  # touched at 20, and lost again
    assert analysis.steps_to(steps, values, 0.85) == 20
    assert analysis.steps_to(steps, values, 0.5) == 10
    assert analysis.steps_to(steps, values, 0.96) == np.inf
    assert analysis.steps_to([10, 20], [0.9, 0.8], 0.85) == np.inf  # lost at the last


def test_ratio_is_geometric_and_turns_over():
    a, b = np.array([2.0, 8.0]), np.array([1.0, 1.0])
    ratio, inverse = analysis.ratio_interval(a, b), analysis.ratio_interval(b, a)
    assert ratio.mean == pytest.approx(4)  # the square root of 2 * 8
    assert inverse.low == pytest.approx(1 / ratio.high)
    assert ratio.high / ratio.mean == pytest.approx(np.exp(stats.t.ppf(0.975, 1) * np.log(2)))
    assert np.isnan(analysis.ratio_interval([2.0], [1.0]).low)
    with pytest.raises(ValueError, match="positive"):
        analysis.ratio_interval([1.0, 0.0], [1.0, 1.0])
    with pytest.raises(ValueError, match="positive"):
        analysis.ratio_interval([1.0, 1.0], [np.nan, 1.0])


@pytest.mark.parametrize(
    ("low", "high", "inside"),
    [
        (-0.0005, 0.0009, True),
        (0.0001, 0.0009, True),
        (-0.0009, -0.0001, True),
        (-0.001, 0.0, False),  # a bound on the margin is not inside
        (0.0, 0.001, False),
        (-0.002, 0.002, False),
        (0.002, 0.003, False),
        (np.nan, np.nan, False),
    ],
)
def test_equivalence_asks_for_the_whole_interval(low, high, inside):
    assert analysis.Interval(0.0, low, high, 5).within(0.001) is inside


def test_label_factor_of_a_start_worth_ten_times_its_labels():
    sizes = [10, 100, 1000, 10_000]
    baseline = 1 - np.array([[0.4, 0.2, 0.1, 0.05]] * 3)
    other = 1 - np.array([[0.2, 0.1, 0.05, 0.04]] * 3)
    for size in (10, 100, 1000):
        factor = analysis.label_factor(sizes, baseline, other, size)
        assert factor == analysis.Interval(*[pytest.approx(10)] * 3, 3)
    # Better than the baseline ever gets, half-way on the logarithms, and worse than its smallest.
    assert analysis.label_factor(sizes, baseline, other, 10_000).mean == np.inf
    between = 1 - np.array([[np.sqrt(0.4 * 0.2), 0.5, 0.5, 0.5]])
    assert analysis.label_factor(sizes, baseline[:1], between, 10).mean == pytest.approx(10**0.5)
    assert analysis.label_factor(sizes, baseline[:1], between, 100).mean == pytest.approx(0.1)
    assert np.isnan(analysis.label_factor(sizes, baseline[:1], between, 100).low)


def test_label_factors_interval_covers_what_the_rows_say():
    sizes = [10, 100]
    baseline = 1 - np.array([[0.4, 0.1]] * 20)
    other = 1 - np.array([[0.1, 0.1], [0.4, 0.1]] * 10)  # as good as 100 labels, or as 10
    factor = analysis.label_factor(sizes, baseline, other, 10)
    # Of 20 rows drawn 2.5 % of the draws have fewer than 6 good ones, and 2.5 % more than 14.
    factors = np.array([factor.low, factor.mean, factor.high])
    errors = 0.4 / 4 ** np.log10(factors)
    good = stats.binom.ppf([0.025, 0.5, 0.975], 20, 0.5)
    assert (0.4 - errors) / 0.3 * 20 == pytest.approx(good, abs=1.01)
    assert factor == analysis.label_factor(sizes, baseline, other, 10)


def test_label_factor_of_a_tie_at_the_largest_size_is_no_lower_bound():
    rng = np.random.default_rng(0)
    for _ in range(20):  # an arm against itself, and its rows in another order
        baseline = np.sort(rng.integers(9000, 9990, (20, 2)) / 1e4)
        same = analysis.label_factor([10, 100], baseline, baseline, 100, draws=200)
        assert (same.mean, same.high) == pytest.approx((1, 1))
        turned = analysis.label_factor([10, 100], baseline, baseline[::-1], 100, draws=2)
        assert turned.mean == pytest.approx(1)


def test_label_factor_reads_a_curve_that_rises_again_as_flat():
    baseline = 1 - np.array([[0.4, 0.1, 0.2]] * 2)
    other = 1 - np.array([[0.1, 0.1, 0.1]] * 2)
    assert analysis.label_factor([10, 100, 1000], baseline, other, 10).mean == pytest.approx(10)


def test_label_factor_gives_an_open_bound_where_draws_pass_the_baseline():
    baseline = 1 - np.array([[0.4, 0.1]] * 2)
    other = 1 - np.array([[0.05, 0.1], [0.3, 0.1]])  # better than 100 labels, or than a few
    factor = analysis.label_factor([10, 100], baseline, other, 10)
    assert np.isfinite(factor.mean)
    assert factor.high == np.inf


def test_label_factor_refuses_rows_that_do_not_pair():
    with pytest.raises(ValueError, match="not paired"):
        analysis.label_factor([10, 100], np.ones((3, 2)), np.ones((4, 2)), 10)


# --- similarity ---------------------------------------------------------------------------------


def test_cka_ignores_rotation_and_scale_and_sees_independence():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2000, 6)), rng.normal(size=(2000, 3))
    rotation = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    assert analysis.linear_cka(x, 3 * x @ rotation + 5) == pytest.approx(1)
    assert analysis.linear_cka(x, y) < 0.01
    # Of two equal independent features one is shared: 1 / sqrt(2) of the Frobenius norms.
    a, b = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]]), np.array([[1], [1], [-1], [-1]])
    assert analysis.linear_cka(a, b) == pytest.approx(1 / np.sqrt(2))
    with pytest.raises(ValueError, match="mismatch"):
        analysis.linear_cka(a, b[:3])
