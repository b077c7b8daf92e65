"""Conformal age intervals: the finite-sample rule, coverage, groups and the spread."""

import json
import math

import numpy as np
import pytest

from afad_tfdata.common import errors
from afad_tfdata.metrics import age_intervals


def faces(number, seed, group_scales=(3, 6)):
    """Ages with an error that depends on the group."""
    rng = np.random.default_rng(seed)
    label = rng.integers(15, 60, number).astype(np.float32)
    group = rng.integers(0, 2, number)
    spread = rng.uniform(1, 8, number)
    scale = np.array(group_scales)[group]
    age = label + rng.normal(0, 1, number) * scale
    return age, label, {"a": group == 0, "b": group == 1}, spread


@pytest.mark.parametrize(
    "coverage, needed", [(0.5, 1), (0.9, 9), (0.95, 19), (0.99, 99), (0.8, 4)]
)
def test_the_fewest_examples_are_those_of_the_rule(coverage, needed):
    assert age_intervals.examples_needed(coverage) == needed
    # With so few, the largest error is the half width.
    assert age_intervals.conformal_quantile(np.arange(needed), coverage) == needed - 1
    fitted = age_intervals.fit_half_widths(
        np.arange(needed) + 20.0, np.full(needed, 20.0), coverage=coverage
    )
    assert fitted["half_width"] == needed - 1
    with pytest.raises(errors.UsageError, match=f"at least {needed} examples.*it has"):
        age_intervals.fit_half_widths(
            np.zeros(needed - 1), np.zeros(needed - 1), coverage=coverage
        )


@pytest.mark.parametrize("seed", range(20))
def test_half_widths_equal_those_of_a_plain_loop(seed):
    rng = np.random.default_rng(seed)
    number, coverage = int(rng.integers(30, 400)), float(rng.choice([0.5, 0.8, 0.9]))
    age, label, groups, spread = faces(number, seed)
    label[rng.integers(0, number)] = np.nan  # An unknown age does not count.
    got = age_intervals.fit_half_widths(
        age, label, coverage=coverage, groups=groups, spread=spread
    )
    json.dumps(got, allow_nan=False)

    def by_hand(rows, scaled):
        scores = sorted(
            abs(float(a) - float(b)) / (max(float(s), 0.25) if scaled else 1)
            for a, b, s, row in zip(age, label, spread, rows, strict=True)
            if row and not math.isnan(b)
        )
        rank = next(k for k in range(10**6) if k / (len(scores) + 1) >= coverage - 1e-9)
        return len(scores), scores[rank - 1]

    everybody = np.ones(number, bool)
    for form, scaled in ((got, False), (got["scaled"], True)):
        assert (form["examples"], form["half_width"]) == by_hand(everybody, scaled)
        for name, rows in groups.items():
            own = form["by_group"][name]
            assert (own["examples"], own["half_width"]) == by_hand(rows, scaled)


@pytest.mark.parametrize("coverage", [0.8, 0.9])
def test_the_coverage_holds_on_average_for_all_and_for_each_group(coverage):
    """Over 200 validation splits of 100 examples."""
    found = []
    for seed in range(200):
        age, label, groups, _ = faces(100, seed)
        interval = age_intervals.fit_half_widths(
            age, label, coverage=coverage, groups=groups
        )
        age, label, groups, _ = faces(400, 10_000 + seed)
        predicted = np.where(groups["a"], "a", "b")
        measured = age_intervals.measure_coverage(
            interval,
            age,
            label,
            predicted=predicted.tolist(),
            groupings={"gender": groups},
        )
        by_group = measured["by_gender"]
        found.append(
            [measured["coverage"], *(row["coverage"] for row in by_group.values())]
        )
    for mean in np.mean(found, axis=0):
        # At least the asked coverage, and by at most about 1 / (n + 1) more.
        assert coverage - 0.01 < mean < coverage + 0.03
    # Without groups the group with the larger errors is covered less.
    pooled = age_intervals.fit_half_widths(age, label, coverage=coverage)
    plain = age_intervals.measure_coverage(
        pooled, age, label, groupings={"gender": groups}
    )
    rows = plain["by_gender"]
    assert rows["b"]["coverage"] < coverage < rows["a"]["coverage"]


def test_a_small_group_gets_the_half_width_of_all():
    age, label, _, _ = faces(50, 1)
    rows = np.zeros(50, bool)
    rows[:5] = True
    interval = age_intervals.fit_half_widths(
        age, label, coverage=0.9, groups={"a": rows}
    )
    assert interval["by_group"] == {}
    assert age_intervals.half_width(interval, "a") == interval["half_width"]


def test_bounds_follow_the_spread_and_end_at_zero():
    age, label, groups, spread = faces(300, 2)
    interval = age_intervals.fit_half_widths(
        age, label, coverage=0.9, groups=groups, spread=spread
    )
    half = interval["by_group"]["a"]["half_width"]
    assert age_intervals.bounds(interval, 40, "a") == (40 - half, 40 + half)
    factor = interval["scaled"]["by_group"]["a"]["half_width"]
    low, high = age_intervals.bounds(interval, 40, "a", 2.0)
    assert (low, high) == pytest.approx((40 - 2 * factor, 40 + 2 * factor))
    # A head that is sure of one age has a small interval, and not none.
    low, high = age_intervals.bounds(interval, 40, "a", 0.0)
    assert high - low == pytest.approx(2 * 0.25 * factor)
    assert age_intervals.bounds(interval, 1)[0] == 0


@pytest.mark.parametrize(
    "low, high, wanted",
    [(20.4, 33.7, (21, 33)), (21, 33, (21, 33)), (26.6, 26.9, (27, 27))],
)
def test_whole_years_are_those_in_the_interval(low, high, wanted):
    assert age_intervals.whole_years(low, high) == wanted


def test_no_example():
    interval = age_intervals.fit_half_widths(
        np.arange(20.0), np.zeros(20), coverage=0.9
    )
    nothing = np.zeros(0)
    got = age_intervals.measure_coverage(
        interval, nothing, nothing, groupings={"gender": {"a": nothing > 0}}
    )
    assert got["coverage"] is None and got["by_gender"]["a"]["examples"] == 0
    json.dumps(got, allow_nan=False)
