"""FairFace: ``fairface_label_train.csv`` and ``fairface_label_val.csv`` next to images.

Traps: the ages are ranges (``3-9``, ``more than 70``), so that only
``--age_ranges=middle`` gives a year; ``more than 70`` is then 70-79, because all ranges
are ten years wide there.  A spreadsheet that saves the file turns ``3-9`` into a date,
which is refused.  Both lists have an image ``1.jpg``, so that the folder is a part of
the key.  The list called ``val`` is the validation split; there is no public test
split.
"""

from __future__ import annotations

import os

from afad_tfdata.writing.importers import importer_rows

CODES = "Male:male,Female:female"
LAYOUT = (
    "fairface_label_train.csv, fairface_label_val.csv, and the folders train and val"
)
_LISTS = {"train": "fairface_label_train.csv", "validation": "fairface_label_val.csv"}
_LAST_RANGE = {"more than 70": "70-79"}


def fits(root: str) -> bool:
    """Whether a folder is laid out as FairFace: it has one of the two lists."""
    return any(os.path.isfile(os.path.join(root, name)) for name in _LISTS.values())


def read(root: str, *, follow_links: bool = False) -> importer_rows.ImportedRows:
    """Lists the images of FairFace: those of both lists."""
    found = importer_rows.ImportedRows(has_ranges=True)
    for split, name in _LISTS.items():
        path = os.path.join(root, name)
        if not os.path.isfile(path):
            found.absent.append(name)
            continue
        for number, row in importer_rows.read_rows(path, ("file", "age", "gender")):
            found.add(
                f"{name} row {number}",
                row["file"],
                age=_LAST_RANGE.get(row["age"].lower(), row["age"]),
                gender=row["gender"],
                split=split,
            )
    return found
