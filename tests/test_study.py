"""A study: what is trained, what is taken from the table, and what a notebook gets to draw."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from fakes import cnn, knowing

from midas_lib import config, inference, results, runs, store
from midas_lib.config import Settings, UserError, vary
from midas_lib.data import Examples
from midas_lib.runs import Task
from midas_lib.studies import study as studies
from midas_lib.studies.study import Run, Study


@dataclasses.dataclass(frozen=True)
class Plan:
    seeds: int = 2
    variant_seeds: int = 3


class Source:
    source, digest = "stand-in", "0" * 64


def study(**options):
    return Study(2, "smoke", Plan(), {"mnist": Source()}, **options)


def run(arm, seed, **more):
    digits = Examples(pictures=np.zeros((6, 8, 8, 1), np.uint8), labels=np.arange(6))
    task = Task(settings=Settings(seed=seed), examples=digits, classes=10, tests={"mnist": digits})

    def measure(outcome):
        accuracy = (outcome.tests["mnist"].argmax(1) == digits.labels).mean()
        return {"test_accuracy": accuracy + seed / 100}, {"loss": outcome.history["loss"] + seed}

    return Run(arm=arm, seed=seed, task=task, measure=measure, **more)


def finished(wanted, **options):
    one = study(**options)
    one.finish(wanted)
    return one


def test_a_row_names_its_run_and_measures_it(runner):
    wanted = [run("b", 1, varies={"size": 5}), run("a", 0)]
    table = finished(wanted).table
    assert list(table)[:4] == ["arm", "seed", "size", "digest"]
    assert table["arm"].to_list() == ["b", "a"]
    assert table["digest"].to_list() == [one.task.name for one in wanted] == runner.names
    assert table["test_accuracy"].to_list() == pytest.approx([5 / 6 + 0.01, 5 / 6])
    assert table["size"].to_list()[0] == 5


def test_a_row_of_several_trainings_is_named_by_all_of_them_in_their_order(runner):
    one, two, three = (run("a", seed).task for seed in range(3))
    orders = [(one, two), (one, three), (two, one), (one, two, three)]
    named = [Run(arm="a", seed=0, task=tasks, measure=None).digest for tasks in orders]
    assert len({*named, one.name}) == 5
    assert Run(arm="b", seed=1, task=(one,), measure=None).digest == one.name


def test_what_stands_in_the_table_is_not_trained_again(runner):
    wanted = [run("a", 0, arrays=("loss",)), run("a", 1, arrays=("loss",))]
    first = finished(wanted).write("a", "test_accuracy")
    del runner.trained[:]
    second = finished(wanted).write("a", "test_accuracy")
    assert runner.trained == []
    pd.testing.assert_frame_equal(second.table, first.table)
    for name, array in first.arrays.items():
        np.testing.assert_array_equal(second.arrays[name], array)
    assert (first.info["runs"], first.info["reused_runs"]) == (2, 0)
    assert (second.info["runs"], second.info["reused_runs"]) == (2, 2)


def test_a_row_of_the_same_training_read_another_way_is_measured_anew(runner):
    finished([run("a", 0, varies={"share": 0.6})]).write("a", "test_accuracy")
    same = finished([run("a", 0, varies={"share": 0.6})])
    assert same._finished == set()  # nothing was asked of the run store
    other = finished([run("a", 0, varies={"share": 0.5})])
    assert other._finished == {run("a", 0).task.name}
    assert other.table["share"].to_list() == [0.5]


def test_facts_from_the_same_tasks_and_another_setting_are_computed_anew(runner):
    tasks, asked = run("a", 0).tasks, []
    for share in (0.6, 0.6, 0.5):
        one = finished([run("a", 0)])
        one.derive("fact", tasks, lambda _, share=share: (asked.append(share), {}), given=[share])
        one.write("a", "test_accuracy")
    assert asked == [0.6, 0.5]


def test_another_arm_costs_that_arm_alone(runner):
    finished([run("a", 0)]).write("a", "test_accuracy")
    del runner.trained[:]
    found = finished([run("a", 0), run("b", 1)]).write("a", "test_accuracy")
    assert runner.names == [run("b", 1).task.name]
    assert found.table["arm"].to_list() == ["a", "b"]
    assert (found.info["runs"], found.info["reused_runs"]) == (2, 1)


def test_a_run_that_is_asked_for_no_longer_leaves_the_table(runner):
    finished([run("a", 0), run("a", 1)]).write("a", "test_accuracy")
    found = finished([run("a", 0)]).write("a", "test_accuracy")
    assert found.table["seed"].to_list() == [0]
    assert not [name for name in found.arrays if run("a", 1).digest in name]


def test_a_row_without_the_arrays_that_a_page_needs_is_measured_anew(runner):
    one = finished([run("a", 0)])
    one.arrays.clear()
    one.write("a", "test_accuracy")
    del runner.trained[:]
    again = finished([run("a", 0, arrays=("loss",))])
    assert again.array(run("a", 0), "loss").tolist() == [2.3, 2.3]
    assert runner.trained == []  # its network was in the run store
    runner.stored.clear()
    assert finished([run("a", 0)]).array(run("a", 0), "loss").tolist() == [2.3, 2.3]
    assert runner.names == [run("a", 0).task.name]


def test_fresh_trains_each_run_once(runner):
    finished([run("a", 0)]).write("a", "test_accuracy")
    del runner.trained[:]
    one = finished([run("a", 0)], fresh=True)
    one.outcomes(run("a", 0).tasks)
    one.derive("x", run("a", 0).tasks, lambda found: (len(found), {}))
    assert runner.asked_fresh == runner.names == [run("a", 0).task.name]
    assert one.write("a", "test_accuracy").info["reused_runs"] == 0
    # Asked together with a new run, it is not trained once more.
    one.outcomes(run("a", 0).tasks + run("a", 1).tasks)
    assert runner.asked_fresh == [run("a", seed).task.name for seed in (0, 1)]


def test_what_was_just_trained_anew_is_not_counted_as_reused(runner):
    # The run store hands back what was trained a moment ago.
    runner.outcome = lambda task: dataclasses.replace(knowing(task), reused=True)
    wanted = [run("a", 0), run("a", 1)]
    for fresh, reused in ((True, 0), (False, 2)):
        found = finished(wanted, fresh=fresh).write("a", "test_accuracy")
        assert (found.info["runs"], found.info["reused_runs"]) == (2, reused)


def test_derived_facts_are_kept_as_long_as_their_runs_are_the_same(runner):
    calls = []

    def derive(one, *seeds):
        tasks = [run("a", seed).task for seed in seeds]
        find = lambda found: calls.append(len(found)) or ({"n": len(found)}, {"x": np.ones(2)})  # noqa: E731
        return one.derive("count", tasks, find)

    one = finished([run("a", 0)])
    assert derive(one, 0) == {"n": 1}
    one.write("a", "test_accuracy")
    del runner.trained[:]
    two = finished([run("a", 0)])
    assert derive(two, 0) == {"n": 1}
    assert calls == [1]
    assert two.arrays["count/x"].tolist() == [1, 1]
    assert derive(two, 0, 1) == {"n": 2}
    assert calls == [1, 2]
    assert runner.names == [run("a", 1).task.name]
    assert derive(finished([run("a", 0)], fresh=True), 0) == {"n": 1}
    assert calls == [1, 2, 1]


def test_what_needs_no_outcome_gets_none(runner):
    one = finished([run("a", 0)])
    del runner.trained[:]
    runner.stored.clear()
    assert one.derive("x", run("a", 0).tasks, lambda: (7, {}), outcomes=False) == 7
    assert runner.trained == []


def test_the_headline_is_the_tables_mean(runner):
    found = finished([run("a", 0), run("a", 1), run("b", 5)]).write("a", "test_accuracy", leak=0.5)
    headline = found.info["headline"]
    assert (headline["arm"], headline["metric"], headline["n"]) == ("a", "test_accuracy", 2)
    assert headline["mean"] == found.table["test_accuracy"][:2].mean()
    assert headline["low"] < headline["mean"] < headline["high"]
    assert found.info["leak"] == 0.5
    assert found.info["plan"] == {"seeds": 2, "variant_seeds": 3}


def test_a_checkpoint_is_written_once_for_a_run(runner, monkeypatch):
    saved = []

    def save(model, path, description):
        saved.append((model, description))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("network")
        path.with_suffix(".json").write_text(json.dumps(results.plain(description)))

    monkeypatch.setattr(inference, "save_classifier", save)
    build = lambda outcome, settings: (outcome.weights[0][0], settings.seed)  # noqa: E731
    for wanted, count in ((run("a", 0), 1), (run("a", 0), 1), (run("a", 3), 2)):
        one = finished([wanted])
        one.checkpoint("model", wanted, "test_accuracy", build, start="random")
        assert len(saved) == count
        (noted,) = one.info["checkpoints"].items()
        assert noted[0] == "checkpoints/runs/smoke/part2/model.keras"
        assert noted[1]["seed"] == wanted.seed
    path = config.ROOT / noted[0]
    path.unlink()  # its description alone is no network
    one.checkpoint("model", wanted, "test_accuracy", build, start="random")
    assert len(saved) == 3
    assert saved[1][0] == saved[2][0] == (103.0, 3)
    description = saved[1][1]
    assert description["run"] == run("a", 3).task.name
    assert description["test_accuracy"] == pytest.approx(5 / 6 + 0.03)
    assert description["class_names"] == list("0123456789")
    assert description["start"] == "random"


def ran(profile, *, seeds=None, fresh=False):
    return f"ran {profile} {seeds}"


def test_a_notebook_draws_what_is_written_and_runs_what_is_not(runner):
    opened = studies.open_results(2, ran, "smoke", None, seeds=3)
    assert opened == "ran smoke 3"
    finished([run("a", 0)]).write("a", "test_accuracy")
    drawn = studies.open_results(2, ran, "smoke", None, seeds=None)
    assert drawn.table["arm"].to_list() == ["a"]
    assert studies.open_results(2, ran, "smoke", True, seeds=3) == "ran smoke 3"


@pytest.mark.parametrize(("train", "options"), [(None, {"seeds": 3}), (False, {"fresh": True})])
def test_an_option_that_drawing_would_ignore_is_an_error(runner, train, options):
    finished([run("a", 0)]).write("a", "test_accuracy")
    name, value = next(iter(options.items()))
    with pytest.raises(UserError, match=f"{name}={value}: .*train=True"):
        studies.open_results(2, ran, "smoke", train, **options)


def test_drawing_what_was_never_run_says_how_to_run_it(runner):
    with pytest.raises(UserError, match="make part2 PROFILE=smoke"):
        studies.open_results(2, ran, "smoke", False)


def test_another_number_of_seeds_limits_what_depends_on_it():
    plans = {"smoke": Plan()}
    assert studies.plan_for(plans, "smoke", None) == Plan()
    assert studies.plan_for(plans, "smoke", 1, "variant_seeds") == Plan(1, 1)
    assert studies.plan_for(plans, "smoke", 9, "variant_seeds") == Plan(9, 3)
    with pytest.raises(UserError, match="SEEDS=0: give 1 or more"):
        studies.plan_for(plans, "smoke", 0)
    with pytest.raises(UserError, match="PROFILE=huge"):
        studies.plan_for(plans, "huge", None)


def test_the_first_images_keep_their_labels():
    images = np.arange(5 * 28 * 28, dtype=np.uint8).reshape(5, 28, 28)
    dataset = SimpleNamespace(images=images, labels=np.array([3, 1, 4, 1, 5]))
    found = studies.as_examples(dataset, 3)
    assert found.labels.tolist() == [3, 1, 4]
    np.testing.assert_array_equal(found.pictures[..., 0], images[:3])
    assert len(studies.as_examples(dataset).labels) == 5


def test_what_a_test_set_tells():
    one = object.__new__(studies.MnistStudy)
    one.test = Examples(pictures=np.zeros((2, 8, 8, 1), np.uint8), labels=np.array([0, 1]))
    outcome = runs.Outcome(
        history={"step": np.array([5, 9]), "val_accuracy": np.array([0.5, 0.96])},
        probabilities=None, views=None, tests={"mnist": np.array([[0.8, 0.2], [0.6, 0.4]])},
        weights=[], seconds=3.0, reused=False,
    )  # fmt: skip
    found, arrays = one.tested(outcome)
    assert found["test_accuracy"] == 0.5
    assert found["test_nll"] == pytest.approx(-(np.log(0.8) + np.log(0.4)) / 2)
    assert found["test_ece"] == pytest.approx((0.2 + 0.6) / 2)
    assert (found["steps"], found["seconds"]) == (9, 3.0)
    assert arrays["right"].tolist() == [True, False]
    np.testing.assert_allclose(arrays["nll"], -np.log([0.8, 0.4]), rtol=1e-6)
    found, arrays = one.learned(outcome, 0.1, ("step",), share=0.7)
    assert (found["jump_start"], found["share"], found["steps_to_0.95"]) == (0.1, 0.7, 9)
    assert arrays["step"].tolist() == [5, 9]


def test_a_declared_run_has_its_own_seed_and_start():
    one = object.__new__(studies.MnistStudy)
    one.test = Examples(pictures=np.zeros((2, 8, 8, 1), np.uint8), labels=np.array([0, 1]))
    first = one.declare("a", 1, Settings(seed=100), one.test)
    seven = vary(Settings(), training__epochs=7)
    second = one.declare("b", 2, seven, one.test, start=first, varies={"size": 3}, classes=5)
    assert (first.task.settings.seed, second.task.settings.seed) == (101, 2)
    assert first.task.tests == {"mnist": one.test}
    assert (first.task.start, second.task.start) == (None, first.task)
    assert (first.task.classes, second.task.classes, second.varies) == (
        10,
        5,
        {"epochs": 7, "rate": 0.002, "size": 3},
    )
    assert first.measure == one.tested


def test_a_pretrained_start_is_a_training_of_its_own_that_no_test_renames():
    one = object.__new__(studies.MnistStudy)
    one.characters = Examples(pictures=np.zeros((6, 8, 8, 1), np.uint8), labels=np.arange(6))
    settings, measure = vary(Settings(), training__epochs=7), object()

    def start(seed, labels):
        tests = {"mnist": dataclasses.replace(one.characters, labels=np.array(labels))}
        return one.pretrained("start/a", seed, settings, tests, measure)

    first, other, second = start(0, [1] * 6), start(0, [2] * 6), start(1, [1] * 6)
    trained = Task(settings=settings, examples=one.characters, classes=62)
    assert first.task.start.name == other.task.start.name == trained.name
    assert first.task.name != other.task.name
    assert second.task.start.settings == dataclasses.replace(settings, seed=1)
    for run in (first, second):
        assert run.task.settings == vary(run.task.start.settings, training__epochs=0)
        assert (run.arm, run.varies, run.measure) == ("start/a", {"epochs": 7}, measure)
        assert (run.task.classes, run.task.held_out) == (62, None)
    assert (first.seed, second.seed) == (0, 1)


NAME = "0123456789abcdef01234567"


def publish(part, run, geometry=True):
    """Commit a small checkpoint of a run; returns its network's weights by the picture alone, in
    their order, no two alike."""
    from midas_lib import model

    settings = vary(Settings(), network__channels=(8, 8, 8, 8))
    network = cnn(3, settings.preprocessing.size, settings.network)
    weights = [np.full(w.shape, part + i / 100, np.float32) for i, w in enumerate(network.weights)]
    network.set_weights(weights)
    if geometry:
        network = model.add_geometry(network, np.full((2, 3), 7.0), np.full(3, 8.0))
    notes = {"run": run, "seconds": 12.5, "class_names": list("abc")}
    path = config.ROOT / "checkpoints" / f"part{part}" / "model.keras"
    notes |= {"settings": dataclasses.asdict(settings)}
    inference.save_classifier(network, path, notes)
    return weights


@pytest.mark.parametrize("geometry", [True, False])
def test_a_start_that_is_kept_as_a_checkpoint_is_put_into_the_store(runner, geometry):
    publish(3, "another")
    weights = publish(1, NAME, geometry)
    studies.adopt({NAME, "f" * 24})
    (path,) = config.RUNS.iterdir()
    assert path.name == f"{NAME}.npz"
    found = runs._load(config.RUNS, NAME)
    for ours, theirs in zip(found.weights, weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert (found.seconds, found.history, found.tests) == (12.5, {}, {})
    assert (found.probabilities, found.views) == (None, None)
    told = store.details(path)
    assert (told["name"], told["last"]) == (NAME, {})
    assert told["settings"]["network"]["channels"] == [8, 8, 8, 8]


def test_what_the_store_has_and_what_is_no_start_is_not_adopted(runner, monkeypatch):
    publish(1, NAME)
    config.RUNS.mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr(inference, "load_classifier", lambda path: pytest.fail(f"loaded {path}"))
    studies.adopt({"f" * 24})
    studies.adopt(set())
    assert list(config.RUNS.iterdir()) == []
    (config.RUNS / f"{NAME}.npz").write_text("as it is")
    studies.adopt({NAME})
    assert (config.RUNS / f"{NAME}.npz").read_text() == "as it is"


def test_all_that_a_training_goes_back_to_is_looked_for_among_the_checkpoints(runner, monkeypatch):
    asked = []
    monkeypatch.setattr(studies, "adopt", asked.append)
    first, second, third = (run("a", seed).task for seed in range(3))
    second = dataclasses.replace(second, start=first)
    third = dataclasses.replace(third, start=second)
    study().outcomes([third, run("a", 3).task])
    assert asked == [{first.name, second.name}]
    study().outcomes([first])
    assert asked[1:] == [set()]
