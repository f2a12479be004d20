"""Loaders of the archives and of folders, their cache, and how datasets are divided."""

import errno
import itertools
import warnings
import zipfile

import cv2
import numpy as np
import pytest

from midas_lib import data, files, images
from midas_lib.config import CLASS_NAMES, UserError


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
        patch.setattr(images, "read_scan", None)  # decoding would fail
        again = data.load_characters()
    np.testing.assert_array_equal(first.images, again.images)
    assert first.names == again.names
    directory = whole.rindex(b"PK\5\6")
    damages = {f"cut to {n}": whole[:n] for n in (0, 1, 1000, len(whole) - 1)}
    for i in (8, 40, 60, len(whole) // 2, directory - 1, directory + 8, directory + 12):
        damages[f"byte {i}"] = whole[:i] + bytes([whole[i] ^ 255]) + whole[i + 1 :]
    damages["fewer rows"] = whole.replace(b"225, 300)", b"225, 200)", 1)
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


def test_folds_keep_classes_apart_by_writers_only_where_they_are_given():
    labels, writers = np.repeat(np.arange(6), 10), np.tile(np.arange(10), 6)
    by_class, by_writer = data.folds(labels, 0), data.folds(labels, 0, writers)
    assert all(np.ptp(np.bincount(by_class[labels == c], minlength=5)) == 0 for c in range(6))
    assert all(len(set(by_class[writers == w])) > 1 for w in range(10))
    assert all(len(set(by_writer[writers == w])) == 1 for w in range(10))
    assert (data.folds(labels, 1, writers) != by_writer).any()
    np.testing.assert_array_equal(data.folds(labels, 0, writers), by_writer)


def test_the_digest_of_examples_is_that_of_both_arrays_in_order(monkeypatch):
    pictures, labels = np.arange(8, dtype=np.uint8).reshape(2, 2, 2, 1), np.array([0, 1])
    examples = data.Examples(pictures=pictures, labels=labels)
    digest = examples.digest
    assert digest == data.array_digest(pictures, labels) != data.array_digest(labels, pictures)
    assert digest != examples.take([1, 0]).digest
    assert digest != data.Examples(pictures=pictures, labels=labels[::-1]).digest
    assert digest == examples.take([0]).join(examples.take([1])).digest
    monkeypatch.setattr(data, "array_digest", lambda *_: pytest.fail("computed again"))
    assert examples.digest == digest


def counted(labels):
    """A dataset of images that are their own numbers."""
    return data.ImageDataset(
        images=np.arange(len(labels)),
        labels=np.array(labels),
        writers=np.arange(len(labels)) * 10,
        names=tuple("abcdefgh"[: len(labels)]),
        class_names=("x", "y"),
        source="folder",
        digest="",
    )


def test_a_limit_takes_images_of_every_class_from_its_first_to_its_last():
    whole = counted([1, 0, 1, 1, 0, 0])
    few = data.limit(whole, 2)
    assert few.images.tolist() == [0, 1, 3, 5]
    assert few.labels.tolist() == [1, 0, 1, 0]
    assert few.writers.tolist() == [0, 10, 30, 50]
    assert few.names == tuple("abdf")
    assert data.limit(whole, 1).images.tolist() == [0, 1]
    assert data.limit(whole, None) is whole


def test_a_limit_takes_images_evenly_and_none_twice():
    assert data.limit(counted([0] * 8), 5).images.tolist() == [0, 1, 3, 5, 7]
    assert data.limit(counted([0] * 6 + [1] * 2), 3).images.tolist() == [0, 2, 5, 6, 7]


def write_folder(folder, members):
    for seed, name in enumerate(members):
        pixels = np.full((90, 120), 255, np.uint8)
        pixels[20 : 40 + seed, 30:50] = 0
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(pixels))
    return folder


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("a/x.png", 2),
        ("a/1/x.png", 1),  # the innermost decides
        ("1/a/x.png", 2),
        ("a/1/more/x.png", 1),
        ("Sample001/x.png", 0),
        ("sample3/x.png", 2),
        ("Sample003/Sample001/x.png", 0),
        ("1/Sample000/x.png", 1),  # no class has these numbers
        ("1/Sample004/x.png", 1),
        ("a/Samples001/x.png", 2),
        ("x.png", None),
        ("A/x.png", None),
        ("b/a.png", None),
    ],
)
def test_the_innermost_folder_that_names_a_class_decides(name, label):
    folder = name.rpartition("/")[0]
    assert data.class_folders([folder], ("0", "1", "a")) == {folder: label}


def scans(*asked):
    """(name, scan) of a folder's images."""
    return [
        one for names, found in data.read_scans(*asked) for one in zip(names, found, strict=True)
    ]


def read_labelled(folder, class_names, skipped):
    """(name, scan, label) of a folder's images."""
    found = scans(folder, skipped)
    labels = data.labels_of(folder, [name for name, _ in found], class_names, skipped)
    found = [(*one, label) for one, label in zip(found, labels, strict=True)]
    return [one for one in found if one[2] is not None] or found


def test_only_chosen_images_are_read_and_what_is_wrong_is_noted_once(tmp_path):
    folder = write_folder(tmp_path, ["1/a.png", "1/b.png", "c.png"])
    (folder / "1" / "bad.png").write_bytes(b"no image")
    skipped = []
    found = scans(folder, skipped, {"1/b.png", "1/bad.png", "c.png"})
    assert [name for name, _ in found] == ["1/b.png", "c.png"]
    assert [one["file"] for one in skipped] == ["1/bad.png"]
    assert skipped[0]["reason"].startswith("not a readable image")
    skipped = []
    found = read_labelled(folder, ("0", "1"), skipped)
    assert [name for name, _, _ in found] == ["1/a.png", "1/b.png"]
    assert [one["file"] for one in skipped] == ["1/bad.png", "c.png"]
    with pytest.warns(UserWarning, match="1 of 1 folders name no class"):
        found = read_labelled(folder, ("7", "8"), skipped := [])
    assert [label for _, _, label in found] == [None] * 3
    assert [one["file"] for one in skipped] == ["1/bad.png"]


def test_images_are_read_in_their_order_a_few_at_a_time(tmp_path, monkeypatch):
    folder = write_folder(tmp_path, [f"{i:03}.png" for i in range(70)])
    read, walk = [], files.walk

    def counted(*given):
        for one in walk(*given):
            read.append(one[0])
            yield one

    monkeypatch.setattr(files, "walk", counted)
    monkeypatch.setattr(data, "BATCH", 32)
    found = data.read_scans(folder, [])
    names, scans = next(found)
    assert scans.shape == (len(names), 225, 300)
    assert len(read) < 40  # not all of them lie in memory before the first is used
    for more, _ in found:
        names += more
    assert names == tuple(f"{i:03}.png" for i in range(70))


def test_a_plain_folder_has_no_labels_and_no_warning(tmp_path):
    folder = write_folder(tmp_path, ["a.png", "b.png"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = read_labelled(folder, CLASS_NAMES, skipped := [])
    assert [(name, label) for name, _, label in found] == [("a.png", None), ("b.png", None)]
    assert skipped == []


def test_what_is_in_no_class_folder_is_said_and_most_must_not_be(tmp_path):
    folder = write_folder(tmp_path, ["4a/x.png", "4B/x.png", "misc/x.png", "top.png"])
    found = read_labelled(folder, CLASS_NAMES, skipped := [])
    assert [(name, CLASS_NAMES[label]) for name, _, label in found] == [
        ("4B/x.png", "K"),
        ("4a/x.png", "J"),
    ]
    assert skipped == [
        {"file": "misc/x.png", "reason": "lies in a folder misc that names no class"},
        {"file": "top.png", "reason": "lies in no class folder"},
    ]
    write_folder(tmp_path, ["more/x.png"])
    assert len(read_labelled(folder, CLASS_NAMES, [])) == 2  # half of them
    write_folder(tmp_path, ["other/x.png"])
    said = r"3 of 5 folders name no class .misc, more, other \.\.\..; name a folder by its class"
    with pytest.raises(UserError, match=said):
        read_labelled(folder, CLASS_NAMES, [])


def test_the_labels_of_a_set_are_those_of_its_way_of_naming(tmp_path):
    folder = write_folder(tmp_path, ["30/x.png", "31/x.png", "39/x.png"])
    found = read_labelled(folder, CLASS_NAMES[:10], skipped := [])
    assert [label for _, _, label in found] == [0, 1, 9]
    write_folder(tmp_path, ["12/x.png"])
    found = read_labelled(folder, CLASS_NAMES, skipped)
    assert [label for _, _, label in found] == [12, 30, 31, 39]


def test_pictures_of_other_kinds_and_names_are_read(tmp_path):
    picture = np.full((90, 120), 255, np.uint8)
    picture[20:60, 30:50] = 0
    for name, ending in (("a.jp2", ".jp2"), ("b.jfif", ".jpg"), ("c", ".png"), ("d.heic", ".jpg")):
        (tmp_path / name).write_bytes(cv2.imencode(ending, picture)[1].tobytes())
    (tmp_path / "e.heic").write_bytes(b"")
    found = scans(tmp_path, skipped := [])
    assert [name for name, _ in found] == ["a.jp2", "b.jfif", "c", "d.heic"]
    assert all(abs(int((scan < 128).sum()) - 100 * 50) < 200 for _, scan in found)
    assert [one["file"] for one in skipped] == ["e.heic"]


@pytest.mark.filterwarnings("ignore:.*not the known content")
def test_pictures_are_decoded_on_the_cores_that_may_be_used(archive, monkeypatch):
    asked, pool = [], data.ThreadPoolExecutor
    monkeypatch.setattr(data.loky, "cpu_count", lambda: 3)
    monkeypatch.setattr(data, "ThreadPoolExecutor", lambda n: asked.append(n) or pool(n))
    data.load_characters()
    assert asked == [3]


def spelt(folders, class_names=CLASS_NAMES):
    """What each folder is taken for, as a string, with ? for nothing."""
    found = data.class_folders(folders, class_names)
    assert list(found) == sorted(set(folders))
    return "".join("?" if found[f] is None else class_names[found[f]] for f in folders)


ALL = "".join(CLASS_NAMES)
DIGITS = CLASS_NAMES[:10]


@pytest.mark.parametrize(
    ("folders", "said"),
    [
        (list(ALL), ALL),
        ([f"Sample{i:03}" for i in range(1, 63)], ALL),
        ([f"{ord(c):02x}" for c in ALL], ALL),
        ([f"by_class/{ord(c):02X}/hsf_{i % 8}" for i, c in enumerate(ALL)], ALL),
        ([f"upper_{c}" for c in "ab"] + [f"lower_{c}" for c in "ab"], "ABab"),
        (["A_upper", "a_lower", "upper-A", "Lower-B", "b lower", "c_UPPER"], "AaAbbC"),
        (
            ["zero", "One", "two", "three", "FOUR", "five", "six", "seven", "eight", "nine"],
            ALL[:10],
        ),
        (["nine", "9", "a", "upper_a", "Sample001"], "99aA0"),
        (list(map(str, range(62))), ALL),
        ([f"{i:02}" for i in range(62)], ALL),
        (["0", "12", "61"], "0Cz"),
        ([str(i) for i in range(30, 40)], ALL[:10]),  # as hex as well as numbers
        (["set/10", "set/11", "set/30"], "ABU"),
        (["10", "11", "x"], "??" + "x"),  # not all are numbers
        (["1", "2", "3"], "123"),
        ([str(i) for i in range(1, 63)], ALL[1:10] + "?" * 53),  # from 0 or from 1?
        (["30", "31", "misc"], "???"),
        (["4a", "misc", ""], "J??"),
        (["4a/extra", "4b"], "JK"),
        (["a", "b", "41"], "ab?"),
        (["", "notes"], "??"),
        (
            ["1", "upper", "upper_", "upper_ab", "lower_upper", "_a", "²", "Sample²"],
            "1???????",
        ),
        (["Sample" + "9" * 5000, "9" * 5000], "??"),
    ],
)
def test_class_folders_are_read_as_most_of_them_can_be(folders, said):
    assert spelt(folders) == said


def test_codes_and_numbers_among_digits_alone_only_where_all_folders_have_them():
    assert spelt([str(i) for i in range(30, 40)], DIGITS) == "0123456789"
    assert spelt(["30", "31", ""], DIGITS) == "01?"
    assert spelt(["30", "31", "32", "3"], DIGITS) == "???3"
    assert spelt(["30", "31", "x"], DIGITS) == "???"
    assert spelt(["0", "1"], ("dog", "cat")) == "??"
    assert spelt(["upper_a", "a"], ("a",)) == "?a"


def test_a_digest_tells_type_shape_and_content():
    a = np.arange(6)
    digests = {data.array_digest(x) for x in (a, a.reshape(2, 3), a.astype(float), a + 1)}
    assert len(digests) == 4
    assert data.array_digest(a, a) != data.array_digest(a)
    assert data.array_digest(a) != data.array_digest(a.view(np.uint64))  # the same bytes


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
    assert few.tolist() == sorted(few)
    assert set(data.balanced(labels, 6, 2)) != set(few)
    np.testing.assert_array_equal(data.balanced(labels, 100, 0), np.arange(100))


@pytest.mark.parametrize("count", [0, 4, 33, 90, 101, 300])
def test_a_draw_that_is_not_balanced_is_refused(count):
    labels = np.repeat([0, 1, 2], [60, 30, 10])
    with pytest.raises(UserError, match=f"{count} labelled images: .* of 3 up to 30, or all 100"):
        data.balanced(labels, count, 0)
