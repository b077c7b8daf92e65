"""Models to freeze: every kind of file, labels of outputs, what is refused."""

import dataclasses
import json

import h5py
import numpy as np
import pytest

from afad_tfdata import models
from afad_tfdata.common import errors, files
from afad_tfdata.common.lazy_imports import keras, tf
from afad_tfdata.freezing import frozen_model_facts, loaded_graph, model_source
from afad_tfdata.models import facts
from afad_tfdata.training import checkpoints, history, run_state
from tests.freezing import small_graphs


@pytest.fixture(scope="module")
def model():
    return small_graphs.build()


def keras2_model(tf_keras):
    layers = tf_keras.layers
    image = tf_keras.Input((small_graphs.SIZE, small_graphs.SIZE, 3), name="root_input")
    x = layers.Conv2D(6, 3, use_bias=False)(image)
    x = layers.BatchNormalization()(x)
    x = layers.MaxPooling2D(4)(layers.Activation("relu")(x))
    x = layers.Dropout(0.3)(layers.Flatten()(x))
    age = layers.Dense(1, name="age_output", dtype="float32")(x)
    gender = layers.Dense(
        1, activation="sigmoid", name="gender_output", dtype="float32"
    )
    return small_graphs.shaken(tf_keras.Model(image, [age, gender(x)]))


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_h5_files_of_keras_2(policy, tmp_path):
    tf_keras = pytest.importorskip("tf_keras")
    tf_keras.mixed_precision.set_global_policy(policy)
    try:
        model = keras2_model(tf_keras)
    finally:
        tf_keras.mixed_precision.set_global_policy("float32")
    path = str(tmp_path / "old.h5")
    model.save(path, save_format="h5")
    source = model_source.open_source(path)
    assert source.name == "old" and source.labels == ("age", "gender")
    graph, nodes = small_graphs.frozen_file(tmp_path, source)
    assert small_graphs.compared(graph, source, nodes).failure(1.0) is None
    assert "DT_HALF" not in str(loaded_graph.read_graph_def(graph))
    x = (
        np.random.default_rng(0)
        .uniform(-1, 1, (2, small_graphs.SIZE, small_graphs.SIZE, 3))
        .astype(np.float32)
    )
    tolerance = 1e-5 if policy == "float32" else 2e-2
    for found, expected in zip(
        source.call(x).values(), model(x, training=False), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


def test_h5_files_as_keras_2_3_wrote_them(tmp_path):
    """Before Keras was a part of TensorFlow, its files used other words."""
    tf_keras = pytest.importorskip("tf_keras")
    model = keras2_model(tf_keras)
    path = str(tmp_path / "old.h5")
    model.save(path, save_format="h5")
    with h5py.File(path, "r+") as f:
        text = f.attrs["model_config"]
        text = text.decode() if isinstance(text, bytes) else text
        config = json.loads(text)
        config["class_name"] = "Model"
        for layer in config["config"]["layers"]:
            for word in ("module", "registered_name", "build_config"):
                layer.pop(word, None)
        f.attrs["model_config"] = json.dumps(config).encode()
        f.attrs["keras_version"] = b"2.3.1"
    x = small_graphs.noise(2)
    found = model_source.open_source(path).call(x)
    for value, expected in zip(found.values(), model(x, training=False), strict=True):
        np.testing.assert_array_equal(value, expected)


def test_a_keras_file_of_keras_2(tmp_path):
    tf_keras = pytest.importorskip("tf_keras")
    model = keras2_model(tf_keras)
    path = str(tmp_path / "old.keras")
    model.save(path)
    x = small_graphs.noise(2)
    found = model_source.open_source(path).call(x)
    for value, expected in zip(found.values(), model(x, training=False), strict=True):
        np.testing.assert_array_equal(value, expected)
    with pytest.raises(errors.UsageError, match="saved by Keras 2 .* as .h5"):
        models.load(path)


def test_code_in_a_keras_file_of_keras_2_needs_the_flag(tmp_path):
    tf_keras = pytest.importorskip("tf_keras")
    inputs = tf_keras.Input((small_graphs.SIZE, small_graphs.SIZE, 3))
    x = tf_keras.layers.Lambda(lambda x: x * 2)(inputs)
    x = tf_keras.layers.GlobalAveragePooling2D()(x)
    age = tf_keras.layers.Dense(1, name="age")(x)
    path = str(tmp_path / "code.keras")
    tf_keras.Model(inputs, age).save(path)
    with pytest.raises(errors.UsageError, match="--unsafe_load"):
        model_source.open_source(path)
    assert model_source.open_source(path, unsafe_load=True).labels == ("age",)


@pytest.mark.parametrize("ending", ["keras", "h5"])
def test_files_of_keras_3(ending, model, tmp_path):
    path = str(tmp_path / f"face.{ending}")
    models.save(model, path)
    source = model_source.open_source(path)
    assert source.facts == facts.of(model)
    assert source.facts.network["image_size"] == small_graphs.SIZE
    x = (
        np.random.default_rng(0)
        .uniform(-1, 1, (2, small_graphs.SIZE, small_graphs.SIZE, 3))
        .astype(np.float32)
    )
    expected = model_source.from_model(model).call(x)
    for label, value in source.call(x).items():
        np.testing.assert_allclose(value, expected[label], rtol=1e-6)


def test_a_saved_model(model, tmp_path):
    path = str(tmp_path / "saved")
    model.export(path, verbose=False)
    with pytest.raises(errors.UsageError, match="--outputs=age,gender"):
        model_source.open_source(path)
    source = model_source.open_source(path, outputs=("age", "gender"))
    graph, nodes = small_graphs.frozen_file(tmp_path, source)
    assert small_graphs.compared(graph, source, nodes).failure(1.0) is None
    assert (
        small_graphs.compared(graph, model_source.from_model(model), nodes).failure(1.0)
        is None
    )


def make_run(directory, model):
    """A run directory with a best model and the checkpoint of epoch 3."""
    model.save(directory / "best.keras")
    recorded = {
        "train": {"records_dir": str(directory / "gone"), "ema_decay": 0.0},
        "model": models.info(model),
        "mean": dict(zip("RGB", (1.0, 2.0, 3.0), strict=True)),
        "class_names": ["man", "woman"],
        "age_range": [18, 60],
    }
    files.write_json(str(directory / "config.json"), recorded)
    found = {"mae": 4.5, "model": "elsewhere/best.keras"}
    files.write_json(str(directory / "metrics.json"), found)
    state = run_state.RunState(step=30, epoch=3)
    (directory / "checkpoints").mkdir()
    path = checkpoints.path_of(str(directory / "checkpoints"), 30)
    arrays = checkpoints.variable_values(
        tf.distribute.get_strategy(), {"model": model.variables}
    )
    row = {"state": dataclasses.asdict(state), "history": history.History().to_dict()}
    checkpoints.save(path, arrays, row)
    return path


def test_runs_and_checkpoints(model, tmp_path):
    checkpoint = make_run(tmp_path, model)
    best = model_source.open_source(str(tmp_path))
    known = frozen_model_facts.collect(best)
    assert known.class_names == ("man", "woman") and known.age_range == (18, 60)
    assert known.metrics["mae"] == 4.5 and known.records_dir == ""
    # The metrics are those of the best model, and not of this checkpoint.
    other = frozen_model_facts.collect(model_source.open_source(checkpoint))
    assert other.metrics == {}
    x = (
        np.random.default_rng(0)
        .uniform(-1, 1, (2, small_graphs.SIZE, small_graphs.SIZE, 3))
        .astype(np.float32)
    )
    for source in (
        model_source.open_source(str(tmp_path), epoch=3),
        model_source.open_source(checkpoint),
    ):
        assert source.path == checkpoint
        for label, value in source.call(x).items():
            np.testing.assert_array_equal(value, best.call(x)[label])
    with pytest.raises(errors.UsageError, match="which has: 3"):
        model_source.open_source(str(tmp_path), epoch=2)
    with pytest.raises(errors.UsageError, match="not contain final.keras"):
        model_source.open_source(str(tmp_path), which="final")


def foreign(image_size):
    image = keras.Input((image_size, image_size, 3), name="root_input")
    x = keras.layers.GlobalAveragePooling2D()(image)
    age = keras.layers.Dense(1, name="age_output")(x)
    gender = keras.layers.Dense(1, "sigmoid", name="gender_output")(x)
    return keras.Model(image, [age, gender])


@pytest.mark.parametrize(
    "name", ["best.keras", "final.keras", "face.keras", "face.h5", "saved"]
)
def test_a_model_that_was_copied_into_a_run(name, model, tmp_path, caplog):
    """It has nothing to do with the run, whatever its name is."""
    make_run(tmp_path, model)
    path = str(tmp_path / name)
    other, outputs = foreign(small_graphs.SIZE), ()
    if name == "saved":
        other.export(path, verbose=False)
        outputs = ("age", "gender")
    else:
        other.save(path)
    source = model_source.open_source(path, outputs=outputs)
    with pytest.raises(errors.UsageError, match="--class_names"):
        frozen_model_facts.collect(source)
    assert "is not one of the models that the run" in caplog.text
    known = frozen_model_facts.collect(
        source, class_names=("a", "b"), given_range="normalized"
    )
    assert known.class_names == ("a", "b") and known.mean is None


def test_the_networks_own_model_under_another_name(model, tmp_path):
    """Keras drops a model's facts, and another run's network may have equal shapes."""
    make_run(tmp_path, model)
    model.save(tmp_path / "mine.keras")
    source = model_source.open_source(str(tmp_path / "mine.keras"))
    with pytest.raises(errors.UsageError, match="--class_names"):
        frozen_model_facts.collect(source)


@pytest.mark.parametrize(
    ("names", "given", "task", "labels"),
    [
        (["age_output", "gender_output"], (), "", ["age", "gender"]),
        (["gender_output", "age_output"], (), "", ["gender", "age"]),
        (["out", "dense"], ("gender", "age"), "", ["gender", "age"]),
        (["dense"], (), "gender", ["gender"]),  # By the task.
        (["image_score"], (), "age_gender", None),  # "image" contains "age".
        (["dense", "dense_1"], (), "age_gender", None),
        (["age", "age_2"], (), "", None),
        (["age"], ("age", "gender"), "", None),
    ],
)
def test_labels_of_outputs(names, given, task, labels):
    if labels is None:
        with pytest.raises(errors.UsageError, match="outputs"):
            model_source.labels_of_outputs(names, given, task)
    else:
        assert model_source.labels_of_outputs(names, given, task) == labels


def small_keras2_model():
    tf_keras = pytest.importorskip("tf_keras")
    image = tf_keras.Input((small_graphs.SIZE, small_graphs.SIZE, 3))
    x = tf_keras.layers.Flatten()(image)
    return tf_keras.Model(image, tf_keras.layers.Dense(1, name="age")(x))


def test_a_data_set_without_training_images_tells_no_ages(sample_records, tmp_path):
    manifest = json.loads(files.read_bytes(f"{sample_records}/manifest.json"))
    del manifest["checksum"], manifest["splits"]["train"]
    files.write_json(str(tmp_path / "manifest.json"), files.seal_json(manifest))
    source = model_source.from_model(small_graphs.dense((20, 20, 3)))
    known = frozen_model_facts.collect(source, records_dir=str(tmp_path))
    assert known.age_range is None and known.records_dir == str(tmp_path)


def lambda_h5(tmp_path):
    tf_keras = pytest.importorskip("tf_keras")
    image = tf_keras.Input((small_graphs.SIZE, small_graphs.SIZE, 3))
    x = tf_keras.layers.Flatten()(tf_keras.layers.Lambda(lambda v: v * 2)(image))
    path = str(tmp_path / "code.h5")
    tf_keras.Model(image, tf_keras.layers.Dense(1, name="age")(x)).save(
        path, save_format="h5"
    )
    return path


def lambda_keras(tmp_path):
    image = keras.Input((small_graphs.SIZE, small_graphs.SIZE, 3))
    x = keras.layers.Flatten()(keras.layers.Lambda(lambda v: v * 2)(image))
    path = str(tmp_path / "code.keras")
    keras.Model(image, keras.layers.Dense(1, name="age")(x)).save(path)
    return path


@pytest.mark.parametrize("make", [lambda_h5, lambda_keras])
def test_code_in_a_file_is_refused_unless_it_is_trusted(make, tmp_path):
    path = make(tmp_path)
    with pytest.raises(errors.UsageError, match="--unsafe_load"):
        model_source.open_source(path)
    assert model_source.open_source(path, unsafe_load=True).labels == ("age",)


def keras2_file(tmp_path, change):
    """An ``.h5`` of Keras 2 whose attributes `change` edits."""
    path = str(tmp_path / "old.h5")
    small_keras2_model().save(path, save_format="h5")
    with h5py.File(path, "r+") as f:
        change(f.attrs)
    return path


def test_a_function_in_a_file_of_keras_2_is_code_too(tmp_path):
    def put_function(attrs):
        config = json.loads(attrs["model_config"])
        code = {"class_name": "__lambda__", "config": {"value": ["", None, None]}}
        config["config"]["layers"][-1]["config"]["activation"] = code
        attrs["model_config"] = json.dumps(config)

    path = keras2_file(tmp_path, put_function)
    with pytest.raises(errors.UsageError, match="--unsafe_load"):
        model_source.open_source(path)
    # With the flag Keras reads the file, and the function in this one is broken.
    with pytest.raises(errors.UsageError, match="cannot be loaded by Keras 2"):
        model_source.open_source(path, unsafe_load=True)


def test_damaged_attributes_of_a_keras_2_file_are_one_line(tmp_path):
    def cut(attrs):
        attrs["model_config"] = attrs["model_config"][:100]
        attrs["keras_version"] = "unknown"

    with pytest.raises(errors.DataError, match="old.h5 is damaged"):
        model_source.open_source(keras2_file(tmp_path, cut))


def write(name, content):
    def make(directory):
        (directory / name).write_bytes(content)
        return str(directory / name)

    return make


def weights_only(directory):
    path = str(directory / "w.weights.h5")
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)]).save_weights(path)
    return path


def nameless_checkpoint(directory):
    path = str(directory / "step-0000000001.ckpt")
    checkpoints.save(path, {}, {})
    return path


def empty_folder(directory):
    (directory / "empty").mkdir()
    return str(directory / "empty")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda d: str(d / "none.keras"), "does not exist"),
        (write("a.keras", b"no zip"), "a.keras"),
        (write("a.h5", b"no hdf5"), "cannot be read as HDF5"),
        (write("a.txt", b""), "takes a .keras or .h5 file"),
        (nameless_checkpoint, "does not say which network"),
        (weights_only, "does not contain a whole model"),
        (empty_folder, "neither a run directory"),
    ],
)
def test_files_that_are_no_models(make, message, tmp_path):
    with pytest.raises(errors.UsageError, match=message) as error:
        model_source.open_source(make(tmp_path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: small_graphs.dense((8, 8, 1)), r"\[n, size, size, 3\] is expected"),
        (lambda: small_graphs.dense((8, 9, 3)), "a square"),
        (lambda: small_graphs.dense((None, None, 3)), "--image_size"),
        (lambda: small_graphs.dense((8, 8, 3), batch=4), "batches of 4 only"),
        (lambda: small_graphs.dense((8, 8, 3), units=2), "one number is expected"),
        (lambda: keras.Sequential([keras.layers.Dense(1)]), "never built"),
    ],
)
def test_models_of_another_form(make, message):
    with pytest.raises(errors.UsageError, match=message):
        model_source.from_model(make())


def test_a_model_of_any_size_gets_one():
    source = model_source.from_model(small_graphs.dense((None, None, 3)), image_size=40)
    assert source.image_size == 40
