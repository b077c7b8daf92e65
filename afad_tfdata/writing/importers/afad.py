"""AFAD: ``AGE/GENDER/PHOTO-FACE.jpg``, as a folder or as the archive's parts.

Traps: 111 is male and 112 is female, although the original project's page says it the
other way round.  One age label was given to all faces of a photo, and faces of one
photo may be in both gender folders, so that a split by image leaks.

`age_folders.scan` and `archive_members.scan` list it; there are no rows here.
"""

from __future__ import annotations

import os
import re

CODES = "111:male,112:female"
LAYOUT = "folders AGE/111/IMAGE.jpg and AGE/112/IMAGE.jpg, or the archive's parts"


def fits(root: str) -> bool:
    """Whether a folder is laid out as AFAD: folders of ages with folders 111 or 112."""
    try:
        ages = [e.path for e in os.scandir(root) if re.fullmatch(r"\d{1,3}", e.name)]
    except OSError:
        return False
    return any(
        os.path.isdir(os.path.join(age, code))
        for age in ages
        for code in ("111", "112")
    )
