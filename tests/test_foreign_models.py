"""Models of other programs: what they take and give is known, asked for, or refused."""

import os

import numpy as np
import pytest

from afad_tfdata import evaluation, freeze, models, prediction
from afad_tfdata.common import errors
from afad_tfdata.common.lazy_imports import keras
from afad_tfdata.models import input_range, output_checks

SIZE = 16
NAMES = ("male", "female")


def build(first=(), *, dtype="float32", activation="sigmoid", name="gender_output"):
    """A network whose answer depends on what it is fed, with layers before it."""
    keras.utils.set_random_seed(3)
    image = keras.Input((SIZE, SIZE, 3), dtype=dtype, name="picture")
    x = image
    for layer in first:
        x = layer(x)
    x = keras.layers.Flatten()(keras.layers.AveragePooling2D(4)(x))
    out = keras.layers.Dense(
        1, kernel_initializer="glorot_normal", activation=activation, name=name
    )
    return keras.Model(image, out(x))


def saved(model, path):
    models.save(model, str(path), class_names=NAMES)
    return str(path)


def evaluated(path, records, directory, **changes):
    return evaluation.evaluate(
        evaluation.EvaluateConfig(
            model=path,
            records_dir=records,
            output_dir=str(directory),
            devices="cpu",
            bootstrap_samples=0,
            pictures=False,
            **changes,
        )
    )


def frozen(path, directory, **changes):
    return freeze.freeze(
        freeze.FreezeConfig(
            model=path, output_dir=str(directory), output_name="face", **changes
        )
    )


def pixels(records):
    """All test images and their genders, as the model is fed them."""
    from afad_tfdata import input_fn

    config = input_fn.InputConfig(
        records_dir=records, global_batch_size=64, image_size=SIZE
    )
    found = [
        (f["image"].numpy()[f["mask"].numpy()], y["gender"].numpy()[f["mask"].numpy()])
        for f, y in input_fn.eval_input_fn(config, "test")
    ]
    images, genders = zip(*found, strict=True)
    return np.concatenate(images), np.concatenate(genders)


def test_a_model_with_rescaling_inside_takes_pixels(
    sample_records, sample_tree, tmp_path
):
    model = build([keras.layers.Rescaling(1 / 127.5, -1)])
    path = saved(model, tmp_path / "pixels.keras")
    images, genders = pixels(sample_records)
    expected = model.predict(images.astype(np.float32), verbose=0).reshape(-1)
    accuracy = np.mean((expected >= 0.5) == genders)
    result = evaluated(path, sample_records, tmp_path)
    assert result["accuracy"] == pytest.approx(accuracy)
    result = frozen(path, tmp_path, with_preprocessing=True)
    assert result.description["input_range"] == "pixels"
    assert result.description["divisor"] == 1
    # The graph, and the graph with preprocessing, evaluate and predict alike.
    again = evaluated(result.path, sample_records, tmp_path / "graph")
    assert again["accuracy"] == pytest.approx(accuracy)
    rows = [
        prediction.predict(prediction.PredictConfig(graph=graph), [sample_tree]).rows
        for graph in (result.path, str(tmp_path / "face_pixels.pb"))
    ]
    for one, other in zip(*rows, strict=True):
        assert one["probability"] == pytest.approx(other["probability"], abs=0.02)


def test_what_cannot_be_known_is_asked_for(sample_records, tmp_path):
    path = saved(build(), tmp_path / "mine.keras")
    for call in (
        lambda: evaluated(path, sample_records, tmp_path),
        lambda: frozen(path, tmp_path),
    ):
        with pytest.raises(errors.UsageError, match="--input_range=normalized"):
            call()
    accuracies = {
        given: evaluated(path, sample_records, tmp_path, input_range=given)["auc"]
        for given in ("normalized", "pixels", "unit")
    }
    images, genders = pixels(sample_records)
    from afad_tfdata.metrics import prediction_metrics

    outputs = models.load(path).predict(images / np.float32(255), verbose=0)
    columns = {"gender": outputs.reshape(-1), "label_gender": genders}
    expected = prediction_metrics.evaluate(columns, class_names=NAMES)["auc"]
    assert accuracies["unit"] == pytest.approx(expected)
    assert frozen(path, tmp_path, input_range="unit").description["divisor"] == 255


@pytest.mark.parametrize(
    "first, dtype, found",
    [
        ([], "uint8", "pixels"),
        ([], "float32", ""),
        (["rescaling"], "float32", "pixels"),
        (["identity"], "float32", ""),
        (["normalization"], "float32", "pixels"),
        (["standard"], "float32", ""),
    ],
)
def test_what_layers_prove(first, dtype, found):
    layers = {
        "rescaling": lambda: keras.layers.Rescaling(1 / 255),
        "identity": lambda: keras.layers.Rescaling(1.0),
        "normalization": lambda: keras.layers.Normalization(
            mean=[120.0, 110, 100], variance=[400.0, 400, 400]
        ),
        "standard": lambda: keras.layers.Normalization(
            mean=[0.1, 0, 0], variance=[1.0, 1, 1]
        ),
    }
    cast = [keras.layers.Rescaling(1 / 255)] if dtype == "uint8" else []
    model = build([*(layers[name]() for name in first), *cast], dtype=dtype)
    assert input_range.range_of_layers(model) == found


def test_a_contradiction_is_refused(tmp_path, sample_records):
    path = saved(build([keras.layers.Rescaling(1 / 255)]), tmp_path / "m.keras")
    with pytest.raises(errors.UsageError, match="takes pixels"):
        evaluated(path, sample_records, tmp_path, input_range="unit")


def test_logits_are_refused_or_become_probabilities(sample_records, tmp_path):
    model = build([keras.layers.Rescaling(1 / 32.0)], activation=None)
    path = saved(model, tmp_path / "logits.keras")
    for call in (
        lambda: evaluated(path, sample_records, tmp_path),
        lambda: frozen(path, tmp_path),
    ):
        with pytest.raises(errors.DataError, match="--outputs=age,gender_logits"):
            call()
    images, _ = pixels(sample_records)
    result = frozen(path, tmp_path, outputs=("gender_logits",))
    assert result.max_difference["gender"] < 1e-5
    from afad_tfdata.freezing import loaded_graph

    fetches = {"gender": "gender_output/Sigmoid"}
    graph = loaded_graph.LoadedGraph(result.path, "root_input", fetches)
    expected = keras.ops.sigmoid(model(images.astype(np.float32)))
    found = graph.run(images.astype(np.float32))["gender"]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    metrics = evaluated(path, sample_records, tmp_path, outputs=("gender_logits",))
    again = evaluated(result.path, sample_records, tmp_path / "graph")
    assert again["accuracy"] == pytest.approx(metrics["accuracy"])


def test_nan_outputs_are_no_result():
    for label in ("age", "gender"):
        with pytest.raises(errors.DataError, match="not finite"):
            output_checks.check_predictions(
                {label: np.array([0.5, np.nan])}, what="x.keras"
            )


def test_names_of_outputs_and_saved_models(sample_records, tmp_path):
    model = build([keras.layers.Rescaling(1 / 255)], name="who")
    path = saved(model, tmp_path / "m.keras")
    with pytest.raises(errors.UsageError, match="--outputs=age,gender"):
        evaluated(path, sample_records, tmp_path)
    first = evaluated(path, sample_records, tmp_path, outputs=("gender",))
    model.export(str(tmp_path / "saved"), verbose=False)
    second = evaluated(
        str(tmp_path / "saved"),
        sample_records,
        tmp_path,
        outputs=("gender",),
        input_range="pixels",
        class_names=NAMES,
    )
    assert first["accuracy"] == second["accuracy"]
    assert os.path.exists(tmp_path / "metrics.json")
