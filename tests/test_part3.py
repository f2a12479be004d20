"""Part 3's study: what training sees, and that the truth is not among it."""

import dataclasses
from types import SimpleNamespace

import fakes
import numpy as np
import pytest

from midas_lib import analysis, audit, results, runs
from midas_lib.config import LOSSES, UserError, vary
from midas_lib.studies import part1, part3, tables
from midas_lib.studies.study import Study

PLAN = dataclasses.replace(part3.PLANS["smoke"], compared=None)


@pytest.fixture(scope="module")
def datasets(standin_folder):
    with fakes.on_standin(standin_folder):
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
        part3.WEAK, training__leak=0.001, training__epochs=3,
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
        outcome = runner.outcome(run.task)
        outcome.tests["others"][:] = np.eye(10)[known[count:]]
        outcome.tests["others"][:50] = np.eye(10)[(known[count:][:50] + 1) % 10]
        agreement = run.measure(outcome)[0]["recovered_agreement"]
        assert agreement == 1 - 50 / len(others.labels)


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


def test_the_start_is_part_1s_network_which_no_picture_in_folders_has_trained(study, datasets):
    plan = dataclasses.replace(
        part1.PLANS["smoke"], epochs=PLAN.pretraining_epochs, changes=PLAN.changes
    )
    final = part1.Part1(plan, "smoke", datasets["characters"]).final().task
    task = study.starts()["pretrained", 0].task
    assert task.start.name == final.name
    assert task.settings.training.epochs == 0
    assert list(task.tests) == ["test", "held_out", "audited"]
    assert part3.Plan().pretraining_epochs == part1.Plan().epochs


def test_every_run_is_of_its_own_seed_and_goes_on_from_it(datasets, runner):
    plan = dataclasses.replace(PLAN, seeds=3, pretrained_seeds=2, naive_seeds=2)
    study = part3.Part3(plan, "smoke", datasets)
    found = declare(study)
    starts = {run.seed: run for run in found["starts"]}
    weak = {(run.arm.removeprefix("weak-"), run.seed): run for run in found["weak"]}
    assert sorted(weak) == [
        ("pretrained", 0),
        ("pretrained", 1),
        *(("random", i) for i in range(3)),
    ]
    for (start, seed), run in weak.items():
        assert run.task.settings.seed == seed
        begun = run.task.start and run.task.start.name
        assert begun == (starts[seed].task.name if start == "pretrained" else None)
    for run in found["naive"]:
        begun = run.task.start and run.task.start.name
        assert begun == (starts[run.seed].task.name if run.arm == "naive-pretrained" else None)
    second = {(run.arm.removeprefix("recovered-"), run.seed): run for run in found["second"]}
    assert set(second) == set(weak)
    for key, run in second.items():
        assert run.task.settings.seed == key[1]
        assert run.task.start.name == weak[key].task.name
    assert [run.seed for run in found["hard"]] == [0, 1, 2]
    for run in found["hard"]:
        assert run.task.start.name == weak["random", run.seed].task.name
        assert weak["random", run.seed].digest in run.task.origin


def test_labels_are_recovered_by_the_run_that_is_gone_on_with(datasets, runner):
    study = part3.Part3(dataclasses.replace(PLAN, seeds=2), "smoke", datasets)

    def outcome(task):
        found = fakes.knowing(task)
        if "folders" in found.tests:  # seed 0 says 0 of all pictures, seed 1 says 1
            found.tests["folders"][:] = np.eye(10)[task.settings.seed]
        return found

    runner.outcome = outcome
    for run in study.hard(study.weak({})):
        labels = examples(run.task).labels
        elsewhere = study.folders.labels != run.seed
        assert (labels[elsewhere] == run.seed).all()


def test_a_naive_row_is_scored_by_folders_and_by_digits(study, runner):
    starts = study.starts()
    study.finish(list(starts.values()))
    study.row(starts["pretrained", 0])["held_out_accuracy"] = 0.7
    for (start, _), run in study.naive(starts).items():
        outcome = runner.outcome(run.task)
        outcome.probabilities[:] = 0.05 + 0.5 * np.eye(10)[study.held_out.labels]
        outcome.tests["mnist"][:] = 0.1 - 0.1 * np.eye(10)[study.test.labels]
        found, _ = run.measure(outcome)
        assert found["held_out_folder_loss"] == pytest.approx(-np.log(0.55))
        assert (found["test_accuracy"], found["argmin_accuracy"]) == (
            pytest.approx(0.1, abs=0.1),
            1,
        )
        assert found["jump_start"] == (0.7 if start == "pretrained" else 0.1)


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
    assert rows(sized[0].task.examples.pictures) != rows(sized[1].task.examples.pictures)


def test_own_labels_are_added_to_about_the_share_asked(study, runner):
    before = (study.folders.labels == study.truth).mean()
    moved = study.add_own_labels(0.25)
    assert (moved.labels == study.truth).mean() == pytest.approx(before + 0.25, abs=0.07)
    still = moved.labels != study.truth
    np.testing.assert_array_equal(moved.labels[still], study.folders.labels[still])
    study.truth = np.full_like(study.truth, -1)
    np.testing.assert_array_equal(study.add_own_labels(0.9).labels, study.folders.labels)


def test_more_own_labels_are_trained_with_what_their_audit_found(study, runner):
    study.leak = 0.5
    audits = {
        added: {"verdict": "complementary", "own_folder_rate": analysis.Interval(rate, 0, 1, 9)}
        for added, rate in ((0.1, 0.11), (0.6, 0.58))
    }
    found = study.leaky(audits)
    assert [(run.arm, run.varies["added"]) for run in found] == [
        (f"leak/{loss}", added) for added in (0.1, 0.6) for loss in ("as it is", "balanced")
    ]
    for run in found:
        added, training = run.varies["added"], run.task.settings.training
        assert training.leak == audits[added]["own_folder_rate"].mean
        assert training.balance == (1 if run.arm == "leak/balanced" else 0)
        np.testing.assert_array_equal(run.task.examples.labels, study.add_own_labels(added).labels)
    first, _, second, _ = (run.task.examples.labels for run in found)
    assert (first == study.truth).mean() < 0.2 < 0.5 < (second == study.truth).mean()


def test_networks_recover_together_and_the_surest_errors_come_first(study, runner):
    def network(answers, sure):
        """Says these digits, each with so much of a probability, the rest with what is left."""
        probabilities = (1 - sure[:, None]) / 9 * np.ones((len(answers), 10))
        probabilities[np.arange(len(answers)), answers] = sure
        return probabilities

    n, truth = len(study.truth), study.truth
    other = (truth + 1) % 10
    other = np.where(other == study.folders.labels, (truth + 2) % 10, other)
    wrong = np.arange(n) < 40
    # Seed 0 misreads the first 40, ever less sure; seed 1 reads all and is surer.
    first = network(np.where(wrong, other, truth), np.where(wrong, 0.6 - np.arange(n) / 1e4, 0.9))
    second = network(truth, np.full(n, 0.95))

    def outcome(task):
        found = fakes.knowing(task)
        if "folders" in found.tests:
            found.tests["folders"][:] = (first, second)[task.settings.seed]
        return found

    runner.outcome = outcome
    study.plan = dataclasses.replace(PLAN, seeds=2, pretrained_seeds=1)
    runs_ = study.second(study.weak({}))
    study.finish(list(runs_.values()))
    study.check(runs_)
    facts, arrays = study.info["facts"], study.arrays
    assert facts["recovered together/random"] == 1
    assert facts["recovered together/pretrained"] == pytest.approx(1 - 40 / n)
    np.testing.assert_array_equal(arrays["hardest/recovered"], other[:24])
    np.testing.assert_array_equal(arrays["hardest/truth"], truth[:24])
    np.testing.assert_array_equal(arrays["hardest/folder"], study.folders.labels[:24])
    np.testing.assert_array_equal(arrays["hardest/pictures"], study.folders.pictures[:24, ..., 0])


def test_each_loss_is_told_by_its_own_networks(study, runner):
    def outcome(task):
        found = fakes.knowing(task)
        if task.settings.training.loss == "GA":
            found.probabilities[:50] = np.eye(10)[(task.held_out.labels[:50] + 1) % 10]
            found.tests["mnist"][:20] = np.roll(found.tests["mnist"][:20], 2, axis=1)
        return found

    runner.outcome = outcome
    compared = study.compared()
    study.finish(compared)
    study.select(compared)
    facts, n = study.info["facts"], len(study.test.labels)
    assert facts["selection/GA"]["test_accuracy"].mean == pytest.approx(1 - 20 / n)
    assert facts["selection/PRODEN"]["test_accuracy"].mean == pytest.approx(1 - 1 / n)
    # Half of the answers are the folder, of which 1 in 9 would be by chance; all but one are.
    digits = study.true_held_out.labels
    said = np.where(np.arange(100) < 50, (study.held_out.labels + 1) % 10, study.held_out.labels)
    told = facts["selection/GA"]
    assert told["told_by_folders"].mean == pytest.approx((1 / 9 - 0.5) * 9)
    assert told["told_by_digits"] == (said == digits).mean()
    assert facts["selection/PRODEN"]["told_by_folders"].mean == pytest.approx((1 / 9 - 0.99) * 9)


def test_what_the_audit_finds_is_what_training_assumes(standin, runner, monkeypatch):
    def audited(folders, labels, reference):
        assert reference.shape == (len(labels), 10)
        own = analysis.proportion_interval(int((labels != first[: len(labels)]).sum()), len(labels))
        return SimpleNamespace(
            verdict="complementary", reason="", advice="", transition=None, low=None, high=None,
            own_folder_rate=dataclasses.replace(own, mean=own.mean + 0.02),
            settled=np.ones(3, bool), evidence={},
        )  # fmt: skip

    first, kept = None, {}
    real = part3.Part3.__init__

    def init(self, *given, **options):
        nonlocal first
        real(self, *given, **options)
        first = self.folders.labels
        kept["study"] = self

    monkeypatch.setattr(part3.Part3, "__init__", init)
    monkeypatch.setattr(audit, "audit", audited)
    monkeypatch.setattr(
        Study, "checkpoint", lambda self, name, run, *_, **__: kept.update({name: run})
    )
    found = part3.run("smoke")
    assert found.info["leak"] == kept["study"].leak == 0.02
    (weak,) = [t for t in runner.trained if t.name in set(
        found.table[found.table["arm"] == "weak-random"]["digest"]
    )]  # fmt: skip
    assert weak.settings.training.leak == 0.02
    # The audit of more own labels looks at those: the stand-in audit counts the labels moved.
    (added,) = PLAN.leaks
    moved = (kept["study"].add_own_labels(added).labels != first).mean()
    assert found.info["facts"][f"audit/{added}"]["own_folder_rate"].mean == pytest.approx(
        moved + 0.02
    )
    named = {name: run.arm for name, run in kept.items() if name != "study"}
    assert named == {name: name for name in (
        "naive-random", "recovered-random", "naive-pretrained", "recovered-pretrained"
    )}  # fmt: skip


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
    assert facts["selection/PRODEN"]["test_accuracy"].mean == right
    assert facts["selection/cross-entropy"]["test_accuracy"].mean < 0.2  # by the least likely
    # They answer held-out pictures with their folders: told by those, they are far below chance.
    assert facts["selection/PRODEN"]["told_by_folders"].mean < 0
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
    (audited,) = (task for task in runner.trained if "audited" in task.tests)
    labels = part3.recover(
        runner.outcome(audited).tests["audited"][:, :10], study.folders.labels, 0.001
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
    # Of ten digits, 0.4 * 0.2 against 0.3 * 0.8 / 9.
    many = np.array([[0.4, 0.3, *[0.3 / 8] * 8]])
    assert part3.recover(many, np.array([0]), 0.2).tolist() == [0]
    assert part3.recover(many, np.array([0]), 0.05).tolist() == [1]


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
