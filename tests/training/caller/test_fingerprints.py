"""A run continues with the caller's parts that it began with, and with no others."""

import functools
import json

import numpy as np
import pytest

from afad_tfdata.common import errors, files
from afad_tfdata.common.lazy_imports import keras, tf
from afad_tfdata.training import run_dir
from afad_tfdata.training.caller import fingerprints
from tests.training import own_parts
from tests.training.own_parts import IMAGES, LABELS

FACTOR = 2.0


def scaled(factor):
    return lambda x: x * factor


def with_default(x, power=2):
    return x**power


def uses_global(x):
    return x * FACTOR


class Scales:
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, x):
        return x * self.factor


def crossentropy(smoothing):
    loss = keras.losses.BinaryCrossentropy(label_smoothing=smoothing, reduction=None)
    return lambda outputs, labels: loss(labels["gender"], outputs["gender_output"])


DIFFERENT = {
    "constant": (lambda x: x * 2.0, lambda x: x * 3.0),
    "operation": (lambda x: abs(x), lambda x: -x),
    "closure": (scaled(2), scaled(3)),
    "array": (scaled(np.arange(3)), scaled(np.arange(1, 4))),
    "partial": (functools.partial(max, 1), functools.partial(max, 2)),
    "object": (Scales(1), Scales(2)),
    "tf.function": (tf.function(scaled(1)), tf.function(scaled(2))),
    "inner": (lambda: [lambda x: x + 1], lambda: [lambda x: x + 2]),
    "loss of Keras": (crossentropy(0.0), crossentropy(0.1)),
}


@pytest.mark.parametrize("form", DIFFERENT)
def test_functions_that_compute_something_else_are_told_apart(form):
    one, other = (fingerprints.of_functions([f]) for f in DIFFERENT[form])
    assert one != other and not fingerprints.may_be_the_same(one, other)


def test_equal_functions_are_equal_in_each_process():
    for make in (lambda: scaled(2), lambda: Scales(2), lambda: crossentropy(0.1)):
        one, other = (fingerprints.of_functions([make()]) for _ in range(2))
        assert one == other
    # From another process, of the Python of today or of another.
    digest = fingerprints.of_functions([scaled(2)])
    assert fingerprints.may_be_the_same("python3.1:" + digest[-64:], digest)


def test_defaults_and_globals_are_part_of_a_function(monkeypatch):
    before = fingerprints.of_functions([with_default, uses_global])
    monkeypatch.setattr(with_default, "__defaults__", (3,))
    changed = fingerprints.of_functions([with_default, uses_global])
    monkeypatch.setitem(globals(), "FACTOR", 5.0)
    assert len({before, changed, fingerprints.of_functions([uses_global])}) == 3
    assert changed != fingerprints.of_functions([with_default, uses_global])


def test_arrays_are_told_apart_by_images_and_labels():
    digests = {
        fingerprints.of_arrays(IMAGES, LABELS),
        fingerprints.of_arrays(255 - IMAGES, LABELS),
        fingerprints.of_arrays(IMAGES, {**LABELS, "age": LABELS["age"] + 1}),
    }
    assert len(digests) == 3


def squared(outputs, labels):
    return tf.square(outputs["age_output"][:, 0] - tf.cast(labels["age"], tf.float32))


def absolute(outputs, labels):
    return tf.abs(outputs["age_output"][:, 0] - tf.cast(labels["age"], tf.float32))


def lambda_network(function):
    return own_parts.network([keras.layers.Lambda(function)])


def deeper_network():
    """Another network whose weights have the same shapes."""
    return own_parts.network([keras.layers.Activation("relu")])


def test_a_run_continues_with_the_same_parts_only(tmp_path):
    """One run, so that the test is quick; each refusal leaves it as it was."""
    own = {
        "model": lambda_network(lambda x: x * 0.5),
        "data": (IMAGES, LABELS),
        "validation_dataset": own_parts.dataset(),
        "loss": squared,
        "augment": lambda images: images,
    }
    own_parts.train(tmp_path, **own)
    for part, other, match in (
        ("model", deeper_network(), "another model of your own, by its layers"),
        ("model", lambda_network(lambda x: x * 0.7), "function in a layer"),
        ("data", (255 - IMAGES, LABELS), "another train_dataset"),
        ("data", own_parts.dataset(), "another train_dataset"),
        ("validation_dataset", (IMAGES[:9], {n: v[:9] for n, v in LABELS.items()}), ""),
        ("loss", absolute, "another loss"),
        ("loss", None, "a run with a loss of your own"),
        ("augment", lambda images: images[:, ::-1], "another augment"),
    ):
        with pytest.raises(errors.UsageError, match=match) as caught:
            own_parts.train(tmp_path, **{**own, part: other}, epochs=2)
        assert "contains a run with" in str(caught.value)
    result = own_parts.train(tmp_path, **own, epochs=2)
    assert len(result.history["epochs"]) == 2
    assert [row["train"].get("age_loss") for row in result.history["epochs"]] == [
        None,
        None,
    ]


def test_a_run_that_recorded_only_which_parts_there_were_continues(tmp_path):
    path = str(tmp_path / "run")
    directory = run_dir.RunDir(path)
    stored = {"model": "abc", "train_dataset": True, "augment": False, "loss": True}
    content = json.dumps(files.seal_json({"train": {}, "parts": stored}))
    (tmp_path / "run" / run_dir.CONFIG_NAME).write_text(content)
    now = {"functions": "", "validation_dataset": "x", "augment": "", "loss": "y"}
    try:
        directory.check_parts({**stored, **now, "train_dataset": "8 batches"})
        with pytest.raises(errors.UsageError, match="another model of your own"):
            directory.check_parts({**stored, **now, "model": "def"})
        with pytest.raises(errors.UsageError, match="no augment of your own"):
            directory.check_parts({**now, "model": "abc", "augment": "z"})
    finally:
        directory.close()
