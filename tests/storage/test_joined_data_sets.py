"""Several data sets as one, and the first examples of a data set."""

import dataclasses
import os

import numpy as np
import pytest

from afad_tfdata import input_fn
from afad_tfdata.common import errors
from afad_tfdata.images import drawn_faces
from afad_tfdata.reading import engine_choice, index_loading, order, replica_batches
from afad_tfdata.storage import joined_data_sets, schema, sharding
from tests.writing import data_sets

FORMS = {
    "original": {},
    "jpeg": {"image_encoding": "jpeg"},
    "raw": {"image_encoding": "raw"},
    "hdf5": {"format": "hdf5"},
    "gzip": {"format": "hdf5", "hdf5_compression": "gzip"},
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Data sets FORM-1 (40 images) and FORM-2 (24 others) of each form."""
    directory = tmp_path_factory.mktemp("joined")
    for number, images in ((1, 40), (2, 24)):
        drawn_faces.make_sample(
            drawn_faces.SampleConfig(
                output_dir=str(directory / f"faces-{number}"),
                num_images=images,
                seed=number,
            )
        )
        for form, flags in FORMS.items():
            data_sets.write(
                directory / f"faces-{number}", directory / f"{form}-{number}", **flags
            )
    return directory


def both(home, form):
    return f"{home}/{form}-1,{home}/{form}-2"


def config(records_dir, **changes):
    values = {"global_batch_size": 8, "image_size": 24, "engine": "mapped"}
    return input_fn.InputConfig(records_dir=records_dir, **values | changes)


def read(records_dir, split="train", **changes):
    """Images and ages of a split in order, without padding."""
    images, ages = [], []
    for features, labels in input_fn.eval_input_fn(
        config(records_dir, **changes), split
    ):
        mask = features["mask"].numpy()
        images.append(features["image"].numpy()[mask])
        ages.append(labels["age"].numpy()[mask])
    return np.concatenate(images), np.concatenate(ages)


@pytest.mark.parametrize("engine", ["mapped", "graph"])
@pytest.mark.parametrize("form", FORMS)
def test_records_follow_each_other(home, form, engine):
    images, ages = read(both(home, form), engine=engine)
    one = read(f"{home}/{form}-1", engine=engine)
    two = read(f"{home}/{form}-2", engine=engine)
    np.testing.assert_array_equal(images, np.concatenate([one[0], two[0]]))
    np.testing.assert_array_equal(ages, np.concatenate([one[1], two[1]]))


@pytest.mark.parametrize("engine", ["mapped", "graph"])
@pytest.mark.parametrize("form", FORMS)
def test_max_examples_takes_the_first(home, form, engine):
    whole = read(f"{home}/{form}-1", engine=engine)
    for count in (1, 5, 13, 1000):
        few = read(f"{home}/{form}-1", engine=engine, max_examples=count)
        for mine, all_of_it in zip(few, whole, strict=True):
            np.testing.assert_array_equal(mine, all_of_it[:count])


@pytest.mark.parametrize("form", ["original", "hdf5"])
def test_a_stream_that_is_limited_has_the_same_records(home, form):
    """Records that do not fit in memory are streamed, here by a budget of 0 MiB."""
    index = index_loading.load_split(f"{home}/{form}-1", "train", max_examples=7)
    engine = engine_choice._create_stream_engine(config(f"{home}/{form}-1"), index)
    slices = replica_batches.ReplicaBatches.of_pipeline(7, None, pad=False)
    stream = engine.stream.shuffled(order.Order(7, 1), slices, 0)
    for _, numbers in stream.take(3):
        assert sorted(numbers.numpy()) == list(range(7))


def test_the_training_order_is_a_permutation_of_all(home):
    text = both(home, "hdf5")
    settings = config(text, seed=5)
    index = index_loading.load_split(text, "train")
    total = input_fn.num_examples(settings, "train")
    assert len(index) == total
    images, ages = read(text)
    seen = [
        (image.tobytes(), float(age))
        for features, labels in input_fn.train_input_fn(settings).take(-(-total // 8))
        for image, age in zip(
            features["image"].numpy(), labels["age"].numpy(), strict=True
        )
    ]
    everything = [(i.tobytes(), float(a)) for i, a in zip(images, ages, strict=True)]
    assert sorted(seen[:total]) == sorted(everything)
    assert seen[:total] != everything
    # The same seed gives the same order, at any start.
    later = input_fn.train_input_fn(settings, start_step=2).take(1)
    for features, _ in later:
        again = [image.tobytes() for image in features["image"].numpy()]
        assert again == [image for image, _ in seen[16:24]]


def test_the_manifest_is_the_sum(home):
    one, two = (schema.load_manifest(f"{home}/jpeg-{i}") for i in (1, 2))
    manifest = joined_data_sets.load_manifest(both(home, "jpeg"))
    assert manifest.written == one.written + two.written
    counts = [m.splits["train"].num_examples for m in (one, two)]
    assert manifest.splits["train"].num_examples == sum(counts)
    for channel in "RGB":
        expected = np.average([one.mean[channel], two.mean[channel]], weights=counts)
        assert manifest.mean[channel] == pytest.approx(expected)
    for name in sharding.SPLITS:
        by_age = [m.splits[name].counts["male"] for m in (one, two, manifest)]
        for age in {*by_age[0], *by_age[1]}:
            assert by_age[2][age] == by_age[0].get(age, 0) + by_age[1].get(age, 0)
    ages = [schema.age_range(m) for m in (one, two, manifest)]
    assert ages[2] == (min(ages[0][0], ages[1][0]), max(ages[0][1], ages[1][1]))


@pytest.mark.parametrize("form", ["jpeg-1", "both"])
@pytest.mark.parametrize("count", [1, 7, 20, 1000])
def test_the_manifest_of_the_first_examples(home, form, count):
    text = both(home, "jpeg") if form == "both" else f"{home}/{form}"
    whole = joined_data_sets.load_manifest(text)
    manifest = joined_data_sets.load_manifest(text, count)
    for name, split in manifest.splits.items():
        expected = min(count, whole.splits[name].num_examples)
        assert split.num_examples == expected
        assert sum(sum(v.values()) for v in split.counts.values()) == expected
        if expected:
            index = index_loading.load_split(text, name, max_examples=count)
            assert len(index) == expected
            male = {
                str(age)
                for age in index.entries["age"][index.entries["gender"] == 0].tolist()
            }
            assert male == set(split.counts["male"])


def test_both_data_sets_have_a_share_of_the_first_examples():
    assert joined_data_sets.shares_of([60, 30], 9) == [6, 3]
    assert joined_data_sets.shares_of([60, 30], 0) == [60, 30]
    assert joined_data_sets.shares_of([60, 30], 90) == [60, 30]
    assert joined_data_sets.shares_of([0, 30], 9) == [0, 9]
    for limit in range(1, 40):
        assert sum(joined_data_sets.shares_of([7, 11, 22], limit)) == limit


@pytest.mark.parametrize(
    ("other", "what"),
    [
        ("hdf5-2", "the format"),
        ("raw-2", "the image encoding"),
        ("large", "the image size"),
        ("classes", "the class names"),
        ("faces", "the way in which faces are cut"),
    ],
)
def test_what_does_not_fit_is_refused(home, other, what):
    flags = {
        "large": {"image_encoding": "jpeg", "image_size": 30},
        "classes": {"image_encoding": "jpeg", "gender_codes": "112:female,111:male"},
    }
    if other in flags and not (home / other).exists():
        data_sets.write(home / "faces-2", home / other, **flags[other])
    if other == "faces" and not (home / other).exists():
        os.makedirs(home / other)
        manifest = schema.load_manifest(f"{home}/jpeg-2")
        changed = dataclasses.replace(
            manifest, config={**manifest.config, "face_crop": {"margin": 0.5}}
        )
        (home / other / "manifest.json").write_bytes(schema.manifest_bytes(changed))
    with pytest.raises(errors.UsageError, match=f"differ in {what}") as caught:
        joined_data_sets.load_manifest(f"{home}/jpeg-1,{home}/{other}")
    assert "\n" not in str(caught.value)
    with pytest.raises(errors.UsageError, match=f"differ in {what}"):
        input_fn.train_input_fn(config(f"{home}/jpeg-1,{home}/{other}"))


def test_names(home, monkeypatch):
    monkeypatch.chdir(home)
    assert joined_data_sets.directories("a") == ("a",)
    assert joined_data_sets.directories("a, b,gs://c/d") == ("a", "b", "gs://c/d")
    for text in ("a,,b", "a,", ","):
        with pytest.raises(errors.UsageError, match="empty path"):
            joined_data_sets.directories(text)
    for text in ("a,b,a", f"jpeg-1,{home}/jpeg-1", "jpeg-1,./jpeg-1/"):
        with pytest.raises(errors.UsageError, match="twice"):
            joined_data_sets.directories(text)
    with pytest.raises(errors.UsageError, match="jpeg-9"):
        joined_data_sets.load_manifest("jpeg-1,jpeg-9")
    # A name with a comma in it is one data set.
    os.symlink("jpeg-1", "one,two")
    assert joined_data_sets.directories("one,two") == ("one,two",)
    assert len(index_loading.load_split("one,two", "train")) == len(
        index_loading.load_split("jpeg-1", "train")
    )


def test_a_split_that_only_one_has(home):
    data_sets.write(
        *(home / "faces-2", home / "tested"), image_encoding="jpeg", test_fraction=1
    )
    text = f"{home}/jpeg-1,{home}/tested"
    images, _ = read(text)
    np.testing.assert_array_equal(images, read(f"{home}/jpeg-1")[0])
    assert len(read(text, "test")[0]) > 20
    # Only the images that are trained on decide the mean.
    one = schema.load_manifest(f"{home}/jpeg-1")
    assert joined_data_sets.load_manifest(text).mean == pytest.approx(one.mean)
