"""The mapped engine: `mapped_reader` as an operation of a ``tf.data`` pipeline.

It reads local shards, and decodes images by simplejpeg and OpenCV.  This is the fastest
way on a machine with so few cores that one Python process can keep all of them busy.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import weakref
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

# The readers of all pipelines, by number.  A graph that pipelines share is given the
# number of the reader to call.  The pipeline's data set keeps its reader alive.
_readers: weakref.WeakValueDictionary[int, read_ahead.ReadAhead] = (
    weakref.WeakValueDictionary()
)
_numbers = itertools.count()


@dataclasses.dataclass(frozen=True)
class MappedGraph:
    """The operations that read a batch; the same for pipelines of the same shapes.

    Attributes:
      image_size: Side of the images, pixels.
      rows: The form of stored pixels that TensorFlow may gather; None if Python
        functions read all records.
    """

    image_size: int
    rows: pixel_row_gather.PixelRowForm | None

    def read(
        self, records: tf.Tensor, reader: tf.Tensor, *rows: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        """Calls `mapped_reader.MappedReader.read`; the tensors have static shapes.

        Args:
          records: int64 ``[B]``.
          reader: int64 ``[]``: the reader's number.
          *rows: The stored pixels, by `pixel_row_gather.row_tensors`, or nothing.
        """
        types = [tf.uint8, tf.float32, tf.int32, tf.bool]
        python = functools.partial(self._call_reader, _read_by, reader, records, types)
        return self._gather_or_call(python, records, rows, lambda g: g.padded(records))

    def read_train(
        self, records: tf.Tensor, reader: tf.Tensor, *rows: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Calls `MappedReader.read_train`; arguments as in `read`."""
        types = [tf.uint8, tf.float32, tf.int32]
        python = functools.partial(
            self._call_reader, _read_train_by, reader, records, types
        )
        return self._gather_or_call(python, records, rows, lambda g: g.batch(records))

    def _gather_or_call(
        self,
        python: Callable[[], Any],
        records: tf.Tensor,
        rows: tuple[tf.Tensor, ...],
        gather: Callable[[pixel_row_gather.PixelRowGather], Any],
    ) -> Any:
        """Gathers by TensorFlow if all records are checked; else reads by Python."""
        if self.rows is None:
            return python()
        stored = pixel_row_gather.PixelRowGather(self.rows, rows)
        if stored.all_checked:
            # A branch that never runs would double the time to the first batch.
            return gather(stored)
        return tf.cond(stored.may_gather(records), lambda: gather(stored), python)

    def _call_reader(
        self,
        function: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, ...]],
        reader: tf.Tensor,
        records: tf.Tensor,
        types: list[tf.DType],
    ) -> tuple[tf.Tensor, ...]:
        """Calls a function of a mapped reader as an operation of the pipeline."""
        guarded = pipeline_shutdown.guarded_function(function)
        result = tf.numpy_function(guarded, [reader, records], types)
        batch_size = records.shape[0]
        image, *labels = result
        image.set_shape([batch_size, self.image_size, self.image_size, 3])
        for tensor in labels:
            tensor.set_shape([batch_size])
        return tuple(result)


class MappedEngine:
    """Reads batches by record number.

    Python functions read, check and decode records.  Once stored pixels are checked,
    TensorFlow gathers them from the same mapped memory, without the interpreter lock.

    Args:
      reader: Reads, checks and decodes the records.
      image_size: Side of the images that the reader returns, pixels.
      num_threads: Batches that are read at the same time.

    Attributes:
      graph: Reads a batch of records, given `arguments`.
      arguments: The tensors by which the graph reads this engine's records.
    """

    def __init__(
        self, reader: mapped_reader.MappedReader, image_size: int, num_threads: int
    ) -> None:
        self._reader = read_ahead.ReadAhead(reader, image_size)
        self.num_threads = num_threads
        number = next(_numbers)
        _readers[number] = self._reader
        with tf.init_scope(), tf.device("CPU:0"):
            self.arguments = [tf.constant(number, tf.int64)]
        form, stored = None, reader.stored_rows
        # A graph in the style of TensorFlow 1 cannot take memory as a tensor.
        if stored and tf.compat.v1.executing_eagerly_outside_functions():
            shape = (image_size, image_size, 3)
            form = pixel_row_gather.row_form(stored, shape)
            with tf.init_scope():
                self.arguments += pixel_row_gather.row_tensors(stored, shape)
        self.graph = MappedGraph(image_size, form)

    def read_ahead(self, batches: np.ndarray, *, train: bool) -> None:
        """Starts reading the first batches, if reading them takes much time.

        Args:
          batches: int64 ``[n, B]``.
          train: Whether they are read by `MappedGraph.read_train`, and not by `read`.
        """
        if self.graph.rows is None and tf.executing_eagerly():
            self._reader.start(batches, train=train)


def _read_by(reader: np.ndarray, records: np.ndarray) -> tuple[np.ndarray, ...]:
    """Reads a batch by the reader of this number."""
    return _reader_of(reader).read(records)


def _read_train_by(reader: np.ndarray, records: np.ndarray) -> tuple[np.ndarray, ...]:
    """Reads a training batch by the reader of this number."""
    return _reader_of(reader).read_train(records)


def _reader_of(number: np.ndarray) -> read_ahead.ReadAhead:
    """Returns the reader of this number.

    Raises:
      RuntimeError: Its pipeline is deleted.
    """
    reader = _readers.get(int(number))
    if reader is None:
        raise RuntimeError("the pipeline that this function served is gone")
    return reader
