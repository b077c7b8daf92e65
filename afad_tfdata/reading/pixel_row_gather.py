"""Gathers rows of stored pixels from mapped files by TensorFlow alone."""

from __future__ import annotations

import numpy as np

from afad_tfdata.common.lazy_imports import tf
from afad_tfdata.reading import mapped_reader


class PixelRowGather:
    """Gathers batches of stored pixels by TensorFlow operations alone.

    Args:
      rows: The mapped rows, their labels, and which of them are unchecked.
      shape: Shape of a row in a batch, whose elements are bytes.
    """

    def __init__(self, rows: mapped_reader.StoredRows, shape: tuple[int, ...]) -> None:
        self._shape, self._pieces, self._blank = shape, rows.pieces, rows.blank
        # Later, marks are only removed, so this stays True.
        self.all_checked = not rows.unchecked.any()
        matrix = rows.matrix
        if self._pieces == 1:
            # Gathered rows then have their shape already.  Each operation that is saved
            # here makes the start of every pipeline shorter.
            matrix = matrix.reshape(-1, *shape)
        self._matrix = _tensor_of_mapped(matrix)
        self._unchecked = _tensor_of_mapped(rows.unchecked)
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
        """Returns rows uint8 ``[B, *shape]``, ages and genders."""
        images = self._gather_images(self._first_pieces(records))
        return images, *self._gather_labels(records)

    def padded(
        self, records: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        """As `batch`, with zeros for padding (-1), and a mask that is False there."""
        mask = records >= 0
        found = tf.maximum(records, 0)
        blank = tf.constant(self._blank, tf.int64)
        images = self._gather_images(tf.where(mask, self._first_pieces(found), blank))
        ages, genders = self._gather_labels(found)
        return images, tf.where(mask, ages, 0.0), tf.where(mask, genders, 0), mask

    def _first_pieces(self, records: tf.Tensor) -> tf.Tensor:
        """Returns int64 ``[B]``: the rows of the matrix at which the records begin."""
        first = records * self._pieces if self._pieces > 1 else records
        # This is tf.searchsorted, which takes ten operations more to be called.
        shard = tf.raw_ops.UpperBound(
            sorted_inputs=self._ends, values=tf.expand_dims(records, 0)
        )
        return first + tf.squeeze(tf.gather(self._shift, shard), [0])

    def _gather_images(self, first: tf.Tensor) -> tf.Tensor:
        """Gathers the rows that begin at these pieces, as images."""
        if self._pieces == 1:
            return tf.gather(self._matrix, first)
        first = first[:, tf.newaxis] + tf.range(self._pieces, dtype=tf.int64)
        shape = [first.shape[0], *self._shape]
        return tf.reshape(tf.gather(self._matrix, first), shape)

    def _gather_labels(self, records: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Gathers the ages and genders of records."""
        ages, genders = (
            tf.gather(values, records) for values in (self._ages, self._genders)
        )
        return tf.cast(ages, tf.float32), tf.cast(genders, tf.int32)


def _tensor_of_mapped(array: np.ndarray) -> tf.Tensor:
    """Returns a tensor that shares the memory of a mapped array, 64-byte aligned.

    Nothing is copied: the tensor shows what is written into the array later.
    """
    return tf.experimental.dlpack.from_dlpack(array.__dlpack__())
