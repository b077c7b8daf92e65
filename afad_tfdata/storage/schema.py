"""Features, index and manifest of a data set on disk, without TensorFlow.

A directory is a data set if it has a ``manifest.json``, which names all other files::

    manifest = schema.load_manifest("records")
    index = schema.load_index("records", manifest, "train")     # memory-mapped
    index["age"][:5], index["gender"][:5]
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
import math
import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from afad_tfdata.common import errors, files
from afad_tfdata.storage import sharding

SCHEMA_VERSION = 1
MANIFEST_NAME = "manifest.json"
MEAN_NAME = "mean.json"
TASKS = ("age", "gender", "age_gender")
CLASS_NAMES = ("male", "female")
FORMATS = ("tfrecord", "hdf5")
ENCODINGS = ("original", "jpeg", "raw")

# Names of the features in a TFRecord example; a part of the file format.
IMAGE_ENCODED = "image/encoded"
IMAGE_FORMAT = "image/format"
IMAGE_HEIGHT = "image/height"
IMAGE_WIDTH = "image/width"
IMAGE_FILENAME = "image/filename"
IMAGE_SHA256 = "image/sha256"
# Only records of a source with groups have it: a person, a photo or a video.
IMAGE_GROUP = "image/group"
LABEL_AGE = "label/age"
LABEL_GENDER = "label/gender"

# Stands for a missing label.  Such records are written only with --missing_labels=keep,
# or if no image of the source has the label.
MISSING = -1
# The class name under which `Split.counts` counts the records without a gender.
NO_GENDER = "(no gender)"

# `index["image_format"]` is a position in this tuple, so new formats go to its end.
IMAGE_FORMATS = ("jpeg", "png", "raw")

# Files whose digest this process has compared: path, digest, and the values of the
# file's status that change with its content.
_checked: set[tuple] = set()
# Longer than the resolution of the times that file systems store.
_SETTLED_NANOSECS = 2 * 10**9

# Little-endian and without padding: the file is memory-mapped as it is.
INDEX_DTYPE = np.dtype(
    [
        ("record_offset", "<u8"),  # bytes from the start of the shard file
        ("image_offset", "<u8"),  # of the encoded image or the row of pixels
        ("place", "<u8"),  # sharding.places_of(keys): ascending over the whole split
        ("record_length", "<u4"),  # bytes, framing included
        ("image_length", "<u4"),  # bytes; 0 if the rows are compressed (gzip)
        # zlib's CRC-32 of those image bytes; of the uncompressed bytes for gzip
        ("crc32", "<u4"),
        ("shard", "<u2"),
        ("height", "<u2"),  # pixels of the stored image
        ("width", "<u2"),
        ("age", "<i2"),  # years; MISSING without this label
        # 0 or 1: a position in the manifest's class names; MISSING without this label
        ("gender", "i1"),
        ("image_format", "u1"),  # a position in IMAGE_FORMATS
    ]
)


@dataclasses.dataclass(frozen=True)
class Shard:
    """One shard file.

    Attributes:
      name: File name in the data set's directory.
      num_examples: Records in it.
      num_bytes: Size of the file.
      sha256: Hexadecimal digest of the file.
    """

    name: str
    num_examples: int
    num_bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Split:
    """One split.

    Attributes:
      num_examples: Records in all its shards.
      shards: In the order of the shard numbers in the index.
      index: The index file, described like a shard.
      counts: ``{class name: {age: number}}``; ages are decimal strings, and those
        without an example are left out.  `NO_GENDER` and the age ``-1`` count the
        examples without the label.
    """

    num_examples: int
    shards: tuple[Shard, ...]
    index: Shard
    counts: dict[str, dict[str, int]]

    @property
    def ages(self) -> dict[int, int]:
        """Number of a split's examples by age in years, if they have an age."""
        numbers: dict[int, int] = {}
        for by_age in self.counts.values():
            for age, number in by_age.items():
                numbers[int(age)] = numbers.get(int(age), 0) + number
        numbers.pop(MISSING, None)
        return numbers

    def num_without(self, label: str) -> int:
        """Number of examples of a split without a label: ``age`` or ``gender``."""
        if label == "age":
            return self.num_examples - sum(self.ages.values())
        return sum(self.counts.get(NO_GENDER, {}).values())


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What `manifest.json` says.

    Attributes:
      name: Name of the data set, the first part of every shard's name.
      format: One of `FORMATS`.
      image_encoding: One of `ENCODINGS`.
      image_size: Side in pixels of stored ``jpeg`` and ``raw`` images; for
        ``original`` the size at which the mean was computed.
      config: The part of the writer's configuration that determines the bytes.
      class_names: Names of labels 0 and 1.
      gender_codes: ``{folder or CSV value: label}``.
      resize: How images were resized, or are to be resized by readers, e.g.
        ``{"method": "bilinear", "antialias": False, "half_pixel_centers": True}``.
      pixel: Layout of raw pixels, e.g. ``{"dtype": "uint8", "channels": "last",
        "compression": "none"}`` (`hdf5.RowLayout`); empty for encoded images.
      mean: ``{"R":, "G":, "B":}``, in [0, 255], over the training split; over all
        splits if that is empty.
      found: Files in the source: ``written + rejected + passed_over``.
      written: Records in all splits.
      rejected: Files named in ``rejected.jsonl``.
      passed_over: Files that are skipped because they are not meant to be images.
      splits: By name, in the order of `sharding.SPLITS`.
      schema_version: `SCHEMA_VERSION` of the writer.
    """

    name: str
    format: str
    image_encoding: str
    image_size: int
    config: dict[str, Any]
    class_names: tuple[str, ...]
    gender_codes: dict[str, int]
    resize: dict[str, str | bool]
    pixel: dict[str, str]
    mean: dict[str, float]
    found: int
    written: int
    rejected: int
    passed_over: int
    splits: dict[str, Split]
    schema_version: int = SCHEMA_VERSION

    @property
    def mean_rgb(self) -> tuple[float, float, float]:
        """The channel means of a data set in the order R, G, B, in [0, 255]."""
        return self.mean["R"], self.mean["G"], self.mean["B"]

    @property
    def face_crop(self) -> dict[str, Any]:
        """How faces were cut out of the data set's images; empty for whole images."""
        return self.config.get("face_crop", {})

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that some record of the data set has: ``age``, ``gender``."""
        filled = [split for split in self.splits.values() if split.num_examples]
        return tuple(
            label
            for label in ("age", "gender")
            if any(split.num_without(label) < split.num_examples for split in filled)
        )

    @property
    def counted_classes(self) -> tuple[str, ...]:
        """The classes in `Split.counts`, in label order; `NO_GENDER` last if used."""
        lacks = any(split.num_without("gender") for split in self.splits.values())
        return (*self.class_names, NO_GENDER) if lacks else self.class_names

    def split(self, name: str) -> Split:
        """The split of a data set; `UsageError` if there is none or it is empty."""
        split = self.splits.get(name)
        if split is None or not split.num_examples:
            filled = [s for s, v in self.splits.items() if v.num_examples]
            raise errors.UsageError(
                f"the data set has no examples in split {name!r};"
                f" it has {', '.join(filled) or 'none at all'}"
            )
        return split


def counts_of(
    index: np.ndarray, class_names: Sequence[str]
) -> dict[str, dict[str, int]]:
    """`Split.counts` for the manifest, of the examples in an index.

    Args:
      index: Of `INDEX_DTYPE`.
      class_names: Names of labels 0 and 1.
    """
    names = dict(enumerate(class_names))
    if (index["gender"] == MISSING).any():
        names[MISSING] = NO_GENDER
    counts = {}
    for label, name in names.items():
        ages = collections.Counter(index["age"][index["gender"] == label].tolist())
        counts[name] = {str(age): ages[age] for age in sorted(ages)}
    return counts


def manifest_bytes(manifest: Manifest) -> bytes:
    """The content of ``manifest.json``: JSON that includes its own checksum."""
    value = dataclasses.asdict(manifest)
    value["checksum"] = files.json_checksum(value)
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def write_manifest(directory: str, manifest: Manifest) -> None:
    """Writes the manifest, by which readers recognise a directory as a data set."""
    path = os.path.join(directory, MANIFEST_NAME)
    files.write_atomic(path, manifest_bytes(manifest))


def load_manifest(records_dir: str) -> Manifest:
    """Loads a data set's manifest.

    Args:
      records_dir: The directory that ``write_records`` filled.

    Returns:
      What the manifest says, checked.

    Raises:
      UsageError: There is no manifest, or it has another schema version.
      DataError: The manifest is damaged.
    """
    path = files.join(records_dir, MANIFEST_NAME)
    value = files.read_json(
        path,
        what="the manifest",
        advice="--records_dir names a directory that write_records has finished",
    )
    if not isinstance(value, dict) or "checksum" not in value:
        raise _damaged_error(path, "it has no checksum")
    stored = value.pop("checksum")
    if stored != files.json_checksum(value):
        raise _damaged_error(path, "its checksum does not match its content")
    version = value.get("schema_version")
    if version != SCHEMA_VERSION:
        raise errors.UsageError(
            f"{path} has schema version {version}, and this package reads version"
            f" {SCHEMA_VERSION}: install the version that wrote it, or write it again"
        )
    try:
        return _parse_manifest(value)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _damaged_error(path, errors.one_line(repr(error))) from error


def read_mean(path: str) -> tuple[float, float, float]:
    """Reads the channel means of a `MEAN_NAME` file: R, G and B in [0, 255].

    Raises:
      UsageError: The file cannot be read, or lacks a channel.
    """
    wanted = 'wanted {"R": .., "G": .., "B": ..}'
    value = files.read_json(path, what="the channel means", advice=wanted)
    try:
        red, green, blue = (float(value[name]) for name in "RGB")
    except (KeyError, TypeError, ValueError) as error:
        raise errors.UsageError(f"{path} has no channel means: {wanted}") from error
    return red, green, blue


def load_index(records_dir: str, manifest: Manifest, split: str) -> np.ndarray:
    """Loads a split's index: memory-mapped if local, otherwise read into memory.

    Args:
      records_dir: The data set's directory.
      manifest: From `load_manifest`.
      split: One of `sharding.SPLITS`.

    Returns:
      Structured array ``[num_examples]`` of `INDEX_DTYPE`, read-only.

    Raises:
      UsageError: The split has no examples.
      DataError: The index is missing, damaged, or of another length.
    """
    expected = manifest.split(split)
    path = files.join(records_dir, expected.index.name)
    try:
        if files.is_remote(path):
            import io

            content = files.read_bytes(path)
            _check_index_digest(hashlib.sha256(content).hexdigest(), expected.index)
            index = np.load(io.BytesIO(content), allow_pickle=False)
            index.flags.writeable = False
        else:
            if os.path.getsize(path) != expected.index.num_bytes:
                raise ValueError(
                    f"{os.path.getsize(path)} bytes instead of"
                    f" {expected.index.num_bytes}"
                )
            # Nothing checks labels and offsets again after this.  For AFAD the digest
            # takes 10 ms, for ten million records 0.3 s.
            _check_index_file(path, expected.index)
            index = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        if not isinstance(error, FileNotFoundError):
            # The system did not open the file, so its bytes may be undamaged.
            raise files.read_error(path, error) from error
        raise _damaged_error(path, errors.one_line(error)) from error
    except errors.UsageError:
        raise  # The remote store cannot be reached.
    except Exception as error:  # np.load may raise any error for a damaged header.
        raise _damaged_error(path, errors.one_line(error)) from error
    if index.dtype != INDEX_DTYPE or index.shape != (expected.num_examples,):
        raise _damaged_error(
            path,
            f"it contains {index.shape} of {index.dtype}, wanted"
            f" ({expected.num_examples},) of {INDEX_DTYPE}",
        )
    return index


def labels_of(task: str) -> tuple[str, ...]:
    """The labels of records that a task needs: ``age``, ``gender`` or both."""
    return tuple(name for name in ("age", "gender") if name in task.split("_"))


def age_range(manifest: Manifest) -> tuple[int, int]:
    """Smallest and largest age of a manifest's training split, in years."""
    ages = manifest.split("train").ages
    if not ages:
        raise errors.UsageError(
            "the train split has no age label: train with --task=gender"
        )
    return min(ages), max(ages)


def _parse_manifest(value: dict[str, Any]) -> Manifest:
    """The manifest of a data set from its JSON values."""
    splits = {}
    for name in sharding.SPLITS:
        if name not in value["splits"]:
            continue
        raw = value["splits"][name]
        split = Split(
            num_examples=raw["num_examples"],
            shards=tuple(Shard(**shard) for shard in raw["shards"]),
            index=Shard(**raw["index"]),
            counts=raw["counts"],
        )
        if split.num_examples != sum(s.num_examples for s in split.shards):
            raise ValueError(f"the shards of {name} do not add up")
        splits[name] = split
    fields = {field.name for field in dataclasses.fields(Manifest)}
    if set(value) != fields:
        raise ValueError(f"its fields are {sorted(value)}, wanted {sorted(fields)}")
    if not all(math.isfinite(v) for v in value["mean"].values()):
        raise ValueError("its mean is not finite")
    class_names = tuple(value["class_names"])
    return Manifest(**{**value, "splits": splits, "class_names": class_names})


def _check_index_file(path: str, expected: Shard) -> None:
    """Compares the digest of an index, unless it was compared since it changed."""
    found = os.stat(path)
    state = (
        os.path.abspath(path),
        *(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns),
        expected.sha256,
    )
    if state in _checked:
        return
    _check_index_digest(files.sha256(path), expected)
    # The time of a file that was written just now may stay the same if it is written
    # again.
    if time.time_ns() - found.st_mtime_ns > _SETTLED_NANOSECS:
        _checked.add(state)


def _check_index_digest(found: str, expected: Shard) -> None:
    """Refuses an index whose digest is not that of the manifest."""
    if found != expected.sha256:
        raise ValueError("its SHA-256 does not match: bytes were changed")


def _damaged_error(path: str, reason: str) -> errors.DataError:
    """The error of a manifest or an index that is damaged."""
    return errors.DataError(
        f"{path} is damaged: {reason}; restore it, or write the records again"
    )
