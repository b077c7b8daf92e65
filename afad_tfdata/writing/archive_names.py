"""File names of archives and of their parts.  Pure text."""

from __future__ import annotations

import re
from collections.abc import Sequence

from afad_tfdata.common import errors

# The known names, for errors.
KNOWN = (
    ".tar, .tar.xz, .tar.gz, .tar.bz2 or .zip, or parts such as .tar.xzaa, .tar.xz.00"
)
_ENDING = r"\.(?:tar(?:\.(?:xz|gz|bz2))?|txz|tgz|tbz2?|zip)"
_WHOLE = re.compile(rf".+{_ENDING}", re.IGNORECASE)
# Names with the part's number after the ending, as the command split writes them.
_BEHIND = re.compile(
    rf"(?P<stem>.+?{_ENDING})(?P<dash>[._-]?(?:part[._-]?)?)(?P<number>[a-z]{{2,4}}|\d{{1,5}})",
    re.IGNORECASE,
)
# Names with the part's number before the ending.
_BEFORE = re.compile(
    rf"(?P<stem>.+?)(?P<dash>[._-]part[._-]?)(?P<number>\d{{1,5}})(?P<ending>{_ENDING})",
    re.IGNORECASE,
)


def group(names: Sequence[str]) -> dict[str, list[str]]:
    """The archives among the names of files, with their parts.

    Args:
      names: File names, sorted.

    Returns:
      The files of each archive, by its name without the numbers of parts.
    """
    archives: dict[str, list[str]] = {}
    for name in names:
        if name.startswith("."):
            continue  # Such as ``._NAME``, which macOS adds.
        if match := _BEFORE.fullmatch(name):
            stem = match["stem"] + match["ending"]
        elif _WHOLE.fullmatch(name):
            stem = name
        elif match := _BEHIND.fullmatch(name):
            stem = match["stem"]
        else:
            continue
        archives.setdefault(stem, []).append(name)
    return archives


def ordered(names: Sequence[str], directory: str) -> list[str]:
    """The parts of one archive in their order.

    Args:
      names: From `group`.
      directory: Where they are, for the message.

    Raises:
      UsageError: A part is missing, or two have the same number.
    """
    by_number: dict[int, str] = {}
    for name in names:
        number = _number(name)
        if number in by_number:
            raise errors.UsageError(
                f"--data_dir={directory} holds {by_number[number]} and {name}, which"
                " are the same part: remove one of them"
            )
        by_number[number] = name
    # Parts in letters begin with aa, parts in digits with 0 or 1.
    first = by_number[min(by_number)]
    start = 1 if _match(first)["number"].isdigit() and 0 not in by_number else 0
    for number in range(start, start + len(names)):
        if number not in by_number:
            raise errors.UsageError(
                f"--data_dir={directory} lacks the part {_named(number, first)} of"
                f" {_match(first)['stem']}: fetch it again"
            )
    return [by_number[number] for number in sorted(by_number)]


def _match(name: str) -> re.Match[str]:
    """Finds the number in the name of an archive's part."""
    match = _BEFORE.fullmatch(name) or _BEHIND.fullmatch(name)
    if match is None:
        raise ValueError(name)  # The name does not come from `group`.
    return match


def _number(name: str) -> int:
    """Position of a part: ``aa`` is 0, ``ab`` 1, ``ba`` 26."""
    text = _match(name)["number"].lower()
    if text.isdigit():
        return int(text)
    value = 0
    for letter in text:
        value = 26 * value + ord(letter) - ord("a")
    return value


def _named(number: int, like: str) -> str:
    """The name of the part at a position, in the form of another part's name."""
    match = _match(like)
    width = len(match["number"])
    if match["number"].isdigit():
        text = f"{number:0{width}d}"
    else:
        text = ""
        for _ in range(width):
            number, letter = divmod(number, 26)
            text = chr(ord("a") + letter) + text
    return like[: match.start("number")] + text + like[match.end("number") :]
