"""Keeps copies of remote shards on a local disk.

The cache has a largest size, checks the copies, and can be used by several processes.
The name of a copy contains the SHA-256 that the manifest gives for the shard.  The name
therefore shows whether the content is right, and data sets share equal shards::

    CACHE_DIR/shard-<sha256>        CACHE_DIR/.lock

A file gets its name when it is complete.  One process at a time holds the lock, so that
each shard is fetched once.  The files that were used longest ago are removed to make
room; a process that has mapped such a file can still read it.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import shutil
from collections.abc import Sequence

from afad_tfdata.common import errors, files, locks, progress, remote_files, resources
from afad_tfdata.storage import schema

_PREFIX, _TEMPORARY = "shard-", "fetching-"
# The size of one request to a remote file system: few requests, and little memory.
_CHUNK_BYTES = 8 << 20
# The part of the free disk that is used if the user sets no limit.  A full disk would
# stop other programs.
_SHARE = 0.9

_log = logging.getLogger(__name__)
# Files whose SHA-256 this process has compared, as (path, bytes, inode): every pipeline
# opens the cache, and hashing all shards takes about as long as an epoch.  A file that
# is fetched again has another inode.
_checked: set[tuple[str, int, int]] = set()


def fetch_shards(
    records_dir: str, shards: Sequence[schema.Shard], cache_dir: str, limit_gib: float
) -> tuple[str, ...]:
    """Copies the shards of a remote data set that the cache lacks to the local disk.

    Args:
      records_dir: Remote directory.
      shards: The shards to have at the same time.
      cache_dir: Local directory; it is created if it does not exist.
      limit_gib: Largest size of all files in it, GiB; 0 for what is free on the disk.

    Returns:
      Local paths, in the order of `shards`.

    Raises:
      UsageError: The shards do not fit, or cannot be read or written.
      DataError: A remote shard differs from what the manifest says.
    """
    files.make_dirs(cache_dir)
    paths = [os.path.join(cache_dir, _PREFIX + shard.sha256) for shard in shards]
    wanted, lock = set(paths), os.path.join(cache_dir, ".lock")
    limit = int(limit_gib * (1 << 30)) or _largest_cache(cache_dir)
    needed = sum({s.sha256: s.num_bytes for s in shards}.values())
    if needed > limit:
        raise errors.UsageError(
            f"the shards take {resources.mib(needed)}, and --cache_dir may hold"
            f" {resources.mib(limit)}: raise --cache_dir_gib, name a larger disk, or"
            " use --engine=graph without it"
        )
    with progress.Progress(needed >> 20, "fetching shards", unit="MiB") as bar:
        for shard, path in zip(shards, paths, strict=True):
            with locks.FileLock(lock, wait_secs=math.inf):
                if not _is_good_copy(path, shard):
                    _make_room(cache_dir, limit - shard.num_bytes, wanted)
                    _fetch_shard(files.join(records_dir, shard.name), path, shard)
                    bar.update(shard.num_bytes >> 20)
                # The time of change says when the copy was used last.  Many file
                # systems do not keep the time of access.
                os.utime(path)
    return tuple(paths)


def _is_good_copy(path: str, shard: schema.Shard) -> bool:
    """Returns whether the cache has a complete copy, and logs it if one is damaged."""
    try:
        found = os.stat(path)
    except OSError:
        return False
    state = path, found.st_size, found.st_ino
    if state in _checked:
        return True
    if found.st_size != shard.num_bytes or files.sha256(path) != shard.sha256:
        _log.warning("%s is damaged: fetching it again", path)
        return False
    _checked.add(state)
    return True


def _fetch_shard(remote: str, path: str, shard: schema.Shard) -> None:
    """Copies a remote shard to the local cache, and checks its digest."""
    directory, name = os.path.split(path)
    temporary = os.path.join(directory, _TEMPORARY + name)
    digest, count = hashlib.sha256(), 0
    try:
        with open(temporary, "wb") as f:
            for chunk in remote_files.read_chunks(remote, _CHUNK_BYTES):
                digest.update(chunk)
                count += len(chunk)
                f.write(chunk)
    except remote_files.StoreError as error:
        files.remove_if_there(temporary)
        raise errors.DataError(
            f"cannot read the shard {remote}: {error.strerror}; check the bucket's name"
            " and the credentials, or restore it"
        ) from error
    except OSError as error:
        files.remove_if_there(temporary)
        raise files.write_error(path, error) from error
    if count != shard.num_bytes or digest.hexdigest() != shard.sha256:
        files.remove_if_there(temporary)
        raise errors.DataError(
            f"{remote} has {count} bytes and another SHA-256 than the manifest says"
            f" ({shard.num_bytes} bytes): restore it, or write the records again"
        )
    os.replace(temporary, path)
    found = os.stat(path)
    _checked.add((path, found.st_size, found.st_ino))


def _make_room(cache_dir: str, limit: int, wanted: set[str]) -> None:
    """Removes shards from the cache, those used longest ago first, until it fits.

    Args:
      cache_dir: The cache, whose lock this process holds.
      limit: Bytes that may remain.
      wanted: Paths that are not removed.
    """
    entries = []
    for entry in os.scandir(cache_dir):
        if entry.name.startswith(_TEMPORARY):
            # A process that was killed left this file.  No process fetches now, because
            # this one holds the lock.
            os.remove(entry.path)
        elif entry.name.startswith(_PREFIX):
            found = entry.stat()
            entries.append((found.st_mtime_ns, found.st_size, entry.path))
    total = sum(size for _, size, _ in entries)
    for _, size, path in sorted(entries):
        if total <= limit:
            return
        if path not in wanted:
            files.remove_if_there(path)
            total -= size


def _largest_cache(cache_dir: str) -> int:
    """Returns how large the cache may be: its size now, and most of the free disk."""
    used = sum(
        entry.stat().st_size
        for entry in os.scandir(cache_dir)
        if entry.name.startswith(_PREFIX)
    )
    return used + int(shutil.disk_usage(cache_dir).free * _SHARE)
