"""Stored images held in memory as strings, for the graph engine."""

from __future__ import annotations

import dataclasses
import logging
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from afad_tfdata.common import errors, files, resources
from afad_tfdata.common.lazy import tf
from afad_tfdata.images import codec
from afad_tfdata.reading import bad_records, record_index
from afad_tfdata.reading import config as input_config
from afad_tfdata.storage import hdf5

_CHUNK = 256  # Records that are handed on together while they are loaded.

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class Held:
    """Stored images in machine.

    Attributes:
      data: string ``[n]``: encoded images or rows of pixels.
      redirect: int64 ``[n]``: the record itself, or the next good one behind a bad one.
      pixel: As in `schema.Manifest.pixel`, of `data`; empty for encoded images.
      side: Of the rows of pixels.
    """

    data: Any
    redirect: np.ndarray
    pixel: dict[str, Any]
    side: int


def load(
    source: record_index.Examples,
    config: input_config.InputConfig,
    image_size: int,
    bad: bad_records.BadRecords,
) -> Held:
    """Reads every image of a split into memory, and checks its checksum.

    Args:
      source: The examples.
      config: ``cache="decoded"`` holds pixels at the image size.
      image_size: Pixels.
      bad: Where damaged records go.

    Raises:
      DataError: A damaged record, beyond what `bad` passes over.
    """
    _log.info(
        "input: holding %s of stored images in memory for the %s split",
        resources.mib(source.image_bytes),
        source.split,
    )
    pixel, side = source.pixel, source.stored_size
    decoded = config.cache == "decoded"
    if decoded:
        pixel, side = {"dtype": "uint8", "channels": "last"}, image_size
    checked = _checked_images(source, config, image_size if decoded else 0, bad)
    strings = tf.data.Dataset.from_generator(
        lambda: _chunks(checked),
        output_signature=tf.TensorSpec([None], tf.string),
    )
    try:
        # Strings are moved, not copied, on their way into the one tensor.
        data = strings.unbatch().batch(len(source)).get_single_element()
    except tf.errors.OpError as error:
        raise _own_error(error) from error
    good = np.array([i not in bad.listed for i in range(len(source))])
    if not good.any():
        raise errors.DataError(f"no record of the {source.split} split is good")
    return Held(data, _next_good(good), pixel, side)


def _checked_images(
    source: record_index.Examples,
    config: input_config.InputConfig,
    decoded_size: int,
    bad: bad_records.BadRecords,
) -> Iterator[bytes]:
    """The bytes to hold of each record; of a bad one, nothing."""
    row = hdf5.RowLayout.of_pixel(source.pixel, source.stored_size)
    # With a budget a record that cannot be decoded must be known beforehand.
    tries = config.max_bad_records > 0 and not source.pixel
    for record, data in enumerate(stored_images(source)):
        try:
            if isinstance(data, Exception):
                raise codec.ImageError(errors.one_line(data)) from data
            if config.verify and zlib.crc32(data) != source.index["crc32"][record]:
                raise codec.ImageError("its bytes do not fit its checksum")
            if decoded_size or tries:
                image = row.to_image(data) if source.pixel else codec.decode(data)
                if decoded_size:
                    data = codec.resize(image, decoded_size).tobytes()
        except codec.ImageError as error:
            bad.add(record, str(error))
            data = b""
        yield data


def stored_images(source: record_index.Examples) -> Iterator[Any]:
    """The stored bytes of each record, in order; an exception where there are none."""
    first = source.first_of_shard()
    for shard, path in enumerate(source.paths):
        records = range(int(first[shard]), int(first[shard + 1]))
        if not source.contiguous:
            store = hdf5.RowReader(path, source.dataset)
            for row in range(len(records)):
                try:
                    yield store.row(row)
                except (ValueError, zlib.error) as error:
                    yield error
            continue
        data = _shard_bytes(path)
        offsets = source.index["image_offset"][records.start : records.stop].tolist()
        lengths = source.index["image_length"][records.start : records.stop].tolist()
        for offset, length in zip(offsets, lengths, strict=True):
            yield bytes(data[offset : offset + length])


def _shard_bytes(path: str) -> Any:
    try:
        if files.is_remote(path):
            return memoryview(files.read_bytes(path))
        return np.memmap(path, np.uint8, "r")
    except (OSError, ValueError, tf.errors.OpError) as error:
        raise errors.DataError(
            f"cannot read {path}: {errors.one_line(error)}"
        ) from error


def _chunks(items: Iterator[bytes]) -> Iterator[list[bytes]]:
    chunk: list[bytes] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == _CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _next_good(good: np.ndarray) -> np.ndarray:
    """int64 ``[n]``: each good record itself, for a bad one the next good one."""
    numbers = np.flatnonzero(good)
    behind = np.searchsorted(numbers, np.arange(len(good)))
    return numbers[behind % len(numbers)].astype(np.int64)


def _own_error(error: Any) -> errors.DataError:
    text = str(error.message)
    start = text.find("DataError: ")
    if start >= 0:
        return errors.DataError(text[start + len("DataError: ") :].splitlines()[0])
    return errors.DataError(errors.one_line(text))
