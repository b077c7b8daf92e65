"""IMDB-WIKI: ``imdb.mat`` or ``wiki.mat`` next to the images that it names.

Traps: 0 is female and 1 is male, the other way round than in UTKFace, and NaN is
unknown.  There are no ages: an age is computed from the date of birth, a number of
MATLAB that counts the days from the year 0, and from the year of the photo, in whose
middle (1 July) the photo is taken to be.  Many dates are wrong, so that ages below 0
and above 100 occur.  The labels are of the person of the page, not of the face: an
image without a face (``face_score`` is -inf) or with a second one
(``second_face_score`` is a number) may show somebody else.  All these are left out.
The person is the group (``celeb_id``, or the name where there is none); a photo of an
unknown person has no group.
"""

from __future__ import annotations

import datetime
import math
import os
from typing import Any

import numpy as np

from afad_tfdata.common import errors
from afad_tfdata.writing.importers import importer_rows
from afad_tfdata.writing.labels import cell_values

CODES = "1:male,0:female"
LAYOUT = "imdb.mat or wiki.mat, here or in a folder, with the images next to it"
_NAMES = ("imdb", "wiki")
# The number that MATLAB gives to the day that Python calls 1.
_MATLAB_DAYS = 366
_OLDEST = 100
# The columns that say who the person is; the later one counts more.
_PERSON = ("name", "celeb_id")


def fits(root: str) -> bool:
    """Whether a folder, or one in it, has one of the two files of IMDB-WIKI."""
    return any(_mat_folder(root, name) is not None for name in _NAMES)


def read(root: str, *, follow_links: bool = False) -> importer_rows.ImportedRows:
    """Lists the images of IMDB, of WIKI, or of both."""
    found = importer_rows.ImportedRows()
    for name in _NAMES:
        base = _mat_folder(root, name)
        if base is not None:
            _read_mat(found, root, base, name)
    return found


def age_of(birth: float, photo_taken: float) -> int | None:
    """The age that two dates of IMDB-WIKI give: on 1 July of the year of the photo.

    Args:
      birth: Day of birth, as MATLAB counts days.
      photo_taken: A year.

    Returns:
      Whole years, which may be negative; None if one of the two is no date.
    """
    try:
        born = datetime.date.fromordinal(int(birth) - _MATLAB_DAYS)
        taken = datetime.date(int(photo_taken), 7, 1)
    except (ValueError, OverflowError):
        return None
    return taken.year - born.year - ((taken.month, taken.day) < (born.month, born.day))


def _mat_folder(root: str, name: str) -> str | None:
    """The folder that contains the ``.mat`` file of IMDB or WIKI."""
    return importer_rows.folder_with(root, (f"{name}.mat",))


def _read_mat(
    found: importer_rows.ImportedRows, root: str, base: str, name: str
) -> None:
    """Adds the rows of ``imdb.mat`` or ``wiki.mat``."""
    file = f"{base}{name}.mat"
    columns = _mat_columns(os.path.join(root, file), name)
    persons = _persons_of_photos(columns)
    for i, path in enumerate(columns["full_path"]):
        key = f"{base}{_mat_text(path)}"
        score, second = (
            float(columns[field][i]) for field in ("face_score", "second_face_score")
        )
        age = age_of(columns["dob"][i], columns["photo_taken"][i])
        if not math.isfinite(score):
            found.leave_out(key, "no face was found in it")
        elif not math.isnan(second):
            found.leave_out(key, "it has a second face, which the labels may be of")
        elif age is None or not 0 <= age <= _OLDEST:
            found.leave_out(key, f"its dates give the age {age}")
        else:
            gender = float(columns["gender"][i])
            found.add(
                f"{file} row {i + 1}",
                key,
                age=str(age),
                gender="" if math.isnan(gender) else str(int(gender)),
                group=f"{name} {persons[i]}" if persons[i] else "",
            )


def _persons_of_photos(columns: dict[str, Any]) -> list[str]:
    """The person in each photo of IMDB-WIKI by number, else by name, else empty."""
    persons = [""] * len(columns["full_path"])
    for field in _PERSON:
        for i, value in enumerate(columns.get(field, ())):
            person = _mat_text(value).strip()
            # MATLAB counts from 1, so that 0 is nobody's number.
            if not (cell_values.is_missing(person) or person == "0"):
                persons[i] = person
    return persons


def _mat_columns(path: str, name: str) -> dict[str, Any]:
    """The columns of a ``.mat`` file by name: lists of values or of small arrays."""
    try:
        from scipy import io
    except ImportError as error:
        raise errors.UsageError(
            f"{path} needs scipy, which is not installed: pip install scipy"
        ) from error
    try:
        record = io.loadmat(path)[name][0, 0]
        columns = {field: record[field].reshape(-1) for field in record.dtype.names}
        wanted = ["full_path", "dob", "photo_taken", "gender", "face_score"]
        wanted += ["second_face_score", *(f for f in _PERSON if f in columns)]
        lengths = {len(columns[field]) for field in wanted}
        if len(lengths) != 1:
            raise ValueError(f"its columns have {sorted(lengths)} rows")
    # A damaged file raises errors of many types.
    except Exception as error:
        raise errors.UsageError(
            f"cannot read {path}: {errors.one_line(error) or type(error).__name__}"
        ) from error
    return columns


def _mat_text(value: Any) -> str:
    """A string or number of a ``.mat`` file; MATLAB stores it as an array of one."""
    value = np.asarray(value).reshape(-1)
    item = value[0] if len(value) else ""
    if isinstance(item, np.ndarray):
        return _mat_text(item)
    if isinstance(item, np.number):
        return str(int(item)) if np.isfinite(item) else ""
    return str(item)
