"""What several test files need: the user's settings kept out, the stand-in archives drawn once."""

import os
import signal
import tempfile

import pytest

# A shell makes what it starts in the background ignore Ctrl-C, and so would what tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Files with the longest tests: they begin first, so that no core waits for one at the end.
LONGEST = ("test_notebooks", "test_browser", "test_faults", "test_runs", "test_fuzz", "test_train")


def pytest_configure(config):
    """No setting of the user's counts: settings are looked for in an empty folder, which takes
    what libraries keep between runs. Workers of pytest-xdist inherit that of the process that
    started them."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        return
    home = tempfile.TemporaryDirectory()
    config.add_cleanup(home.cleanup)
    users = ("MPL", "MATPLOTLIB", "KERAS", "JUPYTER", "IPYTHON", "XDG_", "PYTHONPATH")
    ours = (
        "PROFILE",
        "SEEDS",
        "JOBS",
        "FRESH",
        "DATA_DIR",
        "STANDIN",
        "SCHEDULER",
        "MAKE",
        "MFLAGS",
    )
    for name in [name for name in os.environ if name.startswith((*users, *ours))]:
        del os.environ[name]
    os.environ["HOME"] = home.name
    # Tests run on all cores as it is; libraries that take them all too only wait for each other.
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers():
    """Cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count()


def pytest_collection_modifyitems(items):
    """The longest files first; the tests of a file, or of a class, run on one core."""

    def place(item):
        return LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST)

    items.sort(key=place)


@pytest.fixture(scope="session")
def standin_folder(tmp_path_factory):
    """A data folder to be used with STANDIN=1, the same for all workers; tests may add to it, not
    change it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "standin"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture
def standin(standin_folder, monkeypatch):
    """The library reads stand-in data, and nothing outside a temporary folder."""
    monkeypatch.setenv("DATA_DIR", str(standin_folder))
    monkeypatch.setenv("STANDIN", "1")
    monkeypatch.delenv("MIRROR", raising=False)
    return standin_folder


@pytest.fixture
def runner(monkeypatch, tmp_path):
    """A checkout without results, in which nothing is trained: what is asked for is remembered."""
    from fakes import Runner

    from midas_lib import config, runs

    monkeypatch.setattr(config, "ROOT", tmp_path)
    monkeypatch.setattr(config, "RUNS", tmp_path / "checkpoints" / "runs")
    found = Runner()
    monkeypatch.setattr(runs, "run_all", found)
    return found
