"""Class weights by number, by name, balanced, and by age."""

import pytest

from afad_tfdata.common import errors
from afad_tfdata.storage import schema
from afad_tfdata.training import class_weights


def manifest(counts, names=("male", "female")):
    total = sum(sum(c.values()) for c in counts.values())
    index = schema.Shard("i", 0, 0, "")
    return schema.Manifest(
        name="afad",
        format="tfrecord",
        image_encoding="original",
        image_size=48,
        config={},
        class_names=names,
        gender_codes={"111": 0, "112": 1},
        resize={},
        pixel={},
        mean={"R": 1.0, "G": 2.0, "B": 3.0},
        found=total,
        written=total,
        rejected=0,
        passed_over=0,
        splits={"train": schema.Split(total, (), index, counts)},
    )


DATA = manifest({"male": {"15": 60, "20": 30}, "female": {"20": 10}})


@pytest.mark.parametrize(
    "text, expected",
    [
        ("none", (1, 1)),
        ("0:1.0,1:1.6", (1, 1.6)),
        ("1:1.6,0:1.0", (1, 1.6)),  # Order is no meaning.
        ("male:1.0,female:1.6", (1, 1.6)),
        ("Female:2, 0:0.5", (0.5, 2)),
        ("0:0,1:1", (0, 1)),  # One class only, on purpose.
        ("balanced", (100 / 180, 5)),
    ],
)
def test_parse(text, expected):
    assert class_weights.parse(text, DATA) == pytest.approx(expected)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1.0,1.6",  # A list was once ignored.
        "0:1",
        "0:1,0:2",
        "0:1,2:2",
        "man:1,woman:2",
        "0:-1,1:1",
        "0:nan,1:1",
        "0:inf,1:1",
        "Balanced",
    ],
)
def test_parse_refuses(text):
    with pytest.raises(errors.UsageError, match="--class_weight"):
        class_weights.parse(text, DATA)


def test_balanced_has_mean_one_over_the_examples():
    male, female = class_weights.parse("balanced", DATA)
    assert (90 * male + 10 * female) / 100 == pytest.approx(1)


def test_balanced_needs_both_classes():
    with pytest.raises(errors.UsageError, match="male 5, female 0"):
        class_weights.parse("balanced", manifest({"male": {"20": 5}, "female": {}}))


def test_names_are_the_manifests():
    data = manifest({"w": {"20": 1}, "m": {"20": 1}}, names=("w", "m"))
    assert class_weights.parse("m:3,w:2", data) == (2, 3)


def test_effective_number_of_ages():
    weights = class_weights.parse_ages("effective:0.9", DATA, 15, 20)
    assert len(weights) == 6
    at_15 = 0.1 / (1 - 0.9**60)
    at_20 = 0.1 / (1 - 0.9**40)
    assert weights[5] / weights[0] == pytest.approx(at_20 / at_15)
    assert (60 * weights[0] + 40 * weights[5]) / 100 == pytest.approx(1)
    # No examples: as one example.
    assert weights[2] / weights[0] == pytest.approx(1 / at_15)
    assert class_weights.parse_ages("none", DATA, 15, 20) == ()


def test_beta_zero_weighs_all_alike():
    assert set(class_weights.parse_ages("effective:0", DATA, 15, 20)) == {1.0}


@pytest.mark.parametrize("text", ["", "balanced", "effective:1", "effective:x"])
def test_age_weights_refuse(text):
    with pytest.raises(errors.UsageError, match="--age_class_weight"):
        class_weights.parse_ages(text, DATA, 15, 20)


def test_description_names_what_acts():
    weights = class_weights.parse("balanced", DATA)
    assert class_weights.describe(weights, DATA) == (
        "class weights: male 0.5556, female 5"
    )
    assert "none" in class_weights.describe((1.0, 1.0), DATA)
    assert "age weights" in class_weights.describe(weights, DATA, (0.5, 2.0))
