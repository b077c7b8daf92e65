"""Faults that hit one process: errors, vanishing files, clocks, memory.

Each function is called in the process that the fault hits, after the package is
imported and before a command runs.  Only files below a root are affected, so that
libraries still find their own.
"""

from __future__ import annotations

import builtins
import dataclasses
import errno
import functools
import io
import itertools
import os
import resource
import signal
import time
from collections.abc import Callable
from typing import Any

FULL = (errno.ENOSPC, errno.EDQUOT)
REFUSED = (errno.EACCES, errno.EROFS, errno.EIO, errno.ESTALE, errno.EMFILE)
# What a FileFault can make fail: opening, reading and writing, or a function of os.
CALLS = ("open", "read", "write", "fsync", "replace", "link", "mkdir", "scandir")


@dataclasses.dataclass(frozen=True)
class FileFault:
    """An error of the file layer.

    Attributes:
      call: One of `CALLS`: ``open`` is opening for writing, ``read`` for reading.
      number: The first call that fails, from 0; for ``write``, the bytes that fit.
      error: The error number (`errno`).
      lasting: Whether later calls fail, too.
    """

    call: str
    number: int
    error: int
    lasting: bool

    def install(self, root: str) -> None:
        """Makes it happen below a root."""
        strikes = _Count(root, self.number, self.lasting)

        def refuse(path: Any) -> None:
            raise OSError(self.error, os.strerror(self.error), _named(path))

        if self.call == "write":
            _on_open(root, writing=True, wrap=_budget(self.number, self.error))
        elif self.call in ("open", "read"):

            def look(path: Any) -> None:
                if strikes(path):
                    refuse(path)

            _on_open(root, writing=self.call == "open", before=look)
        else:
            name = self.call
            function = getattr(os, name)

            @functools.wraps(function)
            def call(path: Any = ".", *arguments: Any, **named: Any) -> Any:
                if strikes(path):
                    refuse(path)
                return function(path, *arguments, **named)

            setattr(os, name, call)


@dataclasses.dataclass(frozen=True)
class Change:
    """Damage to a file just before it is opened for reading.

    Attributes:
      number: Which opening, from 0.
      what: ``vanish``, ``cut``, ``empty`` or ``flip``.
      names: Endings of the names of files that are counted.
    """

    number: int
    what: str
    names: tuple[str, ...]

    def install(self, root: str) -> None:
        """Makes it happen below a root; the file ``changed`` there names the file."""
        strikes = _Count(root, self.number, False)

        def look(path: Any) -> None:
            if _named(path).endswith(self.names) and strikes(path):
                with io.FileIO(os.path.join(root, "changed"), "w") as note:
                    note.write(os.fsencode(os.path.abspath(_named(path))))
                damage(_named(path), self.what, 0.5)

        _on_open(root, writing=False, before=look)


def damage(path: str, what: str, where: float) -> None:
    """Removes, cuts, empties or flips a bit of a file, at a share of its length."""
    size = os.path.getsize(path)
    at = min(int(where * size), max(0, size - 1))
    if what == "vanish":
        os.remove(path)
    elif what in ("cut", "empty"):
        os.truncate(path, at if what == "cut" else 0)
    elif size:
        handle = os.open(path, os.O_RDWR)
        try:
            (byte,) = os.pread(handle, 1, at)
            os.pwrite(handle, bytes([byte ^ 1 << at % 8]), at)
        finally:
            os.close(handle)


def limit_file_size(num_bytes: int) -> None:
    """The operating system refuses to let a file grow beyond this."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))


def limit_processes(num_bytes: int) -> None:
    """Limits the address space of the processes that this one starts."""
    import subprocess

    start = subprocess.Popen
    limits = (num_bytes, num_bytes)

    def limited(*arguments: Any, **named: Any) -> Any:
        named["preexec_fn"] = lambda: resource.setrlimit(resource.RLIMIT_AS, limits)
        return start(*arguments, **named)

    subprocess.Popen = limited  # type: ignore[assignment,misc]


def exhaust_memory(number: int) -> None:
    """Decoding fails for lack of memory, from the image of this number on."""
    import simplejpeg

    count, decode = itertools.count(), simplejpeg.decode_jpeg

    def decoding(*arguments: Any, **named: Any) -> Any:
        if next(count) >= number:
            raise MemoryError
        return decode(*arguments, **named)

    simplejpeg.decode_jpeg = decoding


def jump_clock(number: int, seconds: float) -> None:
    """Shifts the time of day, from the call of this number on."""
    count, now = itertools.count(), time.time
    time.time = lambda: now() + (seconds if next(count) >= number else 0)


def slow_reading(root: str, seconds: float) -> None:
    """Opening a file for reading takes so many seconds longer."""
    _on_open(root, writing=False, before=lambda path: time.sleep(seconds))


class _Count:
    """Counts calls for paths below a root, and says which of them are to fail."""

    def __init__(self, root: str, number: int, lasting: bool) -> None:
        self._root, self._number, self._lasting = root, number, lasting
        self._count = itertools.count()

    def __call__(self, path: Any) -> bool:
        if not _is_below(path, self._root):
            return False
        number = next(self._count)
        return number == self._number or (self._lasting and number > self._number)


def _named(path: Any) -> str:
    if isinstance(path, int):
        try:
            return os.readlink(f"/proc/self/fd/{path}")
        except OSError:
            return ""
    return os.fsdecode(path)


def _is_below(path: Any, root: str) -> bool:
    return os.path.abspath(_named(path)).startswith(root + os.sep)


def _on_open(
    root: str,
    *,
    writing: bool,
    before: Callable[[Any], None] = lambda path: None,
    wrap: Callable[[Any], Any] = lambda file: file,
) -> None:
    """Calls `before` and `wrap` when a file below a root is opened."""
    open_file, open_low = builtins.open, os.open

    @functools.wraps(open_file)
    def opening(path: Any, mode: str = "r", *arguments: Any, **named: Any) -> Any:
        mine = writing == any(c in mode for c in "wax+") and not isinstance(path, int)
        if not mine or not _is_below(path, root):
            return open_file(path, mode, *arguments, **named)
        before(path)
        return wrap(open_file(path, mode, *arguments, **named))

    @functools.wraps(open_low)
    def opening_low(path: Any, flags: int, *arguments: Any, **named: Any) -> Any:
        mine = writing == bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        if mine and _is_below(path, root):
            before(path)
        return open_low(path, flags, *arguments, **named)

    builtins.open = io.open = opening
    os.open = opening_low


def _budget(num_bytes: int, error: int) -> Callable[[Any], Any]:
    """Wraps files, so that only so many bytes can be written to all of them."""
    left = [num_bytes]

    class Filling:
        def __init__(self, file: Any) -> None:
            self._file = file

        def write(self, data: Any) -> Any:
            left[0] -= len(data)
            if left[0] < 0:
                raise OSError(error, os.strerror(error), self._file.name)
            return self._file.write(data)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

        def __enter__(self) -> Filling:
            return self

        def __exit__(self, *error: Any) -> None:
            self._file.close()

        def __iter__(self) -> Any:
            return iter(self._file)

    return Filling
