"""A caller's model: what is trained as it says, and what is refused in one line."""

import numpy as np
import pytest

from afad_tfdata.common import errors
from afad_tfdata.common.lazy_imports import keras, tf
from afad_tfdata.training.caller import pixel_input
from tests.training import own_parts
from tests.training.own_parts import SIZE


def refuse(tmp_path, match, **parts):
    with pytest.raises(errors.UsageError, match=match) as caught:
        own_parts.train(tmp_path / "run", **parts)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "history.json").exists()


def functional(change):
    """A model whose input passes a function first."""
    image = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Flatten()(change(image))
    return keras.Model(image, own_parts.heads(x))


class Divides(keras.Model):
    """A model that is no graph of layers, and divides pixels."""

    def __init__(self):
        super().__init__()
        self.scale = keras.layers.Rescaling(1 / 255)
        self.flatten = keras.layers.Flatten()
        self.age = keras.layers.Dense(1)

    def call(self, x):
        return self.age(self.flatten(self.scale(x)))


# Images are fed as (x - mean) / 127.5.

FOR_PIXELS = {
    "behind another layer": lambda: own_parts.network(
        [keras.layers.RandomFlip(), keras.layers.Rescaling(1 / 255)]
    ),
    "behind a resizing": lambda: own_parts.network(
        [keras.layers.Resizing(8, 8), keras.layers.Rescaling(1 / 127.5, offset=-1)]
    ),
    "an operation": lambda: functional(lambda x: x / 255.0),
    "a function of Keras": lambda: functional(
        keras.applications.mobilenet_v2.preprocess_input
    ),
    "the mean of pixels": lambda: functional(keras.applications.vgg19.preprocess_input),
    "a Lambda": lambda: own_parts.network([keras.layers.Lambda(lambda x: x / 255.0)]),
    "a normalization": lambda: own_parts.network(
        [keras.layers.Normalization(mean=[124, 116, 104], variance=[58**2] * 3)]
    ),
    "inside a model": lambda: functional(
        keras.Sequential(
            [
                keras.Input((SIZE, SIZE, 3)),
                keras.layers.Rescaling(1 / 255),
                keras.layers.Conv2D(2, 3),
            ]
        )
    ),
}
FOR_NORMALIZED = {
    "standardised": lambda: own_parts.network(
        [keras.layers.Lambda(tf.image.per_image_standardization)]
    ),
    "pooled": lambda: own_parts.network([keras.layers.GlobalAveragePooling2D()]),
    "back in pixels": lambda: own_parts.network(
        [
            keras.layers.Rescaling(127.5, offset=127.5),
            keras.layers.RandomBrightness(0.2),
            keras.layers.Rescaling(1 / 255),
        ]
    ),
    "halved": lambda: own_parts.network([keras.layers.Rescaling(0.5)]),
    "gray": lambda: functional(lambda x: keras.ops.mean(x, -1, keepdims=True)),
}


@pytest.mark.parametrize("form", FOR_PIXELS)
def test_a_model_for_pixels_is_refused(form, tmp_path):
    refuse(tmp_path, "and not pixels", model=FOR_PIXELS[form]())


def test_a_subclassed_model_for_pixels_is_refused(tmp_path):
    refuse(tmp_path, "and not pixels", model=Divides(), task="age")


def test_a_layer_that_would_cut_normalised_values_off_is_refused(tmp_path):
    layer = keras.layers.RandomBrightness(0.2)
    refuse(tmp_path, "value_range", model=own_parts.network([layer]))


@pytest.mark.parametrize("form", FOR_NORMALIZED)
def test_a_model_for_normalised_images_is_accepted(form):
    pixel_input.refuse_pixels(FOR_NORMALIZED[form](), (SIZE, SIZE))


# Outputs.


@pytest.mark.parametrize(
    "activations, match",
    [
        ({"gender": "softmax"}, "gender_output is 1 for every image"),
        ({"gender": "tanh"}, "a probability in"),
        ({"gender": None}, "a probability in"),
        ({"age": "sigmoid"}, "age_output stays in"),
        ({"age": "tanh"}, "age_output stays in"),
        ({"age": "softmax"}, "age_output is 1 for every image"),
    ],
)
def test_an_output_that_cannot_be_its_label_is_refused(activations, match, tmp_path):
    refuse(tmp_path, match, model=own_parts.network(**activations))


@pytest.mark.parametrize("form", ["zeros", "normalised", "rescaled"])
def test_years_may_begin_anywhere(form, tmp_path):
    layers = keras.layers
    model = own_parts.network(
        [layers.LayerNormalization()] if form == "normalised" else []
    )
    if form == "zeros":
        head = model.get_layer("age_output")
        head.set_weights([np.zeros_like(w) for w in head.get_weights()])
    if form == "rescaled":
        image = keras.Input((SIZE, SIZE, 3))
        x = layers.Dense(1, activation="sigmoid")(layers.Flatten()(image))
        model = keras.Model(image, layers.Rescaling(100, name="age_output")(x))
    own_parts.train(tmp_path / "run", model=model, task="age")


def test_outputs_are_known_by_name_and_not_by_place(tmp_path):
    def build(form):
        keras.utils.set_random_seed(5)
        image = keras.Input((SIZE, SIZE, 3), name="image")
        x = keras.layers.Flatten()(image)
        if form == "dict":  # The names of the layers say the opposite of the keys.
            age = keras.layers.Dense(1, name="gender_output")(x)
            gender = keras.layers.Dense(1, activation="sigmoid", name="age_output")(x)
            outputs = {"gender_output": gender, "age_output": age}
            return keras.Model({"image": image}, outputs)
        age, gender = own_parts.heads(x)
        return keras.Model(image, [age, gender] if form == "list" else [gender, age])

    trained = []
    for form in ("list", "swapped", "dict"):
        model = build(form)
        own_parts.train(tmp_path / form, model=model)
        layers = [x for x in model.layers if isinstance(x, keras.layers.Dense)]
        by_activation = {x.activation.__name__: x.get_weights()[0] for x in layers}
        trained.append(by_activation)
    for other in trained[1:]:
        for name in ("linear", "sigmoid"):
            np.testing.assert_array_equal(other[name], trained[0][name])


def test_two_outputs_without_names_are_refused(tmp_path):
    image = keras.Input((SIZE, SIZE, 3))
    model = keras.Model(image, own_parts.network()(image))
    refuse(tmp_path, "needs a model with outputs named", model=model)


# What the caller's model brings with it.


def test_a_frozen_base_keeps_its_weights_statistics_and_flags(tmp_path):
    image = keras.Input((SIZE, SIZE, 3))
    base = keras.Model(
        image,
        keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3)(image)),
    )
    base.trainable = False
    model = functional(base)
    before = [w.copy() for w in base.get_weights()]
    head = model.get_layer("age_output").get_weights()[0].copy()
    own_parts.train(tmp_path / "run", model=model)
    for came, was in zip(base.get_weights(), before, strict=True):
        np.testing.assert_array_equal(came, was)
    assert (model.get_layer("age_output").get_weights()[0] != head).any()
    assert not base.trainable and not any(x.trainable for x in base.layers)
    assert model.trainable


@pytest.mark.parametrize("devices", ["cpu", "cpu:2"])
def test_the_head_that_the_task_does_not_need_stays(devices, two_replicas, tmp_path):
    model = own_parts.network()
    other = [w.copy() for w in model.get_layer("gender_output").get_weights()]
    age = model.get_layer("age_output").get_weights()[0].copy()
    own_parts.train(tmp_path / "run", model=model, task="age", devices=devices)
    for came, was in zip(
        model.get_layer("gender_output").get_weights(), other, strict=True
    ):
        np.testing.assert_array_equal(came, was)
    assert (model.get_layer("age_output").get_weights()[0] != age).any()


@pytest.mark.parametrize("method", ["train_step", "compute_loss"])
def test_methods_of_fit_that_would_not_be_called_are_refused(method, tmp_path):
    own = type("Own", (keras.Model,), {method: lambda self, *a, **k: None})
    image = keras.Input((SIZE, SIZE, 3))
    model = own(image, own_parts.heads(keras.layers.Flatten()(image)))
    refuse(tmp_path, f"a {method} of its own", model=model)


def test_a_compiled_model_is_said_to_be_trained_otherwise(tmp_path, caplog):
    model = own_parts.network()
    model.compile(optimizer="adam", loss="mse")
    own_parts.train(tmp_path / "run", model=model)
    assert "compile()" in caplog.text


def test_regularisers_count_once_on_two_replicas(two_replicas, tmp_path):
    def build():
        keras.utils.set_random_seed(4)
        image = keras.Input((SIZE, SIZE, 3))
        hidden = keras.layers.Dense(
            4, kernel_regularizer=keras.regularizers.L2(3.0), activity_regularizer="l2"
        )
        x = hidden(keras.layers.Flatten()(image))
        return keras.Model(image, own_parts.heads(x))

    models = [build(), build()]
    for model, devices in zip(models, ("cpu", "cpu:2"), strict=True):
        own_parts.train(tmp_path / devices, model=model, devices=devices)
    for one, two in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-6)


def test_a_lambda_layer_on_two_replicas(two_replicas, tmp_path):
    """Keras refuses to copy it, in a long text that spoke of files."""

    def build():
        keras.utils.set_random_seed(4)
        inner = keras.Sequential([keras.Input((4,)), keras.layers.Lambda(lambda x: -x)])
        image = keras.Input((SIZE, SIZE, 3))
        x = keras.layers.Lambda(lambda pixels: pixels * 2.0)(image)
        x = keras.layers.Dense(4)(keras.layers.Flatten()(x))
        return keras.Model(image, own_parts.heads(inner(x)))

    models = [build(), build()]
    for model, devices in zip(models, ("cpu", "cpu:2"), strict=True):
        own_parts.train(tmp_path / devices, model=model, devices=devices)
    before = build().get_weights()
    for was, one, two in zip(before, *(m.get_weights() for m in models), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-6)
        assert (was != one).any()


def test_a_model_of_another_strategy_is_refused(two_replicas, tmp_path):
    with two_replicas.scope():
        model = own_parts.network()
    text = "in the scope of another tf.distribute strategy: create it outside"
    refuse(tmp_path, text, model=model, devices="cpu")


def test_a_loss_of_a_layer_is_summed_as_keras_does(tmp_path):
    """One of a shape was broadcast: the gradient of the loss counted for each entry."""

    def build(reduced):
        @keras.saving.register_keras_serializable(f"reduced_{reduced}")
        class Penalty(keras.layers.Layer):
            def call(self, x):
                squares = 1e-3 * keras.ops.square(x)
                self.add_loss(keras.ops.sum(squares) if reduced else squares)
                return x

        keras.utils.set_random_seed(4)
        image = keras.Input((SIZE, SIZE, 3))
        x = keras.layers.Dense(4)(keras.layers.Flatten()(image))
        return keras.Model(image, own_parts.heads(Penalty()(x)))

    models = [build(reduced) for reduced in (True, False)]
    for i, model in enumerate(models):
        own_parts.train(tmp_path / str(i), model=model)
    for one, other in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_a_model_of_keras_2_is_refused(tmp_path):
    tf_keras = pytest.importorskip("tf_keras")
    model = tf_keras.Sequential([tf_keras.layers.Flatten(), tf_keras.layers.Dense(1)])
    refuse(tmp_path, "tf_keras is Keras 2", model=model, task="age")
