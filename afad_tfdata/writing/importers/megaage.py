"""MegaAge and MegaAge-Asian: ``list/train_name.txt`` next to ``list/train_age.txt``.

Traps: there are no genders.  Names and ages are in two files, line by line.  The images
of training and test have the same names, ``1.jpg`` and so on, so that the folder is a
part of the key.
"""

from __future__ import annotations

import os

from afad_tfdata.common import errors
from afad_tfdata.writing.importers import scheme

CODES = "male:male,female:female"
LAYOUT = "list/train_name.txt, list/train_age.txt, and the folders train and test"


def fits(root: str) -> bool:
    """Whether a folder, or one in it, has the lists."""
    return _base(root) is not None


def read(root: str, *, follow_links: bool = False) -> scheme.Found:
    """Lists the images of both splits."""
    base = _base(root)
    found = scheme.Found()
    for split in ("train", "test"):
        names = _lines(root, f"{base}list/{split}_name.txt")
        ages = _lines(root, f"{base}list/{split}_age.txt")
        if len(names) != len(ages):
            raise errors.UsageError(
                f"--data_dir={root}: {base}list/{split}_name.txt has {len(names)} lines"
                f" and {split}_age.txt has {len(ages)}: fetch both again"
            )
        if not names:
            found.absent.append(f"{base}list/{split}_name.txt")
        for number, (name, age) in enumerate(zip(names, ages, strict=True), 1):
            where = f"{split}_name.txt row {number}"
            found.add(where, f"{base}{split}/{name}", age=age, split=split)
    return found


def _base(root: str) -> str | None:
    """The folder that contains the lists."""
    return scheme.folder_with(root, ("list/train_name.txt", "list/train_age.txt"))


def _lines(root: str, name: str) -> list[str]:
    """The lines of a list, without empty ones at the end; none if it is not there."""
    path = os.path.join(root, name)
    if not os.path.exists(path):
        return []
    try:
        with open(path, encoding="utf-8-sig") as f:
            return [line.strip() for line in f.read().rstrip().split("\n")]
    except (OSError, UnicodeDecodeError) as error:
        raise errors.UsageError(
            f"cannot read --data_dir={root}: {name}: {errors.one_line(error)}"
        ) from error
