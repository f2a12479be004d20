"""The badge that opens a notebook in Google Colab, and the cell that makes it run there."""

import re
import subprocess
from pathlib import Path

import nbformat

from midas_lib import config
from midas_lib.config import UserError

TAG = "colab"  # of the cells that are put in; pages leave them out
SITE = "https://colab.research.google.com"
# What Colab's kernel itself runs on: with other versions its session crashes
# (https://github.com/googlecolab/colabtools/issues/1110).
KERNEL = "ipykernel|ipython|jupyter|prompt|pyzmq|tornado"
SETUP = (Path(__file__).parent / "templates" / "colab.txt").read_text()


def repository() -> str:
    """The owner/name of this checkout's remote "origin". Raises `UserError` unless that is on
    GitHub."""
    git = ["git", "-C", str(config.ROOT), "remote", "get-url", "origin"]
    try:
        address = subprocess.check_output(git, text=True, stderr=subprocess.DEVNULL).strip()
    except (OSError, subprocess.CalledProcessError):
        address = ""
    found = re.search(r"\bgithub\.com[:/]([\w.-]+/[\w.-]+?)(\.git)?/?$", address)
    if not found:
        raise UserError("this checkout has no remote origin on GitHub: say REPOSITORY=owner/name")
    return found[1]


def add_badge(notebook: Path, repository: str) -> None:
    """Put a badge and the cell that sets Colab up before everything else in a notebook, in place of
    those it may have. repository: owner/name on GitHub, whose branch main Colab opens. Raises
    `UserError` when that is no such name."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise UserError(f"REPOSITORY={repository}: give owner/name, as GitHub spells it")
    address = f"{SITE}/github/{repository}/blob/main/notebooks/{notebook.name}"
    badge = f"[![Open in Colab]({SITE}/assets/colab-badge.svg)]({address})"
    values = {"repository": repository, "name": repository.split("/")[1], "kernel": KERNEL}
    content = nbformat.read(notebook, as_version=4)
    cells = [cell for cell in content.cells if TAG not in cell.metadata.get("tags", [])]
    added = {"metadata": {"tags": [TAG]}}
    top = nbformat.v4.new_markdown_cell(badge, id="colab-badge", **added)
    setup = nbformat.v4.new_code_cell(SETUP.format(**values), id="colab-setup", **added)
    content.cells = [top, setup, *cells]
    nbformat.write(content, notebook)
