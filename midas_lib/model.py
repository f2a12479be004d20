"""The project's one family of convolutional networks."""

import keras
import numpy as np
from keras import layers

from midas_lib.config import Network

# Whatever a user's keras.json says.
keras.config.set_image_data_format("channels_last")
keras.config.set_floatx("float32")


def build_cnn(classes: int, size: int = 28, network: Network | None = None) -> keras.Model:
    """A compact CNN from pixel values 0-255 of shape (n, size, size, 1) to class probabilities.

    Convolutions "conv1", "conv2", ... with batch normalisation (Ioffe & Szegedy 2015) and ReLU, of
    which the first ones stride instead of pooling (Springenberg et al. 2015): at a quarter of the
    input's side, the wide ones cost little. Then pooling, "features", dropout, a linear layer
    "logits", softmax. Weights start from Keras' global random state
    (`keras.utils.set_random_seed`), those of "logits" from zero: with none of the classes ahead,
    none is lost where labels only say what a picture is not."""
    network = network or Network()
    picture = keras.Input((size, size, 1), name="picture")
    x = layers.Rescaling(1 / 255, name="scaling")(picture)
    shapes = zip(network.channels, network.strides, strict=True)
    for i, (channels, stride) in enumerate(shapes, 1):
        x = layers.Conv2D(
            channels, network.kernel if i == 1 else 3, stride, "same", name=f"conv{i}",
            use_bias=not network.normalised, kernel_initializer="he_normal",
        )(x)  # fmt: skip
        if network.normalised:
            x = layers.BatchNormalization(momentum=0.9, name=f"conv{i}_norm")(x)
        x = layers.ReLU(name=f"conv{i}_relu")(x)
    if network.pooling == "mean":
        x = layers.GlobalAveragePooling2D(name="features")(x)
    else:
        side = x.shape[1]
        if network.pooling == "max":
            x = layers.MaxPooling2D(padding="same", name="pool")(x)
        else:
            x = layers.AveragePooling2D(side - side // 2, side // 2, name="pool")(x)
        x = layers.Flatten(name="features")(x)
    x = layers.Dropout(network.dropout, name="dropout")(x)
    x = layers.Dense(classes, kernel_initializer="zeros", name="logits")(x)
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
    convolutions = [one.name for one in target.layers if isinstance(one, keras.layers.Conv2D)]
    if layers is not None and layers > len(convolutions):
        raise ValueError(f"{layers} layers to copy: the network has {len(convolutions)}")
    copied = convolutions[:layers]
    names = [one.name for one in target.layers if one.name.removesuffix("_norm") in copied]
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
