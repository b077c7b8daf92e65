"""Reads labels in files of other programs: numbers, texts, words and one-hot rows.

A label that has one meaning is read.  Any other is refused with an error that says what
to write in ``--features``::

    age=NAME          years
    age=NAME+15       class numbers, of which class 0 is 15 years
    gender=NAME[1]    the second value of a record that has several
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from afad_tfdata.common import errors

# In years.  A larger number is not an age, but a year of birth, for example.
MAX_AGE = 200
# The package's own class names and their initials; male is 0.
_WORDS = {"male": 0, "m": 0, "female": 1, "f": 1}
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?")


class LabelError(Exception):
    """A label of one record that cannot be used; the text is the reason."""


class ForeignLabel:
    """Reads one label, the age or the gender, of each record.

    Args:
      field: ``age`` or ``gender``.
      text: The name in ``--features``, perhaps with ``[POSITION]`` and ``+YEARS``.
      existing: Names in the file.  If `text` is one of them, all of it is the name.

    Attributes:
      name: Name of the feature or data set.

    Raises:
      UsageError: Years are added to a gender.
    """

    def __init__(self, field: str, text: str, existing: set[str]) -> None:
        self._field, self._text = field, text
        self.name, self._position, self._plus = text, None, None
        if text in existing:
            return
        found = re.fullmatch(r"(.+?)(?:\[(\d+)\])?(?:\+(\d+))?", text)
        if found:
            self.name, position, plus = found.groups()
            self._position = None if position is None else int(position)
            self._plus = None if plus is None else int(plus)
        if self._plus is not None and field != "age":
            raise errors.UsageError(
                f"--features: {field}={text}: years are added to an age only"
            )

    def read(self, value: Any, where: str) -> float:
        """Returns a label of another program as a number: years, or the gender's class.

        Args:
          value: What the file has: a number, a text, or several of them.
          where: File and place, for the message.

        Raises:
          LabelError: This record's label cannot be used.
          UsageError: The meaning of the file's labels is ambiguous.
        """
        if value is None:
            raise LabelError(f"it has no {self._field} in {self.name!r}")
        if isinstance(value, (list, np.ndarray)) and np.ndim(value):
            value = self._value_at_position(list(value), where)
        elif self._position is not None:
            raise errors.UsageError(
                f"--features: {self._field}={self._text}: {where} has one value, not"
                " several: leave the position out"
            )
        if isinstance(value, np.generic):
            value = value.item()
        return self._as_number(value)

    def check_all(self, ages: Sequence[float] | np.ndarray, path: str) -> None:
        """Refuses ages that begin at 0, because they may be numbers of classes.

        Args:
          ages: Of all records.
          path: The first file.

        Raises:
          UsageError: The smallest age is below 1, and ``--features`` does not say that
            the numbers are years.
        """
        if self._plus is None and len(ages) and min(ages) < 1:
            raise errors.UsageError(
                f"{path}: the ages in {self.name!r} are in [{min(ages):g},"
                f" {max(ages):g}], as numbers of classes do: say which age class 0 is,"
                f" such as --features=age={self.name}+15, or that they are years, with"
                f" age={self.name}+0"
            )

    def _value_at_position(self, values: list[Any], where: str) -> Any:
        """Returns the value to read, of a record that has several for a label."""
        if self._position is not None:
            if self._position >= len(values):
                raise errors.UsageError(
                    f"--features: {self._field}={self._text}: {where} has"
                    f" {len(values)} values, whose positions begin at 0"
                )
            return values[self._position]
        if len(values) == 1:
            return values[0]
        numeric = all(isinstance(v, (int, float, np.number, np.bool_)) for v in values)
        one_hot = numeric and sorted(map(float, values))[-2:] == [0.0, 1.0]
        one_hot = one_hot and all(v in (0, 1) for v in values)
        if one_hot and (
            len(values) == 2 if self._field == "gender" else self._plus is not None
        ):
            return [bool(v) for v in values].index(True)
        shown = ", ".join(str(v) for v in values[:4]) + (", .." if values[4:] else "")
        if one_hot and self._field == "age":
            advice = f"say which age the first is, such as age={self.name}+15"
        else:
            advice = f"say which it is, such as {self._field}={self.name}[0]"
        raise errors.UsageError(
            f"{where}: wanted one value for the {self._field}; {self.name!r} has"
            f" {len(values)} ({shown}): in --features, {advice}"
        )

    def _as_number(self, value: Any) -> float:
        """The number that a label's value stands for; refuses other meanings."""
        number = value
        if isinstance(value, (bytes, str)):
            text = (
                value.decode("utf-8", "replace") if isinstance(value, bytes) else value
            )
            text = text.strip().lower()
            if self._field == "gender" and text in _WORDS:
                return _WORDS[text]
            number = float(text) if _NUMBER.fullmatch(text) else None
        elif isinstance(value, bool) and self._field == "age":
            number = None
        if isinstance(number, (int, float)) and math.isfinite(number):
            if self._field == "gender":
                if number in (0, 1):
                    return int(number)
            elif 0 <= number + (self._plus or 0) <= MAX_AGE and number >= 0:
                return number + (self._plus or 0)
        if self._field == "gender":
            wanted = "a whole number from 0 to 1, male or female"
        else:
            wanted = f"a number of years from 0 to {MAX_AGE}"
        raise LabelError(
            f"the {self._field} must be {wanted}; it is {errors.one_line(repr(value))}"
        )
