"""The graph engine: TensorFlow operations only, for what the mapped engine cannot read.

Shards on remote file systems, machines without simplejpeg and OpenCV, ``tf.data``
service, and machines with more cores than one Python process can feed.

A global shuffle needs random access.  Where the stored images fit a stated budget they
are held in memory, and the order is `order`'s, the same as the mapped engine's.  Where
they do not, shards and a window of records are shuffled, deterministically, in an order
of this engine's own; starting in the middle of an epoch then reads that epoch's part
that lies before.

One ``parse_example`` and one loop over the images to a batch, inside one parallel map:
what the data set layer costs is paid once for a batch and not once for an image.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np

from afad_tfdata.common import errors, resources
from afad_tfdata.common.lazy import tf
from afad_tfdata.images import preprocess
from afad_tfdata.reading import (
    bad_records,
    batch_slices,
    memory_store,
    order,
    record_index,
)
from afad_tfdata.reading import config as input_config
from afad_tfdata.storage import hdf5

_CYCLE_LENGTH, _BLOCK_LENGTH = 8, 16  # Shards read in turn, and records of each.
# A stream of permutation keys, apart from those of `order`.
_SHARDS = -1

_log = logging.getLogger(__name__)


class Engine:
    """Reads batches in TensorFlow operations.

    Args:
      config: What to read and how.
      source: The examples.
      image_size: Side of the images it gives, pixels.
    """

    def __init__(
        self,
        config: input_config.InputConfig,
        source: record_index.Examples,
        image_size: int,
    ) -> None:
        self._config, self._source, self._size = config, source, image_size
        self._bad = bad_records.BadRecords(source, config.max_bad_records)
        self._ages = source.index["age"].astype(np.float32)
        self._genders = source.index["gender"].astype(np.int32)
        self._calls = config.num_parallel_calls or resources.cores()
        self._held: memory_store.Held | None = None

    def train(
        self,
        stream: order.Order,
        cut: batch_slices.Slices,
        start_step: int,
        finish: Callable[..., Any],
    ) -> Any:
        """The endless stream.

        Args:
          stream: The order, where every record can be reached.
          cut: Which part is this pipeline's.
          start_step: First global step.
          finish: Makes an element of ``(images, ages, genders, mask)``; the mask is
            None.
        """
        if self._holds():
            return self._from_memory(
                tf.data.Dataset.counter(start_step * cut.replicas_here),
                lambda element: stream.records(cut.counters(element)),
                finish,
                masked=False,
            )
        if stream.groups:
            raise errors.UsageError(
                "--balance draws records one by one, which needs them in memory or in"
                f" a memory map: raise --memory_budget_mib ({self._needs()})"
            )
        rows = self._endless_rows(stream, start_step * cut.global_batch)
        return self._from_rows(rows, cut, finish, masked=False)

    def epoch(self, batch_size: int, finish: Callable[..., Any], seed: int) -> Any:
        """Every record once, shuffled in a window.

        The first stage is one element for each shard, which a service hands out.

        Args:
          batch_size: Of the elements; the last one is smaller.
          finish: Makes an element of ``(images, ages, genders, mask)``; the mask is
            None.
          seed: Of the window.
        """
        if not self._source.contiguous:
            raise errors.UsageError(
                "--data_service reads shards by themselves, which compressed HDF5 does"
                " not allow: write records without compression"
            )
        window = min(self._config.shuffle_window, len(self._source))
        rows = self._rows(self._shard_table(), _CYCLE_LENGTH, mixed=True)
        return self._decoded(
            rows.shuffle(window, seed=seed).batch(batch_size), finish, masked=False
        )

    def evaluate(
        self, steps: int, cut: batch_slices.Slices, finish: Callable[..., Any]
    ) -> Any:
        """Every record once, in order.

        Args:
          steps: Global steps.
          cut: Which part is this pipeline's.
          finish: Makes an element of ``(images, ages, genders, mask)``.
        """
        if self._must_hold() or (self._source.pixel and self._holds()):
            return self._from_memory(
                tf.data.Dataset.range(steps * cut.replicas_here),
                lambda element: cut.padded_counters(element, len(self._source)),
                finish,
                masked=True,
            )
        padding = steps * cut.global_batch - len(self._source)
        blank = tf.data.Dataset.from_tensors(
            (self._blank(), tf.constant(-1, tf.int64))
        ).repeat(padding)
        rows = self._rows(self._shard_table()).concatenate(blank)
        return self._from_rows(rows, cut, finish, masked=True)

    # -- Held in machine.

    def _must_hold(self) -> bool:
        config = self._config
        return (
            config.cache != "none"
            or config.max_bad_records > 0
            or (not self._source.contiguous and not _tensorflow_io())
        )

    def _holds(self) -> bool:
        """Whether the images are held, decided once, and said."""
        budget = (
            self._config.memory_budget_mib << 20 or resources.available_bytes() // 2
        )
        if self._held is not None:
            return True
        if self._source.image_bytes <= budget:
            return True
        if self._must_hold():
            raise errors.UsageError(
                "the graph engine has to hold the stored images in memory here, and"
                f" {self._needs()}, of {resources.mib(budget)} allowed: raise"
                " --memory_budget_mib, or use --engine=mapped on local files"
            )
        _log.warning(
            "input: %s, of %s allowed: shards and a window of %d records are shuffled"
            " instead of all records",
            self._needs(),
            resources.mib(budget),
            self._config.shuffle_window,
        )
        return False

    def _needs(self) -> str:
        what = resources.mib(self._source.image_bytes)
        return f"the {self._source.split} split takes {what}"

    def _from_memory(
        self,
        elements: Any,
        records: Callable[[Any], Any],
        finish: Callable[..., Any],
        *,
        masked: bool,
    ) -> Any:
        if self._held is None:
            self._held = memory_store.load(
                self._source, self._config, self._size, self._bad
            )
        kept = self._held

        def batch(element: Any) -> Any:
            numbers = records(element)
            mask = numbers >= 0
            numbers = tf.maximum(numbers, 0)
            good = tf.gather(kept.redirect, numbers)
            if masked:
                mask &= good == numbers
            image = self._decode(tf.gather(kept.data, good), kept.pixel, kept.side)
            return finish(*self._labelled(image, good, mask if masked else None))

        return self._map(elements, batch)

    # -- Streamed from the shards.

    def _shard_table(self) -> np.ndarray:
        """int64 ``[shards, 4]``: shard, first record, one behind the last, offset."""
        first = self._source.first_of_shard()
        shards = np.arange(len(self._source.paths))
        offsets = np.zeros(len(shards), np.int64)
        filled = first[:-1] < first[1:]
        offsets[filled] = self._source.index["image_offset"][first[:-1][filled]]
        table = np.stack([shards, first[:-1], first[1:], offsets], axis=1)
        return table[filled]

    def _rows(self, table: Any, cycle_length: int = 1, *, mixed: bool = False) -> Any:
        """``(stored bytes or serialized example, record number)`` of shards in turn."""
        if not self._source.contiguous:
            return self._inflated_rows()
        paths = tf.constant(self._source.paths)
        pixel = self._source.pixel if self._source.format == "hdf5" else {}
        row_bytes = hdf5.RowLayout.of_pixel(pixel, self._source.stored_size).num_bytes
        sizes = _file_sizes(self._source.paths) if pixel else None

        def shard(entry: Any) -> Any:
            path, count = paths[entry[0]], entry[2] - entry[1]
            if self._source.format == "hdf5":
                size = tf.gather(sizes, entry[0])
                data = tf.data.FixedLengthRecordDataset(
                    path,
                    row_bytes,
                    header_bytes=entry[3],
                    footer_bytes=size - entry[3] - count * row_bytes,
                    buffer_size=8 << 20,
                )
            else:
                data = tf.data.TFRecordDataset(path, buffer_size=8 << 20)
            # A shard that lost its last records would otherwise end early, silently.
            data = data.apply(tf.data.experimental.assert_cardinality(count))
            return tf.data.Dataset.zip(
                (data, tf.data.Dataset.range(entry[1], entry[2]))
            )

        entries = tf.data.Dataset.from_tensor_slices(table)
        if mixed:  # In another order with each pass.
            entries = entries.shuffle(len(table))
        return entries.interleave(
            _as_is(shard),
            cycle_length=cycle_length,
            block_length=_BLOCK_LENGTH,
            num_parallel_calls=min(cycle_length, self._calls),
            deterministic=True,
        )

    def _inflated_rows(self) -> Any:
        """The same for compressed HDF5, by tensorflow-io, in the files' order."""
        import tensorflow_io as tfio

        pixels = None
        for path in self._source.paths:
            # tensorflow-io ends the process on a file that h5py only complains of.
            hdf5.RowReader(path, self._source.dataset)
            one = tfio.IODataset.from_hdf5(path, dataset=f"/{self._source.dataset}")
            pixels = one if pixels is None else pixels.concatenate(one)
        numbers = tf.data.Dataset.range(len(self._source))
        return tf.data.Dataset.zip((pixels, numbers))

    def _endless_rows(self, stream: order.Order, start: int) -> Any:
        """Epoch after epoch, each with shards and a window in an order of its own."""
        table = self._shard_table()
        count, seed = stream.num_examples, stream.seed
        window = min(self._config.shuffle_window, count)
        first_epoch, passed_over = divmod(start, count)

        inflated = None if self._source.contiguous else self._inflated_rows()

        def epoch_rows(epoch: Any) -> Any:
            shards = order.permutation(len(table), seed, _SHARDS, epoch)
            rows = inflated
            if rows is None:
                rows = self._rows(tf.gather(table, shards), _CYCLE_LENGTH)
            keys = order.permutation_keys(seed, _SHARDS, epoch[tf.newaxis])[0]
            rows = rows.shuffle(
                window,
                seed=tf.cast(keys[0], tf.int64),
                reshuffle_each_iteration=False,
            )
            skipped = tf.where(epoch == first_epoch, passed_over, 0)
            return rows.skip(tf.cast(skipped, tf.int64))

        return tf.data.Dataset.counter(first_epoch).flat_map(_as_is(epoch_rows))

    def _from_rows(
        self, rows: Any, cut: batch_slices.Slices, finish: Callable, *, masked: bool
    ) -> Any:
        first = cut.first_replica * cut.per_replica
        last = first + cut.replicas_here * cut.per_replica
        shape = [cut.replicas_here, cut.per_replica]
        rows = rows.batch(cut.global_batch, drop_remainder=True)
        if shape[0] == 1:
            rows = rows.map(_as_is(lambda d, n: (d[first:last], n[first:last])))
        else:

            def parts(data: Any, numbers: Any) -> Any:
                both = (
                    tf.reshape(data[first:last], shape),
                    tf.reshape(numbers[first:last], shape),
                )
                return tf.data.Dataset.from_tensor_slices(both)

            rows = rows.flat_map(_as_is(parts))
        return self._decoded(rows, finish, masked=masked)

    def _decoded(self, rows: Any, finish: Callable, *, masked: bool) -> Any:
        """Elements of batches of ``(stored bytes, record number)``."""
        source = self._source
        parses = source.format == "tfrecord"
        name = source.features["image"] if parses else ""

        def batch(data: Any, numbers: Any) -> Any:
            if parses:
                spec = {name: tf.io.FixedLenFeature([], tf.string)}
                data = tf.io.parse_example(data, spec)[name]
            image = self._decode(data, source.pixel, source.stored_size)
            mask = numbers >= 0
            numbers = tf.maximum(numbers, 0)
            return finish(*self._labelled(image, numbers, mask if masked else None))

        return self._map(rows, batch)

    def _blank(self) -> Any:
        """A row or example that can be decoded, for padding."""
        source = self._source
        layout = hdf5.RowLayout.of_pixel(source.pixel, source.stored_size)
        if not source.contiguous:
            return tf.zeros(layout.shape, source.pixel["dtype"])
        if source.pixel:
            image = bytes(layout.num_bytes)
        else:
            side = source.stored_size or 1
            image = tf.io.encode_png(np.zeros((side, side, 3), np.uint8)).numpy()
        if source.format == "hdf5":
            return image
        feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[image]))
        features = tf.train.Features(feature={source.features["image"]: feature})
        return tf.train.Example(features=features).SerializeToString()

    # -- Common to both.

    def _decode(self, data: Any, pixel: dict[str, Any], side: int) -> Any:
        """uint8 ``[B, S, S, 3]`` of stored bytes ``[B]``."""
        size = self._size
        if pixel:
            return pixels(data, pixel, side, size)
        spec = tf.TensorSpec([size, size, 3], tf.uint8)
        return tf.map_fn(
            lambda one: preprocess.decode_and_resize(one, size, stored_size=side),
            data,
            fn_output_signature=spec,
            parallel_iterations=1,  # The batches beside this one keep the cores busy.
        )

    def _labelled(self, image: Any, records: Any, mask: Any) -> Any:
        age, gender = tf.gather(self._ages, records), tf.gather(self._genders, records)
        if mask is None:
            return image, age, gender, None
        zero = tf.zeros([], tf.uint8)
        image = tf.where(mask[:, tf.newaxis, tf.newaxis, tf.newaxis], image, zero)
        return image, tf.where(mask, age, 0.0), tf.where(mask, gender, 0), mask

    def _map(self, dataset: Any, batch: Callable) -> Any:
        return dataset.map(
            _as_is(batch), num_parallel_calls=self._calls, deterministic=True
        )


def pixels(data: Any, pixel: dict[str, Any], side: int, size: int) -> Any:
    """Images of stored pixels.

    Args:
      data: string ``[B]``, or the values themselves.
      pixel: As in `schema.Manifest.pixel`.
      side: Of the stored images, pixels.
      size: Of the result.

    Returns:
      uint8 ``[B, size, size, 3]``.
    """
    values = data
    if data.dtype == tf.string:
        values = tf.io.decode_raw(
            data,
            tf.as_dtype(pixel["dtype"]),
            fixed_length=hdf5.RowLayout.of_pixel(pixel, side).num_bytes,
        )
    if pixel["channels"] == "first":
        values = tf.reshape(values, [-1, 3, side, side])
        values = tf.transpose(values, [0, 2, 3, 1])
    else:
        values = tf.reshape(values, [-1, side, side, 3])
    values = tf.ensure_shape(values, [data.shape[0], side, side, 3])
    if pixel["dtype"] != "uint8":
        # Rounded before they are resized, as the mapped engine does.
        values = tf.cast(tf.clip_by_value(tf.round(values), 0, 255), tf.uint8)
    return values if side == size else preprocess.resize(values, size)


def _file_sizes(paths: tuple[str, ...]) -> np.ndarray:
    return np.array([tf.io.gfile.stat(path).length for path in paths], np.int64)


def _tensorflow_io() -> bool:
    try:
        import tensorflow_io  # noqa: F401
    except Exception:  # It loads on two releases of TensorFlow only.
        return False
    return True


def _as_is(function: Callable) -> Callable:
    return tf.autograph.experimental.do_not_convert(function)
