"""AgeDB: the labels are in the names, ``NUMBER_PERSON_AGE_GENDER.jpg``.

Traps: 568 persons have about 30 images each, so that a split by image tests on persons
that the model knows: the person is the group.  The name of a person may contain an
underscore, so the age is counted from the end of the name.
"""

from __future__ import annotations

import re

from afad_tfdata.writing.importers import importer_rows, labels_in_names

CODES = "m:male,f:female"
LAYOUT = "images named NUMBER_PERSON_AGE_GENDER.jpg, such as 0_MariaCallas_35_f.jpg"
_NAME = re.compile(r"\d+_(.*\D.*)_(\d{1,3})_([mf])\.", re.I)


def fits(root: str) -> bool:
    """Whether a folder is AgeDB: most images have such names."""
    return labels_in_names.names_fit(root, _NAME)


def read(root: str, *, follow_links: bool = False) -> importer_rows.ImportedRows:
    """Lists the images of AgeDB below a folder."""
    return labels_in_names.rows_by_name(
        root, _NAME, LAYOUT, _add_row, follow_links=follow_links
    )


def _add_row(found: importer_rows.ImportedRows, key: str, match: re.Match[str]) -> None:
    """Adds an image of AgeDB with the labels in its name."""
    person, age, gender = match.groups()
    found.add("the name", key, age=age, gender=gender, group=person)
