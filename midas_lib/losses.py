"""Loss functions: one function each, with the paper it comes from."""

import keras


def cross_entropy(targets, logits, smoothing: float = 0.0):
    """Mean cross-entropy against targets of which a share is spread over all classes.

    targets: (n, classes), rows summing to 1. logits: (n, classes). smoothing: in [0, 1) (label
    smoothing, Szegedy et al. 2016, section 7). Returns a scalar, in nats.
    """
    targets = targets * (1 - smoothing) + smoothing / logits.shape[-1]
    return keras.ops.mean(keras.losses.categorical_crossentropy(targets, logits, from_logits=True))
