"""SIGTERM, SIGUSR1, SIGHUP and Ctrl-C ask a command to finish its step, save and end.

The exit status is then 75.  A batch system sends one of the first two some time before
it kills a job, and a terminal that is closed sends SIGHUP.  The command installs
the handler before it imports TensorFlow, so that a signal during the slow start is not
lost; the training loop calls `requested` between steps.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

# All of them reach the whole process group, and helper processes must ignore them.
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGINT)

_requested = threading.Event()
_received: list[str] = []


def install() -> None:
    """Turns SIGTERM, SIGUSR1, SIGHUP and the first Ctrl-C into a request to stop.

    A second Ctrl-C ends the process at once.  Only the main thread may call this; it
    may do so several times.
    """
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, _handle_signal)
    # Under nohup, the process outlives its terminal, and still should.
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, _handle_signal)
    # A process that was started in the background ignores Ctrl-C, and still should.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _handle_first_interrupt)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Turns Ctrl-C within the block into a request to stop, without `install`.

    The second Ctrl-C raises KeyboardInterrupt, as it does outside the block.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return

    def handle(number: int, frame: object) -> None:
        """Turns a Ctrl-C into a request to stop."""
        signal.signal(number, signal.default_int_handler)
        _ask_to_stop(frame)

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if reason() == _INTERRUPT:
            clear()  # The next training of this program must not stop at once.


@contextlib.contextmanager
def ended_by_hangup() -> Iterator[None]:
    """Lets SIGHUP end the process within the block, if `install` has handled it.

    This is for a block of native code that may wait for long and has nothing to save.
    Python would run a handler only after that code.  Without a terminal, nobody could
    end the wait by Ctrl-C.
    """
    if signal.getsignal(signal.SIGHUP) is not _handle_signal:
        yield
        return
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, _handle_signal)


def keep() -> None:
    """Installs the signals' handler again if a library has replaced it."""
    # TensorFlow's servers install their own handler of SIGTERM when they start.  Python
    # does not notice: signal.getsignal still returns our handler.  Setting it again
    # replaces theirs.
    for number in SIGNALS:
        if signal.getsignal(number) is _handle_signal:
            signal.signal(number, _handle_signal)


def requested() -> bool:
    """Whether a stop was requested, by a signal or by `request`."""
    return _requested.is_set()


def request(reason: str) -> None:
    """Asks for a stop from within the program, in the same way as a signal."""
    _received.append(reason)
    _requested.set()


def reason() -> str:
    """The signal or the reason of the first request to stop; empty if there is none."""
    return _received[0] if _received else ""


def clear() -> None:
    """Forgets a request to stop; for programs that train again in one process."""
    _requested.clear()
    _received.clear()


_INTERRUPT = "Ctrl-C"


def _handle_first_interrupt(number: int, frame: object) -> None:
    """Handles the first Ctrl-C; the second one ends the process."""
    # The next Ctrl-C gets the system's own handler, because a handler of Python waits
    # until TensorFlow returns.
    signal.signal(number, signal.SIG_DFL)
    _ask_to_stop(frame)


def _ask_to_stop(frame: object) -> None:
    """Asks the command to stop, and says so on the terminal."""
    del frame
    request(_INTERRUPT)
    # print is not used, because the signal may have come while something was printed.
    text = "\nstopping after this step; Ctrl-C again ends at once, without saving\n"
    with contextlib.suppress(OSError):
        os.write(2, text.encode())


def _handle_signal(number: int, frame: object) -> None:
    """Handles a signal: notes that it asks the command to stop."""
    del frame
    request(signal.Signals(number).name)
