"""Maps the shards of a split into one range of addresses.

All files are mapped, not read, into one reserved range.  The gaps between them are
chosen so that all rows of pixels begin at multiples of one number of bytes.  The range
is then one matrix.  One operation gathers a batch of rows from any shards: numpy's
``take`` or TensorFlow's ``gather``, both without the interpreter lock.

A process remembers the maps of the splits that it read last, and which of their records
it has checked.  The next pipeline on the same files reuses both.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import functools
import math
import mmap
import os
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from afad_tfdata.common import errors, files, resources

# Constants of linux/mman.h that the module `mmap` does not export on all systems.
_PROT_NONE, _MAP_FIXED, _MAP_NORESERVE = 0, 0x10, 0x4000
_WILLNEED, _POPULATE_READ = 3, 22
_FAILED = ctypes.c_void_p(-1).value
# Bytes that one call loads: enough for long reads, and few enough to stop in between.
_POPULATED_BYTES = 16 << 20
# A row is gathered in pieces if it cannot begin at a multiple of its size.  Pieces
# that are shorter than this cost more than copying row by row.
_SMALLEST_PIECE = 1024
# The number of splits whose maps are kept.  A training with evaluation needs fewer.
_KEPT_SPLITS = 8


_User = TypeVar("_User")


class Rows(NamedTuple):
    """Rows of pixels as a matrix.

    Attributes:
      matrix: uint8 ``[m, piece]``: the whole range of addresses.
      first: int64 ``[num_shards]``: the piece at which each shard's first row begins.
      pieces: How many pieces make up a row; they follow one another.
      blank: The piece at which a row of zeros begins.
    """

    matrix: np.ndarray
    first: np.ndarray
    pieces: int
    blank: int


class ShardMaps:
    """Files that are mapped one after the other into one range of addresses.

    Args:
      paths: Local files.
      row_bytes: Size of a row of pixels; 0 if the files do not contain rows.
      offsets: Byte at which the rows begin in each file; not used if `row_bytes` is 0.

    Attributes:
      shards: uint8 ``[size of the file]`` for each file.
      rows: The rows as a matrix; None without rows, or if they cannot be aligned.

    Raises:
      DataError: A file cannot be read.
    """

    def __init__(
        self,
        paths: Sequence[str],
        row_bytes: int = 0,
        offsets: Sequence[int] = (),
    ) -> None:
        sizes = [_file_size(path) for path in paths]
        self._num_bytes = sum(sizes)
        piece = _piece_bytes(row_bytes, offsets) if row_bytes else 0
        starts, end = _places_in_range(sizes, piece, offsets)
        blank = -(-end // piece) if piece else 0
        self._range = _AddressRange(max(end, (blank * piece) + row_bytes))
        if piece:
            self._range.map_zeros(blank * piece, row_bytes)
        for path, start, size in zip(paths, starts, sizes, strict=True):
            self._range.map_file(path, start, size)
        # Arrays refer to the range.  It is unmapped when the last of them is deleted.
        whole = np.asarray(self._range)
        self.shards = [
            whole[start : start + size]
            for start, size in zip(starts, sizes, strict=True)
        ]
        self.rows: Rows | None = None
        if piece:
            first = [(s + o) // piece for s, o in zip(starts, offsets, strict=True)]
            count = len(whole) // piece
            self.rows = Rows(
                whole[: count * piece].reshape(count, piece),
                np.array(first, np.int64),
                row_bytes // piece,
                blank,
            )
        # `ctypes.data` of an array takes longer than the call of `madvise`.
        self._addresses = [shard.ctypes.data for shard in self.shards]
        self._populating = threading.Lock()
        self._populated = False

    @functools.cached_property
    def fits_in_memory(self) -> bool:
        """Whether all pages of the files fit in half of the memory that is free."""
        return self._num_bytes < resources.available_bytes() // 2

    def populate(
        self, user: _User, loaded: Callable[[_User, int, int, int], None] | None = None
    ) -> None:
        """Loads all pages into memory, in the background, if they fit.

        Loading them one by one, in page faults, takes several times as long.

        Args:
          user: The loading stops when this object is deleted.
          loaded: Called in the background for each part that has been loaded, with
            `user`, a position in `shards`, the first byte of the part, and the byte
            after its last one.  All earlier parts of the shard have been loaded, too.
            It is not called where the system does not say whether a part is loaded.
        """
        if not self.fits_in_memory or not self._populating.acquire(blocking=False):
            return
        if self._populated:
            self._populating.release()
            return
        # A daemon thread, because a slow disk must not delay the end of the process.
        threading.Thread(
            target=self._populate_in_thread,
            args=(weakref.ref(user), loaded),
            name="populate",
            daemon=True,
        ).start()

    def _populate_in_thread(
        self,
        user: Callable[[], _User | None],
        loaded: Callable[[_User, int, int, int], None] | None,
    ) -> None:
        """Does `populate` in its own thread."""
        try:
            for number, shard in enumerate(self.shards):
                address = self._addresses[number]
                certain = loaded is not None
                for start in range(0, len(shard), _POPULATED_BYTES):
                    if user() is None:
                        return
                    length = min(_POPULATED_BYTES, len(shard) - start)
                    if _advise_kernel(address + start, length, _POPULATE_READ):
                        # Linux before 5.14 refuses this.  If the disk failed, the
                        # reader raises the error.
                        _advise_kernel(address + start, length, _WILLNEED)
                        # Reading a page that the disk cannot give ends the process.
                        certain = False
                    using = user()
                    if certain and loaded and using is not None:
                        # What it does is done again where a batch needs it.  An error,
                        # such as of no memory, is then raised where its caller sees it.
                        with contextlib.suppress(Exception):
                            loaded(using, number, start, start + length)
                    # It may be deleted before the next part.
                    del using
            self._populated = True
        finally:
            self._populating.release()

    def will_need(self, shards: list[int], begins: list[int], ends: list[int]) -> None:
        """Starts reading parts of files, so that the disk gets many requests at once.

        A page fault instead would read up to as many bytes as the disk's read-ahead is
        set to, 8 MiB on some machines, and one fault at a time.

        Args:
          shards: Positions in `shards`.
          begins: First byte of each part.
          ends: Byte after the end of each part.
        """
        for shard, begin, end in zip(shards, begins, ends, strict=True):
            address = self._addresses[shard] + begin
            start = address - address % mmap.PAGESIZE
            _advise_kernel(start, address + end - begin - start, _WILLNEED)


class _AddressRange:
    """A reserved, read-only range of addresses, into which files are mapped.

    numpy makes an array of bytes from it, and the array keeps the range alive.
    """

    def __init__(self, num_bytes: int) -> None:
        self._num_bytes = num_bytes
        self._address = _map_memory(
            None,
            num_bytes,
            _PROT_NONE,
            mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE,
            -1,
            "the shards",
        )

    @property
    def __array_interface__(self) -> dict[str, Any]:
        # The memory is not marked as read-only, because the exchange with TensorFlow
        # would refuse that.  Nevertheless, a write would end the process.
        return {
            "version": 3,
            "typestr": "|u1",
            "shape": (self._num_bytes,),
            "data": (self._address, False),
        }

    def map_file(self, path: str, start: int, size: int) -> None:
        """Maps a whole file at a place of the range."""
        if not size:
            return
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise _unreadable_shard(path, error) from error
        try:
            flags = mmap.MAP_PRIVATE | _MAP_FIXED
            address = self._address + start
            _map_memory(address, size, mmap.PROT_READ, flags, descriptor, path)
        finally:
            # The map does not need the descriptor.  The system limits their number, but
            # a data set can have any number of shards.
            os.close(descriptor)

    def map_zeros(self, start: int, size: int) -> None:
        """Maps pages of zeros into a part of the range."""
        address = self._address + start
        first = address - address % mmap.PAGESIZE
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_FIXED
        size += address - first
        _map_memory(first, size, mmap.PROT_READ, flags, -1, "the shards")

    def __del__(self) -> None:
        # While the process ends, threads of TensorFlow may still read the range.
        if hasattr(self, "_address") and not sys.is_finalizing():
            _libc().munmap(self._address, self._num_bytes)


class Known(NamedTuple):
    """What the process remembers about the shards of a split.

    Attributes:
      maps: Their maps.
      unchecked: uint8 ``[n]``, aligned: 1 for each record whose bytes have not been
        compared with their checksum, or differ from it.
    """

    maps: ShardMaps
    unchecked: np.ndarray


_known: collections.OrderedDict[tuple, Known] = collections.OrderedDict()
# Data sets are built in several threads.
_lock = threading.Lock()


def remembered_maps(
    identity: str, paths: Sequence[str], num_records: int, create: Callable[[], Known]
) -> Known:
    """Returns the maps of these shards, created if the files are new or changed.

    Args:
      identity: Identifies the index by its content; empty to remember nothing.
      paths: Local shard files.
      num_records: Records in them.
      create: Maps the files.

    Raises:
      DataError: A file cannot be read.
    """
    if not identity:
        return create()
    key = (identity, num_records, tuple(_file_identity(path) for path in paths))
    with _lock:
        if key not in _known:
            _forget_stale_maps(paths)
            _known[key] = create()
        _known.move_to_end(key)
        while len(_known) > _KEPT_SPLITS:
            _known.popitem(last=False)
        return _known[key]


def forget_maps() -> None:
    """Forgets the maps of all shards, for measurements of a first pass."""
    with _lock:
        _known.clear()


def _forget_stale_maps(paths: Sequence[str]) -> None:
    """Forgets maps of earlier contents of these shards, which keep the disk space."""
    names = {os.path.abspath(path) for path in paths}
    stale = [k for k in _known if any(name in names for name, *_ in k[2])]
    stale += [k for k in _known if any(not os.path.exists(name) for name, *_ in k[2])]
    for key in stale:
        _known.pop(key, None)


def _file_identity(path: str) -> tuple[str, int, int, int, int]:
    """Returns a shard's path, with properties that change when its content changes."""
    try:
        found = os.stat(path)
    except OSError as error:
        raise _unreadable_shard(path, error) from error
    return (
        os.path.abspath(path),
        found.st_dev,
        found.st_ino,
        found.st_size,
        found.st_mtime_ns,
    )


def _file_size(path: str) -> int:
    """Returns the size of a shard that is to be mapped."""
    try:
        return os.path.getsize(path)
    except OSError as error:
        raise _unreadable_shard(path, error) from error


def _unreadable_shard(path: str, error: OSError) -> errors.AfadError:
    """Returns the error of a shard that cannot be mapped."""
    if not isinstance(error, FileNotFoundError):
        return files.read_error(path, error)
    return errors.DataError(f"cannot read {path}: {error.strerror}; restore it")


def _piece_bytes(row_bytes: int, offsets: Sequence[int]) -> int:
    """Returns the largest divisor of a row's size that can align all mapped rows.

    Files can be moved only by whole pages.  Moving a file therefore does not change its
    offset modulo the greatest common divisor of piece and page.  This must be 0.

    Returns:
      Bytes; 0 if only short pieces can be aligned.
    """
    for pieces in range(1, row_bytes // _SMALLEST_PIECE + 1):
        piece, rest = divmod(row_bytes, pieces)
        step = math.gcd(mmap.PAGESIZE, piece)
        if not rest and all(offset % step == 0 for offset in offsets):
            return piece
    return 0


def _places_in_range(
    sizes: Sequence[int], piece: int, offsets: Sequence[int]
) -> tuple[list[int], int]:
    """Returns where each shard is mapped in the range, and the size of the range."""
    starts, end = [], 0
    page = mmap.PAGESIZE
    # Moving a file by this distance does not change the alignment of its rows.
    period = math.lcm(page, piece) if piece else page
    for number, size in enumerate(sizes):
        start = end
        if piece:
            step = math.gcd(page, piece)
            # This solves for k: start + k * page + offset is a multiple of the piece.
            rest = -(start + offsets[number]) // step
            modulus = piece // step
            k = rest * pow(page // step, -1, modulus) % modulus if modulus > 1 else 0
            start += k * page % period
        starts.append(start)
        end = -(-(start + size) // page) * page
    return starts, max(end, page)


@functools.cache
def _libc() -> ctypes.CDLL:
    """Returns the C library, with the calls that map memory."""
    # Python's own `mmap` cannot map at a given address, and its `madvise` does not
    # release the interpreter lock.
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int64,
    ]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return libc


def _map_memory(
    address: int | None, size: int, protection: int, flags: int, fd: int, what: str
) -> int:
    """Maps a shard or zeros to an address, by `mmap` of the C library."""
    found = _libc().mmap(address, size, protection, flags, fd, 0)
    if found == _FAILED or found is None:
        code = ctypes.get_errno()
        raise errors.DataError(f"cannot map {what} into memory: {os.strerror(code)}")
    return found


def _advise_kernel(address: int, size: int, advice: int) -> int:
    """Calls `madvise` for mapped pages of a shard; returns 0 if it succeeds."""
    return _libc().madvise(address, size, advice)
