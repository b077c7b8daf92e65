"""Which listed images the flags select: ages, crowded photos, published protocols."""

from __future__ import annotations

import collections
import logging
from collections.abc import Mapping, Sequence

import numpy as np

from afad_tfdata.common import errors
from afad_tfdata.storage import image_keys, schema, sharding
from afad_tfdata.writing import data_set_config, source

_log = logging.getLogger(__name__)


def select(
    listing: source.Listing,
    config: data_set_config.SelectionConfig,
    *,
    splits: Mapping[str, str] | None,
    seed: int = 0,
) -> tuple[list[source.Item], list[source.Rejection]]:
    """Selects the listed images to write; the others are left out by flags.

    Args:
      listing: From a scan.
      config: The flags.
      splits: From `published_splits.match`; None without such a file.  The images get
        these splits, and images without one are left out.
      seed: Decides which images ``max_examples`` takes.

    Returns:
      The items to write, sorted by key; and the others, each with the flag that left
      it out.
    """
    if splits is not None:
        _warn_of_unmatched(listing, splits)
    items: list[source.Item] = []
    left_out: list[source.Rejection] = []
    limit = config.max_faces_per_photo
    crowded = _crowded_photos(listing.items, limit) if limit else {}
    for item in listing.items:
        photo = image_keys.photo_id(item.key) if crowded else None
        known = item.age != schema.MISSING
        if known and not config.min_age <= item.age <= config.max_age:
            reason = f"age {item.age} is outside --min_age and --max_age"
        elif photo in crowded:
            reason = f"photo {photo} has {crowded[photo]} faces: --max_faces_per_photo"
        elif splits is not None and _published_split(item.key, splits) is None:
            reason = "not named in --split_file"
        else:
            if splits is not None:
                item = item._replace(split=_published_split(item.key, splits))
            items.append(item)
            continue
        left_out.append(source.Rejection(item.key, reason))
    if config.max_examples and config.max_examples < len(items):
        items, others = _sample_by_hash(items, config.max_examples, seed)
        left_out += others
    return items, left_out


def _sample_by_hash(
    items: Sequence[source.Item], count: int, seed: int
) -> tuple[list[source.Item], list[source.Rejection]]:
    """The images that ``--max_examples`` selects by hash, and the others."""
    # A separate salt: the hash that gives the place would put all into the first shard.
    hashes = sharding.salted_hashes(seed, "sample", [item.key for item in items])
    chosen = np.zeros(len(items), bool)
    chosen[np.argsort(hashes, kind="stable")[:count]] = True
    kept = [item for item, keep in zip(items, chosen, strict=True) if keep]
    reason = "left out by --max_examples"
    others = [
        source.Rejection(item.key, reason)
        for item, keep in zip(items, chosen, strict=True)
        if not keep
    ]
    return kept, others


def _published_split(key: str, splits: Mapping[str, str]) -> str | None:
    """The split that ``--split_file`` gives to a key, or to the image of a face."""
    return splits.get(key) or splits.get(image_keys.image_path(key))


def _crowded_photos(items: Sequence[source.Item], limit: int) -> dict[str, int]:
    """Photos with more faces than ``--max_faces_per_photo``, and how many they have."""
    photos = [image_keys.photo_id(item.key) for item in items]
    labels = [[item.age for item in items], [item.gender for item in items]]
    if image_keys.EVERY_PHOTO in image_keys.untrusted_photos(photos, labels):
        raise errors.UsageError(
            "--max_faces_per_photo needs names such as PHOTO-FACE.jpg, but the names"
            f" here, such as {items[0].key}, have other numbers instead of the"
            " photo: leave the flag out"
        )
    counts = collections.Counter(photo for photo in photos if photo is not None)
    return {photo: count for photo, count in counts.items() if count > limit}


def _warn_of_unmatched(listing: source.Listing, splits: Mapping[str, str]) -> None:
    """Warns of images that the published splits name, but that were not found."""
    found = {item.key for item in listing.items}
    found |= {image_keys.image_path(key) for key in found}
    unmatched = [key for key in splits if key not in found]
    if unmatched:
        _log.warning(
            "%d of the %d paths in --split_file name no image here, the first %s; paths"
            " are relative to --data_dir",
            len(unmatched),
            len(splits),
            unmatched[0],
        )
