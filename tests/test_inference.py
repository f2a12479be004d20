"""Saved classifiers, and what people point them at."""

import dataclasses
import json
import subprocess
import sys
import zipfile

import cv2
import keras
import numpy as np
import pytest
from fakes import cnn, trained
from PIL import Image

from midas_lib import analysis, images, inference, model
from midas_lib.__main__ import main
from midas_lib.config import CLASS_NAMES, Network, Preprocessing, UserError

TINY = Network(channels=(8, 16, 32), strides=(2, 2, 1))
DESCRIPTION = {
    "class_names": list(CLASS_NAMES),
    "settings": {"preprocessing": {"mode": "crop", "size": 12, "margin": 0.1}},
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """An untrained network with geometry, saved."""
    keras.utils.set_random_seed(0)
    network = cnn(62, 12, TINY)
    rng = np.random.default_rng(0)
    network = model.add_geometry(network, rng.normal(size=(2, 62)), np.zeros(62))
    path = tmp_path_factory.mktemp("checkpoint") / "model.keras"
    inference.save_classifier(network, path, DESCRIPTION)
    return path


@pytest.fixture(scope="module")
def classifier(checkpoint):
    return inference.load_classifier(checkpoint)


def letter(seed=0, size=(90, 120)):
    """Some strokes, dark on light."""
    rng = np.random.default_rng(seed)
    image = np.full(size, 255, np.uint8)
    points = rng.integers(15, 75, (4, 2)).astype(np.int32)
    return cv2.polylines(image, [points], False, 0, 6)


def test_saving_and_loading_keeps_the_answers(checkpoint, classifier):
    network = keras.saving.load_model(checkpoint, safe_mode=True)  # Keras alone will do
    label, index, probabilities = classifier.predict(letter())
    assert label == CLASS_NAMES[index]
    assert index == probabilities.argmax()
    assert probabilities.shape == (62,)
    assert probabilities.sum() == pytest.approx(1, rel=1e-5)
    assert len(network.inputs) == 2
    assert sorted(p.name for p in checkpoint.parent.iterdir()) == ["model.json", "model.keras"]


def test_no_images_and_many_images_have_as_many_answers(classifier, monkeypatch):
    assert classifier.predict([]) == []
    wanted = [classifier.predict(letter(seed))[2] for seed in range(3)]
    monkeypatch.setattr(inference, "BATCH", 2)
    answers = classifier.predict([letter(seed) for seed in range(3)])
    np.testing.assert_allclose([row for _, _, row in answers], wanted, atol=1e-6)


def test_a_network_without_geometry_takes_the_picture_alone(tmp_path):
    network = cnn(62, 12, TINY)
    alone = inference.load_classifier(saved(tmp_path, network, DESCRIPTION))
    picture, _ = images.preprocess(images.scan(letter())[None], alone.preprocessing)
    wanted = network.predict_on_batch(picture.astype(np.float32))[0]
    np.testing.assert_allclose(alone.predict(letter())[2], wanted, atol=1e-6)


def test_any_kind_of_picture_gives_one_answer(classifier, tmp_path):
    gray = letter()
    colour = np.dstack([gray] * 3)
    cv2.imwrite(str(tmp_path / "a.png"), gray)
    cv2.imwrite(str(tmp_path / "b.png"), gray.astype(np.uint16) * 257)
    Image.fromarray(colour).quantize(4).save(tmp_path / "c.png")
    Image.fromarray(np.dstack([colour, np.full_like(gray, 255)])).save(tmp_path / "d.png")
    Image.fromarray(np.dstack([gray, np.full_like(gray, 255)])).save(tmp_path / "e.png")  # LA
    white_ink_on_nothing = np.dstack([np.full_like(colour, 255), 255 - gray])
    Image.fromarray(white_ink_on_nothing).save(tmp_path / "f.png")
    wanted = classifier.predict(gray)[2]
    images = [255 - gray, colour, gray / 255, Image.fromarray(gray), tmp_path / "a.png"]
    images += [str(tmp_path / f"{name}.png") for name in "bcdef"]
    answers = classifier.predict(images)
    assert len(answers) == len(images)
    for _, index, probabilities in answers:
        np.testing.assert_allclose(probabilities, wanted, atol=1e-4)
        assert index == wanted.argmax()
    large = cv2.resize(gray, (1200, 900), interpolation=cv2.INTER_NEAREST)
    np.testing.assert_allclose(classifier.predict(large)[2], wanted, atol=1e-3)


def write_set(folder):
    """Three letters in the task's layout, one of them unreadable, beside a system file."""
    for number, seed in ((1, 0), (11, 1)):
        sample = folder / "train" / f"Sample{number:03}"
        sample.mkdir(parents=True)
        cv2.imwrite(str(sample / f"img{number:03}-001.png"), letter(seed))
    (sample / "img011-002.png").write_bytes(b"no image")
    (folder / ".DS_Store").write_bytes(b"system")
    (folder / "notes.txt").write_text("not an image")
    return folder


def test_a_bad_image_among_good_ones_is_skipped_and_listed(classifier, tmp_path):
    result = inference.evaluate(classifier, write_set(tmp_path))
    assert result["n"] == 2
    (skipped,) = result["skipped"]
    assert skipped["file"] == "train/Sample011/img011-002.png"
    assert skipped["reason"].startswith("not a readable image")
    right = [classifier.predict(letter(seed))[1] == c for seed, c in ((0, 0), (1, 10))]
    assert result["accuracy"] == np.mean(right)
    assert {name: one["n"] for name, one in result["per_class"].items()} == {"0": 1, "A": 1}
    low, high = result["accuracy_interval"]
    assert low <= result["accuracy"] <= high
    for key in ("top5_accuracy", "case_merged_accuracy", "ece"):
        assert 0 <= result[key] <= 1
    json.dumps(result, allow_nan=False)
    assert set(result) == {
        "n", "accuracy", "accuracy_interval", "top5_accuracy", "case_merged_accuracy", "ece",
        "per_class", "confused", "predictions", "skipped",
    }  # fmt: skip
    assert set(result["predictions"][0]) == {"file", "label", "index", "probability", "true"}
    assert [row["true"] for row in result["predictions"]] == ["0", "A"]


def test_a_zip_within_a_zip_is_the_same_as_the_folder(classifier, tmp_path):
    folder = write_set(tmp_path / "set")
    inner, outer = tmp_path / "inner.zip", tmp_path / "outer.zip"
    with zipfile.ZipFile(inner, "w") as archive:
        for file in folder.rglob("*"):
            if file.is_file():
                archive.write(file, file.relative_to(folder))
    with zipfile.ZipFile(outer, "w") as archive:
        archive.write(inner, "given/inner.zip")
        archive.writestr("__MACOSX/._x.png", b"system")
    results = [inference.evaluate(classifier, path) for path in (folder, inner, outer)]
    assert results[0] == results[1]
    inside = json.dumps(results[2])
    assert inside.count("given/inner.zip/") == 3
    assert json.loads(inside.replace("given/inner.zip/", "")) == results[0]


def test_what_cannot_be_opened_is_skipped_and_named_by_where_it_lies(classifier, tmp_path):
    folder = write_set(tmp_path / "set")
    (folder / "train" / "Sample001" / "gone.png").symlink_to("nowhere.png")
    (folder / "cut.zip").write_bytes(b"PK")
    with zipfile.ZipFile(folder / "more.zip", "w") as archive:
        archive.writestr("inner/cut.zip", b"PK")
        archive.write(folder / "train" / "Sample001" / "img001-001.png", "Sample002/x.png")
    result = inference.evaluate(classifier, folder)
    reasons = {one["file"]: one["reason"] for one in result["skipped"]}
    assert "not a zip archive" in reasons.pop("cut.zip")
    assert "not a zip archive" in reasons.pop("more.zip/inner/cut.zip")
    assert reasons.pop("train/Sample001/gone.png") == "cannot be read (No such file or directory)"
    assert list(reasons) == ["train/Sample011/img011-002.png"]
    assert {name: one["n"] for name, one in result["per_class"].items()} == {"0": 1, "1": 1, "A": 1}


def test_zips_are_opened_three_deep_and_no_deeper(classifier, tmp_path):
    content = cv2.imencode(".png", letter())[1].tobytes()
    path, name = tmp_path / "test.zip", "Sample001/x.png"
    for depth in range(5):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, content)
        if depth == 3:
            assert inference.evaluate(classifier, path)["n"] == 1
        content, name = path.read_bytes(), "z.zip"
    with pytest.raises(UserError, match="z.zip: more than 3 zips deep"):
        inference.evaluate(classifier, path)


class Told:
    """A network that gives the rows it is made with, whatever it is shown."""

    inputs = (None,)

    def __init__(self, rows):
        self.rows = rows

    def __call__(self, pictures):
        assert len(pictures) == len(self.rows)
        return np.array(self.rows, np.float32)


def test_the_measures_are_the_ones_worked_out_by_hand(tmp_path):
    names = ("0", "A", "a", "B", "b", "C", "c")
    for number in (1, 2, 3, 5):
        (tmp_path / f"Sample{number:03}").mkdir()
        cv2.imwrite(str(tmp_path / f"Sample{number:03}" / "x.png"), letter())
    told = Told(
        [
            [0.70, 0.05, 0.05, 0.05, 0.05, 0.05, 0.05],  # 0: right
            [0.06, 0.05, 0.70, 0.07, 0.08, 0.02, 0.02],  # A, fifth, taken for a
            [0.02, 0.02, 0.90, 0.02, 0.02, 0.01, 0.01],  # a: right
            [0.70, 0.06, 0.06, 0.06, 0.04, 0.05, 0.03],  # b, sixth, taken for 0
        ]
    )
    classifier = inference.Classifier(
        network=told, class_names=names, preprocessing=Preprocessing(size=12)
    )
    result = inference.evaluate(classifier, tmp_path)
    assert result["n"] == 4
    assert result["accuracy"] == 0.5
    assert result["accuracy_interval"] == pytest.approx([0.1500, 0.8500], abs=1e-4)  # Wilson
    assert result["top5_accuracy"] == 0.75
    assert result["case_merged_accuracy"] == 0.75
    # 3 of confidence 0.7, 1 right, and 1 of 0.9, right: |1/3 - 0.7| * 3/4 + 0.1 / 4
    assert result["ece"] == pytest.approx(0.3, abs=1e-6)
    hits = {name: one["accuracy"] for name, one in result["per_class"].items()}
    assert hits == {"0": 1, "A": 0, "a": 1, "b": 0}
    assert [one["label"] for one in result["predictions"]] == ["0", "a", "a", "0"]
    sure = [one["probability"] for one in result["predictions"]]
    assert sure == pytest.approx([0.7, 0.7, 0.9, 0.7])
    assert [one["index"] for one in result["predictions"]] == [0, 2, 2, 0]


@pytest.mark.parametrize("count", [1, 3])
def test_a_network_of_two_classes_is_measured_like_any_other(tmp_path, count):
    for i in range(count):
        (tmp_path / "no").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / "no" / f"{i}.png"), letter(i))
    told = Told([[0.75, 0.25], [0.25, 0.75], [0.25, 0.75]][:count])
    classifier = inference.Classifier(
        network=told, class_names=("yes", "no"), preprocessing=Preprocessing(size=12)
    )
    result = inference.evaluate(classifier, tmp_path)
    right = (count - 1) / count
    assert (result["n"], result["accuracy"]) == (count, pytest.approx(right))
    assert result["top5_accuracy"] == 1  # there are no more than two
    assert result["case_merged_accuracy"] == pytest.approx(right)
    assert result["per_class"] == {"no": {"n": count, "accuracy": pytest.approx(right)}}
    assert result["predictions"][0]["probability"] == 0.75


def test_per_class_accuracies_are_shares_of_the_class(tmp_path):
    for number, names in ((1, "abc"), (2, "d")):
        (tmp_path / f"Sample{number:03}").mkdir()
        for name in names:
            cv2.imwrite(str(tmp_path / f"Sample{number:03}" / f"{name}.png"), letter())
    told = Told(np.eye(3)[[0, 1, 0, 0]])  # the second of three is wrong, and the one of class a
    classifier = inference.Classifier(
        network=told, class_names=("A", "a", "b"), preprocessing=Preprocessing(size=12)
    )
    result = inference.evaluate(classifier, tmp_path)
    assert result["per_class"]["A"] == {"n": 3, "accuracy": pytest.approx(2 / 3)}
    assert result["per_class"]["a"] == {"n": 1, "accuracy": 0}
    assert result["case_merged_accuracy"] == 1
    assert result["accuracy"] == 0.5


def test_a_folder_named_by_its_character_tells_the_class(classifier, tmp_path):
    for name in ("a", "7"):
        (tmp_path / name).mkdir()
        cv2.imwrite(str(tmp_path / name / "x.png"), letter())
    cv2.imwrite(str(tmp_path / "stray.png"), letter())
    result = inference.evaluate(classifier, tmp_path)
    assert sorted(result["per_class"]) == ["7", "a"]
    assert result["skipped"] == [{"file": "stray.png", "reason": "lies in no class folder"}]


def test_a_flat_folder_gives_predictions_as_csv(checkpoint, classifier, tmp_path, capsys):
    for seed in range(2):
        cv2.imwrite(str(tmp_path / f"{seed}.png"), letter(seed))
    result = inference.evaluate(classifier, tmp_path)
    assert "accuracy" not in result
    code = main(["evaluate", "--checkpoint", str(checkpoint), "--test", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert code == 0
    assert lines[0] == "file,label,index,probability"
    assert [line.split(",")[:2] for line in lines[1:]] == [
        [one["file"], one["label"]] for one in result["predictions"]
    ]
    table = tmp_path / "answers.csv"
    arguments = ["--checkpoint", str(checkpoint), "--test", str(tmp_path), "--csv", str(table)]
    assert main(["evaluate", *arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == result
    assert table.read_text().splitlines() == lines


def test_nothing_readable_at_all_is_a_mistake(classifier, tmp_path):
    with pytest.raises(UserError, match="holds no readable image"):
        inference.evaluate(classifier, tmp_path)
    (tmp_path / "x.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="x.png: not a readable image"):
        inference.evaluate(classifier, tmp_path)
    (tmp_path / "page.zip").write_text("<html>")
    with pytest.raises(UserError, match="page.zip"):
        inference.evaluate(classifier, tmp_path / "page.zip")
    with pytest.raises(UserError, match="no such folder or zip"):
        inference.evaluate(classifier, tmp_path / "nowhere")


def test_predict_answers_what_it_can_read_and_names_the_rest(classifier, tmp_path):
    blank, gone, good = (tmp_path / f"{name}.png" for name in ("blank", "gone", "good"))
    cv2.imwrite(str(blank), np.full((50, 50), 255, np.uint8))
    cv2.imwrite(str(good), letter())
    rows, skipped = inference.predict_files(classifier, [blank, good, gone])
    assert [row["file"] for row in rows] == [str(good)]
    assert rows[0]["label"] == classifier.predict(letter())[0]
    assert [one["file"] for one in skipped] == [str(blank), str(gone)]
    assert skipped[0]["reason"].startswith("no ink")
    assert skipped[1]["reason"].startswith("cannot be read (No such file")
    assert inference.predict_files(classifier, [blank])[0] == []
    with pytest.raises(UserError, match="image 1: no ink"):
        classifier.predict([letter(), np.zeros((9, 9))])


def test_files_by_one_writer_are_read_together_where_it_is_asked_for(classifier, tmp_path):
    # Alone, the third is a small letter by its top; the second tells that this hand writes low.
    for name, (top, bottom) in {"a": (0.32, 0.92), "b": (0.52, 0.92), "c": (0.32, 0.92)}.items():
        cv2.imwrite(str(tmp_path / f"{name}.png"), bar(top, bottom))
    paths = sorted(tmp_path.iterdir())
    rows, _ = inference.predict_files(handed(), paths, hand=True)
    assert [row["label"] for row in rows] == ["c", "c", "c"]
    assert [row["hand_label"] for row in rows] == ["C", "c", "C"]
    with pytest.raises(UserError, match="does not know how hands vary"):
        inference.predict_files(classifier, paths, hand=True)


# -- images by one writer, read together


def bar(top, bottom):
    """A bar, dark on light, between these edges, as shares of the height."""
    page = np.full((225, 300), 255, np.uint8)
    page[round(225 * top) : round(225 * bottom), 140:160] = 0
    return page


SMALLER = (0.0, 0.5, -30.0)  # what the picture tells of "C", "c" and "x", whatever it shows
MEANS = np.array([[0.2, 0.8], [0.4, 0.8], [0.2, 0.8]])  # a large, a small and a large letter
# Hands write higher or lower by 0.1, and each of them within 0.02.
HANDS = analysis.Hands(MEANS, np.full((2, 2), 0.01) + 1e-6 * np.eye(2), 4e-4 * np.eye(2))


def handed(logits=SMALLER, hands=HANDS, weight=1.0, against=(0.0, 0.0, 0.0)):
    """A classifier of which all is known: its picture always gives these logits, and its geometry,
    beside what is against a class, the likelihood where each edge varies by 0.1 on its own."""
    return inference.Classifier(
        network=trained(placed(logits, against)),
        class_names=("C", "c", "x"),
        preprocessing=Preprocessing(size=12),
        geometry=True,
        hands=hands._asdict() | {"weight": weight},
    )


def placed(logits=SMALLER, against=(0.0, 0.0, 0.0)):
    """Its network, in Keras."""
    network = cnn(3, 12, TINY)
    head = network.get_layer("logits")
    head.set_weights([np.zeros(head.kernel.shape), np.array(logits)])
    bias = -(MEANS**2).sum(1) / 0.02 - np.array(against)
    return model.add_geometry(network, MEANS.T / 0.01, bias)


def together(known, scans, writers):
    pictures, geometry = images.preprocess(scans, known.preprocessing)
    return known.read_hands(known.network.logits(pictures), geometry, writers)


def test_a_hand_that_writes_low_is_read_right_from_where_its_letters_stand():
    # The second writer is 0.12 too low: by its top alone, a large letter would be a small one.
    edges = [(0.2, 0.8), (0.4, 0.8), (0.32, 0.92), (0.52, 0.92), (0.32, 0.92)]
    scans, known = np.stack([bar(*one) for one in edges]), handed()
    assert known.probabilities(scans).argmax(1).tolist() == [0, 1, 1, 1, 1]
    assert together(known, scans, np.array([3, 3, 7, 7, 7])).tolist() == [0, 1, 0, 1, 0]
    order = [4, 0, 2, 1, 3]
    turned = together(known, scans[order], np.array([7, 3, 7, 3, 7]))
    assert turned.tolist() == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("weight", [0.3, 1.0])
def test_a_hands_answers_are_of_the_pictures_logits_and_the_geometry(weight, monkeypatch):
    rng, logits, asked = np.random.default_rng(0), (0.0, 0.7, -1.2), []
    scans = np.stack([bar(top, 0.8 + 0.05 * top) for top in rng.uniform(0.1, 0.5, 9)])
    writers = np.arange(9) % 2
    _, geometry = images.preprocess(scans, Preprocessing(size=12))
    one_hand = analysis.one_hand

    def look(*given):
        asked.append(given)
        return one_hand(*given)

    monkeypatch.setattr(analysis, "one_hand", look)
    found = together(handed(logits, weight=weight, against=(0, 2, 5)), scans, writers)
    for writer, (logs, told, hands, given) in enumerate(asked):
        own = writers == writer
        expected = np.tile(np.array(logits), (own.sum(), 1))
        np.testing.assert_allclose(logs - logs[:, :1], expected, atol=1e-4)
        np.testing.assert_array_equal(told, geometry[own])
        assert (hands, given) == (HANDS, weight)
        answers = one_hand(expected, geometry[own], HANDS, weight).argmax(1)
        np.testing.assert_array_equal(found[own], answers)
    assert len(set(found)) > 1


def test_a_hands_answers_forget_what_the_network_makes_of_the_geometry():
    # To hands that write all classes at one place it tells nothing, however sure the network is.
    alike = HANDS._replace(means=np.tile([0.2, 0.8], (3, 1)))
    known = handed(logits=(0.0, -3.0, -20.0), hands=alike, against=(40, 0, 50))
    scans = np.stack([bar(0.2, 0.8), bar(0.4, 0.8)])
    assert known.probabilities(scans).argmax(1).tolist() == [1, 1]
    assert together(known, scans, np.array([1, 1])).tolist() == [0, 0]


def write_hands(folder):
    """Letters by two writers, the second of whom writes lower."""
    for name, sample in (("C", 1), ("c", 2)):
        (folder / f"Sample{sample:03}").mkdir(parents=True)
        for writer, shift in ((3, 0.0), (7, 0.12)):
            top = {"C": 0.2, "c": 0.4}[name] + shift
            path = folder / f"Sample{sample:03}" / f"img{sample:03}-{writer:03}.png"
            cv2.imwrite(str(path), bar(top, 0.8 + shift))
    return folder


def test_hands_are_measured_beside_what_each_image_tells_alone(tmp_path):
    known, folder = handed(), write_hands(tmp_path)
    plain, both = (inference.evaluate(known, folder, hands=hands) for hands in (False, True))
    hands = both.pop("hands")
    told = [row.pop("hand_label") for row in both["predictions"]]
    assert both == plain
    assert plain["accuracy"] == 0.75
    assert told == ["C", "C", "c", "c"]
    wilson = analysis.proportion_interval(4, 4)
    assert hands == {
        "writers": 2, "accuracy": 1.0, "accuracy_interval": [wilson.low, wilson.high]
    }  # fmt: skip


def test_hands_without_labels_are_answered_and_not_measured(tmp_path):
    for i, shift in enumerate((0.0, 0.12)):
        cv2.imwrite(str(tmp_path / f"scan{i} of 7.png"), bar(0.2 + shift, 0.8 + shift))
    found = inference.evaluate(handed(), tmp_path, hands=True)
    assert found["hands"] == {"writers": 1}
    assert "accuracy" not in found
    assert all(row["hand_label"] in ("C", "c", "x") for row in found["predictions"])


def test_hands_are_not_guessed_at(classifier, tmp_path):
    folder = write_hands(tmp_path)
    with pytest.raises(UserError, match="hands: this network does not know how hands vary"):
        inference.evaluate(classifier, folder, hands=True)
    cv2.imwrite(str(folder / "Sample001" / "mine.png"), bar(0.2, 0.8))
    inference.evaluate(handed(), folder)
    with pytest.raises(UserError, match=r"Sample001/mine\.png: its name ends with no writer's"):
        inference.evaluate(handed(), folder, hands=True)


def hands_described(**changes):
    told = {"weight": 0.5, **{name: one.tolist() for name, one in HANDS._asdict().items()}}
    preprocessing = dataclasses.asdict(Preprocessing(size=12))
    description = {"class_names": ["C", "c", "x"], "settings": {"preprocessing": preprocessing}}
    return description | {"hands": told | changes}


def test_a_checkpoint_keeps_how_hands_vary(tmp_path):
    hands = inference.load_classifier(saved(tmp_path, placed(), hands_described())).hands
    assert hands["weight"] == 0.5
    for name, theirs in HANDS._asdict().items():
        np.testing.assert_array_equal(hands[name], theirs)
    alone = cnn(3, 12, TINY)  # which is told of no place: a hand has none to it
    assert inference.load_classifier(saved(tmp_path, alone, hands_described())).hands is None


@pytest.mark.parametrize(
    "change",
    [
        {"weight": None},
        {"means": MEANS[:2].tolist()},  # of another network's classes
        {"between": [[1.0]]},
        {"within": "x"},
    ],
)
def test_a_checkpoint_that_tells_of_hands_wrongly_is_refused(tmp_path, change):
    path = saved(tmp_path, placed(), hands_described(**change))
    with pytest.raises(UserError, match=r"model\.json: does not describe model\.keras"):
        inference.load_classifier(path)


# -- what is no checkpoint


def saved(folder, network, description):
    inference.save_classifier(network, folder / "model.keras", description)
    return folder / "model.keras"


def touching(marker):
    """A layer whose code is all there is to it: nothing that loading it elsewhere would lack."""
    code = f"lambda x: (__import__('pathlib').Path({str(marker)!r}).touch(), x)[1]"
    return keras.layers.Lambda(eval(code))


@pytest.mark.parametrize("nested", [False, True])
def test_a_checkpoint_that_carries_code_is_refused(tmp_path, nested):
    marker = tmp_path / "ran"
    inputs = keras.Input((12, 12, 1))
    code = touching(marker)
    if nested:
        code = keras.layers.TimeDistributed(keras.Sequential([code]))
    network = keras.Model(inputs, keras.layers.Dense(62)(keras.layers.Flatten()(code(inputs))))
    path = saved(tmp_path, network, DESCRIPTION)
    marker.unlink()  # it ran while the network was put together
    with pytest.raises(UserError, match=r"model\.keras: not a checkpoint .*it carries code"):
        inference.load_classifier(path)
    assert not marker.exists()
    # nothing else is wrong with it: loading it otherwise runs the code
    keras.saving.load_model(path, safe_mode=False)
    assert marker.exists()


def foreign(size=12, classes=62):
    """A network of another family: a layer that ours have not, and another order."""
    picture = keras.Input((size, size, 1))
    x = keras.layers.Conv2D(4, 3, activation="tanh")(keras.layers.Rescaling(1 / 255)(picture))
    head = keras.layers.Dense(classes, activation="softmax")
    return keras.Model(picture, head(keras.layers.Flatten()(x)))


def test_a_network_of_another_family_is_loaded_with_keras_in_safe_mode(tmp_path, monkeypatch):
    """A second wall, should code come in another disguise than a Lambda layer."""
    asked, load, network = [], keras.saving.load_model, foreign()

    def noted(path, **options):
        asked.append(options)
        return load(path, **options)

    monkeypatch.setattr(keras.saving, "load_model", noted)
    found = inference.load_classifier(saved(tmp_path, network, DESCRIPTION))
    assert asked == [{"compile": False, "safe_mode": True}]
    picture, _ = images.preprocess(images.scan(letter())[None], found.preprocessing)
    wanted = network.predict_on_batch(picture.astype(np.float32))[0]
    np.testing.assert_allclose(found.predict(letter())[2], wanted, atol=1e-6)
    described = DESCRIPTION | {"hands": hands_described()["hands"] | {"means": [[0.2, 0.8]] * 62}}
    assert inference.load_classifier(saved(tmp_path, network, described)).hands is None


def test_our_own_networks_never_load_tensorflow(checkpoint, tmp_path):
    for name in ("0", "1", "2"):
        (tmp_path / name).mkdir()
        for i in range(10):
            cv2.imwrite(str(tmp_path / name / f"{i}.png"), letter(i))
    code = (
        "import sys\n"
        "from midas_lib.__main__ import main\n"
        "assert main(sys.argv[1:]) == 0\n"
        "assert not {'tensorflow', 'keras'} & set(sys.modules)\n"
        "assert sys.argv[1] != 'predict' or not {'pandas', 'scipy', 'sklearn'} & set(sys.modules)"
    )
    ours = ["--checkpoint", str(checkpoint)]
    for command in (
        ["predict", str(tmp_path / "0" / "0.png"), *ours],
        ["evaluate", "--test", str(tmp_path), *ours],
        ["audit", str(tmp_path), "--witness", str(checkpoint)],
    ):
        done = subprocess.run(
            [sys.executable, "-c", code, *command], capture_output=True, text=True
        )
        told = "all images are of digits" if command[0] == "evaluate" else ""
        assert (done.returncode, done.stderr[: len(told)]) == (0, told)
        assert len(done.stderr.splitlines()) == bool(told)


def test_a_checkpoint_with_inputs_of_another_kind_is_refused(tmp_path):
    picture, place = keras.Input((12, 12, 1)), keras.Input((3,))
    both = keras.layers.Concatenate()([keras.layers.Flatten()(picture), place])
    network = keras.Model([picture, place], keras.layers.Dense(62)(both))
    with pytest.raises(UserError, match=r"model\.keras: .*its shapes are"):
        inference.load_classifier(saved(tmp_path, network, DESCRIPTION))


def test_saving_that_fails_leaves_the_old_checkpoint_as_it_was(checkpoint, tmp_path):
    network = keras.saving.load_model(checkpoint)
    path = saved(tmp_path, network, DESCRIPTION)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(TypeError):
        saved(tmp_path, network, {"class_names": {1, 2}})  # a set is not JSON
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    assert inference.load_classifier(path).class_names == CLASS_NAMES


def test_answers_that_are_no_numbers_are_refused(classifier, tmp_path, capsys):
    broken = cnn(62, 12, TINY)
    head = broken.get_layer("logits")
    head.set_weights([np.full(head.kernel.shape, np.nan), np.zeros(62)])
    path = saved(tmp_path, broken, DESCRIPTION)
    cv2.imwrite(str(tmp_path / "a.png"), letter())
    ask = ["predict", str(tmp_path / "a.png"), "--checkpoint", str(path), "--json"]
    assert main(ask) == 2
    assert "its weights are damaged" in capsys.readouterr().err


def test_what_is_no_checkpoint_is_named(checkpoint, tmp_path, capsys):
    path = tmp_path / "model.keras"
    with pytest.raises(UserError, match="no such checkpoint"):
        inference.load_classifier(path)
    content = checkpoint.read_bytes()
    for broken in (b"", b"<html>", content[: len(content) // 2]):
        path.write_bytes(broken)
        with pytest.raises(UserError, match=r"model\.keras: not a checkpoint"):
            inference.load_classifier(path)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"model\.json: does not describe"):
        inference.load_classifier(path)
    odd = [{"x": 1}, {"margin": "wide"}, {"margin": -1}, {"size": 10**6}, {"size": None}]
    odd = [json.dumps({**DESCRIPTION, "settings": {"preprocessing": one}}) for one in odd]
    for wrong in ("{", "{}", *odd):
        path.with_suffix(".json").write_text(wrong)
        with pytest.raises(UserError, match=r"model\.json: does not describe"):
            inference.load_classifier(path)
    path.with_suffix(".json").write_text(json.dumps({**DESCRIPTION, "class_names": ["0", "1"]}))
    with pytest.raises(UserError, match="its side and classes"):
        inference.load_classifier(path)
    legacy = tmp_path / "model.h5"
    legacy.write_bytes(content)
    with pytest.raises(UserError, match=r"model\.h5: not a checkpoint, by its name"):
        inference.load_classifier(legacy)
    assert main(["predict", "x.png", "--checkpoint", str(path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
