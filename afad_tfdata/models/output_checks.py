"""Checks of what a model predicts: finite numbers, and probabilities for gender.

::

    output_checks.check({"gender": probabilities}, what="face.keras")
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from afad_tfdata.common import errors

# Rounding may put a probability this far outside [0, 1].
_ROUNDING = 1e-5


def check(values: Mapping[str, np.ndarray], *, what: str) -> None:
    """Refuses predictions that cannot be right.

    Args:
      values: Predictions by label, ``age`` in years or ``gender`` as probabilities.
      what: The model, for the message.

    Raises:
      DataError: A value is NaN or infinite, or a probability is outside [0, 1].
    """
    for label, array in values.items():
        wrong = np.ravel(array)[_is_wrong(label, np.ravel(array))]
        if len(wrong):
            raise errors.DataError(
                f"the {label} output of {what} is wrong for {len(wrong)} of"
                f" {np.size(array)} images: {fault(label, wrong[0])}"
                f"{_ADVICE.get(label, '')}"
            )


def fault(label: str, value: float) -> str:
    """Why a prediction cannot be right; empty if nothing is wrong with it.

    Args:
      label: ``age`` or ``gender``.
      value: Its prediction.
    """
    if not _is_wrong(label, np.asarray(value)):
        return ""
    if not np.isfinite(value):
        return f"the {label} is {value:.3g}, which is not finite"
    return f"the {label} is {value:.3g}, which is no probability in [0, 1]"


def _is_wrong(label: str, values: np.ndarray) -> np.ndarray:
    """Bools in the shape of the values."""
    good = np.isfinite(values)
    if label == "gender":
        good &= (values >= -_ROUNDING) & (values <= 1 + _ROUNDING)
    return ~good


_ADVICE = {
    "gender": "; if the output is logits, say it with --outputs, such as"
    " --outputs=age,gender_logits"
}
