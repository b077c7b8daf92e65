"""Signals become requests, from the moment a command starts."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys

import pytest

from afad_tfdata.common import preemption


@pytest.fixture
def handlers():
    """The default handlers, whatever the test run inherited, as under nohup."""
    before = {
        number: signal.signal(number, signal.SIG_DFL) for number in preemption.SIGNALS
    }
    preemption.clear()
    yield
    preemption.clear()
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_a_signal_is_a_request(number, handlers):
    preemption.install()
    assert not preemption.requested()
    os.kill(os.getpid(), number)
    assert preemption.requested()
    assert preemption.reason() == number.name


def test_a_process_under_nohup_still_ignores_the_end_of_its_terminal(handlers):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    preemption.install()
    os.kill(os.getpid(), signal.SIGHUP)
    assert not preemption.requested()


def test_the_end_of_the_terminal_ends_a_block_that_has_nothing_to_save(handlers):
    preemption.install()
    with preemption.ended_by_hangup():
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
    os.kill(os.getpid(), signal.SIGHUP)
    assert preemption.requested()


def test_no_block_changes_what_nohup_has_set(handlers):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    preemption.install()
    with preemption.ended_by_hangup():
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_a_handler_that_native_code_replaced_is_installed_again(handlers):
    preemption.install()
    libc = ctypes.CDLL(None)
    libc.signal(int(signal.SIGTERM), 1)  # SIG_IGN, which Python does not see.
    os.kill(os.getpid(), signal.SIGTERM)
    assert not preemption.requested()
    preemption.keep()
    os.kill(os.getpid(), signal.SIGTERM)
    assert preemption.requested()


def test_keep_installs_no_handler_that_was_not_installed_before(handlers):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    preemption.keep()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_the_first_reason_is_kept(handlers):
    preemption.request("SIGUSR1")
    preemption.request("SIGTERM")
    assert preemption.reason() == "SIGUSR1"
    preemption.clear()
    assert not preemption.requested() and preemption.reason() == ""


def test_the_handler_is_installed_before_tensorflow_is_imported():
    code = (
        "import os, signal, sys\n"
        "from afad_tfdata.common import preemption\n"
        "preemption.install()\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
        "assert 'tensorflow' not in sys.modules\n"
        "assert preemption.requested()"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
