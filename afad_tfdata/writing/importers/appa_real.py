"""APPA-REAL: ``gt_avg_train.csv``, ``gt_avg_valid.csv`` and ``gt_avg_test.csv``.

Traps: each image has two ages, the real one and the mean of what people guessed; the
real one is read (for the other one, pass a table by ``--labels_csv``).  The files
``gt_train.csv`` have a row for each guess, so that an image would count 38 times.  Next
to each photo ``000001.jpg`` is its face, turned and cut, ``000001.jpg_face.jpg``, which
is taken if it is there.  The genders are in ``allcategories_train.csv``, if that is
there; without it the data set has ages only.
"""

from __future__ import annotations

import os

from afad_tfdata.writing.importers import importer_rows

CODES = "male:male,female:female"
LAYOUT = "gt_avg_train.csv, gt_avg_valid.csv, gt_avg_test.csv, and their folders"
_SPLITS = ("train", "valid", "test")


def fits(root: str) -> bool:
    """Whether a folder is laid out as APPA-REAL: it has one of the lists."""
    return any(os.path.isfile(f"{root}/gt_avg_{split}.csv") for split in _SPLITS)


def read(root: str, *, follow_links: bool = False) -> importer_rows.ImportedRows:
    """Lists the images of APPA-REAL: those of its three splits."""
    found = importer_rows.ImportedRows()
    for split in _SPLITS:
        name = f"gt_avg_{split}.csv"
        if not os.path.isfile(f"{root}/{name}"):
            found.absent.append(name)
            continue
        genders = _genders_by_file(f"{root}/allcategories_{split}.csv")
        rows = importer_rows.read_rows(f"{root}/{name}", ("file_name", "real_age"))
        for number, row in rows:
            image = row["file_name"]
            path = f"{split}/{image}"
            if os.path.isfile(f"{root}/{path}_face.jpg"):
                path += "_face.jpg"
            found.add(
                f"{name} row {number}",
                path,
                age=row["real_age"],
                gender=genders.get(image, ""),
                split=split,
            )
    return found


def _genders_by_file(path: str) -> dict[str, str]:
    """Gender by file name, from a table ``allcategories`` of APPA-REAL."""
    if not os.path.isfile(path):
        return {}
    rows = importer_rows.read_rows(path, ("file", "gender"))
    return {row["file"]: row["gender"] for _, row in rows}
