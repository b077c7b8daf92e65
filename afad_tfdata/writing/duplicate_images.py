"""Which of the images with the same bytes are kept.

If the source contains an image twice under the same labels, both are one face.  One
copy is kept, so that no copy of a training image is in the test split.  If the labels
differ, no rule can say which of them is right.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from afad_tfdata.writing import payloads, plan, rejections, source

DUPLICATES = ("first", "all")
CONFLICTS = ("reject", "first", "all")
_log = logging.getLogger(__name__)


def find(
    work_plan: plan.Plan, found: Sequence[payloads.Payload]
) -> tuple[list[np.ndarray], list[source.Rejection]]:
    """Finds the duplicate images in a data set, over all its shards.

    Args:
      work_plan: The plan, whose configuration says which copies stay.
      found: The payloads of all shards.

    Returns:
      A bool array ``[n]`` for each shard, True for the records that stay; and the
      rejections of the other records.
    """
    rows = np.concatenate([payload.rows for payload in found])
    labels = np.stack([work_plan.rows["age"][rows], work_plan.rows["gender"][rows]], 1)
    keep, first, in_conflict = decide(
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
            rejections.FILE_NAME,
        )
    dropped = []
    for position in np.flatnonzero(~keep):
        other = first[position]
        if other == position:
            # This copy has the lowest key, so its reason names the next copy.
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


def decide(
    sha256: np.ndarray,
    labels: np.ndarray,
    key_order: np.ndarray,
    *,
    duplicates: str,
    conflicts: str,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Decides which of the duplicate images, with the same bytes, are kept.

    Args:
      sha256: uint8 ``[n, 32]`` digests of the images' bytes.
      labels: ``[n, k]`` integers; copies agree if their rows are equal.
      key_order: ``[n]`` numbers that ascend with the images' keys.
      duplicates: ``first`` keeps the copy with the lowest key, ``all`` every copy.
      conflicts: The same for copies under different labels, or ``reject`` them all.

    Returns:
      ``keep``: bool ``[n]``;
      ``first``: int64 ``[n]``, for each image the position of the copy with the lowest
      key, which is its own position if it has no copies;
      ``in_conflict``: bool ``[n]``, True for images whose copies have other labels.
    """
    count = len(sha256)
    everywhere = np.arange(count)
    if not count:
        return np.ones(0, bool), everywhere, np.zeros(0, bool)
    # Opaque 32-byte values are sorted much faster than rows.
    digests = np.ascontiguousarray(sha256).view("V32").reshape(-1)
    _, group = np.unique(digests, return_inverse=True)
    group = group.reshape(-1)  # NumPy 2.0 keeps the shape of the input.
    # Sorted by group and, in each group, by key: the first of a group is kept.
    order = np.lexsort((key_order, group))
    starts = np.flatnonzero(np.r_[True, group[order][1:] != group[order][:-1]])
    first_of_group = order[starts]
    first = first_of_group[group]
    differs = (labels != labels[first]).any(axis=1)
    conflicting = np.zeros(len(starts), bool)
    np.logical_or.at(conflicting, group, differs)  # `|=` skips repeated indices.
    in_conflict = conflicting[group]
    is_first = first == everywhere
    keep_in_conflict = {
        "reject": np.zeros(count, bool),
        "first": is_first,
        "all": np.ones(count, bool),
    }[conflicts]
    keep_copies = is_first if duplicates == "first" else np.ones(count, bool)
    return np.where(in_conflict, keep_in_conflict, keep_copies), first, in_conflict
