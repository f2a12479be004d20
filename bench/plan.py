"""How much each profile of the bench measures."""

import dataclasses
import sys
from dataclasses import dataclass

THREADS = 2  # of every process that is timed
# For the processes that are timed, set before their libraries are loaded.
ENVIRONMENT = {
    "OMP_NUM_THREADS": str(THREADS),
    "TF_NUM_INTRAOP_THREADS": str(THREADS),
    "TF_NUM_INTEROP_THREADS": str(THREADS),
    "TF_CPP_MIN_LOG_LEVEL": "2",
}


@dataclass(frozen=True, kw_only=True)
class Heat:
    """One race. targets: accuracies of interest; a racer stops at the last of them, at its
    schedule's end, or after `horizon` seconds of training. repeats: of every racer, in turns."""

    targets: tuple[float, ...]
    horizon: float
    repeats: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """heats: races. data: the profile whose archives are drawn where there are no real ones.
    images, test_images: of MNIST, None for all. held_out: training images kept from training to
    compare networks. steps: timed of a training. times: how often a command is timed. runs:
    numbers of whole runs whose cost is compared; growing: numbers of images, likewise.
    part_profiles: of the reports whose time and memory are measured. torch: the Python that runs
    the PyTorch peer."""

    heats: tuple[Heat, ...]
    data: str = "standard"
    images: int | None = None
    test_images: int | None = None
    held_out: int = 5000
    steps: int = 60
    times: int = 5
    runs: tuple[int, ...] = (4, 8, 16, 32)
    growing: tuple[int, ...] = (4000, 8000, 16_000, 32_000)
    part_profiles: tuple[str, ...] = ("smoke",)
    torch: str = sys.executable


# 90 seconds is what 99.5 % may take us at most; the other horizon is longer than any racer needs.
SHORT = Heat(targets=(0.97, 0.98, 0.99), horizon=300.0, repeats=5)
LONG = Heat(targets=(0.995,), horizon=90.0, repeats=1)
PLANS = {
    "smoke": Plan(
        heats=(Heat(targets=(0.5,), horizon=20.0, repeats=1),),
        data="smoke", images=1000, test_images=200, held_out=200, steps=5, times=1, runs=(1, 2),
        growing=(250, 500), part_profiles=(),
    ),
    "standard": Plan(heats=(dataclasses.replace(SHORT, repeats=2), LONG)),
    "full": Plan(heats=(SHORT, LONG)),
}  # fmt: skip


def vary(plan: Plan, **changes) -> Plan:
    """A copy of the plan with those of the changes that are not None."""
    return dataclasses.replace(plan, **{k: v for k, v in changes.items() if v is not None})


def repeat(plan: Plan, repeats: int) -> Plan:
    """A copy whose first race is held so often, and each next one a third as often as the one
    before, but once at least."""
    often = [max(1, repeats // 3**i) for i in range(len(plan.heats))]
    changed = [dataclasses.replace(h, repeats=n) for h, n in zip(plan.heats, often, strict=True)]
    return dataclasses.replace(plan, heats=tuple(changed))
