"""Part 2's study: what is the same for all starts, what differs, and who sees which image."""

import dataclasses

import numpy as np
import pytest

from midas_lib import runs
from midas_lib.config import UserError
from midas_lib.studies import common, part2


@pytest.fixture
def study(standin, monkeypatch):
    """A smoke study of two seeds whose runs are not trained: each outcome's weights name its run,
    and its answers are the truth but for the first image."""
    tasks = []

    def run_all(wanted, **_):
        tasks.extend(wanted)
        return [outcome(task) for task in wanted]

    def outcome(task):
        def answers(examples):
            told = np.eye(task.classes, dtype=np.float32)[examples.labels]
            told[0] = np.roll(told[0], 1)
            return told

        history = {"loss": np.zeros(2), "step": np.array([1, 2]), "gradient_norm": np.ones(2)}
        history |= {"val_accuracy": np.array([0.5, 0.99]), "val_loss": np.zeros(2)}
        mark = float(task.settings.seed + 10 * task.classes)
        return runs.Outcome(
            history=history,
            probabilities=None,
            views=None,
            tests={name: answers(examples) for name, examples in task.tests.items()},
            weights=[np.full(3, mark), np.full((4, task.classes), mark), np.zeros(task.classes)],
            seconds=1.0,
            reused=False,
        )

    monkeypatch.setattr(runs, "run_all", run_all)
    plan = dataclasses.replace(part2.PLANS["smoke"], seeds=2)
    study = part2._Study(part2.prepare(part2.load("smoke"), plan), plan, None, False)
    study.tasks = tasks
    return study


def pictures(examples):
    return {picture.tobytes() for picture in examples.pictures}


def test_nothing_held_out_is_trained_on(study):
    starts = study.starts()
    study.main(starts)
    study.train_together(study.few_labels(starts), study.variants(starts))
    held_out, test = pictures(study.inputs.validation), pictures(study.inputs.test)
    for task in study.tasks:
        trained_on = pictures(task.examples)
        assert not trained_on & test
        if task.held_out is not None:
            assert not trained_on & held_out
            assert pictures(task.held_out) == held_out
    assert len(study.inputs.train.labels) + len(held_out) >= len(study.inputs.everything.labels)


def test_the_starts_of_a_seed_differ_in_their_weights_alone(study):
    found = study.starts()
    del study.tasks[:]
    study.main(found)
    assert len(study.tasks) == 2 * len(part2.STARTS)
    for seed in study.seeds:
        same = [task for task in study.tasks if task.settings.seed == seed]
        assert len(same) == len(part2.STARTS)
        for task in same[1:]:
            assert task.settings == same[0].settings
            assert pictures(task.examples) == pictures(same[0].examples)
    names = {task.name for task in study.tasks}
    assert len(names) == len({(*t.start[0], t.settings.seed) for t in study.tasks}) > 2


def test_a_draw_is_the_same_for_every_start_and_of_the_size_asked(study):
    study_starts = study.starts()
    del study.tasks[:]
    study.train(study.few_labels(study_starts))
    digits = pictures(study.inputs.digits)
    for size in study.plan.sizes:
        for seed in study.seeds:
            drawn = [
                pictures(task.examples) - digits
                for task in study.tasks
                if task.settings.seed == seed
            ]
            same = [draw for draw in drawn if len(draw) <= size]
            assert same.count(max(same, key=len)) == len(study.plan.few_starts)
    rehearsing = [task for task in study.tasks if pictures(task.examples) >= digits]
    assert len(rehearsing) == len(study.tasks) / len(study.plan.few_starts)
    assert {task.start[0][0] for task in rehearsing} == {100 + seed for seed in study.seeds}
    steps = [
        len(task.examples.labels) // 64 * task.settings.training.epochs for task in study.tasks
    ]
    assert min(steps) >= study.plan.few_steps


def test_self_training_sees_every_picture_and_no_label(study):
    study.plan = dataclasses.replace(study.plan, unlabelled_sizes=(0, 10, 70))
    starts = study.starts()
    few = study.train(study.few_labels(starts))
    # As the network of a few labels ended, and of none the one of the 400 digits.
    few[part2.REHEARSED, 10, 1] = dataclasses.replace(
        few[part2.REHEARSED, 10, 1], weights=[np.full(3, 7.0), np.zeros((4, 10)), np.zeros(10)]
    )
    tasks = study.self_trained(starts, few)
    assert set(tasks) == {(size, draw) for size in (0, 10) for draw in study.seeds}
    assert tasks[0, 1].start[0][0] == 101
    assert tasks[10, 1].start[0][0] == 7
    everything = study.inputs.everything
    shuffled = dataclasses.replace(everything, labels=everything.labels[::-1])
    study.inputs = dataclasses.replace(study.inputs, everything=shuffled)
    for key, task in study.self_trained(starts, few).items():
        assert (task.examples.pictures == everything.pictures).all()
        assert task.name == tasks[key].name


def test_of_62_classes_the_head_keeps_the_digits(study):
    weights = common.first_classes(study.starts()["characters", 0], 10)
    assert [w.shape for w in weights] == [(3,), (4, 10), (10,)]


def test_the_digits_follow_the_characters(study):
    study.starts()
    second = study.tasks[-1]
    assert second.classes == 10
    assert second.start[0][0] == 620 + second.settings.seed  # the 62-class network of its seed
    assert pictures(second.examples) == pictures(study.inputs.digits)


def test_every_depth_is_transplanted_with_a_new_head(study):
    found = study.train(study.variants(study.starts()))
    found |= study.train(study.probed(found))
    depths = study.plan.copied
    kinds = {f"{kind}/{k}" for kind in ("fine-tuned", "frozen") for k in depths}
    assert {variant for variant, _ in found} == kinds | {*part2.VARIANTS, "probe, then fine-tuned"}
    cut = [task.settings.transfer for task in study.tasks if not task.settings.transfer.head]
    assert {(t.layers, t.frozen) for t in cut} == {(k, f) for k in depths for f in (False, True)}


def test_the_summary_counts_what_the_answers_say(study):
    starts = study.starts()
    main = study.main(starts)
    best, few, variants = study.train_together(
        study.best(starts, "random"), study.few_labels(starts), study.variants(starts)
    )
    unlabelled = study.train(study.self_trained(starts, few))
    results, arrays = part2._summary(study, starts, main, best, few, variants, unlabelled)
    n = len(study.inputs.test.labels)
    for arm in (*part2.STARTS, "best"):
        assert [run["test_accuracy"] for run in results["arms"][arm]["runs"]] == [1 - 1 / n] * 2
    assert [(row["size"], row["gain"]["mean"]) for row in results["self_trained"]] == [
        (0, 0),
        (10, 0),
    ]
    assert results["headline"]["mean"] == pytest.approx(1 - 1 / n)
    by_threshold = {(r["threshold"], r["arm"]): r for r in results["convergence"]}
    assert by_threshold[0.99, "digits"]["arrived"] == 2
    assert by_threshold[0.995, "digits"]["arrived"] == 0
    assert by_threshold[0.995, "digits"]["mean"] == study.steps
    assert all(r["only_this_right"] == r["only_random_right"] == 0 for r in results["disagreement"])
    assert all(r["equivalent"] for r in results["final"] if r["arm"] == "digits")
    assert arrays["digits_val_accuracy"].shape == (2, 2)
    assert arrays["steps"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": 0}, "SEEDS=0: give 1 or more"),
        ({"arms": "random,letters"}, "arms=random,letters: name random and others of digits"),
        ({"arms": "digits"}, "arms=digits: name random"),
        ({"arms": "random"}, "arms=random: name random and others"),
        ({"sizes": "10,many"}, "sizes=10,many: give whole numbers"),
        ({"sizes": "100000"}, "100000 labelled images: give a multiple of 10 up to"),
        ({"sizes": "15"}, "15 labelled images: give a multiple of 10 up to"),
    ],
)
def test_what_does_not_exist_is_named_before_anything_is_trained(standin, options, message):
    with pytest.raises(UserError, match=message):
        part2.run(part2.load("smoke"), "smoke", **options)
