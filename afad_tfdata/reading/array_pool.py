"""Arrays for batches, used again when nothing else refers to them."""

from __future__ import annotations

import functools
import math
import sys
import threading

import numpy as np

# TensorFlow's EIGEN_MAX_ALIGN_BYTES: it copies arrays that are aligned to less.
_ALIGNMENT = 64
# Memory that may stay unused: the arrays of the next pipeline, or of the one that takes
# turns with this one.
_UNUSED_BYTES = 256 << 20


class ArrayPool:
    """Aligned arrays that are used again when nothing else refers to them.

    Fresh arrays of the size of a batch come from the operating system, which costs a
    page fault for every 4 KiB: as much time as copying the batch.
    """

    def __init__(self) -> None:
        # Two threads must not take the same array.
        self._lock = threading.Lock()
        # Arrays that own memory, and where in each the aligned part begins.
        self._owners: list[np.ndarray] = []
        self._starts: list[int] = []
        # What getrefcount returns for an array that only the list refers to: measured,
        # since how many references a call adds differs between versions of Python.
        self._owners.append(np.empty(0, np.uint8))
        self._unused = sys.getrefcount(self._owners[0])
        self._owners.clear()

    def __len__(self) -> int:
        return len(self._owners)

    def take(self, shape: tuple[int, ...]) -> np.ndarray:
        """An uninitialised uint8 array of that shape, 64-byte aligned.

        It goes back to the pool when the last view of it is gone; TensorFlow's tensors
        that share its memory count as views.
        """
        num_bytes = math.prod(shape)
        owners = self._owners
        with self._lock:
            for i in range(len(owners)):
                # In this form, without a local name for the array, which would count.
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
            # A view of a view refers to the array that owns the memory, and not to the
            # view between: the owner's count says whether anything uses the memory.
            start = self._starts[i]
            return owners[i][start : start + num_bytes].reshape(shape)

    def trim(self) -> None:
        """Gives unused memory beyond a limit back to the system."""
        # Without waiting: the garbage collector may call this inside `take`.
        if self._lock.acquire(blocking=False):
            try:
                self._remove_unused()
            finally:
                self._lock.release()

    def _remove_unused(self) -> None:
        owners, unused_bytes = self._owners, 0
        # Backwards: positions before a removed one stay, and the newest arrays are
        # likely to be of a size that is still asked for.
        for i in range(len(owners) - 1, -1, -1):
            if sys.getrefcount(owners[i]) == self._unused:
                unused_bytes += owners[i].size
                if unused_bytes > _UNUSED_BYTES:
                    del owners[i], self._starts[i]


@functools.cache
def shared() -> ArrayPool:
    """The pool of this process: a new pipeline finds the arrays of earlier ones."""
    return ArrayPool()


def aligned_zeros(size: int) -> np.ndarray:
    """Zeros, uint8 ``[size]``, aligned as TensorFlow asks for shared memory."""
    owner = np.zeros(size + _ALIGNMENT, np.uint8)
    start = -owner.ctypes.data % _ALIGNMENT
    return owner[start : start + size]
