"""Decisions about age against plain loops, on random data sets and on odd ones."""

import json
import math
import random

import numpy as np
import pytest

from afad_tfdata.metrics import age_decision_pictures, age_decisions, bootstrap


def data_set(seed):
    """Ages, labels and genders of a random data set, small and odd ones too."""
    rng = np.random.default_rng(seed)
    number = int(rng.choice([1, 2, 7, 40, 200, 900]))
    label = rng.integers(rng.integers(1, 30), rng.integers(31, 80), number)
    age = label + rng.normal(rng.uniform(-4, 4), rng.uniform(0, 8), number)
    if seed % 3 == 0:  # Whole years: estimates that equal a threshold.
        age = np.round(age)
    gender = rng.integers(0, 2, number) if seed % 4 else np.zeros(number, int)
    return age.astype(np.float32), label.astype(np.float32), gender


def measured(age, label, gender, thresholds=(18, 21, 25), **values):
    groups = {
        "gender": {
            name: gender == value
            for value, name in enumerate(("male", "female"))
            if np.any(gender == value)
        }
    }
    return age_decisions.measure(
        age, label, thresholds=thresholds, groups=groups, samples=20, **values
    )


def twin_rates(pairs, threshold, legal):
    """Counts one by one."""
    false_positives = false_negatives = younger = older = 0
    for age, label in pairs:
        if label < legal:
            younger += 1
            false_positives += age >= threshold
        else:
            older += 1
            false_negatives += age < threshold
    return (
        false_positives / younger if younger else None,
        false_negatives / older if older else None,
    )


def both(row):
    return row["false_positive_rate"], row["false_negative_rate"]


@pytest.mark.parametrize("seed", range(60))
def test_rates_and_challenge_ages_equal_those_of_plain_loops(seed):
    age, label, gender = data_set(seed)
    thresholds = sorted(random.Random(seed).sample(range(1, 90), 3))
    got = measured(age, label, gender, thresholds)
    json.dumps(got, allow_nan=False)
    pairs = [(float(a), float(b)) for a, b in zip(age, label, strict=True)]
    everybody = {"": pairs}
    for name, value in (("male", 0), ("female", 1)):
        own = [p for p, g in zip(pairs, gender, strict=True) if g == value]
        if own:
            everybody[name] = own
    for years in thresholds:
        row, challenge = got["thresholds"][str(years)], got["challenge"][str(years)]
        assert list(row["by_gender"]) == [name for name in everybody if name]
        for name, own in everybody.items():
            of_name = row["by_gender"][name] if name else row
            assert both(of_name) == twin_rates(own, years, years)
            for rate, ends in of_name["intervals"].items():
                if of_name[rate] is None:
                    assert ends is None and "no example is" in of_name["note"]
                else:
                    assert 0 <= ends[0] <= of_name[rate] <= ends[1] <= 1
            of_name = challenge["by_gender"][name] if name else challenge
            # Upwards, step by step, until few enough are accepted.
            step = years * 10
            while (rate := twin_rates(own, step / 10, years)[0]) and rate >= 0.01:
                step += 1
            if rate is None:
                assert of_name["challenge_age"] is None and of_name["interval"] is None
                continue
            assert of_name["challenge_age"] == step / 10
            assert both(of_name) == twin_rates(own, step / 10, years)
            low, high = of_name["interval"]
            assert low <= step / 10 <= (math.inf if high is None else high)
        curve = challenge["curve"]
        for place, stated in enumerate(curve["challenge_age"]):
            shown = tuple(curve[name][place] for name in list(curve)[1:])
            assert shown == twin_rates(pairs, stated, years)


def test_the_interval_of_a_challenge_age_holds_the_true_one():
    """In 500 data sets; the truth is known, because the errors are normal."""
    rng = np.random.default_rng(3)
    truth = 17 + 4 * 2.3263478740408408  # 1 % of a normal is above it.
    covered = widths = 0
    for _ in range(500):
        age = rng.normal(17, 4, 1500)
        low, high = age_decisions.challenge_age(age, np.full(1500, 17), 18)["interval"]
        # Ages are rounded up to a step.
        covered += low - 0.1 <= truth <= high
        widths += high - low
    assert 470 <= covered <= 500
    assert widths / 500 < 3


@pytest.mark.parametrize("number, has_end", [(367, False), (368, True)])
def test_few_minors_give_no_upper_end(number, has_end):
    row = age_decisions.challenge_age(
        np.linspace(10, 20, number), np.full(number, 17), 18
    )
    assert (row["interval"][1] is not None) == has_end
    assert ("too few" in row.get("note", "")) != has_end
    json.dumps(row, allow_nan=False)


@pytest.mark.parametrize(
    "successes, number, low, high",
    [
        # Newcombe (1998), table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_published_values(successes, number, low, high):
    assert age_decisions.wilson_interval(successes, number) == pytest.approx(
        [low, high], abs=5e-5
    )
    mirrored = age_decisions.wilson_interval(number - successes, number)
    assert mirrored == pytest.approx([1 - high, 1 - low], abs=5e-5)


def test_an_estimate_at_the_threshold_is_accepted():
    row = age_decisions.error_rates(np.array([18.0, 17.9]), np.array([17.0, 18.0]), 18)
    assert row["false_positives"] == 1 and row["false_negatives"] == 1


@pytest.mark.parametrize("thresholds", [(5,), (100,)])
def test_a_threshold_outside_the_data_gives_none_and_a_reason(thresholds):
    age, label, gender = np.full(9, 30.0), np.full(9, 31.0), np.zeros(9)
    got = measured(age, label, gender, thresholds)
    row = got["thresholds"][str(thresholds[0])]
    assert None in both(row) and row["note"].startswith("no example is")
    json.dumps(got, allow_nan=False)


def test_no_example_and_unknown_labels():
    nothing = np.zeros(0)
    got = measured(nothing, nothing, nothing)
    assert got["examples"] == 0 and got["groups"] == {"gender": {}}
    json.dumps(got, allow_nan=False)
    age, label, gender = data_set(5)
    with_unknown = np.concatenate([label, [np.nan]])
    got = measured(np.append(age, 30), with_unknown, np.append(gender, 0))
    assert got == measured(age, label, gender)


def test_absurd_estimates_do_not_take_for_ever():
    age = np.array([1e30, -1e30, 3e5])
    got = measured(age, np.full(3, 17.0), np.zeros(3))
    assert got["challenge"]["18"]["challenge_age"] > 1e30
    assert len(got["challenge"]["18"]["curve"]["challenge_age"]) < 200
    json.dumps(got, allow_nan=False)


def test_errors_by_group_and_the_largest_gap():
    rng = np.random.default_rng(0)
    group = rng.integers(0, 4, 800)
    group[:5] = 4  # Too few examples to count in the gap, however wrong they are.
    error = rng.normal([0, 2, -1, 4, 90], [3, 5, 4, 2, 1], (800, 5))
    error = error[np.arange(800), group]
    label = rng.integers(20, 60, 800)
    names = "abcde"
    got = age_decisions.measure(
        label + error,
        label,
        thresholds=(),
        groups={"kind": {n: group == i for i, n in enumerate(names)}},
        samples=400,
    )
    own = {n: error[group == i] for i, n in enumerate(names)}
    mae = {n: np.abs(v).mean() for n, v in own.items()}
    for name, row in got["groups"]["kind"].items():
        assert row["examples"] == len(own[name])
        assert row["mae"] == pytest.approx(mae[name])
        assert row["bias"] == pytest.approx(own[name].mean())
        low, high = row["intervals"]["mae"]
        width = 2 * 1.96 * np.abs(own[name]).std() / len(own[name]) ** 0.5
        assert low < row["mae"] < high
        assert high - low == pytest.approx(width, rel=0.2 if name != "e" else 0.6)
    gap = got["largest_gap"]["kind"]["mae"]
    high, low = (f(names[:4], key=mae.get) for f in (max, min))
    assert (gap["high"], gap["low"]) == (high, low)
    assert gap["years"] == pytest.approx(mae[high] - mae[low])
    assert gap["interval"][0] < gap["years"] < gap["interval"][1]
    bias = got["largest_gap"]["kind"]["bias"]
    assert (bias["high"], bias["low"]) == ("d", "c")


def test_one_group_has_no_gap():
    got = measured(np.full(50, 30.0), np.full(50, 33.0), np.zeros(50))
    gap = got["largest_gap"]["gender"]
    assert gap["mae"] is None and "fewer than two groups" in gap["note"]
    assert list(got["groups"]["gender"]) == ["male"]


def test_resampling_is_seeded_and_does_not_depend_on_chunks(monkeypatch):
    values = np.random.default_rng(1).normal(size=(2, 50))
    got = bootstrap.resampled_means(values, samples=100, seed=1)
    assert np.array_equal(got, bootstrap.resampled_means(values, samples=100, seed=1))
    assert not np.array_equal(
        got, bootstrap.resampled_means(values, samples=100, seed=2)
    )
    monkeypatch.setattr(bootstrap, "_CHUNK", 128)
    assert np.array_equal(got, bootstrap.resampled_means(values, samples=100, seed=1))
    assert got.std(axis=1) == pytest.approx(values.std(axis=1) / 50**0.5, rel=0.25)


def texts_of(monkeypatch, draw, result):
    """Every text of a picture."""
    from matplotlib import text

    drawn = []
    monkeypatch.setattr(
        age_decision_pictures.figures, "save", lambda path, f: drawn.append(f)
    )
    draw("x.png", result, title="face.keras on the test split")
    drawn[0].draw_without_rendering()
    return " ".join(t.get_text() for t in drawn[0].findobj(text.Text))


def faces():
    rng = np.random.default_rng(1)
    label = rng.integers(15, 45, 500)
    return label + rng.normal(0, 4, 500), label, rng.integers(0, 2, 500)


def test_the_picture_of_decisions_explains_itself(monkeypatch):
    age, label, gender = faces()
    result = measured(age, label, gender, (18, 21, 99))
    draw = age_decision_pictures.draw_decisions
    texts = texts_of(monkeypatch, draw, result)
    row, challenge = result["thresholds"]["21"], result["challenge"]["21"]
    for wanted in (
        "face.keras on the test split",
        f"{len(age):,} faces",
        f"{row['younger']:,} younger, {row['older']:,} not",
        f"{100 * row['false_positive_rate']:.1f} %",
        f"from {challenge['challenge_age']:.1f} years",
        *("younger, but accepted", "old enough, but refused", "no data"),
        *("False positive rate: share of", "False negative rate: share of"),
        *("NIST IR 8525", "95 % interval", "years", "limit: 1 %"),
    ):
        assert wanted in texts


def test_the_picture_of_groups_explains_itself(monkeypatch):
    age, label, gender = faces()
    result = measured(age, label, gender)
    texts = texts_of(monkeypatch, age_decision_pictures.draw_groups, result)
    for name, row in result["groups"]["gender"].items():
        assert f"{name}\nn = {row['examples']:,}" in texts
    for wanted in ("mean absolute error, with 95 % interval", "bias", "years", "Bias:"):
        assert wanted in texts


@pytest.mark.parametrize("number", [0, 1, 30])
def test_pictures_of_odd_data_sets(tmp_path, number):
    values = np.full(number, 30.0), np.full(number, 31.0), np.zeros(number)
    result = measured(*values)
    for name in ("draw_decisions", "draw_groups"):
        path = tmp_path / f"{name}.png"
        getattr(age_decision_pictures, name)(str(path), result, title="x")
        assert path.stat().st_size > 1000
