"""Several data sets that are read as one: ``--records_dir=afad,family``.

The records of a split are those of the first data set, then those of the second, and so
on; the order of training is a permutation of all of them.  The data sets must store
images in the same way and have the same classes::

    joined_data_sets.directories("afad,family")    # ("afad", "family")
    joined_data_sets.load_manifest("afad,family")  # counts added, means weighted

A local path that exists is one data set, even if its name contains a comma.
"""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

from afad_tfdata.common import errors, files
from afad_tfdata.storage import schema, sharding

# What the manifests must have in common, and what errors call it.
_ALIKE = {
    "format": "the format",
    "image_encoding": "the image encoding",
    "image_size": "the image size",
    "pixel": "the layout of pixels",
    "resize": "the way in which images are resized",
    "class_names": "the class names in label order",
    "face_crop": "the way in which faces are cut",
}


def directories(records_dir: str) -> tuple[str, ...]:
    """The directories of the joined data sets that ``--records_dir`` names, or of one.

    Args:
      records_dir: Paths, separated by commas.

    Raises:
      UsageError: A path is empty, or named twice.
    """
    if "," not in records_dir or os.path.exists(records_dir):
        return (records_dir,)
    parts = tuple(part.strip() for part in records_dir.split(","))
    if not all(parts):
        raise errors.UsageError(
            f"--records_dir={records_dir} has an empty path: separate data sets by"
            " single commas"
        )
    places = [place_of(part) for part in parts]
    for position, place in enumerate(places):
        if place in places[:position]:
            raise errors.UsageError(
                f"--records_dir names {parts[position]} twice, and its images would"
                " count twice: name it once"
            )
    return parts


def place_of(directory: str) -> str:
    """The one path that stands for all spellings of a data set's directory."""
    path = files.local_path(directory)
    return path.rstrip("/") if files.is_remote(path) else os.path.realpath(path)


def load_manifest(records_dir: str, max_examples: int = 0) -> schema.Manifest:
    """The manifest of one data set, or the joined one of several.

    Args:
      records_dir: Paths, separated by commas.
      max_examples: Largest number of examples of each split; 0 for all.

    Raises:
      UsageError: There is no data set, or they do not fit together.
      DataError: A manifest or an index is damaged.
    """
    places = directories(records_dir)
    manifests = [schema.load_manifest(place) for place in places]
    _check_alike(places, manifests)
    if max_examples:
        shares = {
            split: shares_of(
                [_num_examples(manifest, split) for manifest in manifests], max_examples
            )
            for split in sharding.SPLITS
        }
        manifests = [
            _first_examples(place, manifest, {s: n[i] for s, n in shares.items()})
            for i, (place, manifest) in enumerate(zip(places, manifests, strict=True))
        ]
    return manifests[0] if len(manifests) == 1 else _joined_manifest(manifests)


def shares_of(lengths: Sequence[int], max_examples: int) -> list[int]:
    """How many examples of each joined data set are used, in proportion.

    Args:
      lengths: Number of examples of a split in each data set.
      max_examples: Largest number of examples in all data sets; 0 for no limit.

    Returns:
      One number for each data set; their sum is the limit or that of all examples.
    """
    total = sum(lengths)
    if not max_examples or total <= max_examples:
        return list(lengths)
    edges = [max_examples * sum(lengths[:i]) // total for i in range(len(lengths) + 1)]
    return [end - start for start, end in zip(edges[:-1], edges[1:], strict=True)]


def _num_examples(manifest: schema.Manifest, split: str) -> int:
    """How many examples one of the joined data sets has in a split."""
    found = manifest.splits.get(split)
    return found.num_examples if found else 0


def _check_alike(places: Sequence[str], manifests: Sequence[schema.Manifest]) -> None:
    """Refuses to join data sets that cannot be read as one."""
    for place, manifest in zip(places[1:], manifests[1:], strict=True):
        for name, what in _ALIKE.items():
            first, other = getattr(manifests[0], name), getattr(manifest, name)
            if first != other:
                both = f"{_as_text(first)} and {_as_text(other)}"
                raise errors.UsageError(
                    f"--records_dir: {places[0]} and {place} differ in {what}"
                    f" ({both}): write one of them again"
                    " like the other, or name one of them"
                )


def _as_text(value: Any) -> str:
    """A value in which manifests of joined data sets differ, as text for errors."""
    if isinstance(value, dict):
        return ", ".join(f"{k}={v}" for k, v in value.items()) or "none"
    return ", ".join(value) if isinstance(value, tuple) else str(value)


def _first_examples(
    directory: str, manifest: schema.Manifest, limits: dict[str, int]
) -> schema.Manifest:
    """The manifest as if each split had only its first examples."""
    splits = {}
    for name, split in manifest.splits.items():
        if limits[name] < split.num_examples:
            index = schema.load_index(directory, manifest, name)[: limits[name]]
            counts = schema.counts_of(index, manifest.class_names)
            split = dataclasses.replace(split, num_examples=limits[name], counts=counts)
        splits[name] = split
    return dataclasses.replace(manifest, splits=splits)


def _joined_manifest(manifests: Sequence[schema.Manifest]) -> schema.Manifest:
    """One manifest for all the joined data sets."""
    first = manifests[0]
    # A data set without a training split has the mean of its other splits.
    trained = [m for m in manifests if _num_examples(m, sharding.TRAIN)]
    weights = {
        id(m): _num_examples(m, sharding.TRAIN) if trained else m.written
        for m in trained or manifests
    }
    total = sum(weights.values())
    mean = {
        channel: sum(m.mean[channel] * weights[id(m)] for m in trained or manifests)
        / total
        for channel in "RGB"
    }
    totals = {
        name: sum(getattr(m, name) for m in manifests)
        for name in ("found", "written", "rejected", "passed_over")
    }
    names = [
        name for name in sharding.SPLITS if any(name in m.splits for m in manifests)
    ]
    return dataclasses.replace(
        first,
        name="+".join(manifest.name for manifest in manifests),
        config={**first.config, "joined": [m.config for m in manifests]},
        mean=mean,
        splits={
            name: _joined_split([m.splits[name] for m in manifests if name in m.splits])
            for name in names
        },
        **totals,
    )


def _joined_split(splits: Sequence[schema.Split]) -> schema.Split:
    """The splits of all the joined data sets as one."""
    counts: dict[str, Counter[str]] = {}
    for split in splits:
        for class_name, by_age in split.counts.items():
            counts.setdefault(class_name, Counter()).update(by_age)
    return schema.Split(
        num_examples=sum(split.num_examples for split in splits),
        shards=tuple(shard for split in splits for shard in split.shards),
        # Nobody reads the index of several data sets; the shards identify them all.
        index=splits[0].index,
        counts={
            class_name: {age: found[age] for age in sorted(found, key=int)}
            for class_name, found in counts.items()
        },
    )
