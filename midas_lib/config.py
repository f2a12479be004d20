"""Paths, class names, profiles, and the frozen settings every other module takes."""

import dataclasses
import hashlib
import json
import os
import string
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CLASS_NAMES = tuple(string.digits + string.ascii_uppercase + string.ascii_lowercase)
DIGIT_NAMES = CLASS_NAMES[:10]
PROFILES = ("smoke", "standard", "full")
LOSSES = (
    "cross-entropy",
    "posterior",
    "forward",
    "SCL-NL",
    "SCL-EXP",
    "PC",
    "L-W",
    "NN",
    "GA",
)
SCHEDULES = ("constant", "plateau", "cosine", "one-cycle")
RUNS = ROOT / "checkpoints" / "runs"


class UserError(Exception):
    """A mistake of the user's: shown as one line, without a traceback, exit code 2."""


def data_dir() -> Path:
    """Folder of the raw archives and the decoded cache (environment variable DATA_DIR)."""
    return Path(os.environ.get("DATA_DIR") or ROOT / "data").expanduser().resolve()


def mirror() -> str | None:
    """Folder or base URL holding the archives under their original names (MIRROR)."""
    return os.environ.get("MIRROR") or None


def standin_wanted() -> bool:
    """Whether the drawn stand-in data are asked for, whatever else is there (STANDIN=1)."""
    return os.environ.get("STANDIN", "") not in ("", "0")


def check_profile(profile: str) -> str:
    """Return `profile`, or raise `UserError` when it is not one of `PROFILES`."""
    if profile not in PROFILES:
        raise UserError(f"PROFILE={profile}: no such profile; choose one of {', '.join(PROFILES)}")
    return profile


def digest(settings) -> str:
    """SHA-256 (hex, 64 characters) of a dataclass or JSON-like value, key order ignored."""
    if dataclasses.is_dataclass(settings):
        settings = dataclasses.asdict(settings)
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How a scan becomes the network's input.

    mode: "crop" brings the glyph's bounding box, with `margin` (a share of its longer side) on
    every side, to the input's square; "scale" centres the glyph and keeps its size; "canvas" keeps
    size and place; "mnist" brings the bounding box to 20 of 28 parts of the square and the ink's
    centre of mass to its centre, as MNIST was made (LeCun et al. 1998, section III-A).
    size: the input's side in pixels.
    """

    mode: str = "crop"
    size: int = 28
    margin: float = 0.1

    def __post_init__(self):
        if self.mode not in ("crop", "scale", "canvas", "mnist"):
            raise ValueError(f"mode {self.mode!r}: choose crop, scale, canvas or mnist")


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random changes to a training picture; each number is the half-width of a uniform range.

    rotation: degrees. scale, aspect: log of the factor. shear: slope. shift: share of the side.
    elastic: about the standard deviation, in pixels, of a smooth random displacement. thickness:
    up to which share strokes go towards the picture dilated, or eroded, by one pixel. mixup: the
    largest weight of a second picture mixed in.
    """

    rotation: float = 12.0
    scale: float = 0.12
    aspect: float = 0.12
    shear: float = 0.2
    shift: float = 0.08
    elastic: float = 0.0
    thickness: float = 0.0
    mixup: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Network:
    """Shape of the convolutional network, see `model.build_cnn`.

    width: factor on the 32, 64 and 128 channels of the three stages. depth: convolutions in each
    stage. kernel: side of all kernels. dropout: share dropped before the last layer.
    """

    width: float = 1.0
    depth: tuple[int, int, int] = (1, 3, 3)
    kernel: int = 3
    dropout: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a network is trained, see `train.fit`.

    epochs: passes over the training images. batch: images per step. rate: the learning rate's
    peak. schedule: "constant", "plateau", "cosine" or "one-cycle". weight_decay: AdamW's.
    smoothing: share of the target spread over all classes. averaging: decay, per step, of the
    running average of the weights that is the result; 0 takes the last weights. checks: how many
    times the held-out examples are measured in the first epoch, and in each later one. loss: one of
    `LOSSES`; all but "cross-entropy", which alone knows smoothing, take labels for complementary.
    leak: the share of labels that are true nevertheless, for "forward" and "posterior".
    sharpening: the exponent that "posterior" ends with, growing from 1 after the share `blunt` of
    the steps. balance: weight at the start of `losses.imbalance`, falling to 0 as that grows.
    """

    epochs: int = 30
    batch: int = 64
    rate: float = 2e-3
    schedule: str = "cosine"
    weight_decay: float = 1e-2
    smoothing: float = 0.1
    averaging: float = 0.0
    checks: tuple[int, int] = (1, 1)
    loss: str = "cross-entropy"
    leak: float = 0.0
    sharpening: float = 1.0
    blunt: float = 0.5
    balance: float = 0.0

    def __post_init__(self):
        if self.loss not in LOSSES:
            raise ValueError(f"loss {self.loss!r}: choose one of {', '.join(LOSSES)}")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule {self.schedule!r}: choose one of {', '.join(SCHEDULES)}")


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """What a training that begins with another network's weights takes over.

    layers: convolutions, counted from the input; None takes all. head: whether the last layer is
    taken over too, as far as the classes are the same. frozen: whether what was copied stays as it
    is. rate_decay: factor on a layer's learning rate for each layer that it lies below the last
    one (discriminative fine-tuning, Howard & Ruder 2018, section 3.2).
    """

    layers: int | None = None
    head: bool = True
    frozen: bool = False
    rate_decay: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that, with the data, decides a run's result. threads: processor threads; their
    number changes the order of sums, and so the result's last digits."""

    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    augmentation: Augmentation = field(default_factory=Augmentation)
    network: Network = field(default_factory=Network)
    training: Training = field(default_factory=Training)
    transfer: Transfer = field(default_factory=Transfer)
    seed: int = 0
    threads: int = 1


def changed(settings: Settings) -> dict:
    """The settings that differ from the defaults, by group."""
    ours, default = dataclasses.asdict(settings), dataclasses.asdict(Settings())
    found = {}
    for name, value in ours.items():
        if isinstance(value, dict):
            value = {key: one for key, one in value.items() if one != default[name][key]}
        if value not in ({}, default[name]):
            found[name] = value
    return found


def vary(settings: Settings, **changes) -> Settings:
    """A copy with single settings changed: `vary(s, training__epochs=5, seed=1)`."""
    for name, value in changes.items():
        group, _, key = name.rpartition("__")
        if group:
            value = dataclasses.replace(getattr(settings, group), **{key: value})
        settings = dataclasses.replace(settings, **{group or key: value})
    return settings
