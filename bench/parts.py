"""Wall time and peak memory of each part's report."""

import contextlib
import subprocess
import sys
import time

import psutil

from bench.plan import Plan
from midas_lib import config

EVERY = 1.0  # seconds between two looks at the memory: a look takes tenths of one


def run(plan: Plan) -> dict:
    """Result "parts": a row for each profile and part, every training done anew; seconds, and the
    most memory that its processes held together at a look, in GiB."""
    return {
        "parts": [
            {"profile": profile, "part": part, **_watch(part, profile)}
            for profile in plan.part_profiles
            for part in (1, 2, 3)
        ]
    }


def _watch(part: int, profile: str) -> dict:
    command = [sys.executable, "-m", "midas_lib", "report", str(part), "--profile", profile]
    begin, peak = time.perf_counter(), 0
    with subprocess.Popen([*command, "--fresh"], cwd=config.ROOT, stdout=subprocess.DEVNULL) as run:
        while run.poll() is None:
            peak = max(peak, _memory(psutil.Process(run.pid)))
            time.sleep(EVERY)
    if run.returncode:
        raise RuntimeError(f"part {part}, profile {profile}, failed")
    return {"seconds": time.perf_counter() - begin, "peak_gib": peak / 2**30}


def _memory(process: psutil.Process) -> int:
    """Bytes held by a process and what it started, pages they share counted once."""
    total = 0
    for one in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            memory = one.memory_full_info()
            total += getattr(memory, "pss", memory.uss)
    return total
