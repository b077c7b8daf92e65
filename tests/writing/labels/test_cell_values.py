"""What cells mean: properties over many spellings."""

from __future__ import annotations

import decimal

import hypothesis
import pytest
from hypothesis import strategies

from afad_tfdata.writing.labels import cell_values

_AGES = strategies.integers(0, 150)
_SPACE = strategies.text(" \t\u00a0", max_size=2)


@hypothesis.given(
    _AGES,
    strategies.sampled_from(
        ("{}", "{}.0", "{}.", "{},0", "{}.000", "+{}", "{} years", "{}y", "{} yrs old")
    ),
    _SPACE,
    _SPACE,
)
def test_spellings_of_whole_years(years, form, before, after):
    assert cell_values.age(before + form.format(years) + after) == (years, False, False)


@hypothesis.given(
    strategies.decimals("0", "150", allow_nan=False, places=3),
    strategies.sampled_from(".,"),
)
def test_fractions_go_to_the_nearest_year_a_half_upwards(value, point):
    wanted = int(value.quantize(decimal.Decimal(1), decimal.ROUND_HALF_UP))
    # Three digits after a comma may be thousands, and four may not.
    text = str(value) if point == "." else f"{value}0".replace(".", ",")
    found = cell_values.age(text)
    assert found == (wanted, value != int(value), False)


@hypothesis.given(_AGES, _AGES)
def test_ranges_are_refused_or_have_a_middle(first, second):
    low, high = sorted((first, second))
    for form in ("({}, {})", "{}-{}", "[{},{}]", "{} to {}", "{}\u2013{}"):
        text = form.format(low, high)
        assert "--age_ranges=middle" in cell_values.age(text)
        found = cell_values.age(text, ranges="middle")
        assert found.years == int((low + high) / 2 + 0.5) and found.middle


@hypothesis.given(strategies.text(max_size=12))
def test_any_text_is_an_age_or_a_reason(text):
    for ranges in cell_values.AGE_RANGES:
        found = cell_values.age(text, ranges=ranges)
        if isinstance(found, str):
            assert found and "\n" not in found
        else:
            assert found.years == cell_values.MISSING or 0 <= found.years <= 150


@pytest.mark.parametrize(
    "text",
    ["25 months", "25 m", "0x19", "2 5", "25/30", "twenty", "\u0662\u0665", "-3"],
)
def test_what_would_have_to_be_guessed_is_no_age(text):
    assert isinstance(cell_values.age(text), str)


@pytest.mark.parametrize("text", ["1,025", "9,125", "+25,000", "25,123 years"])
def test_three_digits_after_a_comma_may_be_thousands(text):
    """Ages in days were once read as years: 9,125 was 9."""
    assert "has thousands or a fraction: write years" in cell_values.age(text)
    assert isinstance(cell_values.age(text.replace(",", ".")), cell_values.Age)


@pytest.mark.parametrize("text", ["0,025", "25,12", "25,1234", "025,123"])
def test_other_commas_are_decimal_commas(text):
    assert cell_values.age(text) == cell_values.age(text.replace(",", "."))


@pytest.mark.parametrize("text", ["", "nan", "NaN", "None", "NA", "#N/A", "<NA>", "-"])
def test_spellings_of_no_value(text):
    assert cell_values.age(text) == (cell_values.MISSING, False, False)
    assert cell_values.Genders("m:male,f:female").label(text) == cell_values.MISSING
    assert cell_values.split(text) is None and cell_values.is_missing(text)


@pytest.mark.parametrize(
    ("codes", "text", "label"),
    [
        ("111:male,112:female", "112", 1),
        ("111:male,112:female", "112.0", 1),
        ("111:male,112:female", "Female", 1),
        ("112:female,111:male", "F", 0),  # The order of the classes counts.
        ("0:female,1:male", "0.0", 0),
        ("0:female,1:male", "m", 1),
        ("0:man,1:woman", "w", 1),
        ("0:Mann,1:Frau", "frau", 1),
        ("m:female,f:male", "m", 0),  # What the user says takes precedence.
        ("m:a,M:b", "M", 1),
        ("-:male,+:female", "-", 0),
        ("NA:male,x:female", "NA", 0),
    ],
)
def test_genders(codes, text, label):
    assert cell_values.Genders(codes).label(text) == label


@pytest.mark.parametrize(
    ("codes", "text"),
    [
        ("111:male,112:female", "0"),
        ("111:male,112:female", "1.0"),
        ("111:male,112:female", "11"),
        ("0:Mann,1:Frau", "m"),  # A word of another language may mean the other one.
        ("0:cat,1:dog", "female"),
    ],
)
def test_genders_are_not_guessed(codes, text):
    assert "--gender_codes" in cell_values.Genders(codes).label(text)


@pytest.mark.parametrize("name", ["eval", "0", "trainval", "third"])
def test_splits_are_not_guessed(name):
    assert cell_values.split(name) is None
