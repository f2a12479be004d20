"""Part 2's study: what is the same for both starts, what differs, and who sees which image."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from fakes import knowing, on_standin

from midas_lib import corruptions, results
from midas_lib.config import UserError, vary
from midas_lib.studies import part1, part2, tables
from midas_lib.studies import study as study_
from midas_lib.studies.study import Study


@pytest.fixture(scope="module")
def datasets(standin_folder):
    with on_standin(standin_folder):
        return part2.load("smoke")


@pytest.fixture
def study(datasets, runner):
    plan = dataclasses.replace(part2.PLANS["smoke"], seeds=2, side_seeds=2, copied=(0, 3))
    return part2.Part2(plan, "smoke", datasets)


def pictures(examples):
    return {picture.tobytes() for picture in examples.pictures}


RATES = {"random": 0.004, "digits": 0.001}


def everything(study):
    """All runs, by the method that declares them; the starts are finished."""
    starts = study.starts()
    study.finish(list(starts.values()))
    main, few = study.main(starts, RATES), study.few_labels(starts)
    return {
        "starts": starts,
        "rates": study.rates(starts),
        "main": main,
        "warped": study.warped(starts, main),
        "again": study.again(starts, main),
        "few": few,
        "checked": study.few_checked(starts),
        "controls": study.controls(starts),
        "self_trained": study.self_trained(starts, few),
    }


def test_nothing_held_out_is_trained_on(study):
    held_out, test, found = pictures(study.validation), pictures(study.test), everything(study)
    measured = [*found["rates"].values(), *found["main"].values(), *found["warped"].values()]
    few = [*found["few"].values(), *found["checked"], *found["controls"], *found["self_trained"]]
    for run in measured + few:
        assert not pictures(run.task.examples) & test
    for run in [*measured, *found["again"].values()]:
        assert not pictures(run.task.examples) & held_out
        assert pictures(run.task.held_out) == held_out
        assert len(run.task.examples.labels) == len(study.train.labels)
    for run in few:
        assert run.task.held_out is None
    rest = len(study.train.labels)
    assert rest + len(held_out) == len(study.everything.labels)


def test_the_starts_of_a_seed_differ_in_weights_and_peak_rate_alone(study):
    found = everything(study)
    main = found["main"]
    assert set(main) == {
        (start, epochs, seed)
        for start in part2.STARTS
        for epochs in study.plan.budgets
        for seed in (0, 1)
    }
    for (start, epochs, seed), run in main.items():
        training = run.task.settings.training
        assert (run.arm, run.seed, run.task.settings.seed) == (start, seed, seed)
        assert training.epochs == run.varies["epochs"] == epochs
        assert training.rate == run.varies["rate"] == RATES[start]
        assert training.checks == (part2.CHECKS if epochs == study.plan.epochs else 0)
        assert run.task.start.name == found["starts"][start, seed].task.name
        other = main[part2.STARTS[start == "random"], epochs, seed].task
        assert vary(other.settings, training__rate=training.rate) == run.task.settings
        assert other.examples is run.task.examples
    assert len({run.digest for run in main.values()}) == len(main)


def test_a_start_is_of_its_own_seed(study):
    for (_, seed), run in everything(study)["starts"].items():
        assert (run.seed, run.task.settings.seed) == (seed, seed)


def test_what_a_start_has_learned(study):
    starts, characters = study.starts(), study.characters
    assert {name for name, _ in starts} == {*part2.STARTS, *part2.CONTROLS}
    tasks = {name: starts[name, 0].task for name, _ in starts}
    assert tasks["random"].settings.training.epochs == 0
    assert {name: task.classes for name, task in tasks.items()} == {
        "random": 10, "digits": 10, "characters": 62, "letters": 52, "shuffled": 62,
    }  # fmt: skip
    of_digits, of_letters = (
        characters.take(found) for found in (characters.labels < 10, characters.labels >= 10)
    )
    assert pictures(tasks["digits"].examples) == pictures(of_digits)
    assert pictures(tasks["letters"].examples) == pictures(of_letters)
    np.testing.assert_array_equal(tasks["letters"].examples.labels, of_letters.labels - 10)
    shuffled = tasks["shuffled"].examples
    np.testing.assert_array_equal(shuffled.pictures, characters.pictures)
    assert np.bincount(shuffled.labels).tolist() == np.bincount(characters.labels).tolist()
    assert (shuffled.labels == characters.labels).mean() < 0.1
    # Each is trained for as many steps as part 1's network, within the rounding of epochs.
    seen = {
        name: len(task.examples.labels) * task.settings.training.epochs
        for name, task in tasks.items()
        if name not in ("random", "characters")
    }
    for count in seen.values():
        assert count == pytest.approx(len(characters.labels), rel=0.2)


def test_the_start_from_characters_is_part_1s_network_as_it_is(study, datasets):
    plan = dataclasses.replace(
        part1.PLANS["smoke"], epochs=study.plan.pretraining_epochs, changes=study.plan.changes
    )
    final = part1.Part1(plan, "smoke", datasets["characters"]).final().task
    starts = study.starts()
    for seed in study.seeds:
        task = starts["characters", seed].task
        assert (task.start.name == final.name) is (seed == 0)
        assert task.start.examples.digest == final.examples.digest
        assert task.settings == vary(task.start.settings, training__epochs=0)
        assert (task.start.tests, task.start.held_out, task.start.start) == ({}, None, None)
        tests = {name: examples.digest for name, examples in task.tests.items()}
        assert tests == {"test": study.test.digest, "validation": study.validation.digest}
    assert part2.PLANS["full"].pretraining_epochs == part1.PLANS["full"].epochs


def test_the_best_rate_is_the_one_of_the_best_validation(study, runner):
    found = everything(study)["rates"]
    first, second = study.plan.rates
    wanted = {"random": second, "digits": first}

    def outcome(task):
        one = knowing(task)
        start = "random" if task.start.settings.training.epochs == 0 else "digits"
        if task.held_out is not None and task.settings.training.rate == wanted[start]:
            one.history["val_accuracy"][-1] = 0.995
            one.tests["mnist"][:] = 0.1  # what is read on the test set chooses nothing
        return one

    runner.outcome = outcome
    study.finish(list(found.values()))
    assert study.best_rates() == wanted
    for run in found.values():
        assert run.task.settings.training.epochs == study.plan.rate_epochs


def test_warps_are_met_by_both_starts_and_are_the_main_arms(study):
    found = everything(study)
    for (warps, start, seed), run in found["warped"].items():
        main = found["main"][start, study.plan.epochs, seed]
        assert {"mnist", *study.corrupted} <= run.task.tests.keys()
        if warps == "with warps":
            assert run is main
            continue
        assert not any(dataclasses.astuple(run.task.settings.augmentation))
        change = {"augmentation": part2.PRETRAINING.augmentation, "training__checks": part2.CHECKS}
        assert vary(run.task.settings, **change) == main.task.settings
        assert run.task.start.name == main.task.start.name


def test_again_is_the_same_start_in_another_order(study):
    found = everything(study)
    for start, run in found["again"].items():
        first = found["main"][start, study.plan.epochs, 0].task
        assert run.task.start.name == first.start.name
        assert run.task.settings.seed != first.settings.seed
        assert vary(run.task.settings, seed=0, training__checks=part2.CHECKS) == first.settings


def test_a_draw_is_the_same_for_every_start_and_of_the_size_asked(study):
    found = everything(study)
    few, digits = found["few"], pictures(study.starts()["digits", 0].task.examples)
    for (arm, start, size, draw), run in few.items():
        seen = pictures(run.task.examples)
        assert (run.arm, run.varies["size"]) == (f"{arm}/{start}", size)
        assert (seen >= digits) is (arm == "rehearsed")
        assert seen - digits == pictures(few["few", "random", size, draw].task.examples)
        assert len(seen - digits) == size
        assert run.task.start.name == found["starts"][start, draw].task.name
    one, other = (few["few", "random", 10, draw].task.examples for draw in (0, 1))
    assert pictures(one) != pictures(other)


def steps(run):
    training = run.task.settings.training
    return len(run.task.examples.labels) // training.batch * training.epochs


def test_half_the_steps_are_of_the_same_draws_and_other_rates_of_half_the_steps(datasets, runner):
    plan = dataclasses.replace(
        part2.PLANS["smoke"], few_steps=400, few_rates=(0.01,), few_rate_sizes=(50,)
    )
    found = everything(part2.Part2(plan, "smoke", datasets))
    few = {(run.arm, run.varies["size"]): run for run in found["few"].values()}
    halves = [run for run in found["checked"] if run.arm.startswith("half/")]
    rates = [run for run in found["checked"] if run.arm.startswith("few-rate/")]
    assert {run.varies["size"] for run in halves} == {10, 50}
    assert [(run.arm, run.varies["size"]) for run in rates] == [
        ("few-rate/random", 50), ("few-rate/digits", 50),
    ]  # fmt: skip
    for run in halves + rates:
        start = run.arm.partition("/")[2]
        whole = few[f"few/{start}", run.varies["size"]]
        assert run.task.examples.digest == whole.task.examples.digest
        assert run.task.start.name == whole.task.start.name
        assert steps(whole) == pytest.approx(400, abs=20)
        assert steps(run) == pytest.approx(200, abs=20)
        assert run.task.settings.training.rate == (0.01 if run in rates else 0.002)


@pytest.mark.parametrize(
    ("size", "steps"), [(10, 100), (300, 100), (1200, 200), (4800, 400), (10_000, 400)]
)
def test_steps_grow_with_the_root_of_the_labels(size, steps):
    assert part2.steps_for(size, 100) == steps


def test_self_training_sees_every_picture_and_no_label(study):
    found = everything(study)
    begun = {
        (f"self-trained/{start}", size): found["few"][arm, start, size, 0].task.name
        for arm, start, size in (("rehearsed", "digits", 10), ("few", "random", 10))
    } | {("self-trained/digits", 0): found["starts"]["digits", 0].task.name}
    kinds = {(run.arm, run.varies["size"]) for run in found["self_trained"]}
    assert kinds == set(begun)
    for run in found["self_trained"]:
        assert (run.task.examples.labels == -1).all()
        assert pictures(run.task.examples) == pictures(study.everything)
        if run.seed == 0:
            assert run.task.start.name == begun[run.arm, run.varies["size"]]


def test_controls_learn_from_the_same_few_labels(study):
    found = everything(study)
    few = found["few"]["few", "digits", study.plan.control_size, 0].task
    controls = {run.arm: run.task for run in found["controls"] if run.seed == 0}
    assert set(controls) == {
        *(f"control/{name}" for name in part2.CONTROLS),
        "fine-tuned/0", "fine-tuned/3", "frozen/3",
    }  # fmt: skip
    for arm, task in controls.items():
        kind, _, what = arm.partition("/")
        transfer = task.settings.transfer
        assert task.examples.digest == few.examples.digest
        assert task.settings.training == few.settings.training
        assert transfer.frozen == (kind == "frozen")
        if kind == "control":
            assert task.start.name == found["starts"][what, 0].task.name
            # A class of the last layer is taken over only where it means the same.
            assert (transfer.layers, transfer.head) == (None, what == "characters")
        else:
            assert task.start.name == found["starts"]["digits", 0].task.name
            assert (transfer.layers, transfer.head) == (int(what), False)
            # Or a new layer would begin with the weights that pre-training began with.
            assert task.settings.seed != task.start.settings.seed


def run_quietly(monkeypatch, checkpoint=lambda *_, **__: None, **options):
    monkeypatch.setattr(part2.Part2, "look_inside", lambda *_: None)
    monkeypatch.setattr(Study, "checkpoint", checkpoint)
    return part2.run("smoke", **options)


def test_the_table_counts_what_the_answers_say(standin, runner, monkeypatch):
    found = run_quietly(monkeypatch, seeds=2)
    table, n = found.table, part2.PLANS["smoke"].test_images
    assert table["test_accuracy"].to_numpy() == pytest.approx(1 - 1 / n)  # all but the first
    main = table[table["arm"] == "digits"]
    assert main["steps_to_0.95"].to_list() == [2.0] * len(main)  # known at first, then forgotten
    assert main["steps_to_0.993"].to_list() == [np.inf] * len(main)
    # Without a step the network already knew all validation images but one.
    assert main["jump_start"].to_list() == pytest.approx([0.99] * len(main))
    assert main["validation_accuracy"].to_list() == [0.99] * len(main)
    assert found.info["headline"]["arm"] == "best"
    assert found.info["headline"]["mean"] == pytest.approx(1 - 1 / n)
    assert found.info["batch"] == part2.MNIST.training.batch
    assert found.info["reached"] == {"random": 0.99, "digits": 0.99}
    assert found.info["trained_on"] == 300
    end = found.info["facts"]["end/2"]
    assert end["difference"].mean == end["nll_difference"].mean == 0
    assert end["random"]["accuracy"].mean == pytest.approx(1 - 1 / n)
    assert end["random"]["accuracy"].n == n
    # All right but the first, whose probability is 0.06 where the others have 0.46.
    nll = -((n - 1) * np.log(0.46) + np.log(0.06)) / n
    assert end["digits"]["nll"].mean == pytest.approx(nll, rel=1e-5)
    for warps in part2.WARPS:
        robust = found.info["facts"][f"robustness/{warps}"]
        assert set(robust) == {"mnist", *corruptions.CORRUPTIONS}
        assert {row["difference"].mean for row in robust.values()} == {0}


def test_a_main_row_says_what_its_own_start_knew(study):
    starts = study.starts()
    study.finish(list(starts.values()))
    for (_, seed), run in starts.items():
        study.row(run).update(validation_accuracy=0.5 + seed / 10)
    for (_, _, seed), run in study.main(starts, RATES).items():
        found, _ = run.measure(knowing(run.task))
        assert found["jump_start"] == 0.5 + seed / 10


def test_each_corruption_spoils_the_test_pictures_its_own_way(study):
    for name, corrupted in study.corrupted.items():
        spoilt = corruptions.corrupt(study.test.pictures[..., 0], name)
        np.testing.assert_array_equal(corrupted.pictures[..., 0], spoilt)
        np.testing.assert_array_equal(corrupted.labels, study.test.labels)
    assert len({corrupted.digest for corrupted in study.corrupted.values()}) == len(study.corrupted)


def test_starts_are_compared_image_by_image_and_by_corruption(study, runner):
    def outcome(task):
        # From random weights seed 0 misreads four images more, seed 1 two; from the digits every
        # noisy picture from the eleventh on.
        found = knowing(task)
        if task.start is None or "mnist" not in found.tests:
            return found
        if task.start.settings.training.epochs == 0:
            wrong = np.s_[1:5] if task.settings.seed == 0 else np.s_[7:9]
            found.tests["mnist"][wrong] = np.roll(found.tests["mnist"][wrong], 1, axis=1)
        elif "noise" in found.tests:
            found.tests["noise"][10:] = np.roll(found.tests["noise"][10:], 1, axis=1)
        return found

    runner.outcome = outcome
    found = everything(study)
    study.finish([*found["main"].values(), *found["warped"].values()])
    study.compare(found["main"], found["warped"])
    facts, n = study.info["facts"], len(study.test.labels)
    for epochs in study.plan.budgets:
        end = facts[f"end/{epochs}"]
        assert end["difference"].mean == pytest.approx(3 / n)
        assert end["nll_difference"].mean == pytest.approx(3 / n * np.log(0.06 / 0.46), rel=1e-5)
        assert end["difference"].low < 3 / n < end["difference"].high
    for warps in part2.WARPS:
        for name, row in facts[f"robustness/{warps}"].items():
            noisy = name == "noise"
            assert row["digits"].mean == pytest.approx(9 / n if noisy else 1 - 1 / n)
            clean = 3 / n if name == "mnist" else 0
            assert row["difference"].mean == pytest.approx(-(n - 10) / n if noisy else clean)


def test_networks_are_compared_on_validation_images_and_in_their_answers(
    study, runner, monkeypatch
):
    from midas_lib import analysis, probe, train

    def outcome(task):
        found = knowing(task)
        if task.held_out is not None:
            random = task.start.settings.training.epochs == 0
            name = f"{'random' if random else 'digits'}/{task.settings.seed}"
            found = dataclasses.replace(found, weights=[name])
            wrong = {"random/0": 5, "digits/1": 10}.get(name, 0)
            found.tests["mnist"][1 : 1 + wrong] = 1 / 10 - np.eye(10)[0] / 20  # never a 0
        return found

    def features(model, examples, names):
        assert pictures(examples) <= pictures(study.validation)
        return dict.fromkeys(names, model)

    def interpolate(one, other, shares, some, seen):
        assert pictures(some) <= pictures(study.train)
        assert pictures(seen) <= pictures(study.validation)
        return shares, 1 - shares * 0.1

    monkeypatch.setattr(probe, "features", features)
    monkeypatch.setattr(probe, "interpolate", interpolate)
    monkeypatch.setattr(study_, "rebuild", lambda outcome, settings: outcome.weights[0])
    monkeypatch.setattr(analysis, "linear_cka", lambda one, other: (one, other))
    timed = []
    monkeypatch.setattr(train, "seconds_per_step", lambda *given: timed.append(given) or 0.5)
    runner.outcome = outcome
    found = everything(study)
    study.finish([*found["main"].values(), *found["again"].values()])
    study.look_inside(found["main"], found["again"])
    facts, arrays = study.info["facts"], study.arrays
    both = {
        "random and pre-trained": ("random/0", "digits/0"),
        "two random": ("random/0", "random/1"),
        "two pre-trained": ("digits/0", "digits/1"),
        "one random start, twice": ("random/0", "random/100"),
        "one pre-trained start, twice": ("digits/0", "digits/100"),
    }
    assert {name[5:] for name in facts if name.startswith("pair/")} == set(both)
    for name, pair in both.items():
        assert facts[f"pair/{name}"]["cka"] == [pair] * (len(part2.MNIST.network.channels) + 1)
        assert arrays[f"pair/{name}/error"] == pytest.approx(np.linspace(0, 0.1, 11))
    changed = {"random": 5, "digits": 0}
    for name, start in (
        ("one random start, twice", "random"),
        ("random and pre-trained", "random"),
    ):
        spoilt = study.test.labels[1 : 1 + changed[start]] != 1  # whose answer is now a 1
        assert facts[f"pair/{name}"]["apart"] == pytest.approx(
            spoilt.sum() / len(study.test.labels)
        )
    assert facts["pair/one pre-trained start, twice"]["apart"] == 0
    assert facts["seconds_per_step"] == 0.5
    assert pictures(timed[0][0]) <= pictures(study.train)


def test_one_seed_has_no_pair_of_its_own_kind(datasets, runner):
    study = part2.Part2(part2.PLANS["smoke"], "smoke", datasets)
    found = everything(study)
    ends = {key[::2]: run for key, run in found["main"].items() if key[1] == study.plan.epochs}
    assert list(part2.pairs(ends, found["again"], 1)) == [
        "random and pre-trained", "one random start, twice", "one pre-trained start, twice",
    ]  # fmt: skip


def test_checkpoints_are_of_the_arms_whose_name_they_have(standin, runner, monkeypatch):
    kept = {}
    found = run_quietly(monkeypatch, checkpoint=lambda _, name, run, metric, **more: kept.update(
        {name: (run.arm, run.seed, run.varies["epochs"], metric, more["start"])}
    ))  # fmt: skip
    assert kept == {
        **{start: (start, 0, 1, "test_accuracy", start) for start in part2.STARTS},
        "best": ("best", 0, 2, "test_accuracy", "random"),  # both starts are as good
        "self-trained": ("self-trained/digits", 0, 1, "test_accuracy", "digits"),
    }
    best, twin = (found.table[found.table["arm"] == arm] for arm in ("best", "random"))
    assert best["digest"].to_list() == twin[twin["epochs"] == 2]["digest"].to_list()


def test_the_best_start_is_the_one_of_the_best_validation(standin, runner, monkeypatch):
    def outcome(task):
        found = knowing(task)
        longest = task.settings.training.epochs == max(part2.PLANS["smoke"].budgets)
        if task.held_out is not None and longest and task.start.settings.training.epochs:
            found.history["val_accuracy"][-1] = 0.995
            found.tests["mnist"][:] = 0.1
        return found

    runner.outcome = outcome
    found = run_quietly(monkeypatch)
    assert found.info["chosen_start"] == "digits"
    assert found.info["reached"] == {"random": 0.99, "digits": 0.995}


def test_what_is_known_costs_nothing_and_one_more_size_its_runs(standin, runner, monkeypatch):
    first = run_quietly(monkeypatch)
    del runner.trained[:]
    again = run_quietly(monkeypatch)
    assert runner.trained == []
    pd.testing.assert_frame_equal(again.table, first.table)
    more = run_quietly(monkeypatch, sizes="10,20,50")
    assert len(runner.trained) == 2  # of so few steps, half are as many
    assert set(more.table["size"].dropna()) == {0, 10, 20, 50}


def label_table(random, digits):
    rows = [
        {"arm": arm, "seed": seed, "size": size, "epochs": epochs, "test_accuracy": reached}
        for start, values in (("random", random), ("digits", digits))
        for seed in (0, 1)
        for arm, size, epochs, reached in (
            (f"few/{start}", 10, 7, values[0]), (f"few/{start}", 100, 7, values[1]),
            (start, np.nan, 2, 0.123), (start, np.nan, 24, values[2]),
        )
    ]  # fmt: skip
    return {"plan": {"budgets": [2, 24]}, "trained_on": 1000}, pd.DataFrame(rows)


def test_label_curves_end_with_all_labels_and_the_largest_budget():
    found = part2.label_curves(*label_table([0.5, 0.9, 0.99], [0.9, 0.99, 0.995]))
    assert found["random"].columns.to_list() == [10, 100, 1000]
    assert found["random"].to_numpy().tolist() == [[0.5, 0.9, 0.99]] * 2
    assert found["digits"].to_numpy().tolist() == [[0.9, 0.99, 0.995]] * 2


def test_worth_in_labels_is_what_a_random_start_needs():
    found = part2.worth_in_labels(*label_table([0.5, 0.9, 0.99], [0.9, 0.99, 0.995]))
    assert found[10].mean == pytest.approx(10)
    assert found[100].mean == pytest.approx(10)
    assert np.isinf(found[1000].mean)
    assert np.isinf(found[100].high)  # 10 times is as far as was tried
    assert (found[10].low, found[10].high) == pytest.approx((10, 10))
    assert found[1000].low == 1  # better than a random start with all labels


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": 0}, "SEEDS=0: give 1 or more"),
        ({"sizes": "10,many"}, "sizes=10,many: give whole numbers"),
        ({"sizes": "100000"}, "100000 labelled images: give a multiple of 10 up to"),
        ({"sizes": "15"}, "15 labelled images: give a multiple of 10 up to"),
    ],
)
def test_what_does_not_exist_is_named_before_anything_is_trained(standin, runner, options, message):
    with pytest.raises(UserError, match=message):
        part2.run("smoke", **options)
    assert runner.trained == []


def test_the_published_table_gives_the_published_headline():
    found = results.read(2)
    ours = tables.mean_by(found.table, "arm", "test_accuracy")["best"]
    headline = found.info["headline"]
    assert (ours.mean, ours.low, ours.high, ours.n) == pytest.approx(
        tuple(headline[name] for name in ("mean", "low", "high", "n"))
    )
