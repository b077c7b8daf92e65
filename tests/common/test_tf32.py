"""Predictions and evaluations are computed in full float32, also on GPUs."""

from __future__ import annotations

import pytest

from afad_tfdata import evaluation
from afad_tfdata.common.lazy_imports import tf
from afad_tfdata.evaluating import evaluated_model
from afad_tfdata.freezing import loaded_graph
from afad_tfdata.storage import schema


@pytest.fixture
def is_on():
    """Turns TF32 on, as TensorFlow does at its start; tells whether it still is."""
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(True)
    yield tf.config.experimental.tensor_float_32_execution_enabled
    tf.config.experimental.enable_tensor_float_32_execution(before)


def test_a_loaded_graph_computes_in_full(is_on, tmp_path):
    with tf.Graph().as_default() as graph:
        image = tf.compat.v1.placeholder(tf.float32, [None, 1], name="image")
        tf.identity(image, name="age")
    path = tmp_path / "graph.pb"
    path.write_bytes(graph.as_graph_def().SerializeToString())
    loaded_graph.LoadedGraph(str(path), "image", {"age": "age"})
    assert not is_on()


def test_an_evaluation_computes_in_full(is_on, monkeypatch):
    class Stop(Exception):
        pass

    def load(*arguments, **keywords):
        raise Stop

    monkeypatch.setattr(evaluation, "places", lambda config: ("a", "b", "c"))
    monkeypatch.setattr(schema, "load_manifest", lambda path: None)
    monkeypatch.setattr(evaluated_model, "load", load)
    with pytest.raises(Stop):
        evaluation.evaluate(evaluation.EvaluateConfig(model="a", records_dir="b"))
    assert not is_on()
