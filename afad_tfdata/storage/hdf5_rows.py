"""Pixels stored row by row: what a row's bytes mean, and rows behind a filter."""

from __future__ import annotations

import os
import threading
import zlib
from typing import Any

import numpy as np

from afad_tfdata.common import errors


class Row:
    """The layout of one stored image.

    Args:
      pixel: As in `schema.Manifest.pixel`.
      side: Pixels.

    Attributes:
      plain: Whether the bytes are uint8 ``[side, side, 3]`` already.
    """

    def __init__(self, pixel: dict[str, Any], side: int) -> None:
        self._dtype = np.dtype(pixel.get("dtype", "uint8"))
        self._first = pixel.get("channels") == "first"
        self._shape = row_shape(pixel, side)
        self.plain = self._dtype == np.uint8 and not self._first

    def image(self, data: Any) -> np.ndarray:
        """uint8 ``[side, side, 3]`` from the bytes of a row."""
        values = np.frombuffer(data, self._dtype).reshape(self._shape)
        if self._first:
            values = values.transpose(1, 2, 0)
        if self._dtype != np.uint8:
            values = np.clip(np.rint(values), 0, 255)
        return np.ascontiguousarray(values, np.uint8)


def row_shape(pixel: dict[str, Any], side: int) -> tuple[int, int, int]:
    """Shape of one stored image."""
    return (3, side, side) if pixel.get("channels") == "first" else (side, side, 3)


def row_bytes(pixel: dict[str, Any], side: int) -> int:
    """Bytes of one stored image."""
    return side * side * 3 * np.dtype(pixel.get("dtype", "uint8")).itemsize


class Store:
    """Rows of a chunked data set, read without HDF5's global lock where that can be.

    One row to a chunk and gzip as the only filter (what this package writes): the
    chunk table says where the compressed bytes lie.  Everything else goes through h5py,
    one row at a time.

    Args:
      path: The file.
      name: The data set in it.
    """

    def __init__(self, path: str, name: str) -> None:
        import h5py

        self._lock = threading.Lock()
        try:
            self._file = h5py.File(path, "r")
            self._data = self._file[name]
            self._chunks = _chunk_table(self._data)
        except (OSError, KeyError, ValueError) as error:
            raise errors.DataError(
                f"cannot read {name!r} of {path}: {errors.one_line(error)}"
            ) from error
        self._fd = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "_fd"):
            os.close(self._fd)

    def row(self, number: int) -> bytes:
        """The uncompressed bytes of a row."""
        if self._chunks is None:
            try:
                with self._lock:
                    return self._data[number].tobytes()
            except OSError as error:
                raise ValueError(f"HDF5: {errors.one_line(error)}") from error
        offset, length = self._chunks[number].tolist()
        return zlib.decompress(os.pread(self._fd, length, offset))


def _chunk_table(data: Any) -> np.ndarray | None:
    """int64 ``[rows, 2]``: offset and length of each row's gzip bytes, or None."""
    plist = data.id.get_create_plist()
    only_gzip = plist.get_nfilters() == 1 and data.compression == "gzip"
    if not only_gzip or not data.chunks or data.chunks[0] != 1:
        return None
    if data.chunks[1:] != data.shape[1:]:
        return None
    table = np.zeros((len(data), 2), np.int64)
    for i in range(data.id.get_num_chunks()):
        info = data.id.get_chunk_info(i)
        if info.filter_mask:  # A chunk whose filter was left out.
            return None
        table[info.chunk_offset[0]] = info.byte_offset, info.size
    return table
