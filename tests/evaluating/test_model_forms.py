"""What can be frozen can be evaluated, with the result of plain Keras."""

import os
import shutil

import numpy as np
import pytest

from afad_tfdata import evaluation, freeze, input_fn, models, records, trainer
from afad_tfdata.common import errors
from afad_tfdata.common.lazy_imports import keras
from afad_tfdata.freezing import frozen_model_facts, model_source, verification_images
from afad_tfdata.images import tensor_preprocessing
from afad_tfdata.models import output_checks
from afad_tfdata.storage import schema
from afad_tfdata.training import checkpoints

SIZE = 16
NAMES = ("male", "female")


def evaluated(directory, records_dir, **changes):
    values = {
        "records_dir": records_dir,
        "output_dir": str(directory),
        "devices": "cpu",
        "bootstrap_samples": 0,
        "pictures": False,
    }
    return evaluation.evaluate(evaluation.EvaluateConfig(**{**values, **changes}))


def examples(records_dir):
    """All test images, and their ages and genders."""
    config = input_fn.InputConfig(
        records_dir=records_dir, global_batch_size=64, image_size=SIZE
    )
    images, ages, genders = [], [], []
    for features, labels in input_fn.eval_input_fn(config, "test"):
        mask = features["mask"].numpy()
        images.append(features["image"].numpy()[mask])
        ages.append(labels["age"].numpy()[mask])
        genders.append(labels["gender"].numpy()[mask])
    return tuple(map(np.concatenate, (images, ages, genders)))


def expected(records_dir, predict, mean=None):
    """MAE and accuracy of a function of images in [0, 255], or normalised by a mean."""
    images, ages, genders = examples(records_dir)
    values = images.astype(np.float32)
    if mean is not None:
        values = np.asarray(tensor_preprocessing.normalize(images, mean))
    age, gender = (np.ravel(v) for v in predict(values))
    return np.abs(age - ages).mean(), ((gender >= 0.5) == genders).mean()


def assert_is(result, wanted):
    assert result["mae"] == pytest.approx(wanted[0], rel=1e-4)
    assert result["accuracy"] == pytest.approx(wanted[1])


def network(framework, *, dtype="float32", name="root_input", first=()):
    """Both heads on an image; of Keras 3, or of Keras 2."""
    layers = framework.layers
    framework.utils.set_random_seed(3)
    x = image = framework.Input((SIZE, SIZE, 3), dtype=dtype, name=name)
    for layer in first:
        x = layer(x)
    x = layers.Flatten()(layers.AveragePooling2D(4)(x))
    age = layers.Dense(1, bias_initializer="ones", name="age_output")(x)
    gender = layers.Dense(1, activation="sigmoid", name="gender_output")(x)
    return framework.Model(image, [age, gender])


@pytest.fixture(scope="module")
def run(sample_records, tmp_path_factory):
    """A run of two epochs, of which each has its checkpoint.

    Its training had relative paths, as a command in the folder of a project has.
    """
    project = tmp_path_factory.mktemp("project")
    os.symlink(sample_records, project / "faces")
    before = os.getcwd()
    os.chdir(project)
    try:
        _train_in_the_project()
    finally:
        os.chdir(before)
    return str(project / "runs" / "first")


def _train_in_the_project():
    trainer.train(
        trainer.TrainConfig(
            records_dir="faces",
            run_dir="runs/first",
            backbone="small_cnn",
            hidden_units=4,
            image_size=SIZE,
            global_batch_size=32,
            epochs=2,
            steps_per_epoch=3,
            stage="tuning",
            augment="none",
            checkpoint_every=1,
            devices="cpu",
            tensorboard=False,
        )
    )


def test_a_run_is_used_from_another_working_directory(
    run, sample_records, tmp_path, monkeypatch, caplog
):
    """Its data set was not found; evaluation failed, and freezing drew faces."""
    monkeypatch.chdir(tmp_path)
    result = evaluated(tmp_path / "found", "", run_dir=run)
    given = evaluated(tmp_path / "given", sample_records, run_dir=run)
    assert result["mae"] == given["mae"] and result["auc"] == given["auc"]
    known = frozen_model_facts.collect(model_source.open_source(run))
    faces = verification_images.choose_images(known.records_dir, SIZE)
    assert faces.origin == "real images"
    assert "drawn faces" not in caplog.text
    # Where the data set is gone, evaluation says so, and freezing says what it takes.
    shutil.copytree(run, tmp_path / "copy")
    with pytest.raises(errors.UsageError, match="faces does not exist.*--records_dir"):
        evaluated(tmp_path, "", run_dir="copy")
    known = frozen_model_facts.collect(model_source.open_source("copy"))
    assert not known.records_dir and "is verified on drawn faces" in caplog.text


def test_each_epoch_of_a_run_and_its_checkpoint(run, sample_records, tmp_path):
    kept = os.path.join(run, "checkpoints")
    maes = []
    for epoch, number in enumerate(checkpoints.steps(kept), 1):
        by_epoch = evaluated(tmp_path, sample_records, run_dir=run, epoch=epoch)
        copied = shutil.copy(checkpoints.path_of(kept, number), tmp_path)
        by_file = evaluated(tmp_path, sample_records, model=str(copied))
        assert (by_file["mae"], by_file["auc"]) == (by_epoch["mae"], by_epoch["auc"])
        maes.append(by_epoch["mae"])
    assert len(maes) == 2 and maes[0] != maes[1]
    final = models.load(os.path.join(run, "final.keras"))
    mean = schema.load_manifest(sample_records).mean_rgb
    wanted = expected(sample_records, lambda x: final(x), mean)
    assert maes[1] == pytest.approx(wanted[0], rel=1e-4)
    with pytest.raises(errors.UsageError, match="which has: 1, 2"):
        evaluated(tmp_path, sample_records, run_dir=run, epoch=9)


def test_an_h5_file_of_keras_2_and_its_graph(sample_records, tmp_path):
    """A file of the original project can be evaluated as well as frozen."""
    tf_keras = pytest.importorskip("tf_keras")
    # Keras 3 does not load such a layer of Keras 2, because of its argument `groups`.
    layer = tf_keras.layers.DepthwiseConv2D(3, padding="same")
    model = network(tf_keras, first=[layer])
    path = str(tmp_path / "original.h5")
    model.save(path, save_format="h5")
    mean = schema.load_manifest(sample_records).mean_rgb
    wanted = expected(sample_records, lambda x: model(x, training=False), mean)
    with pytest.raises(errors.UsageError, match="--class_names"):
        evaluated(tmp_path, sample_records, model=path)
    result = evaluated(tmp_path, sample_records, model=path, class_names=NAMES)
    assert_is(result, wanted)
    graph = freeze.freeze(
        freeze.FreezeConfig(
            model=path,
            records_dir=sample_records,
            output_dir=str(tmp_path / "frozen"),
            class_names=NAMES,
            saved_model=True,
        )
    ).path
    for form in (graph, graph.removesuffix(".pb") + "_saved_model"):
        assert_is(evaluated(tmp_path, sample_records, model=form), wanted)


def test_a_uint8_input_gets_pixels(sample_records, sample_tree, tmp_path):
    model = network(
        keras,
        dtype="uint8",
        name="picture",
        first=[keras.layers.Rescaling(1 / 127.5, offset=-1)],
    )
    path = str(tmp_path / "pixels.keras")
    models.save(model, path, class_names=NAMES)
    wanted = expected(sample_records, lambda x: model(x.astype(np.uint8)))
    assert_is(evaluated(tmp_path, sample_records, model=path), wanted)
    with pytest.raises(errors.UsageError, match="takes pixels"):
        evaluated(tmp_path, sample_records, model=path, input_range="normalized")


def test_a_name_and_a_layer_that_disagree_are_asked_about(sample_records, tmp_path):
    """root_input is the name of a normalised input, and Rescaling takes pixels."""
    model = network(keras, first=[keras.layers.Rescaling(1 / 255)])
    path = str(tmp_path / "both.keras")
    models.save(model, path, class_names=NAMES)
    with pytest.raises(errors.UsageError, match="--input_range=normalized"):
        evaluated(tmp_path, sample_records, model=path)
    wanted = expected(sample_records, lambda x: model(x))
    result = evaluated(tmp_path, sample_records, model=path, input_range="pixels")
    assert_is(result, wanted)


@pytest.mark.parametrize("label", ["age", "gender"])
def test_nan_is_no_result(label, sample_records, sample_tree, tmp_path):
    """The weights are finite; the outputs of black and white squares are not."""
    image = keras.Input((SIZE, SIZE, 3), name="root_input")
    x = keras.layers.Flatten()(image)
    outputs = {
        "age_output": keras.layers.Dense(1)(x),
        "gender_output": keras.layers.Dense(1, activation="sigmoid")(x),
    }
    name = f"{label}_output"
    outputs[name] = keras.ops.log(-keras.ops.abs(outputs[name]) - 1)
    model = keras.Model(image, outputs)
    path = str(tmp_path / "nan.keras")
    models.save(model, path, class_names=NAMES)
    for call in (
        lambda: evaluated(tmp_path, sample_records, model=path),
        lambda: freeze.freeze(
            freeze.FreezeConfig(model=path, output_dir=str(tmp_path / "frozen"))
        ),
    ):
        with pytest.raises(errors.DataError, match="not finite") as caught:
            call()
        assert label in str(caught.value) and "\n" not in str(caught.value)


def test_ages_that_are_no_years_are_doubted(sample_records, tmp_path, caplog):
    """Shares of 100 years were measured, and frozen as years, without a word."""
    image = keras.Input((SIZE, SIZE, 3), name="root_input")
    x = keras.layers.Flatten()(image)
    age = keras.layers.Dense(1, activation="sigmoid", name="age_output")(x)
    path = str(tmp_path / "shares.keras")
    models.save(keras.Model(image, age), path)
    result = evaluated(tmp_path, sample_records, model=path)
    assert f"{-result['bias']:.3g} years too low: is the output in years" in caplog.text
    caplog.clear()
    freeze.freeze(
        freeze.FreezeConfig(
            model=path, records_dir=sample_records, output_dir=str(tmp_path / "frozen")
        )
    )
    assert (
        "they are in [0" in caplog.text and "in years, and not divided" in caplog.text
    )


@pytest.mark.parametrize(
    ("shift", "scale", "doubted"),
    [(0, 1, False), (-8, 1, False), (-15, 1, True), (15, 1, True), (0, 0.01, True)],
)
def test_which_ages_are_doubted(shift, scale, doubted):
    labels = np.array([20.0, 30, 40, 25, np.nan, 35, 28, 50, 45])
    predicted = (np.nan_to_num(labels, nan=30) + shift) * scale
    predicted += np.tile([0.3, -0.2, 0.1], 3) * scale
    text = output_checks.doubt_about_ages(predicted, labels)
    assert bool(text) == doubted
    assert bool(output_checks.doubt_about_ages(predicted)) == (scale < 1)
    assert not output_checks.doubt_about_ages(predicted[:2], labels[:2])


def test_a_data_set_that_is_only_a_test_set(sample_tree, tmp_path):
    """All of it is tested, and a foreign model can be evaluated on it."""
    directory = str(tmp_path / "records")
    records.write_records(
        records.WriteConfig(
            data_dir=sample_tree,
            output_dir=directory,
            test_fraction=1.0,
            image_size=SIZE,
            num_workers=1,
        )
    )
    splits = schema.load_manifest(directory).splits
    assert {name for name, split in splits.items() if split.num_examples} == {"test"}
    model = network(keras)
    path = str(tmp_path / "face.keras")
    models.save(model, path, class_names=NAMES)
    mean = schema.load_manifest(directory).mean_rgb
    result = evaluated(tmp_path, directory, model=path)
    assert "constant" not in evaluation.summary_text(
        result
    )  # It needs training images.
    assert result["examples"] == splits["test"].num_examples
    assert_is(result, expected(directory, lambda x: model(x), mean))
