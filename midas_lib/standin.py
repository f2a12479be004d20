"""Draw stand-in archives: the real file names, formats and layouts, from a font of pen strokes.

They let everything run where the real archives cannot be had. The same seed and profile give the
same bytes again (on the same versions of OpenCV and zlib).
"""

import functools
from pathlib import Path

import cv2
import numpy as np

from midas_lib import files
from midas_lib.config import CLASS_NAMES

# images per class in the characters, images in MNIST's training set, images in its test set
SIZES = {"smoke": (8, 600, 200), "standard": (40, 6_000, 1_000), "full": (40, 60_000, 10_000)}
POOL_SHARE = 55 / 40  # 55 people wrote the real set, each class holds 40 of them
LEAK_SHARE = 0.001  # pictures that do lie in their own digit's folder
HEIGHT, WIDTH = 900, 1200
UNIT = 40  # pixels of the characters' canvas per unit of the stroke font

# A glyph is strokes, a stroke the control points of a quadratic B-spline, a point two hex digits:
# x, and y downwards. Capitals and digits reach from y=0 to y=a; small letters have their body
# between 3 and 9 and descend to c. A doubled point is a sharp corner.
STROKES = {
    "0": "40 10 1a 7a 70 40",
    "1": "32 50 50 5a",
    "2": "12 10 70 76 1a 1a 7a",
    "3": "11 10 70 75 35 35 75 7a 1a 19",
    "4": "50 17 17 87, 63 6a",
    "5": "70 20 20 14 14 84 8a 1a",
    "6": "60 11 1a 7a 75 25 17",
    "7": "10 70 70 3a",
    "8": "40 10 15 75 70 40, 45 05 0a 8a 85 45",
    "9": "70 10 15 75 70 70 6a",
    "A": "0a 40 40 8a, 26 66",
    "B": "10 1a, 10 70 75 15 15 85 8a 1a",
    "C": "82 80 00 0a 8a 88",
    "D": "10 1a, 10 90 9a 1a",
    "E": "80 10 10 1a 1a 8a, 15 65",
    "F": "80 10 10 1a, 15 65",
    "G": "82 80 00 0a 8a 86 86 56",
    "H": "10 1a, 80 8a, 15 85",
    "I": "20 60, 40 4a, 2a 6a",
    "J": "20 80, 60 6a 1a 17",
    "K": "10 1a, 80 15 15 8a",
    "L": "10 1a 1a 8a",
    "M": "0a 00 00 46 46 80 80 8a",
    "N": "1a 10 10 8a 8a 80",
    "O": "40 00 0a 9a 90 40",
    "P": "10 1a, 10 80 85 15",
    "Q": "40 00 0a 9a 90 40, 57 9b",
    "R": "10 1a, 10 80 85 15 15 8a",
    "S": "81 80 00 05 85 8a 0a 08",
    "T": "00 90, 40 4a",
    "U": "10 1a 8a 80",
    "V": "00 4a 4a 80",
    "W": "00 2a 2a 43 43 6a 6a 90",
    "X": "00 8a, 80 0a",
    "Y": "00 45 45 4a, 80 45",
    "Z": "00 80 80 0a 0a 8a",
    "a": "73 13 19 79 73 73 79 89",
    "b": "20 29, 23 83 89 29",
    "c": "74 73 13 19 79 78",
    "d": "73 13 19 79, 70 79",
    "e": "16 76 76 73 13 19 79 78",
    "f": "80 40 45 4a, 14 74",
    "g": "73 13 19 79 73 73 7c 1c 1b",
    "h": "20 29, 26 23 73 79",
    "i": "43 49, 41 41",
    "j": "53 5c 1c 1b, 51 51",
    "k": "20 29, 63 26 26 79",
    "l": "40 46 49 69",
    "m": "19 13, 15 13 53 59, 55 53 93 99",
    "n": "23 29, 26 23 73 79",
    "o": "43 13 19 79 73 43",
    "p": "23 2c, 23 83 89 29",
    "q": "73 13 19 79 73 73 7c 7c 9b",
    "r": "23 29, 26 23 63 64",
    "s": "74 73 13 16 76 79 19 18",
    "t": "41 49 79 78, 14 74",
    "u": "23 29 79 73 73 79",
    "v": "13 49 49 73",
    "w": "03 29 29 45 45 69 69 83",
    "x": "13 79, 73 19",
    "y": "13 47, 73 2c",
    "z": "13 73 73 19 19 79",
}
GLYPHS = {
    glyph: [
        np.array([[int(digit, 16) for digit in point] for point in stroke.split()], float)
        for stroke in text.split(",")
    ]
    for glyph, text in STROKES.items()
}


def draw(name: str, paths: tuple[Path, ...], profile: str, seed: int = 0) -> None:
    """Write the stand-in archive `name` ("characters", "mnist" or "mislabelled") to `paths`.

    `paths` is one zip, or for "mnist" the training images, training labels, test images and test
    labels (in this order); `profile` gives the size, see `SIZES`.
    """
    per_class, n_train, n_test = SIZES[profile]
    if name == "characters":
        files.write_zip(paths[0], _characters(per_class, seed))
    elif name == "mislabelled":
        files.write_zip(paths[0], _mislabelled(*digits(n_train, seed=seed), seed))
    else:
        arrays = (*digits(n_train, seed=seed), *digits(n_test, seed=seed, test=True))
        for path, array in zip(paths, arrays, strict=True):
            files.write_idx(path, array)


def digits(n: int, *, seed: int = 0, test: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Draw MNIST-like digits: uint8 images (n, 28, 28), bright on black, and uint8 labels (n,).

    As in MNIST the glyph is scaled into a 20x20 box that is then placed with its centre of mass
    in the middle. Every image has a hand of its own; classes are equally frequent, shuffled.
    """
    rng = np.random.default_rng([seed, 1, test])
    labels = rng.permutation(np.arange(n) % 10).astype(np.uint8)
    return np.stack([_digit(label, rng) for label in labels]), labels


def _characters(per_class: int, seed: int):
    """Yield (member name, PNG) of the characters, sorted by name."""
    rng = np.random.default_rng([seed, 0])
    pool = round(per_class * POOL_SHARE)
    # writers 1 and 2 of the real set used a thicker pen
    hands = [_hand(rng, pen=2.1 if writer < 2 else 1.65) for writer in range(pool)]
    for number, glyph in enumerate(CLASS_NAMES, 1):
        for writer in sorted(rng.choice(pool, per_class, replace=False)):
            pen = round(UNIT * hands[writer]["pen"])
            lines = _place(_write(glyph, hands[writer], rng), pen)
            canvas = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
            _ink(canvas, lines, pen, (0, 0, 0), cv2.LINE_8)
            png = cv2.imencode(".png", canvas)[1].tobytes()
            yield f"train/Sample{number:03}/img{number:03}-{writer + 1:03}.png", png


def _mislabelled(images: np.ndarray, labels: np.ndarray, seed: int):
    """Yield (member name, JPEG) of training digits in wrong folders, sorted by name.

    The folder is one of the nine wrong digits, equally likely, but for a share `LEAK_SHARE` of
    pictures that lie in their own; the member's number is the index in the training set.
    """
    rng = np.random.default_rng([seed, 2])
    folders = (labels + rng.integers(1, 10, len(labels))) % 10
    leaks = rng.choice(len(labels), round(LEAK_SHARE * len(labels)), replace=False)
    folders[leaks] = labels[leaks]
    for index in np.lexsort((np.arange(len(labels)), folders)):
        jpeg = cv2.imencode(".jpg", images[index])[1].tobytes()
        yield f"mnistTask/{folders[index]}/image_{index:06}.jpg", jpeg


def _place(lines: list[np.ndarray], pen: int) -> list[np.ndarray]:
    """Bring lines from font units to pixels of the characters' canvas, moved to lie within it."""
    lines = [UNIT * line + (WIDTH / 2, HEIGHT / 2) for line in lines]
    low = np.min([line.min(0) for line in lines], 0) - pen
    high = np.max([line.max(0) for line in lines], 0) + pen
    move = np.maximum(-low, 0) + np.minimum((WIDTH, HEIGHT) - high, 0)
    return [line + move for line in lines]


def _digit(label: int, rng: np.random.Generator) -> np.ndarray:
    """Draw one 28x28 digit, bright on black."""
    lines = _write(str(label), _hand(rng, pen=0), rng)
    pen = 4 * rng.uniform(1.6, 3.2)
    low = np.min([line.min(0) for line in lines], 0)
    span = np.max([line.max(0) for line in lines], 0) - low
    scale = (80 - pen) / span.max()  # drawn four times too large, to be shrunk smoothly
    box = np.zeros((80, 80), np.uint8)
    lines = [(line - low - span / 2) * scale + 40 for line in lines]
    _ink(box, lines, max(round(pen), 1), 255, cv2.LINE_AA)
    box = cv2.resize(box, (20, 20), interpolation=cv2.INTER_AREA)
    mass = cv2.moments(box)
    # a box 20 wide fits into 28 wherever its centre of mass calls for, within these limits
    x, y = (int(np.clip(round(13.5 - mass[key] / mass["m00"]), 0, 8)) for key in ("m10", "m01"))
    image = np.zeros((28, 28), np.uint8)
    image[y : y + 20, x : x + 20] = box
    return image


def _hand(rng: np.random.Generator, pen: float) -> dict:
    """Draw a writer's hand; lengths in units of the stroke font (a capital is 10 high)."""
    return {
        "pen": pen * rng.uniform(0.97, 1.03),  # width of the line
        "slant": rng.normal(0.12, 0.12),  # shift to the right per unit upwards
        "stretch": (rng.normal(0.95, 0.1), rng.normal(1, 0.1)),  # of width and height
        "wobble": rng.uniform(0.1, 0.35),  # amplitude of the bends
        "shift": (rng.normal(-0.5, 1), rng.normal(0, 0.5)),  # of the glyph, right and down
    }


def _write(glyph: str, hand: dict, rng: np.random.Generator) -> list[np.ndarray]:
    """Write a glyph once: one polyline (points, 2) per stroke, in font units around (0, 0)."""
    strokes = GLYPHS[glyph]
    left, right = (edge([edge(stroke[:, 0]) for stroke in strokes]) for edge in (min, max))
    size = np.multiply(hand["stretch"], rng.normal(1, 0.07)) * rng.normal(1, 0.04, 2)
    shift = hand["shift"] + rng.normal(0, (1.0, 0.6))
    phase = rng.uniform(0, 2 * np.pi, (2, 1))
    lines = []
    for stroke in strokes:
        # points that coincide (corners, closed ends) are moved together
        moved = {tuple(point): point + rng.normal(0, 0.2, 2) for point in stroke}
        controls = np.array([moved[tuple(point)] for point in stroke])
        x, y = (_spline(len(stroke)) @ controls - ((left + right) / 2, 5)).T * size[:, None]
        bend = hand["wobble"] * np.sin(2 * np.pi / 8 * np.stack([y, x]) + phase)
        lines.append((np.stack([x - hand["slant"] * y, y]) + bend).T + shift)
    return lines


@functools.cache
def _spline(n: int) -> np.ndarray:
    """Matrix that turns n control points into points on their curve, by Chaikin's subdivision."""
    matrix = np.eye(n)
    for _ in range(4):
        cut = np.stack(
            [0.75 * matrix[:-1] + 0.25 * matrix[1:], 0.25 * matrix[:-1] + 0.75 * matrix[1:]], 1
        )
        matrix = np.concatenate([matrix[:1], cut.reshape(-1, n)[1:-1], matrix[-1:]])
    return matrix


def _ink(canvas: np.ndarray, lines: list[np.ndarray], pen: int, colour, kind: int) -> None:
    """Draw polylines on `canvas` in place, with round ends; coordinates to 1/16 pixel."""
    points = [np.rint(line * 16).astype(np.int32) for line in lines]
    cv2.polylines(canvas, points, False, colour, pen, kind, 4)
