"""The bench's arithmetic, clock and bookkeeping; how fast anything is, no test asks."""

import json
import math
import sys
import types

import numpy as np
import pytest

from bench import __main__ as bench
from bench import clock, figures, labels, numbers, plan, trials
from midas_lib import config

INF = math.inf


def run(racer, seconds, accuracy, startup=1.0):
    return {"racer": racer, "seconds": seconds, "accuracy": accuracy, "startup_seconds": startup}


# --- arithmetic -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "median", "low", "high", "reached"),
    [
        ([3, 1, 2], 2, 1, 3, 3),
        ([4, 1, 2, 3], 2.5, 1, 4, 4),
        ([3, 1, INF], 3, 1, INF, 2),
        ([INF, 1, INF], INF, 1, INF, 1),
        ([1, INF], INF, 1, INF, 1),
        ([INF, INF], INF, INF, INF, 0),
    ],
)
def test_a_repeat_that_never_arrives_counts_as_infinite(values, median, low, high, reached):
    assert numbers.spread(values) == {
        "median": median,
        "low": low,
        "high": high,
        "repeats": len(values),
        "reached": reached,
    }


def test_the_ratio_is_taken_repeat_by_repeat_to_the_best_peer_there():
    found = numbers.ratio_to_best([2, 3, 4], [[10, 30, 80], [20, 10, INF]])
    assert (found["median"], found["low"], found["high"]) == (0.2, 0.05, 0.3)  # 2/10 4/80 3/10


@pytest.mark.parametrize(
    ("ours", "peer", "expected"), [(INF, 5, INF), (5, INF, 0), (INF, INF, INF), (5, 10, 0.5)]
)
def test_who_never_arrives_loses_the_ratio_and_nobody_arriving_is_no_win(ours, peer, expected):
    assert numbers.ratio_to_best([ours], [[peer]])["median"] == expected


def test_time_to_accuracy_takes_the_first_look_that_reaches_it():
    runs = [
        run("ours", [1, 2], [0.98, 0.99]),
        run("keras", [4, 8, 16], [0.97, 0.995, 0.99], startup=2),
        run("torch", [30], [0.98]),
    ]
    found = numbers.time_to_accuracy(runs, (0.98, 0.99))
    medians = {
        target: {racer: spread["median"] for racer, spread in result["seconds"].items()}
        for target, result in found.items()
    }
    assert medians == {
        "0.98": {"ours": 1, "keras": 8, "torch": 30},
        "0.99": {"ours": 2, "keras": 8, "torch": INF},
    }
    assert found["0.99"]["ratio_to_best_peer"]["median"] == 2 / 8
    assert found["0.99"]["ratio_to_best_peer_with_startup"]["median"] == 3 / 10


def test_without_peers_there_is_no_ratio():
    (found,) = numbers.time_to_accuracy([run("ours", [1], [1])], [0.9]).values()
    assert set(found) == {"seconds", "seconds_with_startup"}


def test_operations_are_counted_as_by_hand():
    import keras
    from keras import layers

    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(4, 3, strides=2, padding="same"),  # 3 x 3 places, 3 x 3 x 2 x 4 products
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dense(5),  # 36 x 5 products
        ]
    )
    convolution, dense = 2 * 9 * 72, 2 * 180
    assert numbers.operations(model) == convolution + dense
    assert numbers.training_operations(model) == 2 * convolution + 3 * dense


def test_the_exponent_of_a_power_is_found():
    sizes = np.array([1, 2, 5])
    assert numbers.exponent(sizes, 3 * sizes**1.5) == pytest.approx(1.5)


def test_efficient_is_what_nothing_beats_at_its_cost_or_less():
    costs, errors = [1, 2, 2, 3, 4], [0.4, 0.3, 0.2, 0.25, 0.1]
    assert numbers.efficient(costs, errors) == [True, False, True, False, True]


# --- clock ----------------------------------------------------------------------------------------


class Time:
    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(clock.time, "monotonic", lambda: self.now)


def test_the_clock_stands_while_accuracy_is_measured_on_one_grid(monkeypatch):
    time = Time(monkeypatch)
    watch = clock.Clock(until=0.9, horizon=50)
    time.now += 5  # before the start: loading
    watch.start()

    def measure():
        time.now += 1000
        return 0.5

    for images in (4000, 9999, 12_000, 19_999, 20_000):
        time.now += 1
        watch.look(images, measure)
    assert watch.images == [12_000, 20_000]
    assert watch.seconds == [3, 5]
    assert watch.started == 105


@pytest.mark.parametrize(
    ("accuracy", "seconds", "last"), [(0.95, 1, False), (0.5, 51, False), (0.5, 1, True)]
)
def test_a_race_ends_at_its_target_its_horizon_or_the_schedules_end(
    monkeypatch, accuracy, seconds, last
):
    time = Time(monkeypatch)
    watch = clock.Clock(until=0.9, horizon=50)
    time.now += seconds
    with pytest.raises(clock.FinishedError):
        watch.look(clock.GRID, lambda: accuracy, last)
    assert watch.accuracy == [accuracy]


# --- ours -----------------------------------------------------------------------------------------


def test_the_bench_network_takes_raw_pixels_and_is_as_small_as_said():
    from bench import fast

    model = fast.build(fast.FAST)
    assert model.count_params() == 25 * 24 + 9 * 24 * 48 + 9 * 48 * 64 + 4 * 136 + 5770
    places = 12 * 12 * 25 * 24, 6 * 6 * 9 * 24 * 48, 6 * 6 * 9 * 48 * 64, 5760
    assert numbers.operations(model) == 2 * sum(places)
    assert model(np.full((2, 28, 28, 1), 255.0)).shape == (2, 10)


def test_training_looks_on_the_grid_and_at_the_end_and_learns():
    from bench import fast

    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 320)
    pictures = np.zeros((320, 28, 28), np.uint8)
    pictures[np.arange(320), 4 + 2 * labels] = 255  # a bar at the label's height
    preset = fast.Preset(batch=32, epochs=4)
    looks = []
    model = fast.fit(
        preset, pictures, labels, lambda m, n, last: looks.append((n, last)), every=500
    )
    assert looks == [(512, False), (1024, False), (1280, True)]
    assert fast.accuracy(model, pictures, labels) > 0.9


def test_a_shapes_name_says_what_it_is():
    assert trials.shape("5:16/2 32 64/2") == {
        "channels": (16, 32, 64),
        "kernels": (5, 3, 3),
        "strides": (2, 1, 2),
    }
    assert len(set(trials.SHAPES)) >= 8


def test_race_draws_every_run_and_names_each_racer_once():
    curves = {
        "ours": [([1, 2], [0.1, 0.01]), ([1, 3], [0.2, 0.0])],
        "peer": [([5, 9], [0.1, 0.02])],
    }
    ax = figures.race(curves).axes[0]
    assert [list(line.get_ydata()) for line in ax.lines] == [[0.2, 1e-4], [0.1, 0.01], [0.1, 0.02]]
    assert {text.get_text(): tuple(text.xy) for text in ax.texts} == {
        "ours": (3, 1e-4),
        "peer": (9, 0.02),
    }


def test_shapes_join_the_efficient_networks_from_the_smallest_on():
    drawn = [3e6, 1e6, 2e6], [0.01, 0.03, 0.04], ["c", "a", "b"], [True, True, False]
    ax = figures.shapes(*drawn).axes[0]
    efficient, other = ax.lines
    assert efficient.get_xydata().tolist() == [[1e6, 0.03], [3e6, 0.01]]
    assert other.get_xydata().tolist() == [[2e6, 0.04]]
    assert [text.get_text() for text in ax.texts] == ["a", "c"]
    assert "2" in [label.get_text() for label in ax.get_xticklabels()]


# --- bookkeeping ----------------------------------------------------------------------------------


@pytest.fixture
def measured(monkeypatch, tmp_path, standin):
    """Sections "good" and "bad", and where the results go."""
    monkeypatch.setattr(config, "ROOT", tmp_path)
    monkeypatch.setattr(bench, "SECTIONS", {"bad": ("bad", "run"), "good": ("good", "run")})

    def call(module, function, plan, environment):
        if module == "bad":
            raise OSError("no luck")
        return {"good": INF}

    monkeypatch.setattr(bench.apart, "call", call)
    drawn = []

    def draw(part, profile):
        drawn.append(profile)
        return tmp_path / "executed" / profile / "bench.html"

    monkeypatch.setattr(bench.pages, "run_notebook", draw)
    return tmp_path / "executed"


def test_a_section_that_fails_stops_no_other_and_old_results_stay(measured, capsys):
    path = measured / "smoke" / "results" / "bench.json"
    assert bench.main(["--profile", "smoke"]) == 1
    assert "bad failed: OSError: no luck" in capsys.readouterr().err
    stored = json.loads(path.read_text())
    assert stored["good"] is None  # what is infinite
    path.write_text(json.dumps(stored | {"shapes": [1]}))
    assert bench.main(["good", "--profile", "smoke"]) == 0
    assert json.loads(path.read_text())["shapes"] == [1]
    path.write_text(json.dumps(stored | {"shapes": [1], "data": {}}))  # measured on other data
    assert bench.main(["good", "--profile", "smoke"]) == 0
    assert "shapes" not in json.loads(path.read_text())


def test_only_the_full_bench_on_real_data_is_published(measured, monkeypatch):
    from types import SimpleNamespace

    def archives(source):
        found = SimpleNamespace(source=source, digest="ab" * 32)
        return lambda name, profile: found

    monkeypatch.setattr(bench.sources, "fetch", archives("stand-in"))
    bench.main(["good"])
    assert [path.name for path in measured.iterdir()] == ["standard"]
    monkeypatch.setattr(bench.sources, "fetch", archives("mirror"))
    bench.main(["good", "--repeats", "2"])
    assert [path.name for path in measured.iterdir()] == ["standard"]
    bench.main(["good"])
    assert (measured / "results" / "bench.json").exists()


def test_cleanlab_judges_each_picture_by_models_that_have_not_seen_it(monkeypatch):
    pictures = np.arange(60, dtype=np.uint8)[:, None, None]
    folders = np.arange(60) % 3

    def regression(shown, asked):
        assert not set(shown.pictures.ravel()) & set(asked.pictures.ravel())
        return np.eye(3)[np.where(asked.pictures.ravel() < 15, asked.labels, 0)]

    def network(shown, asked):
        assert len(shown.labels) == 2 * len(asked.labels)
        return np.eye(3)[asked.labels]

    def load(profile):
        return types.SimpleNamespace(images=pictures, labels=folders)

    peer = types.ModuleType("cleanlab")
    peer.__version__, peer.filter = "1.2", types.ModuleType("cleanlab.filter")
    peer.filter.find_label_issues = lambda given, said, n_jobs: said.argmax(1) != given
    monkeypatch.setitem(sys.modules, "cleanlab", peer)
    monkeypatch.setitem(sys.modules, "cleanlab.filter", peer.filter)
    monkeypatch.setattr(labels.data, "load_mislabelled", load)
    monkeypatch.setattr(labels, "regression", regression)
    monkeypatch.setattr(labels, "network", network)
    # Of the 45 from 15 on, the 30 that are not of folder 0.
    flagged = {"regression": 0.5, "network": 0.0}
    found = labels.run(plan.PLANS["full"])["labels"]
    assert found == {"cleanlab": "1.2", "images": 60, "flagged": flagged}
    monkeypatch.setitem(sys.modules, "cleanlab", None)
    assert labels.run(plan.PLANS["full"]) == {}


def test_an_unknown_section_is_refused(capsys):
    with pytest.raises(SystemExit):
        bench.main(["everything"])
    assert "no section everything" in capsys.readouterr().err


def test_the_table_shows_never_as_a_dash():
    found = {"0.99": {"seconds": {"ours": {"median": 8.0}, "keras": {"median": INF}},
                      "ratio_to_best_peer": {"median": 0.0}}}  # fmt: skip
    assert bench._table(found) == "99.0%  ours 8.00 s  keras - s  ratio 0.00"


@pytest.mark.parametrize(("repeats", "expected"), [(1, [1, 1]), (5, [5, 1]), (7, [7, 2])])
def test_the_long_race_is_held_a_third_as_often(repeats, expected):
    changed = plan.repeat(plan.PLANS["full"], repeats)
    assert [heat.repeats for heat in changed.heats] == expected
    assert [heat.targets[-1] for heat in changed.heats] == [0.99, 0.995]


def test_what_is_not_asked_for_stays_as_the_profile_has_it():
    changed = plan.vary(plan.PLANS["full"], torch=None, part_profiles=["standard"])
    assert (changed.torch, changed.part_profiles) == (sys.executable, ["standard"])
