"""Part 1's study: what is compared with what, and that no fold sees its own images."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from midas_lib import analysis, data, runs
from midas_lib.config import Settings, UserError, vary
from midas_lib.studies import part1


@pytest.fixture
def inputs(standin):
    characters = part1.limit(data.load_characters("smoke"), 5)
    return part1._Inputs(characters)


@pytest.fixture
def plan():
    return dataclasses.replace(part1.PLANS["smoke"], partitions=2, groups=None, variants=None)


def rows(pictures):
    return {picture.tobytes() for picture in pictures}


def test_limiting_keeps_every_class_alike(inputs):
    assert (np.bincount(inputs.characters.labels) == 5).all()
    assert len(inputs.characters.names) == len(inputs.characters.images) == 62 * 5


def test_no_network_is_asked_about_an_image_it_was_trained_on(inputs, plan):
    passes = part1._passes(inputs, plan, Settings())
    passes |= part1._ablations(inputs, plan, Settings(), 0)
    for name, one in passes.items():
        asked = np.concatenate([task.held_out.labels for task in one.tasks])
        assert len(asked) == len(inputs.characters.labels), name
        for k, task in enumerate(one.tasks):
            assert not (one.fold[one.trained_on[k]] == k).any()
            assert len(task.examples.labels) == len(one.trained_on[k])
            np.testing.assert_array_equal(
                task.held_out.labels, inputs.characters.labels[one.fold == k]
            )


def test_writer_disjoint_folds_share_no_writer(inputs, plan):
    one = part1._passes(inputs, plan, Settings())["writer-disjoint/1"]
    writers = inputs.characters.writers
    for k in range(5):
        assert not set(writers[one.trained_on[k]]) & set(writers[one.fold == k])


def test_a_size_takes_as_many_of_each_class(inputs, plan):
    one = part1._passes(inputs, plan, Settings())["size-2/1"]
    for task in one.tasks:
        assert (np.bincount(task.examples.labels, minlength=62) == 2).all()


def test_the_headlines_partitions_chose_nothing(inputs, plan):
    passes = part1._passes(inputs, plan, Settings())
    chosen = [part1._ablations(inputs, plan, Settings(), p) for p in part1.CHOOSING_PARTITIONS]
    chosen = {one.fold.tobytes() for passes in chosen for one in passes.values()}
    names = [name for name in passes if name.startswith("cross-validation/")]
    assert len(names) == 2
    assert not chosen & {passes[name].fold.tobytes() for name in names}
    seeds = [task.settings.seed for name in names for task in passes[name].tasks]
    assert len(set(seeds)) == len(seeds)


def test_every_ablation_changes_something_and_only_that(inputs, plan):
    base = Settings()
    for variants in part1.ABLATIONS.values():
        for variant, changes in variants.items():
            changed = vary(base, **changes)
            assert (changed != base) is (variant != part1.PICTURE_ALONE)


def test_only_what_the_first_pass_leaves_open_is_repeated(inputs, plan):
    wanted = ["dropout 0.3", "one-cycle"]
    passes = part1._ablations(inputs, plan, Settings(), 1001, wanted)
    assert set(passes) == {f"ablation/{v}/1001" for v in ["chosen for 1 epochs", *wanted]}
    everything = part1._ablations(inputs, plan, Settings(), 0)
    assert len(everything) == 1 + sum(map(len, part1.ABLATIONS.values()))


def test_a_slow_ablation_is_compared_at_its_own_length(inputs, plan):
    plan = dataclasses.replace(plan, slow_ablation_epochs=2)
    passes = part1._ablations(inputs, plan, Settings(), 0)
    for group, variant, _ in plan.ablations():
        epochs = 2 if group == part1.SLOW_GROUP else 1
        ours, base = (
            passes[f"ablation/{variant}/0"],
            passes[f"ablation/chosen for {epochs} epochs/0"],
        )
        for one in (*ours.tasks, *base.tasks):
            assert one.settings.training.epochs == epochs


def test_an_ablation_pools_all_its_partitions_the_headlines_too(inputs, plan):
    half = np.arange(len(inputs.characters.labels)) % 2 == 0
    answers = {}
    for partition in (0, 1001, 1, 2):
        answers[f"ablation/chosen for 1 epochs/{partition}"] = SimpleNamespace(correct=half)
        answers[f"ablation/{part1.CONFIRMED}/{partition}"] = SimpleNamespace(
            correct=half & (partition == 0)
        )
    for _, variant, _ in plan.ablations():
        answers.setdefault(f"ablation/{variant}/0", SimpleNamespace(correct=half))
    found = part1._ablation_rows(inputs.characters, plan, answers)
    found = {row["variant"]: (row["passes"], row["difference"]) for row in found}
    assert found["dropout 0.3"] == (1, 0)
    assert found[part1.CONFIRMED] == (4, pytest.approx(-0.375))


class Known:
    """A pass of five folds whose networks know nothing, on classes told by their geometry."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self.labels = np.tile(np.arange(62), 10)
        self.writers = np.repeat(np.arange(10), 62)
        self.fold = data.folds(self.labels, 1)
        where = np.arange(62) / 62
        self.habits = rng.normal(0, 0.2, (10, 2))
        noise = rng.normal(0, 1e-4, (620, 2))
        exact = np.stack([where, where**2], 1)[self.labels]
        self.geometry = exact + self.habits[self.writers] + noise

    def answers(self, method, *arguments):
        one = object.__new__(part1._Pass)
        one.labels, one.fold = self.labels, self.fold
        one.trained_on = [np.flatnonzero(self.fold != k) for k in range(5)]
        flat = [np.full(((self.fold == k).sum(), 62), 1 / 62) for k in range(5)]
        one.take(
            [
                runs.Outcome(
                    history={},
                    probabilities=p,
                    views=p,
                    tests={},
                    weights=[],
                    seconds=0,
                    reused=False,
                )
                for p in flat
            ]
        )
        return getattr(one, method)(*arguments)


def test_taking_out_a_writers_habit_lets_the_geometry_tell_the_class():
    known = Known()
    plain = known.answers("told", known.geometry, 1.0)
    aware = known.answers("told_writers", known.geometry, known.writers)
    assert aware.correct.mean() > 0.5 > plain.correct.mean() + 0.2


def test_a_held_out_label_does_not_reach_its_own_offset():
    known = Known()
    fold = known.fold != 0
    shuffled = known.labels.copy()
    shuffled[~fold] = np.random.default_rng(1).permutation(shuffled[~fold])
    before, after = (
        analysis.remove_writer_offsets(known.geometry, labels, known.writers, fold)
        for labels in (known.labels, shuffled)
    )
    np.testing.assert_array_equal(before, after)


def test_a_seed_count_or_profile_that_does_not_exist_is_named(inputs):
    with pytest.raises(UserError, match="SEEDS=0"):
        part1.run(inputs.characters, "smoke", seeds=0)
    with pytest.raises(UserError, match="PROFILE=huge"):
        part1.load("huge")
