"""HDF5 shards: contiguous pixels and labels, under the names that older programs use.

`write` writes a shard; `RowLayout` says what the bytes of one stored image mean, for
the writer and for all readers; `RowReader` reads rows whose bytes are compressed.
"""

from __future__ import annotations

import errno
import os
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from afad_tfdata.common import errors, files

if TYPE_CHECKING:
    import h5py

DTYPES = ("uint8", "float32")
CHANNELS = ("last", "first")
COMPRESSIONS = ("none", "gzip")
LABELS = ("gender", "age")

# The pixels begin at a multiple of this: a page of memory.  A reader that maps the file
# can then copy rows of any size without Python.
_ALIGNMENT = 4096
# zlib's levels above 4 take much longer and save little on photos.
_GZIP_LEVEL = 4


class RowLayout:
    """How an HDF5 shard, or a raw record, stores one image as a row of pixels.

    Args:
      side: Height and width of the image, pixels.
      dtype: One of `DTYPES`; in files of other programs another number type.
      channels: Where the axis of the colours is: one of `CHANNELS`.
      limits: Values of black and white, if they are not 0 and 255.

    Attributes:
      shape: Shape of a row.
      num_bytes: Size of a row, uncompressed.
      plain: Whether the bytes are uint8 ``[side, side, 3]`` already.
    """

    def __init__(
        self,
        side: int,
        dtype: str = "uint8",
        channels: str = "last",
        limits: tuple[float, float] | None = None,
    ) -> None:
        self._dtype, self._limits = np.dtype(dtype), limits
        self._channels_first = channels == "first"
        self.shape = (3, side, side) if self._channels_first else (side, side, 3)
        self.num_bytes = side * side * 3 * self._dtype.itemsize
        pixels = self._dtype == np.uint8 and limits is None
        self.plain = pixels and not self._channels_first

    @classmethod
    def of_pixel(cls, pixel: Mapping[str, Any], side: int) -> RowLayout:
        """The layout of HDF5 rows that a manifest's ``pixel`` describes.

        Args:
          pixel: The description; empty for the default layout.  For files of other
            programs it may have ``black`` and ``white``, the values of these colours.
          side: Height and width of the image, pixels.
        """
        limits = (pixel["black"], pixel["white"]) if "black" in pixel else None
        dtype, channels = pixel.get("dtype", "uint8"), pixel.get("channels", "last")
        return cls(side, dtype, channels, limits)

    @property
    def dtype(self) -> np.dtype:
        """Type of a value in an HDF5 row."""
        return self._dtype

    def to_image(self, data: bytes | memoryview | np.ndarray) -> np.ndarray:
        """Converts a row, as HDF5 shards store it, to uint8 ``[side, side, 3]``."""
        values = np.frombuffer(data, self._dtype).reshape(self.shape)
        if self._channels_first:
            values = values.transpose(1, 2, 0)
        if self._limits:
            # Computed in float64, as in the graph engine, so that both round in the
            # same way.
            black, white = self._limits
            values = (values.astype(np.float64) - black) * (255 / (white - black))
        if self._limits or self._dtype != np.uint8:
            # Files of other programs may contain fractions and values out of the range.
            values = np.clip(np.rint(values), 0, 255)
        return np.ascontiguousarray(values, np.uint8)

    def to_rows(self, images: np.ndarray) -> np.ndarray:
        """Converts uint8 ``[n, side, side, 3]`` to HDF5 rows: ``[n, *shape]``."""
        if self._channels_first:
            images = images.transpose(0, 3, 1, 2)
        return np.ascontiguousarray(images, self._dtype)


def write(
    path: str,
    blocks: Iterator[np.ndarray],
    *,
    layout: RowLayout,
    ages: np.ndarray,
    genders: np.ndarray,
    filenames: Sequence[bytes],
    compression: str,
    labels: str,
    groups: Sequence[bytes] = (),
) -> int:
    """Writes one HDF5 shard.

    Args:
      path: The file to write; the caller renames it when it is whole.
      blocks: Blocks of images, each uint8 ``[n, side, side, 3]``.  Together they have
        one image for each of `ages`.
      layout: How each image is stored.
      ages: Integers ``[num_examples]``, years.
      genders: Integers ``[num_examples]``, 0 or 1.
      filenames: ``[num_examples]`` relative paths.
      compression: One of `COMPRESSIONS`.
      labels: One of `LABELS`: what the name ``labels`` links to.
      groups: ``[num_examples]`` what each image belongs to; empty if the source does
        not say it.

    Returns:
      Byte offset of the pixels in the file; 0 for chunked (compressed) storage.
    """
    import h5py

    num_examples = len(ages)
    storage: dict[str, Any] = {}
    if compression == "gzip" and num_examples:
        storage = {
            "compression": "gzip",
            "compression_opts": _GZIP_LEVEL,
            # A chunk has one image, so that a reader inflates only the images it needs.
            "chunks": (1, *layout.shape),
        }
    longest = max((len(name) for name in filenames), default=1)
    num_bytes = num_examples * layout.num_bytes
    # Without these bounds, newer HDF5 libraries would write other bytes, and features
    # that older readers do not know.
    with h5py.File(
        path,
        "w",
        libver=("earliest", "v110"),
        # Only the pixels are aligned: labels and names would waste pages.
        alignment_threshold=max(num_bytes, _ALIGNMENT),
        alignment_interval=1 if storage else _ALIGNMENT,
    ) as f:
        f.create_dataset("age", data=np.asarray(ages, "<i8"))
        f.create_dataset("gender", data=np.asarray(genders, "<i8"))
        # HDF5 has no strings of length 0.
        f.create_dataset("filename", data=np.asarray(filenames, f"S{max(1, longest)}"))
        data = f.create_dataset(
            "data", (num_examples, *layout.shape), layout.dtype, **storage
        )
        if groups:
            longest = max(1, *(len(group) for group in groups))
            f.create_dataset("group", data=np.asarray(groups, f"S{longest}"))
        f["labels_0"], f["labels_1"] = f["age"], f["gender"]
        f["labels"] = f[labels]
        row = 0
        for block in blocks:
            data[row : row + len(block)] = layout.to_rows(block)
            row += len(block)
        offset = data.id.get_offset() if not storage else 0
    # An empty data set has no bytes, and its offset is None.
    return offset or 0


class RowReader:
    """Rows of a chunked data set, read without HDF5's global lock where possible.

    Where a chunk is one row and gzip is the only filter (as in the files that this
    package writes), the table of chunks says where the compressed bytes are, and
    threads inflate them at the same time.  All other rows are read by h5py, one at a
    time.

    Args:
      path: The file.
      name: The data set in it.

    Raises:
      DataError: It cannot be read.
    """

    def __init__(self, path: str, name: str) -> None:
        import h5py

        # h5py's objects are not safe for several threads at once.
        self._lock = threading.Lock()
        try:
            self._file = h5py.File(path, "r")
            self._data = self._file[name]
            self._chunks = _chunk_table(self._data)
        except (OSError, KeyError, ValueError) as error:
            if isinstance(error, OSError) and error.errno not in (None, errno.ENOENT):
                # The system did not open the file, so its bytes may be undamaged.
                reason = OSError(error.errno, os.strerror(error.errno))
                raise files.read_error(path, reason) from error
            raise errors.DataError(
                f"cannot read {name!r} of {path}: {errors.one_line(error)}"
            ) from error
        self._path = path
        if self._chunks is not None:
            # `row` opens the file for each row, because thousands of shards must not
            # need thousands of descriptors at a time.
            self._file.close()

    def row(self, number: int) -> bytes:
        """The uncompressed bytes of a row of an HDF5 file.

        Raises:
          ValueError, zlib.error: They cannot be read.
          UsageError: The system refuses to open the file.
        """
        if self._chunks is None:
            try:
                with self._lock:
                    return self._data[number].tobytes()
            except OSError as error:
                raise ValueError(f"HDF5: {errors.one_line(error)}") from error
        offset, length = self._chunks[number].tolist()
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise files.read_error(self._path, error) from error
        try:
            return zlib.decompress(os.pread(descriptor, length, offset))
        finally:
            os.close(descriptor)


def refuse_outside(file: h5py.File, path: str) -> None:
    """Refuses an HDF5 file that takes data from other files.

    Args:
      file: The open file.
      path: Its name, for the message.

    Raises:
      UsageError: It has an external link, or a data set stored in another file.
    """
    import h5py

    found: list[str] = []

    def look_at_link(name: str, link: Any) -> None:
        """Notes a link of the HDF5 file that leads to another file."""
        if isinstance(link, h5py.ExternalLink):
            found.append(f"{name} is a link to {link.filename}")

    def look_at_item(name: str, item: Any) -> None:
        """Notes a data set of the HDF5 file that is stored in another file."""
        if isinstance(item, h5py.Dataset) and (item.external or item.is_virtual):
            found.append(f"{name} is stored in another file")

    file.visititems_links(look_at_link)
    file.visititems(look_at_item)
    if found:
        raise errors.UsageError(
            f"{path}: {found[0]}, which is not read: copy its data into this file"
        )


def unwritten_rows(data: h5py.Dataset) -> list[int]:
    """Numbers of the rows without bytes in the file, which HDF5 reads as zeros.

    Args:
      data: A data set with one axis or more.
    """
    import h5py

    count = len(data) if data.shape else 0
    if not data.size:
        return []
    layout = data.id.get_create_plist().get_layout()
    if layout == h5py.h5d.CONTIGUOUS:
        return [] if data.id.get_offset() is not None else list(range(count))
    if layout != h5py.h5d.CHUNKED:
        return []  # Compact: the values are in the header.
    sides = zip(data.shape, data.chunks, strict=True)
    grid = [-(-length // chunk) for length, chunk in sides]
    if data.id.get_num_chunks() == np.prod(grid):
        return []
    stored = np.zeros(grid[0], np.int64)
    for i in range(data.id.get_num_chunks()):
        stored[data.id.get_chunk_info(i).chunk_offset[0] // data.chunks[0]] += 1
    missing = stored < np.prod(grid[1:], initial=1)
    return np.flatnonzero(np.repeat(missing, data.chunks[0])[:count]).tolist()


def _chunk_table(data: h5py.Dataset) -> np.ndarray | None:
    """int64 ``[rows, 2]``: offset and length of each HDF5 row's gzip bytes, or None."""
    plist = data.id.get_create_plist()
    only_gzip = plist.get_nfilters() == 1 and data.compression == "gzip"
    if not only_gzip or not data.chunks or data.chunks[0] != 1:
        return None
    if data.chunks[1:] != data.shape[1:]:
        return None
    table = np.zeros((len(data), 2), np.int64)
    for i in range(data.id.get_num_chunks()):
        info = data.id.get_chunk_info(i)
        if info.filter_mask:  # This chunk was stored without its filter.
            return None
        table[info.chunk_offset[0]] = info.byte_offset, info.size
    return table
