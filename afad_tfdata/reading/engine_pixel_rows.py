"""The graph engine for stored pixels in local files: rows by position.

TensorFlow gathers the rows from mapped files and converts them, as `engine_graph` does
with rows in memory.  The only memory in use is that of file pages, which the system may
drop.  A Python function compares the checksums of records when they are first read.
"""

from __future__ import annotations

import numpy as np

from afad_tfdata.common import crc32, errors
from afad_tfdata.common.lazy_imports import tf
from afad_tfdata.reading import (
    bad_records,
    engine_graph,
    mapped_reader,
    pipeline_shutdown,
    pixel_row_gather,
    record_index,
)
from afad_tfdata.storage import hdf5


class PixelRowEngine:
    """The graph engine that reads batches from stored pixels in mapped files.

    Args:
      index: The split's records.
      reader: The reader that has mapped their files.
      rows: The reader's `mapped_reader.MappedReader.mapped_rows`.
      bad: Takes the damaged records.
      image_size: Side of the images that it returns, pixels.
      num_threads: Batches that are read at the same time.
    """

    def __init__(
        self,
        index: record_index.RecordIndex,
        reader: mapped_reader.MappedReader,
        rows: mapped_reader.StoredRows,
        bad: bad_records.BadRecords,
        image_size: int,
        num_threads: int,
    ) -> None:
        self._reader = reader  # It reads pages ahead only as long as it exists.
        self._pixel, self._side, self._size = (
            index.pixel,
            index.stored_size,
            image_size,
        )
        self.num_threads = num_threads
        layout = hdf5.RowLayout.of_pixel(index.pixel, index.stored_size)
        self._dtype = np.dtype(index.pixel["dtype"])
        shape = (layout.num_bytes // self._dtype.itemsize, self._dtype.itemsize)
        self._checks = _PixelRowChecksums(index, reader, rows, bad, layout.num_bytes)
        with tf.init_scope():
            self._rows = pixel_row_gather.PixelRowGather(
                pixel_row_gather.row_form(rows, shape),
                pixel_row_gather.row_tensors(rows, shape),
            )

    def read(
        self, records: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        """Reads like `mapped_reader.MappedReader.read`; masks -1 and bad records."""
        wanted = tf.maximum(records, 0)
        good = self._good_records(wanted)
        mask = (records >= 0) & (good == wanted)
        return engine_graph.mask_batch(*self._gather_batch(good), mask)

    def read_train(self, records: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Reads without a mask: the next good record replaces a bad one."""
        return self._gather_batch(self._good_records(records))

    def _good_records(self, records: tf.Tensor) -> tf.Tensor:
        """Returns the records, with the next good one in the place of a bad one."""
        if self._rows.all_checked and self._reader.fits_in_memory:
            return records

        def checked() -> tf.Tensor:
            """Compares the checksums of the rows in a Python function."""
            guarded = pipeline_shutdown.guarded_function(self._checks.good_records)
            return tf.numpy_function(guarded, [records], tf.int64)

        if self._reader.fits_in_memory:
            may_gather = self._rows.may_gather(records)
            good = tf.cond(may_gather, lambda: records, checked)
        else:
            good = checked()
        return tf.ensure_shape(good, records.shape)

    def _gather_batch(
        self, records: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Gathers the rows of a batch, as images of the model's size."""
        values, ages, genders = self._rows.batch(records)
        if self._dtype.byteorder == ">":
            values = tf.reverse(values, [2])
        if self._dtype.itemsize == 1:
            values = tf.squeeze(values, [2])
        values = tf.bitcast(values, tf.as_dtype(self._dtype.newbyteorder("=")))
        images = engine_graph.unpack_pixels(values, self._pixel, self._side, self._size)
        return images, ages, genders


class _PixelRowChecksums:
    """Compares the checksums of mapped rows.

    Args:
      index: The records.
      reader: Asks the system for their pages if they do not fit in memory.
      rows: Where they are mapped.
      bad: Takes the damaged records.
      row_bytes: Size of a row.
    """

    def __init__(
        self,
        index: record_index.RecordIndex,
        reader: mapped_reader.MappedReader,
        rows: mapped_reader.StoredRows,
        bad: bad_records.BadRecords,
        row_bytes: int,
    ) -> None:
        self._reader = reader
        self._crcs, self._split = index.entries["crc32"], index.split
        self._rows, self._bad = rows, bad
        self._bytes = rows.matrix.reshape(-1)
        self._row_bytes = row_bytes

    def good_records(self, records: np.ndarray) -> np.ndarray:
        """Returns int64 ``[B]``: the records, or for a bad one the next good one.

        Raises:
          DataError: A damaged record, beyond what is skipped.
        """
        if not self._reader.fits_in_memory:
            self._reader.will_need(records)
            if not self._rows.unchecked[records].any():
                return records
        return np.array([self._next_good(r) for r in records.tolist()], np.int64)

    def _next_good(self, record: int) -> int:
        """The record, or the next one whose row of pixels is undamaged."""
        count = len(self._crcs)
        for step in range(count):
            found = (record + step) % count
            if self._is_good(found):
                return found
        raise errors.DataError(
            f"no record of the {self._split} split can be read: restore the shards, or"
            " write the records again"
        )

    def _is_good(self, record: int) -> bool:
        """Whether the checksum of a record's row of pixels is right."""
        rows = self._rows
        if not rows.unchecked[record]:
            return True
        shard = int(np.searchsorted(rows.ends, record, side="right"))
        begin = (record * rows.pieces + int(rows.shift[shard])) * rows.matrix.shape[1]
        if crc32.crc32(self._bytes[begin : begin + self._row_bytes]) == int(
            self._crcs[record]
        ):
            # No lock: if two threads check the same record, nothing is harmed.
            rows.unchecked[record] = 0
            return True
        self._bad.add(record, bad_records.WRONG_CHECKSUM)
        return False
