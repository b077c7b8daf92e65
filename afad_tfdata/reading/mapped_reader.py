"""Batches of examples from memory-mapped shards, by numpy: no TensorFlow here.

A batch is a list of record numbers.  The index says where each image is stored in its
shard; its bytes are decoded and resized straight into the batch's array by libraries
that release the interpreter lock meanwhile, so that batches in several threads do not
wait for one another.  Nothing is parsed, and no memory grows with the data set.
"""

from __future__ import annotations

import contextlib
import threading
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from afad_tfdata.common import crc32, errors
from afad_tfdata.images import codec
from afad_tfdata.reading import array_pool, bad_records, record_index
from afad_tfdata.storage import hdf5, schema

# How a record becomes a row of a batch: not at all; by decoding and resizing; by
# decoding alone; by the reader's `_fill`.
_PADDING, _RESIZED, _AT_SIZE, _OTHER = range(4)
_LINEAR = 1  # cv2.INTER_LINEAR: OpenCV is imported only where it is needed.

# Fills a row of a batch, uint8 [S, S, 3], from the stored bytes of a record.
_Filler = Callable[[np.ndarray, np.ndarray, int], None]


class Reader:
    """Reads batches by record number; any number of threads may call it.

    Args:
      index: The records, in local files.
      image_size: Side of the images in its batches, pixels.
      bad: Takes the damaged records.
      cache: ``none``; ``encoded`` reads whole shards into memory instead of mapping
        them; ``decoded`` keeps each image as it was first returned.
      verify: Whether to compare each record's checksum when it is first read.

    Raises:
      UsageError: OpenCV is missing, and images must be decoded or resized.
    """

    def __init__(
        self,
        index: record_index.RecordIndex,
        image_size: int,
        bad: bad_records.BadRecords,
        *,
        cache: str = "none",
        verify: bool = True,
    ) -> None:
        self._index, self._size, self._bad = index, image_size, bad
        self._keeps_shards = cache == "encoded"
        entries = index.entries
        # Columns of their own: in the array of entries their values are apart, and each
        # look-up of a batch would touch a cache line for each record and field.
        self._shard = np.ascontiguousarray(entries["shard"])
        # Signed: numpy makes floats of the sum of an unsigned and a signed integer.
        self._begin = entries["image_offset"].astype(np.int64)
        self._end = self._begin + entries["image_length"]
        self._crc = np.ascontiguousarray(entries["crc32"])
        self._age = entries["age"].astype(np.float32)
        self._gender = entries["gender"].astype(np.int32)
        # No lock: two threads that meet check the same record twice, which harms
        # nothing.
        self._unchecked = np.full(len(entries), verify)
        self._starts = index.shard_starts()
        self._arrays = array_pool.ArrayPool()
        self._scratch = threading.local()
        # Arrays of the shards' bytes; None where a shard has not been needed yet.
        self._opened: list[Any] = [None] * len(index.paths)
        self._opening = threading.Lock()
        self._kind = np.full(len(entries), _OTHER, np.int8)
        # Bytes of the largest image when it is decoded.
        self._largest = 0
        # Functions of simplejpeg and OpenCV; None where no JPEG is stored.
        self._decode: Any = None
        self._resize: Any = None
        # Whether stored rows are rows of a batch as they are.
        self._copies_rows = False
        self._stack: Callable[..., Any] | None = None
        self._fill: _Filler = (
            self._pixel_filler() if index.pixel else self._image_filler()
        )
        keeps_decoded = cache == "decoded"
        self._decoded: np.ndarray | None = None
        self._is_decoded = np.zeros(len(entries) if keeps_decoded else 0, bool)
        if keeps_decoded:
            # Not zeros: pages are taken as the images come.
            self._decoded = np.empty(
                (len(entries), image_size, image_size, 3), np.uint8
            )

    def read(
        self, records: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Reads a batch.

        Args:
          records: int64 ``[B]`` record numbers; -1 is padding.

        Returns:
          ``(images uint8 [B, S, S, 3], ages float32 [B], genders int32 [B],
          mask bool [B])``; where the mask is False everything is zero.

        Raises:
          DataError: A damaged record, beyond what `bad` skips.
        """
        images = self._arrays.take((len(records), self._size, self._size, 3))
        mask = records >= 0
        for position in np.flatnonzero(~mask).tolist():
            images[position] = 0  # The array has been used before.
        mask = self._fill_from_cache(records, images, mask)
        ages = np.where(mask, self._age[records], np.float32(0))
        genders = np.where(mask, self._gender[records], np.int32(0))
        return images, ages, genders, mask

    def read_train(
        self, records: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`read` without a mask: the next good record replaces a bad one."""
        images, ages, genders, mask = self.read(records)
        if mask.all():
            return images, ages, genders
        for position in np.flatnonzero(~mask).tolist():
            record = int(records[position])
            for step in range(1, len(self._age)):
                one = np.array([(record + step) % len(self._age)])
                image, age, gender, good = self.read(one)
                if good[0]:
                    images[position] = image[0]
                    ages[position], genders[position] = age[0], gender[0]
                    break
            else:
                raise errors.DataError(
                    f"no record of the {self._index.split} split can be read"
                )
        return images, ages, genders

    def _fill_from_cache(
        self, records: np.ndarray, out: np.ndarray, wanted: np.ndarray
    ) -> np.ndarray:
        """`_fill_rows`, with images that were decoded before taken from memory."""
        decoded = self._decoded
        if decoded is None:
            return self._fill_rows(records, out, wanted)
        have = wanted & self._is_decoded[records]
        if have.all():
            # With the default mode numpy fills a buffer first, and copies it.
            np.take(decoded, records, axis=0, out=out, mode="clip")
            return wanted
        for position in np.flatnonzero(have).tolist():
            out[position] = decoded[records[position]]
        good = have | self._fill_rows(records, out, wanted & ~have)
        for position in np.flatnonzero(good & ~have).tolist():
            record = records[position]
            decoded[record] = out[position]
            # After the pixels: another thread that sees the mark takes them.
            self._is_decoded[record] = True
        return good

    def _fill_rows(
        self, records: np.ndarray, out: np.ndarray, wanted: np.ndarray
    ) -> np.ndarray:
        """Fills the wanted rows of `out`; True where that went well."""
        unchecked = self._unchecked[records]
        if self._copies_rows and wanted.all() and not unchecked.any():
            try:
                self._copy_rows(records, out)
                return wanted
            except (TypeError, ValueError):
                pass  # A shard is not open or too short: below, one record at a time.
        good = wanted.copy()
        shards = self._shard[records].tolist()
        for shard in set(shards):
            if self._opened[shard] is None:
                self._open(shard)
        # Plain lists and local names: this loop runs under the interpreter lock, and
        # what it costs for each image decides how many threads one process can use.
        opened, fill = self._opened, self._fill
        decode, resize, linear = self._decode, self._resize, _LINEAR
        scratch, shape = self._scratch_image(), (self._size, self._size)
        begins, ends = self._begin[records].tolist(), self._end[records].tolist()
        kinds = np.where(wanted, self._kind[records], _PADDING).tolist()
        rows = zip(out, shards, begins, ends, kinds, unchecked.tolist(), strict=True)
        for position, (row, shard, begin, end, kind, check) in enumerate(rows):
            if kind == _PADDING:
                continue
            try:
                view = opened[shard][begin:end]
                if check:
                    self._check(int(records[position]), view)
                # Arguments of simplejpeg: accurate DCT and upsampling (False, False),
                # no downscaling (0, 0, 1.0), where to, and strict: libjpeg's warnings
                # about damaged data are errors.
                if kind == _RESIZED:
                    image = decode(view, "RGB", False, False, 0, 0, 1.0, scratch, True)
                    resize(image, shape, row, 0, 0, linear)
                elif kind == _AT_SIZE:
                    decode(view, "RGB", False, False, 0, 0, 1.0, row, True)
                else:
                    fill(view, row, int(records[position]))
            except (codec.ImageError, ValueError, zlib.error) as error:
                self._bad.add(int(records[position]), errors.one_line(error))
                row[:] = 0  # What was decoded before the damage must not show.
                good[position] = False
        return good

    def _scratch_image(self) -> np.ndarray:
        """Memory for a decoded image before it is resized, one for each thread.

        Memory that is allocated for each image costs page faults.
        """
        try:
            return self._scratch.image
        except AttributeError:
            self._scratch.image = np.empty(self._largest, np.uint8)
            return self._scratch.image

    def _copy_rows(self, records: np.ndarray, out: np.ndarray) -> None:
        """`_fill_rows` for rows that are checked and stored as the batch has them.

        Raises:
          TypeError: A shard is not open.
          ValueError: A shard is too short.
        """
        opened = self._opened
        num_bytes = self._size * self._size * 3
        shards, begins = self._shard[records].tolist(), self._begin[records].tolist()
        rows = [
            opened[shard][begin : begin + num_bytes].reshape(1, num_bytes)
            for shard, begin in zip(shards, begins, strict=True)
        ]
        target = out.reshape(len(out), num_bytes)
        if self._stack is None:
            np.concatenate(rows, out=target)
        else:
            self._stack(rows, target)

    def _check(self, record: int, view: Any) -> None:
        if crc32.crc32(view) != self._crc[record]:
            raise codec.ImageError(bad_records.WRONG_CHECKSUM)
        self._unchecked[record] = False

    def _open(self, shard: int) -> None:
        # So that threads that meet do not all read a whole shard; those that find it
        # open take no lock.
        with self._opening:
            if self._opened[shard] is not None:
                return
            path = self._index.paths[shard]
            try:
                self._opened[shard] = (
                    np.fromfile(path, np.uint8)
                    if self._keeps_shards
                    # A plain array of the same memory: slices of a memmap are slow.
                    else np.asarray(np.memmap(path, np.uint8, "r"))
                )
            except (OSError, ValueError) as error:
                raise errors.DataError(
                    f"cannot read {path}: {errors.one_line(error)}"
                ) from error

    def _image_filler(self) -> _Filler:
        """For encoded images: JPEGs are decoded in place, others by `codec`."""
        entries, size = self._index.entries, self._size
        cv2 = errors.require("cv2", extra="fast", purpose="--engine=mapped")
        import simplejpeg

        # The pipeline has a thread for each core already.
        cv2.setNumThreads(0)
        self._decode, self._resize = simplejpeg.decode_jpeg, cv2.resize
        height, width = entries["height"], entries["width"]
        is_jpeg = entries["image_format"] == schema.IMAGE_FORMATS.index("jpeg")
        at_size = (height == size) & (width == size)
        self._kind[is_jpeg] = _RESIZED
        self._kind[is_jpeg & at_size] = _AT_SIZE
        # Sides are uint16, whose product would overflow.
        self._largest = int((height.astype(np.int64) * width).max()) * 3

        def fill(view: np.ndarray, out: np.ndarray, record: int) -> None:
            codec.resize(codec.decode(bytes(view)), size, out=out)

        return fill

    def _pixel_filler(self) -> _Filler:
        """For stored pixels: rows are copied, or unpacked and resized."""
        index, size = self._index, self._size
        row = hdf5.RowLayout.of_pixel(index.pixel, index.stored_size)
        if not index.contiguous:
            return self._unpacking_filler(row)
        if row.plain and index.stored_size == size:
            self._copies_rows = True
            # One call without the interpreter lock; np.concatenate takes the lock again
            # for each row, and threads then wait for one another.
            with contextlib.suppress(ImportError):
                import cv2

                self._stack = cv2.vconcat

            def copy(view: np.ndarray, out: np.ndarray, record: int) -> None:
                out.reshape(-1)[:] = view

            return copy

        def fill(view: np.ndarray, out: np.ndarray, record: int) -> None:
            codec.resize(row.to_image(view), size, out=out)

        return fill

    def _unpacking_filler(self, row: hdf5.RowLayout) -> _Filler:
        """For compressed pixels, whose bytes the index cannot point to."""
        stores = [
            hdf5.RowReader(path, self._index.dataset) for path in self._index.paths
        ]
        # The checksum is that of the unpacked bytes: it is compared here, and the view
        # that `_fill_rows` has is not looked at.
        unchecked = self._unchecked.copy()
        self._unchecked[:] = False

        def fill(view: np.ndarray, out: np.ndarray, record: int) -> None:
            shard = int(self._shard[record])
            data = stores[shard].row(int(record) - int(self._starts[shard]))
            if unchecked[record]:
                if crc32.crc32(data) != self._crc[record]:
                    raise codec.ImageError(bad_records.WRONG_CHECKSUM)
                unchecked[record] = False
            codec.resize(row.to_image(data), self._size, out=out)

        return fill
