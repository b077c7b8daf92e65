"""Which of the images that a source lists are wanted, by flags and not by quality."""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Mapping

from afad_tfdata.common import errors, files
from afad_tfdata.storage import sharding
from afad_tfdata.writing import plan, source

_log = logging.getLogger(__name__)


def select(
    listing: source.Listing,
    *,
    min_age: int,
    max_age: int,
    max_faces_per_photo: int,
    splits: Mapping[str, str] | None,
) -> tuple[list[source.Item], list[source.Rejection]]:
    """Keeps what the flags ask for.

    Args:
      listing: From a scan.
      min_age: Years, inclusive.
      max_age: Years, inclusive.
      max_faces_per_photo: Photos with more faces are left out whole; 0 for no limit.
      splits: From `load_split_file`; images that it does not name are left out.

    Returns:
      Items that stay, sorted by key, and the others with the flag that left them out.
    """
    if splits is not None:
        _warn_of_unmatched(listing, splits)
    items: list[source.Item] = []
    left_out: list[source.Rejection] = []
    crowded = (
        plan.crowded_photos(listing.items, max_faces_per_photo)
        if max_faces_per_photo
        else {}
    )
    for item in listing.items:
        photo = sharding.photo_id(item.key) if crowded else None
        if not min_age <= item.age <= max_age:
            reason = f"age {item.age} is outside of --min_age and --max_age"
        elif photo in crowded:
            reason = f"photo {photo} has {crowded[photo]} faces: --max_faces_per_photo"
        elif splits is not None and item.key not in splits:
            reason = "not named in --split_file"
        else:
            if splits is not None:
                item = item._replace(split=splits[item.key])
            items.append(item)
            continue
        left_out.append(source.Rejection(item.key, reason))
    return items, left_out


def _warn_of_unmatched(listing: source.Listing, splits: Mapping[str, str]) -> None:
    found = {item.key for item in listing.items}
    unmatched = [key for key in splits if key not in found]
    if unmatched:
        _log.warning(
            "%d of the %d paths in --split_file name no image here, the first %s; paths"
            " are relative to --data_dir",
            len(unmatched),
            len(splits),
            unmatched[0],
        )


def load_split_file(path: str) -> dict[str, str]:
    """Reads a published protocol: which path belongs to which split.

    A CSV with the columns ``path`` and ``split``, or JSON: ``{path: split}`` or a list
    of ``{"path":, "split":}``.  ``val`` and ``valid`` mean ``validation``.

    Raises:
      UsageError: It cannot be read, or names another split.
    """
    try:
        text = files.read_bytes(path).decode("utf-8-sig")
        if path.lower().endswith(".json"):
            value = json.loads(text)
            if isinstance(value, dict):
                pairs = list(value.items())
            else:
                pairs = [(row["path"], row["split"]) for row in value]
        else:
            rows = csv.DictReader(io.StringIO(text, newline=""))
            pairs = [(row["path"], row["split"]) for row in rows]
    except OSError as error:
        raise errors.UsageError(
            f"cannot read --split_file={path}: {error.strerror or error}"
        ) from error
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise errors.UsageError(
            f"--split_file={path} must be a CSV with the columns path and split, or"
            f" JSON of the same; reading it gave {errors.one_line(repr(error))}"
        ) from error
    splits: dict[str, str] = {}
    for key, split in pairs:
        if isinstance(split, str):
            split = {"val": "validation", "valid": "validation"}.get(split, split)
        if not isinstance(key, str) or split not in sharding.SPLITS:
            raise errors.UsageError(
                f"--split_file={path} puts {key} into {split!r}; wanted one of"
                f" {', '.join(sharding.SPLITS)}"
            )
        if splits.setdefault(key, split) != split:
            raise errors.UsageError(
                f"--split_file={path} puts {key} into {splits[key]} and into {split}:"
                " a face can be in one split only"
            )
    return splits


def warn_of_missing_ages(work_plan: plan.Plan) -> None:
    """Logs which splits lack ages that others have, as published protocols may."""
    rows = work_plan.rows
    ages = {
        split: set(rows["age"][rows["split"] == number].tolist())
        for number, split in enumerate(sharding.SPLITS)
    }
    everywhere = set().union(*ages.values())
    for split, present in ages.items():
        if present and (missing := sorted(everywhere - present)):
            _log.warning(
                "split %s has no face of age %s", split, ", ".join(map(str, missing))
            )
