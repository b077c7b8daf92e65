"""Locks between processes: busy, shared, freed by a kill, removed, not supported."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time

import pytest

from afad_tfdata.common import errors, locks
from afad_tfdata.writing import payloads, work_directory

_HOLDER = """
import sys, time
from afad_tfdata.common import locks
with locks.FileLock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_one_process_holds_a_lock_and_the_next_gets_it(tmp_path):
    path = str(tmp_path / "new" / "lock")
    with locks.FileLock(path) as first:
        assert first.works
        with pytest.raises(BlockingIOError):
            locks.FileLock(path)
        with pytest.raises(BlockingIOError):
            locks.FileLock(path, shared=True)
    second = locks.FileLock(path)
    second.release()
    second.release()  # Safe to repeat, and closes no descriptor of somebody else.
    locks.FileLock(path).release()


def test_shared_locks_do_not_exclude_each_other(tmp_path):
    path = str(tmp_path / "lock")
    with locks.FileLock(path, shared=True), locks.FileLock(path, shared=True):
        with pytest.raises(BlockingIOError):
            locks.FileLock(path)


def test_a_killed_process_frees_its_lock(tmp_path):
    path = str(tmp_path / "lock")
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDER, path], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        begun = time.monotonic()
        with pytest.raises(BlockingIOError):
            locks.FileLock(path, wait_secs=0.2)
        assert time.monotonic() - begun >= 0.2
        holder.send_signal(signal.SIGKILL)
        with locks.FileLock(path, wait_secs=30):
            assert os.path.exists(path)


def test_a_removed_file_does_not_count_as_locked(tmp_path, monkeypatch):
    """The holder removes the file between the next one's open and its lock."""
    path = str(tmp_path / "lock")
    real = fcntl.flock
    removed = []

    def flock(descriptor, kind):
        if not removed:
            removed.append(os.remove(path))
        real(descriptor, kind)

    monkeypatch.setattr(fcntl, "flock", flock)
    with locks.FileLock(path):
        with pytest.raises(BlockingIOError):
            locks.FileLock(path)


def test_a_directory_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.UsageError, match="cannot make the directory"):
        locks.FileLock(str(tmp_path / "file" / "lock"))


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_file_systems_without_locks_are_usable(number, tmp_path, monkeypatch, caplog):
    def flock(descriptor, kind):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with locks.FileLock(str(tmp_path / "lock")) as lock:
        assert not lock.works
    assert "has no locks" in caplog.text
    with work_directory.lock(str(tmp_path / "work"), shared=False):
        with payloads.locked(str(tmp_path / "work" / "shard")):
            pass
