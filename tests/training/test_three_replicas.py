"""Three logical devices equal one: the tests of two, in a process with three.

A process has one set of logical devices, created before TensorFlow starts, and supports
one mirrored strategy.
"""

import os
import pathlib
import subprocess
import sys

from tests import conftest

_ROOT = str(pathlib.Path(__file__).parents[2])
# Each optimizer, class weights, clipping, accumulation, averaging; an overflow on each
# replica in turn; a partial last batch; a whole run that moves from one device.
_TESTS = {
    "tests/training/test_step.py": (
        "test_replicas_equal_one[rmsprop]",
        "test_replicas_equal_one[adam-0.9-0.5]",
        "test_replicas_equal_one[adamw-2]",
        "test_replicas_equal_one[adamw-False]",
        "test_replicas_equal_one[sgd-True-0.5]",
        "test_gradients_of_a_step_are_those_of_one_replica[options1]",
        "test_overflow_on_one_replica_skips_the_step_on_all",
        "test_calls_divide_steps_without_a_trace",
        "test_evaluation_counts_every_example_once[13]",
    ),
    "tests/training/test_resume.py": (
        "test_a_run_continues_on_another_number_of_replicas",
    ),
}


def test_three_replicas_equal_one():
    names = [f"{file}::{name}" for file, found in _TESTS.items() for name in found]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *names],
        cwd=_ROOT,
        env={**os.environ, conftest.DEVICES_VARIABLE: "3"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout
