"""The mapped engine: local shards in memory maps, decoded by simplejpeg and OpenCV.

A batch is a list of record numbers.  The index says where each image lies in its shard;
its bytes are decoded and resized straight into the batch's array by libraries that give
the interpreter lock away meanwhile, so that batches made in several threads do not wait
for one another.  Nothing is parsed, and nothing grows with the data set.

The array of a batch is taken up again when nobody refers to it any more: fresh ones
cost a page fault for every 4 KiB.  They are aligned as TensorFlow wants them, which
then takes them without a copy.
"""

from __future__ import annotations

import contextlib
import math
import sys
import threading
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from afad_tfdata.common import errors, resources
from afad_tfdata.common.lazy import tf
from afad_tfdata.images import codec
from afad_tfdata.reading import (
    bad_records,
    batch_slices,
    order,
    record_index,
    shutdown_guard,
)
from afad_tfdata.reading import config as input_config
from afad_tfdata.storage import hdf5, schema

# Threads beyond which one process gains nothing: about 5 us of each image are spent
# under the interpreter's lock.
MAX_THREADS = 22
# Positions whose records are looked up together.
_ORDERED = 8192
# TensorFlow's EIGEN_MAX_ALIGN_BYTES.
_ALIGNMENT = 64
# How a record becomes a row of a batch.
_PADDING, _RESIZED, _AT_SIZE, _OTHER = range(4)
_LINEAR = 1  # cv2.INTER_LINEAR: OpenCV is imported only where it is needed.
_CHECKSUM = "its bytes do not fit its checksum"

# Images, ages, genders; and a mask where there is padding.
Batch = tuple[np.ndarray, ...]


class Engine:
    """The engine as a stage of a pipeline.

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
        self._size, self._num_examples = image_size, len(source)
        self._reader = Reader(
            source,
            image_size,
            bad_records.BadRecords(source, config.max_bad_records),
            cache=config.cache,
            verify=config.verify,
        )
        self._calls = config.num_parallel_calls or min(resources.cores(), MAX_THREADS)

    def train(
        self,
        stream: order.Order,
        cut: batch_slices.Slices,
        start_step: int,
        finish: Callable[..., Any],
    ) -> Any:
        """The endless stream.

        Args:
          stream: The order.
          cut: Which part is this pipeline's.
          start_step: First global step.
          finish: Makes an element of ``(images, ages, genders, mask)``; the mask is
            None.
        """
        # Many batches' worth of the order at a time: each operation costs microseconds
        # however little it does, and a batch of pixels is copied in a few hundred.
        ahead = max(1, _ORDERED // cut.per_replica)

        def records(element: Any) -> Any:
            return stream.records(
                cut.counters(element + tf.range(ahead, dtype=tf.int64))
            )

        def batch(numbers: Any) -> Any:
            numbers = tf.ensure_shape(numbers, [cut.per_replica])
            return finish(*self._read(self._reader.read_train, numbers), None)

        first = start_step * cut.replicas_here
        elements = tf.data.Dataset.counter(first, ahead)
        return self._map(elements.map(_as_is(records)).unbatch(), batch)

    def evaluate(
        self, steps: int, cut: batch_slices.Slices, finish: Callable[..., Any]
    ) -> Any:
        """Every record once, in order.

        Args:
          steps: Global steps.
          cut: Which part is this pipeline's.
          finish: Makes an element of ``(images, ages, genders, mask)``.
        """

        def batch(element: Any) -> Any:
            records = cut.padded_counters(element, self._num_examples)
            return finish(*self._read(self._reader.read, records))

        return self._map(tf.data.Dataset.range(steps * cut.replicas_here), batch)

    def _map(self, elements: Any, batch: Callable[[Any], Any]) -> Any:
        return elements.map(
            _as_is(batch),
            num_parallel_calls=self._calls,
            deterministic=True,
        )

    def _read(self, read: Callable[[np.ndarray], Batch], records: Any) -> Any:
        """A `Reader` method as an operation, with static shapes."""
        types = [tf.uint8, tf.float32, tf.int32, tf.bool]
        if read == self._reader.read_train:
            types.pop()  # It gives no mask.
        result = tf.numpy_function(shutdown_guard.guard(read), [records], types)
        size = records.shape[0]
        for i, tensor in enumerate(result):
            tensor.set_shape([size] if i else [size, self._size, self._size, 3])
        return result


def _as_is(function: Callable[..., Any]) -> Callable[..., Any]:
    """Without AutoGraph, which takes longer over a function than a batch takes."""
    return tf.autograph.experimental.do_not_convert(function)


class Reader:
    """Reads batches of examples by record number; any number of threads may.

    Args:
      source: The examples, in local files.
      image_size: Side of the images it gives, pixels.
      bad: Where damaged records go.
      cache: ``none``; ``encoded`` keeps the shards' bytes in memory instead of mapping
        them; ``decoded`` keeps every image as it was given first.
      verify: Whether to check each record's checksum when it is first read.

    Raises:
      UsageError: simplejpeg or OpenCV is missing and cannot be done without.
    """

    def __init__(
        self,
        source: record_index.Examples,
        image_size: int,
        bad: bad_records.BadRecords,
        *,
        cache: str = "none",
        verify: bool = True,
    ) -> None:
        self._size, self._bad = image_size, bad
        self._source, self._cache = source, cache
        index = source.index
        self._shard = np.ascontiguousarray(index["shard"])
        self._offset = index["image_offset"].astype(np.int64)
        self._end = self._offset + index["image_length"]
        self._crc = np.ascontiguousarray(index["crc32"])
        self._age = index["age"].astype(np.float32)
        self._gender = index["gender"].astype(np.int32)
        self._unchecked = np.full(len(index), verify)
        self._first = source.first_of_shard()
        self._arrays = ArrayPool()
        self._scratch = threading.local()
        self._shards: list[Any] = [None] * len(source.paths)
        self._opening = threading.Lock()
        self._copies = False
        self._stack: Callable[..., Any] | None = None
        self._choose_ways()
        self._decoded: np.ndarray | None = None
        if cache == "decoded":
            shape = (len(index), image_size, image_size, 3)
            self._decoded = np.empty(shape, np.uint8)
            self._is_decoded = np.zeros(len(index), bool)

    def read(self, records: np.ndarray) -> Batch:
        """Reads a batch.

        Args:
          records: int64 ``[B]`` record numbers; -1 is padding.

        Returns:
          ``(images uint8 [B, S, S, 3], ages float32 [B], genders int32 [B],
          mask bool [B])``; where the mask is False everything is zero.

        Raises:
          DataError: A damaged record, beyond what `bad` passes over.
        """
        out = self._arrays.take((len(records), self._size, self._size, 3))
        mask = records >= 0
        for position in np.flatnonzero(~mask).tolist():
            out[position] = 0
        mask = self._fill_cached(records, out, mask)
        ages = np.where(mask, self._age[records], np.float32(0))
        genders = np.where(mask, self._gender[records], np.int32(0))
        return out, ages, genders, mask

    def read_train(self, records: np.ndarray) -> Batch:
        """`read` without a mask: the next good record takes the place of a bad one."""
        images_, ages, genders, mask = self.read(records)
        if mask.all():
            return images_, ages, genders
        for position in np.flatnonzero(~mask).tolist():
            record = int(records[position])
            for step in range(1, len(self._age)):
                one = np.array([(record + step) % len(self._age)])
                image, age, gender, good = self.read(one)
                if good[0]:
                    images_[position] = image[0]
                    ages[position], genders[position] = age[0], gender[0]
                    break
            else:
                raise errors.DataError(
                    f"no record of the {self._source.split} split can be read"
                )
        return images_, ages, genders

    def _fill_cached(
        self, records: np.ndarray, out: np.ndarray, mask: np.ndarray
    ) -> np.ndarray:
        decoded = self._decoded
        if decoded is None:
            return self._fill_all(records, out, mask)
        have = mask & self._is_decoded[records]
        if have.all():
            np.take(decoded, records, axis=0, out=out, mode="clip")
            return mask
        for position in np.flatnonzero(have).tolist():
            out[position] = decoded[records[position]]
        good = have | self._fill_all(records, out, mask & ~have)
        for position in np.flatnonzero(good & ~have).tolist():
            record = records[position]
            decoded[record] = out[position]
            self._is_decoded[record] = True
        return good

    def _fill_all(
        self, records: np.ndarray, out: np.ndarray, wanted: np.ndarray
    ) -> np.ndarray:
        """Fills the wanted rows of `out`; True where that went well."""
        unchecked = self._unchecked[records]
        if self._copies and wanted.all() and not unchecked.any():
            try:
                self._copy_rows(records, out)
                return wanted
            except (TypeError, ValueError):
                pass  # One by one, to know which, or to open its shard first.
        good = wanted.copy()
        shards = self._shard[records].tolist()
        for shard in set(shards):
            if self._shards[shard] is None:
                self._open(shard)
        # Plain lists and names: what is done here is done under the interpreter lock.
        opened, fill, decode, resize = self._shards, self._fill, *self._library
        scratch, shape, linear = self._buffer(), (self._size, self._size), _LINEAR
        begins, ends = self._offset[records].tolist(), self._end[records].tolist()
        kinds = np.where(wanted, self._kind[records], _PADDING).tolist()
        rows = zip(out, shards, begins, ends, kinds, unchecked.tolist(), strict=True)
        for position, (row, shard, begin, end, kind, check) in enumerate(rows):
            if kind == _PADDING:
                continue
            try:
                view = opened[shard][begin:end]
                if check:
                    self._check(int(records[position]), view)
                if kind == _RESIZED:
                    image = decode(view, "RGB", False, False, 0, 0, 1.0, scratch, True)
                    resize(image, shape, row, 0, 0, linear)
                elif kind == _AT_SIZE:
                    decode(view, "RGB", False, False, 0, 0, 1.0, row, True)
                else:
                    fill(view, row, int(records[position]))
            except (codec.ImageError, ValueError, zlib.error) as error:
                self._bad.add(int(records[position]), errors.one_line(error))
                row[:] = 0
                good[position] = False
        return good

    def _buffer(self) -> np.ndarray:
        """Memory for a decoded image, one for each thread."""
        try:
            return self._scratch.buffer
        except AttributeError:
            self._scratch.buffer = np.empty(self._largest, np.uint8)
            return self._scratch.buffer

    def _copy_rows(self, records: np.ndarray, out: np.ndarray) -> None:
        """What `_fill_all` comes to for checked pixels that are stored as wanted."""
        opened = self._shards
        num_bytes = self._size * self._size * 3
        shards, offsets = self._shard[records].tolist(), self._offset[records].tolist()
        rows = [
            opened[shard][offset : offset + num_bytes].reshape(1, num_bytes)
            for shard, offset in zip(shards, offsets, strict=True)
        ]
        target = out.reshape(len(out), num_bytes)
        if self._stack is None:
            np.concatenate(rows, out=target)
        else:
            self._stack(rows, target)

    def _check(self, record: int, view: Any) -> None:
        if zlib.crc32(view) != self._crc[record]:
            raise codec.ImageError(_CHECKSUM)
        self._unchecked[record] = False

    def _open(self, shard: int) -> Any:
        with self._opening:
            if self._shards[shard] is None:
                path = self._source.paths[shard]
                try:
                    self._shards[shard] = (
                        np.fromfile(path, np.uint8)
                        if self._cache == "encoded"
                        else np.asarray(np.memmap(path, np.uint8, "r"))
                    )
                except (OSError, ValueError) as error:
                    raise errors.DataError(
                        f"cannot read {path}: {errors.one_line(error)}"
                    ) from error
            return self._shards[shard]

    def _choose_ways(self) -> None:
        """Decides for each record how its bytes become a row of the batch."""
        index, size = self._source.index, self._size
        self._kind = np.full(len(index), _OTHER, np.int8)
        self._largest = 0
        self._library: tuple[Any, Any] = (None, None)
        if self._source.pixel:
            self._fill = self._row_filler()
            return
        cv2 = errors.require("cv2", extra="fast", purpose="--engine=mapped")
        simplejpeg = errors.require(
            "simplejpeg", extra="fast", purpose="--engine=mapped"
        )
        cv2.setNumThreads(0)  # The pipeline has threads of its own.
        self._library = (simplejpeg.decode_jpeg, cv2.resize)
        height, width = index["height"], index["width"]
        is_jpeg = index["image_format"] == schema.IMAGE_FORMATS.index("jpeg")
        at_size = (height == size) & (width == size)
        self._kind[is_jpeg] = _RESIZED
        self._kind[is_jpeg & at_size] = _AT_SIZE
        self._largest = int((height.astype(np.int64) * width).max()) * 3

        def fill(view: Any, out: np.ndarray, record: int) -> None:
            codec.resize(codec.decode(bytes(view)), size, out=out)

        self._fill = fill

    def _row_filler(self) -> Callable[[Any, np.ndarray, int], None]:
        source, size = self._source, self._size
        side = source.stored_size
        row = hdf5.RowLayout.of_pixel(source.pixel, side)
        resizes = side != size

        if not source.contiguous:
            return self._inflating_filler(row)
        if row.plain and not resizes:
            self._copies = True
            # One call without the interpreter lock; numpy takes it again for each row,
            # and threads then wait for one another.
            with contextlib.suppress(ImportError):
                import cv2

                self._stack = cv2.vconcat

            def copy(view: Any, out: np.ndarray, record: int) -> None:
                out.reshape(-1)[:] = view

            return copy

        def fill(view: Any, out: np.ndarray, record: int) -> None:
            codec.resize(row.to_image(view), size, out=out)

        return fill

    def _inflating_filler(
        self, row: hdf5.RowLayout
    ) -> Callable[[Any, np.ndarray, int], None]:
        """For filtered pixels, whose bytes the index cannot point to."""
        stores = [
            hdf5.RowReader(path, self._source.dataset) for path in self._source.paths
        ]
        verify = self._unchecked.copy()
        self._unchecked[:] = False

        def fill(view: Any, out: np.ndarray, record: int) -> None:
            shard = int(self._shard[record])
            data = stores[shard].row(int(record) - int(self._first[shard]))
            if verify[record]:
                if zlib.crc32(data) != self._crc[record]:
                    raise codec.ImageError(_CHECKSUM)
                verify[record] = False
            codec.resize(row.to_image(data), self._size, out=out)

        return fill


class ArrayPool:
    """Aligned arrays that are taken up again when nobody else refers to them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Arrays that own memory, and where in it alignment begins.
        self._owners: list[np.ndarray] = []
        self._starts: list[int] = []
        # What getrefcount says of an array that only the list refers to.
        self._owners.append(np.empty(0, np.uint8))
        self._unused = sys.getrefcount(self._owners[0])
        self._owners.clear()

    def __len__(self) -> int:
        return len(self._owners)

    def take(self, shape: tuple[int, ...]) -> np.ndarray:
        """An uninitialised uint8 array of that shape, 64-byte aligned."""
        num_bytes = math.prod(shape)
        owners = self._owners
        with self._lock:
            for i in range(len(owners)):
                if (
                    sys.getrefcount(owners[i]) == self._unused
                    and owners[i].size == num_bytes + _ALIGNMENT
                ):
                    break
            else:
                i = len(owners)
                owners.append(np.empty(num_bytes + _ALIGNMENT, np.uint8))
                self._starts.append(-owners[i].ctypes.data % _ALIGNMENT)
            # A view refers to the array that owns the memory, which is what is counted.
            start = self._starts[i]
            return owners[i][start : start + num_bytes].reshape(shape)
