"""Part 3: learn to read digits from labels that are all wrong."""

import dataclasses
import math
import re
from dataclasses import dataclass
from functools import partial

import numpy as np

from midas_lib import analysis, audit, config, data, images
from midas_lib.audit import recover
from midas_lib.config import Settings, vary
from midas_lib.data import Examples, ImageDataset
from midas_lib.results import Results
from midas_lib.runs import Outcome
from midas_lib.studies import part2
from midas_lib.studies.study import Measured, MnistStudy, Run, as_examples, plan_for, read_plans

STARTS = ("random", "pretrained")
CURVES = ("step", "loss", "val_accuracy")
# Part 2's settings, but for milder warps.
NAIVE = vary(
    part2.MNIST, training__checks=part2.CHECKS, augmentation__rotation=12.0,
    augmentation__scale=0.12, augmentation__aspect=0.12, augmentation__shear=0.2,
    augmentation__shift=0.06, augmentation__elastic=0.0,
)  # fmt: skip
SHARPENED = {"training__loss": "PRODEN", "training__sharpening": 2.0}
WEAK = vary(NAIVE, **SHARPENED)
# Compared on the same images for the same number of steps. "PRODEN" alone tells what its two
# views are worth; "PRODEN, sharpened" is the strongest arms' loss.
LOSSES = {
    "cross-entropy": {},
    **{name: {"training__loss": name} for name in config.LOSSES if name != "cross-entropy"},
    "PRODEN, sharpened": SHARPENED,
    "PRODEN, sharpened, averaged": SHARPENED | {"training__averaging": 0.995},
}
# When targets are sharpened, and whether classes are balanced until then: compared on folders drawn
# anew, where what is right is known without a true digit.
TIMES = {
    "never": {"training__sharpening": 1.0},
    "from the start": {"training__sharpening_start": 0.0},
    "after a half": {},
    "after three quarters": {"training__sharpening_start": 0.75},
    "from the start, balanced": {"training__sharpening_start": 0.0, "training__balance": 1.0},
    "after a half, balanced": {"training__balance": 1.0},
}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much of part 3's study a profile runs."""

    images: int | None = None  # None: all
    test_images: int | None = None
    held_out: int = 5000  # images kept from the training of the naive arms and the losses compared
    naive_epochs: int = 3  # of the arms that believe the folders
    naive_seeds: int = 3
    compared: int | None = None  # of `LOSSES` and of `TIMES`; None: all
    compared_images: int = 20_000  # of the comparison of losses
    compared_epochs: int = 4
    compared_seeds: int = 3
    redrawn_images: int = 30_000  # of the comparison of `TIMES`
    redrawn_epochs: int = 5
    epochs: int = 8  # of the strongest arms' first stage
    second_epochs: int = 6
    seeds: int = 5  # of the strongest arms from a random start
    pretrained_seeds: int = 3  # and from part 1's, no more than those
    sizes: tuple[int, ...] = (1000, 5000, 20_000)  # complementary labels
    leaks: tuple[float, ...] = (0.01, 0.05, 0.1)  # shares of own-folder labels added
    leak_epochs: int = 2
    side_seeds: int = 1  # of sizes and leaks
    side_steps: int = 4000  # at least, of the small sizes
    pretraining_epochs: int = 120  # over part 1's 62 classes
    audited: int = 20_000  # images that the audit looks at
    changes: dict = dataclasses.field(default_factory=dict)  # on top of the settings


PLANS = read_plans(3, Plan)


def load(profile: str) -> dict[str, ImageDataset]:
    """The datasets of part 3: "mislabelled", "characters", "mnist-test", and "mnist" (its training
    set, for verification alone)."""
    return part2.load(profile) | {"mislabelled": data.load_mislabelled(profile)}


def run(
    profile: str, *, seeds: int | None = None, jobs: int | None = None, fresh: bool = False
) -> Results:
    """Audit the folders, believe them, compare losses, train the strongest arms as
    `PLANS[profile]` says, and write the results.

    seeds: how many of the strongest arms (default: the profile's). jobs, fresh: as in
    `study.Study`. Raises `UserError` for a profile or a number of seeds that does not exist.
    """
    plan = plan_for(PLANS, profile, seeds, "pretrained_seeds")
    study = Part3(plan, profile, load(profile), jobs=jobs, fresh=fresh)
    starts = study.starts()
    study.finish(list(starts.values()), "1 of 4, pre-training")
    reference = starts["pretrained", 0].tasks
    found = study.derive("audit", reference, partial(_audit, study.folders))
    study.leak = own_label_rate(found)
    weak, naive, compared = study.weak(starts), study.naive(starts), study.compared()
    study.finish(
        [*naive.values(), *weak.values(), *study.sized(), *compared], "2 of 4, first stages"
    )
    second = study.second(weak)
    study.finish([*second.values(), *study.hard(weak), *study.redrawn(weak)], "3 of 4, second")
    audits = {}
    for added in plan.leaks:
        leaked = study.add_own_labels(added)
        audits[added] = study.derive(f"audit/{added}", reference, partial(_audit, leaked))
    study.finish(study.leaky(audits), "4 of 4, leaks")
    study.select(compared)
    study.check(second)
    for start in STARTS:
        begun = "random" if start == "random" else "part 1's 62 characters"
        for name, one in (("naive", naive[start, 0]), ("recovered", second[start, 0])):
            study.checkpoint(
                f"{name}-{start}", one, "test_accuracy", start=begun,
                labels="folders of mnistTask3.zip, all but a few of them wrong",
            )  # fmt: skip
    return study.write("recovered-random", "test_accuracy", leak=study.leak)


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
    """Accuracy told from complementary labels alone, with its interval: a right answer names the
    folder with probability `leak`, a wrong one with (1 - leak) / (classes - 1)."""
    hits = analysis.proportion_interval((predictions == folders).sum(), len(folders))
    wrong = (1 - leak) / (classes - 1)
    mean, high, low = ((wrong - rate) / (wrong - leak) for rate in (hits.mean, hits.low, hits.high))
    return analysis.Interval(mean, low, high, hits.n)


class Part3(MnistStudy):
    """Part 3's runs, by what they are about, and what is compared of them.

    folders: the pictures, in a fixed random order, with their folders' labels, which is all that
    training and choices ever see. truth: int (n,), their digits in MNIST, for the report's
    verification alone; -1 where MNIST has no such picture. characters: part 1's. test: MNIST's.
    leak: the share of own-folder labels that training assumes.
    """

    def __init__(self, plan: Plan, profile: str, datasets: dict[str, ImageDataset], **options):
        super().__init__(3, profile, plan, datasets, **options)
        mislabelled, mnist = datasets["mislabelled"], datasets["mnist"]
        order = np.random.default_rng(3).permutation(len(mislabelled.labels))[: plan.images]
        names = [mislabelled.names[i] for i in order]
        numbers = np.array([int(re.search(r"(\d+)\.\w+$", name)[1]) for name in names])
        known = numbers < len(mnist.labels)
        self.truth = np.where(known, mnist.labels[np.where(known, numbers, 0)], -1)
        self.folders = Examples(
            pictures=mislabelled.images[order][..., None], labels=mislabelled.labels[order]
        )
        pictures, _ = images.preprocess(datasets["characters"].images, NAIVE.preprocessing)
        self.characters = Examples(pictures=pictures, labels=datasets["characters"].labels)
        self.test = as_examples(datasets["mnist-test"], plan.test_images)
        self.held_out = self.folders.take(np.arange(plan.held_out))
        self.rest = self.folders.take(np.arange(plan.held_out, len(order)))
        # For curves alone: with their digits, the pictures held out are measured and nothing else.
        self.true_held_out = dataclasses.replace(self.held_out, labels=self.truth[: plan.held_out])
        self.arrays |= {
            f"folder/{folder}": mislabelled.images[mislabelled.labels == folder][:30]
            for folder in range(10)
        }
        self.leak = 0.0

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
            for seed in range(max(self.plan.pretrained_seeds, self.plan.naive_seeds))
        }  # fmt: skip

    def _before(self, starts: dict) -> dict[tuple[str, int], float]:
        """Each start's accuracy on the pictures held out; of random weights it is by chance."""
        return {key: self.row(run)["held_out_accuracy"] for key, run in starts.items()}

    def naive(self, starts: dict) -> dict[tuple[str, int], Run]:
        """(start, seed) -> believing the folders."""
        settings = self._settings(NAIVE, self.plan.naive_epochs)
        before = self._before(starts)

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
                measure=partial(measure, before=before.get((start, seed), 0.1)),
            )
            for start in STARTS
            for seed in range(self.plan.naive_seeds)
        }  # fmt: skip

    def compared(self) -> list[Run]:
        """A short training on fewer pictures with each loss."""
        some = self.rest.take(np.arange(min(self.plan.compared_images, len(self.rest.labels))))
        settings = self._settings(NAIVE, self.plan.compared_epochs, training__leak=self.leak)
        return [
            self.declare(
                f"loss/{loss}", seed, vary(settings, **changes), some, held_out=self.held_out
            )
            for loss, changes in list(LOSSES.items())[: self.plan.compared]
            for seed in range(self.plan.compared_seeds)
        ]

    def _stage(self, arm, seed, settings, examples, start, **more) -> Run:
        """A training on all pictures, which are read afterwards."""
        more = {"measure": self._recovered, "held_out": self.true_held_out, **more}
        tests = {"mnist": self.test, "folders": self.folders}
        return self.declare(arm, seed, settings, examples, start=start, tests=tests, **more)

    def _recovered(self, outcome: Outcome, before: float | None = None) -> Measured:
        labels = recover(outcome.tests["folders"], self.folders.labels, self.leak)
        share = {"recovered_share": analysis.accuracy(self.truth, labels)}
        if before is None:
            return self.tested(outcome)[0] | share, {}
        return self.learned(outcome, before, CURVES, **share)

    def weak(self, starts: dict) -> dict[tuple[str, int], Run]:
        """(start, seed) -> the strongest arms' first stage."""
        counts = {"random": self.plan.seeds, "pretrained": self.plan.pretrained_seeds}
        settings = self._settings(WEAK, self.plan.epochs, training__leak=self.leak)
        before = self._before(starts)
        return {
            (start, seed): self._stage(
                f"weak-{start}", seed, settings, self.folders, starts.get((start, seed)),
                measure=partial(self._recovered, before=before.get((start, seed), 0.1)),
                arrays=CURVES,
            )
            for start in STARTS
            for seed in range(counts[start])
        }  # fmt: skip

    def second(self, weak: dict) -> dict[tuple[str, int], Run]:
        """(start, seed) -> going on, sharpening growing from the first step: the targets are the
        labels recovered, revised at each."""
        settings = self._settings(
            WEAK, self.plan.second_epochs, training__leak=self.leak,
            training__sharpening_start=0.0,
        )  # fmt: skip
        return {
            (start, seed): self._stage(f"recovered-{start}", seed, settings, self.folders, run)
            for (start, seed), run in weak.items()
        }

    def _labels_from(self, run: Run) -> np.ndarray:
        """The labels that a run recovers, int (n,)."""
        outcome = self.outcomes(run.tasks)[run.digest]
        return recover(outcome.tests["folders"], self.folders.labels, self.leak)

    def hard(self, weak: dict) -> list[Run]:
        """Going on, from a random start's first stage, with cross-entropy on the labels that it
        recovered."""
        settings = self._settings(NAIVE, self.plan.second_epochs)

        def relabelled(run):
            return dataclasses.replace(self.folders, labels=self._labels_from(run))

        return [
            self._stage(
                "hard-random", seed, settings, partial(relabelled, run), run,
                origin=f"labels recovered by {run.digest}",
            )
            for (start, seed), run in weak.items()
            if start == "random"
        ]  # fmt: skip

    def redrawn(self, weak: dict) -> list[Run]:
        """Each of `TIMES` on folders drawn anew from the first network's recovered labels, of some
        pictures; the others, with those labels, tell how good it is."""
        first, count = weak["random", 0], self.plan.redrawn_images
        others = self.folders.take(np.arange(count, len(self.truth)))

        def folders():
            known = self._labels_from(first)
            rng = np.random.default_rng(5)
            wrong = (known + rng.integers(1, 10, len(known))) % 10
            drawn = np.where(rng.random(len(known)) < self.leak, known, wrong)
            return Examples(pictures=self.folders.pictures[:count], labels=drawn[:count])

        def measure(outcome):
            answers = outcome.tests["others"].argmax(1)
            agreement = analysis.accuracy(self._labels_from(first)[count:], answers)
            return {"recovered_agreement": agreement, "seconds": outcome.seconds}, {}

        settings = self._settings(WEAK, self.plan.redrawn_epochs, training__leak=self.leak)
        return [
            self.declare(
                f"redrawn/{when}", 0, vary(settings, **changes), folders, measure=measure,
                tests={"others": others}, origin=f"folders redrawn from {first.digest}",
            )
            for when, changes in list(TIMES.items())[: self.plan.compared]
        ]  # fmt: skip

    def sized(self) -> list[Run]:
        """The first stage, from a random start, on fewer pictures, which are repeated so that there
        are enough steps."""

        def one(size, draw):
            order = np.random.default_rng(draw).permutation(len(self.truth))
            rows = np.tile(order[:size], max(1, 1280 // size))
            epochs = math.ceil(self.plan.side_steps / (len(rows) // 64))
            settings = self._settings(
                WEAK, max(self.plan.leak_epochs, epochs), training__batch=64,
                training__leak=self.leak,
            )  # fmt: skip
            examples = self.folders.take(rows)
            return self.declare("size/random", draw, settings, examples, varies={"size": size})

        draws = range(self.plan.side_seeds)
        return [one(size, draw) for size in self.plan.sizes for draw in draws]

    def add_own_labels(self, share: float, seed: int = 0) -> Examples:
        """The pictures in folders, so many more of them moved to their own. To put them there takes
        their digits; training sees the folders alone."""
        moved = np.random.default_rng([seed, 4]).random(len(self.truth)) < share
        labels = np.where(moved & (self.truth >= 0), self.truth, self.folders.labels)
        return dataclasses.replace(self.folders, labels=labels)

    def leaky(self, audits: dict[float, dict]) -> list[Run]:
        """The first stage, from a random start, with more pictures in their own folders; each loss
        as it is, and balanced. audits: of these folders, by the share added."""
        return [
            self.declare(
                f"leak/{loss}", seed,
                self._settings(
                    WEAK, self.plan.leak_epochs, training__balance=balance,
                    training__leak=own_label_rate(found),
                ),
                self.add_own_labels(added, seed), varies={"added": added},
            )
            for added, found in audits.items()
            for loss, balance in (("as it is", 0.0), ("balanced", 1.0))
            for seed in range(self.plan.side_seeds)
        ]  # fmt: skip

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
                "test_accuracy": analysis.mean_interval(right),
            }, {}

        for loss in list(LOSSES)[: self.plan.compared]:
            # A network that was taught the folders says what a picture is by what is least likely.
            sign = -1 if loss == "cross-entropy" else 1
            tasks = [run.task for run in compared if run.arm == f"loss/{loss}"]
            self.derive(f"selection/{loss}", tasks, partial(select, sign=sign))

    def check(self, second: dict) -> None:
        """The recovered labels beside MNIST's: what networks recover together, and the pictures
        that the first is surest of and wrong about; and the true table of digits and folders."""
        counts = analysis.confusion(self.truth, self.folders.labels, 10)
        own = float(np.trace(counts) / counts.sum())
        self.info["facts"]["exact"] = {"counts": counts, "own_folder_rate": own}

        def together(outcomes):
            mean = np.mean([outcome.tests["folders"] for outcome in outcomes], 0)
            labels = recover(mean, self.folders.labels, self.leak)
            return analysis.accuracy(self.truth, labels), {}

        def hardest(outcomes):
            probabilities = outcomes[0].tests["folders"]
            labels = recover(probabilities, self.folders.labels, self.leak)
            wrong = np.flatnonzero(labels != self.truth)
            chosen = wrong[np.argsort(-probabilities[wrong, labels[wrong]])[:24]]
            return None, {
                "pictures": self.folders.pictures[chosen, ..., 0],
                "folder": self.folders.labels[chosen].astype(np.uint8),
                "recovered": labels[chosen].astype(np.uint8),
                "truth": self.truth[chosen].astype(np.int8),
            }

        for start in STARTS:
            tasks = [run.task for (one, _), run in second.items() if one == start]
            self.derive(f"recovered together/{start}", tasks, together)
        self.derive("hardest", second["random", 0].tasks, hardest)
