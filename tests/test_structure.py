"""Who may import what, and what a notebook may hold."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import papermill
import pytest

from midas_lib import config

PACKAGE = Path(config.__file__).parent
NOTEBOOKS = sorted((PACKAGE.parent / "notebooks").glob("*.ipynb"))

# The module table of the design: beside the standard library, a module imports only these.
# Wider than the design's: numpy, which is how modules hand arrays to each other; config, where
# settings are; corruptions, which spoils part 2's test pictures; tqdm for a download's progress
# bar; scikit-learn for data's stratified splits and audit's clusters; scipy for audit's tests;
# runs, of which the command line tells; pad, which gives a page's script a network; colab,
# which opens notebooks there; and for report what comes with nbconvert and papermill.
MAY_IMPORT = {
    "__init__": "",
    "config": "",
    "sources": "pooch tqdm numpy config standin",
    "standin": "numpy cv2 config",
    "data": "numpy cv2 sklearn config sources",
    "corruptions": "numpy cv2",
    "augment": "tensorflow keras numpy config",
    "model": "keras numpy config",
    "losses": "keras",
    "train": "keras tensorflow numpy config data augment model losses",
    "runs": "joblib distributed tqdm keras numpy config data train",
    "studies": "studies numpy model train runs data corruptions analysis audit probe config",
    "probe": "keras tensorflow numpy data train",
    "analysis": "numpy scipy sklearn",
    "audit": "numpy scipy sklearn analysis",
    "plots": "numpy matplotlib",
    "colab": "nbformat config",
    "pad": "numpy",
    "inference": "keras numpy data analysis audit sources model config",
    "report": "nbconvert papermill nbformat nbclient jupyter_client ipykernel IPython jinja2"
    " matplotlib numpy colab config",
    "__main__": "report runs sources inference colab config",
}
WITHOUT_TENSORFLOW = (
    "config",
    "sources",
    "standin",
    "data",
    "corruptions",
    "analysis",
    "audit",
    "pad",
    "plots",
    "report",
)


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


def test_imports_are_found_wherever_they_stand(tmp_path):
    path = tmp_path / "module.py"
    path.write_text(
        "import os, cv2.typing\nfrom midas_lib.config import ROOT\n"
        "def late():\n    from midas_lib import data, runs\n    import midas_lib.train\n"
    )
    assert imports(path) == {"cv2", "config", "data", "runs", "train"}


def test_tensorflow_stays_out_until_it_is_needed():
    modules = [name for name in WITHOUT_TENSORFLOW if (PACKAGE / f"{name}.py").exists()]
    code = (
        f"import sys, midas_lib, {', '.join(f'midas_lib.{name}' for name in modules)}\n"
        "print({'tensorflow', 'keras'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=PACKAGE.parent, stdout=subprocess.PIPE, check=True)
    assert done.stdout.split() == [b"set()"]


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
        runs = set() if notebook.stem.startswith("bench_") else {"seeds", "jobs", "fresh"}
        assert {"profile", "from_results"} | runs <= names
        assert all("#" in line for line in code(tagged[0]).splitlines() if line.strip())
        assert names == papermill.inspect_notebook(notebook).keys()

    def test_writes_its_results_last_so_that_a_failed_run_leaves_none(self, notebook):
        assert "report.write_results(" in code(cells(notebook)[-1])
        assert "report.write_results(" not in "\n".join(map(code, cells(notebook)[:-1]))
