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
SETUP = """\
# In Google Colab alone: get this repository, and install the versions that it was tested with,
# except of what Colab's kernel runs on.
import os
import re
import sys

if "google.colab" in sys.modules:
    address = "https://github.com/{repository}"
    checkout = os.path.expanduser("~/{name}")
    ![ -d $checkout ] || git clone -q --depth 1 $address $checkout
    %cd -q $checkout/notebooks
    with open("../constraints.txt") as listed, open("colab-constraints.txt", "w") as kept:
        kept.writelines(line for line in listed if not re.match("{kernel}", line))
    %pip install -c colab-constraints.txt -e $checkout
    sys.path.insert(0, checkout)
    os.environ["PYTHONPATH"] = checkout
    print("Should Colab offer to restart the session, let it, and run this cell again.")"""


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
    name = repository.split("/")[1]
    setup = SETUP.format(repository=repository, name=name, kernel=KERNEL)
    content = nbformat.read(notebook, as_version=4)
    cells = [cell for cell in content.cells if TAG not in cell.metadata.get("tags", [])]
    added = {"metadata": {"tags": [TAG]}}
    content.cells = [
        nbformat.v4.new_markdown_cell(badge, id="colab-badge", **added),
        nbformat.v4.new_code_cell(setup, id="colab-setup", **added),
        *cells,
    ]
    nbformat.write(content, notebook)
