"""Ways to spoil a digit's picture, to see what a network trained on clean ones withstands.

In the spirit of MNIST-C (Mu & Gilmer 2019), one fixed strength each.
"""

import cv2
import numpy as np

# Whole pixels, so that a shift does not blur as well: a diagonal one is 2.8 long.
SHIFTS = [(3, 0), (2, 2), (0, 3), (-2, 2), (-3, 0), (-2, -2), (0, -3), (2, -2)]
SQUARE = np.ones((2, 2), np.uint8)


def _warped(image, matrix):
    return cv2.warpAffine(image, matrix.astype(np.float32), image.shape[::-1])


def _turned(image, angle, scale):
    centre = (image.shape[1] - 1) / 2, (image.shape[0] - 1) / 2
    return _warped(image, cv2.getRotationMatrix2D(centre, angle, scale))


CORRUPTIONS = {
    "shift": lambda image, rng: _warped(image, np.c_[np.eye(2), rng.choice(SHIFTS)]),
    "rotation": lambda image, rng: _turned(image, rng.choice([-25, 25]), 1),
    "scale": lambda image, rng: _turned(image, 0, 0.7),
    "blur": lambda image, rng: cv2.GaussianBlur(image, (0, 0), 1.2),
    "noise": lambda image, rng: image + rng.normal(0, 60, image.shape),
    "thinner strokes": lambda image, rng: cv2.erode(image, SQUARE),
    "thicker strokes": lambda image, rng: cv2.dilate(image, SQUARE),
    "low contrast": lambda image, rng: 0.4 * image,
}


def corrupt(images: np.ndarray, name: str, seed: int = 0) -> np.ndarray:
    """Spoil uint8 pictures (n, height, width), bright ink on black, by one of `CORRUPTIONS`
    (lengths in pixels, angles in degrees); the same way at every call. Raises ValueError for
    another name."""
    if name not in CORRUPTIONS:
        raise ValueError(f"corruption {name!r}: choose one of {', '.join(CORRUPTIONS)}")
    rng = np.random.default_rng(seed)
    spoilt = np.stack([CORRUPTIONS[name](image, rng) for image in images])
    return np.clip(spoilt, 0, 255).round().astype(np.uint8)
