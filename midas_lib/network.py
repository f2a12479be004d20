"""A trained network without TensorFlow: read from its .keras file, and run in NumPy.

What `model.build_cnn` and `model.add_geometry` make takes, once it is trained, convolutions,
pooling, a matrix product and a softmax: nothing that a framework need be loaded for.
"""

import io
import json
import re
import zipfile
from dataclasses import dataclass
from typing import NamedTuple

import h5py
import numpy as np

BATCH = 64  # pictures at once: their patches stay in the processor's cache
# Of a .keras file that is read: bytes of its members, layers, numbers a layer may be told, weights.
MAX_CONFIG, MAX_BYTES, MAX_LAYERS, MAX_SETTING, MAX_WEIGHTS = 2**20, 2**28, 500, 10_000, 5 * 10**7
# Of these kinds of layers, settings that are no others': what `_steps` relies on.
SETTINGS = {
    "InputLayer": {},
    "Rescaling": {},
    "Conv2D": {"data_format": "channels_last", "dilation_rate": [1, 1], "groups": 1,
               "activation": "linear"},
    "BatchNormalization": {"axis": -1, "center": True, "scale": True, "renorm": False},
    "ReLU": {"max_value": None, "negative_slope": 0.0, "threshold": 0.0},
    "MaxPooling2D": {"data_format": "channels_last"},
    "AveragePooling2D": {"data_format": "channels_last", "padding": "valid"},
    "GlobalAveragePooling2D": {"data_format": "channels_last", "keepdims": False},
    "Flatten": {"data_format": "channels_last"},
    "Dropout": {},
    "Dense": {"activation": "linear", "use_bias": True},
    "Add": {},
    "Softmax": {"axis": -1},
}  # fmt: skip
# How `Layer` calls some of them.
POOLING = {"MaxPooling2D": "largest", "AveragePooling2D": "average"}
PLAIN = {"GlobalAveragePooling2D": "mean", "Flatten": "flat", "Dense": "linear"}


class UnknownLayerError(ValueError):
    """A network that is none of this project's family."""


class Layer(NamedTuple):
    """What is done to the values of a picture. kind: "convolution" (followed by ReLU; normalisation
    is part of kernel and bias), "largest", "average" (pooling), "mean" (of all places), "flat",
    "linear", or "geometry", a linear layer of the geometry, added. kernel: (side, side, in, out) or
    (in, out); bias: (out,). size, strides, padding ("same" or "valid"): of windows."""

    kind: str
    kernel: np.ndarray | None = None
    bias: np.ndarray | None = None
    size: int = 0
    strides: int = 1
    padding: str = "same"


@dataclass(frozen=True, kw_only=True)
class Network:
    """A trained network. size: its input's side, in pixels. classes: how many. scale: what a pixel
    is multiplied by. layers: from the input on, those of the geometry, where it takes any, last."""

    size: int
    classes: int
    scale: float
    layers: tuple[Layer, ...]

    @property
    def geometry(self) -> bool:
        """Whether it takes the glyph's geometry too."""
        return self.layers[-1].kind == "geometry"

    def __call__(self, pictures: np.ndarray, geometry: np.ndarray | None = None) -> np.ndarray:
        """Class probabilities, float32 (n, classes), of pictures, (n, size, size, 1) in 0-255, and
        of their geometry, (n, 2), where the network takes it."""
        logits = self.logits(pictures)
        if geometry is not None:
            logits = logits + geometry.astype(np.float32) @ self.layers[-1].kernel
            logits = logits + self.layers[-1].bias
        shares = np.exp(logits - logits.max(1, keepdims=True))
        return shares / shares.sum(1, keepdims=True)

    def logits(self, pictures: np.ndarray) -> np.ndarray:
        """What the pictures alone tell, before the softmax, float32 (n, classes)."""
        starts = range(0, len(pictures), BATCH)
        return np.concatenate([self._ask(pictures[start : start + BATCH]) for start in starts])

    def _ask(self, pictures: np.ndarray) -> np.ndarray:
        values = pictures.astype(np.float32) * np.float32(self.scale)
        for layer in self.layers:
            if layer.kind == "convolution":
                windows = _windows(values, layer, 0)
                patches = windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, layer.kernel[..., 0].size)
                values = patches @ layer.kernel.reshape(patches.shape[1], -1) + layer.bias
                values = np.maximum(values, 0).reshape(*windows.shape[:3], -1)
            elif layer.kind in ("largest", "average"):
                reduce = np.max if layer.kind == "largest" else np.mean
                values = reduce(_windows(values, layer, -np.inf), (4, 5))
            elif layer.kind == "mean":
                values = values.mean((1, 2))
            elif layer.kind == "flat":
                values = values.reshape(len(values), -1)
            elif layer.kind == "linear":
                values = values @ layer.kernel + layer.bias
        return values


def _windows(values: np.ndarray, layer: Layer, fill: float) -> np.ndarray:
    """The layer's windows on values (n, h, w, c), padded as TensorFlow does: a view (n, rows,
    columns, c, size, size)."""
    if layer.padding == "same":
        missing = [
            max((-(-side // layer.strides) - 1) * layer.strides + layer.size - side, 0)
            for side in values.shape[1:3]
        ]
        around = [(each // 2, each - each // 2) for each in missing]
        values = np.pad(values, [(0, 0), *around, (0, 0)], constant_values=fill)
    windows = np.lib.stride_tricks.sliding_window_view(values, (layer.size,) * 2, (1, 2))
    return windows[:, :: layer.strides, :: layer.strides]


def read(path) -> Network:
    """The network in a .keras file. Raises `UnknownLayerError` where it has a layer, or an order of
    layers, that this family has not; `ValueError`, `OSError` or `KeyError` for what is no such file
    or is beyond the limits above, before it is built."""
    config, weights = read_members(path)
    kinds = [layer["class_name"] for layer in config["config"].get("layers", ())]
    if config["class_name"] != "Functional" or not set(kinds) <= SETTINGS.keys():
        raise UnknownLayerError(f"a {config['class_name']} of {', '.join(kinds)}")
    with h5py.File(io.BytesIO(weights), "r") as file:
        stored = _stored(file, config["config"]["layers"])
    size, scale, layers = _steps(config["config"]["layers"], stored)
    [classes] = {layer.bias.size for layer in layers if layer.kind in ("linear", "geometry")}
    network = Network(size=size, classes=classes, scale=scale, layers=tuple(layers))
    network.logits(np.zeros((1, size, size, 1), np.uint8))  # or its layers do not fit each other
    return network


def read_members(path) -> tuple[dict, bytes]:
    """The description of a .keras file's network and its weights (HDF5), neither of them built.
    Raises `ValueError` for one that is beyond the limits above."""
    with zipfile.ZipFile(path) as archive:
        names = {"config.json": MAX_CONFIG, "model.weights.h5": MAX_BYTES}
        for name, most in names.items():
            if archive.getinfo(name).file_size > most:
                raise ValueError(f"its {name} is larger than {most:,} bytes")
        content, weights = (archive.read(name) for name in names)
    config = json.loads(content)
    count = 0

    def check(value):
        nonlocal count
        if isinstance(value, dict):
            count += "class_name" in value
            value = [v for k, v in value.items() if k not in ("shared_object_id", "seed")]
        if isinstance(value, list):
            for one in value:
                check(one)
        elif isinstance(value, int | float) and abs(value) > MAX_SETTING:
            raise ValueError(f"a setting of {value:g} is beyond {MAX_SETTING:,}")

    check(config)
    if count > 10 * MAX_LAYERS:
        raise ValueError(f"more than {MAX_LAYERS} layers")
    return config, weights


def _stored(file: h5py.File, layers: list[dict]) -> list[list[np.ndarray]]:
    """Each layer's weights. Keras files them by the layers' kinds, and counts those."""
    found, seen, total = [], {}, 0
    words = {"Conv2D": "conv2d", "BatchNormalization": "batch_normalization", "Dense": "dense"}
    for layer in layers:
        arrays, word = [], words.get(layer["class_name"])
        if word:
            number = seen[word] = seen.get(word, -1) + 1
            place = f"layers/{word}{f'_{number}' * (number > 0)}/vars"
            for i in map(str, range(len(file[place]))):
                link = file[place].get(i, getlink=True)
                if not isinstance(link, h5py.HardLink):
                    raise ValueError("its weights lie in another place")
                dataset = file[place][i]
                total += dataset.size
                if dataset.external or dataset.is_virtual or dataset.file != file:
                    raise ValueError("its weights lie in another file")
                if total > MAX_WEIGHTS or dataset.dtype.kind != "f":
                    raise ValueError(f"its weights are no numbers, or over {MAX_WEIGHTS:,}")
                arrays.append(dataset[()].astype(np.float64))
        found.append(arrays)
    return found


def _steps(layers: list[dict], stored: list) -> tuple[int, float, list[Layer]]:
    """The input's side, what its pixels are multiplied by, and what is done to it."""
    found, geometry, scale, size, chain, ended, open_ = [], [], None, None, None, False, False
    for layer, arrays in zip(layers, stored, strict=True):
        kind, name, given = layer["class_name"], layer["name"], layer["config"]
        if any(given.get(k) != v for k, v in SETTINGS[kind].items()):
            raise UnknownLayerError(f"layer {name}: a {kind} of another kind")
        nodes = json.dumps(layer["inbound_nodes"])
        before = re.findall(r'"keras_history": \["([^"]*)"', nodes)  # whom it takes values from
        if kind == "InputLayer":
            shape = given["batch_shape"]
            if chain is None and len(shape) == 4 and shape[1] == shape[2] and shape[3] == 1:
                chain, size = name, shape[1]
            elif len(shape) != 2:
                raise UnknownLayerError(f"input {name}: neither a picture nor its geometry")
            continue
        if kind == "Dense" and before != [chain]:  # of the other input
            geometry.append(Layer("geometry", *arrays))
            branch = name
            continue
        inside = kind in ("BatchNormalization", "ReLU")  # of a convolution
        if before != ([chain, branch] if kind == "Add" else [chain]) or ended or inside != open_:
            raise UnknownLayerError(f"layer {name}: out of order")
        chain, ended = name, kind == "Softmax"
        open_ = kind in ("Conv2D", "BatchNormalization")
        if kind == "Rescaling":
            if found or scale or given["offset"]:
                raise UnknownLayerError(f"layer {name}: a second scaling, or an offset")
            scale = given["scale"]
        elif kind == "Conv2D":
            bias = arrays[1] if given["use_bias"] else np.zeros(arrays[0].shape[-1])
            window = {"strides": given["strides"][0], "padding": given["padding"]}
            found.append(Layer("convolution", arrays[0], bias, len(arrays[0]), **window))
        elif kind == "BatchNormalization":
            gamma, beta, mean, variance = arrays
            factor, last = gamma / np.sqrt(variance + given["epsilon"]), found[-1]
            kernel, bias = last.kernel * factor, beta + (last.bias - mean) * factor
            found[-1] = last._replace(kernel=kernel, bias=bias)
        elif kind in POOLING:
            window = {"strides": given["strides"][0], "padding": given["padding"]}
            found.append(Layer(POOLING[kind], size=given["pool_size"][0], **window))
        elif kind in PLAIN:
            found.append(Layer(PLAIN[kind], *arrays))
    if not ended or scale is None:
        raise UnknownLayerError("no softmax at its end, or no scaling at its beginning")
    for i, layer in enumerate(found := found + geometry):
        if layer.kernel is not None:
            found[i] = layer._replace(kernel=np.float32(layer.kernel), bias=np.float32(layer.bias))
    return size, scale, found
