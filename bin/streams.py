"""Where a command's log lines, its notes and its result go."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from afad_tfdata.bin import absl_flags
from afad_tfdata.common import errors, files

_LEVELS = {1: logging.DEBUG, 0: logging.INFO, -1: logging.WARNING, -2: logging.ERROR}
_FORMAT = logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S")


def open_closed_streams() -> None:
    """Puts the null device in the place of standard streams that are closed.

    Daemons and some batch systems start programs without them.  The next file that is
    opened would get the number of the closed stream, and what C++ code writes to
    standard error would then be written into that file.
    """
    for number, flags in enumerate((os.O_RDONLY, os.O_WRONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is given, because the streams before it are open.
            os.set_inheritable(os.open(os.devnull, flags), True)
    # Python has no object for a stream that was closed when it started.
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            stream = open(os.devnull, "w", encoding="utf-8")
            setattr(sys, name, stream)


def start_log() -> None:
    """Sends a command's log lines to standard error, until the flags are known."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_FORMAT)
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def apply_log_flags(name: str, common: absl_flags.CommonFlags) -> None:
    """Sets the level of a command's log lines, and opens the log file.

    Args:
      name: Name of the command, with which the file's name begins.
      common: The flags.

    Raises:
      UsageError: The directory of the log file cannot be created.
      OSError: The log file cannot be created.
    """
    root = logging.getLogger()
    level = _LEVELS[max(-2, min(common.verbosity, 1))]
    # Only our own debugging lines are shown: Matplotlib alone writes too many.
    root.setLevel(max(level, logging.INFO))
    logging.getLogger("afad_tfdata").setLevel(min(level, logging.INFO))
    if level > logging.INFO:
        # Progress bars have the same level as progress lines.
        os.environ["TQDM_DISABLE"] = "1"
    if common.log_dir and not common.logtostderr:
        if not common.alsologtostderr:
            for handler in list(root.handlers):
                root.removeHandler(handler)
        root.addHandler(_file_handler(name, common.log_dir))
    for handler in root.handlers:
        # The handler gets the level as well, because a library's logger may have its
        # own.
        handler.setLevel(level)


class ResultStream:
    """Standard output for one result; everything else that is written goes to stderr.

    Libraries print on standard output, as Keras does while it downloads weights.  The
    file descriptor is replaced, not `sys.stdout`, because C++ code writes there, too.
    """

    def __init__(self) -> None:
        sys.stdout.flush()
        # Other programs do not inherit it: they would keep a pipe open after our end.
        self._real = os.dup(1)
        try:
            os.dup2(2, 1)
        except OSError:  # Standard error is closed.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

    def write(self, text: str) -> None:
        """Writes the result; raises `BrokenPipeError` if nobody reads it."""
        sys.stdout.flush()
        rest = memoryview(f"{text}\n".encode("utf-8", "backslashreplace"))
        while rest:
            rest = rest[os.write(self._real, rest) :]


class ImageNotes:
    """Messages of a command about single images, besides its results.

    Args:
      name: Name of the command.
      emit: Takes a text and a line of JSON, as `command.emit` does.
    """

    def __init__(
        self, name: str, emit: Callable[[str, Mapping[str, Any]], None]
    ) -> None:
        self._name = name
        self._emit = emit

    def say(self, text: str) -> None:
        """Writes a line to standard error, besides the command's results."""
        line = f"{self._name}: {errors.printable(text)}"
        print(line, file=sys.stderr, flush=True)

    def error(self, path: str, reason: str) -> None:
        """Notes on standard error that an image could not be used."""
        self.say(f"error: {path}: {reason}")
        self._emit("", {"image": path, "error": reason})

    def no_face(self, path: str) -> None:
        """Notes on standard error that no face was found in a photo."""
        self.say(f"no face in {path}")
        self._emit("", {"image": path, "faces": 0})


def _file_handler(name: str, directory: str) -> logging.Handler:
    """A command's new log file, named as absl names them, and a link to it."""
    from absl import logging as absl_logging

    files.make_dirs(directory)
    directory, prefix, link = absl_logging.find_log_dir_and_names(name, directory)
    when = time.strftime("%Y%m%d-%H%M%S")
    file_name = f"{prefix}.INFO.{when}.{os.getpid()}"
    handler = logging.FileHandler(
        os.path.join(directory, file_name), encoding="utf-8", errors="backslashreplace"
    )
    handler.setFormatter(_FORMAT)
    # The link is only a convenience: some file systems have no links.
    with contextlib.suppress(OSError):
        path = os.path.join(directory, f"{link}.INFO")
        if os.path.islink(path):
            os.remove(path)
        os.symlink(file_name, path)
    return handler
