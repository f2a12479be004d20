"""Part 2: what a pre-trained start is worth on MNIST, in accuracy, steps and labels."""

import dataclasses
import math
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from midas_lib import analysis, config, corruptions, data, images
from midas_lib.analysis import Interval
from midas_lib.config import Augmentation, Settings, Training, vary
from midas_lib.data import Examples, ImageDataset
from midas_lib.results import Results
from midas_lib.studies import tables
from midas_lib.studies.study import MnistStudy, Run, as_examples, plan_for, read_plans, rebuild

# What a training on MNIST may start from. Beside random weights: networks trained on part 1's 400
# digits, on its 62 classes, and on the 62 and then on the digits.
STARTS = ("random", "digits", "characters", "characters-digits")
# With few labels, one more way to use the digits: start from their network, and go on training on
# them beside the labelled images.
REHEARSED = "digits-rehearsed"
MARGIN = 0.001  # starts whose accuracies differ by less are called equivalent
VALIDATION_SEED = 2
SHARPNESS_RADIUS = 0.001  # of a step that measures sharpness, as a share of the weights' norm
PRETRAINING = Settings()  # part 1's
# Of pre-training and of few labels, MNIST's own labels chose nothing. With many, milder warps do.
MNIST = Settings(
    augmentation=Augmentation(
        rotation=12.0, scale=0.12, aspect=0.12, shear=0.2, shift=0.06, elastic=0.0
    ),
    training=Training(batch=128, checks=(10, 4), every=1, smoothing=0.0),
)
# Few labels: pre-training's augmentation, and steps of fewer images.
FEW = vary(
    MNIST, augmentation=PRETRAINING.augmentation, training__batch=64, training__checks=(1, 1)
)

# What few labels taught, made to agree with itself on pictures without labels.
SELF_TRAINING = vary(
    FEW, training__batch=128, training__loss="PRODEN", training__sharpening=2.0,
    training__sharpening_start=0.0, training__balance=1.0,
)  # fmt: skip

CURVES = ("step", "val_accuracy", "val_loss", "loss", "gradient_norm")
# How much of the start is taken over, and what may change of it: variant -> changes. Each begins
# with the network of the 400 digits.
LAYERS = tuple(f"conv{i}" for i, _ in enumerate(MNIST.network.channels, 1))
VARIANTS = {
    "fine-tuned": {},
    "linear probe": {"transfer__frozen": True},
    "discriminative rates": {"transfer__rate_decay": 1 / 2.6},
}
CUTS = ("fine-tuned", "frozen")  # what becomes of the layers that were copied


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much of part 2's study a profile runs."""

    images: int | None = None  # of MNIST's training set; None: all
    test_images: int | None = None
    validation: int = 5000  # training images held out for curves and choices
    epochs: int = 5  # of the main arms
    best_epochs: int = 24  # of the arm that aims at accuracy alone
    seeds: int = 5  # of the main arms, and draws of the few-label ones
    starts: tuple[str, ...] = STARTS
    sizes: tuple[int, ...] = (
        10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 60_000,
    )  # labelled images  # fmt: skip
    few_starts: tuple[str, ...] = ("random", "digits", REHEARSED)
    few_epochs: int = 3  # at least, and so many steps
    few_steps: int = 600
    unlabelled_sizes: tuple[int, ...] = (0, 10, 100)  # labels that self-training begins with
    unlabelled_images: int | None = None  # and goes on without; None: all
    unlabelled_epochs: int = 3
    pretraining_epochs: int = 120  # over the 62 classes; over the digits as many steps
    variant_images: int = 1000  # of the comparison of what is taken over
    variant_steps: int = 300
    variant_seeds: int = 3
    copied: tuple[int, ...] = tuple(range(len(LAYERS) + 1))  # convolutions taken over there
    changes: dict = dataclasses.field(default_factory=dict)  # on top of the settings


PLANS = read_plans(2, Plan)


def load(profile: str) -> dict[str, ImageDataset]:
    """The datasets of part 2: "characters", "mnist" (its training set) and "mnist-test"."""
    return {
        "characters": data.load_characters(profile),
        "mnist": data.load_mnist("train", profile),
        "mnist-test": data.load_mnist("test", profile),
    }


def run(
    profile: str,
    *,
    seeds: int | None = None,
    arms: str | None = None,
    sizes: str | None = None,
    jobs: int | None = None,
    fresh: bool = False,
) -> Results:
    """Pre-train, train on MNIST, compare as `PLANS[profile]` says, and write the results.

    seeds: of each main arm, and draws of few labels. arms: the starts compared, sizes: numbers of
    labelled images, both separated by commas (defaults: the profile's). jobs, fresh: as in
    `study.Study`. Raises `UserError` for what does not exist.
    """
    plan = _plan(profile, seeds, arms, sizes)
    study = Part2(plan, profile, load(profile), jobs=jobs, fresh=fresh)
    for size in plan.sizes:
        data.balanced(study.everything.labels, size, 0)
    starts = study.starts()
    study.finish(list(starts.values()))
    main = study.main(starts)
    study.finish(list(main.values()))
    reached = tables.mean_by(study.table, "arm", "validation_accuracy")
    chosen = max(plan.starts, key=lambda start: reached[start].mean)
    best, few = study.best(starts, chosen), study.few_labels(starts)
    self_trained = study.self_trained(starts, few)
    study.finish([*best, *few.values(), *study.variants(starts), *self_trained])
    study.compare(main)
    study.look_inside(starts, main)
    study.derive(
        "parameters", best[0].tasks, lambda found: (sum(map(np.size, found[0].weights)), {})
    )
    for start in plan.starts:
        study.checkpoint(start, main[start, 0], "test_accuracy", start=start)
    study.checkpoint("best", best[0], "test_accuracy", start=chosen)
    if self_trained:
        study.checkpoint("self-trained", self_trained[0], "test_accuracy", start="digits")
    more = {"batch": MNIST.training.batch, "trained_on": len(study.train.labels)}
    return study.write("best", "test_accuracy", chosen_start=chosen, **more)


def _plan(profile: str, seeds: int | None, arms: str | None, sizes: str | None) -> Plan:
    plan = plan_for(PLANS, profile, seeds, "variant_seeds")
    if arms:
        named = set(arms.split(","))
        if "random" not in named or len(named) < 2 or not named <= set(STARTS):
            raise config.UserError(
                f"arms={arms}: name random and others of {', '.join(STARTS[1:])}"
            )
        starts = tuple(start for start in STARTS if start in named)
        rehearsed = (REHEARSED,) if "digits" in named else ()
        plan = dataclasses.replace(plan, starts=starts, few_starts=starts + rehearsed)
    if sizes:
        if not all(size.strip().isdecimal() for size in sizes.split(",")):
            raise config.UserError(f"sizes={sizes}: give whole numbers separated by commas")
        plan = dataclasses.replace(plan, sizes=tuple(sorted(map(int, sizes.split(",")))))
    return plan


class Part2(MnistStudy):
    """Part 2's runs, by what they are about, and what is compared of them. characters, digits: part
    1's, for pre-training. train, validation: MNIST's training set, divided; everything: undivided.
    test: MNIST's. corrupted: the test pictures with each corruption."""

    def __init__(self, plan: Plan, profile: str, datasets: dict[str, ImageDataset], **options):
        super().__init__(2, profile, plan, datasets, **options)
        pictures, _ = images.preprocess(datasets["characters"].images, MNIST.preprocessing)
        self.characters = Examples(pictures=pictures, labels=datasets["characters"].labels)
        self.digits = self.characters.take(self.characters.labels < 10)
        self.everything = as_examples(datasets["mnist"], plan.images)
        rest, held_out = data.split(self.everything.labels, plan.validation, VALIDATION_SEED)
        self.train, self.validation = self.everything.take(rest), self.everything.take(held_out)
        self.test = as_examples(datasets["mnist-test"], plan.test_images)
        self.corrupted = {
            name: dataclasses.replace(
                self.test, pictures=corruptions.corrupt(self.test.pictures[..., 0], name)[..., None]
            )
            for name in corruptions.CORRUPTIONS
        }
        self.seeds = range(plan.seeds)
        self.mnist = vary(MNIST, training__epochs=plan.epochs, **plan.changes)
        self.few = vary(FEW, **plan.changes)

    def starts(self) -> dict[tuple[str, int], Run]:
        """(start, seed) -> what a training starts from, tested on MNIST as it is: arms
        "start/..."."""
        tests = {"test": self.test, "validation": self.validation}
        both = {"tests": tests, "measure": partial(self.zero_shot, tests=tests)}
        untrained = vary(self.mnist, training__epochs=0)

        def pretrain(name, seed, examples, start=None):
            share = len(self.characters.labels) / len(examples.labels)
            epochs = round(self.plan.pretraining_epochs * share)
            settings = vary(PRETRAINING, training__epochs=epochs, **self.plan.changes)
            classes = int(examples.labels.max()) + 1
            return self.declare(
                f"start/{name}", seed, settings, examples, start=start, classes=classes, **both
            )

        found = {}
        for seed in self.seeds:
            found["random", seed] = self.declare(
                "start/random", seed, untrained, self.validation, **both
            )
            found["digits", seed] = pretrain("digits", seed, self.digits)
            if {"characters", "characters-digits"} & set(self.plan.starts):
                settings = vary(
                    PRETRAINING, training__epochs=self.plan.pretraining_epochs, **self.plan.changes
                )
                found["characters", seed] = self.pretrained(
                    "start/characters", seed, settings, **both
                )
            if "characters-digits" in self.plan.starts:
                found["characters-digits", seed] = pretrain(
                    "characters-digits", seed, self.digits, found["characters", seed]
                )
        return found

    def main(self, starts: dict) -> dict[tuple[str, int], Run]:
        """(start, seed) -> training on MNIST, all else alike for one seed. The starts are
        finished."""

        def measure(outcome, before):
            answers = outcome.tests["mnist"].argmax(1)
            recall = analysis.per_class_accuracy(self.test.labels, answers, 10)
            metrics, arrays = self.learned(
                outcome, before["validation_accuracy"], CURVES,
                validation_accuracy=float(outcome.history["val_accuracy"][-1]),
                zero_shot_accuracy=before["test_accuracy"],
                **{f"error_of_{digit}": 1 - share for digit, share in enumerate(recall.tolist())},
            )  # fmt: skip
            return metrics, arrays | {"answers": answers.astype(np.uint8)}

        return {
            (start, seed): self.declare(
                start, seed, self.mnist, self.train, start=starts[start, seed],
                held_out=self.validation, tests={"mnist": self.test, **self.corrupted},
                measure=partial(measure, before=self.row(starts[start, seed])),
                arrays=(*CURVES, "answers"),
            )
            for start in self.plan.starts
            for seed in self.seeds
        }  # fmt: skip

    def best(self, starts: dict, start: str) -> list[Run]:
        """A longer training on all training images, from the start that was best on the validation
        part."""
        settings = vary(self.mnist, training__epochs=self.plan.best_epochs)
        begun = [starts[start, seed] for seed in self.seeds]
        return [
            self.declare("best", one.seed, settings, self.everything, start=one) for one in begun
        ]

    def few_labels(self, starts: dict) -> dict[tuple[str, int, int], Run]:
        """(start, size, draw) -> training on so many labelled images."""
        return {
            (start, size, draw): self._few(
                f"few/{start}", draw, size, starts["digits" if start == REHEARSED else start, draw],
                self.plan.few_steps, rehearsed=start == REHEARSED, varies={"size": size},
            )
            for start in self.plan.few_starts
            for size in self.plan.sizes
            for draw in self.seeds
        }  # fmt: skip

    def self_trained(self, starts: dict, few: dict) -> list[Run]:
        """Going on from the network of a few labels (0: of the digits alone) on training images
        whose labels are taken away."""
        pictures = self.everything.pictures[: self.plan.unlabelled_images]
        unlabelled = Examples(pictures=pictures, labels=np.full(len(pictures), -1))
        settings = vary(
            SELF_TRAINING, training__epochs=self.plan.unlabelled_epochs, **self.plan.changes
        )
        known = {0, *self.plan.sizes} if REHEARSED in self.plan.few_starts else ()
        return [
            self.declare(
                "self-trained", draw, settings, unlabelled, varies={"size": size},
                start=few[REHEARSED, size, draw] if size else starts["digits", draw],
            )
            for size in self.plan.unlabelled_sizes
            if size in known
            for draw in self.seeds
        ]  # fmt: skip

    def variants(self, starts: dict) -> list[Run]:
        """Other ways to go on from the digits' network: "variant/fine-tuned/3" starts with its
        first 3 convolutions alone, "variant/frozen/3" keeps them as they are."""
        changes = dict(VARIANTS)
        for layers in self.plan.copied:
            some = {"transfer__layers": layers, "transfer__head": False}
            changes[f"fine-tuned/{layers}"] = some
            changes[f"frozen/{layers}"] = some | {"transfer__frozen": True}

        def one(variant, seed, start, **change):
            # Another seed than pre-training's, or a new layer would be the one it began with.
            return self._few(
                f"variant/{variant}", seed, self.plan.variant_images, start,
                self.plan.variant_steps, seed=100, **change,
            )  # fmt: skip

        found = [
            one(variant, seed, starts["digits", seed], **change)
            for variant, change in changes.items()
            for seed in range(self.plan.variant_seeds)
        ]
        probes = [run for run in found if run.arm == "variant/linear probe"]
        return found + [one("probe, then fine-tuned", run.seed, run) for run in probes]

    def _few(
        self, arm, draw, size, start, least, *, rehearsed=False, varies=None, **changes
    ) -> Run:
        """A training on a draw of few images: they are repeated, so that an epoch is not too short,
        and passed over as often as gives at least so many steps. rehearsed: beside part 1's digits,
        likewise repeated."""

        def repeated(examples):
            count = len(examples.labels)
            return examples.take(np.tile(np.arange(count), max(1, 1280 // count)))

        rows = data.balanced(self.everything.labels, size, draw)
        examples = repeated(self.everything.take(rows))
        if rehearsed:
            examples = examples.join(repeated(self.digits))
        steps = len(examples.labels) // self.few.training.batch
        epochs = max(self.plan.few_epochs, math.ceil(least / steps))
        settings = vary(self.few, training__epochs=epochs, **changes)
        return self.declare(arm, draw, settings, examples, start=start, varies=varies)

    def compare(self, main: dict) -> None:
        """What the first starts' networks answer, image by image, and on corrupted pictures."""
        labels, starts = self.test.labels, self.plan.starts
        answers = {key: self.array(run, "answers") for key, run in main.items()}
        right = {key: answer == labels for key, answer in answers.items()}
        rows = self.info["facts"]["disagreement"] = []
        for (start, seed), ours in right.items():
            if start != "random":
                base, row = right["random", seed], {"arm": start, "seed": seed}
                row["only_this_right"] = int((ours & ~base).sum())
                row["only_random_right"] = int((base & ~ours).sum())
                rows.append(row)
        shown = "digits" if "digits" in starts else starts[1]
        apart = np.flatnonzero(right[shown, 0] != right["random", 0])[:24]
        self.arrays |= {
            "apart/pictures": self.test.pictures[apart, ..., 0],
            "apart/truth": labels[apart].astype(np.uint8),
            "apart/this": answers[shown, 0][apart],
            "apart/random": answers["random", 0][apart],
        }

        def robustness(outcomes):
            rows, count = [], len(self.seeds)
            for name in self.corrupted:
                reached = [analysis.accuracy(labels, o.tests[name].argmax(1)) for o in outcomes]
                ours, base = reached[:count], reached[count:]
                intervals = analysis.mean_interval(ours), analysis.paired_interval(ours, base)
                row = dict(zip(("accuracy", "difference"), intervals, strict=True))
                rows.append({"corruption": name} | row)
            return rows, {}

        for start in starts:
            tasks = [main[one, seed].task for one in (start, "random") for seed in self.seeds]
            self.derive(f"robustness/{start}", tasks, robustness)

    def look_inside(self, starts: dict, main: dict) -> None:
        """What training changed in the networks: distance, similarity, sharpness, and whether their
        solutions are connected. All on training and validation images."""
        seen = self.validation.take(np.arange(min(2000, len(self.validation.labels))))
        some = self.train.take(np.arange(min(1000, len(self.train.labels))))

        def inside(outcomes):
            from midas_lib import probe

            names, rows, arrays = [f"{layer}_relu" for layer in LAYERS] + ["features"], [], {}
            count = len(self.seeds)
            groups = zip(outcomes[:count], outcomes[count:-count], outcomes[-count:], strict=True)
            for seed, (begun, ended, base) in enumerate(groups):
                *backbone, kernel, bias = begun.weights
                begun = dataclasses.replace(begun, weights=[*backbone, kernel[:, :10], bias[:10]])
                models = before, after, _ = [
                    rebuild(outcome, self.mnist) for outcome in (begun, ended, base)
                ]
                old, new, random = (probe.features(model, seen, names) for model in models)
                moved = probe.distances(before, after)
                for name in names:
                    row = {"seed": seed, "layer": name.removesuffix("_relu")}
                    row["distance"] = moved.get(row["layer"])
                    row["cka_with_start"] = analysis.linear_cka(old[name], new[name])
                    row["cka_with_random"] = analysis.linear_cka(random[name], new[name])
                    rows.append(row)
                if seed == 0:
                    arrays["filters_before"] = probe.first_filters(before)
                    arrays["filters_after"] = probe.first_filters(after)
                    arrays["embedding"] = analysis.embedding(old["features"][:1000])
                rows[-1]["sharpness_before"] = probe.sharpness(before, some, SHARPNESS_RADIUS)
                rows[-1]["sharpness"] = probe.sharpness(after, some, SHARPNESS_RADIUS)
            return rows, arrays

        def path(outcomes):
            from midas_lib import probe

            one, other = (rebuild(outcome, self.mnist) for outcome in outcomes)
            _, accuracies = probe.interpolate(one, other, np.linspace(0, 1, 11), some, seen)
            return None, {"error": 1 - accuracies}

        def seconds_per_step():  # of one run alone on the machine: it turns steps into time
            from midas_lib import train

            settings = vary(self.mnist, training__epochs=1, training__checks=(1, 1))
            examples = self.train.take(np.arange(min(6400, len(self.train.labels))))
            return train.seconds_per_step(examples, 10, settings), {}

        for start in self.plan.starts:
            begun = [starts[start, seed].task for seed in self.seeds]
            ended = [main[one, seed].task for one in (start, "random") for seed in self.seeds]
            self.derive(f"inside/{start}", [*begun, *ended], inside)
        self.arrays["embedding_labels"] = seen.labels[:1000].astype(np.uint8)
        for label, pair in paths(self.plan.starts, self.plan.seeds).items():
            self.derive(f"path/{label}", [main[key].task for key in pair], path)
        first = main["random", 0].tasks
        self.derive("seconds_per_step", first, seconds_per_step, outcomes=False)


def paths(starts: tuple[str, ...], seeds: int) -> dict[str, tuple]:
    """Label -> the two (start, seed) between whose networks a straight line is drawn."""
    found = {f"random and {start}, same seed": (("random", 0), (start, 0)) for start in starts[1:]}
    if seeds > 1:
        found |= {f"{start}, two seeds": ((start, 0), (start, 1)) for start in starts}
    return found


def worth_in_labels(table: pd.DataFrame, plan: dict) -> dict[tuple[str, int], Interval]:
    """(start, labelled images) -> how many times as many labels a random start needs; inf beyond
    the most that were tried. plan: a `Plan`'s fields."""
    sizes = plan["sizes"]
    accuracy = {
        start: tables.metric_matrix(table[table["arm"] == f"few/{start}"], "size", "test_accuracy")
        for start in plan["few_starts"]
    }
    found = {}
    for start, ours in accuracy.items():
        for size in sizes:
            factor = analysis.label_factor(sizes, accuracy["random"], ours, size)
            most = sizes[-1] / size
            high = np.inf if factor.high >= most * (1 - 1e-9) else factor.high
            found[start, size] = dataclasses.replace(factor, low=min(factor.low, most), high=high)
    return found


def self_training_gains(table: pd.DataFrame) -> dict[int, Interval]:
    """Labelled images that self-training began with -> what it gained on the network that they, or
    for 0 the digits alone, had given."""
    rows = table[table["arm"] == "self-trained"]
    begun = table[table["arm"] == f"few/{REHEARSED}"].rename(columns={"test_accuracy": "before"})
    digits = table[table["arm"] == "start/digits"].assign(size=0)
    begun = pd.concat([begun, digits.rename(columns={"test_accuracy": "before"})])
    pairs = rows.merge(begun[["size", "seed", "before"]], on=["size", "seed"])
    pairs = pairs.assign(gain=pairs["test_accuracy"] - pairs["before"])
    return tables.mean_by(pairs, "size", "gain")


def equivalent_from(table: pd.DataFrame, plan: dict, start: str) -> int | None:
    """The number of labels from which on a start and a random one are equivalent, by `MARGIN`."""
    ours, base = (
        tables.metric_matrix(table[table["arm"] == f"few/{one}"], "size", "test_accuracy")
        for one in (start, "random")
    )
    return analysis.equivalence_size(plan["sizes"], ours, base, MARGIN)
