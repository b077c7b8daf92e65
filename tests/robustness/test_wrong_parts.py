"""A few combinations of the generator of wrong parts, in this process."""

import pytest

from tests.robustness import wrong_parts

RIGHT = {
    "data": "dataset",
    "labels": "plain",
    "images": "uint8",
    "model": "functional",
    "loss": "none",
    "augment": "none",
}

# Wrong forms that a gender cannot have, and their parts.
OF_AGES = {
    "negative": "labels",
    "hundredth": "labels",
    "tuple": "model",
    "age_sigmoid": "model",
}


def run(tmp_path, task="gender", replicas=1, **forms):
    combination = wrong_parts.Combination(task, replicas, {**RIGHT, **forms})
    fault = wrong_parts.trial(combination, str(tmp_path / "run"))
    assert not fault, f"{combination}: {fault}"


@pytest.mark.parametrize(
    "count, task, forms",
    [
        (1, "gender", {"data": "partial", "labels": "column", "model": "frozen"}),
        (2, "age_gender", {"data": "unknown_batch", "loss": "one_head"}),
        (1, "age", {"data": "arrays", "images": "bare", "model": "subclassed"}),
        (2, "gender", {"labels": "bool", "model": "unbuilt", "loss": "tensor"}),
        (1, "gender", {"images": "bare", "labels": "bare", "loss": "column"}),
        (1, "age", {"augment": "images_only", "model": "sequential"}),
    ],
)
def test_what_has_one_reading_is_trained_as_plain_keras_does(
    two_replicas, tmp_path, count, task, forms
):
    run(tmp_path, task, count, **forms)


@pytest.mark.parametrize(
    "part, form",
    [
        (part, form)
        for part, (_, wrong) in wrong_parts.FORMS.items()
        for form in wrong
        if form not in OF_AGES
    ],
)
def test_what_is_wrong_is_one_line_before_the_first_step(tmp_path, part, form):
    run(tmp_path, **{part: form})


@pytest.mark.parametrize("form, part", OF_AGES.items())
def test_what_is_wrong_for_ages_is_one_line_too(tmp_path, form, part):
    run(tmp_path, "age", **{part: form})


def test_a_combination_depends_on_its_seed_and_number_only():
    assert str(wrong_parts.draw(1, 10)) == (
        "age x1 data=arrays labels=plain images=float32 model=unbuilt loss=dict"
        " augment=images_only"
    )
