"""Damaged images, archives, results and checkpoints through what reads them.

They may cost the user a line, or give an answer; no more. FUZZ says how many
inputs each kind of file gets; `make fuzz` takes many.
"""

import contextlib
import gzip
import io
import json
import os
import resource
import signal
import sys
import tempfile
import zipfile
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from fakes import cnn, trained

from midas_lib import config, files, images, inference, pages, sources
from midas_lib.config import Network, Preprocessing, UserError

COUNT = int(os.environ.get("FUZZ", 12))
SECONDS, MEMORY = 5, 2**30
SPREAD = [[0.01, 0.0], [0.0, 0.01]]
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def mutate(content: bytes, rng: np.random.Generator) -> bytes:
    """The content with one to four things done to it that happen to files, or that are done."""
    content = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        at = int(rng.integers(len(content) + 1))
        length = int(rng.integers(1, 64))
        what = rng.integers(7)
        if what == 0 and content:  # bits flip
            for place in rng.integers(len(content), size=length):
                content[place] ^= 1 << int(rng.integers(8))
        elif what == 1:  # cut off
            del content[at:]
        elif what == 2:  # lost in the middle
            del content[at : at + length]
        elif what == 3:  # something foreign put in
            content[at:at] = rng.bytes(length)
        elif what == 4:  # a part of it twice
            content[at:at] = content[at : at + 4 * length]
        elif what == 5:  # numbers that are as large or as small as can be
            content[at : at + 4] = rng.choice([b"\xff" * 4, b"\0" * 4, b"\x7f" + b"\xff" * 3])
        else:  # another file's end
            content[at:] = rng.bytes(4 * length)
    return bytes(content)


def mutate_json(content: bytes, rng: np.random.Generator) -> bytes:
    """The document with one value, at any depth, gone or of another kind."""
    document = json.loads(content)
    at = document
    while True:
        key = rng.choice(list(at)) if isinstance(at, dict) else int(rng.integers(len(at)))
        if not (isinstance(at[key], dict | list) and at[key] and rng.random() < 0.7):
            break
        at = at[key]
    others = [None, [], {}, "x" * 70, -1, 1e308, True, ["a", 1], {"a": None}]
    if rng.random() < 0.3:
        del at[key]
    else:
        at[key] = others[rng.integers(len(others))]
    return json.dumps(document).encode()


def encoded(ending: str, seed: int = 0) -> bytes:
    picture = np.full((90, 120), 255, np.uint8)
    cv2.putText(picture, str(seed), (30, 70), cv2.FONT_HERSHEY_SIMPLEX, 2, 0, 6)
    if ending == ".gif":  # OpenCV writes those in colour alone
        picture = cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR)
    return cv2.imencode(ending, picture)[1].tobytes()


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def idx(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return gzip.compress(header + array.tobytes(), 1)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A small network's file, and the network."""
    path = tmp_path_factory.mktemp("network") / "model.keras"
    settings = {"preprocessing": {"mode": "crop", "size": 28, "margin": 0.1}}
    hands = {
        "weight": 0.5,
        "means": [[0.2, 0.8]] * 10,
        **dict.fromkeys(("between", "within"), SPREAD),
    }
    description = {"class_names": list(config.DIGIT_NAMES), "settings": settings, "hands": hands}
    model = cnn(10, network=Network(channels=(8, 16, 32), strides=(2, 2, 1)))
    inference.save_classifier(model, path, description)
    return path, inference.Classifier(
        network=trained(model), class_names=config.DIGIT_NAMES, preprocessing=Preprocessing()
    )


def read(folder, content, network):
    images.read_image(content, "picture")


def evaluate(folder, content, network):
    (folder / "set.zip").write_bytes(content)
    inference.evaluate(network[1], folder / "set.zip")


def evaluate_image(folder, content, network):
    evaluate(folder, zipped({"1/good.png": encoded(".png"), "2/bad.png": content}), network)


def audit(folder, content, network):
    (folder / "set.zip").write_bytes(content)
    inference.audit_folders(folder / "set.zip", limit=40)


def members(folder, content, network):
    (folder / "trainPart1.zip").write_bytes(content)
    list(sources.read_members(folder / "trainPart1.zip", "characters"))


def numbers(folder, content, network):
    (folder / "labels-idx1-ubyte.gz").write_bytes(content)
    files.read_idx(folder / "labels-idx1-ubyte.gz")


def numbers_within(folder, content, network):
    numbers(folder, gzip.compress(content, 1), network)


def packed(folder, content, network):
    (folder / "mnist.npz").write_bytes(content)
    sources._unpack(folder / "mnist.npz", folder)


def results(folder, content, network):
    (folder / "results").mkdir(exist_ok=True)
    (folder / "results" / "part1.json").write_bytes(content)
    pages.write_index(folder)


def checkpoint(folder, content, network):
    (folder / "model.json").write_bytes(network[0].with_suffix(".json").read_bytes())
    (folder / "model.keras").write_bytes(content)
    inference.load_classifier(folder / "model.keras")


def described(folder, content, network):
    (folder / "model.keras").write_bytes(network[0].read_bytes())
    (folder / "model.json").write_bytes(content)
    inference.load_classifier(folder / "model.keras")


def config_of(network):
    with zipfile.ZipFile(network[0]) as archive:
        return archive.read("config.json")


def configured(folder, content, network):
    with zipfile.ZipFile(network[0]) as archive:
        whole = {name: archive.read(name) for name in archive.namelist()}
    checkpoint(folder, zipped(whole | {"config.json": content}), network)


def lying(folder, content, network):
    """A PNG whose first chunk, size and kind of pixels, is this; its checksum is right."""
    start, rest = encoded(".png")[:12], encoded(".png")[33:]
    chunk = b"IHDR" + content
    length = len(content).to_bytes(4, "big")
    picture = start[:8] + length + chunk + zlib.crc32(chunk).to_bytes(4, "big") + rest
    for image in (picture, encoded(".bmp")[:18] + content + encoded(".bmp")[18 + len(content) :]):
        with contextlib.suppress(UserError):
            images.read_image(image, "picture")


def odd_folder(folder, content, network):
    """A folder with an entry for each byte, of one of eight kinds, below one another or beside."""
    here = Path(tempfile.mkdtemp(dir=folder))
    top, names = here, ["1", "Sample002", "a\x1b\n", "\udcff", "=x", ".hidden", "x" * 200, "4a"]
    for i, byte in enumerate(content[:40]):
        path = here / f"{names[byte >> 3 & 7]}{i}{('', '.png', '.zip', '.jpg')[byte >> 6]}"
        kind = byte & 7
        if kind == 0:
            os.mkfifo(path)
        elif kind == 1:
            path.symlink_to((top, here, Path("/dev/zero"), path)[i % 4])
        elif kind == 2:
            path.mkdir()
            here = path if len(str(path)) < 3000 else top
        elif kind == 3:
            path.write_bytes(zipped({"1/a.png": encoded(".png"), f"{i}/b.zip": b"PK"}))
        elif kind == 4:
            path.write_bytes(content)
        elif kind == 5:
            path.touch(mode=0)
        elif kind == 6:
            with path.open("wb") as file:
                file.truncate(2**33)
        else:
            path.write_bytes(encoded(".png", i))
    inference.evaluate(network[1], top)


def letters():
    names = [f"train/Sample00{1 + i % 3}/img00{1 + i % 3}-00{i}.png" for i in range(6)]
    return zipped({name: encoded(".png", i) for i, name in enumerate(names)})


def digits():
    return zipped({f"{i % 4}/{i}.jpg": encoded(".jpg", i) for i in range(40)})


def npz():
    content, names = io.BytesIO(), ("x_train", "y_train", "x_test", "y_test")
    np.savez_compressed(content, **dict.fromkeys(names, np.arange(200, dtype=np.uint8)))
    return content.getvalue()


def findings():
    archive = {"characters": {"source": "mirror", "digest": "ab"}}
    headline = {"arm": "a", "metric": "accuracy", "mean": 0.9, "low": 0.8, "high": 1.0, "n": 5}
    machine = {"cpu": "x", "cores": 2, "memory_gib": 4.0, "system": "Linux"}
    content = {"data": archive, "headline": headline, "machine": machine, "profile": "full"}
    content |= {"finding": "It reads.", "versions": {"keras": "3"}, "date": "today", "commit": "a"}
    return json.dumps(content).encode()


KINDS = {
    **{
        ending: (lambda network, ending=ending: encoded(f".{ending}"), read)
        for ending in ("png", "jpg", "bmp", "tiff", "webp", "gif", "jp2")
    },
    "zip to evaluate": (lambda network: letters(), evaluate),
    "image to evaluate": (lambda network: encoded(".png"), evaluate_image),
    "zip to audit": (lambda network: digits(), audit),
    "zip of characters": (lambda network: letters(), members),
    "idx": (lambda network: idx(np.arange(200, dtype=np.uint8)), numbers),
    "idx within": (
        lambda network: gzip.decompress(idx(np.arange(200, dtype=np.uint8))),
        numbers_within,
    ),
    "npz": (lambda network: npz(), packed),
    "results": (lambda network: findings(), results),
    "checkpoint": (lambda network: network[0].read_bytes(), checkpoint),
    "checkpoint's config": (config_of, configured),
    "header that lies": (lambda network: encoded(".png")[16:29], lying),
    "folder": (lambda network: bytes(range(7, 256, 8)), odd_folder),
    "checkpoint's notes": (lambda network: network[0].with_suffix(".json").read_bytes(), described),
}


@pytest.fixture(scope="module")
def written():
    """Every path that was opened for writing, from here on."""
    paths = []

    def hear(event, args):
        if event == "open" and isinstance(args[0], str) and args[2] and args[2] & WRITES:
            paths.append(args[0])

    sys.addaudithook(hear)
    return paths


def too_long(*_):
    raise TimeoutError(f"over {SECONDS} s")


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_costs_a_line_at_most(kind, network, written, tmp_path, monkeypatch):
    make, use = KINDS[kind]
    whole = make(network)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    use(tmp_path, whole, network) if kind != "zip to audit" else None  # too few to audit
    written.clear()
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    faults, refused = [], 0
    signal.signal(signal.SIGALRM, too_long)
    for seed in range(COUNT):
        rng = np.random.default_rng([seed, len(kind)])
        change = mutate_json if whole.startswith(b"{") and seed % 3 else mutate
        content = change(whole, rng)
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            use(tmp_path, content, network)
        except UserError as error:
            refused += 1
            if not str(error).strip() or "\n" in str(error).strip():
                faults.append((seed, f"not one line: {error!r}"))
        except Exception as error:
            faults.append((seed, repr(error)))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used) * 1024
    print(f"{kind}: {COUNT} inputs, {refused} refused, {len(faults)} faults, {grown >> 20} MiB")
    assert faults == []
    assert grown < MEMORY
    assert [path for path in written if not path.startswith((str(tmp_path), "/dev/"))] == []
