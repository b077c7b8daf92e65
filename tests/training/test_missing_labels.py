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
from afad_tfdata.metrics import bootstrap, prediction_metrics
from afad_tfdata.models import age_heads, losses
from afad_tfdata.reading import index_loading
from afad_tfdata.storage import joined_data_sets, schema
from afad_tfdata.training import epoch_metrics, optimizers, step
from afad_tfdata.training.distributed.strategies import local_value
from tests.training import test_step
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


_BATCH = 8
# In the first batch the second replica of two has no gender at all, in the second one
# the first replica has no age, and in the third nobody has a gender.
_LACKS_GENDER = [4, 5, 6, 7, 13, *range(16, 24)]
_LACKS_AGE = [1, 8, 9, 10, 11]


def _step(strategy, task, batch_size, *, masks, data):
    """A step of plain SGD for a task, and an iterator of its batches."""
    config = losses.LossConfig(
        task=task, gender_weight=5.0, class_weights=(0.7, 1.6), min_age=0, masks=masks
    )
    model = test_step.make_model(strategy)
    with strategy.scope():
        optimizer = optimizers.build("sgd", momentum=0.0)
    train_step = step.TrainStep(
        *(strategy, model, optimizer, losses.build(config), test_step.prepare),
        step.StepConfig(global_batch_size=batch_size, masks=masks),
    )
    dataset = tf.data.Dataset.from_tensor_slices(data)
    per_replica = batch_size // strategy.num_replicas_in_sync
    batches = strategy.distribute_datasets_from_function(
        lambda context: dataset.batch(per_replica)
    )
    return model, train_step, iter(batches)


def _arrays(rows=slice(None)):
    features, labels = test_step.arrays(24)
    labels["age"][_LACKS_AGE] = _MISSING
    labels["gender"][_LACKS_GENDER] = _MISSING
    return (
        {"image": features["image"][rows]},
        {name: values[rows] for name, values in labels.items()},
    )


def _moved(strategy, task, batch_size, *, masks, data):
    """What the first step adds to the weights at rate 1000, and what it sums up."""
    model, train_step, batches = _step(
        strategy, task, batch_size, masks=masks, data=data
    )
    before = [local_value(strategy, v) for v in model.variables]
    rows, _ = train_step.run(batches, 0, [1e3])
    after = [local_value(strategy, v) for v in model.variables]
    moved = [np.ravel(a - b) for a, b in zip(after, before, strict=True)]
    return np.concatenate(moved), dict(zip(step.SUMS, rows.numpy()[0], strict=True))


@pytest.mark.parametrize(("task", "start"), [("gender", 0), ("age", 8)])
def test_a_step_is_that_of_a_batch_without_the_rows(
    task, start, one_replica, two_replicas
):
    """One replica of two may have no example with the label."""
    _, labels = data = _arrays(slice(start, start + _BATCH))
    present = np.flatnonzero(labels[task] >= 0)
    assert 0 < len(present) < _BATCH
    rows = start + present
    wanted, wanted_sums = _moved(
        one_replica, task, len(rows), masks=False, data=_arrays(rows)
    )
    for strategy in (one_replica, two_replicas):
        moved, sums = _moved(strategy, task, _BATCH, masks=True, data=data)
        assert np.linalg.norm(moved - wanted) < 2e-6 * np.linalg.norm(wanted)
        assert sums[f"{task}_examples"] == len(rows) and sums["examples"] == _BATCH
        for name in ("age_loss", "gender_loss", "absolute_error", "correct"):
            if name.startswith(task) or name == {"age": "absolute_error"}.get(task):
                assert sums[name] == pytest.approx(wanted_sums[name], rel=1e-5)


def test_the_metrics_of_an_epoch_are_means_over_labelled_examples(
    one_replica, two_replicas
):
    """They once were means of the batches' means, whose examples differ in number."""
    for strategy in (one_replica, two_replicas):
        data = _arrays()
        model, train_step, batches = _step(
            strategy, "age_gender", _BATCH, masks=True, data=data
        )
        rows, _ = train_step.run(batches, 0, [0.0] * 3)
        weights = {"age_loss": 1.0, "gender_loss": 5.0}
        found = epoch_metrics.training_metrics(
            rows.numpy().sum(axis=0), "age_gender", None, weights
        )
        outputs = model(test_step.prepare(data[0]["image"], 0, 0))
        age, gender = (data[1][name] for name in ("age", "gender"))
        error = np.abs(outputs["age_output"].numpy().ravel() - age)
        right = (outputs["gender_output"].numpy().ravel() >= 0.5) == gender
        assert found["mae"] == pytest.approx(error[age >= 0].mean(), rel=1e-5)
        assert found["age_loss"] == pytest.approx(found["mae"], rel=1e-5)
        assert found["accuracy"] == right[gender >= 0].mean()
        joint = found["age_loss"] + 5 * found["gender_loss"]
        assert found["loss"] == pytest.approx(joint, rel=1e-12)


def test_an_epoch_without_a_label_has_no_metrics_of_it():
    sums = dict.fromkeys(step.SUMS, 0.0) | {
        **{"examples": 8, "age_examples": 2, "age_loss": 6.0, "absolute_error": 8.0}
    }
    weights = {"age_loss": 2.0, "gender_loss": 5.0}
    found = epoch_metrics.training_metrics(
        list(sums.values()), "age_gender", None, weights
    )
    assert found == {"loss": 6.0, "age_loss": 3.0, "mae": 4.0}


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
    found = epoch_metrics.validation_metrics(columns, weights)
    result = prediction_metrics.evaluate(columns)
    intervals = bootstrap.intervals(columns, samples=20)
    for label, of_label in (
        ("age", ("mae", "age_loss")),
        ("gender", ("accuracy", "gender_loss")),
    ):
        rows = columns[f"label_{label}"] >= 0
        alone = {
            name: columns[name][rows]
            for name in (label, f"label_{label}", f"{label}_loss")
        }
        wanted = epoch_metrics.validation_metrics(alone)
        for name in of_label:
            np.testing.assert_allclose(found[name], wanted[name], rtol=1e-12)
        wanted = prediction_metrics.evaluate(alone)
        for name in ("mae", "rmse", "cs5", "accuracy", "auc", "confusion"):
            if name in wanted:
                assert result[name] == wanted[name]
        for name, values in bootstrap.intervals(alone, samples=20).items():
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
    found = prediction_metrics.of_constant_predictor(counts, labels)
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
    limited = joined_data_sets.load_manifest(partly_labelled, 20).splits["train"]
    index = index_loading.load_split(partly_labelled, "train", max_examples=20).entries
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
