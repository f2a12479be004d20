"""Losses against numbers worked by hand."""

import inspect
import math

import numpy as np
import pytest
import tensorflow as tf

from midas_lib import losses
from midas_lib.config import LOSSES, Training

LOGITS = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]], np.float32))
TARGETS = np.array([[1, 0, 0], [0, 1, 0]], np.float32)


@pytest.mark.parametrize("offset", [0.0, 7.0])  # logits are free up to a constant
def test_cross_entropy_is_the_mean_of_minus_log_probabilities(offset):
    expected = (math.log(2) + math.log(10)) / 2
    assert float(losses.cross_entropy(TARGETS, LOGITS + offset)) == pytest.approx(expected)


def test_cross_entropy_with_smoothing():
    # A share of 0.3 over three classes: 0.8 for the label, 0.1 for each of the others.
    first = 0.8 * math.log(2) + 0.2 * math.log(4)
    second = 0.9 * math.log(10) + 0.1 * math.log(1 / 0.8)
    expected = (first + second) / 2
    assert float(losses.cross_entropy(TARGETS, LOGITS, 0.3)) == pytest.approx(expected)


def test_cross_entropy_with_mixed_targets():
    targets = np.array([[0.75, 0.25, 0], [0, 0.5, 0.5]], np.float32)
    first = 0.75 * math.log(2) + 0.25 * math.log(4)
    second = 0.5 * math.log(10) + 0.5 * math.log(1 / 0.8)
    expected = (first + second) / 2
    assert float(losses.cross_entropy(targets, LOGITS)) == pytest.approx(expected)


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_a_function_whose_further_parameters_are_settings(name):
    targets, logits, *settings = inspect.signature(getattr(losses, LOSSES[name])).parameters
    assert (targets, logits) == ("targets", "logits")
    assert set(settings) <= vars(Training()).keys()


# --- complementary labels: the first picture is no 0, the second no 2 ---------------------------

P = np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]])
NAMED = np.array([[1, 0, 0], [0, 0, 1]], np.float32)  # with probabilities 0.5 and 0.8


def softmax(values):
    return np.exp(values) / np.exp(values).sum()


def partial_risks():
    """Class by class: mean of its losses, less twice (classes - 1) those of who is said not to be
    of it."""
    logs = -np.log(P)
    return [
        (logs[0, 0] + logs[1, 0] - 2 * logs[0, 0]) / 2,
        (logs[0, 1] + logs[1, 1]) / 2,
        (logs[0, 2] + logs[1, 2] - 2 * logs[1, 2]) / 2,
    ]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("forward", -(math.log(0.5 / 2) + math.log(0.2 / 2)) / 2),
        ("SCL-NL", -(math.log(0.5) + math.log(0.2)) / 2),
        ("SCL-EXP", (math.exp(0.5) + math.exp(0.8)) / 2),
        # A lead of z costs 1 / (1 + exp(z)): here exp(z) is 1/2 twice, then 1/8 twice.
        ("PC", (2 / 1.5 + 2 / 1.125) / 2),
        (
            "L-W",
            -(
                (1 + 0.5 / 2) * math.log(softmax(1 - P[0])[0])
                + (1 + 0.2 / 2) * math.log(softmax(1 - P[1])[2])
            )
            / 2,
        ),
        ("NN", sum(max(risk, 0) for risk in partial_risks())),
        ("GA", sum(partial_risks())),
    ],
)
def test_complementary_losses_by_hand(name, expected):
    assert min(partial_risks()) > 0
    loss = getattr(losses, LOSSES[name])
    assert float(loss(NAMED, LOGITS)) == pytest.approx(expected, rel=1e-5)
    assert float(loss(NAMED, LOGITS + 7)) == pytest.approx(expected, rel=1e-5)


def test_forward_knows_of_the_leak():
    expected = -sum(math.log(0.1 * p + 0.9 * (1 - p) / 2) for p in (0.5, 0.8)) / 2
    assert float(losses.forward(NAMED, LOGITS, 0.1)) == pytest.approx(expected, rel=1e-5)


def test_negative_parts_are_cut_or_turned_over():
    # Surely not of class 0 by its label, and almost surely of it by the network.
    logits = np.log(np.array([[0.01, 0.495, 0.495]], np.float32))
    risks = [math.log(0.01), -math.log(0.495), -math.log(0.495)]
    named = NAMED[:1]
    assert float(losses.non_negative(named, logits)) == pytest.approx(sum(risks[1:]), rel=1e-5)
    assert float(losses.gradient_ascent(named, logits)) == pytest.approx(-risks[0], rel=1e-5)


# Not GA, which climbs here: one picture's risk for the class it is not is negative.
@pytest.mark.parametrize("name", [n for n in LOSSES if n not in ("cross-entropy", "PRODEN", "GA")])
def test_naming_a_class_lowers_its_logit(name):
    logits = tf.Variable(np.zeros((1, 3), np.float32))
    with tf.GradientTape() as tape:
        loss = getattr(losses, LOSSES[name])(NAMED[:1], logits)
    gradient = tape.gradient(loss, logits).numpy()[0]
    assert gradient[0] > 0
    assert gradient[1] == pytest.approx(gradient[2])
    assert gradient[1] < 0


def test_unbiased_risk_is_the_cross_entropy_on_average():
    """Each of the two wrong labels once for each picture: their mean is the true labels' risk."""
    truth = np.array([1, 2])
    wrong = np.array([[k for k in range(3) if k != label] for label in truth])
    eye = np.eye(3, dtype=np.float32)
    risks = [losses._partial_risks(eye[wrong[:, i]], LOGITS) for i in range(2)]
    expected = [0, -math.log(P[0, 1]) / 2, -math.log(P[1, 2]) / 2]
    np.testing.assert_allclose(np.mean(risks, 0), expected, atol=1e-6)


def test_proden_by_hand():
    # One picture, which is no 0; its views say (.5, .25, .25) and (.1, .1, .8).
    # Their mean (.3, .175, .525), without class 0 and normalised: (0, .25, .75).
    first = -(0.25 * math.log(0.25) + 0.75 * math.log(0.25))
    second = -(0.25 * math.log(0.1) + 0.75 * math.log(0.8))
    found = losses.proden(NAMED[:1], tf.constant(LOGITS))
    assert float(found) == pytest.approx((first + second) / 2, rel=1e-5)
    # Squared: (0, .1, .9). With a leak of 0.2: likelihoods (.2, .4, .4).
    sharp = -(0.1 * math.log(0.25 * 0.1) + 0.9 * math.log(0.25 * 0.8)) / 2
    assert float(losses.proden(NAMED[:1], tf.constant(LOGITS), 0.0, 2.0)) == pytest.approx(
        sharp, rel=1e-5
    )
    belief = np.array([0.3 * 0.2, 0.175 * 0.4, 0.525 * 0.4])
    leaky = -(belief / belief.sum() * (LOGITS[0] + LOGITS[1])).sum() / 2
    found = losses.proden(NAMED[:1], tf.constant(LOGITS), 0.2)
    assert float(found) == pytest.approx(leaky, rel=1e-5)


def test_proden_of_a_picture_without_a_label_is_what_its_views_say():
    # The views' mean (.3, .175, .525) squared and normalised, as no class is ruled out.
    belief = np.array([0.3, 0.175, 0.525]) ** 2
    logs = np.log([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]).sum(0)
    found = losses.proden(np.zeros((1, 3), np.float32), tf.constant(LOGITS), 0.0, 2.0)
    assert float(found) == pytest.approx(-(belief / belief.sum() * logs).sum() / 2, rel=1e-5)


def test_imbalance_is_zero_for_even_shares_and_large_when_all_are_one_class():
    # Mean probabilities (.3, .175, .525): minus the mean log of three times those.
    expected = -np.mean(np.log(3 * np.array([0.3, 0.175, 0.525])))
    assert float(losses.imbalance(tf.constant(LOGITS))) == pytest.approx(expected, rel=1e-5)
    each = tf.constant(50 * np.eye(3, dtype=np.float32))
    assert float(losses.imbalance(each)) == pytest.approx(0, abs=1e-6)
    assert float(losses.imbalance(each[:1])) > 5


def test_proden_of_equal_views_has_the_forward_gradient():
    logits = tf.Variable(LOGITS)
    with tf.GradientTape(persistent=True) as tape:
        twice = losses.proden(NAMED, tf.concat([logits, logits], 0), 0.01)
        once = losses.forward(NAMED, logits, 0.01)
    np.testing.assert_allclose(tape.gradient(twice, logits), tape.gradient(once, logits), atol=1e-5)
