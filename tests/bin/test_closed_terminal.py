"""A command whose terminal is closed, as a lost ssh connection closes it."""

from __future__ import annotations

import os
import pty
import signal
import sys

import pytest

from tests.bin.command_line import ROOT

# A command that stops on signals, with the path of a file that says when it runs.
_COMMAND = """
import sys, time
from afad_tfdata import records
from afad_tfdata.bin import command
from afad_tfdata.common import errors, preemption

def main(config, rest):
    print("it runs", file=sys.stderr, flush=True)
    while not preemption.requested():
        time.sleep(0.01)
    raise errors.PreemptedError(f"{preemption.reason()} came")

command.run(
    main, records.WriteConfig, about="", example="", stops_on_signal=True
)
"""


@pytest.mark.parametrize("earlier_text", ["", "print('text', end='')"])
def test_a_closed_terminal_asks_to_stop_with_status_75(earlier_text):
    """The training once died at once, without saving, and a line that cannot be
    printed made the status 1."""
    code = _COMMAND.replace("def main", f"{earlier_text}\ndef main")
    child, terminal = pty.fork()
    if not child:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        os.execve(sys.executable, [sys.executable, "-c", code], environment)
    shown = b""
    while b"it runs\r\n" not in shown:
        shown += os.read(terminal, 1000)
    os.close(terminal)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 75
