"""The importers by name, and which of them can read a folder.

::

    importer_choice.check("utkface", "faces")    # an error for another data set
    importer_choice.importer("utkface").read("faces")

An importer is a module with four names::

    CODES     which gender in the data set is which class, for --gender_codes
    LAYOUT    what the folder must contain, for the error of a wrong --source
    fits      whether a folder looks like that
    read      its rows: `ImportedRows`
"""

from __future__ import annotations

import importlib
import os
from typing import Protocol, cast

from afad_tfdata.common import errors
from afad_tfdata.writing.importers import importer_rows

NAMES = (
    *("afad", "utkface", "imdb_wiki", "fairface", "agedb"),
    *("megaage", "adience", "morph", "appa_real"),
)


class Importer(Protocol):
    """A module that reads one published data set."""

    CODES: str
    LAYOUT: str

    def fits(self, root: str) -> bool:
        """Whether a folder is laid out as the importer's data set."""

    def read(
        self, root: str, *, follow_links: bool = False
    ) -> importer_rows.ImportedRows:
        """Lists the images of the importer's data set, with their labels.

        Args:
          root: The folder.
          follow_links: Whether to list what is in linked folders.  The paths of a list
            lead through links in any case.

        Raises:
          UsageError: A list or a folder cannot be read.
        """


def importer(name: str) -> Importer:
    """The importer of a published data set: its module."""
    module = importlib.import_module(f"afad_tfdata.writing.importers.{name}")
    return cast(Importer, module)


def check(name: str, root: str) -> None:
    """Refuses a folder that is not laid out as the data set of ``--source``.

    Raises:
      UsageError: It is not; the message names the data set that it looks like.
    """
    if not os.path.isdir(root):
        raise errors.UsageError(
            f"--data_dir={root} is not a directory: --source={name} expects"
            f" {importer(name).LAYOUT}"
        )
    try:
        os.scandir(root).close()
    except OSError as error:
        raise errors.UsageError(
            f"cannot list --data_dir={root}: {error.strerror}"
        ) from error
    if importer(name).fits(root):
        return
    likely = looks_like(root)
    hint = f"; it looks like --source={likely}" if likely else ""
    raise errors.UsageError(
        f"--data_dir={root} is not laid out as --source={name} expects:"
        f" {importer(name).LAYOUT}{hint}"
    )


def looks_like(root: str) -> str | None:
    """The published data set whose layout a folder has; None if none or several fit."""
    fitting = [name for name in NAMES if importer(name).fits(root)]
    return fitting[0] if len(fitting) == 1 else None
