"""The errors that users see, each of one line: what was wanted, what came, what to do.

A command prints the message without a traceback and ends with ``exit_status``.
"""

from __future__ import annotations

import importlib


class AfadError(Exception):
    """Base of every error that this package raises on purpose.

    Attributes:
      exit_status: What a command that stops with this error returns to its caller.
    """

    exit_status = 1


class UsageError(AfadError):
    """A flag, an argument or an input that cannot be used as it is."""


class DataError(AfadError):
    """Data that a check found bad: a checksum, a count, a graph that differs."""

    exit_status = 2


class PreemptedError(AfadError):
    """Stopped by a signal with everything saved; the same command continues."""

    exit_status = 75


class WorkerLostError(AfadError):
    """Another worker of the job is gone; the job continues from its last checkpoint.

    The status is EX_UNAVAILABLE of ``sysexits.h``: started again, the job may do.
    """

    exit_status = 69


def require(module: str, *, extra: str, purpose: str):
    """Imports an optional dependency, or says how to get it.

    Args:
      module: Name to import, e.g. ``"simplejpeg"``.
      extra: The extra of this package that brings it.
      purpose: What it is needed for, as in "... needs it".

    Returns:
      The imported module.

    Raises:
      UsageError: The module is not installed, or does not load.
    """
    try:
        return importlib.import_module(module)
    except Exception as error:  # A broken install raises whatever it meets first.
        raise UsageError(
            f"{purpose} needs {module}, which is not usable here"
            f" ({one_line(error)}): pip install 'afad-tfdata[{extra}]'"
        ) from error


def printable(text: str) -> str:
    """Text that a terminal shows and does not obey: control characters are escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def one_line(error: object) -> str:
    """An error's text folded into one line of at most 300 characters."""
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else text[:297] + "..."
