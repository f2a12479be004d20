"""Training: one network, one set of settings, one result that repeats bit for bit."""

import contextlib
import dataclasses
import fcntl
import functools
import inspect
import itertools
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from midas_lib import augment, config, losses
from midas_lib.config import Augmentation, Settings, Training
from midas_lib.data import Examples
from midas_lib.model import build_cnn, transfer_backbone, transfer_head

WARMUP = 0.1  # share of the steps in which cosine and one-cycle climb to their peak
PLATEAU_PATIENCE = 4  # checks without a lower training loss before the rate is halved


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """A finished training. model: the averaged network, or the last where settings ask for no
    average. history: one list a metric, an entry a check ("step": steps done; "loss" in training
    and "gradient_norm", means over the steps since the last check; "val_loss" and "val_accuracy" of
    the averaged network on the held-out examples, natural-log units and shares). seconds: wall time
    of the training loop."""

    model: keras.Model
    history: dict[str, list[float]]
    seconds: float


def set_threads(count: int) -> None:
    """Limit TensorFlow to `count` processor threads; only before it has run anything."""
    tf.config.threading.set_intra_op_parallelism_threads(count)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.experimental.enable_op_determinism()


def gpus() -> list:
    """The GPUs that TensorFlow sees."""
    return tf.config.list_physical_devices("GPU")


@functools.cache  # once in a process
def take_gpu() -> None:
    """Keep to one GPU that no other process has taken, where TensorFlow sees any; only before it
    has run anything. The lock is this process's as long as it lives."""
    for number, gpu in enumerate(gpus()):
        path = Path(tempfile.gettempdir(), f"midas-{os.getuid()}-gpu{number}.lock")
        lock = os.open(path, os.O_CREAT | os.O_RDWR)
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            tf.config.set_visible_devices(gpu, "GPU")
            return


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

    def __init__(self, examples: Examples, classes: int, settings: Settings, start=None):
        labels, training, loss = examples.labels, settings.training, settings.training.loss
        low, high = labels.min(), labels.max()
        if low < (-1 if loss == "PRODEN" else 0) or high >= classes:
            raise ValueError(f"labels {low} to {high}: there are {classes} classes")
        if loss != "cross-entropy" and classes < 3:
            raise ValueError(f"loss {loss}: takes 3 classes or more; with 2, turn the labels over")
        self.settings, self.examples = settings, examples
        keras.utils.set_random_seed(settings.seed)
        self.model = build_cnn(classes, examples.pictures.shape[1], settings.network)
        if start is not None:
            _take_over(start, self.model, settings)
        self.average = keras.models.clone_model(self.model)
        self.average.set_weights(self.model.get_weights())
        self.optimizer = keras.optimizers.AdamW(
            training.rate, weight_decay=training.weight_decay, beta_2=0.99
        )
        self.optimizer.build(self.model.trainable_variables)
        self.steps = max(1, len(examples.labels) // training.batch)
        self.rate_factor = tf.Variable(1.0, trainable=False)
        kept = self.model, self.average, self.optimizer
        self.variables = [*(v for one in kept for v in one.variables), self.rate_factor]
        self._logits = keras.Model(self.model.inputs, self.model.get_layer("logits").output)
        self._classes = classes
        self._data = tf.constant(examples.pictures), tf.constant(labels, tf.int32)
        self._batch = min(training.batch, len(labels))
        # The data are not captured: TensorFlow never frees what a graph has captured.
        shapes = [([None, self._batch], tf.int32), ([None], tf.float32), ([], tf.int32)]
        signature = [tf.TensorSpec(one.shape, one.dtype) for one in self._data]
        signature += [tf.TensorSpec(*shape) for shape in shapes]
        self._graph = tf.function(self._train_steps, input_signature=signature)

    def order(self, epoch: int) -> tf.Tensor:
        """The epoch's order of the examples, whole batches only: int32 (steps, batch)."""
        rng = np.random.default_rng([self.settings.seed, epoch])
        order = rng.permutation(len(self.examples.labels))[: self.steps * self._batch]
        return tf.constant(order.reshape(self.steps, self._batch), tf.int32)

    def train_steps(self, order: tf.Tensor, rates: tf.Tensor, first_step: tf.Tensor) -> tf.Tensor:
        """Train on the rows of `order`, each at its rate; returns each step's loss and gradient
        norm, (steps, 2)."""
        return self._graph(*self._data, order, rates, first_step)

    def _train_steps(self, pictures, labels, order, rates, first_step) -> tf.Tensor:
        result = tf.TensorArray(tf.float32, size=tf.shape(order)[0])
        for step in tf.range(tf.shape(order)[0]):
            self.optimizer.learning_rate.assign(rates[step] * self.rate_factor)
            plain = tf.cast(tf.gather(pictures, order[step]), tf.float32)
            targets = tf.one_hot(tf.gather(labels, order[step]), self._classes)
            result = result.write(step, self._train_step(plain, targets, first_step + step))
        return result.stack()

    def _train_step(self, plain: tf.Tensor, targets: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        settings = self.settings
        seed = tf.stack([settings.seed * 4, step])
        pictures = augment.warp(plain, seed, settings.augmentation)
        if settings.training.loss == "PRODEN":
            again = augment.warp(plain, seed + 2, settings.augmentation)
            pictures = tf.concat([pictures, again], 0)
        if most := settings.augmentation.mixup:
            pictures, targets = augment.mixup([pictures, targets], seed + 2, most)
        with tf.GradientTape() as tape:
            logits = self._logits(pictures, training=True)
            loss = self._loss(targets, logits, step)
        weights = self.model.trainable_variables
        gradients = tape.gradient(loss, weights)
        before = [tf.identity(w) for w in weights] if settings.transfer.rate_decay != 1 else []
        self.optimizer.apply(gradients, weights)
        for old, now, share in zip(before, weights, self._rate_shares(), strict=False):
            now.assign(old + share * (now - old))
        # Early on, the average forgets faster than its decay says: it starts at random weights.
        t = tf.cast(step, tf.float32)
        decay = tf.minimum(settings.training.averaging, (1 + t) / (10 + t))
        for mean, now in zip(self.average.weights, self.model.weights, strict=True):
            mean.assign_add((1 - decay) * (now - mean))
        return tf.stack([loss, tf.linalg.global_norm(gradients)])

    def _loss(self, targets: tf.Tensor, logits: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        training = self.settings.training
        done = tf.cast(step, tf.float32) / (self.steps * training.epochs)
        # From the start, sharpening would settle on whatever the first steps happen to say.
        start = training.sharpening_start
        grown = tf.maximum((done - start) / (1 - start), 0.0)
        settings = dataclasses.asdict(training)
        settings["sharpening"] = 1 + (training.sharpening - 1) * grown
        function = getattr(losses, config.LOSSES[training.loss])
        taken = settings.keys() & inspect.signature(function).parameters.keys()
        loss = function(targets, logits, **{name: settings[name] for name in taken})
        if training.balance:
            loss += training.balance * (1 - grown) * losses.imbalance(logits)
        return loss

    def _rate_shares(self) -> list[float]:
        """Each trainable variable's share of the learning rate."""
        weights = self.model.trainable_variables
        layers = [weight.path.split("/")[0].removesuffix("_norm") for weight in weights]
        names = list(dict.fromkeys(layers))
        decay = self.settings.transfer.rate_decay
        return [decay ** (len(names) - 1 - names.index(layer)) for layer in layers]


def _take_over(start: list[np.ndarray], model: keras.Model, settings: Settings) -> None:
    """Copy what `settings.transfer` says from a network of this shape with the weights `start`."""
    source = build_cnn(len(start[-1]), model.input.shape[1], settings.network)
    source.set_weights(start)
    copied = transfer_backbone(source, model, settings.transfer.layers)
    if settings.transfer.head:
        transfer_head(source, model)
    if settings.transfer.frozen:
        for name in copied:
            model.get_layer(name).trainable = False


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
    """Test-time augmentation: the mean probabilities over the picture and `views` random affine
    warps of it, the same at every call, of half the ranges that training had; the other ranges are
    off, as they change the drawing and not how one looks at it. Returns float32 (n, classes)."""
    affine = ("rotation", "scale", "aspect", "shear", "shift")
    mild = Augmentation(**{name: getattr(ranges, name) / 2 for name in affine})
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
    start: list[np.ndarray] | None = None,
    state: dict | None = None,
    save: Callable[[dict], None] | None = None,
) -> Run:
    """Train a network, from random weights unless there is a `start`.

    AdamW (Loshchilov & Hutter 2019) on augmented batches; the result is the last weights or, with
    `averaging`, their exponential average over the steps (Polyak & Juditsky 1992), normalisation
    statistics included. The loss "PRODEN" takes the label -1 for a picture without one.

    held_out: measured at every check, and used for nothing else. start: the weights of a network
    of the same shape, in Keras' order, of which `settings.transfer` is taken over; its classes
    begin with this one's if its head is. save: called after each epoch with a dict of arrays from
    which, given back as `state`, training goes on to the same result.
    """
    trainer = _Trainer(examples, classes, settings, start)
    training = settings.training
    history = {"step": [], "loss": [], "gradient_norm": []}
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
        order = trainer.order(epoch)
        checks = min(training.checks[epoch > 0], trainer.steps)
        bounds = np.linspace(0, trainer.steps, checks + 1).round().astype(int)
        for low, high in itertools.pairwise(bounds):
            first, last = epoch * trainer.steps + low, epoch * trainer.steps + high
            measured = trainer.train_steps(
                order[low:high], tf.constant(rates[first:last]), tf.constant(first, tf.int32)
            )
            loss, norm = np.mean(measured, axis=0)
            values = {"step": last, "loss": loss, "gradient_norm": norm}
            if held_out is not None:
                values |= _measure(trainer.average, held_out)
            for name, value in values.items():
                history[name].append(float(value))
            if training.schedule == "plateau":
                _lower_on_plateau(trainer.rate_factor, history["loss"])
        seconds = time.perf_counter() - begin
        if save is not None:
            arrays = {f"variable_{i}": np.asarray(v) for i, v in enumerate(trainer.variables)}
            arrays |= {f"history_{name}": np.array(values) for name, values in history.items()}
            save({"epochs": np.array(epoch + 1), "seconds": np.array(seconds), **arrays})
    final = trainer.average if training.averaging else trainer.model
    return Run(model=final, history=history, seconds=seconds)


def _measure(model: keras.Model, held_out: Examples) -> dict[str, float]:
    probabilities, labels = predict(model, held_out), held_out.labels
    right = np.take_along_axis(probabilities, labels[:, None], 1)
    loss = -np.log(np.maximum(right, 1e-12)).mean()
    return {"val_loss": loss, "val_accuracy": (probabilities.argmax(1) == labels).mean()}


def seconds_per_step(examples: Examples, classes: int, settings: Settings) -> float:
    """Mean wall time of a training step over one epoch, after another one that is not counted."""
    trainer = _Trainer(examples, classes, settings)
    rates = tf.fill([trainer.steps], settings.training.rate)
    for epoch in range(2):
        begin = time.perf_counter()
        trainer.train_steps(trainer.order(epoch), rates, tf.constant(0)).numpy()
    return (time.perf_counter() - begin) / trainer.steps


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
    return rates, trainer.train_steps(order, tf.constant(rates), tf.constant(0)).numpy()[:, 0]
