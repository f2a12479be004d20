"""The network: its size, its contract with whoever loads it, and what a transfer copies."""

import dataclasses
import zipfile

import keras
import numpy as np
import pytest
from fakes import cnn
from scipy.special import softmax
from scipy.stats import multivariate_normal

from midas_lib import analysis
from midas_lib.config import Network
from midas_lib.model import add_geometry, build_cnn, transfer_backbone, transfer_head

TINY = Network(channels=(8, 16, 16, 32), strides=(1, 2, 2, 1))
BACKBONE = [f"conv{i}{suffix}" for i in (1, 2, 3, 4) for suffix in ("", "_norm")]


@pytest.fixture
def pictures():
    return np.random.default_rng(0).integers(0, 256, (5, 12, 12, 1)).astype(np.float32)


@pytest.fixture
def geometry():
    return np.random.default_rng(1).random((5, 2)).astype(np.float32)


def build(classes=4, size=12, network=TINY, seed=0):
    """A tiny network whose normalisation statistics are no longer their initial ones."""
    keras.utils.set_random_seed(seed)
    model = cnn(classes, size, network)
    model(np.random.default_rng(seed).uniform(0, 255, (8, size, size, 1)), training=True)
    return model


def outputs(model, names, pictures):
    """What the layers of these names give."""
    layers = [model.get_layer(name) for name in names]
    return [np.asarray(keras.Model(model.input, one.output)(pictures)) for one in layers]


def with_geometry(model):
    rng = np.random.default_rng(2)
    return add_geometry(model, rng.normal(size=(2, 4)), rng.normal(size=4))


def test_parameter_count():
    model = build_cnn(62)
    convolutions = 25 * 32 + 9 * (32 * 64 + 64 * 96 + 96 * 128)
    normalisation = 4 * (32 + 64 + 96 + 128)
    # Of 28 pixels a side the strides leave 7, and pooling the largest of each 2x2 leaves 4.
    linear = (4 * 4 * 128 + 1) * 62
    assert model.count_params() == convolutions + normalisation + linear == 313_438
    full = add_geometry(model, np.zeros((2, 62)), np.zeros(62))
    assert full.count_params() == 313_438 + 3 * 62 == 313_624 < 500_000
    quarters = (4 * 128 + 1) * 62
    assert build_cnn(62, network=Network(pooling="quarters")).count_params() == (
        convolutions + normalisation + quarters
    )


@pytest.mark.parametrize("size", [12, 20, 28, 35])
def test_output_is_class_probabilities_for_any_input_side(size):
    pixels = np.random.default_rng(0).integers(0, 256, (3, size, size, 1))
    probabilities = build(7, size).predict_on_batch(pixels.astype(np.float32))
    assert probabilities.shape == (3, 7)
    assert (probabilities > 0).all()
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)


def test_input_is_pixel_values_scaled_inside(pictures):
    model = build()
    (scaled,) = outputs(model, ["scaling"], pictures)
    np.testing.assert_allclose(scaled, pictures / 255, rtol=1e-6)
    assert model.get_layer("conv1").input is model.get_layer("scaling").output


@pytest.mark.parametrize(("size", "sides"), [(28, [14, 7, 7, 7]), (35, [18, 9, 9, 9])])
def test_the_first_convolutions_stride_and_the_others_keep_the_side(size, sides):
    model = cnn(4, size)
    shapes = [model.get_layer(f"conv{i}").output.shape[1:] for i in (1, 2, 3, 4)]
    channels = (32, 64, 96, 128)
    assert shapes == [(side, side, c) for side, c in zip(sides, channels, strict=True)]


def test_convolutions_are_normalised_then_rectified(pictures):
    model = build()
    conv, norm, relu = outputs(model, ["conv4", "conv4_norm", "conv4_relu"], pictures)
    gamma, beta, mean, variance = model.get_layer("conv4_norm").get_weights()
    expected = (conv - mean) / np.sqrt(variance + 1e-3) * gamma + beta
    np.testing.assert_allclose(norm, expected, rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(relu, np.maximum(norm, 0))
    assert model.get_layer("conv4").input is model.get_layer("conv3_relu").output


def test_without_normalisation_convolutions_have_a_bias(pictures):
    model = build(network=Network(channels=(8, 16), strides=(2, 2), normalised=False))
    assert not [one for one in model.layers if "norm" in one.name]
    bias = np.linspace(-0.3, 0.3, 16).astype(np.float32)
    before, _ = outputs(model, ["conv2", "conv2_relu"], pictures)
    model.get_layer("conv2").bias.assign(bias)
    after, relu = outputs(model, ["conv2", "conv2_relu"], pictures)
    np.testing.assert_allclose(after, before + bias, atol=1e-5)
    np.testing.assert_array_equal(relu, np.maximum(after, 0))


def blocks(pooling, side):
    """The rows, and the columns, that are pooled together."""
    if pooling == "max":  # pairs, the last of an odd number alone
        return [slice(start, start + 2) for start in range(0, side, 2)]
    if pooling == "quarters":  # halves, which share the middle of an odd number
        return [slice(0, (side + 1) // 2), slice(side // 2, side)]
    return [slice(0, side)]


@pytest.mark.parametrize("side", [2, 3, 4, 7])
@pytest.mark.parametrize("pooling", ["max", "mean", "quarters"])
def test_features_are_what_pooling_leaves_of_the_places(pooling, side):
    model = build(size=4 * side, network=dataclasses.replace(TINY, pooling=pooling))
    pictures = np.random.default_rng(0).integers(0, 256, (5, 4 * side, 4 * side, 1))
    relu, features = outputs(model, ["conv4_relu", "features"], pictures.astype(np.float32))
    assert relu.shape == (5, side, side, 32)
    take = np.max if pooling == "max" else np.mean
    expected = [
        take(relu[:, rows, columns], (1, 2))
        for rows in blocks(pooling, side)
        for columns in blocks(pooling, side)
    ]
    np.testing.assert_allclose(features, np.concatenate(expected, 1), rtol=1e-5, atol=1e-6)


def test_statistics_of_a_batch_enter_the_moving_ones_by_a_tenth(pictures):
    keras.utils.set_random_seed(0)
    model = build_cnn(4, 12, TINY)
    (seen,) = outputs(model, ["conv1"], pictures)
    model(pictures, training=True)
    mean, variance = model.get_layer("conv1_norm").get_weights()[2:]
    np.testing.assert_allclose(mean, 0.1 * seen.mean((0, 1, 2)), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(variance, 0.9 + 0.1 * seen.var((0, 1, 2)), rtol=1e-3)


def test_first_weights_suit_rectifiers():
    kernel = build(network=Network()).get_layer("conv3").kernel
    assert np.std(kernel) == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.05)


def test_settings_shape_the_network():
    shape = {"channels": (16, 8, 32), "strides": (1, 2, 1), "kernel": 7, "pooling": "max"}
    model = build(network=Network(**shape))
    kernels = [w.shape for w in model.weights if w.path.endswith("kernel")]
    convolutions = [(7, 7, 1, 16), (3, 3, 16, 8), (3, 3, 8, 32)]
    assert kernels == [*convolutions, (3 * 3 * 32, 4)]
    with pytest.raises(ValueError, match="zip"):  # a convolution without its stride
        build(network=Network(channels=(16, 8, 32), strides=(1, 2)))


def test_before_training_no_class_is_ahead(pictures):
    np.testing.assert_allclose(build_cnn(4, 12, TINY)(pictures), 0.25, rtol=1e-6)


def test_the_random_state_decides_the_first_weights():
    once, again, other = build(), build(), build(seed=1)
    for a, b in zip(once.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(once.get_weights()[0], other.get_weights()[0])


def test_dropout_drops_in_training_only(pictures):
    model = build(network=dataclasses.replace(TINY, dropout=0.5))
    (features,) = outputs(model, ["features"], pictures)
    after = keras.Model(model.input, model.get_layer("dropout").output)
    np.testing.assert_array_equal(after(pictures), features)
    trained_on = np.asarray(after(pictures, training=True))
    assert 0.3 < (trained_on == 0).mean() < 0.8


@pytest.mark.parametrize("told", [False, True])
def test_saved_network_loads_with_keras_alone(told, pictures, geometry, tmp_path):
    model, inputs = build(), pictures
    if told:
        model, inputs = with_geometry(model), [pictures, geometry]
    path = tmp_path / "model.keras"
    model.save(path)
    loaded = keras.models.load_model(path, safe_mode=True)
    np.testing.assert_array_equal(loaded.predict_on_batch(inputs), model.predict_on_batch(inputs))
    with zipfile.ZipFile(path) as archive:  # every class in it is one of Keras' own
        saved = archive.read("config.json").decode()
    assert "midas_lib" not in saved
    assert "Lambda" not in saved


def test_geometry_adds_its_logits_to_the_pictures(pictures, geometry):
    model = build()
    before = model.predict_on_batch(pictures)
    full = with_geometry(model)
    kernel, bias = full.get_layer("geometry_logits").get_weights()
    expected = softmax(np.log(before) + geometry @ kernel + bias, axis=1)
    probabilities = full.predict_on_batch([pictures, geometry])
    np.testing.assert_allclose(probabilities, expected, rtol=1e-4)
    np.testing.assert_array_equal(model.predict_on_batch(pictures), before)


def test_geometry_by_class_likelihood_is_bayes_rule(pictures, geometry):
    # Two classes, means (0, 0) and (1, 2); one covariance, diag(1/4, 1), from symmetric examples.
    steps = np.array([[1, 0], [-1, 0], [0, 2], [0, -2]]) / np.sqrt(2)
    examples = np.concatenate([steps, steps + np.array([1, 2])])
    labels = np.repeat([0, 1], 4)
    covariance = np.diag([0.25, 1.0])
    model = build(2)
    full = add_geometry(model, *analysis.class_likelihood(examples, labels, 2))
    likelihood = np.stack(
        [multivariate_normal(mean, covariance).pdf(geometry) for mean in ([0, 0], [1, 2])], axis=1
    )
    expected = model.predict_on_batch(pictures) * likelihood
    expected /= expected.sum(1, keepdims=True)
    probabilities = full.predict_on_batch([pictures, geometry])
    np.testing.assert_allclose(probabilities, expected, rtol=1e-3)


@pytest.mark.parametrize("told", [False, True])
def test_transfer_copies_the_backbone_and_nothing_else(told):
    source, target = build(4, seed=0), build(10, 28, seed=1)
    if told:
        source = with_geometry(source)
    head = target.get_layer("logits").get_weights()
    assert transfer_backbone(source, target) == BACKBONE
    for name in BACKBONE:
        ours, theirs = source.get_layer(name).get_weights(), target.get_layer(name).get_weights()
        assert len(ours) == (4 if name.endswith("_norm") else 1)
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a, b)
    for before, after in zip(head, target.get_layer("logits").get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    covered = {w.path for name in [*BACKBONE, "logits"] for w in target.get_layer(name).weights}
    assert covered == {w.path for w in target.weights}


def test_transferred_backbone_computes_the_same_features(pictures):
    source, target = build(seed=0), build(10, seed=1)
    transfer_backbone(source, target)
    ours, theirs = [keras.Model(m.input, m.get_layer("features").output) for m in (source, target)]
    np.testing.assert_array_equal(ours(pictures), theirs(pictures))


@pytest.mark.parametrize(
    ("network", "layer"),
    [
        (Network(channels=(8, 16, 16), strides=(1, 2, 2)), "conv4"),  # the last is missing
        (dataclasses.replace(TINY, channels=(8, 16, 24, 32)), "conv3"),
        (dataclasses.replace(TINY, channels=(16, 16, 16, 32)), "conv1"),
        (dataclasses.replace(TINY, kernel=3), "conv1"),
        (dataclasses.replace(TINY, normalised=False), "conv1"),
    ],
)
def test_transfer_refuses_another_shape_and_copies_nothing(network, layer):
    source, target = build(network=network), build(seed=1)
    before = target.get_weights()
    with pytest.raises(ValueError, match=layer):
        transfer_backbone(source, target)
    for a, b in zip(before, target.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_transfer_of_some_layers_starts_at_the_input():
    source, target = build(seed=0), build(seed=1)
    before = target.get_layer("conv3").get_weights()[0]
    assert transfer_backbone(source, target, 2) == BACKBONE[:4]
    np.testing.assert_array_equal(target.get_layer("conv3").get_weights()[0], before)
    with pytest.raises(ValueError, match="5 layers to copy: the network has 4"):
        transfer_backbone(source, target, 5)


def test_transferred_head_answers_as_the_source_does_among_the_shared_classes(pictures):
    source, target = build(6, seed=0), build(4, seed=1)
    transfer_backbone(source, target)
    transfer_head(source, target)
    ours, theirs = [keras.Model(m.input, m.get_layer("logits").output) for m in (target, source)]
    np.testing.assert_allclose(ours(pictures), theirs(pictures)[:, :4], rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="fewer classes"):
        transfer_head(target, source)
