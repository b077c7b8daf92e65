"""The CRC-32 of stored images, with the processor's instructions where possible.

It is the CRC of zlib, gzip and PNG (ISO 3309, polynomial 0xEDB88320 in reflected form).
The libraries differ in speed alone: the index of a data set has the same values
whichever one computed them. TFRecord's framing has another CRC; see `storage.tfrecord`.
"""

from __future__ import annotations

import contextlib
import importlib
import zlib
from collections.abc import Callable

import numpy as np

# In order of preference. The first two multiply without carry (PCLMULQDQ) 32 bytes or
# more at once; Python's zlib is built without that on most systems.
_LIBRARIES = ("isal.isal_zlib", "zlib_ng.zlib_ng", "zlib")


def _fastest() -> tuple[Callable[..., int], str]:
    """The first CRC-32 library that loads, and its name."""
    for library in _LIBRARIES:
        # A library that is installed may still not load: then the next one is used.
        with contextlib.suppress(ImportError):
            return importlib.import_module(library).crc32, library.partition(".")[0]
    return zlib.crc32, "zlib"


_crc32, LIBRARY = _fastest()
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
