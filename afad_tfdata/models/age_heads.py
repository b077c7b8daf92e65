"""Age heads: their names, how many logits each has, and how these become an age.

The layers of a head are built in `networks`, and its loss is in `losses`.  An age in
``[min_age, max_age]`` is one of ``K = max_age - min_age + 1`` classes.  There are three
families, whose logits have different meanings:

* ``regression``: there are no logits, because the network outputs years;
* distributions (`DISTRIBUTIONS`): a softmax over the K ages, decoded to its mean;
* ranks (`RANKS`): K - 1 answers to "older than min_age + k?", decoded to min_age plus
  the sum of their probabilities.  This sum is also a mean: the mean number of years
  above min_age is the sum over k of the probability that there are more than k.

Decoding uses only operations that TensorFlow 1.15 has, because frozen graphs run there.
"""

from __future__ import annotations

import numpy as np

from afad_tfdata.common.lazy_imports import tf

DISTRIBUTIONS = ("softmax_expectation", "dldl", "dldl_v2", "mean_variance", "sord")
RANKS = ("orcnn", "coral", "corn")
NAMES = ("regression", *DISTRIBUTIONS, *RANKS)

# Years: scale of the logistic distribution that an untrained head predicts.
_INITIAL_SPREAD = 4.0
# Limits of the initial biases: they avoid a saturated sigmoid and the logarithm of 0.
_MAX_SCORE, _MIN_SHARE, _MAX_CONDITIONAL = 6, 1e-4, 1 - 1e-3


def num_logits(head: str, min_age: int, max_age: int) -> int:
    """How many logits an age head has: K, K - 1, or 0 for plain regression."""
    classes = max_age - min_age + 1
    if head in DISTRIBUTIONS:
        return classes
    return classes - 1 if head in RANKS else 0


def decode(logits: tf.Tensor, head: str, min_age: int, max_age: int) -> tf.Tensor:
    """Decodes the logits of an age head to an age.

    Args:
      logits: float32 or float64 ``[n, num_logits]``.
      head: One of `DISTRIBUTIONS` or `RANKS`.
      min_age: Years of the first class.
      max_age: Years of the last class.

    Returns:
      The mean age of the distribution, in years, ``[n, 1]``.
    """
    if head in DISTRIBUTIONS:
        ages = np.arange(min_age, max_age + 1, dtype=logits.dtype.as_numpy_dtype)
        return tf.matmul(tf.nn.softmax(logits), ages[:, np.newaxis])
    older = tf.sigmoid(logits)
    if head == "corn":  # Each logit is of "older than k, given older than k - 1".
        older = tf.math.cumprod(older, axis=1)
    return min_age + tf.reduce_sum(older, axis=1, keepdims=True)


def spread(logits: tf.Tensor, head: str, min_age: int, max_age: int) -> tf.Tensor:
    """The standard deviation of the distribution that an age head's logits describe.

    Args:
      logits: float32 or float64 ``[n, num_logits]``.
      head: One of `DISTRIBUTIONS` or `RANKS`.
      min_age: Years of the first class.
      max_age: Years of the last class.

    Returns:
      Years, at least 0, ``[n, 1]``.
    """
    steps = np.arange(max_age - min_age + 1, dtype=logits.dtype.as_numpy_dtype)
    if head in DISTRIBUTIONS:
        share = tf.nn.softmax(logits)
        mean = tf.matmul(share, steps[:, np.newaxis])
        # The mean is subtracted before squaring: the difference of two large squares
        # would lose digits.
        square = tf.square(steps - mean)
        return tf.sqrt(tf.reduce_sum(share * square, axis=1, keepdims=True))
    below = np.triu(np.ones([len(steps) - 1] * 2, steps.dtype), 1)
    older = tf.sigmoid(logits)
    if head == "corn":
        # The products up to each threshold, as sums of logarithms: TFLite has no
        # operation for them.
        logarithms = tf.math.log_sigmoid(logits)
        older = tf.exp(logarithms + tf.matmul(logarithms, below))
    # The variance is E[X^2] - E[X]^2, with E[X] = sum of P(X > k) and E[X^2] = sum of
    # (2k + 1) P(X > k).  This is the same sum without a difference, which would lose
    # the digits: all its terms are positive.
    younger = 1 - older
    terms = older * (younger + 2 * tf.matmul(younger, below))
    return tf.sqrt(tf.reduce_sum(terms, axis=1, keepdims=True))


def initial_logits(
    head: str, min_age: int, max_age: int, initial_age: float
) -> np.ndarray:
    """Biases that make an untrained age head predict about `initial_age`.

    Without them, the first predictions of a rank head are at the middle of the range,
    tens of years away from most faces.  Those of a CORN head are one year above the
    lower end.

    Returns:
      float32 ``[num_logits]``: the logits of a logistic distribution around
      `initial_age`.
    """
    thresholds = np.arange(min_age, max_age) + 0.5
    score = np.clip(
        (initial_age - thresholds) / _INITIAL_SPREAD, -_MAX_SCORE, _MAX_SCORE
    )
    if head in ("orcnn", "coral"):
        return score.astype(np.float32)
    survival = np.concatenate([[1.0], 1 / (1 + np.exp(-score)), [0.0]])
    if head == "corn":
        conditional = np.minimum(survival[1:-1] / survival[:-2], _MAX_CONDITIONAL)
        logit = np.log(conditional) - np.log1p(-conditional)
        return logit.astype(np.float32)
    share = np.maximum(survival[:-1] - survival[1:], _MIN_SHARE)
    return np.log(share).astype(np.float32)
