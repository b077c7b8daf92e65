"""The graph engine, which consists of TensorFlow operations only.

It works where the mapped engine cannot: with shards on remote file systems, on machines
without simplejpeg and OpenCV, and in a ``tf.data`` service.  It is also used on
machines with more cores than one Python process can feed.

A global shuffle needs access to any record.  If the stored images fit in memory,
`GraphMemoryEngine` reads them in the same order as the mapped engine.  If they do not
fit, `GraphStreamEngine` decodes the streams of `record_stream`.

Both read a whole batch in one function, which the pipeline maps once, because a
transformation costs the same for a batch as for an image.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from afad_tfdata.common.lazy_imports import tf
from afad_tfdata.images import tensor_preprocessing
from afad_tfdata.reading import memory_store, record_index, record_stream
from afad_tfdata.storage import hdf5


class GraphMemoryEngine:
    """The graph engine for a split whose stored images are in memory.

    Args:
      index: The split's records.
      store: Their images.
      image_size: Side of the images that it returns, pixels.
      num_threads: Batches that are read at the same time.
      decode: One of `codec.DECODES`.
    """

    def __init__(
        self,
        index: record_index.RecordIndex,
        store: memory_store.MemoryStore,
        image_size: int,
        num_threads: int,
        decode: str = "accurate",
    ) -> None:
        self._store, self._size, self._decode = store, image_size, decode
        self._labels = _LabelsByRecord(index)
        self.num_threads = num_threads

    def read(
        self, records: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        """Reads like `mapped_reader.MappedReader.read`; masks -1 and bad records."""
        wanted = tf.maximum(records, 0)
        good = tf.gather(self._store.substitute, wanted)
        mask = (records >= 0) & (good == wanted)
        return mask_batch(self._decoded_images(good), *self._labels.look_up(good), mask)

    def read_train(self, records: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Reads without a mask: the next good record replaces a bad one."""
        good = tf.gather(self._store.substitute, records)
        return self._decoded_images(good), *self._labels.look_up(good)

    def _decoded_images(self, records: tf.Tensor) -> tf.Tensor:
        """Decodes the images of records that are in memory."""
        store = self._store
        data = tf.gather(store.data, records)
        return decode_stored(data, store.pixel, store.side, self._size, self._decode)


class GraphStreamEngine:
    """The graph engine that decodes batches of records as they come from a stream.

    Args:
      index: The split's records.
      stream: Streams of those records.
      image_size: Side of the images that it returns, pixels.
      num_threads: Batches that are decoded at the same time.
      decode: One of `codec.DECODES`.

    Attributes:
      stream: The argument `stream`.
    """

    def __init__(
        self,
        index: record_index.RecordIndex,
        stream: record_stream.RecordStream,
        image_size: int,
        num_threads: int,
        decode: str = "accurate",
    ) -> None:
        self.stream, self.num_threads = stream, num_threads
        self._index, self._size, self._decode = index, image_size, decode
        self._labels = _LabelsByRecord(index)

    def read(
        self, data: tf.Tensor, records: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        """Decodes a batch of a stream, which may end in padding.

        Args:
          data: ``[B]``: stored bytes, or serialized examples.
          records: int64 ``[B]``: their record numbers; -1 is padding.

        Returns:
          As `mapped_reader.MappedReader.read`.
        """
        mask = records >= 0
        labels = self._labels.look_up(tf.maximum(records, 0))
        return mask_batch(self._decoded_images(data), *labels, mask)

    def read_train(
        self, data: tf.Tensor, records: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Decodes a batch of a stream without padding, and returns no mask."""
        return self._decoded_images(data), *self._labels.look_up(records)

    def _decoded_images(self, data: tf.Tensor) -> tf.Tensor:
        """Decodes the images of a batch of records of a stream."""
        index = self._index
        if index.format == "tfrecord":
            # One call parses the batch: a call per record takes several times as long.
            name = index.features["image"]
            spec = {name: tf.io.FixedLenFeature([], tf.string)}
            data = tf.io.parse_example(data, spec)[name]
        return decode_stored(
            data, index.pixel, index.stored_size, self._size, self._decode
        )


class _LabelsByRecord:
    """The labels that the graph engine looks up by record number."""

    def __init__(self, index: record_index.RecordIndex) -> None:
        self._ages = index.ages
        self._genders = index.entries["gender"].astype(np.int32)

    def look_up(self, records: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns ages, float32 ``[B]``, and genders, int32 ``[B]``."""
        return tf.gather(self._ages, records), tf.gather(self._genders, records)


def mask_batch(
    image: tf.Tensor, age: tf.Tensor, gender: tf.Tensor, mask: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns the graph engine's batch with zeros where the mask is False."""
    zero = tf.zeros([], tf.uint8)
    image = tf.where(mask[:, tf.newaxis, tf.newaxis, tf.newaxis], image, zero)
    return image, tf.where(mask, age, 0.0), tf.where(mask, gender, 0), mask


def decode_stored(
    data: tf.Tensor,
    pixel: dict[str, Any],
    side: int,
    image_size: int,
    way: str = "accurate",
) -> tf.Tensor:
    """Decodes the stored bytes of a batch to images by the graph engine's operations.

    Args:
      data: string ``[B]``: encoded images or rows of pixels; or the pixels themselves.
      pixel: As in `schema.Manifest.pixel`; empty for encoded images.
      side: Side of the stored images, pixels; 0 if they differ.
      image_size: Side of the result, pixels.
      way: How JPEGs are decoded, one of `codec.DECODES`.

    Returns:
      uint8 ``[B, image_size, image_size, 3]``.
    """
    if pixel:
        return unpack_pixels(data, pixel, side, image_size)
    return tf.map_fn(
        lambda one: tensor_preprocessing.decode_and_resize(
            one, image_size, stored_size=side, decode=way
        ),
        data,
        fn_output_signature=tf.TensorSpec([image_size, image_size, 3], tf.uint8),
        # The pipeline already decodes one batch on each core at a time.  Parallelism
        # within a batch would only add switches between threads.
        parallel_iterations=1,
    )


def unpack_pixels(
    data: tf.Tensor, pixel: dict[str, Any], side: int, image_size: int
) -> tf.Tensor:
    """Turns stored pixels into images by the graph engine's operations.

    Args:
      data: string ``[B]``: rows of pixels; or the pixels themselves.
      pixel: As in `schema.Manifest.pixel`.
      side: Side of the stored images, pixels.
      image_size: Side of the result, pixels.

    Returns:
      uint8 ``[B, image_size, image_size, 3]``.
    """
    values = data
    if data.dtype == tf.string:
        dtype = np.dtype(pixel["dtype"])
        kind = tf.as_dtype(dtype.newbyteorder("="))
        values = tf.io.decode_raw(
            data,
            # The operation has no kernel for float16.
            tf.uint16 if kind == tf.float16 else kind,
            little_endian=dtype.byteorder != ">",
            fixed_length=hdf5.RowLayout.of_pixel(pixel, side).num_bytes,
        )
        values = tf.bitcast(values, kind)
    if pixel["channels"] == "first":
        values = tf.reshape(values, [-1, 3, side, side])
        values = tf.transpose(values, [0, 2, 3, 1])
    else:
        values = tf.reshape(values, [-1, side, side, 3])
    values = tf.ensure_shape(values, [data.shape[0], side, side, 3])
    if "black" in pixel:
        # The mapped engine computes in float64 too, so that both round in the same way.
        scale = 255 / (pixel["white"] - pixel["black"])
        values = (tf.cast(values, tf.float64) - pixel["black"]) * scale
    if values.dtype != tf.uint8:
        # Pixels are rounded before they are resized, because the mapped engine does so.
        rounded = tf.round(values) if values.dtype.is_floating else values
        # TensorFlow's clip_by_value does not support all types of integers.
        rounded = rounded if values.dtype.is_floating else tf.cast(rounded, tf.float64)
        values = tf.cast(tf.clip_by_value(rounded, 0, 255), tf.uint8)
    return (
        values
        if side == image_size
        else tensor_preprocessing.resize(values, image_size)
    )
