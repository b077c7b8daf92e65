"""A command whose terminal is closed, as a lost ssh connection closes it."""

from __future__ import annotations

import io
import os
import pty
import signal
import subprocess
import sys

import pytest

from afad_tfdata.bin import command
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


# As after a job of several workers, whose process a normal exit would not end.
_JOINED = """
import atexit, os
from afad_tfdata.training.distributed import multi_worker
multi_worker.joined_cluster = lambda: True
atexit.register(os._exit, 3)
"""


@pytest.mark.parametrize(
    "before",
    ["", "print('text', end='')", _JOINED],
    ids=["", "text", "several workers"],
)
def test_a_closed_terminal_asks_to_stop_with_status_75(before):
    """The training once died at once, without saving.  A line that cannot be printed
    made the status 1, or 120 by Python's last flush."""
    code = _COMMAND.replace("def main", f"{before}\ndef main")
    child, terminal = pty.fork()
    if not child:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        environment.pop("PYTHONUNBUFFERED", None)  # It would leave nothing to flush.
        os.execve(sys.executable, [sys.executable, "-c", code], environment)
    shown = b""
    while b"it runs\r\n" not in shown:
        shown += os.read(terminal, 1000)
    os.close(terminal)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 75


def test_text_that_nothing_takes_is_dropped():
    """The flush at the exit once raised an error, and os._exit was not called."""
    stream = open("/dev/full", "w", encoding="utf-8")
    stream.write("text")
    assert not command._flush_or_drop(stream)
    stream.close()  # Flushes, and would raise the error again.
    assert not command._flush_or_drop(stream)


def test_a_stream_without_a_descriptor_is_left_alone():
    class Broken(io.StringIO):
        def flush(self):
            raise OSError("gone")

    assert not command._flush_or_drop(Broken())


def test_a_command_whose_last_output_is_lost_does_not_succeed():
    done = "    print('text', end='')\n    return command.Output(None, None)\n"
    with open("/dev/full", "w", encoding="utf-8") as full:
        result = subprocess.run(
            [sys.executable, "-c", _COMMAND.replace("    while", f"{done}    while")],
            stdout=full,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""},
        )
    assert result.returncode == 1
