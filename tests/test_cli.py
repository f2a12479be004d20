"""The command line: what goes to which stream, and the exit codes."""

import json
import os
import subprocess
import sys
import types
import warnings
from pathlib import Path

import pytest

import midas_lib
from midas_lib import config
from midas_lib.__main__ import main

PREDICTION = {"file": "a.png", "label": "A", "index": 10, "probability": 0.98765}
LABELLED = {
    "n": 4,
    "accuracy": 0.75,
    "accuracy_interval": [0.3006, 0.9544],
    "top5_accuracy": 1.0,
    "case_merged_accuracy": 1.0,
    "ece": 0.1,
    "per_class": {"A": {"n": 3, "accuracy": 1.0}, "b": {"n": 4, "accuracy": 0.5}},
    "confused": [["b", "6", 2]],
    "predictions": [PREDICTION | {"true": "A"}],
    "skipped": [{"file": "bad.png", "reason": "not an image"}],
}
AUDIT = {
    "n": 20,
    "verdict": "complementary",
    "reason": "no digit lies in its own folder",
    "advice": "learn from what a label rules out",
    "own_folder_rate": 0.001,
    "own_folder_rate_interval": [0.0005, 0.002],
    "classes": ["0", "1"],
    "transition": [[0.0, 1.0], [0.25, 0.75]],
    "evidence": {},
    "skipped": [],
}
UNLABELLED = {"n": 1, "predictions": [PREDICTION], "skipped": []}
HANDS = {"writers": 3, "accuracy": 0.875, "accuracy_interval": [0.5, 0.975]}
HANDED = {"predictions": [PREDICTION | {"hand_label": "a"}]}


@pytest.fixture
def inference(monkeypatch):
    """A stand-in for the real module, which would load TensorFlow."""
    stub = types.ModuleType("midas_lib.inference")
    stub.loaded = []

    def load_classifier(path):
        print("a library that prints")
        stub.loaded.append(path)
        return types.SimpleNamespace(path=path, class_names=config.CLASS_NAMES)

    stub.load_classifier = load_classifier
    stub.evaluate = lambda *asked: stub.asked.append(asked[1:]) or LABELLED
    stub.audit_folders = lambda path, reference, limit: (
        stub.asked.append((path, reference and reference.path, limit)) or AUDIT
    )
    stub.asked = []
    stub.predict_files = lambda _, paths, hand: (
        [PREDICTION | {"file": str(p), "hand_label": "a"} for p in paths if "bad" not in p.name],
        [{"file": str(p), "reason": "no image"} for p in paths if "bad" in p.name],
    )
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
    assert inference.asked == [(Path("folder"), False)]
    assert not any("hands" in line for line in out)
    hardest = out.index("hardest classes  accuracy")
    assert out[hardest + 1 : hardest + 3] == [
        "b                0.50 of 4",
        "A                1.00 of 3",
    ]
    assert out[out.index("most confused") + 1] == "b and 6        2 errors"


def test_evaluate_shows_what_hands_tell_where_it_is_asked_to(
    inference, monkeypatch, capsys, tmp_path
):
    def evaluate(classifier, path, hands):
        assert hands
        return (LABELLED if path.name == "labelled" else UNLABELLED) | HANDED | {"hands": HANDS}

    monkeypatch.setattr(inference, "evaluate", evaluate)
    table = tmp_path / "out.csv"
    assert main(["evaluate", "--test", "labelled", "--hands", "--csv", str(table)]) == 0
    lines = capsys.readouterr().out.splitlines()
    told = "0.8750  (95 % interval 0.5000 to 0.9750)"
    assert [line.split("  ", 1) for line in lines if told in line] == [
        ["3 hands, each read together", told]
    ]
    csv = "file,label,index,probability,hand_label\na.png,A,10,0.98765,a\n"
    assert table.read_text() == csv
    assert main(["evaluate", "--test", "unlabelled", "--hands"]) == 0
    assert capsys.readouterr().out == csv


def test_evaluate_without_labels_gives_csv(inference, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(inference, "evaluate", lambda *_: UNLABELLED)
    csv = "file,label,index,probability\na.png,A,10,0.98765\n"
    assert main(["evaluate", "--test", "folder"]) == 0
    assert capsys.readouterr().out == csv
    assert main(["evaluate", "--test", "folder", "--csv", str(tmp_path / "out.csv")]) == 0
    assert (tmp_path / "out.csv").read_text() == csv


def test_predict_takes_several_images_and_a_checkpoint(inference, capsys):
    assert main(["predict", "a.png", "b c.png", "--checkpoint", "my.keras", "--json"]) == 0
    assert [p["file"] for p in json.loads(capsys.readouterr().out)] == ["a.png", "b c.png"]
    assert inference.loaded == [Path("my.keras")]


def test_predict_answers_what_can_be_read_and_lists_the_rest(inference, capsys):
    assert main(["predict", "a.png", "bad.png", "--one-hand"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == ["file   label  probability  hand", "a.png  A      0.988        a"]
    assert "skipped bad.png: no image" in err
    assert main(["predict", "bad.png", "bad2.png"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "midas_lib: bad.png: no image"


def test_networks_are_asked_for_by_name(inference, capsys):
    for given, path in (
        ([], "part1/model.keras"),
        (["--network", "digits"], "part2/best.keras"),
        (["--network", "characters"], "part1/model.keras"),
    ):
        assert main(["evaluate", "--test", "x", *given]) == 0
        assert inference.loaded.pop() == config.ROOT / "checkpoints" / path
    assert main(["predict", "x", "--network", "digits", "--checkpoint", "mine.keras"]) == 2
    assert "--network and --checkpoint: give one" in capsys.readouterr().err


def test_who_asks_the_62_classes_about_digits_is_told_of_the_other_network(
    inference, monkeypatch, capsys
):
    for true, told in (("7", True), ("A", False)):
        found = LABELLED | {"predictions": [PREDICTION | {"true": true}]}
        monkeypatch.setattr(inference, "evaluate", lambda *_, found=found: found)
        assert main(["evaluate", "--test", "x"]) == 0
        assert ("--network digits" in capsys.readouterr().err) is told


def test_a_csv_has_the_truth_and_no_formula(inference, monkeypatch, tmp_path):
    rows = [PREDICTION | {"file": name, "true": "B"} for name in ("=1+1.png", "-x", "@y", "a.png")]
    monkeypatch.setattr(inference, "evaluate", lambda *_: LABELLED | {"predictions": rows})
    table = tmp_path / "out.csv"
    assert main(["evaluate", "--test", "x", "--csv", str(table)]) == 0
    lines = table.read_text().splitlines()
    assert lines[0] == "file,label,index,probability,true"
    names = ["'=1+1.png", "'-x", "'@y", "a.png"]
    assert lines[1:] == [f"{name},A,10,0.98765,B" for name in names]


def test_a_csv_that_cannot_be_written_is_said_at_once(inference, tmp_path, capsys):
    table = tmp_path / "nowhere" / "out.csv"
    assert main(["evaluate", "--test", "x", "--csv", str(table)]) == 2
    assert "out.csv: there is no such folder" in capsys.readouterr().err
    assert inference.asked == inference.loaded == []


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (config.UserError("x.zip: not an archive;\ngive another"), "x.zip: not an archive; give"),
        (OSError(28, "No space left on device", "cache.npz"), "cache.npz: No space left on device"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(inference, monkeypatch, capsys, error, line):
    def evaluate(*_):
        raise error

    monkeypatch.setattr(inference, "evaluate", evaluate)
    assert main(["evaluate", "--test", "x.zip", "--json"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1].startswith(f"midas_lib: {line}")


NASTY = "a\x1b]0;me\x07\n\u202e\udcff"
PRINTED = "a\\x1b]0;me\\x07\\n\\u202e\\udcff"


def test_no_name_reaches_the_terminal_as_a_code_or_a_line(inference, monkeypatch, capsys):
    assert config.printable("Größe 1 €/ß.png") == "Größe 1 €/ß.png"
    assert config.printable(NASTY) == PRINTED
    assert main(["predict", f"{NASTY}.png", f"bad{NASTY}"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[1].startswith(f"{PRINTED}.png  A")
    assert err.splitlines()[-1] == f"skipped bad{PRINTED}: no image"

    def evaluate(*_):
        warnings.warn(f"{NASTY}: odd", stacklevel=1)
        raise OSError(28, "No space left on device", NASTY)

    monkeypatch.setattr(inference, "evaluate", evaluate)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.showwarning = lambda *said: sys.stderr.write(warnings.formatwarning(*said[:4]))
        assert main(["evaluate", "--test", "x"]) == 2
    assert capsys.readouterr().err.splitlines()[-2:] == [
        f"midas_lib: {PRINTED}: odd",
        f"midas_lib: {PRINTED}: No space left on device",
    ]
    with pytest.raises(SystemExit):
        main(["predict", "a", f"--{NASTY}"])
    assert f"--{PRINTED}" in capsys.readouterr().err


def test_a_csv_holds_names_that_are_no_utf_8(inference, monkeypatch, tmp_path):
    rows = [PREDICTION | {"file": NASTY}]
    monkeypatch.setattr(inference, "evaluate", lambda *_: UNLABELLED | {"predictions": rows})
    assert main(["evaluate", "--test", "x", "--csv", str(tmp_path / "out.csv")]) == 0
    assert (tmp_path / "out.csv").read_text().splitlines()[1:] == [f"{PRINTED},A,10,0.98765"]


def test_interrupt_is_one_line_and_exit_code_130(inference, monkeypatch, capsys):
    def evaluate(*_):
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


@pytest.mark.parametrize("option", ["--seeds", "--jobs"])
@pytest.mark.parametrize("count", ["0", "-1", "1001", "1000000000", "9" * 5000, "two", "²"])
def test_how_many_is_a_number_that_can_be_done(option, count, capsys):
    with pytest.raises(SystemExit):
        main(["report", option, count])
    assert f"{option}: {count}: give 1 to 1000" in capsys.readouterr().err


def test_an_unknown_profile_is_refused(capsys):
    for command in ("fetch", "report", "index", "pages"):
        assert main([command, "--profile", "tiny"]) == 2
        assert "PROFILE=tiny" in capsys.readouterr().err


def test_report_hands_the_parameters_on(monkeypatch, capsys, tmp_path):
    from midas_lib import pages

    asked = []

    def run_notebook(part, *, profile, parameters):
        asked.append((part, profile, parameters))
        return tmp_path / f"part{part}.html"

    monkeypatch.setattr(pages, "run_notebook", run_notebook)
    options = ["--profile", "smoke", "--seeds", "3", "--fresh", "-p", "epochs", "8", "-p", "a", "x"]
    assert main(["report", "1", *options]) == 0
    assert asked == [(1, "smoke", {"seeds": 3, "fresh": True, "epochs": 8, "a": "x"})]
    assert (tmp_path / "index.html").exists()


def test_help_is_there_at_once():
    command = [sys.executable, "-X", "importtime", "-m", "midas_lib", "--help"]
    environment = os.environ | {"PYTHONPATH": str(Path(midas_lib.__file__).parent.parent)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "evaluate" in done.stdout
    assert not [
        x
        for x in ("numpy", "tensorflow", "nbconvert", "pooch", "matplotlib")
        if f"| {x}" in done.stderr
    ]


def test_every_wrong_command_line_is_told_by_the_name_it_was_called_by(monkeypatch, capsys):
    for name, prog in (("/opt/bin/midas", "midas"), ("x/__main__.py", "python -m midas_lib")):
        monkeypatch.setattr(sys, "argv", [name])
        with pytest.raises(SystemExit):
            main(["evaluate"])
        assert f"(see {prog} evaluate --help)" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--reference", "--witness"])
def test_an_audit_asks_the_reference_it_is_given(option, inference, capsys):
    assert main(["audit", "folder", option, "my.keras", "--limit", "7", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == AUDIT
    assert main(["audit", "folder", option, "none"]) == 0
    assert main(["audit", "folder"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert "in their own folder  0.10%  (95 % interval 0.05% to 0.20%)" in out
    assert "1      25.0%  75.0%" in out
    default = config.ROOT / "checkpoints" / "part1" / "model.keras"
    assert inference.loaded == [Path("my.keras"), default]
    assert inference.asked == [
        (Path("folder"), Path("my.keras"), 7),
        (Path("folder"), None, 20_000),
        (Path("folder"), default, 20_000),
    ]
    assert main(["audit", "folder", "--limit", "0"]) == 2


def test_paths_count_from_the_callers_folder_which_make_leaves(
    inference, monkeypatch, capsys, tmp_path
):
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    monkeypatch.chdir(checkout)
    monkeypatch.setenv("PWD", str(tmp_path))
    monkeypatch.delenv("MAKELEVEL", raising=False)
    assert config.from_caller("a") == Path("a")
    monkeypatch.setenv("MAKELEVEL", "1")
    absolute = str(tmp_path / "abs.csv")
    arguments = ["--checkpoint", "c.keras", "--csv", absolute]
    monkeypatch.setattr(
        inference, "evaluate", lambda c, path, _: inference.asked.append(path) or UNLABELLED
    )
    assert main(["evaluate", "--test", "t.zip", *arguments]) == 0
    assert main(["predict", "~/i.png", "--checkpoint", "c.keras"]) == 0
    assert main(["audit", "d", "--reference", "r.keras"]) == 0
    out = capsys.readouterr().out
    assert f"written to {absolute}" in out
    assert str(Path.home() / "i.png") in out
    assert inference.asked[0] == tmp_path / "t.zip"
    assert inference.asked[1][0] == tmp_path / "d"
    assert inference.loaded == [tmp_path / "c.keras"] * 2 + [tmp_path / "r.keras"]
    monkeypatch.setenv("DATA_DIR", "data")
    monkeypatch.setenv("MIRROR", "archives")
    assert (config.data_dir(), config.mirror()) == (tmp_path / "data", str(tmp_path / "archives"))
    for mirror in ("https://example.org/x", "file:///srv"):
        monkeypatch.setenv("MIRROR", mirror)
        assert config.mirror() == mirror
    (checkout / "a").touch()  # a program called make, and left PWD as it was
    assert config.from_caller("a") == Path("a")
    (tmp_path / "a").touch()
    assert config.from_caller("a") == tmp_path / "a"


@pytest.mark.parametrize("command", ["report", "index", "pages"])
def test_what_needs_the_checkout_says_so(command, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(config, "ROOT", tmp_path)
    assert main([command]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"midas_lib: {command} needs a checkout of the project")
    assert list(tmp_path.iterdir()) == []


def test_the_run_store_is_listed_shown_and_verified(monkeypatch, capsys):
    from midas_lib import store

    settings = {"training": {"epochs": 3}, "seed": 1}
    run = {"name": "abc", "date": "d", "seconds": 2.0, "bytes": 3e6, "settings": settings}
    asked = []

    def details(path, whole=False):
        asked.append((path.stem, whole))
        if path.stem == "bad":
            raise config.UserError("bad: damaged")
        return run

    monkeypatch.setattr(store, "details", details)
    monkeypatch.setattr(store, "finished", lambda: [Path("abc.npz"), Path("bad.npz")])
    monkeypatch.setattr(store, "prune", lambda: [Path("x.tmp")])
    assert main(["runs", "list"]) == 0
    out, err = capsys.readouterr()
    assert out == "abc  d  2 s  3.0 MB  3 epochs  seed 1\n"
    assert "bad: damaged" in err
    assert main(["runs", "verify", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"whole": 1, "damaged": ["bad"]}
    assert asked == [("abc", False), ("bad", False), ("abc", True), ("bad", True)]
    assert main(["runs", "show", "ab", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == run
    assert main(["runs", "show", "z"]) == 2
    assert main(["runs", "show"]) == 2
    assert main(["runs", "prune", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == ["x.tmp"]


def test_fetch_tells_where_each_archive_lies(monkeypatch, capsys):
    from midas_lib import sources

    def fetch(name, profile):
        return types.SimpleNamespace(name=name, source=profile, digest="d", paths=[Path("p/a.zip")])

    monkeypatch.setattr(sources, "fetch", fetch)
    assert main(["fetch", "--profile", "smoke", "--json"]) == 0
    archives = json.loads(capsys.readouterr().out)["archives"]
    assert archives[0] == {"name": "characters", "source": "smoke", "digest": "d",
                           "paths": ["p/a.zip"]}  # fmt: skip
    assert [archive["name"] for archive in archives] == ["characters", "mislabelled", "mnist"]
