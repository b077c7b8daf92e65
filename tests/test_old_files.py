"""Files that an older version wrote are read, continued and verified by this one.

The files are in data/written_by_0_1_0, where README.md says how they were made.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import shutil

import numpy as np
import pytest

from afad_tfdata import evaluation, freeze, input_fn, models, prediction, trainer
from afad_tfdata.common import options
from afad_tfdata.common.lazy_imports import keras
from afad_tfdata.models import age_heads, backbones, networks
from afad_tfdata.training import automatic_options
from afad_tfdata.training import config as train_config
from afad_tfdata.writing import data_set_verification

_OLD_FILES = pathlib.Path(__file__).parent / "data" / "written_by_0_1_0"
_FORMATS = ("records", "records_hdf5")


@pytest.fixture(scope="module")
def expected():
    return json.loads((_OLD_FILES / "expected.json").read_text())


@pytest.fixture(autouse=True)
def copy(tmp_path, monkeypatch):
    """Works in a copy: the paths in the old files are relative, and a run writes."""
    directory = tmp_path / "old"
    shutil.copytree(_OLD_FILES, directory)
    monkeypatch.chdir(directory)
    return directory


@pytest.fixture
def small_networks(monkeypatch):
    """The few channels of the old networks, as make.py set them."""
    hidden = networks._add_hidden_layer

    def few_units(x, name, config):
        return hidden(x, name, dataclasses.replace(config, hidden_units=8))

    monkeypatch.setattr(backbones, "_SMALL_CHANNELS", (4, 4, 8, 8, 8))
    monkeypatch.setattr(networks, "_add_hidden_layer", few_units)


@pytest.mark.parametrize("records_dir", _FORMATS)
def test_old_records_are_sound(records_dir):
    assert data_set_verification.verify(records_dir) == []


@pytest.mark.parametrize("engine", ["mapped", "graph"])
@pytest.mark.parametrize("records_dir", _FORMATS)
def test_old_records_give_the_same_batches(expected, records_dir, engine):
    batches = expected["input"][records_dir]
    config = input_fn.InputConfig(
        records_dir=records_dir, global_batch_size=4, seed=1, engine=engine
    )
    _assert_batches(
        input_fn.train_input_fn(config).take(len(batches["train"])), batches["train"]
    )
    _assert_batches(input_fn.eval_input_fn(config, split="test"), batches["test"])


def _assert_batches(found, expected):
    found = list(found)
    assert len(found) == len(expected)
    for (features, labels), wanted in zip(found, expected, strict=True):
        assert labels["age"].numpy().tolist() == wanted["age"]
        assert labels["gender"].numpy().tolist() == wanted["gender"]
        # Engines and processors round a resized pixel differently, by 1 at most.
        mean_pixel = np.mean(features["image"].numpy())
        assert mean_pixel == pytest.approx(wanted["mean_pixel"], abs=0.5)


@pytest.mark.parametrize("left_open", [(), tuple(automatic_options.ASKING)])
def test_an_old_run_continues_with_the_same_numbers(
    left_open, expected, small_networks
):
    stored = json.loads(pathlib.Path("run/config.json").read_text())["train"]
    fields = options.defaults(train_config.TrainConfig)
    flags = {name: value for name, value in stored.items() if name in fields}
    assert set(stored) == set(flags), "a flag of the old version is gone"
    # Options without a flag are those that the run recorded, not today's choices.
    flags = {name: value for name, value in flags.items() if name not in left_open}

    result = trainer.train(
        trainer.TrainConfig(**{**flags, "epochs": 4, "start_epoch": 2})
    )

    found = result.history["epochs"]
    assert [epoch["epoch"] for epoch in found] == [1, 2, 3, 4]
    _assert_close(found, expected["history"]["epochs"], "epochs")


def test_an_old_run_is_evaluated_to_the_same_numbers(expected):
    found = evaluation.evaluate(
        evaluation.EvaluateConfig(
            run_dir="run", split="test", output_dir="evaluation", pictures=False
        )
    )
    wanted = expected["evaluation"]
    assert found.keys() >= wanted.keys()  # Newer versions measure more.
    for name in wanted.keys() - {"model", "records_dir", "files"}:
        _assert_close(found[name], wanted[name], name)


def _assert_close(found, wanted, name):
    """Equality of JSON values, numbers to 1e-5."""
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys(), name
        for key, value in wanted.items():
            _assert_close(found[key], value, f"{name}/{key}")
    elif isinstance(wanted, list):
        assert len(found) == len(wanted), name
        for position, (one, other) in enumerate(zip(found, wanted, strict=True)):
            _assert_close(one, other, f"{name}/{position}")
    elif isinstance(wanted, float):
        assert found == pytest.approx(wanted, rel=1e-5), name
    else:
        assert found == wanted, name


@pytest.mark.parametrize("head", age_heads.NAMES)
def test_an_old_model_gives_the_same_outputs(head):
    with np.load("heads/outputs.npz") as stored:
        outputs = dict(stored)
    model = models.load(f"heads/{head}.keras")
    assert isinstance(model, keras.Model)
    for label, value in zip(("age", "gender"), model(outputs["images"]), strict=True):
        np.testing.assert_allclose(value, outputs[f"{head}/{label}"], rtol=1e-5)


@pytest.mark.parametrize("head", age_heads.NAMES)
def test_old_variables_fit_the_layers_of_today(head, small_networks):
    """In order, as checkpoints store them; the outputs are those of the old layers."""
    with np.load("heads/outputs.npz") as stored:
        outputs = dict(stored)
    old = models.load(f"heads/{head}.keras")
    config = options.from_dict(models.ModelConfig, models.info(old), where=head)
    new = models.build_model(config, load_weights=False)
    variables = networks.stored_variables(new)
    for variable, value in zip(variables, old.variables, strict=True):
        assert variable.shape == value.shape
        variable.assign(value)
    for label, value in zip(("age", "gender"), new(outputs["images"]), strict=True):
        np.testing.assert_allclose(value, outputs[f"{head}/{label}"], rtol=1e-5)


def test_an_old_frozen_graph_equals_the_old_model():
    result = freeze.freeze(
        freeze.FreezeConfig(
            run_dir="run", output_dir="graph", output_name="faces", verify_only=True
        )
    )
    assert result.max_difference.keys() == {"age", "gender"}
    for label, difference in result.max_difference.items():
        assert difference <= result.allowed[label]


def test_an_old_checkpoint_freezes_to_the_old_graph(small_networks):
    """The frozen graph of the checkpoint equals that of the run's best model."""
    freeze.freeze(
        freeze.FreezeConfig(
            run_dir="run", epoch=2, output_dir="again", output_name="faces"
        )
    )
    images = _predicted("graph/faces.pb")
    assert _predicted("again/faces.pb") == images


def test_an_old_frozen_graph_predicts_the_same(expected):
    rows = _predicted("graph/faces.pb")
    assert len(rows) == len(expected["predictions"])
    for row, wanted in zip(rows, expected["predictions"], strict=True):
        assert (row["image"], row["gender"]) == (wanted["image"], wanted["gender"])
        assert row["age"] == pytest.approx(wanted["age"], abs=0.011)  # Two decimals.
        assert row["probability"] == pytest.approx(wanted["probability"], abs=2e-6)


def _predicted(graph):
    found = prediction.predict(prediction.PredictConfig(graph=graph), ["faces"])
    assert not found.bad
    return found.rows
