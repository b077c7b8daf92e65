"""Corrections of a model's outputs that a validation split gives.

::

    temperature = output_corrections.fit_temperature(logits, label_gender)
    probability = output_corrections.scaled_probability(logits, temperature)
    slope, offset = output_corrections.fit_age_correction(age, label_age)

`models.corrections_file` stores them.
"""

from __future__ import annotations

import numpy as np

from afad_tfdata.common import errors

# A validation split with a temperature outside this range does not determine it.
_TEMPERATURES = (0.05, 20.0)
_STEPS = 100  # Halvings of the range, more than float64 has digits.
# Examples of each gender, or of all faces for the age.  With fewer, noise decides.
_MIN_EXAMPLES = 20


def fit_temperature(
    logits: np.ndarray, label: np.ndarray, *, what: str = "the validation split"
) -> float:
    """The temperature that corrects the gender: the one with the lowest log loss.

    It is that of Guo et al., 2017, section 4.2.  The loss is convex in the inverse of
    the temperature.  Its derivative therefore changes its sign once, and halving the
    range finds the place.

    Args:
      logits: Logits of class 1, ``[n]``.
      label: 0 or 1, ``[n]``.
      what: The examples, for the message.

    Returns:
      The temperature, from 0.05 to 20; above 1 for a model that is too sure.

    Raises:
      UsageError: There are too few examples of a class.
    """
    logits, label = np.asarray(logits, np.float64), np.asarray(label, np.float64)
    known = np.isfinite(logits) & np.isin(label, (0, 1))
    logits, label = logits[known], label[known]
    fewest = min(int((label == 0).sum()), int((label == 1).sum()))
    if fewest < _MIN_EXAMPLES:
        raise errors.UsageError(
            f"--gender_temperature needs at least {_MIN_EXAMPLES} examples of each"
            f" gender in {what}; it has {fewest} of one"
        )
    low, high = 1 / _TEMPERATURES[1], 1 / _TEMPERATURES[0]
    for _ in range(_STEPS):
        middle = (low + high) / 2
        slope = np.mean((_sigmoid(middle * logits) - label) * logits)
        low, high = (middle, high) if slope < 0 else (low, middle)
    return float(2 / (low + high))


def scaled_probability(logits: np.ndarray, temperature: float) -> np.ndarray:
    """The corrected probability of class 1, float64 ``[n]``."""
    return _sigmoid(np.asarray(logits, np.float64) / temperature)


def log_loss(logits: np.ndarray, label: np.ndarray) -> float:
    """Mean negative logarithm of the probability of the true class, to be corrected."""
    logits, label = np.asarray(logits, np.float64), np.asarray(label, np.float64)
    known = np.isfinite(logits) & np.isin(label, (0, 1))
    signed = np.where(label[known] == 1, -logits[known], logits[known])
    return float(np.mean(np.logaddexp(0, signed)))


def fit_age_correction(
    age: np.ndarray, label_age: np.ndarray, *, what: str = "the validation split"
) -> tuple[float, float]:
    """The line that corrects the age: from predicted to true age, least squares.

    Args:
      age: Predicted years ``[n]``.
      label_age: True years ``[n]``.
      what: The examples, for the message.

    Returns:
      Slope and offset: the corrected age is ``slope * age + offset``.

    Raises:
      UsageError: There are too few examples, or predicted ages do not rise with the
        true ones, so that a line would reverse their order.
    """
    age, label = np.asarray(age, np.float64), np.asarray(label_age, np.float64)
    known = np.isfinite(age) & np.isfinite(label)
    age, label = age[known], label[known]
    if len(age) < _MIN_EXAMPLES:
        raise errors.UsageError(
            f"--age_correction needs at least {_MIN_EXAMPLES} examples with an age in"
            f" {what}; it has {len(age)}"
        )
    centered = age - age.mean()
    variance = float(centered @ centered)
    slope = float(centered @ (label - label.mean())) / variance if variance else 0.0
    if slope <= 0:
        raise errors.UsageError(
            f"--age_correction: the predicted ages do not rise with the true ones in"
            f" {what} (slope {slope:.3g}), so that no line corrects them; train the"
            " model further"
        )
    return slope, float(label.mean() - slope * age.mean())


def _sigmoid(values: np.ndarray) -> np.ndarray:
    """The probability that a logit stands for, corrected or not."""
    # By tanh, which does not overflow.
    return 0.5 * (1 + np.tanh(values / 2))
