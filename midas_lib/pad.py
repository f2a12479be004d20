"""A trained network as data for a page, whose script reads with it what one draws.

In the page TensorFlow.js does the arithmetic, on the processor: the same numbers on every machine,
where its faster backends round to 16 bits on some phones. It is a kept library and, without what a
trained network does not need, 0.4 MB.
"""

import base64

import numpy as np

from midas_lib import network

MODES = ("crop", "mnist")


def export(classifier) -> dict:
    """An `inference.Classifier`, its network a `network.Network`, for JSON.

    Returns "classes", "margin" and "mode" of the preprocessing, "layers" (each with "kind" and,
    where it has any, "size", "strides", "padding", "kernel" and "bias", the latter two the shape
    and the place of the first number in "weights"), and "weights", little-endian float32 in base64.
    Raises `ValueError` for a network or a preprocessing that the script does not know.
    """
    preprocessing, trained = classifier.preprocessing, classifier.network
    if preprocessing.size != 28 or preprocessing.mode not in MODES:
        raise ValueError(
            f"{preprocessing}: the page makes crops and MNIST's pictures, of 28 pixels"
        )
    if not isinstance(trained, network.Network):
        raise ValueError("the page knows networks of this project's family alone")
    layers, place, flat = [], 0, []
    for layer in trained.layers:
        layers.append({"kind": layer.kind})
        if layer.size:
            layers[-1] |= {name: getattr(layer, name) for name in ("size", "strides", "padding")}
        for name in ("kernel", "bias"):
            if (array := getattr(layer, name)) is not None:
                layers[-1][name] = {"shape": list(array.shape), "first": place}
                flat.append(np.ravel(array).astype("<f4"))
                place += array.size
    return {
        "classes": list(classifier.class_names),
        "mode": preprocessing.mode,
        "margin": preprocessing.margin,
        "layers": layers,
        "weights": base64.b64encode(np.concatenate(flat).tobytes()).decode(),
    }
