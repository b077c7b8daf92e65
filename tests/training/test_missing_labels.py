"""Examples that lack a label count for the other label only."""

from __future__ import annotations

import dataclasses
import json

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies

from afad_tfdata import evaluation, input_fn, trainer
from afad_tfdata.common import errors
from afad_tfdata.models import age_heads, losses
from afad_tfdata.reading import record_index
from afad_tfdata.storage import joined, schema
from afad_tfdata.training import epoch_metrics, evaluation_metrics
from tests.writing.data_sets import face_file, write

_MISSING = -1


def _outputs(rng, batch: int, config: losses.LossConfig) -> dict[str, tf.Tensor]:
    """Outputs of a network for a batch: random logits and what follows from them."""
    classes = config.max_age - config.min_age + 1
    width = {"regression": 1}.get(config.age_head, classes)
    width -= config.age_head in age_heads.RANKS
    logits = tf.constant(rng.normal(size=(batch, width)), tf.float64)
    gender = tf.constant(rng.normal(size=(batch, 1)), tf.float64)
    return {
        "age_logits": logits,
        "age_output": tf.reduce_sum(logits, 1, keepdims=True) + 30,
        "gender_logits": gender,
        "gender_output": tf.sigmoid(gender),
    }


def _labels(rng, batch: int, config: losses.LossConfig):
    age = rng.integers(config.min_age, config.max_age + 1, batch).astype(np.float32)
    gender = rng.integers(0, 2, batch).astype(np.int32)
    lacks_age, lacks_gender = rng.random((2, batch)) < 0.3
    lacks_gender &= ~lacks_age
    age[lacks_age], gender[lacks_gender] = _MISSING, _MISSING
    return age, gender


@pytest.mark.parametrize("head", age_heads.NAMES)
@pytest.mark.parametrize("weighted", [False, True])
def test_gradients_are_those_without_the_rows(head, weighted):
    """For each label the gradient is that of a batch of the rows that have it."""
    config = losses.LossConfig(
        task="age_gender",
        age_head=head,
        min_age=20,
        max_age=27,
        gender_weight=3.0,
        class_weights=(1.0, 2.5) if weighted else (1.0, 1.0),
        age_weights=tuple(np.linspace(0.5, 2, 8)) if weighted else (),
        masks=True,
    )
    rng = np.random.default_rng(3)
    outputs = _outputs(rng, 12, config)
    age, gender = _labels(rng, 12, config)

    def gradient(config, rows, label):
        part = {name: tf.gather(value, rows) for name, value in outputs.items()}
        with tf.GradientTape() as tape:
            tape.watch([part["age_logits"], part["age_output"], part["gender_logits"]])
            found = losses.build(config)(
                part,
                {"age": tf.gather(age, rows), "gender": tf.gather(gender, rows)},
            )
            loss = tf.reduce_sum(found[f"{label}_loss"]) / len(rows)
        names = ("age_logits", "age_output", "gender_logits")
        values = tape.gradient(loss, [part[n] for n in names])
        return float(loss), [
            np.zeros((12, 1)) if v is None else _spread(v, rows) for v in values
        ]

    def _spread(value, rows):
        whole = np.zeros((12, value.shape[1]))
        whole[rows] = value.numpy()
        return whole

    for label, column in (("age", age), ("gender", gender)):
        rows = np.flatnonzero(column >= 0)
        assert 0 < len(rows) < 12
        loss, with_all = gradient(config, np.arange(12), label)
        plain = dataclasses.replace(config, task=label, masks=False)
        wanted_loss, without = gradient(plain, rows, label)
        np.testing.assert_allclose(loss, wanted_loss, rtol=1e-6)
        for one, other in zip(with_all, without, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-9)


def test_a_batch_without_any_label_has_no_loss():
    config = losses.LossConfig(task="age", min_age=20, max_age=27, masks=True)
    outputs = {"age_output": tf.constant([[25.0], [30.0]])}
    found = losses.build(config)(outputs, {"age": tf.constant([-1.0, -1.0])})
    assert found["loss"].numpy().tolist() == [0.0, 0.0]


@hypothesis.given(strategies.integers(0, 2**31 - 1))
def test_metrics_are_those_without_the_rows(seed):
    rng = np.random.default_rng(seed)
    config = losses.LossConfig(min_age=20, max_age=60)
    count = int(rng.integers(2, 40))
    label_age, label_gender = _labels(rng, count, config)
    label_age[0], label_gender[0] = 30, 1
    columns = {
        "age": rng.uniform(20, 60, count),
        "label_age": label_age,
        "gender": rng.random(count),
        "label_gender": label_gender,
        "age_loss": rng.random(count) * (label_age >= 0),
        "gender_loss": rng.random(count) * (label_gender >= 0),
    }
    columns["loss"] = 2 * columns["age_loss"] + 5 * columns["gender_loss"]
    weights = {"age_loss": 2.0, "gender_loss": 5.0}
    found = epoch_metrics.validation(columns, weights)
    result = evaluation_metrics.evaluate(columns)
    intervals = evaluation_metrics.intervals(columns, samples=20)
    for label, of_label in (
        ("age", ("mae", "age_loss")),
        ("gender", ("accuracy", "gender_loss")),
    ):
        rows = columns[f"label_{label}"] >= 0
        alone = {
            name: columns[name][rows]
            for name in (label, f"label_{label}", f"{label}_loss")
        }
        wanted = epoch_metrics.validation(alone)
        for name in of_label:
            np.testing.assert_allclose(found[name], wanted[name], rtol=1e-12)
        wanted = evaluation_metrics.evaluate(alone)
        for name in ("mae", "rmse", "cs5", "accuracy", "auc", "confusion"):
            if name in wanted:
                assert result[name] == wanted[name]
        for name, values in evaluation_metrics.intervals(alone, samples=20).items():
            assert intervals[name] == values
    joint = 2 * found["age_loss"] + 5 * found["gender_loss"]
    np.testing.assert_allclose(found["loss"], joint, rtol=1e-12)
    assert result["examples"] == count


def test_the_constant_predictor_ignores_missing_labels():
    counts = {
        "male": {"20": 3, "-1": 50},
        "female": {"40": 1},
        "(no gender)": {"60": 1},
    }
    labels = {
        "label_age": np.array([20.0, -1, 40]),
        "label_gender": np.array([0, 1, -1]),
    }
    found = evaluation_metrics.constant(counts, labels)
    assert found["predicts"] == {"age": 20.0, "gender": "male"}
    assert found["mae"] == 10.0 and found["accuracy"] == 0.5 and found["examples"] == 3


@pytest.fixture(scope="module")
def partly_labelled(tmp_path_factory) -> str:
    """A data set in which a third of the faces lacks the age, a third the gender."""
    root = tmp_path_factory.mktemp("faces")
    rows = ["path,age,gender,split"]
    for i in range(48):
        (root / f"{i}.jpg").write_bytes(face_file(i))
        age = "" if i % 3 == 0 else str(20 + i % 7)
        gender = "" if i % 3 == 1 else "mf"[i // 3 % 2]
        split = ("train", "train", "validation", "test")[i // 3 % 4]
        rows.append(f"{i}.jpg,{age},{gender},{split}")
    (root / "l.csv").write_text("\n".join(rows))
    flags = {"labels_csv": str(root / "l.csv"), "missing_labels": "keep"}
    manifest = write(root, root / "out", **flags)
    assert manifest.written == 48 and manifest.labels == ("age", "gender")
    assert manifest.splits["train"].num_without("age") == 8
    assert manifest.config["missing_labels"] == "keep"
    return str(root / "out")


def test_the_first_examples_lack_labels_too(partly_labelled):
    """The counts decide whether a loss has masks."""
    limited = joined.load_manifest(partly_labelled, 20).splits["train"]
    index = record_index.load(partly_labelled, "train", max_examples=20).entries
    for label in ("age", "gender"):
        missing = int((index[label] == schema.MISSING).sum())
        assert missing and limited.num_without(label) == missing


@pytest.mark.parametrize("task", ["age_gender", "age", "gender"])
def test_a_partly_labelled_data_set_is_trained_and_evaluated(
    task, partly_labelled, tmp_path
):
    config = trainer.TrainConfig(
        records_dir=partly_labelled,
        run_dir=str(tmp_path / "run"),
        task=task,
        backbone="small_cnn",
        weights="none",
        image_size=24,
        stage="warmup",
        epochs=1,
        global_batch_size=8,
        devices="cpu",
    )
    result = trainer.train(config)
    last = json.loads((tmp_path / "run" / "history.json").read_text())["epochs"][-1]
    values = [*last["train"].values(), *last["validation"].values()]
    assert np.isfinite(values).all() and result is not None
    assert last["validation"].get("mae", 1) > 0
    found = evaluation.evaluate(
        evaluation.EvaluateConfig(run_dir=str(tmp_path / "run"), bootstrap_samples=10)
    )
    assert found["examples"] == 12
    for label in task.split("_"):
        assert found[f"examples_{label}"] == 8


def test_keras_and_balance_need_every_label(partly_labelled):
    for flags in ({"as_supervised": True}, {"balance": "gender"}):
        config = input_fn.InputConfig(records_dir=partly_labelled, **flags)
        with pytest.raises(errors.UsageError, match="label .* of every record"):
            input_fn.train_input_fn(config)
