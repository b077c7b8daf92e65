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
from afad_tfdata.reading import (
    mapped_reader,
    pipeline_shutdown,
    pixel_row_gather,
    read_ahead,
)

# With more threads one process reads no faster, because each image takes about 5 us
# under the interpreter lock.  Rows that TensorFlow gathers do not take that lock.
MAX_THREADS = 22


class MappedEngine:
    """Reads batches by record number.

    Python functions read, check and decode records.  Once stored pixels are checked,
    TensorFlow gathers them from the same mapped memory, without the interpreter lock.

    Args:
      reader: Reads, checks and decodes the records.
      image_size: Side of the images that the reader returns, pixels.
      num_threads: Batches that are read at the same time.
    """

    def __init__(
        self, reader: mapped_reader.MappedReader, image_size: int, num_threads: int
    ) -> None:
        self._size = image_size
        self._reader = read_ahead.ReadAhead(reader, image_size)
        self.num_threads = num_threads
        self._rows: pixel_row_gather.PixelRowGather | None = None
        rows = reader.stored_rows
        # A graph in the style of TensorFlow 1 cannot take memory as a tensor.
        if rows and tf.compat.v1.executing_eagerly_outside_functions():
            with tf.init_scope():
                self._rows = pixel_row_gather.PixelRowGather(
                    rows, (image_size, image_size, 3)
                )

    def read(
        self, records: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        """Calls `mapped_reader.MappedReader.read`; the tensors have static shapes."""
        types = [tf.uint8, tf.float32, tf.int32, tf.bool]
        python = functools.partial(self._call_reader, self._reader.read, records, types)
        return self._gather_or_call(python, records, lambda rows: rows.padded(records))

    def read_train(self, records: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Calls `MappedReader.read_train`; the tensors have static shapes."""
        types = [tf.uint8, tf.float32, tf.int32]
        python = functools.partial(
            self._call_reader, self._reader.read_train, records, types
        )
        return self._gather_or_call(python, records, lambda rows: rows.batch(records))

    def read_ahead(self, batches: np.ndarray, *, train: bool) -> None:
        """Starts reading the first batches, if reading them takes much time.

        Args:
          batches: int64 ``[n, B]``.
          train: Whether `read_train` will be called with these records, and not `read`.
        """
        if self._rows is None and tf.executing_eagerly():
            self._reader.start(batches, train=train)

    def _gather_or_call(
        self,
        python: Callable[[], Any],
        records: tf.Tensor,
        gather: Callable[[pixel_row_gather.PixelRowGather], Any],
    ) -> Any:
        """Gathers by TensorFlow if all records are checked; else reads by Python."""
        rows = self._rows
        if rows is None:
            return python()
        if rows.all_checked:
            # A branch that never runs would double the time to the first batch.
            return gather(rows)
        return tf.cond(rows.may_gather(records), lambda: gather(rows), python)

    def _call_reader(
        self,
        function: Callable[[np.ndarray], tuple[np.ndarray, ...]],
        records: tf.Tensor,
        types: list[tf.DType],
    ) -> tuple[tf.Tensor, ...]:
        """Calls a function of the mapped reader as an operation of the pipeline."""
        # The guard refers to the reader weakly.  The data set that maps this engine's
        # method keeps the engine alive, and the engine keeps the reader alive.
        result = tf.numpy_function(
            pipeline_shutdown.guarded_function(function), [records], types
        )
        batch_size = records.shape[0]
        image, *labels = result
        image.set_shape([batch_size, self._size, self._size, 3])
        for tensor in labels:
            tensor.set_shape([batch_size])
        return tuple(result)
