"""The errors that users see, one line each: what was wanted, what came, what to do.

A command prints the message without a traceback and ends with ``exit_status``.
"""

from __future__ import annotations


class AfadError(Exception):
    """Base of every error that this package raises on purpose.

    Attributes:
      exit_status: Exit status of a command that stops with this error.
    """

    exit_status = 1


class UsageError(AfadError):
    """A flag, an argument or an input that cannot be used as it is."""


class DataError(AfadError):
    """Data that a check found bad: a checksum, a count, a graph that differs."""

    exit_status = 2


class PreemptedError(AfadError):
    """Stopped by a signal with everything saved; the same command continues."""

    # EX_TEMPFAIL of sysexits.h: batch systems start such a job again.
    exit_status = 75


class WorkerLostError(AfadError):
    """Another worker of the job is gone; the job continues from its last checkpoint."""

    # EX_UNAVAILABLE of sysexits.h: the job may succeed when it is started again.
    exit_status = 69


def printable(text: str) -> str:
    """An error's text with its control characters escaped, for a terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def one_line(error: object) -> str:
    """An error's text folded into one line of at most 300 characters."""
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else text[:297] + "..."


def cause(error: Exception) -> str:
    """The class and text of an error in a user's code, in one line.

    AutoGraph's text begins with "in user code:", and ends with that of the error.
    Other texts have the reason in their first line.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    name = type(error).__name__
    text = lines[-1] if lines and lines[0].startswith("in user code") else ""
    text = text or (lines[0] if lines else "")
    text = text.removeprefix(f"{name}: ").rstrip(":")
    return f"{name}: {one_line(text)}" if text else name


def kind(value: object) -> str:
    """The class of a value for an error's text, such as ``keras.src.models.Model``."""
    return f"{type(value).__module__}.{type(value).__name__}"
