"""What runs side by side gain, and what the run store costs: `python -m bench.jobs [--json]`.

Times the same trainings with one or two processes of one or two threads, then on one and on two
workers of a Dask cluster on this machine (without the `distributed` package, that is left out). The
machine should have nothing else to do. Every setting gets a store of its own, and processes that
have each trained once before the clock starts, so that loading TensorFlow is not counted.
"""

import argparse
import contextlib
import dataclasses
import functools
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import loky
import numpy as np

from midas_lib import config, runs, store
from midas_lib.config import vary
from midas_lib.data import Examples
from midas_lib.studies import part2


def examples(count: int) -> Examples:
    """Random pictures of MNIST's size: training takes as long whatever they show."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (count, 28, 28, 1)).astype(np.uint8)
    return Examples(pictures=pictures, labels=rng.integers(0, 10, count))


def tasks(count: int, images: Examples, threads: int, first: int = 0) -> list[runs.Task]:
    """Trainings with part 2's settings for MNIST."""
    settings = vary(part2.MNIST, threads=threads, training__epochs=2)
    return [
        runs.Task(settings=vary(settings, seed=first + i), examples=images, classes=10)
        for i in range(count)
    ]


def seconds_of(count: int, images: Examples, threads: int = 1, jobs: int = 1) -> float:
    """Wall time of `count` trainings, after one by each worker that does not count."""
    with tempfile.TemporaryDirectory() as store:
        runs.run_all(tasks(jobs, images, threads, 1000), jobs=jobs, folder=Path(store))
        begin = time.perf_counter()
        runs.run_all(tasks(count, images, threads), jobs=jobs, folder=Path(store))
        return time.perf_counter() - begin


@contextlib.contextmanager
def processes():
    """Worker processes of its own: TensorFlow's number of threads cannot be changed in one."""
    yield
    loky.get_reusable_executor(reuse=True).shutdown(wait=True, kill_workers=True)


@contextlib.contextmanager
def cluster(workers: int):
    """A Dask cluster of so many workers on this machine, to which runs are sent."""
    import distributed

    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        file = str(Path(folder, "scheduler.json"))

        def start(program, *options):
            command = [sys.executable, "-m", f"distributed.cli.{program}", *options]
            command += ["--scheduler-file", file, "--no-dashboard", "--host", "127.0.0.1"]
            process = subprocess.Popen(
                command, env=os.environ | {"PYTHONPATH": str(config.ROOT)}, cwd=folder,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            stack.callback(process.wait)
            stack.callback(process.kill)

        start("dask_scheduler", "--port", "0")
        for _ in range(workers):
            start("dask_worker", "--no-nanny", "--nthreads", "1")
        with distributed.Client(scheduler_file=file, timeout=60) as client:
            client.wait_for_workers(workers, timeout=60)
            os.environ["SCHEDULER"] = client.scheduler.address
            stack.callback(os.environ.pop, "SCHEDULER")
        yield


def speeds(count: int, images: int, repeats: int) -> dict[str, dict]:
    """Setting -> each repeat's wall time, their median, and how much faster than one process of
    one thread, or than one worker, that is."""
    some = examples(images)
    ways = {
        "1 process, 1 thread": (processes, {}),
        "1 process, 2 threads": (processes, {"threads": 2}),
        "2 processes, 1 thread": (processes, {"jobs": 2}),
    }
    if importlib.util.find_spec("distributed"):
        ways["1 Dask worker"] = (functools.partial(cluster, 1), {})
        ways["2 Dask workers"] = (functools.partial(cluster, 2), {"jobs": 2})
    times = {way: [] for way in ways}
    for _ in range(repeats):  # in turns, so that a slow minute does not hit one alone
        for way, (surroundings, options) in ways.items():
            with surroundings():
                times[way].append(seconds_of(count, some, **options))
    found = {}
    for way, seconds in times.items():
        base = times["1 Dask worker" if "Dask" in way else "1 process, 1 thread"]
        median = statistics.median(seconds)
        speedup = statistics.median(base) / median
        found[way] = {"seconds": seconds, "median": median, "speedup": speedup}
    return found


def store_milliseconds(repeats: int) -> dict[str, float]:
    """Median time to name, write and read one of part 2's main runs: 55,000 images in, a network
    and its answers to MNIST's test set and 9 changed copies of it out."""
    everything = [examples(count) for count in (55_000, 5000, *[10_000] * 10)]

    def name():
        new = [dataclasses.replace(one) for one in everything]  # whose digests are not known yet
        tests = {str(i): test for i, test in enumerate(new[2:])}
        task = runs.Task(
            settings=part2.MNIST, examples=new[0], held_out=new[1], classes=10, tests=tests
        )
        return task.name

    arrays = {f"weight_{i}": np.random.rand(4000).astype(np.float32) for i in range(30)}
    arrays |= {f"test_{i}": np.zeros((10_000, 10), np.float32) for i in range(10)}
    arrays |= {"seconds": np.array(60.0), "settings": np.array("{}")}
    # On the store's own disk.
    with tempfile.TemporaryDirectory(dir=config.ROOT / "checkpoints") as folder:
        entry = Path(folder, "entry.npz")
        steps = {
            "name": name,
            "write": lambda: store.write(entry, arrays),
            "read": lambda: store.read(entry),
        }
        return {step: statistics.median(_milliseconds(do, repeats)) for step, do in steps.items()}


def _milliseconds(do, repeats: int) -> list[float]:
    found = []
    for _ in range(repeats):
        begin = time.perf_counter()
        do()
        found.append(1000 * (time.perf_counter() - begin))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON document, no more")
    parser.add_argument("--runs", type=int, default=8, help="trainings timed (default 8)")
    parser.add_argument("--images", type=int, default=12_800, help="of each (default 12800)")
    parser.add_argument("--repeats", type=int, default=3, help="of every timing (default 3)")
    args = parser.parse_args()
    with contextlib.redirect_stdout(sys.stderr):
        found = {
            "cores": os.cpu_count(),
            "runs": args.runs,
            "images": args.images,
            "speed": speeds(args.runs, args.images, args.repeats),
            "store_milliseconds": store_milliseconds(10 * args.repeats),
        }
    if args.json:
        print(json.dumps(found))
        return
    for way, row in found["speed"].items():
        print(f"{way:22} {row['median']:7.1f} s  {row['speedup']:5.2f} x")
    for step, value in found["store_milliseconds"].items():
        print(f"store: {step:15} {value:7.1f} ms")


if __name__ == "__main__":
    main()
