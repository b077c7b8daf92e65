"""Losses against numpy twins, weights, normalisers over replicas and parts."""

import numpy as np
import pytest

from afad_tfdata.common import errors
from afad_tfdata.common.lazy_imports import tf
from afad_tfdata.models import age_heads, losses

LOW, HIGH = 15, 30
AGES = np.arange(LOW, HIGH + 1)
LABELS = np.array([15, 30, 22, 40, 3, 19, 22, 28], np.float32)  # Two are too far.
GENDER = np.array([0, 1, 1, 0, 0, 1, 0, 0], np.int32)


def outputs(head, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    gender = rng.normal(size=(8, 1)).astype(dtype)
    result = {"gender_logits": gender, "gender_output": 1 / (1 + np.exp(-gender))}
    if head == "regression":
        result["age_output"] = rng.uniform(15, 30, (8, 1)).astype(dtype)
    else:
        width = age_heads.num_logits(head, LOW, HIGH)
        result["age_logits"] = rng.normal(size=(8, width)).astype(dtype) * 2
        decoded = age_heads.decode(tf.constant(result["age_logits"]), head, LOW, HIGH)
        result["age_output"] = decoded.numpy()
    return {name: tf.constant(value) for name, value in result.items()}


def labels(rows=slice(None)):
    return {"age": tf.constant(LABELS[rows]), "gender": tf.constant(GENDER[rows])}


def config(**values):
    return losses.LossConfig(min_age=LOW, max_age=HIGH, **values)


def log_softmax(x):
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def cross(logit, target):
    p = 1 / (1 + np.exp(-np.asarray(logit, np.float64)))
    return -(target * np.log(p) + (1 - target) * np.log(1 - p))


def twin(head, logits, predicted, label):
    """One example's age loss as its paper has it, without normaliser."""
    index = int(np.clip(label, LOW, HIGH)) - LOW
    if head == "regression":
        return abs(predicted - label)
    if head in age_heads.RANKS:
        total = 0.0
        for k, logit in enumerate(logits):
            if head == "corn" and index < k:
                continue  # Never asked: the face is not older than k - 1.
            total += cross(logit, float(index > k))
        return total
    log_p = log_softmax(logits)
    if head == "softmax_expectation":
        return -log_p[index]
    if head == "mean_variance":
        p = np.exp(log_p)
        mean = (p * AGES).sum()
        variance = (p * AGES**2).sum() - mean**2
        return -log_p[index] + 0.2 * 0.5 * (mean - label) ** 2 + 0.05 * variance
    if head == "sord":
        target = np.exp(-np.abs(AGES - label))
    else:
        target = np.exp(-((AGES - label) ** 2) / (2 * 2.0**2))
    target /= target.sum()
    divergence = sum(t * (np.log(t) - q) for t, q in zip(target, log_p, strict=True))
    return divergence + (abs(predicted - label) if head == "dldl_v2" else 0)


@pytest.mark.parametrize("head", age_heads.NAMES)
def test_age_losses_equal_their_numpy_twins(head):
    out = outputs(head)
    logits = out.get("age_logits", np.zeros((8, 0)))
    expected = np.array(
        [
            twin(head, np.asarray(logits[i], np.float64), float(age), LABELS[i])
            for i, age in enumerate(out["age_output"][:, 0])
        ]
    )
    if head == "corn":  # Over all questions asked; the loop divides by the examples.
        asked = sum(min(int(np.clip(y, LOW, HIGH)) - LOW + 1, 15) for y in LABELS)
        expected *= 8 / asked
    got = losses.build(config(task="age", age_head=head))(out, labels())
    assert set(got) == {"loss", "age_loss"}
    assert got["loss"].shape == (8,) and got["loss"].dtype == tf.float32
    np.testing.assert_allclose(got["loss"], expected, rtol=2e-5)


@pytest.mark.parametrize("head", age_heads.NAMES[1:])
def test_decoding_is_the_mean_of_the_distribution(head):
    logits = np.random.default_rng(4).normal(
        size=(5, age_heads.num_logits(head, 15, 30))
    )
    got = age_heads.decode(tf.constant(logits), head, 15, 30).numpy()[:, 0]
    if head in age_heads.DISTRIBUTIONS:
        expected = np.exp(log_softmax(logits)) @ AGES
    else:
        older = 1 / (1 + np.exp(-logits))
        expected = 15 + (np.cumprod(older, 1) if head == "corn" else older).sum(1)
    np.testing.assert_allclose(got, expected, rtol=1e-12)


@pytest.mark.parametrize("head", age_heads.NAMES[1:])
@pytest.mark.parametrize("age", [17, 30, 60])
def test_first_guess_is_the_initial_age(head, age):
    logits = age_heads.initial_logits(head, 15, 72, age)[np.newaxis]
    assert logits.shape == (1, age_heads.num_logits(head, 15, 72))
    decoded = float(age_heads.decode(tf.constant(logits), head, 15, 72)[0, 0])
    assert decoded == pytest.approx(age, abs=2.5)


@pytest.mark.parametrize("age_loss", losses.AGE_LOSSES)
def test_regression_losses(age_loss):
    out = {"age_output": tf.constant([[20.0], [20.5], [25.0]])}
    label = {"age": tf.constant([20.0, 20.0, 20.0])}
    got = losses.build(config(task="age", age_loss=age_loss))(out, label)["loss"]
    expected = {"mae": [0, 0.5, 5], "mse": [0, 0.25, 25], "huber": [0, 0.125, 4.5]}
    np.testing.assert_allclose(got, expected[age_loss], rtol=1e-6)


def test_joint_loss_weighs_its_parts():
    values = config(age_weight=2.0, gender_weight=30.0)
    got = losses.build(values)(outputs("regression"), labels())
    np.testing.assert_allclose(
        got["loss"], 2 * got["age_loss"] + 30 * got["gender_loss"], rtol=1e-6
    )
    alone = losses.build(config(task="gender"))(outputs("regression"), labels())
    np.testing.assert_allclose(alone["loss"], got["gender_loss"])


def test_gender_loss_is_stable_and_close_to_that_of_probabilities():
    out = outputs("regression")
    loss_fn = losses.build(config(task="gender"))
    expected = cross(out["gender_logits"][:, 0], GENDER)
    np.testing.assert_allclose(loss_fn(out, labels())["loss"], expected, rtol=1e-5)
    without = {"gender_output": out["gender_output"]}
    np.testing.assert_allclose(loss_fn(without, labels())["loss"], expected, rtol=1e-4)
    far = {"gender_logits": tf.constant([[-200.0], [200.0]])}
    got = loss_fn(far, {"gender": tf.constant([1, 1])})["loss"]
    np.testing.assert_allclose(got, [200, 0])


def test_class_weights_change_the_gradient():
    logits = tf.Variable(outputs("regression")["gender_logits"])

    def gradient(weights):
        loss_fn = losses.build(config(task="gender", class_weights=weights))
        with tf.GradientTape() as tape:
            value = loss_fn({"gender_logits": logits}, labels())["loss"]
        return tape.gradient(value, logits).numpy()[:, 0]

    plain, weighted = gradient((1.0, 1.0)), gradient((1.0, 4.0))
    factor = np.where(GENDER == 1, 4, 1) * 8 / (5 * 1 + 3 * 4)
    np.testing.assert_allclose(weighted, plain * factor, rtol=1e-5)


def test_age_weights_act_by_age():
    weights = tuple(float(v) for v in np.linspace(1, 4, HIGH - LOW + 1))
    out = outputs("dldl")
    plain = losses.build(config(task="age", age_head="dldl"))(out, labels())
    got = losses.build(config(task="age", age_head="dldl", age_weights=weights))(
        out, labels(), normalize=False
    )
    own = np.array(weights)[np.clip(LABELS, LOW, HIGH).astype(int) - LOW]
    np.testing.assert_allclose(got["loss"], plain["loss"] * own, rtol=1e-6)


@pytest.mark.latest
@pytest.mark.parametrize("head", ["regression", "corn"])
def test_normalisers_are_of_the_global_batch(two_replicas, head):
    values = config(
        age_head=head,
        class_weights=(0.6, 1.7),
        age_weights=tuple(np.linspace(1, 3, HIGH - LOW + 1)),
    )
    loss_fn = losses.build(values)
    out = outputs(head)
    whole = loss_fn(out, labels())

    def replica():
        context = tf.distribute.get_replica_context()
        start = 4 * context.replica_id_in_sync_group
        own = {k: v[start : start + 4] for k, v in labels().items()}
        return loss_fn(
            {k: v[start : start + 4] for k, v in out.items()},
            own,
            batch_labels={k: context.all_gather(v, 0) for k, v in own.items()},
        )

    parts = two_replicas.run(tf.function(replica))
    for name, value in whole.items():
        local = two_replicas.experimental_local_results(parts[name])
        np.testing.assert_allclose(np.concatenate(local), value, rtol=1e-6)


@pytest.mark.parametrize("task", ["age", "gender", "age_gender"])
@pytest.mark.parametrize("head", age_heads.NAMES)
@pytest.mark.parametrize(
    "weights",
    [
        {},
        {"class_weights": (0.5, 2.0)},
        {"age_weights": tuple(1.0 + (AGES > 20))},
    ],
    ids=["plain", "genders", "ages"],
)
def test_labels_of_the_batch_are_asked_for_where_they_matter(task, head, weights):
    """A step gathers them from all replicas, or not, by what `weighs_by_batch` says."""
    settings = config(task=task, age_head=head, **weights)
    rows = slice(0, 3)
    part = {name: value[rows] for name, value in outputs(head).items()}
    loss_fn = losses.build(settings)
    alone = loss_fn(part, labels(rows))["loss"].numpy()
    whole = loss_fn(part, labels(rows), batch_labels=labels())["loss"].numpy()
    assert losses.weighs_by_batch(settings) == (not np.array_equal(alone, whole))


def test_parts_of_a_batch_are_normalised_over_all_of_it():
    loss_fn = losses.build(config(age_head="corn", class_weights=(0.6, 1.7)))
    out = outputs("corn")
    whole = loss_fn(out, labels())["loss"].numpy()
    for rows in (slice(0, 3), slice(3, 8)):
        part = loss_fn(
            {k: v[rows] for k, v in out.items()}, labels(rows), batch_labels=labels()
        )
        np.testing.assert_allclose(part["loss"], whole[rows], rtol=1e-6)


@pytest.mark.parametrize("head", ["regression", "corn"])
def test_evaluation_does_not_depend_on_the_batch(head):
    loss_fn = losses.build(config(age_head=head, class_weights=(0.6, 1.7)))
    out = outputs(head)
    whole = loss_fn(out, labels(), normalize=False)["loss"].numpy()
    for i in range(8):
        one = slice(i, i + 1)
        alone = loss_fn(
            {k: v[one] for k, v in out.items()}, labels(one), normalize=False
        )
        np.testing.assert_allclose(alone["loss"], whole[one], rtol=1e-6)


@pytest.mark.parametrize("head", age_heads.NAMES)
def test_math_is_float32_or_wider(head):
    loss_fn = losses.build(config(age_head=head))
    half = {k: tf.cast(v, tf.bfloat16) for k, v in outputs(head).items()}
    rounded = {k: tf.cast(v, tf.float32) for k, v in half.items()}
    got, expected = loss_fn(half, labels()), loss_fn(rounded, labels())
    for name in expected:
        assert got[name].dtype == tf.float32
        np.testing.assert_array_equal(got[name], expected[name])
    double = {k: tf.cast(v, tf.float64) for k, v in outputs(head).items()}
    assert loss_fn(double, labels())["loss"].dtype == tf.float64


@pytest.mark.parametrize(
    "values, text",
    [
        ({"task": "race"}, "--task takes one of"),
        ({"age_head": "deep"}, "--age_head takes one of"),
        ({"gender_weight": -1.0}, "--gender_weight"),
        ({"class_weights": (1.0,)}, "two weights"),
        ({"age_weights": (1.0, 2.0)}, "wanted 16"),
    ],
)
def test_wrong_configs_are_refused(values, text):
    with pytest.raises(errors.UsageError, match=text):
        config(**values)
