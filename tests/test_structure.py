"""Who may import what, what a notebook may hold, and how much is committed."""

import ast
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import papermill
import pytest

from midas_lib import config

PACKAGE = Path(config.__file__).parent
ROOT = PACKAGE.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

# Beside the standard library, a module imports only these. The rows go from the ground up: a
# module may import those of earlier rows alone, so there are no circles.
MAY_IMPORT = {
    "__init__": "",
    "config": "",
    "files": "numpy config",
    "images": "numpy cv2 PIL config files",
    "corruptions": "numpy cv2",
    "standin": "numpy cv2 config files",
    "sources": "numpy pooch tqdm config files standin",
    "data": "numpy sklearn loky tqdm config files images sources",
    "analysis": "numpy pandas scipy sklearn",
    "audit": "numpy scipy sklearn analysis",
    "augment": "numpy tensorflow config",
    "model": "numpy keras config",
    "losses": "keras",
    "train": "numpy keras tensorflow config data augment model losses",
    "store": "numpy config files",
    "runs": "numpy keras loky distributed tqdm config files data train store",
    "probe": "numpy keras tensorflow data train",
    "network": "numpy h5py",
    "inference": "numpy keras config files images data analysis audit network",
    "plots": "numpy matplotlib PIL config",
    "pad": "numpy PIL network standin",
    "results": "numpy pandas config files analysis",
    "show": "numpy matplotlib IPython jinja2 nbconvert files pad plots results",
    "pages": "nbconvert papermill nbformat nbclient jupyter_client ipykernel"
    " config files results show",
    "studies": "numpy pandas keras config files images data corruptions analysis audit model train"
    " store runs probe inference results studies",
    "relabel": "numpy config data audit runs inference studies",
    "__main__": "config files sources store inference results pages relabel",
}
WITHOUT_TENSORFLOW = [
    row
    for row in MAY_IMPORT
    if row not in ("augment", "model", "losses", "train", "runs", "probe")
    and row not in ("studies", "__main__", "__init__")
]


def imports(path: Path) -> set[str]:
    """The packages a file imports anywhere in it; of this library, its modules' names."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: a relative import"
            names = [node.module]
            if node.module == "midas_lib":
                names = [f"midas_lib.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            package, _, rest = name.partition(".")
            found.add(rest.partition(".")[0] if package == "midas_lib" else package)
    return found - sys.stdlib_module_names


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.stem)
def test_a_module_imports_only_what_the_table_allows(path):
    row = path.relative_to(PACKAGE).with_suffix("").parts[0]
    assert row in MAY_IMPORT, f"{path.name} has no row in the table"
    assert imports(path) <= set(MAY_IMPORT[row].split())


def test_the_table_has_a_row_for_each_module_and_no_circles():
    assert MAY_IMPORT.keys() == {path.stem for path in PACKAGE.glob("*.py")} | {"studies"}
    rows = list(MAY_IMPORT)
    for place, (row, allowed) in enumerate(MAY_IMPORT.items()):
        later = set(rows[place:]) - {row if row == "studies" else ""}
        assert not later & set(allowed.split()), f"{row} may import a later row"


def test_nothing_uses_the_command_line_as_a_library():
    programs = [*PACKAGE.rglob("*.py"), *(ROOT / "bench").glob("*.py")]
    assert [path.name for path in programs if "__main__" in imports(path)] == []


def test_imports_are_found_wherever_they_stand(tmp_path):
    path = tmp_path / "module.py"
    path.write_text(
        "import os, cv2.typing\nfrom midas_lib.config import ROOT\n"
        "def late():\n    from midas_lib import data, runs\n    import midas_lib.train\n"
    )
    assert imports(path) == {"cv2", "config", "data", "runs", "train"}


def test_tensorflow_stays_out_until_it_is_needed():
    modules = ["midas_lib", *(f"midas_lib.{row}" for row in WITHOUT_TENSORFLOW)]
    code = (
        "import importlib, sys\n"
        f"for name in {modules}:\n"
        "    importlib.import_module(name)\n"
        "    assert not {'tensorflow', 'keras'} & set(sys.modules), name"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_is_installed_is_the_library_and_nothing_else():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    packages = {".".join(path.parent.relative_to(ROOT).parts) for path in PACKAGE.rglob("*.py")}
    assert set(declared["packages"]) == packages
    patterns = declared["package-data"]["midas_lib"]
    covered = {path for pattern in patterns for path in PACKAGE.glob(pattern.replace("**", "**/*"))}
    other = {path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix[:3] != ".py"}
    assert other <= covered


def test_nothing_large_is_committed():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    sizes = {path: path.stat().st_size for path in files if path.is_file()}
    limits = {".html": 8e6, ".keras": 2.5e6, ".npz": 2e6}
    large = [path for path, size in sizes.items() if size > limits.get(path.suffix, 5e5)]
    assert large == []
    assert sum(sizes.values()) < 40e6


def cells(notebook):
    return [c for c in json.loads(notebook.read_text())["cells"] if c["cell_type"] == "code"]


def code(cell):
    lines = "".join(cell["source"]).splitlines()
    return "\n".join("" if line.lstrip().startswith(("%", "!")) else line for line in lines)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
class TestNotebook:
    def test_defines_nothing_and_stays_short(self, notebook):
        for cell in cells(notebook):
            definitions = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda
            tree = ast.parse(code(cell))
            assert not [n for n in ast.walk(tree) if isinstance(n, definitions)], code(cell)
            assert len([line for line in code(cell).splitlines() if line.strip()]) <= 16, code(cell)

    def test_is_committed_without_outputs(self, notebook):
        for cell in cells(notebook):
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
        kernel = json.loads(notebook.read_text())["metadata"]["kernelspec"]
        assert (kernel["name"], kernel["language"]) == ("python3", "python")

    def test_has_one_parameters_cell_with_annotated_and_explained_values(self, notebook):
        tagged = [c for c in cells(notebook) if "parameters" in c["metadata"].get("tags", [])]
        assert len(tagged) == 1
        body = ast.parse(code(tagged[0])).body
        assert all(isinstance(statement, ast.AnnAssign) for statement in body)
        names = {statement.target.id for statement in body}
        # The bench's only draws: what is timed runs by itself, outside a kernel.
        bench = notebook.stem.startswith("bench_")
        assert {"profile"} | (set() if bench else {"seeds", "jobs", "fresh", "train"}) <= names
        assert all("#" in line for line in code(tagged[0]).splitlines() if line.strip())
        assert names == papermill.inspect_notebook(notebook).keys()

    def test_finishes_last_so_that_a_failed_run_has_no_finding(self, notebook):
        assert "show.finish(" in code(cells(notebook)[-1])
        assert "show.finish(" not in "\n".join(map(code, cells(notebook)[:-1]))
