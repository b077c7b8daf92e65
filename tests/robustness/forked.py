"""Processes that are forked off one that has imported TensorFlow.

Importing TensorFlow takes seconds, and the programs here start hundreds of processes.
A fork is safe only until TensorFlow's runtime starts, because its threads do not exist
in the child: the parent must not call TensorFlow.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable

CRASHED = 70  # Status of a child whose function raised.
_POLL_SECS = 0.005


def start(work: Callable[[], int]) -> int:
    """Starts a child process.

    Args:
      work: Runs in the child; its result is the exit status.

    Returns:
      The child's process id, for `wait`.
    """
    sys.stdout.flush()  # Otherwise the child prints what the parent has buffered, too.
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    status = CRASHED
    try:
        status = work()
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):  # A reader of the output may have left.
            sys.stdout.flush()
            sys.stderr.flush()
        # Not sys.exit, which would run the parent's exit handlers and `finally` blocks.
        os._exit(status)


def has_ended(pid: int) -> bool:
    """Whether a child has ended; `wait` can still be called."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def wait(pid: int, limit_secs: float = math.inf) -> int:
    """Waits for a child.

    Returns:
      Its exit status, or the negative number of the signal that killed it.

    Raises:
      TimeoutError: It did not end within the limit; it has been killed.
    """
    deadline = time.monotonic() + limit_secs
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise TimeoutError(f"did not end within {limit_secs:.0f} s")
        time.sleep(_POLL_SECS)
