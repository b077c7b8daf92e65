"""Lets a process end while a pipeline still works ahead.

``tf.data`` calls Python functions in threads of its own, and goes on doing so while the
interpreter is taken down.  A thread that wants the interpreter lock at that moment is
ended by force, and the process with it ("terminate called without an active
exception", status 134).  Guarded functions refuse to start once the program is ending,
and the end waits for those that run.
"""

from __future__ import annotations

import atexit
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

from afad_tfdata.common.lazy import tf

# How long no call may come before the pipelines count as quiet, and when to give up.
_QUIET_SECS, _LIMIT_SECS = 0.03, 5.0


class _Gate:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.running = self.calls = 0
        self.closed = False

    def close(self) -> None:
        self.closed = True
        if not self.calls:
            return
        start = time.monotonic()
        seen, quiet_since = -1, start
        while (now := time.monotonic()) < start + _LIMIT_SECS:
            if self.running or self.calls != seen:
                seen, quiet_since = self.calls, now
            elif now - quiet_since > _QUIET_SECS:
                return
            time.sleep(0.005)


_gate = _Gate()
atexit.register(_gate.close)


def guard(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, for ``tf.numpy_function``: it does not run into the program's end.

    TensorFlow keeps every function that it was given in eager mode for as long as the
    process lives.  What it keeps is this guard, which refers to the function weakly:
    whatever made the pipeline must keep the function, as a data set does that was made
    by a ``map`` over it.  In a graph, the graph keeps it.

    Raises:
      RuntimeError: From the guard, when it is called too late.
    """
    if not tf.compat.v1.executing_eagerly_outside_functions():

        def refer() -> Any:
            return function
    elif hasattr(function, "__self__"):
        refer = weakref.WeakMethod(function)
    else:
        refer = weakref.ref(function)

    def guarded(*arguments: Any) -> Any:
        with _gate.lock:
            _gate.calls += 1
            if _gate.closed:
                raise RuntimeError("the program is ending")
            _gate.running += 1
        try:
            called = refer()
            if called is None:
                raise RuntimeError("the pipeline that this belongs to is gone")
            return called(*arguments)
        finally:
            with _gate.lock:
                _gate.running -= 1

    return guarded
