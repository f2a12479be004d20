"""The loss against sums done by hand; the warps against what they must leave alone."""

import math

import numpy as np
import pytest

from midas_lib import augment
from midas_lib.config import Augmentation
from midas_lib.losses import cross_entropy

STILL = dict.fromkeys(("rotation", "scale", "aspect", "shear", "shift"), 0.0)
SEED = np.array([3, 7])


def test_cross_entropy_is_the_log_of_the_right_probability():
    logits = np.log([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]).astype(np.float32)
    targets = np.array([[1, 0, 0], [0, 1, 0]], np.float32)
    wanted = -(math.log(0.5) + math.log(0.1)) / 2
    assert float(cross_entropy(targets, logits)) == pytest.approx(wanted, rel=1e-5)


def test_smoothing_spreads_its_share_over_all_classes():
    logits = np.log([[0.5, 0.25, 0.25]]).astype(np.float32)
    targets = np.array([[1, 0, 0]], np.float32)
    # 0.3 spread over three classes: 0.8 on the first, 0.1 on each other
    wanted = -(0.8 * math.log(0.5) + 0.2 * math.log(0.25))
    assert float(cross_entropy(targets, logits, 0.3)) == pytest.approx(wanted, rel=1e-5)


@pytest.fixture
def pictures():
    return np.random.default_rng(0).uniform(0, 255, (6, 9, 9, 1)).astype(np.float32)


def warp(pictures, seed=SEED, **ranges):
    return augment.warp(pictures, seed, Augmentation(**{**STILL, **ranges})).numpy()


def test_without_ranges_a_warp_is_the_identity(pictures):
    np.testing.assert_array_equal(warp(pictures), pictures)


def test_a_seed_decides_the_warp(pictures):
    same = [augment.warp(pictures, SEED, Augmentation()).numpy() for _ in range(2)]
    np.testing.assert_array_equal(*same)
    other = augment.warp(pictures, SEED + 1, Augmentation()).numpy()
    assert np.abs(same[0] - other).max() > 1


def test_each_picture_is_warped_its_own_way(pictures):
    warped = warp(np.repeat(pictures[:1], 5, axis=0), rotation=20.0)
    assert all(np.abs(warped[0] - one).max() > 1 for one in warped[1:])


def test_a_rotation_keeps_the_centre_and_a_shift_moves_it(pictures):
    turned = warp(pictures, rotation=90.0)
    np.testing.assert_allclose(turned[:, 4, 4], pictures[:, 4, 4], atol=0.05)
    moved = warp(pictures, shift=0.3)
    assert np.abs(moved[:, 4, 4] - pictures[:, 4, 4]).min() > 0


def test_a_shift_stays_within_its_range():
    dot = np.zeros((200, 21, 21, 1), np.float32)
    dot[:, 10, 10] = 100
    moved = warp(dot, shift=0.2)[..., 0]  # at most 4.2 pixels each way
    y, x = np.nonzero(moved.max(0) > 0)
    assert (y.min(), y.max(), x.min(), x.max()) == (5, 15, 5, 15)
    np.testing.assert_allclose(moved.sum((1, 2)), 100, rtol=1e-4)


def test_pixels_stay_between_the_darkest_and_the_brightest(pictures):
    warped = augment.warp(pictures, SEED, Augmentation(elastic=1.0)).numpy()
    assert warped.shape == pictures.shape
    assert warped.min() >= 0
    assert warped.max() <= pictures.max()


def test_an_elastic_warp_moves_a_ramp_by_what_it_displaces():
    ramp = np.tile(np.arange(28, dtype=np.float32)[None, None, :, None], (4, 28, 1, 1))
    moved = warp(ramp, elastic=0.5)[:, :, 8:20] - ramp[:, :, 8:20]
    assert 0.1 < np.abs(moved).mean() < 0.8
    assert np.abs(np.diff(moved, axis=1)).max() < 0.5  # smooth


def test_mixup_mixes_every_array_with_its_mirror_image_by_one_weight():
    a = np.array([[0.0], [10.0], [20.0]], np.float32)
    b = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]], np.float32)
    mixed_a, mixed_b = (m.numpy() for m in augment.mixup([a, b], SEED, 0.5))
    weight = mixed_b[0, 1]
    assert 0 < weight <= 0.5
    np.testing.assert_allclose(mixed_a[:, 0], [20 * weight, 10, 20 * (1 - weight)], rtol=1e-6)
    np.testing.assert_allclose(mixed_b[:, 0], [1 - weight, 0, weight], rtol=1e-6)
