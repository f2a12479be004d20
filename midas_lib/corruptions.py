"""Ways to spoil a digit's picture, to see what a network trained on clean ones withstands.

In the spirit of MNIST-C (Mu & Gilmer 2019), one fixed strength each.
"""

import cv2
import numpy as np

# Whole pixels, so that a shift does not blur as well: a diagonal one is 2.8 long.
SHIFTS = [(3, 0), (2, 2), (0, 3), (-2, 2), (-3, 0), (-2, -2), (0, -3), (2, -2)]


def _warped(image, matrix):
    return cv2.warpAffine(image, matrix.astype(np.float32), image.shape[::-1])


def _turned(image, angle, scale):
    height, width = image.shape
    return _warped(
        image, cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, scale)
    )


def _shift(image, rng):
    across, down = SHIFTS[rng.integers(len(SHIFTS))]
    return _warped(image, np.array([[1, 0, across], [0, 1, down]]))


def _rotation(image, rng):
    return _turned(image, rng.choice([-25, 25]), 1)


def _scale(image, rng):
    return _turned(image, 0, 0.7)


def _blur(image, rng):
    return cv2.GaussianBlur(image, (0, 0), 1.2)


def _noise(image, rng):
    return np.clip(image + rng.normal(0, 60, image.shape), 0, 255).round().astype(np.uint8)


def _thinner(image, rng):
    return cv2.erode(image, np.ones((2, 2), np.uint8))


def _thicker(image, rng):
    return cv2.dilate(image, np.ones((2, 2), np.uint8))


def _contrast(image, rng):
    return (0.4 * image).round().astype(np.uint8)


CORRUPTIONS = {
    "shift": _shift,
    "rotation": _rotation,
    "scale": _scale,
    "blur": _blur,
    "noise": _noise,
    "thinner strokes": _thinner,
    "thicker strokes": _thicker,
    "low contrast": _contrast,
}


def corrupt(images: np.ndarray, name: str, seed: int = 0) -> np.ndarray:
    """Spoil uint8 pictures (n, height, width), bright ink on black; the same way at every call.

    shift: 3 pixels straight or 2 each way diagonally, one of 8 directions. rotation: 25 degrees
    either way. scale: to 0.7. blur: Gaussian, 1.2 pixels. noise: Gaussian, 60 of 255. thinner,
    thicker strokes: eroded or dilated by a square of 2 pixels. low contrast: ink at 40 %.
    Raises ValueError for another name.
    """
    if name not in CORRUPTIONS:
        raise ValueError(f"corruption {name!r}: choose one of {', '.join(CORRUPTIONS)}")
    rng = np.random.default_rng(seed)
    return np.stack([CORRUPTIONS[name](image, rng) for image in images])
