"""The Makefile, in a checkout whose Python is a script that writes down how it was called."""

import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PYTHON = """#!/bin/sh
case "$*" in
  *"import ensurepip"*) exit 0 ;;
  "--version") echo "Python 3.12.0"; exit 0 ;;
  "-m venv .venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
  "-m pip --version") exit 0 ;;
  "-c "*) exit 0 ;;
esac
echo "[$*] in=$PWD mirror=$MIRROR data=$DATA_DIR path=$PYTHONPATH" >> "$LOG"
[ -z "$FAIL" ] || case "$*" in "$FAIL"*) exit 1 ;; esac
"""
pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="needs make")


class Checkout:
    """A folder with the Makefile, and the log of what it ran."""

    def __init__(self, folder: Path):
        self.folder = folder / "a checkout"
        self.folder.mkdir()
        for name in ("Makefile", "requirements.txt", "constraints.txt"):
            shutil.copy(ROOT / name, self.folder)
        self.python = folder / "python3"
        self.python.write_text(PYTHON)
        self.python.chmod(self.python.stat().st_mode | stat.S_IXUSR)
        self.log = folder / "log"

    def make(self, *arguments, cwd=None, **variables):
        """Run make; return the finished process and the lines its commands logged."""
        self.log.write_text("")
        cwd = cwd or self.folder
        environment = {
            "PATH": os.environ["PATH"],
            "PWD": str(cwd),
            "PYTHON": str(self.python),
            "LOG": str(self.log),
            **variables,
        }
        done = subprocess.run(
            ["make", *arguments], cwd=cwd, env=environment, capture_output=True, text=True
        )
        return done, self.log.read_text().splitlines()


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path)


@pytest.fixture
def ready(checkout):
    checkout.make("env")
    return checkout


def installs(log):
    return sum("-m pip install" in line for line in log)


def test_help_is_the_default_and_lists_every_target(checkout):
    done, log = checkout.make()
    targets = re.findall(r"^([a-z0-9]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert len(targets) >= 12
    assert all(re.search(rf"^  {target} +\S", done.stdout, re.MULTILINE) for target in targets)
    assert log == []


@pytest.mark.parametrize("target", ["data", "reports", "part1", "pages", "lab", "test", "lint"])
def test_every_target_makes_the_environment_first_and_once(checkout, target):
    done, log = checkout.make(target)
    assert done.returncode == 0, done.stderr
    assert "[-m venv .venv]" in log[0]
    assert installs(log) == 1
    assert "making the environment" in done.stderr
    done, log = checkout.make(target)
    assert len(log) == (2 if target == "lint" else 1)
    assert "==>" in done.stderr


def test_the_environment_follows_the_content_of_the_requirements(ready):
    for name in ("requirements.txt", "constraints.txt"):
        (ready.folder / name).touch()
        assert ready.make("env")[1] == []
        (ready.folder / name).write_text("numpy\n")
        assert installs(ready.make("env")[1]) == 1
        assert ready.make("env")[1] == []


def test_an_interrupted_environment_is_not_taken_for_whole(checkout):
    done, log = checkout.make("test", FAIL="-m pip install")
    assert done.returncode != 0
    assert not any("-m pytest" in line for line in log)
    done, log = checkout.make("test")
    assert installs(log) == 1
    assert "-m pytest" in log[-1]


def test_a_failed_renewal_is_tried_again(ready):
    (ready.folder / "constraints.txt").write_text("numpy==2\n")
    assert ready.make("env", FAIL="-m pip install")[0].returncode != 0
    assert installs(ready.make("env")[1]) == 1


def test_the_environment_may_be_a_link(checkout, tmp_path):
    (checkout.folder / ".venv").symlink_to(tmp_path / "elsewhere" / "venv")
    assert checkout.make("env")[0].returncode == 0
    assert (tmp_path / "elsewhere" / "venv" / "bin" / "python").exists()
    assert (checkout.folder / ".venv").is_symlink()
    assert checkout.make("env")[1] == []


def test_a_python_that_will_not_do_is_named(checkout):
    done, _ = checkout.make("test", PYTHON="false")
    assert done.returncode == 2
    assert "Python 3.11, 3.12 or 3.13" in done.stderr
    assert "trying false" in done.stderr
    assert not (checkout.folder / ".venv").exists()


def test_a_failing_command_fails_make(ready):
    assert ready.make("test", FAIL="-m pytest")[0].returncode != 0


def test_variables_become_options(ready):
    options = ["PROFILE=smoke", "SEEDS=5", "JOBS=2", "FRESH=1", "ARGS=-p title 'a b'"]
    line = ready.make("part1", *options)[1][0]
    expected = "report --profile smoke --seeds 5 --jobs 2 --fresh 1 -p title a b]"
    assert line.startswith(f"[-m midas_lib {expected}")
    assert "[-m midas_lib report --profile standard]" in ready.make("reports", "FRESH=0")[1][0]


def test_the_bench_is_the_full_one_unless_a_profile_is_named(ready):
    assert ready.make("bench")[1][0].startswith("[-m bench] ")
    line = ready.make("bench", "SEEDS=3", "ARGS=race", PROFILE="smoke")[1][0]
    assert line.startswith("[-m bench --profile smoke --repeats 3 race] ")


def test_badges_name_a_repository_if_one_is_given(ready):
    assert ready.make("badges")[1][0].startswith("[-m midas_lib badges] ")
    line = ready.make("badges", "REPOSITORY=someone/it")[1][0]
    assert line.startswith("[-m midas_lib badges --repository someone/it] ")


def test_the_library_is_found_without_being_installed(ready):
    assert f"path={ready.folder}" in ready.make("lab")[1][0]


def test_relative_folders_count_from_the_callers_folder(ready, tmp_path):
    (line,) = ready.make("data", "MIRROR=../my mirror", DATA_DIR="here")[1]
    assert f"mirror={ready.folder}/../my mirror data={ready.folder}/here " in line
    (line,) = ready.make("-C", "a checkout", "data", "MIRROR=m", cwd=tmp_path, DATA_DIR="d")[1]
    assert f"mirror={tmp_path}/m data={tmp_path}/d " in line


def test_a_stale_pwd_does_not_mislead(ready):
    (line,) = ready.make("data", MIRROR="m", PWD="/somewhere/else")[1]
    assert f"mirror={ready.folder}/m " in line


@pytest.mark.parametrize("mirror", ["/a/folder", "https://example.org/archives", "file:///a"])
def test_absolute_folders_and_addresses_stay_as_they_are(ready, mirror):
    assert f"mirror={mirror} " in ready.make("data", f"MIRROR={mirror}")[1][0]


def test_evaluate_and_predict_run_where_the_caller_is(ready, tmp_path):
    (line,) = ready.make(
        "-C", "a checkout", "evaluate", "TEST=my test", "CHECKPOINT=a.keras", cwd=tmp_path
    )[1]
    expected = "-m midas_lib evaluate --test my test --checkpoint a.keras"
    assert line.startswith(f"[{expected}] in={tmp_path} ")
    (tmp_path / "one image.png").touch()
    (line,) = ready.make("-C", "a checkout", "predict", "IMG=one image.png", cwd=tmp_path)[1]
    assert line.startswith(f"[-m midas_lib predict one image.png] in={tmp_path} ")


@pytest.mark.parametrize("target", ["evaluate", "predict"])
def test_a_missing_path_is_asked_for(ready, target):
    done, log = ready.make(target)
    assert done.returncode == 2
    assert f"make {target} " in done.stderr
    assert log == []


def test_standard_output_is_the_commands_own(checkout):
    done, _ = checkout.make("evaluate", "TEST=x", "ARGS=--json")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


def test_clean_keeps_what_took_long_to_make(ready):
    kept = ["data/a.zip", "checkpoints/runs/a", "executed/part1.html", ".venv/requirements.cksum"]
    lost = ["executed/smoke/part1.html", "executed/failed/part1.html", ".pytest_cache/a"]
    for name in kept + lost:
        (ready.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (ready.folder / name).touch()
    for name in ("midas_lib", "tests", "notebooks"):
        (ready.folder / name / "__pycache__").mkdir(parents=True)
    assert ready.make("clean")[0].returncode == 0
    assert all((ready.folder / name).exists() for name in kept)
    assert not any((ready.folder / name).exists() for name in lost)
    assert not list(ready.folder.rglob("__pycache__"))
