"""The inner loop: replicas, overflow, clipping, accumulation, dropout, evaluation."""

import time

import numpy as np
import pytest

from afad_tfdata.common import errors
from afad_tfdata.common.lazy_imports import keras, tf
from afad_tfdata.models import losses
from afad_tfdata.training import checkpoints, optimizers, replica_predictor, step
from afad_tfdata.training.distributed import strategies
from tests import conftest

BATCH = 12  # It can be divided by two and by three replicas.
SIZE = 6


def make_model(strategy, *, dropout=0.0, seed=3, dtype="float32"):
    """A small network with both outputs, the same weights for every strategy."""
    with strategy.scope():
        keras.utils.set_random_seed(seed)
        kwargs = {"dtype": dtype}
        image = keras.Input((SIZE, SIZE, 3), dtype=dtype)
        x = keras.layers.Conv2D(4, 3, activation="relu", **kwargs)(image)
        x = keras.layers.Flatten(**kwargs)(x)
        if dropout:
            x = keras.layers.Dropout(dropout, seed=7, **kwargs)(x)
        x = keras.layers.Dense(8, activation="tanh", **kwargs)(x)
        age = keras.layers.Dense(1, **kwargs)(x)
        gender = keras.layers.Dense(1, **kwargs)(x)
        return keras.Model(
            image,
            {
                "age_output": age,
                "gender_output": keras.ops.sigmoid(gender),
                "gender_logits": gender,
            },
        )


# With weights that are normalised over the global batch.
loss_fn = losses.build(
    losses.LossConfig(gender_weight=5.0, class_weights=(0.7, 1.6), min_age=0)
)

plain_loss_fn = losses.build(losses.LossConfig(gender_weight=5.0, min_age=0))


def prepare(images, first_step, offset):
    return tf.cast(images, tf.float32) / 127.5 - 1


def arrays(count=64):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, SIZE, SIZE, 3)).astype(np.uint8)
    age = rng.uniform(0, 5, count).astype(np.float32)
    gender = rng.integers(0, 2, count).astype(np.int32)
    return {"image": images}, {"age": age, "gender": gender}


def batches(strategy, data=None):
    """An endless iterator of batches of `BATCH` over the replicas."""
    per_replica = BATCH // strategy.num_replicas_in_sync
    dataset = tf.data.Dataset.from_tensor_slices(data or arrays()).repeat()
    return iter(
        strategy.distribute_datasets_from_function(
            lambda context: dataset.batch(per_replica, drop_remainder=True)
        )
    )


def make_trainer(
    strategy, *, optimizer="sgd", ema=0.0, model=None, prepare=prepare, **k
):
    model = model or make_model(strategy)
    with strategy.scope():
        built = optimizers.build(optimizer, momentum=0.9)
    config = step.StepConfig(global_batch_size=BATCH, ema_decay=ema, **k)
    loss = loss_fn if config.gather_labels else plain_loss_fn
    trainer = step.TrainStep(strategy, model, built, loss, prepare, config)
    return model, trainer


def values(strategy, model, trainer):
    groups = {"model": model.variables, "optimizer": trainer.optimizer.variables}
    if trainer.average is not None:
        groups["average"] = trainer.average.variables
    return checkpoints.variable_values(strategy, groups)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"optimizer": "rmsprop"}, marks=pytest.mark.latest),
        {"optimizer": "adam", "ema": 0.9, "clip_norm": 0.5},
        {"optimizer": "adamw", "accumulation": 2},
        {"optimizer": "sgd", "loss_scaling": True, "clip_norm": 0.5},
        {"optimizer": "adam", "jit": True, "accumulation": 2},
        {"optimizer": "adamw", "gather_labels": False},
    ],
    ids=lambda options: "-".join(str(v) for v in options.values()),
)
def test_replicas_equal_one(one_replica, replicas, options):
    results = []
    for strategy in (one_replica, replicas):
        model, trainer = make_trainer(strategy, **options)
        rows, _ = trainer.run(batches(strategy), 0, [1e-2] * 20)
        results.append((rows.numpy(), values(strategy, model, trainer)))
    (rows_1, one), (rows_2, two) = results
    np.testing.assert_allclose(rows_2, rows_1, rtol=1e-5)
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_allclose(two[name], one[name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"accumulation": 2, "clip_norm": 0.5}])
def test_gradients_of_a_step_are_those_of_one_replica(one_replica, replicas, options):
    """A first step of plain SGD moves the weights by its rate times the gradient."""
    moved, sums = [], []
    for strategy in (one_replica, replicas):
        model, trainer = make_trainer(strategy, **options)
        before = [strategies.local_value(strategy, v) for v in model.variables]
        # With so large a rate, the rounding of the weights does not matter.
        rows, _ = trainer.run(batches(strategy), 0, [1e3])
        after = [strategies.local_value(strategy, v) for v in model.variables]
        moved.append(
            np.concatenate(
                [np.ravel(a - b) for a, b in zip(after, before, strict=True)]
            )
        )
        sums.append(rows.numpy())
    np.testing.assert_allclose(sums[1], sums[0], rtol=1e-6)
    difference = np.linalg.norm(moved[1] - moved[0])
    assert difference < 1e-6 * np.linalg.norm(moved[0])


def test_a_named_device_equals_the_default_one(one_replica):
    """What a single GPU gets."""
    weights = []
    for strategy in (one_replica, tf.distribute.OneDeviceStrategy("/CPU:1")):
        model, trainer = make_trainer(strategy, optimizer="adam", clip_norm=1.0)
        trainer.run(batches(strategy), 0, [1e-2] * 3)
        weights.append(values(strategy, model, trainer))
        assert "CPU" in strategies.describe_strategy(strategy)
    for name, value in weights[0].items():
        np.testing.assert_array_equal(weights[1][name], value)


def test_time_in_which_a_step_waits_is_seen(one_replica):
    def slow(features, labels):
        tf.numpy_function(lambda: time.sleep(0.05), [], [])
        return features, labels

    # Nothing is fetched ahead, so that the whole of the sleep is waited for.
    settings = tf.data.Options()
    settings.experimental_optimization.inject_prefetch = False
    data = tf.data.Dataset.from_tensor_slices(arrays()).repeat().batch(BATCH)
    data = data.with_options(settings)
    _, trainer = make_trainer(one_replica)
    trainer.run(iter(data), 0, [1e-2])
    _, waited = trainer.run(iter(data.map(slow)), 0, [1e-2] * 4)
    assert waited.numpy() >= 4 * 0.05


def test_replicas_equal_one_in_float64(one_replica, replicas):
    results = []
    for strategy in (one_replica, replicas):
        model = make_model(strategy, dtype="float64")
        _, trainer = make_trainer(
            strategy,
            model=model,
            clip_norm=1.0,
            accumulation=2,
            prepare=lambda images, s, o: tf.cast(images, tf.float64) / 127.5 - 1,
        )
        trainer.run(batches(strategy), 0, [1e-2] * 20)
        results.append([strategies.local_value(strategy, v) for v in model.variables])
    for one, two in zip(*results, strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("bad", range(conftest.NUM_DEVICES))
def test_overflow_on_one_replica_skips_the_step_on_all(one_replica, replicas, bad):
    """A simulated float16 overflow: one image of one replica becomes infinite."""

    first = bad * (BATCH // replicas.num_replicas_in_sync)

    def overflowing(images, first_step, offset):
        x = prepare(images, first_step, offset)
        here = tf.logical_and(first_step == 1, offset == first)
        return x + tf.where(here, float("inf"), 0.0)

    for strategy in (one_replica, replicas):
        if strategy is one_replica and bad:
            continue
        model, trainer = make_trainer(
            strategy, optimizer="adam", loss_scaling=True, prepare=overflowing
        )
        data = batches(strategy)
        trainer.run(data, 0, [1e-2])
        before = values(strategy, model, trainer)
        scale = strategies.local_value(strategy, trainer.optimizer.dynamic_scale)
        trainer.run(data, 1, [1e-2])
        after = values(strategy, model, trainer)
        now = strategies.local_value(strategy, trainer.optimizer.dynamic_scale)
        assert now == scale / 2
        for name in before:
            if name.startswith("model"):
                np.testing.assert_array_equal(after[name], before[name])
        for variable in model.variables:
            copies = strategy.experimental_local_results(variable.value)
            for copy in copies:
                np.testing.assert_array_equal(copy.numpy(), copies[0].numpy())
                assert np.isfinite(copy.numpy()).all()
        trainer.run(data, 2, [1e-2])
        changed = values(strategy, model, trainer)
        assert np.isfinite(changed["model/0"]).all()
        assert (changed["model/0"] != after["model/0"]).any()


def test_calls_divide_steps_without_a_trace(replicas):
    """k steps in one call give the same bits as k calls."""
    results = []
    for chunks in ([5], [2, 1, 2]):
        model, trainer = make_trainer(replicas, optimizer="adam")
        data, rows, done = batches(replicas), [], 0
        for count in chunks:
            rates = [1e-2 / (1 + done + i) for i in range(count)]
            rows.append(trainer.run(data, done, rates)[0].numpy())
            done += count
        results.append((np.concatenate(rows), values(replicas, model, trainer)))
    np.testing.assert_array_equal(results[0][0], results[1][0])
    for name, value in results[0][1].items():
        np.testing.assert_array_equal(value, results[1][1][name])


def test_accumulation_equals_the_whole_batch(one_replica):
    weights = []
    for parts in (1, 4):
        model, trainer = make_trainer(one_replica, accumulation=parts)
        rows, _ = trainer.run(batches(one_replica), 0, [1e-2] * 5)
        weights.append(model.get_weights())
        assert rows.numpy()[:, 0].tolist() == [BATCH] * 5
    for one, four in zip(*weights, strict=True):
        np.testing.assert_allclose(four, one, rtol=1e-5, atol=1e-6)


def test_clipping_bounds_the_summed_gradient(replicas):
    """Plain SGD with rate 1 moves the weights by exactly the clipped gradient."""
    limit = 0.01
    model, trainer = make_trainer(replicas, clip_norm=limit, loss_scaling=True)
    before = [strategies.local_value(replicas, v) for v in model.variables]
    trainer.run(batches(replicas), 0, [1.0])
    after = [strategies.local_value(replicas, v) for v in model.variables]
    moved = [a - b for a, b in zip(after, before, strict=True)]
    norm = np.sqrt(sum(float(np.sum(np.square(m, dtype=np.float64))) for m in moved))
    assert norm == pytest.approx(limit, rel=1e-3)


def test_sums_are_those_of_the_examples(replicas):
    model, trainer = make_trainer(replicas)
    features, labels = arrays()
    x = features["image"][:BATCH].astype(np.float32) / 127.5 - 1
    outputs = model(x)
    error = np.abs(outputs["age_output"].numpy().ravel() - labels["age"][:BATCH])
    predicted = outputs["gender_output"].numpy().ravel() >= 0.5
    rows, waited = trainer.run(batches(replicas), 0, [0.0])
    row = dict(zip(step.SUMS, rows.numpy()[0], strict=True))
    assert row["examples"] == BATCH
    assert row["absolute_error"] == pytest.approx(error.sum(), rel=1e-5)
    assert row["correct"] == (predicted == labels["gender"][:BATCH]).sum()
    assert row["loss"] == pytest.approx(
        5 * row["gender_loss"] + row["age_loss"], rel=1e-5
    )
    assert float(waited) >= 0


@pytest.mark.latest
def test_replicas_draw_different_dropout_masks(one_replica, replicas):
    """Replica 0 draws what one device draws, replica 1 something else."""
    masks = {}
    for strategy in (one_replica, replicas):
        with strategy.scope():
            noise = keras.layers.Dropout(0.5, seed=7)
            inputs = keras.Input((64,))
            model = keras.Model(
                inputs, {"age_output": keras.layers.Dense(1)(noise(inputs))}
            )
        make_trainer(strategy, model=model)
        drawn = tf.function(lambda noise=noise: noise(tf.ones([1, 64]), training=True))
        masks[strategy] = [
            [
                mask.numpy().tolist()
                for mask in strategy.experimental_local_results(strategy.run(drawn))
            ]
            for _ in range(2)
        ]
    for call in range(2):
        first, second = masks[replicas][call]
        assert first != second
        assert first == masks[one_replica][call][0]
    assert masks[one_replica][0] != masks[one_replica][1]


@pytest.mark.parametrize("change", ["renamed", "unused"])
def test_a_keras_that_sums_gradients_elsewhere_is_refused(
    replicas, monkeypatch, change
):
    """Otherwise the gradients would be summed twice, and nobody would notice."""
    model = make_model(replicas)
    optimizer = keras.optimizers.SGD()
    kind = type(optimizer)
    if change == "renamed":
        parents = [c for c in kind.__mro__ if "_all_reduce_sum_gradients" in vars(c)]
        monkeypatch.delattr(parents[0], "_all_reduce_sum_gradients")
    else:
        monkeypatch.setattr(kind, "apply_gradients", lambda self, pairs: list(pairs))
    config = step.StepConfig(global_batch_size=BATCH)
    with pytest.raises(RuntimeError, match="sum their gradients twice: Keras"):
        trainer = step.TrainStep(replicas, model, optimizer, loss_fn, prepare, config)
        trainer.run(batches(replicas), 0, [1e-2])


@pytest.mark.parametrize("change", ["list", "method"])
def test_a_keras_that_keeps_generators_elsewhere_is_refused(
    one_replica, replicas, monkeypatch, change
):
    """Otherwise replicas would share their dropout masks, and nobody would notice."""
    model = make_model(replicas, dropout=0.5)
    dropout = next(x for x in model.layers if isinstance(x, keras.layers.Dropout))
    if change == "list":  # As if Keras had renamed its list of generators.
        dropout.__dict__.pop("_seed_generators")
    else:
        monkeypatch.delattr(keras.random.SeedGenerator, "next")
    with pytest.raises(RuntimeError, match="replicas would share.*dropout"):
        step._separate_replica_seeds(model, replicas)
    step._separate_replica_seeds(
        model, one_replica
    )  # A single replica has nothing to share.


def test_dropout_trains_alike_after_any_chunking(replicas):
    results = []
    for chunks in ([4], [1, 3]):
        model = make_model(replicas, dropout=0.5)
        _, trainer = make_trainer(replicas, model=model)
        data, done = batches(replicas), 0
        for count in chunks:
            trainer.run(data, done, [1e-2] * count)
            done += count
        results.append(values(replicas, model, trainer))
    for name, value in results[0].items():
        np.testing.assert_array_equal(value, results[1][name])


def test_compiled_steps_equal_plain_ones(replicas):
    weights = []
    for jit in (False, True):
        model, trainer = make_trainer(replicas, jit=jit)
        trainer.run(batches(replicas), 0, [1e-2] * 3)
        weights.append([strategies.local_value(replicas, v) for v in model.variables])
    for plain, compiled in zip(*weights, strict=True):
        np.testing.assert_allclose(compiled, plain, rtol=1e-4, atol=1e-5)


def test_batch_that_does_not_divide_is_one_line(replicas):
    with pytest.raises(errors.UsageError, match="--global_batch_size=6.*multiple of 4"):
        step.per_replica_batch(replicas, 6, accumulation=2)


@pytest.mark.parametrize("count", [16, 13])
def test_evaluation_counts_every_example_once(one_replica, replicas, count):
    """A padded last batch adds nothing, on any number of replicas."""
    features, labels = arrays(count)
    padded = -count % BATCH
    mask = np.arange(count + padded) < count
    features = {"image": _pad(features["image"], padded), "mask": mask}
    labels = {name: _pad(label, padded) for name, label in labels.items()}
    results = []
    for strategy in (one_replica, replicas):
        model = make_model(strategy)
        per_replica = BATCH // strategy.num_replicas_in_sync
        dataset = tf.data.Dataset.from_tensor_slices((features, labels))
        distributed = strategy.distribute_datasets_from_function(
            lambda context, d=dataset, n=per_replica: d.batch(n)
        )
        predictor = replica_predictor.Predictor(
            strategy, model, loss_fn, lambda images: prepare(images, 0, 0)
        )
        results.append(predictor.run(distributed))
    for result in results:
        assert {len(column) for column in result.values()} == {count}
        np.testing.assert_array_equal(result["label_age"], labels["age"][:count])
        np.testing.assert_array_equal(result["label_gender"], labels["gender"][:count])
    for name in results[0]:
        np.testing.assert_allclose(results[1][name], results[0][name], rtol=1e-5)


def _pad(array, count):
    return np.concatenate([array, np.zeros((count, *array.shape[1:]), array.dtype)])
