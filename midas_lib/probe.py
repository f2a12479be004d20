"""Look inside a trained network."""

import dataclasses

import keras
import numpy as np

from midas_lib.data import Examples
from midas_lib.train import predict, reestimate, score


def occlusion(model: keras.Model, examples: Examples, patch: int = 7) -> np.ndarray:
    """Where in the picture the answer comes from (occlusion, Zeiler & Fergus 2014, section 4.2). A
    black square of `patch` pixels a side is laid over each place in turn. Returns float32 (n, size,
    size): by how much, in nats, covering a pixel lowers the log-probability of the example's label,
    averaged over the squares that cover it. On black paper a square can take ink away but not add
    any."""
    count, size = examples.pictures.shape[:2]
    plain, _ = score(model, examples)
    total, times = np.zeros((count, size, size)), np.zeros((size, size))
    for top in range(0, size - patch + 1, 2):
        for left in range(0, size - patch + 1, 2):
            window = np.s_[top : top + patch, left : left + patch]
            pictures = examples.pictures.copy()
            pictures[:, *window] = 0
            loss, _ = score(model, dataclasses.replace(examples, pictures=pictures))
            total[:, *window] += (loss - plain)[:, None, None]
            times[window] += 1
    return (total / np.maximum(times, 1)).astype(np.float32)


def features(model: keras.Model, examples: Examples, layers: list[str]) -> dict[str, np.ndarray]:
    """Each layer's output by its name, float32 (n, channels): the mean over the picture's places
    where it has any."""
    outputs = [model.get_layer(name).output for name in layers]
    outputs = [keras.ops.mean(o, (1, 2)) if len(o.shape) == 4 else o for o in outputs]
    joined = predict(keras.Model(model.input, keras.ops.concatenate(outputs, 1)), examples)
    ends = np.cumsum([output.shape[1] for output in outputs])
    return dict(zip(layers, np.split(joined, ends[:-1], 1), strict=True))


def interpolate(
    one: keras.Model, other: keras.Model, shares: np.ndarray, examples: Examples, held_out: Examples
) -> tuple[np.ndarray, np.ndarray]:
    """Loss (nats) and accuracy on `held_out` along the straight line from one network's weights to
    another's, each (shares,); share 0 is `one` (linear mode connectivity, Frankle et al. 2020).
    Averaged weights need not fit averaged normalisation statistics, so these are estimated anew
    from `examples` at every point (as in Jordan et al. 2023, REPAIR)."""
    between = keras.models.clone_model(one)
    measured = []
    for share in shares:
        pairs = zip(one.get_weights(), other.get_weights(), strict=True)
        between.set_weights([(1 - share) * a + share * b for a, b in pairs])
        reestimate(between, examples.pictures)
        measured.append([each.mean() for each in score(between, held_out)])
    losses, accuracies = np.transpose(measured)
    return losses, accuracies
