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

# The control points (points, 2) of each character's strokes, as strokes.txt describes them.
_FONT = Path(__file__).with_name("strokes.txt").read_text().splitlines()
GLYPHS = {
    line[0]: [np.array([[int(digit, 16) for digit in point] for point in stroke.split()], float)
              for stroke in line[1:].split(",")]
    for line in _FONT if line[0] != "#"
}  # fmt: skip


def draw(name: str, paths: tuple[Path, ...], profile: str, seed: int = 0) -> None:
    """Write the stand-in archive `name` ("characters", "mnist" or "mislabelled") to `paths`.
    `paths` is one zip, or for "mnist" the training images, training labels, test images and test
    labels (in this order); `profile` gives the size, see `SIZES`."""
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
    """Draw MNIST-like digits: uint8 images (n, 28, 28), bright on black, and uint8 labels (n,). As
    in MNIST the glyph is scaled into a 20x20 box that is then placed with its centre of mass in the
    middle. Every image has a hand of its own; classes are equally frequent, shuffled."""
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
    """Yield (member name, JPEG) of training digits in wrong folders, sorted by name. The folder is
    one of the nine wrong digits, equally likely, but for a share `LEAK_SHARE` of pictures that lie
    in their own; the member's number is the index in the training set."""
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
    points = np.concatenate(lines)
    low, high = points.min(0) - pen, points.max(0) + pen
    move = np.maximum(-low, 0) + np.minimum((WIDTH, HEIGHT) - high, 0)
    return [line + move for line in lines]


def _digit(label: int, rng: np.random.Generator) -> np.ndarray:
    """Draw one 28x28 digit, bright on black."""
    lines = _write(str(label), _hand(rng, pen=0), rng)
    pen = 4 * rng.uniform(1.6, 3.2)
    points = np.concatenate(lines)
    low, span = points.min(0), np.ptp(points, 0)
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


def curves(glyph: str) -> list[np.ndarray]:
    """The strokes of a character in the font, polylines (points, 2)."""
    return [_spline(len(stroke)) @ stroke for stroke in GLYPHS[glyph]]


@functools.cache
def _spline(n: int) -> np.ndarray:
    """Matrix that turns n control points into points on their curve, by Chaikin's subdivision."""
    matrix = np.eye(n)
    for _ in range(4):
        one, next_one = matrix[:-1], matrix[1:]
        cut = np.stack([0.75 * one + 0.25 * next_one, 0.25 * one + 0.75 * next_one], 1)
        matrix = np.concatenate([matrix[:1], cut.reshape(-1, n)[1:-1], matrix[-1:]])
    return matrix


def _ink(canvas: np.ndarray, lines: list[np.ndarray], pen: int, colour, kind: int) -> None:
    """Draw polylines on `canvas` in place, with round ends; coordinates to 1/16 pixel."""
    points = [np.rint(line * 16).astype(np.int32) for line in lines]
    cv2.polylines(canvas, points, False, colour, pen, kind, 4)
