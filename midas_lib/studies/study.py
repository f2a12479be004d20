"""What the parts' studies share: runs declared, finished once, and measured into one table."""

import dataclasses
import inspect
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from midas_lib import analysis, config, corruptions, data, files, results, runs
from midas_lib.config import Settings, UserError
from midas_lib.results import Results
from midas_lib.runs import Outcome, Task
from midas_lib.studies import tables

Measured = tuple[dict, dict[str, np.ndarray]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """A row of a study's table that is, or is to be. arm, seed: its name among the others. task:
    the training that it rests on, or several. measure: from their outcomes to the row's metrics,
    and to arrays that are kept by name. varies: further columns that tell it from the arm's other
    runs. arrays: names of those that a page needs."""

    arm: str
    seed: int
    task: Task | tuple[Task, ...]
    measure: Callable[..., Measured]
    varies: dict = field(default_factory=dict)
    arrays: tuple[str, ...] = ()

    @property
    def tasks(self) -> tuple[Task, ...]:
        return self.task if isinstance(self.task, tuple) else (self.task,)

    @property
    def digest(self) -> str:
        """The task's name, or a digest of several tasks' names."""
        names = [task.name for task in self.tasks]
        return names[0] if len(names) == 1 else config.digest(names)[:24]

    @property
    def place(self) -> str:
        """What its arrays' names begin with."""
        return f"{self.arm}/{self.digest}"


class Study:
    """One part's study: its table of runs, and what else its page is drawn from. A run whose digest
    stands in the table that an earlier study of this profile wrote is taken from there, and neither
    trained nor loaded. fresh: train everything anew. jobs: as in `runs.run_all`."""

    def __init__(self, part: int, profile: str, plan, datasets: dict, *, jobs=None, fresh=False):
        self.part, self.plan, self.jobs, self.fresh = part, plan, jobs, fresh
        self.info = results.provenance(profile, datasets)
        self.info |= {"plan": dataclasses.asdict(plan)}
        self.info |= {name: {} for name in ("facts", "digests", "checkpoints")}
        known = None if fresh else results.written(part, self.info)
        self.known = known or Results(info={}, table=pd.DataFrame(), arrays={}, path=None)
        records = self.known.table.to_dict("records")
        self._known_rows = {f"{row['arm']}/{row['digest']}": row for row in records}
        self._rows, self._varies, self.arrays = {}, set(), {}
        self._finished, self._used, self._label = set(), {}, f"part {part}"

    @property
    def table(self) -> pd.DataFrame:
        """A row for each run finished so far; what tells it from others stands before its digest,
        its metrics after."""
        table = pd.DataFrame(list(self._rows.values()))
        names = [name for name in table if name in {"arm", "seed"} | self._varies]
        return table[[*names, "digest", *table.columns.drop([*names, "digest"])]]

    def finish(self, wanted: list[Run], stage: str = "") -> None:
        """Add a row for each run, in this order; those that have none yet are trained together.
        stage: what of the study they are, for whoever waits."""
        self._label = " · ".join(filter(None, [f"part {self.part}", stage]))
        kept = {run for run in wanted if self._stands(run)}
        outcomes = self.outcomes([task for run in wanted if run not in kept for task in run.tasks])
        for run in wanted:
            self._varies |= run.varies.keys()
            if run in kept:
                self._used |= {task.name: True for task in run.tasks}
                self._rows[run.place] = self._known_rows[run.place]
                self.arrays |= self._known_arrays(run.place)
            else:
                metrics, arrays = run.measure(*(outcomes[task.name] for task in run.tasks))
                name = {"arm": run.arm, "seed": run.seed, **run.varies, "digest": run.digest}
                self._rows[run.place] = name | metrics
                self._keep(run.place, {key: arrays[key] for key in run.arrays})

    def _stands(self, run: Run) -> bool:
        wanted, known = {f"{run.place}/{name}" for name in run.arrays}, self._known_rows
        alike = (known.get(run.place, {}).get(name) == v for name, v in run.varies.items())
        return run.place in known and all(alike) and wanted <= self.known.arrays.keys()

    def _known_arrays(self, place: str) -> dict[str, np.ndarray]:
        return {k: v for k, v in self.known.arrays.items() if k.startswith(f"{place}/")}

    def _keep(self, place: str, arrays: dict[str, np.ndarray]) -> None:
        self.arrays |= {f"{place}/{name}": array for name, array in arrays.items()}

    def row(self, run: Run) -> dict:
        """A finished run's row."""
        return self._rows[run.place]

    def array(self, run: Run, name: str) -> np.ndarray:
        """An array of a finished run; where it was not kept, the run is measured anew."""
        key = f"{run.place}/{name}"
        if key not in self.arrays:
            outcomes = self.outcomes(run.tasks)
            _, arrays = run.measure(*(outcomes[task.name] for task in run.tasks))
            self._keep(run.place, arrays)
        return self.arrays[key]

    def outcomes(self, tasks) -> dict[str, Outcome]:
        """Each task's outcome by its name, from the run store or trained."""
        adopt({start.name for task in tasks for start in _starts(task)})
        new = [task for task in tasks if task.name not in self._finished]
        if self.fresh and new:
            runs.run_all(new, jobs=self.jobs, fresh=True, label=self._label)
        done = runs.run_all(tasks, jobs=self.jobs, label=self._label)
        found = dict(zip((task.name for task in tasks), done, strict=True))
        for task in new:
            self._finished.add(task.name)
            self._used[task.name] = found[task.name].reused and not self.fresh
        return found

    def derive(
        self, name: str, tasks, compute: Callable[..., Measured], outcomes: bool = True, given=()
    ):  # fmt: skip
        """Return `facts[name]`, which is no run's own: an earlier study's, if from the same tasks
        and what else is given, JSON-like, else computed. compute: from the tasks' outcomes, or
        without `outcomes` from nothing, to facts, for JSON, and arrays, kept as "name/key"."""
        tasks = list(tasks)
        digest = config.digest([name, *given, *(task.name for task in tasks)])[:24]
        if self.known.info.get("digests", {}).get(name) == digest:
            facts = self.known.info["facts"].get(name)
            self.arrays |= self._known_arrays(name)
        else:
            found = self.outcomes(tasks) if outcomes else {}
            inputs = [[found[task.name] for task in tasks]] if outcomes else []
            facts, arrays = compute(*inputs)
            self._keep(name, arrays)
        self.info["digests"][name], self.info["facts"][name] = digest, facts
        return facts

    def checkpoint(self, name: str, run: Run, metric: str, build=None, **description) -> None:
        """Keep a run's network as this part's checkpoint `name`, unless it is there already.
        metric: of the run's row, to be written down with it. build: from the run's outcome to the
        network (default: `rebuild`). description: more of what stands beside it."""
        from midas_lib.inference import save_classifier

        (task,), row = run.tasks, self.row(run)
        path = results.checkpoint_path(self.info, self.part, name)
        noted = {"arm": run.arm, "seed": run.seed, metric: row[metric]}
        self.info["checkpoints"][results.relative(path)] = noted
        try:
            notes = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            notes = {}
        if path.exists() and notes.get("run") == task.name:
            return
        model = (build or rebuild)(self.outcomes([task])[task.name], task.settings)
        description |= {name: self.info[name] for name in ("data", "versions")}
        description |= {"run": task.name, "settings": dataclasses.asdict(task.settings)}
        description["class_names"] = list(config.CLASS_NAMES[: task.classes])
        description[metric] = row[metric]
        save_classifier(model, path, description)

    def write(self, arm: str, metric: str, **more) -> Results:
        """Write table, arrays and the rest, with the headline's arm and metric; return them as they
        are read."""
        table = self.table
        headline = tables.mean_by(table[table["arm"] == arm], "arm", metric)[arm]
        self.info["headline"] = {"arm": arm, "metric": metric, **dataclasses.asdict(headline)}
        self.info |= {"runs": len(self._used), "reused_runs": sum(self._used.values()), **more}
        table = table.convert_dtypes()  # whole numbers are written as such, gaps or not
        return results.read_file(results.write(self.info, self.part, table, self.arrays))


class MnistStudy(Study):
    """A study whose runs are tested on MNIST. test: its test examples; by default no run is asked
    about anything else."""

    test: data.Examples
    characters: data.Examples

    def pretrained(self, arm: str, seed: int, settings: Settings, tests: dict, measure) -> Run:
        """Part 1's network, asked about the tests as it is. Its first seed's, trained for as long,
        is the one that part 1 published."""
        settings = config.vary(settings, seed=settings.seed + seed)
        trained = Task(settings=settings, examples=self.characters, classes=62)
        as_it_is = config.vary(settings, training__epochs=0)
        task = dataclasses.replace(trained, settings=as_it_is, start=trained, tests=tests)
        varies = {"epochs": settings.training.epochs}
        return Run(arm=arm, seed=seed, task=task, measure=measure, varies=varies)

    def declare(
        self, arm: str, seed: int, settings: Settings, examples, *, start: Run | None = None,
        measure=None, arrays=(), varies=None, **more,
    ) -> Run:  # fmt: skip
        """A run, whose training has the settings' seed plus its own. more: of its `Task`."""
        settings = config.vary(settings, seed=settings.seed + seed)
        training = settings.training
        varies = {"epochs": training.epochs, "rate": training.rate} | (varies or {})
        more = {"classes": 10, "tests": {"mnist": self.test}, "start": start and start.task} | more
        task = Task(settings=settings, examples=examples, **more)
        measure = measure or self.tested
        return Run(arm=arm, seed=seed, task=task, measure=measure, varies=varies, arrays=arrays)

    def zero_shot(self, outcome: Outcome, tests: dict[str, data.Examples]) -> Measured:
        """The accuracy on each of the task's `tests` of a network that has not seen their like, by
        its first ten classes."""
        found = {"seconds": outcome.seconds}
        for name, examples in tests.items():
            answers = outcome.tests[name][:, :10].argmax(1)
            found[f"{name}_accuracy"] = analysis.accuracy(examples.labels, answers)
        return found, {}

    def tested(self, outcome: Outcome) -> Measured:
        """What a run's one look at the test set gave: accuracy, negative log-likelihood (nats) and
        calibration error; and its length in steps and seconds. As arrays, whether each image is
        read right, and its negative log-likelihood."""
        probabilities, labels = outcome.tests["mnist"], self.test.labels
        logs = np.log(np.maximum(probabilities, 1e-12))
        return {
            "test_accuracy": analysis.accuracy(labels, probabilities.argmax(1)),
            "test_nll": analysis.negative_log_likelihood(labels, logs),
            "test_ece": analysis.expected_calibration_error(labels, probabilities),
            "steps": int(outcome.history["step"][-1]),
            "seconds": outcome.seconds,
        }, {
            "right": probabilities.argmax(1) == labels,
            "nll": -logs[np.arange(len(labels)), labels].astype(np.float32),
        }

    def learned(self, outcome: Outcome, before: float, curves: tuple[str, ...], **more) -> Measured:
        """The same, and how fast it was learned. before: the accuracy on the held-out examples
        before the first step. curves: of the history, kept as arrays. more: further metrics."""
        metrics, arrays = self.tested(outcome)
        arrays |= {name: np.asarray(outcome.history[name], np.float32) for name in curves}
        metrics |= more | {"jump_start": before}
        return metrics | tables.pace(outcome.history, before), arrays

    def ends(self, name: str, kinds: dict[str, list[Run]]) -> None:
        """Derive under `name` how two kinds of networks end on the test set, paired: of each its
        accuracy, negative log-likelihood (nats) and calibration error, and what the second kind
        differs by. Seeds and images vary, but for the calibration error."""

        def compute():
            facts, values = {}, []
            for kind, several in kinds.items():
                arrays = [[self.array(run, part) for run in several] for part in ("right", "nll")]
                values.append([np.stack(one).astype(float) for one in arrays])
                accuracy, nll = map(_crossed, values[-1])
                accuracy = analysis.as_rate(accuracy)
                ece = analysis.mean_interval([self.row(run)["test_ece"] for run in several])
                facts[kind] = {"accuracy": accuracy, "nll": nll, "ece": ece}
            accuracy, nll = (_crossed(ours - base) for base, ours in zip(*values, strict=True))
            return facts | {"difference": accuracy, "nll_difference": nll}, {}

        tasks = [run.task for several in kinds.values() for run in several]
        self.derive(name, tasks, compute, outcomes=False)

    def robustness(self, names: tuple[str, str], tests, outcomes: list[Outcome]) -> Measured:
        """The same of the accuracy alone, of each half of the outcomes, on each of the `tests`, the
        test set spoilt."""
        facts, half = {}, len(outcomes) // 2
        for test in tests:
            right = [one.tests[test].argmax(1) == self.test.labels for one in outcomes]
            base, ours = np.split(np.stack(right).astype(float), [half])
            rates = (analysis.as_rate(_crossed(hits)) for hits in (base, ours))
            each = dict(zip(names, rates, strict=True))
            facts[test] = each | {"difference": _crossed(ours - base)}
        return facts, {}

    def pair(self, settings: Settings, seen, some, outcomes: list[Outcome]) -> Measured:
        """How alike two networks are: what they compute of `seen`, by layer, how often their
        answers to the test set differ, and the error on `seen` half-way between their weights and
        elsewhere on that line, statistics re-estimated from `some`."""
        with files.quiet():
            from midas_lib import probe

        layers = range(1, len(settings.network.channels) + 1)
        names = [*(f"conv{layer}_relu" for layer in layers), "features"]
        models = [rebuild(outcome, settings) for outcome in outcomes]
        one, other = (probe.features(model, seen, names) for model in models)
        _, path = probe.interpolate(*models, np.linspace(0, 1, 11), some, seen)
        answers = [outcome.tests["mnist"].argmax(1) for outcome in outcomes]
        alike = [analysis.linear_cka(one[name], other[name]) for name in names]
        facts = {"cka": alike, "apart": float(np.mean(answers[0] != answers[1]))}
        return facts, {"error": 1 - path}


def spoilt(test: data.Examples) -> dict[str, data.Examples]:
    """Test examples with each corruption, by its name."""
    pictures = test.pictures[..., 0]
    return {
        name: dataclasses.replace(test, pictures=corruptions.corrupt(pictures, name)[..., None])
        for name in corruptions.CORRUPTIONS
    }


def _crossed(values: np.ndarray) -> analysis.Interval:
    """The mean of (networks, images), where both vary."""
    networks = np.broadcast_to(np.arange(len(values))[:, None], values.shape)
    return analysis.crossed_interval(values, networks)[0]


def _starts(task: Task) -> Iterator[Task]:
    """What a task starts from, what that starts from, and so on."""
    while task := task.start:
        yield task


def adopt(names: set[str]) -> None:
    """Put those of these runs that were kept as checkpoints into the run store, if it lacks them:
    what a training starts from is the published network itself."""
    missing = {name for name in names if not (config.RUNS / f"{name}.npz").exists()}
    for path in sorted(config.ROOT.glob("checkpoints/part*/*.json")) if missing else ():
        notes = json.loads(path.read_text(encoding="utf-8"))
        if notes.get("run") in missing and path.with_suffix(".keras").exists():
            with files.quiet():
                import keras  # loads TensorFlow

            layers = keras.saving.load_model(path.with_suffix(".keras"), compile=False).layers
            of_picture = [one for one in layers if one.name != "geometry_logits"]
            runs.keep(notes["run"], [w for one in of_picture for w in one.get_weights()], notes)


def rebuild(outcome: Outcome, settings: Settings):
    """The network of these settings with the weights of a finished run."""
    with files.quiet():
        from midas_lib.model import build_cnn  # loads TensorFlow

    model = build_cnn(len(outcome.weights[-1]), settings.preprocessing.size, settings.network)
    model.set_weights(outcome.weights)
    return model


def read_plans(part: int) -> dict:
    """Profile -> its plan, frozen: plans.toml's full one, where "all" stands for None, but for what
    the profile has there."""
    found = config.read_table("plans")[f"part{part}"]
    full = {name: None if v == "all" else v for name, v in found.pop("full").items()}
    plan = dataclasses.make_dataclass("Plan", full, frozen=True, kw_only=True)
    return {profile: plan(**full | found.get(profile, {})) for profile in config.PROFILES}


def plan_for(plans: dict, profile: str, seeds: int | None, *limited: str):
    """A profile's plan, with another number of `seeds`, which the fields `limited` do not exceed.
    Raises `UserError` for a profile or a number that does not exist."""
    plan = plans[config.check_profile(profile)]
    if seeds is None:
        return plan
    if seeds < 1:
        raise UserError(f"SEEDS={seeds}: give 1 or more")
    fewer = {name: min(seeds, getattr(plan, name)) for name in limited}
    return dataclasses.replace(plan, seeds=seeds, **fewer)


def open_results(part: int, run: Callable, profile: str, train: bool | None, **options) -> Results:
    """The results a notebook draws, as they are written, after a part's `run` if that is asked for.
    train: whether to run what is missing; None: only where there are no results of this profile.
    options: `run`'s. Raises `UserError` for an option that drawing would ignore."""
    config.check_profile(profile)
    if train or (train is None and not results.exists(part, profile)):
        return run(profile, **options)
    defaults = inspect.signature(run).parameters
    ignored = [f"{k}={v}" for k, v in options.items() if v != defaults[k].default]
    if ignored:
        advice = "written results are drawn as they are; with train=True what is missing is run"
        raise UserError(f"{', '.join(ignored)}: {advice}")
    return results.read(part, profile)


def as_examples(dataset: data.ImageDataset, count: int | None = None) -> data.Examples:
    """The first `count` (None: all) images of a dataset of the network's own size."""
    return data.Examples(pictures=dataset.images[:count, ..., None], labels=dataset.labels[:count])
