"""Keeps a split's stored images in memory, as one tensor of strings.

The graph engine reads from it: ``tf.gather`` reaches any record, which a stream over
files cannot.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import os
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from afad_tfdata.common import crc32, errors, files, resources, tensorflow_messages
from afad_tfdata.common.lazy_imports import tf
from afad_tfdata.images import codec
from afad_tfdata.reading import bad_records, record_index
from afad_tfdata.storage import hdf5

# The number of records that one call passes from Python to TensorFlow.  If it passed
# one, the call would cost more than the record; if it passed all, it would copy all.
_CHUNK = 256

_log = logging.getLogger(__name__)


# Compared by identity: dataclass equality would compare arrays, and comparing two
# arrays gives an array, which is neither true nor false.
@dataclasses.dataclass(frozen=True, eq=False)
class MemoryStore:
    """Stored images in memory.

    Attributes:
      data: string ``[n]``: the encoded image, or the row of pixels, of each record.
      substitute: int64 ``[n]``: the record itself, or for a bad one the next good one.
      pixel: As in `schema.Manifest.pixel`, of `data`; empty for encoded images.
      side: Side of the rows of pixels; 0 if encoded images differ in size.
    """

    data: tf.Tensor
    substitute: np.ndarray
    pixel: dict[str, Any]
    side: int


def load_store(
    index: record_index.RecordIndex,
    bad: bad_records.BadRecords,
    *,
    decoded_size: int = 0,
    verify: bool = True,
    try_decoding: bool = False,
    decode: str = "accurate",
) -> MemoryStore:
    """Reads the stored images of a split into memory, as a `MemoryStore`.

    Args:
      index: The split's records.
      bad: Takes the damaged records.
      decoded_size: Keeps pixels, resized to this side, instead of the stored bytes; 0
        for the stored bytes.
      verify: Whether to compare each record's checksum.
      try_decoding: Whether to decode each image once, to find those that cannot be.
      decode: One of `codec.DECODES`.

    Raises:
      DataError: A damaged record, beyond what `bad` skips.
    """
    _log.info(
        "input: keeping %s of stored images in memory for the %s split",
        resources.mib(index.image_bytes),
        index.split,
    )
    pixel, side = index.pixel, index.stored_size
    if decoded_size:
        pixel, side = {"dtype": "uint8", "channels": "last"}, decoded_size
    checked = _checked_images(index, bad, decoded_size, verify, try_decoding, decode)
    strings = tf.data.Dataset.from_generator(
        lambda: _chunks_of_images(checked),
        output_signature=tf.TensorSpec([None], tf.string),
    )
    try:
        # A tf.constant of a list would need all strings in Python, and would copy them.
        # Here each string is moved to its place in the tensor.
        data = strings.unbatch().batch(len(index)).get_single_element()
    except tf.errors.OpError as error:
        raise tensorflow_messages.own_error(error) or errors.DataError(
            errors.one_line(error.message)
        ) from error
    good = np.array([i not in bad.listed for i in range(len(index))])
    if not good.any():
        raise errors.DataError(
            f"no record of the {index.split} split can be read: restore the shards, or"
            " write the records again"
        )
    return MemoryStore(data, _next_good_records(good), pixel, side)


def _checked_images(
    index: record_index.RecordIndex,
    bad: bad_records.BadRecords,
    decoded_size: int,
    verify: bool,
    try_decoding: bool,
    decode: str,
) -> Iterator[bytes]:
    """Yields the bytes that the store keeps of each record; empty for a bad one."""
    row = hdf5.RowLayout.of_pixel(index.pixel, index.stored_size)
    for record, data in enumerate(stored_images(index)):
        try:
            if isinstance(data, Exception):
                raise codec.ImageError(errors.one_line(data)) from data
            if verify and crc32.crc32(data) != index.entries["crc32"][record]:
                raise codec.ImageError(bad_records.WRONG_CHECKSUM)
            if decoded_size or try_decoding:
                image = (
                    row.to_image(data)
                    if index.pixel
                    else codec.decode(data, stored=True, fast=decode == "fast")
                )
                if decoded_size:
                    data = codec.resize(image, decoded_size).tobytes()
        except codec.ImageError as error:
            bad.add(record, str(error))
            # An empty string, so that the other records keep their places.
            data = b""
        yield data


def stored_images(
    index: record_index.RecordIndex,
) -> Iterator[bytes | ValueError | zlib.error]:
    """Yields the stored bytes of each record's image, in order, for `MemoryStore`.

    If the bytes of a record cannot be unpacked, the exception is yielded instead.  It
    is not raised, because that would end the generator.

    Raises:
      DataError: A shard cannot be read at all.
    """
    starts, rows = index.shard_starts(), index.rows_in_shards()
    for shard, path in enumerate(index.paths):
        records = range(int(starts[shard]), int(starts[shard + 1]))
        if not index.contiguous:
            store = hdf5.RowReader(path, index.dataset)
            for record in records:
                try:
                    yield store.row(int(rows[record]))
                except (ValueError, zlib.error) as error:
                    yield error
            continue
        data = _shard_bytes(path)
        entries = index.entries[records.start : records.stop]
        # Plain integers slice faster than numpy's scalars.
        offsets = entries["image_offset"].tolist()
        lengths = entries["image_length"].tolist()
        for offset, length in zip(offsets, lengths, strict=True):
            yield bytes(data[offset : offset + length])


def _shard_bytes(path: str) -> np.ndarray | bytes:
    """The bytes of a shard whose images the store keeps, mapped if it is local."""
    try:
        if files.is_remote(path):
            return files.read_bytes(path)
        # A shard without records may be an empty file, which cannot be mapped.
        return np.memmap(path, np.uint8, "r") if os.path.getsize(path) else b""
    except OSError as error:
        raise files.read_error(path, error) from error
    except (ValueError, tf.errors.OpError) as error:
        raise errors.DataError(
            f"cannot read {path}: {errors.one_line(error)}"
        ) from error


def _chunks_of_images(items: Iterator[bytes]) -> Iterator[list[bytes]]:
    """Groups the images that the store keeps into lists, for fewer calls."""
    while chunk := list(itertools.islice(items, _CHUNK)):
        yield chunk


def _next_good_records(good: np.ndarray) -> np.ndarray:
    """The substitute of each record in the memory store: itself or the next good."""
    numbers = np.flatnonzero(good)
    following = np.searchsorted(numbers, np.arange(len(good)))
    # The first good record follows the last one.
    return numbers[following % len(numbers)].astype(np.int64)
