"""Which listed images the flags select: ages, crowded photos, published protocols."""

from __future__ import annotations

import collections
import logging
import os
from collections.abc import Mapping, Sequence

import numpy as np

from afad_tfdata.common import errors
from afad_tfdata.storage import doubtful_ages, schema, sharding
from afad_tfdata.writing import data_set_config, plan, source

# A larger share of the images cannot be divided as the fractions say.  Small data sets
# may have that few persons.
_LARGE_GROUP, _FEW_FACES = 0.2, 20
_log = logging.getLogger(__name__)


def select(
    listing: source.Listing,
    config: data_set_config.SelectionConfig,
    *,
    splits: Mapping[str, str] | None,
    seed: int = 0,
) -> tuple[list[source.Item], list[source.Rejection]]:
    """Separates the listed images to write from those that flags leave out.

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
        photo = sharding.photo_id(item.key) if crowded else None
        known = item.age != schema.MISSING
        if known and not config.min_age <= item.age <= config.max_age:
            reason = f"age {item.age} is outside --min_age and --max_age"
        elif photo in crowded:
            reason = f"photo {photo} has {crowded[photo]} faces: --max_faces_per_photo"
        elif splits is not None and _split_of(item.key, splits) is None:
            reason = "not named in --split_file"
        else:
            if splits is not None:
                item = item._replace(split=_split_of(item.key, splits))
            items.append(item)
            continue
        left_out.append(source.Rejection(item.key, reason))
    if config.max_examples and config.max_examples < len(items):
        items, others = _sample(items, config.max_examples, seed)
        left_out += others
    return items, left_out


def _sample(
    items: Sequence[source.Item], count: int, seed: int
) -> tuple[list[source.Item], list[source.Rejection]]:
    """The images whose keys have the lowest hashes, and the others."""
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


def _split_of(key: str, splits: Mapping[str, str]) -> str | None:
    """The split of a key, or of the image that it is a face of; None without one."""
    return splits.get(key) or splits.get(sharding.image_path(key))


def _crowded_photos(items: Sequence[source.Item], limit: int) -> dict[str, int]:
    """Photos with more faces than the limit, and how many they have."""
    photos = [sharding.photo_id(item.key) for item in items]
    labels = [[item.age for item in items], [item.gender for item in items]]
    if sharding.EVERY_PHOTO in sharding.untrusted_photos(photos, labels):
        raise errors.UsageError(
            "--max_faces_per_photo needs names such as PHOTO-FACE.jpg, but the names"
            f" here, such as {items[0].key}, have other numbers instead of the"
            " photo: leave the flag out"
        )
    counts = collections.Counter(photo for photo in photos if photo is not None)
    return {photo: count for photo, count in counts.items() if count > limit}


def _warn_of_unmatched(listing: source.Listing, splits: Mapping[str, str]) -> None:
    """Warns of images that the published splits name, but nobody found."""
    found = {item.key for item in listing.items}
    found |= {sharding.image_path(key) for key in found}
    unmatched = [key for key in splits if key not in found]
    if unmatched:
        _log.warning(
            "%d of the %d paths in --split_file name no image here, the first %s; paths"
            " are relative to --data_dir",
            len(unmatched),
            len(splits),
            unmatched[0],
        )


def warn_of_untrusted_photos(work_plan: plan.Plan) -> None:
    """Warns if numbers in the names look like photo ids but cannot be."""
    untrusted = work_plan.untrusted_photos
    if not untrusted:
        return
    every = sharding.EVERY_PHOTO in untrusted
    sizes: collections.Counter[str] = collections.Counter()
    examples: dict[str, str] = {}
    for row in range(len(work_plan.rows)):
        path = work_plan.path(row)
        photo = sharding.photo_id(path)
        if photo is not None and (every or photo in untrusted):
            sizes[photo] += 1
            examples.setdefault(photo, path)
    ((largest, count),) = sizes.most_common(1)
    _log.warning(
        "names such as %s are not taken for faces of the photo %s: %d images have that"
        " number, which may be an age, a date or a person. %d images with such names"
        " are assigned to the splits one by one, as by --split_by=image; --split_file"
        " can keep some together",
        examples[largest],
        largest,
        count,
        sizes.total(),
    )


def warn_of_large_groups(work_plan: plan.Plan) -> None:
    """Warns of a group that is too large to be that of one person or photo."""
    if work_plan.config.splits.split_by != "group":
        return
    sizes = collections.Counter(group for group in work_plan.groups if group)
    total = len(work_plan.rows)
    for group, size in sizes.most_common(1):
        if size > max(_LARGE_GROUP * total, _FEW_FACES):
            _log.warning(
                "the group %r has %d of the %d images, which all get the same split; if"
                " it is not a person or a photo, take --split_by=photo or image",
                *(os.fsdecode(group), size, total),
            )


def warn_of_doubtful_ages(work_plan: plan.Plan) -> None:
    """Warns if the ages may be numbers of classes, or months."""
    if text := doubtful_ages.doubt(work_plan.rows["age"]):
        _log.warning("%s", text)


def warn_of_one_gender(work_plan: plan.Plan) -> None:
    """Warns if all images have the same gender, which then cannot be learnt."""
    genders = work_plan.rows["gender"]
    genders = genders[genders != schema.MISSING]
    if len(genders) >= _FEW_FACES and len(np.unique(genders)) == 1:
        names = source.class_names(work_plan.config.gender_codes)
        _log.warning(
            "all %d images are %s: no model can learn the gender from them",
            len(genders),
            names[genders[0]],
        )


def warn_of_missing_ages(work_plan: plan.Plan) -> None:
    """Warns if a split lacks ages that other splits have, as in some protocols."""
    rows = work_plan.rows
    ages = {
        split: set(rows["age"][rows["split"] == number].tolist())
        for number, split in enumerate(sharding.SPLITS)
    }
    everywhere = set().union(*ages.values())
    for split, present in ages.items():
        present.discard(schema.MISSING)
        missing = sorted(everywhere - present - {schema.MISSING})
        if present and len(present) < len(missing):
            _log.warning(
                "split %s has only faces of age %s",
                split,
                ", ".join(map(str, sorted(present))),
            )
        elif present and missing:
            _log.warning(
                "split %s has no face of age %s", split, ", ".join(map(str, missing))
            )
