"""Loaders, reading of any image, and the preprocessing every network's input takes."""

import errno
import io
import itertools
import zipfile

import cv2
import numpy as np
import pytest
from PIL import Image

from midas_lib import data
from midas_lib.config import Preprocessing, UserError


@pytest.fixture
def page():
    """A scan, dark on light, with a bar from row 50 to 150 and column 100 to 120."""
    scan = np.full(data.SCAN_SHAPE, 255, np.uint8)
    scan[50:150, 100:120] = 0
    return scan


def png(pixels):
    return cv2.imencode(".png", pixels)[1].tobytes()


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """A data folder with a trainPart1.zip of its own: two classes by three writers."""
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.delenv("STANDIN", raising=False)
    with zipfile.ZipFile(tmp_path / "trainPart1.zip", "w") as file:
        for label, writer in itertools.product((62, 11), (7, 55, 1)):
            pixels = np.full((90, 120, 3), 255, np.uint8)
            pixels[20 : 20 + label, 10 : 10 + writer] = 0
            name = f"train/Sample{label:03}/img{label:03}-{writer:03}.png"
            file.writestr(name, png(pixels))
        file.writestr("__MACOSX/train/Sample011/._img011-001.png", b"system")
    return tmp_path


@pytest.mark.filterwarnings("ignore:.*not the known content")
def test_characters_come_with_class_and_writer(archive):
    characters = data.load_characters()
    assert characters.images.shape == (6, 225, 300)
    assert characters.images.dtype == np.uint8
    assert characters.labels.tolist() == [10, 10, 10, 61, 61, 61]
    assert characters.writers.tolist() == [1, 7, 55] * 2
    assert characters.names[0] == "train/Sample011/img011-001.png"
    assert characters.names[-1] == "train/Sample062/img062-055.png"
    assert characters.class_names[61] == "z"
    assert characters.source == "unrecognised"
    # scans are 2.5 times the pictures: the bar of label 62 and writer 55 is 155 by 137.5
    dark = characters.images[-1] < 128
    assert (dark.any(1).sum(), dark.any(0).sum()) in {(155, 137), (155, 138)}


@pytest.mark.filterwarnings("ignore:.*not the known content")
def test_the_cache_gives_the_same_again_and_a_damaged_one_is_made_anew(archive, monkeypatch):
    first = data.load_characters()
    (cache,) = (archive / "cache").iterdir()
    assert first.digest[:16] in cache.name
    whole = cache.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(data, "scan", None)  # decoding would fail
        again = data.load_characters()
    np.testing.assert_array_equal(first.images, again.images)
    assert first.names == again.names
    directory = whole.rindex(b"PK\5\6")
    damages = {f"cut to {n}": whole[:n] for n in (0, 1, 1000, len(whole) - 1)}
    for i in (8, 40, 60, len(whole) // 2, directory - 1, directory + 8, directory + 12):
        damages[f"byte {i}"] = whole[:i] + bytes([whole[i] ^ 255]) + whole[i + 1 :]
    # a directory that says it is one entry shorter, so that the last array is missing
    shorter = whole[directory + 8] - 1
    damages["array missing"] = (
        whole[: directory + 8] + bytes([shorter, 0, shorter, 0]) + whole[directory + 12 :]
    )
    for damage, content in damages.items():
        cache.write_bytes(content)
        found = data.load_characters()
        np.testing.assert_array_equal(found.images, first.images, err_msg=damage)
        np.testing.assert_array_equal(found.writers, first.writers, err_msg=damage)
        assert found.names == first.names, damage


@pytest.mark.filterwarnings("ignore:.*not the known content")
def test_an_image_of_the_archive_that_cannot_be_decoded_is_named(archive):
    with zipfile.ZipFile(archive / "trainPart1.zip", "a") as file:
        file.writestr("train/Sample001/img001-001.png", b"no image")
    with pytest.raises(UserError, match=r"img001-001\.png: not a readable image"):
        data.load_characters()
    assert not list(archive.glob("cache/*"))


def test_without_room_for_the_cache_the_data_are_there_all_the_same(standin, monkeypatch):
    wanted = data.load_mislabelled("smoke")
    for cache in (standin / "cache").glob("mislabelled-*"):
        cache.unlink()

    def full(file, **arrays):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.warns(UserWarning, match="not cached .No space left"):
        found = data.load_mislabelled("smoke")
    np.testing.assert_array_equal(found.images, wanted.images)
    assert not list((standin / "cache").glob("mislabelled-*"))
    assert not list((standin / "cache").glob("*.part"))


def test_digits_and_their_wrong_folders(standin):
    train = data.load_mnist("train", "smoke")
    wrong = data.load_mislabelled("smoke")
    assert train.images.shape[1:] == wrong.images.shape[1:] == (28, 28)
    index = np.array([int(name[-10:-4]) for name in wrong.names])
    assert (train.labels[index] != wrong.labels).mean() > 0.99
    difference = train.images[index].astype(int) - wrong.images
    assert np.abs(difference).mean() < 6  # JPEG's loss, not another picture
    with pytest.raises(ValueError, match="validation"):
        data.load_mnist("validation", "smoke")


def test_geometry_is_the_glyphs_edges(page):
    pictures, geometry = data.preprocess(page[None], Preprocessing())
    np.testing.assert_allclose(geometry[0], [50 / 225, 150 / 225], rtol=1e-6)
    assert pictures.shape == (1, 28, 28, 1)
    # the bar is 100 high in a window of 120: 28 * 100 / 120 = 23.3 rows, and 4.7 columns wide
    rows = (pictures[0, ..., 0] > 127).any(1).sum()
    columns = (pictures[0, ..., 0] > 127).any(0).sum()
    assert (rows, columns) in {(23, 5), (24, 5), (23, 4), (24, 4)}
    assert pictures[0, ..., 0].sum() == pytest.approx(255 * 28**2 * 100 * 20 / 120**2, rel=0.02)


def test_a_crop_does_not_depend_on_place_and_the_canvas_does(page):
    moved = np.roll(page, (40, 60), axis=(0, 1))
    for mode, same in (("crop", True), ("scale", True), ("canvas", False)):
        pair, _ = data.preprocess(np.stack([page, moved]), Preprocessing(mode=mode))
        assert np.array_equal(pair[0], pair[1]) is same
    with pytest.raises(ValueError, match="tight"):
        Preprocessing(mode="tight")


def test_mnist_mode_gives_a_20_pixel_box_round_the_centre_of_mass(page):
    glyph = np.full_like(page, 255)
    glyph[50:170, 60:100] = 0  # an L, 120 high: an upright bar of 40 and a foot of 20 more rows
    glyph[150:170, 100:160] = 0
    pictures, _ = data.preprocess(glyph[None], Preprocessing(mode="mnist"))
    picture = pictures[0, ..., 0].astype(float)
    rows, columns = ((picture > 127).any(axis).sum() for axis in (1, 0))
    assert (rows, columns) == (20, round(20 * 100 / 120))
    along = np.arange(28) + 0.5
    for axis in (0, 1):
        assert picture.sum(axis) @ along / picture.sum() == pytest.approx(14, abs=0.1)


def test_light_on_dark_is_the_same_as_dark_on_light(page):
    for dark, light in ((page, 255 - page), (page, 100 + page // 4)):
        both = [data.preprocess(scan[None], Preprocessing()) for scan in (dark, light)]
        np.testing.assert_array_equal(both[0][0], both[1][0])
        np.testing.assert_array_equal(both[0][1], both[1][1])


def test_only_the_tablets_stray_dot_is_wiped_out(page):
    def geometry(dot):
        scan = page.copy()
        y, x = dot
        cv2.circle(scan, (x, y), 8, 0, -1)
        return data.preprocess(scan[None], Preprocessing())[1][0] * 225

    np.testing.assert_allclose(geometry((20, 210)), [50, 150], atol=0.01)
    assert geometry((30, 110))[0] < 30  # the dot of an i
    assert geometry((20, 290))[0] < 30
    alone = np.full(data.SCAN_SHAPE, 255, np.uint8)
    cv2.circle(alone, (210, 20), 8, 0, -1)
    assert data.ink(alone).max() == 255  # where there is nothing else, it is the character


def test_an_empty_page_is_a_mistake():
    with pytest.raises(UserError, match="no ink"):
        data.preprocess(np.full((1, 225, 300), 200, np.uint8), Preprocessing())


def test_a_small_or_narrow_picture_is_padded_with_its_own_paper():
    tall = np.full((90, 30), 200, np.uint8)
    tall[20:70, 10:20] = 30
    scan = data.scan(tall)
    assert scan.shape == data.SCAN_SHAPE
    assert (scan[:, :100] == 200).all()
    rows = np.flatnonzero((scan < 100).any(1))
    assert rows[0] == pytest.approx(20 / 90 * 225, abs=2)
    assert rows[-1] == pytest.approx(70 / 90 * 225, abs=2)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (900_000, 2), (2, 900_000), (900, 1200)])
def test_any_shape_can_be_scanned(shape):
    scan = data.scan(np.full(shape, 77, np.uint8))  # padded to 4:3 first, it would take a terabyte
    assert scan.shape == data.SCAN_SHAPE
    assert (scan == 77).all()


def test_every_kind_of_file_reads_alike():
    gray = np.tile(np.linspace(0, 255, 40).astype(np.uint8), (30, 1))
    colour = np.dstack([gray] * 3)
    palette = Image.fromarray(colour).quantize(256)
    files = {
        "gray": png(gray),
        "colour": png(colour),
        "opaque": png(np.dstack([colour, np.full_like(gray, 255)])),
        "16 bits": png(gray.astype(np.uint16) * 257),
    }
    for name, content in files.items():
        np.testing.assert_allclose(data.read_image(content).astype(int), gray, atol=1, err_msg=name)
    arrays = [gray, gray[..., None], colour, gray / 255, gray.astype(np.uint16) * 257, palette]
    arrays += [gray.astype(np.int64), Image.fromarray(gray), Image.fromarray(colour)]
    arrays += [Image.open(io.BytesIO(content)) for content in files.values()]
    for image in arrays:
        np.testing.assert_allclose(data.read_image(image).astype(int), gray, atol=2)
    np.testing.assert_array_equal(data.read_image(gray > 127), np.where(gray > 127, 255, 0))


def test_transparent_pixels_are_white_paper():
    pixels = np.zeros((10, 10, 4), np.uint8)
    pixels[3:6, 3:6, 3] = 255
    gray = data.read_image(png(pixels))
    assert (gray[3:6, 3:6] == 0).all()
    assert gray.sum() == 255 * (100 - 9)
    pixels[..., :3] = 255  # white ink, which white paper would hide
    gray = data.read_image(png(pixels))
    assert (gray[3:6, 3:6] == 255).all()
    assert gray.sum() == 255 * 9


def test_colours_are_red_green_blue():
    red = np.zeros((5, 5, 3), np.uint8)
    red[..., 0] = 255
    assert data.read_image(red)[0, 0] == 76  # 0.299 of 255
    assert data.read_image(png(red[..., ::-1]))[0, 0] == 76  # OpenCV writes blue, green, red


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b"", "x.png: not a readable image"),
        (b"<html>no image</html>", "x.png: not a readable image"),
        (np.zeros((3, 3, 7), np.uint8), "no image"),
        (np.zeros((0, 3), np.uint8), "no image"),
        (np.array([["a"]]), "no image"),
        (np.full((3, 3), np.nan), "between 0 and 1"),
        (np.full((3, 3), 2.0), "between 0 and 1"),
        (np.full((3, 3), -1), "between 0 and 65535"),
        ("no/such/file.png", "no/such/file.png: No such file"),
    ],
)
def test_what_is_no_image_is_named(image, message):
    with pytest.raises(UserError, match=message):
        data.read_image(image, "x.png")


def test_a_truncated_file_is_no_image(page):
    content = png(np.random.default_rng(0).integers(0, 255, (50, 50), dtype=np.uint8))
    with pytest.raises(UserError, match="not a readable image"):
        data.read_image(content[: len(content) // 8])


def test_folds_are_stratified_repeatable_and_whole():
    labels = np.repeat(np.arange(4), 10)
    fold = data.folds(labels, 3)
    for c in range(4):
        assert (np.bincount(fold[labels == c], minlength=5) == 2).all()
    np.testing.assert_array_equal(fold, data.folds(labels, 3))
    assert (fold != data.folds(labels, 4)).any()


def test_no_writer_stands_in_two_folds():
    writers = np.arange(60) % 12
    fold = data.folds(np.arange(60) % 5, 1, writers)
    assert all(len(set(fold[writers == writer])) == 1 for writer in range(12))
    assert set(fold) == {0, 1, 2, 3, 4}


def test_a_digest_tells_type_shape_and_content():
    a = np.arange(6)
    digests = {data.array_digest(x) for x in (a, a.reshape(2, 3), a.astype(float), a + 1)}
    assert len(digests) == 4
    assert data.array_digest(a, a) != data.array_digest(a)


def test_a_split_is_stratified_and_complete():
    labels = np.repeat([0, 1, 2], [60, 30, 10])
    rest, held_out = data.split(labels, 20, seed=0)
    np.testing.assert_array_equal(np.sort(np.concatenate([rest, held_out])), np.arange(100))
    assert np.bincount(labels[held_out]).tolist() == [12, 6, 2]
    np.testing.assert_array_equal(data.split(labels, 20, seed=0)[1], held_out)
    assert not np.array_equal(data.split(labels, 20, seed=1)[1], held_out)


def test_balanced_draws_are_nested_and_equal_in_number():
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [60, 30, 10]))
    few, more = data.balanced(labels, 6, 1), data.balanced(labels, 30, 1)
    assert np.bincount(labels[few]).tolist() == [2, 2, 2]
    assert np.bincount(labels[more]).tolist() == [10, 10, 10]
    assert set(few) < set(more)
    assert set(data.balanced(labels, 6, 2)) != set(few)
    np.testing.assert_array_equal(data.balanced(labels, 100, 0), np.arange(100))


@pytest.mark.parametrize("count", [0, 4, 33, 90, 101, 300])
def test_a_draw_that_is_not_balanced_is_refused(count):
    labels = np.repeat([0, 1, 2], [60, 30, 10])
    with pytest.raises(UserError, match=f"{count} labelled images: .* of 3 up to 30, or all 100"):
        data.balanced(labels, count, 0)
