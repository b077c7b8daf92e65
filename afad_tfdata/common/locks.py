"""Locks between processes: a file that one process, or several readers, may hold.

::

    with locks.FileLock("records/.work/lock", wait_secs=5.0):
        ...                                    # no other process is in here

What a lock guarantees:

* It is advisory (flock(2)): it stops those who ask for it, on one machine and, where
  the file system passes locks on, on others.
* The kernel releases it when the process ends, however it ends; a lock is never left
  over, and the file may stay.  A child that inherits the descriptor holds the lock,
  too, until it ends.
* It is a lock on the file that has the name now: if the holder removes the file before
  it releases the lock, the next process locks the new file and not the removed one.
* Some network file systems have no locks.  There `works` is False, a warning is logged,
  and nothing keeps two processes apart.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import math
import os
import time

from afad_tfdata.common import files

# Seconds between two attempts: short beside the start of a process, and cheap.
_RETRY_SECS = 0.05
# A process that ends may remove the directory between its creation here and the open.
_OPEN_ATTEMPTS = 100

_log = logging.getLogger(__name__)


class FileLock:
    """A lock that this process holds until `release`; a context manager.

    Args:
      path: The lock's file; it and its directory are created.  Its content does not
        matter and is not changed.
      shared: Whether others that ask for a shared lock may hold it at the same time.
      wait_secs: How long to wait for other processes, in seconds; ``math.inf`` waits
        until they are done.

    Attributes:
      descriptor: Of the open file; a child process that inherits it holds the lock.
      works: False on a file system without locks.

    Raises:
      BlockingIOError: Another process holds it.
      UsageError: The file cannot be created.
    """

    def __init__(
        self, path: str, *, shared: bool = False, wait_secs: float = 0.0
    ) -> None:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        if wait_secs < math.inf:
            kind |= fcntl.LOCK_NB
        deadline = time.monotonic() + wait_secs
        self._open = False
        while True:
            self.descriptor = _open(path)
            try:
                self.works = _lock(self.descriptor, kind, path)
                # The last holder may have removed the file while we waited.
                if _is_at(self.descriptor, path):
                    self._open = True
                    return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise
            finally:
                if not self._open:
                    os.close(self.descriptor)
            time.sleep(_RETRY_SECS)

    def __enter__(self) -> FileLock:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()

    def release(self) -> None:
        """Lets other processes have it; safe to repeat."""
        if self._open:
            self._open = False
            os.close(self.descriptor)


def _open(path: str) -> int:
    for attempt in range(_OPEN_ATTEMPTS):
        files.make_dirs(os.path.dirname(path) or ".")
        try:
            # Writable, because NFS refuses exclusive locks on files that are not.
            return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError as error:
            if attempt + 1 == _OPEN_ATTEMPTS:
                raise files.write_error(path, error) from error
        except OSError as error:
            raise files.write_error(path, error) from error
    raise AssertionError("the loop returns or raises")


def _lock(descriptor: int, kind: int, path: str) -> bool:
    """Whether the file system has locks; `BlockingIOError` where another has it."""
    try:
        fcntl.flock(descriptor, kind)
    except OSError as error:
        # File systems that emulate flock by fcntl locks may say EACCES for "busy".
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise BlockingIOError(*error.args) from error
        _log.warning(
            "%s: this file system has no locks (%s): make sure yourself that no two"
            " commands write here at once",
            path,
            error.strerror,
        )
        return False
    return True


def _is_at(descriptor: int, path: str) -> bool:
    """Whether an open file still has this name."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
