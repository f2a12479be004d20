"""Part 1: cross-validate, ablate and train the network that reads 62 handwritten characters."""

from functools import partial

import numpy as np
import pandas as pd

from midas_lib import analysis, config, data, files, images
from midas_lib.config import Settings, vary
from midas_lib.data import Examples, ImageDataset
from midas_lib.results import Results
from midas_lib.runs import Outcome, Task
from midas_lib.studies.study import Measured, Run, Study, plan_for, read_plans, rebuild

CLASSES = len(config.CLASS_NAMES)
CURVES = ("step", "loss", "val_loss", "val_accuracy")
# Arms of one cross-validation's networks, by what they read beside the picture: see `_logs`.
READS = {
    "cross-validation": "geometry", "picture-alone": "picture", "one-hand": "hand",
    "writer-aware": "writer",
}  # fmt: skip
DISJOINT = {"writer-disjoint": "geometry", "writer-disjoint-hand": "hand"}
# The partitions that settings are compared on: none of the headline's, which are 1, 2, ...
CHOOSING_PARTITIONS = (0, 1001)
ABLATIONS = config.read_table("ablations")  # group -> variant -> change
# Groups that touch optimisation: each variant, and the settings that it is compared with, get the
# best of some peak rates on the first `RATE_FOLDS` folds of the first choosing partition.
TUNED = ("Batch normalisation", "Learning rate", "Training", "Network")
RATE_FOLDS = 2
KAGGLE = 45, 50  # the last writer to train on, and the last of those that nothing is asked about
BINS = 10  # of the reliability diagram, of as many images each
HAND_SIZES = (1, 2, 5, 10, 17)  # images of one hand that are read together
LOOKALIKES = str.maketrans("OoIl", "0011")
OCCLUDED = "0Q1i7Rae4Bgk"  # classes whose occlusion maps are drawn
MERGED = {
    "case_merged": analysis.case_groups(config.CLASS_NAMES),
    "lookalikes_merged": np.unique(
        [name.translate(LOOKALIKES) for name in config.CLASS_NAMES], return_inverse=True
    )[1],
}
# Weight of the geometry's log-likelihood beside the picture's, by how it is read: below 1, as the
# picture already tells part of it. Chosen on the choosing partitions, see `Part1._weights`.
SHARES = {"geometry": 0.6, "writer": 0.6, "hand": 0.7}
WEIGHTS = (0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0)  # that were compared


PLANS = read_plans(1)


def run(
    profile: str, *, seeds: int | None = None, jobs: int | None = None, fresh: bool = False
) -> Results:
    """Cross-validate, ablate and train part 1's network as `PLANS[profile]` says, and write the
    results.

    seeds: 5-fold partitions of the headline (default: the profile's). jobs, fresh: as in
    `study.Study`. Raises `UserError` for a profile or a number of seeds that does not exist.
    """
    with files.quiet():
        from midas_lib.model import add_geometry  # loads TensorFlow

    plan = plan_for(PLANS, profile, seeds)
    characters = data.limit(data.load_characters(profile), plan.per_class)
    study = Part1(plan, profile, characters, jobs=jobs, fresh=fresh)
    final, passes, lengths = study.final(), study.passes(), study.lengths()
    study.finish([final, *passes.values(), *lengths], "1 of 3, main arms")
    rates = study.rates()
    study.finish(list(rates.values()), "2 of 3, peak rates")
    ablations = study.ablations(study.best_rates(rates))
    study.finish(list(ablations.values()), "3 of 3, one change at a time")
    study.compare(passes)
    study.weigh(ablations)
    study.combine(passes, ablations)
    study.derive("inside", final.tasks, study.look_inside)
    study.show([run for (arm, _), run in passes.items() if arm == "cross-validation"])
    known = study.geometry, study.labels
    linear = analysis.class_likelihood(*known, CLASSES)
    hands = analysis.hands(*known, study.writers, CLASSES)
    study.checkpoint(
        "model", final, "seconds",
        lambda *trained: add_geometry(rebuild(*trained), *(SHARES["geometry"] * w for w in linear)),
        input="picture: pixels 0-255, bright ink on black, from midas_lib.images.preprocess; "
        "geometry: the glyph's (top, bottom) edge as shares of the 225-pixel-high scan",
        hands={"weight": SHARES["hand"]} | {k: v.tolist() for k, v in hands._asdict().items()},
    )  # fmt: skip
    return study.write("cross-validation", "accuracy", images=len(study.labels))


def variants(plan) -> list[tuple[str, str, str, dict]]:
    """The ablations that a plan runs: (group, variant, what is read, changes)."""

    def one(group, variant, reads="geometry", **changes):
        return group, variant, reads, changes

    return [
        one(group, variant, **changes[variant])
        for group, changes in list(ABLATIONS.items())[: plan.groups]
        for variant in list(changes)[: plan.variants]
    ]


def _chosen(reads: str) -> str:
    """The variant that ablations read in this way are compared with."""
    return f"chosen settings, {reads}"


def evenly(labels: np.ndarray, predictions: np.ndarray, most: int = 30) -> np.ndarray:
    """Rows of images for people to read: `most` that are misread and as many that are read right,
    or as many as there are of both; of each class the fewest possible; shuffled."""
    rng, taken, found = np.random.default_rng(0), np.zeros(CLASSES, int), []
    right = predictions == labels
    for kind in (~right, right):
        rows = rng.permutation(np.flatnonzero(kind))
        turn = taken[labels[rows]] + pd.Series(rows).groupby(labels[rows]).cumcount()
        rows = rows[np.argsort(turn, kind="stable")][: min(most, right.sum(), (~right).sum())]
        taken += np.bincount(labels[rows], minlength=CLASSES)
        found.append(rows)
    return rng.permutation(np.concatenate(found))


class Pass:
    """Networks that each read images they never saw. train, test: each one's rows; tasks: the
    networks'. rows: of all tests, sorted; network: which one reads each of them, (rows,)."""

    def __init__(self, splits: list[tuple[np.ndarray, np.ndarray]], tasks: list[Task]):
        self.train, self.test = zip(*splits, strict=True)
        self.tasks = tuple(tasks)
        asked = np.concatenate(self.test)
        self._order = np.argsort(asked)
        self.rows = asked[self._order]
        self.network = self.join([np.full(len(rows), k) for k, rows in enumerate(self.test)])

    def join(self, parts: list[np.ndarray]) -> np.ndarray:
        """What the networks have of their tests, (n, ...) each, in the order of `rows`."""
        return np.concatenate(parts)[self._order]


class Part1(Study):
    """Part 1's runs, each of several networks but for the final one's, and what is compared of
    them."""

    def __init__(self, plan, profile: str, characters: ImageDataset, **options):
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

    def _splits(self, partition: int, writers=None, size: int | None = None) -> list:
        """(train, test) rows of the five folds. size: images of each class to train on, drawn from
        the other folds; None takes all."""
        fold, splits = data.folds(self.labels, partition, writers), []
        for k in range(5):
            train = np.flatnonzero(fold != k)
            if size is not None:
                order = np.random.default_rng([partition, k, size]).permutation(train)
                chosen = [order[self.labels[order] == c][:size] for c in np.unique(self.labels)]
                train = np.sort(np.concatenate(chosen))
            splits.append((train, np.flatnonzero(fold == k)))
        return splits

    def _runs(self, arms: dict[str, str], seed: int, splits: list, changes: dict, **varies):
        """Arm -> the run of networks trained on the splits, read in the arm's way of `READS`."""
        tasks = []
        for k, (train, test) in enumerate(splits):
            settings = vary(self.settings, seed=10 * seed + k, **changes)
            examples, _ = self._preprocessed(settings)
            parts = {"examples": examples.take(train), "held_out": examples.take(test)}
            tasks.append(Task(settings=settings, classes=CLASSES, views=True, **parts))
        one, found = Pass(splits, tasks), {}
        training = tasks[0].settings.training
        varies = {"epochs": training.epochs, "rate": training.rate} | varies
        for arm, reads in arms.items():
            kept = ("predictions",)
            kept += ("view_predictions",) if arm == "cross-validation" else ()
            kept += CURVES if seed == 1 and arm in ("cross-validation", "writer-disjoint") else ()
            kept += ("rate",) if arm == "ablation/halved on plateau" else ()
            found[arm] = Run(
                arm=arm, seed=seed, task=one.tasks, arrays=kept,
                varies=varies | {"share": SHARES.get(reads, 0.0)},
                measure=lambda *outcomes, reads=reads: self._measure(one, reads, outcomes),
            )  # fmt: skip
            self._passes[found[arm].place] = one
        return found

    def _measure(self, one: Pass, reads: str, outcomes: tuple[Outcome, ...]) -> Measured:
        logs = self._logs(one, reads, [outcome.probabilities for outcome in outcomes])
        views = self._logs(one, reads, [outcome.views for outcome in outcomes])
        labels, probabilities, answers = self.labels[one.rows], np.exp(logs), logs.argmax(1)
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
            for name in outcomes[0].history
        }
        read = {"predictions": answers, "view_predictions": views.argmax(1)}
        return metrics, arrays | {name: one.astype(np.uint8) for name, one in read.items()}

    def _logs(
        self, one: Pass, reads: str, probabilities: list, share: float | None = None,
        together: int | None = None,
    ) -> np.ndarray:  # fmt: skip
        """Log-probabilities, (rows, classes), of the networks and what else is read: "picture"
        nothing; "geometry"; "writer" the geometry with each writer's offset, estimated from the
        training images, taken out; "hand" that of all tests by the same writer, or of so many
        `together`. share: instead of `SHARES`'."""
        share, parts = SHARES.get(reads) if share is None else share, []
        for found, train, test in zip(probabilities, one.train, one.test, strict=True):
            logs, geometry = np.log(np.maximum(found, 1e-12)), self.geometry
            known = self.labels[train], self.writers[train]
            if reads == "hand":
                hands = analysis.hands(geometry[train], *known, CLASSES)
                for group in self._groups(self.writers[test], together):
                    logs[group] = analysis.one_hand(
                        logs[group], geometry[test][group], hands, share
                    )
            elif reads != "picture":
                if reads == "writer":
                    told = np.isin(np.arange(len(self.labels)), train)
                    geometry = analysis.remove_writer_offsets(
                        geometry, self.labels, self.writers, told
                    )
                kernel, bias = analysis.class_likelihood(geometry[train], known[0], CLASSES)
                logs = logs + share * (geometry[test] @ kernel + bias)
            parts.append(logs)
        return analysis.apply_temperature(one.join(parts), 1.0)

    def _groups(self, writers: np.ndarray, most: int | None) -> list[np.ndarray]:
        """The places of each writer's images, in random groups of at most so many."""
        rng, found = np.random.default_rng(0), []
        for writer in np.unique(writers):
            own = rng.permutation(np.flatnonzero(writers == writer))
            found += np.array_split(own, 1 if most is None else -(-len(own) // most))
        return found

    def passes(self) -> dict[tuple[str, int], Run]:
        """(arm, seed) -> the headline's cross-validations and what is compared with them."""
        found = {}

        def add(arms, seed, splits, changes=(), **varies):
            runs = self._runs(arms, seed, splits, dict(changes), **varies)
            found.update({(arm, seed): run for arm, run in runs.items()})

        for seed in range(1, self.plan.seeds + 1):
            add(READS, seed, self._splits(seed))
        for seed in range(1, self.plan.disjoint_partitions + 1):
            add(DISJOINT, seed, self._splits(seed, self.writers))
        learned, ended = (np.flatnonzero(self.writers <= last) for last in KAGGLE)
        rest = np.setdiff1d(np.arange(len(self.labels)), ended)
        there = len(rest) and len(np.unique(self.labels[learned])) == CLASSES
        for seed in range(1, self.plan.kaggle_seeds + 1 if there else 1):
            add({"kaggle": "geometry", "kaggle-hand": "hand"}, seed, [(learned, rest)])
        whole = self._splits(1)[0][0]
        for size in self.plan.sizes:
            splits = self._splits(1, size=size)
            # As many steps: fewer images are passed over more often.
            steps = [len(rows) // self.settings.training.batch for rows in (whole, splits[0][0])]
            epochs = round(self.plan.epochs * steps[0] / max(1, steps[1]))
            add({f"size-{size}": "geometry"}, 1, splits, {"training__epochs": epochs}, size=size)
        return found

    def lengths(self) -> list[Run]:
        """The chosen settings at each length on the choosing partitions, arms "length/..."."""
        arms = {f"length/{reads}": reads for reads in ("picture", "geometry", "hand")}
        return [
            run
            for partition in CHOOSING_PARTITIONS
            for epochs in self.plan.lengths
            for run in self._runs(
                arms, partition, self._splits(partition), {"training__epochs": epochs}
            ).values()
        ]

    def _variants(self) -> list[tuple[str, str, str, dict]]:
        """The ablations' variants, after the settings that each is compared with."""
        found = variants(self.plan)
        kinds = dict.fromkeys(reads for _, _, reads, _ in found)
        return [("", _chosen(reads), reads, {}) for reads in kinds] + found

    def rates(self) -> dict[tuple[str, float], Run]:
        """(variant, peak rate) -> what touches optimisation on the first folds alone, arms
        "rate/..."."""
        first = CHOOSING_PARTITIONS[0]
        splits = self._splits(first)[:RATE_FOLDS]
        tuned = [one for one in self._variants() if one[0] in ("", *TUNED)]
        found = {}
        for _, variant, reads, change in tuned:
            for rate in self.plan.rates:
                own = {"training__epochs": self.plan.ablation_epochs, "training__rate": rate}
                arms = {f"rate/{variant}": reads}
                [found[variant, rate]] = self._runs(arms, first, splits, change | own).values()
        return found

    def best_rates(self, rates: dict) -> dict[str, float]:
        """Variant -> the peak rate with the best accuracy there; of equals the first."""
        best = {}
        for variant in dict.fromkeys(variant for variant, _ in rates):
            reached = {r: self.row(rates[variant, r])["accuracy"] for r in self.plan.rates}
            best[variant] = max(reached, key=reached.get)
        return best

    def ablations(self, rates: dict[str, float]) -> dict[tuple[str, int], Run]:
        """(variant, partition) -> each variant's pass and those of the settings that it is compared
        with, arms "ablation/..."; at its own peak rate where `rates` has one, else at theirs."""
        found = {}
        for partition in CHOOSING_PARTITIONS[: self.plan.ablation_partitions]:
            splits = self._splits(partition)
            for _, variant, reads, change in self._variants():
                own = {"training__epochs": self.plan.ablation_epochs}
                if rate := rates.get(variant, rates.get(_chosen(reads))):
                    own["training__rate"] = rate
                runs = self._runs({f"ablation/{variant}": reads}, partition, splits, change | own)
                [found[variant, partition]] = runs.values()
        return found

    def _hits(self, runs: list[Run], name: str = "predictions") -> tuple[np.ndarray, np.ndarray]:
        """What each pass reads right, (passes, images), and by which network."""
        hits, networks = [], []
        for run in runs:
            one = self._passes[run.place]
            hits.append(self.array(run, name) == self.labels[one.rows])
            networks.append(one.network + len(networks) * len(one.tasks))
        return np.stack(hits), np.stack(networks)

    def weigh(self, ablations: dict) -> None:
        """Under "ablations", each variant against the settings that it is compared with."""
        rows = []
        for group, variant, reads, _ in variants(self.plan):
            pair = [
                [run for (name, _), run in ablations.items() if name == one]
                for one in (variant, _chosen(reads))
            ]
            (ours, networks), (base, _) = map(self._hits, pair)
            row = {"group": group, "variant": variant, "reads": reads}
            row |= {"accuracy": ours.mean(), "baseline": base.mean()}
            row["difference"], row["p"] = analysis.crossed_interval(ours - 1.0 * base, networks)
            rows.append(row)
        adjusted = analysis.holm([row["p"] for row in rows])
        for row, p in zip(rows, adjusted, strict=True):
            told = "better" if row["difference"].mean > 0 else "worse"
            row |= {"adjusted_p": p, "verdict": told if p < 0.05 else "within noise"}
        self.info["facts"]["ablations"] = rows

    def compare(self, passes: dict) -> None:
        """Under "over/...", each arm's accuracy, and what it differs by from the headline's; both
        over images, with these writers, and over writers."""
        arms = {}
        for (arm, _), run in passes.items():
            arms.setdefault(arm, []).append(run)
        headline = arms["cross-validation"]
        arms |= {"test-time augmentation": headline}
        arms[f"size-{round(0.8 * len(self.labels) / CLASSES)}"] = headline[:1]
        base, _ = self._hits(headline)
        for name, runs in arms.items():
            viewed = name == "test-time augmentation"
            hits, networks = self._hits(runs, "view_predictions" if viewed else "predictions")
            rows, pairs = self._passes[runs[0].place].rows, min(len(hits), len(base))
            gain = hits[:pairs] - 1.0 * base[:pairs, rows]
            writers = self.writers[rows]
            self.info["facts"][f"over/{name}"] = {
                "accuracy": analysis.crossed_interval(hits, networks)[0],
                "difference": analysis.crossed_interval(gain, networks[:pairs])[0],
                "accuracy over writers": analysis.cluster_interval(hits.mean(0), writers),
                "difference over writers": analysis.cluster_interval(gain.mean(0), writers),
            }

    def combine(self, passes: dict, ablations: dict) -> None:
        """What rests on the networks' probabilities and not on their answers alone: weights,
        ensemble, calibration, and how many images of a hand are read together."""
        headline = [run for (arm, _), run in passes.items() if arm == "cross-validation"]
        strangers = [run for (arm, _), run in passes.items() if arm == "writer-disjoint"]
        choosing = [run for (name, _), run in ablations.items() if name == _chosen("geometry")]
        for name, runs, compute in (
            ("weights", choosing, self._weights),
            ("ensemble", headline, self._ensemble),
            ("calibration", headline[:1], self._calibration),
            ("images of a hand", strangers, self._hand_sizes),
        ):
            tasks = [task for run in runs for task in run.tasks]
            given = [SHARES, BINS] if name == "calibration" else [SHARES]
            self.derive(name, tasks, partial(self._with_probabilities, runs, compute), given=given)

    def _with_probabilities(self, runs: list[Run], compute, outcomes: list[Outcome]) -> Measured:
        found = iter([outcome.probabilities for outcome in outcomes])
        return compute(
            [(self._passes[run.place], [next(found) for _ in run.tasks]) for run in runs]
        )

    def _weights(self, passes) -> Measured:
        """Accuracy at each weight of the geometry, for a single image and for one hand's."""
        facts = {}
        for reads in ("geometry", "hand"):
            for weight in WEIGHTS:
                hits = [
                    self._logs(one, reads, found, weight).argmax(1) == self.labels
                    for one, found in passes
                ]
                facts.setdefault(reads, {})[str(weight)] = float(np.mean(hits))
        return facts, {}

    def _ensemble(self, passes) -> Measured:
        """The mean of all partitions' networks: five that never saw the image."""
        each = [np.exp(self._logs(one, "geometry", found)) for one, found in passes]
        hits = np.mean(each, 0).argmax(1) == self.labels
        alone = np.mean([one.argmax(1) == self.labels for one in each], 0)
        return {
            "accuracy": analysis.mean_interval(hits),
            "difference": analysis.paired_interval(1.0 * hits, alone),
        }, {}

    def _calibration(self, passes) -> Measured:
        """Confidence before and after temperature scaling, each image at the temperature that the
        other four folds' predictions fit best."""
        [(one, found)] = passes
        logs = self._logs(one, "geometry", found)
        calibrated, temperatures = np.empty_like(logs), []
        for k in range(len(found)):
            others = one.network != k
            best = analysis.fit_temperature(self.labels[others], logs[others])
            temperatures.append(best)
            calibrated[~others] = analysis.apply_temperature(logs[~others], best)
        right = logs[np.arange(len(logs)), self.labels]
        facts = {"temperature": float(np.mean(temperatures))}
        arrays = {"confidence": np.exp(logs.max(1)), "right_confidence": np.exp(right)}
        for when, values in (("before", logs), ("after", calibrated)):
            probabilities = np.exp(values)
            curve = analysis.reliability_curve(self.labels, probabilities, BINS, even=True)
            arrays[when] = np.stack(curve).astype(float)
            facts[when] = analysis.expected_calibration_error(self.labels, probabilities)
        return facts, arrays

    def _hand_sizes(self, passes) -> Measured:
        """Accuracy for unknown hands, by how many images of each are read together."""
        facts = {}
        for size in HAND_SIZES:
            hits = [
                self._logs(one, "hand", found, together=size).argmax(1) == self.labels
                for one, found in passes
            ]
            facts[str(size)] = analysis.cluster_interval(np.mean(hits, 0), self.writers)
        return facts, {}

    def look_inside(self, outcomes: list[Outcome]) -> Measured:
        """Occlusion maps of the first image of some classes."""
        from midas_lib import probe

        chosen = [config.CLASS_NAMES.index(name) for name in OCCLUDED]
        shown = self.everything.take([np.flatnonzero(self.labels == c)[0] for c in chosen])
        occlusion = probe.occlusion(rebuild(outcomes[0], self.settings), shown)
        return None, {"occlusion": occlusion, "pictures": shown.pictures[..., 0]}

    def show(self, headline: list[Run]) -> None:
        """What the page's figures of single images, classes and writers are drawn from."""
        labels, pictures = self.labels, self.everything.pictures[..., 0]
        predictions = np.stack([self.array(run, "predictions") for run in headline])
        counts = [analysis.confusion(labels, answers, CLASSES) for answers in predictions]
        writers, written = np.unique(self.writers, return_counts=True)
        wrong = predictions != labels
        by_writer = pd.Series((~wrong).mean(0)).groupby(self.writers).mean()
        first = [np.flatnonzero(labels == c)[0] for c in range(CLASSES)]
        # What is misread in some pass, and some that the first pass reads right, of every class.
        right = [np.flatnonzero((labels == c) & ~wrong[0])[:4] for c in range(CLASSES)]
        shown = np.union1d(np.flatnonzero(wrong.any(0)), np.concatenate(right))
        game = evenly(labels, predictions[0])
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
            "writers": by_writer.index.to_numpy(),
            "per_writer": by_writer.to_numpy(),
            "shown/pictures": pictures[shown],
            "shown/labels": labels[shown].astype(np.uint8),
            "shown/predictions": predictions[:, shown],
            "shown/confidence": self.arrays["calibration/confidence"][shown],
            "shown/right_confidence": self.arrays["calibration/right_confidence"][shown],
            "game/scans": self.characters.images[game] // 64 * 85,  # four grays take little
            "game/labels": labels[game].astype(np.uint8),
            "game/predictions": predictions[0, game],
        }
