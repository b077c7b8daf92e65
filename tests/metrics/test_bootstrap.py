"""Bootstrap intervals: seeded, as wide as theory says, and paired."""

import numpy as np
import pytest

from afad_tfdata.metrics import bootstrap, prediction_metrics
from tests.metrics.test_prediction_metrics import predictions


def test_intervals_are_seeded_and_hold_the_value():
    p = predictions()
    got = bootstrap.intervals(p, samples=300, seed=3)
    assert got == bootstrap.intervals(p, samples=300, seed=3)
    assert got != bootstrap.intervals(p, samples=300, seed=4)
    value = prediction_metrics.evaluate(p)
    for name, (low, high) in got.items():
        assert low < value[name] < high
    # A mean's interval is about 1.96 standard errors on each side.
    error = np.abs(p["age"] - p["label_age"])
    low, high = got["mae"]
    assert (high - low) / 2 == pytest.approx(1.96 * error.std() / 300**0.5, rel=0.15)


def test_paired_interval_tells_apart_what_single_ones_do_not():
    a = predictions()
    b = {**a, "age": a["label_age"] + (a["age"] - a["label_age"]) * 0.95}
    single_a = bootstrap.intervals(a, samples=300)["mae"]
    single_b = bootstrap.intervals(b, samples=300)["mae"]
    assert single_b[1] > single_a[0]
    low, high = bootstrap.paired_intervals(a, b, samples=300)["mae"]
    assert 0 < low < high
    with pytest.raises(ValueError, match="label_age"):
        bootstrap.paired_intervals(a, predictions(seed=1))
