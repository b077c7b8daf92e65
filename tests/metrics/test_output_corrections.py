"""Temperature and line compared with other ways to compute them."""

import numpy as np
import pytest

from afad_tfdata.common import errors
from afad_tfdata.metrics import output_corrections


@pytest.mark.parametrize("seed", range(12))
def test_the_temperature_has_the_lowest_log_loss_of_a_grid(seed):
    rng = np.random.default_rng(seed)
    truth = float(rng.uniform(0.3, 5))
    logits = rng.normal(0.5, 3, 3000)
    label = rng.uniform(size=3000) < 1 / (1 + np.exp(-logits / truth))
    got = output_corrections.fit_temperature(logits, label)

    def loss(temperature):
        p = 1 / (1 + np.exp(-logits / temperature))
        return -np.mean(np.where(label, np.log(p), np.log(1 - p)))

    grid = np.exp(np.linspace(np.log(got / 1.5), np.log(got * 1.5), 4001))
    best = grid[np.argmin([loss(t) for t in grid])]
    assert got == pytest.approx(best, rel=3e-4)
    assert got == pytest.approx(truth, rel=0.2)
    assert output_corrections.log_loss(logits / got, label) == pytest.approx(loss(got))
    p = output_corrections.scaled_probability(logits, got)
    assert p == pytest.approx(1 / (1 + np.exp(-logits / got)))


def test_odd_logits_give_a_temperature_within_its_range():
    label = np.arange(60) % 2
    right = np.where(label, 3.0, -3.0)
    # In float64, all lower temperatures have the same loss: 0.
    assert 0.05 <= output_corrections.fit_temperature(right, label) < 0.1
    assert output_corrections.fit_temperature(-right, label) == pytest.approx(
        20, rel=1e-6
    )
    assert 0.05 <= output_corrections.fit_temperature(np.zeros(60), label) <= 20
    # Large logits do not overflow.
    large = output_corrections.fit_temperature(right * 1e4, 1 - label)
    assert large == pytest.approx(20, rel=1e-6)
    with np.errstate(all="raise"):
        p = output_corrections.scaled_probability(np.array([-1e4, 1e4]), 0.05)
    assert p.tolist() == [0, 1]


def test_labels_that_are_missing_do_not_count():
    rng = np.random.default_rng(0)
    logits, label = rng.normal(size=200), rng.integers(0, 2, 200).astype(float)
    got = output_corrections.fit_temperature(logits, label)
    more = np.append(logits, [9, -9]), np.append(label, [np.nan, -1])
    assert output_corrections.fit_temperature(*more) == got
    age, true = rng.uniform(20, 40, 50), rng.uniform(20, 40, 50)
    true += age
    got = output_corrections.fit_age_correction(age, true)
    more = np.append(age, 30), np.append(true, np.nan)
    assert output_corrections.fit_age_correction(*more) == got


@pytest.mark.parametrize("label", [np.zeros(90), np.repeat([0, 1], [90, 19])])
def test_one_gender_is_refused(label):
    with pytest.raises(errors.UsageError, match="at least 20 examples of each gender"):
        output_corrections.fit_temperature(np.linspace(-1, 1, len(label)), label)


@pytest.mark.parametrize("seed", range(5))
def test_the_line_is_that_of_least_squares(seed):
    rng = np.random.default_rng(seed)
    age = rng.uniform(18, 50, 200).astype(np.float32)
    label = 0.7 * age + 9 + rng.normal(0, 4, 200)
    slope, offset = output_corrections.fit_age_correction(age, label)
    assert (slope, offset) == pytest.approx(np.polyfit(age, label, 1), rel=1e-6)


def test_ages_that_say_nothing_have_no_line():
    with pytest.raises(errors.UsageError, match="do not rise with the true ones"):
        output_corrections.fit_age_correction(np.full(50, 30.0), np.arange(50))
    with pytest.raises(errors.UsageError, match="do not rise with the true ones"):
        output_corrections.fit_age_correction(-np.arange(50.0), np.arange(50))
    with pytest.raises(errors.UsageError, match="at least 20 examples.*it has 19"):
        output_corrections.fit_age_correction(np.arange(19), np.arange(19))
