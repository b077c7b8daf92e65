"""The writer's plan: which image goes where, fixed before any image is looked at.

The plan lies on disk, so that worker processes map the same few megabytes, and a run
that was killed finds out whether it is the same job that continues.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from afad_tfdata.common import errors, files
from afad_tfdata.storage import schema, sharding
from afad_tfdata.writing import source

_ROWS, _KEYS, _CONFIG = "plan.npy", "plan.keys", "plan.json"
_TARGET_SHARD_BYTES = 128 << 20
# Small sets get a few shards all the same: workers and readers share by shard.
_FEW_SHARDS, _FEW_EXAMPLES = 8, 512

_ROW_DTYPE = np.dtype(
    [
        ("place", "<u8"),
        ("key_offset", "<u8"),
        ("key_length", "<u2"),
        ("age", "<i2"),
        ("gender", "i1"),
        ("split", "u1"),
        ("shard", "<u2"),
    ]
)


class ShardTask(NamedTuple):
    """One shard to be written.

    Attributes:
      number: Position among all shards of the data set.
      split: One of `sharding.SPLITS`.
      shard: Position in the split.
      name: File name.
      first: First row of the plan.
      last: One past the last row.
    """

    number: int
    split: str
    shard: int
    name: str
    first: int
    last: int


@dataclasses.dataclass(frozen=True)
class Plan:
    """Rows in the order of (split, place), and what decides the bytes.

    Attributes:
      rows: Structured array; the keys lie in `keys`.
      keys: All keys, one after the other.
      config: JSON values: the deciding part of the configuration.
      tasks: The shards, in order of split and number.
    """

    rows: np.ndarray
    keys: bytes
    config: dict[str, Any]
    tasks: tuple[ShardTask, ...]

    def key(self, row: int) -> bytes:
        """The key of a row, as the file system has it."""
        start = int(self.rows["key_offset"][row])
        return self.keys[start : start + int(self.rows["key_length"][row])]

    @functools.cached_property
    def digest(self) -> bytes:
        """SHA-256 of the deciding configuration, the listing's digest included."""
        canonical = json.dumps(self.config, sort_keys=True).encode()
        return hashlib.sha256(canonical).digest()

    def entries(self, task: ShardTask) -> Iterator[tuple[int, bytes, int, int, int]]:
        """The rows of a shard: ``(row, key, place, age, gender)``."""
        rows = self.rows[task.first : task.last]
        columns = [
            rows[name].tolist()
            for name in ("key_offset", "key_length", "place", "age", "gender")
        ]
        keys = self.keys
        for row, (start, length, place, age, gender) in enumerate(
            zip(*columns, strict=True), task.first
        ):
            yield row, keys[start : start + length], place, age, gender


def make(
    items: Sequence[source.Item], config: Mapping[str, Any], *, num_shards: int | None
) -> Plan:
    """Decides split, place and shard of every item.

    Args:
      items: Sorted by key.
      config: The deciding configuration; ``seed``, ``split_by``, ``test_fraction``,
        ``validation_fraction``, ``format``, ``image_encoding`` and ``image_size`` are
        read here, the rest is carried along.
      num_shards: Of the training split; None for a number by size.

    Returns:
      The plan, with ``num_shards`` and ``source_sha256`` added to its configuration.
    """
    keys, ages, genders, sizes, given = zip(*items, strict=True)
    encoded = [os.fsencode(key) for key in keys]
    lengths = np.array([len(key) for key in encoded], np.int64)
    rows = np.zeros(len(items), _ROW_DTYPE)
    rows["key_length"] = lengths
    rows["key_offset"] = np.cumsum(lengths) - lengths
    rows["age"], rows["gender"] = ages, genders
    rows["place"] = sharding.places_of(keys, seed=config["seed"])
    rows["split"] = _splits(keys, given, config)
    listed = [
        b"%b %d %d %d %b\n" % (key, age, gender, size, (split or "").encode())
        for key, age, gender, size, split in zip(
            encoded, ages, genders, sizes, given, strict=True
        )
    ]
    # Two keys at one place would make the order depend on the scan; keys break the tie.
    order = np.lexsort((np.arange(len(items)), rows["place"], rows["split"]))
    counts = _shard_counts(rows["split"], np.array(sizes, np.int64), config, num_shards)
    rows = rows[order]
    for number, split in enumerate(sharding.SPLITS):
        inside = rows["split"] == number
        rows["shard"][inside] = sharding.shards_of(rows["place"][inside], counts[split])
    decided = {
        **config,
        "num_shards": counts,
        "source_sha256": hashlib.sha256(b"".join(listed)).hexdigest(),
    }
    return Plan(rows, b"".join(encoded), decided, _tasks(rows, decided))


def save(plan: Plan, directory: str) -> None:
    """Writes the plan; its configuration last, by which it is known to be whole."""
    files.write_atomic(os.path.join(directory, _ROWS), _rows_bytes(plan))
    files.write_atomic(os.path.join(directory, _KEYS), plan.keys)
    files.write_json(os.path.join(directory, _CONFIG), plan.config)


def is_saved(plan: Plan, directory: str) -> bool:
    """Whether what `save` wrote lies there, every byte of it."""
    try:
        rows = files.read_bytes(os.path.join(directory, _ROWS))
        keys = files.read_bytes(os.path.join(directory, _KEYS))
    except FileNotFoundError:
        return False
    return keys == plan.keys and rows == _rows_bytes(plan)


def _rows_bytes(plan: Plan) -> bytes:
    rows = io.BytesIO()
    np.save(rows, plan.rows)
    return rows.getvalue()


def load(directory: str) -> Plan:
    """Maps a saved plan."""
    rows = np.load(os.path.join(directory, _ROWS), mmap_mode="r")
    keys = files.read_bytes(os.path.join(directory, _KEYS))
    config = stored_config(directory)
    if config is None:
        raise errors.UsageError(f"{directory} holds no plan: run write_records again")
    return Plan(rows, keys, config, _tasks(rows, config))


def stored_config(directory: str) -> dict[str, Any] | None:
    """The configuration of the plan that lies there; None where none is whole."""
    try:
        with open(os.path.join(directory, _CONFIG)) as f:
            return json.load(f)
    except (FileNotFoundError, ValueError):
        return None


def crowded_photos(items: Sequence[source.Item], limit: int) -> dict[str, int]:
    """Photos with more faces than the limit, and how many they have."""
    counts = collections.Counter(
        photo for item in items if (photo := sharding.photo_id(item.key)) is not None
    )
    return {photo: count for photo, count in counts.items() if count > limit}


def _splits(
    keys: Sequence[str], given: Sequence[str | None], config: Mapping[str, Any]
) -> np.ndarray:
    """Positions in `sharding.SPLITS`; one hash for all faces of a photo."""
    numbers: dict[str, int] = {}
    group = [
        numbers.setdefault(sharding.group_key(key, config["split_by"]), len(numbers))
        for key in keys
    ]
    splits = sharding.splits_of(
        numbers,
        seed=config["seed"],
        test_fraction=config["test_fraction"],
        validation_fraction=config["validation_fraction"],
    )[group]
    if any(given):
        for row, split in enumerate(given):
            if split is not None:
                splits[row] = sharding.SPLITS.index(split)
    return splits


def _shard_counts(
    splits: np.ndarray,
    num_bytes: np.ndarray,
    config: Mapping[str, Any],
    num_shards: int | None,
) -> dict[str, int]:
    side = config["image_size"]
    counts: dict[str, int] = {}
    in_train = max(1, int((splits == 0).sum()))
    for number, split in enumerate(sharding.SPLITS):
        examples = int((splits == number).sum())
        if config["image_encoding"] == "original":
            size = int(num_bytes[splits == number].sum())
        elif config["image_encoding"] == "jpeg":
            size = examples * side * side // 3  # About 2.7 bits a pixel at quality 95.
        else:
            size = examples * side * side * 3
        if num_shards is None:
            few = min(_FEW_SHARDS, -(-examples // _FEW_EXAMPLES))
            counts[split] = max(-(-size // _TARGET_SHARD_BYTES), few)
        else:
            share = num_shards if split == "train" else num_shards * examples / in_train
            counts[split] = max(1, round(share)) if examples else 0
        if counts[split] > np.iinfo(schema.INDEX_DTYPE["shard"]).max:
            raise errors.UsageError(
                f"{counts[split]} shards are too many; --num_shards takes up to 65535"
            )
    return counts


def _tasks(rows: np.ndarray, config: Mapping[str, Any]) -> tuple[ShardTask, ...]:
    tasks: list[ShardTask] = []
    for number, split in enumerate(sharding.SPLITS):
        total = config["num_shards"][split]
        start, stop = np.searchsorted(rows["split"], [number, number + 1])
        edges = np.searchsorted(rows["shard"][start:stop], np.arange(total + 1)) + start
        for shard in range(total):
            name = sharding.shard_name("afad", split, shard, total, config["format"])
            first, last = int(edges[shard]), int(edges[shard + 1])
            tasks.append(ShardTask(len(tasks), split, shard, name, first, last))
    return tuple(tasks)
