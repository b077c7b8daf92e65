"""What cannot be computed from records: their licence, citation, name and origin.

Each fact is taken from the flags, or else from what is published about the data set
that the images are from.  If neither states it, the cards call it unknown.  Nothing is
concluded from the images.  A licence counts as published only if the data set itself
states it.
"""

from __future__ import annotations

import dataclasses

from afad_tfdata.storage import schema

_AFAD_CODES = {"111", "112"}


@dataclasses.dataclass(frozen=True)
class PublishedSet:
    """What is published about a data set: its name, citation and licence.

    Attributes:
      name: Its name, for people.
      citation: The publication that describes it.
      url: Its page; empty if none is known to be its own.
      license: What it says about its use; empty if that is not known here.
      limits: What is known about whom it shows.
    """

    name: str
    citation: str
    url: str = ""
    license: str = ""
    limits: tuple[str, ...] = ()


AFAD = PublishedSet(
    name="AFAD, the Asian Face Age Dataset",
    citation=(
        "Z. Niu, M. Zhou, L. Wang, X. Gao, G. Hua: Ordinal Regression with Multiple"
        " Output CNN for Age Estimation. CVPR 2016."
    ),
    url="https://github.com/afad-dataset/tarball",
    license="For academic research only.",
    limits=(
        "AFAD shows the faces of Asian people only, as its name says. Results do not"
        " carry over to other populations unless that is measured.",
        "Its published ages are 15 to 40. The archive has 1,083 more faces of 41 to 72,"
        " far too few to learn those ages from.",
        "One age label was given to all faces of a photo, and faces of one photo may be"
        " filed under both genders.",
    ),
)
# By the name of the importer, as the manifest's ``config.source`` has it.  That of AFAD
# is not recorded, because its folders are read without an importer.
BY_SOURCE = {
    "afad": AFAD,
    "adience": PublishedSet(
        "Adience",
        "E. Eidinger, R. Enbar, T. Hassner: Age and Gender Estimation of Unfiltered"
        " Faces. IEEE Transactions on Information Forensics and Security, 2014.",
    ),
    "agedb": PublishedSet(
        "AgeDB",
        "S. Moschoglou, A. Papaioannou, C. Sagonas, J. Deng, I. Kotsia, S. Zafeiriou:"
        " AgeDB: the first manually collected, in-the-wild age database. CVPR"
        " Workshops 2017.",
    ),
    "appa_real": PublishedSet(
        "APPA-REAL",
        "E. Agustsson, R. Timofte, S. Escalera, X. Baro, I. Guyon, R. Rothe: Apparent"
        " and real age estimation in still images with deep residual regressors on"
        " APPA-REAL database. FG 2017.",
    ),
    "fairface": PublishedSet(
        "FairFace",
        "K. Karkkainen, J. Joo: FairFace: Face Attribute Dataset for Balanced Race,"
        " Gender, and Age for Bias Measurement and Mitigation. WACV 2021.",
    ),
    "imdb_wiki": PublishedSet(
        "IMDB-WIKI",
        "R. Rothe, R. Timofte, L. Van Gool: Deep expectation of real and apparent age"
        " from a single image without facial landmarks. International Journal of"
        " Computer Vision, 2018.",
    ),
    "megaage": PublishedSet(
        "MegaAge",
        "Y. Zhang, L. Liu, C. Li, C. C. Loy: Quantifying Facial Age by Posterior of"
        " Age Comparisons. BMVC 2017.",
    ),
    "morph": PublishedSet(
        "MORPH",
        "K. Ricanek, T. Tesafaye: MORPH: a longitudinal image database of normal adult"
        " age-progression. FG 2006.",
    ),
    "utkface": PublishedSet(
        "UTKFace",
        "Z. Zhang, Y. Song, H. Qi: Age Progression/Regression by Conditional"
        " Adversarial Autoencoder. CVPR 2017.",
    ),
}


@dataclasses.dataclass(frozen=True)
class Statements:
    """Licence, citation and origin, as somebody states them; empty if unknown.

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


def complete_statements(
    given: Statements, manifest: schema.Manifest | None, dataset: str = ""
) -> Statements:
    """Adds licence, citation and origin as published, where none is given.

    Args:
      given: What the caller states; it takes precedence.
      manifest: Of the data set; None if it is not known.
      dataset: A key of `BY_SOURCE`; empty for the one that the manifest names.
    """
    name = dataset or (manifest.config.get("source", "") if manifest else "")
    known = BY_SOURCE.get(name)
    if known is None:
        if manifest is None:
            return given
        return dataclasses.replace(
            given,
            title=given.title or manifest.name,
            source=_unknown_origin(manifest),
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


def _unknown_origin(manifest: schema.Manifest) -> str:
    """The sentence for a data set of unknown origin."""
    text = "The manifest does not say which published data set the images are from."
    if set(manifest.gender_codes) == _AFAD_CODES:
        afad = AFAD
        text += (
            " They were in folders of ages and of the codes 111 and 112, as in AFAD."
            " If they are from AFAD, its licence applies"
            f" ({afad.license.rstrip('.').lower()}), and its publication must be"
            f" cited: {afad.citation}"
        )
    return text
