"""Facts: what the numbers of a model mean, in memory and in every file of it."""

import dataclasses
import json
import zipfile

import pytest

from afad_tfdata import models
from afad_tfdata.common import errors
from afad_tfdata.common.lazy_imports import keras
from afad_tfdata.models import facts
from tests.models.small_networks import MEAN, make

KNOWN = facts.Facts(
    network={"task": "age_gender"},
    class_names=("female", "male"),
    mean=MEAN,
    age_range=(18, 60),
    input_range="normalized",
    decode="fast",
)


@pytest.mark.latest
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_file_keeps_them_and_keras_reads_it_all_the_same(suffix, tmp_path):
    model = make("small_cnn_no_bn", mean=MEAN)
    assert facts.of(model).input_range == "normalized"
    known = dataclasses.replace(KNOWN, network=models.info(model))
    facts.attach(model, known)
    path = str(tmp_path / f"model{suffix}")
    models.save(model, path)
    assert facts.read_file(path) == known
    loaded = models.load(path)
    assert facts.of(loaded) == known
    assert models.info(loaded) == models.info(model)
    # In a place that Keras does not look at.
    plain = keras.saving.load_model(path, compile=False)
    assert plain.count_params() == model.count_params()
    if suffix == ".keras":
        with zipfile.ZipFile(path) as archive:
            assert len(archive.namelist()) == 3, "Keras unpacks larger archives"
            assert archive.testzip() is None


def test_json_says_in_words_what_the_outputs_are():
    value = json.loads(json.dumps(KNOWN.to_dict()))
    assert value["outputs"] == {
        "age_output": "age in years",
        "gender_output": "probability of male",
    }
    assert facts.from_dict(value, where="x") == KNOWN
    assert facts.from_dict(facts.Facts().to_dict(), where="x") == facts.Facts()
    assert not facts.Facts() and KNOWN


@pytest.mark.parametrize(
    "change",
    [
        {"class_names": ["male"]},
        {"class_names": [0, 1]},
        {"mean": {"R": 1.0}},
        {"age_range": "old"},
        {"input_range": "bits"},
        {"decode": "slow"},
        {"network": 3},
    ],
)
def test_damaged_facts_are_one_line(change):
    with pytest.raises(errors.DataError, match="what face.keras says"):
        facts.from_dict({**KNOWN.to_dict(), **change}, where="face.keras")


def test_the_comment_of_another_program_is_no_fact(tmp_path):
    path = str(tmp_path / "model.keras")
    make().save(path)
    for comment in (b"", b"made by hand", b"[1]", b'{"format": "other"}'):
        with zipfile.ZipFile(path, "a") as archive:
            archive.comment = comment
        assert facts.read_file(path) == facts.Facts()


def test_a_copy_of_a_model_keeps_them():
    model = make(policy="mixed_bfloat16", mean=MEAN)
    facts.attach(model, dataclasses.replace(KNOWN, network=models.info(model)))
    assert facts.of(models.rebuild_float32(model)) == facts.of(model)


@pytest.mark.parametrize(
    "others, swapped",
    [
        (("female", "male"), False),
        (("Female", " MALE"), False),
        (("male", "female"), True),
    ],
)
def test_orders_are_compared_by_name(others, swapped):
    found = facts.is_swapped(KNOWN.class_names, others, what="m", other="d")
    assert found == swapped


@pytest.mark.parametrize("others", [("man", "woman"), ("male", "x"), ("male", "male")])
def test_other_names_are_refused(others):
    with pytest.raises(errors.UsageError, match="say which is which"):
        facts.is_swapped(KNOWN.class_names, others, what="m", other="d")


def test_class_names_are_asked_for_and_never_overruled():
    names = ("female", "male")
    assert facts.chosen_class_names(names, (), what="m") == names
    assert facts.chosen_class_names((), names, what="m") == names
    assert facts.chosen_class_names(names, ("Female", "male"), what="m") == names
    # Other words for the same classes.
    assert facts.chosen_class_names(names, ("f", "m"), what="m") == ("f", "m")
    with pytest.raises(errors.UsageError, match="contradicts m, which says female"):
        facts.chosen_class_names(names, names[::-1], what="m")
    with pytest.raises(errors.UsageError, match="--class_names=male,female if"):
        facts.chosen_class_names((), (), what="m")
    for wrong in (("male",), ("a", "b", "c"), ("male", "Male"), ("male", "")):
        with pytest.raises(errors.UsageError, match="--class_names takes"):
            facts.check_class_names(wrong, "--class_names")


def test_saving_takes_the_names_of_a_model_that_keras_trained(tmp_path):
    model, path = make(), str(tmp_path / "model.keras")
    models.save(model, path, class_names=("female", "male"))
    assert facts.read_file(path).class_names == ("female", "male")
    loaded = models.load(path)
    with pytest.raises(errors.UsageError, match="contradicts"):
        models.save(loaded, path, class_names=("male", "female"))
