"""Part 3's study: what training sees, and that the truth is not among it."""

import dataclasses

import numpy as np
import pytest

from midas_lib import analysis, runs
from midas_lib.config import LOSSES, UserError, vary
from midas_lib.studies import part3


@pytest.fixture
def inputs(standin):
    return part3.prepare(part3.load("smoke"), part3.PLANS["smoke"])


def outcome(task):
    """Of a network that knows the given labels of all it is asked about, and is sure of nothing."""

    def answers(examples):
        return np.eye(task.classes)[np.maximum(examples.labels, 0)] * 0.4 + 0.6 / task.classes

    checks = {"loss": 2.3, "val_loss": 2.3, "val_accuracy": 0.5, "gradient_norm": 1.0}
    return runs.Outcome(
        history={"step": np.array([1, 2])} | {k: np.full(2, v) for k, v in checks.items()},
        probabilities=None if task.held_out is None else answers(task.held_out),
        views=None,
        tests={name: answers(examples) for name, examples in task.tests.items()},
        weights=[np.zeros(3), np.zeros((4, task.classes)), np.zeros(task.classes)],
        seconds=1.0,
        reused=False,
    )


def stages(inputs, monkeypatch):
    """Every task of a study whose runs are not trained, and what its stages found."""
    tasks = []

    def run_all(wanted, **_):
        tasks.extend(wanted)
        return [outcome(task) for task in wanted]

    monkeypatch.setattr(runs, "run_all", run_all)
    study = part3._Study(inputs, part3.PLANS["smoke"], None, False)
    pretrained = study.pretrained()
    starts = {("random", s): None for s in pretrained}
    starts |= {("pretrained", s): tuple(o.weights) for s, o in pretrained.items()}
    naive, compared, weak, sized = study.train_together(
        study.naive(starts), study.compared(0.001), study.weak(starts, 0.001), study.sized(0.001)
    )
    second, hard, _ = study.train_together(
        study.second(weak, 0.001), study.hard(weak, 0.001), study.redrawn(weak, 0.001)
    )
    return study, tasks, (pretrained, naive, compared, weak, second, hard, sized)


def seen(task):
    """All that a training is made from."""
    start = () if task.start is None else tuple(w.tobytes() for w in task.start)
    return task.settings, task.examples.pictures.tobytes(), task.examples.labels.tobytes(), start


def test_the_truth_is_nothing_that_training_sees(inputs, monkeypatch):
    _, tasks, _ = stages(inputs, monkeypatch)
    shuffled = np.random.default_rng(0).permutation(inputs.truth)
    assert (shuffled != inputs.truth).any()
    other = dataclasses.replace(inputs, truth=shuffled)
    _, others, _ = stages(other, monkeypatch)
    assert list(map(seen, tasks)) == list(map(seen, others))


def test_shuffling_the_truth_changes_no_weight(inputs, tmp_path):
    study = part3._Study(inputs, part3.PLANS["smoke"], None, False)
    drawn = study.drawn
    shuffled = dataclasses.replace(drawn, labels=np.random.default_rng(0).permutation(drawn.labels))
    few = inputs.given.take(np.arange(128))
    tasks = [
        runs.Task(
            settings=vary(study.weak_settings, training__leak=0.001, training__epochs=1),
            examples=few,
            held_out=held_out,
            classes=10,
        )
        for held_out in (drawn, shuffled)
    ]
    one, other = runs.run_all(tasks, jobs=1, folder=tmp_path)
    assert one.history["val_loss"].tolist() != other.history["val_loss"].tolist()
    for ours, theirs in zip(one.weights, other.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_held_out_pictures_are_in_no_training_that_is_judged_by_their_folders(inputs, monkeypatch):
    study, tasks, _ = stages(inputs, monkeypatch)
    kept = {picture.tobytes() for picture in study.kept.pictures}
    test = {picture.tobytes() for picture in inputs.test.pictures}
    judged = [t for t in tasks if t.held_out is study.kept]
    assert len(judged) == len(part3.LOSSES)
    for task in judged:
        assert not kept & {picture.tobytes() for picture in task.examples.pictures}
    for task in tasks:
        assert not test & {picture.tobytes() for picture in task.examples.pictures}


def test_every_loss_is_compared(inputs, monkeypatch):
    _, tasks, _ = stages(inputs, monkeypatch)
    assert {task.settings.training.loss for task in tasks} == set(LOSSES)


def test_labels_taken_at_their_word_are_none_that_the_folder_rules_out(inputs, monkeypatch):
    study, tasks, (*_, hard, _) = stages(inputs, monkeypatch)
    relabelled = [t for t in tasks if "given" in t.tests and t.settings == study.hard_settings]
    assert len(relabelled) == len(hard) == 1
    for task in relabelled:  # this network believes the folders, as far as it is allowed to
        assert (task.examples.labels != inputs.given.labels).all()


def test_folders_drawn_anew_are_as_wrong_as_the_given_ones(inputs, monkeypatch):
    study, tasks, (*_, weak, _, _, _) = stages(inputs, monkeypatch)
    known = part3.recover(weak["random", 0].tests["given"], inputs.given.labels, 0.001)
    count = study.plan.redrawn_images
    redrawn = [t for t in tasks if t.examples.pictures.shape[0] == count and t.classes == 10]
    redrawn = [t for t in redrawn if t.settings.training.loss == "posterior" and t.held_out]
    redrawn = [t for t in redrawn if np.array_equal(t.held_out.labels, known[count:])]
    assert len(redrawn) == len(part3.TIMES)
    for task in redrawn:
        moved = (task.examples.labels - known[:count]) % 10
        assert (moved == 0).mean() < 0.02
        assert (np.bincount(moved, minlength=10)[1:] > 0).all()
        assert not {p.tobytes() for p in task.examples.pictures} & {
            p.tobytes() for p in task.held_out.pictures
        }


def test_the_summary_counts_what_the_answers_say(inputs, monkeypatch):
    study, _, found = stages(inputs, monkeypatch)
    audited = part3.look(inputs.given, np.eye(10)[inputs.truth])
    results, arrays = part3._summary(study, found[0], audited, *found[1:])
    assert results["headline"]["mean"] == 1  # the stand-in outcomes know the test set
    assert results["arms"]["naive-random"]["runs"][0]["argmin_accuracy"] == 0
    counts = np.array(results["exact"]["counts"])
    assert counts.sum() == len(inputs.truth)
    assert results["exact"]["own_folder_rate"] == (inputs.truth == inputs.given.labels).mean()
    assert len(arrays["hard_rows"]) == 24
    assert results["sizes"][-1]["size"] == len(inputs.truth)


def test_the_file_number_tells_the_digit(inputs):
    datasets = part3.load("smoke")
    for row, truth in zip(inputs.rows[:20], inputs.truth[:20], strict=True):
        number = int(datasets["mislabelled"].names[row][-10:-4])
        assert datasets["mnist"].labels[number] == truth


def test_recovery_takes_the_best_of_what_is_possible():
    probabilities = np.array([[0.6, 0.3, 0.1], [0.6, 0.3, 0.1]])
    assert part3.recover(probabilities, np.array([0, 1]), 0.0).tolist() == [1, 0]
    # A folder that is right half of the time rules nothing out: 0.6 * 0.5 against 0.3 * 0.25.
    assert part3.recover(probabilities, np.array([0, 1]), 0.5).tolist() == [0, 0]


def test_accuracy_is_told_by_how_often_the_answer_is_the_folder():
    folders = np.arange(900) % 10
    wrong = (folders + 1) % 10
    # Of always wrong answers 1 in 9 is the folder.
    answers = np.where(np.arange(900) < 100, folders, wrong)
    assert part3.estimate_accuracy(answers, folders, 0.0).mean == pytest.approx(0)
    assert part3.estimate_accuracy(wrong, folders, 0.0).mean == pytest.approx(1)
    # With a leak of 0.1, chance: right or wrong, the folder is hit equally often but for 0.
    half = np.where(np.arange(900) < 45, folders, wrong)
    told = part3.estimate_accuracy(half, folders, 0.01)
    assert told.mean == pytest.approx((0.11 - 0.05) / (0.11 - 0.01))
    assert told.low < told.mean < told.high


def test_only_a_complementary_set_has_a_leak_to_reckon_with(inputs):
    found = part3.look(inputs.given, np.eye(10)[inputs.truth])
    interval = analysis.Interval(0.0123, 0.01, 0.02, 100)
    one = dataclasses.replace(found, verdict="complementary", own_folder_rate=interval)
    assert part3.reckoned(one) == 0.012
    assert part3.reckoned(dataclasses.replace(one, verdict="undetermined")) == 0


def test_a_seed_count_or_profile_that_does_not_exist_is_named(standin):
    with pytest.raises(UserError, match="SEEDS=0"):
        part3.run(part3.load("smoke"), "smoke", seeds=0)
    with pytest.raises(UserError, match="PROFILE=huge"):
        part3.load("huge")
