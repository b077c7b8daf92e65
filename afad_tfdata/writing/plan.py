"""The writer's plan: which image goes where, decided before any image is opened.

The plan is saved in the work directory.  It takes a few megabytes, which all writer
processes map into memory.  A run that continues a killed run compares its own plan with
the saved plan, to find out whether both write the same data set.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from afad_tfdata.common import errors, files
from afad_tfdata.storage import file_names, image_keys, schema, sharding
from afad_tfdata.writing import data_set_config, source, split_assignment

CONFIG_NAME = "plan.json"
_ROWS_NAME, _KEYS_NAME, _GROUPS_NAME = "plan.npy", "plan.keys", "plan.groups"
# Large enough for sequential reads, small enough for a bucket or a batch task.
_TARGET_SHARD_BYTES = 128 << 20
# Small data sets also get a few shards, because writer processes and readers divide
# the work by shards.
_FEW_SHARDS, _FEW_EXAMPLES = 8, 512

_ROW_DTYPE = np.dtype(
    [
        ("place", "<u8"),  # sharding.places_of(keys)
        ("key_offset", "<u8"),  # in `Plan.keys`, where the keys are sorted
        ("key_length", "<u2"),
        ("age", "<i2"),  # years
        ("gender", "i1"),
        ("split", "u1"),  # a position in sharding.SPLITS
        ("shard", "<u2"),
    ]
)


# Only the rows of a source with boxes have this field: x1, y1, x2, y2, NaN for none.
_BOX_FIELD = [("box", "<f8", (4,))]


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

    @property
    def num_images(self) -> int:
        """Images that the plan puts into this shard, unusable ones included."""
        return self.last - self.first


class Entry(NamedTuple):
    """One image of a shard.

    Attributes:
      row: Position in the plan.
      key: Path relative to the root, in the bytes of the file system.
      place: Number by which the records of a split are ordered.
      age: Years.
      gender: 0 or 1.
      group: What the image belongs to, empty if unknown; None for a data set without
        groups.
      box: ``x1, y1, x2, y2`` of the face in pixels; None for the whole image.
    """

    row: int
    key: bytes
    place: int
    age: int
    gender: int
    group: bytes | None = None
    box: tuple[float, float, float, float] | None = None

    @property
    def path(self) -> bytes:
        """Path of the plan's image relative to the root, in file system bytes."""
        if self.box is None:
            return self.key
        return os.fsencode(image_keys.image_path(os.fsdecode(self.key)))


@dataclasses.dataclass(frozen=True)
class Plan:
    """Every image with its place, in the order of (split, place).

    Attributes:
      rows: Structured array, one row for each image.
      keys: All keys, one after the other; rows have their offsets and lengths.
      config: The options that determine the bytes of the data set.
      num_shards: Number of shards of each split.
      source_sha256: Hexadecimal digest of the source's keys, labels, sizes and splits.
      tasks: The shards, in order of split and number.
      untrusted_photos: From `image_keys.untrusted_photos`.
      groups: What the image of each row belongs to, an empty string if unknown; an
        empty tuple if no image has a group.
    """

    rows: np.ndarray
    keys: bytes
    config: data_set_config.DataSetConfig
    num_shards: dict[str, int]
    source_sha256: str
    tasks: tuple[ShardTask, ...]
    untrusted_photos: tuple[str, ...] = ()
    groups: tuple[bytes, ...] = ()

    @functools.cached_property
    def mean_splits(self) -> tuple[str, ...]:
        """The splits of the plan over which the channel means are computed.

        This is the training split, or all splits if none is planned for training.
        """
        if any(task.split == sharding.TRAIN for task in self.tasks):
            return (sharding.TRAIN,)
        return sharding.SPLITS

    def key(self, row: int) -> bytes:
        """The key of a row, in the bytes of the file system."""
        start = int(self.rows["key_offset"][row])
        return self.keys[start : start + int(self.rows["key_length"][row])]

    def path(self, row: int) -> str:
        """The key of a row, decoded by `os.fsdecode`."""
        return os.fsdecode(self.key(row))

    def to_json(self) -> dict[str, Any]:
        """The values of a plan that two runs must share: the manifest's ``config``."""
        values = {
            **self.config.to_json(),
            "num_shards": self.num_shards,
            "source_sha256": self.source_sha256,
        }
        if self.untrusted_photos:  # Left out if empty, so that old manifests still fit.
            values["untrusted_photos"] = list(self.untrusted_photos)
        if self.groups:
            values["groups"] = len(set(self.groups) - {b""})
        return values

    @functools.cached_property
    def digest(self) -> bytes:
        """SHA-256 of `to_json`, by which a payload records which plan it belongs to."""
        canonical = json.dumps(self.to_json(), sort_keys=True).encode()
        return hashlib.sha256(canonical).digest()

    def entries(self, task: ShardTask) -> Iterator[Entry]:
        """The images of a shard, in the order of the plan."""
        rows = self.rows[task.first : task.last]
        # Lists of whole columns, because a field of one structured row costs
        # microseconds.
        columns = [
            rows[name].tolist()
            for name in ("key_offset", "key_length", "place", "age", "gender")
        ]
        keys = self.keys
        boxes = None
        if "box" in (rows.dtype.names or ()):
            boxes = [tuple(box) for box in rows["box"].tolist()]
        for row, (start, length, place, age, gender) in enumerate(
            zip(*columns, strict=True), task.first
        ):
            group = self.groups[row] if self.groups else None
            key = keys[start : start + length]
            box = None if boxes is None else boxes[row - task.first]
            if box is not None and box[0] != box[0]:  # NaN: this image has no box.
                box = None
            yield Entry(row, key, place, age, gender, group, box)


def make(
    items: Sequence[source.Item],
    config: data_set_config.DataSetConfig,
    *,
    num_shards: int | None,
) -> Plan:
    """Makes the plan: decides split, place and shard of every image.

    Args:
      items: Sorted by key; at least one.
      config: The options that determine the bytes of the data set.
      num_shards: Number of shards of the training split; None to choose it by size.

    Raises:
      UsageError: There would be too many shards.
    """
    keys, ages, genders, sizes, given, groups, boxes = zip(*items, strict=True)
    encoded = [os.fsencode(key) for key in keys]
    lengths = np.array([len(key) for key in encoded], np.int64)
    has_boxes = any(box is not None for box in boxes)
    dtype = np.dtype([*_ROW_DTYPE.descr, *(_BOX_FIELD if has_boxes else ())])
    rows = np.zeros(len(items), dtype)
    if has_boxes:
        rows["box"] = [(np.nan,) * 4 if box is None else box for box in boxes]
    rows["key_length"] = lengths
    rows["key_offset"] = np.cumsum(lengths) - lengths
    rows["age"], rows["gender"] = ages, genders
    rows["place"] = sharding.places_of(keys, seed=config.splits.seed)
    untrusted: tuple[str, ...] = ()
    if config.splits.split_by != "image" and None in given:
        by_group = config.splits.split_by == "group"
        photos = [
            None if by_group and group else image_keys.photo_id(key)
            for key, group in zip(keys, groups, strict=True)
        ]
        untrusted = image_keys.untrusted_photos(photos, [ages, genders])
    rows["split"] = split_assignment.assign(
        keys, groups, given, config.splits, untrusted
    )
    # Items are sorted by key.  The order of two keys with the same place is therefore
    # that of the keys, and does not depend on the scan.
    order = np.lexsort((np.arange(len(items)), rows["place"], rows["split"]))
    counts = _shard_counts(
        rows["split"], np.array(sizes, np.int64), config.images, num_shards
    )
    rows = rows[order]
    for number, split in enumerate(sharding.SPLITS):
        inside = rows["split"] == number
        rows["shard"][inside] = sharding.shards_of(rows["place"][inside], counts[split])
    listed = [
        b"%b %d %d %d %b%b%b\n"
        % (
            *(key, age, gender, size, (split or "").encode()),
            *(_group_in_digest(group), _box_in_digest(box)),
        )
        for key, age, gender, size, split, group, box in zip(
            encoded, ages, genders, sizes, given, groups, boxes, strict=True
        )
    ]
    return Plan(
        rows=rows,
        keys=b"".join(encoded),
        config=config,
        num_shards=counts,
        source_sha256=hashlib.sha256(b"".join(listed)).hexdigest(),
        tasks=_shard_tasks(rows, counts, config),
        untrusted_photos=untrusted,
        groups=_groups_by_row(groups, order),
    )


def save(plan: Plan, directory: str) -> None:
    """Writes the plan, its JSON file last: without that file, a plan is incomplete."""
    for name, content in _content_of_files(plan).items():
        files.write_atomic(os.path.join(directory, name), content)
    files.write_json(os.path.join(directory, CONFIG_NAME), plan.to_json())


def is_saved(plan: Plan, directory: str) -> bool:
    """Whether a directory contains exactly the rows, keys and groups of this plan."""
    try:
        return all(
            files.read_bytes(os.path.join(directory, name)) == content
            for name, content in _content_of_files(plan).items()
        )
    except FileNotFoundError:
        return False


def load(directory: str) -> Plan:
    """Loads a saved plan; its rows are mapped into memory.

    Raises:
      UsageError: The directory has no plan.
    """
    stored = stored_json(directory)
    if stored is None:
        raise errors.UsageError(f"{directory} has no plan: run write_records again")
    groups: list[str] = []
    if stored.get("groups"):
        path = os.path.join(directory, _GROUPS_NAME)
        groups = json.loads(files.read_bytes(path))
    config = data_set_config.DataSetConfig.from_json(stored)
    # Memory-mapped, so that all writer processes share one copy.
    rows = np.load(os.path.join(directory, _ROWS_NAME), mmap_mode="r")
    return Plan(
        rows=rows,
        keys=files.read_bytes(os.path.join(directory, _KEYS_NAME)),
        config=config,
        num_shards=stored["num_shards"],
        source_sha256=stored["source_sha256"],
        tasks=_shard_tasks(rows, stored["num_shards"], config),
        untrusted_photos=tuple(stored.get("untrusted_photos", ())),  # Stored if any.
        groups=tuple(os.fsencode(group) for group in groups),
    )


def stored_json(directory: str) -> dict[str, Any] | None:
    """`Plan.to_json` of the plan in a directory; None if there is no whole plan."""
    try:
        with open(os.path.join(directory, CONFIG_NAME)) as f:
            return json.load(f)
    except (FileNotFoundError, ValueError):
        return None


def tasks_of_range(work_plan: Plan, shard_range: str) -> tuple[ShardTask, ...]:
    """The shard tasks of a plan that ``--shard_range`` names.

    Args:
      work_plan: The plan.
      shard_range: ``A:B``, counted over all splits; empty for all shards.

    Raises:
      UsageError: The range is outside the data set's shards.
    """
    tasks = work_plan.tasks
    if not shard_range:
        return tasks
    first, last = map(int, shard_range.split(":"))
    if not first < last <= len(tasks):
        raise errors.UsageError(
            f"--shard_range={shard_range} must be within 0:{len(tasks)}, the shards of"
            " this data set"
        )
    return tasks[first:last]


def num_images(tasks: Sequence[ShardTask]) -> int:
    """How many images the plan puts into these shards."""
    return sum(task.num_images for task in tasks)


def _content_of_files(plan: Plan) -> dict[str, bytes]:
    """Content by name of the files that contain the images of a plan; see `load`."""
    rows = io.BytesIO()
    np.save(rows, plan.rows)
    stored = {_ROWS_NAME: rows.getvalue(), _KEYS_NAME: plan.keys}
    if plan.groups:  # Only the plan of a source with groups has that file.
        names = [os.fsdecode(group) for group in plan.groups]
        stored[_GROUPS_NAME] = json.dumps(names).encode()
    return stored


def _group_in_digest(group: str | None) -> bytes:
    """A group in the plan's digest of the source; nothing without a group."""
    return b"" if group is None else b" " + os.fsencode(group)


def _box_in_digest(box: Sequence[float] | None) -> bytes:
    """A box in the plan's digest of the source; nothing without a box."""
    return b"" if box is None else repr(tuple(map(float, box))).encode()


def _groups_by_row(
    groups: Sequence[str | None], order: np.ndarray
) -> tuple[bytes, ...]:
    """The groups in the order of the plan's rows; empty if no image has a group."""
    if not any(groups):
        return ()
    encoded = [os.fsencode(group or "") for group in groups]
    return tuple(encoded[row] for row in order.tolist())


def _shard_counts(
    splits: np.ndarray,
    num_bytes: np.ndarray,
    images: data_set_config.ImageConfig,
    num_shards: int | None,
) -> dict[str, int]:
    """How many shards the plan has for each split.

    Args:
      splits: ``[n]`` positions in `sharding.SPLITS`.
      num_bytes: int64 ``[n]`` sizes of the source's files.
      images: The options that determine how large the stored images are.
      num_shards: Number of shards of the training split; None to choose it by size.
    """
    largest = np.iinfo(schema.INDEX_DTYPE["shard"]).max
    counts: dict[str, int] = {}
    # Without a training split, `num_shards` is the number for all splits together.
    in_train = int((splits == sharding.SPLITS.index("train")).sum()) or len(splits)
    for number, split in enumerate(sharding.SPLITS):
        inside = splits == number
        examples = int(inside.sum())
        if num_shards is None:
            size = _estimated_bytes(examples, int(num_bytes[inside].sum()), images)
            few = min(_FEW_SHARDS, -(-examples // _FEW_EXAMPLES))
            counts[split] = max(-(-size // _TARGET_SHARD_BYTES), few)
        else:
            share = num_shards * examples / in_train
            # A split has at most as many shards as examples.
            counts[split] = min(max(1, round(share)), examples)
        if counts[split] > largest:
            raise errors.UsageError(
                f"{counts[split]} shards are too many; --num_shards takes up to"
                f" {largest}"
            )
    return counts


def _estimated_bytes(
    examples: int, source_bytes: int, images: data_set_config.ImageConfig
) -> int:
    """Estimates how many bytes these images of the plan take in the data set."""
    pixels = examples * images.size * images.size
    if images.encoding == "original":
        return source_bytes
    if images.encoding == "jpeg":
        return pixels // 3  # Quality 95 takes about 2.7 bits for each pixel.
    return pixels * 3


def _shard_tasks(
    rows: np.ndarray,
    num_shards: dict[str, int],
    config: data_set_config.DataSetConfig,
) -> tuple[ShardTask, ...]:
    """The shard tasks of a plan: a range of its rows each."""
    tasks: list[ShardTask] = []
    for number, split in enumerate(sharding.SPLITS):
        total = num_shards[split]
        start, stop = np.searchsorted(rows["split"], [number, number + 1])
        edges = np.searchsorted(rows["shard"][start:stop], np.arange(total + 1)) + start
        for shard in range(total):
            name = file_names.shard_name(
                config.name, split, shard, total, config.format
            )
            first, last = int(edges[shard]), int(edges[shard + 1])
            tasks.append(ShardTask(len(tasks), split, shard, name, first, last))
    return tuple(tasks)
