"""Which image is in which split.  Pure arithmetic on keys, groups and hashes.

What belongs together gets one split: the images of a group (a person, a video), the
faces of a photo, or an image alone.  A split that the source gives replaces that of the
hash, for the whole group::

    split_assignment.assign(keys, groups, given, config, untrusted)   # uint8 [n]
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from afad_tfdata.common import errors
from afad_tfdata.storage import image_keys, sharding
from afad_tfdata.writing import data_set_config


def resolve_split_by(split_by: str, groups: Sequence[str | None]) -> str:
    """The value of ``--split_by``, with its default filled in.

    Args:
      split_by: ``photo``, ``image``, ``group``, or empty for the default.
      groups: Of the images; None for an image without a group.

    Raises:
      UsageError: ``group`` is asked for, and no image has a group.
    """
    grouped = any(group is not None for group in groups)
    if split_by == "group" and not grouped:
        raise errors.UsageError(
            "--split_by=group needs groups, and the source has none: give the table of"
            " --labels_csv a column group, or take --split_by=photo or image"
        )
    return split_by or ("group" if grouped else "photo")


def assign(
    keys: Sequence[str],
    groups: Sequence[str | None],
    given: Sequence[str | None],
    config: data_set_config.SplitConfig,
    untrusted: Sequence[str] = (),
) -> np.ndarray:
    """Decides the split of each image by its group, photo or key.

    Args:
      keys: Paths relative to the root.
      groups: What each image belongs to; None if unknown.
      given: Splits that the source gives; None for the others.
      config: Its ``split_by`` is not empty.
      untrusted: From `image_keys.untrusted_photos`.

    Returns:
      uint8 ``[n]``: positions in `sharding.SPLITS`.

    Raises:
      UsageError: The source puts images of one group into two splits.
    """
    ignored = frozenset(untrusted)
    numbers: dict[str, int] = {}
    member = [
        numbers.setdefault(
            image_keys.group_key(key, config.split_by, ignored, group), len(numbers)
        )
        for key, group in zip(keys, groups, strict=True)
    ]
    by_group = sharding.splits_of(
        numbers,
        seed=config.seed,
        test_fraction=config.test_fraction,
        validation_fraction=config.validation_fraction,
    )
    splits = by_group[member]
    decided: dict[int, int] = {}  # The first row of each group that has a given split.
    for row, split in enumerate(given):
        if split is None:
            continue
        splits[row] = sharding.SPLITS.index(split)
        if config.split_by != "group":
            continue
        first = decided.setdefault(member[row], row)
        if given[first] != split:
            raise errors.UsageError(
                f"the group {groups[row]!r} is in two splits: {keys[first]} is given"
                f" {given[first]}, and {keys[row]} is given {split}; correct one of"
                " them, or keep both with --split_by=image"
            )
    for row, split in enumerate(given):
        if split is None and member[row] in decided:
            splits[row] = splits[decided[member[row]]]
    return splits
