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

from midas_lib import augment, config, data, losses
from midas_lib.config import Augmentation, Settings, Training
from midas_lib.data import Examples
from midas_lib.model import build_cnn, transfer_backbone, transfer_head

STATISTICS = 2000  # pictures that statistics of batch normalisation are estimated from


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """A finished training. model: the averaged network, which without averaging is the last.
    history: a list a metric, an entry a check ("step": steps done; "loss" and "gradient_norm":
    means over the steps before it, of its epoch; "val_loss", in nats, and "val_accuracy": that
    network's on the held-out examples; for "plateau" also "watched_loss", and the "rate" until
    then). seconds: wall time of the training loop."""

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
    """Keep to one GPU, locked as long as this process lives, where TensorFlow sees any; only before
    it has run anything."""
    for number, gpu in enumerate(gpus()):
        path = Path(tempfile.gettempdir(), f"midas-{os.getuid()}-gpu{number}.lock")
        lock = os.open(path, os.O_CREAT | os.O_RDWR)
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            tf.config.set_visible_devices(gpu, "GPU")
            return


def learning_rates(training: Training, steps: int) -> np.ndarray:
    """The learning rate of each step, float32 (steps,): "constant" and "plateau" start at the peak
    ("plateau" is halved when the loss on a tenth of the training examples, held out for it,
    stalls); "cosine" climbs to it over the first tenth, then falls to 0 along a cosine (Loshchilov
    & Hutter 2017); "one-cycle" climbs over 3 tenths (Smith & Topin 2018)."""
    t = (np.arange(steps) + 1) / steps
    if training.schedule in ("constant", "plateau"):
        return np.full(steps, training.rate, np.float32)
    climb = 0.1 if training.schedule == "cosine" else 0.3
    fall = (1 + np.cos(np.pi * (t - climb) / (1 - climb))) / 2
    return (training.rate * np.where(t < climb, t / climb, fall)).astype(np.float32)


def check_steps(training: Training, steps: int) -> np.ndarray:
    """The steps after which held-out examples are measured, int (checks,), of a training with so
    many steps an epoch. With `checks`: ten times every so many steps, then each a tenth later than
    the one before; without: after the first epoch and each that is a multiple of `every`. And after
    the last step."""
    last = training.epochs * steps
    if training.checks:
        found = list(range(training.checks, 10 * training.checks, training.checks))
        while (after := 10 * training.checks * 1.1 ** (len(found) - 9)) < last:
            found.append(round(after))
    else:
        found = [steps, *range(training.every * steps, last, training.every * steps)]
    return np.unique([step for step in (*found, last) if 0 < step <= last])


class _Trainer:
    """Network, average and optimizer, and the graph that trains an epoch."""

    def __init__(self, examples: Examples, classes: int, settings: Settings, start=None):
        labels, training, loss = examples.labels, settings.training, settings.training.loss
        low, high, transfer = labels.min(), labels.max(), settings.transfer
        if low < (-1 if loss == "PRODEN" else 0) or high >= classes:
            raise ValueError(f"labels {low} to {high}: there are {classes} classes")
        if loss != "cross-entropy" and classes < 3:
            raise ValueError(f"loss {loss}: takes 3 classes or more; with 2, turn the labels over")
        self.settings, self.steps = settings, max(1, len(labels) // training.batch)
        keras.utils.set_random_seed(settings.seed)
        size = examples.pictures.shape[1]
        self.model = build_cnn(classes, size, settings.network)
        if start is not None:
            source = build_cnn(len(start[-1]), size, settings.network)
            source.set_weights(start)
            for name in transfer_backbone(source, self.model, transfer.layers):
                self.model.get_layer(name).trainable = not transfer.frozen
            if transfer.head:
                transfer_head(source, self.model)
        self.average = keras.models.clone_model(self.model)
        self.average.set_weights(self.model.get_weights())
        self.optimizer = keras.optimizers.AdamW(
            training.rate, weight_decay=training.weight_decay, beta_2=0.99
        )
        self.optimizer.build(self.model.trainable_variables)
        self.rate_factor = tf.Variable(1.0, trainable=False)
        kept = self.model, self.average, self.optimizer
        self.variables = [*(v for one in kept for v in one.variables), self.rate_factor]
        self._logits = keras.Model(self.model.inputs, self.model.get_layer("logits").output)
        self._pictures = examples.pictures
        self._data = tf.constant(examples.pictures), tf.constant(labels, tf.int32)
        # The data are not captured: TensorFlow never frees what a graph has captured.
        kinds, batch = [(one.shape, one.dtype) for one in self._data], self.order(0).shape[1]
        kinds += [([None, batch], tf.int32), ([None], tf.float32), ([], tf.int32)]
        self._graph = tf.function(self._train_steps, [tf.TensorSpec(*kind) for kind in kinds])

    def order(self, epoch: int) -> np.ndarray:
        """The epoch's order of the examples, whole batches only: int32 (steps, batch)."""
        rng = np.random.default_rng([self.settings.seed, epoch])
        order = rng.permutation(len(self._data[1]))[: self.steps * self.settings.training.batch]
        return order.reshape(self.steps, -1).astype(np.int32)

    def train_steps(self, order: np.ndarray, rates: np.ndarray, first_step: int) -> np.ndarray:
        """Train on the rows of `order`, each at its rate; returns each step's loss and gradient
        norm, float32 (steps, 2)."""
        return self._graph(*self._data, order, rates, first_step).numpy()

    def settle(self) -> None:
        """Let the averaged network use statistics that fit it, where the settings ask for them."""
        if self.settings.training.reestimated:
            reestimate(self.average, self._pictures)

    def _train_steps(self, pictures, labels, order, rates, first_step) -> tf.Tensor:
        result = tf.TensorArray(tf.float32, size=tf.shape(order)[0])
        for step in tf.range(tf.shape(order)[0]):
            self.optimizer.learning_rate.assign(rates[step] * self.rate_factor)
            plain = tf.cast(tf.gather(pictures, order[step]), tf.float32)
            targets = tf.one_hot(tf.gather(labels, order[step]), self.model.output.shape[-1])
            result = result.write(step, self._train_step(plain, targets, first_step + step))
        return result.stack()

    def _train_step(self, plain: tf.Tensor, targets: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        settings = self.settings
        seed = tf.stack([settings.seed * 4, step])
        seeds = [seed, seed + 2] if settings.training.loss == "PRODEN" else [seed]
        pictures = tf.concat([augment.warp(plain, s, settings.augmentation) for s in seeds], 0)
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
        given = vars(training) | {"sharpening": 1 + (training.sharpening - 1) * grown}
        function = getattr(losses, config.LOSSES[training.loss])
        taken = given.keys() & inspect.signature(function).parameters.keys()
        loss = function(targets, logits, **{name: given[name] for name in taken})
        if training.balance:
            loss += training.balance * (1 - grown) * losses.imbalance(logits)
        return loss

    def _rate_shares(self) -> list[float]:
        """Each trainable variable's share of the learning rate."""
        paths = [weight.path for weight in self.model.trainable_variables]
        layers = [path.split("/")[0].removesuffix("_norm") for path in paths]
        from_last = list(dict.fromkeys(reversed(layers)))
        return [self.settings.transfer.rate_decay ** from_last.index(layer) for layer in layers]


def reestimate(model: keras.Model, pictures: np.ndarray) -> None:
    """Set the statistics of batch normalisation to those of up to `STATISTICS` of the pictures,
    taken evenly, layer by layer from the input (precise BN, Wu & Johnson 2021, section 3). Frozen
    layers keep theirs: what lies above was trained on them."""
    rows = np.linspace(0, len(pictures) - 1, min(len(pictures), STATISTICS)).astype(int)
    values = tf.constant(pictures[rows], tf.float32)
    for layer in model.layers[1:]:
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable:
            gamma, beta, *_ = layer.get_weights()
            mean, variance = tf.nn.moments(values, (0, 1, 2))
            layer.set_weights([gamma, beta, mean, variance])
        values = layer(values, training=False)


def predict(model: keras.Model, examples: Examples, batch: int = 256) -> np.ndarray:
    """Class probabilities of examples, float32 (n, classes); no randomness."""
    starts = range(0, len(examples.labels), batch)
    parts = (examples.pictures[start : start + batch].astype(np.float32) for start in starts)
    return np.concatenate([model.predict_on_batch(part) for part in parts])


def score(model: keras.Model, examples: Examples) -> tuple[np.ndarray, np.ndarray]:
    """Each example's loss, in nats, and whether it is read right, (n,) each."""
    probabilities, labels = predict(model, examples), examples.labels
    named = probabilities[np.arange(len(labels)), labels]
    return -np.log(np.maximum(named, 1e-12)), probabilities.argmax(1) == labels


def predict_views(
    model: keras.Model, examples: Examples, ranges: Augmentation, views: int = 8
) -> np.ndarray:
    """Test-time augmentation: the mean probabilities, float32 (n, classes), over the picture and
    `views` random affine warps of it, the same at every call, of half training's ranges. The other
    ranges are off, as they change the drawing and not how one looks at it."""
    affine = ("rotation", "scale", "aspect", "shear", "shift")
    mild = Augmentation(**{name: x / 2 * (name in affine) for name, x in vars(ranges).items()})
    total, plain = predict(model, examples), tf.cast(examples.pictures, tf.float32)
    for view in range(views):
        warped = augment.warp(plain, tf.constant([view, 0]), mild).numpy()
        total = total + predict(model, dataclasses.replace(examples, pictures=warped))
    return total / (views + 1)


def fit(
    examples: Examples, classes: int, settings: Settings, held_out: Examples | None = None,
    start: list[np.ndarray] | None = None, state: dict[str, np.ndarray] | None = None,
    save: Callable[[dict[str, np.ndarray]], None] | None = None,
) -> Run:  # fmt: skip
    """Train a network with AdamW (Loshchilov & Hutter 2019) on augmented batches, to its last
    weights or, with `averaging`, to their exponential average over the steps (Tarvainen &
    Valpola 2017), normalisation statistics included.

    examples: for the loss "PRODEN", the label -1 says that a picture has none. held_out: measured
    at every check, no more. start: the weights of a network of the same shape, in Keras' order, of
    which `settings.transfer` is taken over; its classes begin with this one's if its head is. save:
    called after each epoch with what, given back as `state`, lets training go on to the same end.
    """
    training, watched = settings.training, None
    if training.schedule == "plateau":
        tenth = max(len(examples.labels) // 10, len(np.unique(examples.labels)))
        examples, watched = map(examples.take, data.split(examples.labels, tenth, settings.seed))
    trainer = _Trainer(examples, classes, settings, start)
    measured = ("val_loss", "val_accuracy") if held_out is not None else ()
    measured += ("watched_loss", "rate") if watched is not None else ()
    history = {name: [] for name in ("step", "loss", "gradient_norm", *measured)}
    done, seconds = 0, 0.0
    if state is not None:
        done, seconds = int(state["epochs"]), float(state["seconds"])
        history = {name: state[f"history_{name}"].tolist() for name in history}
        for i, variable in enumerate(trainer.variables):
            variable.assign(state[f"variable_{i}"])
    rates = learning_rates(training, trainer.steps * training.epochs)
    begin = time.perf_counter() - seconds
    checks = check_steps(training, trainer.steps)
    for epoch in range(done, training.epochs):
        order, first = trainer.order(epoch), epoch * trainer.steps
        end = first + trainer.steps
        bounds = [first, *checks[(first < checks) & (checks < end)], end]
        for low, high in itertools.pairwise(bounds):
            some = order[low - first : high - first]
            values = [high, *trainer.train_steps(some, rates[low:high], low).mean(0)]
            if high not in checks:
                continue
            if measured:
                trainer.settle()
            if held_out is not None:
                values += [each.mean() for each in score(trainer.average, held_out)]
            if watched is not None:
                rate = training.rate * trainer.rate_factor.numpy()
                values += [score(trainer.average, watched)[0].mean(), rate]
            for name, value in zip(history, values, strict=True):
                history[name].append(float(value))
            if watched is not None:
                _lower_on_plateau(trainer.rate_factor, history["watched_loss"])
        seconds = time.perf_counter() - begin
        if save is not None:
            arrays = {f"variable_{i}": np.asarray(v) for i, v in enumerate(trainer.variables)}
            arrays |= {f"history_{name}": np.array(values) for name, values in history.items()}
            save({"epochs": np.array(epoch + 1), "seconds": np.array(seconds), **arrays})
    trainer.settle()
    return Run(model=trainer.average, history=history, seconds=seconds)


def seconds_per_step(examples: Examples, classes: int, settings: Settings) -> float:
    """Mean wall time of a training step over one epoch, after another one that is not counted."""
    trainer = _Trainer(examples, classes, settings)
    rates = np.full(trainer.steps, settings.training.rate, np.float32)
    for epoch in range(2):
        begin = time.perf_counter()
        trainer.train_steps(trainer.order(epoch), rates, 0)
    return (time.perf_counter() - begin) / trainer.steps


def _lower_on_plateau(factor: tf.Variable, losses_: list[float]) -> None:
    """Halve the rate after every 4 checks without a lower loss."""
    since_best = len(losses_) - 1 - int(np.argmin(losses_))
    if since_best and since_best % 4 == 0:
        factor.assign(factor / 2)
