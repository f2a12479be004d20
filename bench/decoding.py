"""Reading the archives: ours, the codec alone, and two ways that TensorFlow offers."""

import os
import tempfile
from pathlib import Path

import cv2
import numpy as np

from bench.clock import time_of
from bench.plan import Plan
from midas_lib import config, data, images, sources

SIZES = {"characters": images.SCAN_SHAPE, "mislabelled": (28, 28)}
BATCH = 256


def run(plan: Plan) -> dict:
    """Results "decoding", a row an archive of pictures: files, and seconds of each way to get them
    as arrays, once, in this order, the files in the system's cache; and "mnist_seconds".

    verified: ours looks at an archive for the first time. decoded: ours reads, decodes and writes
    the cache. cached: ours reads that. codec: libpng or libjpeg alone, through OpenCV, one thread,
    the files in memory, the pictures not kept. keras: `image_dataset_from_directory`; tf_data: a
    map over single files; both from files unpacked before, to the size that ours gives.
    """
    loaders = {"characters": data.load_characters, "mislabelled": data.load_mislabelled}
    with tempfile.TemporaryDirectory() as folder:
        _link_archives(Path(folder, "data"), plan)
        rows = [_row(name, loader, Path(folder), plan) for name, loader in loaders.items()]
        mnist = {
            when: time_of(lambda: [data.load_mnist(s, plan.data) for s in ("train", "test")])
            for when in ("first", "again")
        }
    return {"decoding": rows, "mnist_seconds": mnist}


def _link_archives(folder: Path, plan: Plan) -> None:
    """A data folder without caches or notes of what was verified, in use from now on."""
    for name in sources.ARCHIVES:
        for path in sources.fetch(name, profile=plan.data).paths:
            link = folder / path.relative_to(config.data_dir())
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path)
    os.environ["DATA_DIR"] = str(folder)


def _row(name: str, loader, folder: Path, plan: Plan) -> dict:
    seconds = {"verified": time_of(lambda: sources.fetch(name, profile=plan.data))}
    archive = sources.fetch(name, profile=plan.data).paths[0]
    seconds |= {way: time_of(lambda: loader(plan.data)) for way in ("decoded", "cached")}
    contents = [content for _, content in sources.read_members(archive, name)]
    seconds["codec"] = time_of(lambda: _decode(contents))
    for member, content in sources.read_members(archive, name):
        path = folder / name / member
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    unpacked = next((folder / name).iterdir())
    seconds["keras"] = time_of(lambda: _with_keras(unpacked, SIZES[name]))
    seconds["tf_data"] = time_of(lambda: _with_tf_data(unpacked, SIZES[name]))
    return {"archive": name, "files": len(contents), "seconds": seconds}


def _decode(contents: list[bytes]) -> None:
    cv2.setNumThreads(1)
    for content in contents:
        cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)


def _with_keras(folder: Path, size: tuple[int, int]) -> None:
    import keras

    dataset = keras.utils.image_dataset_from_directory(
        folder, color_mode="grayscale", batch_size=BATCH, image_size=size, interpolation="area",
        shuffle=False, verbose=False,
    )  # fmt: skip
    for _ in dataset:
        pass


def _with_tf_data(folder: Path, size: tuple[int, int]) -> None:
    import tensorflow as tf

    def read(path):
        picture = tf.io.decode_image(tf.io.read_file(path), 1, expand_animations=False)
        return tf.image.resize(picture, size, "area")

    paths = sorted(str(path) for path in folder.rglob("*.*"))
    dataset = tf.data.Dataset.from_tensor_slices(paths).map(read, tf.data.AUTOTUNE).batch(BATCH)
    for _ in dataset.prefetch(tf.data.AUTOTUNE):
        pass
