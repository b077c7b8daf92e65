"""What the messages of TensorFlow's errors say, without their places in a graph.

A message has many lines.  In a ``tf.function``, the first of them is only "Graph
execution error", and the stack follows; what happened comes after that.
"""

from __future__ import annotations

import errno
import os
import re

from afad_tfdata.common import errors, remote_files
from afad_tfdata.common.lazy_imports import tf

# Lines that do not say what happened.
_NO_REASON = (
    *("Graph execution error", "Detected at node", "<stack traces", "[[", "^"),
    *('File "', "Traceback "),
)
# A remote path can be anywhere in a text, often in quotes or brackets.
_REMOTE = re.compile(r"\b(?:gs|s3|hdfs)://[^\s;,]*[^\s;,.:'\")\]]")
# Finds an error of this package at the end of TensorFlow's traceback, if a Python
# function of the pipeline raised it.  The module's name may precede the class.
_OWN_ERROR = re.compile(r"\b(Data|Usage)Error: ([^\n]+)")
# TensorFlow's file systems append the system's own text to the path.
_ERRNOS = {os.strerror(number): number for number in errno.errorcode}


def reason(message: str) -> str:
    """The line of TensorFlow's message that says what happened; empty if none does."""
    message = re.sub(r"\{\{.*?\}\}|\[Op:.*", "", message)
    for line in map(str.strip, message.splitlines()):
        if line and not line.startswith(_NO_REASON):
            return re.sub(
                r"^Error in user-defined function .* Iterator::\S+: ", "", line
            )
    return ""


def without_stack(message: str) -> str:
    """TensorFlow's message without the paths of programs, which may have any word."""
    return re.sub(r'^\s*File ".*$', "", message, flags=re.MULTILINE)


def file_error(message: str) -> OSError | None:
    """The error of a file that TensorFlow cannot open or read; None for all others."""
    if "Traceback (most recent call last)" in message:
        return None  # Of a Python function, whose text may mention any file.
    text = reason(message)
    path, _, why = text.rpartition("; ")
    if path and why in _ERRNOS:
        return OSError(_ERRNOS[why], why, path)
    if found := _REMOTE.search(message):
        return remote_files.StoreError(errno.EIO, errors.one_line(text), found[0])
    return None


def own_error(error: tf.errors.OpError) -> errors.AfadError | None:
    """The error of this package that TensorFlow's error wraps, or None.

    If a Python function raises an exception, TensorFlow raises one of its own classes,
    whose text is the traceback.
    """
    found = _OWN_ERROR.search(str(error.message))
    if not found:
        return None
    kind = errors.DataError if found[1] == "Data" else errors.UsageError
    return kind(found[2].strip())


def fatal_line(text: str) -> str:
    """The line of a process's output that says why TensorFlow aborted it."""
    lines = text.strip().splitlines() or ["it says nothing"]
    # In TensorFlow's log, the line of a fatal error begins with F and the date.  Lines
    # of a stack trace may follow it.
    fatal = [line for line in lines if line[:1] == "F" and line[1:2].isdigit()]
    fatal += [line for line in lines if ": F " in line]
    return errors.one_line((fatal or lines)[-1])
