"""Part 2: what a pre-trained start is worth on MNIST, in accuracy, steps and labels."""

import dataclasses
import math
from dataclasses import dataclass

import numpy as np

from midas_lib import analysis, config, corruptions, data, runs
from midas_lib.config import (
    Augmentation,
    Network,
    Preprocessing,
    Settings,
    Training,
    UserError,
    vary,
)
from midas_lib.data import Examples, ImageDataset
from midas_lib.studies import common

# What a training on MNIST may start from. Beside random weights: networks trained on part 1's 400
# digits, on its 62 classes, and on the 62 and then on the digits.
STARTS = ("random", "digits", "characters", "characters-digits")
# With few labels, one more way to use the digits: start from their network, and go on training on
# them beside the labelled images.
REHEARSED = "digits-rehearsed"
MARGIN = 0.001  # starts whose accuracies differ by less are called equivalent
VALIDATION_SEED = 2
NETWORK = Network(width=0.5)  # part 1's depth; on MNIST's many images, half as wide for the time
# Fixed beforehand by training on part 1's digits and reading drawn ones, and the other way round:
# MNIST's own labels chose none of the settings of pre-training and of few labels.
PRETRAINING = Settings(
    preprocessing=Preprocessing(mode="mnist"),
    augmentation=Augmentation(
        rotation=15.0, scale=0.15, aspect=0.2, shear=0.3, shift=0.06, thickness=1.0
    ),
    network=NETWORK,
    training=Training(epochs=60),
)
MNIST = Settings(
    preprocessing=Preprocessing(mode="mnist"),
    augmentation=Augmentation(rotation=12.0, scale=0.12, aspect=0.12, shear=0.2, shift=0.06),
    network=NETWORK,
    training=Training(batch=128, checks=(10, 4), smoothing=0.0),
)
# Few labels: pre-training's augmentation, and steps of fewer images.
FEW = vary(
    MNIST, augmentation=PRETRAINING.augmentation, training__batch=64, training__checks=(1, 1)
)

# What few labels taught, made to agree with itself on pictures without labels.
SELF_TRAINING = vary(
    FEW, training__batch=128, training__loss="posterior", training__sharpening=2.0,
    training__blunt=0.0, training__balance=1.0,
)  # fmt: skip


# How much of the start is taken over, and what may change of it: variant -> changes. Each begins
# with the network of the 400 digits.
LAYERS = tuple(
    f"stage{stage}_conv{i + 1}" for stage in (1, 2, 3) for i in range(NETWORK.depth[stage - 1])
)
VARIANTS = {
    "fine-tuned": {},
    "linear probe": {"transfer__frozen": True},
    "discriminative rates": {"transfer__rate_decay": 1 / 2.6},
}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much of part 2's study a profile runs.

    images, test_images: of MNIST's, None for all. validation: training images held out for curves
    and choices. epochs: of the main arms; best_epochs: of the arm that aims at accuracy alone.
    seeds: of the main arms, and draws of the few-label ones. starts: compared. sizes: labelled
    images compared, from few_starts (starts, or `REHEARSED`), for few_epochs epochs and few_steps
    steps at least. unlabelled_sizes: labelled images, of `sizes` or none, after which training goes
    on without labels, on unlabelled_images (None: all) for unlabelled_epochs epochs.
    pretraining_epochs: over the 62 classes; over the digits it takes as many steps.
    variant_images, variant_steps, variant_seeds: of the comparison of what is taken over; copied:
    the numbers of convolutions compared there. changes: on top of the settings.
    """

    images: int | None = None
    test_images: int | None = None
    validation: int = 5000
    epochs: int = 5
    best_epochs: int = 24
    seeds: int = 5
    starts: tuple[str, ...] = STARTS
    sizes: tuple[int, ...] = (
        10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 60_000,
    )  # fmt: skip
    few_starts: tuple[str, ...] = ("random", "digits", REHEARSED)
    few_epochs: int = 3
    few_steps: int = 600
    unlabelled_sizes: tuple[int, ...] = (0, 10, 100)
    unlabelled_images: int | None = None
    unlabelled_epochs: int = 3
    pretraining_epochs: int = 60
    variant_images: int = 1000
    variant_steps: int = 300
    variant_seeds: int = 3
    copied: tuple[int, ...] = tuple(range(len(LAYERS) + 1))
    changes: dict = dataclasses.field(default_factory=dict)


PLANS = {
    "smoke": Plan(
        images=400, test_images=200, validation=100, epochs=1, best_epochs=1, seeds=1,
        sizes=(10, 50), few_epochs=1, few_steps=5, unlabelled_sizes=(0, 10), unlabelled_epochs=1,
        pretraining_epochs=1, variant_images=50, variant_steps=5, variant_seeds=1,
        copied=(0, len(LAYERS)), changes={"network__width": 0.25},
    ),
    "standard": Plan(
        epochs=1, best_epochs=2, seeds=1, starts=("random", "digits", "characters"),
        sizes=(10, 100, 1000), few_epochs=1, few_steps=200, unlabelled_sizes=(0, 10),
        unlabelled_images=20_000, unlabelled_epochs=1, pretraining_epochs=25, variant_steps=150,
        variant_seeds=1, copied=(0, 2, 4, len(LAYERS)),
    ),
    "full": Plan(),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Part 2's data, as networks take them. characters, digits: part 1's, for pre-training. train,
    validation: MNIST's training set, divided; everything: undivided. test: MNIST's. corrupted: the
    test pictures with each corruption."""

    characters: Examples
    digits: Examples
    train: Examples
    validation: Examples
    everything: Examples
    test: Examples
    corrupted: dict[str, Examples]


@dataclass(frozen=True, kw_only=True)
class Study:
    """Part 2's study. results: what the results file holds beside its provenance. arrays: for the
    file beside it. models: the networks of the arms' first seeds. settings: theirs."""

    results: dict
    arrays: dict[str, np.ndarray]
    models: dict[str, object]
    settings: dict[str, Settings]


def load(profile: str) -> dict[str, ImageDataset]:
    """The datasets of part 2: "characters", "mnist" (its training set) and "mnist-test"."""
    config.check_profile(profile)
    return {
        "characters": data.load_characters(profile),
        "mnist": data.load_mnist("train", profile),
        "mnist-test": data.load_mnist("test", profile),
    }


def prepare(datasets: dict[str, ImageDataset], plan: Plan) -> Inputs:
    """What `load` returned, brought to the network's input and divided."""
    pictures, _ = data.preprocess(datasets["characters"].images, MNIST.preprocessing)
    characters = Examples(pictures=pictures, labels=datasets["characters"].labels)
    everything = common.as_examples(datasets["mnist"], plan.images)
    test = common.as_examples(datasets["mnist-test"], plan.test_images)
    rest, held_out = data.split(everything.labels, plan.validation, VALIDATION_SEED)
    return Inputs(
        characters=characters,
        digits=characters.take(characters.labels < 10),
        train=everything.take(rest),
        validation=everything.take(held_out),
        everything=everything,
        test=test,
        corrupted={
            name: Examples(
                pictures=corruptions.corrupt(test.pictures[..., 0], name)[..., None],
                labels=test.labels,
            )
            for name in corruptions.CORRUPTIONS
        },
    )


class _Study(common.Stages):
    """The runs of part 2."""

    def __init__(self, inputs: Inputs, plan: Plan, jobs: int | None, fresh: bool):
        super().__init__(jobs, fresh)
        self.inputs, self.plan, self.seeds = inputs, plan, range(plan.seeds)
        self.pretraining = vary(
            PRETRAINING, training__epochs=plan.pretraining_epochs, **plan.changes
        )
        self.mnist = vary(MNIST, training__epochs=plan.epochs, **plan.changes)
        self.few = vary(FEW, **plan.changes)
        self.unlabelled = vary(
            SELF_TRAINING, training__epochs=plan.unlabelled_epochs, **plan.changes
        )
        self.longer = vary(self.mnist, training__epochs=plan.best_epochs)
        self.steps = len(inputs.train.labels) // self.mnist.training.batch * plan.epochs

    def starts(self) -> dict:
        """(start, seed) -> the network that a training starts from, tested as it is on MNIST."""
        seeds = self.seeds
        characters, digits = self.inputs.characters, self.inputs.digits
        tests = {"mnist": self.inputs.test, "validation": self.inputs.validation}

        untrained = {
            ("random", seed): runs.Task(
                settings=vary(self.mnist, seed=seed, training__epochs=0),
                examples=self.inputs.validation,
                classes=10,
                tests=tests,
            )
            for seed in seeds
        }

        def task(examples, seed, start=None):
            share = len(characters.labels) / len(examples.labels)
            epochs = round(self.pretraining.training.epochs * share)
            return runs.Task(
                settings=vary(self.pretraining, seed=seed, training__epochs=epochs),
                examples=examples,
                classes=int(examples.labels.max()) + 1,
                start=start,
                tests=tests,
            )

        first = untrained | {("digits", seed): task(digits, seed) for seed in seeds}
        if {"characters", "characters-digits"} & set(self.plan.starts):
            first |= {("characters", seed): task(characters, seed) for seed in seeds}
        found, second = self.train(first), {}
        if "characters-digits" in self.plan.starts:
            second = {
                ("characters-digits", seed): task(
                    digits, seed, common.first_classes(found["characters", seed], 10)
                )
                for seed in seeds
            }
        return found | self.train(second)

    def main(self, starts: dict) -> dict:
        """(start, seed) -> the outcome of training on MNIST, all else alike for one seed."""
        tests = {"mnist": self.inputs.test, **self.inputs.corrupted}
        return self.train(
            {
                (start, seed): runs.Task(
                    settings=vary(self.mnist, seed=seed),
                    examples=self.inputs.train,
                    held_out=self.inputs.validation,
                    classes=10,
                    start=common.first_classes(starts[start, seed], 10),
                    tests=tests,
                )
                for start in self.plan.starts
                for seed in self.seeds
            }
        )

    def best(self, starts: dict, start: str) -> dict:
        """seed -> the task of a longer training on all training images, from the start that
        was best on the validation part."""
        return {
            seed: runs.Task(
                settings=vary(self.longer, seed=seed),
                examples=self.inputs.everything,
                classes=10,
                start=common.first_classes(starts[start, seed], 10),
                tests={"mnist": self.inputs.test},
            )
            for seed in self.seeds
        }

    def few_labels(self, starts: dict) -> dict:
        """(start, size, draw) -> the task of training on so many labelled images."""
        return {
            (start, size, draw): self._few(
                data.balanced(self.inputs.everything.labels, size, draw),
                draw,
                starts["digits" if start == REHEARSED else start, draw],
                self.plan.few_steps,
                rehearsed=start == REHEARSED,
            )
            for start in self.plan.few_starts
            for size in self.plan.sizes
            for draw in self.seeds
        }

    def self_trained(self, starts: dict, few: dict) -> dict:
        """(size, draw) -> the task of going on from the network of so many labels (0: of the
        digits alone) on training images whose labels are taken away."""
        pictures = self.inputs.everything.pictures[: self.plan.unlabelled_images]
        unlabelled = Examples(pictures=pictures, labels=np.full(len(pictures), -1))

        def task(size, draw):
            begun = few[REHEARSED, size, draw] if size else starts["digits", draw]
            return runs.Task(
                settings=vary(self.unlabelled, seed=draw),
                examples=unlabelled,
                classes=10,
                start=common.first_classes(begun, 10),
                tests={"mnist": self.inputs.test},
            )

        known = {0, *self.plan.sizes} if REHEARSED in self.plan.few_starts else ()
        sizes = [size for size in self.plan.unlabelled_sizes if size in known]
        return {(size, draw): task(size, draw) for size in sizes for draw in self.seeds}

    def variants(self, starts: dict) -> dict:
        """(variant, seed) -> the task of another way to go on from the digits' network; the
        variant "fine-tuned/3" starts with its first 3 convolutions alone, "frozen/3" keeps them."""
        changes = dict(VARIANTS)
        for layers in self.plan.copied:
            some = {"transfer__layers": layers, "transfer__head": False}
            changes[f"fine-tuned/{layers}"] = some
            changes[f"frozen/{layers}"] = some | {"transfer__frozen": True}

        return {
            (variant, seed): self._variant(seed, starts["digits", seed], **change)
            for variant, change in changes.items()
            for seed in range(self.plan.variant_seeds)
        }

    def probed(self, variants: dict) -> dict:
        """(variant, seed) -> the task of fine-tuning what a linear probe ended with."""
        return {
            ("probe, then fine-tuned", seed): self._variant(seed, variants["linear probe", seed])
            for seed in range(self.plan.variant_seeds)
        }

    def _variant(self, seed, start, **change) -> runs.Task:
        rows = data.balanced(self.inputs.everything.labels, self.plan.variant_images, seed)
        # Another seed than pre-training's, or a new layer would be the one it began with.
        return self._few(rows, seed + 100, start, self.plan.variant_steps, **change)

    def _few(self, rows, seed, start, least, rehearsed=False, **changes) -> runs.Task:
        """A training on few rows: they are repeated, so that an epoch is not too short, and passed
        over as often as gives at least so many steps. rehearsed: beside part 1's digits, likewise
        repeated."""

        def repeated(examples):
            count = len(examples.labels)
            return examples.take(np.tile(np.arange(count), max(1, 1280 // count)))

        examples = repeated(self.inputs.everything.take(rows))
        if rehearsed:
            examples = examples.join(repeated(self.inputs.digits))
        steps = len(examples.labels) // self.few.training.batch
        epochs = max(self.plan.few_epochs, math.ceil(least / steps))
        return runs.Task(
            settings=vary(self.few, seed=seed, training__epochs=epochs, **changes),
            examples=examples,
            classes=10,
            start=common.first_classes(start, 10),
            tests={"mnist": self.inputs.test},
        )


def run(
    datasets: dict[str, ImageDataset],
    profile: str,
    *,
    seeds: int | None = None,
    arms: str | None = None,
    sizes: str | None = None,
    jobs: int | None = None,
    fresh: bool = False,
) -> Study:
    """Pre-train, train on MNIST and compare as `PLANS[profile]` says.

    datasets: as from `load`. seeds: how many of each main arm and draws of each few-label one.
    arms: the starts compared, sizes: the numbers of labelled images, both separated by commas
    (defaults: the profile's). jobs, fresh: as in `runs.run_all`. Raises `UserError` for a profile,
    a number of seeds, an arm or a size that does not exist.
    """
    plan = _plan(profile, seeds, arms, sizes)
    inputs = prepare(datasets, plan)
    for size in plan.sizes:
        data.balanced(inputs.everything.labels, size, 0)
    study = _Study(inputs, plan, jobs, fresh)
    starts = study.starts()
    main = study.main(starts)
    chosen = max(
        plan.starts, key=lambda start: np.mean([_validation(main[start, s]) for s in study.seeds])
    )
    best, few, variants = study.train_together(
        study.best(starts, chosen), study.few_labels(starts), study.variants(starts)
    )
    probed, self_trained = study.train_together(
        study.probed(variants), study.self_trained(starts, few)
    )
    variants |= probed
    results, arrays = _summary(study, starts, main, best, few, variants, self_trained)
    results["chosen_start"] = chosen
    inside, more = _inside(study, starts, main)
    results |= inside | study.counts() | {"seconds_per_step": _seconds_per_step(study)}
    models = {start: common.rebuild(main[start, 0].weights, study.mnist) for start in plan.starts}
    models["best"] = common.rebuild(best[0].weights, study.mnist)
    settings = dict.fromkeys(plan.starts, study.mnist) | {"best": study.longer}
    if self_trained:
        models["self-trained"] = common.rebuild(self_trained[0, 0].weights, study.unlabelled)
        settings["self-trained"] = study.unlabelled
    return Study(results=results, arrays=arrays | more, models=models, settings=settings)


def _plan(profile: str, seeds: int | None, arms: str | None, sizes: str | None) -> Plan:
    plan = PLANS[config.check_profile(profile)]
    if seeds is not None:
        if seeds < 1:
            raise UserError(f"SEEDS={seeds}: give 1 or more")
        plan = dataclasses.replace(plan, seeds=seeds)
        plan = dataclasses.replace(plan, variant_seeds=min(seeds, plan.variant_seeds))
    if arms:
        named = set(arms.split(","))
        if "random" not in named or len(named) < 2 or not named <= set(STARTS):
            raise UserError(f"arms={arms}: name random and others of {', '.join(STARTS[1:])}")
        starts = tuple(start for start in STARTS if start in named)
        rehearsed = (REHEARSED,) if "digits" in named else ()
        plan = dataclasses.replace(plan, starts=starts, few_starts=starts + rehearsed)
    if sizes:
        if not all(size.strip().isdecimal() for size in sizes.split(",")):
            raise UserError(f"sizes={sizes}: give whole numbers separated by commas")
        plan = dataclasses.replace(plan, sizes=tuple(sorted(map(int, sizes.split(",")))))
    return plan


def _validation(outcome: runs.Outcome) -> float:
    return float(outcome.history["val_accuracy"][-1])


def _summary(study: _Study, starts, main, best, few, variants, unlabelled) -> tuple[dict, dict]:
    plan, test = study.plan, study.inputs.test.labels
    arms = {}
    for start in plan.starts:
        runs_ = [_measures(study, starts, main, start, seed) for seed in study.seeds]
        arms[start] = {"runs": runs_}
    arms["best"] = {
        "runs": [
            {"seed": s, "epochs": plan.best_epochs, **common.tested(best[s], test)}
            for s in study.seeds
        ]
    }
    for (start, size, draw), outcome in few.items():
        entry = {"seed": draw, "size": size, **common.tested(outcome, test)}
        arms.setdefault(f"few/{start}", {"runs": []})["runs"].append(entry)
    for (size, draw), outcome in unlabelled.items():
        entry = {"seed": draw, "size": size, **common.tested(outcome, test)}
        arms.setdefault("self-trained", {"runs": []})["runs"].append(entry)
    for (variant, seed), outcome in variants.items():
        entry = {"seed": seed, **common.tested(outcome, test)}
        arms.setdefault(f"variant/{variant}", {"runs": []})["runs"].append(entry)
    accuracy = {
        arm: np.array([run["test_accuracy"] for run in arms[arm]["runs"]])
        for arm in (*plan.starts, "best")
    }
    results = {
        "part": 2,
        "plan": dataclasses.asdict(plan),
        "headline": {
            "arm": "best",
            "metric": "test_accuracy",
            **common.as_row(analysis.mean_interval(accuracy["best"])),
        },
        "arms": arms,
        "final": _final(plan, arms),
        "convergence": common.convergence(arms, plan.starts, study.steps),
        "disagreement": _disagreement(study, main),
        "robustness": _robustness(study, main),
        "efficiency": _efficiency(study, few),
        "self_trained": _self_trained(study, arms),
        "variants": [
            {
                "variant": arm.removeprefix("variant/"),
                **common.as_row(analysis.mean_interval([r["test_accuracy"] for r in one["runs"]])),
            }
            for arm, one in arms.items()
            if arm.startswith("variant/")
        ],
        "batch": study.mnist.training.batch,
        "trained_on": len(study.inputs.train.labels),
        "parameters": sum(w.size for w in best[0].weights),
    }
    arrays = {"steps": np.append(0, main["random", 0].history["step"])}
    for start in plan.starts:
        for metric in ("val_accuracy", "val_loss", "loss", "gradient_norm"):
            values = [main[start, seed].history[metric] for seed in study.seeds]
            arrays[f"{start}_{metric}"] = np.stack(values).astype(np.float32)
        arrays[f"{start}_jump_start"] = np.array([r["jump_start"] for r in arms[start]["runs"]])
        answers = [main[start, seed].tests["mnist"].argmax(1) for seed in study.seeds]
        arrays[f"{start}_answers"] = np.stack(answers).astype(np.uint8)
    return results, arrays


def _zero_shot(outcome: runs.Outcome, test: str, labels: np.ndarray) -> float:
    return analysis.accuracy(labels, outcome.tests[test][:, :10].argmax(1))


def _measures(study: _Study, starts: dict, main: dict, start: str, seed: int) -> dict:
    """A main arm's run as an entry of its runs."""
    outcome, labels = main[start, seed], study.inputs.test.labels
    validation = study.inputs.validation.labels
    jump = _zero_shot(starts[start, seed], "validation", validation)
    return {
        "seed": seed,
        "epochs": study.plan.epochs,
        **common.tested(outcome, labels),
        "validation_accuracy": _validation(outcome),
        "zero_shot_accuracy": _zero_shot(starts[start, seed], "mnist", labels),
        "jump_start": jump,
        **common.pace(outcome, jump),
        "per_digit_error": (
            1 - analysis.per_class_accuracy(labels, outcome.tests["mnist"].argmax(1), 10)
        ).tolist(),
    }


def _final(plan: Plan, arms: dict) -> list[dict]:
    """Each start's mean, and its paired difference to the random start, of every final measure."""
    metrics = ("test_accuracy", "test_nll", "test_ece", "area_under_curve")
    metrics += ("zero_shot_accuracy", "jump_start", "validation_accuracy")
    rows = []
    for start in plan.starts:
        for metric in metrics:
            ours, base = (common.column(arms, arm, metric) for arm in (start, "random"))
            difference = analysis.paired_interval(ours, base)
            rows.append(
                {
                    "arm": start,
                    "metric": metric,
                    **common.as_row(analysis.mean_interval(ours)),
                    "difference": common.as_row(difference),
                    "equivalent": difference.within(MARGIN),
                }
            )
    return rows


def _disagreement(study: _Study, main: dict) -> list[dict]:
    """McNemar's test of each start against the random one on the test images, seed by seed."""
    labels = study.inputs.test.labels
    rows = []
    for start in study.plan.starts[1:]:
        for seed in study.seeds:
            ours, base = (
                main[arm, seed].tests["mnist"].argmax(1) == labels for arm in (start, "random")
            )
            rows.append(
                {
                    "arm": start,
                    "seed": seed,
                    "only_this_right": int((ours & ~base).sum()),
                    "only_random_right": int((base & ~ours).sum()),
                    "p": analysis.mcnemar(ours, base),
                }
            )
    return rows


def _robustness(study: _Study, main: dict) -> list[dict]:
    labels = study.inputs.test.labels
    rows = []
    for corruption in study.inputs.corrupted:
        reached = {
            start: [
                analysis.accuracy(labels, main[start, seed].tests[corruption].argmax(1))
                for seed in study.seeds
            ]
            for start in study.plan.starts
        }
        for start, ours in reached.items():
            difference = analysis.paired_interval(ours, reached["random"])
            rows.append(
                {
                    "corruption": corruption,
                    "arm": start,
                    **common.as_row(analysis.mean_interval(ours)),
                    "difference": common.as_row(difference),
                }
            )
    return rows


def _efficiency(study: _Study, few: dict) -> dict:
    """Accuracy by labelled images for each start, and what a start is worth in labels."""
    plan, labels = study.plan, study.inputs.test.labels
    accuracy = {
        start: np.array(
            [
                [
                    analysis.accuracy(labels, few[start, size, draw].tests["mnist"].argmax(1))
                    for size in plan.sizes
                ]
                for draw in study.seeds
            ]
        )
        for start in plan.few_starts
    }
    base, rows = accuracy["random"], []
    for start, ours in accuracy.items():
        for i, size in enumerate(plan.sizes):
            factor = analysis.label_factor(plan.sizes, base, ours, size)
            most = plan.sizes[-1] / size
            rows.append(
                {
                    "arm": start,
                    "size": size,
                    **common.as_row(analysis.mean_interval(ours[:, i])),
                    "difference": common.as_row(analysis.paired_interval(ours[:, i], base[:, i])),
                    "factor": min(factor.mean, most),
                    "factor_low": np.minimum(factor.low, most),
                    "factor_high": np.minimum(factor.high, most),
                    "at_least": np.isinf(factor.mean),
                }
            )
    equivalent = {
        start: analysis.equivalence_size(plan.sizes, ours, base, MARGIN)
        for start, ours in accuracy.items()
        if start != "random"
    }
    return {"rows": rows, "equivalent_from": equivalent}


def _self_trained(study: _Study, arms: dict) -> list[dict]:
    """By labels that the network began with: accuracy, and what training without any gained."""
    rows, runs_ = [], arms.get("self-trained", {"runs": []})["runs"]
    for size in dict.fromkeys(run["size"] for run in runs_):
        ours = [run["test_accuracy"] for run in runs_ if run["size"] == size]
        if size:
            begun = arms[f"few/{REHEARSED}"]["runs"]
            before = [run["test_accuracy"] for run in begun if run["size"] == size]
        else:
            before = common.column(arms, "digits", "zero_shot_accuracy")
        rows.append(
            {
                "size": size,
                **common.as_row(analysis.mean_interval(ours)),
                "gain": common.as_row(analysis.paired_interval(ours, before)),
            }
        )
    return rows


def _seconds_per_step(study: _Study) -> float:
    """Of one run alone on the machine, by which steps are turned into time."""
    from midas_lib import train

    one = vary(study.mnist, training__epochs=1, training__checks=(1, 1))
    examples = study.inputs.train.take(np.arange(min(6400, len(study.inputs.train.labels))))
    return train.seconds_per_step(examples, 10, one)


def _inside(study: _Study, starts: dict, main: dict) -> tuple[dict, dict]:
    """What training changed in the networks: distance, similarity, sharpness, and whether their
    solutions are connected. All on the first validation images; test images have no part in it."""
    from midas_lib import probe

    plan = study.plan
    seen = study.inputs.validation.take(np.arange(min(2000, plan.validation)))
    some = study.inputs.train.take(np.arange(min(1000, len(study.inputs.train.labels))))
    names = [f"{layer}_relu" for layer in LAYERS] + ["features"]
    arrays, rows, ends, features = {}, [], {}, {}
    for start in plan.starts:
        for seed in study.seeds:
            before = common.rebuild(common.first_classes(starts[start, seed], 10), study.mnist)
            after = ends[start, seed] = common.rebuild(main[start, seed].weights, study.mnist)
            features[start, seed] = probe.features(after, seen, names)
            moved = probe.distances(before, after)
            old = probe.features(before, seen, names)
            for name in names:
                new = features[start, seed][name]
                rows.append(
                    {
                        "arm": start,
                        "seed": seed,
                        "layer": name.removesuffix("_relu"),
                        "distance": moved.get(name.removesuffix("_relu")),
                        "cka_with_start": analysis.linear_cka(old[name], new),
                        "cka_with_random": analysis.linear_cka(features["random", seed][name], new),
                    }
                )
            if seed == 0:
                arrays[f"{start}_filters_before"] = probe.first_filters(before)
                arrays[f"{start}_filters_after"] = probe.first_filters(after)
                arrays[f"{start}_embedding"] = analysis.embedding(old["features"][:1000])
            rows[-1]["sharpness_before"] = probe.sharpness(before, some)
            rows[-1]["sharpness"] = probe.sharpness(after, some)
    alphas = np.linspace(0, 1, 11)
    pairs = {
        f"random and {start}, same seed": (("random", 0), (start, 0)) for start in plan.starts[1:]
    }
    for start in plan.starts:
        if plan.seeds > 1:
            pairs[f"{start}, two seeds"] = ((start, 0), (start, 1))
    for label, (one, other) in pairs.items():
        _, accuracies = probe.interpolate(ends[one], ends[other], alphas, some, seen)
        arrays[f"path_{label}"] = 1 - accuracies
    arrays["embedding_labels"] = seen.labels[:1000].astype(np.uint8)
    return {"inside": rows, "paths": list(pairs), "sharpness_radius": probe.RADIUS}, arrays


def describe(study: Study, results: dict, arm: str) -> dict:
    """What stands beside a committed network: how to use it, and how it came about."""
    starts = {"best": results["chosen_start"], "self-trained": "digits"}
    return {
        "class_names": list(config.DIGIT_NAMES),
        "settings": dataclasses.asdict(study.settings[arm]),
        "input": "picture: pixels 0-255, bright ink on black, as in MNIST",
        "start": starts.get(arm, arm),
        "data": results["data"],
        "versions": results["versions"],
        "test_accuracy": results["arms"][arm]["runs"][0]["test_accuracy"],
    }
