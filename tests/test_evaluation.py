"""Evaluation: of a run, of a foreign model, on any number of replicas."""

import dataclasses
import json
import os
import shutil

import numpy as np
import pytest

from afad_tfdata import evaluation, models
from afad_tfdata.common import errors, files
from afad_tfdata.common.lazy_imports import keras, tf
from afad_tfdata.evaluating import evaluation_pictures, stored_predictions
from afad_tfdata.models import facts, model_weights
from afad_tfdata.reading import index_loading
from afad_tfdata.storage import schema

SIZE = 16


def save_model(path, task="age_gender", size=SIZE):
    keras.utils.set_random_seed(2)
    image = keras.Input((size, size, 3), name="root_input")
    x = keras.layers.Flatten()(keras.layers.AveragePooling2D(4)(image))
    outputs = []
    if "age" in schema.labels_of(task):
        bias = keras.initializers.Constant(25.0)
        outputs.append(
            keras.layers.Dense(1, bias_initializer=bias, name="age_output")(x)
        )
    if "gender" in schema.labels_of(task):
        gender = keras.layers.Dense(1, activation="sigmoid", name="gender_output")
        outputs.append(gender(x))
    model = keras.Model(image, outputs)
    models.save(model, str(path), class_names=("male", "female"))
    return str(path)


def by_hand(path, records_dir, split, decode="accurate"):
    """The model's outputs for the split, image by image."""
    from afad_tfdata import input_fn

    data = input_fn.InputConfig(
        records_dir=records_dir,
        global_batch_size=1,
        image_size=SIZE,
        decode=decode,
    )
    mean = np.array(schema.load_manifest(records_dir).mean_rgb, np.float32)
    model = models.load(path)
    ages, genders = [], []
    for features, _ in input_fn.eval_input_fn(data, split):
        x = (features["image"].numpy().astype(np.float32) - mean) / 127.5
        age, gender = model(x)
        ages.append(float(age[0, 0]))
        genders.append(float(gender[0, 0]))
    return np.array(ages), np.array(genders)


@pytest.mark.latest
@pytest.mark.parametrize("devices, batch", [("cpu", 7), ("cpu:2", 10)])
def test_a_foreign_model_counts_every_example_once(
    sample_records, tmp_path, devices, batch
):
    path = save_model(tmp_path / "mine.keras")
    result = evaluation.evaluate(
        evaluation.EvaluateConfig(
            model=path,
            records_dir=sample_records,
            split="validation",
            output_dir=str(tmp_path / "out"),
            batch_size=batch,
            bootstrap_samples=50,
            devices=devices,
            pictures=False,
        )
    )
    manifest = schema.load_manifest(sample_records)
    index = schema.load_index(sample_records, manifest, "validation")
    ages, genders = by_hand(path, sample_records, "validation")
    assert result["examples"] == len(index)
    assert result["mae"] == pytest.approx(np.abs(ages - index["age"]).mean(), rel=1e-5)
    right = (genders >= 0.5) == index["gender"]
    assert result["accuracy"] == pytest.approx(right.mean())
    assert np.sum(result["confusion"]) == len(index)
    said = stored_predictions.load(str(tmp_path / "out"), result["predictions"])
    np.testing.assert_allclose(said["age"], ages, rtol=1e-5)
    np.testing.assert_allclose(said["gender"], genders, atol=1e-5)
    np.testing.assert_array_equal(said["label_age"], index["age"])
    np.testing.assert_array_equal(said["label_gender"], index["gender"])
    error = np.abs(ages - index["age"])
    first = result["worst"][0]
    assert first["label"] == "age" and first["row"] == int(error.argmax())
    assert abs(first["value"] - first["predicted"]) == pytest.approx(error.max())
    where = index_loading.load_split(sample_records, "validation")
    assert first["key"] == where.filename(first["row"]) != ""
    assert sum(row["examples"] for row in result["by_age"].values()) == len(index)
    low, high = result["intervals"]["mae"]
    assert low <= result["mae"] <= high
    assert result["constant"]["predicts"]["gender"] in manifest.class_names
    with open(tmp_path / "out" / evaluation.METRICS_NAME) as f:
        assert json.load(f) == result
    text = evaluation.summary_text(result)
    assert "constant" in text and f"{result['mae']:.4f}" in text


def test_remote_records_are_fetched_once(sample_records, tmp_path, monkeypatch):
    """The keys of the worst faces come from the copies in --cache_dir."""
    remote = "ram://evaluated"
    for name in os.listdir(sample_records):
        if os.path.isfile(os.path.join(sample_records, name)):
            with tf.io.gfile.GFile(f"{remote}/{name}", "wb") as f:
                f.write(files.read_bytes(os.path.join(sample_records, name)))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    result = evaluation.evaluate(
        evaluation.EvaluateConfig(
            model=save_model(tmp_path / "mine.keras"),
            records_dir=remote,
            cache_dir=str(tmp_path / "cache"),
            output_dir=str(tmp_path / "out"),
            bootstrap_samples=0,
            devices="cpu",
            pictures=False,
        )
    )
    where = index_loading.load_split(sample_records, "test")
    assert len(result["worst"]) == 32
    for face in result["worst"]:
        assert face["key"] == where.filename(face["row"]) != ""
    assert os.listdir(tmp_path / "cache") and not os.path.exists(tmp_path / "home")


def test_jpegs_are_decoded_as_in_training(sample_records, tmp_path):
    path = save_model(tmp_path / "mine.keras")
    found = {}
    for decode in ("accurate", "fast"):
        known = dataclasses.replace(facts.read_file(path), decode=decode)
        facts.write_file(path, known)
        config = evaluation.EvaluateConfig(
            model=path,
            records_dir=sample_records,
            devices="cpu",
            bootstrap_samples=0,
            pictures=False,
        )
        found[decode] = evaluation.evaluate(config)["mae"]
        index = schema.load_index(
            sample_records, schema.load_manifest(sample_records), "test"
        )
        ages, _ = by_hand(path, sample_records, "test", decode)
        mae = np.abs(ages - index["age"]).mean()
        assert found[decode] == pytest.approx(mae, rel=1e-6)
    assert found["fast"] != pytest.approx(found["accurate"], rel=1e-6)


@pytest.mark.parametrize("task", schema.TASKS)
def test_pictures_are_those_of_the_outputs(sample_records, tmp_path, task):
    path = save_model(tmp_path / "mine.keras", task=task)
    result = evaluation.evaluate(
        evaluation.EvaluateConfig(
            model=path,
            records_dir=sample_records,
            devices="cpu",
            bootstrap_samples=0,
        )
    )
    drawn = {name for name in os.listdir(tmp_path) if name.endswith(".png")}
    wanted = {evaluation_pictures.WORST_NAME}
    ages = {
        evaluation_pictures.ERROR_NAME,
        evaluation_pictures.DECISIONS_NAME,
        evaluation_pictures.GROUPS_NAME,
    }
    wanted |= ages if "age" in task else set()
    wanted |= {evaluation_pictures.CONFUSION_NAME} if "gender" in task else set()
    assert drawn == wanted
    wanted |= {"metrics.json", "predictions.npy"}
    assert {os.path.basename(p) for p in result["files"]} == wanted
    assert set(result["by_gender"]) == {"male", "female"}
    assert ("mae" in result) == ("age" in task)
    assert "intervals" not in result


def test_decisions_about_age_are_in_the_metrics(sample_records, tmp_path):
    path = save_model(tmp_path / "mine.keras")
    config = evaluation.EvaluateConfig(
        model=path,
        records_dir=sample_records,
        split="train",
        devices="cpu",
        bootstrap_samples=10,
        pictures=False,
        age_thresholds=["30", " 24"],  # As the command line passes them.
    )
    assert config.age_thresholds == (30, 24)
    result = evaluation.evaluate(config)
    ages, _ = by_hand(path, sample_records, "train")
    manifest = schema.load_manifest(sample_records)
    label = schema.load_index(sample_records, manifest, "train")["age"]
    decisions = result["age_decisions"]
    assert list(decisions["thresholds"]) == ["24", "30"]
    for years in (24, 30):
        row = decisions["thresholds"][str(years)]
        assert row["false_positive_rate"] == (ages >= years)[label < years].mean()
        assert row["false_negative_rate"] == (ages < years)[label >= years].mean()
    for name, row in decisions["groups"]["gender"].items():
        assert row["mae"] == pytest.approx(result["by_gender"][name]["mae"])
    text = evaluation.summary_text(result)
    assert "At 24 years: " in text and "Challenge age for 30: " in text
    with open(tmp_path / evaluation.METRICS_NAME) as f:
        assert json.load(f)["age_decisions"] == decisions


def test_age_thresholds_are_refused_for_a_model_without_age(sample_records, tmp_path):
    path = save_model(tmp_path / "mine.keras", task="gender")
    with pytest.raises(errors.UsageError, match=f"{path} predicts no age"):
        evaluation.evaluate(
            evaluation.EvaluateConfig(
                model=path, records_dir=sample_records, age_thresholds=(18,)
            )
        )


def test_the_worst_faces_are_those_with_the_largest_errors():
    rng = np.random.default_rng(1)
    columns = {
        "age": rng.uniform(15, 60, 90),
        "label_age": np.full(90, 30.0),
        "gender": rng.uniform(0, 1, 90),
        "label_gender": np.zeros(90, np.int32),
    }
    worst = evaluation_pictures.worst_rows(columns)
    assert len(worst) == 32
    ages = [row for row, name in worst if name == "age"]
    errors_of = np.abs(columns["age"] - 30)
    assert sorted(errors_of)[-16:][::-1] == pytest.approx(list(errors_of[ages]))


def test_a_model_with_nan_weights_is_refused(sample_records, tmp_path):
    """On a CPU its outputs are numbers: a ReLU turns NaN into 0."""
    model = models.build_model(
        models.ModelConfig(backbone="small_cnn", weights="none", image_size=48)
    )
    kernel = next(v for v in model.variables if v.path.endswith("kernel"))
    values = kernel.numpy()
    values.flat[0] = np.nan
    kernel.assign(values)
    path = str(tmp_path / "nan.keras")
    model.save(path)
    with pytest.raises(errors.DataError, match=f"{path} are not finite: .*kernel"):
        evaluation.evaluate(
            evaluation.EvaluateConfig(
                model=path, records_dir=sample_records, devices="cpu"
            )
        )
    assert not (tmp_path / evaluation.METRICS_NAME).exists()


def test_a_model_in_half_precision_is_evaluated_in_float32(sample_records, tmp_path):
    config = models.ModelConfig(
        backbone="small_cnn", weights="none", image_size=SIZE, mean=(120, 110, 100)
    )
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = models.build_model(config)
    finally:
        keras.config.set_dtype_policy("float32")
    path = str(tmp_path / "half.keras")
    models.save(model, path, class_names=("male", "female"))
    seen = []
    rebuild = model_weights.rebuild_float32

    def spy(value):
        seen.append(rebuild(value))
        return seen[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_weights, "rebuild_float32", spy)
        evaluation.evaluate(
            evaluation.EvaluateConfig(
                model=path,
                records_dir=sample_records,
                devices="cpu",
                bootstrap_samples=0,
                pictures=False,
            )
        )
    assert {layer.compute_dtype for layer in seen[0].layers} == {"float32"}


@pytest.mark.parametrize(
    "values, message",
    [
        ({}, "one of --model and --run_dir; got neither"),
        ({"model": "m.keras", "run_dir": "r"}, "got both"),
        ({"model": "m.keras"}, "--model needs --records_dir"),
        ({"run_dir": "r", "split": "all"}, "--split takes one of"),
        ({"run_dir": "r", "batch_size": 0}, "--batch_size is at least 1"),
        ({"run_dir": "r", "age_thresholds": (0,)}, "--age_thresholds takes different"),
        ({"run_dir": "r", "age_thresholds": (18, 18)}, "got 18,18"),
        ({"run_dir": "r", "age_thresholds": (18.5,)}, "takes whole numbers"),
        ({"run_dir": "r", "age_thresholds": ["18", "x"]}, "takes whole numbers"),
        ({"run_dir": "r", "age_thresholds": "18,21"}, "takes whole numbers"),
    ],
)
def test_contradictions_are_one_line(values, message):
    with pytest.raises(errors.UsageError, match=message):
        evaluation.EvaluateConfig(**values)


def test_what_is_missing_is_named(sample_records, tmp_path):
    with pytest.raises(errors.UsageError, match="config.json.*--run_dir names"):
        evaluation.evaluate(evaluation.EvaluateConfig(run_dir=str(tmp_path)))
    (tmp_path / "config.json").write_text('{"train": {}}')
    with pytest.raises(errors.UsageError, match="does not contain best.keras yet"):
        evaluation.evaluate(evaluation.EvaluateConfig(run_dir=str(tmp_path)))
    missing = {"model": str(tmp_path / "no.keras"), "records_dir": sample_records}
    with pytest.raises(errors.UsageError, match="no.keras does not exist"):
        evaluation.evaluate(evaluation.EvaluateConfig(**missing))


def test_an_image_that_is_not_square_is_refused(sample_records, tmp_path):
    image = keras.Input((8, 9, 3))
    age = keras.layers.Dense(1, name="age_output")(keras.layers.Flatten()(image))
    keras.Model(image, age).save(tmp_path / "odd.keras")
    values = {"model": str(tmp_path / "odd.keras"), "records_dir": sample_records}
    with pytest.raises(errors.UsageError, match="a square of a known size is"):
        evaluation.evaluate(evaluation.EvaluateConfig(**values))
    assert tf.io.gfile.exists(values["model"])


def test_the_result_of_another_split_is_not_replaced_silently(
    sample_records, tmp_path, caplog
):
    path = save_model(tmp_path / "mine.keras", task="gender")
    for split, warned in (("test", 0), ("test", 0), ("validation", 1)):
        evaluation.evaluate(
            evaluation.EvaluateConfig(
                model=path,
                records_dir=sample_records,
                split=split,
                devices="cpu",
                bootstrap_samples=0,
                pictures=False,
            )
        )
        assert caplog.text.count("is replaced by that of the validation") == warned


def test_damaged_records_are_skipped_on_request(sample_records, tmp_path):
    directory = shutil.copytree(sample_records, tmp_path / "records")
    manifest = schema.load_manifest(str(directory))
    index = schema.load_index(str(directory), manifest, "validation")
    row = index[0]
    shard = directory / manifest.split("validation").shards[row["shard"]].name
    with open(shard, "r+b") as file:
        file.seek(int(row["image_offset"]))
        file.write(bytes(int(row["image_length"])))
    values = {
        "model": save_model(tmp_path / "mine.keras"),
        "records_dir": str(directory),
        "split": "validation",
        "devices": "cpu",
        "bootstrap_samples": 0,
    }
    with pytest.raises(errors.DataError, match="--max_bad_records"):
        evaluation.evaluate(evaluation.EvaluateConfig(**values))
    result = evaluation.evaluate(evaluation.EvaluateConfig(**values, max_bad_records=1))
    assert result["examples"] == len(index) - 1
    ages, _ = by_hand(values["model"], sample_records, "validation")
    wanted = np.abs(ages - index["age"])[1:].mean()
    assert result["mae"] == pytest.approx(wanted, rel=1e-5)
    assert (tmp_path / evaluation_pictures.WORST_NAME).exists()


def test_the_worst_faces_are_their_own_where_a_record_is_skipped(monkeypatch):
    images = np.arange(4, dtype=np.uint8)[:, None, None, None]
    batch = {
        "image": tf.constant(images),
        "mask": tf.constant([True, False, True, True]),
    }
    monkeypatch.setattr(
        evaluation.input_fn,
        "eval_input_fn",
        lambda data, split: [(batch, {}), (batch, {})],
    )
    found = evaluation_pictures._images_of_rows(None, "test", {0, 1, 4})
    assert {row: int(image.max()) for row, image in found.items()} == {0: 0, 1: 2, 4: 2}
