"""Looking inside a network."""

import numpy as np

from midas_lib import model, probe
from midas_lib.config import Network
from midas_lib.data import Examples


def test_covering_black_paper_costs_nothing():
    network = model.build_cnn(3, 12, Network(width=0.25, depth=(1, 1, 1)))
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (2, 12, 12, 1)).astype(np.uint8)
    pictures[:, 6:] = 0  # with patches of 4, rows from 10 on are only ever covered on black paper
    maps = probe.occlusion(network, Examples(pictures=pictures, labels=np.array([0, 2])), 4)
    assert maps.shape == (2, 12, 12)
    np.testing.assert_allclose(maps[:, 10:], 0, atol=1e-6)
    assert np.abs(maps[:, :6]).max() > 1e-6
