"""Part 2's study: what is the same for all starts, what differs, and who sees which image."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from fakes import knowing

from midas_lib import results
from midas_lib.config import UserError
from midas_lib.studies import part2, tables
from midas_lib.studies.study import Study


@pytest.fixture(scope="module")
def datasets(standin_folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATA_DIR", str(standin_folder))
        patch.setenv("STANDIN", "1")
        return part2.load("smoke")


@pytest.fixture
def study(datasets, runner):
    plan = dataclasses.replace(part2.PLANS["smoke"], seeds=2, copied=(0, 3))
    return part2.Part2(plan, "smoke", datasets)


def pictures(examples):
    return {picture.tobytes() for picture in examples.pictures}


def everything(study):
    """All runs, by the method that declares them."""
    starts = study.starts()
    study.finish(list(starts.values()))
    few = study.few_labels(starts)
    return {
        "starts": starts,
        "main": study.main(starts),
        "best": study.best(starts, "digits"),
        "few": few,
        "variants": study.variants(starts),
        "self_trained": study.self_trained(starts, few),
    }


def test_nothing_held_out_is_trained_on(study):
    held_out, test = pictures(study.validation), pictures(study.test)
    found = everything(study)
    for run in (*found["main"].values(), *found["few"].values(), *found["variants"]):
        assert not pictures(run.task.examples) & test
    for run in found["main"].values():
        assert not pictures(run.task.examples) & held_out
        assert pictures(run.task.held_out) == held_out
    rest = len(study.train.labels)
    assert rest + len(held_out) >= len(study.everything.labels)


def test_the_starts_of_a_seed_differ_in_their_weights_alone(study):
    main = everything(study)["main"]
    assert len(main) == 2 * len(part2.STARTS)
    for seed in study.seeds:
        same = [run.task for (_, one), run in main.items() if one == seed]
        for task in same[1:]:
            assert task.settings == same[0].settings
            assert task.settings.seed == seed
            assert task.examples is same[0].examples
            assert list(task.tests) == list(same[0].tests)
    assert len({run.digest for run in main.values()}) == len(main)
    for (start, seed), run in main.items():
        assert run.task.start is study.starts()[start, seed].task or (
            run.task.start.name == study.starts()[start, seed].task.name
        )


def test_a_draw_is_the_same_for_every_start_and_of_the_size_asked(study):
    few = everything(study)["few"]
    digits = pictures(study.digits)
    for size in study.plan.sizes:
        for seed in study.seeds:
            drawn = [few[start, size, seed] for start in study.plan.few_starts]
            seen = [pictures(run.task.examples) - digits for run in drawn]
            assert seen[0] == seen[1] == seen[2]
            assert len(seen[0]) == size
            assert {run.varies["size"] for run in drawn} == {size}
    rehearsing = [run for run in few.values() if pictures(run.task.examples) >= digits]
    assert {run.arm for run in rehearsing} == {f"few/{part2.REHEARSED}"}
    for run in rehearsing:
        assert run.task.start.classes == 10
        assert pictures(run.task.start.examples) == digits
    for run in few.values():
        training = run.task.settings.training
        steps = len(run.task.examples.labels) // training.batch * training.epochs
        assert steps >= study.plan.few_steps


def test_self_training_sees_every_picture_and_no_label(study):
    found = everything(study)
    assert {(run.varies["size"], run.seed) for run in found["self_trained"]} == {
        (size, draw) for size in (0, 10) for draw in study.seeds
    }
    for run in found["self_trained"]:
        size, draw = run.varies["size"], run.seed
        begun = (
            found["few"][part2.REHEARSED, size, draw] if size else found["starts"]["digits", draw]
        )
        assert run.task.start.name == begun.task.name
        assert (run.task.examples.labels == -1).all()
        assert pictures(run.task.examples) == pictures(study.everything)


def test_the_digits_follow_the_characters_of_their_seed(study):
    starts = everything(study)["starts"]
    for seed in study.seeds:
        second = starts["characters-digits", seed].task
        assert second.classes == 10
        assert second.start.name == starts["characters", seed].task.name
        assert second.start.classes == 62
        assert pictures(second.examples) == pictures(study.digits)
        assert starts["random", seed].task.settings.training.epochs == 0
    steps = {
        name: len(starts[name, 0].task.examples.labels)
        * starts[name, 0].task.settings.training.epochs
        for name in ("digits", "characters")
    }
    assert steps["digits"] == pytest.approx(steps["characters"], rel=0.2)


def test_every_depth_is_transplanted_with_a_new_head(study):
    variants = everything(study)["variants"]
    depths = study.plan.copied
    kinds = {f"{kind}/{k}" for kind in part2.CUTS for k in depths}
    named = kinds | {*part2.VARIANTS, "probe, then fine-tuned"}
    assert {run.arm.removeprefix("variant/") for run in variants} == named
    for run in variants:
        transfer = run.task.settings.transfer
        kind, _, layers = run.arm.removeprefix("variant/").partition("/")
        assert transfer.frozen == (kind in ("frozen", "linear probe"))
        assert (transfer.layers, transfer.head) == (
            (int(layers), False) if layers else (None, True)
        )
        if layers:  # or a new layer would begin with the weights the pre-trained one began with
            assert run.task.settings.seed != run.task.start.settings.seed
    probes = {run.seed: run for run in variants if run.arm == "variant/linear probe"}
    for run in variants:
        if run.arm == "variant/probe, then fine-tuned":
            assert run.task.start.name == probes[run.seed].task.name


def run_quietly(monkeypatch, **options):
    monkeypatch.setattr(part2.Part2, "look_inside", lambda *_: None)
    monkeypatch.setattr(Study, "checkpoint", lambda *_, **__: None)
    return part2.run("smoke", **options)


def test_the_table_counts_what_the_answers_say(standin, runner, monkeypatch):
    found = run_quietly(monkeypatch, seeds=2)
    table, n = found.table, part2.PLANS["smoke"].test_images
    tested = table[~table["test_accuracy"].isna()]
    assert tested["test_accuracy"].to_numpy() == pytest.approx(1 - 1 / n)  # all but the first
    assert len(tested) == len(table)
    main = table[table["arm"] == "digits"]
    assert main["steps_to_0.95"].to_list() == [0, 0]  # they knew more before the first step
    assert main["steps_to_0.995"].to_list() == [np.inf, np.inf]
    # Without a step the network already knew all validation images but one.
    assert main["jump_start"].to_list() == pytest.approx([0.99, 0.99])
    assert main["validation_accuracy"].to_list() == [0.99, 0.99]
    assert sum(main[f"error_of_{d}"].iloc[0] > 0 for d in range(10)) == 1
    assert found.info["headline"]["arm"] == "best"
    assert found.info["headline"]["mean"] == pytest.approx(1 - 1 / n)
    facts = found.info["facts"]
    assert all(r["only_this_right"] == r["only_random_right"] == 0 for r in facts["disagreement"])
    robust = facts["robustness/digits"]
    assert [row["accuracy"].mean for row in robust] == pytest.approx([1 - 1 / n] * len(robust))
    assert {row["difference"].mean for row in robust} == {0}
    gains = part2.self_training_gains(table)
    assert {size: gain.mean for size, gain in gains.items()} == {0: 0, 10: 0}
    assert found.info["batch"] == part2.MNIST.training.batch


def test_the_best_start_is_the_one_of_the_best_validation(standin, runner, monkeypatch):
    def outcome(task):
        found = knowing(task)
        if task.held_out is not None and task.start.classes == 62:
            found.history["val_accuracy"][-1] = 0.995
        return found

    runner.outcome = outcome
    found = run_quietly(monkeypatch)
    assert found.info["chosen_start"] == "characters"
    (best,) = [task for task in runner.trained if task.name in set(
        found.table[found.table["arm"] == "best"]["digest"]
    )]  # fmt: skip
    assert best.start.classes == 62


def test_what_is_known_costs_nothing_and_one_more_size_its_runs(standin, runner, monkeypatch):
    first = run_quietly(monkeypatch)
    del runner.trained[:]
    again = run_quietly(monkeypatch)
    assert runner.trained == []
    pd.testing.assert_frame_equal(again.table, first.table)
    more = run_quietly(monkeypatch, sizes="10,20,50")
    assert len(runner.trained) == len(part2.PLANS["smoke"].few_starts)
    assert set(more.table["size"].dropna()) == {0, 10, 20, 50}


def test_worth_in_labels_is_what_a_random_start_needs():
    accuracy = {"random": [0.5, 0.9, 0.99], "digits": [0.9, 0.99, 0.995]}
    rows = [
        {"arm": f"few/{start}", "seed": seed, "size": size, "test_accuracy": reached}
        for start, values in accuracy.items()
        for seed in (0, 1)
        for size, reached in zip((10, 100, 1000), values, strict=True)
    ]
    plan = {"sizes": [10, 100, 1000], "few_starts": ["random", "digits"]}
    found = part2.worth_in_labels(pd.DataFrame(rows), plan)
    assert found["digits", 10].mean == pytest.approx(10)
    assert found["digits", 100].mean == pytest.approx(10)
    assert np.isinf(found["digits", 1000].mean)
    assert np.isinf(found["digits", 100].high)  # 10 times is as far as was tried
    assert found["digits", 10].high == pytest.approx(10)
    assert found["random", 100].mean == pytest.approx(1)
    assert part2.equivalent_from(pd.DataFrame(rows), plan, "digits") is None
    for row in rows:
        row["test_accuracy"] = row["size"] / 2000
    assert part2.equivalent_from(pd.DataFrame(rows), plan, "digits") == 10


def test_a_gain_is_on_what_self_training_began_with():
    rows = [
        ("start/digits", 0, np.nan, 0.90), ("start/digits", 1, np.nan, 0.92),
        ("few/digits", 0, 10, 0.5), (f"few/{part2.REHEARSED}", 0, 10, 0.95),
        (f"few/{part2.REHEARSED}", 0, 50, 0.2), ("self-trained", 0, 0, 0.97),
        ("self-trained", 1, 0, 0.98), ("self-trained", 0, 10, 0.96),
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=["arm", "seed", "size", "test_accuracy"])
    gains = part2.self_training_gains(table)
    assert gains[0].mean == pytest.approx((0.07 + 0.06) / 2)
    assert gains[10].mean == pytest.approx(0.01)


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
