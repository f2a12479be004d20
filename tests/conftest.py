"""What several test files need: the stand-in archives of the smoke profile, drawn once."""

import signal

import pytest

# A shell makes what it starts in the background ignore Ctrl-C, and so would what tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def standin_folder(tmp_path_factory):
    """A data folder to be used with STANDIN=1; tests may add to it, not change it."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def standin(standin_folder, monkeypatch):
    """The library reads stand-in data, and nothing outside a temporary folder."""
    monkeypatch.setenv("DATA_DIR", str(standin_folder))
    monkeypatch.setenv("STANDIN", "1")
    monkeypatch.delenv("MIRROR", raising=False)
    return standin_folder
