"""MegaAge and MegaAge-Asian: ``list/train_name.txt`` next to ``list/train_age.txt``.

Traps: there are no genders.  Names and ages are in two files, line by line.  The images
of training and test have the same names, ``1.jpg`` and so on, so that the folder is a
part of the key.
"""

from __future__ import annotations

import os

from afad_tfdata.common import errors
from afad_tfdata.writing.importers import importer_rows

CODES = "male:male,female:female"
LAYOUT = "list/train_name.txt, list/train_age.txt, and the folders train and test"


def fits(root: str) -> bool:
    """Whether a folder, or one in it, has the lists of MegaAge."""
    return _folder_of_lists(root) is not None


def read(root: str, *, follow_links: bool = False) -> importer_rows.ImportedRows:
    """Lists the images of MegaAge: those of training and test."""
    base = _folder_of_lists(root)
    found = importer_rows.ImportedRows()
    for split in ("train", "test"):
        names = _list_lines(root, f"{base}list/{split}_name.txt")
        ages = _list_lines(root, f"{base}list/{split}_age.txt")
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


def _folder_of_lists(root: str) -> str | None:
    """The folder that contains the lists of MegaAge."""
    return importer_rows.folder_with(
        root, ("list/train_name.txt", "list/train_age.txt")
    )


def _list_lines(root: str, name: str) -> list[str]:
    """The lines of a list of MegaAge without empty ones at its end; none if missing."""
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
