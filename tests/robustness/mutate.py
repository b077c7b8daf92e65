"""Changes the package in one place at a time, and counts what the tests notice.

    python -m tests.robustness.mutate [--mutations=30] [--seed=1]
        [--modules=storage.sharding,metrics.prediction_metrics]

A mutation swaps a comparison or an operator, adds one to a number, negates a condition
or removes a statement.  The tests of the module then run in a process of their own,
which imports the changed source instead of the file; nothing on disk changes.
TensorFlow is imported once, before the forks.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib.abc
import importlib.util
import os
import pathlib
import random
import sys

import pytest
import tensorflow as tf  # noqa: F401 (Imported once, before the forks.)

from tests.robustness import forked

_ROOT = pathlib.Path(__file__).parents[2]
_LIMIT_SECS = 300
# Modules that compute or check, and the files with their tests.
MODULES = {
    "storage.sharding": ("storage/test_sharding.py",),
    "storage.image_keys": ("storage/test_image_keys.py",),
    "writing.duplicate_images": ("writing/test_duplicate_images.py",),
    "images.codec": (
        "images/test_codec.py",
        "robustness/test_fuzz.py",
        "robustness/test_hostile.py",
    ),
    "storage.schema": ("storage/test_schema.py", "robustness/test_fuzz.py"),
    "storage.tfrecord": ("storage/test_tfrecord.py", "robustness/test_fuzz.py"),
    "metrics.bootstrap": ("metrics/test_bootstrap.py",),
    "metrics.prediction_metrics": ("metrics/test_prediction_metrics.py",),
    "training.class_weights": ("training/test_class_weights.py",),
    "training.checkpoints": (
        "training/test_checkpoints.py",
        "robustness/test_fuzz.py",
    ),
    "training.history": ("training/test_history.py",),
    "common.options": ("common/test_options.py",),
    "common.files": ("common/test_files.py", "robustness/test_hostile.py"),
    "writing.age_folders": (
        "writing/test_age_folders.py",
        "writing/test_records.py",
        "robustness/test_hostile.py",
    ),
    "reading.order": ("reading/test_order.py",),
}
# Some mutations change nothing that could be seen, such as the size of a buffer.
LEAST_NOTICED = 25 / 30
_SWAPPED = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult,
    ast.Mod: ast.Mult,
    ast.And: ast.Or,
    ast.Or: ast.And,
}


def places(tree: ast.Module) -> list[tuple[ast.AST, str]]:
    """Nodes in functions that can be changed, and the kind of change."""
    found: list[tuple[ast.AST, str]] = []

    def look(node: ast.AST, inside: bool) -> None:
        inside = inside or isinstance(node, ast.FunctionDef)
        if isinstance(node, ast.Raise | ast.JoinedStr | ast.AnnAssign | ast.arguments):
            return  # Only texts and types, which no test needs to check.
        if inside:
            if isinstance(node, ast.Compare) and type(node.ops[0]) in _SWAPPED:
                found.append((node, "comparison"))
            elif isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in _SWAPPED:
                found.append((node, "operator"))
            elif isinstance(node, ast.Constant) and type(node.value) is int:
                found.append((node, "number"))
            elif isinstance(node, ast.If | ast.IfExp | ast.While):
                found.append((node, "condition"))
            elif isinstance(node, ast.Assign | ast.AugAssign | ast.Continue):
                found.append((node, "statement"))
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "decorator_list"):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    look(child, inside)

    look(tree, False)
    return found


def mutate(source: str, number: int) -> tuple[str, str]:
    """Changes one place.

    Args:
      source: Source of a module.
      number: Position in `places`.

    Returns:
      The changed source, and a text with the line and what was there.
    """
    tree = ast.parse(source)
    node, kind = places(tree)[number]
    before = ast.unparse(copy.deepcopy(node)).splitlines()[0]
    if isinstance(node, ast.Compare):
        node.ops[0] = _SWAPPED[type(node.ops[0])]()
    elif isinstance(node, ast.BinOp | ast.BoolOp):
        node.op = _SWAPPED[type(node.op)]()
    elif isinstance(node, ast.Constant):
        node.value += 1
    elif isinstance(node, ast.If | ast.IfExp | ast.While):
        node.test = ast.UnaryOp(ast.Not(), node.test)
    else:
        _replace(tree, node, ast.Pass())
    line = getattr(node, "lineno", 0)
    return ast.unparse(ast.fix_missing_locations(tree)), f"{line}: {kind} {before}"


def _replace(tree: ast.Module, old: ast.AST, new: ast.stmt) -> None:
    for node in ast.walk(tree):
        for _, value in ast.iter_fields(node):
            if isinstance(value, list) and old in value:
                value[value.index(old)] = new


def _path(module: str) -> pathlib.Path:
    return _ROOT.joinpath("afad_tfdata", *module.split(".")).with_suffix(".py")


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.SourceLoader):
    """Imports one module from another source than its file."""

    def __init__(self, name: str, path: str, source: str) -> None:
        self._name, self._path, self._source = name, path, source

    def find_spec(self, name, path=None, target=None):
        if name == self._name:
            return importlib.util.spec_from_loader(name, self, origin=self._path)
        return None

    def get_filename(self, name):
        return self._path

    def get_data(self, path):
        return self._source.encode()


def is_noticed(module: str, source: str) -> bool:
    """Whether a test fails with this source of a module, or does not end."""

    def work() -> int:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        path = str(_path(module))
        sys.meta_path.insert(0, _Finder(f"afad_tfdata.{module}", path, source))
        tests = [str(_ROOT / "tests" / name) for name in MODULES[module]]
        return int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests]))

    try:
        return forked.wait(forked.start(work), _LIMIT_SECS) != 0
    except TimeoutError:
        return True


def main() -> int:
    """Tries the mutations; 1 if too few of them are noticed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mutations", type=int, default=30, help="how many to try")
    parser.add_argument("--seed", type=int, default=1, help="decides which")
    parser.add_argument(
        "--modules", default=",".join(MODULES), help="modules, separated by commas"
    )
    options = parser.parse_args()
    rng = random.Random(options.seed)
    names = options.modules.split(",")
    sources = {n: _path(n).read_text() for n in names}
    for name in names:
        if is_noticed(name, sources[name]):
            print(f"{name}: its tests fail without any change")
            return 1
    noticed, survived = 0, []
    for number in range(options.mutations):
        name = names[number % len(names)]
        place = rng.randrange(len(places(ast.parse(sources[name]))))
        source, what = mutate(sources[name], place)
        if is_noticed(name, source):
            noticed += 1
        else:
            survived.append(f"{name}:{what}")
        print(f"{number} {name}:{what}: {len(survived)} survived", flush=True)
    print("\n".join(["", "not noticed:", *survived]))
    print(f"{noticed} of {options.mutations} mutations noticed, seed {options.seed}")
    return int(noticed < LEAST_NOTICED * options.mutations)


if __name__ == "__main__":
    sys.exit(main())
