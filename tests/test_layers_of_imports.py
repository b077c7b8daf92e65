"""Imports point one way, and only the commands know absl."""

from __future__ import annotations

import ast
import pathlib

import pytest

import afad_tfdata

_PACKAGE = pathlib.Path(afad_tfdata.__file__).parent
_HEAVY = {"tensorflow", "keras", "matplotlib", "h5py", "cv2", "simplejpeg", "absl"}
# A module here may import those before it, and not those after it.
_ORDER = (
    ("schema", "sharding", "options", "files", "errors"),
    ("records", "preprocess", "augment", "models", "losses"),
    ("input_fn",),
    ("trainer", "freeze"),
)


def _imports(path: pathlib.Path, *, nested: bool) -> set[str]:
    """Modules that a file imports: ours without the package's name."""
    tree = ast.parse(path.read_text())
    nodes = ast.walk(tree) if nested else tree.body
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "afad_tfdata":
                found |= {alias.name for alias in node.names}
            elif node.module.startswith("afad_tfdata."):
                found.add(node.module.split(".")[1])
            else:
                found.add(node.module.partition(".")[0])
    return found


def _all() -> dict[str, set[str]]:
    return {p.stem: _imports(p, nested=True) for p in sorted(_PACKAGE.glob("*.py"))}


def _reach(module: str, graph: dict[str, set[str]]) -> set[str]:
    """Everything that a module imports, directly or not."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        for name in graph.get(waiting.pop(), ()):
            if name in graph and name not in seen:
                seen.add(name)
                waiting.append(name)
    return seen


def test_no_module_imports_itself_in_a_circle():
    graph = _all()
    for module in graph:
        assert module not in _reach(module, graph), module


def test_the_order_of_the_layers():
    graph = _all()
    for rank, layer in enumerate(_ORDER):
        later = {name for names in _ORDER[rank + 1 :] for name in names}
        for module in layer:
            assert not _reach(module, graph) & later, module


def test_freeze_and_prediction_do_not_know_the_trainer():
    graph = _all()
    for module in ("freeze", "prediction", "verification", "input_fn"):
        assert "trainer" not in _reach(module, graph)


def test_only_the_commands_know_absl():
    for module, imports in _all().items():
        assert not imports & {"absl", "bin"}, module


@pytest.mark.parametrize("path", sorted(_PACKAGE.glob("*.py")), ids=lambda p: p.stem)
def test_importing_a_module_loads_nothing_heavy(path):
    # layers.py subclasses Keras layers; it is imported inside of functions only.
    if path.stem in ("layers", "_lazy"):
        pytest.skip("holds Keras classes")
    assert not _imports(path, nested=False) & (_HEAVY | {"layers"})


def test_modules_are_of_a_size_to_be_read():
    for path in _PACKAGE.glob("*.py"):
        assert len(path.read_text().splitlines()) <= 600, path.name
