"""Part 3's study: what training sees, and that the truth is not among it."""

import dataclasses
import itertools
from types import SimpleNamespace

import fakes
import numpy as np
import pandas as pd
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


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Nothing is rebuilt from the stand-in outcomes' weights; a picture's features are its
    pixels."""
    from midas_lib import probe

    def pixels(model, examples, layers):
        return {name: examples.pictures.reshape(len(examples.labels), -1) / 1.0 for name in layers}

    monkeypatch.setattr(part3, "rebuild", lambda *_: None)
    monkeypatch.setattr(probe, "features", pixels)
    monkeypatch.setattr(part3.Part3, "pair", lambda *_: ({}, {}))


@pytest.fixture
def study(datasets, runner):
    return part3.Part3(PLAN, "smoke", datasets)


def declare(study):
    """All runs of a study, by the method that declares them."""
    study.leak = 0.001
    starts = study.starts()
    study.finish(list(starts.values()))
    first, rates = study.first(starts), study.rates()
    return {
        "starts": list(starts.values()),
        "naive": list(study.naive(starts).values()),
        "memorised": study.memorised(),
        "rates": list(rates.values()),
        "compared": study.compared(dict.fromkeys(part3.LOSSES, 1e-3)),
        "first": list(first.values()),
        "budgets": study.budgets(starts),
        "second": list(study.second(first).values()),
        "longer": study.longer(first),
        "hard": study.at_their_word(first),
        "redrawn": study.redrawn(first),
        "few": study.few(starts),
    }


def told(run):
    """Whether a run is one of those that true labels teach, which nothing is chosen by."""
    return run.arm.startswith("ceiling-")


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
    other.digits = dataclasses.replace(study.digits, labels=other.truth)
    others = declare(other)
    for name, group in found.items():
        for run, twin in zip(group, others[name], strict=True):
            assert (seen(run) == seen(twin)) != told(run), run.arm


def test_the_ceiling_is_the_same_training_but_for_true_labels(study, runner):
    found = declare(study)
    for name in ("first", "second"):
        runs_ = {run.arm: run for run in found[name]}
        for start in part3.STARTS:
            ours = runs_[{"first": "weak", "second": "recovered"}[name] + f"-{start}"]
            top = runs_[{"first": "ceiling-weak", "second": "ceiling"}[name] + f"-{start}"]
            assert vary(ours.task.settings, training__leak=1.0) == top.task.settings
            np.testing.assert_array_equal(ours.task.examples.pictures, top.task.examples.pictures)
            np.testing.assert_array_equal(top.task.examples.labels, study.truth)
            np.testing.assert_array_equal(ours.task.examples.labels, study.folders.labels)


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
    tasks = {run.arm: run.task for run in found["compared"]}
    assert {task.settings.training.loss for task in tasks.values()} == set(LOSSES)
    assert set(tasks) == {f"loss/{loss}" for loss in part3.LOSSES}
    assert len({task.examples.digest for task in tasks.values()}) == 1
    assert tasks.pop("loss/forward, twice as long").settings.training.epochs == 2
    steps = {(t.settings.training.epochs, t.settings.training.batch) for t in tasks.values()}
    assert steps == {(1, 128)}


def test_each_loss_gets_the_rate_with_which_folders_are_likeliest(study, runner):
    def outcome(task):
        found = fakes.knowing(task)
        folders = task.held_out.labels
        right = np.eye(10)[(folders + 1) % 10]  # never the folder
        surest = {"GA": 2e-3, "cross-entropy": 1e-3}.get(task.settings.training.loss, 1e-3)
        share = 0.99 if task.settings.training.rate == surest else 0.5
        found.probabilities[:] = share * right + (1 - share) * np.eye(10)[folders]
        return found

    runner.outcome = outcome
    study.leak = 0.0
    rates = study.rates()
    study.finish(list(rates.values()))
    best = study.best_rates(rates)
    # What believes the folders is to find them likely: the other rate names them half of the time.
    assert (best["GA"], best["PC"], best["cross-entropy"]) == (2e-3, 1e-3, 2e-3)
    assert study.row(rates["PC", 1e-3])["risk"] == pytest.approx(-np.log(0.99 / 9))
    assert study.row(rates["cross-entropy", 2e-3])["risk"] == pytest.approx(-np.log(0.5))


def test_labels_taken_at_their_word_are_those_recovered(datasets, runner):
    study = part3.Part3(dataclasses.replace(PLAN, seeds=2, side_seeds=2), "smoke", datasets)
    study.leak, n = 0.0, len(study.truth)
    likely = np.full((2, n, 10), 0.05)  # seed 0 says 0 of all pictures, seed 1 says 1, less surely
    likely[0, :, 0], likely[1, :, 1], likely[:, :, 2] = 0.55, 0.45, 0.2
    likely[0, :4] = 0.05  # and seed 0 is least certain about these

    def outcome(task):
        found = fakes.knowing(task)
        if "folders" in found.tests:
            found.tests["folders"][:] = likely[task.settings.seed]
        return found

    runner.outcome = outcome
    starts = study.starts()
    study.finish(list(starts.values()))
    first = study.first(starts)
    hard = {(run.arm, run.seed): run for run in study.at_their_word(first)}
    assert {arm for arm, _ in hard} == {f"hard-{word}" for word in part3.WORDS}
    folders = study.folders.labels
    for seed in (0, 1):
        assert hard["hard-own", seed].task.start.name == first["folders", "random", seed].task.name
        labels = examples(hard["hard-own", seed].task).labels
        assert (labels[4:][folders[4:] != seed] == seed).all()
        assert (labels != folders).all()
    together = examples(hard["hard-together", 1].task).labels
    assert (together[4:] == np.where(folders == 0, 1, 0)[4:]).all()
    certain = examples(hard["hard-certain", 0].task)
    assert rows(study.folders.pictures[:4]).isdisjoint(rows(certain.pictures))
    assert len(certain.labels) == n - n // 100 == n - 4


def test_folders_drawn_anew_are_as_wrong_as_the_real_ones(study, runner):
    found = declare(study)
    weak = found["first"][0]
    answers = study.outcomes(weak.tasks)[weak.digest].tests["folders"]
    known = audit.posterior(answers, study.folders.labels, 0.001).argmax(1)
    count = PLAN.redrawn_images
    assert {run.arm.removeprefix("redrawn/") for run in found["redrawn"]} == set(part3.CHOICES)
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
    for first, second in zip(found["first"], found["second"], strict=True):
        assert second.task.start.name == first.task.name
        assert second.task.settings.training.sharpening_start == 0
        assert first.task.settings.training.sharpening_start == 0.5
        assert second.task.settings.training.leak == first.task.settings.training.leak
        assert (first.task.settings.training.leak == 0.001) != told(first)
    arms = [run.arm for run in found["second"]]
    assert arms == ["recovered-random", "recovered-pretrained", "ceiling-random",
                    "ceiling-pretrained"]  # fmt: skip
    assert found["first"][0].task.start is None
    assert found["first"][-1].task.start.classes == 62


def test_ends_are_compared_without_a_network(study, monkeypatch):
    first = list(study.first({("pretrained", 0): declare(study)["starts"][0]}).values())[:2]
    study.finish(first)
    monkeypatch.delattr(Study, "outcomes")
    one, other = (study.arrays[f"{run.place}/right"] for run in first)
    other[:] = ~one
    study.ends("end", {"one": first[:1], "other": first[1:]})
    found, right = study.info["facts"]["end"], one.mean()
    assert found["one"]["accuracy"].mean == pytest.approx(right)
    assert found["difference"].mean == pytest.approx(1 - 2 * right)
    assert found["nll_difference"].mean == 0


def test_the_start_is_part_1s_network_which_no_picture_in_folders_has_trained(study, datasets):
    plan = dataclasses.replace(
        part1.PLANS["smoke"], epochs=PLAN.pretraining_epochs, changes=PLAN.changes
    )
    final = part1.Part1(plan, "smoke", datasets["characters"]).final().task
    task = study.starts()["pretrained", 0].task
    assert task.start.name == final.name
    assert task.settings.training.epochs == 0
    assert list(task.tests) == ["test", "held_out", "audited"]
    assert part3.PLANS["full"].pretraining_epochs == part1.PLANS["full"].epochs


def test_every_run_is_of_its_own_seed_and_goes_on_from_it(datasets, runner):
    study = part3.Part3(dataclasses.replace(PLAN, seeds=3, side_seeds=2), "smoke", datasets)
    found = declare(study)
    starts = {run.seed: run for run in found["starts"]}
    first = {(run.arm.removeprefix("ceiling-"), told(run), run.seed): run for run in found["first"]}
    assert len(first) == 2 * 3 + 2 * 2  # the ceiling's are side seeds
    for name in ("naive", "first", "budgets", "few"):
        for run in found[name]:
            begun = run.task.start and run.task.start.name
            assert begun == (starts[run.seed].task.name if "pretrained" in run.arm else None)
            assert run.task.settings.seed == run.seed
    for name in ("second", "longer", "hard"):
        for run in found[name]:
            assert run.task.settings.seed == run.seed
            start = run.arm.partition("-")[2] if name == "second" else "random"
            assert run.task.start.name == first[f"weak-{start}", told(run), run.seed].task.name
    assert {run.seed for run in found["longer"]} == {run.seed for run in found["hard"]} == {0, 1}


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
    study.plan = dataclasses.replace(PLAN, sizes=(50, 100), few_steps=38)
    study.side_seeds = range(2)
    starts = study.starts()
    few = {(run.arm, run.varies["size"], run.seed): run for run in study.few(starts)}
    assert set(few) == {
        (f"{arm}/{start}", size, draw)
        for arm, start in itertools.product(("few", "half"), part3.STARTS)
        for size, draw in itertools.product((50, 100), (0, 1))
    }
    for (arm, size, _), run in few.items():
        assert len(rows(run.task.examples.pictures)) == size
        training = run.task.settings.training
        steps = len(run.task.examples.labels) // training.batch * training.epochs
        assert steps >= (38 if arm.startswith("few") else 19)
    same = few["few/random", 50, 0], few["few/pretrained", 50, 0], few["few/random", 100, 0]
    one, other, more = (rows(run.task.examples.pictures) for run in same)
    assert one == other < more
    assert one != rows(few["few/random", 50, 1].task.examples.pictures)


def test_a_few_pictures_are_learned_by_heart_with_and_without_warps(study, runner):
    plain, warped = study.memorised()
    assert plain.task.examples.digest == warped.task.examples.digest
    assert plain.task.held_out is plain.task.examples
    np.testing.assert_array_equal(
        plain.task.examples.labels, study.rest.labels[: PLAN.memorised_images]
    )
    assert plain.task.settings.augmentation.rotation == 0 < 12
    assert warped.task.settings == vary(plain.task.settings, augmentation=part3.NAIVE.augmentation)


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
    study.seeds = range(2)
    starts = study.starts()
    study.finish(list(starts.values()))
    study.leak = 0.0
    runs_ = study.second(study.first(starts))
    study.finish(list(runs_.values()))
    study.check(runs_)
    facts, arrays = study.info["facts"], study.arrays
    assert facts["recovered together/random"] == 1
    # Both networks: 0.6 against 0.95 / 2, by 8 of 9 as the folder is ruled out.
    assert [one["pictures"] for one in facts["labels"]] == [0, 40, n - 40, 0, 0]
    assert [one["right"].mean for one in facts["labels"] if one["right"]] == [1, 1]
    np.testing.assert_array_equal(arrays["labels/label"], truth)
    np.testing.assert_array_equal(arrays["labels/number"], study.numbers)
    assert arrays["labels/confidence"].min() < 0.7 < 0.9 < arrays["labels/confidence"].max()
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
    compared = study.compared(dict.fromkeys(part3.LOSSES, 1e-3))
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
    labels = audit.posterior(
        runner.outcome(audited).tests["audited"][:, :10], study.folders.labels, 0.001
    ).argmax(1)
    assert weak["recovered_share"] == pytest.approx((labels == study.truth).mean(), abs=0.02)
    hardest = {name: found.arrays[f"hardest/{name}"] for name in ("recovered", "truth", "folder")}
    assert len(hardest["truth"]) == 24
    assert (hardest["recovered"] != hardest["truth"]).all()
    written = pd.read_csv(found.path.with_name("recovered-labels.csv"))
    assert list(written) == ["number", "label", "confidence"]
    assert written["number"].is_monotonic_increasing
    order = np.argsort(study.numbers)
    assert (written["label"] == found.arrays["labels/label"][order]).all()
    assert (written["confidence"] > 0.1).all()
    assert found.arrays["folder/3"].shape == (30, 28, 28)
    del runner.trained[:]
    part3.run("smoke")
    assert runner.trained == []


def test_the_file_number_tells_the_digit(study, datasets):
    pictures = {p.tobytes(): i for i, p in enumerate(datasets["mislabelled"].images)}
    for picture, truth in zip(study.folders.pictures[:20], study.truth[:20], strict=True):
        name = datasets["mislabelled"].names[pictures[picture.tobytes()]]
        assert datasets["mnist"].labels[int(name[-10:-4])] == truth


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
    # What answers never name may be fewer than any accuracy explains: bounds end at 0 and 1.
    assert part3.estimate_accuracy(folders, folders, 0.01).low == 0
    assert part3.estimate_accuracy(wrong, folders, 0.01).high == 1


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
