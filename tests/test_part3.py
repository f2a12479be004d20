"""Part 3's study: what training sees, and that the truth is not among it."""

import dataclasses

import numpy as np
import pytest

from midas_lib import analysis, results, runs
from midas_lib.config import LOSSES, UserError, vary
from midas_lib.studies import part3, tables
from midas_lib.studies.study import Study

PLAN = part3.PLANS["smoke"]


@pytest.fixture(scope="module")
def datasets(standin_folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATA_DIR", str(standin_folder))
        patch.setenv("STANDIN", "1")
        return part3.load("smoke")


@pytest.fixture
def study(datasets, runner):
    return part3.Part3(PLAN, "smoke", datasets)


def declare(study):
    """All runs of a study, by the method that declares them."""
    study.leak = 0.001
    starts = study.starts()
    study.finish(list(starts.values()))
    weak = study.weak(starts)
    return {
        "starts": list(starts.values()),
        "naive": list(study.naive(starts).values()),
        "weak": list(weak.values()),
        "compared": study.compared(),
        "sized": study.sized(),
        "second": list(study.second(weak).values()),
        "hard": study.hard(weak),
        "redrawn": study.redrawn(weak),
    }


def examples(task):
    return task.examples() if callable(task.examples) else task.examples


def seen(run):
    """All that a training is made from."""
    pictures = examples(run.task)
    start = run.task.start and run.task.start.settings
    return run.task.settings, pictures.pictures.tobytes(), pictures.labels.tobytes(), start


def rows(pictures):
    return {picture.tobytes() for picture in pictures}


def test_the_truth_is_nothing_that_training_sees(datasets, runner, study):
    found, other = declare(study), part3.Part3(PLAN, "smoke", datasets)
    other.truth = np.random.default_rng(0).permutation(study.truth)
    assert (other.truth != study.truth).any()
    other.true_held_out = dataclasses.replace(study.held_out, labels=other.truth[: PLAN.held_out])
    others = declare(other)
    for name, group in found.items():
        assert list(map(seen, group)) == list(map(seen, others[name])), name


def test_shuffling_the_truth_changes_no_weight(datasets, tmp_path):
    study = part3.Part3(PLAN, "smoke", datasets)
    few = study.folders.take(np.arange(128))
    held_out = dataclasses.replace(few, labels=study.truth[:128])
    shuffled = dataclasses.replace(
        few, labels=np.random.default_rng(0).permutation(study.truth[:128])
    )
    settings = vary(
        part3.WEAK, training__leak=0.001, training__epochs=1, training__checks=(1, 1),
        **PLAN.changes,
    )  # fmt: skip
    tasks = [
        runs.Task(settings=settings, examples=few, held_out=one, classes=10)
        for one in (held_out, shuffled)
    ]
    one, other = runs.run_all(tasks, jobs=1, folder=tmp_path)
    assert one.history["val_loss"].tolist() != other.history["val_loss"].tolist()
    for ours, theirs in zip(one.weights, other.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_held_out_pictures_are_in_no_training_that_is_judged_by_their_folders(study, runner):
    found = declare(study)
    kept, test = rows(study.held_out.pictures), rows(study.test.pictures)
    for run in found["compared"]:
        assert rows(run.task.held_out.pictures) == kept
        assert not kept & rows(run.task.examples.pictures)
        np.testing.assert_array_equal(run.task.held_out.labels, study.held_out.labels)
    for run in found["naive"]:
        assert not kept & rows(run.task.examples.pictures)
    for group in found.values():
        for run in group:
            assert not test & rows(examples(run.task).pictures)


def test_every_loss_is_compared_on_the_same_images_for_the_same_steps(study, runner):
    found = declare(study)
    tasks = [run.task for run in found["compared"]]
    assert {task.settings.training.loss for task in tasks} == set(LOSSES)
    assert {run.arm for run in found["compared"]} == {f"loss/{loss}" for loss in part3.LOSSES}
    assert len({task.examples.digest for task in tasks}) == 1
    assert len({(t.settings.training.epochs, t.settings.training.batch) for t in tasks}) == 1


def test_labels_taken_at_their_word_are_none_that_the_folder_rules_out(study, runner):
    found = declare(study)
    (run,) = found["hard"]
    # The stand-in networks believe the folders, as far as they are allowed to.
    assert (examples(run.task).labels != study.folders.labels).all()
    assert run.task.settings.training.loss == "cross-entropy"
    assert run.task.start.name == found["weak"][0].task.name
    assert found["weak"][0].digest in run.task.origin


def test_folders_drawn_anew_are_as_wrong_as_the_real_ones(study, runner):
    found = declare(study)
    weak = found["weak"][0]
    answers = study.outcomes(weak.tasks)[weak.digest].tests["folders"]
    known = part3.recover(answers, study.folders.labels, 0.001)
    count = PLAN.redrawn_images
    assert {run.arm.removeprefix("redrawn/") for run in found["redrawn"]} == set(part3.TIMES)
    for run in found["redrawn"]:
        drawn = examples(run.task)
        moved = (drawn.labels - known[:count]) % 10
        assert (moved == 0).mean() < 0.02
        assert (np.bincount(moved, minlength=10)[1:] > 0).all()
        others = run.task.tests["others"]
        assert not rows(drawn.pictures) & rows(others.pictures)
        agreement = run.measure(runner.outcome(run.task))[0]["recovered_agreement"]
        said = runner.outcome(run.task).tests["others"].argmax(1)
        assert agreement == (said == known[count:]).mean()


def test_the_second_stage_goes_on_from_the_first_of_its_seed_and_start(study, runner):
    found = declare(study)
    for first, second in zip(found["weak"], found["second"], strict=True):
        assert second.task.start.name == first.task.name
        assert second.arm.removeprefix("recovered-") == first.arm.removeprefix("weak-")
        assert second.task.settings.training.sharpening_start == 0
        assert first.task.settings.training.sharpening_start == 0.5
        assert second.task.settings.training.leak == first.task.settings.training.leak == 0.001
    assert found["weak"][0].task.start is None
    assert found["weak"][-1].task.start.classes == 62


def test_few_pictures_are_repeated_for_steps_enough(study, runner):
    study.plan = dataclasses.replace(PLAN, sizes=(50, 100), side_steps=37, side_seeds=2)
    sized = study.sized()
    assert [(run.varies["size"], run.seed) for run in sized] == [
        (50, 0),
        (50, 1),
        (100, 0),
        (100, 1),
    ]
    for run in sized:
        assert len(rows(run.task.examples.pictures)) == run.varies["size"]
        training = run.task.settings.training
        assert len(run.task.examples.labels) // training.batch * training.epochs >= 37
    assert rows(sized[0].task.examples.pictures) <= rows(sized[2].task.examples.pictures)


def test_own_labels_are_added_to_about_the_share_asked(study, runner):
    before = (study.folders.labels == study.truth).mean()
    moved = study.add_own_labels(0.25)
    assert (moved.labels == study.truth).mean() == pytest.approx(before + 0.25, abs=0.07)
    still = moved.labels != study.truth
    np.testing.assert_array_equal(moved.labels[still], study.folders.labels[still])
    study.truth = np.full_like(study.truth, -1)
    np.testing.assert_array_equal(study.add_own_labels(0.9).labels, study.folders.labels)


def test_the_table_counts_what_the_answers_say(standin, study, runner, monkeypatch):
    monkeypatch.setattr(Study, "checkpoint", lambda *_, **__: None)
    found = part3.run("smoke")
    table, facts, n = found.table, found.info["facts"], PLAN.test_images
    by_arm = tables.mean_by(table, "arm", "test_accuracy")
    right = pytest.approx(1 - 1 / n)  # the stand-in networks misread the first test image
    assert by_arm["recovered-random"].mean == by_arm["naive-random"].mean == right
    assert found.info["headline"]["mean"] == right
    naive = table[table["arm"] == "naive-random"].iloc[0]
    assert naive["argmin_accuracy"] <= 1 / 10  # what they give, they find the likeliest
    assert naive["jump_start"] == 0.1
    assert facts["selection/GA"]["test_accuracy"].mean == right
    assert facts["selection/cross-entropy"]["test_accuracy"].mean < 0.2  # by the least likely
    # They answer held-out pictures with their folders: told by those, they are far below chance.
    assert facts["selection/GA"]["told_by_folders"].mean < 0
    assert facts["selection/cross-entropy"]["told_by_folders"].mean > 0.9
    counts = np.array(facts["exact"]["counts"])
    assert counts.sum() == len(study.truth)
    own = np.trace(counts) / counts.sum()
    assert facts["exact"]["own_folder_rate"] == own == (study.truth == study.folders.labels).mean()
    for digit in range(10):
        for folder in range(10):
            both = (study.truth == digit) & (study.folders.labels == folder)
            assert counts[digit, folder] == both.sum()
    weak = table[table["arm"] == "weak-random"].iloc[0]
    labels = part3.recover(
        runner.outcome(runner.trained[0]).tests["audited"][:, :10], study.folders.labels, 0.001
    )
    assert weak["recovered_share"] == pytest.approx((labels == study.truth).mean(), abs=0.02)
    hardest = {name: found.arrays[f"hardest/{name}"] for name in ("recovered", "truth", "folder")}
    assert len(hardest["truth"]) == 24
    assert (hardest["recovered"] != hardest["truth"]).all()
    assert found.arrays["folder/3"].shape == (30, 28, 28)
    del runner.trained[:]
    part3.run("smoke")
    assert runner.trained == []


def test_the_file_number_tells_the_digit(study, datasets):
    pictures = {p.tobytes(): i for i, p in enumerate(datasets["mislabelled"].images)}
    for picture, truth in zip(study.folders.pictures[:20], study.truth[:20], strict=True):
        name = datasets["mislabelled"].names[pictures[picture.tobytes()]]
        assert datasets["mnist"].labels[int(name[-10:-4])] == truth


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


def test_only_a_complementary_set_has_an_own_label_rate():
    interval = analysis.Interval(0.0123, 0.01, 0.02, 100)
    found = {"verdict": "complementary", "own_folder_rate": interval}
    assert part3.own_label_rate(found) == 0.012
    assert part3.own_label_rate(found | {"verdict": "biased-complementary"}) == 0.012
    assert part3.own_label_rate(found | {"verdict": "undetermined"}) == 0


def test_a_seed_count_or_profile_that_does_not_exist_is_named(standin):
    with pytest.raises(UserError, match="SEEDS=0"):
        part3.run("smoke", seeds=0)
    with pytest.raises(UserError, match="PROFILE=huge"):
        part3.run("huge")


def test_the_published_table_gives_the_published_headline():
    found = results.read(3)
    ours = tables.mean_by(found.table, "arm", "test_accuracy")["recovered-random"]
    headline = found.info["headline"]
    assert (ours.mean, ours.low, ours.high, ours.n) == pytest.approx(
        tuple(headline[name] for name in ("mean", "low", "high", "n"))
    )
