"""TFLite files of 16 and 8 bits: how they are made, what they lose, what is refused."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil

import numpy as np
import pytest

from afad_tfdata import freeze, input_fn, prediction
from afad_tfdata.common import errors
from afad_tfdata.freezing import (
    export_formats,
    loaded_graph,
    model_source,
    quantization,
    verification,
)
from afad_tfdata.images import tensor_preprocessing
from afad_tfdata.models import age_heads, facts
from afad_tfdata.storage import schema
from tests.freezing import small_graphs


@pytest.fixture(scope="module")
def model():
    return small_graphs.build()


def _config(directory, **changes) -> freeze.FreezeConfig:
    return freeze.FreezeConfig(
        **{
            "output_dir": str(directory),
            "output_name": "face",
            "tflite_float16": True,
            "tflite_int8": True,
            # The network is not trained, and its ages are of any size.
            "max_age_loss": 100.0,
            "max_gender_loss": 0.1,
            **changes,
        }
    )


@pytest.fixture(scope="module")
def result(model, sample_records, tmp_path_factory):
    directory = tmp_path_factory.mktemp("quantized")
    config = _config(directory, records_dir=sample_records, tflite=True)
    return freeze.freeze(config, model=model)


def _validation(records_dir: str, size: int) -> np.ndarray:
    faces = input_fn.open_records(records_dir, "validation", image_size=size)
    return faces[np.arange(len(faces))]["image"]


@pytest.mark.parametrize("kind", ["float16", "int8"])
def test_the_description_says_what_is_lost_on_faces_of_the_validation_split(
    kind, result, model, sample_records
):
    about = result.description["others"][f"tflite_{kind}"]
    directory = os.path.dirname(result.path)
    path = os.path.join(directory, f"face_{kind}.tflite")
    assert about["bytes"] == os.path.getsize(path)
    assert about["latency_ms"]["batch of 1"] > 0
    pixels = _validation(sample_records, small_graphs.SIZE)
    # Both files of one command are compared on the same faces.
    used = result.description["others"]["tflite_int8"]["calibration_images"]
    assert used == (len(pixels) + 1) // 2
    held_out = pixels[used:]
    assert about["verification_images"] == len(held_out)
    mean = facts.of(model).mean
    value = np.asarray(tensor_preprocessing.normalize(held_out, mean))
    graph = loaded_graph.LoadedGraph(path, "root_input", {"age": "", "gender": ""})
    outputs = graph.run(value)
    expected = dict(zip(("age", "gender"), model(value, training=False), strict=True))
    for label, output in outputs.items():
        difference = np.abs(output - np.asarray(expected[label]))
        assert about["mean_difference"][label] == pytest.approx(
            difference.mean(), rel=1e-3, abs=1e-6
        )
        assert about["max_difference"][label] == pytest.approx(
            difference.max(), rel=1e-3, abs=1e-6
        )
        assert difference.max() > 0
    equal = (outputs["gender"] >= 0.5) == (np.asarray(expected["gender"]) >= 0.5)
    assert about["equal_genders"] == pytest.approx(equal.mean())


def test_the_exact_files_are_judged_apart(result):
    # The loss of a quantized file does not count as a difference of the graph.
    assert result.max_difference["gender"] <= 1e-5
    assert "quantization" not in result.description["others"]["tflite"]
    lines = result.summary().splitlines()
    assert [x for x in lines if x.startswith("face_int8.tflite: ")]


def test_int8_has_whole_numbers_except_at_its_ends(result):
    path = os.path.join(os.path.dirname(result.path), "face_int8.tflite")
    interpreter = loaded_graph.tflite_interpreter()(path)
    interpreter.allocate_tensors()
    details = interpreter.get_tensor_details()
    floats = {d["index"] for d in details if np.dtype(d["dtype"]).kind == "f"}
    ends = interpreter.get_input_details() + interpreter.get_output_details()
    assert floats == {d["index"] for d in ends}
    weights = result.description["others"]
    assert weights["tflite_int8"]["bytes"] < weights["tflite_float16"]["bytes"]
    assert weights["tflite_float16"]["bytes"] < weights["tflite"]["bytes"]


def test_a_photo_is_predicted_with_the_int8_file(result, sample_tree):
    path = next(
        os.path.join(root, names[0])
        for root, _, names in os.walk(sample_tree)
        if names and names[0].endswith(".jpg")
    )
    found = {}
    for name in ("face.tflite", "face_int8.tflite"):
        graph = os.path.join(os.path.dirname(result.path), name)
        config = prediction.PredictConfig(graph=graph)
        (found[name],) = prediction.predict(config, [path]).rows
    loss = result.description["others"]["tflite_int8"]["max_difference"]
    ages = [row["age"] for row in found.values()]
    assert abs(ages[0] - ages[1]) <= 4 * loss["age"]


def test_a_file_that_loses_too_much_is_refused(model, sample_records, tmp_path):
    config = _config(
        tmp_path, records_dir=sample_records, tflite_float16=False, max_gender_loss=0.0
    )
    message = "face_int8.tflite loses too much: gender .*--max_gender_loss=0"
    with pytest.raises(errors.DataError, match=message) as caught:
        freeze.freeze(config, model=model)
    assert "\n" not in str(caught.value)
    assert not os.listdir(tmp_path)


def test_int8_is_not_calibrated_on_anything_else(model, sample_records, tmp_path):
    with pytest.raises(errors.UsageError, match="--tflite_int8 .* --records_dir"):
        freeze.freeze(_config(tmp_path / "a"), model=model)
    whole = shutil.copytree(sample_records, tmp_path / "records")
    manifest = schema.load_manifest(str(whole))
    splits = {k: v for k, v in manifest.splits.items() if k != "validation"}
    parsed = dataclasses.replace(manifest, splits=splits)
    (whole / "manifest.json").write_bytes(schema.manifest_bytes(parsed))
    with pytest.raises(errors.UsageError, match="validation split, and that of"):
        freeze.freeze(_config(tmp_path / "a", records_dir=str(whole)), model=model)
    assert not (tmp_path / "a").exists()


def test_float16_needs_no_records():
    images = quantization.choose_images("", 16, calibration_images=0)
    assert images.origin == "drawn faces"
    assert images.verification.shape == (quantization.VERIFICATION_IMAGES, 16, 16, 3)


def test_faces_are_calibrated_on_or_compared_but_not_both(sample_records):
    images = quantization.choose_images(sample_records, 16, calibration_images=5)
    assert len(images.calibration) == 5
    pixels = _validation(sample_records, 16)
    np.testing.assert_array_equal(
        np.concatenate([images.calibration, images.verification]), pixels
    )


@pytest.mark.parametrize(
    ("age", "gender", "failure"),
    [
        (0.5, 0.02, None),
        (0.51, 0.0, "age differs .* by 0.51 on average, and --max_age_loss=0.5"),
        (0.0, 0.03, "gender .*--max_gender_loss=0.02"),
        (float("nan"), 0.0, "age"),
        (float("inf"), 0.0, "age"),
    ],
)
def test_limits(age, gender, failure):
    comparison = verification.Comparison(
        {}, {}, {}, mean_difference={"age": age, "gender": gender}
    )
    text = quantization.QuantizationLimits(0.5, 0.02).failure(comparison)
    if failure is None:
        assert text is None
    else:
        assert re.match(failure, text)


def _written(source, tmp_path, images, **changes):
    """An int8 file of a source, and how it compares."""
    frozen = small_graphs.frozen(source)
    values = quantization.normalized_images(
        images.calibration, source.facts.mean, 127.5
    )
    frozen = dataclasses.replace(frozen, calibration=values, **changes)
    path = str(tmp_path / "face_int8.tflite")
    export_formats.FORMATS["tflite_int8"].write(frozen, path)
    cases = quantization.cases(source, images, source.facts.mean, 127.5)
    fetches = {label: label for label in source.labels}
    graph = loaded_graph.LoadedGraph(path, "root_input", fetches)
    outputs = [graph.run(case.inputs) for case in cases]
    candidate = verification.Candidate(path, "root_input", fetches, cases)
    return path, verification.compare(candidate, outputs, [0.0] * len(cases))


@pytest.mark.parametrize("head", age_heads.NAMES)
def test_every_age_head_survives_int8(head, sample_records, tmp_path):
    source = model_source.from_model(
        small_graphs.build(task="age", age_head=head, min_age=20, max_age=44)
    )
    images = quantization.choose_images(
        sample_records, small_graphs.SIZE, calibration_images=16
    )
    _, comparison = _written(source, tmp_path, images)
    assert comparison.equal_genders is None
    assert comparison.num_images == len(images.verification)
    # A twentieth of the range: the loss of trained networks is in docs/freezing.md.
    assert comparison.mean_difference["age"] < 1.2


def test_int8_inputs_and_outputs_have_their_scales(sample_records, tmp_path):
    source = model_source.from_model(small_graphs.build(task="gender"))
    images = quantization.choose_images(
        sample_records, small_graphs.SIZE, calibration_images=16
    )
    path, comparison = _written(source, tmp_path, images, int8_inputs=True)
    assert comparison.mean_difference["gender"] < 0.05
    scales = loaded_graph.tflite_scales(path)
    (feed,) = set(scales) - {"gender"}
    assert scales[feed]["dtype"] == scales["gender"]["dtype"] == "int8"
    # As a program in another language feeds it.
    values = quantization.normalized_images(
        images.verification, source.facts.mean, 127.5
    )
    stored = np.rint(values / scales[feed]["scale"]) + scales[feed]["zero_point"]
    interpreter = loaded_graph.tflite_interpreter()(path)
    function = interpreter.get_signature_runner("serving_default")
    output = function(**{feed: np.clip(stored, -128, 127).astype(np.int8)})["gender"]
    scale = scales["gender"]
    shown = (output.astype(np.float32) - scale["zero_point"]) * scale["scale"]
    graph = loaded_graph.LoadedGraph(path, "root_input", {"gender": ""})
    np.testing.assert_allclose(graph.run(values)["gender"], shown, atol=1e-6)


def test_a_network_that_has_no_form_in_whole_numbers_is_one_line(
    sample_records, tmp_path, monkeypatch
):
    class Converter:
        @staticmethod
        def from_saved_model(path):
            return Converter()

        class target_spec:  # noqa: N801
            pass

        def convert(self):
            raise RuntimeError("op 'tfl.foo' is not supported\nin int8")

    from afad_tfdata.common.lazy_imports import tf

    monkeypatch.setattr(tf.lite, "TFLiteConverter", Converter)
    with pytest.raises(errors.UsageError, match="'tfl.foo' is not supported in int8"):
        quantization.convert_to_tflite(
            str(tmp_path), np.zeros((1, 8, 8, 3), np.float32)
        )


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({"max_age_loss": -1.0}, "--max_age_loss"),
        ({"max_gender_loss": float("nan")}, "--max_gender_loss"),
        ({"calibration_images": 0}, "--calibration_images"),
        ({"tflite_int8": False, "int8_inputs": True}, "--int8_inputs"),
    ],
)
def test_flags_are_checked(changes, flag, tmp_path):
    with pytest.raises(errors.UsageError, match=flag):
        _config(tmp_path, **changes)
