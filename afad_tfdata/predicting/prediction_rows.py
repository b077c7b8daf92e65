"""Predictions as rows: a dict for each image or face, as text, and as a caption."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from afad_tfdata.common import errors, files
from afad_tfdata.metrics import age_intervals
from afad_tfdata.predicting import image_reader


def prediction_row(
    item: image_reader.LoadedImage,
    outputs: dict[str, float],
    description: dict[str, Any],
) -> dict[str, Any]:
    """What is predicted for an image or a face, as a row of the results."""
    # Numbers are rounded to the digits that labels and float32 support.
    row: dict[str, Any] = {"image": item.path}
    if item.square is not None:
        row |= zip(("x1", "y1", "x2", "y2"), item.square, strict=True)
    gender = None
    if "gender" in outputs:
        second = outputs["gender"] >= description["threshold"]
        gender = description["class_names"][int(second)]
    if "age" in outputs:
        row["age"] = round(outputs["age"], 2)
        # Graphs of earlier versions have none.
        if interval := description.get("age_interval"):
            spread = outputs.get("age_spread")
            low, high = age_intervals.bounds(interval, outputs["age"], gender, spread)
            row.update(low=round(low, 2), high=round(high, 2))
            row["coverage"] = interval["coverage"]
    if gender is not None:
        row.update(gender=gender, probability=round(outputs["gender"], 6))
    return row


class RowFormat:
    """Formats rows of predictions as text, one at a time.

    Args:
      output_format: ``table``, ``json`` or ``csv``.
      images: Every path that a row may have; they decide the width of a column.
      class_names: Every class name that a row may have, for the same purpose.
    """

    def __init__(
        self, output_format: str, images: Iterable[str], class_names: Iterable[str]
    ) -> None:
        self._format = output_format
        # Three digits, a point and one more digit for an age.
        self._widths = {
            "image": max(map(len, map(_cell_text, images)), default=0),
            "age": 5,
            "interval": len("100 to 100 at 90 %"),
            "gender": max(map(len, class_names), default=0),
        }
        self._is_first = True

    def lines(self, row: dict[str, Any]) -> str:
        """The line of a row of predictions; the first has a header before it."""
        if self._format == "json":
            return json.dumps(row)
        if self._format == "table":
            row = _interval_in_words(row)
        lines = [list(row)] if self._is_first else []
        self._is_first = False
        if self._format == "csv":
            return "\n".join(map(files.csv_line, [*lines, row.values()]))
        lines.append([_cell_text(value) for value in row.values()])
        widths = [max(len(name), self._widths.get(name, 0)) for name in row]
        return "\n".join(
            "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip()
            for line in lines
        )


def _interval_in_words(row: dict[str, Any]) -> dict[str, Any]:
    """A row of predictions with its age interval as ``21 to 33 at 90 %``."""
    if "coverage" not in row:
        return row
    first, last = age_intervals.whole_years(row["low"], row["high"])
    cell = f"{first} to {last} at {100 * row['coverage']:g} %"
    words: dict[str, Any] = {}
    for name, value in row.items():
        if name == "low":
            words["interval"] = cell
        elif name not in ("high", "coverage"):
            words[name] = value
    return words


def _cell_text(value: Any) -> str:
    """A value of a row of predictions as text."""
    if isinstance(value, float):
        return f"{value:.3f}" if 0 <= value <= 1 else f"{value:.1f}"
    return errors.printable(str(value))


def caption_of_row(row: dict[str, Any]) -> str:
    """The age and gender of a row of predictions, as the caption of a picture."""
    parts = [f"{row['age']:.0f}"] if "age" in row else []
    return ", ".join([*parts, row["gender"]] if "gender" in row else parts)
