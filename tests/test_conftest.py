"""A test process has one mirrored strategy, for fixtures and for runs."""

from __future__ import annotations

import ast
import pathlib

from afad_tfdata.training.distributed import strategies

_TESTS = pathlib.Path(__file__).parent


def test_a_run_gets_the_strategy_of_the_fixture(replicas):
    devices = f"cpu:{replicas.num_replicas_in_sync}"
    assert strategies.create_strategy(devices) is replicas


def test_no_test_creates_a_mirrored_strategy():
    """A second one would reuse the collective keys of the first."""
    for path in _TESTS.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func).rpartition(".")[2]
                assert name != "MirroredStrategy", f"{path}:{node.lineno}"
