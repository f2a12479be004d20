"""Warps: what they do to a blob whose place is known, and what they must leave alone."""

import dataclasses
import math

import numpy as np
import pytest
import tensorflow as tf

from midas_lib import augment
from midas_lib.config import Augmentation

STILL = Augmentation(rotation=0, scale=0, aspect=0, shear=0, shift=0, elastic=0)
SIZE, COUNT, SEED = 33, 100, (5, 1)
AFFINE = {"rotation": 15.0, "scale": 0.2, "aspect": 0.2, "shear": 0.3, "shift": 0.1}


def warp(pictures, settings, seed=SEED):
    return augment.warp(tf.constant(pictures, tf.float32), tf.constant(seed), settings).numpy()


def noise(count=3, size=12):
    return np.random.default_rng(0).uniform(20, 200, (count, size, size, 1)).astype(np.float32)


def blob(x, y):
    """COUNT pictures of one soft dot, x and y pixels right of and below the centre."""
    along = np.arange(SIZE) - (SIZE - 1) / 2
    dot = np.exp(-((along - x) ** 2 + (along[:, None] - y) ** 2) / 10)
    return np.repeat(dot[None, :, :, None], COUNT, 0)


def places(pictures):
    """Each picture's centre of mass, right of and below the centre: (n,), (n,)."""
    along = np.arange(SIZE) - (SIZE - 1) / 2
    mass = pictures[..., 0] / pictures.sum((1, 2, 3))[:, None, None]
    return (mass.sum(1) * along).sum(1), (mass.sum(2) * along).sum(1)


def assert_fills(values, width):
    """The values use the whole of [-width, width], and no more."""
    assert np.abs(values).max() <= width * 1.01
    assert values.min() < -0.8 * width
    assert values.max() > 0.8 * width


@pytest.mark.parametrize("size", [12, 15])
def test_with_every_range_at_zero_nothing_changes(size):
    pictures = noise(size=size)
    np.testing.assert_array_equal(warp(pictures, STILL), pictures)


@pytest.mark.parametrize("settings", [Augmentation(), dataclasses.replace(STILL, elastic=1.0)])
def test_the_seed_decides_the_warp(settings):
    pictures = noise()
    once = warp(pictures, settings)
    np.testing.assert_array_equal(warp(pictures, settings), once)
    assert not np.array_equal(warp(pictures, settings, (5, 2)), once)
    assert not np.array_equal(warp(pictures, settings, (6, 1)), once)


def test_every_picture_of_a_batch_is_warped_its_own_way():
    first, second = warp(np.repeat(noise(1), 2, 0), Augmentation())
    assert not np.array_equal(first, second)


def test_shift_moves_a_dot_by_up_to_its_share_of_the_side():
    x, y = places(warp(blob(0, 0), dataclasses.replace(STILL, shift=0.2)))
    assert_fills(x, 0.2 * SIZE)
    assert_fills(y, 0.2 * SIZE)
    assert abs(np.corrcoef(x, y)[0, 1]) < 0.4


def test_rotation_turns_about_the_centre():
    settings = dataclasses.replace(STILL, rotation=20.0)
    x, y = places(warp(blob(8, 0), settings))
    np.testing.assert_allclose(np.hypot(x, y), 8, atol=0.02)
    assert_fills(np.degrees(np.arctan2(y, x)), 20)


@pytest.mark.parametrize("name", ["rotation", "scale", "aspect", "shear"])
def test_the_centre_pixel_stays(name):
    pictures = np.zeros((COUNT, SIZE, SIZE, 1))
    pictures[:, SIZE // 2, SIZE // 2] = 255
    warped = warp(pictures, dataclasses.replace(STILL, **{name: AFFINE[name]}))
    np.testing.assert_allclose(warped[:, SIZE // 2, SIZE // 2], 255, atol=0.01)


def test_scale_is_one_factor_for_both_directions():
    x, y = places(warp(blob(6, 3), dataclasses.replace(STILL, scale=0.2)))
    np.testing.assert_allclose(x / y, 2, atol=0.02)
    assert_fills(np.log(x / 6), 0.2)


def test_aspect_stretches_one_direction_by_what_the_other_shrinks():
    x, y = places(warp(blob(6, 3), dataclasses.replace(STILL, aspect=0.2)))
    np.testing.assert_allclose(x * y, 18, rtol=0.015)
    assert_fills(np.log(x / 6), 0.2)


def test_shear_moves_a_row_in_proportion_to_its_height():
    x, y = places(warp(blob(0, 8), dataclasses.replace(STILL, shear=0.3)))
    np.testing.assert_allclose(y, 8, atol=0.02)
    assert_fills(x / 8, 0.3)


def test_elastic_moves_a_dot_by_about_its_standard_deviation():
    x, y = places(warp(blob(4, -3), dataclasses.replace(STILL, elastic=1.0)))
    moved = np.concatenate([x - 4, y + 3])
    assert abs(moved.mean()) < 0.3
    assert 0.4 < moved.std() < 1.4
    assert abs(np.corrcoef(x, y)[0, 1]) < 0.4  # across and down each by itself


def test_a_displacement_takes_pixels_from_below_and_right_in_proportion():
    picture = np.zeros((1, 4, 4, 1), np.float32)
    picture[0, 1, 1:3, 0] = 100, 10  # [1, 1] and [1, 2]
    picture[0, 2, 1:3, 0] = 1000, 1
    flow = np.tile(np.float32([0.25, 0.75]), (1, 4, 4, 1))  # down, right
    found = augment._displace(tf.constant(picture), tf.constant(flow)).numpy()[0, 1, 1, 0]
    assert found == pytest.approx(0.75 * (25 + 7.5) + 0.25 * (250 + 0.75))
    # Beyond the edge, the edge.
    flow = np.tile(np.float32([-9, -9]), (1, 4, 4, 1))
    picture[0, 0, 0] = 7
    assert (augment._displace(tf.constant(picture), tf.constant(flow)).numpy() == 7).all()


def test_elastic_bends_rather_than_shifts():
    settings = dataclasses.replace(STILL, elastic=1.0)
    left, right = [places(warp(blob(x, 0), settings))[0] - x for x in (-8, 8)]
    assert abs(np.corrcoef(left, right)[0, 1]) < 0.4


def test_values_stay_within_the_picture_and_the_paper():
    everything = Augmentation(**AFFINE, elastic=1.5)
    warped = warp(noise(20), everything)
    assert warped.shape == (20, 12, 12, 1)
    assert warped.min() >= 0
    assert warped.max() <= 200.001


def test_what_comes_in_from_outside_is_black_paper():
    white = np.full((COUNT, SIZE, SIZE, 1), 255.0)
    corners = warp(white, dataclasses.replace(STILL, rotation=20.0))[:, 0, 0]
    assert (corners == 0).mean() > 0.5


def test_thickening_dilates_eroding_erodes_and_halves_mix():
    picture = np.zeros((1, 7, 7, 1), np.float32)
    picture[0, 2:5, 2:5] = 200  # a square of 3x3: dilated 5x5, eroded its centre alone
    both = np.repeat(picture, 4, 0)
    amounts = np.array([1, -1, 0, 0.5], np.float32).reshape(4, 1, 1, 1)
    thick, thin, same, half = augment.thicken(tf.constant(both), tf.constant(amounts)).numpy()
    assert thick.sum() == 25 * 200
    assert thick[1:6, 1:6].min() == 200
    assert thin.sum() == thin[3, 3, 0] == 200
    np.testing.assert_array_equal(same, picture[0])
    assert half[1, 1, 0] == 100
    assert half[3, 3, 0] == 200


def test_thickness_is_drawn_for_each_picture_within_its_range():
    bar = np.zeros((COUNT, SIZE, SIZE, 1), np.float32)
    bar[:, 10:20, 10:20] = 1  # 100 pixels, 144 dilated, 64 eroded
    settings = dataclasses.replace(STILL, thickness=0.5)
    areas = warp(bar, settings).sum((1, 2, 3))
    assert 82 <= areas.min() < 86
    assert 116 < areas.max() <= 122
    assert len(np.unique(areas.round(3))) > COUNT // 2


def test_mixup_mixes_each_row_with_the_mirrored_one():
    pictures = tf.constant([[0.0, 8.0], [100.0, 100.0], [40.0, 0.0]])
    targets = tf.eye(3)
    mixed, mixed_targets = augment.mixup([pictures, targets], tf.constant([3, 4]), 0.4)
    weight = float(mixed_targets[0, 2])  # what row 0 holds of row 2
    assert 0 < weight < 0.4
    keep = 1 - weight
    expected = [[weight * 40, keep * 8], [100, 100], [keep * 40, weight * 8]]
    np.testing.assert_allclose(mixed, expected, rtol=1e-5)
    expected = [[keep, 0, weight], [0, 1, 0], [weight, 0, keep]]
    np.testing.assert_allclose(mixed_targets, expected, rtol=1e-5, atol=1e-7)


def test_mixup_draws_its_weight_evenly_up_to_the_most():
    rows = tf.constant([[0.0], [1.0]])
    seeds = [tf.constant([7, i]) for i in range(100)]
    weights = [float(augment.mixup([rows], seed, 0.4)[0][0, 0]) for seed in seeds]
    assert_fills(np.array(weights) - 0.2, 0.2)
    assert math.isclose(np.mean(weights), 0.2, abs_tol=0.04)
