"""Part 1's study: what is compared with what, and that no fold sees its own images."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from fakes import knowing

from midas_lib import analysis, data, results
from midas_lib.config import Settings, UserError, vary
from midas_lib.studies import part1
from midas_lib.studies.study import Study


@pytest.fixture(scope="module")
def characters(standin_folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATA_DIR", str(standin_folder))
        patch.setenv("STANDIN", "1")
        return part1.load("smoke")


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
    undecided = study.undecided(found, 0)
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


def test_a_temperature_is_fitted_on_the_other_folds(study, monkeypatch):
    run = study.passes()["cross-validation", 1]
    study.finish([run])
    fitted = []

    def fit(labels, logs):
        fitted.append(labels)
        return float(len(fitted))

    monkeypatch.setattr(analysis, "fit_temperature", fit)
    study.calibrate(run)
    fold = of(study, run).fold
    for k, labels in enumerate(fitted):
        np.testing.assert_array_equal(labels, study.labels[fold != k])
    assert study.info["facts"]["calibration"]["temperature"] == 3
    logs = study._headline_logs(run)
    hot = np.exp(analysis.apply_temperature(logs[fold == 4], 5.0)).max(1)
    counts = study.arrays["calibration/after"][2]
    assert counts.sum() == len(fold)
    assert counts[: int(15 * hot.max()) + 1].sum() >= (fold == 4).sum()


def run_quietly(monkeypatch, **options):
    monkeypatch.setattr(Study, "checkpoint", lambda *_, **__: None)
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


def test_a_seed_count_or_profile_that_does_not_exist_is_named(standin):
    with pytest.raises(UserError, match="SEEDS=0"):
        part1.run("smoke", seeds=0)
    with pytest.raises(UserError, match="PROFILE=huge"):
        part1.load("huge")


def test_the_published_table_gives_the_published_headline():
    found = results.read(1)
    passes = found.table[found.table["arm"] == "cross-validation"]
    ours, headline = analysis.mean_interval(passes["accuracy"]), found.info["headline"]
    assert (ours.mean, ours.low, ours.high, ours.n) == pytest.approx(
        tuple(headline[name] for name in ("mean", "low", "high", "n"))
    )
