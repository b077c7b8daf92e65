"""Checkpoints as models: what they contain, and how much they say of themselves."""

import dataclasses
import shutil

import numpy as np
import pytest

from afad_tfdata import models, trainer
from afad_tfdata.common import errors
from afad_tfdata.models import backbones, facts, network_parts, networks
from afad_tfdata.training import checkpoint_model, checkpoints, run_dir

SIZE = 16


@pytest.fixture
def reversing(monkeypatch):
    """As for a large backbone with ImageNet weights, whose channels are BGR."""
    conversion = backbones.Conversion((1.0, 0.5, 2.0), (0.1, 0.2, -0.1), reverse=True)
    monkeypatch.setattr(backbones, "input_conversion", lambda *_: conversion)
    return conversion


def test_a_fixed_layer_is_in_no_checkpoint_and_never_trains(
    sample_records, tmp_path, replicas, reversing
):
    del replicas  # Created before the run asks for it.
    config = trainer.TrainConfig(
        records_dir=sample_records,
        run_dir=str(tmp_path / "run"),
        backbone="small_cnn",
        hidden_units=4,
        image_size=SIZE,
        global_batch_size=8,
        steps_per_epoch=2,
        epochs=1,
        stage="tuning",
        schedule="constant",  # So that the run can go on for longer.
        optimizer="adamw",
        weight_decay=0.1,
        augment="none",
        devices="cpu:2",
        tensorboard=False,
    )
    trainer.train(config)
    trainer.train(dataclasses.replace(config, epochs=2))

    final = models.load(str(tmp_path / "run" / run_dir.FINAL_NAME))
    layer = final.get_layer(network_parts.CONVERSION_NAME)
    kernel, bias = layer.get_weights()
    np.testing.assert_array_equal(kernel[0, 0], np.diag(reversing.scale)[::-1])
    np.testing.assert_allclose(bias, reversing.offset)
    kept = str(tmp_path / "run" / run_dir.CHECKPOINTS_NAME)
    newest = checkpoints.path_of(kept, checkpoints.steps(kept)[-1])
    names = [n for n in checkpoints.load(newest).arrays if n.startswith("model/")]
    assert len(names) == len(networks.stored_variables(final))
    assert len(names) == len(final.variables) - 2

    # Without its run, a copy says the same as the model of the same step.
    alone = shutil.copy(newest, tmp_path)
    model = checkpoint_model.load_model(alone, {})
    assert facts.of(model) == facts.of(final)
    assert facts.of(model).class_names == ("male", "female")
    x = np.random.default_rng(0).uniform(-1, 1, (3, SIZE, SIZE, 3)).astype(np.float32)
    for value, expected in zip(model(x), final(x), strict=True):
        np.testing.assert_array_equal(value, expected)


def test_a_checkpoint_that_does_not_say_its_network_is_refused(tmp_path):
    path = checkpoints.path_of(str(tmp_path), 1)
    checkpoints.save(path, {}, {})
    with pytest.raises(errors.UsageError, match="does not say which network"):
        checkpoint_model.load_model(path, {})
