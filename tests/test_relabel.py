"""Wrongly filed pictures labelled anew: renamed, learned from their folders, or refused."""

import json
import types

import cv2
import numpy as np
import pytest

from midas_lib import analysis, audit, inference, relabel, runs, standin
from midas_lib.__main__ import main

CLASSES = "=SUM", "naïve b", "ß", "日"  # as sorted
N = 12 * len(CLASSES)


@pytest.fixture
def folder(tmp_path):
    """Twelve pictures in each of four folders."""
    pictures, _ = standin.digits(N, seed=1)
    for i, picture in enumerate(pictures):
        place = tmp_path / "set" / CLASSES[i // 12] / f"{i:02}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(cv2.imencode(".png", picture)[1].tobytes())
    return tmp_path / "set"


@pytest.fixture
def found(monkeypatch):
    """Let the audit find this: a verdict, an own-folder rate, how often a class (row) lies in which
    folder, and evidence."""

    def find(verdict, rate=0.0, counts=None, evidence=None):
        nothing, own = np.zeros((4, 4)), analysis.Interval(rate, rate, rate, N)
        answer = audit.Audit(
            verdict=verdict, reason="so it is", own_folder_rate=own, evidence=evidence or {},
            counts=nothing if counts is None else np.array(counts),
            transition=nothing, low=nothing, high=nothing, classes=nothing, settled=nothing,
        )  # fmt: skip
        monkeypatch.setattr(audit, "audit", lambda *given: answer)

    return find


@pytest.fixture
def trained(monkeypatch):
    """In place of training: a network that says the second class, 0.8, or the fourth, 0.2. The
    tasks that are asked for."""
    asked = []

    def run_all(tasks, label):
        asked.extend(tasks)
        said = [np.tile([0, 0.8, 0, 0.2], (len(task.held_out.labels), 1)) for task in tasks]
        return [types.SimpleNamespace(probabilities=one) for one in said]

    monkeypatch.setattr(runs, "run_all", run_all)
    return asked


def lines(path):
    return path.read_text(encoding="utf-8").splitlines()


def test_permuted_folders_are_renamed(folder, found, trained, tmp_path, capsys):
    # Of the third class 9 settled pictures lie in the first folder, which holds another one.
    counts = [[0, 5, 0, 0], [1, 0, 0, 8], [9, 0, 0, 0], [0, 0, 4, 0]]
    found("permuted", counts=counts, evidence={"permutation": [1, 3, 0, 2]})
    table = tmp_path / "labels.csv"
    command = ["relabel", str(folder), "--csv", str(table), "--reference", "none"]
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "verdict": "permuted", "own_folder_rate": 0.0, "n": N, "changed": N, "unsure": 0,
        "skipped": [],
    }  # fmt: skip
    rows = lines(table)
    assert rows[0] == "file,folder,label,confidence"
    assert len(rows) == N + 1
    assert rows[1] == "'=SUM/00.png,'=SUM,ß,0.9"
    assert rows[1 + 12] == "naïve b/12.png,naïve b,'=SUM,1.0"
    assert rows[1 + 24] == "ß/24.png,ß,日,1.0"
    assert rows[1 + 36] == "日/36.png,日,naïve b,1.0"
    assert trained == []


@pytest.mark.parametrize(
    ("verdict", "rate", "labels", "confidence"),
    [
        # Where the network's first guess is the folder, its second remains.
        ("complementary", 0.0, [1, 3, 1, 1], [0.8, 1, 0.8, 1]),
        # 0.8 * 0.7 against 0.2 * 0.1; 0.8 * 0.1 against 0.2 * 0.7.
        ("symmetric-noise", 0.7, [1, 1, 1, 3], [0.8, 28 / 29, 0.8, 7 / 11]),
    ],
)
def test_what_was_learned_is_weighed_with_the_folder(
    folder, found, trained, verdict, rate, labels, confidence
):
    found(verdict, rate)
    answer = relabel.relabel(folder)
    rows = answer["labels"]
    assert [row["label"] for row in rows[::12]] == [CLASSES[i] for i in labels]
    assert [row["confidence"] for row in rows[::12]] == pytest.approx(confidence)
    assert answer["changed"] == 12 * sum(CLASSES[i] != CLASSES[j] for i, j in enumerate(labels))
    assert answer["unsure"] == 12 * sum(one < 0.9 for one in confidence)
    asked = []
    for task in trained:
        assert (task.start, task.classes, len(task.examples.labels)) == (None, 4, 32)
        learned = {picture.tobytes() for picture in task.examples.pictures}
        assert learned.isdisjoint(picture.tobytes() for picture in task.held_out.pictures)
        asked += task.held_out.labels.tolist()
        training = task.settings.training
        assert (training.loss, training.leak, training.epochs) == ("forward", rate, relabel.STEPS)
    assert sorted(asked) == np.repeat(range(4), 12).tolist()


def test_each_picture_gets_the_answer_of_the_network_that_has_not_seen_it(monkeypatch):
    def run_all(tasks, label):
        """Networks that answer with the folder, the k-th so much less sure."""
        return [
            types.SimpleNamespace(probabilities=np.eye(3)[task.held_out.labels] / (k + 1))
            for k, task in enumerate(tasks)
        ]

    monkeypatch.setattr(runs, "run_all", run_all)
    folders = np.arange(30) % 3
    filed = inference.Filed(
        names=[], classes=["a", "b", "c"], folders=folders, answers=None, skipped=[],
        pictures=np.zeros((30, 28, 28), np.uint8),
    )  # fmt: skip
    answers = relabel._learned(filed, 0.5)
    assert (answers.argmax(1) == folders).all()
    sure = np.sort(answers.max(1))
    np.testing.assert_allclose(sure, np.repeat([1 / 3, 1 / 2, 1], 10), rtol=1e-6)


@pytest.mark.parametrize(
    ("verdict", "why"),
    [
        ("clean", "nothing to do"),
        ("undetermined", "look at some pictures"),
        ("pair-flip", "not equally likely"),
        ("biased-complementary", "not equally likely"),
    ],
)
def test_other_verdicts_are_refused_in_one_line(
    folder, found, trained, tmp_path, capsys, verdict, why
):
    found(verdict)
    table = tmp_path / "labels.csv"
    table.write_text("as it was")
    assert main(["relabel", str(folder), "--csv", str(table), "--reference", "none"]) == 2
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert line.startswith(f"midas_lib: {folder}: not relabelled: {verdict}: so it is; ")
    assert why in line
    assert (out, trained, table.read_text()) == ("", [], "as it was")


def test_nothing_is_read_before_the_target_is_known_to_be_there(folder, monkeypatch, capsys):
    monkeypatch.setattr(relabel, "relabel", None)
    for target in (folder / "nowhere" / "labels.csv", folder):
        assert main(["relabel", str(folder), "--csv", str(target)]) == 2
        assert f"{target}: there is no such folder, or" in capsys.readouterr().err


def test_a_table_is_whole_or_as_it_was(folder, found, trained, tmp_path, monkeypatch, capsys):
    from midas_lib import files

    def full(source, target):
        raise OSError(28, "No space left on device", str(target))

    found("complementary")
    table = tmp_path / "labels.csv"
    table.write_text("as it was")
    command = ["relabel", str(folder), "--csv", str(table), "--reference", "none"]
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", full)
        assert main(command) == 2
    assert "No space left" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["labels.csv"]
    assert table.read_text() == "as it was"
    assert main(command) == 0
    assert capsys.readouterr().out == (
        f"complementary: 48 of 48 pictures are relabelled, 24 labels have a confidence below 0.9;"
        f" written to {table}\n"
    )
