"""The command line: what goes to which stream, and the exit codes."""

import json
import os
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest

import midas_lib
from midas_lib import config
from midas_lib.__main__ import main

LABELLED = {
    "n": 4,
    "accuracy": 0.75,
    "accuracy_interval": [0.3006, 0.9544],
    "top5_accuracy": 1.0,
    "case_merged_accuracy": 1.0,
    "ece": 0.1,
    "per_class": {"A": 1.0},
    "skipped": [{"file": "bad.png", "reason": "not an image"}],
}
PREDICTION = {"file": "a.png", "label": "A", "index": 10, "probability": 0.98765}
UNLABELLED = {"n": 1, "predictions": [PREDICTION], "skipped": []}


@pytest.fixture
def inference(monkeypatch):
    """A stand-in for the real module, which would load TensorFlow."""
    stub = types.ModuleType("midas_lib.inference")
    stub.loaded = []

    def load_classifier(path):
        print("a library that prints")
        stub.loaded.append(path)
        return path

    stub.load_classifier = load_classifier
    stub.evaluate = lambda classifier, path: LABELLED
    stub.predict_files = lambda classifier, paths: [PREDICTION | {"file": str(p)} for p in paths]
    monkeypatch.setitem(sys.modules, "midas_lib.inference", stub)
    monkeypatch.setattr(midas_lib, "inference", stub, raising=False)
    return stub


def test_json_is_one_document_and_all_there_is_on_standard_output(inference, capsys):
    assert main(["evaluate", "--test", "folder", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == LABELLED
    assert "skipped bad.png: not an image" in err
    assert "a library that prints" in err


def test_evaluate_shows_a_small_table(inference, capsys):
    assert main(["evaluate", "--test", "folder"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert "accuracy           0.7500  (95 % interval 0.3006 to 0.9544)" in out
    assert inference.loaded == [config.ROOT / "checkpoints" / "part1" / "model.keras"]


def test_evaluate_without_labels_gives_csv(inference, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(inference, "evaluate", lambda classifier, path: UNLABELLED)
    csv = "file,label,index,probability\na.png,A,10,0.98765\n"
    assert main(["evaluate", "--test", "folder"]) == 0
    assert capsys.readouterr().out == csv
    assert main(["evaluate", "--test", "folder", "--csv", str(tmp_path / "out.csv")]) == 0
    assert (tmp_path / "out.csv").read_text() == csv


def test_predict_takes_several_images_and_a_checkpoint(inference, capsys):
    assert main(["predict", "a.png", "b c.png", "--checkpoint", "my.keras", "--json"]) == 0
    assert [p["file"] for p in json.loads(capsys.readouterr().out)] == ["a.png", "b c.png"]
    assert inference.loaded == [Path("my.keras")]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (config.UserError("x.zip: not an archive;\ngive another"), "x.zip: not an archive; give"),
        (OSError(28, "No space left on device", "cache.npz"), "cache.npz: No space left on device"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(inference, monkeypatch, capsys, error, line):
    def evaluate(classifier, path):
        raise error

    monkeypatch.setattr(inference, "evaluate", evaluate)
    assert main(["evaluate", "--test", "x.zip", "--json"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1].startswith(f"midas_lib: {line}")


def test_interrupt_is_one_line_and_exit_code_130(inference, monkeypatch, capsys):
    def evaluate(classifier, path):
        raise KeyboardInterrupt

    monkeypatch.setattr(inference, "evaluate", evaluate)
    assert main(["evaluate", "--test", "x.zip"]) == 130
    assert "interrupted" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    "arguments", [["evaluate"], ["predict"], ["nonsense"], [], ["report", "one"]]
)
def test_a_wrong_command_is_one_line_and_exit_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_an_unknown_profile_is_refused(capsys):
    for command in ("fetch", "report", "index", "pages"):
        assert main([command, "--profile", "tiny"]) == 2
        assert "PROFILE=tiny" in capsys.readouterr().err


def test_report_hands_the_parameters_on(monkeypatch, capsys, tmp_path):
    from midas_lib import report

    asked = []

    def run_notebook(part, *, profile, parameters):
        asked.append((part, profile, parameters))
        return tmp_path / f"part{part}.html"

    monkeypatch.setattr(report, "run_notebook", run_notebook)
    options = ["--profile", "smoke", "--seeds", "3", "--fresh", "-p", "epochs", "8", "-p", "a", "x"]
    assert main(["report", "1", *options]) == 0
    assert asked == [(1, "smoke", {"seeds": 3, "fresh": True, "epochs": 8, "a": "x"})]
    assert (tmp_path / "index.html").exists()


def test_help_is_there_at_once():
    command = [sys.executable, "-X", "importtime", "-m", "midas_lib", "--help"]
    environment = os.environ | {"PYTHONPATH": str(Path(midas_lib.__file__).parent.parent)}
    started = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "evaluate" in done.stdout
    assert not [x for x in ("numpy", "tensorflow", "nbconvert", "pooch") if f"| {x}" in done.stderr]
    assert time.perf_counter() - started < 2  # 0.06 s on an idle machine
