"""The box of a face in a row of a label file, and the keys of faces in one image."""

from __future__ import annotations

import collections
import math
from collections.abc import Iterable, Mapping

from afad_tfdata.images.face_crop import Box
from afad_tfdata.storage import sharding
from afad_tfdata.writing import source
from afad_tfdata.writing.labels import cell_values, header_columns


class BadBoxError(ValueError):
    """A box that cannot be used; the texts are the column's field and the reason."""


def read(cells: Mapping[str, str]) -> Box | None:
    """The box of a row.

    Args:
      cells: The texts of the row by field.

    Returns:
      ``x1, y1, x2, y2`` in pixels; None if all four cells have no value.

    Raises:
      BadBoxError: A number is missing or is none, or the box is empty.
    """
    texts = {side: cells.get(side, "") for side in header_columns.BOX}
    missing = [side for side, text in texts.items() if cell_values.is_missing(text)]
    if len(missing) == len(header_columns.BOX):
        return None
    if missing:
        raise BadBoxError(missing[0], "no value, but the row has a part of a box")
    numbers = {}
    for side, text in texts.items():
        try:
            numbers[side] = float(text)
        except ValueError:
            raise BadBoxError(side, f"{text[:20]!r} is not a number") from None
        if not math.isfinite(numbers[side]):
            raise BadBoxError(side, f"{text[:20]!r} is not a number")
    for low, high in (("x1", "x2"), ("y1", "y2")):
        if numbers[low] >= numbers[high]:
            raise BadBoxError(
                high,
                f"the box is empty: {high} is {texts[high]}, and {low} is {texts[low]}"
                " (widths and heights are not read)",
            )
    if max(numbers.values()) <= 1:
        raise BadBoxError(
            "x2",
            f"the box ends at {texts['x2']}, {texts['y2']}: expected pixels, not shares"
            " of the image",
        )
    return numbers["x1"], numbers["y1"], numbers["x2"], numbers["y2"]


def with_keys(items: Iterable[source.Item]) -> list[source.Item]:
    """Gives each face of an image with several faces a key of its own.

    Args:
      items: Their keys are the paths of their images.

    Returns:
      The items, sorted by key.
    """
    listed = list(items)
    counts = collections.Counter(item.key for item in listed)
    for position, item in enumerate(listed):
        # A path that looks like such a key gets a box, too, so that it can be removed.
        several = counts[item.key] > 1 or sharding.image_path(item.key) != item.key
        if item.box is not None and several:
            key = sharding.face_key(item.key, item.box)
            listed[position] = item._replace(key=key)
    return sorted(listed)
