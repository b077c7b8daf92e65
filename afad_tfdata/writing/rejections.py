"""Which images are not written after all, why, and how many are too many."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence

import numpy as np

from afad_tfdata.common import errors, files
from afad_tfdata.writing import duplicate_images, payloads, plan, source

FILE_NAME = "rejected.jsonl"
_log = logging.getLogger(__name__)


def unusable(
    work_plan: plan.Plan, found: Sequence[payloads.Payload]
) -> list[source.Rejection]:
    """The images that cannot be used, as the payloads of all shards name them."""
    return [
        source.Rejection(work_plan.path(row), reason)
        for payload in found
        for row, reason in payload.rejected
    ]


def duplicates(
    work_plan: plan.Plan, found: Sequence[payloads.Payload]
) -> tuple[list[np.ndarray], list[source.Rejection]]:
    """Finds byte-identical images over the whole data set.

    Args:
      work_plan: The plan, whose configuration says which copies stay.
      found: The payloads of all shards.

    Returns:
      bool ``[n]`` for each shard, True for the records that stay, and the others with
      their reason.
    """
    rows = np.concatenate([payload.rows for payload in found])
    labels = np.stack([work_plan.rows["age"][rows], work_plan.rows["gender"][rows]], 1)
    keep, first, in_conflict = duplicate_images.decide(
        np.concatenate([payload.sha256 for payload in found]),
        labels,
        # The scan sorts by key and the plan stores the keys in that order.
        work_plan.rows["key_offset"][rows],
        duplicates=work_plan.config.duplicates,
        conflicts=work_plan.config.conflicts,
    )
    if in_conflict.any():
        _log.warning(
            "%d images have the same bytes as others under different labels; see %s",
            in_conflict.sum(),
            FILE_NAME,
        )
    dropped = []
    for position in np.flatnonzero(~keep):
        other = first[position]
        if other == position:
            # It has the lowest key of its copies: name the next one, not itself.
            copies = first == position
            copies[position] = False
            other = np.flatnonzero(copies)[0]
        reason = f"same bytes as {work_plan.path(int(rows[other]))}"
        if in_conflict[position]:
            reason += ", under different labels"
        path = work_plan.path(int(rows[position]))
        dropped.append(source.Rejection(path, reason))
    edges = np.cumsum([len(payload.rows) for payload in found])[:-1]
    return np.split(keep, edges), dropped


def write(directory: str, rejected: Sequence[source.Rejection]) -> None:
    """Writes the file that names every rejected file and its reason."""
    # Names that are not valid UTF-8 are escaped by JSON itself.
    lines = [json.dumps(rejection._asdict()) + "\n" for rejection in sorted(rejected)]
    files.write_atomic(os.path.join(directory, FILE_NAME), "".join(lines))


def check_number(
    bad: int, found: int, *, max_rejected: int | None, output_dir: str
) -> None:
    """Refuses a source with too many unusable files.

    Args:
      bad: Number of files that cannot be used.
      found: Number of all files.
      max_rejected: How many are tolerated; None for 1 %, but at least 100.
      output_dir: Directory of the file that names them, for the message.

    Raises:
      DataError: There are more.
    """
    if max_rejected is None:
        max_rejected = max(100, found // 100)
    if bad > max_rejected:
        raise errors.DataError(
            f"{bad} of {found} files cannot be used, which is more than"
            f" --max_rejected={max_rejected}; {os.path.join(output_dir, FILE_NAME)}"
            " names each: mend them or raise the limit, and run again (if files are"
            " added or removed, remove the output directory first)"
        )
    if bad:
        _log.info("%d files cannot be used; %s names each", bad, FILE_NAME)
