"""Ours: a network shaped for processor cores, and schedules for a short time to an accuracy.

What costs time in a small network is its first stage, where pictures are largest: here the first
convolution already halves them, and the blank frame that MNIST's digits stand in is cut off
before it. The steps of many batches are one TensorFlow graph that holds the data, so that Python
and copies cost nothing; the learning rate goes through one cycle (Smith & Topin 2018).
"""

from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from bench.clock import GRID
from midas_lib import augment, losses, train
from midas_lib.config import Augmentation, Training

VERSION = f"tensorflow {tf.__version__}"


@dataclass(frozen=True, kw_only=True)
class Preset:
    """channels, kernels, strides: of each convolution. frame: pixels cut off each side. pooling:
    side of the squares whose largest values go into the last layer. epochs, batch, rate,
    weight_decay, smoothing: as `config.Training`'s; one cycle. augmentation: None for none.
    """

    channels: tuple[int, ...] = (24, 48, 64)
    kernels: tuple[int, ...] = (5, 3, 3)
    strides: tuple[int, ...] = (2, 2, 1)
    frame: int = 2
    pooling: int = 2
    epochs: int = 2
    batch: int = 128
    rate: float = 2e-2
    weight_decay: float = 1e-2
    smoothing: float = 0.1
    augmentation: Augmentation | None = None


CLASSES = 10
# To 99 % and to 99.5 %, chosen on 5,000 of MNIST's training images held out.
FAST = Preset()
LONG = Preset(
    epochs=8,
    rate=1e-2,
    augmentation=Augmentation(rotation=8.0, scale=0.08, aspect=0.08, shear=0.12, shift=0.04),
)


def build(preset: Preset, size: int = 28) -> keras.Model:
    """From pixel values 0-255 of shape (n, size, size, 1) to logits (n, 10)."""
    picture = keras.Input((size, size, 1))
    x = layers.Rescaling(1 / 255)(layers.Cropping2D(preset.frame)(picture))
    for channels, kernel, stride in zip(
        preset.channels, preset.kernels, preset.strides, strict=True
    ):
        x = layers.Conv2D(
            channels, kernel, stride, "same", use_bias=False, kernel_initializer="he_normal"
        )(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    x = layers.Flatten()(layers.MaxPooling2D(preset.pooling)(x))
    return keras.Model(picture, layers.Dense(CLASSES)(x))


def fit(preset: Preset, pictures, labels, look=None, *, seed=0, every=GRID, jit=False):
    """Train on pictures uint8 (n, size, size) with labels (n,); returns the model.

    look: called with the model, the number of images done and whether they are all, after every
    `every` images, which are one call of the graph, and at the end. jit: compile steps with XLA.
    """
    keras.utils.set_random_seed(seed)
    model = build(preset, pictures.shape[1])
    optimizer = keras.optimizers.AdamW(preset.rate, weight_decay=preset.weight_decay, beta_2=0.99)
    optimizer.build(model.trainable_variables)

    @tf.function(jit_compile=jit)
    def step(plain, targets, rate, number):
        optimizer.learning_rate.assign(rate)
        if preset.augmentation is not None:
            plain = augment.warp(plain, tf.stack([seed, number]), preset.augmentation)
        with tf.GradientTape() as tape:
            logits = tf.cast(model(plain, training=True), tf.float32)
            loss = losses.cross_entropy(targets, logits, preset.smoothing)
        variables = model.trainable_variables
        optimizer.apply(tape.gradient(loss, variables), variables)

    data = tf.constant(pictures[..., None]), tf.constant(labels, tf.int32)
    shapes = ([None, preset.batch], tf.int32), ([None], tf.float32), ([], tf.int32)
    specs = [tf.TensorSpec(d.shape, d.dtype) for d in data] + [tf.TensorSpec(*s) for s in shapes]

    @tf.function(input_signature=specs)
    def steps(pictures, labels, order, rates, first):
        for i in tf.range(tf.shape(order)[0]):
            plain = tf.cast(tf.gather(pictures, order[i]), tf.float32)
            step(plain, tf.one_hot(tf.gather(labels, order[i]), CLASSES), rates[i], first + i)

    rng = np.random.default_rng(seed)
    epoch = len(labels) // preset.batch * preset.batch
    order = np.concatenate([rng.permutation(len(labels))[:epoch] for _ in range(preset.epochs)])
    order = order.reshape(-1, preset.batch)
    training = Training(schedule="one-cycle", rate=preset.rate)
    rates = train.learning_rates(training, len(order))
    stride = -(-every // preset.batch)
    for first in range(0, len(order), stride):
        rows = slice(first, first + stride)
        steps(*data, order[rows].astype(np.int32), rates[rows], first)
        done = min(first + stride, len(order))
        if look is not None:
            look(model, done * preset.batch, done == len(order))
    return model


def accuracy(model: keras.Model, pictures, labels, batch: int = 1000) -> float:
    """Share of pictures uint8 (n, size, size) read right."""
    parts = [
        model.predict_on_batch(pictures[i : i + batch, ..., None].astype(np.float32))
        for i in range(0, len(labels), batch)
    ]
    return float(np.mean(np.concatenate(parts).argmax(1) == labels))


def race(train, test, clock, seed: int) -> None:
    """Train against the clock; train, test: (pictures uint8 (n, 28, 28), labels (n,))."""
    preset = FAST if clock.until <= 0.99 else LONG
    clock.start()
    fit(
        preset,
        *train,
        lambda model, images, last: clock.look(images, lambda: accuracy(model, *test), last),
        seed=seed,
    )
