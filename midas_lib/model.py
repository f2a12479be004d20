"""The project's one family of convolutional networks."""

import keras
import numpy as np
from keras import layers

from midas_lib.config import Network


def build_cnn(classes: int, size: int = 28, network: Network | None = None) -> keras.Model:
    """A compact CNN from pixel values 0-255 of shape (n, size, size, 1) to class probabilities.

    Three stages of 3x3 convolutions (Simonyan & Zisserman 2015) with batch normalisation (Ioffe &
    Szegedy 2015) and ReLU, at the whole, a half and a quarter of the input's side; global average
    pooling (Lin et al. 2014), dropout, a linear layer "logits", softmax. Weights start from Keras'
    global random state (`keras.utils.set_random_seed`).
    """
    network = network or Network()
    picture = keras.Input((size, size, 1), name="picture")
    x = layers.Rescaling(1 / 255, name="scaling")(picture)
    for stage, (channels, depth) in enumerate(zip((32, 64, 128), network.depth, strict=True), 1):
        if stage > 1:
            x = layers.MaxPooling2D(name=f"pool{stage - 1}")(x)
        channels = 8 * round(channels * network.width / 8)
        for i in range(1, depth + 1):
            name = f"stage{stage}_conv{i}"
            x = layers.Conv2D(
                channels, network.kernel, padding="same", use_bias=False,
                kernel_initializer="he_normal", name=name,
            )(x)  # fmt: skip
            x = layers.BatchNormalization(momentum=0.9, name=f"{name}_norm")(x)
            x = layers.ReLU(name=f"{name}_relu")(x)
    x = layers.GlobalAveragePooling2D(name="features")(x)
    x = layers.Dropout(network.dropout, name="dropout")(x)
    x = layers.Dense(classes, name="logits")(x)
    return keras.Model(picture, layers.Softmax(name="probabilities")(x))


def add_geometry(model: keras.Model, kernel: np.ndarray, bias: np.ndarray) -> keras.Model:
    """The network with a second input, "geometry", of shape (n, d): the logits that a linear layer
    (kernel (d, classes), bias (classes,)) makes of it are added to the picture's. Layers are shared
    with `model`."""
    place = keras.Input((len(kernel),), name="geometry")
    linear = layers.Dense(len(bias), name="geometry_logits")
    total = layers.Add(name="sum")([model.get_layer("logits").output, linear(place)])
    linear.set_weights([kernel, bias])
    return keras.Model([model.input, place], layers.Softmax(name="probabilities")(total))


def transfer_backbone(
    source: keras.Model, target: keras.Model, layers: int | None = None
) -> list[str]:
    """Copy the first `layers` convolutions (None: all), each with its normalisation, from `source`
    into `target`; returns the names of the layers copied, in order. Raises `ValueError`, before
    anything is copied, when the two differ in such a convolution's name or shape, or have fewer."""
    names = [one.name for one in target.layers if one.name.startswith("stage") and one.weights]
    if layers is not None:
        if 2 * layers > len(names):
            raise ValueError(f"{layers} layers to copy: the network has {len(names) // 2}")
        names = names[: 2 * layers]
    ours = {layer.name: layer for layer in source.layers}
    for name in names:
        wanted = [w.shape for w in target.get_layer(name).weights]
        if name not in ours or [w.shape for w in ours[name].weights] != wanted:
            raise ValueError(f"layer {name}: not in the source network, or of another shape")
    for name in names:
        target.get_layer(name).set_weights(ours[name].get_weights())
    return names


def transfer_head(source: keras.Model, target: keras.Model) -> None:
    """Copy the last layer's columns of the target's classes, which are the source's first ones.
    Raises `ValueError` when the source has fewer classes, or other features."""
    kernel, bias = source.get_layer("logits").get_weights()
    head = target.get_layer("logits")
    features, classes = head.kernel.shape
    if len(bias) < classes or len(kernel) != features:
        raise ValueError("layer logits: the source has fewer classes, or other features")
    head.set_weights([kernel[:, :classes], bias[:classes]])
