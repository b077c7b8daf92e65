"""Locks on files, which keep other processes from doing the same work.

::

    with locks.FileLock("records/.work/lock", wait_secs=5.0):
        ...                                    # no other process is in here

What a lock guarantees:

* It is advisory (flock(2)): only processes that ask for the lock have to wait.  It
  works between processes of one machine, and between machines if the file system
  shares its locks.
* The kernel releases it when the process ends, for whatever reason.  The file may
  remain, but a file alone locks nothing.  A child process that inherits the descriptor
  also holds the lock, until it ends.
* The lock belongs to the file that has the name now.  If the holder removes the file
  before it releases the lock, the next process creates a new file and locks that one.
* Some network file systems have no locks.  There `works` is False and a warning is
  logged, but two processes can write at the same time.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import math
import os
import time

from afad_tfdata.common import files

# Seconds between two attempts: much shorter than the start of a process, and cheap.
_RETRY_SECS = 0.05
# Another process may remove the directory after it is created here and before the file
# in it is opened.
_OPEN_ATTEMPTS = 100

_log = logging.getLogger(__name__)


class FileLock:
    """A lock that this process holds until `release`; a context manager.

    Args:
      path: The lock's file.  The file and its directory are created if they do not
        exist.  The content of the file is not changed.
      shared: Whether other processes can hold a shared lock at the same time.
      wait_secs: How long to wait for other processes, in seconds; ``math.inf`` waits
        without a limit.

    Attributes:
      descriptor: Descriptor of the open file.  A child process that inherits it also
        holds the lock.
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
            self.descriptor = _open_lock_file(path)
            try:
                self.works = _lock_file(self.descriptor, kind, path)
                # The last holder may have removed the file while we waited.
                if _is_lock_file_at(self.descriptor, path):
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
        """Releases the lock.  A second call does nothing."""
        if self._open:
            self._open = False
            os.close(self.descriptor)


def _open_lock_file(path: str) -> int:
    """Opens the lock file, which another process may remove at the same time."""
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


def _lock_file(descriptor: int, kind: int, path: str) -> bool:
    """Locks the file, and returns False if the file system has no locks.

    Raises:
      BlockingIOError: Another process holds the lock.
    """
    try:
        fcntl.flock(descriptor, kind)
    except OSError as error:
        # File systems that emulate flock with fcntl locks may report "busy" as EACCES.
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise BlockingIOError(*error.args) from error
        _log.warning(
            "%s: this file system has no locks (%s): make sure that no two commands"
            " write here at the same time",
            path,
            error.strerror,
        )
        return False
    return True


def _is_lock_file_at(descriptor: int, path: str) -> bool:
    """Whether this path still names the open lock file."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
