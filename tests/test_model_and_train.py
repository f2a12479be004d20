"""The network's contract, and a training that repeats and resumes to the last bit."""

import keras
import numpy as np
import pytest

from midas_lib import model, probe, train
from midas_lib.config import Augmentation, Network, Settings, Training, vary
from midas_lib.data import Examples

TINY = Network(width=0.25, depth=(1, 1, 1), dropout=0.2)
CALM = Augmentation(rotation=0, scale=0, aspect=0, shear=0, shift=0)


@pytest.fixture(scope="module")
def examples():
    """24 pictures of 3 classes: bars lying, standing and aslant, at random brightness."""
    rng = np.random.default_rng(0)
    pictures = np.zeros((24, 12, 12, 1), np.uint8)
    labels = np.arange(24) % 3
    for picture, label in zip(pictures, labels, strict=True):
        place, light = rng.integers(2, 10), rng.integers(120, 255)
        if label == 0:
            picture[place, :] = light
        elif label == 1:
            picture[:, place] = light
        else:
            picture[np.arange(12), np.arange(12)] = light
    return Examples(pictures=pictures, labels=labels)


@pytest.fixture(scope="module")
def settings():
    return Settings(
        network=TINY, training=Training(epochs=4, batch=8, rate=5e-3, schedule="plateau"), seed=5
    )


def weights(run):
    return [np.asarray(w) for w in run.model.weights]


def equal(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_the_default_network_is_small_and_takes_plain_pixels(tmp_path):
    network = model.build_cnn(62)
    # 5x5x32; 3x3 convolutions 32-64-64-64-128-128-128; four numbers a channel to normalise; linear
    convolutions = 25 * 32 + 9 * (32 * 64 + 2 * 64**2 + 64 * 128 + 2 * 128**2)
    assert network.count_params() == convolutions + 4 * (32 + 3 * 64 + 3 * 128) + 129 * 62
    assert network.count_params() < 1_000_000
    pixels = np.random.default_rng(0).uniform(0, 255, (3, 28, 28, 1)).astype(np.float32)
    answer = network.predict_on_batch(pixels)
    np.testing.assert_allclose(answer.sum(1), 1, rtol=1e-5)
    np.testing.assert_array_equal(answer, network.predict_on_batch(pixels))  # dropout is off
    network.save(tmp_path / "n.keras")
    again = keras.saving.load_model(tmp_path / "n.keras", safe_mode=True)
    np.testing.assert_array_equal(answer, again.predict_on_batch(pixels))


def test_the_geometry_adds_its_logits_to_the_pictures():
    network = model.build_cnn(3, 12, TINY)
    kernel, bias = np.array([[1.0, 0, 0], [0, 2.0, 0]]), np.array([0.0, 0, 3.0])
    both = model.add_geometry(network, kernel, bias)
    pixels = np.random.default_rng(1).uniform(0, 255, (4, 12, 12, 1)).astype(np.float32)
    place = np.random.default_rng(2).uniform(0, 1, (4, 2)).astype(np.float32)
    logs = np.log(network.predict_on_batch(pixels)) + place @ kernel + bias
    wanted = np.exp(logs) / np.exp(logs).sum(1, keepdims=True)
    np.testing.assert_allclose(both.predict_on_batch([pixels, place]), wanted, rtol=1e-4)


def test_a_backbone_is_copied_whole_or_not_at_all():
    keras.utils.set_random_seed(1)
    source, target = model.build_cnn(62, 28, TINY), model.build_cnn(10, 28, TINY)
    names = model.transfer_backbone(source, target)
    assert names == [f"stage{s}_conv1{tail}" for s in (1, 2, 3) for tail in ("", "_norm")]
    for name in names:
        assert equal(source.get_layer(name).get_weights(), target.get_layer(name).get_weights())
    wide = model.build_cnn(10, 28, Network(width=0.5, depth=(1, 1, 1)))
    before = wide.get_weights()
    with pytest.raises(ValueError, match="stage1_conv1"):
        model.transfer_backbone(source, wide)
    assert equal(before, wide.get_weights())


def test_a_network_learns_sixteen_pictures_by_heart(examples):
    sixteen = examples.take(np.arange(16))
    training = Training(epochs=40, batch=16, rate=1e-2, smoothing=0, averaging=0.8)
    run = train.fit(sixteen, 3, Settings(network=TINY, augmentation=CALM, training=training))
    assert (train.predict(run.model, sixteen).argmax(1) == sixteen.labels).all()


def test_a_seed_decides_everything_and_held_out_examples_nothing(examples, settings):
    first = train.fit(examples, 3, settings)
    again = train.fit(examples, 3, settings, held_out=examples.take(np.arange(5)))
    assert equal(weights(first), weights(again))
    assert first.history["loss"] == again.history["loss"]
    other = train.fit(examples, 3, vary(settings, seed=6))
    assert not equal(weights(first), weights(other))


def test_a_resumed_training_ends_where_the_whole_one_does(examples, settings):
    settings = vary(settings, augmentation__mixup=0.4, augmentation__elastic=0.5)
    states = []
    whole = train.fit(examples, 3, settings, held_out=examples, save=states.append)
    assert [int(state["epochs"]) for state in states] == [1, 2, 3, 4]
    resumed = train.fit(examples, 3, settings, held_out=examples, state=states[1])
    assert equal(weights(whole), weights(resumed))
    assert whole.history == resumed.history


def test_without_averaging_the_last_weights_are_the_result(examples, settings):
    states = []
    run = train.fit(examples, 3, vary(settings, training__averaging=0.0), save=states.append)
    last = [states[-1][f"variable_{i}"] for i in range(len(run.model.variables))]
    assert equal([np.asarray(v) for v in run.model.variables], last)


def test_learning_rates_follow_their_schedule():
    rates = {
        name: train.learning_rates(Training(rate=0.5, schedule=name), 100)
        for name in ("constant", "cosine", "one-cycle")
    }
    assert (rates["constant"] == 0.5).all()
    for name, peak in (("cosine", 9), ("one-cycle", 29)):
        assert rates[name].argmax() == peak
        assert rates[name][peak] == pytest.approx(0.5)
        assert rates[name][-1] == pytest.approx(0, abs=1e-6)
        assert rates[name][peak // 2] == pytest.approx(0.5 * (peak // 2 + 1) / (peak + 1))
    middle = rates["cosine"][54]  # half way down
    assert middle == pytest.approx(0.25, abs=1e-6)


def test_a_misspelt_setting_is_an_error():
    with pytest.raises(ValueError, match="cosin"):
        Training(schedule="cosin")
    with pytest.raises(TypeError):
        vary(Settings(), training__epoch=3)
    with pytest.raises(AttributeError):
        vary(Settings(), trainig__epochs=3)


def test_a_range_test_raises_the_rate_and_ends_higher_than_its_best(examples, settings):
    rates, losses = train.rate_test(examples, 3, settings, high=100.0)
    assert rates.shape == losses.shape == (6,)
    assert rates[0] == pytest.approx(1e-5)
    assert rates[-1] == pytest.approx(100)
    assert (np.diff(rates) > 0).all()
    assert losses[-1] > losses.min()


def test_views_of_a_still_augmentation_change_nothing(examples):
    network = model.build_cnn(3, 12, TINY)
    plain = train.predict(network, examples)
    np.testing.assert_allclose(train.predict_views(network, examples, CALM, 2), plain, rtol=1e-5)


def test_covering_black_paper_costs_nothing(examples):
    network = model.build_cnn(3, 12, TINY)
    pictures = examples.pictures[:2].copy()
    pictures[:, 6:] = 0  # with patches of 4, rows from 10 on are only ever covered on black paper
    maps = probe.occlusion(network, Examples(pictures=pictures, labels=examples.labels[:2]), 4)
    assert maps.shape == (2, 12, 12)
    np.testing.assert_allclose(maps[:, 10:], 0, atol=1e-6)
    assert np.abs(maps[:, :6]).max() > 1e-6
