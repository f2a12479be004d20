"""Part 1's study: what is compared with what, and that no fold sees its own images."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from fakes import knowing, on_standin

from midas_lib import analysis, data, results
from midas_lib.config import CLASS_NAMES, Settings, UserError, vary
from midas_lib.studies import part1
from midas_lib.studies.study import Study


@pytest.fixture(scope="module")
def characters(standin_folder):
    with on_standin(standin_folder):
        return data.limit(data.load_characters("smoke"), part1.PLANS["smoke"].per_class)


PLAN = dataclasses.replace(part1.PLANS["smoke"], seeds=2, groups=None, variants=None)


@pytest.fixture
def study(characters, runner):
    return part1.Part1(PLAN, "smoke", characters)


def of(study, run):
    """The cross-validation that a run's row rests on."""
    return study._passes[run.digest]


def test_a_profile_takes_as_many_images_of_each_class(characters):
    assert (np.bincount(characters.labels) == part1.PLANS["smoke"].per_class).all()


def test_no_network_is_asked_about_an_image_it_was_trained_on(study):
    everything = study.passes() | study.ablations(0)
    for name, run in everything.items():
        one = of(study, run)
        assert sorted(len(task.held_out.labels) for task in run.tasks) == sorted(
            np.bincount(one.fold).tolist()
        ), name
        for k, task in enumerate(run.tasks):
            assert not (one.fold[one.trained_on[k]] == k).any()
            trained_on = study.labels[one.trained_on[k]]
            np.testing.assert_array_equal(task.examples.labels, trained_on)
            np.testing.assert_array_equal(task.held_out.labels, study.labels[one.fold == k])
            assert task.views


def test_writer_disjoint_folds_share_no_writer(study):
    one = of(study, study.passes()["writer-disjoint", 1])
    for k in range(5):
        assert not set(study.writers[one.trained_on[k]]) & set(study.writers[one.fold == k])


def test_a_size_takes_as_many_of_each_class(study):
    run = study.passes()["size-2", 1]
    assert run.varies["size"] == 2
    for task in run.tasks:
        assert (np.bincount(task.examples.labels, minlength=62) == 2).all()


def test_the_headlines_partitions_chose_nothing(study):
    passes = study.passes()
    chosen = [study.ablations(p) for p in part1.CHOOSING_PARTITIONS]
    chosen = {of(study, run).fold.tobytes() for group in chosen for run in group.values()}
    headline = [run for (arm, _), run in passes.items() if arm == "cross-validation"]
    assert len(headline) == 2
    assert not chosen & {of(study, run).fold.tobytes() for run in headline}
    seeds = [task.settings.seed for run in headline for task in run.tasks]
    assert len(set(seeds)) == len(seeds)


def test_every_ablation_changes_something_and_only_that(study):
    base = Settings()
    for variants in part1.ABLATIONS.values():
        for variant, changes in variants.items():
            changed = vary(base, **changes)
            assert (changed != base) is (variant != part1.PICTURE_ALONE)
    assert set(study.ablations(0)) == {
        ("ablation/chosen for 1 epochs", 0),
        *((f"ablation/{v}", 0) for group in part1.ABLATIONS.values() for v in group),
    }


def test_only_what_the_first_pass_leaves_open_is_repeated(study):
    wanted = ["dropout 0.3", "one-cycle"]
    runs_ = study.ablations(1001, wanted)
    assert set(runs_) == {(f"ablation/{v}", 1001) for v in ["chosen for 1 epochs", *wanted]}


def test_a_slow_ablation_is_compared_at_its_own_length(characters, runner):
    plan = dataclasses.replace(PLAN, slow_ablation_epochs=2)
    found = part1.Part1(plan, "smoke", characters).ablations(0)
    for group, variant, _ in plan.ablations():
        epochs = 2 if group == part1.SLOW_GROUP else 1
        for arm in (f"ablation/{variant}", part1.chosen_arm(epochs)):
            assert found[arm, 0].varies["epochs"] == epochs
            for task in found[arm, 0].tasks:
                assert task.settings.training.epochs == epochs


def misreading(share, variant_only=None):
    """Networks that misread the first share of what they are asked, all or of one dropout."""

    def outcome(task):
        found = knowing(task)
        if task.held_out is None:
            return found
        count = round(share * len(task.held_out.labels))
        probabilities = np.full((len(task.held_out.labels), 62), 0.001)
        probabilities[np.arange(len(probabilities)), task.held_out.labels] = 0.9
        if variant_only is None or task.settings.network.dropout == variant_only:
            probabilities[:count] = np.roll(probabilities[:count], 1, axis=1)
            probabilities[np.arange(count), task.held_out.labels[:count]] = 0.05
        return dataclasses.replace(found, probabilities=probabilities, views=probabilities)

    return outcome


def test_an_ablation_pools_its_partitions_and_pairs_them_with_the_chosen_settings(
    study, runner, monkeypatch
):
    monkeypatch.setattr(part1.Part1, "_logs", lambda self, one, reads, found: one.logs(found))
    runner.outcome = misreading(0.5, variant_only=0.3)
    found = study.ablations(0) | study.ablations(1001, ["dropout 0.3", "dropout 0.5"])
    study.finish(list(found.values()))
    undecided = study.weigh(study.ablations(0), "first pass")
    assert "dropout 0.3" not in undecided
    assert "dropout 0.5" in undecided
    study.weigh(found)
    facts = study.info["facts"]
    assert facts["ablation/dropout 0.5"]["difference"].mean == 0
    worse = facts["ablation/dropout 0.3"]
    assert worse["difference"].mean == pytest.approx(-0.5, abs=0.02)
    assert worse["difference"].high < 0
    assert worse["accuracy"] - worse["baseline"] == pytest.approx(worse["difference"].mean)
    assert worse["difference"].n == len(np.unique(study.writers))


def test_a_difference_is_to_the_chosen_settings_of_its_own_length_and_partitions(
    characters, runner, monkeypatch
):
    monkeypatch.setattr(part1.Part1, "_logs", lambda self, one, reads, found: one.logs(found))
    changes = {"dropout 0.3": {"network__dropout": 0.3}}
    monkeypatch.setattr(
        part1, "ABLATIONS", {"Learning rate": {"constant": {"training__schedule": "constant"}},
                             part1.SLOW_GROUP: changes},
    )  # fmt: skip
    study = part1.Part1(dataclasses.replace(PLAN, slow_ablation_epochs=2), "smoke", characters)

    def outcome(task):
        # One epoch misreads half. With dropout, partition 0 misreads half and the others nothing.
        settings = task.settings
        dropped = settings.network.dropout == 0.3 and settings.seed < 10
        return misreading(0.5 if settings.training.epochs == 1 or dropped else 0)(task)

    runner.outcome = outcome
    found = study.ablations(0) | study.ablations(1001, ["dropout 0.3"])
    study.finish(list(found.values()))
    assert study.weigh(found) == ["constant"]
    facts = study.info["facts"]
    assert facts["ablation/constant"]["difference"].mean == 0
    assert facts["ablation/constant"]["baseline"] == pytest.approx(0.5, abs=0.02)
    assert facts["ablation/dropout 0.3"]["difference"].mean == pytest.approx(-0.25, abs=0.02)
    assert facts["ablation/dropout 0.3"]["baseline"] == 1


def test_only_what_changes_the_preprocessing_goes_without_the_geometry(study, monkeypatch):
    asked = []

    def logs(self, one, reads, found):
        asked.append(reads)
        return one.logs(found)

    monkeypatch.setattr(part1.Part1, "_logs", logs)
    for (arm, _), run in study.ablations(0).items():
        del asked[:]
        run.measure(*map(knowing, run.tasks))
        preprocessing = arm.removeprefix("ablation/") in part1.ABLATIONS["Preprocessing"]
        assert set(asked) == {"picture" if preprocessing else "geometry"}, arm


def answering(study, run, answers, views):
    """What a pass measures whose networks give these answers (n,), their second choice the label,
    and those answers with two views."""
    fold, named = of(study, run).fold, 0.38 * np.eye(62)
    first, second = 0.01 + named[answers] + 0.1 * np.eye(62)[study.labels], 0.01 + named[views]
    return run.measure(*(
        dataclasses.replace(knowing(task), probabilities=first[fold == k], views=second[fold == k])
        for k, task in enumerate(run.tasks)
    ))  # fmt: skip


def test_a_pass_counts_what_is_right_once_case_or_lookalikes_are_merged(study, monkeypatch):
    monkeypatch.setattr(part1.Part1, "_logs", lambda self, one, reads, found: one.logs(found))
    swapped = np.array([CLASS_NAMES.index(name.swapcase()) for name in CLASS_NAMES])
    run = study.passes()["cross-validation", 1]
    found, arrays = answering(study, run, swapped[study.labels], study.labels)
    assert found["accuracy"] == pytest.approx(10 / 62)  # the digits
    assert found["case_merged_accuracy"] == 1
    assert found["lookalikes_merged_accuracy"] == pytest.approx(12 / 62)  # and O and o
    assert found["top2_accuracy"] == found["views_accuracy"] == 1
    # The digits at 0.49, the letters at 0.11.
    assert found["nll"] == pytest.approx(-(10 * np.log(0.49) + 52 * np.log(0.11)) / 62)
    assert found["ece"] == pytest.approx((10 * 0.51 + 52 * 0.39) / 62)
    assert found["seconds"] == 5
    np.testing.assert_array_equal(arrays["predictions"], swapped[study.labels])
    np.testing.assert_array_equal(arrays["view_predictions"], study.labels)
    assert arrays["val_accuracy"].tolist() == pytest.approx(np.array([[0.5, 0.99]] * 5))


def test_the_second_place_is_not_the_third(study, monkeypatch):
    monkeypatch.setattr(part1.Part1, "_logs", lambda self, one, reads, found: one.logs(found))
    run = study.passes()["cross-validation", 1]
    third = [knowing(task) for task in run.tasks]
    for outcome, task in zip(third, run.tasks, strict=True):
        ranks = np.eye(62)[task.held_out.labels]
        outcome.probabilities[:] = (
            0.1 * ranks + 0.3 * np.roll(ranks, 1, 1) + 0.2 * np.roll(ranks, 2, 1)
        )
    found, _ = run.measure(*third)
    assert (found["accuracy"], found["top2_accuracy"], found["top5_accuracy"]) == (0, 0, 1)


class Known:
    """A pass of five folds whose networks know nothing, on classes told by their geometry."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self.labels, self.writers = np.tile(np.arange(62), 10), np.repeat(np.arange(10), 62)
        where = np.arange(62) / 62
        exact = np.stack([where, where**2], 1)[self.labels]
        noise = rng.normal(0, 1e-4, (620, 2))
        self.geometry = exact + rng.normal(0, 0.2, (10, 2))[self.writers] + noise

    def correct(self, reads):
        one = part1.Pass(data.folds(self.labels, 1))
        for k in range(5):
            one.trained_on.append(np.flatnonzero(one.fold != k))
        flat = [np.full(((one.fold == k).sum(), 62), 1 / 62) for k in range(5)]
        logs = part1.Part1._logs(self, one, reads, flat)
        assert np.exp(logs).sum(1) == pytest.approx(1)
        return (logs.argmax(1) == self.labels).mean()


def test_taking_out_a_writers_habit_lets_the_geometry_tell_the_class():
    known = Known()
    assert known.correct("picture") < 0.05
    assert known.correct("writer") > 0.5 > known.correct("geometry") + 0.2


def test_a_held_out_label_does_not_reach_its_own_offset():
    known = Known()
    fold = data.folds(known.labels, 1) != 0
    shuffled = known.labels.copy()
    shuffled[~fold] = np.random.default_rng(1).permutation(shuffled[~fold])
    before, after = (
        analysis.remove_writer_offsets(known.geometry, labels, known.writers, fold)
        for labels in (known.labels, shuffled)
    )
    np.testing.assert_array_equal(before, after)


def test_geometry_is_estimated_from_the_folds_own_training_images():
    known = Known()
    one = part1.Pass(data.folds(known.labels, 1))
    for k in range(5):
        one.trained_on.append(np.flatnonzero(one.fold != k))
    before = one.geometry_logs([known.geometry] * 5, known.labels)
    moved = known.geometry + 10 * (one.fold == 0)[:, None]
    after = one.geometry_logs([known.geometry if k else moved for k in range(5)], known.labels)
    others = one.fold != 0
    np.testing.assert_array_equal(before[others], after[others])


@pytest.mark.parametrize("reads", ["geometry", "writer"])
def test_no_label_of_a_fold_reaches_what_is_said_of_it(reads):
    known = Known()
    one = part1.Pass(data.folds(known.labels, 1))
    one.trained_on = [np.flatnonzero(one.fold != k) for k in range(5)]
    flat = [np.full(((one.fold == k).sum(), 62), 1 / 62) for k in range(5)]
    before = part1.Part1._logs(known, one, reads, flat)
    own = one.fold == 3
    known.labels = known.labels.copy()
    known.labels[own] = np.random.default_rng(1).permutation(known.labels[own])
    after = part1.Part1._logs(known, one, reads, flat)
    np.testing.assert_array_equal(before[own], after[own])
    assert (before[~own] != after[~own]).any()


def test_the_geometry_adds_its_likelihood_at_its_weight():
    known = Known()
    one = part1.Pass(data.folds(known.labels, 1))
    one.trained_on = [np.flatnonzero(one.fold != k) for k in range(5)]
    found = [np.full(((one.fold == k).sum(), 62), 0.5) for k in range(5)]
    for probabilities in found:
        probabilities[:, 1] = 0.25
    logs = part1.Part1._logs(known, one, "geometry", found)
    geometry = one.geometry_logs([known.geometry] * 5, known.labels)
    # Between two classes: what the picture says, ln 2, and 0.6 of what the geometry says.
    difference = np.log(2) + 0.6 * (geometry[:, 0] - geometry[:, 1])
    assert logs[:, 0] - logs[:, 1] == pytest.approx(difference)


def test_a_temperature_is_fitted_on_the_other_folds(study, monkeypatch):
    run = study.passes()["cross-validation", 1]
    study.finish([run])
    fitted = []

    def fit(labels, logs):
        fitted.append((labels, logs))
        return float(len(fitted))

    monkeypatch.setattr(analysis, "fit_temperature", fit)
    study.calibrate(run)
    fold = of(study, run).fold
    assert study.info["facts"]["calibration"]["temperature"] == 3
    logs, calibrated = study._headline_logs(run), np.empty((len(fold), 62))
    for k in range(5):
        others = study.labels[fold != k], logs[fold != k]
        np.testing.assert_array_equal(fitted[k][0], others[0])
        np.testing.assert_array_equal(fitted[k][1], others[1])
        calibrated[fold == k] = np.exp(analysis.apply_temperature(logs[fold == k], k + 1))
    expected = analysis.expected_calibration_error(study.labels, calibrated)
    assert study.info["facts"]["calibration"]["after"] == pytest.approx(expected)
    assert study.info["facts"]["calibration"]["before"] != pytest.approx(expected)


def run_quietly(monkeypatch, checkpoint=lambda *_, **__: None, **options):
    monkeypatch.setattr(Study, "checkpoint", checkpoint)
    monkeypatch.setattr(
        part1.Part1, "look_inside", lambda self, outcomes: (None, {"rates": np.ones(1)})
    )
    return part1.run("smoke", **options)


def test_the_table_and_facts_count_what_the_answers_say(standin, runner, monkeypatch, characters):
    runner.outcome = misreading(0.25)
    monkeypatch.setattr(part1.Part1, "_logs", lambda self, one, reads, found: one.logs(found))
    found = run_quietly(monkeypatch, seeds=2)
    table, facts, arrays = found.table, found.info["facts"], found.arrays
    passes = table[table["arm"] == "cross-validation"]
    assert passes["partition"].to_list() == [1, 2]
    wrong = arrays["shown/predictions"] != arrays["shown/labels"]
    n = len(characters.labels)
    assert passes["accuracy"].to_list() == pytest.approx((1 - wrong.sum(1) / n).tolist())
    assert found.info["headline"]["mean"] == pytest.approx(passes["accuracy"].mean())
    assert found.info["headline"]["metric"] == "accuracy"
    assert (passes["top2_accuracy"] > passes["accuracy"]).all()
    over = {name: facts[f"over writers/{name}"] for name in ("cross-validation", "ensemble")}
    assert over["cross-validation"]["accuracy"].mean == pytest.approx(passes["accuracy"].mean())
    assert over["cross-validation"]["difference"].mean == 0
    assert over["cross-validation"]["accuracy"].n == len(np.unique(characters.writers))
    # An image that one of two equally sure networks reads is right or wrong by the tie alone.
    assert over["ensemble"]["accuracy"].mean >= over["cross-validation"]["accuracy"].low
    read = arrays["shown/predictions"][0] == arrays["shown/labels"]
    right = np.bincount(characters.labels, minlength=62)
    right -= np.bincount(arrays["shown/labels"][~read], minlength=62)
    shown = np.bincount(arrays["shown/labels"][read], minlength=62)
    assert (shown >= np.minimum(right, 4)).all()  # of every class some that were read right
    assert arrays["confusion"].sum() == 2 * n
    assert np.trace(arrays["confusion"]) == pytest.approx(passes["accuracy"].sum() * n)
    assert np.average(arrays["per_writer"], weights=list(facts["writer_counts"].values())) > 0.5
    assert sum(facts["writer_counts"].values()) == sum(facts["class_counts"]) == n
    guides = facts["guides"]
    assert guides["top of capitals"] < guides["top of small letters"] < guides["base line"]
    assert arrays["first/scans"].shape == (62, 225, 300)
    del runner.trained[:]
    again = run_quietly(monkeypatch, seeds=2)
    assert runner.trained == []
    pd.testing.assert_frame_equal(again.table, table)


def test_what_single_images_are_drawn_from(study, runner, monkeypatch):
    monkeypatch.setattr(part1.Part1, "_logs", lambda self, one, reads, found: one.logs(found))
    run = study.passes()["cross-validation", 1]
    study.finish([run])
    study.calibrate(run)
    letters = [CLASS_NAMES.index(name) for name in "EHXxz"]
    study.geometry = np.full((len(study.labels), 2), 9.0)
    for label, edges in zip(letters, [(0.1, 0.8)] * 3 + [(0.5, 0.7)] * 2, strict=True):
        study.geometry[study.labels == label] = edges
    study.show([run])
    guides = {"top of capitals": 0.1, "top of small letters": 0.5, "base line": 0.8}
    assert study.info["facts"]["guides"] == pytest.approx(guides)
    # The stand-in networks misread the first image of each fold, and are sure of 0.4 and a little.
    wrong = study.array(run, "predictions") != study.labels
    assert wrong.sum() == 5
    shares = [1 - wrong[study.labels == c].mean() for c in range(62)]
    assert study.arrays["per_class"] == pytest.approx(shares)
    for writer, share in zip(study.arrays["writers"], study.arrays["per_writer"], strict=True):
        assert share == pytest.approx(1 - wrong[study.writers == writer].mean())
    misread = study.arrays["shown/predictions"][0] != study.arrays["shown/labels"]
    assert misread.sum() == 5
    assert study.arrays["shown/confidence"] == pytest.approx(np.full(len(misread), 0.4 + 0.6 / 62))
    right = np.where(misread, 0.6 / 62, 0.4 + 0.6 / 62)
    assert study.arrays["shown/right_confidence"] == pytest.approx(right)


def test_two_views_and_the_mean_of_the_networks_are_compared_with_the_headline(
    standin, runner, monkeypatch
):
    monkeypatch.setattr(part1.Part1, "_logs", lambda self, one, reads, found: one.logs(found))

    def outcome(task):
        # The first partition misreads a quarter, unsure; the second reads all, and two views do.
        right = misreading(0)(task)
        if task.held_out is None or task.settings.seed // 10 != 1:
            return right
        unsure = np.full_like(right.probabilities, 0.001)
        for i, label in enumerate(task.held_out.labels):
            misread = i < len(unsure) // 4
            unsure[i, [label, (label + 1) % 62]] = (0.4, 0.5) if misread else (0.5, 0.4)
        return dataclasses.replace(right, probabilities=unsure)

    runner.outcome = outcome
    found = run_quietly(monkeypatch, seeds=2)
    over = {name: found.info["facts"][f"over writers/{name}"] for name in (
        "cross-validation", "test-time augmentation", "ensemble", "size-4"
    )}  # fmt: skip
    first, second = found.table[found.table["arm"] == "cross-validation"]["accuracy"]
    assert (first, second) == (pytest.approx(0.75, abs=0.02), 1)
    mean = pytest.approx((first + second) / 2)
    assert over["cross-validation"]["accuracy"].mean == mean
    for name in ("test-time augmentation", "ensemble"):
        assert over[name]["accuracy"].mean == 1
        assert over[name]["difference"].mean == pytest.approx((1 - first) / 2)
    # As many as the four other folds have of five of each class: the first pass alone.
    assert over["size-4"]["accuracy"].mean == pytest.approx(first)
    assert over["size-4"]["difference"].mean == pytest.approx((first - 1) / 2)


def test_what_the_first_pass_leaves_open_is_repeated_and_one_on_the_headlines_partitions(
    standin, runner, monkeypatch
):
    monkeypatch.setattr(part1.Part1, "_logs", lambda self, one, reads, found: one.logs(found))
    named = ["dropout 0.3", "dropout 0.5", part1.CONFIRMED]
    group = part1.ABLATIONS[part1.SLOW_GROUP]
    monkeypatch.setattr(
        part1, "ABLATIONS", {part1.SLOW_GROUP: {name: group[name] for name in named}}
    )
    plan = dataclasses.replace(PLAN, ablation_partitions=2)
    monkeypatch.setitem(part1.PLANS, "smoke", plan)
    runner.outcome = misreading(0.5, variant_only=0.3)
    table = run_quietly(monkeypatch).table
    partitions = {
        arm: rows["partition"].to_list()
        for arm, rows in table[table["arm"].str.startswith("ablation/")].groupby("arm")
    }
    assert partitions == {
        "ablation/chosen for 1 epochs": [0, 1001, 1, 2],
        "ablation/dropout 0.3": [0],
        "ablation/dropout 0.5": [0, 1001],
        f"ablation/{part1.CONFIRMED}": [0, 1001, 1, 2],
    }


def test_the_checkpoint_reads_the_geometry_of_all_images_at_its_weight(
    standin, runner, monkeypatch, characters
):
    from midas_lib import model

    monkeypatch.setattr(model, "add_geometry", lambda *given: given)
    monkeypatch.setattr(part1, "rebuild", lambda outcome, settings: (outcome, settings))
    kept = []
    run_quietly(monkeypatch, checkpoint=lambda *given, **_: kept.append(given))
    ((study, name, run, metric, build),) = kept
    assert (name, run.arm, metric) == ("model", "final", "seconds")
    assert len(run.task.examples.labels) == len(characters.labels)
    network, kernel, bias = build("outcome", "settings")
    assert network == ("outcome", "settings")
    ours = study.geometry @ kernel + bias
    theirs = analysis.class_likelihood(study.geometry, study.labels, 62)
    assert ours == pytest.approx(0.6 * (study.geometry @ theirs[0] + theirs[1]))


def test_a_seed_count_or_profile_that_does_not_exist_is_named(standin):
    with pytest.raises(UserError, match="SEEDS=0"):
        part1.run("smoke", seeds=0)
    with pytest.raises(UserError, match="PROFILE=huge"):
        part1.run("huge")


def test_the_published_table_gives_the_published_headline():
    found = results.read(1)
    passes = found.table[found.table["arm"] == "cross-validation"]
    ours, headline = analysis.mean_interval(passes["accuracy"]), found.info["headline"]
    assert (ours.mean, ours.low, ours.high, ours.n) == pytest.approx(
        tuple(headline[name] for name in ("mean", "low", "high", "n"))
    )
