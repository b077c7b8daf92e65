"""Values of a JSON file, each with its place there; any value may be missing.

::

    metrics = json_values.read("run/metrics.json", what="the metrics")
    metrics.at("intervals", "mae", 0).number     # None if there is no such number
    metrics.at("intervals", "mae", 0).pointer    # "/intervals/mae/0"

The page shows numbers from files that other versions wrote or that somebody changed.  A
value that is missing or has another type is left out of the page.
"""

from __future__ import annotations

import math
from typing import Any

from afad_tfdata.common import files


class Json:
    """A value of a JSON file.

    Attributes:
      value: The plain value; None if the file does not have it.
      file: Path of the file; empty if the value was computed.
      pointer: Its place in the file, as in RFC 6901; empty for the whole file.
    """

    __slots__ = ("file", "pointer", "value")

    def __init__(self, value: Any, file: str = "", pointer: str = "") -> None:
        self.value, self.file, self.pointer = value, file, pointer

    def __bool__(self) -> bool:
        return self.value not in (None, {}, [], "")

    def at(self, *keys: str | int) -> Json:
        """The JSON value inside nested objects (by name) and arrays (by number)."""
        found = self
        for key in keys:
            found = found._child(key)
        return found

    def _child(self, key: str | int) -> Json:
        """The JSON value under a key or at a position."""
        value = None
        if isinstance(key, int):
            if isinstance(self.value, list) and 0 <= key < len(self.value):
                value = self.value[key]
        elif isinstance(self.value, dict):
            value = self.value.get(key)
        name = str(key).replace("~", "~0").replace("/", "~1")
        return Json(value, self.file, f"{self.pointer}/{name}")

    def items(self) -> list[tuple[str, Json]]:
        """The names and values of a JSON object; empty for other values."""
        if not isinstance(self.value, dict):
            return []
        return [(str(key), self.at(str(key))) for key in self.value]

    def elements(self) -> list[Json]:
        """The values of a JSON array; empty for other values."""
        if not isinstance(self.value, list):
            return []
        return [self.at(i) for i in range(len(self.value))]

    @property
    def number(self) -> int | float | None:
        """The JSON value if it is a finite number, and otherwise None."""
        if isinstance(self.value, bool) or not isinstance(self.value, (int, float)):
            return None
        return self.value if math.isfinite(self.value) else None

    @property
    def text(self) -> str:
        """The JSON value if it is a text, and otherwise an empty text."""
        return self.value if isinstance(self.value, str) else ""


def read(path: str, *, what: str, advice: str = "restore it") -> Json:
    """Reads a JSON file for the report, as a value that knows its place in the file.

    Args:
      path: The file.
      what: What it is, for the message.
      advice: What to do if it cannot be used.

    Raises:
      UsageError: It is missing or cannot be read.
      DataError: It is not JSON.
    """
    return Json(files.read_json(path, what=what, advice=advice), path)
