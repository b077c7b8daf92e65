"""Training, evaluation and freezing on several data sets, and on the first examples."""

import json
import os

import pytest

from afad_tfdata import cross_validation, evaluation, trainer
from afad_tfdata.common import errors
from afad_tfdata.freezing import frozen_model_facts, model_source
from afad_tfdata.images import drawn_faces
from afad_tfdata.storage import joined_data_sets
from tests.writing import data_sets


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    directory = tmp_path_factory.mktemp("joined_training")
    for number in (1, 2):
        faces = directory / f"faces-{number}"
        drawn_faces.make_sample(
            drawn_faces.SampleConfig(str(faces), num_images=60, seed=number)
        )
        data_sets.write(faces, directory / f"records-{number}")
    return directory


def train(run_dir, records_dir, **changes):
    values = {
        "backbone": "small_cnn",
        "stage": "tuning",
        "epochs": 1,
        "global_batch_size": 8,
        "class_weight": "balanced",
        "task": "age_gender",
    }
    return trainer.train(
        trainer.TrainConfig(
            run_dir=str(run_dir), records_dir=records_dir, **values | changes
        )
    )


def test_a_run_on_two_data_sets_is_evaluated_on_both(home, monkeypatch):
    monkeypatch.chdir(home)
    text = "records-1,records-2"
    train(home / "run", text)
    config = json.loads((home / "run" / "config.json").read_text())
    manifest = joined_data_sets.load_manifest(text)
    assert config["mean"] == manifest.mean
    monkeypatch.chdir("/")  # The run finds its data sets from anywhere.
    result = evaluation.evaluate(evaluation.EvaluateConfig(run_dir=str(home / "run")))
    total = manifest.splits["test"].num_examples
    assert result["examples"] == total
    few = evaluation.evaluate(
        evaluation.EvaluateConfig(
            run_dir=str(home / "run"),
            max_examples=5,
            output_dir=str(home / "few"),
        )
    )
    assert few["examples"] == 5
    source = model_source.open_source(str(home / "run"))
    facts = frozen_model_facts.collect(source)
    assert len(facts.records_dir.split(",")) == 2
    assert all(os.path.isabs(path) for path in facts.records_dir.split(","))


def test_a_first_try_is_short(home):
    result = train(home / "try", str(home / "records-1"), max_examples=16)
    config = json.loads((home / "try" / "config.json").read_text())
    assert config["train"]["max_examples"] == 16
    lines = [
        json.loads(line)
        for line in (home / "try" / "metrics.jsonl").read_text().splitlines()
    ]
    assert max(line.get("step", 0) for line in lines) == 2  # 16 examples, 8 a step.
    del result


def test_folds_take_one_data_set(home):
    text = f"{home}/records-1,{home}/records-2"
    with pytest.raises(errors.UsageError, match="--folds takes one data set"):
        cross_validation.train(
            trainer.TrainConfig(
                run_dir=str(home / "folds"),
                records_dir=text,
                folds=3,
                backbone="small_cnn",
            )
        )
