"""The spread of the distribution that an age head predicts."""

import numpy as np
import pytest

from afad_tfdata.common.lazy_imports import tf
from afad_tfdata.models import age_heads

AGES = (15, 72)
HEADS = (*age_heads.DISTRIBUTIONS, *age_heads.RANKS)


def logits(head, scale):
    rng = np.random.default_rng(1)
    count = age_heads.num_logits(head, *AGES)
    return (scale * rng.standard_normal((50, count))).astype(np.float32)


def by_hand(values, head):
    """Standard deviations by float64, from the shares of all ages."""
    values = values.astype(np.float64)
    if head in age_heads.DISTRIBUTIONS:
        shares = np.exp(values - values.max(1, keepdims=True))
        shares /= shares.sum(1, keepdims=True)
        steps = np.arange(values.shape[1])
        mean = shares @ steps
        return np.sqrt(((steps - mean[:, None]) ** 2 * shares).sum(1))
    older = 1 / (1 + np.exp(-values))
    if head == "corn":
        older = np.cumprod(older, axis=1)
    weights = 2 * np.arange(values.shape[1]) + 1
    return np.sqrt(older @ weights - older.sum(1) ** 2)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("scale", [0.1, 3.0])
def test_spread_equals_that_of_float64(head, scale):
    values = logits(head, scale)
    if head != "corn" and head in age_heads.RANKS:
        values = -np.sort(-values, axis=1)  # Ranks of a distribution fall.
    got = age_heads.spread(tf.constant(values), head, *AGES).numpy()
    assert got.shape == (50, 1)
    np.testing.assert_allclose(got[:, 0], by_hand(values, head), rtol=3e-6)


@pytest.mark.parametrize("head", ["orcnn", "corn"])
def test_a_head_that_is_sure_keeps_the_digits_of_its_spread(head):
    """A difference of two squares of tens of years would leave none of them."""
    count = age_heads.num_logits(head, *AGES)
    values = np.full((1, count), -40.0, np.float32)
    values[:, : count - 5], values[:, count - 5] = 40.0, -9.0
    got = age_heads.spread(tf.constant(values), head, *AGES).numpy().item()
    p = 1 / (1 + np.exp(9.0))
    assert got == pytest.approx(np.sqrt(p * (1 - p)), rel=1e-5)


def test_ranks_that_contradict_each_other_have_a_spread():
    values = logits("orcnn", 5.0)
    got = age_heads.spread(tf.constant(values), "orcnn", *AGES).numpy()
    assert np.isfinite(got).all() and (got > 0).all()
