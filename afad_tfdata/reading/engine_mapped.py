"""The mapped engine: `mapped_reader` as an operation of a ``tf.data`` pipeline.

For local shards; images are decoded by simplejpeg and OpenCV, which is the fastest way
on a machine whose cores one Python process can feed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from afad_tfdata.common.lazy_imports import tf
from afad_tfdata.reading import mapped_reader, shutdown_guard

# Threads beyond which one process gains nothing: about 5 us of each image are spent
# under the interpreter lock.
MAX_THREADS = 22


class Engine:
    """Reads batches by record number, in Python functions.

    Args:
      reader: What reads.
      image_size: Side of the images that the reader returns, pixels.
      num_threads: Batches that are read at the same time.
    """

    def __init__(
        self, reader: mapped_reader.Reader, image_size: int, num_threads: int
    ) -> None:
        self._reader, self._size = reader, image_size
        self.num_threads = num_threads

    def read(
        self, records: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        """`mapped_reader.Reader.read` on tensors, with static shapes."""
        types = [tf.uint8, tf.float32, tf.int32, tf.bool]
        return self._call(self._reader.read, records, types)

    def read_train(self, records: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """`mapped_reader.Reader.read_train` on tensors, with static shapes."""
        types = [tf.uint8, tf.float32, tf.int32]
        return self._call(self._reader.read_train, records, types)

    def _call(
        self,
        function: Callable[[np.ndarray], tuple[np.ndarray, ...]],
        records: tf.Tensor,
        types: list[tf.DType],
    ) -> tuple[tf.Tensor, ...]:
        # The guard refers to the reader weakly: whatever maps this engine's method over
        # a data set keeps the engine, and the engine keeps the reader.
        result = tf.numpy_function(shutdown_guard.guard(function), [records], types)
        batch_size = records.shape[0]
        image, *labels = result
        image.set_shape([batch_size, self._size, self._size, 3])
        for tensor in labels:
            tensor.set_shape([batch_size])
        return tuple(result)
