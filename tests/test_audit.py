"""The audit: the right verdict on every kind of wrong labels, and on folders that are no data."""

import contextlib
import json
import shutil

import cv2
import numpy as np
import pytest

from midas_lib import analysis, audit, data, inference, standin
from midas_lib.__main__ import main
from midas_lib.config import UserError


@pytest.fixture(scope="module")
def digits():
    return standin.digits(2500, seed=3)


@pytest.fixture(scope="module")
def reference(digits):
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
def test_with_a_reference_every_kind_is_told(digits, reference, spoil, how, verdict):
    images, labels = digits
    folders = spoil(labels, how, np.random.default_rng(1))
    found = audit.audit(images, folders, reference)
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
def test_without_a_reference_nothing_wrong_is_said(digits, spoil, how, verdict):
    images, labels = digits
    found = audit.audit(images, spoil(labels, how, np.random.default_rng(1)))
    assert found.verdict in (verdict, "undetermined")
    if verdict in ("clean", "permuted"):
        assert found.verdict == "undetermined"
        assert "reference" in found.reason


def test_a_clear_case_needs_no_reference(digits):
    images, labels = digits
    found = audit.audit(images, redrawn(labels, 0.4, np.random.default_rng(1)))
    assert found.verdict == "symmetric-noise"
    assert found.evidence["named_by"] == "the folder that most of a class lies in"


def test_uneven_class_sizes_change_nothing(digits, reference):
    images, labels = digits
    rng = np.random.default_rng(4)
    kept = rng.random(len(labels)) < np.linspace(0.3, 1, 10)[labels]
    folders = complementary(labels[kept], 0.01, rng)
    assert audit.audit(images[kept], folders, reference[kept]).verdict == "complementary"


def test_a_reference_that_knows_nothing_is_set_aside(digits):
    images, labels = digits
    guesses = np.random.default_rng(0).random((len(labels), 10))
    found = audit.audit(images, redrawn(labels, 0.4, np.random.default_rng(1)), guesses)
    assert found.evidence["reference"].startswith("set aside")
    assert found.verdict == "symmetric-noise"


def test_pictures_without_structure_are_undetermined():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (600, 28, 28), dtype=np.uint8)
    found = audit.audit(images, rng.integers(0, 10, 600))
    assert found.verdict == "undetermined"
    assert "settled" in found.reason


def test_one_class_in_its_own_folder_among_complementary_ones_is_undetermined(digits, reference):
    images, labels = digits
    rng = np.random.default_rng(2)
    folders = complementary(labels, 0, rng)
    folders = np.where((labels == 3) & (rng.random(len(labels)) < 0.5), labels, folders)
    assert audit.audit(images, folders, reference).verdict == "undetermined"


def test_the_permutation_is_named(digits, reference):
    images, labels = digits
    found = audit.audit(images, np.array(ALL_MOVED)[labels], reference)
    assert found.evidence["permutation"] == list(ALL_MOVED)


@pytest.mark.parametrize("avoided", [False, True])
def test_classes_are_named_by_the_folder_that_stands_out(avoided):
    """Three clusters of each of 4 classes; a class's folder holds most of it, or none."""
    classes = np.repeat(np.arange(4), 3)
    seen = np.full((12, 4), 30 if avoided else 5)
    seen[np.arange(12), classes] = 0 if avoided else 85
    group, named_by = audit._name(seen)
    assert group.tolist() == classes.tolist()
    assert named_by.startswith("the folder that fewest" if avoided else "the folder that most")


def test_the_likelier_of_two_gatherings_is_taken(monkeypatch):
    seen = np.full((8, 4), 5)
    seen[np.arange(8), np.repeat(np.arange(4), 2)] = 85
    likelihoods = []
    gather = audit._gather

    def noted(tables, start):
        group, likelihood = gather(tables, start)
        likelihoods.append(likelihood)
        return group, likelihood

    monkeypatch.setattr(audit, "_gather", noted)
    group, _ = audit._name(seen)
    assert len(set(likelihoods)) == 2  # the other start does end somewhere worse
    assert group.tolist() == np.repeat(np.arange(4), 2).tolist()


def test_gathering_by_hand():
    """Two clusters alike are one class, even if they start apart."""
    table = np.array([[90, 10, 0], [80, 20, 0], [0, 90, 10], [5, 0, 95]])
    group, likelihood = audit._gather([table], np.array([0, 0, 1, 2]))
    assert group.tolist() == [0, 0, 1, 2]
    shares = np.array([[170.5, 30.5, 0.5], [0.5, 90.5, 10.5], [5.5, 0.5, 95.5]])
    shares /= shares.sum(1, keepdims=True)
    assert likelihood == pytest.approx((table * np.log(shares[group])).sum())


def test_the_reference_decides_what_the_clusters_are(digits, reference):
    images, labels = digits
    moved = np.roll(reference, 1, axis=1)  # it calls every digit by the next one's name
    found = audit.audit(images, labels, moved)
    assert (found.classes == (labels + 1) % 10)[found.settled].mean() > 0.98
    assert (found.evidence["reference"], found.verdict) == ("used", "permuted")
    assert found.evidence["named_by"] == "the reference"
    # settled means that the reference agrees, which it does for 8 of 10
    assert (moved.argmax(1) == found.classes)[found.settled].all()
    assert found.settled.mean() < 0.85
    assert 0.7 < found.evidence["reference_agreement"] < 0.95


def test_a_reference_that_lacks_a_class_is_set_aside(digits):
    images, labels = digits
    blind = np.eye(10)[np.where(labels == 3, 8, labels)]
    found = audit.audit(images, labels, blind)
    assert found.evidence["reference"] == "set aside, as it does not find every class"
    assert found.verdict == "undetermined"


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


@pytest.mark.parametrize(
    ("share", "verdict"),
    [(100, "complementary"), (200, "biased-complementary"), (40, "biased-complementary")],
)
def test_one_wrong_folder_that_holds_more_or_less_than_the_others_is_a_bias(share, verdict):
    counts = np.full((10, 10), 100) - 100 * np.eye(10, dtype=int)
    counts[np.arange(10), np.roll(range(10), 1)] = share
    own = analysis.proportion_interval(0, int(counts.sum()))
    evidence = {"settled": 1.0, "reference": "none"}
    assert audit._judge(counts, own, evidence)[0] == verdict
    # of a mean share of (8 * 100 + share) / 9
    ratios = np.array([100, share]) * 9 / (800 + share)
    assert evidence["largest_ratio"] == pytest.approx(ratios.max(), abs=0.03)
    assert evidence["smallest_ratio"] == pytest.approx(ratios.min(), abs=0.03)


def judged(own, preferred, other, settled=1.0):
    """The verdict on ten classes, each with so many images in its own folder, in the next one and
    in each of the other eight."""
    counts = np.full((10, 10), other)
    counts[np.arange(10), np.arange(10)] = own
    counts[np.arange(10), (np.arange(10) + 1) % 10] = preferred
    rate = analysis.proportion_interval(10 * own, int(counts.sum()))
    return audit._judge(counts, rate, {"settled": settled, "reference": "none"})


def test_verdicts_on_counts_by_hand():
    verdict, reason = judged(550, 50, 50)  # 45 % are wrong: half are redrawn, a tenth of them right
    assert verdict == "symmetric-noise"
    assert reason.startswith("45.0% of the settled images lie in a wrong folder")
    assert "as if 50% were redrawn" in reason
    assert judged(550, 50, 50, settled=0.5)[0] == "symmetric-noise"
    assert judged(550, 50, 50, settled=0.49)[0] == "undetermined"
    assert judged(700, 240, 8)[0] == "pair-flip"  # 240 of 304
    assert judged(700, 180, 15)[0] == "undetermined"  # 180 of 300
    assert judged(500, 5000, 5000)[0] == "complementary"  # 1.1 %
    assert "near chance" in judged(10, 12, 12)[1]  # 8.5 %, but 7.0 % lies in the interval
    assert judged(3800, 5000, 5000)[0] == "undetermined"  # 7.8 %: below chance, but not by far


def test_noise_that_differs_from_class_to_class_has_no_rule():
    counts = np.full((10, 10), 50) + 500 * np.eye(10, dtype=int)
    counts[:5] = 10 + 900 * np.eye(10, dtype=int)[:5]  # 9 % are wrong in these, 45 % in the others
    own = analysis.proportion_interval(int(np.trace(counts)), int(counts.sum()))
    verdict, reason = audit._judge(counts, own, {"settled": 1.0, "reference": "none"})
    assert (verdict, reason.endswith("by no rule known here")) == ("undetermined", True)


def test_few_images_make_no_outlier():
    off = np.array([[0, 3, 0], [0, 0, 3], [3, 0, 0]])  # each row by chance in one case of eight
    assert audit._evenness(off)[1] == 0


def test_ten_images_of_each_of_three_classes_are_enough(digits):
    images, labels = digits
    few = np.concatenate([np.flatnonzero(labels == c)[:10] for c in range(3)])
    assert audit.audit(images[few], labels[few]).counts.shape == (3, 3)
    with pytest.raises(ValueError, match="each with 10 images or more"):
        audit.audit(images[few[1:]], labels[few[1:]])


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
    assert set(found) == {
        "n", "classes", "verdict", "reason", "advice", "own_folder_rate",
        "own_folder_rate_interval", "transition", "transition_low", "transition_high", "counts",
        "evidence", "skipped",
    }  # fmt: skip
    assert found["evidence"]["reference"] == "none"
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
    with pytest.raises(UserError, match="10 of each"):
        inference.audit_folders(folder, limit=30)


class Recogniser:
    """A reference with more classes than there are folders, in another order; sure of itself."""

    class_names = ("x", *"9876543210")

    def __init__(self):
        self.seen = []

    def probabilities(self, scans):
        self.seen.append(len(scans))
        return np.tile(np.eye(11)[1], (len(scans), 1))


def test_the_reference_sees_every_image_and_its_columns_are_the_folders(folder, monkeypatch):
    given = {}

    def noted(pictures, folders, reference=None):
        given.update(pictures=pictures, folders=folders, reference=reference)
        return audit_it(pictures, folders, reference)

    audit_it = audit.audit
    monkeypatch.setattr(audit, "audit", noted)
    monkeypatch.setattr(data, "BATCH", 50)
    recogniser = Recogniser()
    inference.audit_folders(folder, recogniser)
    assert recogniser.seen == [50, 50, 20]
    assert given["reference"].shape == (120, 10)
    assert (given["reference"].argmax(1) == 9).all()
    assert given["pictures"].shape == (120, 28, 28)
    assert given["folders"].tolist() == np.repeat(np.arange(10), 12).tolist()
    recogniser.class_names = tuple("abcdefghijk")
    with pytest.warns(UserWarning, match="does not know all classes"):
        inference.audit_folders(folder, recogniser)
    assert given["reference"] is None


def test_classes_are_characters_if_all_folders_name_one_else_what_folders_are_called(folder):
    (folder / "3").rename(folder / "Sample004")
    (folder / "scans").mkdir()
    (folder / "7").rename(folder / "scans" / "seven")
    assert inference.read_folders(folder).classes == list("0123456789")
    (folder / "5").rename(folder / "=fünf")
    filed = inference.read_folders(folder)
    assert filed.classes == [*"012468", "9", "=fünf", "Sample004", "seven"]
    for name, number in zip(filed.names, filed.folders, strict=True):
        assert f"{filed.classes[number]}/" in name


def test_a_limit_is_kept_to_and_draws_at_random(folder):
    looked_at = []
    for limit in (110, 119, 120):
        with contextlib.suppress(UserError):
            found = inference.audit_folders(folder, limit=limit)
            assert found["n"] == limit
            looked_at.append(limit)
    assert 120 in looked_at
    assert 119 in looked_at


def _stray(folder):
    next((folder / "5").iterdir()).rename(folder / "five.png")


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
        (_stray, "five.png lies in no class folder"),
        (_empty, "5: holds no image"),
        (_two, "2 classes; an audit takes 3 or more"),
        (_one_image, "1 readable images are of folder 5; an audit takes 10"),
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


def test_what_is_known_of_a_picture_is_the_networks_answer_and_where_it_was_filed():
    probabilities = np.array([[0.6, 0.3, 0.1], [0.6, 0.3, 0.1]])
    never = audit.posterior(probabilities, np.array([0, 1]), 0.0)
    assert never == pytest.approx(np.array([[0, 0.75, 0.25], [6 / 7, 0, 1 / 7]]))
    # 0.6 * 0.5 against 0.3 * 0.25 and 0.1 * 0.25; 0.6 * 0.25, 0.3 * 0.5, 0.1 * 0.25.
    half = audit.posterior(probabilities, np.array([0, 1]), 0.5)
    assert half == pytest.approx(np.array([[12, 3, 1], [6, 6, 1]]) / [[16], [13]])
    # What a network rules out and its folder too is as likely as the rest of that kind.
    sure = audit.posterior(np.array([[1.0, 0, 0]], np.float32), np.array([0]), 0.0)
    assert sure == pytest.approx(np.array([[0, 0.5, 0.5]]))


def test_gradients_are_shared_between_orientations_and_with_the_cells_beside():
    dot = np.zeros((1, 28, 28), np.uint8)
    dot[0, 13, 13] = 255  # all of its gradients lie in cell (3, 3) of 7 x 7
    (found,) = audit._gradients(dot).reshape(1, 7, 7, 8)
    # Across and down, strength 2 each; a cell beside counts half, and roots are taken of both.
    assert found[3, 3, 0] == found[3, 3, 4] == pytest.approx(1 / np.sqrt(2 + 4))
    assert found[3, 3, [1, 2, 3, 5, 6, 7]].max() < 1e-3
    for beside in ((2, 3), (4, 3), (3, 2), (3, 4)):
        assert found[*beside, 0] == pytest.approx(found[3, 3, 0] / np.sqrt(2), rel=1e-3)
    assert found[2, 2].max() == found[3, 5].max() == 0
    assert np.linalg.norm(found) == pytest.approx(1)


def test_an_orientation_between_two_bins_counts_for_both():
    x, y = np.meshgrid(np.arange(28.0), np.arange(28.0))
    angle = np.pi / 8 * 1.25  # a quarter of the way from bin 1 to bin 2
    ramp = (x * np.cos(angle) + y * np.sin(angle))[None]
    inside = audit._gradients(ramp).reshape(7, 7, 8)[3, 3]
    assert inside[1] / inside[2] == pytest.approx(np.sqrt(3), rel=1e-3)
    assert inside[[0, 3, 4, 5, 6, 7]].max() < 1e-3


def test_look_alikes_wrong_labels_are_pooled():
    rng = np.random.default_rng(0)
    digits = rng.integers(0, 10, 2000)
    features = np.eye(10)[digits] + rng.normal(0, 0.05, (2000, 10))
    folders = (digits + rng.integers(1, 10, 2000)) % 10  # never the digit
    assert (audit.fewest_named(features, folders, 100) == digits).mean() > 0.99
    # Of four pictures all alike, filed under 0, 0, 1 and 2: of equals the first.
    alike = audit.fewest_named(np.zeros((4, 2)), np.array([0, 0, 1, 2]), 4)
    assert alike.tolist() == [1, 1, 1, 1]
