"""Which column of a label file is which, by the names in its header."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from afad_tfdata.common import errors

# The first name of a field is what errors call it.  A file that has that name may have
# the others, too: CORAL's lists have `file` next to `path`.
NAMES: dict[str, tuple[str, ...]] = {
    "path": (
        *("path", "file", "filename", "file_name", "filepath", "file_path"),
        *("image", "image_path", "image_file", "image_name", "img", "img_path"),
        *("img_name", "full_path", "picture", "photo_path"),
    ),
    "age": ("age", "ages", "age_years", "age_in_years", "real_age", "label_age"),
    "gender": ("gender", "sex", "genders", "label_gender"),
    "split": ("split", "subset", "partition", "set", "usage"),
    "group": (
        *("group", "group_id", "person", "person_id", "identity", "identity_id"),
        *("subject", "subject_id", "video", "video_id", "photo", "photo_id"),
    ),
    "x1": ("x1", "xmin", "x_min", "face_x1", "box_x1", "bbox_x1"),
    "y1": ("y1", "ymin", "y_min", "face_y1", "box_y1", "bbox_y1"),
    "x2": ("x2", "xmax", "x_max", "face_x2", "box_x2", "bbox_x2"),
    "y2": ("y2", "ymax", "y_max", "face_y2", "box_y2", "bbox_y2"),
}
BOX = ("x1", "y1", "x2", "y2")
# pandas stores the numbers of rows under such names; they say nothing about an image.
_ROW_NUMBERS = re.compile(r"(?:unnamed_\d+(?:_level_\d+)?|index(?:_level_\d+)?|)")


@dataclasses.dataclass(frozen=True)
class Columns:
    """Positions of the known columns of a label file, and the names of the others.

    Attributes:
      positions: Position by field, one of `NAMES`; fields without a column are missing.
      header: The names as the file spells them.
      unknown: Names of the columns that are not read.
    """

    positions: dict[str, int]
    header: tuple[str, ...]
    unknown: tuple[str, ...]

    def named(self, field: str) -> str:
        """The name that the header of the label file gives to a field's column."""
        return self.header[self.positions[field]].strip()


def normalized_name(name: str) -> str:
    """A column's name without punctuation: ``Age (years)`` is ``age_years``."""
    return re.sub(r"\W+", "_", name.strip().strip("\ufeff\"'")).strip("_").lower()


def num_known_columns(header: Sequence[str]) -> int:
    """The number of fields of a label file that a header names."""
    names = {normalized_name(name) for name in header}
    return sum(bool(names & set(known)) for known in NAMES.values())


def has_path_column(header: Sequence[str]) -> bool:
    """Whether a header names the column of the images."""
    return not {normalized_name(name) for name in header}.isdisjoint(NAMES["path"])


def find_columns(
    header: Sequence[str], *, name: str, required: Sequence[str]
) -> Columns:
    """Finds the columns of a label file by the names in its header.

    Args:
      header: The cells of the first row.
      name: What errors call the file.
      required: Fields without which the file is of no use.

    Raises:
      UsageError: A required column is missing, or two columns could be the same field.
    """
    names = [normalized_name(cell) for cell in header]
    positions: dict[str, int] = {}
    for field, known in NAMES.items():
        exact = [i for i, cell in enumerate(names) if cell == known[0]]
        found = exact or [i for i, cell in enumerate(names) if cell in known]
        if len(found) > 1:
            spelt = ", ".join(repr(header[i].strip()) for i in found)
            raise errors.UsageError(
                f"{name}, row 1: the columns {spelt} could all be the {field}: keep one"
                f" of them, and call it {field}"
            )
        if found:
            positions[field] = found[0]
    missing = [field for field in required if field not in positions]
    if missing:
        shown = ", ".join(repr(cell.strip()[:40]) for cell in header[:8])
        more = ", ..." if len(header) > 8 else ""
        raise errors.UsageError(
            f"{name} has no column {', '.join(missing)}; its first row must name"
            " path, age, gender and, optionally, split, group, x1, y1, x2 and y2, and"
            f" it has {shown or 'nothing'}{more}"
        )
    lacking = [side for side in BOX if side not in positions]
    if 0 < len(lacking) < len(BOX):
        have = next(side for side in BOX if side in positions)
        raise errors.UsageError(
            f"{name}, row 1: the column {header[positions[have]].strip()!r} belongs to"
            f" the box of a face, which needs {', '.join(BOX)}; there is no"
            f" {', '.join(lacking)}: add it, or rename the others"
        )
    used = set(positions.values())
    unknown = tuple(
        header[i].strip()
        for i, cell in enumerate(names)
        if i not in used and not _ROW_NUMBERS.fullmatch(cell)
    )
    return Columns(positions, tuple(header), unknown)
