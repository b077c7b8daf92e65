"""The age interval that a training measures, and its way to graph and prediction."""

import json
import logging
import os

import numpy as np
import pytest

from afad_tfdata import evaluation, freeze, prediction, trainer
from afad_tfdata.common import errors
from afad_tfdata.metrics import age_intervals
from afad_tfdata.models import corrections_file
from afad_tfdata.training import best_epoch_age_interval

OPTIONS = {
    "task": "age_gender",
    "backbone": "small_cnn",
    "image_size": 16,
    "stage": "tuning",
    "epochs": 3,
    "global_batch_size": 32,
    "devices": "cpu",
    "augment": "none",
    "learning_rate": 1e-3,
}


def train(records_dir, run_dir, **more):
    values = {"records_dir": records_dir, "run_dir": str(run_dir), **OPTIONS, **more}
    return trainer.train(trainer.TrainConfig(**values))


@pytest.fixture(scope="module")
def trained(sample_records, tmp_path_factory):
    directory = tmp_path_factory.mktemp("interval") / "run"
    return train(sample_records, directory)


def predictions(result, records_dir, split):
    """Columns of the best model, from the command that others use."""
    config = evaluation.EvaluateConfig(
        model=result.best_path, records_dir=records_dir, devices="cpu"
    )
    columns, names = evaluation.predict(config, [split])
    return columns[split], names


@pytest.mark.latest
def test_the_best_epoch_has_an_interval(trained, sample_records):
    entry = corrections_file.load_entry(trained.run_dir, trained.best_path)
    interval = entry["age_interval"]
    assert interval == trained.age_interval
    columns, names = predictions(trained, sample_records, "validation")
    error = np.abs(columns["age"] - columns["label_age"])
    rank = int(np.ceil((len(error) + 1) * 0.9))
    assert interval["half_width"] == pytest.approx(np.sort(error)[rank - 1], abs=1e-3)
    assert interval["coverage"] == 0.9
    assert interval["examples"] == len(error)
    assert interval["scaled"]["examples"] == len(error)
    assert set(interval["by_group"]) <= set(names) == {"male", "female"}
    assert f"{interval['half_width']:.1f} years to each side" in trained.text()
    json.dumps(trained.to_dict(), allow_nan=False)


def test_it_equals_what_an_evaluation_measures(trained, sample_records, tmp_path):
    entry = corrections_file.load_entry(trained.run_dir, trained.best_path)
    values = {
        "model": trained.best_path,
        "records_dir": sample_records,
        "devices": "cpu",
        "bootstrap_samples": 0,
        "pictures": False,
        "output_dir": str(tmp_path),
    }
    # Without a flag: the stored interval, and its coverage on the test split.
    plain = evaluation.evaluate(evaluation.EvaluateConfig(**values))
    measured = plain["age_interval"].pop("measured")
    assert plain["age_interval"] == entry["age_interval"]
    assert measured["examples"] == plain["examples"]
    assert set(measured["by_gender"]) == {"male", "female"}
    try:
        result = evaluation.evaluate(
            evaluation.EvaluateConfig(**values, interval_coverage=0.9)
        )
    finally:  # Other tests need the entry of the training.
        corrections_file.store_entry(trained.run_dir, trained.best_path, entry)
    for form in ((), ("scaled",)):
        ours, theirs = entry["age_interval"], result["age_interval"]
        for name in form:
            ours, theirs = ours[name], theirs[name]
        assert ours["half_width"] == pytest.approx(theirs["half_width"], rel=1e-3)
        assert ours["by_group"].keys() == theirs["by_group"].keys()


def test_it_goes_to_the_graph_and_the_prediction(trained, sample_tree, tmp_path):
    result = freeze.freeze(
        freeze.FreezeConfig(run_dir=trained.run_dir, output_dir=str(tmp_path))
    )
    assert result.description["age_interval"] == trained.age_interval
    config = prediction.PredictConfig(graph=result.path, output_format="json")
    rows = prediction.predict(config, [sample_tree]).rows
    for row in rows:
        low, high = age_intervals.bounds(
            trained.age_interval, row["age"], row["gender"]
        )
        assert (row["low"], row["high"]) == pytest.approx((low, high), abs=0.011)


def test_the_interval_is_that_of_the_best_epoch_and_not_of_the_last(
    sample_records, tmp_path
):
    """A rate that spoils the network after its first epochs."""
    result = train(
        *(sample_records, tmp_path / "run"),
        learning_rate=0.3,
        optimizer="sgd",
        task="age",
        epochs=4,
        spike_factor=0,
    )
    assert result.best_epoch < result.epochs
    columns, _ = predictions(result, sample_records, "validation")
    error = np.sort(np.abs(columns["age"] - columns["label_age"]))
    rank = int(np.ceil((len(error) + 1) * 0.9))
    half = result.age_interval["half_width"]
    assert half == pytest.approx(error[rank - 1], rel=1e-3)


@pytest.mark.parametrize(
    "values", [{"interval_coverage": 0.0}, {"task": "gender"}], ids=str
)
def test_no_interval_where_none_is_wanted_or_possible(sample_records, tmp_path, values):
    result = train(sample_records, tmp_path / "run", epochs=1, **values)
    assert result.age_interval is None
    assert not os.path.exists(tmp_path / "run" / corrections_file.FILE_NAME)


def test_a_coverage_outside_of_its_range_is_one_line():
    for wrong in (1.0, -0.1, float("nan")):
        with pytest.raises(errors.UsageError, match="--interval_coverage takes"):
            trainer.TrainConfig(run_dir="run", interval_coverage=wrong)


def columns_of(number):
    rng = np.random.default_rng(0)
    age = rng.uniform(20, 40, number).astype(np.float32)
    return {"age": age, "label_age": age + rng.normal(0, 4, number)}


def model_file(tmp_path):
    path = tmp_path / "best.keras"
    path.write_bytes(b"a model")
    return str(path)


def test_examples_without_an_age_do_not_count(tmp_path):
    path, columns = model_file(tmp_path), columns_of(40)
    known = {k: v[:30] for k, v in columns.items()}
    columns["label_age"][30:] = -1
    best_epoch_age_interval.store(path, columns, (), coverage=0.9)
    wanted = age_intervals.fit_columns(known, (), coverage=0.9)
    assert best_epoch_age_interval.stored(path) == wanted


def test_too_few_examples_are_no_error(tmp_path, caplog):
    path = model_file(tmp_path)
    with caplog.at_level(logging.INFO):
        best_epoch_age_interval.store(path, columns_of(18), (), coverage=0.95)
    assert "needs at least 19 validation examples with an age, and there are 18" in (
        caplog.text
    )
    assert best_epoch_age_interval.stored(path) is None
    best_epoch_age_interval.store(path, columns_of(19), (), coverage=0.95)
    assert best_epoch_age_interval.stored(path)["examples"] == 19


def test_a_damaged_file_does_not_end_a_training(tmp_path, caplog):
    path = model_file(tmp_path)
    (tmp_path / corrections_file.FILE_NAME).write_text("{")
    best_epoch_age_interval.store(path, columns_of(30), (), coverage=0.9)
    assert f"the age interval of {path} is not stored" in caplog.text
    assert best_epoch_age_interval.stored(path) is None
