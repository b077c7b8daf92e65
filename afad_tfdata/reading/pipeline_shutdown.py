"""Lets a process end while an input pipeline still reads ahead.

``tf.data`` calls Python functions in threads of its own, and continues to do so while
the interpreter shuts down.  A thread that asks for the interpreter lock at that moment
is ended by force, and the whole process with it ("terminate called without an active
exception", status 134).  Guarded functions therefore refuse to start once the program
is ending, and the end of the program waits for the calls that are still running.
"""

from __future__ import annotations

import atexit
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

from afad_tfdata.common.lazy_imports import tf

# The pipelines count as quiet if no call came for this long.  This is a few times as
# long as TensorFlow's threads take from the end of one call to the start of the next.
_QUIET_SECS = 0.03
# A call that never returns, for example from a dead network disk, must not keep the
# process from ending.
_LIMIT_SECS = 5.0
_POLL_SECS = 0.005


class _GuardedCalls:
    """Counts the calls of all guarded functions of this process."""

    def __init__(self) -> None:
        # `+=` on an attribute is not atomic, and a lost count would hide a call that
        # is still running.
        self.lock = threading.Lock()
        self.running = self.started = 0
        self.refused = False

    def refuse_and_wait(self) -> None:
        """Refuses new calls, and waits until the pipelines are quiet."""
        self.refused = True
        if not self.started:
            return
        start = time.monotonic()
        seen, quiet_since = -1, start
        while (now := time.monotonic()) < start + _LIMIT_SECS:
            # Refused calls count too.  A pipeline stops at a refused call, and only
            # then do its threads no longer ask for the interpreter lock.
            if self.running or self.started != seen:
                seen, quiet_since = self.started, now
            elif now - quiet_since > _QUIET_SECS:
                return
            time.sleep(_POLL_SECS)


# The process has one, because it has one interpreter to shut down.
_calls = _GuardedCalls()
atexit.register(_calls.refuse_and_wait)


def guarded_function(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps a function for ``tf.numpy_function`` so that it respects the shutdown.

    In eager mode TensorFlow keeps every function that it was given for as long as the
    process lives, and with it all that the function refers to: here the memory maps of
    a data set.  TensorFlow is therefore given this wrapper, which refers to the
    function weakly.  The pipeline must keep the function alive, as a data set does when
    the function is part of the closure that is given to ``map``.  In a graph
    (TensorFlow 1 style) the graph owns the wrapper and ends with it, so that the
    wrapper may refer to the function strongly.

    Args:
      function: A function, or a bound method, of numpy arrays.

    Raises:
      RuntimeError: The wrapper raises it if it is called while the program ends or
        after its pipeline is deleted.
    """
    if not tf.compat.v1.executing_eagerly_outside_functions():

        def refer() -> Any:
            """Returns the function, which the graph keeps alive."""
            return function
    elif hasattr(function, "__self__"):
        # A plain weak reference to a bound method would be dead at once, because each
        # access to a method creates a new object.
        refer = weakref.WeakMethod(function)
    else:
        refer = weakref.ref(function)

    def guarded(*arguments: Any) -> Any:
        """Calls the function unless the program is ending."""
        with _calls.lock:
            _calls.started += 1
            if _calls.refused:
                raise RuntimeError("the program is ending")
            _calls.running += 1
        try:
            called = refer()
            if called is None:
                raise RuntimeError("the pipeline that this function served is gone")
            return called(*arguments)
        finally:
            with _calls.lock:
                _calls.running -= 1

    return guarded
