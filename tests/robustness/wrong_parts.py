"""Trains on wrong parts of a caller's, and compares right ones with plain Keras.

    python -m tests.robustness.wrong_parts --combinations=200 --seed=1

A combination is a data set, its labels, the range of its images, a model, a loss, a
task and a number of replicas.  Each part has forms that must be accepted, and forms
that must be refused.  Every combination must end in one of two ways:

* all forms are right: weights, losses and validation metrics are those of a loop of a
  few lines in plain Keras on the same examples;
* a form is wrong: one UsageError or DataError, of one line, before the first step.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from absl import app, flags

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from afad_tfdata import trainer  # noqa: E402
from afad_tfdata.common import errors  # noqa: E402
from afad_tfdata.common.lazy_imports import keras, tf  # noqa: E402

SIZE, BATCH, RATE = 6, 8, 0.01

# Forms of each part: those that are right, and those that are wrong.
FORMS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "data": (
        ("dataset", "unknown_batch", "partial", "function", "arrays", "endless"),
        (
            *("unbatched", "larger", "smaller", "iterator", "generator", "empty"),
            *("triple", "one_dict", "short_function", "plain_function", "mask", "text"),
        ),
    ),
    "labels": (
        ("plain", "float", "column", "bool", "output_names", "bare", "more"),
        (
            *("one_hot", "strings", "signs", "one_two", "missing", "negative"),
            *("scalar", "hundredth"),
        ),
    ),
    "images": (
        ("uint8", "float32", "int32", "float64", "other_key", "bare"),
        ("unit", "normalized", "cast_unit", "gray", "first", "one_size_off", "uint16"),
    ),
    "model": (
        (
            *("functional", "dict", "sequential", "unbuilt", "subclassed", "frozen"),
            *("other_name", "two_heads", "flat", "any_size", "batch_norm_frozen"),
        ),
        (
            *("softmax", "logits", "uint8_input", "rescaling", "class", "path"),
            *("two_inputs", "wrong_head", "all_frozen", "tuple", "raises"),
            *("divided", "flip_rescaling", "lambda_pixels", "own_step"),
            *("one_softmax", "age_sigmoid"),
        ),
    ),
    "loss": (
        ("none", "dict", "tensor", "column", "one_head"),
        (
            *("square", "mean_of_square", "scalar", "class_weight", "text", "keras"),
            *("raises", "integers", "no_loss", "constant"),
        ),
    ),
    "augment": (
        ("none", "none", "four", "images_only", "keywords"),
        ("unit", "normalized", "layer", "other_names", "numpy", "one_image"),
    ),
}
TASKS = ("age", "gender", "age_gender")


@dataclasses.dataclass(frozen=True)
class Combination:
    """One trial.

    Attributes:
      task: One of `TASKS`.
      replicas: 1 or 2.
      forms: Part -> form.
    """

    task: str
    replicas: int
    forms: dict[str, str]

    def wrong(self) -> list[str]:
        """The parts whose forms are wrong."""
        return [p for p, form in self.forms.items() if form in FORMS[p][1]]

    def __str__(self) -> str:
        forms = " ".join(f"{part}={form}" for part, form in self.forms.items())
        return f"{self.task} x{self.replicas} {forms}"


def draw(seed: int, number: int) -> Combination:
    """The combination of a number; it depends on nothing else."""
    random = np.random.default_rng([seed, number])
    task = str(random.choice(TASKS))
    forms = {}
    # Half of the combinations are right, most others have one wrong part.
    wrong = set()
    if number % 2:
        wrong = set(random.choice(list(FORMS), random.choice([1, 1, 1, 2])).tolist())
    for part, (good, bad) in FORMS.items():
        forms[part] = str(random.choice(bad if part in wrong else good))
    _make_possible(forms, task, wrong)
    return Combination(task, int(random.choice([1, 2])), forms)


def _make_possible(forms: dict[str, str], task: str, wrong: set[str]) -> None:
    """Replaces forms that mean nothing, or something else, next to the others."""
    both = task == "age_gender"
    data_is_wrong = "data" in wrong
    if forms["labels"] == "bare" and (both or data_is_wrong):
        forms["labels"] = "plain"
    if forms["labels"] in ("one_hot", "signs", "one_two") and task == "age":
        forms["labels"] = "negative"
    if forms["labels"] in ("negative", "hundredth") and task == "gender":
        forms["labels"] = "signs"
    if forms["labels"] == "bool" and task != "gender":
        forms["labels"] = "float"
    if both and forms["model"] in ("other_name", "flat", "two_heads", "tuple"):
        forms["model"] = "dict"
    if both and forms["model"] == "wrong_head":
        forms["model"] = "class"
    if task == "age" and forms["model"] in ("softmax", "logits", "one_softmax"):
        forms["model"] = "tuple"
    if task == "gender" and forms["model"] == "age_sigmoid":
        forms["model"] = "one_softmax"
    if forms["loss"] == "one_head" and not both:
        forms["loss"] = "dict"
    # A column of labels minus a column of outputs is no square.
    if forms["loss"] in ("square", "mean_of_square"):
        forms["labels"] = "plain" if forms["labels"] == "column" else forms["labels"]
    if data_is_wrong and forms["labels"] == "scalar":
        forms["labels"] = "strings"
    # A mask, one dict and three parts need features with names.
    if forms["data"] in ("mask", "one_dict") and forms["images"] == "bare":
        forms["images"] = "uint8"
    # These models take images of any size, so that no size is wrong.
    sizeless = ("any_size", "subclassed", "unbuilt")
    if forms["images"] == "one_size_off" and forms["model"] in sizeless:
        forms["images"] = "gray"
    # `other_key` is the only key, and a mask or one dict adds others.
    if forms["data"] in ("one_dict",) and forms["images"] == "other_key":
        forms["images"] = "uint8"


# The examples.


@dataclasses.dataclass(frozen=True)
class Examples:
    """Images uint8, ages in years and genders 0 and 1."""

    images: np.ndarray
    age: np.ndarray
    gender: np.ndarray

    def rows(self, at: np.ndarray) -> Examples:
        """Some of them."""
        return Examples(self.images[at], self.age[at], self.gender[at])


def examples(count: int, seed: int) -> Examples:
    """Drawn examples."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (count, SIZE, SIZE, 3)).astype(np.uint8)
    age = random.integers(18, 60, count)
    gender = np.arange(count) % 2
    return Examples(images, age.astype(np.int64), gender.astype(np.int64))


def _image_form(images: np.ndarray, form: str) -> np.ndarray:
    values = images.astype(np.float32)
    return {
        "float32": values,
        "float64": images.astype(np.float64),
        "int32": images.astype(np.int32),
        "unit": values / 255,
        "normalized": (values - 127.5) / 127.5,
        "cast_unit": (values / 255).astype(np.uint8),
        "gray": images[..., :1],
        "first": images.transpose(0, 3, 1, 2),
        "one_size_off": np.pad(images, ((0, 0), (0, 1), (0, 1), (0, 0))),
        "uint16": images.astype(np.uint16) * 257,
    }.get(form, images)


def _label_form(values: np.ndarray, name: str, form: str) -> np.ndarray:
    if form in ("one_hot", "signs", "one_two") and name == "age":
        return values
    if form in ("negative", "hundredth") and name == "gender":
        return values
    return {
        "float": lambda: values.astype(np.float32),
        "column": lambda: values[:, np.newaxis],
        "bool": lambda: values.astype(bool),
        "one_hot": lambda: np.eye(2, dtype=np.float32)[values],
        "strings": lambda: np.array([f"class {v}" for v in values]),
        "signs": lambda: values * 2 - 1,
        "one_two": lambda: values + 1,
        "negative": lambda: -values,
        "hundredth": lambda: values / 100,
        "scalar": lambda: np.stack([values, values], 1),
    }.get(form, lambda: values)()


def elements(combination: Combination, data: Examples) -> tuple[Any, Any]:
    """Features and labels of all examples, in the combination's forms."""
    forms, task = combination.forms, combination.task
    images: Any = _image_form(data.images, forms["images"])
    if forms["images"] != "bare":
        images = {("x" if forms["images"] == "other_key" else "image"): images}
    names = ("age", "gender") if task == "age_gender" else (task,)
    form = forms["labels"]
    labels: Any = {n: _label_form(getattr(data, n), n, form) for n in names}
    if form == "output_names":
        labels = {f"{name}_output": value for name, value in labels.items()}
    if form == "more":
        labels = {**labels, "identity": np.arange(len(data.images))}
    if form == "missing":
        del labels[names[-1]]
        labels["years"] = data.age
    if form == "bare":
        labels = labels[names[0]]
    return images, labels


def training_data(combination: Combination, data: Examples) -> Any:
    """What is passed as ``train_dataset``."""
    form = combination.forms["data"]
    features, labels = elements(combination, data)
    if form == "arrays":
        return features, labels
    if form == "triple":
        weights = np.ones(len(data.images), np.float32)
        dataset = tf.data.Dataset.from_tensor_slices((features, labels, weights))
        return dataset.batch(BATCH)
    if form == "text":
        return "records"
    if form == "mask" and isinstance(features, dict):
        features = {**features, "mask": np.ones(len(data.images), bool)}
    dataset = tf.data.Dataset.from_tensor_slices((features, labels))
    if form == "one_dict":
        dataset = dataset.map(lambda f, y: {**f, "labels": y})
    batched = dataset.batch(BATCH, drop_remainder=True)
    return {
        "dataset": batched,
        "mask": batched,
        "one_dict": batched,
        "unknown_batch": dataset.batch(BATCH),
        "partial": dataset.batch(BATCH),
        "endless": batched.repeat(),
        "function": lambda first: batched.repeat().skip(first),
        "short_function": lambda first: batched.take(1).skip(first),
        "plain_function": lambda first: (features, labels),
        "unbatched": dataset,
        "larger": dataset.batch(2 * BATCH),
        "smaller": dataset.batch(BATCH // 2),
        "empty": batched.take(0),
        "iterator": iter(batched),
        "generator": (pair for pair in batched),
    }[form]


def batches(combination: Combination, data: Examples) -> Iterator[np.ndarray]:
    """Row numbers of each step, as the documentation says."""
    count, steps = len(data.images), steps_of(combination, data)
    for step in range(steps):
        yield (np.arange(BATCH) + step * BATCH) % count


def steps_of(combination: Combination, data: Examples) -> int:
    """Steps of the epoch."""
    count = len(data.images)
    if combination.forms["data"] == "partial":
        return -(-count // BATCH)  # As many as the data set has batches.
    return count // BATCH


# The models.


class Subclassed(keras.Model):
    """A model that has no symbolic inputs and outputs."""

    def __init__(self, task: str = "age", **more: Any) -> None:
        super().__init__(**more)
        self.task = task
        self.flatten = keras.layers.Flatten()
        self.age = keras.layers.Dense(1)
        self.gender = keras.layers.Dense(1, activation="sigmoid")

    def call(self, x: Any) -> Any:
        x = self.flatten(x)
        if self.task == "age":
            return self.age(x)
        if self.task == "gender":
            return self.gender(x)
        return {"age_output": self.age(x), "gender_output": self.gender(x)}

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "task": self.task}


def model_of(form: str, task: str) -> Any:
    """A model in a form; its weights are the same in each process."""
    keras.utils.set_random_seed(11)
    if form == "path":
        return "model.keras"
    if form == "class":
        return Subclassed
    if form == "subclassed":
        return Subclassed(task)
    names = ("age", "gender") if task == "age_gender" else (task,)
    layers = keras.layers
    if form in ("sequential", "unbuilt") and len(names) == 1:
        last = _head(names[0], f"{names[0]}_output")
        first = [] if form == "unbuilt" else [keras.Input((SIZE, SIZE, 3))]
        return keras.Sequential([*first, layers.Flatten(), last])
    side = None if form == "any_size" else SIZE
    dtype = "uint8" if form == "uint8_input" else "float32"
    image = keras.Input((side, side, 3), name="root_input", dtype=dtype)
    x = image
    if form == "raises":
        return Unfinished()
    if form == "uint8_input":
        x = keras.ops.cast(x, "float32")
    if form in ("rescaling", "flip_rescaling"):
        x = layers.RandomFlip()(x) if form == "flip_rescaling" else x
        x = layers.Rescaling(1 / 255)(x)
    if form == "divided":
        x = x / 255.0
    if form == "lambda_pixels":
        x = layers.Lambda(lambda pixels: pixels / 127.5 - 1)(x)
    if form in ("any_size", "frozen", "batch_norm_frozen"):
        x = _base(side, form == "batch_norm_frozen")(x)
    x = layers.Flatten()(x) if side else layers.GlobalAveragePooling2D()(x)
    heads = ("age", "gender") if form == "two_heads" else names
    if form == "wrong_head":
        heads = tuple({"age": "gender", "gender": "age"}[name] for name in names)
    outputs = {f"{name}_output": _output(form, name)(x) for name in heads}
    if form == "two_inputs":
        outputs = {f"{name}_output": _head(name, None)(x) for name in heads}
        more = keras.Input((1,))
        outputs = {n: layers.Add(name=n)([v, more]) for n, v in outputs.items()}
        return keras.Model([image, more], outputs)
    if form in ("dict", "two_heads"):
        return keras.Model(image, outputs)
    if form == "own_step":
        return OwnStep(image, list(outputs.values()))
    model = keras.Model(image, list(outputs.values()))
    if form == "tuple":
        return keras.Model(image, [_head(names[0], None)(x) for _ in range(2)])
    if form == "all_frozen":
        model.trainable = False
    return model


class Unfinished(keras.Model):
    """A model whose call raises an error."""

    def call(self, x: Any) -> Any:
        raise ValueError("this model is not finished")


class OwnStep(keras.Model):
    """A model with a step of its own, which train does not call."""

    def train_step(self, data: Any) -> dict[str, Any]:
        return {"loss": 0.0}


def _head(name: str, layer: str | None) -> keras.layers.Layer:
    activation = "sigmoid" if name == "gender" else None
    return keras.layers.Dense(1, activation=activation, name=layer)


def _output(form: str, name: str) -> Callable[[Any], Any]:
    layers, named = keras.layers, f"{name}_output"
    if form == "softmax" and name == "gender":
        return layers.Dense(2, activation="softmax", name=named)
    if form == "one_softmax" and name == "gender":
        return layers.Dense(1, activation="softmax", name=named)
    if form == "age_sigmoid" and name == "age":
        return layers.Dense(1, activation="sigmoid", name=named)
    if form == "logits" and name == "gender":
        return layers.Dense(1, name=named)
    if form in ("other_name", "tuple"):
        return _head(name, None)
    if form == "flat":
        head, flat = _head(name, None), layers.Reshape((), name=named)
        return lambda x: flat(head(x))
    return _head(name, named)


def _base(side: int | None, statistics: bool) -> keras.Model:
    image = keras.Input((side, side, 3))
    x = keras.layers.Conv2D(4, 3, padding="same", activation="relu")(image)
    if statistics:
        x = keras.layers.BatchNormalization()(x)
    base = keras.Model(image, x)
    base.trainable = side is None
    return base


# Losses and augmentations.


def loss_of(form: str, task: str) -> Any:
    """What is passed as ``loss``."""
    names = ("age", "gender") if task == "age_gender" else (task,)

    def error(outputs: Any, target: Any, name: str) -> Any:
        target = tf.cast(tf.reshape(target[name], [-1]), tf.float32)
        return tf.square(tf.reshape(outputs[f"{name}_output"], [-1]) - target)

    def total(outputs: Any, target: Any) -> Any:
        kept = names[:1] if form == "one_head" else names
        return tf.add_n([error(outputs, target, name) for name in kept])

    def square(outputs: Any, target: Any) -> Any:
        name = names[0]
        return tf.square(outputs[f"{name}_output"] - tf.cast(target[name], tf.float32))

    def raises(outputs: Any, target: Any) -> Any:
        return {"loss": outputs["years_output"] - target["years"]}

    forms: dict[str, Any] = {
        "none": None,
        "class_weight": lambda o, y: {"loss": total(o, y)},
        "dict": lambda o, y: {"loss": total(o, y)},
        "one_head": lambda o, y: {"loss": total(o, y)},
        "tensor": total,
        "column": lambda o, y: {"loss": total(o, y)[:, tf.newaxis]},
        "square": square,
        "mean_of_square": lambda o, y: {"loss": tf.reduce_mean(square(o, y), 1)},
        "scalar": lambda o, y: {"loss": tf.reduce_mean(total(o, y))},
        "text": "mse",
        "keras": keras.losses.MeanSquaredError(),
        "raises": raises,
        "integers": lambda o, y: {"loss": tf.cast(total(o, y), tf.int32)},
        "no_loss": lambda o, y: {"age_loss": total(o, y)},
        "constant": lambda o, y: {
            "loss": tf.zeros_like(tf.reshape(o[f"{names[0]}_output"], [-1]))
        },
    }
    return forms[form]


def augment_of(form: str) -> Any:
    """What is passed as ``augment``; the right ones turn images upside down."""

    def flipped(images: Any) -> Any:
        return tf.cast(tf.image.flip_up_down(images), tf.float32)

    forms: dict[str, Any] = {
        "none": None,
        "four": lambda images, seed, step, offset: flipped(images),
        "images_only": flipped,
        "keywords": lambda images, **more: flipped(images),
        "unit": lambda images, **more: flipped(images) / 255,
        "normalized": lambda images, **more: flipped(images) / 127.5 - 1,
        "layer": keras.layers.RandomFlip(),
        "other_names": lambda images, labels, rng: flipped(images),
        "numpy": lambda images, **more: np.flip(images.numpy(), 1),
        "one_image": lambda images, **more: flipped(images)[0],
    }
    return forms[form]


# A trial.


def reference(combination: Combination, data: Examples, validation: Examples) -> dict:
    """What plain Keras gives: weights, mean losses, metrics on the validation data."""
    forms, task = combination.forms, combination.task
    model = model_of(forms["model"], task)
    names = ("age", "gender") if task == "age_gender" else (task,)

    def inputs(images: np.ndarray, flip: bool) -> Any:
        images = images[:, ::-1] if flip else images
        return tf.constant((images.astype(np.float32) - 127.5) / 127.5)

    def outputs_of(x: Any, training: bool) -> dict[str, Any]:
        found = model(x, training=training)
        if isinstance(found, dict):
            return {n: tf.reshape(found[f"{n}_output"], [-1]) for n in names}
        found = found if isinstance(found, list | tuple) else [found]
        return {n: tf.reshape(v, [-1]) for n, v in zip(names, found, strict=True)}

    def losses(found: dict[str, Any], rows: Examples) -> Any:
        values = {}
        for name in names:
            target = tf.constant(getattr(rows, name), tf.float32)
            if forms["loss"] != "none":
                values[name] = tf.square(found[name] - target)
            elif name == "gender":
                p = tf.clip_by_value(found[name], 1e-7, 1 - 1e-7)
                values[name] = keras.ops.binary_crossentropy(target, p)
            elif task == "age":
                values[name] = tf.abs(found[name] - target)
            else:
                values[name] = tf.square(found[name] - target)
        if forms["loss"] == "one_head":
            return values[names[0]]
        weight = 500.0 if forms["loss"] == "none" and task == "age_gender" else 1.0
        if len(names) == 2:
            return values["age"] + weight * values["gender"]
        return values[names[0]]

    model(inputs(data.images[:1], False))
    optimizer = keras.optimizers.SGD(RATE)
    seen = []
    for at in batches(combination, data):
        rows = data.rows(at)
        with tf.GradientTape() as tape:
            found = outputs_of(inputs(rows.images, forms["augment"] != "none"), True)
            each = losses(found, rows)
            mean = tf.reduce_mean(each)
        weights = [w.value for w in model.trainable_variables]
        gradients = tape.gradient(mean, weights)
        pairs = zip(gradients, model.trainable_variables, strict=True)
        optimizer.apply_gradients([(g, w) for g, w in pairs if g is not None])
        seen.append(float(mean))
    result = {"weights": model.get_weights(), "loss": np.mean(seen)}
    found = outputs_of(inputs(validation.images, False), False)
    if "age" in names:
        result["mae"] = np.mean(np.abs(found["age"].numpy() - validation.age))
    if "gender" in names:
        predicted = found["gender"].numpy() >= 0.5
        result["accuracy"] = np.mean(predicted == validation.gender)
    result["validation_loss"] = float(tf.reduce_mean(losses(found, validation)))
    return result


def trial(combination: Combination, directory: str) -> str:
    """Runs a combination; returns what is wrong, or an empty text."""
    forms = combination.forms
    # With arrays, a single batch: their order is shuffled.
    count = {"arrays": BATCH, "partial": 20}.get(forms["data"], 2 * BATCH)
    data, validation = examples(count, 1), examples(BATCH + 1, 2)
    model = model_of(forms["model"], combination.task)
    flags_before = _flags(model)
    endless = forms["data"] in ("endless", "function", "short_function")
    plain = Combination(combination.task, 1, {**forms, "data": "dataset"})
    features, labels = elements(plain, validation)
    held_out = tf.data.Dataset.from_tensor_slices((features, labels)).batch(BATCH)
    values: dict[str, Any] = {
        "run_dir": directory,
        "task": combination.task,
        "stage": "tuning",
        "epochs": 1,
        "global_batch_size": BATCH,
        "devices": "cpu" if combination.replicas == 1 else "cpu:2",
        "augment": "none",
        "optimizer": "sgd",
        "momentum": 0.0,
        "learning_rate": RATE,
        "schedule": "constant",
        "tensorboard": False,
        "steps_per_epoch": 2 if endless or forms["data"] == "generator" else 0,
    }
    if forms["loss"] == "class_weight":
        values["class_weight"] = "0:1.0,1:2.0"
    wrong = combination.wrong()
    try:
        result = trainer.train(
            trainer.TrainConfig(**values),
            model=model,
            train_dataset=training_data(combination, data),
            validation_dataset=held_out,
            augment=augment_of(forms["augment"]),
            loss=loss_of(forms["loss"], combination.task),
        )
    except errors.AfadError as error:
        if "\n" in str(error) or not 20 < len(str(error)) < 500:
            return f"not one line: {error}"
        if not wrong:
            return f"refused, and all is right: {error}"
        if os.path.exists(os.path.join(directory, "history.json")):
            return f"refused after training began: {error}"
        return ""
    except Exception as error:  # What this program looks for.
        return f"traceback: {type(error).__name__}: {error}\n{traceback.format_exc()}"
    if wrong:
        return f"accepted, and wrong are {wrong}"
    # A model that was not built gets an input layer.
    if not flags_before.items() <= _flags(model).items():
        return "the trainable flags of the model changed"
    return _compare(
        combination, result, model, reference(combination, data, validation)
    )


def _compare(combination: Combination, result: Any, model: Any, wanted: dict) -> str:
    row = result.history["epochs"][-1]
    found = [
        ("loss", row["train"]["loss"], wanted["loss"]),
        ("validation loss", row["validation"]["loss"], wanted["validation_loss"]),
    ]
    for name in ("mae", "accuracy"):
        if name in wanted:
            found.append((name, row["validation"].get(name), wanted[name]))
    for name, came, should in found:
        if came is None or not np.isclose(came, should, rtol=2e-4, atol=1e-5):
            return f"{name} is {came}, and plain Keras has {should}"
    for came, should in zip(model.get_weights(), wanted["weights"], strict=True):
        if not np.allclose(came, should, rtol=1e-3, atol=1e-4):
            return f"weights differ by {np.abs(came - should).max():.3g}"
    if combination.forms["loss"] in ("dict", "tensor", "column", "one_head"):
        if {"age_loss", "gender_loss"} & set(row["train"]):
            return "the history has losses that the own loss does not return"
    return ""


def _flags(model: Any) -> dict[str, bool]:
    if not isinstance(model, keras.Model):
        return {}
    return {layer.name: layer.trainable for layer in model._flatten_layers()}


def run(combinations: int, seed: int, first: int = 0) -> dict[str, int]:
    """Tries combinations, prints what is wrong, and returns counts."""
    counts = {"as plain Keras": 0, "refused": 0, "faults": 0}
    for number in range(first, first + combinations):
        combination = draw(seed, number)
        with tempfile.TemporaryDirectory() as directory:
            fault = trial(combination, os.path.join(directory, "run"))
        if fault:
            counts["faults"] += 1
            print(f"{seed}:{number} {combination}\n    {fault}", flush=True)
        else:
            counts["refused" if combination.wrong() else "as plain Keras"] += 1
        keras.backend.clear_session()
    return counts


def main(argv: list[str]) -> None:
    """Runs the program."""
    del argv
    found = flags.FLAGS
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * 2
    )
    counts = run(found.combinations, found.seed, found.first)
    print(", ".join(f"{count} {name}" for name, count in counts.items()))
    sys.exit(1 if counts["faults"] else 0)


if __name__ == "__main__":
    flags.DEFINE_integer("combinations", 200, "How many combinations are tried.")
    flags.DEFINE_integer("seed", 1, "Seed of the combinations.")
    flags.DEFINE_integer("first", 0, "Number of the first one.")
    app.run(main)
