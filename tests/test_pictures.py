"""Other people's pictures: photos, frames, shadows and thin pens give the clean picture's glyph."""

import contextlib

import cv2
import numpy as np
import pytest

from midas_lib import images
from midas_lib.config import Preprocessing, UserError


def glyph(pen=60):
    """An A in the middle of the archive's canvas, black on white, uint8 (900, 1200)."""
    page = np.full((900, 1200), 255, np.uint8)
    for start, end in (
        ((450, 650), (600, 250)),
        ((600, 250), (750, 650)),
        ((500, 520), (700, 520)),
    ):
        cv2.line(page, start, end, 0, pen, cv2.LINE_AA)
    return page


def overlap(picture, clean=None):
    """Intersection over union of the ink of two pictures, as the network gets it, in 0-1."""
    clean = glyph() if clean is None else clean
    scans = np.stack([images.read_scan(picture), images.read_scan(clean)])
    one, other = images.preprocess(scans, Preprocessing(mode="mnist"))[0] > 127
    return (one & other).sum() / (one | other).sum()


def lit(light, noise=0):
    spread = np.random.default_rng(0).normal(0, noise, (900, 1200)) if noise else 0
    return np.clip(glyph() * light + spread, 0, 255).astype(np.uint8)


X, Y = np.meshgrid(np.linspace(0, 1, 1200), np.linspace(0, 1, 900))
SHADOW = 1 - 0.4 * (X + 0.3 * Y > 0.6)
VIGNETTE = 1 - 0.8 * ((X - 0.5) ** 2 + (Y - 0.5) ** 2)


def framed(wide):
    page = glyph()
    cv2.rectangle(page, (0, 0), (1199, 899), 0, 2 * wide - 1)
    return page


def on_desk(angle):
    turn = cv2.getRotationMatrix2D((600, 450), angle, 0.8)
    photo = cv2.warpAffine(glyph(), turn, (1200, 900), borderValue=60, flags=cv2.INTER_AREA)
    return cv2.GaussianBlur(photo, (0, 0), 2)


def boxed():
    page = glyph()
    cv2.rectangle(page, (350, 150), (850, 750), 0, 6)
    return page


def with_marks(marks):
    page = glyph()
    for left, top, right, bottom in marks:
        page[top:bottom, left:right] = 0
    return page


def photo(high):
    small = cv2.resize(
        glyph()[200:700, 400:800], None, fx=high / 500, fy=high / 500, interpolation=3
    )
    page = np.full((2000, 3000), 255, np.uint8)
    page[300 : 300 + small.shape[0], 2000 : 2000 + small.shape[1]] = small
    return page


@pytest.mark.parametrize(
    "picture",
    [
        *(pytest.param(glyph(pen), id=f"pen {pen}") for pen in (36, 24, 16)),
        *(pytest.param(framed(wide), id=f"frame {wide}") for wide in (1, 3, 12)),
        *(pytest.param(on_desk(angle), id=f"desk {angle}") for angle in (0, 4)),
        pytest.param(boxed(), id="form box"),
        pytest.param(with_marks([(0, 0, 60, 900)]), id="scanner edge"),
        pytest.param(with_marks([(1150, 300, 1200, 600)]), id="neighbour"),
        pytest.param(with_marks([(k, k, k + 12, k + 12) for k in range(20, 260, 40)]), id="specks"),
        pytest.param(lit(SHADOW), id="shadow"),
        pytest.param(lit(VIGNETTE), id="vignette"),
        pytest.param(lit(1 - 0.5 * X, noise=10), id="halved"),
        pytest.param(photo(150), id="photo"),
    ],
)
def test_a_spoilt_picture_gives_the_clean_ones_glyph(picture):
    assert overlap(picture) > 0.8


def test_a_clean_picture_is_only_scanned():
    for pen in (60, 84):
        np.testing.assert_array_equal(images.read_scan(glyph(pen)), images.scan(glyph(pen)))
    thumbnail = cv2.resize(255 - glyph(20), (28, 28), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(images.read_scan(thumbnail), images.scan(thumbnail))


def test_dots_are_kept():
    page = np.full((900, 1200), 255, np.uint8)
    cv2.line(page, (600, 450), (600, 700), 0, 60)
    cv2.circle(page, (600, 300), 30, 0, -1)
    np.testing.assert_array_equal(images.read_scan(page), images.scan(page))


@pytest.mark.parametrize("light", [np.ones_like(X), SHADOW, VIGNETTE, 1 - 0.5 * X])
@pytest.mark.parametrize("lines", [False, True])
def test_paper_without_a_character_is_refused(light, lines):
    page = np.full((900, 1200), 240, np.uint8)
    if lines:
        page[50::100] = page[51::100] = 60
    spread = np.random.default_rng(0).normal(0, 5, page.shape)
    with pytest.raises(UserError, match="no ink"):
        images.read_scan(np.clip(page * light + spread, 0, 255).astype(np.uint8))


@pytest.mark.parametrize("sigma", [60, 120])
@pytest.mark.parametrize("distance", [X * 1200 - 500, 600 * X + 700 * Y - 700])
def test_a_soft_shadow_is_no_ink(sigma, distance):
    page = 240 * (1 - 0.4 * np.exp(-(distance**2) / 2 / sigma**2))
    with pytest.raises(UserError, match="uneven light"):
        images.read_scan(np.rint(page).astype(np.uint8))


def test_a_blurred_character_is_read():
    assert overlap(cv2.GaussianBlur(glyph(), (0, 0), 8)) > 0.8


@pytest.mark.parametrize(
    ("lefts", "several"), [((100, 450, 800), 3), ((300, 530), 2), ((300, 530, 760), 3)]
)
def test_several_characters_are_counted(lefts, several):
    small = cv2.resize(glyph()[200:700, 400:800], None, fx=0.5, fy=0.5)
    page = np.full((900, 1200), 255, np.uint8)
    for left in lefts:
        page[300 : 300 + small.shape[0], left : left + small.shape[1]] = small
    with pytest.raises(UserError, match=f"{several} characters in one picture: crop to one"):
        images.read_scan(page)


@pytest.mark.parametrize(("gap", "refused"), [(100, False), (300, True)])
def test_two_strokes_may_be_one_character(gap, refused):
    page = np.full((900, 1200), 255, np.uint8)
    cv2.line(page, (400, 250), (400, 650), 0, 60)
    for end in (250, 650):  # a K in two strokes, and its halves too far apart to be one
        cv2.line(page, (400 + gap, 450), (620 + gap, end), 0, 60)
    with pytest.raises(UserError, match="2 char") if refused else contextlib.nullcontext():
        images.read_scan(page)


def test_two_narrow_strokes_are_two_characters():
    page = np.full((900, 1200), 255, np.uint8)
    for left in (500, 650):
        cv2.line(page, (left, 250), (left, 650), 0, 60)
    with pytest.raises(UserError, match="2 characters"):
        images.read_scan(page)


@pytest.mark.parametrize("shape", [(65, 1), (2, 70), (70, 300), (600, 80), (100, 100)])
def test_noise_of_any_shape_is_read_or_refused(shape):
    for seed in range(5):
        noise = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
        with contextlib.suppress(UserError):
            assert images.read_scan(noise).shape == images.SCAN_SHAPE
