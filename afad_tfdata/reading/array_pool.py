"""Arrays for batches, used again when nothing else refers to them."""

from __future__ import annotations

import functools
import math
import sys
import threading

import numpy as np

# This is EIGEN_MAX_ALIGN_BYTES.  TensorFlow copies arrays that are aligned to less.
_ALIGNMENT = 64
# This much unused memory is kept for the next pipeline, or for a second pipeline that
# is used in turns with this one.
_UNUSED_BYTES = 256 << 20


class ArrayPool:
    """Aligned arrays that are used again when nothing else refers to them.

    A new array of the size of a batch comes from the operating system and costs a page
    fault for every 4 KiB.  These faults take as long as copying the batch.
    """

    def __init__(self) -> None:
        # Two threads must not take the same array.
        self._lock = threading.Lock()
        # The arrays that own memory, and the byte at which the aligned part of each
        # begins.
        self._owners: list[np.ndarray] = []
        self._starts: list[int] = []
        # What getrefcount returns for an array that only the list refers to.  It is
        # measured, because a call adds different numbers of references in different
        # versions of Python.
        self._owners.append(np.empty(0, np.uint8))
        self._unused = sys.getrefcount(self._owners[0])
        self._owners.clear()

    def __len__(self) -> int:
        return len(self._owners)

    def take(self, shape: tuple[int, ...]) -> np.ndarray:
        """Returns an uninitialised uint8 array of that shape, 64-byte aligned.

        It goes back to the pool when the last view of it is gone; TensorFlow's tensors
        that share its memory count as views.
        """
        num_bytes = math.prod(shape)
        owners = self._owners
        with self._lock:
            for i in range(len(owners)):
                # The array has no local name here: that would count as a reference.
                if (
                    sys.getrefcount(owners[i]) == self._unused
                    and owners[i].size == num_bytes + _ALIGNMENT
                ):
                    break
            else:
                self._remove_unused()
                i = len(owners)
                owners.append(np.empty(num_bytes + _ALIGNMENT, np.uint8))
                self._starts.append(-owners[i].ctypes.data % _ALIGNMENT)
            # A view of a view refers directly to the array that owns the memory.  The
            # owner's count therefore says whether anything uses the memory.
            start = self._starts[i]
            return owners[i][start : start + num_bytes].reshape(shape)

    def trim(self) -> None:
        """Gives unused memory of the arrays beyond a limit back to the system."""
        # It must not wait for the lock: the garbage collector may call this in `take`.
        if self._lock.acquire(blocking=False):
            try:
                self._remove_unused()
            finally:
                self._lock.release()

    def _remove_unused(self) -> None:
        """Removes arrays of the pool that nothing uses, beyond what may be kept."""
        owners, unused_bytes = self._owners, 0
        # The loop runs backwards, so that a removal does not move the arrays that it
        # has yet to visit.  It also keeps the newest arrays, because their sizes are
        # likely to be asked for again.
        for i in range(len(owners) - 1, -1, -1):
            if sys.getrefcount(owners[i]) == self._unused:
                unused_bytes += owners[i].size
                if unused_bytes > _UNUSED_BYTES:
                    del owners[i], self._starts[i]


@functools.cache
def shared_pool() -> ArrayPool:
    """Returns the array pool of this process, so that pipelines share its arrays."""
    return ArrayPool()


def aligned_zeros(size: int) -> np.ndarray:
    """Returns an array of zeros, aligned so that TensorFlow can share its memory."""
    owner = np.zeros(size + _ALIGNMENT, np.uint8)
    start = -owner.ctypes.data % _ALIGNMENT
    return owner[start : start + size]
