"""Trainings with a backbone of keras-hub: phases, exact resume, the graph."""

import json
import os
import shutil

import numpy as np
import pytest

from afad_tfdata import freeze, models, prediction, trainer
from afad_tfdata.common import errors
from afad_tfdata.models import backbones, facts
from afad_tfdata.training import run_dir
from tests.models import hub_presets

SIZE = 16
RECIPE = {"stage": "recipe", "warmup_epochs": 1, "epochs": 1, "patience": 1}


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    directory = tmp_path_factory.mktemp("presets") / "vit"
    return hub_presets.vit(directory, size=SIZE, num_layers=2)


def train(records_dir, run, preset, callbacks=(), **more):
    values = {
        "task": "age_gender",
        "image_size": SIZE,
        "global_batch_size": 64,
        "hidden_units": 8,
        "devices": "cpu",
        "tensorboard": False,
        **(more or RECIPE),
    }
    config = trainer.TrainConfig(
        records_dir=records_dir, run_dir=str(run), backbone=preset, **values
    )
    return trainer.train(config, callbacks=callbacks)


class StopAfter:
    """Ends a training in the middle of its second phase."""

    def on_epoch(self, event):
        if event.epoch == 1:
            raise trainer.StopTraining("enough")


@pytest.fixture(scope="module")
def trained(sample_records, preset, tmp_path_factory):
    return train(sample_records, tmp_path_factory.mktemp("runs") / "whole", preset)


def weights(path):
    return models.load(path).get_weights()


def test_the_recipe_warms_up_and_tunes(trained, preset):
    assert {"warmup", "tuning"} <= {row["stage"] for row in trained.history["epochs"]}
    model = models.load(trained.final_path)
    before = models.build_model(
        models.ModelConfig(
            backbone=preset, image_size=SIZE, mean=facts.of(model).mean, hidden_units=8
        )
    )
    ours, theirs = (backbones.backbone_of(m) for m in (model, before))
    changed = {
        v.path: not np.array_equal(v, w)
        for v, w in zip(ours.variables, theirs.variables, strict=True)
        if "seed_generator" not in v.path
    }
    # The default trains the top four layers: two blocks, a dropout and the last
    # normalisation.
    assert not any(c for path, c in changed.items() if "embedding" in path)
    assert all(c for path, c in changed.items() if "transformer_block_2/mlp" in path)
    config = run_dir.read_config(trained.run_dir)
    assert config["train"]["backbone"] == preset


def test_a_run_that_was_stopped_ends_with_the_same_bits(
    trained, sample_records, preset, tmp_path
):
    stopped = train(sample_records, tmp_path / "run", preset, [StopAfter()])
    assert stopped.stopped and stopped.epochs == 1
    result = train(sample_records, tmp_path / "run", preset)
    assert result.history["epochs"] == trained.history["epochs"]
    for name in ("best_path", "final_path"):
        pairs = zip(
            *(weights(getattr(r, name)) for r in (result, trained)), strict=True
        )
        assert all(np.array_equal(a, b) for a, b in pairs)


def test_a_preset_that_was_changed_does_not_continue_a_run(
    sample_records, preset, tmp_path
):
    """Not even where every weight would have a place."""
    directory = tmp_path / "vit"
    shutil.copytree(preset.removeprefix("keras_hub:"), directory)
    name = f"keras_hub:{directory}"
    options = {"stage": "warmup", "epochs": 2}
    train(sample_records, tmp_path / "run", name, [StopAfter()], **options)
    path = directory / "config.json"
    config = json.loads(path.read_text())
    config["config"]["layer_norm_epsilon"] = 0.1
    path.write_text(json.dumps(config))
    with pytest.raises(errors.UsageError, match="another preset of keras-hub than"):
        train(sample_records, tmp_path / "run", name, **options)
    ends = sorted(os.listdir(tmp_path / "run" / "checkpoints"))
    with pytest.raises(errors.UsageError, match="was trained with another preset"):
        freeze.freeze(
            freeze.FreezeConfig(
                model=str(tmp_path / "run" / "checkpoints" / ends[-1]),
                output_dir=str(tmp_path / "out"),
            )
        )


def test_the_graph_predicts_and_describes_the_preset(trained, sample_tree, tmp_path):
    result = freeze.freeze(
        freeze.FreezeConfig(run_dir=trained.run_dir, output_dir=str(tmp_path))
    )
    assert result.description["age_interval"] == trained.age_interval
    assert result.description["model"]["weights"] == "preset"
    config = prediction.PredictConfig(graph=result.path, output_format="json")
    rows = prediction.predict(config, [sample_tree]).rows
    assert all(0 <= row["probability"] <= 1 and row["low"] < row["age"] for row in rows)
