"""Part 1: cross-validate, ablate and train the network that reads 62 handwritten characters."""

import dataclasses
from dataclasses import dataclass
from functools import partial

import numpy as np

from midas_lib import analysis, config, data, images
from midas_lib.config import Settings, vary
from midas_lib.data import Examples, ImageDataset
from midas_lib.results import Results
from midas_lib.runs import Outcome, Task
from midas_lib.studies.study import Measured, Run, Study, plan_for, read_plans, rebuild

CLASSES = len(config.CLASS_NAMES)
CURVES = ("loss", "val_loss", "val_accuracy")
CURVED = ("cross-validation", "writer-disjoint")  # arms whose curves a page shows
# Arms of one cross-validation's networks, by what they read beside the picture: see `_run`.
READS = {"cross-validation": "geometry", "picture-alone": "picture", "writer-aware": "writer"}
# The partitions that compare the settings below: none of the headline's, which are 1, 2, ...
CHOOSING_PARTITIONS = (0, 1001, 1002)
PICTURE_ALONE = "tight crop alone"
ABLATIONS = config.read_table("ablations")  # group -> variant -> change
# What these are worth grows with the epochs: a plan may train them as long as the headline.
SLOW_GROUP = "Regularization"
# The one variant that takes out what has to earn its place: compared on the headline's partitions
# too, as the choosing ones cannot tell.
CONFIRMED = "no label smoothing"
LOOKALIKES = ["0Oo", "1Il"]
OCCLUDED = "0Q1i7Rae4Bgk"  # classes whose occlusion maps are drawn
MERGED = {
    "case_merged": analysis.case_groups(config.CLASS_NAMES),
    "lookalikes_merged": analysis.merge_groups(config.CLASS_NAMES, LOOKALIKES, np.arange(CLASSES)),
}
# Weight of the geometry's log-likelihood beside the picture's: below 1, as the picture already
# tells part of it. Of 0.3 to 0.7, chosen on the first of the choosing partitions.
GEOMETRY_WEIGHT = 0.6


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much of part 1's study a profile runs."""

    per_class: int | None = None  # images of each class used; None: all
    epochs: int = 30  # of the main arms
    seeds: int = 5  # 5-fold partitions of the headline
    ablation_epochs: int = 12  # of the ablations, each a 5-fold pass
    slow_ablation_epochs: int = 30  # of those of `SLOW_GROUP`
    ablation_partitions: int = len(CHOOSING_PARTITIONS)  # passes of what the first leaves open
    groups: int | None = None  # of ablations, and how many of each; None: all
    variants: int | None = None
    sizes: tuple[int, ...] = (5, 10, 20)  # training images per class compared
    changes: dict = dataclasses.field(default_factory=dict)  # on top of the settings

    def ablations(self) -> list[tuple[str, str, dict]]:
        """The variants to be run: (group, variant, changes)."""
        return [
            (group, variant, variants[variant])
            for group, variants in list(ABLATIONS.items())[: self.groups]
            for variant in list(variants)[: self.variants]
        ]

    def epochs_of(self, group: str) -> int:
        """How long the ablations of a group are trained."""
        return self.slow_ablation_epochs if group == SLOW_GROUP else self.ablation_epochs


PLANS = read_plans(1, Plan)


def chosen_arm(epochs: int) -> str:
    """The arm of the chosen settings that ablations of this length are compared with."""
    return f"ablation/chosen for {epochs} epochs"


def run(
    profile: str, *, seeds: int | None = None, jobs: int | None = None, fresh: bool = False
) -> Results:
    """Cross-validate, ablate and train part 1's network as `PLANS[profile]` says, and write the
    results.

    seeds: 5-fold partitions of the headline (default: the profile's). jobs, fresh: as in
    `study.Study`. Raises `UserError` for a profile or a number of seeds that does not exist.
    """
    from midas_lib.model import add_geometry  # loads TensorFlow

    plan = plan_for(PLANS, profile, seeds)
    characters = data.limit(data.load_characters(profile), plan.per_class)
    study = Part1(plan, profile, characters, jobs=jobs, fresh=fresh)
    final, passes = study.final(), study.passes()
    first, *more = CHOOSING_PARTITIONS[: plan.ablation_partitions]
    ablations = study.ablations(first)
    study.finish([final, *passes.values(), *ablations.values()])
    undecided = study.weigh(ablations, "first pass")
    for partition in more:
        ablations |= study.ablations(partition, undecided)
    if CONFIRMED in undecided:
        for partition in range(1, plan.seeds + 1):
            ablations |= study.ablations(partition, [CONFIRMED])
    study.finish(list(ablations.values()))
    study.compare(passes)
    study.weigh(ablations)
    study.calibrate(passes["cross-validation", 1])
    study.derive("inside", final.tasks, study.look_inside)
    study.show([run for (arm, _), run in passes.items() if arm == "cross-validation"])
    linear = analysis.class_likelihood(study.geometry, study.labels, CLASSES)
    study.checkpoint(
        "model", final, "seconds",
        lambda *trained: add_geometry(rebuild(*trained), *(GEOMETRY_WEIGHT * w for w in linear)),
        input="picture: pixels 0-255, bright ink on black, from midas_lib.images.preprocess; "
        "geometry: the glyph's (top, bottom) edge as shares of the 225-pixel-high scan",
    )  # fmt: skip
    return study.write("cross-validation", "accuracy", images=len(study.labels))


class Pass:
    """A cross-validation: each image is read once, by a network that never saw it.

    fold: (n,), 0 to 4. tasks: of the five networks; trained_on: each one's images.
    """

    def __init__(self, fold: np.ndarray):
        self.fold, self.tasks, self.trained_on = fold, [], []

    def join(self, parts: list[np.ndarray]) -> np.ndarray:
        """What the five folds have, (n, ...), in the images' order."""
        together = np.empty((len(self.fold), *parts[0].shape[1:]))
        for k, part in enumerate(parts):
            together[self.fold == k] = part
        return together

    def logs(self, probabilities: list[np.ndarray]) -> np.ndarray:
        """The logarithms of the folds' probabilities, (n, classes)."""
        return self.join([np.log(np.maximum(p, 1e-12)) for p in probabilities])

    def geometry_logs(self, geometries: list[np.ndarray], labels: np.ndarray) -> np.ndarray:
        """Each class's log-likelihood of each image's geometry, (n, classes), estimated from the
        images that the fold's network was trained on. geometries: (n, d), one for each fold."""
        parts = []
        for k, (geometry, train) in enumerate(zip(geometries, self.trained_on, strict=True)):
            kernel, bias = analysis.class_likelihood(geometry[train], labels[train], CLASSES)
            parts.append(geometry[self.fold == k] @ kernel + bias)
        return self.join(parts)


class Part1(Study):
    """Part 1's runs, each a whole cross-validation but for the final network's, and what is
    compared of them."""

    def __init__(self, plan: Plan, profile: str, characters: ImageDataset, **options):
        super().__init__(1, profile, plan, {"characters": characters}, **options)
        self.characters, self._made, self._passes = characters, {}, {}
        self.labels, self.writers = characters.labels, characters.writers
        self.settings = vary(Settings(), training__epochs=plan.epochs, **plan.changes)
        self.everything, self.geometry = self._preprocessed(self.settings)

    def _preprocessed(self, settings: Settings) -> tuple[Examples, np.ndarray]:
        wanted = settings.preprocessing
        if wanted not in self._made:
            pictures, geometry = images.preprocess(self.characters.images, wanted)
            self._made[wanted] = Examples(pictures=pictures, labels=self.labels), geometry
        return self._made[wanted]

    def final(self) -> Run:
        """The network trained on everything."""
        task = Task(settings=self.settings, examples=self.everything, classes=CLASSES)
        return Run(
            arm="final", seed=0, task=task, measure=lambda one: ({"seconds": one.seconds}, {})
        )

    def _pass(self, settings: Settings, fold: np.ndarray, size: int | None = None) -> Pass:
        """size: images of each class to train on, drawn from the other folds; None takes all."""
        one, (examples, _) = Pass(fold), self._preprocessed(settings)
        for k in range(5):
            train = np.flatnonzero(fold != k)
            if size is not None:
                order = np.random.default_rng([settings.seed, k, size]).permutation(train)
                chosen = [order[self.labels[order] == c][:size] for c in np.unique(self.labels)]
                train = np.sort(np.concatenate(chosen))
            one.trained_on.append(train)
            seeded = vary(settings, seed=10 * settings.seed + k)
            parts = {"examples": examples.take(train), "held_out": examples.take(fold == k)}
            one.tasks.append(Task(settings=seeded, classes=CLASSES, views=True, **parts))
        return one

    def _run(self, arm: str, one: Pass, partition: int, reads: str, **varies) -> Run:
        """reads: "picture", "geometry" beside it, or "writer": the geometry with each writer's
        offset, estimated from the training folds, taken out."""
        kept = CURVES if arm in CURVED and partition == 1 else ()
        kept += ("predictions",) if arm == "cross-validation" else ()
        epochs = one.tasks[0].settings.training.epochs
        run = Run(
            arm=arm, seed=partition, task=tuple(one.tasks), arrays=kept,
            measure=lambda *outcomes: self._measure(one, reads, outcomes),
            varies={"partition": partition, "epochs": epochs, **varies},
        )  # fmt: skip
        self._passes[run.digest] = one
        return run

    def _measure(self, one: Pass, reads: str, outcomes: tuple[Outcome, ...]) -> Measured:
        logs = self._logs(one, reads, [outcome.probabilities for outcome in outcomes])
        views = self._logs(one, reads, [outcome.views for outcome in outcomes])
        labels, probabilities, answers = self.labels, np.exp(logs), logs.argmax(1)
        metrics = {
            "accuracy": analysis.accuracy(labels, answers),
            **{
                f"{name}_accuracy": analysis.merged_accuracy(labels, answers, groups)
                for name, groups in MERGED.items()
            },
            **{
                f"top{k}_accuracy": analysis.top_k_accuracy(labels, probabilities, k)
                for k in (2, 5)
            },
            "views_accuracy": analysis.accuracy(labels, views.argmax(1)),
            "nll": analysis.negative_log_likelihood(labels, logs),
            "ece": analysis.expected_calibration_error(labels, probabilities),
            "seconds": sum(outcome.seconds for outcome in outcomes),
        }
        arrays = {
            name: np.stack([outcome.history[name] for outcome in outcomes]).astype(np.float32)
            for name in CURVES
        }
        read = {"predictions": answers, "view_predictions": views.argmax(1)}
        return metrics, arrays | {name: one.astype(np.uint8) for name, one in read.items()}

    def _logs(self, one: Pass, reads: str, probabilities: list[np.ndarray]) -> np.ndarray:
        """Log-probabilities, (n, classes), of the folds' networks and what else is read."""
        logs = one.logs(probabilities)
        if reads != "picture":
            known = (self.geometry, self.labels, self.writers)
            geometries = [
                analysis.remove_writer_offsets(*known, one.fold != k)
                if reads == "writer"
                else self.geometry
                for k in range(5)
            ]
            logs = logs + GEOMETRY_WEIGHT * one.geometry_logs(geometries, self.labels)
        return analysis.apply_temperature(logs, 1.0)

    def passes(self) -> dict[tuple[str, int], Run]:
        """(arm, partition) -> the headline's cross-validations and what is compared with them."""
        found = {}
        for p in range(1, self.plan.seeds + 1):
            one = self._pass(vary(self.settings, seed=p), data.folds(self.labels, p))
            for arm, reads in READS.items():
                found[arm, p] = self._run(arm, one, p, reads)
        first = vary(self.settings, seed=1)
        one = self._pass(first, data.folds(self.labels, 1, self.writers))
        found["writer-disjoint", 1] = self._run("writer-disjoint", one, 1, "geometry")
        for size in self.plan.sizes:
            one = self._pass(first, data.folds(self.labels, 1), size)
            found[f"size-{size}", 1] = self._run(f"size-{size}", one, 1, "geometry", size=size)
        return found

    def ablations(
        self, partition: int, variants: list[str] | None = None
    ) -> dict[tuple[str, int], Run]:
        """The same for the variants (None: all) on one partition, and for the chosen settings at
        each of their lengths."""
        fold = data.folds(self.labels, partition)

        def one(arm, epochs, changes, reads="geometry"):
            settings = vary(self.settings, seed=partition, training__epochs=epochs, **changes)
            return self._run(arm, self._pass(settings, fold), partition, reads)

        found = {}
        for group, variant, changes in self.plan.ablations():
            if variants is None or variant in variants:
                epochs, arm = self.plan.epochs_of(group), f"ablation/{variant}"
                chosen = chosen_arm(epochs)
                if (chosen, partition) not in found:
                    found[chosen, partition] = one(chosen, epochs, {})
                reads = "picture" if group == "Preprocessing" else "geometry"
                found[arm, partition] = one(arm, epochs, changes, reads)
        return found

    def _correct(self, runs: list[Run], name: str = "predictions") -> np.ndarray:
        """Over passes, the share that reads each image right, (n,)."""
        return np.mean([self.array(run, name) == self.labels for run in runs], 0)

    def _weigh(self, name: str, ours: list[Run], base: list[Run]) -> dict:
        """Under `facts[name]`: our passes against the base's, paired by image."""

        def weigh():
            hits, others = self._correct(ours), self._correct(base)
            difference = analysis.paired_cluster_interval(hits, others, self.writers)
            facts = {"difference": difference, "verdict": difference.verdict()}
            return facts | {"accuracy": float(hits.mean()), "baseline": float(others.mean())}, {}

        tasks = [task for run in [*ours, *base] for task in run.tasks]
        return self.derive(name, tasks, weigh, outcomes=False)

    def weigh(self, ablations: dict, name: str = "ablation") -> list[str]:
        """Each variant against the chosen settings over the passes it has, as "name/variant";
        returns those that are not told from them."""
        undecided = []
        for group, variant, _ in self.plan.ablations():
            arms = f"ablation/{variant}", chosen_arm(self.plan.epochs_of(group))
            passes = [p for arm, p in ablations if arm == arms[0]]
            ours, base = ([ablations[arm, p] for p in passes] for arm in arms)
            if self._weigh(f"{name}/{variant}", ours, base)["verdict"] == "within noise":
                undecided.append(variant)
        return undecided

    def compare(self, passes: dict) -> None:
        """Accuracies with intervals over writers, and paired differences to the headline's."""
        arms = {}
        for (arm, _), run in passes.items():
            arms.setdefault(arm, []).append(run)
        headline = arms["cross-validation"]
        arms |= {"test-time augmentation": headline, "ensemble": headline}
        arms[f"size-{round(0.8 * len(self.labels) / CLASSES)}"] = headline[:1]

        def compare(name, runs):
            hits, base = self._correct(runs), self._correct(headline)
            if name == "ensemble":
                each = [np.exp(self._headline_logs(run)) for run in runs]
                hits = np.mean(each, 0).argmax(1) == self.labels
            elif name == "test-time augmentation":
                hits = self._correct(runs, "view_predictions")
            return {
                "accuracy": analysis.cluster_interval(hits, self.writers),
                "difference": analysis.paired_cluster_interval(hits, base, self.writers),
            }, {}

        for name, runs in arms.items():
            tasks = [task for run in [*runs, *headline] for task in run.tasks]
            self.derive(f"over writers/{name}", tasks, partial(compare, name, runs), outcomes=False)

    def _headline_logs(self, run: Run) -> np.ndarray:
        outcomes = self.outcomes(run.tasks)
        found = [outcomes[task.name].probabilities for task in run.tasks]
        return self._logs(self._passes[run.digest], "geometry", found)

    def calibrate(self, run: Run) -> None:
        """Confidence before and after temperature scaling, each image at the temperature that the
        other four folds' predictions fit best."""

        def calibrate():
            logs, fold = self._headline_logs(run), self._passes[run.digest].fold
            calibrated, temperatures = np.empty_like(logs), []
            for k in range(5):
                others = fold != k
                best = analysis.fit_temperature(self.labels[others], logs[others])
                temperatures.append(best)
                calibrated[~others] = analysis.apply_temperature(logs[~others], best)
            right = logs[np.arange(len(logs)), self.labels]
            facts = {"temperature": float(np.mean(temperatures))}
            arrays = {"confidence": np.exp(logs.max(1)), "right_confidence": np.exp(right)}
            for when, found in (("before", logs), ("after", calibrated)):
                probabilities = np.exp(found)
                curve = analysis.reliability_curve(self.labels, probabilities)
                arrays[when] = np.stack(curve).astype(float)
                facts[when] = analysis.expected_calibration_error(self.labels, probabilities)
            return facts, arrays

        self.derive("calibration", run.tasks, calibrate, outcomes=False)

    def look_inside(self, outcomes: list[Outcome]) -> Measured:
        """Learning-rate range test, and occlusion maps of the first image of some classes."""
        from midas_lib import probe, train

        rates, losses = train.rate_test(self.everything, CLASSES, self.settings)
        chosen = [config.CLASS_NAMES.index(name) for name in OCCLUDED]
        shown = self.everything.take([np.flatnonzero(self.labels == c)[0] for c in chosen])
        occlusion = probe.occlusion(rebuild(outcomes[0], self.settings), shown)
        arrays = {"rates": rates, "rate_losses": losses, "occlusion": occlusion}
        return None, arrays | {"pictures": shown.pictures[..., 0]}

    def show(self, headline: list[Run]) -> None:
        """What the page's figures of single images, classes and writers are drawn from."""
        labels, pictures = self.labels, self.everything.pictures[..., 0]
        predictions = np.stack([self.array(run, "predictions") for run in headline])
        counts = [analysis.confusion(labels, answers, CLASSES) for answers in predictions]
        writers, written = np.unique(self.writers, return_counts=True)
        wrong = predictions != labels
        by_writer = analysis.per_group_accuracy((~wrong).mean(0), self.writers)
        first = [np.flatnonzero(labels == c)[0] for c in range(CLASSES)]
        # What is misread in some pass, and some that the first pass reads right, of every class.
        right = [np.flatnonzero((labels == c) & ~wrong[0])[:4] for c in range(CLASSES)]
        shown = np.union1d(np.flatnonzero(wrong.any(0)), np.concatenate(right))
        letters = np.array(config.CLASS_NAMES)[labels]
        capitals, small = (self.geometry[np.isin(letters, list(some))] for some in ("EHX", "xz"))
        self.info["facts"] |= {
            "class_counts": np.bincount(labels, minlength=CLASSES),
            "writer_counts": dict(zip(writers.tolist(), written.tolist(), strict=True)),
            "guides": {
                "top of capitals": float(capitals[:, 0].mean()),
                "top of small letters": float(small[:, 0].mean()),
                "base line": float(capitals[:, 1].mean()),
            },
        }
        self.arrays |= {
            "first/scans": self.characters.images[first],
            "first/pictures": pictures[first],
            "confusion": np.sum(counts, axis=0),
            "first_confusion": counts[0],
            "per_class": np.mean([np.diag(c) / c.sum(1) for c in counts], axis=0),
            "writers": np.array(list(by_writer)),
            "per_writer": np.array(list(by_writer.values())),
            "shown/pictures": pictures[shown],
            "shown/labels": labels[shown].astype(np.uint8),
            "shown/predictions": predictions[:, shown],
            "shown/confidence": self.arrays["calibration/confidence"][shown],
            "shown/right_confidence": self.arrays["calibration/right_confidence"][shown],
        }
