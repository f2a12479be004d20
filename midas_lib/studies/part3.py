"""Part 3: learn to read digits from labels that are all wrong."""

import dataclasses
import math
import re
from dataclasses import dataclass

import numpy as np

from midas_lib import analysis, audit, config, data, runs
from midas_lib.config import Preprocessing, Settings, Training, UserError, vary
from midas_lib.data import Examples, ImageDataset
from midas_lib.studies import common, part2

STARTS = ("random", "pretrained")
# Augmentation and learning rate are those that part 1's data chose.
NAIVE = Settings(
    preprocessing=Preprocessing(mode="mnist"),
    network=part2.NETWORK,
    training=Training(batch=128, checks=(10, 4), smoothing=0.0),
)
SHARPENED = {"training__loss": "posterior", "training__sharpening": 2.0}
WEAK = vary(NAIVE, **SHARPENED)
# Compared on the same images for the same number of steps. "posterior" alone tells what its two
# views are worth; "posterior, sharpened" is the strongest arms' loss.
LOSSES = {
    "cross-entropy": {},
    **{name: {"training__loss": name} for name in config.LOSSES[1:]},
    "posterior, sharpened": SHARPENED,
    "posterior, sharpened, averaged": SHARPENED | {"training__averaging": 0.995},
}
# When targets are sharpened, and whether classes are balanced until then: compared on folders drawn
# anew, where what is right is known without a true digit.
TIMES = {
    "never": {"training__sharpening": 1.0},
    "from the start": {"training__blunt": 0.0},
    "after a half": {},
    "after three quarters": {"training__blunt": 0.75},
    "from the start, balanced": {"training__blunt": 0.0, "training__balance": 1.0},
    "after a half, balanced": {"training__balance": 1.0},
}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much of part 3's study a profile runs.

    images, test_images: None for all. held_out: images kept from the training of the naive arms
    and of the losses compared. naive_epochs, naive_seeds: of the arms that believe the folders.
    compared_images, compared_epochs, compared_seeds: of the comparison of losses. redrawn_images,
    redrawn_epochs: of the comparison of `TIMES`. epochs, second_epochs: of the strongest arms' two
    stages; seeds: theirs from a random start, pretrained_seeds: from part 1's, no more than seeds.
    sizes: numbers of complementary labels tried; leaks: shares of own-folder labels added;
    side_seeds: of both. side_steps: least training steps of the small sizes. leak_epochs: of the
    leaks. pretraining_epochs: over part 1's 62 classes. audited: images that the audit looks at.
    changes: on top of the settings.
    """

    images: int | None = None
    test_images: int | None = None
    held_out: int = 5000
    naive_epochs: int = 3
    naive_seeds: int = 3
    compared_images: int = 20_000
    compared_epochs: int = 4
    compared_seeds: int = 3
    redrawn_images: int = 30_000
    redrawn_epochs: int = 5
    epochs: int = 8
    second_epochs: int = 6
    seeds: int = 5
    pretrained_seeds: int = 3
    sizes: tuple[int, ...] = (1000, 5000, 20_000)
    leaks: tuple[float, ...] = (0.01, 0.05, 0.1)
    leak_epochs: int = 2
    side_seeds: int = 1
    side_steps: int = 4000
    pretraining_epochs: int = 60
    audited: int = 20_000
    changes: dict = dataclasses.field(default_factory=dict)


PLANS = {
    "smoke": Plan(
        images=400, test_images=200, held_out=100, naive_epochs=1, naive_seeds=1,
        compared_images=200, compared_epochs=1, compared_seeds=1, redrawn_images=200,
        redrawn_epochs=1, epochs=1, second_epochs=1, seeds=1, pretrained_seeds=1,
        sizes=(100,), leaks=(0.05,), leak_epochs=1, side_seeds=1, side_steps=5,
        pretraining_epochs=1, audited=400, changes={"network__width": 0.25},
    ),
    "standard": Plan(
        images=20_000, naive_epochs=1, naive_seeds=1, compared_images=5000, compared_epochs=1,
        compared_seeds=1, redrawn_images=3000, redrawn_epochs=1, epochs=2, second_epochs=1,
        seeds=1, pretrained_seeds=1, sizes=(1000, 5000), leaks=(0.05,), leak_epochs=1,
        side_seeds=1, side_steps=300, pretraining_epochs=15, audited=5000,
    ),
    "full": Plan(),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Part 3's data. given: the pictures with their folders' labels, which is all that training and
    choices ever see. rows: where in the dataset they stand. truth: int (n,), their digits in MNIST,
    for the report's verification alone; -1 where MNIST has no such picture. characters: part 1's.
    test: MNIST's."""

    given: Examples
    rows: np.ndarray
    truth: np.ndarray
    characters: Examples
    test: Examples


@dataclass(frozen=True, kw_only=True)
class Study:
    """Part 3's study, as `part2.Study`."""

    results: dict
    arrays: dict[str, np.ndarray]
    models: dict[str, object]
    settings: dict[str, Settings]


def load(profile: str) -> dict[str, ImageDataset]:
    """The datasets of part 3: "mislabelled", "characters", "mnist-test", and "mnist" (its training
    set, for verification alone)."""
    return part2.load(profile) | {"mislabelled": data.load_mislabelled(profile)}


def prepare(datasets: dict[str, ImageDataset], plan: Plan) -> Inputs:
    """What `load` returned, as networks take it; the pictures in a fixed random order, so that the
    first n are a fair draw."""
    mislabelled, mnist = datasets["mislabelled"], datasets["mnist"]
    order = np.random.default_rng(3).permutation(len(mislabelled.labels))[: plan.images]
    numbers = np.array([int(re.search(r"(\d+)\.\w+$", mislabelled.names[i])[1]) for i in order])
    known = numbers < len(mnist.labels)
    truth = np.where(known, mnist.labels[np.where(known, numbers, 0)], -1)
    pictures, _ = data.preprocess(datasets["characters"].images, NAIVE.preprocessing)
    return Inputs(
        given=Examples(
            pictures=mislabelled.images[order][..., None], labels=mislabelled.labels[order]
        ),
        rows=order,
        truth=truth,
        characters=Examples(pictures=pictures, labels=datasets["characters"].labels),
        test=common.as_examples(datasets["mnist-test"], plan.test_images),
    )


class _Study(common.Stages):
    """The runs of part 3."""

    def __init__(self, inputs: Inputs, plan: Plan, jobs: int | None, fresh: bool):
        super().__init__(jobs, fresh)
        self.inputs, self.plan, self.tests = inputs, plan, {"mnist": inputs.test}
        self.naive_settings = vary(NAIVE, training__epochs=plan.naive_epochs, **plan.changes)
        self.weak_settings = vary(WEAK, training__epochs=plan.epochs, **plan.changes)
        self.second_settings = vary(
            self.weak_settings, training__epochs=plan.second_epochs, training__blunt=0.0
        )
        self.hard_settings = vary(NAIVE, training__epochs=plan.second_epochs, **plan.changes)
        self.kept = inputs.given.take(np.arange(plan.held_out))
        self.rest = inputs.given.take(np.arange(plan.held_out, len(inputs.given.labels)))
        # For curves alone: with their digits, the pictures held out are measured and nothing else.
        self.drawn = dataclasses.replace(self.kept, labels=inputs.truth[: plan.held_out])

    def pretrained(self) -> dict:
        """seed -> part 1's network of 62 characters, asked about MNIST and the given pictures."""
        plan = self.plan
        settings = vary(part2.PRETRAINING, training__epochs=plan.pretraining_epochs, **plan.changes)
        tests = self.tests | {"drawn": self.drawn}
        audited = min(plan.audited, len(self.inputs.given.labels))
        tests["audited"] = self.inputs.given.take(np.arange(audited))
        return self.train(
            {
                seed: runs.Task(
                    settings=vary(settings, seed=seed),
                    examples=self.inputs.characters,
                    classes=len(config.CLASS_NAMES),
                    tests=tests,
                )
                for seed in range(max(plan.pretrained_seeds, plan.naive_seeds))
            }
        )

    def naive(self, starts: dict) -> dict:
        """(start, seed) -> the task of believing the folders."""
        return {
            (start, seed): runs.Task(
                settings=vary(self.naive_settings, seed=seed),
                examples=self.rest,
                held_out=self.drawn,
                classes=10,
                start=starts[start, seed],
                tests=self.tests,
            )
            for start in STARTS
            for seed in range(self.plan.naive_seeds)
        }

    def compared(self, leak: float) -> dict:
        """(loss, seed) -> the task of a short training on fewer pictures."""
        plan = self.plan
        some = self.rest.take(np.arange(min(plan.compared_images, len(self.rest.labels))))
        settings = vary(
            self.naive_settings, training__epochs=plan.compared_epochs, training__leak=leak
        )
        return {
            (loss, seed): runs.Task(
                settings=vary(settings, seed=seed, **changes),
                examples=some,
                held_out=self.kept,
                classes=10,
                tests=self.tests,
            )
            for loss, changes in LOSSES.items()
            for seed in range(plan.compared_seeds)
        }

    def weak(self, starts: dict, leak: float) -> dict:
        """(start, seed) -> the task of the strongest arms' first stage."""
        return {
            (start, seed): runs.Task(
                settings=vary(self.weak_settings, seed=seed, training__leak=leak),
                examples=self.inputs.given,
                held_out=self.drawn,
                classes=10,
                start=starts[start, seed],
                tests=self.tests | {"given": self.inputs.given},
            )
            for start, seeds in zip(
                STARTS, (self.plan.seeds, self.plan.pretrained_seeds), strict=True
            )
            for seed in range(seeds)
        }

    def second(self, weak: dict, leak: float) -> dict:
        """(start, seed) -> the task of going on, sharpening growing from the first step: the
        targets are the labels recovered, revised at each."""
        return {
            (start, seed): runs.Task(
                settings=vary(self.second_settings, seed=seed, training__leak=leak),
                examples=self.inputs.given,
                held_out=self.drawn,
                classes=10,
                start=tuple(outcome.weights),
                tests=self.tests | {"given": self.inputs.given},
            )
            for (start, seed), outcome in weak.items()
        }

    def hard(self, weak: dict, leak: float) -> dict:
        """seed -> the task of going on, from a random start's first stage, with cross-entropy on
        the labels that it recovered."""
        given = self.inputs.given
        return {
            seed: runs.Task(
                settings=vary(self.hard_settings, seed=seed),
                examples=dataclasses.replace(
                    given, labels=recover(outcome.tests["given"], given.labels, leak)
                ),
                held_out=self.drawn,
                classes=10,
                start=tuple(outcome.weights),
                tests=self.tests | {"given": given},
            )
            for (start, seed), outcome in weak.items()
            if start == "random"
        }

    def redrawn(self, weak: dict, leak: float) -> dict:
        """One of `TIMES` -> the task on folders drawn anew from the first network's recovered
        labels, of some pictures; the others, with those labels, tell how good it is."""
        given = self.inputs.given
        known = recover(weak["random", 0].tests["given"], given.labels, leak)
        rng = np.random.default_rng(5)
        wrong = (known + rng.integers(1, 10, len(known))) % 10
        folders = np.where(rng.random(len(known)) < leak, known, wrong)
        count = self.plan.redrawn_images
        some = Examples(pictures=given.pictures[:count], labels=folders[:count])
        others = Examples(pictures=given.pictures[count:], labels=known[count:])
        settings = vary(
            self.weak_settings, training__epochs=self.plan.redrawn_epochs, training__leak=leak,
            training__checks=(1, 1),
        )  # fmt: skip
        return {
            when: runs.Task(
                settings=vary(settings, **changes), examples=some, held_out=others, classes=10
            )
            for when, changes in TIMES.items()
        }

    def sized(self, leak: float) -> dict:
        """(size, draw) -> the task of the first stage, from a random start, on so many pictures,
        which are repeated so that there are enough steps."""

        def task(size, draw):
            order = np.random.default_rng(draw).permutation(len(self.inputs.given.labels))
            rows = np.tile(order[:size], max(1, 1280 // size))
            steps = len(rows) // 64
            epochs = max(self.plan.leak_epochs, math.ceil(self.plan.side_steps / steps))
            settings = vary(
                self.weak_settings, seed=draw, training__batch=64, training__epochs=epochs,
                training__leak=leak, training__checks=(1, 1),
            )  # fmt: skip
            return runs.Task(
                settings=settings,
                examples=self.inputs.given.take(rows),
                classes=10,
                tests=self.tests,
            )

        draws = range(self.plan.side_seeds)
        return {(size, d): task(size, d) for size in self.plan.sizes for d in draws}

    def leaky(self, witness: np.ndarray) -> tuple[dict, dict]:
        """(leak, balance, seed) -> the outcome of the first stage, from a random start, with so
        many more pictures put in their own folder; and leak -> the own-folder rate that an audit
        finds.

        To put them there takes their digits; training sees the folders alone.
        """
        tasks, found = {}, {}
        for leak in self.plan.leaks:
            for seed in range(self.plan.side_seeds):
                moved = np.random.default_rng([seed, 4]).random(len(self.inputs.truth)) < leak
                moved &= self.inputs.truth >= 0
                folders = np.where(moved, self.inputs.truth, self.inputs.given.labels)
                leaked = dataclasses.replace(self.inputs.given, labels=folders)
                if leak not in found:
                    found[leak] = look(leaked, witness)
                settings = vary(
                    self.weak_settings, seed=seed, training__epochs=self.plan.leak_epochs,
                    training__leak=reckoned(found[leak]),
                )  # fmt: skip
                for balance in (0.0, 1.0):
                    tasks[leak, balance, seed] = runs.Task(
                        settings=vary(settings, training__balance=balance),
                        examples=leaked,
                        classes=10,
                        tests=self.tests,
                    )
        return self.train(tasks), found


def look(given: Examples, witness: np.ndarray) -> audit.Audit:
    """The audit of the first pictures, as many as the witness (n, 10) was asked about."""
    count = len(witness)
    return audit.audit(given.pictures[:count, ..., 0], given.labels[:count], witness)


def reckoned(found: audit.Audit) -> float:
    """The leak that training reckons with: the own-folder rate, if folders are complementary."""
    return round(found.own_folder_rate.mean, 3) if "complementary" in found.verdict else 0.0


def recover(probabilities: np.ndarray, folders: np.ndarray, leak: float) -> np.ndarray:
    """Each picture's most probable digit, int (n,), by a network's probabilities (n, 10) and what
    the folder rules out."""
    likelihood = np.full_like(probabilities, (1 - leak) / (probabilities.shape[1] - 1))
    likelihood[np.arange(len(folders)), folders] = leak
    return (probabilities * likelihood).argmax(1)


def estimate_accuracy(
    predictions: np.ndarray, folders: np.ndarray, leak: float, classes: int = 10
) -> analysis.Interval:
    """Accuracy told from complementary labels alone, with its interval: a right answer names the
    folder with probability `leak`, a wrong one with (1 - leak) / (classes - 1)."""
    hits = analysis.proportion_interval((predictions == folders).sum(), len(folders))
    wrong = (1 - leak) / (classes - 1)
    mean, high, low = ((wrong - rate) / (wrong - leak) for rate in (hits.mean, hits.low, hits.high))
    return analysis.Interval(mean, low, high, hits.n)


def run(
    datasets: dict[str, ImageDataset],
    profile: str,
    *,
    seeds: int | None = None,
    jobs: int | None = None,
    fresh: bool = False,
) -> Study:
    """Audit the folders, believe them, compare losses, and train the strongest arms as
    `PLANS[profile]` says.

    datasets: as from `load`. seeds: how many of the strongest arms (default: the profile's). jobs,
    fresh: as in `runs.run_all`. Raises `UserError` for a profile or a number of seeds that does not
    exist.
    """
    plan = PLANS[config.check_profile(profile)]
    if seeds is not None:
        if seeds < 1:
            raise UserError(f"SEEDS={seeds}: give 1 or more")
        fewer = min(seeds, plan.pretrained_seeds)
        plan = dataclasses.replace(plan, seeds=seeds, pretrained_seeds=fewer)
    study = _Study(prepare(datasets, plan), plan, jobs, fresh)
    pretrained = study.pretrained()
    witness = pretrained[0].tests["audited"][:, :10]
    found = look(study.inputs.given, witness)
    leak = reckoned(found)
    starts = {("random", s): None for s in range(max(plan.seeds, plan.naive_seeds))}
    starts |= {("pretrained", s): common.first_classes(o, 10) for s, o in pretrained.items()}
    weak, naive, sized, compared = study.train_together(
        study.weak(starts, leak), study.naive(starts), study.sized(leak), study.compared(leak)
    )
    second, hard, redrawn = study.train_together(
        study.second(weak, leak), study.hard(weak, leak), study.redrawn(weak, leak)
    )
    leaky, audits = study.leaky(witness)
    results, arrays = _summary(study, pretrained, found, naive, compared, weak, second, hard, sized)
    results["redrawn"] = [
        {"sharpened": when, "accuracy": float(outcome.history["val_accuracy"][-1])}
        for when, outcome in redrawn.items()
    ]
    results["leaks"] = [
        {
            "added": share,
            "balanced": balance > 0,
            "found": common.as_row(audits[share].own_folder_rate),
            "verdict": audits[share].verdict,
            **common.as_row(
                analysis.mean_interval(
                    [
                        common.tested(leaky[share, balance, s], study.inputs.test.labels)[
                            "test_accuracy"
                        ]
                        for s in range(plan.side_seeds)
                    ]
                )
            ),
        }
        for share in plan.leaks
        for balance in (0.0, 1.0)
    ]
    results |= study.counts()
    models, settings = {}, {}
    for start in STARTS:
        models[f"naive-{start}"] = common.rebuild(naive[start, 0].weights, study.naive_settings)
        models[f"recovered-{start}"] = common.rebuild(
            second[start, 0].weights, study.second_settings
        )
        settings[f"naive-{start}"] = study.naive_settings
        settings[f"recovered-{start}"] = study.second_settings
    return Study(results=results, arrays=arrays, models=models, settings=settings)


def _summary(
    study: _Study, pretrained, found, naive, compared, weak, second, hard, sized
) -> tuple[dict, dict]:
    plan, inputs = study.plan, study.inputs
    test, leak = inputs.test.labels, reckoned(found)
    jumps = {("pretrained", s): _accuracy(o, "drawn", study.drawn) for s, o in pretrained.items()}

    def entry(outcome, seed, **more):
        return {"seed": seed, **more, **common.tested(outcome, test)}

    def pace(outcome, start, seed):
        return common.pace(outcome, jumps.get((start, seed), 0.1))  # of random weights, chance

    arms = {f"naive-{start}": {"runs": []} for start in STARTS}
    for (start, seed), outcome in naive.items():
        row = entry(outcome, seed, epochs=plan.naive_epochs) | pace(outcome, start, seed)
        row["argmin_accuracy"] = analysis.accuracy(test, outcome.tests["mnist"].argmin(1))
        row["held_out_folder_loss"] = _folder_loss(outcome.probabilities, study.kept.labels)
        arms[f"naive-{start}"]["runs"].append(row)
    stages = {"weak": (weak, plan.epochs), "recovered": (second, plan.second_epochs)}
    stages["hard"] = {("random", seed): one for seed, one in hard.items()}, plan.second_epochs
    for stage, (outcomes, epochs) in stages.items():
        for (start, seed), outcome in outcomes.items():
            labels = recover(outcome.tests["given"], inputs.given.labels, leak)
            row = entry(outcome, seed, epochs=epochs)
            if stage == "weak":
                row |= pace(outcome, start, seed)
            row["recovered_share"] = analysis.accuracy(inputs.truth, labels)
            arms.setdefault(f"{stage}-{start}", {"runs": []})["runs"].append(row)
    for (size, draw), outcome in sized.items():
        row = entry(outcome, draw, size=size)
        arms.setdefault("size/random", {"runs": []})["runs"].append(row)
    for (loss, seed), outcome in compared.items():
        arms.setdefault(f"loss/{loss}", {"runs": []})["runs"].append(entry(outcome, seed))
    accuracy = {arm: common.column(arms, arm, "test_accuracy") for arm in arms}
    results = {
        "part": 3,
        "images": len(inputs.given.labels),
        "plan": dataclasses.asdict(plan),
        "headline": {
            "arm": "recovered-random",
            "metric": "test_accuracy",
            **common.as_row(analysis.mean_interval(accuracy["recovered-random"])),
        },
        "arms": arms,
        "final": [
            {"arm": arm, **common.as_row(analysis.mean_interval(accuracy[arm]))}
            for arm in arms
            if "/" not in arm
        ],
        "argmin": {
            start: common.as_row(
                analysis.mean_interval(common.column(arms, f"naive-{start}", "argmin_accuracy"))
            )
            for start in STARTS
        },
        "pretrained_advantage": common.as_row(
            analysis.paired_interval(
                accuracy["recovered-pretrained"],
                accuracy["recovered-random"][: plan.pretrained_seeds],
            )
        ),
        "convergence": common.convergence(
            arms,
            tuple(f"weak-{start}" for start in STARTS),
            int(weak["random", 0].history["step"][-1]),
        ),
        "audit": _audit_row(found),
        "leak": leak,
        "exact": _exact(inputs),
        "selection": _selection(study, compared, leak),
        "sizes": [
            {
                "size": size,
                **common.as_row(
                    analysis.mean_interval(
                        [
                            r["test_accuracy"]
                            for r in arms["size/random"]["runs"]
                            if r["size"] == size
                        ]
                    )
                ),
            }
            for size in plan.sizes
        ]
        + [
            {
                "size": len(inputs.given.labels),
                **common.as_row(analysis.mean_interval(accuracy["weak-random"])),
            }
        ],
        "recovered_together": {
            start: analysis.accuracy(
                inputs.truth,
                recover(
                    np.mean([o.tests["given"] for (s, _), o in second.items() if s == start], 0),
                    inputs.given.labels,
                    leak,
                ),
            )
            for start in STARTS
        },
        "parameters": sum(w.size for w in second["random", 0].weights),
    }
    arrays = _hardest(inputs, second["random", 0].tests["given"], leak)
    for arm, outcomes in {"naive": naive, "weak": weak}.items():
        for start in STARTS:
            histories = [o.history for (s, _), o in outcomes.items() if s == start]
            arrays[f"{arm}_steps"] = np.append(0, histories[0]["step"])
            for metric in ("loss", "val_accuracy"):
                stacked = np.stack([history[metric] for history in histories])
                arrays[f"{arm}-{start}_{metric}"] = stacked.astype(np.float32)
            starting = [jumps.get((start, seed), 0.1) for s, seed in outcomes if s == start]
            arrays[f"{arm}-{start}_jump_start"] = np.array(starting)
    return results, arrays


def _accuracy(outcome: runs.Outcome, test: str, examples: Examples) -> float:
    return analysis.accuracy(examples.labels, outcome.tests[test][:, :10].argmax(1))


def _folder_loss(probabilities: np.ndarray, folders: np.ndarray) -> float:
    logs = np.log(np.maximum(probabilities, 1e-12))
    return analysis.negative_log_likelihood(folders, logs)


def _audit_row(found: audit.Audit) -> dict:
    return {
        "verdict": found.verdict,
        "reason": found.reason,
        "advice": found.advice,
        "own_folder_rate": common.as_row(found.own_folder_rate),
        "transition": found.transition.tolist(),
        "low": found.low.tolist(),
        "high": found.high.tolist(),
        "settled": int(found.settled.sum()),
        "evidence": found.evidence,
    }


def _exact(inputs: Inputs) -> dict:
    """The true table of digits and folders, which MNIST's labels give."""
    counts = analysis.confusion(inputs.truth, inputs.given.labels, 10)
    return {"counts": counts.tolist(), "own_folder_rate": float(np.trace(counts) / counts.sum())}


def _selection(study: _Study, compared: dict, leak: float) -> list[dict]:
    """Each loss' accuracy as the folders of held-out pictures tell it, as their digits do, and on
    MNIST's test set; means over seeds."""
    rows = []
    for loss in LOSSES:
        outcomes = [compared[loss, seed] for seed in range(study.plan.compared_seeds)]
        # A network that was taught the folders says what a picture is by what it finds unlikely.
        sign = -1 if loss == "cross-entropy" else 1
        answers = [(sign * outcome.probabilities).argmax(1) for outcome in outcomes]
        tested = [(sign * outcome.tests["mnist"]).argmax(1) for outcome in outcomes]
        told = [estimate_accuracy(answer, study.kept.labels, leak) for answer in answers]
        rows.append(
            {
                "loss": loss,
                "told_by_folders": float(np.mean([one.mean for one in told])),
                "told_low": float(np.mean([one.low for one in told])),
                "told_high": float(np.mean([one.high for one in told])),
                "told_by_digits": float(
                    np.mean([analysis.accuracy(study.drawn.labels, answer) for answer in answers])
                ),
                **common.as_row(
                    analysis.mean_interval(
                        [analysis.accuracy(study.inputs.test.labels, answer) for answer in tested]
                    )
                ),
            }
        )
    return rows


def _hardest(inputs: Inputs, probabilities: np.ndarray, leak: float, count: int = 24) -> dict:
    """The pictures whose recovered label is not MNIST's, the surest first."""
    labels = recover(probabilities, inputs.given.labels, leak)
    wrong = np.flatnonzero(labels != inputs.truth)
    sure = probabilities[wrong, labels[wrong]]
    chosen = wrong[np.argsort(-sure)[:count]]
    return {
        "hard_rows": inputs.rows[chosen],
        "hard_recovered": labels[chosen].astype(np.uint8),
        "hard_truth": inputs.truth[chosen].astype(np.int8),
    }


def describe(study: Study, results: dict, arm: str) -> dict:
    """What stands beside a committed network: how to use it, and how it came about."""
    return {
        "class_names": list(config.DIGIT_NAMES),
        "settings": dataclasses.asdict(study.settings[arm]),
        "input": "picture: pixels 0-255, bright ink on black, as in MNIST",
        "start": "part 1's 62 characters" if arm.endswith("pretrained") else "random",
        "labels": "folders of mnistTask3.zip, all but a few of them wrong",
        "data": results["data"],
        "versions": results["versions"],
        "test_accuracy": results["arms"][arm]["runs"][0]["test_accuracy"],
    }
