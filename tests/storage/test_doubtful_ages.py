"""Which ages are doubted, and which are not."""

import numpy as np
import pytest

from afad_tfdata.storage import doubtful_ages


@pytest.mark.parametrize(
    "ages, text",
    [
        (range(9), "the oldest age is 8 years"),  # Groups of ages.
        ([0, 0, 1, 1], "the oldest age is 1 years"),  # Young or not.
        (range(26), "from 0 to 25, as numbers of classes"),  # AFAD from 15 to 40.
        (range(62), "from 0 to 61, as numbers of classes"),  # MORPH from 16 to 77.
        (range(60, 150), "above 104.5 years; if they are months"),
        ([-1, *range(26), np.nan], "from 0 to 25"),  # -1 and NaN are no ages.
    ],
)
def test_ages_that_may_be_no_years_are_doubted(ages, text):
    assert text in doubtful_ages.doubt(np.array(list(ages), np.float64))


@pytest.mark.parametrize(
    "ages",
    [
        range(15, 73),
        range(1, 117),  # UTKFace.
        range(101),  # From newborns to the old.
        range(1, 19),  # Children.
        [0, 5],  # Too few to show anything.
        [-1] * 5,  # No example has an age.
    ],
)
def test_other_ages_are_not(ages):
    assert doubtful_ages.doubt(np.array(list(ages))) == ""
