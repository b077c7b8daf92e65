"""Gathers rows of stored pixels from mapped files by TensorFlow alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from afad_tfdata.common.lazy_imports import tf
from afad_tfdata.reading import mapped_reader


@dataclasses.dataclass(frozen=True)
class PixelRowForm:
    """What a graph that gathers rows needs to know about them.

    Attributes:
      shape: Shape of a row in a batch, whose elements are bytes.
      pieces: `mapped_reader.StoredRows.pieces`.
      blank: `mapped_reader.StoredRows.blank`.
      all_checked: Whether no row is unchecked.  Later, marks are only removed, so this
        stays True.
    """

    shape: tuple[int, ...]
    pieces: int
    blank: int
    all_checked: bool


class PixelRowGather:
    """Gathers batches of stored pixels by TensorFlow operations alone.

    Args:
      form: Shape of the rows.
      tensors: Those of `row_tensors`, or the arguments of a graph that stand for them.
    """

    def __init__(self, form: PixelRowForm, tensors: Sequence[tf.Tensor]) -> None:
        self._shape, self._pieces, self._blank = form.shape, form.pieces, form.blank
        self.all_checked = form.all_checked
        self._matrix, self._unchecked, self._shift, self._ends = tensors[:4]
        self._ages, self._genders = tensors[4:]

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


def row_form(rows: mapped_reader.StoredRows, shape: tuple[int, ...]) -> PixelRowForm:
    """Describes stored rows whose images get this shape."""
    return PixelRowForm(shape, rows.pieces, rows.blank, not rows.unchecked.any())


def row_tensors(
    rows: mapped_reader.StoredRows, shape: tuple[int, ...]
) -> list[tf.Tensor]:
    """Returns the mapped rows, their marks, places and labels as tensors."""
    matrix = rows.matrix
    if rows.pieces == 1:
        # Gathered rows then have their shape already.  Each operation that is saved
        # makes the start of a pipeline shorter.
        matrix = matrix.reshape(-1, *shape)
    with tf.device("CPU:0"):
        small = (rows.shift, rows.ends[np.newaxis], rows.ages, rows.genders)
        return [
            _tensor_of_array(matrix),
            _tensor_of_array(rows.unchecked),
            *map(tf.constant, small),
        ]


def _tensor_of_array(array: np.ndarray) -> tf.Tensor:
    """Returns a tensor that shares the memory of an array, aligned to 64 bytes.

    Nothing is copied: the tensor shows what is written into the array later.
    """
    return tf.experimental.dlpack.from_dlpack(array.__dlpack__())
