"""Part 2: what a pre-trained start is worth on MNIST: how soon, how far, and in labels."""

import dataclasses
import itertools
import math
from functools import partial

import numpy as np
import pandas as pd

from midas_lib import analysis, config, data, images
from midas_lib.analysis import Interval
from midas_lib.config import Augmentation, Settings, Training, vary
from midas_lib.data import Examples, ImageDataset
from midas_lib.results import Results
from midas_lib.studies.study import MnistStudy, Run, as_examples, plan_for, read_plans, spoilt

# What is compared: networks that begin with random weights, and with those of part 1's network
# trained on its 400 digits. And what else of part 1 that network may be trained on, as controls.
STARTS = ("random", "digits")
CONTROLS = {
    "characters": "62 characters", "letters": "52 letters",
    "shuffled": "62 characters, labels shuffled",
}  # fmt: skip
MARGIN = 0.001  # accuracies that differ by less are called equivalent
VALIDATION_SEED = 2
PRETRAINING = Settings()  # part 1's
MNIST = Settings(training=Training(batch=128, every=1, smoothing=0.0))
CHECKS = 5  # steps between the first checks of the curves
# Warps of the training on MNIST, each with and without pre-training: none, and part 1's.
PLAIN = Augmentation(rotation=0.0, scale=0.0, aspect=0.0, shear=0.0, shift=0.0, elastic=0.0)
WARPS = {"without warps": PLAIN, "with warps": MNIST.augmentation}
# With few labels, of which none chose anything: part 1's batches, and its peak rate.
FEW = vary(MNIST, training__batch=64)
# What few labels taught, made to agree with itself on pictures without labels.
SELF_TRAINING = vary(
    FEW, training__batch=128, training__loss="PRODEN", training__sharpening=2.0,
    training__sharpening_start=0.0, training__balance=1.0,
)  # fmt: skip
CURVES = ("step", "val_accuracy", "loss")
CUTS = ("fine-tuned", "frozen")  # what becomes of the layers that are taken over
PLANS = read_plans(2)


def steps_for(size: int, few_steps: int) -> int:
    """Training steps on so many labelled images, `few_steps` on up to 300."""
    return round(few_steps * min(4.0, max(1.0, math.sqrt(size / 300))))


def load(profile: str) -> dict[str, ImageDataset]:
    """The datasets of part 2: "characters", "mnist" (its training set) and "mnist-test"."""
    return {
        "characters": data.load_characters(profile),
        "mnist": data.load_mnist("train", profile),
        "mnist-test": data.load_mnist("test", profile),
    }


def run(
    profile: str, *, seeds: int | None = None, sizes: str | None = None, jobs: int | None = None,
    fresh: bool = False,
) -> Results:  # fmt: skip
    """Pre-train, train on MNIST, compare as `PLANS[profile]` says, and write the results. seeds: of
    each budget, and draws of few labels. sizes: numbers of labelled images, separated by commas
    (defaults: the profile's). jobs, fresh: as in `study.Study`. Raises `UserError` for what does
    not exist."""
    plan = _plan(profile, seeds, sizes)
    study = Part2(plan, profile, load(profile), jobs=jobs, fresh=fresh)
    for size in plan.sizes:
        data.balanced(study.everything.labels, size, 0)
    starts = study.starts()
    study.finish(list(starts.values()), "1 of 4, pre-training")
    rates = study.rates(starts)
    study.finish(list(rates.values()), "2 of 4, peak rates")
    main, few = study.main(starts, study.best_rates()), study.few_labels(starts)
    warped, again = study.warped(starts, main), study.again(starts, main)
    self_trained = study.self_trained(starts, few)
    study.finish([*main.values(), *warped.values(), *again.values()], "3 of 4, all labels")
    few_more = [*self_trained, *study.few_checked(starts), *study.controls(starts)]
    study.finish([*few.values(), *few_more], "4 of 4, few labels")
    reached = study.reached()
    chosen = max(STARTS, key=reached.get)
    best = [
        dataclasses.replace(main[chosen, max(plan.budgets), seed], arm="best", arrays=())
        for seed in study.seeds
    ]
    study.finish(best)
    study.compare(main, warped)
    study.look_inside(main, again)
    study.derive(
        "parameters", best[0].tasks, lambda found: (sum(map(np.size, found[0].weights)), {})
    )
    for start in STARTS:
        study.checkpoint(start, main[start, plan.epochs, 0], "test_accuracy", start=start)
    study.checkpoint("best", best[0], "test_accuracy", start=chosen)
    if self_trained:
        study.checkpoint("self-trained", self_trained[0], "test_accuracy", start="digits")
    more = {"batch": MNIST.training.batch, "trained_on": len(study.train.labels)}
    more["pretraining_images"] = plan.pretraining_epochs * len(study.characters.labels)
    return study.write("best", "test_accuracy", chosen_start=chosen, reached=reached, **more)


def _plan(profile: str, seeds: int | None, sizes: str | None):
    plan = plan_for(PLANS, profile, seeds, "side_seeds")
    if sizes:
        if not all(size.strip().isdecimal() for size in sizes.split(",")):
            raise config.UserError(f"sizes={sizes}: give whole numbers separated by commas")
        plan = dataclasses.replace(plan, sizes=tuple(sorted(map(int, sizes.split(",")))))
    return plan


class Part2(MnistStudy):
    """Part 2's runs, by what they are about, and what is compared of them. characters: part 1's,
    for pre-training. train, validation: MNIST's training set, divided; everything: undivided. test:
    MNIST's. corrupted: the test pictures with each corruption."""

    def __init__(self, plan, profile: str, datasets: dict[str, ImageDataset], **options):
        super().__init__(2, profile, plan, datasets, **options)
        pictures, _ = images.preprocess(datasets["characters"].images, MNIST.preprocessing)
        self.characters = Examples(pictures=pictures, labels=datasets["characters"].labels)
        self.everything = as_examples(datasets["mnist"], plan.images)
        rest, held_out = data.split(self.everything.labels, plan.validation, VALIDATION_SEED)
        self.train, self.validation = self.everything.take(rest), self.everything.take(held_out)
        self.test = as_examples(datasets["mnist-test"], plan.test_images)
        self.corrupted = spoilt(self.test)
        self.seeds, self.side_seeds = range(plan.seeds), range(plan.side_seeds)
        self.few = vary(FEW, **plan.changes)

    def _settings(self, epochs: int, **changes) -> Settings:
        return vary(MNIST, training__epochs=epochs, **changes, **self.plan.changes)

    def _pretraining(self, name: str) -> Examples:
        """The pictures of part 1 that a start learns, with their labels from 0."""
        labels = self.characters.labels
        if name == "characters":
            return self.characters
        if name == "shuffled":  # each picture has some picture's label
            order = np.random.default_rng(0).permutation(len(labels))
            return dataclasses.replace(self.characters, labels=labels[order])
        some = self.characters.take((labels < 10) == (name == "digits"))
        return dataclasses.replace(some, labels=some.labels - some.labels.min())

    def starts(self) -> dict[tuple[str, int], Run]:
        """(start, seed) -> what a training starts from, tested on MNIST as it is: arms
        "start/..."."""
        tests = {"test": self.test, "validation": self.validation}
        both = {"tests": tests, "measure": partial(self.zero_shot, tests=tests)}
        found = {}
        for name in (*STARTS, *CONTROLS):
            examples = self.validation if name == "random" else self._pretraining(name)
            share = 0 if name == "random" else len(self.characters.labels) / len(examples.labels)
            epochs = round(self.plan.pretraining_epochs * share)
            settings = vary(PRETRAINING, training__epochs=epochs, **self.plan.changes)
            for seed in self.seeds if name in STARTS else self.side_seeds:
                run = f"start/{name}", seed, settings
                if name == "characters":
                    found[name, seed] = self.pretrained(*run, **both)
                else:
                    more = {"classes": int(examples.labels.max()) + 1} | both
                    found[name, seed] = self.declare(*run, examples, **more)
        return found

    def _trained(self, arm, start, seed, settings, **more) -> Run:
        """A training on MNIST, measured on the validation images. start: finished."""

        def measure(outcome, before):
            return self.learned(
                outcome, before["validation_accuracy"], CURVES,
                validation_accuracy=float(outcome.history["val_accuracy"][-1]),
            )  # fmt: skip

        return self.declare(
            arm, seed, settings, self.train, start=start, held_out=self.validation,
            measure=partial(measure, before=self.row(start)), **more,
        )  # fmt: skip

    def rates(self, starts: dict) -> dict[tuple[str, float, int], Run]:
        """(start, peak rate, seed) -> a short training, arms "rate/..."."""
        return {
            (start, rate, seed): self._trained(
                f"rate/{start}", starts[start, seed], seed,
                self._settings(self.plan.rate_epochs, training__rate=rate),
            )
            for start in STARTS
            for rate in self.plan.rates
            for seed in range(min(self.plan.rate_seeds, self.plan.seeds))
        }  # fmt: skip

    def best_rates(self) -> dict[str, float]:
        """Start -> the peak rate with the best accuracy on the validation images; of equals the
        first. The rates are finished."""
        reached = self.table.groupby(["arm", "rate"])["validation_accuracy"].mean()
        return {start: reached[f"rate/{start}"].idxmax() for start in STARTS}

    def main(self, starts: dict, rates: dict[str, float]) -> dict[tuple[str, int, int], Run]:
        """(start, epochs, seed) -> training on MNIST, all else but the peak rate alike for one
        seed, arms named by their start."""
        found = {}
        for start in STARTS:
            for epochs in self.plan.budgets:
                followed = epochs == self.plan.epochs
                settings = self._settings(
                    epochs, training__rate=rates[start], training__checks=CHECKS * followed
                )
                tests = {"mnist": self.test} | (self.corrupted if followed else {})
                for seed in self.seeds:
                    found[start, epochs, seed] = self._trained(
                        start, starts[start, seed], seed, settings, tests=tests,
                        arrays=CURVES if followed else (),
                    )  # fmt: skip
        return found

    def reached(self) -> dict[str, float]:
        """Start -> mean accuracy on the validation images, with the largest budget."""
        longest = self.table[self.table["epochs"] == max(self.plan.budgets)]
        means = longest.groupby("arm")["validation_accuracy"].mean()
        return {start: float(means[start]) for start in STARTS}

    def warped(self, starts: dict, main: dict) -> dict[tuple[str, str, int], Run]:
        """(warps, start, seed) -> training with each of `WARPS`, arms "plain/..."; with warps it is
        the main arms'."""
        tests, found = {"mnist": self.test, **self.corrupted}, {}
        for start, seed in itertools.product(STARTS, self.side_seeds):
            run = found["with warps", start, seed] = main[start, self.plan.epochs, seed]
            changes = {"augmentation": WARPS["without warps"], "training__checks": 0}
            settings = vary(run.task.settings, seed=0, **changes)
            found["without warps", start, seed] = self._trained(
                f"plain/{start}", starts[start, seed], seed, settings, tests=tests
            )
        return found

    def again(self, starts: dict, main: dict) -> dict[str, Run]:
        """Start -> the first seed's start trained once more, images in another order, arms
        "again/..."."""
        return {
            start: self._trained(
                f"again/{start}", starts[start, 0], 0,
                vary(main[start, self.plan.epochs, 0].task.settings, seed=100, training__checks=0),
            )
            for start in STARTS
        }  # fmt: skip

    def few_labels(self, starts: dict) -> dict[tuple[str, str, int, int], Run]:
        """(arm, start, size, draw) -> training on so many labelled images, arms "few/..."; beside
        part 1's digits, arms "rehearsed/..."."""
        sizes = {"few": self.plan.sizes, "rehearsed": self.plan.rehearsed_sizes}
        return {
            (arm, start, size, draw): self._few(
                f"{arm}/{start}", draw, size, starts[start, draw], rehearsed=arm == "rehearsed"
            )
            for arm in sizes
            for start in STARTS
            for size in sizes[arm]
            for draw in self.seeds
        }

    def few_checked(self, starts: dict) -> list[Run]:
        """The same with half the steps, arms "half/...", and for some sizes with these at other
        peak rates, arms "few-rate/..."."""
        half = [
            self._few(f"half/{start}", draw, size, starts[start, draw], share=0.5)
            for start in STARTS
            for size in self.plan.sizes
            for draw in self.side_seeds
        ]
        return half + [
            self._few(
                f"few-rate/{start}", draw, size, starts[start, draw], share=0.5, training__rate=rate
            )
            for start in STARTS
            for size in self.plan.few_rate_sizes
            for rate in self.plan.few_rates
            for draw in self.side_seeds
        ]  # fmt: skip

    def self_trained(self, starts: dict, few: dict) -> list[Run]:
        """Going on, on training images whose labels are taken away, from the network of a few
        labels, rehearsed where it began with the digits; with no label, from theirs."""
        pictures = self.everything.pictures[: self.plan.unlabelled_images]
        unlabelled = Examples(pictures=pictures, labels=np.full(len(pictures), -1))
        settings = vary(
            SELF_TRAINING, training__epochs=self.plan.unlabelled_epochs, **self.plan.changes
        )
        begun = {
            ("digits", size, draw): few["rehearsed", "digits", size, draw]
            if size else starts["digits", draw]
            for size in self.plan.unlabelled_sizes
            for draw in self.seeds
        } | {
            ("random", size, draw): few["few", "random", size, draw]
            for size in self.plan.unlabelled_sizes if size
            for draw in self.side_seeds
        }  # fmt: skip
        return [
            self.declare(
                f"self-trained/{start}", draw, settings, unlabelled, varies={"size": size},
                start=run,
            )
            for (start, size, draw), run in begun.items()
        ]  # fmt: skip

    def controls(self, starts: dict) -> list[Run]:
        """A few labels, from other starts, arms "control/...", and from the digits' with its first
        layers alone: "fine-tuned/3" goes on training three of them, "frozen/3" keeps them as they
        are."""
        found, size = [], self.plan.control_size
        for seed in self.side_seeds:
            for name in CONTROLS:
                head = {"transfer__head": name == "characters"}
                found.append(self._few(f"control/{name}", seed, size, starts[name, seed], **head))
            for cut in CUTS:
                for layers in self.plan.copied[cut == "frozen" :]:
                    # Another seed, or a new layer would be the one that pre-training began with.
                    change = {"transfer__layers": layers, "transfer__head": False, "seed": 100}
                    change["transfer__frozen"] = cut == "frozen"
                    start = starts["digits", seed]
                    found.append(self._few(f"{cut}/{layers}", seed, size, start, **change))
        return found

    def _few(self, arm, draw, size, start, *, share=1.0, rehearsed=False, **changes) -> Run:
        """A training on a draw of few images: they are repeated, so that an epoch is not too short,
        and passed over as often as gives the plan's steps, or a share of them. rehearsed: beside
        part 1's digits, likewise repeated."""

        def repeated(examples):
            count = len(examples.labels)
            return examples.take(np.tile(np.arange(count), max(1, 1280 // count)))

        examples = repeated(self.everything.take(data.balanced(self.everything.labels, size, draw)))
        if rehearsed:
            examples = examples.join(repeated(self._pretraining("digits")))
        steps = max(1, len(examples.labels) // self.few.training.batch)
        epochs = math.ceil(share * steps_for(size, self.plan.few_steps) / steps)
        settings = vary(self.few, training__epochs=epochs, **changes)
        return self.declare(arm, draw, settings, examples, start=start, varies={"size": size})

    def compare(self, main: dict, warped: dict) -> None:
        """How the starts' networks end, image by image, for each budget; and on corrupted pictures,
        for each of `WARPS`."""
        for epochs in self.plan.budgets:
            ends = {start: [main[start, epochs, seed] for seed in self.seeds] for start in STARTS}
            self.ends(f"end/{epochs}", ends)

        withstand = partial(self.robustness, STARTS, ("mnist", *self.corrupted))
        for warps in WARPS:
            tasks = [
                warped[warps, start, seed].task for start in STARTS for seed in self.side_seeds
            ]
            self.derive(f"robustness/{warps}", tasks, withstand)

    def look_inside(self, main: dict, again: dict) -> None:
        """Whether the starts end in the same network: what they compute, layer by layer, what they
        misread, and what lies between them; each beside two networks of one kind. All but the
        misread are of training and validation images."""
        seen = self.validation.take(np.arange(min(2000, len(self.validation.labels))))
        some = self.train.take(np.arange(min(1000, len(self.train.labels))))
        ends = {key[::2]: run for key, run in main.items() if key[1] == self.plan.epochs}

        alike = partial(self.pair, self._settings(0), seen, some)
        for label, runs in pairs(ends, again, self.plan.seeds).items():
            self.derive(f"pair/{label}", [run.task for run in runs], alike)

        def seconds_per_step():  # of one run alone on the machine: it turns steps into time
            from midas_lib import train

            examples = self.train.take(np.arange(min(6400, len(self.train.labels))))
            return train.seconds_per_step(examples, 10, self._settings(1)), {}

        first = ends["random", 0].tasks
        self.derive("seconds_per_step", first, seconds_per_step, outcomes=False)


def pairs(ends: dict, again: dict, seeds: int) -> dict[str, tuple[Run, Run]]:
    """Label -> two networks that are compared. ends: (start, seed) -> run; again: start -> run."""
    found = {"random and pre-trained": (ends["random", 0], ends["digits", 0])}
    if seeds > 1:
        found["two random"] = ends["random", 0], ends["random", 1]
        found["two pre-trained"] = ends["digits", 0], ends["digits", 1]
    found["one random start, twice"] = ends["random", 0], again["random"]
    found["one pre-trained start, twice"] = ends["digits", 0], again["digits"]
    return found


def label_curves(info: dict, table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Start -> test accuracy by labelled images (columns) and draw (rows); the last of them are all
    training images, with the largest budget. info: a study's."""
    plan, found = info["plan"], {}
    for start in STARTS:
        few = table[table["arm"] == f"few/{start}"]
        rows = table[(table["arm"] == start) & (table["epochs"] == max(plan["budgets"]))]
        rows = pd.concat([few, rows.assign(size=info["trained_on"])])
        found[start] = rows.pivot(index="seed", columns="size", values="test_accuracy")
        found[start].columns = found[start].columns.astype(int)
    return found


def worth_in_labels(info: dict, table: pd.DataFrame) -> dict[int, Interval]:
    """Labelled images -> how many times as many labels a random start needs to read as well as the
    pre-trained one; inf beyond all training images."""
    random, digits = (label_curves(info, table)[start] for start in STARTS)
    sizes, found = list(random.columns), {}
    for size in sizes:
        factor = analysis.label_factor(sizes, random.to_numpy(), digits.to_numpy(), size)
        most = sizes[-1] / size
        high = np.inf if factor.high >= most * (1 - 1e-9) else factor.high
        found[size] = dataclasses.replace(factor, low=min(factor.low, most), high=high)
    return found
