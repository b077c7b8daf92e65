"""UTKFace: the labels are in the names, ``AGE_GENDER_RACE_DATE.jpg.chip.jpg``.

Traps: 0 is male and 1 is female, the other way round than in IMDB-WIKI.  A few names
lack the gender or the race (``61_1_2017...jpg``, ``61_3_2017...jpg``); nobody can say
which of the two, so they are left out.  The same image may be in the folder of crops
and in that of whole photos; name the one that you want.  The data set
says nothing about persons, so that images of one person may be in two splits.
"""

from __future__ import annotations

import re

from afad_tfdata.writing.importers import importer_rows, labels_in_names

CODES = "0:male,1:female"
LAYOUT = "images named AGE_GENDER_RACE_DATE.jpg, such as 25_0_2_20170116174525125.jpg"
_NAME = re.compile(r"(\d{1,3})_(?:(\d)_)?(?:(\d)_)?(\d{8,})\D*\.", re.ASCII)


def fits(root: str) -> bool:
    """Whether a folder is UTKFace: most images have such names."""
    return labels_in_names.names_fit(root, _NAME)


def read(root: str, *, follow_links: bool = False) -> importer_rows.ImportedRows:
    """Lists the images of UTKFace below a folder."""
    return labels_in_names.rows_by_name(
        root, _NAME, LAYOUT, _add_row, follow_links=follow_links
    )


def _add_row(found: importer_rows.ImportedRows, key: str, match: re.Match[str]) -> None:
    """Adds an image of UTKFace with the labels in its name."""
    age, first, second, _ = match.groups()
    if second is None:
        found.leave_out(key, "its name lacks the gender or the race")
    else:
        found.add("the name", key, age=age, gender=first)
