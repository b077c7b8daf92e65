"""The square around a face that is cut out of a photo, as the faces of AFAD are.

::

    crop = face_crop.FaceCrop(margin=0.1, size=150)
    square = crop.square((40, 60, 120, 160))        # (x1, y1, x2, y2) in pixels
    pixels = crop.cut(photo, square)                # uint8 [150, 150, 3]

The writer and the prediction both cut faces with this module, so that a network sees
the same crops in training and in use.  Boxes are ``(x1, y1, x2, y2)`` in pixels of the
upright photo: x to the right, y down, the last two exclusive.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from afad_tfdata.common import errors
from afad_tfdata.images import codec

Box = tuple[float, float, float, float]
Square = tuple[int, int, int, int]

BORDERS = ("replicate", "constant")
MAX_MARGIN = 1.0
# Gray, which is close to the channel means of face data sets.
_GRAY = 127
# A crop whose side is more than 1,024 pixels and more than four times its final side is
# first averaged in blocks, so that a face that fills a large photo needs little memory.
_LARGE_SIDE, _LARGE_FACTOR = 1024, 4
_STRIP_ROWS = 64


@dataclasses.dataclass(frozen=True)
class FaceCrop:
    """How the square around a face is cut and resized.

    Attributes:
      margin: Added width on each side of the box, as a share of its longer side.
      border: What is shown beyond the photo's edge, one of `BORDERS`: the pixels of the
        edge (``replicate``) or gray (``constant``).
      size: Side of the result in pixels.
      found_by: Where the boxes came from: a detector and its version, or ``boxes`` for
        those of a label file; empty if it is not known.
    """

    margin: float = 0.0
    border: str = "replicate"
    size: int = 150
    found_by: str = ""

    def __post_init__(self) -> None:
        check_margin(self.margin)
        if self.border not in BORDERS:
            raise errors.UsageError(
                f"--face_border takes {' or '.join(BORDERS)}; got {self.border!r}"
            )

    def to_json(self) -> dict[str, Any]:
        """What manifests and the descriptions of graphs say about the crop."""
        return {**dataclasses.asdict(self), "shape": "square", "antialias": True}

    def square(self, box: Box) -> Square:
        """The square that is cut for a box; it may reach beyond the photo.

        Args:
          box: Of a face.

        Returns:
          The square around the centre of the box, whose side is the longer side of the
          box plus the margins, rounded to whole pixels.
        """
        x1, y1, x2, y2 = box
        side = max(1, round(max(x2 - x1, y2 - y1) * (1 + 2 * self.margin)))
        # Halves are rounded up: Python would round to even numbers, which moves
        # neighbouring boxes in different directions.
        left = math.floor((x1 + x2 - side) / 2 + 0.5)
        top = math.floor((y1 + y2 - side) / 2 + 0.5)
        return left, top, left + side, top + side

    def cut(self, photo: np.ndarray, square: Square) -> np.ndarray:
        """The pixels of a square, resized with antialiasing.

        Args:
          photo: uint8 ``[height, width, 3]``, upright.
          square: From `square`; it overlaps the photo.

        Returns:
          uint8 ``[size, size, 3]``.
        """
        left, top, right, bottom = square
        side = right - left
        height, width = photo.shape[:2]
        inside = photo[max(top, 0) : bottom, max(left, 0) : right]
        before = max(0, -top), max(0, -left)
        after = max(0, bottom - height), max(0, right - width)
        if factor := _reduction_factor(side, self.size):
            inside = _block_means(inside, factor)
            rows, columns = (
                (b // factor, b // factor + size)
                for b, size in zip(before, inside.shape[:2], strict=True)
            )
            side = -(-side // factor)
            before = rows[0], columns[0]
            after = max(0, side - rows[1]), max(0, side - columns[1])
        if any(before + after):
            pads = [(before[0], after[0]), (before[1], after[1]), (0, 0)]
            inside = (
                np.pad(inside, pads, mode="edge")
                if self.border == "replicate"
                else np.pad(inside, pads, constant_values=_GRAY)
            )
        return codec.resize(np.ascontiguousarray(inside), self.size, antialias=True)


def check_margin(margin: float) -> None:
    """Raises `UsageError` unless a number can be the margin of a face's crop."""
    # Written so that NaN is refused, too.
    if not 0 <= margin <= MAX_MARGIN:
        raise errors.UsageError(
            "--face_margin is a share of the face's side, from 0 to"
            f" {MAX_MARGIN:g}; got {margin}"
        )


def crop_from_json(value: Mapping[str, Any] | None) -> FaceCrop | None:
    """The crop of faces that a manifest or a description names; None if none.

    Raises:
      DataError: The values are damaged.
    """
    if not value:
        return None
    try:
        value = dict(value)
        names = [field.name for field in dataclasses.fields(FaceCrop)]
        return FaceCrop(**{name: value[name] for name in names if name in value})
    except (TypeError, ValueError, AttributeError, errors.UsageError) as error:
        raise errors.DataError(
            f"the description of the face crop is damaged ({errors.one_line(error)}):"
            " write or freeze again"
        ) from error


def why_no_crop(box: Box, height: int, width: int) -> str:
    """Why a face's box cannot be cut out of a photo; empty if it can.

    A box may reach beyond the photo, but its centre must be inside, and no side may be
    more than twice the photo's longer side.
    """
    x1, y1, x2, y2 = box
    text = ",".join(f"{value:g}" for value in box)
    if not all(map(math.isfinite, box)) or x2 <= x1 or y2 <= y1:
        return f"the box {text} is empty: expected x1 < x2 and y1 < y2"
    center = (x1 + x2) / 2, (y1 + y2) / 2
    if not (0 <= center[0] < width and 0 <= center[1] < height):
        return f"the box {text} is outside the image of {width} x {height} pixels"
    if max(x2 - x1, y2 - y1) > 2 * max(height, width):
        return (
            f"the box {text} is more than twice as large as the image of {width} x"
            f" {height} pixels"
        )
    return ""


def _reduction_factor(side: int, size: int) -> int:
    """The factor by which a face's crop is first averaged; 0 for small crops."""
    factor = side // max(_LARGE_SIDE, _LARGE_FACTOR * size)
    return factor if factor > 1 else 0


def _block_means(image: np.ndarray, factor: int) -> np.ndarray:
    """Means of blocks of pixels of a face's crop, ``factor`` x ``factor``, rounded.

    Rows and columns that do not fill a block are left out.
    """
    rows, columns = (max(1, side // factor) for side in image.shape[:2])
    means = np.empty((rows, columns, 3), np.uint8)
    # This is done in strips, because the sums take four times the memory of the pixels.
    for first in range(0, rows, _STRIP_ROWS):
        strip = means[first : first + _STRIP_ROWS]
        pixels = image[first * factor : (first + len(strip)) * factor]
        total = np.zeros(strip.shape, np.uint32)
        taken = 0
        for y in range(min(factor, len(pixels))):
            for x in range(min(factor, image.shape[1])):
                total += pixels[y::factor, x::factor][: len(strip), :columns]
                taken += 1
        strip[:] = (total + taken // 2) // taken
    return means
