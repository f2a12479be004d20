"""Part 1's study: what is compared with what, and that no network is asked what it has seen."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from fakes import knowing, on_standin
from scipy import stats

from midas_lib import analysis, data, results
from midas_lib.config import CLASS_NAMES, Settings, UserError, vary
from midas_lib.studies import part1
from midas_lib.studies.study import Study


@pytest.fixture(scope="module")
def characters(standin_folder):
    with on_standin(standin_folder):
        return data.limit(data.load_characters("smoke"), part1.PLANS["smoke"].per_class)


PLAN = dataclasses.replace(
    part1.PLANS["smoke"], lengths=(1, 2), seeds=2, disjoint_partitions=2, kaggle_seeds=2,
    ablation_epochs=3, ablation_partitions=2, rates=(1e-3, 4e-3), groups=None, variants=None,
)  # fmt: skip
CHOSEN = {reads: f"chosen settings, {reads}" for reads in ("geometry", "picture")}


@pytest.fixture
def study(characters, runner):
    return part1.Part1(PLAN, "smoke", characters)


@pytest.fixture
def by_five(characters, runner):
    """A study of images by five writers, one of each class."""
    writers = np.tile([1, 45, 50, 51, 55], 62)
    return part1.Part1(PLAN, "smoke", dataclasses.replace(characters, writers=writers))


def of(study, run):
    """The pass that a run's row rests on."""
    return study._passes[run.place]


def plainly(self, one, reads, found, share=None, together=None):
    """In place of `_logs`: what the networks say of the pictures, and nothing else."""
    return one.join([np.log(probabilities) for probabilities in found])


@pytest.fixture
def pictures_alone(monkeypatch):
    monkeypatch.setattr(part1.Part1, "_logs", plainly)


def test_a_profile_takes_as_many_images_of_each_class(characters):
    assert (np.bincount(characters.labels) == part1.PLANS["smoke"].per_class).all()


def test_a_pass_has_all_tests_in_the_order_of_their_rows():
    one = part1.Pass([([0], np.array([4, 1])), ([1], np.array([2]))], [])
    assert one.rows.tolist() == [1, 2, 4]
    assert one.network.tolist() == [0, 1, 0]
    assert one.join([np.array([[44], [11]]), np.array([[22]])]).tolist() == [[11], [22], [44]]


def test_no_network_is_asked_about_an_image_it_was_trained_on(by_five):
    study, n = by_five, len(by_five.labels)
    declared = [*study.passes().values(), *study.lengths(), *study.rates().values()]
    for run in [*declared, *study.ablations({}).values()]:
        one = of(study, run)
        assert len(one.train) == len(one.test) == len(run.tasks)
        for train, test, task in zip(one.train, one.test, run.tasks, strict=True):
            assert not set(train) & set(test), run.arm
            everything, _ = study._preprocessed(task.settings)
            for rows, examples in ((train, task.examples), (test, task.held_out)):
                assert examples.digest == everything.take(rows).digest, run.arm
            assert task.views
        asked = np.sort(np.concatenate(one.test))
        if not run.arm.startswith(("kaggle", "rate/")):
            np.testing.assert_array_equal(asked, np.arange(n), err_msg=run.arm)


def test_the_final_network_is_trained_on_everything_and_asked_about_nothing(study):
    task = study.final().task
    assert task.examples.digest == study.everything.digest
    assert (task.held_out, task.tests) == (None, {})
    assert task.settings.training.epochs == PLAN.epochs


def test_unknown_hands_share_no_writer_with_training(study):
    passes = study.passes()
    found = [one for (arm, _), one in passes.items() if arm.startswith("writer-disjoint")]
    assert len(found) == 4
    for run in found:
        one = of(study, run)
        for train, test in zip(one.train, one.test, strict=True):
            assert not set(study.writers[train]) & set(study.writers[test])
    first, second = (of(study, passes["writer-disjoint", seed]).network for seed in (1, 2))
    assert (first != second).any()


def test_kaggles_split_trains_up_to_writer_45_and_tests_from_51_on(by_five):
    passes = by_five.passes()
    for arm in ("kaggle", "kaggle-hand"):
        for seed in (1, 2):
            one = of(by_five, passes[arm, seed])
            ((train,), (test,)) = one.train, one.test
            assert set(by_five.writers[train]) == {1, 45}
            assert set(by_five.writers[test]) == {51, 55}
            assert (len(train), len(test)) == (124, 124)
    seeds = [passes["kaggle", seed].task[0].settings.seed for seed in (1, 2)]
    assert seeds[0] != seeds[1]


def test_without_kaggles_last_writers_or_a_class_by_its_first_that_split_is_left_out(
    study, characters
):
    assert max(study.writers) <= 45
    assert not [arm for arm, _ in study.passes() if arm.startswith("kaggle")]
    writers = np.where(characters.labels == 7, 52, 1)
    writers[-1] = 53
    other = part1.Part1(PLAN, "smoke", dataclasses.replace(characters, writers=writers))
    other.plan = dataclasses.replace(PLAN, disjoint_partitions=0)
    assert not [arm for arm, _ in other.passes() if arm.startswith("kaggle")]


def test_arms_of_one_pass_share_its_networks(by_five, runner):
    passes = by_five.passes()
    groups = [part1.READS, part1.DISJOINT, {"kaggle": "geometry", "kaggle-hand": "hand"}]
    for arms in groups:
        for seed in (1, 2):
            first, *others = (passes[arm, seed].tasks for arm in arms)
            assert all(tasks is first for tasks in others)
    by_five.finish([passes[arm, 1] for arm in part1.READS])
    assert len(runner.trained) == 5
    by_five.finish(list(passes.values()))
    # Five networks a headline's pass, one of unknown hands, and one of a size; one of Kaggle's.
    assert len(set(runner.names)) == len(runner.names) == 2 * 5 + 2 * 5 + 2 + 5
    assert len({run.place for run in passes.values()}) == len(passes)


def test_each_arm_reads_what_its_name_says(study, runner, monkeypatch):
    asked = []
    monkeypatch.setattr(
        part1.Part1, "_logs", lambda self, one, reads, found: asked.append(reads)
        or plainly(self, one, reads, found)
    )  # fmt: skip
    reads = {
        "cross-validation": "geometry", "picture-alone": "picture", "one-hand": "hand",
        "writer-aware": "writer", "writer-disjoint": "geometry", "writer-disjoint-hand": "hand",
        "size-2": "geometry",
    }  # fmt: skip
    for (arm, _), run in study.passes().items():
        del asked[:]
        run.measure(*map(knowing, run.tasks))
        assert asked == [reads[arm]] * 2, arm


def test_a_size_takes_as_many_of_each_class_for_as_many_steps_as_the_whole(characters, runner):
    plan = dataclasses.replace(PLAN, sizes=(1, 2), epochs=4)
    passes = part1.Part1(plan, "smoke", characters).passes()

    def steps(task):
        training = task.settings.training
        return max(1, len(task.examples.labels) // training.batch) * training.epochs

    whole = {steps(task) for task in passes["cross-validation", 1].tasks}
    assert whole == {3 * 4}
    for size in (1, 2):
        run = passes[f"size-{size}", 1]
        assert run.varies["size"] == size
        for task in run.tasks:
            assert (np.bincount(task.examples.labels, minlength=62) == size).all()
            assert {steps(task)} == whole
        drawn = [task.examples.digest for task in run.tasks]
        assert len(set(drawn)) == 5


def test_the_headlines_partitions_chose_nothing(study):
    def told(run):
        tests = {test.tobytes() for test in of(study, run).test}
        return tests, {task.settings.seed for task in run.tasks}

    headline = [told(run) for (arm, _), run in study.passes().items() if arm == "cross-validation"]
    assert len(headline) == 2
    chosen = [*study.lengths(), *study.rates().values(), *study.ablations({}).values()]
    for tests, seeds in map(told, chosen):
        for own_tests, own_seeds in headline:
            assert not tests & own_tests
            assert not seeds & own_seeds
    (first, first_seeds), (second, second_seeds) = headline
    assert not first & second
    assert not first_seeds & second_seeds
    assert len(first_seeds) == 5


def test_lengths_are_compared_on_the_choosing_partitions_with_the_same_networks(study):
    found = {(run.arm, run.seed, run.varies["epochs"]): run for run in study.lengths()}
    reads = ("picture", "geometry", "hand")
    assert set(found) == {
        (f"length/{one}", partition, epochs)
        for one in reads
        for partition in (0, 1001)
        for epochs in (1, 2)
    }
    for (_, partition, epochs), run in found.items():
        assert run.tasks is found["length/picture", partition, epochs].tasks
        assert {task.settings.training.epochs for task in run.tasks} == {epochs}
        fold = data.folds(study.labels, partition)
        np.testing.assert_array_equal(of(study, run).network, fold)


def test_every_variant_has_a_name_of_its_own_and_changes_something():
    named = [variant for variants in part1.ABLATIONS.values() for variant in variants]
    assert len(set(named)) == len(named)
    for _, variant, reads, change in part1.variants(part1.PLANS["full"]):
        assert vary(Settings(), **change) != Settings(), variant
        assert reads in ("geometry", "picture")


def test_an_ablation_changes_what_it_says_and_the_rate_where_it_was_tuned(study):
    tuned = {
        variant for group in part1.TUNED for variant in part1.ABLATIONS[group]
    } | {*CHOSEN.values()}  # fmt: skip
    assert {variant for variant, _ in study.rates()} == tuned
    rates = {variant: 1e-4 * i for i, variant in enumerate(sorted(tuned), 1)}
    found = study.ablations(rates)
    variants = {variant: (reads, change) for _, variant, reads, change in part1.variants(PLAN)}
    variants |= {name: (reads, {}) for reads, name in CHOSEN.items()}
    assert set(found) == {(variant, p) for variant in variants for p in (0, 1001)}
    for (variant, partition), run in found.items():
        reads, change = variants[variant]
        rate = rates.get(variant, rates[CHOSEN[reads]])
        base = vary(Settings(), **PLAN.changes)
        for k, task in enumerate(run.tasks):
            wanted = vary(
                base, seed=10 * partition + k, training__epochs=3, training__rate=rate, **change
            )
            assert task.settings == wanted, variant
        assert (run.arm, run.seed) == (f"ablation/{variant}", partition)
        assert (run.varies["epochs"], run.varies["rate"]) == (3, rate)
        np.testing.assert_array_equal(
            of(study, run).network, data.folds(study.labels, partition)
        )  # the same images for each


def test_rates_are_tried_on_the_first_folds_of_the_first_choosing_partition(study):
    fold = data.folds(study.labels, 0)
    changes = {variant: change for _, variant, _, change in part1.variants(PLAN)}
    found = study.rates()
    assert {rate for _, rate in found} == {1e-3, 4e-3}
    for (variant, rate), run in found.items():
        assert run.varies["rate"] == rate
        tests = of(study, run).test
        assert len(tests) == len(run.tasks) == 2
        for k, (test, task) in enumerate(zip(tests, run.tasks, strict=True)):
            np.testing.assert_array_equal(test, np.flatnonzero(fold == k))
            change = changes.get(variant, {})
            base = vary(Settings(), **PLAN.changes)
            own = {"seed": k, "training__epochs": 3, "training__rate": rate}
            assert task.settings == vary(base, **own, **change)


def test_a_variant_takes_its_best_rate_and_of_equals_the_first(characters, runner, monkeypatch):
    monkeypatch.setattr(
        part1, "ABLATIONS", {"Training": {"late": {"training__batch": 32},
                                          "even": {"training__batch": 128}}},
    )  # fmt: skip
    plan = dataclasses.replace(PLAN, rates=(1e-3, 2e-3, 4e-3))
    study = part1.Part1(plan, "smoke", characters)
    reached = {"late": (0.5, 0.6, 0.7), "even": (0.6, 0.6, 0.5), CHOSEN["geometry"]: (0.4, 0.6, 0)}
    rates = study.rates()
    for (variant, rate), run in rates.items():
        study._rows[run.place] = {"accuracy": reached[variant][plan.rates.index(rate)]}
    best = study.best_rates(rates)
    assert best == {"late": 4e-3, "even": 1e-3, CHOSEN["geometry"]: 2e-3}
    assert study.best_rates({}) == {}


def answer(study, run, wrong, name="predictions"):
    """Let a run have answered all but the rows `wrong` with their label."""
    rows = of(study, run).rows
    answers = np.where(np.isin(rows, wrong), (study.labels[rows] + 1) % 62, study.labels[rows])
    study.arrays[f"{run.place}/{name}"] = answers.astype(np.uint8)


def weighed(study, variants, wrong):
    """The rows that `weigh` makes of `variants`, group -> variant -> reads, whose passes misread
    the rows wrong(variant, partition, fold)."""
    found = study.ablations({})
    for (variant, partition), run in found.items():
        answer(study, run, wrong(variant, partition, data.folds(study.labels, partition)))
    study.weigh(found)
    rows = study.info["facts"]["ablations"]
    assert [(row["group"], row["variant"], row["reads"]) for row in rows] == [
        (group, *one) for group, ours in variants.items() for one in ours.items()
    ]
    return {row["variant"]: row for row in rows}


def ablating(monkeypatch, variants):
    table = {
        group: {
            name: {"network__dropout": 0.1 * i} | ({"reads": reads} if reads == "picture" else {})
            for i, (name, reads) in enumerate(ours.items(), 1)
        }
        for group, ours in variants.items()
    }
    monkeypatch.setattr(part1, "ABLATIONS", table)


def test_a_variant_is_weighed_image_by_image_and_corrected_for_the_others(
    characters, runner, monkeypatch
):
    variants = {"A": {"one a fold": "geometry", "alike": "geometry"}, "B": {"hopeless": "geometry"}}
    plan = dataclasses.replace(PLAN, ablation_partitions=1)

    def wrong(variant, partition, fold):
        if variant == "one a fold":  # of 62 images that each of five networks reads
            return [np.flatnonzero(fold == k)[0] for k in range(5)]
        return np.arange(310) if variant == "hopeless" else []

    ablating(monkeypatch, variants)
    rows = weighed(part1.Part1(plan, "smoke", characters), variants, wrong)
    one, alike, hopeless = (rows[name] for name in ("one a fold", "alike", "hopeless"))
    assert (one["accuracy"], one["baseline"]) == (pytest.approx(305 / 310), 1)
    assert one["difference"].mean == pytest.approx(-5 / 310)
    assert one["difference"].n == 310
    # The networks are all alike: what is left is a t test over images.
    p = stats.ttest_1samp(np.arange(310) < 5, 0).pvalue
    assert one["p"] == pytest.approx(p)
    assert 0.025 < p < 0.026
    assert one["adjusted_p"] == pytest.approx(2 * p)
    assert one["verdict"] == "within noise"
    assert (alike["difference"].mean, alike["p"], alike["verdict"]) == (0, 1, "within noise")
    assert hopeless["difference"].mean == -1
    assert (hopeless["p"], hopeless["adjusted_p"], hopeless["verdict"]) == (0, 0, "worse")
    # Alone, it would have been told from the chosen settings.
    variants = {"A": {"one a fold": "geometry"}}
    ablating(monkeypatch, variants)
    rows = weighed(part1.Part1(plan, "smoke", characters), variants, wrong)
    assert rows["one a fold"]["adjusted_p"] == pytest.approx(p)
    assert rows["one a fold"]["verdict"] == "worse"


def test_a_variant_is_compared_with_the_chosen_settings_that_read_as_much(
    characters, runner, monkeypatch
):
    variants = {"A": {"with geometry": "geometry", "without": "picture"}}
    misread = {CHOSEN["geometry"]: 31, CHOSEN["picture"]: 155, "with geometry": 62, "without": 124}
    ablating(monkeypatch, variants)
    rows = weighed(
        part1.Part1(PLAN, "smoke", characters), variants, lambda name, *_: np.arange(misread[name])
    )
    ours, other = rows["with geometry"], rows["without"]
    assert (ours["accuracy"], ours["baseline"]) == (pytest.approx(0.8), pytest.approx(0.9))
    assert ours["difference"].mean == pytest.approx(-0.1)
    assert (other["accuracy"], other["baseline"]) == (pytest.approx(0.6), pytest.approx(0.5))
    assert other["difference"].mean == pytest.approx(0.1)
    assert (ours["verdict"], other["verdict"]) == ("worse", "better")


def test_a_variants_passes_are_paired_with_the_chosen_settings_on_the_same_partition(
    characters, runner, monkeypatch
):
    variants = {"A": {"a": "geometry"}}

    def wrong(variant, partition, fold):  # the second partition is hard for both
        return np.arange(93 if partition else 0) if variant != "a" else np.arange(62)

    ablating(monkeypatch, variants)
    row = weighed(part1.Part1(PLAN, "smoke", characters), variants, wrong)["a"]
    assert (row["accuracy"], row["baseline"]) == (pytest.approx(0.8), pytest.approx(0.85))
    # Paired: 62 images worse in one pass, 31 better in the other.
    values = np.zeros((2, 310))
    values[0, :62], values[1, 62:93] = -1, 1
    networks = np.stack([data.folds(characters.labels, p) + 5 * (p > 0) for p in (0, 1001)])
    wanted, p = analysis.crossed_interval(values, networks)
    assert row["difference"].mean == pytest.approx(-31 / 620)
    assert (row["difference"].low, row["p"]) == (pytest.approx(wanted.low), pytest.approx(p))


def test_networks_of_two_passes_are_told_apart(study):
    passes = study.passes()
    runs = [passes["cross-validation", seed] for seed in (1, 2)]
    for run in runs:
        answer(study, run, [3] if run.seed == 2 else [])
    hits, networks = study._hits(runs)
    assert (hits[0].all(), np.flatnonzero(~hits[1]).tolist()) == (True, [3])
    assert [set(one) for one in networks] == [set(range(5)), set(range(5, 10))]
    np.testing.assert_array_equal(networks[1] - 5, data.folds(study.labels, 2))


def test_each_arm_is_compared_with_the_headline_on_its_own_images_and_passes(by_five):
    by_five.plan = dataclasses.replace(PLAN, disjoint_partitions=1, kaggle_seeds=1)
    passes = by_five.passes()
    misread = {"writer-disjoint": 62, "kaggle": 25}  # images of the first classes; else none
    for (arm, seed), run in passes.items():
        headline = {1: 31, 2: 62}[seed]
        answer(
            by_five, run, np.arange(headline if arm == "cross-validation" else misread.get(arm, 0))
        )
        answer(by_five, run, np.arange(31), "view_predictions")
    by_five.compare(passes)
    facts = by_five.info["facts"]

    def means(arm):
        found = facts[f"over/{arm}"]
        for kind in ("accuracy", "difference"):
            assert found[f"{kind} over writers"].mean == pytest.approx(found[kind].mean)
        return pytest.approx((found["accuracy"].mean, found["difference"].mean))

    assert means("cross-validation") == (0.85, 0)
    assert means("picture-alone") == (1, 0.15)
    assert means("test-time augmentation") == (0.9, 0.05)
    # With one pass alone, against the headline's first.
    assert means("writer-disjoint") == (0.8, -0.1)
    assert means("size-2") == (1, 0.1)
    assert means("size-4") == (0.9, 0)  # as many as the four other folds have: the first pass
    # Of its 124 images the first 10 are misread, and by the headline 2 more.
    assert means("kaggle") == (114 / 124, 2 / 124)
    assert means("kaggle-hand") == (1, 12 / 124)
    headline, kaggle = facts["over/cross-validation"], facts["over/kaggle"]
    assert (headline["accuracy"].n, kaggle["accuracy"].n) == (310, 124)
    assert (headline["accuracy over writers"].n, kaggle["accuracy over writers"].n) == (5, 2)
    # Five of each writer's 62 are misread: as far as two writers can tell, no more and no less.
    over = kaggle["accuracy over writers"]
    assert (over.low, over.high) == (pytest.approx(57 / 62), pytest.approx(57 / 62))
    low, high = headline["accuracy"].low, headline["accuracy"].high
    assert low < 0.85 < high
    values = np.arange(310) >= np.array([[31], [62]])
    networks = np.stack([data.folds(by_five.labels, p) + 5 * p for p in (1, 2)])
    wanted, _ = analysis.crossed_interval(values, networks)
    assert (low, high) == (pytest.approx(wanted.low), pytest.approx(wanted.high))


def answering(study, run, answers, views):
    """What a pass measures whose networks give these answers (n,), their second choice the label,
    and those answers with two views."""
    named = 0.38 * np.eye(62)
    first, second = 0.01 + named[answers] + 0.1 * np.eye(62)[study.labels], 0.01 + named[views]
    return run.measure(*(
        dataclasses.replace(knowing(task), probabilities=first[test], views=second[test])
        for test, task in zip(of(study, run).test, run.tasks, strict=True)
    ))  # fmt: skip


def test_a_pass_counts_what_is_right_once_case_or_lookalikes_are_merged(study, pictures_alone):
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


def test_the_second_place_is_not_the_third(study, pictures_alone):
    run = study.passes()["cross-validation", 1]
    third = [knowing(task) for task in run.tasks]
    for outcome, task in zip(third, run.tasks, strict=True):
        ranks = np.eye(62)[task.held_out.labels]
        outcome.probabilities[:] = (
            0.01 + 0.1 * ranks + 0.3 * np.roll(ranks, 1, 1) + 0.2 * np.roll(ranks, 2, 1)
        )
    found, _ = run.measure(*third)
    assert (found["accuracy"], found["top2_accuracy"], found["top5_accuracy"]) == (0, 0, 1)


def test_what_a_page_draws_is_kept_with_a_row(study):
    passes, ablations = study.passes(), study.ablations({})
    curves = {"step", "loss", "val_loss", "val_accuracy"}
    wanted = {
        passes["cross-validation", 1]: {"predictions", "view_predictions"} | curves,
        passes["cross-validation", 2]: {"predictions", "view_predictions"},
        passes["one-hand", 1]: {"predictions"},
        passes["writer-disjoint", 1]: {"predictions"} | curves,
        passes["size-2", 1]: {"predictions"},
        ablations["halved on plateau", 1001]: {"predictions", "rate"},
        ablations["constant", 0]: {"predictions"},
    }
    for run, names in wanted.items():
        assert set(run.arrays) == names, run.arm


class Known:
    """A set of 62 classes, told by their geometry but for each writer's habit, and how a pass of
    five folds reads it."""

    _groups = part1.Part1._groups

    def __init__(self):
        rng = np.random.default_rng(0)
        self.labels, self.writers = np.tile(np.arange(62), 10), np.repeat(np.arange(10), 62)
        where = np.arange(62) / 62
        exact = np.stack([where, where**2], 1)[self.labels]
        noise = rng.normal(0, 1e-4, (620, 2))
        self.geometry = exact + rng.normal(0, 0.2, (10, 2))[self.writers] + noise
        self.fold = data.folds(self.labels, 1)
        self.one = self.asking(*(self.fold == k for k in range(5)))

    def asking(self, *tests, never=()):
        """A pass of networks trained on all but their tests and the folds `never`."""
        left = ~np.isin(self.fold, never)
        splits = [(np.flatnonzero(~test & left), np.flatnonzero(test)) for test in tests]
        return part1.Pass(splits, [])

    def logs(self, reads, one=None, picture=None, **more):
        """picture: probabilities (620, 62) by the pictures alone; None tells nothing."""
        one = one or self.one
        picture = np.full((620, 62), 1 / 62) if picture is None else picture
        return part1.Part1._logs(self, one, reads, [picture[test] for test in one.test], **more)

    def correct(self, reads, **more):
        logs = self.logs(reads, **more)
        assert np.exp(logs).sum(1) == pytest.approx(1)
        return (logs.argmax(1) == self.labels).mean()


BESIDE = ["geometry", "writer", "hand"]  # what is read beside the picture


def test_taking_out_a_writers_habit_lets_the_geometry_tell_the_class():
    known = Known()
    assert known.correct("picture") < 0.05
    assert known.correct("writer") > 0.5 > known.correct("geometry") + 0.2


def test_a_hands_images_tell_each_others_habit_without_a_label():
    known = Known()
    # Of the first eight classes the picture leaves open which of two it is.
    c = np.arange(62)
    other = np.where(c < 8, (c + 4) % 8, c)
    picture = (0.01 / 62 + 0.495 * (np.eye(62)[c] + np.eye(62)[other]))[known.labels]
    open_ = known.labels < 8

    def correct(reads):
        return (known.logs(reads, picture=picture).argmax(1) == known.labels)[open_].mean()

    assert correct("picture") == 0.5
    assert correct("geometry") < 0.7 < 0.9 < correct("hand")


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


@pytest.mark.parametrize("reads", BESIDE)
def test_no_label_of_a_test_reaches_what_is_said_of_it(reads):
    known = Known()
    before, own = known.logs(reads), known.fold == 3
    known.labels = known.labels.copy()
    known.labels[own] = np.random.default_rng(1).permutation(known.labels[own])
    after = known.logs(reads)
    np.testing.assert_array_equal(before[own], after[own])
    assert (before[~own] != after[~own]).any()


@pytest.mark.parametrize("reads", BESIDE)
def test_geometry_is_estimated_from_the_networks_own_training_images(reads):
    known = Known()
    one = known.asking(known.fold == 0, never=[1])
    before = known.logs(reads, one)
    geometry = known.geometry
    known.geometry = geometry + 10 * (known.fold == 1)[:, None]
    np.testing.assert_array_equal(known.logs(reads, one), before)
    known.geometry = geometry * np.where(known.fold == 2, 2, 1)[:, None]
    assert (known.logs(reads, one) != before).any()


@pytest.mark.parametrize("share", [None, 0.25])
def test_the_geometry_adds_its_likelihood_at_its_weight(share):
    known = Known()
    one = known.asking(known.fold == 0)
    picture = np.full((620, 62), 0.5)
    picture[:, 1] = 0.25
    logs = known.logs("geometry", one, picture, share=share)
    train = known.fold != 0
    kernel, bias = analysis.class_likelihood(known.geometry[train], known.labels[train], 62)
    geometry = known.geometry[~train] @ kernel + bias
    # Between two classes: what the picture says, ln 2, and a share of what the geometry says.
    difference = np.log(2) + (share or 0.6) * (geometry[:, 0] - geometry[:, 1])
    assert logs[:, 0] - logs[:, 1] == pytest.approx(difference)


def changed(known, reads, one, moved, **more):
    """The rows of whom something else is said once the image `moved` stands elsewhere."""
    before = known.logs(reads, one, **more)
    known.geometry = known.geometry.copy()
    known.geometry[moved] += 0.3
    return one.rows[(known.logs(reads, one, **more) != before).any(1)]


def test_a_hands_images_are_read_together_by_one_network_and_apart_from_other_hands():
    known = Known()
    # Two networks trained on the same images are asked about a writer's images each.
    first, second = known.fold == 3, known.fold == 4
    rows = [np.flatnonzero(asked) for asked in (first, second)]
    train = np.flatnonzero(known.fold < 3)
    one = part1.Pass([(train, test) for test in rows], [])
    own = np.flatnonzero(first & (known.writers == 6))
    assert len(own) > 2
    assert (second & (known.writers == 6)).any()
    np.testing.assert_array_equal(changed(known, "hand", one, own[1]), own)
    assert changed(known, "geometry", one, own[1]).tolist() == [own[1]]
    assert changed(known, "hand", one, own[1], together=1).tolist() == [own[1]]
    fewer = changed(known, "hand", one, own[1], together=4)
    assert own[1] in fewer
    assert set(fewer) <= set(own)
    assert 2 <= len(fewer) <= 4


def test_a_hand_is_read_with_what_the_training_images_tell_of_hands():
    known = Known()
    train, test = (np.flatnonzero(one) for one in (known.fold != 2, known.fold == 2))
    picture = np.random.default_rng(3).dirichlet(np.ones(62), 620)
    logs = known.logs("hand", part1.Pass([(train, test)], []), picture)
    hands = analysis.hands(*(x[train] for x in (known.geometry, known.labels, known.writers)), 62)
    own = known.writers[test] == 4
    told = np.log(picture[test][own]), known.geometry[test][own]
    wanted = analysis.apply_temperature(analysis.one_hand(*told, hands, 0.7), 1)
    np.testing.assert_allclose(logs[own], wanted)


@pytest.mark.parametrize("most", [1, 2, 3, 7, 100, None])
def test_groups_are_of_one_writer_and_no_larger_than_asked(study, most):
    writers = np.random.default_rng(0).permutation(np.repeat([3, 8, 9], [1, 6, 10]))
    groups = study._groups(writers, most)
    assert sorted(np.concatenate(groups).tolist()) == list(range(17))
    assert all(len(set(writers[group])) == 1 for group in groups)
    assert max(map(len, groups)) <= (most or 10)
    counts = {1: 17, 2: 1 + 3 + 5, 3: 1 + 2 + 4, 7: 1 + 1 + 2, 100: 3, None: 3}
    assert len(groups) == counts[most]


def flat(one):
    """A pass with networks that tell nothing."""
    return one, [np.full((len(test), 62), 1 / 62) for test in one.test]


def reading(monkeypatch, right):
    """Let `_logs` be sure of the label of the first right(one, share, together) rows and wrong
    about the others."""

    def logs(self, one, reads, found, share=None, together=None):
        count = right(one, reads, share, together)
        answers = np.where(np.arange(310) < count, self.labels, (self.labels + 1) % 62)
        return np.log(0.01 + 0.9 * np.eye(62)[answers])

    monkeypatch.setattr(part1.Part1, "_logs", logs)


def test_each_weight_is_judged_for_one_image_and_for_a_hands(study, monkeypatch):
    first, second = (
        of(study, study.ablations({})[CHOSEN["geometry"], partition]) for partition in (0, 1001)
    )

    def right(one, reads, share, together):
        assert together is None
        return round(100 * share) + 50 * (reads == "hand") + 20 * (one is second)

    reading(monkeypatch, right)
    facts, arrays = study._weights([flat(first), flat(second)])
    assert arrays == {}
    assert list(facts) == ["geometry", "hand"]
    assert facts["geometry"] == pytest.approx({str(w): (100 * w + 10) / 310 for w in part1.WEIGHTS})
    assert facts["hand"] == pytest.approx({str(w): (100 * w + 60) / 310 for w in part1.WEIGHTS})
    assert {part1.SHARES["geometry"], part1.SHARES["hand"]} <= set(part1.WEIGHTS)


def test_an_ensemble_averages_the_probabilities_of_all_partitions(study, pictures_alone):
    passes = [study.passes()["cross-validation", seed] for seed in (1, 2)]
    unsure, wrong = np.arange(310) < 100, (study.labels + 1) % 62

    def ensemble(*said):
        """said: of both partitions' networks, what they give a hundred images' label and another
        class; of the others they are sure."""
        found = []
        for run, (label, other) in zip(passes, said, strict=True):
            probabilities = np.full((310, 62), 0.001)
            probabilities[np.arange(310), study.labels] = np.where(unsure, label, 0.9)
            probabilities[np.arange(310), wrong] = np.where(unsure, other, 0.001)
            found.append((of(study, run), [probabilities[test] for test in of(study, run).test]))
        return study._ensemble(found)[0]

    facts = ensemble((0.4, 0.5), (0.6, 0.3))
    assert (facts["accuracy"].mean, facts["accuracy"].n) == (1, 310)
    assert facts["difference"].mean == pytest.approx(1 - (1 + 210 / 310) / 2)
    values = 0.5 * unsure
    half = stats.t.ppf(0.975, 309) * values.std(ddof=1) / np.sqrt(310)
    assert facts["difference"].low == pytest.approx(values.mean() - half)
    # The mean of 0.3 and 0.19 is below that of 0.5 and 0.01, though their product is not.
    assert ensemble((0.3, 0.5), (0.19, 0.01))["accuracy"].mean == pytest.approx(210 / 310)


def test_a_temperature_is_fitted_on_the_other_folds(study, monkeypatch):
    one = of(study, study.passes()["cross-validation", 1])
    rng = np.random.default_rng(0)
    probabilities = [rng.dirichlet(np.ones(62), len(test)) for test in one.test]
    fitted = []

    def fit(labels, logs):
        fitted.append((labels, logs))
        return float(len(fitted))

    monkeypatch.setattr(analysis, "fit_temperature", fit)
    facts, arrays = study._calibration([(one, probabilities)])
    assert facts["temperature"] == 3
    fold = data.folds(study.labels, 1)
    logs, calibrated = study._logs(one, "geometry", probabilities), np.empty((310, 62))
    for k in range(5):
        others = study.labels[fold != k], logs[fold != k]
        np.testing.assert_array_equal(fitted[k][0], others[0])
        np.testing.assert_array_equal(fitted[k][1], others[1])
        calibrated[fold == k] = np.exp(analysis.apply_temperature(logs[fold == k], k + 1))
    expected = analysis.expected_calibration_error(study.labels, calibrated)
    assert facts["after"] == pytest.approx(expected)
    assert facts["before"] != pytest.approx(expected)
    np.testing.assert_allclose(
        arrays["after"],
        np.stack(analysis.reliability_curve(study.labels, calibrated, bins=10, even=True)),
    )
    np.testing.assert_array_equal(arrays["after"][2], [31] * 10)
    np.testing.assert_allclose(arrays["confidence"], np.exp(logs).max(1))
    labelled = np.exp(logs)[np.arange(310), study.labels]
    np.testing.assert_allclose(arrays["right_confidence"], labelled)


def test_more_images_of_an_unknown_hand_are_judged_over_writers(by_five, monkeypatch):
    passes = by_five.passes()
    first, second = (of(by_five, passes["writer-disjoint", seed]) for seed in (1, 2))

    def right(one, reads, share, together):
        assert (reads, share) == ("hand", None)
        return 100 + 10 * together + 20 * (one is second)

    reading(monkeypatch, right)
    facts, _ = by_five._hand_sizes([flat(first), flat(second)])
    assert list(facts) == ["1", "2", "5", "10", "17"]
    for size, found in facts.items():
        assert found.mean == pytest.approx((110 + 10 * int(size)) / 310)
        assert found.n == 5


def test_what_rests_on_probabilities_is_computed_from_its_own_networks(study, monkeypatch):
    found = {}
    monkeypatch.setattr(
        study, "derive", lambda name, tasks, compute, given: found.update(
            {name: compute([SimpleNamespace(probabilities=task.name) for task in tasks])}
        ),
    )  # fmt: skip
    for name in ("_weights", "_ensemble", "_calibration", "_hand_sizes"):
        monkeypatch.setattr(part1.Part1, name, lambda self, passes: passes)
    passes, ablations = study.passes(), study.ablations({})
    study.combine(passes, ablations)
    headline, strangers = (
        [passes[arm, seed] for seed in (1, 2)] for arm in ("cross-validation", "writer-disjoint")
    )
    choosing = [ablations[CHOSEN["geometry"], partition] for partition in (0, 1001)]
    wanted = {
        "weights": choosing, "ensemble": headline, "calibration": headline[:1],
        "images of a hand": strangers,
    }  # fmt: skip
    assert list(found) == list(wanted)
    for name, runs in wanted.items():
        assert found[name] == [(of(study, run), [task.name for task in run.tasks]) for run in runs]


def misreading(share):
    """Networks that misread the first share of what they are asked."""

    def outcome(task):
        found = knowing(task)
        if task.held_out is None:
            return found
        count = round(share * len(task.held_out.labels))
        probabilities = np.full((len(task.held_out.labels), 62), 0.001)
        probabilities[np.arange(len(probabilities)), task.held_out.labels] = 0.9
        probabilities[:count] = np.roll(probabilities[:count], 1, axis=1)
        probabilities[np.arange(count), task.held_out.labels[:count]] = 0.05
        return dataclasses.replace(found, probabilities=probabilities, views=probabilities)

    return outcome


def run_quietly(monkeypatch, checkpoint=lambda *_, **__: None, **options):
    monkeypatch.setattr(Study, "checkpoint", checkpoint)
    monkeypatch.setattr(part1.Part1, "look_inside", lambda *_: (None, {"occlusion": np.ones(1)}))
    return part1.run("smoke", **options)


def test_the_table_and_facts_count_what_the_answers_say(standin, runner, monkeypatch, characters):
    runner.outcome = misreading(0.25)
    found = run_quietly(monkeypatch, seeds=2)
    table, facts, arrays = found.table, found.info["facts"], found.arrays
    n, plan = len(characters.labels), part1.PLANS["smoke"]
    by_arm = {arm: rows["accuracy"].to_list() for arm, rows in table.groupby("arm")}
    assert {arm: len(rows) for arm, rows in by_arm.items()} == {
        "final": 1, **dict.fromkeys(part1.READS, 2), **dict.fromkeys(part1.DISJOINT, 1),
        "size-2": 1, **{f"length/{reads}": 2 for reads in ("picture", "geometry", "hand")},
        f"rate/{CHOSEN['geometry']}": 2, f"ablation/{CHOSEN['geometry']}": 1,
        "ablation/tight crop": 1, "ablation/none": 1,
    }  # fmt: skip
    passes = table[table["arm"] == "cross-validation"]
    assert passes["seed"].to_list() == [1, 2]
    assert passes["epochs"].to_list() == [plan.epochs] * 2
    wrong = arrays["shown/predictions"] != arrays["shown/labels"]
    assert passes["accuracy"].to_list() == pytest.approx((1 - wrong.sum(1) / n).tolist())
    assert found.info["headline"]["mean"] == pytest.approx(passes["accuracy"].mean())
    assert found.info["headline"]["metric"] == "accuracy"
    assert by_arm["picture-alone"] == pytest.approx([0.75, 0.75], abs=0.02)
    for arm, reached in by_arm.items():
        if f"over/{arm}" in facts:
            assert facts[f"over/{arm}"]["accuracy"].mean == pytest.approx(np.mean(reached)), arm
    headline = facts["over/cross-validation"]
    assert headline["difference"].mean == 0
    assert headline["accuracy over writers"].n == len(np.unique(characters.writers))
    views = passes["views_accuracy"].mean()
    assert facts["over/test-time augmentation"]["accuracy"].mean == pytest.approx(views)
    chosen = by_arm[f"ablation/{CHOSEN['geometry']}"]
    assert facts["weights"]["geometry"]["0.6"] == pytest.approx(*chosen)
    for row in facts["ablations"]:
        assert row["accuracy"] == pytest.approx(*by_arm[f"ablation/{row['variant']}"])
        assert row["baseline"] == pytest.approx(*chosen)
        assert row["difference"].mean == pytest.approx(row["accuracy"] - row["baseline"])
    assert facts["ensemble"]["accuracy"].n == n
    assert facts["calibration"]["before"] == pytest.approx(passes["ece"].iloc[0])
    read = arrays["shown/predictions"][0] == arrays["shown/labels"]
    right = np.bincount(characters.labels, minlength=62)
    right -= np.bincount(arrays["shown/labels"][~read], minlength=62)
    shown = np.bincount(arrays["shown/labels"][read], minlength=62)
    assert (shown >= np.minimum(right, 4)).all()  # of every class some that were read right
    assert arrays["confusion"].sum() == 2 * n
    assert np.trace(arrays["confusion"]) == pytest.approx(passes["accuracy"].sum() * n)
    assert sum(facts["writer_counts"].values()) == sum(facts["class_counts"]) == n
    guides = facts["guides"]
    assert guides["top of capitals"] < guides["top of small letters"] < guides["base line"]
    assert arrays["first/scans"].shape == (62, 225, 300)


def test_a_second_run_trains_nothing_and_finds_the_same(standin, runner, monkeypatch):
    first = run_quietly(monkeypatch)
    assert first.info["runs"] == len(runner.trained) == len(set(runner.names))
    runner.trained.clear()
    runner.stored.clear()  # not even what the run store has is asked for
    again = run_quietly(monkeypatch)
    assert runner.trained == []
    pd.testing.assert_frame_equal(again.table, first.table)
    assert again.info["facts"] == first.info["facts"]
    assert again.arrays.keys() == first.arrays.keys()
    for name, array in first.arrays.items():
        np.testing.assert_array_equal(again.arrays[name], array)


def test_an_ablation_is_trained_at_the_rate_that_was_best(standin, runner, monkeypatch):
    monkeypatch.setattr(
        part1, "ABLATIONS", {"Training": {"small batches": {"training__batch": 32}}}
    )
    plan = dataclasses.replace(part1.PLANS["smoke"], rates=(1e-3, 4e-3))
    monkeypatch.setitem(part1.PLANS, "smoke", plan)
    monkeypatch.setattr(part1.Part1, "_logs", plainly)

    def outcome(task):
        small, high = task.settings.training.batch == 32, task.settings.training.rate == 4e-3
        return misreading(0.1 if small == high else 0.2)(task)

    runner.outcome = outcome
    table = run_quietly(monkeypatch).table
    rates = table.set_index("arm")["rate"]
    assert rates["ablation/small batches"] == 4e-3
    assert rates[f"ablation/{CHOSEN['geometry']}"] == 1e-3


def test_what_single_images_are_drawn_from(study, pictures_alone):
    run = study.passes()["cross-validation", 1]
    study.finish([run])
    found = [study.outcomes(run.tasks)[task.name].probabilities for task in run.tasks]
    study._keep("calibration", study._calibration([(of(study, run), found)])[1])
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


def test_people_are_asked_as_much_that_is_misread_as_that_is_read_right():
    labels = np.repeat(np.arange(62), 40)
    wrong = np.flatnonzero(labels % 2 == 0)[::3]
    predictions = labels.copy()
    predictions[wrong] += 1
    rows = part1.evenly(labels, predictions)
    misread = np.isin(rows, wrong)
    assert (len(rows), misread.sum()) == (60, 30)
    assert len(set(labels[rows])) == 60
    assert 5 < misread[:30].sum() < 25  # neither kind comes first
    np.testing.assert_array_equal(part1.evenly(labels, predictions), rows)


def test_people_are_asked_of_few_errors_all_and_no_image_twice():
    labels = np.repeat([0, 1, 2], 10)
    predictions = labels.copy()
    predictions[[0, 1, 2, 3, 4, 10]] = 9
    rows = part1.evenly(labels, predictions)
    assert len(set(rows)) == 12
    assert {0, 1, 2, 3, 4, 10} < set(rows)
    # Those that are read right even the classes out: five of 0 and one of 1 were misread.
    counts = np.bincount(labels[np.setdiff1d(rows, [0, 1, 2, 3, 4, 10])]).tolist()
    assert counts in ([0, 2, 4], [0, 3, 3])
    assert len(part1.evenly(labels, predictions, most=2)) == 4
    assert len(part1.evenly(labels, labels)) == 0


def test_people_are_set_beside_what_the_first_pass_answered(study):
    runs = [study.passes()["cross-validation", seed] for seed in (1, 2)]
    wrong = [[3, 50, 120, 300], [7, 50, 200]]
    for run, rows in zip(runs, wrong, strict=True):
        answer(study, run, rows)
    none = np.zeros(len(study.labels))
    study.arrays |= {"calibration/confidence": none, "calibration/right_confidence": none}
    study.show(runs)
    first = study.array(runs[0], "predictions")
    rows = part1.evenly(study.labels, first)
    assert set(rows[study.labels[rows] != first[rows]]) == {3, 50, 120, 300}
    np.testing.assert_array_equal(study.arrays["game/labels"], study.labels[rows])
    np.testing.assert_array_equal(study.arrays["game/predictions"], first[rows])
    scans = study.arrays["game/scans"]
    assert set(np.unique(scans)) <= {0, 85, 170, 255}
    assert abs(scans - study.characters.images[rows].astype(int)).max() < 64


def test_the_checkpoint_reads_the_geometry_of_all_images_at_its_weight(
    standin, runner, monkeypatch, characters
):
    from midas_lib import model

    monkeypatch.setattr(model, "add_geometry", lambda *given: given)
    monkeypatch.setattr(part1, "rebuild", lambda outcome, settings: (outcome, settings))
    kept = []
    run_quietly(monkeypatch, checkpoint=lambda *given, **more: kept.append((given, more)))
    (((study, name, run, metric, build), more),) = kept
    assert (name, run.arm, metric) == ("model", "final", "seconds")
    assert len(run.task.examples.labels) == len(characters.labels)
    network, kernel, bias = build("outcome", "settings")
    assert network == ("outcome", "settings")
    ours = study.geometry @ kernel + bias
    theirs = analysis.class_likelihood(study.geometry, study.labels, 62)
    assert ours == pytest.approx(0.6 * (study.geometry @ theirs[0] + theirs[1]))
    hands = analysis.hands(study.geometry, study.labels, characters.writers, 62)
    assert more["hands"]["weight"] == 0.7
    for part in ("means", "between", "within"):
        np.testing.assert_array_equal(more["hands"][part], getattr(hands, part))


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
