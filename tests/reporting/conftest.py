"""Evaluated runs: that of version 0.1.0, with the evaluations of small models."""

from __future__ import annotations

import json
import os
import pathlib
import shutil

import pytest

from tests.test_evaluation import save_model

OLD = pathlib.Path(__file__).parents[1] / "data" / "written_by_0_1_0"


@pytest.fixture(scope="session")
def evaluated_runs(sample_records, tmp_path_factory) -> tuple[str, str]:
    """Two runs with evaluations on the test split of `sample_records`.

    Do not change them.
    """
    from afad_tfdata import evaluation, models

    directory = tmp_path_factory.mktemp("runs")
    for name, shift in (("first", 0.0), ("second", 3.0)):
        run = directory / name
        shutil.copytree(OLD / "run", run)
        os.remove(run / "best.keras")
        path = save_model(run / "best.keras")
        model = models.load(path)
        bias = model.get_layer("age_output").bias
        bias.assign_add([shift])
        models.save(model, path, class_names=("male", "female"))
        evaluation.evaluate(
            evaluation.EvaluateConfig(
                model=path,
                records_dir=sample_records,
                output_dir=str(run),
                devices="cpu",
                bootstrap_samples=20,
                pictures=False,
                age_thresholds=(18, 25),
                **(
                    {}
                    if shift
                    else {
                        "interval_coverage": 0.8,
                        "age_correction": True,
                    }
                ),
            )
        )
        history = json.loads((run / "history.json").read_text())
        for row in history["epochs"]:
            row["validation"]["mae"] += shift
        (run / "history.json").write_text(json.dumps(history))
    return str(directory / "first"), str(directory / "second")
