"""Training: one network, one set of settings, one result that repeats bit for bit."""

import dataclasses
import time
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from midas_lib import augment, losses
from midas_lib.config import Augmentation, Settings, Training
from midas_lib.data import Examples
from midas_lib.model import build_cnn

WARMUP = 0.1  # share of the steps in which cosine and one-cycle climb to their peak
PLATEAU_PATIENCE = 4  # epochs without a lower training loss before the rate is halved


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """A finished training. model: the averaged network. history: one list a metric, an entry an
    epoch ("loss" in training, "val_loss" and "val_accuracy" of the averaged network on the
    held-out examples, natural-log units and shares). seconds: wall time of the training loop."""

    model: keras.Model
    history: dict[str, list[float]]
    seconds: float


def set_threads(count: int) -> None:
    """Limit TensorFlow to `count` processor threads; only before it has run anything."""
    tf.config.threading.set_intra_op_parallelism_threads(count)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.experimental.enable_op_determinism()


def learning_rates(training: Training, steps: int) -> np.ndarray:
    """The learning rate of each step, float32 (steps,).

    "constant" and "plateau" start at the peak ("plateau" is halved later, when the training loss
    stalls); "cosine" climbs linearly over the first tenth, then falls to 0 along a cosine
    (Loshchilov & Hutter 2017); "one-cycle" climbs over 3 tenths (Smith & Topin 2018).
    """
    t = (np.arange(steps) + 1) / steps
    if training.schedule in ("constant", "plateau"):
        return np.full(steps, training.rate, np.float32)
    climb = WARMUP if training.schedule == "cosine" else 0.3
    fall = (1 + np.cos(np.pi * (t - climb) / (1 - climb))) / 2
    return (training.rate * np.where(t < climb, t / climb, fall)).astype(np.float32)


class _Trainer:
    """Network, average and optimizer, and the graph that trains an epoch."""

    def __init__(self, examples: Examples, classes: int, settings: Settings):
        self.settings, self.examples = settings, examples
        keras.utils.set_random_seed(settings.seed)
        self.model = build_cnn(classes, examples.pictures.shape[1], settings.network)
        self.average = keras.models.clone_model(self.model)
        self.average.set_weights(self.model.get_weights())
        training = settings.training
        self.optimizer = keras.optimizers.AdamW(
            training.rate, weight_decay=training.weight_decay, beta_2=0.99
        )
        self.optimizer.build(self.model.trainable_variables)
        self.steps = max(1, len(examples.labels) // training.batch)
        self.rate_factor = tf.Variable(1.0, trainable=False)
        self.variables = [
            *self.model.variables,
            *self.average.variables,
            *self.optimizer.variables,
            self.rate_factor,
        ]
        self._logits = keras.Model(self.model.inputs, self.model.get_layer("logits").output)
        self._pictures = tf.constant(examples.pictures, tf.float32)
        self._targets = tf.one_hot(examples.labels, classes)
        self.train_epoch = tf.function(self._train_epoch)

    def order(self, epoch: int) -> tf.Tensor:
        """The epoch's order of the examples, whole batches only: int32 (steps, batch)."""
        rng = np.random.default_rng([self.settings.seed, epoch])
        batch = min(self.settings.training.batch, len(self.examples.labels))
        order = rng.permutation(len(self.examples.labels))[: self.steps * batch]
        return tf.constant(order.reshape(self.steps, batch), tf.int32)

    def _train_epoch(self, order: tf.Tensor, rates: tf.Tensor, first_step: tf.Tensor) -> tf.Tensor:
        """Train on the rows of `order`, each at its rate; returns the losses, (steps,)."""
        result = tf.TensorArray(tf.float32, size=tf.shape(order)[0])
        for step in tf.range(tf.shape(order)[0]):
            self.optimizer.learning_rate.assign(rates[step] * self.rate_factor)
            loss = self._train_step(order[step], first_step + step)
            result = result.write(step, loss)
        return result.stack()

    def _train_step(self, rows: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        settings = self.settings
        seed = tf.stack([settings.seed * 4, step])
        pictures = augment.warp(tf.gather(self._pictures, rows), seed, settings.augmentation)
        targets = tf.gather(self._targets, rows)
        if settings.augmentation.mixup:
            pictures, targets = augment.mixup(
                [pictures, targets], seed + 2, settings.augmentation.mixup
            )
        with tf.GradientTape() as tape:
            logits = self._logits(pictures, training=True)
            loss = losses.cross_entropy(targets, logits, settings.training.smoothing)
        weights = self.model.trainable_variables
        self.optimizer.apply(tape.gradient(loss, weights), weights)
        # Early on, the average forgets faster than its decay says: it starts at random weights.
        t = tf.cast(step, tf.float32)
        decay = tf.minimum(settings.training.averaging, (1 + t) / (10 + t))
        for mean, now in zip(self.average.weights, self.model.weights, strict=True):
            mean.assign(decay * mean + (1 - decay) * now)
        return loss


def predict(model: keras.Model, examples: Examples, batch: int = 256) -> np.ndarray:
    """Class probabilities of examples, float32 (n, classes); no randomness."""
    parts = [
        model.predict_on_batch(examples.pictures[start : start + batch].astype(np.float32))
        for start in range(0, len(examples.labels), batch)
    ]
    return np.concatenate(parts)


def predict_views(
    model: keras.Model, examples: Examples, ranges: Augmentation, views: int = 8
) -> np.ndarray:
    """Test-time augmentation: the mean probabilities over the picture and `views` random warps of
    half the training's ranges, the same at every call. Returns float32 (n, classes)."""
    mild = Augmentation(**{name: value / 2 for name, value in dataclasses.asdict(ranges).items()})
    total = predict(model, examples)
    for view in range(views):
        seed = tf.constant([view, 0])
        warped = augment.warp(tf.cast(examples.pictures, tf.float32), seed, mild)
        total = total + predict(model, dataclasses.replace(examples, pictures=warped.numpy()))
    return total / (views + 1)


def fit(
    examples: Examples,
    classes: int,
    settings: Settings,
    held_out: Examples | None = None,
    state: dict | None = None,
    save: Callable[[dict], None] | None = None,
) -> Run:
    """Train a network from random weights.

    AdamW (Loshchilov & Hutter 2019) on augmented batches; the result is the exponential average of
    the weights over the steps (Polyak & Juditsky 1992), normalisation statistics included.

    held_out: measured after every epoch, and used for nothing else. save: called after each epoch
    with a dict of arrays from which, given back as `state`, training goes on to the same result.
    """
    trainer = _Trainer(examples, classes, settings)
    training = settings.training
    history = {"loss": []}
    if held_out is not None:
        history |= {"val_loss": [], "val_accuracy": []}
    done, seconds = 0, 0.0
    if state is not None:
        done, seconds = int(state["epochs"]), float(state["seconds"])
        history = {name: list(map(float, state[f"history_{name}"])) for name in history}
        for i, variable in enumerate(trainer.variables):
            variable.assign(state[f"variable_{i}"])
    rates = learning_rates(training, trainer.steps * training.epochs)
    begin = time.perf_counter() - seconds
    for epoch in range(done, training.epochs):
        first = epoch * trainer.steps
        losses_ = trainer.train_epoch(
            trainer.order(epoch),
            tf.constant(rates[first : first + trainer.steps]),
            tf.constant(first),
        )
        history["loss"].append(float(np.mean(losses_)))
        if held_out is not None:
            probabilities = predict(trainer.average, held_out)
            right = probabilities[np.arange(len(held_out.labels)), held_out.labels]
            history["val_loss"].append(float(-np.log(np.maximum(right, 1e-12)).mean()))
            hits = probabilities.argmax(1) == held_out.labels
            history["val_accuracy"].append(float(hits.mean()))
        if training.schedule == "plateau":
            _lower_on_plateau(trainer.rate_factor, history["loss"])
        seconds = time.perf_counter() - begin
        if save is not None:
            arrays = {f"variable_{i}": np.asarray(v) for i, v in enumerate(trainer.variables)}
            arrays |= {f"history_{name}": np.array(values) for name, values in history.items()}
            save({"epochs": np.array(epoch + 1), "seconds": np.array(seconds), **arrays})
    final = trainer.average if training.averaging else trainer.model
    return Run(model=final, history=history, seconds=seconds)


def _lower_on_plateau(factor: tf.Variable, losses_: list[float]) -> None:
    since_best = len(losses_) - 1 - int(np.argmin(losses_))
    if since_best and since_best % PLATEAU_PATIENCE == 0:
        factor.assign(factor / 2)


def rate_test(
    examples: Examples, classes: int, settings: Settings, low: float = 1e-5, high: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Learning-rate range test (Smith 2017, section 3.3): the loss while the rate grows.

    Two epochs' batches, the rate rising geometrically from `low` to `high`. Returns the rates and
    the losses, each (steps,).
    """
    trainer = _Trainer(examples, classes, settings)
    order = tf.concat([trainer.order(epoch) for epoch in range(2)], 0)
    rates = np.geomspace(low, high, len(order)).astype(np.float32)
    return rates, trainer.train_epoch(order, tf.constant(rates), tf.constant(0)).numpy()
