"""Which images are not written and why, and how many of them are too many."""

from __future__ import annotations

import collections
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from afad_tfdata.common import errors, files
from afad_tfdata.storage import schema, sharding
from afad_tfdata.writing import (
    face_images,
    gender_codes,
    payloads,
    plan,
    source,
)

FILE_NAME = "rejected.jsonl"
_SHOWN_REASONS = 5  # Number of reasons in a message; the file has all of them.
_CHANCE = 3
_KIND_LENGTH = 60  # Characters; after them, decoders quote what the file contains.
_log = logging.getLogger(__name__)


def unusable(
    work_plan: plan.Plan, found: Sequence[payloads.Payload]
) -> list[source.Rejection]:
    """The rejections of images that could not be used for the payloads."""
    return [
        source.Rejection(work_plan.path(row), reason)
        for payload in found
        for row, reason in payload.rejected
    ]


def write(directory: str, rejected: Sequence[source.Rejection]) -> None:
    """Writes ``rejected.jsonl``, which names every rejected file and its reason."""
    # JSON itself escapes names that are not valid UTF-8.
    lines = [json.dumps(rejection._asdict()) + "\n" for rejection in sorted(rejected)]
    files.write_atomic(os.path.join(directory, FILE_NAME), "".join(lines))


def read(directory: str) -> list[source.Rejection]:
    """Reads ``rejected.jsonl`` of a finished data set, local or remote.

    Raises:
      DataError: There is no such file, it cannot be read, or it is damaged.
    """
    path = files.join(directory, FILE_NAME)
    try:
        rows = [json.loads(line) for line in files.read_bytes(path).splitlines()]
        return [source.Rejection(str(r["path"]), str(r["reason"])) for r in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise errors.DataError(
            f"{path} cannot be read ({errors.one_line(error)}): restore it, or write"
            " the records again"
        ) from error


def check(
    listing: source.Listing,
    work_plan: plan.Plan,
    found: Sequence[payloads.Payload],
    *,
    max_rejected: int | None,
    output_dir: str,
    work_dir: str,
) -> None:
    """Refuses a source with too many rejected files; the next run looks at them again.

    Args:
      listing: The source.
      work_plan: The plan.
      found: The payloads of all shards.
      max_rejected: How many are tolerated.  None for 1 % or, in small data sets, 10 %,
        but at most 100; and for 10 % of each class and split.
      output_dir: Directory of the file that names them, for the message.
      work_dir: Directory of the payloads.

    Raises:
      DataError: More files cannot be used; or a folder of images cannot be listed, so
        that their number is unknown.
    """
    try:
        _refuse_too_many(listing, work_plan, found, max_rejected, output_dir)
    except errors.DataError:
        # The plan does not show whether a file was repaired, because the file may keep
        # its name and size.
        for task, payload in zip(work_plan.tasks, found, strict=True):
            if payload.rejected:
                payloads.forget(work_dir, task)
        raise


def _refuse_too_many(
    listing: source.Listing,
    work_plan: plan.Plan,
    found: Sequence[payloads.Payload],
    max_rejected: int | None,
    output_dir: str,
) -> None:
    """Refuses a source with too many rejected files; `check` has the arguments."""
    unusable_rows, reasons = [], [rejection.reason for rejection in listing.rejected]
    for payload in found:
        for row, reason in payload.rejected:
            # Such a photo is not damaged, and the user cannot know the number in
            # advance.
            if not face_images.is_about_number_of_faces(reason):
                unusable_rows.append(row)
                reasons.append(reason)
    bad = len(listing.rejected) + len(unusable_rows)
    if not bad:
        return
    names = os.path.join(output_dir, FILE_NAME)
    advice = (
        f"; {names} names each: mend them or raise the limit, and run again (if files"
        " are added or removed, remove the output directory first). Most frequent:"
        f" {most_frequent(reasons)}"
    )
    if listing.first_fault:
        advice += f"; the first: {listing.first_fault}"
    total = listing.found - listing.skipped
    by_default = max_rejected is None
    if max_rejected is None:
        max_rejected = max(total // 100, min(100, total // 10), 1)
    if bad > max_rejected:
        raise errors.DataError(
            f"{bad} of {total} files cannot be used, which is more than"
            f" --max_rejected={max_rejected}{advice}"
        )
    if by_default and listing.unlisted:
        folder, reason = listing.unlisted[0]
        raise errors.DataError(
            f"{os.path.join(listing.root, folder)} {reason}, so it is not known"
            " how many images are lost: make it readable, or give --max_rejected to"
            " write the other images"
        )
    for what, lost, count in _lost_by_class_and_split(
        listing, work_plan, unusable_rows
    ):
        # A few more are allowed, because a small split can lose a tenth by chance.
        limit = min(count // 10 + _CHANCE, count - 1)
        if by_default and lost > max(limit, 1):
            raise errors.DataError(
                f"{lost} of {count} files of {what} cannot be used, which is too"
                f" many; --max_rejected={bad} writes the rest{advice}"
            )
    _log.info("%d files cannot be used; %s names each", bad, FILE_NAME)


def most_frequent(reasons: Sequence[str]) -> str:
    """The reasons of rejections with their numbers, in one line."""
    counts = by_kind(reasons)
    shown = [f"{count} x {kind}" for kind, count in counts.most_common(_SHOWN_REASONS)]
    if len(counts) > len(shown):
        shown.append("...")
    return ", ".join(shown)


def by_kind(reasons: Iterable[str]) -> collections.Counter[str]:
    """How many rejections each kind of reason has; dots replace numbers and names."""
    return collections.Counter(_kind_of_reason(reason) for reason in reasons)


def summary(directory: str, manifest: schema.Manifest) -> str:
    """Says why files were rejected, if more than a tenth of them was.

    Args:
      directory: A finished data set, local or remote.
      manifest: Its manifest.

    Returns:
      One line; empty if a tenth or less is missing.
    """
    total = manifest.found - manifest.passed_over
    missing = total - manifest.written
    if 10 * missing <= total:
        return ""
    try:
        reasons = most_frequent([rejection.reason for rejection in read(directory)])
    except errors.DataError:
        reasons = f"{FILE_NAME} cannot be read"
    return f"{missing:,} of {total:,} files are not written: {reasons}"


def _kind_of_reason(reason: str) -> str:
    """The reason of a rejection without the part that is about one file only."""
    if reason.startswith("same bytes as "):
        labels = ", under different labels"
        return "same bytes as another" + (labels if reason.endswith(labels) else "")
    return re.sub(r"'[^']*'|\d+", "...", reason)[:_KIND_LENGTH]


def _lost_by_class_and_split(
    listing: source.Listing, work_plan: plan.Plan, unusable_rows: Sequence[int]
) -> Iterator[tuple[str, int, int]]:
    """Yields each class and split with the numbers of its rejected and all files."""
    rows = work_plan.rows
    unusable_of = rows[np.array(unusable_rows, np.int64)]
    for label, name in enumerate(
        gender_codes.class_names(work_plan.config.gender_codes)
    ):
        before = sum(gender == label for gender, _ in listing.lost)
        lost = before + int((unusable_of["gender"] == label).sum())
        yield f"class {name}", lost, before + int((rows["gender"] == label).sum())
    for number, name in enumerate(sharding.SPLITS):
        before = sum(split == name for _, split in listing.lost)
        lost = before + int((unusable_of["split"] == number).sum())
        yield f"split {name}", lost, before + int((rows["split"] == number).sum())
