"""The notebook is stored without results, uses public names only, and runs.

``make notebook`` runs it, in CI, too.
"""

from __future__ import annotations

import ast
import json
import pathlib
import re

import pytest

from tests.docs import test_docs

_PATH = pathlib.Path(__file__).parents[2] / "examples" / "first_steps.ipynb"
_CELLS = json.loads(_PATH.read_text())["cells"]
_CODE = ["".join(c["source"]) for c in _CELLS if c["cell_type"] == "code"]


def test_it_has_no_results():
    assert len(_CODE) >= 8
    for cell in _CELLS:
        assert cell["metadata"] == {}
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
    metadata = json.loads(_PATH.read_text())["metadata"]
    # Neither the name of an environment nor the version of its Python.
    assert metadata["kernelspec"]["display_name"] == "Python 3"
    assert metadata["language_info"] == {"name": "python"}


def test_it_has_no_paths_of_a_machine():
    for cell in _CELLS:
        text = "".join(cell["source"])
        assert not re.search(r"(?<![\w.])(~|[A-Z]:\\|/\w+/)", text), text


def test_it_uses_public_names():
    used = set()
    for code in _CODE:
        ast.parse(code)
        test_docs.check_public_names(code)
        used |= set(re.findall(r"from afad_tfdata import (\w+)", code))
    assert used >= {"records", "input_fn", "trainer", "evaluation", "report"}


@pytest.mark.slow
def test_it_runs(tmp_path, monkeypatch):
    """From top to bottom, in a folder of its own and a kernel of this environment."""
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    notebook = nbformat.read(_PATH, as_version=4)
    nbformat.validate(notebook)
    client = nbclient.NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=600,  # Seconds for a cell, on a machine with other work.
        resources={"metadata": {"path": str(tmp_path)}},
    )
    client.execute()
    printed = "".join(
        output.get("text", "") for cell in notebook.cells for output in _outputs(cell)
    )
    found = re.findall(r"^(\w+): ([\d.]+) \[.*\], constant ([\d.]+)$", printed, re.M)
    values = {name: (float(a), float(b)) for name, a, b in found}
    accuracy, constant = values["accuracy"]
    assert accuracy > constant + 0.2
    mae, constant = values["mae"]
    assert mae < constant - 0.5
    pictures = [o for c in notebook.cells for o in _outputs(c) if _is_picture(o)]
    assert len(pictures) == 3
    assert "<html" in (tmp_path / "first_steps/run/report.html").read_text()


def _outputs(cell) -> list:
    return cell.get("outputs", [])


def _is_picture(output) -> bool:
    return "image/png" in output.get("data", {})
