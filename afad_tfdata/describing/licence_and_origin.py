"""What cannot be computed from records: their licence, citation, name and origin.

Each fact is taken from the flags, or else from what is published about the data set
that the images are from.  If neither states it, the cards call it unknown.
"""

from __future__ import annotations

import dataclasses

from afad_tfdata.describing import published_data_sets
from afad_tfdata.storage import schema

_AFAD_CODES = {"111", "112"}


@dataclasses.dataclass(frozen=True)
class Statements:
    """Facts that somebody states, each empty if it is unknown.

    Attributes:
      title: Name of the data set, for people.
      description: What it is, in a sentence or two.
      license: Its licence, a name or an address.
      citation: How to cite it.
      url: Its page.
      date_published: YYYY-MM-DD.
      limits: What it should not be used for, or does not show.
      source: What is known about where the images are from, in one sentence.
    """

    title: str = ""
    description: str = ""
    license: str = ""
    citation: str = ""
    url: str = ""
    date_published: str = ""
    limits: tuple[str, ...] = ()
    source: str = ""


def complete(
    given: Statements, manifest: schema.Manifest | None, dataset: str = ""
) -> Statements:
    """Fills in what is published about the data set that the images are from.

    Args:
      given: What the caller states; it takes precedence.
      manifest: Of the data set; None if it is not known.
      dataset: A key of `published_data_sets.BY_SOURCE`, if the caller names one; empty
        for the one that the manifest names.
    """
    name = dataset or (manifest.config.get("source", "") if manifest else "")
    known = published_data_sets.BY_SOURCE.get(name)
    if known is None:
        if manifest is None:
            return given
        return dataclasses.replace(
            given,
            title=given.title or manifest.name,
            source=_unknown_source(manifest),
        )
    return Statements(
        title=given.title or known.name,
        description=given.description,
        license=given.license or known.license,
        citation=given.citation or known.citation,
        url=given.url or known.url,
        date_published=given.date_published,
        limits=(*given.limits, *known.limits),
        source=(
            f"The images are from {known.name}, as the author of this card says."
            if dataset
            else f"The images are from {known.name}, as the writer was told."
        ),
    )


def _unknown_source(manifest: schema.Manifest) -> str:
    """The text for a data set of unknown origin."""
    text = "The manifest does not say which published data set the images are from."
    if set(manifest.gender_codes) == _AFAD_CODES:
        afad = published_data_sets.AFAD
        text += (
            " They were in folders of ages and of the codes 111 and 112, as in AFAD."
            " If they are from AFAD, its licence applies"
            f" ({afad.license.rstrip('.').lower()}), and its publication must be"
            f" cited: {afad.citation}"
        )
    return text
