"""The names of features in files of other programs, as ``--features`` gives them."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from afad_tfdata.common import errors
from afad_tfdata.reading import foreign_labels

LABELS = ("age", "gender")
_FIELDS = ("image", *LABELS)


class FeatureNames(NamedTuple):
    """The parsed form of `InputConfig.features`.

    Attributes:
      features: Name of the feature or data set, by field.
      pixels: Values of black and of white in HDF5 files; None if they are not named.
    """

    features: dict[str, str]
    pixels: tuple[float, float] | None


def parse_features(text: str) -> FeatureNames:
    """Parses ``--features``: ``image=image/encoded,age=label+15,pixels=0..1``.

    Raises:
      UsageError: The text has another form, or names a field that does not exist.
    """
    names: dict[str, str] = {}
    pixels = None
    for part in filter(None, text.split(",")):
        field, _, name = part.partition("=")
        if field == "pixels":
            pixels = _parse_pixel_range(name)
        elif field not in _FIELDS or not name:
            raise errors.UsageError(
                "--features takes image=NAME,age=NAME,gender=NAME,pixels=LOW..HIGH, or"
                f" some of them; got {part!r}"
            )
        else:
            names[field] = name
    return FeatureNames(names, pixels)


def _parse_pixel_range(text: str) -> tuple[float, float]:
    """Parses ``LOW..HIGH``, the values of black and white in ``--features``."""
    low, dots, high = text.partition("..")
    with contextlib.suppress(ValueError):
        limits = float(low), float(high)
        if dots and -1e9 < limits[0] < limits[1] < 1e9:
            return limits
    raise errors.UsageError(
        "--features: pixels= takes the values of black and white, such as 0..1 or"
        f" -1..1; got {text!r}"
    )


def resolve_names(
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
