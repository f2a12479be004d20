"""Part 3: learn to read digits from labels that are all wrong."""

import dataclasses
import itertools
import math
import re
from functools import partial

import numpy as np
import pandas as pd

from midas_lib import analysis, audit, config, data, files, images
from midas_lib.config import Settings, vary
from midas_lib.data import Examples, ImageDataset
from midas_lib.results import Results
from midas_lib.runs import Outcome
from midas_lib.studies import part2
from midas_lib.studies.study import (
    Measured,
    MnistStudy,
    Run,
    as_examples,
    plan_for,
    read_plans,
    rebuild,
    spoilt,
)

STARTS = ("random", "pretrained")
CURVES = ("step", "loss", "val_accuracy")
MARGIN = 0.0015  # accuracies that differ by less are called equivalent
# Part 2's settings, but for milder warps.
NAIVE = vary(
    part2.MNIST, training__checks=part2.CHECKS, augmentation__rotation=12.0,
    augmentation__scale=0.12, augmentation__aspect=0.12, augmentation__shear=0.2,
    augmentation__shift=0.06, augmentation__elastic=0.0,
)  # fmt: skip
SHARPENED = {"training__loss": "PRODEN", "training__sharpening": 2.0}
WEAK = vary(NAIVE, **SHARPENED)
# Compared on the same images for the same number of steps, each at the best of some peak rates.
# "PRODEN" alone tells what its two views are worth, "forward, twice as long" what as many warped
# pictures are worth without comparing two; "PRODEN, sharpened" is the strongest arms' loss.
LOSSES = {
    "cross-entropy": {},
    **{name: {"training__loss": name} for name in config.LOSSES if name != "cross-entropy"},
    "forward, twice as long": {"training__loss": "forward"},
    "PRODEN, sharpened": SHARPENED,
    "PRODEN, sharpened, averaged": SHARPENED | {"training__averaging": 0.995},
}
# When targets are sharpened, whether classes are balanced until then, and how pictures are warped:
# compared on folders drawn anew, where what is right is known without a true digit.
CHOICES = {
    "after a half": {},
    "never": {"training__sharpening": 1.0},
    "from the start": {"training__sharpening_start": 0.0},
    "after three quarters": {"training__sharpening_start": 0.75},
    "after a half, balanced": {"training__balance": 1.0},
    "after a half, part 1's warps": {"augmentation": part2.MNIST.augmentation},
    "after a half, peak rate doubled": {"training__rate": 4e-3},
}
# What is trained on in the second stage instead of sharpened targets: labels that were recovered,
# taken at their word. By the first stage's network of the same seed; by the mean of all seeds'; by
# the wrong labels of pictures that look alike as well; without the least certain hundredth.
WORDS = ("own", "together", "neighbours", "certain")
SURE = (0.0, 0.5, 0.9, 0.99, 0.999, 1.01)  # bounds of how sure recovered labels are


PLANS = read_plans(3)


def load(profile: str) -> dict[str, ImageDataset]:
    """The datasets of part 3: "mislabelled", "characters", "mnist-test", and "mnist" (its training
    set, for verification alone)."""
    return part2.load(profile) | {"mislabelled": data.load_mislabelled(profile)}


def run(
    profile: str, *, seeds: int | None = None, jobs: int | None = None, fresh: bool = False
) -> Results:
    """Audit the folders, believe them, compare losses, train the strongest arms, on the folders and
    on the digits, as `PLANS[profile]` says, and write the results.

    seeds: how many of the strongest arms (default: the profile's). jobs, fresh: as in
    `study.Study`. Raises `UserError` for a profile or a number of seeds that does not exist.
    """
    plan = plan_for(PLANS, profile, seeds, "side_seeds")
    study = Part3(plan, profile, load(profile), jobs=jobs, fresh=fresh)
    starts = study.starts()
    study.finish(list(starts.values()), "1 of 5, pre-training")
    found = study.derive("audit", starts["pretrained", 0].tasks, partial(_audit, study.folders))
    study.leak = own_label_rate(found)
    first, naive, rates = study.first(starts), study.naive(starts), study.rates()
    believed = [*naive.values(), *study.memorised(), *rates.values()]
    study.finish(believed, "2 of 5, folders believed")
    second, compared = study.second(first), study.compared(study.best_rates(rates))
    study.finish([*first.values(), *second.values()], "3 of 5, two stages")
    study.finish([*compared, *study.budgets(starts)], "4 of 5, losses and lengths")
    beyond = [*study.at_their_word(first), *study.longer(first), *study.redrawn(first)]
    study.finish([*beyond, *study.few(starts)], "5 of 5, few labels and more")
    study.select(compared)
    study.compare(first, second)
    study.check(second)
    for start in STARTS:
        begun = "random" if start == "random" else "part 1's 62 characters"
        kept = {"naive": naive[start, 0], "recovered": second["folders", start, 0]}
        for name, one in kept.items():
            study.checkpoint(
                f"{name}-{start}", one, "test_accuracy", start=begun,
                labels="folders of mnistTask3.zip, all but a few of them wrong",
            )  # fmt: skip
    found = study.write("recovered-random", "test_accuracy", leak=study.leak)
    write_labels(found)
    return found


def _audit(folders: Examples, outcomes: list[Outcome]) -> Measured:
    """The audit of the first pictures, as many as the reference network was asked about."""
    reference = outcomes[0].tests["audited"][:, :10]
    count = len(reference)
    found = audit.audit(folders.pictures[:count, ..., 0], folders.labels[:count], reference)
    names = ("verdict", "reason", "advice", "own_folder_rate", "transition", "low", "high")
    facts = {name: getattr(found, name) for name in names}
    return facts | {"settled": int(found.settled.sum()), "evidence": found.evidence}, {}


def own_label_rate(found: dict) -> float:
    """The share of own-folder labels that training assumes: the audit's, if it found the folders
    complementary. found: as from `_audit`."""
    return round(found["own_folder_rate"].mean, 3) if "complementary" in found["verdict"] else 0.0


def estimate_accuracy(
    predictions: np.ndarray, folders: np.ndarray, leak: float, classes: int = 10
) -> analysis.Interval:
    """Accuracy told from complementary labels alone, with its interval, cut off at 0 and 1: a right
    answer names the folder with probability `leak`, a wrong one with (1 - leak) / (classes - 1).
    The estimate itself may lie beyond."""
    hits = analysis.proportion_interval((predictions == folders).sum(), len(folders))
    wrong = (1 - leak) / (classes - 1)
    mean, high, low = ((wrong - rate) / (wrong - leak) for rate in (hits.mean, hits.low, hits.high))
    return analysis.Interval(mean, max(low, 0.0), min(high, 1.0), hits.n)


class Part3(MnistStudy):
    """Part 3's runs, by what they are about, and what is compared of them.

    folders: the pictures, in a fixed random order, with their folders' labels, which is all that
    training and choices ever see. digits: the same with `truth`, int (n,), their digits in MNIST,
    which nothing but the ceiling's arms and the report's verification sees; -1 where MNIST has no
    such picture. characters: part 1's. test: MNIST's. leak: the share of own-folder labels that
    training assumes.
    """

    def __init__(self, plan, profile: str, datasets: dict[str, ImageDataset], **options):
        super().__init__(3, profile, plan, datasets, **options)
        mislabelled, mnist = datasets["mislabelled"], datasets["mnist"]
        order = np.random.default_rng(3).permutation(len(mislabelled.labels))[: plan.images]
        names = [mislabelled.names[i] for i in order]
        self.numbers = np.array([int(re.search(r"(\d+)\.\w+$", name)[1]) for name in names])
        known = self.numbers < len(mnist.labels)
        self.truth = np.where(known, mnist.labels[np.where(known, self.numbers, 0)], -1)
        self.folders = Examples(
            pictures=mislabelled.images[order][..., None], labels=mislabelled.labels[order]
        )
        self.digits = dataclasses.replace(self.folders, labels=self.truth)
        pictures, _ = images.preprocess(datasets["characters"].images, NAIVE.preprocessing)
        self.characters = Examples(pictures=pictures, labels=datasets["characters"].labels)
        self.test = as_examples(datasets["mnist-test"], plan.test_images)
        self.held_out = self.folders.take(np.arange(plan.held_out))
        self.rest = self.folders.take(np.arange(plan.held_out, len(order)))
        # For curves alone: with their digits, the pictures held out are measured and nothing else.
        self.true_held_out = self.digits.take(np.arange(plan.held_out))
        self.corrupted = spoilt(self.test)
        self.seeds, self.side_seeds = range(plan.seeds), range(plan.side_seeds)
        self.leak = 0.0
        self.info["facts"]["dataset"] = self._described(mnist.images)
        for folder in range(10):
            first = np.flatnonzero(mislabelled.labels == folder)[:30]
            self.arrays[f"folder/{folder}"] = mislabelled.images[first]

    def _described(self, originals: np.ndarray) -> dict:
        """How the pictures differ from MNIST's of their numbers, in gray levels, and how often that
        one is the most alike of all; how many lie in their own folder, and how likely it is that
        chance puts exactly as many of each digit there."""
        known = np.flatnonzero(self.truth >= 0)
        ours, theirs = self.folders.pictures[known, ..., 0], originals[self.numbers[known]]
        some, points = known[:500], originals.reshape(len(originals), -1).astype(np.float32)
        asked = self.folders.pictures[some].reshape(len(some), -1).astype(np.float32)
        nearest = (asked @ points.T - (points**2).sum(1) / 2).argmax(1)
        own = np.bincount(self.truth[self.truth == self.folders.labels], minlength=10)
        return {
            "apart": float(np.abs(ours.astype(np.int16) - theirs).mean()),
            "named_is_nearest": analysis.accuracy(self.numbers[some], nearest),
            "compared": len(some),
            "own": own,
            "own_p": analysis.even_split(own),
        }

    def _settings(self, settings: Settings, epochs: int, **changes) -> Settings:
        return vary(settings, training__epochs=epochs, **changes, **self.plan.changes)

    def starts(self) -> dict[tuple[str, int], Run]:
        """("pretrained", seed) -> part 1's network of 62 characters, asked about MNIST and the
        pictures in folders. A random start is none of these."""
        audited = self.folders.take(np.arange(min(self.plan.audited, len(self.truth))))
        known = {"test": self.test, "held_out": self.true_held_out}
        settings = self._settings(part2.PRETRAINING, self.plan.pretraining_epochs)
        return {
            ("pretrained", seed): self.pretrained(
                "start/pretrained", seed, settings, known | {"audited": audited},
                partial(self.zero_shot, tests=known),
            )
            for seed in self.seeds
        }  # fmt: skip

    def _before(self, starts: dict, start: str, seed: int) -> float:
        """A start's accuracy on the pictures held out; of random weights it is by chance."""
        return self.row(starts[start, seed])["held_out_accuracy"] if start != "random" else 0.1

    def naive(self, starts: dict) -> dict[tuple[str, int], Run]:
        """(start, seed) -> believing the folders."""
        settings = self._settings(NAIVE, self.plan.naive_epochs)

        def measure(outcome, before):
            logs = np.log(np.maximum(outcome.probabilities, 1e-12))
            folder_loss = analysis.negative_log_likelihood(self.held_out.labels, logs)
            least_likely = outcome.tests["mnist"].argmin(1)
            return self.learned(
                outcome, before, CURVES, held_out_folder_loss=folder_loss,
                argmin_accuracy=analysis.accuracy(self.test.labels, least_likely),
            )  # fmt: skip

        return {
            (start, seed): self.declare(
                f"naive-{start}", seed, settings, self.rest, start=starts.get((start, seed)),
                held_out=self.true_held_out, arrays=CURVES,
                measure=partial(measure, before=self._before(starts, start, seed)),
            )
            for start in STARTS
            for seed in self.seeds
        }  # fmt: skip

    def memorised(self) -> list[Run]:
        """Believing the folders of few pictures for long, with each of part 2's warps, arms
        "memorised/...": how many of these very pictures a network files as they are."""
        some = self.rest.take(np.arange(min(self.plan.memorised_images, len(self.rest.labels))))
        settings = self._settings(NAIVE, self.plan.memorised_epochs, training__checks=0)
        measure = partial(self.learned, before=0.1, curves=CURVES)
        warps = part2.WARPS | {"with warps": NAIVE.augmentation}
        return [
            self.declare(
                f"memorised/{name}", 0, vary(settings, augmentation=ranges), some,
                held_out=some, measure=measure, arrays=CURVES,
            )
            for name, ranges in warps.items()
        ]  # fmt: skip

    def _compared(self, kind: str, loss: str, seed: int, **changes) -> Run:
        """A short training on fewer pictures with a loss."""
        some = self.rest.take(np.arange(min(self.plan.compared_images, len(self.rest.labels))))
        epochs = self.plan.compared_epochs * (2 if loss.endswith("twice as long") else 1)
        settings = self._settings(NAIVE, epochs, training__leak=self.leak)
        believed = loss == "cross-entropy"

        def measure(outcome):
            folders = self.held_out.labels
            named = outcome.probabilities[np.arange(len(folders)), folders]
            others = self.leak * named + (1 - self.leak) * (1 - named) / 9
            likelihood = np.maximum(named if believed else others, 1e-12)
            return self.tested(outcome)[0] | {"risk": -float(np.log(likelihood).mean())}, {}

        return self.declare(
            f"{kind}/{loss}", seed, vary(settings, **LOSSES[loss], **changes), some,
            held_out=self.held_out, measure=measure,
        )  # fmt: skip

    def rates(self) -> dict[tuple[str, float], Run]:
        """(loss, peak rate) -> a short training with each, arms "loss-rate/..."."""
        return {
            (loss, rate): self._compared("loss-rate", loss, 0, training__rate=rate)
            for loss in list(LOSSES)[: self.plan.compared]
            for rate in self.plan.rates
        }

    def best_rates(self, rates: dict) -> dict[str, float]:
        """Loss -> the peak rate with which the folders of held-out pictures are likeliest; of
        equals the first."""
        return {
            loss: min(self.plan.rates, key=lambda rate: self.row(rates[loss, rate])["risk"])
            for loss, _ in rates
        }

    def compared(self, rates: dict[str, float]) -> list[Run]:
        """A short training with each loss at its own peak rate, arms "loss/..."."""
        return [
            self._compared("loss", loss, seed, training__rate=rate)
            for loss, rate in rates.items()
            for seed in self.side_seeds
        ]

    def _stage(self, arm, seed, settings, examples, start, before=None, **more) -> Run:
        """A training on all pictures, which are read afterwards."""
        tests = {"mnist": self.test, "folders": self.folders} | more.pop("tests", {})
        arrays = ("right", "nll", *(() if before is None else CURVES))
        return self.declare(
            arm, seed, settings, examples, start=start, tests=tests, arrays=arrays,
            held_out=self.true_held_out, measure=partial(self._recovered, before=before), **more,
        )  # fmt: skip

    def _recovered(self, outcome: Outcome, before: float | None) -> Measured:
        labels = self._posterior([outcome]).argmax(1)
        share = {"recovered_share": analysis.accuracy(self.truth, labels)}
        if before is None:
            metrics, arrays = self.tested(outcome)
            return metrics | share, arrays
        return self.learned(outcome, before, CURVES, **share)

    def _weak(self, arm, labels, start, seed, epochs, starts, **more) -> Run:
        """A first stage on "folders", or on "digits", all of them right: the same loss, of labels
        that are true with certainty."""
        leak = self.leak if labels == "folders" else 1.0
        settings = self._settings(WEAK, epochs, training__leak=leak)
        before = self._before(starts, start, seed)
        examples = getattr(self, labels)
        return self._stage(arm, seed, settings, examples, starts.get((start, seed)), before, **more)

    def first(self, starts: dict) -> dict[tuple[str, str, int], Run]:
        """(labels, start, seed) -> the first stage of the strongest arms, "weak-...", and of their
        ceiling, "ceiling-weak-...", which is the same on true labels."""
        kinds = (("folders", "", self.seeds), ("digits", "ceiling-", self.side_seeds))
        return {
            (labels, start, seed): self._weak(
                f"{prefix}weak-{start}", labels, start, seed, self.plan.epochs, starts
            )
            for labels, prefix, seeds in kinds
            for start in STARTS
            for seed in seeds
        }

    def budgets(self, starts: dict) -> list[Run]:
        """First stages of other lengths, arms "budget/..."."""
        return [
            self._weak(f"budget/{start}", "folders", start, seed, epochs, starts)
            for epochs in self.plan.budgets
            for start in STARTS
            for seed in self.side_seeds
        ]

    def second(self, first: dict) -> dict[tuple[str, str, int], Run]:
        """(labels, start, seed) -> going on, sharpening growing from the first step: the targets
        are the labels recovered, revised at each."""
        arms = {"folders": "recovered", "digits": "ceiling"}
        return {
            (labels, start, seed): self._stage(
                f"{arms[labels]}-{start}", seed, self._second(run, self.plan.second_epochs),
                run.task.examples, run, tests=self.corrupted,
            )
            for (labels, start, seed), run in first.items()
        }  # fmt: skip

    def _second(self, run: Run, epochs: int) -> Settings:
        """The second stage's settings."""
        changes = {"epochs": epochs, "sharpening_start": 0.0, "checks": 0}
        changes = {f"training__{name}": value for name, value in changes.items()}
        return vary(run.task.settings, seed=0, **changes)

    def longer(self, first: dict) -> list[Run]:
        """Longer second stages, arms "long-random"."""
        return [
            self._stage("long-random", seed, self._second(run, self.plan.long_epochs),
                        run.task.examples, run)
            for seed in self.side_seeds[: self.plan.compared]
            for run in [first["folders", "random", seed]]
        ]  # fmt: skip

    def _posterior(self, outcomes) -> np.ndarray:
        """Each digit's probability for each picture, by the mean of networks and the folder."""
        mean = np.mean([outcome.tests["folders"] for outcome in outcomes], 0)
        return audit.posterior(mean, self.folders.labels, self.leak)

    def _worded(self, word: str, runs: list[Run]) -> Examples:
        """The pictures with labels of one of `WORDS`, recovered by first stages."""
        outcomes = list(self.outcomes([run.task for run in runs]).values())
        found = self._posterior(outcomes)
        labelled = dataclasses.replace(self.folders, labels=found.argmax(1))
        if word == "certain":
            return labelled.take(np.sort(np.argsort(found.max(1))[len(found) // 100 :]))
        if word == "neighbours":
            from midas_lib import probe

            model = rebuild(outcomes[0], runs[0].task.settings)
            features = probe.features(model, self.folders, ["features"])["features"]
            pooled = audit.fewest_named(features, self.folders.labels)
            return dataclasses.replace(self.folders, labels=pooled)
        return labelled

    def at_their_word(self, first: dict) -> list[Run]:
        """Going on, from a random start's first stage, with cross-entropy on labels recovered by
        each of `WORDS`, arms "hard-..."."""
        settings = self._settings(NAIVE, self.plan.second_epochs, training__checks=0)
        all_seeds, found = [first["folders", "random", seed] for seed in self.seeds], []
        for word in WORDS[: self.plan.compared]:
            for seed in self.side_seeds:
                runs = all_seeds if word == "together" else all_seeds[seed : seed + 1]
                names = " ".join(run.digest for run in runs)
                found.append(
                    self._stage(
                        f"hard-{word}", seed, settings, partial(self._worded, word, runs),
                        all_seeds[seed], origin=f"{word} labels recovered by {names}",
                    )
                )  # fmt: skip
        return found

    def redrawn(self, first: dict) -> list[Run]:
        """Each of `CHOICES` on folders drawn anew from the first network's recovered labels, of
        some pictures; the others, with those labels, tell how good it is."""
        run, count = first["folders", "random", 0], self.plan.redrawn_images
        others = self.folders.take(np.arange(count, len(self.truth)))

        def recovered():
            return self._posterior(self.outcomes(run.tasks).values()).argmax(1)

        def folders():
            known = recovered()
            rng = np.random.default_rng(5)
            wrong = (known + rng.integers(1, 10, len(known))) % 10
            drawn = np.where(rng.random(len(known)) < self.leak, known, wrong)
            return Examples(pictures=self.folders.pictures[:count], labels=drawn[:count])

        def measure(outcome):
            answers = outcome.tests["others"].argmax(1)
            agreement = analysis.accuracy(recovered()[count:], answers)
            return {"recovered_agreement": agreement, "seconds": outcome.seconds}, {}

        settings = self._settings(WEAK, self.plan.redrawn_epochs, training__leak=self.leak)
        return [
            self.declare(
                f"redrawn/{choice}", 0, vary(settings, **changes), folders, measure=measure,
                tests={"others": others}, origin=f"folders redrawn from {run.digest}",
            )
            for choice, changes in list(CHOICES.items())[: self.plan.compared]
        ]  # fmt: skip

    def few(self, starts: dict) -> list[Run]:
        """The first stage on few pictures, repeated so that there are enough steps, arms
        "few/...", and with half the steps, "half/..."."""
        found = []
        for start, size, draw in itertools.product(STARTS, self.plan.sizes, self.side_seeds):
            order = np.random.default_rng(draw).permutation(len(self.truth))
            rows = np.tile(order[:size], max(1, 1280 // size))
            for arm, steps in ("few", self.plan.few_steps), ("half", self.plan.few_steps // 2):
                settings = self._settings(
                    WEAK, math.ceil(steps / (len(rows) // 64)), training__batch=64,
                    training__leak=self.leak,
                )  # fmt: skip
                found.append(
                    self.declare(
                        f"{arm}/{start}", draw, settings, self.folders.take(rows),
                        start=starts.get((start, draw)), varies={"size": size},
                    )
                )  # fmt: skip
        return found

    def select(self, compared: list[Run]) -> None:
        """Each loss' accuracy as the folders of held-out pictures tell it, as their digits do, and
        on MNIST's test set; means over seeds."""
        digits = self.true_held_out.labels

        def select(outcomes, sign):
            answers = [(sign * outcome.probabilities).argmax(1) for outcome in outcomes]
            tested = [(sign * outcome.tests["mnist"]).argmax(1) for outcome in outcomes]
            told = [estimate_accuracy(a, self.held_out.labels, self.leak) for a in answers]
            bounds = np.mean([[one.mean, one.low, one.high] for one in told], 0)
            right = [analysis.accuracy(self.test.labels, answer) for answer in tested]
            return {
                "told_by_folders": analysis.Interval(*bounds.tolist(), len(digits)),
                "told_by_digits": float(np.mean([analysis.accuracy(digits, a) for a in answers])),
                "test_accuracy": analysis.rate_interval(right),
            }, {}

        for loss in list(LOSSES)[: self.plan.compared]:
            # A network that was taught the folders says what a picture is by what is least likely.
            sign = -1 if loss == "cross-entropy" else 1
            tasks = [run.task for run in compared if run.arm == f"loss/{loss}"]
            self.derive(f"selection/{loss}", tasks, partial(select, sign=sign))

    def compare(self, first: dict, second: dict) -> None:
        """How the two starts end, after each stage, and what wrong labels cost each of them;
        whether they withstand spoilt pictures alike, and are alike inside."""

        def kind(runs, labels, start, seeds=self.side_seeds):
            return [runs[labels, start, seed] for seed in seeds]

        for stage, runs in (("first", first), ("second", second)):
            both = {start: kind(runs, "folders", start, self.seeds) for start in STARTS}
            self.ends(f"end/{stage}", both)
            for start in STARTS:
                both = {labels: kind(runs, labels, start) for labels in ("digits", "folders")}
                self.ends(f"cost/{stage}/{start}", both)
        some = [run.task for start in STARTS for run in kind(second, "folders", start)]
        withstood = partial(self.robustness, STARTS, ("mnist", *self.corrupted))
        self.derive("robustness", some, withstood)
        pairs = {"random and pre-trained": [second["folders", start, 0] for start in STARTS]}
        if len(self.seeds) > 1:
            pairs["two random"] = [second["folders", "random", seed] for seed in (0, 1)]
            pairs["two pre-trained"] = [second["folders", "pretrained", seed] for seed in (0, 1)]
        some = self.rest.take(np.arange(min(1000, len(self.rest.labels))))
        alike = partial(self.pair, self._settings(WEAK, 0), self.true_held_out, some)
        for name, runs in pairs.items():
            self.derive(f"pair/{name}", [run.task for run in runs], alike)

    def check(self, second: dict) -> None:
        """The recovered labels beside MNIST's: what all seeds' networks recover together, by how
        sure they are, and the pictures that the first is surest of and wrong about; and the true
        table of digits and folders."""
        counts = analysis.confusion(self.truth, self.folders.labels, 10)
        own = float(np.trace(counts) / counts.sum())
        self.info["facts"]["exact"] = {"counts": counts, "own_folder_rate": own}

        def together(outcomes):
            return analysis.accuracy(self.truth, self._posterior(outcomes).argmax(1)), {}

        def recovered(outcomes):
            found = self._posterior(outcomes)
            labels, sure, facts = found.argmax(1), found.max(1), []
            for low, high in itertools.pairwise(SURE):
                right = (labels == self.truth)[(low <= sure) & (sure < high)]
                share = (
                    analysis.proportion_interval(right.sum(), len(right)) if len(right) else None
                )
                facts.append({"from": low, "pictures": len(right), "right": share})
            arrays = {"number": self.numbers, "label": labels.astype(np.uint8)}
            return facts, arrays | {"confidence": sure.astype(np.float16)}

        def hardest(outcomes):
            probabilities = outcomes[0].tests["folders"]
            labels = self._posterior(outcomes[:1]).argmax(1)
            wrong = np.flatnonzero(labels != self.truth)
            chosen = wrong[np.argsort(-probabilities[wrong, labels[wrong]])[:24]]
            return None, {
                "pictures": self.folders.pictures[chosen, ..., 0],
                "folder": self.folders.labels[chosen].astype(np.uint8),
                "recovered": labels[chosen].astype(np.uint8),
                "truth": self.truth[chosen].astype(np.int8),
            }

        tasks = [second["folders", "random", seed].task for seed in self.seeds]
        self.derive("recovered together/random", tasks, together)
        self.derive("labels", tasks, recovered)
        self.derive("hardest", tasks[:1], hardest)


def write_labels(found: Results) -> None:
    """Write `recovered-labels.csv` beside the results: a picture's number in its file's name, the
    digit that all seeds' networks recover for it, and how sure they are."""
    columns = {name: found.arrays[f"labels/{name}"] for name in ("number", "label", "confidence")}
    rows = pd.DataFrame(columns).sort_values("number")
    text = rows.to_csv(index=False, float_format="%.4f", lineterminator="\n")
    files.write(found.path.with_name("recovered-labels.csv"), text.encode())
