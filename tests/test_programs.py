"""Programs that no test runs use names that exist: benchmarks, robustness, examples."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import pathlib

import pytest

from tests.robustness import mutate

_ROOT = pathlib.Path(__file__).parents[1]
_PROGRAMS = sorted(
    path
    for folder in ("benchmarks", "examples", "tests/robustness")
    for path in (_ROOT / folder).rglob("*.py")
)
_OURS = ("afad_tfdata", "bin", "tests")


def _imported(tree: ast.Module) -> dict[str, str]:
    """Our modules and names that a file imports, by the name that they have there."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                found[alias.asname or alias.name] = f"{node.module}.{alias.name}"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.asname:
                    found[alias.asname] = alias.name
    return {
        name: path for name, path in found.items() if path.partition(".")[0] in _OURS
    }


def _object(path: str):
    """A module, or a name in one; AttributeError or ImportError if there is none."""
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name != path and not path.startswith(f"{error.name}."):
            raise
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _missing(tree: ast.Module) -> list[str]:
    """Names of ours that a file uses and that do not exist."""
    missing, objects = [], {}
    for name, path in _imported(tree).items():
        try:
            objects[name] = _object(path)
        except (AttributeError, ImportError):
            missing.append(path)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            owner = objects.get(node.value.id)
            if type(owner) is type(ast) and not hasattr(owner, node.attr):
                missing.append(f"{owner.__name__}.{node.attr}")
    return missing


@pytest.mark.parametrize("path", _PROGRAMS, ids=lambda p: str(p.relative_to(_ROOT)))
def test_names_exist(path):
    assert not _missing(ast.parse(path.read_text()))


@pytest.mark.parametrize(
    ("source", "missing"),
    [
        ("from afad_tfdata.common import no_such", "afad_tfdata.common.no_such"),
        (
            "def f():\n    from afad_tfdata import trainer as t\n    t.no_such_name()",
            "afad_tfdata.trainer.no_such_name",
        ),
        ("from afad_tfdata.trainer import train", None),
    ],
)
def test_a_name_that_does_not_exist_is_found(source, missing):
    assert _missing(ast.parse(source)) == ([missing] if missing else [])


@pytest.mark.parametrize("module", mutate.MODULES)
def test_modules_of_the_mutations_have_their_tests(module):
    assert importlib.util.find_spec(f"afad_tfdata.{module}")
    name = module.rpartition(".")[2]
    tests = mutate.MODULES[module]
    assert all((_ROOT / "tests" / path).is_file() for path in tests)
    # The test file that mirrors the module must be among them.
    mirror = f"{module.replace('.', '/').removesuffix(name)}test_{name}.py"
    assert mirror in tests or not (_ROOT / "tests" / mirror).is_file()
