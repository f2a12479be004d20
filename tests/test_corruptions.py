"""What each corruption does to a square whose place is known."""

import numpy as np
import pytest

from midas_lib.corruptions import CORRUPTIONS, corrupt


@pytest.fixture
def squares():
    images = np.zeros((40, 28, 28), np.uint8)
    images[:, 8:20, 8:20] = 200
    return images


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_changes_every_picture_and_repeats(name, squares):
    before = squares.copy()
    spoilt = corrupt(squares, name)
    assert spoilt.shape == squares.shape
    assert spoilt.dtype == np.uint8
    assert (spoilt != squares).any((1, 2)).all()
    np.testing.assert_array_equal(corrupt(squares, name), spoilt)
    np.testing.assert_array_equal(squares, before)


def test_shift_moves_the_whole_square_in_all_eight_directions(squares):
    spoilt = corrupt(squares, "shift")
    moved = {(*map(int, np.argwhere(image)[0]),) for image in spoilt}
    straight, diagonal = {(11, 8), (5, 8), (8, 11), (8, 5)}, {(10, 10), (10, 6), (6, 10), (6, 6)}
    assert moved == straight | diagonal
    assert (spoilt == 200).sum((1, 2)).tolist() == [144] * 40


def test_rotation_turns_both_ways_and_keeps_the_ink(squares):
    squares[:, 14:, :] = 0  # a bar: 6 rows, 12 columns
    turned = corrupt(squares, "rotation").astype(float)
    along = np.arange(28)
    angles = []
    for image in turned:
        y, x = (along - image.sum(axis) @ along / image.sum() for axis in (1, 0))
        mixed = (image * np.outer(y, x)).sum()
        angles.append(
            np.degrees(np.arctan2(2 * mixed, image.sum(0) @ x**2 - image.sum(1) @ y**2) / 2)
        )
        assert image.sum() == pytest.approx(72 * 200, rel=0.03)
    np.testing.assert_allclose(np.unique(np.round(angles)), [-25, 25], atol=1)


def test_scale_shrinks_the_side_to_seven_tenths(squares):
    for image in corrupt(squares, "scale"):  # 12 pixels become 8.4
        assert [int((image > 100).any(axis).sum()) for axis in (0, 1)] == [8, 8]


def test_blur_keeps_the_ink_and_spreads_it(squares):
    spoilt = corrupt(squares, "blur").astype(int)
    np.testing.assert_allclose(spoilt.sum((1, 2)), squares.astype(int).sum((1, 2)), rtol=0.01)
    assert (spoilt[:, 6, 14] > 0).all()


def test_blur_has_its_width():
    dot = np.zeros((1, 29, 29), np.uint8)
    dot[0, 14, 14] = 255
    spread = corrupt(dot, "blur")[0].astype(float)
    away = np.arange(29) - 14.0
    for axis in (0, 1):
        variance = spread.sum(axis) @ away**2 / spread.sum()
        assert variance**0.5 == pytest.approx(1.2, abs=0.05)


def test_noise_has_its_strength_where_it_is_not_cut(squares):
    grey = np.full((10, 28, 28), 128, np.uint8)
    assert np.std(corrupt(grey, "noise").astype(float)) == pytest.approx(58, abs=2)
    assert not np.array_equal(corrupt(grey, "noise", 0), corrupt(grey, "noise", 1))


def test_strokes_get_thinner_and_thicker_by_a_pixel(squares):
    assert (corrupt(squares, "thinner strokes") > 0).sum((1, 2)).tolist() == [121] * 40
    assert (corrupt(squares, "thicker strokes") > 0).sum((1, 2)).tolist() == [169] * 40


def test_low_contrast_leaves_two_fifths_of_the_ink(squares):
    assert np.unique(corrupt(squares, "low contrast")).tolist() == [0, 80]


def test_another_corruption_is_refused():
    with pytest.raises(ValueError, match="'fog': choose one of shift, rotation"):
        corrupt(np.zeros((1, 28, 28), np.uint8), "fog")
