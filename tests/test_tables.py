"""Tables of runs to intervals: hand-computed values, and which runs go together."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from midas_lib.config import Network
from midas_lib.studies import tables


@pytest.mark.parametrize(
    "network",
    [
        Network(),
        Network(channels=(8, 16), strides=(2, 1), kernel=3, normalised=False, pooling="mean"),
    ],
)
def test_layers_are_told_as_keras_has_them(network):
    from midas_lib.model import build_cnn

    model = build_cnn(10, 28, network)
    shapes = [
        model.get_layer(f"conv{i + 1}").output.shape[1:] for i in range(len(network.channels))
    ]
    (size, _), *convolutions, (pooled, _), (classes, _) = tables.layers(network, 28, 10).values()
    assert (size, classes) == ((28, 28, 1), (10,))
    assert [shape for shape, _ in convolutions] == shapes
    assert np.prod(pooled) == model.get_layer("features").output.shape[-1]
    told = sum(weights for _, weights in tables.layers(network, 28, 10).values())
    assert told == model.count_params()


@pytest.fixture
def table():
    rows = [
        ("random", 0, 10, 0.5), ("random", 1, 10, 0.7), ("digits", 1, 10, 0.9),
        ("digits", 0, 10, 0.6), ("random", 0, 20, 0.8), ("random", 1, 20, 0.8),
    ]  # fmt: skip
    found = pd.DataFrame(rows, columns=["arm", "seed", "size", "accuracy"])
    return found.assign(digest=[f"d{i}" for i in range(len(rows))])


def test_a_mean_is_over_the_runs_of_its_key_alone(table):
    found = tables.mean_by(table, ["arm", "size"], "accuracy")
    assert list(found) == [("random", 10), ("digits", 10), ("random", 20)]
    assert found["random", 10].mean == pytest.approx(0.6)
    assert found["random", 10].n == 2
    # Student's t with one degree of freedom: 12.706 standard errors, which are 0.1 here.
    assert found["random", 10].high == pytest.approx(0.6 + 12.7062 * 0.1, abs=1e-4)
    assert found["random", 20].low == found["random", 20].high == pytest.approx(0.8)


def test_a_key_of_whole_numbers_is_an_int_though_the_column_has_gaps(table):
    table.loc[0, "size"] = np.nan
    assert [type(key) for key in tables.mean_by(table, "size", "accuracy")] == [int, int]


def test_differences_are_paired_by_seed_not_by_place(table):
    ten = table[table["size"] == 10]
    found = tables.paired_by(ten, "arm", "accuracy", "random")
    assert found["digits"].mean == pytest.approx(0.15)  # 0.1 and 0.2
    assert found["digits"].high == pytest.approx(0.15 + 12.7062 * 0.05, abs=1e-4)
    assert (found["random"].mean, found["random"].low) == (0, 0)


def test_a_run_without_a_partner_is_left_out(table):
    ten = table[(table["size"] == 10) & ~((table["arm"] == "random") & (table["seed"] == 1))]
    assert tables.paired_by(ten, "arm", "accuracy", "random")["digits"].n == 1


def test_pace_counts_the_accuracy_before_the_first_step():
    history = {"step": np.array([10, 20]), "val_accuracy": np.array([0.96, 0.985])}
    found = tables.pace(history, 0.9)
    assert found["steps_to_0.95"] == 10
    assert found["steps_to_0.98"] == 20
    assert found["steps_to_0.99"] == found["steps_to_0.993"] == np.inf
    assert tables.pace(history, 0.95)["steps_to_0.95"] == 0
    assert tables.pace(history | {"val_accuracy": np.array([0.94, 0.985])}, 0.96) == {
        "steps_to_0.95": 20, "steps_to_0.98": 20, "steps_to_0.99": np.inf,
        "steps_to_0.993": np.inf,
    }  # fmt: skip


def test_convergence_pairs_by_seed_and_counts_who_arrived():
    steps = [100.0, 400.0, np.inf, 50.0, 0.0]
    arms = ["random"] * 3 + ["digits"] * 2
    table = pd.DataFrame({"arm": arms, "seed": [0, 1, 2, 1, 0], "steps_to_0.95": steps})
    random, digits = tables.convergence(table, ["random", "digits"], 1000)
    assert (random["threshold"], random["arm"], digits["arm"]) == (0.95, "random", "digits")
    assert random["time"].mean == pytest.approx(500)  # who never arrives counts as the horizon
    half = stats.t.ppf(0.975, 2) * np.std([100, 400, 1000], ddof=1) / np.sqrt(3)
    assert random["time"].high == pytest.approx(500 + half)
    never = table.assign(**{"steps_to_0.95": np.inf})
    assert [row["time"].mean for row in tables.convergence(never, ["digits"], 60)] == [60]
    assert (random["arrived"], digits["arrived"]) == (2, 2)
    # Seed 0: 100 to 1 (no step at all counts as one); seed 1: 400 to 50. Geometric mean.
    assert digits["ratio"].mean == pytest.approx(np.sqrt(100 * 8))
    assert digits["ratio"].n == digits["saved"].n == 2
    assert digits["saved"].mean == pytest.approx((100 + 350) / 2)
    assert (random["ratio"].mean, random["saved"].mean) == (1, 0)


def test_arrays_are_stacked_in_the_tables_order(table):
    arrays = {f"{row.arm}/{row.digest}/loss": np.full(2, i) for i, row in table.iterrows()}
    stacked = tables.stacked(table[table["arm"] == "digits"], arrays, "loss")
    assert stacked.tolist() == [[2, 2], [3, 3]]
