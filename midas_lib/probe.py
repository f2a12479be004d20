"""Look inside a trained network."""

import dataclasses

import keras
import numpy as np

from midas_lib.data import Examples
from midas_lib.train import predict


def occlusion(model: keras.Model, examples: Examples, patch: int = 7) -> np.ndarray:
    """Where in the picture the answer comes from (occlusion, Zeiler & Fergus 2014, section 4.2).

    A black square of `patch` pixels a side is laid over each place in turn. Returns float32
    (n, size, size): by how much, in nats, covering a pixel lowers the log-probability of the
    example's label, averaged over the squares that cover it. On black paper a square can take ink
    away but not add any.
    """
    count, size = examples.pictures.shape[:2]
    rows = np.arange(count)

    def score(pictures):
        covered = dataclasses.replace(examples, pictures=pictures)
        return np.log(np.maximum(predict(model, covered)[rows, examples.labels], 1e-12))

    plain = score(examples.pictures)
    total, times = np.zeros((count, size, size)), np.zeros((size, size))
    for top in range(0, size - patch + 1, 2):
        for left in range(0, size - patch + 1, 2):
            window = np.s_[top : top + patch, left : left + patch]
            pictures = examples.pictures.copy()
            pictures[:, *window] = 0
            total[:, *window] += (plain - score(pictures))[:, None, None]
            times[window] += 1
    return (total / np.maximum(times, 1)).astype(np.float32)
