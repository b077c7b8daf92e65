"""Runs the programs in bin/ as a shell does, each in a process of its own."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]
BIN = ROOT / "bin"


def run(name: str, *flags: str, **kwargs) -> subprocess.CompletedProcess:
    """Runs a program without a GPU; further arguments go to `subprocess.run`."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name != "TF_CPP_MIN_LOG_LEVEL"  # The commands set their own.
    }
    return subprocess.run(
        [sys.executable, str(BIN / f"{name}.py"), *flags],
        capture_output=True,
        text=True,
        env={**environment, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "-1"},
        **kwargs,
    )


def assert_one_line(
    result: subprocess.CompletedProcess, status: int, *words: str
) -> None:
    """Asserts that a program ended with this status, and one line with these words."""
    assert result.returncode == status, result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("afad-")
    for word in words:
        assert word in lines[0], lines[0]
    assert result.stdout == ""
