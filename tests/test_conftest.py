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


def test_another_way_to_sum_gradients_in_the_same_process_is_a_warning(
    replicas, caplog
):
    """Before, the flag had no effect, and nothing said so."""
    devices = f"cpu:{replicas.num_replicas_in_sync}"
    strategies.create_strategy(devices, all_reduce="auto")
    assert not caplog.records
    assert strategies.create_strategy(devices, all_reduce="one_device") is replicas
    (record,) = caplog.records
    assert "--all_reduce=one_device has no effect" in record.getMessage()
    assert "--all_reduce=auto" in record.getMessage()
