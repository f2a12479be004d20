"""The badge, and the cell behind it, run against a local repository in GitHub's place."""

import ast
import os
import shutil
import subprocess
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from midas_lib import colab, config, pages
from midas_lib.__main__ import main
from midas_lib.config import UserError

NAME = "someone/handwriting"
NOTEBOOK = config.ROOT / "notebooks" / "part1_characters.ipynb"


@pytest.fixture
def notebook(tmp_path):
    return Path(shutil.copy(NOTEBOOK, tmp_path))


def git(*arguments, cwd):
    author = ["-c", "user.name=someone", "-c", "user.email=someone@example.org"]
    subprocess.run(["git", *author, *arguments], cwd=cwd, check=True, capture_output=True)


def test_the_badge_leads_to_the_notebook_on_github_and_all_else_stays(notebook):
    before = nbformat.read(NOTEBOOK, as_version=4)
    colab.add_badge(notebook, NAME)
    after = nbformat.read(notebook, as_version=4)
    assert after.cells[2:] == before.cells
    assert (
        "(https://colab.research.google.com/github/someone/handwriting/blob/main/notebooks/"
        "part1_characters.ipynb)"
    ) in after.cells[0].source


def test_a_badge_takes_an_earlier_ones_place(notebook):
    colab.add_badge(notebook, NAME)
    once = notebook.read_bytes()
    colab.add_badge(notebook, "other/name")
    assert b"someone" not in notebook.read_bytes()
    colab.add_badge(notebook, NAME)
    assert notebook.read_bytes() == once


@pytest.mark.parametrize("name", ["someone", "https://github.com/a/b", "a/b/c", "a/b c", ""])
def test_what_is_no_repositorys_name_is_refused_and_nothing_changed(notebook, name):
    with pytest.raises(UserError, match="give owner/name"):
        colab.add_badge(notebook, name)
    assert notebook.read_bytes() == NOTEBOOK.read_bytes()


@pytest.mark.parametrize(
    "remote",
    [
        "https://github.com/someone/handwriting",
        "https://github.com/someone/handwriting.git",
        "git@github.com:someone/handwriting.git",
        "ssh://git@github.com/someone/handwriting/",
    ],
)
def test_the_name_is_the_remotes(remote, tmp_path, monkeypatch):
    git("init", cwd=tmp_path)
    git("remote", "add", "origin", remote, cwd=tmp_path)
    monkeypatch.setattr(config, "ROOT", tmp_path)
    assert colab.repository() == NAME


@pytest.mark.parametrize("remote", [None, "/srv/somewhere", "https://example.org/someone/it"])
def test_without_a_remote_on_github_it_asks_for_the_name(remote, tmp_path, monkeypatch, capsys):
    git("init", cwd=tmp_path)
    if remote:
        git("remote", "add", "origin", remote, cwd=tmp_path)
    (tmp_path / "notebooks").mkdir()
    monkeypatch.setattr(config, "ROOT", tmp_path)
    assert main(["badges"]) == 2
    assert "say REPOSITORY=owner/name" in capsys.readouterr().err


def test_a_page_shows_neither(notebook):
    colab.add_badge(notebook, NAME)
    text = pages._render(nbformat.read(notebook, as_version=4))
    assert text == pages._render(nbformat.read(NOTEBOOK, as_version=4))
    assert "colab" not in text.lower()


def added(notebook):
    colab.add_badge(notebook, NAME)
    return nbformat.read(notebook, as_version=4).cells[1]


def test_elsewhere_the_cell_does_nothing(notebook):
    source = added(notebook).source
    shell = [line for line in source.splitlines() if line.lstrip().startswith(("!", "%"))]
    assert len(shell) == 3
    assert all(line.startswith("    ") for line in shell)  # below the condition
    body = ast.parse("\n".join(line for line in source.splitlines() if line not in shell)).body
    assert [type(statement) for statement in body] == [ast.Import, ast.Import, ast.Import, ast.If]


def test_in_colab_the_cell_gets_the_library_and_what_it_requires(notebook, tmp_path, monkeypatch):
    pushed = tmp_path / "github" / NAME
    shutil.copytree(config.ROOT / "midas_lib", pushed / "midas_lib")
    (pushed / "notebooks").mkdir()
    shutil.copy(NOTEBOOK, pushed / "notebooks")
    shutil.copy(config.ROOT / "constraints.txt", pushed)
    git("init", "--initial-branch", "main", cwd=pushed)
    git("add", ".", cwd=pushed)
    git("commit", "-m", "pushed", cwd=pushed)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.{(tmp_path / 'github').as_uri()}/.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "https://github.com/")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    os.mkdir(tmp_path / "home")
    pretend = (  # and pip only says what it was asked, so that this environment stays as it is
        "import sys, types; sys.modules['google.colab'] = types.ModuleType('google.colab')\n"
        "get_ipython().register_magic_function(lambda line: print('pip', line), magic_name='pip')"
    )
    found = (
        "import subprocess, midas_lib; print(os.getcwd(), midas_lib.__file__,"
        " subprocess.check_output([sys.executable, '-c', 'import midas_lib as m; print(m.__file__)'"
        "], cwd='/', text=True), sep='\\n')"
    )
    cells = [nbformat.v4.new_code_cell(pretend), added(notebook), nbformat.v4.new_code_cell(found)]
    run = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(run, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    checkout = tmp_path / "home" / "handwriting"
    library = str(checkout / "midas_lib" / "__init__.py")
    folder, ours, workers = run.cells[2].outputs[0].text.split()
    assert (folder, ours, workers) == (str(checkout / "notebooks"), library, library)
    asked = f"pip install -c colab-constraints.txt -e {checkout}\n"
    assert run.cells[1].outputs[0].text.startswith(asked)
    kept = (checkout / "notebooks" / "colab-constraints.txt").read_text().split("\n")
    left_out = set((config.ROOT / "constraints.txt").read_text().split("\n")) - set(kept)
    assert {"ipykernel", "ipython", "pyzmq", "tornado"} <= {pin.split("==")[0] for pin in left_out}
