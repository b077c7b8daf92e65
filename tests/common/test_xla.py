"""A trial of XLA runs in a process of its own, and may abort only that."""

from __future__ import annotations

import sys

import pytest

from afad_tfdata.common import xla
from afad_tfdata.images import augmentation

_ABORTS = """
import os, sys
print("I0000 00:00:1.2 1 service.cc:1] XLA service initialized", file=sys.stderr)
print("F0000 00:00:1.2 1 gpu.cc:1] no code for sm_120", file=sys.stderr)
print("*** Check failure stack trace: ***", file=sys.stderr, flush=True)
os.abort()
"""


@pytest.fixture
def gpu(monkeypatch):
    """Sets the program that the trial on a GPU runs instead of its own."""
    monkeypatch.setattr(xla, "_gpu_to_try", lambda: "/physical_device:GPU:0")
    started = []

    def use(program: str) -> list[str]:
        def command(name: str) -> list[str]:
            started.append(name)
            return [sys.executable, "-c", program]

        monkeypatch.setattr(xla, "_trial_command", command)
        return started

    xla.why_not.cache_clear()
    yield use
    xla.why_not.cache_clear()


def test_a_trial_that_aborts_means_no_xla(gpu):
    started = gpu(_ABORTS)
    reason = xla.why_not()
    assert reason.startswith("XLA aborts the process: F0000")
    assert "no code for sm_120" in reason and "\n" not in reason
    assert augmentation.resolve_form(augmentation.AugmentConfig()) == "affine_op"
    assert len(started) == 1  # Once per process: it takes seconds.


def test_a_trial_that_works_is_believed(gpu, monkeypatch):
    gpu("")
    monkeypatch.setattr(xla, "_try_here", lambda: "not asked")
    assert xla.why_not() == ""


def test_a_trial_that_could_not_run_is_repeated_here(gpu, monkeypatch):
    """Such as on a GPU that one process at a time may open."""
    gpu("raise SystemExit(1)")
    monkeypatch.setattr(xla, "_try_here", lambda: "no ptxas")
    assert xla.why_not() == "no ptxas"


def test_without_a_gpu_no_process_is_started(monkeypatch):
    monkeypatch.setattr(xla, "_try_in_child", lambda command: pytest.fail("started"))
    xla.why_not.cache_clear()
    assert xla.why_not() == ""


def test_the_real_child_says_when_its_gpu_is_missing():
    assert xla._try_in_child(xla._trial_command("/physical_device:GPU:7")) is None
