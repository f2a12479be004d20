"""Random warps and stroke widths of whole batches, inside the training graph."""

import numpy as np
import tensorflow as tf

from midas_lib.config import Augmentation


def warp(images: tf.Tensor, seed: tf.Tensor, settings: Augmentation) -> tf.Tensor:
    """Warp every picture of a batch its own way (Simard et al. 2003, section 2). images: float32
    (n, size, size, 1), black paper, which also fills what comes in from outside. seed: int32 (2,);
    the same seed gives the same warps. Returns the same shape, bilinearly sampled. With every range
    at zero it is the identity."""
    count, size = tf.shape(images)[0], images.shape[1]
    u = tf.random.stateless_uniform((6, count), seed, -1.0, 1.0)
    angle = u[0] * settings.rotation * (np.pi / 180)
    width = tf.exp(u[1] * settings.scale + u[2] * settings.aspect)
    height = tf.exp(u[1] * settings.scale - u[2] * settings.aspect)
    shear = u[3] * settings.shear
    cosine, sine = tf.cos(angle), tf.sin(angle)
    a, b = cosine * width, (shear * cosine - sine) * height
    c, d = sine * width, (cosine + shear * sine) * height
    centre = (size - 1) / 2
    shift = u[4:6] * (settings.shift * size)
    zero = tf.zeros_like(a)
    x = centre - (a + b) * centre + shift[0]
    y = centre - (c + d) * centre + shift[1]
    images = tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=tf.stack([a, b, x, c, d, y, zero, zero], axis=1),
        output_shape=tf.constant([size, size]),
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
    )
    if settings.elastic:
        coarse = tf.random.stateless_normal((count, 5, 5, 2), seed + 1) * settings.elastic
        images = _displace(images, tf.image.resize(coarse, (size, size), "bicubic"))
    if settings.thickness:
        amount = tf.random.stateless_uniform((count, 1, 1, 1), seed + 3, -1.0, 1.0)
        images = thicken(images, amount * settings.thickness)
    return images


def thicken(images: tf.Tensor, amount: tf.Tensor) -> tf.Tensor:
    """Mix pictures with themselves dilated (amount over 0) or eroded (under 0) by one pixel.
    images: float32 (n, size, size, 1). amount: in [-1, 1], broadcast; 0 is the identity."""
    dilated = tf.nn.max_pool2d(images, 3, 1, "SAME")
    eroded = -tf.nn.max_pool2d(-images, 3, 1, "SAME")
    return images + tf.abs(amount) * (tf.where(amount > 0, dilated, eroded) - images)


def _displace(images: tf.Tensor, flow: tf.Tensor) -> tf.Tensor:
    size = images.shape[1]
    grid = tf.range(size, dtype=tf.float32)
    y = tf.clip_by_value(grid[:, None] + flow[..., 0], 0.0, size - 1.001)
    x = tf.clip_by_value(grid[None, :] + flow[..., 1], 0.0, size - 1.001)
    corner = tf.cast(tf.floor(y), tf.int32) * size + tf.cast(tf.floor(x), tf.int32)
    pixels = tf.reshape(images, (-1, size * size))
    corner = tf.reshape(corner, (-1, size * size))

    def at(offset):
        taken = tf.gather(pixels, corner + offset, batch_dims=1)
        return tf.reshape(taken, (-1, size, size))

    right, down = x - tf.floor(x), y - tf.floor(y)
    upper = at(0) * (1 - right) + at(1) * right
    lower = at(size) * (1 - right) + at(size + 1) * right
    return (upper * (1 - down) + lower * down)[..., None]


def mixup(arrays: list[tf.Tensor], seed: tf.Tensor, most: float) -> list[tf.Tensor]:
    """Mix each row of every array with the row at the mirrored place in the batch, all by one
    weight drawn uniformly from [0, most] (after Zhang et al. 2018, mixup, equation 1)."""
    weight = tf.random.stateless_uniform((), seed, 0.0, most)
    return [(1 - weight) * array + weight * array[::-1] for array in arrays]
