"""Reads batches of examples from memory-mapped shards by numpy, without TensorFlow.

A batch is a list of record numbers.  The index says where each image is stored in its
shard.  Libraries decode and resize its bytes straight into the batch's array.  They
release the interpreter lock meanwhile, so that threads do not wait for one another.
Nothing is parsed, and without a cache the memory that is used hardly grows with the
data set.
"""

from __future__ import annotations

import os
import threading
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from afad_tfdata.common import crc32, errors, files, lazy_imports
from afad_tfdata.images import codec
from afad_tfdata.reading import (
    array_pool,
    bad_records,
    record_index,
    shard_maps,
)
from afad_tfdata.storage import hdf5, schema

# How a record becomes a row of a batch: not at all, for padding; by decoding and
# resizing; by decoding alone; by the reader's `_fill`.
_PADDING, _RESIZED, _AT_SIZE, _OTHER = range(4)
_LINEAR = 1  # cv2.INTER_LINEAR: OpenCV is imported only where it is needed.

# Fills a row of a batch, uint8 [S, S, 3], from the stored bytes of a record.
_Filler = Callable[[np.ndarray, np.ndarray, int], None]


class StoredRows(NamedTuple):
    """Stored pixels in mapped files.

    Attributes:
      matrix: uint8 ``[m, piece]``: mapped memory.  Record r in shard s is stored in the
        `pieces` rows of it that begin at ``r * pieces + shift[s]``.
      pieces: As above.
      shift: int64 ``[num_shards]``, as above.
      ends: int64 ``[num_shards]``: the record after the last one of each shard.
      blank: The row of the matrix at which a record of zeros begins.
      unchecked: uint8 ``[n]``: 1 for records that only `MappedReader.read` may return,
        since their bytes are not compared with their checksums yet, or are damaged.
      ages: Numbers ``[n]``, years.
      genders: Integers ``[n]``, 0 or 1.
    """

    matrix: np.ndarray
    pieces: int
    shift: np.ndarray
    ends: np.ndarray
    blank: int
    unchecked: np.ndarray
    ages: np.ndarray
    genders: np.ndarray


class MappedReader:
    """Reads batches by record number; any number of threads may call it.

    Args:
      index: The records, in local files.
      image_size: Side of the images in its batches, pixels.
      bad: Takes the damaged records.
      cache: ``none``; ``encoded`` reads whole shards into memory instead of mapping
        them; ``decoded`` keeps each image as it was first returned.
      verify: Whether to compare each record's checksum when it is first read.
      decode: One of `codec.DECODES`.

    Raises:
      UsageError: A library is missing, and images must be decoded or resized.
    """

    def __init__(
        self,
        index: record_index.RecordIndex,
        image_size: int,
        bad: bad_records.BadRecords,
        *,
        cache: str = "none",
        verify: bool = True,
        decode: str = "accurate",
    ) -> None:
        self._index, self._size, self._bad = index, image_size, bad
        self._decodes_fast = decode == "fast"
        # A plain array of the same memory: a memmap is slow to index.
        self._entries = np.asarray(index.entries)
        self._starts = index.shard_starts()
        self._row = hdf5.RowLayout.of_pixel(index.pixel, index.stored_size)
        self._arrays = array_pool.shared_pool()
        self._scratch = threading.local()
        # Whether the checksums are of the stored bytes, and not of unpacked ones.
        self._checks_stored_bytes = True
        # Functions of simplejpeg and OpenCV; None if no JPEG is stored.
        self._decode: Any = None
        self._resize: Any = None
        # Whether stored rows need no conversion to be rows of a batch.
        self._copies_rows = (
            bool(index.pixel)
            and index.contiguous
            and self._row.plain
            and index.stored_size == image_size
        )
        self._stack = _stacking_function() if self._copies_rows else None
        # The bytes of each shard; None if the shard has not been needed yet.
        self._opened: list[Any] = [None] * len(index.paths)
        self._opening = threading.Lock()
        self._maps: shard_maps.ShardMaps | None = None
        self._rows: shard_maps.Rows | None = None
        if cache == "encoded" or not index.contiguous:
            # This reader copies the bytes, so that checks of mapped bytes do not apply.
            self._unchecked = _unchecked_marks(len(index))
        else:
            known = shard_maps.remembered_maps(
                index.identity, index.paths, len(index), self._map_shards
            )
            self._maps, self._unchecked = known.maps, known.unchecked
            self._opened = list(known.maps.shards)
            if self._copies_rows:
                self._rows = known.maps.rows
        if not verify:
            self._unchecked = array_pool.aligned_zeros(len(index))
        self._fill: _Filler = (
            self._pixel_filler() if index.pixel else self._image_filler()
        )
        keeps_decoded = cache == "decoded"
        self._decoded: np.ndarray | None = None
        self._is_decoded = np.zeros(len(index) if keeps_decoded else 0, bool)
        if keeps_decoded:
            # np.empty takes memory only as images are written to it.
            self._decoded = np.empty((len(index), image_size, image_size, 3), np.uint8)
        if self._maps is not None:
            has_rows = self._maps.rows is not None
            self._maps.populate(self, MappedReader._check_loaded if has_rows else None)

    def __del__(self) -> None:
        if hasattr(self, "_arrays"):  # Missing if __init__ raised.
            self._arrays.trim()

    def _map_shards(self) -> shard_maps.Known:
        """Maps the shards of the reader, and finds out whether they consist of rows."""
        index, entries = self._index, self._entries
        row_bytes, offsets = 0, []
        if index.pixel and self._are_rows():
            row_bytes = self._row.num_bytes
            first = np.minimum(self._starts[:-1], len(index) - 1)
            offsets = entries["image_offset"][first].tolist()
        maps = shard_maps.ShardMaps(index.paths, row_bytes, offsets)
        return shard_maps.Known(maps, _unchecked_marks(len(index)))

    def _are_rows(self) -> bool:
        """Returns whether the images of each shard follow one another without gaps."""
        num_bytes = self._row.num_bytes
        for shard, path in enumerate(self._index.paths):
            start, end = self._starts[shard], self._starts[shard + 1]
            if start == end:
                continue
            at = self._entries["image_offset"][start:end].astype(np.int64)
            # A row that reaches past the end would be read from the gap between files.
            if at[-1] + num_bytes > os.path.getsize(path):
                return False
            if not (np.diff(at) == num_bytes).all():
                return False
        return True

    def _check_loaded(self, shard: int, begin: int, end: int) -> None:
        """Checks the rows that end in a part of a shard, and marks those that are good.

        The rows of a pipeline's batches come from everywhere, and each would be checked
        where a batch waits for it.  Here, one thread checks rows that follow one
        another, while TensorFlow still builds the pipeline.  A row that differs keeps
        its mark, so that `read` finds it again.
        """
        first = int(self._starts[shard])
        entries = self._entries[first : int(self._starts[shard + 1])]
        ends = entries["image_offset"].astype(np.int64) + entries["image_length"]
        low, high = np.searchsorted(ends, [begin, end], side="right").tolist()
        entries, marks = entries[low:high], self._unchecked[first + low : first + high]
        if not marks.any():
            return
        num_bytes, step = self._row.num_bytes, crc32.BLOCK_ROWS
        expected = crc32.block_checksums(entries["crc32"], num_bytes).tolist()
        offset = int(entries["image_offset"][0])
        stored = self._opened[shard][offset : offset + len(marks) * num_bytes]
        rows = stored.reshape(len(marks), num_bytes)
        for block, start in enumerate(range(0, len(rows), step)):
            if crc32.crc32(rows[start : start + step]) == expected[block]:
                marks[start : start + step] = 0

    @property
    def stored_rows(self) -> StoredRows | None:
        """The stored pixels, if they can be gathered without conversion.

        It is also None if they do not fit in memory: `read` asks the disk for all rows
        of a batch at once, and gathering would wait for each page.
        """
        if self._rows is None or not self.fits_in_memory:
            return None
        return self.mapped_rows

    @property
    def fits_in_memory(self) -> bool:
        """Whether all mapped pages fit in memory."""
        return self._maps is None or self._maps.fits_in_memory

    @property
    def mapped_rows(self) -> StoredRows | None:
        """The stored pixels, in any form, if they are rows of mapped files."""
        rows = None if self._maps is None else self._maps.rows
        if rows is None or self._decoded is not None:
            return None
        matrix, first, pieces, blank = rows
        exact = self._index.exact_ages
        return StoredRows(
            matrix=matrix,
            pieces=pieces,
            shift=first - self._starts[:-1] * pieces,
            ends=self._starts[1:],
            blank=blank,
            unchecked=self._unchecked,
            ages=self._entries["age"] if exact is None else exact,
            genders=self._entries["gender"],
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
        entries = self._entries[records]
        mask = self._fill_from_cache(records, entries, images, mask)
        exact = self._index.exact_ages
        years = entries["age"] if exact is None else exact[records]
        ages = np.where(mask, years, 0).astype(np.float32)
        genders = np.where(mask, entries["gender"], 0).astype(np.int32)
        return images, ages, genders, mask

    def will_need(self, records: np.ndarray) -> None:
        """Starts reading the bytes of records from the disk.

        Args:
          records: int64 ``[B]``, 0 or more.
        """
        if self._maps is not None:
            entries = self._entries[records]
            begins = entries["image_offset"].astype(np.int64)
            ends = begins + entries["image_length"]
            self._maps.will_need(
                entries["shard"].tolist(), begins.tolist(), ends.tolist()
            )

    def read_train(
        self, records: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Reads without a mask: the next good record replaces a bad one."""
        images, ages, genders, mask = self.read(records)
        if mask.all():
            return images, ages, genders
        for position in np.flatnonzero(~mask).tolist():
            record = int(records[position])
            for step in range(1, len(self._index)):
                one = np.array([(record + step) % len(self._index)])
                image, age, gender, good = self.read(one)
                if good[0]:
                    images[position] = image[0]
                    ages[position], genders[position] = age[0], gender[0]
                    break
            else:
                raise errors.DataError(
                    f"no record of the {self._index.split} split can be read: restore"
                    " the shards, or write the records again"
                )
        return images, ages, genders

    def _fill_from_cache(
        self,
        records: np.ndarray,
        entries: np.ndarray,
        out: np.ndarray,
        wanted: np.ndarray,
    ) -> np.ndarray:
        """Does `_fill_rows`, but takes images that were decoded earlier from memory."""
        decoded = self._decoded
        if decoded is None:
            return self._fill_rows(records, entries, out, wanted)
        have = wanted & self._is_decoded[records]
        if have.all():
            # With the default mode numpy fills a buffer first, and copies it.
            np.take(decoded, records, axis=0, out=out, mode="clip")
            return wanted
        for position in np.flatnonzero(have).tolist():
            out[position] = decoded[records[position]]
        good = have | self._fill_rows(records, entries, out, wanted & ~have)
        for position in np.flatnonzero(good & ~have).tolist():
            record = records[position]
            decoded[record] = out[position]
            # The mark is set after the pixels, because other threads rely on it.
            self._is_decoded[record] = True
        return good

    def _fill_rows(
        self,
        records: np.ndarray,
        entries: np.ndarray,
        out: np.ndarray,
        wanted: np.ndarray,
    ) -> np.ndarray:
        """Fills the wanted rows of `out`; returns which of them are good."""
        unchecked = self._unchecked[records]
        shards = entries["shard"].tolist()
        for shard in set(shards):
            if self._opened[shard] is None:
                self._open(shard)
        if not self.fits_in_memory:
            self.will_need(records[wanted])
        if self._copies_rows and wanted.all():
            try:
                return self._copy_rows(records, entries, out, unchecked)
            except (TypeError, ValueError):
                pass  # A shard is too short: find its bad records one by one.
        begins = entries["image_offset"].astype(np.int64)
        ends = begins + entries["image_length"]
        begins, ends = begins.tolist(), ends.tolist()
        good = wanted.copy()
        # The loop uses plain lists and local names, because it holds the interpreter
        # lock.  Its time for an image limits how many threads one process can use.
        opened, fill = self._opened, self._fill
        decode, resize, linear = self._decode, self._resize, _LINEAR
        fast = self._decodes_fast
        shape, crc_of = (self._size, self._size), crc32.crc32
        kinds = np.where(wanted, self._kinds(entries), _PADDING)
        scratch = self._scratch_image(entries[kinds == _RESIZED])
        rows = zip(
            out,
            shards,
            begins,
            ends,
            kinds.tolist(),
            unchecked.tolist(),
            entries["crc32"].tolist(),
            strict=True,
        )
        for position, (row, shard, begin, end, kind, check, crc) in enumerate(rows):
            if kind == _PADDING:
                continue
            try:
                view = opened[shard][begin:end]
                if check and self._checks_stored_bytes:
                    if crc_of(view) != crc:
                        raise codec.ImageError(bad_records.WRONG_CHECKSUM)
                    self._unchecked[records[position]] = 0
                # Arguments of simplejpeg: whether the DCT and the upsampling are fast,
                # no downscaling (0, 0, 1.0), the target, and strict, which makes
                # libjpeg's warnings about damaged data errors.
                if kind == _RESIZED:
                    image = decode(view, "RGB", fast, fast, 0, 0, 1.0, scratch, True)
                    resize(image, shape, row, 0, 0, linear)
                elif kind == _AT_SIZE:
                    decode(view, "RGB", fast, fast, 0, 0, 1.0, row, True)
                else:
                    fill(view, row, int(records[position]))
            except (codec.ImageError, ValueError, zlib.error) as error:
                self._bad.add(int(records[position]), errors.one_line(error))
                row[:] = 0  # A partly decoded image must not show.
                good[position] = False
        return good

    def _kinds(self, entries: np.ndarray) -> np.ndarray | int:
        """Returns how each record becomes a row of a batch."""
        if self._index.pixel:
            return _OTHER
        at_size = (entries["height"] == self._size) & (entries["width"] == self._size)
        is_jpeg = entries["image_format"] == schema.IMAGE_FORMATS.index("jpeg")
        return np.where(is_jpeg, np.where(at_size, _AT_SIZE, _RESIZED), _OTHER)

    def _scratch_image(self, entries: np.ndarray) -> np.ndarray:
        """Returns this thread's memory for a decoded image that is to be resized.

        Allocating memory for each image would cost page faults.
        """
        # Sides are uint16, and their product would overflow.
        pixels = entries["height"].astype(np.int64) * entries["width"]
        needed = int(pixels.max(initial=0)) * 3
        image = getattr(self._scratch, "image", None)  # New threads have none.
        if image is None or len(image) < needed:
            image = self._scratch.image = np.empty(needed, np.uint8)
        return image

    def _copy_rows(
        self,
        records: np.ndarray,
        entries: np.ndarray,
        out: np.ndarray,
        unchecked: np.ndarray,
    ) -> np.ndarray:
        """Does `_fill_rows` for stored rows that need no conversion.

        Raises:
          ValueError: A shard is too short.
        """
        if not unchecked.any():
            self._copy_block(records, entries, out)
            return np.ones(len(records), bool)
        good = np.ones(len(records), bool)
        crcs = entries["crc32"]
        expected = crc32.block_checksums(crcs, self._row.num_bytes).tolist()
        step = crc32.BLOCK_ROWS
        for block, start in enumerate(range(0, len(records), step)):
            part = slice(start, start + step)
            self._copy_block(records[part], entries[part], out[part])
            if not unchecked[part].any():
                continue
            # The copy is checked now, while it is still in the processor's cache.
            if crc32.crc32(out[part]) == expected[block]:
                self._unchecked[records[part]] = 0
                continue
            for position in range(start, min(start + step, len(records))):
                if not unchecked[position]:
                    continue
                record = int(records[position])
                if crc32.crc32(out[position]) == crcs[position]:
                    self._unchecked[record] = 0
                    continue
                self._bad.add(record, bad_records.WRONG_CHECKSUM)
                out[position] = 0
                good[position] = False
        return good

    def _copy_block(
        self, records: np.ndarray, entries: np.ndarray, out: np.ndarray
    ) -> None:
        """Copies rows, without the interpreter lock if the library allows that."""
        num_bytes, shards = self._row.num_bytes, entries["shard"]
        if self._rows is not None:
            matrix, first, pieces, _ = self._rows
            begin = first[shards] + (records - self._starts[shards]) * pieces
            wanted = (begin[:, np.newaxis] + np.arange(pieces)).reshape(-1)
            # With the default mode numpy fills a buffer first, and copies it.
            target = out.reshape(len(wanted), -1)
            np.take(matrix, wanted, axis=0, out=target, mode="clip")
            return
        opened, begins = self._opened, entries["image_offset"].tolist()
        rows = [
            opened[shard][begin : begin + num_bytes].reshape(1, num_bytes)
            for shard, begin in zip(shards.tolist(), begins, strict=True)
        ]
        target = out.reshape(len(out), num_bytes)
        if self._stack is None:
            np.concatenate(rows, out=target)
        else:
            self._stack(rows, target)

    def _open(self, shard: int) -> None:
        """Reads a whole shard into memory, unless it is there already."""
        # One thread reads the shard, and others wait for it.  Threads that find the
        # shard open do not take the lock.
        with self._opening:
            if self._opened[shard] is not None:
                return
            path = self._index.paths[shard]
            try:
                self._opened[shard] = np.fromfile(path, np.uint8)
            except OSError as error:
                raise files.read_error(path, error) from error

    def _image_filler(self) -> _Filler:
        """Prepares simplejpeg for JPEGs; returns the filler for other image formats."""
        size = self._size
        cv2, simplejpeg = (
            lazy_imports.import_optional(
                module, extra="fast", purpose="--engine=mapped"
            )
            for module in ("cv2", "simplejpeg")
        )
        # The pipeline has a thread for each core already.
        cv2.setNumThreads(0)
        self._decode, self._resize = simplejpeg.decode_jpeg, cv2.resize

        def fill(view: np.ndarray, out: np.ndarray, record: int) -> None:
            """Decodes and resizes an image that is no JPEG into a row of a batch."""
            codec.resize(codec.decode(bytes(view), stored=True), size, out=out)

        return fill

    def _pixel_filler(self) -> _Filler:
        """Returns the filler for stored pixels: it copies, or unpacks and resizes."""
        row, size = self._row, self._size
        if not self._index.contiguous:
            return self._unpacking_filler(row)
        if self._copies_rows:

            def copy(view: np.ndarray, out: np.ndarray, record: int) -> None:
                """Copies stored pixels into a row of a batch."""
                out.reshape(-1)[:] = view

            return copy

        def fill(view: np.ndarray, out: np.ndarray, record: int) -> None:
            """Unpacks and resizes stored pixels into a row of a batch."""
            codec.resize(row.to_image(view), size, out=out)

        return fill

    def _unpacking_filler(self, row: hdf5.RowLayout) -> _Filler:
        """Returns the filler for compressed pixels, whose place is not in the index."""
        stores = [
            hdf5.RowReader(path, self._index.dataset) for path in self._index.paths
        ]
        # The checksum is that of the unpacked bytes, and is therefore compared here.
        # `_fill_rows` has only an empty view, which is not used.
        self._checks_stored_bytes = False
        self._opened = [np.empty(0, np.uint8)] * len(stores)

        rows = self._index.rows_in_shards()

        def fill(view: np.ndarray, out: np.ndarray, record: int) -> None:
            """Unpacks, checks and resizes compressed pixels into a row of a batch."""
            entry = self._entries[record]
            data = stores[int(entry["shard"])].row(int(rows[record]))
            if self._unchecked[record]:
                if crc32.crc32(data) != entry["crc32"]:
                    raise codec.ImageError(bad_records.WRONG_CHECKSUM)
                self._unchecked[record] = 0
            codec.resize(row.to_image(data), self._size, out=out)

        return fill


def _unchecked_marks(count: int) -> np.ndarray:
    """Returns marks which say that the reader has checked no record yet.

    No lock is needed: if two threads check the same record, nothing is harmed.
    """
    marks = array_pool.aligned_zeros(count)
    marks[:] = 1
    return marks


def _stacking_function() -> Callable[..., Any] | None:
    """Returns OpenCV's vconcat, which copies rows of a batch without Python's lock.

    Without OpenCV, np.concatenate copies them.  It takes the lock again for each row,
    so that threads wait for one another.
    """
    try:
        import cv2
    except ImportError:
        return None
    return cv2.vconcat
