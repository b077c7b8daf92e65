"""Adience: ``fold_0_data.txt`` to ``fold_4_data.txt`` next to ``aligned`` or ``faces``.

Traps: the ages are ranges such as ``(25, 32)`` with single years among them, so that
only ``--age_ranges=middle`` gives a year; some are ``None``.  Some genders are ``u`` or
empty.  The folds are divided by person, and a split by image would put a person into
two splits: the user is the group.  The name of an image is put together from three
columns.  The lists called ``fold_frontal_...`` repeat a part of the rows and are not
read.
"""

from __future__ import annotations

import os

from afad_tfdata.writing.importers import importer_rows

CODES = "m:male,f:female"
LAYOUT = "fold_0_data.txt to fold_4_data.txt, and the folder aligned or faces"
_IMAGES = {
    "aligned": "landmark_aligned_face",
    "faces": "coarse_tilt_aligned_face",
}
_COLUMNS = ("user_id", "original_image", "face_id", "age", "gender")
_NUM_FOLDS = 5


def fits(root: str) -> bool:
    """Whether a folder is laid out as Adience: lists of folds next to the images."""
    lists = any(os.path.isfile(path) for _, path in _fold_lists(root))
    return lists and _images_folder(root) is not None


def read(root: str, *, follow_links: bool = False) -> importer_rows.ImportedRows:
    """Lists the images of Adience: those of all folds."""
    folder = _images_folder(root) or "aligned"
    found = importer_rows.ImportedRows(has_ranges=True)
    for name, path in _fold_lists(root):
        if not os.path.isfile(path):
            found.absent.append(name)
            continue
        for number, row in importer_rows.read_rows(path, _COLUMNS):
            user, image, face = (row[column] for column in _COLUMNS[:3])
            gender = "" if row["gender"].lower() == "u" else row["gender"]
            found.add(
                f"{name} row {number}",
                f"{folder}/{user}/{_IMAGES[folder]}.{face}.{image}",
                age=row["age"],
                gender=gender,
                group=user,
            )
    return found


def _images_folder(root: str) -> str | None:
    """The folder of Adience's images that is there; the aligned ones first."""
    there = [name for name in _IMAGES if os.path.isdir(os.path.join(root, name))]
    return there[0] if there else None


def _fold_lists(root: str) -> list[tuple[str, str]]:
    """Names and paths of Adience's lists, one for each of the five folds."""
    names = [f"fold_{fold}_data.txt" for fold in range(_NUM_FOLDS)]
    return [(name, os.path.join(root, name)) for name in names]
