"""A caller's loss: what would be learnt, and what the validation data must have."""

import numpy as np
import pytest

from afad_tfdata.common import errors
from afad_tfdata.common.lazy_imports import keras, tf
from tests.training import own_parts


def weighted(outputs, labels):
    error = outputs["age_output"][:, 0] - tf.cast(labels["age"], tf.float32)
    return tf.square(error) * labels["weight"]


WEIGHTS = np.linspace(0, 1, own_parts.COUNT).astype(np.float32)


def test_a_label_that_only_the_training_data_have_is_named(tmp_path):
    """Before, the first validation ended in a traceback, after a whole epoch."""
    with pytest.raises(errors.UsageError, match="weight.*the validation data") as error:
        own_parts.train(
            tmp_path / "run",
            data=own_parts.dataset(weight=WEIGHTS),
            validation_dataset=own_parts.dataset(),
            loss=weighted,
        )
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run" / "history.json").exists()


def test_weights_in_the_labels_count_in_training_and_validation(tmp_path):
    data = own_parts.dataset(weight=WEIGHTS)
    model = own_parts.network()
    result = own_parts.train(
        tmp_path / "run", data=data, validation_dataset=data, model=model, loss=weighted
    )
    x = (own_parts.IMAGES.astype(np.float32) - 127.5) / 127.5
    error = np.ravel(model(x)[0]) - own_parts.LABELS["age"]
    found = result.history["epochs"][0]["validation"]["loss"]
    assert found == pytest.approx(np.mean(error**2 * WEIGHTS), rel=1e-5)


@pytest.mark.parametrize("name", ["cross-entropy", "cut off"])
def test_a_loss_that_teaches_nothing_is_refused(name, tmp_path):
    """A cross-entropy over the classes of one unit is 0 for any probability."""
    between = keras.losses.CategoricalCrossentropy(reduction=None)

    def loss(outputs, labels):
        target = tf.cast(labels["gender"], tf.float32)[:, tf.newaxis]
        if name == "cut off":
            return tf.nn.relu(-outputs["gender_output"] - 1.0)[:, 0]
        return between(target, outputs["gender_output"])

    with pytest.raises(errors.UsageError, match="the loss teaches nothing"):
        own_parts.train(tmp_path / "run", task="gender", loss=loss)


def test_python_conditions_on_tensors_work_as_in_a_tf_function(tmp_path):
    """The step itself is traced without AutoGraph."""

    def steep(outputs, labels):
        error = outputs["age_output"][:, 0] - tf.cast(labels["age"], tf.float32)
        total = tf.zeros_like(error)
        for _ in tf.range(3):
            if tf.reduce_mean(error) < 0:
                total += error**2
        return total

    def changed(images, step):
        if step == 0:
            return images / 2
        return tf.cast(images, tf.float32)

    def plain_changed(images, step):
        return tf.cast(images, tf.float32) / tf.where(step == 0, 2.0, 1.0)

    def plain(outputs, labels):
        error = outputs["age_output"][:, 0] - tf.cast(labels["age"], tf.float32)
        return 3 * error**2

    def weights(name, **parts):
        model = own_parts.network()
        own_parts.train(tmp_path / name, model=model, **parts)
        return model.get_weights()

    first = weights("first", loss=steep, augment=changed)
    second = weights("second", loss=plain, augment=plain_changed)
    other = weights("other", loss=plain)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    differ = [not np.allclose(a, c) for a, c in zip(first, other, strict=True)]
    assert any(differ)
