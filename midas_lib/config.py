"""Paths, class names, profiles, and the frozen settings every other module takes."""

import dataclasses
import hashlib
import json
import os
import string
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if not (ROOT / "notebooks").is_dir():  # the library is installed, without a checkout
    ROOT = Path.cwd()
CLASS_NAMES = tuple(string.digits + string.ascii_uppercase + string.ascii_lowercase)
DIGIT_NAMES = CLASS_NAMES[:10]
PROFILES = ("smoke", "standard", "full")
LOSSES = {  # name -> function in `losses`
    "cross-entropy": "cross_entropy", "PRODEN": "proden", "forward": "forward", "SCL-NL": "scl_nl",
    "SCL-EXP": "scl_exp", "PC": "pairwise_comparison", "L-W": "weighted", "NN": "non_negative",
    "GA": "gradient_ascent",
}  # fmt: skip
RUNS = ROOT / "checkpoints" / "runs"


class UserError(Exception):
    """A mistake of the user's: shown as one line, without a traceback, exit code 2."""


def printable(text) -> str:
    """Text as it may stand in one line on a terminal: what is no visible character, such as a line
    break, an escape code or a byte that is no UTF-8, as a backslash escape."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))


def from_caller(path: str | Path) -> Path:
    """`path`, a relative one counted from the user's folder, which `make -C` leaves: the Makefile
    names it in PWD. As a program that calls make may leave an old PWD, what lies in the current
    folder alone is taken from there."""
    here = Path(path).expanduser()
    there = Path(os.environ.get("PWD", "") if "MAKELEVEL" in os.environ else "", here)
    return here if here.exists() and not there.exists() else there


def data_dir() -> Path:
    """Folder of the raw archives and the decoded cache (environment variable DATA_DIR)."""
    return from_caller(os.environ.get("DATA_DIR") or ROOT / "data").resolve()


def mirror() -> str | None:
    """Folder or base URL holding the archives under their original names (MIRROR)."""
    place = os.environ.get("MIRROR")
    return str(from_caller(place)) if place and "://" not in place else place or None


def standin_wanted() -> bool:
    """Whether the drawn stand-in data are asked for, whatever else is there (STANDIN=1)."""
    return os.environ.get("STANDIN", "") not in ("", "0")


def read_table(name: str) -> dict:
    """What stands in this package's `name`.toml, with tuples for lists."""

    def frozen(value):
        if isinstance(value, dict):
            return {key: frozen(item) for key, item in value.items()}
        return tuple(map(frozen, value)) if isinstance(value, list) else value

    return frozen(tomllib.loads(Path(__file__).with_name(f"{name}.toml").read_text("utf-8")))


def check_profile(profile: str) -> str:
    """Return `profile`, or raise `UserError` when it is not one of `PROFILES`."""
    if profile not in PROFILES:
        raise UserError(f"PROFILE={profile}: no such profile; choose one of {', '.join(PROFILES)}")
    return profile


def digest(settings) -> str:
    """SHA-256 (hex, 64 characters) of a dataclass or JSON-like value, key order ignored."""
    text = json.dumps(settings, sort_keys=True, default=dataclasses.asdict)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How a scan becomes the network's input, a square of `size` pixels a side. mode: "crop" brings
    the glyph's bounding box, with `margin` (a share of its longer side) on every side, to the
    square; "scale" centres the glyph and keeps its size; "canvas" keeps size and place; "mnist"
    brings the bounding box to 20 of 28 parts of the square and the ink's centre of mass to its
    centre (LeCun et al. 1998, section III-A)."""

    mode: str = "mnist"
    size: int = 28
    margin: float = 0.1

    def __post_init__(self):
        if self.mode not in ("crop", "scale", "canvas", "mnist"):
            raise ValueError(f"mode {self.mode!r}: choose crop, scale, canvas or mnist")
        if not (8 <= self.size <= 512 and 0 <= self.margin <= 10):
            raise ValueError(f"size {self.size}, margin {self.margin}: give 8 to 512, and 0 to 10")


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random changes to a training picture; each number is the half-width of a uniform range.
    rotation: degrees. scale, aspect: log of the factor. shear: slope. shift: share of the side.
    elastic: standard deviation, in pixels, of a smooth displacement. thickness: up to which share
    strokes go towards the picture dilated or eroded by a pixel. mixup: weight of a second
    picture."""

    rotation: float = 15.0
    scale: float = 0.2
    aspect: float = 0.2
    shear: float = 0.3
    shift: float = 0.08
    elastic: float = 0.7
    thickness: float = 0.0
    mixup: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Network:
    """Shape of `model.build_cnn`. channels, strides: of its convolutions, from the input. kernel:
    side of the first one's kernels. normalised: whether each is followed by batch normalisation.
    pooling: what is left of the last one's places, the "max" of every 2x2, the means of four
    "quarters", or the "mean" of all. dropout: share before the last layer."""

    channels: tuple[int, ...] = (32, 64, 96, 128)
    strides: tuple[int, ...] = (2, 2, 1, 1)
    kernel: int = 5
    normalised: bool = True
    pooling: str = "max"
    dropout: float = 0.0

    def __post_init__(self):
        if self.pooling not in ("quarters", "mean", "max"):
            raise ValueError(f"pooling {self.pooling!r}: choose quarters, mean or max")


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a network is trained, see `train.fit`.

    epochs: passes over the training images. batch: images per step. rate: the learning rate's
    peak; schedule: its course, see `train.learning_rates`. weight_decay: AdamW's. smoothing: share
    of the target spread over all classes, for "cross-entropy". averaging: decay, per step, of the
    running average of the weights that is the result; 0 takes the last weights. checks, every: when
    held-out examples are measured, see `train.check_steps`. loss: one of `LOSSES`; all but
    "cross-entropy" take labels for complementary. leak: the share of labels that are true
    nevertheless, for "forward" and "PRODEN". sharpening: the exponent that the targets of "PRODEN"
    end with, growing from 1 after the share `sharpening_start` of the steps. balance: weight of
    `losses.imbalance` until then, falling to 0 as the exponent grows. reestimated: whether the
    statistics of batch normalisation that the result uses are those of plain training pictures, see
    `train.reestimate`, and not the moving averages over augmented batches."""

    epochs: int = 120
    batch: int = 64
    rate: float = 2e-3
    schedule: str = "cosine"
    weight_decay: float = 1e-2
    smoothing: float = 0.1
    averaging: float = 0.0
    checks: int = 0
    every: int = 5
    loss: str = "cross-entropy"
    leak: float = 0.0
    sharpening: float = 1.0
    sharpening_start: float = 0.5
    balance: float = 0.0
    reestimated: bool = True

    def __post_init__(self):
        schedules = ("constant", "plateau", "cosine", "one-cycle")
        for name, choices in (("loss", LOSSES), ("schedule", schedules)):
            if (value := getattr(self, name)) not in choices:
                raise ValueError(f"{name} {value!r}: choose one of {', '.join(choices)}")


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """What a training takes over from a start. layers: convolutions, counted from the input; None
    takes all. head: whether the first columns of the last layer are too. frozen: whether
    convolutions that were copied stay as they are. rate_decay: factor on a layer's learning rate
    for each layer that it lies below the last one (discriminative fine-tuning, Howard & Ruder 2018,
    section 3.2)."""

    layers: int | None = None
    head: bool = True
    frozen: bool = False
    rate_decay: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All that, with the data, decides a result; `threads` by the order of its sums alone."""

    preprocessing: Preprocessing = Preprocessing()
    augmentation: Augmentation = Augmentation()
    network: Network = Network()
    training: Training = Training()
    transfer: Transfer = Transfer()
    seed: int = 0
    threads: int = 1


def changed(settings) -> dict:
    """The settings that differ from the defaults, by group."""
    pairs = zip(vars(settings).items(), vars(type(settings)()).values(), strict=True)
    different = {name: value for (name, value), default in pairs if value != default}
    return {k: changed(v) if dataclasses.is_dataclass(v) else v for k, v in different.items()}


def vary(settings: Settings, **changes) -> Settings:
    """A copy with single settings changed: `vary(s, training__epochs=5, seed=1)`."""
    for name, value in changes.items():
        group, _, key = name.rpartition("__")
        if group:
            value = dataclasses.replace(getattr(settings, group), **{key: value})
        settings = dataclasses.replace(settings, **{group or key: value})
    return settings
