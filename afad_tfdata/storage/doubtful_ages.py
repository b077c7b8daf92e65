"""Ages that may not be years, but numbers of classes or months.

Such numbers can also be right, as in a data set of children.  Therefore they are only
named in a warning, whatever the labels come from.
"""

from __future__ import annotations

import numpy as np

# One or two ages show nothing.
_FEW = 3
# In years.  Data sets of children up to this age are rare, those of groups of ages are
# not.
_OLDEST_GROUP = 9
# In years.  Classes of one year each, from 0 on, end below this; data sets that contain
# newborns usually contain the old as well.
_OLDEST_CLASS = 65
# In years.  Hardly anybody is older; half of a data set never is.
_OLD = 100


def doubt(ages: np.ndarray) -> str:
    """What makes the ages doubtful, with what to do; empty if nothing does.

    Args:
      ages: Of all examples, in years; negative or NaN for those without an age.
    """
    ages = ages[ages >= 0]
    if len(ages) < _FEW:
        return ""
    youngest, oldest = ages.min(), ages.max()
    if oldest <= _OLDEST_GROUP:
        return (
            f"the oldest age is {oldest:g} years; if the ages are class numbers, write"
            " ages in years"
        )
    if youngest == 0 and oldest <= _OLDEST_CLASS:
        return (
            f"the ages are from 0 to {oldest:g}, as numbers of classes are; if they are"
            " such numbers, write ages in years"
        )
    if (median := np.median(ages)) > _OLD:
        return (
            f"half of the ages are above {median:g} years; if they are months,"
            " write ages in years"
        )
    return ""
