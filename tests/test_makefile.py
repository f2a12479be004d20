"""The Makefile, in a checkout whose Python is a script that writes down how it was called."""

import os
import re
import shutil
import stat
import subprocess
import time
from pathlib import Path

import pytest

from midas_lib import config

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ("requirements.txt", "constraints.txt", "pyproject.toml")
PYTHON = r"""#!/bin/sh
case "$*" in
  *"import ensurepip"*) exit 0 ;;
  "--version") echo "Python 3.12.0"; exit 0 ;;
  "-m venv .venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
  "-m pip --version") exit 0 ;;
  "-c "*) exit 0 ;;
esac
told=$(tr '\000' '\n' 2>/dev/null < /proc/$$/environ | sed -n 's/^PWD=//p')
echo "[$*] in=$PWD told=$told mirror=$MIRROR data=$DATA_DIR path=$PYTHONPATH" >> "$LOG"
[ -z "$FAIL" ] || case "$*" in "$FAIL"*) exit 1 ;; esac
"""
pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="needs make")


class Checkout:
    """A folder with the Makefile, and the log of what it ran."""

    def __init__(self, folder: Path):
        self.folder = folder / "a checkout"
        self.folder.mkdir()
        for name in ("Makefile", *REQUIREMENTS):
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
    for name in REQUIREMENTS:
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
    assert line.startswith(f"[-P -m midas_lib {expected}")
    assert "[-P -m midas_lib report --profile standard]" in ready.make("reports", "FRESH=0")[1][0]


def test_the_bench_is_the_full_one_unless_a_profile_is_named(ready):
    assert ready.make("bench")[1][0].startswith("[-m bench] ")
    line = ready.make("bench", "SEEDS=3", "ARGS=race", PROFILE="smoke")[1][0]
    assert line.startswith("[-m bench --profile smoke --repeats 3 race] ")


def test_an_environment_that_two_checkouts_share_has_the_library_of_the_last_one(ready, tmp_path):
    (ready.folder / ".venv").rename(tmp_path / "shared")
    (tmp_path / "second").mkdir()
    second = Checkout(tmp_path / "second")
    for checkout in (ready, second):
        (checkout.folder / ".venv").symlink_to(tmp_path / "shared")
    assert [installs(checkout.make("env")[1]) for checkout in (ready, second, second, ready)] == [
        0, 1, 0, 1,
    ]  # fmt: skip


def test_the_library_is_installed_not_put_on_a_path(ready):
    assert ready.make("evaluate", "TEST=a")[1][0].endswith(" path=")
    # In Jupyter the bench's notebook imports what is installed nowhere.
    assert ready.make("lab")[1][0].endswith(f" path={ready.folder}")
    assert "-e ." in (ROOT / "requirements.txt").read_text()


def test_tests_run_side_by_side_and_take_arguments(ready):
    (line,) = ready.make("test", "ARGS=tests/test_a.py -k 'b or c'")[1]
    expected = "-n auto --dist loadscope --no-loadscope-reorder tests/test_a.py -k b or c"
    assert line.startswith(f"[-m pytest {expected}] ")


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="a shell hides it elsewhere")
def test_every_command_is_told_the_callers_folder(ready, tmp_path):
    (tmp_path / "one image.png").touch()
    commands = {
        "data": "-P -m midas_lib fetch --profile standard",
        "part2": "-P -m midas_lib report --profile standard 2",
        "bench": "-m bench",
        "lab": "-m jupyterlab --notebook-dir=notebooks",
        "evaluate": "-P -m midas_lib evaluate --test=my test --checkpoint=a.keras",
        "audit": "-P -m midas_lib audit -- d.zip",
        "relabel": "-P -m midas_lib relabel --csv=my labels.csv -- d.zip",
        "predict": "-P -m midas_lib predict --checkpoint=a.keras -- one image.png",
    }
    options = ["TEST=my test", "CHECKPOINT=a.keras", "IMG=one image.png", "DIR=d.zip", "MIRROR=m"]
    options.append("CSV=my labels.csv")
    for target, command in commands.items():
        (line,) = ready.make("-C", "a checkout", target, *options, cwd=tmp_path, DATA_DIR="d")[1]
        path = ready.folder if target == "lab" else ""
        expected = f"in={ready.folder} told={tmp_path} mirror=m data=d path={path}"
        assert line == f"[{command}] {expected}"


def test_a_path_counts_from_the_callers_folder_unless_it_is_here_alone(tmp_path, monkeypatch):
    for folder, names in {"caller": ["a", "both"], "here": ["b", "both"]}.items():
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).touch()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("PWD", str(tmp_path / "caller"))
    assert config.from_caller("a") == Path("a")  # not started by make: PWD does not count
    monkeypatch.setenv("MAKELEVEL", "1")
    assert config.from_caller("a") == tmp_path / "caller" / "a"
    assert config.from_caller("both") == tmp_path / "caller" / "both"
    assert config.from_caller("new") == tmp_path / "caller" / "new"
    assert config.from_caller("b") == Path("b")
    assert config.from_caller("/absolute") == Path("/absolute")
    monkeypatch.setenv("MIRROR", "a")
    assert config.mirror() == str(tmp_path / "caller" / "a")
    monkeypatch.setenv("MIRROR", "https://example.org/a")
    assert config.mirror() == "https://example.org/a"
    monkeypatch.setenv("DATA_DIR", "a")
    assert config.data_dir() == tmp_path / "caller" / "a"


def test_several_images_may_be_named_and_found_by_a_pattern(ready, tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).touch()
    (line,) = ready.make("-C", "a checkout", "predict", "IMG=*.png c.jpg", cwd=tmp_path)[1]
    assert line.startswith("[-P -m midas_lib predict -- a.png b.png c.jpg] ")


def test_a_network_is_asked_for_by_name(ready):
    (line,) = ready.make("evaluate", "TEST=x", "NETWORK=digits")[1]
    assert line.startswith("[-P -m midas_lib evaluate --test=x --network=digits] ")


def test_what_is_given_is_no_command_and_stays_as_it_was_typed(ready, tmp_path):
    hack = f"1; touch {tmp_path}/hack $(touch {tmp_path}/hack) `touch {tmp_path}/hack` \"'"
    for name in ("PROFILE", "SEEDS", "JOBS"):
        (line,) = ready.make("part1", f"{name}={hack}")[1]
        assert f"--{name.lower()} {hack}" in line
    for target, name, option in (
        ("evaluate", "TEST", "--test="),
        ("audit", "DIR", "-- "), ("predict", "IMG", "-- "), ("relabel", "DIR", "-- "),
    ):  # fmt: skip
        value = "a$b $(shell touch hack) ${HOME}.png"
        (tmp_path / value).touch()
        given = target, "CSV=a.csv", f"{name}={value}"
        (line,) = ready.make("-C", str(ready.folder), *given, cwd=tmp_path)[1]
        assert f"{option}{value}]" in line
    assert not (tmp_path / "hack").exists()


def test_it_makes_nothing_in_another_folder(checkout, tmp_path):
    done, log = checkout.make("-f", str(checkout.folder / "Makefile"), "env", cwd=tmp_path)
    assert (done.returncode, log) == (2, [])
    assert "name that with make -C" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_what_ends_make_ends_the_command(checkout, tmp_path):
    ready, told = checkout, tmp_path / "pid"
    ready.make("env")
    python = ready.folder / ".venv" / "bin" / "python"
    python.write_text(PYTHON + f'case "$*" in *report*) echo $$ > {told}; exec sleep 60 ;; esac\n')
    environment = {"PATH": os.environ["PATH"], "LOG": str(ready.log)}
    process = subprocess.Popen(
        ["make", "part1"], cwd=ready.folder, env=environment, stderr=subprocess.DEVNULL
    )
    while not (told.exists() and told.read_text().endswith("\n")):
        assert process.poll() is None
        time.sleep(0.02)
    process.terminate()
    process.wait(10)
    for _ in range(100):  # it is gone, or no longer runs
        if not Path(f"/proc/{int(told.read_text())}").exists():
            return
        time.sleep(0.05)
    pytest.fail("the command goes on")


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
