"""Warnings of a plan that may not be what the user wants."""

from __future__ import annotations

import collections
import logging
import os

import numpy as np

from afad_tfdata.storage import doubtful_ages, image_keys, schema, sharding
from afad_tfdata.writing import gender_codes, plan, source

# A larger share of the images cannot be divided as the fractions say.  Small data sets
# may have that few persons.
_LARGE_GROUP, _FEW_FACES = 0.2, 20
_log = logging.getLogger(__name__)


def of_untrusted_photos(work_plan: plan.Plan) -> None:
    """Warns if numbers in the plan's keys look like photo ids but cannot be."""
    untrusted = work_plan.untrusted_photos
    if not untrusted:
        return
    every = image_keys.EVERY_PHOTO in untrusted
    sizes: collections.Counter[str] = collections.Counter()
    examples: dict[str, str] = {}
    for row in range(len(work_plan.rows)):
        path = work_plan.path(row)
        photo = image_keys.photo_id(path)
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


def of_large_groups(work_plan: plan.Plan) -> None:
    """Warns if the plan has a group that is too large for a person or photo."""
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


def of_doubtful_ages(listing: source.Listing) -> None:
    """Warns if the ages may be numbers of classes, or months.

    Args:
      listing: From a scan.  The ages of a plan may end where ``--max_age`` ends them,
        which says nothing of what they are.
    """
    ages = np.array([item.age for item in listing.items])
    if text := doubtful_ages.doubt(ages):
        _log.warning("%s", text)


def of_one_gender(work_plan: plan.Plan) -> None:
    """Warns if all images of the plan have one gender, which then cannot be learnt."""
    genders = work_plan.rows["gender"]
    genders = genders[genders != schema.MISSING]
    if len(genders) >= _FEW_FACES and len(np.unique(genders)) == 1:
        names = gender_codes.class_names(work_plan.config.gender_codes)
        _log.warning(
            "all %d images are %s: no model can learn the gender from them",
            len(genders),
            names[genders[0]],
        )


def of_missing_ages(work_plan: plan.Plan) -> None:
    """Warns if the plan has a split without ages that other splits have."""
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
