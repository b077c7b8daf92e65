"""What the cells of a label file mean: ages, genders, splits, boxes of faces.

A cell that has one meaning is read, however it is spelt.  A cell that could mean two
things is refused, with the reason as the result::

    cell_values.age("25.0")                    # Age(years=25, rounded=False)
    cell_values.age("25,4")                    # Age(years=25, rounded=True)
    cell_values.age("(25, 32)")                # "is a range of ages: ..."
    genders = cell_values.Genders("111:male,112:female")
    genders.label("F"), genders.label("112.0"), genders.label("1")   # 1, 1, "is ..."
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping
from typing import NamedTuple

from afad_tfdata.images import face_crop
from afad_tfdata.storage import schema, sharding
from afad_tfdata.writing import gender_codes, source
from afad_tfdata.writing.labels import header_columns

MISSING = schema.MISSING
AGE_RANGES = ("refuse", "middle")

# How pandas, R, databases, spreadsheets and people write that there is no value.
_EMPTY = frozenset(
    ("", "nan", "none", "null", "na", "n/a", "n.a.", "#n/a", "<na>", "nat", "-", "--")
    + ("?", "unknown", "unk", "missing", "nil", "\\n")
)
# A comma is a decimal comma, unless it may separate thousands: days, for example.
_THOUSANDS = re.compile(r"\+?[1-9]\d{0,2},\d{3}", re.ASCII)
_NUMBER = re.compile(r"\+?(\d{1,9})(?:[.,](\d{0,30}))?", re.ASCII)
_SCIENTIFIC = re.compile(r"\+?\d(?:\.\d{0,20})?e[+-]?0?\d{1,2}", re.ASCII | re.I)
_YEARS = re.compile(r"\s*(?:y|yr|yrs|year|years|jahre|ans)?(?:[\s-]*old)?\.?\Z", re.I)
_RANGE = re.compile(
    r"[(\[]?\s*(\d{1,3})\s*(?:,|-|\u2013|to|\.\.)\s*(\d{1,3})\s*[)\]]?",
    re.ASCII | re.I,
)
_OPEN_RANGE = re.compile(
    r"(?:more than|over|above|>=?)\s*\d{1,3}|\d{1,3}\s*\+|[(\[]\s*\d{1,3}\s*,?\s*[)\]]"
    r"|\d{1,3}\s*(?:-|\u2013)",
    re.ASCII | re.I,
)
_SPLITS = {
    "train": sharding.TRAIN,
    "training": sharding.TRAIN,
    "trn": sharding.TRAIN,
    "tr": sharding.TRAIN,
    "validation": sharding.VALIDATION,
    "val": sharding.VALIDATION,
    "valid": sharding.VALIDATION,
    "validate": sharding.VALIDATION,
    "dev": sharding.VALIDATION,
    "devel": sharding.VALIDATION,
    "development": sharding.VALIDATION,
    "test": sharding.TEST,
    "testing": sharding.TEST,
    "tst": sharding.TEST,
}
_WORDS = {
    **dict.fromkeys(("m", "male", "man", "men", "boy", "males"), "male"),
    **dict.fromkeys(
        ("f", "female", "woman", "women", "girl", "w", "females"), "female"
    ),
}


class Age(NamedTuple):
    """An age that a cell says.

    Attributes:
      years: Whole years; `MISSING` for a cell without a value.
      rounded: Whether the cell had a fraction of a year.
      middle: Whether the cell had a range, whose middle this is.
    """

    years: int
    rounded: bool = False
    middle: bool = False


def is_missing(text: str) -> bool:
    """Whether a cell of a label file says that there is no value."""
    return text.strip().lower() in _EMPTY


@functools.lru_cache(4096)
def age(text: str, *, ranges: str = "refuse") -> Age | str:
    """The age in a cell of a label file, in whole years.

    A fraction is rounded to the nearest year, a half upwards: 25.4 is 25, 25.5 is 26.

    Args:
      text: Such as ``25``, ``25.0``, ``25,4``, ``2.5e+01`` or ``25 years``.
      ranges: ``middle`` takes the middle of a range such as ``(25, 32)`` or ``25-32``,
        rounded likewise; ``refuse`` does not.

    Returns:
      The age; or, as a text, why the cell is refused.
    """
    if is_missing(text):
        return Age(MISSING)
    text = text.strip()
    quoted = repr(text[:20])
    number = _NUMBER.match(text)
    if number and _YEARS.match(text, number.end()):
        if _THOUSANDS.fullmatch(number[0]):
            return f"{quoted} has thousands or a fraction: write years without a comma"
        whole, fraction = int(number[1]), number[2] or ""
        # Digits are compared, because a float of "25.4999999999999999999" is 25.5.
        result = Age(whole + (fraction[:1] >= "5"), bool(fraction.strip("0")))
    elif _SCIENTIFIC.fullmatch(text):  # Some programs write every float like this.
        value = float(text)
        result = Age(int(value + 0.5), value != int(value))
    elif spread := _RANGE.fullmatch(text):
        low, high = int(spread[1]), int(spread[2])
        if low > high:
            return f"{quoted} is a range of ages that ends before it begins"
        if ranges != "middle":
            return (
                f"{quoted} is a range of ages, and a record has one age:"
                " --age_ranges=middle takes the middle"
            )
        result = Age((low + high + 1) // 2, (low + high) % 2 == 1, middle=True)
    elif _OPEN_RANGE.fullmatch(text):
        return f"{quoted} is a range of ages without an end: write one age"
    else:
        return f"{quoted} is not a number of years"
    if result.years > source.MAX_AGE:
        return f"{quoted} is not the age of a person, 0 to {source.MAX_AGE} years"
    return result


def split(text: str) -> str | None:
    """The split that a cell of a label file names; None if there is no such split."""
    return _SPLITS.get(text.strip().lower())


class Genders:
    """Reads cells with genders: codes, class names and the usual words for sexes.

    Args:
      codes: As `gender_codes.parse` takes them.
    """

    def __init__(self, codes: str) -> None:
        self._text = codes
        self._names = gender_codes.class_names(codes)
        self._labels: dict[str, int] = {}
        sexes = [_WORDS.get(name.lower()) for name in self._names]
        if None not in sexes and sexes[0] != sexes[1]:
            for word, sex in _WORDS.items():
                self._labels[word] = sexes.index(sex)
        # Later entries replace earlier ones, so that the user's own codes come last.
        for label, name in enumerate(self._names):
            self._labels[name.lower()] = label
        exact = gender_codes.parse(codes)
        for code, label in exact.items():
            self._labels[code.lower()] = label
        self._exact = exact
        # Few texts occur in very many cells.
        self._cached = functools.lru_cache(4096)(self._label)

    def label(self, text: str) -> int | str:
        """The gender in a cell: 0, 1, `MISSING`; or, as a text, why it is refused."""
        return self._cached(text)

    def _label(self, text: str) -> int | str:
        """`Genders.label` without its cache."""
        text = text.strip()
        # Checked first, because a code may be a word for "no value".
        if text in self._exact:
            return self._exact[text]
        known = self._labels.get(text.lower())
        if known is None:
            # pandas writes the codes 0 and 1 as 0.0 and 1.0 if a value is missing.
            known = self._labels.get(re.sub(r"[.,]0*\Z", "", text))
        if known is not None:
            return known
        if is_missing(text):
            return MISSING
        zero, one = self._names
        advice = f"0:{zero},1:{one} or 0:{one},1:{zero}"
        if text not in ("0", "1", "0.0", "1.0"):
            advice = self._text
        return (
            f"{text[:20]!r} is none of {', '.join(self._exact)}, {zero} and {one}: say"
            f" with --gender_codes which value means which class, such as {advice}"
        )


class BadBoxError(ValueError):
    """A box that cannot be used; the texts are the column's field and the reason."""


def face_box(cells: Mapping[str, str]) -> face_crop.Box | None:
    """The box of the face in the cells of a row of a label file.

    Args:
      cells: The texts of the row by field.

    Returns:
      ``x1, y1, x2, y2`` in pixels; None if all four cells have no value.

    Raises:
      BadBoxError: A number is missing or is none, or the box is empty.
    """
    texts = {side: cells.get(side, "") for side in header_columns.BOX}
    missing = [side for side, text in texts.items() if is_missing(text)]
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
