"""Looking inside a network."""

import keras
import numpy as np
import pytest
from fakes import cnn

from midas_lib import probe
from midas_lib.config import Network
from midas_lib.data import Examples

TINY = Network(channels=(8, 16, 32), strides=(2, 2, 1))
LAYERS = ["conv1", "conv2", "conv3", "logits"]


def test_covering_black_paper_costs_nothing():
    network = cnn(3, 12, TINY)
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (2, 12, 12, 1)).astype(np.uint8)
    pictures[:, 6:] = 0  # with patches of 4, rows from 10 on are only ever covered on black paper
    maps = probe.occlusion(network, Examples(pictures=pictures, labels=np.array([0, 2])), 4)
    assert maps.shape == (2, 12, 12)
    np.testing.assert_allclose(maps[:, 10:], 0, atol=1e-6)
    assert np.abs(maps[:, :6]).max() > 1e-6


def test_covering_what_speaks_for_the_label_costs_and_what_speaks_against_it_gains():
    """Class 0 is as probable as the top left corner is bright, class 1 as the bottom right is."""
    inputs = keras.Input((12, 12, 1))
    kernel = np.zeros((144, 2), np.float32)
    kernel[0, 0] = kernel[143, 1] = 2 / 255
    output = keras.layers.Dense(2, "softmax")
    judge = keras.Model(inputs, output(keras.layers.Flatten()(inputs)))
    output.set_weights([kernel, np.zeros(2)])
    pictures = np.full((1, 12, 12, 1), 255, np.uint8)
    (found,) = probe.occlusion(judge, Examples(pictures=pictures, labels=np.array([0])), 4)
    # Probability 1/2 each; without the one corner, 1 / (1 + e^2) or the rest of it.
    assert found[0, 0] == pytest.approx(np.log(0.5) - np.log(1 / (1 + np.e**2)), rel=1e-4)
    assert found[11, 11] == pytest.approx(np.log(0.5) - np.log(1 - 1 / (1 + np.e**2)), rel=1e-4)
    assert found[6, 6] == pytest.approx(0, abs=1e-6)


def examples(count=12, seed=0):
    rng = np.random.default_rng(seed)
    pictures = rng.integers(0, 256, (count, 12, 12, 1)).astype(np.uint8)
    return Examples(pictures=pictures, labels=np.arange(count) % 3)


def network(seed=0):
    keras.utils.set_random_seed(seed)
    return cnn(3, 12, TINY)


def test_features_are_means_over_places():
    one, seen = network(), examples(300)  # more than a batch
    found = probe.features(one, seen, ["conv1_relu", "features"])
    whole = keras.Model(one.input, one.get_layer("conv1_relu").output)
    expected = np.asarray(whole(seen.pictures.astype(np.float32))).mean((1, 2))
    np.testing.assert_allclose(found["conv1_relu"], expected, rtol=1e-4)
    assert found["features"].shape == (300, 2 * 2 * 32)


def test_interpolation_ends_at_both_networks_with_the_examples_statistics():
    one, other, seen = network(0), network(1), examples(60)
    before = [w.copy() for w in one.get_weights()]
    losses, accuracies = probe.interpolate(one, other, np.array([0, 0.5, 1]), seen, seen)
    for end, loss, accuracy in [(one, losses[0], accuracies[0]), (other, losses[2], accuracies[2])]:
        # In training mode a batch is normalised by its own statistics: here those of the examples.
        answers = np.asarray(end(seen.pictures.astype(np.float32), training=True))
        assert accuracy == (answers.argmax(1) == seen.labels).mean()
        right = answers[np.arange(60), seen.labels]
        assert loss == pytest.approx(-np.log(right).mean(), rel=1e-4)
        end.set_weights(before if end is one else other.get_weights())
    assert losses[1] not in (losses[0], losses[2])


def test_interpolation_leaves_the_networks_as_they_were():
    one, other, seen = network(0), network(1), examples()
    before = [w.copy() for w in (*one.get_weights(), *other.get_weights())]
    probe.interpolate(one, other, np.array([0.5]), seen, seen)
    for old, now in zip(before, (*one.get_weights(), *other.get_weights()), strict=True):
        np.testing.assert_array_equal(old, now)
