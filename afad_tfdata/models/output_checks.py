"""Checks of what a model predicts: finite numbers, and probabilities for gender.

::

    output_checks.check_predictions({"gender": probabilities}, what="face.keras")
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from afad_tfdata.common import errors

# Fewer images than this say little about a model.
_FEW = 7
# If half of the ages are lower or higher, they cannot be the ages of people in years.
# They may be shares, normalised ages, or months.
_LEAST_AGE, _GREATEST_AGE = 1.5, 120.0
# No trained model is wrong by so many years on average, nearly always to one side.
_FAR_OFF, _ONE_SIDED = 10.0, 0.95
# Rounding may put a probability this far outside [0, 1].
_ROUNDING = 1e-5


def check_predictions(values: Mapping[str, np.ndarray], *, what: str) -> None:
    """Checks predictions, and refuses those that cannot be right.

    Args:
      values: Predictions by label, ``age`` in years or ``gender`` as probabilities.
      what: The model, for the message.

    Raises:
      DataError: A value is NaN or infinite, or a probability is outside [0, 1].
    """
    for label, array in values.items():
        wrong = np.ravel(array)[_wrong_values(label, np.ravel(array))]
        if len(wrong):
            raise errors.DataError(
                f"the {label} output of {what} is wrong for {len(wrong)} of"
                f" {np.size(array)} images: {fault(label, wrong[0])}"
                f"{_ADVICE.get(label, '')}"
            )


def doubt_about_ages(predicted: np.ndarray, labels: np.ndarray | None = None) -> str:
    """Why ages in a model's output may be in another unit than years; empty if not.

    A model of another program may predict shares of 100 years, normalised ages, months
    or numbers of classes, and nothing in it says so.

    Args:
      predicted: Ages.
      labels: The true ages of the same images, NaN where they are unknown; None if
        nothing is known.
    """
    if len(predicted) < _FEW:
        return ""
    low, high = float(np.min(predicted)), float(np.max(predicted))
    shown = f"they are in [{low:.3g}, {high:.3g}]"
    advice = (
        "is the output in years, and not divided, normalised, in months or a class"
        " number?"
    )
    if labels is None:
        usual = _LEAST_AGE < np.median(predicted) < _GREATEST_AGE
        return "" if usual else f"{shown}: {advice}"
    errors_of = predicted - labels
    errors_of = errors_of[np.isfinite(errors_of)]
    if len(errors_of) < _FEW:
        return ""
    bias, mae = float(np.mean(errors_of)), float(np.mean(np.abs(errors_of)))
    if abs(bias) < _FAR_OFF or abs(bias) < _ONE_SIDED * mae:
        return ""
    return (
        f"{shown}, {abs(bias):.3g} years too {'low' if bias < 0 else 'high'}: {advice}"
    )


def fault(label: str, value: float) -> str:
    """Why a model's output cannot be right; empty if nothing is wrong with it.

    Args:
      label: ``age`` or ``gender``.
      value: Its prediction.
    """
    if not _wrong_values(label, np.asarray(value)):
        return ""
    if not np.isfinite(value):
        return f"the {label} is {value:.3g}, which is not finite"
    return f"the {label} is {value:.3g}, which is no probability in [0, 1]"


def _wrong_values(label: str, values: np.ndarray) -> np.ndarray:
    """Which of a model's outputs cannot be right: bools in the shape of the values."""
    good = np.isfinite(values)
    if label == "gender":
        good &= (values >= -_ROUNDING) & (values <= 1 + _ROUNDING)
    return ~good


_ADVICE = {
    "gender": "; if the output is logits, say it with --outputs, such as"
    " --outputs=age,gender_logits"
}
