"""A caller's data sets: what is counted, and what is refused in one line."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from afad_tfdata.common import errors
from afad_tfdata.training.caller import data_sets
from tests.training import own_parts
from tests.training.own_parts import BATCH, COUNT, IMAGES, LABELS

ROOT = pathlib.Path(__file__).parents[3]


def refuse(tmp_path, match, kind=errors.UsageError, **parts):
    with pytest.raises(kind, match=match) as caught:
        own_parts.train(tmp_path / "run", **parts)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "history.json").exists()


# Before the first step.

# NumPy's functions would take the values under the mask for labels.
DATES = np.full(COUNT, np.datetime64("1990-01-01"))
MASKED_AGES = np.ma.masked_greater(LABELS["age"], 40)


@pytest.mark.parametrize(
    "data, match",
    [
        (lambda: own_parts.dataset(batch=2 * BATCH), "is batched by 16"),
        (lambda: own_parts.dataset(batch=BATCH // 2), "is batched by 4"),
        (lambda: own_parts.dataset(IMAGES / 255), "multiply them by 255"),
        (lambda: own_parts.dataset(IMAGES / 127.5 - 1), "before they are normalised"),
        (lambda: own_parts.dataset(age=LABELS["age"] / 100), "wanted years"),
        (lambda: own_parts.dataset(age=LABELS["age"] - 35), "wanted years"),
        (lambda: own_parts.dataset(gender=LABELS["gender"] + 1), "subtract 1"),
        (lambda: own_parts.dataset(gender=LABELS["gender"] * 0.9 + 0.05), "round them"),
        (lambda: own_parts.dataset(gender=LABELS["gender"] * 2 - 1), "maps -1 and 1"),
        (lambda: own_parts.dataset(gender=np.eye(2)[LABELS["gender"]]), "argmax"),
        (lambda: (IMAGES, {**LABELS, "age": LABELS["age"][:9]}), "for 16 images"),
        (lambda: iter(own_parts.dataset()), "an iterator can be read only once"),
        (lambda: (IMAGES, {**LABELS, "age": MASKED_AGES}), "masked values"),
        (lambda: (IMAGES, {**LABELS, "age": DATES}), "got one of datetime64"),
        (lambda: (IMAGES, {**LABELS, "age": DATES - DATES}), "got one of timedelta64"),
        (lambda: own_parts.dataset().filter(lambda x, y: False), "is empty"),
        (lambda: own_parts.dataset().unbatch(), r"add .batch\(8\)"),
    ],
)
def test_wrong_training_data_are_refused(data, match, tmp_path):
    refuse(tmp_path, match, data=data(), steps_per_epoch=1)


def with_nan(values, at=COUNT - 1):
    values = values.astype(np.float32)
    values[at] = np.nan
    return values


MASK = np.arange(COUNT) < COUNT - 3


@pytest.mark.parametrize(
    "data, match",
    [
        (lambda: own_parts.dataset(age=with_nan(LABELS["age"], 0)), "are NaN"),
        (lambda: own_parts.dataset(with_nan(IMAGES, 0)), "have NaN"),
        (lambda: (with_nan(IMAGES), LABELS), "have NaN"),
        (lambda: own_parts.dataset(mask=np.stack([MASK] * 2, 1)), r"wanted bool \[B\]"),
        (lambda: own_parts.dataset(mask=np.zeros(COUNT, bool)), "0 True of 8"),
        (lambda: own_parts.dataset().repeat(), "has no end"),
        (lambda: own_parts.dataset(IMAGES / 255), "multiply them by 255"),
    ],
)
def test_wrong_validation_data_are_refused(data, match, tmp_path):
    refuse(tmp_path, match, validation_dataset=data())


@pytest.mark.parametrize(
    "changes, match",
    [
        ({"age": with_nan(LABELS["age"])}, "ages outside"),
        ({"images": with_nan(IMAGES)}, "image levels outside"),
    ],
)
def test_nan_in_a_later_batch_of_validation_is_no_result(changes, match, tmp_path):
    data = own_parts.dataset(**changes)
    with pytest.raises(errors.DataError, match=match):
        own_parts.train(tmp_path / "run", validation_dataset=data)
    # The epoch is not recorded with a metric that leaves examples out.
    assert not (tmp_path / "run" / "best.keras").exists()


# Later batches.


def first_and(second):
    def batches():
        yield IMAGES[:BATCH], {name: label[:BATCH] for name, label in LABELS.items()}
        yield second()

    return batches


def fails():
    raise OSError("the disk is gone")


@pytest.mark.parametrize(
    "second, match",
    [
        (fails, "the disk is gone"),
        (lambda: (IMAGES[:BATCH, :5], LABELS), "is not compatible with"),
        (
            lambda: (IMAGES[:BATCH], {**LABELS, "age": LABELS["age"][:3]}),
            "must have the same batch size",
        ),
        (
            lambda: (IMAGES[:BATCH], {n: v[:BATCH] + 1 for n, v in LABELS.items()}),
            "genders other than 0 and 1",
        ),
    ],
)
def test_an_error_in_a_later_batch_is_one_line(second, match, tmp_path):
    data = own_parts.from_generator(first_and(second), side=None)
    with pytest.raises(errors.DataError, match=match) as caught:
        own_parts.train(tmp_path / "run", data=data, steps_per_epoch=2)
    assert "\n" not in str(caught.value)


def test_validation_data_that_may_have_no_end_are_doubted(
    tmp_path, monkeypatch, caplog
):
    """Without an end, the training waits for ever at the end of its first epoch."""
    monkeypatch.setattr(data_sets, "_MANY_BATCHES", 30)

    def long(num_batches):
        for _ in range(num_batches):
            yield IMAGES[:BATCH], {n: v[:BATCH] for n, v in LABELS.items()}

    def validated(num_batches):
        caplog.clear()
        result = own_parts.train(
            tmp_path / str(num_batches),
            validation_dataset=own_parts.from_generator(lambda: long(num_batches)),
        )
        doubts = [r for r in caplog.records if "still goes on" in r.getMessage()]
        return result.history["epochs"][-1]["validation"], len(doubts)

    few, doubts = validated(2)
    assert doubts == 0
    many, doubts = validated(40)
    assert doubts == 1
    assert many["mae"] == pytest.approx(few["mae"], rel=1e-5)


# What is measured.


def metrics(model, rows):
    """Mean error of the age and accuracy, by Keras' own predict."""
    images = (IMAGES[rows].astype(np.float32) - 127.5) / 127.5
    age, gender = (np.ravel(v) for v in model.predict(images, verbose=0))
    mae = np.abs(age - LABELS["age"][rows]).mean()
    return mae, ((gender >= 0.5) == LABELS["gender"][rows]).mean()


PADDED = {
    "bool": MASK,
    "column of floats": MASK.astype(np.float32)[:, np.newaxis],
}


@pytest.mark.parametrize("devices", ["cpu", "cpu:2"])
@pytest.mark.parametrize("form", [*PADDED, "small batches"])
def test_validation_counts_each_example_once(form, devices, two_replicas, tmp_path):
    rows = np.arange(COUNT)
    if form in PADDED:
        # Padding has labels that no example could have.
        filled = {name: np.where(MASK, v, -1) for name, v in LABELS.items()}
        data = own_parts.dataset(mask=PADDED[form], **filled)
        rows = rows[MASK]
    else:
        data = own_parts.dataset(batch=5)  # The last batch has one example.
    model = own_parts.network()
    result = own_parts.train(
        tmp_path / "run", model=model, validation_dataset=data, devices=devices
    )
    found = result.history["epochs"][0]["validation"]
    mae, accuracy = metrics(model, rows)
    assert found["mae"] == pytest.approx(mae, rel=1e-5)
    assert found["accuracy"] == pytest.approx(accuracy)


ONE_EXAMPLE_FOR_TWO_REPLICAS = """
import sys
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
half = tf.config.LogicalDeviceConfiguration()
tf.config.set_logical_device_configuration(cpu, [half, half])
from tests.training import own_parts
from tests.training.caller import test_data_sets
layers = tf.keras.layers
model = own_parts.network(
    [
        layers.Conv2D(4, 3, padding="same"),
        layers.BatchNormalization(),
        layers.MaxPooling2D(),
        layers.DepthwiseConv2D(3, padding="same"),
        layers.AveragePooling2D(2),
    ]
)
rows = range(own_parts.BATCH + 1)
labels = {name: value[rows] for name, value in own_parts.LABELS.items()}
result = own_parts.train(
    sys.argv[1],
    model=model,
    validation_dataset=own_parts.dataset(own_parts.IMAGES[rows], **labels),
    devices="cpu:2",
)
found = result.history["epochs"][0]["validation"]
print(found["mae"], found["accuracy"], *test_data_sets.metrics(model, rows))
"""


def test_a_replica_without_an_example_computes_nothing(tmp_path):
    """oneDNN's kernels, the default of some processors, refuse an empty batch."""
    result = subprocess.run(
        [sys.executable, "-c", ONE_EXAMPLE_FOR_TWO_REPLICAS, str(tmp_path / "run")],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TF_ENABLE_ONEDNN_OPTS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    mae, accuracy, keras_mae, keras_accuracy = map(float, result.stdout.split())
    assert mae == pytest.approx(keras_mae, rel=1e-4)
    assert accuracy == pytest.approx(keras_accuracy)


def test_own_training_data_are_validated_on_the_records(sample_records, tmp_path):
    rows = own_parts.train(
        tmp_path / "run", records_dir=sample_records, image_size=own_parts.SIZE
    ).history["epochs"]
    assert {"mae", "accuracy"} <= set(rows[0]["validation"])
