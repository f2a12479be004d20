"""A trained network as data for a page, whose script reads with it what one draws; characters for
those who cannot draw; and characters for people to read."""

import base64
import io
import json

import numpy as np
from PIL import Image

from midas_lib import network, standin

MODES = ("crop", "mnist")
PAPER = 900  # the page's paper's height, of the archive's pixels; it is 4/3 as wide
PEN = 60 / PAPER  # the width of its pen, as a share
SAMPLES = "AaO0oCcg5SsTx"


def export(classifier) -> dict:
    """An `inference.Classifier`, its network a `network.Network`, for JSON.

    Returns "classes", "margin" and "mode" of the preprocessing, "hands", and "layers", each with
    "kind" and, where it has any, "size", "strides", "padding", "kernel" and "bias", the latter two
    the "shape" and "data", in base64, of so many "bits" a number: 16 but for those of geometry, of
    which large ones cancel. Raises `ValueError` for a network or a preprocessing that the script
    does not know.
    """
    preprocessing, trained = classifier.preprocessing, classifier.network
    if preprocessing.size != 28 or preprocessing.mode not in MODES:
        raise ValueError(
            f"{preprocessing}: the page makes crops and MNIST's pictures, of 28 pixels"
        )
    if not isinstance(trained, network.Network):
        raise ValueError("the page knows networks of this project's family alone")
    layers = []
    for layer in trained.layers:
        layers.append({"kind": layer.kind})
        if layer.size:
            layers[-1] |= {name: getattr(layer, name) for name in ("size", "strides", "padding")}
        bits = 32 if layer.kind == "geometry" else 16
        for name in ("kernel", "bias"):
            if (array := getattr(layer, name)) is not None:
                data = base64.b64encode(array.astype(f"<f{bits // 8}").tobytes()).decode()
                layers[-1][name] = {"shape": list(array.shape), "bits": bits, "data": data}
    hands = classifier.hands and {
        name: np.asarray(value).tolist() for name, value in classifier.hands.items()
    }
    return {
        "classes": list(classifier.class_names),
        "mode": preprocessing.mode,
        "margin": preprocessing.margin,
        "hands": hands,
        "layers": layers,
    }


def samples(capitals: float, small: float, base: float) -> dict[str, list]:
    """Strokes, lists of points (x, y) in the paper's pixels, of characters between lines at these
    shares of its height, by the character."""
    found = {}
    for name in SAMPLES:
        # The font's small letters stand between 3 and 9, all others between 0 and 10.
        above, below, line = (3, 9, small) if name.islower() else (0, 10, capitals)
        unit = PAPER * (base - line) / (below - above)
        curves = standin.curves(name)
        middle = np.mean([edge(np.concatenate(curves)[:, 0]) for edge in (np.min, np.max)])
        foot = np.multiply(PAPER, (2 / 3, base))
        moved = [np.rint((curve - (middle, below)) * unit + foot) for curve in curves]
        found[name] = [curve.astype(int).tolist() for curve in moved]
    return found


def game(scans, labels, predictions, names, whole: dict[str, float]) -> dict:
    """Characters that a page's reader is asked to read, for JSON: "pictures", each a PNG in base64;
    "answers", the label and the network's answer to each, JSON in base64, so that nobody sees them
    by chance; and "whole".

    scans: uint8 (n, 225, 300) of up to four grays. labels, predictions: indices (n,) of `names`.
    whole: how many "images" were read in all, and the network's "accuracy" and
    "case_merged_accuracy" on them.
    """
    pictures = []
    for scan in scans:
        buffer = io.BytesIO()
        Image.fromarray(scan).quantize(4).save(buffer, "png", optimize=True)
        pictures.append(base64.b64encode(buffer.getvalue()).decode())
    answers = [[names[i] for i in pair] for pair in zip(labels, predictions, strict=True)]
    encoded = base64.b64encode(json.dumps(answers).encode()).decode()
    return {"pictures": pictures, "answers": encoded, "whole": whole}
