"""What is published about the data sets that ``--source`` of the writer names.

Nothing here is concluded from the images.  A licence is stated only if the data set
itself states it.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class PublishedSet:
    """A published data set.

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
