"""Training: it learns, it repeats bit for bit, and it goes on where it was interrupted."""

import dataclasses
import tempfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from fakes import cnn

from midas_lib import augment, config, losses, train
from midas_lib.config import Augmentation, Network, Preprocessing, Settings, Training, vary
from midas_lib.data import Examples

train.set_threads(1)  # while the tests are collected: nothing has run yet

STILL = Augmentation(rotation=0, scale=0, aspect=0, shear=0, shift=0, elastic=0)
TINY = Network(channels=(8, 16, 32), strides=(2, 2, 1))
# Nothing is random but the order, and the result is what the steps have left.
PLAIN = Settings(
    augmentation=STILL,
    network=TINY,
    training=Training(epochs=1, batch=16, smoothing=0, every=1, reestimated=False),
)
# Everything random at once, and a rate so high that the loss stalls.
BUSY = Settings(
    augmentation=Augmentation(elastic=0.5, mixup=0.3),
    network=TINY,
    training=Training(epochs=40, batch=8, rate=0.3, schedule="plateau", averaging=0.995, every=1),
)


def pictures(count, size=12, classes=4):
    """A bright square in one of four corners on speckled paper; the corner is the class."""
    rng = np.random.default_rng(count)
    labels = np.arange(count) % classes
    images = rng.integers(0, 40, (count, size, size, 1))
    half = size // 2
    for image, label in zip(images, labels, strict=True):
        row, column = half * (label // 2), half * (label % 2)
        image[row + 1 : row + half - 1, column + 1 : column + half - 1] = 220
    return Examples(pictures=images.astype(np.uint8), labels=labels)


def weights_equal(run, other):
    pairs = zip(run.model.get_weights(), other.model.get_weights(), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


@pytest.fixture(scope="module")
def states():
    """What `uninterrupted` saved, an entry an epoch."""
    return []


@pytest.fixture(scope="module")
def uninterrupted(states):
    return train.fit(pictures(24), 4, BUSY, pictures(10), save=states.append)


# --- learning -----------------------------------------------------------------------------------


def test_sixteen_pictures_are_learnt_by_heart():
    examples = pictures(16)
    settings = vary(PLAIN, training__epochs=40, training__averaging=0.9, training__rate=1e-2)
    run = train.fit(examples, 4, settings)
    assert (train.predict(run.model, examples).argmax(1) == examples.labels).all()
    assert len(run.history["loss"]) == 40
    assert run.history["loss"][-1] < 0.1 < run.history["loss"][0]
    assert run.seconds > 0


def test_history_measures_the_returned_network_on_the_held_out(uninterrupted):
    held_out = pictures(10)
    probabilities = train.predict(uninterrupted.model, held_out)
    history = uninterrupted.history
    assert {name: len(values) for name, values in history.items()} == dict.fromkeys(
        ("step", "loss", "gradient_norm", "val_loss", "val_accuracy", "watched_loss", "rate"),
        BUSY.training.epochs,
    )
    # Of 24 examples one of each class is watched, and 20 make two batches.
    assert history["step"] == [2 * (epoch + 1) for epoch in range(BUSY.training.epochs)]
    assert history["val_accuracy"][-1] == (probabilities.argmax(1) == held_out.labels).mean()
    of_the_label = probabilities[np.arange(10), held_out.labels]
    assert history["val_loss"][-1] == pytest.approx(-np.log(of_the_label).mean(), rel=1e-5)


@pytest.mark.parametrize(("averaging", "kept"), [(0.995, 0.1), (0.05, 0.05)])
def test_result_is_the_average_of_the_weights(averaging, kept):
    # After the first step a tenth of the start is kept, or less if settings say so.
    settings = vary(PLAIN, training__schedule="constant")
    changes = [{"training__averaging": averaging}, {}, {"training__epochs": 0}]
    runs = [train.fit(pictures(16), 4, vary(settings, **change)) for change in changes]
    average, last, first = [run.model.get_weights() for run in runs]
    assert not np.array_equal(first[0], last[0])
    for a, b, c in zip(first, last, average, strict=True):
        np.testing.assert_allclose(c, kept * a + (1 - kept) * b, rtol=1e-5, atol=1e-7)


def test_the_average_forgets_less_from_step_to_step():
    settings = vary(PLAIN, training__schedule="constant", training__epochs=2)
    average = train.fit(pictures(16), 4, vary(settings, training__averaging=0.995)).model
    last = train.fit(pictures(16), 4, settings).model
    one_step = vary(settings, training__epochs=1, training__averaging=0.995)
    before = train.fit(pictures(16), 4, one_step).model.get_weights()
    for a, b, c in zip(before, last.get_weights(), average.get_weights(), strict=True):
        np.testing.assert_allclose(c, (2 * a + 9 * b) / 11, rtol=1e-4, atol=1e-6)


def test_without_averaging_the_result_is_the_last_weights():
    settings, saved = vary(PLAIN, training__epochs=3), []
    averaged = vary(settings, training__averaging=0.995)
    average = train.fit(pictures(24), 4, averaged, save=saved.append)
    run = train.fit(pictures(24), 4, settings)
    assert run.history["loss"] == average.history["loss"]
    assert not weights_equal(run, average)
    for weight in run.model.get_weights():
        assert any(np.array_equal(weight, array) for array in saved[-1].values())


# --- repeating ----------------------------------------------------------------------------------


def test_the_seed_decides_everything_and_the_held_out_nothing(uninterrupted):
    again = train.fit(pictures(24), 4, BUSY)
    assert weights_equal(again, uninterrupted)
    for metric in ("step", "loss", "gradient_norm", "watched_loss", "rate"):
        assert again.history.pop(metric) == uninterrupted.history[metric]
    assert again.history == {}


def test_another_seed_gives_another_result(uninterrupted):
    other = train.fit(pictures(24), 4, vary(BUSY, seed=1, training__epochs=1))
    assert other.history["loss"][0] != uninterrupted.history["loss"][0]


@pytest.mark.parametrize(
    ("examples", "change"),
    [
        pytest.param(pictures(16), {"training__batch": 8}, id="order"),
        pytest.param(  # of one picture only, so that its order does not matter
            pictures(16).take(np.zeros(16, int)), {"augmentation": Augmentation()}, id="warps"
        ),
    ],
)
def test_every_epoch_has_its_own(examples, change, monkeypatch):
    monkeypatch.setattr(train, "build_cnn", cnn)
    # At rate 0 the network stays as it is, so that only the batches can change the loss.
    settings = vary(PLAIN, training__rate=0.0, training__epochs=4, **change)
    losses = train.fit(examples, 4, settings).history["loss"]
    assert len(set(np.round(losses, 4))) == 4


def test_interrupted_run_goes_on_to_the_same_result(uninterrupted, states):
    # Interrupted where the schedule has just halved the rate, which must not be forgotten.
    state = next(s for s in states[:-1] if any(v.shape == () and v == 0.5 for v in s.values()))
    saved = []
    run = train.fit(pictures(24), 4, BUSY, pictures(10), state=state, save=saved.append)
    assert weights_equal(run, uninterrupted)
    assert run.history == uninterrupted.history
    assert len(saved) == BUSY.training.epochs - state["epochs"] > 0
    for name in saved[-1].keys() - {"seconds"}:
        np.testing.assert_array_equal(saved[-1][name], states[-1][name])
    assert run.seconds > state["seconds"]


def test_finished_run_given_back_is_the_same_run(uninterrupted, states):
    run = train.fit(pictures(24), 4, BUSY, pictures(10), state=states[-1])
    assert weights_equal(run, uninterrupted)
    assert run.history == uninterrupted.history


# --- a step -------------------------------------------------------------------------------------


def untrained(examples, settings=PLAIN):
    """The logits of a network before its first step, normalised as in training; and the network."""
    model = train.fit(examples, 4, vary(settings, training__epochs=0)).model
    to_logits = keras.Model(model.input, model.get_layer("logits").output)
    return to_logits(examples.pictures.astype(np.float32), training=True), model


@pytest.mark.parametrize(
    ("loss", "given", "expected"),
    [
        ("cross-entropy", {"smoothing": 0.3}, {"smoothing": 0.3}),
        ("forward", {"leak": 0.2}, {"leak": 0.2}),
        *((name, {"smoothing": 0.3, "leak": 0.2}, {}) for name in ("SCL-NL", "SCL-EXP", "PC")),
        *((name, {"smoothing": 0.3, "leak": 0.2}, {}) for name in ("L-W", "NN", "GA")),
        # Nothing is sharpened before the first step.
        ("PRODEN", {"leak": 0.2, "sharpening": 3.0}, {"leak": 0.2, "sharpening": 1.0}),
    ],
)
def test_training_takes_the_loss_and_its_settings(loss, given, expected):
    examples = pictures(16)
    logits, _ = untrained(examples)
    if loss == "PRODEN":  # the two views are alike, as nothing is warped
        logits = tf.concat([logits, logits], 0)
    targets = tf.one_hot(examples.labels, 4)
    worth = getattr(losses, config.LOSSES[loss])(targets, logits, **expected)
    given = {f"training__{name}": value for name, value in given.items()}
    settings = vary(PLAIN, training__loss=loss, training__rate=0.0, **given)
    found = train.fit(examples, 4, settings).history["loss"][0]
    assert found == pytest.approx(float(worth), rel=1e-4)


def test_the_gradients_norm_is_over_all_weights():
    examples = pictures(16)
    _, model = untrained(examples)
    with tf.GradientTape() as tape:
        answers = model(examples.pictures.astype(np.float32), training=True)
        right = tf.gather(answers, examples.labels, batch_dims=1)
        loss = -tf.reduce_mean(tf.math.log(right))
    squares = [tf.reduce_sum(g**2) for g in tape.gradient(loss, model.trainable_variables)]
    found = train.fit(examples, 4, PLAIN).history["gradient_norm"][0]
    assert found == pytest.approx(float(sum(squares)) ** 0.5, rel=1e-3)


def test_weights_decay_by_rate_times_decay():
    steady = vary(PLAIN, training__schedule="constant", training__rate=0.01)
    first, plain, decayed = (
        train.fit(pictures(16), 4, vary(steady, **change)).model.get_weights()[0]
        for change in (
            {"training__epochs": 0},
            {"training__weight_decay": 0.0},
            {"training__weight_decay": 0.5},
        )
    )
    np.testing.assert_allclose(decayed - plain, -0.01 * 0.5 * first, atol=1e-6)


def test_each_step_has_its_rate_and_half_of_it_on_a_plateau(monkeypatch):
    monkeypatch.setattr(train, "build_cnn", cnn)  # as nothing reaches the first layer before
    settings = vary(PLAIN, training__epochs=4, training__rate=0.01)
    saved = []
    train.fit(pictures(16), 4, settings, save=saved.append)  # of one step an epoch
    for state, rate in zip(saved, train.learning_rates(settings.training, 4), strict=True):
        assert any(value.shape == () and value == rate for value in state.values())
    moved = []
    for factor in (1.0, 0.5):
        trainer = train._Trainer(pictures(16), 4, vary(settings, training__weight_decay=0.0))
        before = trainer.model.get_weights()[0]
        trainer.rate_factor.assign(factor)
        trainer.train_steps(trainer.order(0), tf.constant([0.01]), tf.constant(0))
        moved.append(trainer.model.get_weights()[0] - before)
    np.testing.assert_allclose(moved[1], moved[0] / 2, rtol=1e-3, atol=1e-7)
    assert np.abs(moved[0]).max() > 0.005


def step_of(settings, monkeypatch, loss="cross_entropy"):
    """What the network and the loss get to see in a step: the batch as it was, and its labels one
    hot; the pictures, targets and logits."""
    seen, function = {}, getattr(losses, loss)
    trainer = train._Trainer(pictures(16), 4, settings)
    network = trainer._logits

    def look(pictures, training):
        seen.update(pictures=pictures.numpy())
        return network(pictures, training=training)

    def worth(targets, logits):
        seen.update(targets=targets.numpy(), logits=logits.numpy())
        return function(targets, logits)

    trainer._logits = look
    monkeypatch.setattr(losses, loss, worth)
    plain = pictures(16).pictures.astype(np.float32)
    hot = np.eye(4, dtype=np.float32)[pictures(16).labels]
    trainer._train_step(tf.constant(plain), tf.constant(hot), tf.constant(0))
    return plain, hot, seen


def test_mixup_mixes_targets_as_it_mixes_pictures(monkeypatch):
    settings = vary(PLAIN, augmentation__mixup=0.5)
    plain, hot, seen = step_of(settings, monkeypatch)
    share = seen["targets"][0] @ hot[-1]  # the last picture's, of another class
    assert 0 < share < 0.5
    for name, whole in (("targets", hot), ("pictures", plain)):
        expected = (1 - share) * whole + share * whole[::-1]
        np.testing.assert_allclose(seen[name], expected, rtol=1e-4, atol=1e-4)


def test_proden_sees_each_picture_twice_warped_in_two_ways(monkeypatch):
    settings = vary(PLAIN, augmentation=Augmentation(), training__loss="PRODEN")
    plain, hot, seen = step_of(settings, monkeypatch, "proden")
    np.testing.assert_array_equal(seen["targets"], hot)
    assert len(seen["logits"]) == 32
    one, other = np.split(seen["pictures"], 2)
    for a, b in ((one, other), (one, plain), (other, plain)):
        assert (np.abs(a - b).max((1, 2, 3)) > 1).all()


def test_the_average_is_measured_and_not_the_last_weights():
    steady = vary(PLAIN, training__schedule="constant", training__rate=0.05)
    average, last = (
        train.fit(pictures(16), 4, vary(steady, training__averaging=decay), pictures(8))
        for decay in (0.995, 0.0)
    )
    measured = [train.score(one.model, pictures(8))[0].mean() for one in (average, last)]
    assert abs(measured[0] - measured[1]) > 1e-3
    assert average.history["val_loss"][0] == pytest.approx(measured[0], rel=1e-4)


def test_seconds_a_step_are_of_the_second_epoch_alone(monkeypatch):
    moments = iter([0.0, 5.0, 11.0])
    monkeypatch.setattr(train.time, "perf_counter", lambda: next(moments))
    assert train.seconds_per_step(pictures(48), 4, PLAIN) == 2.0


# --- checks and starts --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "steps"),
    [
        ({"epochs": 6, "every": 3}, [10, 30, 60]),
        ({"epochs": 7, "every": 3}, [10, 30, 60, 70]),
        ({"epochs": 3, "every": 1}, [10, 20, 30]),
        ({"epochs": 1}, [10]),
        ({"epochs": 0}, []),
        ({"epochs": 2, "checks": 1}, [*range(1, 12), 12, 13, 15, 16, 18, 19, 20]),
        ({"epochs": 2, "checks": 7}, [7, 14, 20]),
    ],
)
def test_when_held_out_examples_are_measured(change, steps):
    found = train.check_steps(Training(**change), 10)
    assert found.tolist() == steps


def test_checks_change_nothing_but_what_is_measured():
    once, often = (
        train.fit(pictures(56), 4, vary(PLAIN, training__checks=checks, training__epochs=3))
        for checks in (0, 2)
    )
    assert weights_equal(once, often)
    assert once.history["step"] == [3, 6, 9]
    assert often.history["step"] == [2, 4, 6, 8, 9]
    # Means over the steps before a check, of its epoch: of 3 steps the first check sees two.
    every = train.fit(pictures(56), 4, vary(PLAIN, training__checks=1, training__epochs=3))
    losses = every.history["loss"]
    assert often.history["loss"] == pytest.approx(
        [np.mean(losses[:2]), losses[3], np.mean(losses[4:6]), np.mean(losses[6:8]), losses[8]],
        rel=1e-5,
    )
    norms = every.history["gradient_norm"]
    assert once.history["gradient_norm"][0] == pytest.approx(np.mean(norms[:3]), rel=1e-5)


def test_a_check_measures_the_same_however_many_there_are():
    change = {"training__epochs": 3, "training__checks": 2}
    rare = train.fit(pictures(48), 4, vary(PLAIN, **change), pictures(8))
    often = train.fit(pictures(48), 4, vary(PLAIN, **change | {"training__checks": 1}), pictures(8))
    assert weights_equal(rare, often)
    for name in ("val_loss", "val_accuracy"):
        shared = [often.history["step"].index(step) for step in rare.history["step"]]
        assert rare.history[name] == [often.history[name][i] for i in shared]


@pytest.fixture(scope="module")
def source():
    """The weights of a trained network of six classes."""
    examples = pictures(24)
    return train.fit(examples, 6, vary(PLAIN, training__epochs=2)).model.get_weights()


def start_of(source, **changes):
    """A network of four classes, as it is before its first step."""
    settings = vary(PLAIN, **{"seed": 7, "training__epochs": 0, **changes})
    return train.fit(pictures(16), 4, settings, start=source).model.get_weights()


def test_a_start_is_taken_over_with_the_head_of_the_shared_classes(source):
    *backbone, kernel, bias = start_of(source)
    for ours, theirs in zip(backbone, source[:-2], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(kernel, source[-2][:, :4])
    np.testing.assert_array_equal(bias, source[-1][:4])


def test_a_start_takes_over_no_more_layers_than_asked_for(source):
    weights = start_of(source, transfer__layers=1, transfer__head=False)
    fresh = start_of(None)
    for i, (ours, theirs, random) in enumerate(zip(weights[:-2], source[:-2], fresh, strict=False)):
        np.testing.assert_array_equal(ours, theirs if i < 5 else random)  # one kernel, four norms
    for ours, random in zip(weights[-2:], fresh[-2:], strict=True):
        np.testing.assert_array_equal(ours, random)


@pytest.mark.parametrize("reestimated", [False, True])
def test_frozen_layers_stay_and_the_others_learn(source, reestimated):
    steady = vary(PLAIN, training__schedule="constant", training__reestimated=reestimated)
    settings = vary(steady, transfer__frozen=True, transfer__layers=2, transfer__head=False)
    weights = train.fit(pictures(16), 4, settings, start=source).model.get_weights()
    for ours, theirs in zip(weights[:10], source[:10], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    before = start_of(source, transfer__layers=2, transfer__head=False, seed=PLAIN.seed)
    assert not np.array_equal(weights[10], before[10])
    assert not np.array_equal(weights[-2], before[-2])


def test_rates_fall_from_layer_to_layer_towards_the_input(source):
    one_step = {"training__schedule": "constant", "training__averaging": 0.0}
    start = start_of(source)
    plain, slowed = (
        train.fit(pictures(16), 4, vary(PLAIN, **one_step, **change), start=source)
        for change in [{}, {"transfer__rate_decay": 0.5}]
    )
    # The kernels of the three convolutions, and of the head: three, two, one and no layer down.
    for i, share in [(0, 1 / 8), (5, 1 / 4), (10, 1 / 2), (15, 1)]:
        full = plain.model.get_weights()[i] - start[i]
        slow = slowed.model.get_weights()[i] - start[i]
        np.testing.assert_allclose(slow, share * full, rtol=1e-3, atol=1e-7)


# --- statistics of batch normalisation ----------------------------------------------------------


NORMS = ("conv1_norm", "conv2_norm", "conv3_norm")


def trained(reestimated=False, augmentation=STILL):
    """A network after three epochs at a high rate, whose moving statistics lag behind."""
    settings = vary(PLAIN, training__epochs=3, training__rate=0.05, augmentation=augmentation)
    return train.fit(pictures(24), 4, vary(settings, training__reestimated=reestimated)).model


def assert_statistics_of(model, images, names=NORMS):
    """Each layer's statistics are those of what it is given when the network reads the images."""
    for name in names:
        given = keras.Model(model.input, model.get_layer(name).input)(images.astype(np.float32))
        values = np.asarray(given, np.float64).reshape(-1, given.shape[-1])
        _, _, mean, variance = model.get_layer(name).get_weights()
        np.testing.assert_allclose(mean, values.mean(0), rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(variance, values.var(0), rtol=1e-3, atol=1e-6)


def test_reestimated_statistics_are_those_of_each_layers_input_and_stay_so():
    model, images = trained(), pictures(24).pictures
    before = model.get_weights()
    with pytest.raises(AssertionError):
        assert_statistics_of(model, images)
    train.reestimate(model, images)
    assert_statistics_of(model, images)
    after = model.get_weights()
    statistics = [place + i for place in (0, 5, 10) for i in (3, 4)]  # of 5 arrays a convolution
    for i, (old, new) in enumerate(zip(before, after, strict=True)):
        assert np.array_equal(old, new) == (i not in statistics)
    train.reestimate(model, images)
    for old, new in zip(after, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_reestimated_statistics_are_of_pictures_taken_evenly(monkeypatch):
    monkeypatch.setattr(train, "STATISTICS", 5)
    model, images = trained(), pictures(9).pictures
    train.reestimate(model, images)
    assert_statistics_of(model, images[::2])


def test_a_frozen_layer_keeps_its_statistics_and_those_above_are_of_what_it_gives():
    model, images = trained(), pictures(24).pictures
    frozen = model.get_layer("conv2_norm")
    frozen.trainable, before = False, frozen.get_weights()
    train.reestimate(model, images)
    for old, new in zip(before, frozen.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert_statistics_of(model, images, ("conv1_norm", "conv3_norm"))
    with pytest.raises(AssertionError):
        assert_statistics_of(model, images, ("conv2_norm",))


def test_a_network_without_normalisation_has_nothing_to_estimate():
    bare = vary(PLAIN, network__normalised=False)
    plain, reestimated = (
        train.fit(pictures(24), 4, vary(bare, training__reestimated=wanted))
        for wanted in (False, True)
    )
    assert weights_equal(plain, reestimated)


def test_a_training_ends_with_statistics_of_its_plain_pictures_where_asked_to():
    moving, reestimated = (trained(wanted, Augmentation()) for wanted in (False, True))
    assert_statistics_of(reestimated, pictures(24).pictures)
    train.reestimate(moving, pictures(24).pictures)  # is all that had been left out
    for a, b in zip(moving.get_weights(), reestimated.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_statistics_are_estimated_for_every_check_and_only_for_the_result():
    settings = vary(PLAIN, training__epochs=3, training__averaging=0.9, training__rate=0.05)
    settings = vary(settings, training__reestimated=True, training__checks=2)
    unseen, seen = (train.fit(pictures(48), 4, settings, held) for held in (None, pictures(8)))
    assert weights_equal(seen, unseen)
    assert seen.history["loss"] == unseen.history["loss"]
    # A check measures what the training would give if it ended there.
    ended = vary(settings, training__epochs=1, training__schedule="constant")
    for checked in (seen, train.fit(pictures(48), 4, ended, pictures(8))):
        loss, right = train.score(checked.model, pictures(8))
        assert checked.history["val_loss"][-1] == pytest.approx(loss.mean(), rel=1e-5)
        assert checked.history["val_accuracy"][-1] == right.mean()


# --- learning rate ------------------------------------------------------------------------------


def rates(schedule, steps=20):
    return train.learning_rates(Training(schedule=schedule, rate=0.5), steps)


@pytest.mark.parametrize("schedule", ["constant", "plateau"])
def test_steady_rates(schedule):
    np.testing.assert_array_equal(rates(schedule), np.full(20, 0.5, np.float32))


@pytest.mark.parametrize(
    ("schedule", "peak", "first", "halfway_down"),
    [("cosine", 2, 0.25, 11), ("one-cycle", 6, 0.5 / 6, 13)],
)
def test_rates_climb_to_their_peak_and_fall_to_nothing(schedule, peak, first, halfway_down):
    values = rates(schedule)
    assert values.dtype == np.float32
    assert values[0] == pytest.approx(first)
    assert values.argmax() == peak - 1
    assert values[peak - 1] == pytest.approx(0.5)
    assert values[halfway_down - 1] == pytest.approx(0.25)
    assert values[-1] == 0
    assert (np.diff(values[:peak]) > 0).all()
    assert (np.diff(values[peak - 1 :]) < 0).all()
    # A quarter of the way down a cosine: (1 + cos 45 degrees) / 2 of the peak.
    down = np.interp(peak + (20 - peak) / 4, np.arange(1, 21), values)
    assert down == pytest.approx(0.5 * (1 + 0.5**0.5) / 2, rel=0.01)


@pytest.mark.parametrize(
    ("losses", "factor"),
    [
        ([3.0], 1),
        ([3, 2, 2.5, 2.5, 2.5], 1),  # three epochs without a lower loss
        ([3, 2, 2.5, 2.5, 2.5, 2.5], 0.5),
        ([3, 2, 2.5, 2.5, 2.5, 2.5, 2.5, 2.5, 2.5], 0.5),
        ([3, 2, 2.5, 2.5, 2.5, 2.5, 2.5, 2.5, 2.5, 2.5], 0.25),
        ([3, 2, 2.5, 2.5, 2.5, 1.9, 2, 2, 2], 1),  # the patience starts anew
    ],
)
def test_plateau_halves_the_rate_every_four_epochs_without_a_lower_loss(losses, factor):
    variable = tf.Variable(1.0)
    for epoch in range(len(losses)):
        train._lower_on_plateau(variable, losses[: epoch + 1])
    assert variable.numpy() == factor


def test_what_is_watched_for_the_plateau_shows_in_the_history(monkeypatch):
    # The best is the second; the rate is halved after the fourth check that is no better.
    losses_ = [3.0, 2.0, *[2.5] * 9]
    measured = iter(losses_)
    monkeypatch.setattr(train, "score", lambda *_: (np.array([next(measured)]), np.array([True])))
    settings = vary(PLAIN, training__schedule="plateau", training__epochs=11, training__rate=0.5)
    history = train.fit(pictures(16), 4, settings).history
    assert history["watched_loss"] == losses_
    assert history["rate"] == [0.5] * 6 + [0.25] * 4 + [0.125]


@pytest.mark.parametrize(("count", "each"), [(80, 2), (16, 1)])  # a tenth, or one of each class
def test_what_is_watched_for_the_plateau_is_not_trained_on(count, each, monkeypatch):
    examples, score, seen = pictures(count), train.score, []
    monkeypatch.setattr(
        train, "score", lambda model, given: seen.append(given) or score(model, given)
    )
    settings = vary(PLAIN, training__schedule="plateau", training__reestimated=True)
    run = train.fit(examples, 4, settings)
    (watched,) = seen
    assert np.bincount(watched.labels).tolist() == [each] * 4
    assert run.history["watched_loss"] == [pytest.approx(score(run.model, watched)[0].mean())]
    away = {picture.tobytes() for picture in watched.pictures}
    rest = [i for i, picture in enumerate(examples.pictures) if picture.tobytes() not in away]
    assert len(rest) == count - 4 * each
    steady = vary(settings, training__schedule="constant")
    assert weights_equal(run, train.fit(examples.take(rest), 4, steady))


# --- prediction ---------------------------------------------------------------------------------


def test_prediction_has_no_randomness_and_does_not_depend_on_the_batch(uninterrupted):
    examples = pictures(10)
    once = train.predict(uninterrupted.model, examples)
    assert once.shape == (10, 4)
    np.testing.assert_array_equal(train.predict(uninterrupted.model, examples), once)
    np.testing.assert_allclose(train.predict(uninterrupted.model, examples, 3), once, rtol=1e-4)


def test_views_without_warps_are_the_plain_prediction(uninterrupted):
    examples = pictures(10)
    views = train.predict_views(uninterrupted.model, examples, STILL, views=2)
    np.testing.assert_allclose(views, train.predict(uninterrupted.model, examples), rtol=1e-5)


def test_views_are_of_half_the_affine_ranges_and_of_no_other(uninterrupted):
    model, examples = uninterrupted.model, pictures(10)
    ranges = Augmentation(rotation=40.0, thickness=0.9, mixup=0.4)
    half = Augmentation(rotation=20.0, scale=0.1, aspect=0.1, shear=0.15, shift=0.04, elastic=0.0)
    expected = train.predict(model, examples) / 3
    for view in range(2):
        plain = tf.constant(examples.pictures, tf.float32)
        warped = augment.warp(plain, tf.constant([view, 0]), half).numpy()
        expected += train.predict(model, dataclasses.replace(examples, pictures=warped)) / 3
    found = train.predict_views(model, examples, ranges, views=2)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_array_equal(train.predict_views(model, examples, ranges, views=2), found)
    assert not np.allclose(found, train.predict(model, examples))


# --- settings -----------------------------------------------------------------------------------


def test_vary_changes_what_is_named_and_nothing_else():
    changed = vary(Settings(), training__epochs=5, seed=3)
    assert changed == Settings(training=Training(epochs=5), seed=3)
    assert Settings() != changed


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"training__epoch": 5}, TypeError),
        ({"sede": 1}, TypeError),
        ({"epochs": 5}, TypeError),
        ({"trainin__epochs": 5}, AttributeError),
    ],
)
def test_misspelt_setting_raises(change, error):
    misspelt = next(iter(change)).removesuffix("__epochs").removeprefix("training__")
    with pytest.raises(error, match=f"'{misspelt}'"):
        vary(Settings(), **change)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Training(schedule="cosin"),
        lambda: Preprocessing(mode="cosin"),
        lambda: Network(pooling="cosin"),
        lambda: vary(Settings(), training__schedule="cosin"),
    ],
)
def test_unknown_choice_raises(make):
    with pytest.raises(ValueError, match="cosin.*choose"):
        make()


@pytest.mark.parametrize(
    ("labels", "classes", "loss", "said"),
    [
        ([0, 1, 3], 3, "cross-entropy", "labels 0 to 3: there are 3 classes"),
        ([-1, 1, 2], 3, "cross-entropy", "labels -1 to 2"),
        ([-2, 1, 2], 3, "PRODEN", "labels -2 to 2"),
        ([0, 1, 1], 2, "SCL-NL", "loss SCL-NL: takes 3 classes or more"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, classes, loss, said):
    examples = Examples(pictures=np.zeros((3, 28, 28, 1), np.uint8), labels=np.array(labels))
    with pytest.raises(ValueError, match=said):
        train.fit(examples, classes, vary(Settings(), training__loss=loss))


def test_targets_are_sharpened_and_classes_less_balanced_from_the_start_of_sharpening_on():
    training = Training(
        epochs=10, batch=16, loss="PRODEN", sharpening=3.0, sharpening_start=0.2, balance=0.5
    )
    trainer = train._Trainer(pictures(16), 4, vary(PLAIN, training=training))
    logits = tf.constant(np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32))
    targets = tf.one_hot(np.arange(16) % 4, 4)

    def expected(sharpening, balance):
        loss = losses.proden(targets, logits, 0.0, sharpening)
        return float(loss + balance * losses.imbalance(logits))

    for step, sharpening, balance in ((0, 1, 0.5), (2, 1, 0.5), (6, 2, 0.25), (10, 3, 0)):
        found = float(trainer._loss(targets, logits, tf.constant(step)))
        assert found == pytest.approx(expected(sharpening, balance), rel=1e-5)


def test_no_label_is_like_labels_that_say_nothing():
    known = pictures(80)
    unlabelled = dataclasses.replace(known, labels=np.full(80, -1))
    # A quarter of the labels true: with four classes, each class is then as likely as any.
    training = Training(epochs=2, batch=16, loss="PRODEN", sharpening=2.0, leak=0.25)
    runs = [train.fit(one, 4, vary(PLAIN, training=training)) for one in (known, unlabelled)]
    for told, untold in zip(*(run.model.get_weights() for run in runs), strict=True):
        np.testing.assert_allclose(told, untold, atol=1e-5)


# --- devices ------------------------------------------------------------------------------------


def test_each_process_keeps_to_a_gpu_of_its_own(tmp_path, monkeypatch):
    taken = []
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(train, "gpus", lambda: ["first", "second"])
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda gpu, kind: taken.append(gpu))
    for _ in range(3):  # as three processes would
        train.take_gpu.__wrapped__()
    assert taken == ["first", "second"]
