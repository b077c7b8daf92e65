"""SIGTERM and SIGUSR1 ask a command to finish its step, save, and end with status 75.

A batch system sends one of them some time before it kills a job.  The command installs
the handler before it imports TensorFlow, so that a signal during the slow start is not
lost; the training loop calls `requested` between steps.
"""

from __future__ import annotations

import signal
import threading

_requested = threading.Event()
_received: list[str] = []


def install() -> None:
    """Turns SIGTERM and SIGUSR1 into a request.  A second call does nothing."""
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, _handle)


def keep() -> None:
    """Installs the handler again if it was installed and a library has replaced it."""
    # TensorFlow's servers install their own handler of SIGTERM when they start.  Python
    # does not notice: signal.getsignal still returns our handler.  Setting it again
    # replaces theirs.
    for number in (signal.SIGTERM, signal.SIGUSR1):
        if signal.getsignal(number) is _handle:
            signal.signal(number, _handle)


def requested() -> bool:
    """Whether a signal was received, or `request` was called."""
    return _requested.is_set()


def request(reason: str) -> None:
    """Asks for a stop from within the program, in the same way as a signal."""
    _received.append(reason)
    _requested.set()


def reason() -> str:
    """Name of the first signal, or the reason of the first `request`; else empty."""
    return _received[0] if _received else ""


def clear() -> None:
    """Forgets a request; for programs that train again in one process."""
    _requested.clear()
    _received.clear()


def _handle(number: int, frame: object) -> None:
    del frame
    request(signal.Signals(number).name)
