"""Changes one place of the package at a time, and counts which changes tests notice.

    python -m tests.robustness.mutate [--mutations=30] [--seed=1]
        [--modules=storage.sharding,training.metrics]

A mutation swaps a comparison or an operator, moves a number by one, turns a condition
round, or drops a statement. The tests that belong to the module run in a process of
their own, with the changed module in the place of the real one; the file on disk stays
as it is. TensorFlow is imported once, before.
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
import signal
import sys
import time

os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pytest
import tensorflow as tf  # noqa: F401

_ROOT = pathlib.Path(__file__).parents[2]
_LIMIT_SECS = 300
# Modules that compute, and the tests that belong to them.
MODULES = {
    "storage.sharding": ("storage/test_sharding.py",),
    "writing.duplicate_images": ("writing/test_duplicate_images.py",),
    "images.codec": (
        "images/test_codec.py",
        "robustness/test_fuzz.py",
        "robustness/test_hostile.py",
    ),
    "storage.schema": ("storage/test_schema.py", "robustness/test_fuzz.py"),
    "storage.tfrecord": ("storage/test_tfrecord.py", "robustness/test_fuzz.py"),
    "training.metrics": ("training/test_metrics.py",),
    "training.class_weights": ("training/test_class_weights.py",),
    "training.checkpoints": (
        "training/test_checkpoints.py",
        "robustness/test_fuzz.py",
    ),
    "training.history": ("training/test_history.py",),
    "common.options": ("common/test_options.py",),
    "common.files": ("common/test_files.py", "robustness/test_hostile.py"),
    "writing.source": ("writing/test_records.py", "robustness/test_hostile.py"),
    "reading.order": ("reading/test_order.py",),
}
NOTICED = 25 / 30
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
    """Nodes inside of functions that can be changed, and how."""
    found: list[tuple[ast.AST, str]] = []

    def look(node: ast.AST, inside: bool) -> None:
        inside = inside or isinstance(node, ast.FunctionDef)
        if isinstance(node, ast.Raise | ast.JoinedStr | ast.AnnAssign | ast.arguments):
            return  # Texts and types.
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
    """The source with the place of this number changed, and what was changed."""
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
    """Gives one module another source."""

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
    """Whether a test fails, or does not come to an end."""
    pid = os.fork()
    if pid:
        deadline = time.monotonic() + _LIMIT_SECS
        while time.monotonic() < deadline:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                return status != 0
            time.sleep(0.05)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return True
    status = 1
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        path = str(_path(module))
        sys.meta_path.insert(0, _Finder(f"afad_tfdata.{module}", path, source))
        tests = [str(_ROOT / "tests" / name) for name in MODULES[module]]
        status = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests]))
    finally:
        os._exit(status)


def main() -> int:
    parser = argparse.ArgumentParser(description="Do the tests notice changes?")
    parser.add_argument("--mutations", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--modules", default=",".join(MODULES))
    options = parser.parse_args()
    rng = random.Random(options.seed)
    names = options.modules.split(",")
    sources = {n: _path(n).read_text() for n in names}
    for name in names:
        if is_noticed(name, sources[name]):
            print(f"{name}: its tests fail as it is")
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
    return int(noticed < NOTICED * options.mutations)


if __name__ == "__main__":
    sys.exit(main())
