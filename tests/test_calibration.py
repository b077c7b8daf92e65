"""From evaluation to graph and prediction: intervals, corrections, mirror images."""

import json
import os
import shutil

import numpy as np
import pytest

from afad_tfdata import evaluation, freeze, models, prediction, records
from afad_tfdata.common import errors
from afad_tfdata.common.lazy_imports import tf
from afad_tfdata.freezing import config as freeze_config
from afad_tfdata.freezing import (
    corrected_source,
    loaded_graph,
    model_source,
    verification,
)
from afad_tfdata.images import codec, drawn_faces
from afad_tfdata.metrics import age_intervals
from afad_tfdata.models import corrections_file
from tests.freezing import small_graphs

NODES = {"age": "age_output/BiasAdd", "gender": "gender_output/Sigmoid"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """120 drawn faces, about a third of them for validation and for test."""
    faces = tmp_path_factory.mktemp("faces") / "drawn"
    drawn_faces.make_sample(
        drawn_faces.SampleConfig(output_dir=str(faces), num_images=160, seed=3)
    )
    directory = str(faces.parent / "records")
    records.write_records(
        records.WriteConfig(
            data_dir=str(faces),
            output_dir=directory,
            image_size=small_graphs.SIZE,
            image_encoding="raw",
            test_fraction=0.4,
            validation_fraction=0.8,
            num_workers=1,
        )
    )
    return str(faces), directory


def save(path, **changes):
    model = small_graphs.build(**changes)
    models.save(model, str(path), class_names=("female", "male"))
    return model


@pytest.fixture(scope="module")
def measured(data, tmp_path_factory):
    """A model with a calibration, and the evaluation that measured it."""
    directory = tmp_path_factory.mktemp("model")
    path = str(directory / "m.keras")
    save(path, age_head="softmax_expectation")
    result = evaluate(data, path, flip_average=True, interval_coverage=0.8)
    return path, result


@pytest.fixture(scope="module")
def frozen_graph(measured, tmp_path_factory):
    directory = tmp_path_factory.mktemp("graph")
    return frozen(measured[0], directory, flip_average=True)


def evaluate(data, path, **values):
    return evaluation.evaluate(
        evaluation.EvaluateConfig(
            model=path,
            records_dir=data[1],
            devices="cpu",
            bootstrap_samples=0,
            pictures=False,
            **values,
        )
    )


def frozen(path, directory, **values):
    return freeze.freeze(
        freeze.FreezeConfig(
            model=path, output_dir=str(directory), class_names=(), **values
        )
    )


def run(path, value):
    return loaded_graph.LoadedGraph(path, "root_input", NODES).run(value)


def test_interval_goes_from_evaluation_to_graph_and_prediction(
    data, measured, frozen_graph, tmp_path
):
    path, result = measured
    interval = result["age_interval"]
    with open(os.path.join(os.path.dirname(path), "calibration.json")) as file:
        entry = json.load(file)["models"]["m.keras"]
    assert entry["age_interval"]["half_width"] == interval["half_width"]
    assert entry["flip_average"] is True
    assert interval["measured"]["examples"] == result["examples"]
    assert set(interval["measured"]["by_gender"]) == {"male", "female"}
    assert "by_age_group" in interval["measured"]
    assert 0 < interval["measured"]["scaled"]["coverage"] <= 1
    assert "Age intervals of 80%: cover " in evaluation.summary_text(result)
    json.dumps(result, allow_nan=False)
    graph = frozen_graph
    assert graph.description["age_interval"] == entry["age_interval"]
    assert "age intervals of 80%" in graph.summary()
    config = prediction.PredictConfig(graph=graph.path, output_format="json")
    rows = prediction.predict(config, [data[0]]).rows
    for row in rows:
        own = entry["age_interval"]["by_group"].get(
            row["gender"], entry["age_interval"]
        )
        half = own["half_width"]
        assert row["low"] == pytest.approx(max(row["age"] - half, 0), abs=0.011)
        assert row["high"] == pytest.approx(row["age"] + half, abs=0.011)
        assert row["coverage"] == 0.8
    table = prediction.Predictions(rows, [], 1).text("table")
    low, high = rows[0]["low"], rows[0]["high"]
    assert f"{int(np.ceil(low))} to {int(high)} at 80 %" in table
    assert "interval" in table.splitlines()[0] and "coverage" not in table
    csv = prediction.Predictions(rows, [], 1).text("csv")
    assert ",low,high,coverage," in csv.splitlines()[0]
    # The graph reports the coverage of its own interval.
    again = evaluate(data, graph.path, output_dir=str(tmp_path / "again"))
    for name, row in again["age_interval"]["measured"]["by_gender"].items():
        assert row == pytest.approx(interval["measured"]["by_gender"][name])


def test_a_stored_interval_is_reported_where_it_fits(data, measured, tmp_path):
    path, result = measured
    out = {"output_dir": str(tmp_path)}
    again = evaluate(data, path, flip_average=True, **out)
    assert again["age_interval"] == result["age_interval"]
    assert "calibration" not in again
    assert "age_interval" not in evaluate(data, path, **out)


def test_an_evaluation_of_something_else_keeps_the_interval(data, tmp_path):
    """The entry of a model is written as a whole, and a training stored one."""
    path = str(tmp_path / "m.keras")
    save(path, age_head="coral")
    first = evaluate(data, path, interval_coverage=0.8)["age_interval"]
    result = evaluate(data, path, gender_temperature=True)
    assert result["age_interval"] == first
    entry = corrections_file.load_entry(str(tmp_path), path)
    assert entry["gender_temperature"] and entry["age_interval"]["coverage"] == 0.8


def test_a_spread_in_the_graph_scales_the_intervals(data, measured, tmp_path):
    path, result = measured
    graph = frozen(path, tmp_path, flip_average=True, age_spread=True)
    about = graph.description
    assert [f["name"] for f in about["fetches"]] == [*NODES.values(), "age_spread/Sqrt"]
    assert about["fetches"][2]["meaning"] == "standard deviation of the age in years"
    assert set(about["corrections"]) == {
        *("flip_average", "gender_temperature", "age_correction")
    }
    scaled = about["age_interval"]["scaled"]
    assert f"{scaled['half_width']:.2f} times the spread" in graph.summary()
    # The description says what the comparison needs.
    freeze.freeze(
        freeze.FreezeConfig(model=path, output_dir=str(tmp_path), verify_only=True)
    )
    config = prediction.PredictConfig(graph=graph.path, output_format="json")
    rows = prediction.predict(config, [data[0]]).rows
    images = {name: load(name) for name in [row["image"] for row in rows]}
    values = np.stack([images[row["image"]] for row in rows])
    nodes = {**NODES, "age_spread": freeze_config.SPREAD_NODE}
    spread = loaded_graph.LoadedGraph(graph.path, "root_input", nodes).run(values)
    for row, years in zip(rows, spread["age_spread"].ravel(), strict=True):
        own = scaled["by_group"].get(row["gender"], scaled)
        half = own["half_width"] * max(float(years), age_intervals.SMALLEST_SPREAD)
        assert row["high"] - row["age"] == pytest.approx(half, abs=0.02)
    assert len({round(row["high"] - row["age"], 2) for row in rows}) > 10
    # The graph reports the same coverage of both forms as its model.
    again = evaluate(data, graph.path, output_dir=str(tmp_path / "again"))
    ours, theirs = (r["age_interval"]["measured"] for r in (again, result))
    assert ours["scaled"]["by_gender"].keys() == theirs["scaled"]["by_gender"].keys()
    assert ours["scaled"]["coverage"] == pytest.approx(theirs["scaled"]["coverage"])
    assert ours["coverage"] == pytest.approx(theirs["coverage"])
    assert "scaled by the spread: " in evaluation.summary_text(again)


def load(path):
    """An image as a graph is fed it."""
    with open(path, "rb") as file:
        pixels = codec.resize(codec.decode(file.read()), small_graphs.SIZE)
    return (pixels - np.float32(small_graphs.MEAN)) / np.float32(127.5)


def test_no_interval_and_no_spread_change_the_graph(measured, tmp_path):
    """The graph of a calibrated model is, byte for byte, that of any other."""
    path, _ = measured
    content = []
    for name in ("with", "without"):
        (tmp_path / name).mkdir()
        copied = shutil.copy(path, tmp_path / name / "m.keras")
        if name == "with":
            entry = corrections_file.load_entry(os.path.dirname(path), path)
            entry["flip_average"] = False
            corrections_file.store_entry(str(tmp_path / name), str(copied), entry)
        source = model_source.open_source(str(copied))
        flags = dict.fromkeys(
            ("flip_average", "gender_temperature", "age_correction"), False
        )
        corrections = corrected_source.find_corrections(source, **flags)
        assert (corrections.age_interval is not None) == (name == "with")
        source = corrected_source.with_corrections(source, corrections)
        graph, nodes = small_graphs.frozen_file(tmp_path / name, source)
        assert nodes == NODES
        with open(graph, "rb") as file:
            content.append(file.read())
    assert content[0] == content[1]


def test_a_spread_that_a_model_does_not_have_is_refused(tmp_path):
    path = str(tmp_path / "m.keras")
    save(path, age_head="regression")
    wanted = "predicts no distribution of ages .its age head is regression.; leave"
    with pytest.raises(errors.UsageError, match=f"--age_spread: .* {wanted}"):
        frozen(path, tmp_path, age_spread=True)
    save(path, age_head="coral", task="gender")
    with pytest.raises(errors.UsageError, match="predicts no distribution of ages"):
        frozen(path, tmp_path, age_spread=True)
    assert not list(tmp_path.glob("*.pb"))


@pytest.mark.parametrize("head", ["dldl_v2", "coral", "corn"])
def test_the_spread_of_every_kind_of_head_is_frozen(head, tmp_path):
    source = model_source.from_model(small_graphs.build(age_head=head))
    source = corrected_source.with_corrections(
        source, corrected_source.Corrections(age_spread=True)
    )
    graph, nodes = small_graphs.frozen_file(tmp_path, source)
    comparison = small_graphs.compared(graph, source, nodes)
    assert comparison.failure(1.0) is None
    assert set(comparison.largest) == {"age", "gender", "age_spread"}


def check_here(candidates):
    """As `verification.check`, without the fresh process, which takes seconds."""
    found = []
    for one in candidates:
        graph = loaded_graph.LoadedGraph(one.path, one.feed, one.fetches)
        outputs = [graph.run(case.inputs) for case in one.cases]
        found.append(verification.compare(one, outputs, [0.0] * len(outputs)))
    return found


def test_mirror_images_are_averaged_in_the_graph(measured, frozen_graph, monkeypatch):
    path, _ = measured
    model = models.load(path)
    value = small_graphs.noise(5)
    views = [model(v, training=False) for v in (value, value[:, :, ::-1])]
    # They would be equal for a network that does not tell left from right.
    assert np.abs(views[0][0] - views[1][0]).max() > 1e-3
    assert frozen_graph.description["corrections"]["flip_average"] is True
    # The description says what the comparison needs.
    monkeypatch.setattr(freeze.verification, "check", check_here)
    directory = os.path.dirname(frozen_graph.path)
    freeze.freeze(
        freeze.FreezeConfig(model=path, output_dir=directory, verify_only=True)
    )
    got = run(frozen_graph.path, value)
    for index, label in enumerate(("age", "gender")):
        wanted = np.mean([view[index].numpy() for view in views], axis=0)
        np.testing.assert_allclose(got[label], wanted, rtol=2e-5)
        one = run(frozen_graph.path, value[:1])[label]
        np.testing.assert_allclose(one, wanted[:1], rtol=2e-5)


def test_a_graph_without_the_average_has_neither_it_nor_its_interval(measured, caplog):
    source = model_source.open_source(measured[0])
    flags = {"gender_temperature": False, "age_correction": False}
    found = corrected_source.find_corrections(source, flip_average=False, **flags)
    assert found == corrected_source.Corrections()
    assert "measured with other corrections" in caplog.text
    # The graph that earlier programs read stays as it was.
    assert corrected_source.with_corrections(source, found) is source


@pytest.mark.parametrize("head, flip", [("regression", False), ("coral", True)])
def test_corrections_are_those_that_were_measured(tmp_path, head, flip):
    path = str(tmp_path / "m.keras")
    whole = models.training_model(save(path, age_head=head))
    entry = {
        "flip_average": flip,
        "gender_temperature": {"temperature": 2.5},
        "age_correction": {"slope": 0.8, "offset": 5.0},
        "age_interval": None,
    }
    corrections_file.store_entry(str(tmp_path), path, entry)
    source = model_source.open_source(path)
    corrections = corrected_source.find_corrections(
        source, flip_average=flip, gender_temperature=True, age_correction=True
    )
    assert corrections.in_graph == {k: entry[k] for k in list(entry)[:3]}
    source = corrected_source.with_corrections(source, corrections)
    # Also writes the graph as TensorFlow 1.15 reads it, or refuses an operation.
    graph, nodes = small_graphs.frozen_file(tmp_path, source)
    comparison = small_graphs.compared(graph, source, nodes)
    assert comparison.failure(1.0) is None
    value = small_graphs.noise(5)
    views = [value, value[:, :, ::-1]] if flip else [value]
    outputs = [whole(v, training=False) for v in views]
    age = np.mean([o["age_output"] for o in outputs], axis=0, dtype=np.float64)
    logits = [np.asarray(o["gender_logits"], np.float64) for o in outputs]
    p = np.mean([1 / (1 + np.exp(-z)) for z in logits], axis=0)
    odds = (p / (1 - p)) ** (1 / 2.5)
    got = run(graph, value)
    np.testing.assert_allclose(got["age"], 0.8 * age + 5, rtol=2e-5)
    np.testing.assert_allclose(got["gender"], odds / (1 + odds), atol=1e-5)


def test_a_network_is_in_an_averaged_graph_once(tmp_path):
    source = model_source.from_model(small_graphs.build())
    averaged = corrected_source.Corrections(flip_average=True)
    sizes = []
    for name, one in (
        ("plain", source),
        ("flip", corrected_source.with_corrections(source, averaged)),
    ):
        (tmp_path / name).mkdir()
        path, _ = small_graphs.frozen_file(tmp_path / name, one)
        sizes.append(os.path.getsize(path))
    assert sizes[1] < 1.1 * sizes[0]


def test_saturated_logits_keep_their_digits(tmp_path):
    """A probability of 1 in float32 says nothing about its logit."""
    model = small_graphs.build()
    layer = model.get_layer("gender_logits")
    layer.set_weights([100 * w for w in layer.get_weights()])
    source = model_source.from_model(model)
    source = corrected_source.with_corrections(
        source,
        corrected_source.Corrections(gender_temperature={"temperature": 10.0}),
    )
    value = small_graphs.noise(4)
    logits = models.training_model(model)(value)["gender_logits"].numpy()
    assert np.abs(logits).max() > 17
    got = source.call(tf.constant(value))["gender"].numpy()
    np.testing.assert_allclose(got, 1 / (1 + np.exp(-logits / 10)), rtol=1e-5)


def test_the_effect_on_the_evaluated_split_is_in_the_metrics(data, tmp_path):
    path = str(tmp_path / "m.keras")
    save(path, age_head="regression")
    plain = evaluate(data, path, output_dir=str(tmp_path / "plain"))
    result = evaluate(data, path, gender_temperature=True)
    assert result["log_loss"][1] < result["log_loss"][0]
    assert result["calibration"]["gender_temperature"]["temperature"] > 0
    # A temperature changes no decision, and not the order.
    for name in ("accuracy", "auc", "mae"):
        assert result[name] == pytest.approx(plain[name])
    assert "Temperature of the gender" in evaluation.summary_text(result)


def test_what_was_not_measured_is_refused(data, measured, tmp_path):
    path, _ = measured
    with pytest.raises(errors.UsageError, match="run afad-evaluate --age_correction"):
        frozen(path, tmp_path, age_correction=True)
    copied = shutil.copy(path, tmp_path / "other.keras")
    with pytest.raises(errors.UsageError, match="--gender_temperature: nothing was"):
        frozen(str(copied), tmp_path, gender_temperature=True)
    entry = {
        "flip_average": True,
        "gender_temperature": {"temperature": 2.0},
        "age_correction": None,
        "age_interval": None,
    }
    corrections_file.store_entry(str(tmp_path), str(copied), entry)
    with pytest.raises(errors.UsageError, match="was measured with --flip_average"):
        frozen(str(copied), tmp_path, gender_temperature=True)
    assert not list(tmp_path.glob("*.pb"))


@pytest.mark.parametrize(
    "values, message",
    [
        ({"interval_coverage": 0.999}, "needs at least 999 examples.*it has"),
        ({"interval_coverage": 0.9, "split": "validation"}, "--split=test"),
        ({"interval_coverage": 1.0}, "takes a share from 0 to below 1"),
        ({"interval_coverage": -0.1}, "takes a share from 0 to below 1"),
    ],
)
def test_a_coverage_that_cannot_be_had_is_one_line(data, measured, values, message):
    before = os.listdir(os.path.dirname(measured[0]))
    with pytest.raises(errors.UsageError, match=message):
        evaluate(data, measured[0], **values)
    assert os.listdir(os.path.dirname(measured[0])) == before


def test_flags_that_a_model_does_not_have_are_refused(data, tmp_path):
    for task, flag in (("gender", "age_correction"), ("age", "gender_temperature")):
        path = str(tmp_path / f"{task}.keras")
        save(path, task=task)
        label = flag.partition("_")[0]
        with pytest.raises(
            errors.UsageError, match=f"--{flag}: .* predicts no {label}"
        ):
            evaluate(data, path, **{flag: True})


def test_a_model_without_logits_is_scaled_by_its_probability():
    """Models of other programs have a sigmoid and no layer of logits."""
    model = small_graphs.build()
    source = model_source.from_model(model)
    assert source.parts is not None
    value = tf.constant(small_graphs.noise(5))
    for flip in (False, True):
        known = corrected_source.outputs(source, value, flip_average=flip)
        plain = corrected_source.dataclasses.replace(source, parts=None)
        blind = corrected_source.outputs(plain, value, flip_average=flip)
        np.testing.assert_allclose(
            blind["gender_logit"], known["gender_logit"], atol=1e-4
        )
