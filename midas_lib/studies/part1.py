"""Part 1: cross-validate, ablate and train the network that reads 62 handwritten characters."""

import dataclasses
from dataclasses import dataclass

import numpy as np

from midas_lib import analysis, config, data, runs
from midas_lib.config import Settings, UserError, vary
from midas_lib.data import Examples, ImageDataset

CURVES = ("loss", "val_loss", "val_accuracy")
# The partitions that compare the settings below: none of the headline's, which are 1, 2, ...
CHOOSING_PARTITIONS = (0, 1001, 1002)
STILL = dict.fromkeys(("rotation", "scale", "aspect", "shear", "shift"), 0.0)
# One change at a time from `Settings()`: group -> variant -> change. Those of preprocessing have
# the picture alone to go by.
PICTURE_ALONE = "tight crop alone"
ABLATIONS = {
    "Preprocessing": {
        PICTURE_ALONE: {},
        "size kept in the picture": {"preprocessing__mode": "scale"},
        "full canvas": {"preprocessing__mode": "canvas"},
    },
    "Augmentation": {
        "none": {f"augmentation__{name}": value for name, value in STILL.items()},
        "affine and elastic": {"augmentation__elastic": 0.5},
        "affine and mixup": {"augmentation__mixup": 0.3},
    },
    "Regularization": {
        "dropout 0.3": {"network__dropout": 0.3},
        "dropout 0.5": {"network__dropout": 0.5},
        "no label smoothing": {"training__smoothing": 0.0},
        "weight averaging": {"training__averaging": 0.995},
    },
    "Learning rate": {
        "constant": {"training__schedule": "constant"},
        "halved on plateau": {"training__schedule": "plateau"},
        "one-cycle": {"training__schedule": "one-cycle"},
    },
    "Network": {
        "1, 2 and 2 convolutions": {"network__depth": (1, 2, 2)},
        "half as wide": {"network__width": 0.5},
        "kernels 5x5": {"network__kernel": 5},
    },
    "Input size": {
        "20 pixels": {"preprocessing__size": 20},
        "36 pixels": {"preprocessing__size": 36},
    },
}
# What these are worth grows with the epochs: a plan may train them as long as the headline.
SLOW_GROUP = "Regularization"
# The one variant that takes out what has to earn its place: compared on the headline's partitions
# too, as the choosing ones cannot tell.
CONFIRMED = "no label smoothing"
LOOKALIKES = ["0Oo", "1Il"]
OCCLUDED = "0Q1i7Rae4Bgk"  # classes whose occlusion maps are drawn
# Weight of the geometry's log-likelihood beside the picture's: below 1, as the picture already
# tells part of it. Of 0.3 to 0.7, chosen on the first of the choosing partitions.
GEOMETRY_WEIGHT = 0.6


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much of part 1's study a profile runs.

    per_class: images of each class used, None for all. epochs: of the main arms. partitions: 5-fold
    partitions of the headline. ablation_epochs: of the ablations, each a 5-fold pass;
    slow_ablation_epochs: of those of `SLOW_GROUP`. ablation_partitions: passes of those that the
    first pass leaves open. groups, variants: how many groups of ablations, and how many of each,
    None for all. sizes: training images per class compared. changes: on top of the settings.
    """

    per_class: int | None = None
    epochs: int = 30
    partitions: int = 5
    ablation_epochs: int = 12
    slow_ablation_epochs: int = 30
    ablation_partitions: int = len(CHOOSING_PARTITIONS)
    groups: int | None = None
    variants: int | None = None
    sizes: tuple[int, ...] = (5, 10, 20)
    changes: dict = dataclasses.field(default_factory=dict)

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


PLANS = {
    "smoke": Plan(
        per_class=5, epochs=2, partitions=1, ablation_epochs=1, slow_ablation_epochs=1,
        ablation_partitions=1, groups=2, variants=1, sizes=(2,),
        changes={"network__width": 0.25, "network__depth": (1, 1, 1)},
    ),
    "standard": Plan(
        epochs=8, partitions=1, ablation_epochs=3, slow_ablation_epochs=3, ablation_partitions=1,
        groups=3, variants=1, sizes=(10,),
    ),
    "full": Plan(),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Study:
    """Part 1's study. results: what the results file holds beside its provenance. arrays: for the
    file beside it. model: the network trained on everything. settings: the ones it was trained
    with."""

    results: dict
    arrays: dict[str, np.ndarray]
    model: object
    settings: Settings


class _Inputs:
    """The characters as network inputs, one preprocessing at a time, each made once."""

    def __init__(self, characters: ImageDataset):
        self.characters, self._made = characters, {}

    def examples(self, settings: Settings) -> Examples:
        pictures, _ = self._preprocessed(settings)
        return Examples(pictures=pictures, labels=self.characters.labels)

    def geometry(self, settings: Settings) -> np.ndarray:
        return self._preprocessed(settings)[1]

    def _preprocessed(self, settings):
        wanted = settings.preprocessing
        if wanted not in self._made:
            self._made[wanted] = data.preprocess(self.characters.images, wanted)
        return self._made[wanted]

    def task(self, settings: Settings, train: np.ndarray, held_out: np.ndarray) -> runs.Task:
        examples = self.examples(settings)
        return runs.Task(
            settings=settings,
            examples=examples.take(train),
            held_out=examples.take(held_out),
            classes=len(config.CLASS_NAMES),
            views=True,
        )


def limit(dataset: ImageDataset, per_class: int | None) -> ImageDataset:
    """The first `per_class` images of every class; all of them for None."""
    if per_class is None:
        return dataset
    chosen = np.concatenate(
        [np.flatnonzero(dataset.labels == c)[:per_class] for c in np.unique(dataset.labels)]
    )
    return dataclasses.replace(
        dataset,
        images=dataset.images[chosen],
        labels=dataset.labels[chosen],
        writers=dataset.writers[chosen],
        names=tuple(dataset.names[i] for i in chosen),
    )


def run(
    characters: ImageDataset,
    profile: str,
    *,
    seeds: int | None = None,
    jobs: int | None = None,
    fresh: bool = False,
) -> Study:
    """Cross-validate, ablate and train part 1's network as `PLANS[profile]` says.

    characters: as from `load`. seeds: how many 5-fold partitions the headline averages
    over (default: the profile's). jobs, fresh: as in `runs.run_all`. Raises `UserError` for a
    profile or a number of seeds that does not exist.
    """
    from midas_lib.model import add_geometry  # loads TensorFlow

    plan = PLANS[config.check_profile(profile)]
    if seeds is not None:
        if seeds < 1:
            raise UserError(f"SEEDS={seeds}: give 1 or more")
        plan = dataclasses.replace(plan, partitions=seeds)
    inputs = _Inputs(characters)
    settings = vary(Settings(), training__epochs=plan.epochs, **plan.changes)
    everything, geometry = inputs.examples(settings), inputs.geometry(settings)
    final = runs.Task(settings=settings, examples=everything, classes=len(config.CLASS_NAMES))
    (last,) = outcomes = runs.run_all([final], jobs=jobs, fresh=fresh)
    first, *more = CHOOSING_PARTITIONS[: plan.ablation_partitions]
    passes = _passes(inputs, plan, settings) | _ablations(inputs, plan, settings, first)
    outcomes += _train(passes, jobs, fresh)
    undecided = [
        row["variant"]
        for row in _ablation_rows(characters, plan, _answers(characters, geometry, passes))
        if row["low"] <= 0 <= row["high"]
    ]
    repeated = {}
    for p in more:
        repeated |= _ablations(inputs, plan, settings, p, undecided)
    if CONFIRMED in undecided:
        for p in range(1, plan.partitions + 1):
            repeated |= _ablations(inputs, plan, settings, p, [CONFIRMED])
    outcomes += _train(repeated, jobs, fresh)
    results, arrays = _summary(characters, geometry, plan, passes | repeated)
    results["final_training_seconds"] = last.seconds
    results["reused_runs"] = sum(o.reused for o in outcomes)
    results["runs"] = len(outcomes)
    picture_model = _rebuild(settings, last)
    arrays |= _look_inside(everything, settings, picture_model)
    kernel, bias = analysis.class_likelihood(geometry, characters.labels, len(config.CLASS_NAMES))
    model = add_geometry(picture_model, GEOMETRY_WEIGHT * kernel, GEOMETRY_WEIGHT * bias)
    return Study(results=results, arrays=arrays, model=model, settings=settings)


def load(profile: str) -> ImageDataset:
    """The characters that a profile of part 1 uses."""
    plan = PLANS[config.check_profile(profile)]
    return limit(data.load_characters(profile), plan.per_class)


def _passes(inputs: _Inputs, plan: Plan, settings: Settings) -> "dict[str, _Pass]":
    """Name of each cross-validation -> what it is to train."""
    labels, writers = inputs.characters.labels, inputs.characters.writers
    passes = {}
    for p in range(1, plan.partitions + 1):
        fold = data.folds(labels, p)
        passes[f"cross-validation/{p}"] = _Pass(inputs, vary(settings, seed=p), fold)
    first = vary(settings, seed=1)
    passes["writer-disjoint/1"] = _Pass(inputs, first, data.folds(labels, 1, writers))
    for size in plan.sizes:
        passes[f"size-{size}/1"] = _Pass(inputs, first, data.folds(labels, 1), size)
    return passes


def _ablations(
    inputs: _Inputs,
    plan: Plan,
    settings: Settings,
    partition: int,
    variants: list[str] | None = None,
) -> "dict[str, _Pass]":
    """The same for the variants (None: all) on one partition, and for the chosen settings at each
    of their lengths."""
    fold = data.folds(inputs.characters.labels, partition)

    def one(epochs, changes):
        changed = vary(settings, seed=partition, training__epochs=epochs, **changes)
        return _Pass(inputs, changed, fold)

    passes = {}
    for group, variant, changes in plan.ablations():
        if variants is None or variant in variants:
            epochs = plan.epochs_of(group)
            passes.setdefault(_chosen(epochs, partition), one(epochs, {}))
            passes[f"ablation/{variant}/{partition}"] = one(epochs, changes)
    return passes


def _chosen(epochs: int, partition: int) -> str:
    return f"ablation/chosen for {epochs} epochs/{partition}"


def _train(passes: "dict[str, _Pass]", jobs: int | None, fresh: bool) -> list[runs.Outcome]:
    tasks = [task for one in passes.values() for task in one.tasks]
    outcomes = runs.run_all(tasks, jobs=jobs, fresh=fresh)
    waiting = iter(outcomes)
    for one in passes.values():
        one.take([next(waiting) for _ in one.tasks])
    return outcomes


class _Pass:
    """A cross-validation: each image is predicted once, by a network that never saw it.

    fold: (n,), 0 to 4. size: images of each class to train on, drawn from the other folds; None
    takes all of them.
    """

    def __init__(
        self, inputs: _Inputs, settings: Settings, fold: np.ndarray, size: int | None = None
    ):
        self.labels, self.fold, self.tasks, self.trained_on = inputs.characters.labels, fold, [], []
        for k in range(5):
            train = np.flatnonzero(fold != k)
            if size is not None:
                order = np.random.default_rng([settings.seed, k, size]).permutation(train)
                chosen = [order[self.labels[order] == c][:size] for c in np.unique(self.labels)]
                train = np.sort(np.concatenate(chosen))
            seeded = vary(settings, seed=10 * settings.seed + k)
            self.tasks.append(inputs.task(seeded, train, np.flatnonzero(fold == k)))
            self.trained_on.append(train)

    def take(self, outcomes: list[runs.Outcome]) -> None:
        """The tasks' outcomes, in their order."""
        self.outcomes = outcomes
        self.logs = self._in_order([np.log(np.maximum(o.probabilities, 1e-12)) for o in outcomes])
        self.view_logs = self._in_order([np.log(np.maximum(o.views, 1e-12)) for o in outcomes])

    def _in_order(self, parts: list[np.ndarray]) -> np.ndarray:
        together = np.empty((len(self.labels), parts[0].shape[1]))
        for k, part in enumerate(parts):
            together[self.fold == k] = part
        return together

    def told(self, geometry: np.ndarray, weight: float = GEOMETRY_WEIGHT) -> "_Answers":
        """The answers with the geometry's weighted log-likelihood added, which is estimated from
        the same images as the fold's network."""
        return self.told_by_fold([geometry] * 5, weight)

    def told_writers(self, geometry: np.ndarray, writers: np.ndarray) -> "_Answers":
        """The same with each writer's offsets, estimated from the training folds, taken out."""
        corrected = [
            analysis.remove_writer_offsets(geometry, self.labels, writers, self.fold != k)
            for k in range(5)
        ]
        return self.told_by_fold(corrected, GEOMETRY_WEIGHT)

    def told_by_fold(self, geometries: list[np.ndarray], weight: float) -> "_Answers":
        parts = []
        for k, (geometry, train) in enumerate(zip(geometries, self.trained_on, strict=True)):
            kernel, bias = analysis.class_likelihood(
                geometry[train], self.labels[train], len(config.CLASS_NAMES)
            )
            parts.append(geometry[self.fold == k] @ kernel + bias)
        extra = weight * self._in_order(parts)
        return _Answers(self, self.logs + extra, self.view_logs + extra)

    def plain(self) -> "_Answers":
        """The answers to the picture alone."""
        return _Answers(self, self.logs, self.view_logs)


class _Answers:
    """A cross-validation's answers. logs, view_logs: (n, classes), unnormalised; the latter with
    test-time augmentation."""

    def __init__(self, one: _Pass, logs: np.ndarray, view_logs: np.ndarray):
        self.one, self.labels = one, one.labels
        self.logs = analysis.apply_temperature(logs, 1.0)
        self.probabilities = np.exp(self.logs)
        self.predictions = self.logs.argmax(1)
        self.correct = self.predictions == self.labels
        self.views_correct = view_logs.argmax(1) == self.labels

    def measures(self) -> dict:
        """The pass as an entry of an arm's runs."""
        labels, names = self.labels, config.CLASS_NAMES
        lookalikes = analysis.merge_groups(names, LOOKALIKES, np.arange(len(names)))
        merged = {"case_merged": analysis.case_groups(names), "lookalikes_merged": lookalikes}
        return {
            "accuracy": analysis.accuracy(labels, self.predictions),
            **{
                f"{name}_accuracy": analysis.merged_accuracy(labels, self.predictions, groups)
                for name, groups in merged.items()
            },
            "top2_accuracy": analysis.top_k_accuracy(labels, self.probabilities, 2),
            "top5_accuracy": analysis.top_k_accuracy(labels, self.probabilities, 5),
            "views_accuracy": float(self.views_correct.mean()),
            "nll": analysis.negative_log_likelihood(labels, self.logs),
            "ece": analysis.expected_calibration_error(labels, self.probabilities),
            "epochs": len(self.one.outcomes[0].history["loss"]),
            "seconds": sum(o.seconds for o in self.one.outcomes),
        }


def _answers(
    characters: ImageDataset, geometry: np.ndarray, passes: dict[str, _Pass]
) -> dict[str, _Answers]:
    """Each pass' answers; those of the headline's also told less and more than the geometry."""
    answers = {}
    for name, one in passes.items():
        arm, variant = name.split("/")[:2]
        alone = arm == "ablation" and variant in ABLATIONS["Preprocessing"]
        answers[name] = one.plain() if alone else one.told(geometry)
        if arm == "cross-validation":
            answers[f"picture-alone/{variant}"] = one.plain()
            answers[f"writer-aware/{variant}"] = one.told_writers(geometry, characters.writers)
    return answers


def _ablation_rows(
    characters: ImageDataset, plan: Plan, answers: dict[str, _Answers]
) -> list[dict]:
    """Each variant against the chosen settings, paired by image over the passes it has."""
    rows = []
    for group, variant, _ in plan.ablations():
        epochs = plan.epochs_of(group)
        partitions = (*CHOOSING_PARTITIONS, *range(1, plan.partitions + 1))
        passes = [p for p in partitions if f"ablation/{variant}/{p}" in answers]
        ours = np.mean([answers[f"ablation/{variant}/{p}"].correct for p in passes], 0)
        base = np.mean([answers[_chosen(epochs, p)].correct for p in passes], 0)
        interval = analysis.paired_cluster_interval(ours, base, characters.writers)
        rows.append(_row(group, variant, ours, base, interval, epochs, len(passes)))
    return rows


def _summary(
    characters: ImageDataset, geometry: np.ndarray, plan: Plan, passes: dict[str, _Pass]
) -> tuple[dict, dict]:
    labels, writers = characters.labels, characters.writers
    answers = _answers(characters, geometry, passes)
    partitions = [f"cross-validation/{p}" for p in range(1, plan.partitions + 1)]
    arms = {}
    for name, one in answers.items():
        arm, number = name.rsplit("/", 1)
        run = {"seed": int(number), "partition": int(number), **one.measures()}
        arms.setdefault(arm, {"runs": []})["runs"].append(run)

    def correct(arm):
        return np.mean(
            [answers[f"{arm}/{name.rpartition('/')[2]}"].correct for name in partitions], 0
        )

    def over_writers(hits):
        return dataclasses.asdict(analysis.cluster_interval(hits, writers))

    def against(hits, others):
        return dataclasses.asdict(analysis.paired_cluster_interval(hits, others, writers))

    headline = [answers[name] for name in partitions]
    first, disjoint = headline[0], answers["writer-disjoint/1"]
    hits = {
        "cross-validation": correct("cross-validation"),
        "picture alone": correct("picture-alone"),
        "writer-disjoint": disjoint.correct,
        "writer-aware": correct("writer-aware"),
        "test-time augmentation": np.mean([one.views_correct for one in headline], 0),
        "ensemble": np.mean([one.probabilities for one in headline], 0).argmax(1) == labels,
    }
    nothing = analysis.Interval(0.0, np.nan, np.nan, 0)
    rows = [
        _row(
            "Chosen settings", f"{epochs} epochs", *[answers[name].correct] * 2, nothing, epochs, 1
        )
        for epochs in sorted({plan.ablation_epochs, plan.slow_ablation_epochs})
        if (name := _chosen(epochs, CHOOSING_PARTITIONS[0])) in answers
    ]
    rows += _ablation_rows(characters, plan, answers)
    calibrated, temperature = _calibrate(first)
    sizes = {size: answers[f"size-{size}/1"].correct for size in plan.sizes}
    sizes[round(0.8 * len(labels) / len(config.CLASS_NAMES))] = first.correct
    over_partitions = analysis.mean_interval([one.correct.mean() for one in headline])
    results = {
        "part": 1,
        "images": len(labels),
        "writers": len(np.unique(writers)),
        "plan": dataclasses.asdict(plan),
        "headline": {
            "arm": "cross-validation",
            "metric": "accuracy",
            **dataclasses.asdict(over_partitions),
        },
        "arms": arms,
        "over_writers": {name: over_writers(hit) for name, hit in hits.items()},
        "differences": {
            name: against(hits[name], hits["cross-validation"])
            for name in hits
            if name != "cross-validation"
        },
        "sizes": [{"size": size, **over_writers(hit)} for size, hit in sizes.items()],
        "ablation": rows,
        "temperature": temperature,
        "ece": {
            "before": analysis.expected_calibration_error(labels, first.probabilities),
            "after": analysis.expected_calibration_error(labels, calibrated),
        },
    }
    confusion = [analysis.confusion(labels, one.predictions, 62) for one in headline]
    per_writer = analysis.per_group_accuracy(hits["cross-validation"], writers)
    arrays = {
        "confusion": np.sum(confusion, axis=0),
        "per_class": np.mean([np.diag(c) / c.sum(1) for c in confusion], axis=0),
        "writer_numbers": np.array(list(per_writer)),
        "writer_accuracy": np.array(list(per_writer.values())),
        "predictions": np.stack([one.predictions for one in headline]).astype(np.uint8),
        "confidences": first.probabilities.max(1).astype(np.float32),
        "right_confidences": first.probabilities[np.arange(len(labels)), labels].astype(np.float32),
        **_curve("before", analysis.reliability_curve(labels, first.probabilities)),
        **_curve("after", analysis.reliability_curve(labels, calibrated)),
    }
    for arm in ("cross-validation", "writer-disjoint"):
        for metric in CURVES:
            histories = [o.history[metric] for o in passes[f"{arm}/1"].outcomes]
            arrays[f"{arm}_{metric}"] = np.stack(histories).astype(np.float32)
    return results, arrays


def _row(
    group: str,
    variant: str,
    correct: np.ndarray,
    base: np.ndarray,
    interval: analysis.Interval,
    epochs: int,
    passes: int,
) -> dict:
    return {
        "group": group,
        "variant": variant,
        "difference": interval.mean,
        **dataclasses.asdict(interval),
        "accuracy": float(correct.mean()),
        "baseline": float(base.mean()),
        "epochs": epochs,
        "passes": passes,
    }


def _curve(name: str, curve) -> dict[str, np.ndarray]:
    return {f"reliability_{name}_{key}": value for key, value in curve._asdict().items()}


def _calibrate(answers: _Answers) -> tuple[np.ndarray, float]:
    """Probabilities at the temperature that the other four folds' predictions fit best, and the
    mean of the five temperatures."""
    logs, fold, labels = answers.logs, answers.one.fold, answers.labels
    calibrated, temperatures = np.empty_like(logs), []
    for k in range(5):
        others = fold != k
        temperatures.append(analysis.fit_temperature(labels[others], logs[others]))
        calibrated[~others] = np.exp(analysis.apply_temperature(logs[~others], temperatures[-1]))
    return calibrated, float(np.mean(temperatures))


def _rebuild(settings: Settings, outcome: runs.Outcome):
    from midas_lib.model import build_cnn

    size = settings.preprocessing.size
    model = build_cnn(len(config.CLASS_NAMES), size, settings.network)
    model.set_weights(outcome.weights)
    return model


def _look_inside(examples: Examples, settings: Settings, model) -> dict:
    """Learning-rate range test, and occlusion maps of the first image of some classes."""
    from midas_lib import probe, train

    rates, losses = train.rate_test(examples, len(config.CLASS_NAMES), settings)
    chosen = [config.CLASS_NAMES.index(name) for name in OCCLUDED]
    shown = np.array([np.flatnonzero(examples.labels == c)[0] for c in chosen])
    return {
        "rates": rates,
        "rate_losses": losses,
        "occluded": shown,
        "occlusion": probe.occlusion(model, examples.take(shown)),
    }


def describe(study: Study, results: dict) -> dict:
    """What stands beside the committed network: how to use it, and how it came about."""
    return {
        "class_names": list(config.CLASS_NAMES),
        "settings": dataclasses.asdict(study.settings),
        "input": "picture: pixels 0-255, bright ink on black, from midas_lib.data.preprocess; "
        "geometry: the glyph's (top, bottom) edge as shares of the 225-pixel-high scan",
        "data": results["data"],
        "versions": results["versions"],
        "cross_validated_accuracy": results["headline"],
        "training_images": results["images"],
        "training_seconds": results["final_training_seconds"],
    }
