"""Losses against numbers worked by hand."""

import math

import numpy as np
import pytest

from midas_lib import losses

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
