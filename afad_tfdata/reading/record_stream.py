"""Streams the records of shards that can be read only in sequence.

These are shards on remote file systems, and splits that do not fit in memory.  Instead
of all records, the shards and a window of records are shuffled.  The order is
deterministic, but differs from that of `order`.  A stream that starts in the middle of
an epoch also reads the earlier part of that epoch.

Elements are ``(stored bytes or serialized example, record number)``.  They are not
decoded here, because encoded images take a tenth of the memory of pixels while they are
in a shuffle window.
"""

from __future__ import annotations

import numpy as np

from afad_tfdata.common import errors
from afad_tfdata.common.lazy_imports import tf
from afad_tfdata.reading import function_tracing, order, record_index, replica_batches
from afad_tfdata.storage import hdf5

# The number of shards that are read in turn, and of records that are taken from each at
# a time.  A window then has records of many shards, and files are read in long pieces.
_CYCLE_LENGTH, _BLOCK_LENGTH = 8, 16
# Reads are large: a request to a remote file system takes milliseconds for any size.
_BUFFER_BYTES = 8 << 20
# The permutations of shards have their own stream of keys, which `order` does not use.
_SHARDS = -1


class RecordStream:
    """Streams over the shards of one split.

    Args:
      index: The split's records.
      num_threads: Shards that are read at the same time.
      shuffle_window: Records that are shuffled among themselves.
    """

    def __init__(
        self, index: record_index.RecordIndex, num_threads: int, shuffle_window: int
    ) -> None:
        self._index, self._num_threads = index, num_threads
        self._window = min(shuffle_window, len(index))

    def shuffled(
        self,
        shuffle: order.Order,
        slices: replica_batches.ReplicaBatches,
        start_step: int,
    ) -> tf.data.Dataset:
        """Returns a pipeline's batches of all epochs, each epoch in its own order.

        Args:
          shuffle: Its seed decides the order.
          slices: Which part of each batch is this pipeline's.
          start_step: First global step.

        Returns:
          Endless batches of ``per_replica_batch_size`` records.
        """
        start = start_step * slices.global_batch_size
        first_epoch, num_skipped = divmod(start, len(self._index))
        table, seed = self._shard_table(), shuffle.seed
        # This is built once, because tensorflow-io opens the files each time it is
        # built.
        unpacked = None if self._index.contiguous else self._unpacked_rows()

        def epoch_rows(epoch: tf.Tensor) -> tf.data.Dataset:
            """Returns the records of an epoch, shuffled in a window."""
            rows = unpacked
            if rows is None:
                shards = order.permutation(len(table), seed, _SHARDS, epoch)
                rows = self._stream_rows(tf.gather(table, shards), _CYCLE_LENGTH)
            keys = order.permutation_keys(seed, _SHARDS, epoch[tf.newaxis])[0]
            rows = rows.shuffle(
                self._window,
                seed=tf.cast(keys[0], tf.int64),
                # The seed depends on the epoch's number, so that an epoch has the same
                # order when it is read again, for example after a restart.
                reshuffle_each_iteration=False,
            )
            # Records are skipped after the shuffle, which decides which come first.
            skipped = tf.where(epoch == first_epoch, num_skipped, 0)
            return rows.skip(tf.cast(skipped, tf.int64))

        epochs = tf.data.Dataset.counter(first_epoch)
        rows = epochs.flat_map(function_tracing.without_autograph(epoch_rows))
        return self._slice_batches(rows, slices)

    def in_order(
        self, slices: replica_batches.ReplicaBatches, num_steps: int
    ) -> tf.data.Dataset:
        """Returns a pipeline's batches of every record once, in the data set's order.

        Args:
          slices: Which part of each batch is this pipeline's.
          num_steps: Global steps.  The last record is followed by black images with
            the record number -1.
        """
        padding = num_steps * slices.global_batch_size - len(self._index)
        blanks = tf.data.Dataset.from_tensors(
            (_blank_record(self._index), tf.constant(-1, tf.int64))
        )
        rows = self._stream_rows(self._shard_table()).concatenate(
            blanks.repeat(padding)
        )
        return self._slice_batches(rows, slices)

    def one_epoch(self, batch_size: int, seed: int) -> tf.data.Dataset:
        """Returns every record once, shuffled in a window.

        The first transformation has one element for each shard, which a ``tf.data``
        service distributes over its data servers.

        Args:
          batch_size: Records in an element; the last element may have fewer.
          seed: Seed of the window.

        Raises:
          UsageError: Shards cannot be read separately.
        """
        if not self._index.contiguous:
            raise errors.UsageError(
                "--data_service reads shards separately, which compressed HDF5 does not"
                " allow: write records without compression"
            )
        rows = self._stream_rows(self._shard_table(), _CYCLE_LENGTH, mixed=True)
        return rows.shuffle(self._window, seed=seed).batch(batch_size)

    def _shard_table(self) -> np.ndarray:
        """Returns int64 ``[shards, 4]``: a row for each shard that has records.

        A row contains the shard, its first record, the record after its last one, and
        the byte offset of its first image.
        """
        starts = self._index.shard_starts()
        shards = np.arange(len(self._index.paths))
        offsets = np.zeros(len(shards), np.int64)
        # An empty shard has no first record.
        filled = starts[:-1] < starts[1:]
        first = starts[:-1][filled]
        offsets[filled] = self._index.entries["image_offset"][first]
        table = np.stack([shards, starts[:-1], starts[1:], offsets], axis=1)
        return table[filled]

    def _stream_rows(
        self,
        table: np.ndarray | tf.Tensor,
        cycle_length: int = 1,
        *,
        mixed: bool = False,
    ) -> tf.data.Dataset:
        """Returns the records of the shards in a table; several are read in turn.

        Args:
          table: A table that `_shard_table` returned.
          cycle_length: Shards that are read in turn.
          mixed: Whether each pass takes the shards in another order.
        """
        index = self._index
        if not index.contiguous:
            return self._unpacked_rows()
        paths = tf.constant(index.paths)
        is_hdf5 = index.format == "hdf5"
        row_bytes = hdf5.RowLayout.of_pixel(index.pixel, index.stored_size).num_bytes
        sizes = _shard_sizes(index.paths) if is_hdf5 else None

        def shard_rows(entry: tf.Tensor) -> tf.data.Dataset:
            """Returns the records of one shard, with their numbers."""
            path, first, end, offset = paths[entry[0]], entry[1], entry[2], entry[3]
            if is_hdf5:
                rest = tf.gather(sizes, entry[0]) - offset - (end - first) * row_bytes
                data = tf.data.FixedLengthRecordDataset(
                    path,
                    row_bytes,
                    header_bytes=offset,
                    footer_bytes=rest,
                    buffer_size=_BUFFER_BYTES,
                )
            else:
                data = tf.data.TFRecordDataset(path, buffer_size=_BUFFER_BYTES)
            if not index.is_whole:
                data = data.take(end - first)
            # Otherwise nobody would notice if a shard lost its last records.
            data = data.apply(tf.data.experimental.assert_cardinality(end - first))
            return tf.data.Dataset.zip((data, tf.data.Dataset.range(first, end)))

        entries = tf.data.Dataset.from_tensor_slices(table)
        if mixed:
            entries = entries.shuffle(len(table))
        return entries.interleave(
            function_tracing.without_autograph(shard_rows),
            cycle_length=cycle_length,
            block_length=_BLOCK_LENGTH,
            num_parallel_calls=min(cycle_length, self._num_threads),
            deterministic=True,
        )

    def _unpacked_rows(self) -> tf.data.Dataset:
        """Returns all records of compressed HDF5, read in order by tensorflow-io."""
        import tensorflow_io as tfio

        pixels = None
        for path in self._index.paths:
            # h5py opens each file first: it raises an error for damaged files, where
            # tensorflow-io would end the process.
            hdf5.RowReader(path, self._index.dataset)
            name = f"/{self._index.dataset}"
            one = tfio.IODataset.from_hdf5(path, dataset=name)
            pixels = one if pixels is None else pixels.concatenate(one)
        numbers = tf.data.Dataset.range(len(self._index))
        return tf.data.Dataset.zip((pixels, numbers))

    def _slice_batches(
        self, rows: tf.data.Dataset, slices: replica_batches.ReplicaBatches
    ) -> tf.data.Dataset:
        """Cuts a stream into global batches, and keeps this pipeline's part of each."""
        first = slices.first_replica * slices.per_replica_batch_size
        last = first + slices.num_local_replicas * slices.per_replica_batch_size
        # Each pipeline reads whole global batches, so that all pipelines see the same
        # batches.
        rows = rows.batch(slices.global_batch_size, drop_remainder=True)
        if slices.num_local_replicas == 1:
            return rows.map(
                function_tracing.without_autograph(
                    lambda data, numbers: (data[first:last], numbers[first:last])
                )
            )
        shape = [slices.num_local_replicas, slices.per_replica_batch_size]

        def per_replica(data: tf.Tensor, numbers: tf.Tensor) -> tf.data.Dataset:
            """Cuts a pipeline's part of a batch into one batch for each replica."""
            # Pixels that tensorflow-io unpacked have more axes: [B, S, S, 3].
            whole = tf.concat([shape, tf.shape(data)[1:]], axis=0)
            both = (
                tf.reshape(data[first:last], whole),
                tf.reshape(numbers[first:last], shape),
            )
            return tf.data.Dataset.from_tensor_slices(both)

        return rows.flat_map(function_tracing.without_autograph(per_replica))


def _shard_sizes(paths: tuple[str, ...]) -> np.ndarray:
    """Returns the sizes in bytes of the shards that are streamed."""
    return np.array([tf.io.gfile.stat(path).length for path in paths], np.int64)


def _blank_record(index: record_index.RecordIndex) -> tf.Tensor | bytes:
    """Returns a black image in the form in which the streamed records store images."""
    if not index.contiguous:
        # tensorflow-io returns pixels instead of bytes.
        shape = hdf5.RowLayout.of_pixel(index.pixel, index.stored_size).shape
        return tf.zeros(shape, index.pixel["dtype"])
    if index.pixel:
        image = bytes(hdf5.RowLayout.of_pixel(index.pixel, index.stored_size).num_bytes)
    else:
        side = index.stored_size or 1
        image = tf.io.encode_png(np.zeros((side, side, 3), np.uint8)).numpy()
    if index.format == "hdf5":
        return image
    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[image]))
    features = tf.train.Features(feature={index.features["image"]: feature})
    return tf.train.Example(features=features).SerializeToString()
