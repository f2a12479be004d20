"""A trained network as data for a page, whose script reads with it what one draws.

In the page TensorFlow.js does the arithmetic, on the processor: the same numbers on every machine,
where its faster backends round to 16 bits on some phones. It is a kept library and, without what a
trained network does not need, 0.4 MB.
"""

import base64

import numpy as np

# Layers that change nothing once the network is trained, or that the script knows of by itself.
IMPLIED = ("InputLayer", "Rescaling", "ReLU", "Dropout", "Add", "Softmax")
POOLING = {"MaxPooling2D": "largest", "AveragePooling2D": "average"}
PLAIN = {"GlobalAveragePooling2D": "mean", "Flatten": "flat"}
MODES = ("crop", "mnist")


def export(classifier) -> dict:
    """An `inference.Classifier`, its model made by `model.build_cnn` or `add_geometry`, for JSON.

    Normalisation is folded into the convolutions. Returns "classes", "margin" and "mode" of the
    preprocessing, "layers" (each with "kind" and, where it has any, "size", "strides", "padding",
    "kernel" and "bias", the latter two the shape and the place of the first number in "weights"),
    and "weights", little-endian float32 in base64.
    Raises `ValueError` for a layer or a preprocessing that the script does not know.
    """
    preprocessing = classifier.preprocessing
    if preprocessing.size != 28 or preprocessing.mode not in MODES:
        raise ValueError(
            f"{preprocessing}: the page makes crops and MNIST's pictures, of 28 pixels"
        )
    layers, weights = [], []
    for layer in classifier.model.layers:
        kind = type(layer).__name__
        if kind == "Conv2D":
            layers.append({"kind": "convolution", "strides": layer.strides[0]})
            weights.append([np.asarray(w, np.float64) for w in layer.get_weights()])
        elif kind == "BatchNormalization":
            gamma, beta, mean, variance = (np.asarray(w, np.float64) for w in layer.get_weights())
            scale = gamma / np.sqrt(variance + layer.epsilon)
            weights[-1] = [weights[-1][0] * scale, beta - mean * scale]
        elif kind == "Dense":
            layers.append({"kind": "geometry" if layer.name.startswith("geometry") else "linear"})
            weights.append(layer.get_weights())
        elif kind in POOLING:
            shape = {"size": layer.pool_size[0], "strides": layer.strides[0]}
            layers.append({"kind": POOLING[kind], **shape, "padding": layer.padding})
            weights.append([])
        elif kind in PLAIN:
            layers.append({"kind": PLAIN[kind]})
            weights.append([])
        elif kind not in IMPLIED:
            raise ValueError(f"layer {layer.name}: the page does not know a {kind}")
    place, flat = 0, []
    for layer, arrays in zip(layers, weights, strict=True):
        for name, array in zip(("kernel", "bias"), arrays, strict=False):
            layer[name] = {"shape": list(array.shape), "first": place}
            flat.append(np.ravel(array).astype("<f4"))
            place += array.size
    return {
        "classes": list(classifier.class_names),
        "mode": preprocessing.mode,
        "margin": preprocessing.margin,
        "layers": layers,
        "weights": base64.b64encode(np.concatenate(flat).tobytes()).decode(),
    }
