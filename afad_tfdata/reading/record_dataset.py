"""A map-style data set of records, for programs that do not use TensorFlow.

::

    faces = input_fn.open_records("records", "train")
    faces[7]["image"], faces[7]["age"]           # one example
    faces[[3, 1, 2]]["image"]                    # a batch: uint8 [3, S, S, 3]
    batches = input_fn.Batches(len(faces), 128, seed=1)
    loader = torch.utils.data.DataLoader(faces, batch_size=None, sampler=batches)

`Batches` gives the record numbers that ``train_input_fn`` reads, step by step.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from afad_tfdata.common import errors, files
from afad_tfdata.images import codec
from afad_tfdata.reading import bad_records, index_loading, mapped_reader, order


class RecordDataset:
    """The examples of a split, by number.  It can be pickled, and used after a fork.

    An example has ``image``, uint8 ``[S, S, 3]`` RGB; ``age``, float32; ``gender``,
    int32; and ``key``, the image's path. A batch has arrays of these, and a list of
    keys.

    Args:
      records_dir: Directory of the data set, on a local disk.
      split: One of `sharding.SPLITS`.
      image_size: Side of the images in pixels; 0 means the size of the data set.
      keys: Whether examples contain their key, which is read from the record itself.
      decode: How JPEGs are decoded: ``accurate`` or ``fast``.

    Raises:
      UsageError: There is no such data set or split, or OpenCV is needed and missing.
      DataError: The data set is damaged.
    """

    def __init__(
        self,
        records_dir: str | os.PathLike[str],
        split: str,
        *,
        image_size: int = 0,
        keys: bool = True,
        decode: str = "accurate",
    ) -> None:
        if decode not in codec.DECODES:
            raise errors.UsageError(
                f"decode must be one of {', '.join(codec.DECODES)}; got {decode!r}"
            )
        self._arguments = os.fspath(records_dir), split, image_size, keys, decode
        self._open_records()

    def _open_records(self) -> None:
        """Opens the records, which a copy in another process does again."""
        records_dir, split, image_size, self._keys, self._decode = self._arguments
        if files.is_remote(records_dir):
            raise errors.UsageError(
                f"open_records needs local files; got {records_dir}: copy them first"
            )
        self._index = index_loading.load_split(records_dir, split)
        self._size = image_size or self._index.image_size
        self._names: dict[int, np.ndarray] = {}
        self._reader = self._new_reader()

    def _new_reader(self) -> mapped_reader.MappedReader:
        """Creates the reader of the records for this process."""
        # A process must not use the locks and thread memory of another process.
        self._process = os.getpid()
        bad = bad_records.BadRecords(self._index, 0)
        return mapped_reader.MappedReader(
            self._index, self._size, bad, decode=self._decode
        )

    def __getstate__(self) -> tuple[Any, ...]:
        return self._arguments

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._arguments = state
        self._open_records()

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, number: int | Sequence[int] | np.ndarray) -> dict[str, Any]:
        """Returns the example of a number, or the batch of several numbers.

        Raises:
          IndexError: A number is not in [-n, n).
          DataError: A record is damaged.
        """
        numbers = np.atleast_1d(np.asarray(number, np.int64))
        if ((numbers < -len(self)) | (numbers >= len(self))).any():
            raise IndexError(f"{number} is not a record of {len(self)}")
        numbers = np.where(numbers < 0, numbers + len(self), numbers)
        if os.getpid() != self._process:
            self._reader = self._new_reader()
        images, ages, genders, _ = self._reader.read(numbers)
        batch: dict[str, Any] = {"image": images, "age": ages, "gender": genders}
        if self._keys:
            batch["key"] = [self._key_of_record(record) for record in numbers.tolist()]
        if np.ndim(number):
            return batch
        return {name: values[0] for name, values in batch.items()}

    def __getitems__(self, numbers: Sequence[int]) -> list[dict[str, Any]]:
        """Returns the examples of a batch; PyTorch's DataLoader calls this."""
        batch = self[np.asarray(numbers, np.int64)]
        return [
            {name: values[i] for name, values in batch.items()}
            for i in range(len(numbers))
        ]

    def _key_of_record(self, record: int) -> str:
        """Returns the key of a record."""
        if self._index.format != "hdf5":
            return self._index.filename(record)
        shard = int(self._index.entries["shard"][record])
        if shard not in self._names:
            import h5py

            with h5py.File(self._index.paths[shard], "r") as f:
                self._names[shard] = f["filename"][:]
        row = record - int(self._index.shard_starts()[shard])
        return os.fsdecode(bytes(self._names[shard][row]))


class Batches:
    """The record numbers of each training batch, in the order of `order.Order`.

    It is endless unless `num_steps` is given, and the same for every number of readers.

    Args:
      num_examples: Records in the split.
      global_batch_size: Examples in a batch.
      seed: As `InputConfig.seed`.
      start_step: First global step.
      num_steps: Batches; None for an endless stream.

    Raises:
      UsageError: A number is too small.
    """

    def __init__(
        self,
        num_examples: int,
        global_batch_size: int,
        *,
        seed: int = 1,
        start_step: int = 0,
        num_steps: int | None = None,
    ) -> None:
        for name, value, least in (
            ("num_examples", num_examples, 1),
            ("global_batch_size", global_batch_size, 1),
            ("start_step", start_step, 0),
            ("num_steps", num_steps or 0, 0),
        ):
            if value < least:
                raise errors.UsageError(f"{name} must be {least} or more; got {value}")
        self._order = order.Order(num_examples, seed)
        self._size, self._start, self._num_steps = (
            global_batch_size,
            start_step,
            num_steps,
        )

    def __iter__(self) -> Iterator[list[int]]:
        """Yields lists of record numbers."""
        step = self._start
        end = None if self._num_steps is None else step + self._num_steps
        # Many are computed at a time: a numpy call costs microseconds even for a few.
        many = max(1, 8192 // self._size)
        while end is None or step < end:
            count = many if end is None else min(many, end - step)
            first = step * self._size
            positions = np.arange(first, first + count * self._size)
            found = self._order.records_by_numpy(positions)
            yield from found.reshape(count, self._size).tolist()
            step += count

    def __len__(self) -> int:
        """Returns the number of batches.

        Raises:
          TypeError: The batches are endless.
        """
        if self._num_steps is None:
            raise TypeError("the batches are endless: give num_steps")
        return self._num_steps
