"""Networks run in NumPy: the same answers as Keras', and nothing built that is too large."""

import io
import json
import zipfile

import h5py
import keras
import numpy as np
import pytest
from fakes import NETWORKS, cnn, kind_of_network, trained

from midas_lib import network
from midas_lib.config import Network


@pytest.mark.parametrize("name", NETWORKS)
def test_every_kind_of_network_answers_as_keras_does(name, monkeypatch):
    rng, model = np.random.default_rng(0), kind_of_network(name)
    monkeypatch.setattr(network, "BATCH", 3)
    pictures, geometry = rng.integers(0, 256, (7, 28, 28, 1)).astype(np.uint8), rng.random((7, 2))
    expected = model.predict_on_batch([pictures.astype(np.float32), geometry])
    found = trained(model)
    assert (found.size, found.classes, found.geometry) == (28, 10, True)
    answers = found(pictures, geometry)
    np.testing.assert_allclose(answers, expected, rtol=0, atol=1e-5)
    assert np.ptp(expected, axis=0).max() > 0.01  # the picture is heard
    logits = keras.Model(model.inputs[0], model.get_layer("logits").output)
    np.testing.assert_allclose(
        found.logits(pictures), logits.predict_on_batch(pictures.astype(np.float32)), atol=1e-4
    )


@pytest.mark.parametrize("size", [11, 12, 20])
def test_other_sizes_are_padded_as_keras_does(size):
    model = cnn(4, size, Network(channels=(8, 16, 8), strides=(2, 2, 1)))
    pictures = np.random.default_rng(1).integers(0, 256, (3, size, size, 1)).astype(np.uint8)
    expected, found = model.predict_on_batch(pictures.astype(np.float32)), trained(model)
    assert (found.size, found.classes, found.geometry) == (size, 4, False)
    np.testing.assert_allclose(found(pictures), expected, rtol=0, atol=1e-5)


def chained(*layers, size=8):
    """A model of these layers, from a picture."""
    inputs = values = keras.Input((size, size, 1))
    for layer in layers:
        values = layer(values)
    return keras.Model(inputs, values)


def ending(*layers):
    scaled = keras.layers.Rescaling(1 / 255)
    flat, head, last = keras.layers.Flatten(), keras.layers.Dense(3), keras.layers.Softmax()
    return chained(scaled, *layers, flat, head, last)


UNKNOWN = {
    "a layer of another kind": lambda: ending(keras.layers.Permute((2, 1, 3))),
    "a convolution that no ReLU follows": lambda: ending(keras.layers.Conv2D(2, 3)),
    "another activation": lambda: ending(keras.layers.Conv2D(2, 3, activation="tanh")),
    "a leaky ReLU": lambda: ending(
        keras.layers.Conv2D(2, 3), keras.layers.ReLU(negative_slope=0.1)
    ),
    "a dilated convolution": lambda: ending(
        keras.layers.Conv2D(2, 3, dilation_rate=2), keras.layers.ReLU()
    ),
    "means that know of the edge": lambda: ending(keras.layers.AveragePooling2D(2, padding="same")),
    "no softmax": lambda: chained(keras.layers.Rescaling(1 / 255), keras.layers.Flatten()),
    "no scaling": lambda: chained(
        keras.layers.Flatten(), keras.layers.Dense(3), keras.layers.Softmax()
    ),
    "an offset": lambda: ending(keras.layers.Rescaling(2, offset=1)),
    "a sequence": lambda: keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten()]),
}


@pytest.mark.parametrize("kind", UNKNOWN)
def test_a_network_of_another_family_is_not_taken_for_ours(kind):
    with pytest.raises(network.UnknownLayerError):
        trained(UNKNOWN[kind]())


def test_layers_out_of_order_are_not_taken_for_ours():
    inputs = keras.Input((8, 8, 1))
    scaled = keras.layers.Rescaling(1 / 255)(inputs)
    beside = keras.layers.Dense(3)(keras.layers.Flatten()(scaled))
    other = keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(scaled))
    model = keras.Model(inputs, keras.layers.Softmax()(keras.layers.Add()([beside, other])))
    with pytest.raises(network.UnknownLayerError):
        trained(model)


# -- files that would take too much


@pytest.fixture
def parts(tmp_path):
    """A network's description and weights."""
    path = tmp_path / "good.keras"
    cnn(3, 12, Network(channels=(8, 16), strides=(2, 2))).save(path)
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(folder, parts):
    path = folder / "model.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return path


def refused(folder, parts, message, monkeypatch):
    """Before anything of its weights is read."""
    monkeypatch.setattr(network, "_steps", lambda *_: pytest.fail("it was built"))
    with pytest.raises(ValueError, match=message):
        network.read(packed(folder, parts))


def test_what_is_packed_beyond_the_limits_is_not_unpacked(tmp_path, parts, monkeypatch):
    wide = parts | {"config.json": b" " * (network.MAX_CONFIG + 1)}
    refused(tmp_path, wide, "config.json is larger than", monkeypatch)
    monkeypatch.setattr(network, "MAX_BYTES", 1000)
    refused(tmp_path, parts, "model.weights.h5 is larger than", monkeypatch)


def test_a_layer_that_would_take_gigabytes_is_refused(tmp_path, parts, monkeypatch):
    config = json.loads(parts["config.json"])
    layers = config["config"]["layers"]
    layers[-2]["config"]["units"] = 10**6
    wide = parts | {"config.json": json.dumps(config)}
    refused(tmp_path, wide, r"a setting of 1e\+06 is beyond 10,000", monkeypatch)
    layers[-2]["config"]["units"] = 3
    layers += layers[-1:] * 50
    monkeypatch.setattr(network, "MAX_LAYERS", 10)
    refused(tmp_path, parts | {"config.json": json.dumps(config)}, "more than 10 l", monkeypatch)


def rewritten(content, change):
    """HDF5 weights after a change of the last layer's kernel."""
    file = io.BytesIO(content)
    with h5py.File(file, "r+") as weights:
        place = weights["layers/dense/vars"]
        del place["0"]
        change(place)
    return file.getvalue()


def test_weights_beyond_the_limits_or_elsewhere_are_not_read(tmp_path, parts, monkeypatch):
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as other:
        other["kernel"] = np.zeros((144, 3), np.float32)
    raw = tmp_path / "secret.bin"
    raw.write_bytes(bytes(144 * 3 * 4))
    virtual = h5py.VirtualLayout((144, 3), np.float32)
    virtual[:] = h5py.VirtualSource(str(secret), "kernel", (144, 3))
    changes = {
        "numbers, or over": lambda to: to.create_dataset(
            "0", (10**6, 10**6), np.float32, chunks=(1000, 1000)
        ),
        "no numbers": lambda to: to.create_dataset("0", data=np.full((144, 3), b"x")),
        "another file": lambda to: to.create_dataset(
            "0", (144, 3), np.float32, external=[(str(raw), 0, 144 * 3 * 4)]
        ),
        "in another file": lambda to: to.create_virtual_dataset("0", virtual),
        "in another place": lambda to: to.__setitem__(
            "0", h5py.ExternalLink(str(secret), "kernel")
        ),
    }
    for message, change in changes.items():
        changed = parts | {"model.weights.h5": rewritten(parts["model.weights.h5"], change)}
        refused(tmp_path, changed, message, monkeypatch)


def test_weights_that_do_not_fit_the_layers_are_refused(tmp_path, parts):
    def shorter(to):
        to["0"] = np.zeros((7, 3), np.float32)

    changed = parts | {"model.weights.h5": rewritten(parts["model.weights.h5"], shorter)}
    with pytest.raises(ValueError, match="mismatch|shape"):
        network.read(packed(tmp_path, changed))
