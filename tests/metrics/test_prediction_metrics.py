"""Metrics against plain loops, and the constant predictor."""

import json

import numpy as np
import pytest

from afad_tfdata.metrics import prediction_metrics


def predictions(n=300, seed=0):
    rng = np.random.default_rng(seed)
    gender = rng.integers(0, 2, n)
    age = rng.integers(15, 73, n)
    return {
        "label_gender": gender.astype(np.int32),
        "gender": np.round(np.clip(rng.normal(0.3 + 0.4 * gender, 0.3), 0, 1), 1),
        "label_age": age.astype(np.float32),
        "age": (age + rng.normal(1, 6, n)).astype(np.float32),
    }


def auc(score, label):
    """Pairs counted one by one, ties half."""
    ones, zeros = score[label == 1], score[label == 0]
    wins = (ones[:, None] > zeros).sum() + 0.5 * (ones[:, None] == zeros).sum()
    return wins / (len(ones) * len(zeros))


def test_values():
    p = predictions()
    got = prediction_metrics.evaluate(p)
    predicted = p["gender"] >= 0.5
    right = predicted == p["label_gender"]
    error = p["age"].astype(np.float64) - p["label_age"]
    expected = {
        "examples": 300,
        "accuracy": right.mean(),
        "balanced_accuracy": np.mean(
            [right[p["label_gender"] == k].mean() for k in (0, 1)]
        ),
        "auc": auc(p["gender"], p["label_gender"]),
        "mae": np.abs(error).mean(),
        "rmse": np.sqrt((error**2).mean()),
        "cs5": (np.abs(error) <= 5).mean(),
        "bias": error.mean(),
    }
    assert {k: got[k] for k in expected} == pytest.approx(expected)
    confusion = [
        [int(((p["label_gender"] == a) & (predicted == b)).sum()) for b in (0, 1)]
        for a in (0, 1)
    ]
    assert got["confusion"] == confusion
    json.dumps(got, allow_nan=False)


def test_groups_partition_the_examples():
    p = predictions()
    got = prediction_metrics.evaluate(p, class_names=("m", "w"))
    assert list(got["by_gender"]) == ["m", "w"]
    for groups in (got["by_gender"], got["by_age_group"]):
        assert sum(g["examples"] for g in groups.values()) == 300
        mae = sum(g["examples"] * g["mae"] for g in groups.values()) / 300
        assert mae == pytest.approx(got["mae"])
    rows = (p["label_age"] >= 20) & (p["label_age"] <= 24)
    group = got["by_age_group"]["20-24"]
    assert group["mae"] == pytest.approx(np.abs(p["age"] - p["label_age"])[rows].mean())
    assert {"under 20", "50 and over"} <= set(got["by_age_group"])
    assert got["by_gender"]["m"]["auc"] is None  # One class has none.


def test_one_task_only():
    p = predictions()
    age = prediction_metrics.evaluate({"age": p["age"], "label_age": p["label_age"]})
    assert "accuracy" not in age and "by_gender" not in age and "mae" in age
    # Labels that nothing predicts serve to group by.
    both = prediction_metrics.evaluate({k: v for k, v in p.items() if k != "gender"})
    assert "accuracy" not in both and both["by_gender"]["male"]["mae"] > 0


def test_shape_n_by_1_and_no_examples():
    p = predictions()
    column = {k: v[:, np.newaxis] for k, v in p.items()}
    assert prediction_metrics.evaluate(column) == prediction_metrics.evaluate(p)
    assert (
        prediction_metrics.evaluate({k: v[:0] for k, v in p.items()})["examples"] == 0
    )


@pytest.mark.parametrize("error, near", [(5, 1), (5.01, 0), (-5, 1), (-5.01, 0)])
def test_cs5_counts_five_years(error, near):
    age = np.array([20 + error], np.float32)
    assert prediction_metrics.evaluate({"age": age, "label_age": [20]})["cs5"] == near


def test_threshold_belongs_to_class_1():
    p = {"gender": [0.5, 0.49], "label_gender": [1, 0]}
    assert prediction_metrics.evaluate(p)["accuracy"] == 1


def test_counted_metrics_equal_those_of_the_drawn_rows():
    """The weighted forms, AUC included, equal those of the resampled columns."""
    p = predictions(60)
    drawn = np.random.default_rng(5).integers(0, 60, 60)
    counts = np.bincount(drawn, minlength=60).astype(float)
    got = prediction_metrics.CountedMetrics(p).metrics(counts)
    expected = prediction_metrics.evaluate({k: v[drawn] for k, v in p.items()})
    assert got == pytest.approx({name: expected[name] for name in got})


def test_constant_predictor():
    counts = {"male": {"20": 5, "30": 1}, "female": {"22": 2, "40": 1}}
    labels = {"label_age": np.array([20, 25]), "label_gender": np.array([0, 1])}
    got = prediction_metrics.of_constant_predictor(counts, labels)
    assert got["predicts"] == {"age": 20, "gender": "male"}
    assert (got["mae"], got["bias"], got["accuracy"]) == (2.5, -2.5, 0.5)
    assert got["auc"] == 0.5
    female = prediction_metrics.of_constant_predictor({"female": {"22": 2}}, labels)
    assert female["predicts"]["gender"] == "female" and female["mae"] == 2.5
    # One of three examples has no gender, and one no age.
    partly = {"label_age": np.array([20, -1, 25]), "label_gender": np.array([0, 1, -1])}
    got = prediction_metrics.of_constant_predictor(counts, partly)
    assert (got["examples"], got["mae"], got["accuracy"]) == (3, 2.5, 0.5)


def test_no_constant_beats_it_on_its_own_split():
    rng = np.random.default_rng(0)
    ages = rng.integers(15, 73, 201)
    counts = {"male": {str(a): int((ages == a).sum()) for a in set(ages.tolist())}}
    got = prediction_metrics.of_constant_predictor(counts, {"label_age": ages})["mae"]
    assert got == min(np.abs(ages - c).mean() for c in range(15, 73))
