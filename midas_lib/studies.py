"""What each part runs: the grids of settings, seeds and sizes, and what comes out of them."""

import dataclasses
from dataclasses import dataclass

import numpy as np

from midas_lib import analysis, config, data, runs
from midas_lib.config import Settings, UserError, vary
from midas_lib.data import Examples, ImageDataset

CURVES = ("loss", "val_loss", "val_accuracy")
# Partition 0 compared the settings below, so the headline's partitions start at 1.
CHOOSING_PARTITION = 0
PLAIN = {"preprocessing__geometry": False, "network__geometry": 0.0}
STILL = dict.fromkeys(("rotation", "scale", "aspect", "shear", "shift"), 0.0)
# One change at a time from `Settings()`: group -> variant -> change.
ABLATIONS = {
    "Preprocessing (chosen: tight crop, place told apart)": {
        "tight crop alone": PLAIN,
        "size kept": PLAIN | {"preprocessing__mode": "scale"},
        "full canvas": PLAIN | {"preprocessing__mode": "canvas"},
    },
    "Augmentation (chosen: affine)": {
        "none": {f"augmentation__{name}": value for name, value in STILL.items()},
        "affine and elastic": {"augmentation__elastic": 0.5},
        "affine and mixup": {"augmentation__mixup": 0.3},
    },
    "Regularization (chosen: dropout 0.3, smoothing 0.1, averaging)": {
        "no dropout": {"network__dropout": 0.0},
        "dropout 0.5": {"network__dropout": 0.5},
        "no label smoothing": {"training__smoothing": 0.0},
        "no weight averaging": {"training__averaging": 0.0},
    },
    "Learning rate (chosen: warm-up and cosine)": {
        "constant": {"training__schedule": "constant"},
        "halved on plateau": {"training__schedule": "plateau"},
        "one-cycle": {"training__schedule": "one-cycle"},
    },
    "Network (chosen: 1, 3 and 3 convolutions, 3x3)": {
        "1, 2 and 2 convolutions": {"network__depth": (1, 2, 2)},
        "half as wide": {"network__width": 0.5},
        "kernels 5x5": {"network__kernel": 5},
    },
    "Input (chosen: 28 pixels)": {
        "20 pixels": {"preprocessing__size": 20},
        "36 pixels": {"preprocessing__size": 36},
    },
}
LOOKALIKES = ["0Oo", "1Il"]
OCCLUDED = "0Q1i7Rae4Bgk"  # classes whose occlusion maps are drawn
AWARE_WEIGHT = 0.7  # the geometry says more once the writer's own habit is out of it


@dataclass(frozen=True, kw_only=True)
class Part1Plan:
    """How much of part 1's study a profile runs.

    per_class: images of each class used, None for all. epochs: of the main arms. partitions: 5-fold
    partitions of the headline. ablation_epochs: of the ablations, each one 5-fold pass.
    variants: how many of each group of ablations. sizes: training images per class compared.
    changes: on top of the default settings.
    """

    per_class: int | None = None
    epochs: int = 40
    partitions: int = 5
    ablation_epochs: int = 12
    variants: int | None = None
    sizes: tuple[int, ...] = (5, 10, 20)
    changes: dict = dataclasses.field(default_factory=dict)


PART1_PLANS = {
    "smoke": Part1Plan(
        per_class=5, epochs=2, partitions=1, ablation_epochs=1, variants=1, sizes=(2,),
        changes={"network__width": 0.25, "network__depth": (1, 1, 1)},
    ),
    "standard": Part1Plan(epochs=15, partitions=1, ablation_epochs=6, variants=1, sizes=(10,)),
    "full": Part1Plan(),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Part1:
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

    def examples(self, settings: Settings, geometry: np.ndarray | None = None) -> Examples:
        wanted = settings.preprocessing
        if wanted not in self._made:
            self._made[wanted] = data.preprocess(self.characters.images, wanted)
        pictures, place = self._made[wanted]
        if geometry is None:
            geometry = place if wanted.geometry else None
        return Examples(pictures=pictures, labels=self.characters.labels, geometry=geometry)

    def pass_tasks(self, settings: Settings, fold: np.ndarray) -> list[runs.Task]:
        """The five trainings of one cross-validation."""
        examples = self.examples(settings)
        return [_task(examples, fold != k, fold == k, settings, k) for k in range(5)]

    def size_tasks(self, settings: Settings, fold: np.ndarray, size: int) -> list[runs.Task]:
        """The same on only `size` images of each class, drawn from the training folds."""
        examples, labels = self.examples(settings), self.characters.labels
        tasks = []
        for k in range(5):
            rng = np.random.default_rng([settings.seed, k, size])
            order = rng.permutation(np.flatnonzero(fold != k))
            train = np.concatenate([order[labels[order] == c][:size] for c in np.unique(labels)])
            tasks.append(_task(examples, np.sort(train), fold == k, settings, k))
        return tasks

    def aware_tasks(self, settings: Settings, fold: np.ndarray) -> list[runs.Task]:
        """The same with each writer's offsets, from the training folds, taken out."""
        known = self.characters
        place = self.examples(settings).geometry
        tasks = []
        for k in range(5):
            corrected = analysis.remove_writer_offsets(
                place, known.labels, known.writers, fold != k
            )
            examples = self.examples(settings, corrected.astype(np.float32))
            tasks.append(_task(examples, fold != k, fold == k, settings, k))
        return tasks


def _task(examples, train, held_out, settings, k) -> runs.Task:
    return runs.Task(
        settings=vary(settings, seed=10 * settings.seed + k),
        examples=examples.take(train),
        held_out=examples.take(held_out),
        classes=len(config.CLASS_NAMES),
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


def part1(
    characters: ImageDataset,
    profile: str,
    *,
    seeds: int | None = None,
    jobs: int | None = None,
    fresh: bool = False,
) -> Part1:
    """Cross-validate, ablate and train part 1's network as `PART1_PLANS[profile]` says.

    characters: as from `part1_characters`. seeds: how many 5-fold partitions the headline averages
    over (default: the profile's). jobs, fresh: as in `runs.run_all`. Raises `UserError` for a
    profile or a number of seeds that does not exist.
    """
    plan = PART1_PLANS[config.check_profile(profile)]
    if seeds is not None:
        if seeds < 1:
            raise UserError(f"SEEDS={seeds}: give 1 or more")
        plan = dataclasses.replace(plan, partitions=seeds)
    inputs = _Inputs(characters)
    settings = vary(Settings(), training__epochs=plan.epochs, **plan.changes)
    passes = _part1_passes(inputs, plan, settings)
    final = runs.Task(
        settings=settings, examples=inputs.examples(settings), classes=len(config.CLASS_NAMES)
    )
    tasks = [task for fold_and_tasks in passes.values() for task in fold_and_tasks[1]]
    *outcomes, last = runs.run_all([*tasks, final], jobs=jobs, fresh=fresh)
    waiting = iter(outcomes)
    done = {
        name: _Pass(characters.labels, fold, [next(waiting) for _ in group])
        for name, (fold, group) in passes.items()
    }
    results, arrays = _part1_summary(characters, plan, done)
    results["final_training_seconds"] = last.seconds
    results["reused_runs"] = sum(o.reused for o in [*outcomes, last])
    results["runs"] = len(outcomes) + 1
    model = _rebuild(settings, last)
    arrays |= _look_inside(characters, inputs.examples(settings), settings, model)
    return Part1(results=results, arrays=arrays, model=model, settings=settings)


def part1_characters(profile: str) -> ImageDataset:
    """The characters that a profile of part 1 uses."""
    plan = PART1_PLANS[config.check_profile(profile)]
    return limit(data.load_characters(profile), plan.per_class)


def _part1_passes(inputs: _Inputs, plan: Part1Plan, settings: Settings) -> dict:
    """Name of each cross-validation -> its folds, (n,), and its five tasks."""
    labels, writers = inputs.characters.labels, inputs.characters.writers
    first = vary(settings, seed=1)
    passes = {}
    for p in range(1, plan.partitions + 1):
        fold = data.folds(labels, p)
        passes[f"cross-validation/{p}"] = fold, inputs.pass_tasks(vary(settings, seed=p), fold)
    fold = data.folds(labels, 1, writers)
    passes["writer-disjoint/1"] = fold, inputs.pass_tasks(first, fold)
    fold = data.folds(labels, 1)
    aware = vary(first, network__geometry=AWARE_WEIGHT)
    passes["writer-aware/1"] = fold, inputs.aware_tasks(aware, fold)
    for size in plan.sizes:
        passes[f"size-{size}/1"] = fold, inputs.size_tasks(first, fold, size)
    brief = vary(settings, training__epochs=plan.ablation_epochs)
    fold = data.folds(labels, CHOOSING_PARTITION)
    passes["ablation/chosen"] = fold, inputs.pass_tasks(brief, fold)
    for variants in ABLATIONS.values():
        for variant in list(variants)[: plan.variants]:
            tasks = inputs.pass_tasks(vary(brief, **variants[variant]), fold)
            passes[f"ablation/{variant}"] = fold, tasks
    return passes


class _Pass:
    """A finished cross-validation: each image predicted once, by a network that never saw it."""

    def __init__(self, labels: np.ndarray, fold: np.ndarray, outcomes: list[runs.Outcome]):
        self.labels, self.fold, self.outcomes = labels, fold, outcomes
        self.probabilities = self._in_order([o.probabilities for o in outcomes])
        self.views = self._in_order([o.views for o in outcomes])
        self.predictions = self.probabilities.argmax(1)
        self.correct = self.predictions == labels

    def _in_order(self, parts: list[np.ndarray]) -> np.ndarray:
        together = np.empty((len(self.labels), parts[0].shape[1]))
        for k, part in enumerate(parts):
            together[self.fold == k] = part
        return np.maximum(together, 1e-12)

    def measures(self) -> dict:
        """The pass as an entry of an arm's runs."""
        labels, names = self.labels, config.CLASS_NAMES
        own = np.arange(len(names))
        lookalikes = analysis.merge_groups(names, LOOKALIKES, own)
        merged = {"case_merged": analysis.case_groups(names), "lookalikes_merged": lookalikes}
        return {
            "accuracy": analysis.accuracy(labels, self.predictions),
            **{
                f"{name}_accuracy": analysis.merged_accuracy(labels, self.predictions, groups)
                for name, groups in merged.items()
            },
            "top2_accuracy": analysis.top_k_accuracy(labels, self.probabilities, 2),
            "top5_accuracy": analysis.top_k_accuracy(labels, self.probabilities, 5),
            "views_accuracy": analysis.accuracy(labels, self.views.argmax(1)),
            "nll": analysis.negative_log_likelihood(labels, np.log(self.probabilities)),
            "ece": analysis.expected_calibration_error(labels, self.probabilities),
            "epochs": len(self.outcomes[0].history["loss"]),
            "seconds": sum(o.seconds for o in self.outcomes),
        }


def _part1_summary(characters: ImageDataset, plan: Part1Plan, done: dict[str, _Pass]):
    labels, writers = characters.labels, characters.writers
    arms = {}
    for name, one in done.items():
        arm, _, number = name.rpartition("/") if name[-1].isdigit() else (name, "", "0")
        arms.setdefault(arm, {"runs": []})["runs"].append(
            {"seed": int(number), "partition": int(number), **one.measures()}
        )
    headline = [one for name, one in done.items() if name.startswith("cross-validation/")]
    first = headline[0]
    correct = np.mean([one.correct for one in headline], axis=0)
    views = np.mean([one.views.argmax(1) == labels for one in headline], axis=0)
    together = np.mean([one.probabilities for one in headline], axis=0).argmax(1) == labels
    over_partitions = analysis.mean_interval([one.correct.mean() for one in headline])
    base = done["ablation/chosen"]

    def over_writers(hits):
        return dataclasses.asdict(analysis.cluster_interval(hits, writers))

    def against(hits, others):
        return dataclasses.asdict(analysis.paired_cluster_interval(hits, others, writers))

    rows = [
        _row("Chosen settings", "all as chosen", base, {"mean": 0.0, "low": None, "high": None})
    ]
    for group, variants in ABLATIONS.items():
        for variant in list(variants)[: plan.variants]:
            one = done[f"ablation/{variant}"]
            rows.append(_row(group, variant, one, against(one.correct, base.correct)))
    calibrated, temperature = _calibrate(first)
    results = {
        "part": 1,
        "images": len(labels),
        "classes": len(config.CLASS_NAMES),
        "writers": len(np.unique(writers)),
        "plan": dataclasses.asdict(plan),
        "headline": {
            "arm": "cross-validation",
            "metric": "accuracy",
            **dataclasses.asdict(over_partitions),
        },
        "arms": arms,
        "over_writers": {
            "cross-validation": over_writers(correct),
            "writer-disjoint": over_writers(done["writer-disjoint/1"].correct),
            "writer-aware": over_writers(done["writer-aware/1"].correct),
            "test-time augmentation": over_writers(views),
            "ensemble": over_writers(together),
        },
        "differences": {
            "test-time augmentation": against(views, correct),
            "ensemble": against(together, correct),
            "writer-aware": against(done["writer-aware/1"].correct, first.correct),
            "writer-disjoint": against(done["writer-disjoint/1"].correct, first.correct),
        },
        "ensemble_networks": len(headline),
        "sizes": [
            {"size": size, **over_writers(done[f"size-{size}/1"].correct)} for size in plan.sizes
        ]
        + [{"size": round(0.8 * len(labels) / 62), **over_writers(first.correct)}],
        "ablation": rows,
        "temperature": temperature,
        "ece": {
            "before": analysis.expected_calibration_error(labels, first.probabilities),
            "after": analysis.expected_calibration_error(labels, calibrated),
        },
    }
    confusion = [analysis.confusion(labels, one.predictions, 62) for one in headline]
    per_writer = analysis.per_group_accuracy(correct, writers)
    right = first.probabilities[np.arange(len(labels)), labels]
    arrays = {
        "confusion": np.sum(confusion, axis=0),
        "per_class": np.mean([np.diag(c) / c.sum(1) for c in confusion], axis=0),
        "writer_numbers": np.array(list(per_writer)),
        "writer_accuracy": np.array(list(per_writer.values())),
        "predictions": np.stack([one.predictions for one in headline]).astype(np.uint8),
        "confidences": first.probabilities.max(1).astype(np.float32),
        "right_confidences": right.astype(np.float32),
        **_curve("before", analysis.reliability_curve(labels, first.probabilities)),
        **_curve("after", analysis.reliability_curve(labels, calibrated)),
    }
    for metric in CURVES:
        for arm in ("cross-validation", "writer-disjoint"):
            histories = [o.history[metric] for o in done[f"{arm}/1"].outcomes]
            arrays[f"{arm}_{metric}"] = np.stack(histories).astype(np.float32)
    return results, arrays


def _row(group: str, variant: str, one: _Pass, interval: dict) -> dict:
    return {
        "group": group,
        "variant": variant,
        "difference": interval["mean"],
        **interval,
        "accuracy": float(one.correct.mean()),
    }


def _curve(name: str, curve) -> dict[str, np.ndarray]:
    return {f"reliability_{name}_{key}": value for key, value in curve._asdict().items()}


def _calibrate(one: _Pass) -> tuple[np.ndarray, float]:
    """Probabilities at the temperature that the other four folds' predictions fit best, and the
    mean of the five temperatures."""
    logs = np.log(one.probabilities)
    calibrated, temperatures = np.empty_like(logs), []
    for k in np.unique(one.fold):
        others = one.fold != k
        temperatures.append(analysis.fit_temperature(one.labels[others], logs[others]))
        calibrated[~others] = np.exp(analysis.apply_temperature(logs[~others], temperatures[-1]))
    return calibrated, float(np.mean(temperatures))


def _rebuild(settings: Settings, outcome: runs.Outcome):
    from midas_lib.model import build_cnn

    size = settings.preprocessing.size
    model = build_cnn(len(config.CLASS_NAMES), size, settings.network)
    model.set_weights(outcome.weights)
    return model


def _look_inside(characters, examples: Examples, settings: Settings, model) -> dict:
    """Learning-rate range test, and occlusion maps of the first image of some classes."""
    from midas_lib import probe, train

    rates, losses = train.rate_test(examples, len(config.CLASS_NAMES), settings)
    chosen = [config.CLASS_NAMES.index(name) for name in OCCLUDED]
    shown = np.array([np.flatnonzero(characters.labels == c)[0] for c in chosen])
    return {
        "rates": rates,
        "rate_losses": losses,
        "occluded": shown,
        "occlusion": probe.occlusion(model, examples.take(shown)),
    }


def describe_part1(study: Part1, results: dict) -> dict:
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
