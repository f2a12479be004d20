"""Training's pace, the share of the processor's peak that it is, and what else a step holds."""

import dataclasses
import functools
import time

import numpy as np
import tensorflow as tf

from bench import apart, fast, numbers
from bench.clock import time_of
from bench.plan import ENVIRONMENT, THREADS, Plan
from midas_lib import augment, train
from midas_lib.config import Settings, vary
from midas_lib.data import Examples
from midas_lib.model import build_cnn

CLASSES = 62


def run(plan: Plan) -> dict:
    """Result "training": the measured peak of matrix multiplication, and of two networks, the
    project's default one and the bench's, images a second, operations and share of that peak; of
    the default one also the shares of a step that augmentation and getting the batch take."""
    train.set_threads(THREADS)
    peaks = {dtype: matmul_peak(dtype) / 1e9 for dtype in ("float32", "bfloat16")}
    settings = vary(Settings(), threads=THREADS)
    batch, size = settings.training.batch, settings.preprocessing.size
    examples = noise(plan.steps * batch, size, CLASSES)
    seconds = train.seconds_per_step(examples, CLASSES, settings)
    default = _paced(build_cnn(CLASSES), batch, seconds, peaks["float32"])
    default |= {f"{name}_share": part / seconds for name, part in _parts(examples, settings)}
    preset = fast.FAST
    pace = apart.call(__name__, "fast_pace", preset, plan.steps, environment=ENVIRONMENT)
    bench = _paced(fast.build(preset), preset.batch, preset.batch / pace, peaks["float32"])
    networks = {"default": default, "bench": bench}
    return {"training": {"threads": THREADS, "peak_gflops": peaks, "networks": networks}}


def noise(count: int, size: int, classes: int) -> Examples:
    """Examples of random pixels: what a step costs does not depend on what is in the pictures."""
    pictures = np.random.default_rng(0).integers(0, 256, (count, size, size, 1), np.uint8)
    return Examples(pictures=pictures, labels=np.arange(count) % classes)


def matmul_peak(dtype: str, side: int = 2048, times: int = 10) -> float:
    """Operations a second, two for each multiply-add, of the fastest of some multiplications of
    square matrices."""
    matrix = tf.cast(tf.random.stateless_normal((side, side), (0, 0)), dtype)
    multiply = tf.function(lambda: tf.reduce_sum(tf.matmul(matrix, matrix)))
    return 2 * side**3 / min(time_of(lambda: multiply().numpy()) for _ in range(times))


def fast_pace(preset: fast.Preset, steps: int, **options) -> float:
    """Images a second of so many training steps, after as many that are not counted. options: as
    `fast.fit`'s."""
    examples = noise(2 * steps * preset.batch, 28, fast.CLASSES)
    moments = []

    def look(model, images, last):
        moments.append((images, time.perf_counter()))

    options = {"every": steps * preset.batch} | options
    once = dataclasses.replace(preset, epochs=1)
    fast.fit(once, examples.pictures[..., 0], examples.labels, look, **options)
    (done, then), (total, now) = moments[len(moments) // 2 - 1], moments[-1]
    return (total - done) / (now - then)


def _paced(model, batch: int, seconds: float, peak: float) -> dict:
    work = numbers.training_operations(model)
    return {
        "parameters": model.count_params(),
        "batch": batch,
        "images_per_second": batch / seconds,
        "operations_per_image": work,
        "gflops": batch / seconds * work / 1e9,
        "share_of_peak": batch / seconds * work / 1e9 / peak,
    }


def _parts(examples: Examples, settings: Settings):
    """Seconds a step of what `train` does before the network: (name, seconds) each."""
    batch = settings.training.batch
    pictures, labels = tf.constant(examples.pictures), tf.constant(examples.labels)
    order = np.random.default_rng(0).permutation(len(examples.labels)).reshape(-1, batch)
    order = tf.constant(order)

    @tf.function
    def waiting(order):
        total = 0.0
        for row in order:
            plain = tf.cast(tf.gather(pictures, row), tf.float32)
            targets = tf.one_hot(tf.gather(labels, row), CLASSES)
            total += plain[0, 0, 0, 0] + targets[0, 0]
        return total

    plain = tf.cast(pictures[:batch], tf.float32)

    @tf.function
    def augmentation(order):
        total = 0.0
        for row in order:
            seed = tf.cast(row[:2], tf.int32)
            total += augment.warp(plain, seed, settings.augmentation)[0, 0, 0, 0]
        return total

    for name, function in (("waiting", waiting), ("augmentation", augmentation)):
        once = functools.partial(lambda f: f(order).numpy(), function)
        yield name, min(time_of(once) for _ in range(3)) / len(order)
