"""The names of features in files of other programs, and the unusable records there."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from afad_tfdata.common import errors
from afad_tfdata.reading import foreign_labels

LABELS = ("age", "gender")
_FIELDS = ("image", *LABELS)
# Up to this number of wrong labels, or this part of all labels, may be damage.
_FEW_LABELS, _WRONG_SHARE = 2, 0.1

_log = logging.getLogger(__name__)


class FeatureNames(NamedTuple):
    """The parsed form of `InputConfig.features`.

    Attributes:
      features: Name of the feature or data set, by field.
      pixels: Values of black and of white in HDF5 files; None if they are not named.
    """

    features: dict[str, str]
    pixels: tuple[float, float] | None


class SkippedRecords:
    """Unusable records, which are left out of the index within a budget.

    Args:
      budget: How many are left out; one more is an error.

    Attributes:
      budget: The argument `budget`.
      count: How many were left out.
    """

    def __init__(self, budget: int) -> None:
        self.budget, self.count = budget, 0
        self._wrong_labels: list[str] = []

    def add(self, reason: str, number: int = 1, *, label: bool = False) -> None:
        """Counts unusable records, and logs the first of them.

        Args:
          reason: The first record, and what is wrong with it.
          number: How many records are unusable.
          label: Whether they are unusable because of their label.

        Raises:
          DataError: The budget is used up.
        """
        if self.count + number > self.budget:
            before = f"; {self.count} before it were skipped" if self.count else ""
            raise errors.DataError(
                f"{reason}{before}. Mend the file, or skip as many records as you can"
                " spare with --max_bad_records"
            )
        self.count += number
        if label:
            self._wrong_labels.append(reason)
        _log.warning(
            "bad record %d of at most %d skipped: %s", self.count, self.budget, reason
        )

    def check_labels(self, num_good: int) -> None:
        """Refuses files in which many labels are wrong.

        Otherwise labels with another meaning, such as 1 and 2 for genders, would lose
        one class and give the other a wrong name.

        Raises:
          UsageError: More than a few labels, and more than a tenth, cannot be used.
        """
        wrong, total = len(self._wrong_labels), self.count + num_good
        if wrong > _FEW_LABELS and wrong > total * _WRONG_SHARE:
            raise errors.UsageError(
                f"--files: {wrong} of {total} records have a label that cannot be used,"
                f" too many for damage; the first is {self._wrong_labels[0]}"
            )


def parse(text: str) -> FeatureNames:
    """Parses ``image=image/encoded,age=label+15,pixels=0..1``.

    Raises:
      UsageError: The text has another form, or names a field that does not exist.
    """
    names: dict[str, str] = {}
    pixels = None
    for part in filter(None, text.split(",")):
        field, _, name = part.partition("=")
        if field == "pixels":
            pixels = _parse_range(name)
        elif field not in _FIELDS or not name:
            raise errors.UsageError(
                "--features takes image=NAME,age=NAME,gender=NAME,pixels=LOW..HIGH, or"
                f" some of them; got {part!r}"
            )
        else:
            names[field] = name
    return FeatureNames(names, pixels)


def _parse_range(text: str) -> tuple[float, float]:
    """The range of pixel values that a feature's text gives."""
    low, dots, high = text.partition("..")
    with contextlib.suppress(ValueError):
        limits = float(low), float(high)
        if dots and -1e9 < limits[0] < limits[1] < 1e9:
            return limits
    raise errors.UsageError(
        "--features: pixels= takes the values of black and white, such as 0..1 or"
        f" -1..1; got {text!r}"
    )


def resolve(
    names: Mapping[str, str],
    existing: set[str],
    usual: Mapping[str, Sequence[str]],
    path: str,
) -> dict[str, str]:
    """Returns the given names, and for every other field a usual name that exists.

    Raises:
      UsageError: A given name does not exist, or no usual name exists for the image.
    """
    for field, name in names.items():
        plain = name
        if field in LABELS:
            plain = foreign_labels.ForeignLabel(field, name, existing).name
        if plain not in existing:
            raise errors.UsageError(
                f"--features: {path} has no feature {plain!r} for the {field}; it has"
                f" {', '.join(sorted(existing)) or 'none'}"
            )
    resolved = dict(names)
    for field, choices in usual.items():
        match = [name for name in choices if name in existing]
        if field not in resolved and match:
            resolved[field] = match[0]
    if "image" not in resolved:
        raise errors.UsageError(
            f"--features must name the image in {path}, which has"
            f" {', '.join(sorted(existing)) or 'no feature'}"
        )
    return resolved
