"""Freezing: names, equality with the model, the other files, what is refused."""

import json
import os
import shutil
import sys
import types

import numpy as np
import pytest

from afad_tfdata import freeze, models
from afad_tfdata.common import errors, files, options
from afad_tfdata.common.lazy_imports import keras, tf
from afad_tfdata.freezing import (
    build_graph,
    export_formats,
    graph_description,
    graphdef,
    loaded_graph,
    model_source,
    tf1_compatibility,
    verification,
    verification_images,
)
from afad_tfdata.models import age_heads, facts
from afad_tfdata.reading import index_loading
from tests.freezing import small_graphs


@pytest.fixture(scope="module")
def model():
    return small_graphs.build()


@pytest.fixture(scope="module")
def result(model, tmp_path_factory):
    """What `freeze` writes, verified in a fresh process."""
    directory = tmp_path_factory.mktemp("frozen")
    config = freeze.FreezeConfig(
        output_dir=str(directory), output_name="face", with_preprocessing=True
    )
    return freeze.freeze(config, model=model)


@pytest.mark.latest
def test_the_file_is_a_graph_of_constants_with_the_names(result):
    graph = loaded_graph.read_graph_def(result.path)
    by_name = graphdef.nodes(graph)
    assert not graph.library.function
    placeholders = [n for n in graph.node if n.op == "Placeholder"]
    assert [n.name for n in placeholders] == ["root_input"]
    shape = [d.size for d in placeholders[0].attr["shape"].shape.dim]
    assert shape == [-1, small_graphs.SIZE, small_graphs.SIZE, 3]
    assert by_name["age_output/BiasAdd"].op == "BiasAdd"
    assert by_name["gender_output/Sigmoid"].op == "Sigmoid"
    found = {n.op for n in graph.node}
    assert not found & {"Identity", "VarHandleOp", "ReadVariableOp", "Rsqrt", "NoOp"}
    assert "Mul" not in found and "AddV2" not in found  # Both moved into the weights.
    table = tf1_compatibility.known_operations()
    for node in graph.node:
        assert set(node.attr) <= set(table[node.op])


@pytest.mark.latest
def test_it_equals_the_model_at_any_batch_size(result, model):
    source = model_source.from_model(model)
    comparison = small_graphs.compared(result.path, source, small_graphs.NODES)
    assert comparison.failure(1.0) is None
    assert len(comparison.cases) == 6
    assert result.max_difference["gender"] <= 1e-5
    assert result.max_difference["age"] <= result.allowed["age"]
    # Compared with the model itself too, not only with its source.
    x = (
        np.random.default_rng(3)
        .uniform(-1, 1, (5, small_graphs.SIZE, small_graphs.SIZE, 3))
        .astype(np.float32)
    )
    expected = dict(zip(model.output_names, model.predict(x, verbose=0), strict=True))
    graph = loaded_graph.LoadedGraph(result.path, "root_input", small_graphs.NODES)
    found = graph.run(x)
    for label, value in found.items():
        np.testing.assert_allclose(value, expected[f"{label}_output"], rtol=1e-5)


def test_what_a_killed_process_left_is_removed(model, tmp_path):
    gone, alive = 1 << 30, os.getppid()  # No process has so large a number.
    (tmp_path / f".face.tmp-{gone}.pb").touch()
    (tmp_path / f".face.tmp-{gone}_saved_model").mkdir()
    kept = [f".face.tmp-{alive}.pb", f".other.tmp-{gone}.pb", "face.tmp-1.pb"]
    for name in kept:
        (tmp_path / name).touch()
    path = tmp_path / "face.keras"
    models.save(model, str(path))
    freeze.freeze(
        freeze.FreezeConfig(
            model=str(path), output_dir=str(tmp_path), output_name="face"
        )
    )
    left = sorted(n for n in os.listdir(tmp_path) if "tmp-" in n)
    assert left == sorted(kept)


def test_the_description_says_how_to_use_it(result):
    directory = os.path.dirname(result.path)
    assert sorted(os.listdir(directory)) == sorted(
        ["face.pb", "face_bytes.pb", "face_pixels.pb", "face.json", "mean.json"]
    )
    with open(os.path.join(directory, "face.json")) as f:
        about = files.unseal_json(json.load(f), "face.json")
    assert about == result.description
    assert about["graph"]["sha256"] == files.sha256(result.path)
    assert about["feeds"][0]["name"] == "root_input"
    assert about["feeds"][0]["shape"] == [None, small_graphs.SIZE, small_graphs.SIZE, 3]
    assert [f["label"] for f in about["fetches"]] == ["age", "gender"]
    assert [f["shape"] for f in about["fetches"]] == [[None, 1], [None, 1]]
    assert about["mean"] == dict(zip("RGB", small_graphs.MEAN, strict=True))
    assert about["class_names"] == ["female", "male"] and about["threshold"] == 0.5
    assert about["fetches"][1]["meaning"] == "probability of male"
    assert about["age_range"] == [15, 72]
    assert about["model"]["backbone"] == "small_cnn"
    assert about["graph"]["flops_per_image"] > 1e5
    assert set(about["others"]) == {"bytes", "pixels"}
    with open(os.path.join(directory, "mean.json")) as f:
        assert json.load(f) == about["mean"]
    assert "face.pb" in result.summary() and "batch of 7" in result.summary()


def test_a_graph_with_one_changed_weight_fails(result, model, tmp_path):
    graph = loaded_graph.read_graph_def(result.path)
    by_name = graphdef.nodes(graph)
    # The age's bias, by a thousandth: every output depends on it.
    node = by_name[by_name["age_output/BiasAdd"].input[1]]
    value = tf.make_ndarray(node.attr["value"].tensor) * np.float32(1.001)
    node.CopyFrom(graphdef.constant(node.name, value))
    path = str(tmp_path / "face.pb")
    files.write_atomic(path, graphdef.serialized(graph))
    source = model_source.from_model(model)
    comparison = small_graphs.compared(path, source, small_graphs.NODES)
    assert "age differs from the model's by" in comparison.failure(1.0)
    files.write_json(str(tmp_path / "face.json"), result.description)
    with pytest.raises(errors.DataError, match="SHA-256 differs"):
        graph_description.load_description(path)
    config = freeze.FreezeConfig(
        output_dir=str(tmp_path), output_name="face", verify_only=True
    )
    about = {**result.description}
    about["graph"] = {**about["graph"], "sha256": files.sha256(path)}
    files.write_json(str(tmp_path / "face.json"), about)
    with pytest.raises(errors.DataError, match="does not equal the model"):
        freeze.freeze(config, model=model)
    assert os.path.exists(path)


def test_a_graph_that_fails_does_not_get_its_name(model, tmp_path, monkeypatch):
    """And a graph that had the name before stays."""
    (tmp_path / "face.pb").write_bytes(b"older")
    calls = []

    def check(candidates):
        calls.append([os.path.exists(candidate.path) for candidate in candidates])
        return [
            verification.Comparison(
                {"a": {"age": 1.0, "gender": 0.0}}, {"age": 50.0, "gender": 1.0}, {}
            )
            for _ in candidates
        ]

    monkeypatch.setattr(verification, "check", check)
    config = freeze.FreezeConfig(output_dir=str(tmp_path), output_name="face")
    with pytest.raises(
        errors.DataError, match="age differs from the model's by 1 on a"
    ):
        freeze.freeze(config, model=model)
    # The earlier file was there at both verifications.
    assert calls == [[True], [True]]  # With constant folding, then without.
    assert os.listdir(tmp_path) == ["face.pb"]
    assert (tmp_path / "face.pb").read_bytes() == b"older"


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_fail(bad):
    case = verification.Case("c", np.zeros(1), {"age": np.array([[1.0]], np.float32)})
    candidate = verification.Candidate("p", "f", {"age": "a"}, [case])
    output = {"age": np.array([[bad]], np.float32)}
    assert verification.compare(candidate, [output], [1.0]).failure(1e9)
    wrong_shape = {"age": np.array([1.0], np.float32)}
    assert verification.compare(candidate, [wrong_shape], [1.0]).failure(1e9)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    model = small_graphs.build()
    weights = model.get_weights()
    weights[-1] = np.full_like(weights[-1], np.inf)
    model.set_weights(weights)
    with pytest.raises(errors.DataError, match="passed to freeze are not finite: "):
        freeze.freeze(freeze.FreezeConfig(output_dir=str(tmp_path)), model=model)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("head", [h for h in age_heads.NAMES if h != "regression"])
def test_every_age_head(head, tmp_path):
    source = model_source.from_model(
        small_graphs.build(age_head=head, min_age=20, max_age=44)
    )
    path, nodes = small_graphs.frozen_file(tmp_path, source)
    comparison = small_graphs.compared(path, source, nodes)
    assert comparison.failure(1.0) is None
    assert comparison.largest["age"] > 15


@pytest.mark.parametrize("task", ["age", "gender"])
def test_single_tasks_and_other_names(task, tmp_path):
    source = model_source.from_model(small_graphs.build(task=task))
    fetches = {task: "my/out"}
    graph = build_graph.build(source, fetches, feed="my/in")
    path = str(tmp_path / "graph.pb")
    files.write_atomic(path, graphdef.serialized(graph))
    comparison = small_graphs.compared(path, source, fetches, feed="my/in")
    assert comparison.failure(1.0) is None


def test_half_precision_is_built_again_in_float32(tmp_path):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        half = small_graphs.build()
    finally:
        keras.config.set_dtype_policy("float32")
    source = model_source.from_model(half)
    path, nodes = small_graphs.frozen_file(tmp_path, source)
    text = str(loaded_graph.read_graph_def(path))
    assert "DT_HALF" not in text and "DT_BFLOAT16" not in text
    assert small_graphs.compared(path, source, nodes).failure(1.0) is None
    x = np.zeros((1, small_graphs.SIZE, small_graphs.SIZE, 3), np.float32)
    by_half = np.asarray(half(x, training=False)[0])
    np.testing.assert_allclose(source.call(x)["age"], by_half, rtol=0.02)


def test_dropout_and_augmentation_are_gone(tmp_path):
    image = keras.Input((small_graphs.SIZE, small_graphs.SIZE, 3))
    x = keras.layers.RandomFlip()(image)
    x = keras.layers.RandomRotation(0.1)(x)
    x = keras.layers.Flatten()(x)
    x = keras.layers.GaussianNoise(0.5)(keras.layers.Dropout(0.5)(x))
    source = model_source.from_model(
        keras.Model(image, keras.layers.Dense(1, name="age_output")(x))
    )
    path, nodes = small_graphs.frozen_file(tmp_path, source)
    assert small_graphs.compared(path, source, nodes).failure(1.0) is None
    found = {n.op for n in loaded_graph.read_graph_def(path).node}
    assert not [op for op in found if "Random" in op or "Select" in op]


@pytest.mark.parametrize("kind", ["saved_model", "tflite", "onnx"])
def test_other_formats_equal_the_model(kind, model, tmp_path):
    if kind == "onnx":
        pytest.importorskip("tf2onnx", exc_type=ImportError)
        pytest.importorskip("onnxruntime", exc_type=ImportError)
    source = model_source.from_model(model)
    export_format = export_formats.FORMATS[kind]
    path = str(tmp_path / f"face{export_format.ending}")
    export_format.write(small_graphs.frozen(source), path)
    feed, fetches = export_format.names("root_input", small_graphs.NODES)
    comparison = small_graphs.compared(path, source, fetches, feed)
    assert comparison.failure(1.0) is None
    if kind == "saved_model":
        again = model_source.open_source(path)
        assert again.facts == facts.of(model)


def test_litert_runs_tflite_files_where_it_is_installed(monkeypatch):
    class Interpreter:
        pass

    litert = types.ModuleType("ai_edge_litert.interpreter")
    litert.Interpreter = Interpreter
    monkeypatch.setitem(sys.modules, "ai_edge_litert", types.ModuleType("litert"))
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", litert)
    assert loaded_graph.tflite_interpreter() is Interpreter
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    assert loaded_graph.tflite_interpreter() is tf.lite.Interpreter
    monkeypatch.setattr(loaded_graph, "tf", types.SimpleNamespace(lite=object()))
    with pytest.raises(errors.UsageError, match=r"running TFLite .*\[export\]"):
        loaded_graph.tflite_interpreter()


def test_an_unknown_operation_is_named_with_its_layer(tmp_path):
    image = keras.Input((small_graphs.SIZE, small_graphs.SIZE, 3))
    x = keras.layers.Flatten()(image)
    x = keras.layers.Activation(tf.math.special.dawsn, name="odd_one")(x)
    source = model_source.from_model(
        keras.Model(image, keras.layers.Dense(1, name="age_output")(x))
    )
    with pytest.raises(
        errors.UsageError, match="Dawsn, which comes from layer 'odd_one"
    ):
        small_graphs.frozen_file(tmp_path, source)
    path, nodes = small_graphs.frozen_file(tmp_path, source, tf1_compatible=False)
    assert small_graphs.compared(path, source, nodes).failure(1.0) is None


def test_real_images_come_from_the_validation_split(sample_records, model):
    faces = verification_images.choose_images(sample_records, small_graphs.SIZE)
    assert faces.origin == "real images"
    assert (
        faces.pixels.shape == (10, small_graphs.SIZE, small_graphs.SIZE, 3)
        and faces.pixels.dtype == np.uint8
    )
    assert len(np.unique(faces.pixels.reshape(10, -1), axis=0)) == 10


def test_a_damaged_image_of_the_validation_split_is_named(sample_records, tmp_path):
    directory = str(tmp_path / "bad")
    shutil.copytree(sample_records, directory)
    source = index_loading.load_split(directory, "validation")
    entry = source.entries[0]
    with open(source.paths[entry["shard"]], "r+b") as f:
        f.seek(int(entry["image_offset"]) + int(entry["image_length"]) // 2)
        f.write(b"\0" * 8)
    with pytest.raises(errors.DataError, match="checksum") as caught:
        verification_images.choose_images(directory, small_graphs.SIZE)
    assert "\n" not in str(caught.value)
    assert source.paths[entry["shard"]] in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({"output_dir": ""}, "--output_dir"),
        ({"model": "a", "run_dir": "b"}, "--run_dir"),
        ({"which": "last"}, "--which"),
        ({"tolerance": 0.0}, "--tolerance"),
        ({"tolerance": float("nan")}, "--tolerance"),
        ({"epoch": -1}, "--epoch"),
        ({"output_name": "a/b"}, "--output_name"),
        ({"input_node": "root input"}, "--input_node"),
        ({"output_nodes": ("a:0",)}, "--output_nodes"),
        ({"output_nodes": ("same", "same")}, "--output_nodes"),
        ({"output_nodes": ("root_input",)}, "--output_nodes"),
        ({"outputs": ("years",)}, "--outputs"),
    ],
)
def test_flags_are_checked(changes, flag):
    with pytest.raises(errors.UsageError, match=flag):
        freeze.FreezeConfig(**{"output_dir": "x", **changes})


def test_the_number_of_output_nodes_is_checked(model):
    config = freeze.FreezeConfig(output_dir="x", output_nodes=("one",))
    with pytest.raises(errors.UsageError, match="2 outputs: age, gender"):
        freeze.freeze(config, model=model)


def test_without_a_mean_there_is_no_preprocessing(tmp_path):
    config = freeze.FreezeConfig(output_dir=str(tmp_path), with_preprocessing=True)
    with pytest.raises(errors.UsageError, match="--mean_json"):
        freeze.freeze(config, model=small_graphs.dense((8, 8, 3)))


def test_every_flag_has_a_help_text():
    for spec in options.specs(freeze.FreezeConfig):
        assert spec.help.endswith((".", "). ")), spec.name


@pytest.mark.parametrize(
    ("case", "passes"), [("random input", True), ("real images", False)]
)
def test_random_input_may_differ_by_the_models_own_rounding(
    case, passes, model, tmp_path, monkeypatch
):
    """Images may not: float32 determines the output for an image well enough."""

    def check(candidates):
        tried = candidates[0].cases
        names = [c.name for c in tried]
        differences = {
            name: {"age": 1.9 if name.startswith(case) else 0.0, "gender": 0.0}
            for name in (*names, case)
        }
        random = (*(c.name for c in tried if not c.is_image), "random input")
        largest = {"age": 50.0, "gender": 1.0}
        return [
            verification.Comparison(
                differences, largest, dict.fromkeys(names, 1.0), random
            )
            for _ in candidates
        ]

    def own_difference(source, cases):
        return {"age": 0.5, "gender": 0.0}

    monkeypatch.setattr(verification, "check", check)
    monkeypatch.setattr(verification_images, "own_difference", own_difference)
    config = freeze.FreezeConfig(output_dir=str(tmp_path), output_name="face")
    if passes:
        result = freeze.freeze(config, model=model)
        assert result.description["parity"]["rounding"] == {"age": 0.5, "gender": 0.0}
        assert "differs from itself by 0.5 through rounding" in result.summary()
    else:
        with pytest.raises(errors.DataError, match=f"1.9 on {case}"):
            freeze.freeze(config, model=model)


def test_a_description_names_no_face_of_the_evaluation(tmp_path):
    import types

    from afad_tfdata.freezing import frozen_model_facts

    metrics = {
        "model": "run/best.keras",
        "mae": 3.0,
        "worst": [{"key": "18/111/7-0.jpg"}],
        "predictions": {"file": "predictions.npy"},
    }
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    source = types.SimpleNamespace(
        run={"directory": str(tmp_path)}, path=str(tmp_path / "best.keras")
    )
    found = frozen_model_facts._metrics_of_model(source)
    assert found == {"model": "run/best.keras", "mae": 3.0}
