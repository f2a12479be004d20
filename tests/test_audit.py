"""The audit: the right verdict on every kind of wrong labels, and on folders that are no data."""

import json
import shutil

import cv2
import numpy as np
import pytest

from midas_lib import audit, inference, standin
from midas_lib.__main__ import main
from midas_lib.config import UserError


@pytest.fixture(scope="module")
def digits():
    return standin.digits(2500, seed=3)


@pytest.fixture(scope="module")
def witness(digits):
    """A mediocre one: right for 8 of 10 images, wrong at random for the others."""
    rng = np.random.default_rng(0)
    says = np.where(rng.random(len(digits[1])) < 0.8, digits[1], rng.integers(0, 10, 2500))
    return np.eye(10)[says]


@pytest.fixture(scope="module", autouse=True)
def neighbourhoods_found_once(digits):
    """The pictures are the same in most tests, and so are their clusters."""
    found, search = {}, audit._neighbourhoods

    def remembered(features, seed):
        key = features.tobytes()
        if key not in found:
            found[key] = search(features, seed)
        return found[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audit, "_neighbourhoods", remembered)
        yield


def redrawn(labels, share, rng):
    chosen = rng.random(len(labels)) < share
    return np.where(chosen, rng.integers(0, 10, len(labels)), labels)


def flipped(labels, share, rng):
    return np.where(rng.random(len(labels)) < share, (labels + 1) % 10, labels)


def complementary(labels, leak, rng):
    others = (labels + rng.integers(1, 10, len(labels))) % 10
    return np.where(rng.random(len(labels)) < leak, labels, others)


def biased(labels, factor, rng):
    step = rng.choice(np.arange(1, 10), len(labels), p=np.r_[factor, np.ones(8)] / (8 + factor))
    return (labels + step) % 10


def renamed(labels, mapping, rng):
    return np.array(mapping)[labels]


ALL_MOVED, SOME_MOVED = np.roll(range(10), 3), [0, 1, 5, 3, 4, 7, 6, 2, 8, 9]
SPOILT = [
    (redrawn, 0, "clean"),
    *[(redrawn, share, "symmetric-noise") for share in (0.1, 0.2, 0.4, 0.6, 0.8)],
    *[(flipped, share, "pair-flip") for share in (0.1, 0.3, 0.45)],
    *[(renamed, mapping, "permuted") for mapping in (ALL_MOVED, SOME_MOVED)],
    *[(complementary, leak, "complementary") for leak in (0, 0.001, 0.01, 0.05)],
    *[(biased, factor, "biased-complementary") for factor in (2.5, 5)],
]


@pytest.mark.parametrize(
    ("spoil", "how", "verdict"), SPOILT, ids=lambda value: getattr(value, "__name__", None)
)
def test_with_a_witness_every_kind_is_told(digits, witness, spoil, how, verdict):
    images, labels = digits
    folders = spoil(labels, how, np.random.default_rng(1))
    found = audit.audit(images, folders, witness)
    assert found.verdict == verdict, found.reason
    truth = (folders == labels).mean()
    assert found.own_folder_rate.low - 0.02 < truth < found.own_folder_rate.high + 0.02
    np.testing.assert_allclose(found.transition.sum(1), 1)
    assert (found.low <= found.transition).all()
    assert (found.transition <= found.high).all()
    assert (found.classes == labels)[found.settled].mean() > 0.98
    assert found.advice == audit.ADVICE[verdict]
    json.dumps(found.evidence, allow_nan=False)


@pytest.mark.parametrize(
    ("spoil", "how", "verdict"), SPOILT, ids=lambda value: getattr(value, "__name__", None)
)
def test_without_a_witness_nothing_wrong_is_said(digits, spoil, how, verdict):
    images, labels = digits
    found = audit.audit(images, spoil(labels, how, np.random.default_rng(1)))
    assert found.verdict in (verdict, "undetermined")
    if verdict in ("clean", "permuted"):
        assert found.verdict == "undetermined"
        assert "witness" in found.reason


def test_a_clear_case_needs_no_witness(digits):
    images, labels = digits
    found = audit.audit(images, redrawn(labels, 0.4, np.random.default_rng(1)))
    assert found.verdict == "symmetric-noise"
    assert found.evidence["named_by"] == "the folder that most of a class lies in"


def test_uneven_class_sizes_change_nothing(digits, witness):
    images, labels = digits
    rng = np.random.default_rng(4)
    kept = rng.random(len(labels)) < np.linspace(0.3, 1, 10)[labels]
    folders = complementary(labels[kept], 0.01, rng)
    assert audit.audit(images[kept], folders, witness[kept]).verdict == "complementary"


def test_a_witness_that_knows_nothing_is_set_aside(digits):
    images, labels = digits
    guesses = np.random.default_rng(0).random((len(labels), 10))
    found = audit.audit(images, redrawn(labels, 0.4, np.random.default_rng(1)), guesses)
    assert found.evidence["witness"].startswith("set aside")
    assert found.verdict == "symmetric-noise"


def test_pictures_without_structure_are_undetermined():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (600, 28, 28), dtype=np.uint8)
    found = audit.audit(images, rng.integers(0, 10, 600))
    assert found.verdict == "undetermined"
    assert "settled" in found.reason


def test_one_class_in_its_own_folder_among_complementary_ones_is_undetermined(digits, witness):
    images, labels = digits
    rng = np.random.default_rng(2)
    folders = complementary(labels, 0, rng)
    folders = np.where((labels == 3) & (rng.random(len(labels)) < 0.5), labels, folders)
    assert audit.audit(images, folders, witness).verdict == "undetermined"


def test_the_permutation_is_named(digits, witness):
    images, labels = digits
    found = audit.audit(images, np.array(ALL_MOVED)[labels], witness)
    assert found.evidence["permutation"] == list(ALL_MOVED)


def test_evenness_by_hand():
    off = np.full((4, 4), 10) * (1 - np.eye(4, dtype=int))
    ratios, outliers, p = audit._evenness(off)
    np.testing.assert_allclose(ratios, 1)
    assert (outliers, p) == (0, 1.0)
    off[0, 1:] = 30, 0, 0  # expected 10 each: chi-squared 40 + 10 + 10 on 4 * 2 degrees
    ratios, outliers, p = audit._evenness(off)
    np.testing.assert_allclose(ratios[0], [3, 0, 0])
    assert outliers == 3
    assert p == pytest.approx(4.6e-10, rel=0.05)


def test_arrays_that_do_not_fit_are_refused(digits):
    images, labels = digits
    with pytest.raises(ValueError, match="3 folders"):
        audit.audit(images, labels % 2)
    with pytest.raises(ValueError, match="of one length"):
        audit.audit(images[:-1], labels)


@pytest.fixture
def folder(tmp_path, digits):
    """Twelve pictures of each digit in a wrong folder, as PNG, JPEG and dark-on-light BMP."""
    images, labels = digits
    for digit in range(10):
        (tmp_path / str(digit)).mkdir()
    for digit in range(10):
        for i, row in enumerate(np.flatnonzero(labels == digit)[:12]):
            place = tmp_path / str((digit + 1 + i % 9) % 10) / f"{digit}-{i}"
            ending = (".png", ".jpg", ".bmp")[i % 3]
            picture = 255 - images[row] if ending == ".bmp" else images[row]
            cv2.imwrite(f"{place}{ending}", picture)
    return tmp_path


def test_a_folder_and_its_zip_give_one_document(folder, tmp_path_factory):
    found = inference.audit_folders(folder)
    assert (found["n"], found["classes"]) == (120, [str(d) for d in range(10)])
    assert np.shape(found["transition"]) == (10, 10)
    packed = shutil.make_archive(tmp_path_factory.mktemp("zip") / "digits", "zip", folder)
    assert inference.audit_folders(packed) == found


def test_an_unreadable_image_is_skipped_and_listed(folder):
    (folder / "3" / "broken.png").write_bytes(b"not an image")
    found = inference.audit_folders(folder)
    assert found["n"] == 120
    assert [skipped["file"] for skipped in found["skipped"]] == ["3/broken.png"]


def test_a_limit_looks_at_fewer(folder):
    with pytest.raises(UserError, match="10 of each class"):
        inference.audit_folders(folder, limit=30)


def _stray(folder):
    (folder / "5").rename(folder / "five")


def _empty(folder):
    shutil.rmtree(folder / "5")
    (folder / "5").mkdir()


def _two(folder):
    for digit in range(2, 10):
        shutil.rmtree(folder / str(digit))


def _one_image(folder):
    shutil.rmtree(folder / "5")
    (folder / "5").mkdir()
    cv2.imwrite(str(folder / "5" / "a.png"), np.eye(28, dtype=np.uint8) * 255)


def _gone(folder):
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_stray, "five/.* lies in no class folder"),
        (_empty, "5: holds no readable image among"),
        (_two, "2 classes; an audit takes 3 or more"),
        (_one_image, "1 readable images of folder 5 among those looked at"),
        (_gone, "no such folder or zip"),
    ],
)
def test_a_folder_that_is_no_data_gets_one_line(folder, spoil, said, capsys):
    spoil(folder)
    with pytest.raises(UserError, match=said):
        inference.audit_folders(folder)
    assert main(["audit", str(folder), "--witness", "none", "--json"]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert len(output.err.strip().splitlines()) == 1


def test_the_command_prints_the_verdict_or_one_document(folder, capsys):
    assert main(["audit", str(folder), "--witness", "none"]) == 0
    assert "verdict" in capsys.readouterr().out
    assert main(["audit", str(folder), "--witness", "none", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["verdict"] in audit.ADVICE
    low, high = document["own_folder_rate_interval"]
    assert low <= document["own_folder_rate"] <= high
