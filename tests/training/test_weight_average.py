"""The average of the weights: its arithmetic, its life in a run, older checkpoints."""

import logging

import numpy as np
import pytest

from afad_tfdata import models, trainer
from afad_tfdata.common.lazy_imports import keras, tf
from afad_tfdata.training import checkpoints, optimizers, step, weight_average
from afad_tfdata.training.distributed import strategies
from tests.training.small_runs import build_network, end_of

SIZE, BATCH = 6, 12


def make_step(strategy, *, decay=0.998, seed=3, batch_statistics=True, **more):
    """A small network with statistics, and what takes its steps."""
    with strategy.scope():
        keras.utils.set_random_seed(seed)
        image = keras.Input((SIZE, SIZE, 3))
        x = keras.layers.Conv2D(4, 3)(image)
        if batch_statistics:
            x = keras.layers.BatchNormalization(momentum=0.5)(x)
        x = keras.layers.Flatten()(keras.layers.ReLU()(x))
        network = keras.Model(image, {"age_output": keras.layers.Dense(1)(x)})
        optimizer = optimizers.build("adam", momentum=0.9)

    def loss(outputs, labels, **_):
        return {"loss": tf.square(outputs["age_output"][:, 0] - labels["age"])}

    def prepare(images, first_step, offset):
        x = tf.cast(images, tf.float32) / 127.5 - 1
        return x + tf.where(first_step == 1, more.get("poison", 0.0), 0.0)

    config = step.StepConfig(
        global_batch_size=BATCH,
        ema_decay=decay,
        loss_scaling=more.get("loss_scaling", False),
    )
    return network, step.TrainStep(strategy, network, optimizer, loss, prepare, config)


def batches(strategy):
    rng = np.random.default_rng(0)
    data = tf.data.Dataset.from_tensor_slices(
        (
            {"image": rng.integers(0, 256, (48, SIZE, SIZE, 3)).astype(np.uint8)},
            {"age": rng.uniform(0, 5, 48).astype(np.float32)},
        )
    ).repeat()
    per_replica = BATCH // strategy.num_replicas_in_sync
    return iter(
        strategy.distribute_datasets_from_function(
            lambda context: data.batch(per_replica, drop_remainder=True)
        )
    )


def local(strategy, variables):
    return [strategies.local_value(strategy, v) for v in variables]


def twin(history, decay):
    """The average of the weights after each step, in float64."""
    average = np.zeros_like(history[0], np.float64)
    for t, weights in enumerate(history):
        average += (1 - min(decay, t / (19 + t))) * (weights - average)
    return average


@pytest.mark.parametrize("decay", [0.5, 0.998, 0.9998])
def test_nothing_is_left_of_the_first_weights(one_replica, replicas, decay):
    """Neither of their values, nor of those of BatchNormalization's statistics."""
    for strategy in (one_replica, replicas):
        network, taker = make_step(
            strategy, decay=decay, batch_statistics=strategy is one_replica
        )
        data, history = batches(strategy), []
        for t in range(25):
            taker.run(data, t, [1e-2])
            history.append(local(strategy, network.variables))
        with taker.averaged():
            found = local(strategy, network.variables)
        for i, value in enumerate(found):
            expected = twin([np.asarray(h[i], np.float64) for h in history], decay)
            np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)
        for a, b in zip(local(strategy, network.variables), history[-1], strict=True):
            np.testing.assert_array_equal(a, b)


def test_every_replica_has_the_same_average(replicas):
    _, taker = make_step(replicas, batch_statistics=False)
    taker.run(batches(replicas), 0, [1e-2] * 5)
    for variable in taker.average.variables:
        copies = replicas.experimental_local_results(variable)
        for copy in copies:
            np.testing.assert_array_equal(copy.numpy(), copies[0].numpy())


def test_weights_that_do_not_change_are_their_own_average(one_replica):
    network, taker = make_step(one_replica, batch_statistics=False)
    taker.run(batches(one_replica), 0, [0.0] * 30)
    own = network.get_weights()
    with taker.averaged():
        for average, weights in zip(network.get_weights(), own, strict=True):
            np.testing.assert_array_equal(average, weights)


def test_before_the_first_step_the_weights_stay(one_replica):
    network, taker = make_step(one_replica)
    own = network.get_weights()
    with taker.averaged():
        for present, weights in zip(network.get_weights(), own, strict=True):
            np.testing.assert_array_equal(present, weights)


def test_a_skipped_step_is_not_averaged(one_replica, replicas):
    """Loss scaling skips the second step, whose input is infinite."""
    for strategy in (one_replica, replicas):
        _, taker = make_step(
            strategy, loss_scaling=True, poison=float("inf"), batch_statistics=False
        )
        taker.run(batches(strategy), 0, [1e-2])
        before = local(strategy, taker.average.variables)
        taker.run(batches(strategy), 1, [1e-2])
        for a, b in zip(local(strategy, taker.average.variables), before, strict=True):
            np.testing.assert_array_equal(a, b)
        taker.run(batches(strategy), 2, [1e-2])
        assert local(strategy, taker.average.variables[:1]) == [2]


def test_frozen_statistics_are_left_out(one_replica):
    network, _ = make_step(one_replica)
    norm = next(
        x for x in network.layers if isinstance(x, keras.layers.BatchNormalization)
    )
    count = len(weight_average.WeightAverage(one_replica, network, 0.9).variables)
    norm.trainable = False
    fewer = len(weight_average.WeightAverage(one_replica, network, 0.9).variables)
    assert count - fewer == len(norm.variables)


# In a run.


def run_config(records_dir, run_dir, **more):
    values = {
        "records_dir": records_dir,
        "run_dir": str(run_dir),
        "image_size": 16,
        "stage": "tuning",
        "epochs": 2,
        "global_batch_size": 32,
        "devices": "cpu",
        "augment": "none",
        "tensorboard": False,
        "ema_decay": 0.9,
    }
    return trainer.TrainConfig(**{**values, **more})


def test_the_average_is_saved_and_begins_anew_with_each_phase(sample_records, tmp_path):
    network = build_network(batch_statistics=True)
    result = trainer.train(
        run_config(
            *(sample_records, tmp_path),
            recipe="original",
            stage="recipe",
            epochs=1,
            patience=1,
        ),
        model=network,
    )
    end = end_of(tmp_path)
    course = end.state["state"]["course"]
    assert course["phase"] > 0
    assert end.arrays["average/0"] == result.steps - course["first_step"]
    final = models.load(result.final_path)
    weights = [v.numpy() for v in final.trainable_variables]
    for i, value in enumerate(weights, 1):
        np.testing.assert_array_equal(value, end.arrays[f"average/{i}"])
    norm = next(
        x for x in final.layers if isinstance(x, keras.layers.BatchNormalization)
    )
    for i, value in enumerate(norm.non_trainable_variables, 1 + len(weights)):
        np.testing.assert_array_equal(value.numpy(), end.arrays[f"average/{i}"])


@pytest.mark.parametrize("scaling", [False, True])
def test_the_average_of_an_older_checkpoint_goes_on(one_replica, scaling):
    """As Keras' own optimizer laid it out."""
    network, taker = make_step(one_replica, loss_scaling=scaling)
    old = keras.optimizers.Adam(use_ema=True)
    kept = old
    if scaling:
        kept = keras.optimizers.LossScaleOptimizer(old)
    kept.build(network.trainable_variables)
    rng = np.random.default_rng(1)
    for variable in old.variables[2:]:
        variable.assign(rng.normal(size=variable.shape))
    old.iterations.assign(7)
    groups = {"model": network.variables, "optimizer": kept.variables}
    arrays = checkpoints.variable_values(one_replica, groups)
    moved = taker.average.with_keras_averages(
        arrays, taker.optimizer, network.variables
    )
    groups = {
        "model": network.variables,
        "optimizer": taker.optimizer.variables,
        "average": taker.average.variables,
    }
    checkpoints.assign(one_replica, groups, moved, where="the old one")
    new = {v.name: v.numpy() for v in taker.inner_optimizer.variables}
    averages = old._model_variables_moving_average
    for variable in old.variables:
        if not any(variable is average for average in averages):
            np.testing.assert_array_equal(new.pop(variable.name), variable.numpy())
    assert not new
    steps, *found = (v.numpy() for v in taker.average.variables)
    assert steps == 7
    for value, average in zip(found, averages, strict=False):
        np.testing.assert_array_equal(value, average.numpy())
    again = checkpoints.variable_values(one_replica, groups)
    assert (
        taker.average.with_keras_averages(again, taker.optimizer, network.variables)
        is again
    )


def test_a_decay_that_is_too_near_to_one_is_warned_of(sample_records, tmp_path, caplog):
    assert not weight_average.too_long_decay(0.0, 1)
    assert not weight_average.too_long_decay(0.998, 501)
    with caplog.at_level(logging.WARNING):
        trainer.train(
            run_config(sample_records, tmp_path, epochs=1, ema_decay=0.998),
            model=build_network(),
        )
    assert "--ema_decay=0.998 averages over about 500 steps" in caplog.text
