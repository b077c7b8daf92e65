"""The CRC-32 of stored images, with the processor's instructions where possible.

It is the CRC of zlib, gzip and PNG (ISO 3309, polynomial 0xEDB88320 in reflected form).
The libraries differ in speed alone: the index of a data set has the same values
whichever one computed them. TFRecord's framing has another CRC; see `storage.tfrecord`.

CRC-32 is linear: the checksum of two strings, one after the other, follows from the
checksums of both and the length of the second.  One call can therefore check a whole
block of rows, without the interpreter lock.  (Mark Adler's ``crc32_combine`` in zlib is
based on the same fact.)
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import zlib
from collections.abc import Callable

import numpy as np

# In order of preference. The first two multiply without carry (PCLMULQDQ) 32 bytes or
# more at once; Python's zlib is built without that on most systems.
_LIBRARIES = ("isal.isal_zlib", "zlib_ng.zlib_ng", "zlib")
# The number of rows in a block, a power of two.  A block is so long that the call costs
# little, and so short that its rows are still in the processor's cache after the copy.
BLOCK_ROWS = 16
_POLYNOMIAL = 0xEDB88320  # The polynomial of CRC-32, with the bits reversed.


def _fastest_library() -> tuple[Callable[..., int], str]:
    """The first CRC-32 library that loads, and its name."""
    for library in _LIBRARIES:
        # A library that is installed may still not load: then the next one is used.
        with contextlib.suppress(ImportError):
            return importlib.import_module(library).crc32, library.partition(".")[0]
    return zlib.crc32, "zlib"


_crc32, LIBRARY = _fastest_library()
"""The function, and the name of the package that it is from."""


def crc32(data: bytes | memoryview | np.ndarray, value: int = 0) -> int:
    """The CRC-32 of some bytes.

    It releases the interpreter lock while it computes more than some thousand bytes, so
    that threads can check images at the same time.

    Args:
      data: Any C-contiguous buffer, of any number of dimensions; it is not copied.
      value: The CRC-32 of what is before it.

    Returns:
      The CRC-32, in [0, 2 ** 32).

    Raises:
      ValueError: The buffer is not contiguous.
    """
    return _crc32(data, value)


def block_checksums(checksums: np.ndarray, row_bytes: int) -> np.ndarray:
    """Returns the CRC-32 of each block of `BLOCK_ROWS` rows; the last may be shorter.

    Args:
      checksums: uint32 ``[n]``: ``zlib.crc32`` of each row.
      row_bytes: Size of each row.

    Returns:
      uint32 ``[ceil(n / BLOCK_ROWS)]``.
    """
    whole = len(checksums) // BLOCK_ROWS * BLOCK_ROWS
    found = _combine_rows(checksums[:whole].reshape(-1, BLOCK_ROWS), row_bytes)
    if whole == len(checksums):
        return found
    last = np.zeros((1, BLOCK_ROWS), np.uint32)
    # The checksum of an empty string is 0, so the rows are padded with zeros in front.
    last[0, BLOCK_ROWS - (len(checksums) - whole) :] = checksums[whole:]
    return np.concatenate([found, _combine_rows(last, row_bytes)])


def _combine_rows(blocks: np.ndarray, row_bytes: int) -> np.ndarray:
    """Combines the CRC-32s of rows: uint32 ``[m]`` from uint32 ``[m, BLOCK_ROWS]``."""
    length = row_bytes
    while blocks.shape[1] > 1:
        tables = _moving_tables(length)
        first = blocks[:, 0::2]
        moved = blocks[:, 1::2].copy()
        for byte in range(4):
            moved ^= tables[byte][(first >> np.uint32(8 * byte)) & np.uint32(0xFF)]
        blocks, length = moved, 2 * length
    return blocks[:, 0]


@functools.lru_cache(64)
def _moving_tables(length: int) -> np.ndarray:
    """Returns uint32 ``[4, 256]``: what each byte adds to a moved CRC-32.

    Args:
      length: Bytes by which the checksum is moved.
    """
    factor = _polynomial_power(8 * length)
    moved = np.array(
        [_polynomial_product(1 << bit, factor) for bit in range(32)], np.uint32
    )
    has_bit = np.arange(256) >> np.arange(8)[:, np.newaxis] & 1 == 1
    # Each byte moves as the sum of its bits.
    bits = np.where(has_bit, moved.reshape(4, 8, 1), np.uint32(0))
    return np.bitwise_xor.reduce(bits, axis=1)


def _polynomial_power(exponent: int) -> int:
    """Returns the polynomial x to that power, modulo the polynomial of CRC-32."""
    result, square = 1 << 31, 1 << 30  # 1 and x: the highest bit is x to the power 0.
    while exponent:
        if exponent & 1:
            result = _polynomial_product(result, square)
        square = _polynomial_product(square, square)
        exponent >>= 1
    return result


def _polynomial_product(first: int, second: int) -> int:
    """Returns the product of two polynomials, modulo the polynomial of CRC-32."""
    result = 0
    for bit in range(31, -1, -1):
        if first >> bit & 1:
            result ^= second
        second = second >> 1 ^ (_POLYNOMIAL if second & 1 else 0)
    return result
