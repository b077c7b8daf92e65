"""The mapped engine: `mapped_reader` as an operation of a ``tf.data`` pipeline.

It reads local shards, and decodes images by simplejpeg and OpenCV.  This is the fastest
way on a machine whose cores one Python process can feed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from afad_tfdata.common.lazy_imports import tf
from afad_tfdata.reading import mapped_reader, read_ahead, shutdown_guard

# With more threads one process reads no faster, because each image takes about 5 us
# under the interpreter lock.  Rows that TensorFlow gathers do not take that lock.
MAX_THREADS = 22


class Engine:
    """Reads batches by record number.

    Python functions read, check and decode records.  Once stored pixels are checked,
    TensorFlow gathers them from the same mapped memory, without the interpreter lock.

    Args:
      reader: Reads, checks and decodes the records.
      image_size: Side of the images that the reader returns, pixels.
      num_threads: Batches that are read at the same time.
    """

    def __init__(
        self, reader: mapped_reader.Reader, image_size: int, num_threads: int
    ) -> None:
        self._size = image_size
        self._reader = read_ahead.ReadAhead(reader, image_size)
        self.num_threads = num_threads
        self._rows: _Gather | None = None
        rows = reader.stored_rows
        # A graph in the style of TensorFlow 1 cannot take memory as a tensor.
        if rows and tf.compat.v1.executing_eagerly_outside_functions():
            with tf.init_scope():
                self._rows = _Gather(rows, image_size)

    def read(
        self, records: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        """Calls `mapped_reader.Reader.read`; the tensors have static shapes."""
        types = [tf.uint8, tf.float32, tf.int32, tf.bool]
        python = functools.partial(self._call, self._reader.read, records, types)
        return self._gathered_or(python, records, lambda rows: rows.padded(records))

    def read_train(self, records: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Calls `mapped_reader.Reader.read_train`; the tensors have static shapes."""
        types = [tf.uint8, tf.float32, tf.int32]
        python = functools.partial(self._call, self._reader.read_train, records, types)
        return self._gathered_or(python, records, lambda rows: rows.batch(records))

    def read_ahead(self, records: tf.Tensor, *, train: bool) -> None:
        """Starts reading the first batch, if reading it takes much time.

        Args:
          records: int64 ``[B]``, with a value.
          train: Whether `read_train` will be called with these records, and not `read`.
        """
        if self._rows is None and tf.executing_eagerly():
            self._reader.start(records.numpy(), train=train)

    def _gathered_or(
        self,
        python: Callable[[], Any],
        records: tf.Tensor,
        gather: Callable[[_Gather], Any],
    ) -> Any:
        """Gathers by TensorFlow if all records are checked; else reads by Python."""
        rows = self._rows
        if rows is None:
            return python()
        if rows.all_checked:
            # A branch that never runs would double the time to the first batch.
            return gather(rows)
        return tf.cond(rows.may_gather(records), lambda: gather(rows), python)

    def _call(
        self,
        function: Callable[[np.ndarray], tuple[np.ndarray, ...]],
        records: tf.Tensor,
        types: list[tf.DType],
    ) -> tuple[tf.Tensor, ...]:
        # The guard refers to the reader weakly.  The data set that maps this engine's
        # method keeps the engine alive, and the engine keeps the reader alive.
        result = tf.numpy_function(shutdown_guard.guard(function), [records], types)
        batch_size = records.shape[0]
        image, *labels = result
        image.set_shape([batch_size, self._size, self._size, 3])
        for tensor in labels:
            tensor.set_shape([batch_size])
        return tuple(result)


class _Gather:
    """Gathers batches of stored pixels by TensorFlow operations alone.

    Args:
      rows: The mapped rows, their labels, and which of them are unchecked.
      image_size: Side of the images, pixels.
    """

    def __init__(self, rows: mapped_reader.StoredRows, image_size: int) -> None:
        self._size, self._pieces, self._blank = image_size, rows.pieces, rows.blank
        # Later, marks are only removed, so this stays True.
        self.all_checked = not rows.unchecked.any()
        matrix = rows.matrix
        if self._pieces == 1:
            # Gathered rows then have the shape of images.  Each operation that is saved
            # here makes the start of every pipeline shorter.
            matrix = matrix.reshape(-1, image_size, image_size, 3)
        self._matrix = _shared(matrix)
        self._unchecked = _shared(rows.unchecked)
        with tf.device("CPU:0"):
            self._shift = tf.constant(rows.shift)
            self._ends = tf.constant(rows.ends[np.newaxis])
            self._ages = tf.constant(rows.ages)
            self._genders = tf.constant(rows.genders)

    def may_gather(self, records: tf.Tensor) -> tf.Tensor:
        """Returns bool ``[]``: whether all records are checked and undamaged."""
        marks = tf.gather(self._unchecked, tf.maximum(records, 0))
        return tf.reduce_all((marks == 0) | (records < 0))

    def batch(self, records: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """As `Engine.read_train`."""
        return self._images(self._first_pieces(records)), *self._labels(records)

    def padded(
        self, records: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        """As `Engine.read`."""
        mask = records >= 0
        found = tf.maximum(records, 0)
        blank = tf.constant(self._blank, tf.int64)
        images = self._images(tf.where(mask, self._first_pieces(found), blank))
        ages, genders = self._labels(found)
        return images, tf.where(mask, ages, 0.0), tf.where(mask, genders, 0), mask

    def _first_pieces(self, records: tf.Tensor) -> tf.Tensor:
        """Returns int64 ``[B]``: the rows of the matrix at which the records begin."""
        first = records * self._pieces if self._pieces > 1 else records
        # This is tf.searchsorted, which takes ten operations more to be called.
        shard = tf.raw_ops.UpperBound(
            sorted_inputs=self._ends, values=tf.expand_dims(records, 0)
        )
        return first + tf.squeeze(tf.gather(self._shift, shard), [0])

    def _images(self, first: tf.Tensor) -> tf.Tensor:
        if self._pieces == 1:
            return tf.gather(self._matrix, first)
        first = first[:, tf.newaxis] + tf.range(self._pieces, dtype=tf.int64)
        shape = [first.shape[0], self._size, self._size, 3]
        return tf.reshape(tf.gather(self._matrix, first), shape)

    def _labels(self, records: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        ages, genders = (
            tf.gather(values, records) for values in (self._ages, self._genders)
        )
        return tf.cast(ages, tf.float32), tf.cast(genders, tf.int32)


def _shared(array: np.ndarray) -> tf.Tensor:
    """Returns a tensor that shares the array's memory, aligned to 64 bytes.

    Nothing is copied: the tensor shows what is written into the array later.
    """
    return tf.experimental.dlpack.from_dlpack(array.__dlpack__())
