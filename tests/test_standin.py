"""Stand-in: the drawn archives have the real layout, and the same bytes each time."""

import collections
import re
import zipfile

import cv2
import numpy as np
import pytest

from midas_lib import files, sources, standin
from midas_lib.config import CLASS_NAMES

FILES = {name: archive.files for name, archive in sources.ARCHIVES.items()}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The smoke-sized archives, and again those that are quick to draw."""
    first, second = tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second")
    for name, wanted in FILES.items():
        standin.draw(name, tuple(first / file for file in wanted), "smoke")
    for name in ("mnist", "mislabelled"):
        standin.draw(name, tuple(second / file for file in FILES[name]), "smoke")
    return first, second


def read_png(content):
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)


@pytest.mark.parametrize("name", ["mnist", "mislabelled"])
def test_same_bytes_again(drawn, name):
    for file in FILES[name]:
        assert (drawn[0] / file).read_bytes() == (drawn[1] / file).read_bytes()


def test_characters_same_bytes_again_other_seed_other_bytes(tmp_path, monkeypatch):
    monkeypatch.setitem(standin.SIZES, "smoke", (1, 10, 10))
    paths = [tmp_path / f"{number}.zip" for number in range(3)]
    for path, seed in zip(paths, (0, 0, 1), strict=True):
        standin.draw("characters", (path,), "smoke", seed)
    assert paths[0].read_bytes() == paths[1].read_bytes() != paths[2].read_bytes()


def test_characters_layout(drawn):
    with zipfile.ZipFile(drawn[0] / "trainPart1.zip") as archive:
        writers = collections.defaultdict(set)
        for name in archive.namelist():
            number, again, writer = re.fullmatch(
                r"train/Sample(\d{3})/img(\d{3})-(\d{3})\.png", name
            ).groups()
            assert number == again
            writers[int(number)].add(int(writer))
        assert sorted(writers) == list(range(1, 63))
        assert {len(of_class) for of_class in writers.values()} == {8}
        assert set.union(*writers.values()) == set(range(1, 12))  # 11 people, as 55 to 40
        assert len({frozenset(of_class) for of_class in writers.values()}) > 1
        image = read_png(archive.read(archive.namelist()[0]))
        assert (image.shape, image.dtype) == ((900, 1200, 3), np.uint8)


def test_characters_are_black_on_white_within_the_canvas(drawn):
    members = list(sources.read_members(drawn[0] / "trainPart1.zip", "characters"))
    letter_j = [member for member in members if "Sample046" in member[0]]  # reaches lowest
    for name, content in members[::5] + letter_j:
        gray = read_png(content)[:, :, 0]
        ink = gray == 0
        assert ((gray == 255) | ink).all(), name
        assert 0.002 < ink.mean() < 0.25, name
        border = np.concatenate([ink[0], ink[-1], ink[:, 0], ink[:, -1]])
        assert not border.any(), name


def test_small_letters_are_smaller_than_capitals(drawn):
    heights = collections.defaultdict(list)
    for name, content in sources.read_members(drawn[0] / "trainPart1.zip", "characters"):
        glyph = CLASS_NAMES[int(name[12:15]) - 1]
        if glyph in "cosuvwxzCOSUVWXZ":
            rows = np.flatnonzero((read_png(content)[:, :, 0] == 0).any(1))
            heights[glyph].append(rows[-1] - rows[0])
    for letter in "cosuvwxz":
        small, capital = (np.median(heights[glyph]) for glyph in (letter, letter.upper()))
        assert small < 0.8 * capital, letter


def test_glyphs_are_distinct():
    """No two classes have the same strokes, not even moved (case pairs may differ in size)."""
    assert tuple(standin.GLYPHS) == CLASS_NAMES
    shapes = set()
    for strokes in standin.GLYPHS.values():
        low = np.min([stroke.min(0) for stroke in strokes], 0)
        shapes.add(tuple((stroke - low).tobytes() for stroke in strokes))
    assert len(shapes) == 62


def test_mnist_layout(drawn):
    images, labels, test_images, test_labels = (
        files.read_idx(drawn[0] / file) for file in FILES["mnist"]
    )
    assert images.shape == (600, 28, 28)
    assert test_images.shape == (200, 28, 28)
    assert np.bincount(labels).tolist() == [60] * 10
    assert np.bincount(test_labels).tolist() == [20] * 10
    assert len(np.unique(np.concatenate([images, test_images]), axis=0)) == 800
    both = images.reshape(600, -1)
    assert (both.max(1) == 255).all()
    assert both.mean() < 80  # bright on black


def test_mnist_digits_fill_a_20_pixel_box_centred_by_mass(drawn):
    images = files.read_idx(drawn[0] / FILES["mnist"][0]).astype(float)
    weights = images / images.sum((1, 2), keepdims=True)
    grid = np.arange(28)
    rows, columns = (weights.sum(2) * grid).sum(1), (weights.sum(1) * grid).sum(1)
    assert np.abs(np.stack([rows, columns]) - 13.5).max() <= 0.51
    heights = (images.max(2) > 0).sum(1)
    widths = (images.max(1) > 0).sum(1)
    assert np.isin(np.maximum(heights, widths), [19, 20]).all()


def test_mislabelled_layout_and_shares(drawn):
    labels = files.read_idx(drawn[0] / FILES["mnist"][1])
    images = files.read_idx(drawn[0] / FILES["mnist"][0])
    folders = np.full(600, -1)
    for name, content in sources.read_members(drawn[0] / "mnistTask3.zip", "mislabelled"):
        folder, index = re.fullmatch(r"mnistTask/(\d)/image_(\d{6})\.jpg", name).groups()
        folders[int(index)] = int(folder)
        picture = read_png(content).astype(int)
        assert picture.shape == (28, 28)
        # the number in the name is the index of the same picture in the training set
        assert np.abs(picture - images[int(index)]).mean() < 6
    assert sorted(set(folders)) == list(range(10))
    assert (folders == labels).sum() == 1  # 0.1 % of 600, rounded


def test_wrong_folders_are_equally_likely():
    """60,000 draws: each of the 90 wrong pairs has 666 expected, standard deviation 24."""
    labels = np.arange(60_000) % 10
    blank = np.zeros((60_000, 1, 1), np.uint8)
    names = [name for name, _ in standin._mislabelled(blank, labels, seed=0)]
    counts = np.zeros((10, 10), int)
    for name in names:
        counts[labels[int(name[18:24])], int(name[10])] += 1
    assert np.trace(counts) == 60
    assert np.abs(counts[~np.eye(10, dtype=bool)] - 666).max() < 5 * 26
    assert names == sorted(names)


def test_test_digits_are_others_than_the_training_digits():
    train, test = standin.digits(20), standin.digits(20, test=True)
    assert not np.array_equal(train[1], test[1])
    assert len(np.unique(np.concatenate([train[0], test[0]]), axis=0)) == 40


@pytest.mark.parametrize("shift", [(-30, 0), (30, 0), (0, -30), (0, 30), (0, 0)])
def test_a_glyph_is_moved_to_lie_on_the_canvas(shift):
    (line,) = standin._place([np.array([[0.0, 0.0], [2.0, 3.0]]) + shift], 20)
    np.testing.assert_allclose(line[1] - line[0], [80, 120])
    assert (line.min(0) >= 20).all()
    assert (line.max(0) <= np.array([1200, 900]) - 20).all()
    if shift == (0, 0):
        np.testing.assert_allclose(line[0], [600, 450])
