"""Checks of what a model predicts: finite numbers, and probabilities for gender.

::

    output_values.check({"gender": probabilities}, what="face.keras")
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from afad_tfdata.common import errors

# Rounding may put a probability this far outside of [0, 1].
_ROUNDING = 1e-5


def check(values: Mapping[str, np.ndarray], *, what: str) -> None:
    """Refuses predictions that cannot be right.

    Args:
      values: Predictions by label, ``age`` in years or ``gender`` as probabilities.
      what: The model, for the message.

    Raises:
      DataError: A value is NaN or infinite, or a probability is outside of [0, 1].
    """
    for label, array in values.items():
        reasons = [
            reason for value in np.ravel(array) if (reason := fault(label, value))
        ]
        if reasons:
            raise errors.DataError(
                f"the {label} output of {what} is wrong for {len(reasons)} of"
                f" {np.size(array)} images: {reasons[0]}{_ADVICE.get(label, '')}"
            )


def fault(label: str, value: float) -> str:
    """Why a prediction cannot be right; empty if nothing is wrong with it.

    Args:
      label: ``age`` or ``gender``.
      value: Its prediction.
    """
    if not np.isfinite(value):
        return f"the {label} is {value:.3g}, which is not finite"
    if label == "gender" and not -_ROUNDING <= value <= 1 + _ROUNDING:
        return f"the gender is {value:.3g}, which is no probability in [0, 1]"
    return ""


_ADVICE = {
    "gender": "; if the output is logits, say it with --outputs, such as"
    " --outputs=age,gender_logits"
}
