"""MORPH Album 2: the labels are in the names, ``PERSON_NUMBERGENDERAGE.JPG``.

Traps: 13,000 persons have about 4 images each: the person is the group.  For some
persons the images disagree about the gender; nobody knows which of them is right, so
none of them is written.
"""

from __future__ import annotations

import re

from afad_tfdata.writing.importers import importer_rows, labels_in_names

CODES = "M:male,F:female"
LAYOUT = "images named PERSON_NUMBERGENDERAGE.JPG, such as 321798_03M36.JPG"
_NAME = re.compile(r"(\d{3,7})_(\d{1,2})([MF])(\d{2,3})\.", re.I | re.ASCII)


def fits(root: str) -> bool:
    """Whether a folder is MORPH: most images have such names."""
    return labels_in_names.names_fit(root, _NAME)


def read(root: str, *, follow_links: bool = False) -> importer_rows.ImportedRows:
    """Lists the images of MORPH below a folder."""
    found = labels_in_names.rows_by_name(
        root, _NAME, LAYOUT, _add_row, follow_links=follow_links
    )
    genders: dict[str, set[str]] = {}
    for _, (_, _, gender, _, person) in found.rows:
        genders.setdefault(person, set()).add(gender)
    rows, found.rows = found.rows, []
    for where, row in rows:
        person = row[-1]
        if person and len(genders[person]) > 1:
            found.leave_out(row[0], f"person {person} is male and female in the set")
        else:
            found.rows.append((where, row))
    return found


def _add_row(found: importer_rows.ImportedRows, key: str, match: re.Match[str]) -> None:
    """Adds an image of MORPH with the labels in its name."""
    person, _, gender, age = match.groups()
    found.add(
        "the name", key, age=age, gender=gender.upper(), group=person.lstrip("0") or "0"
    )
