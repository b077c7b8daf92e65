"""A float16 overflow on one replica: all of them must skip the same step."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from afad_tfdata.common.lazy_imports import keras, tf
from afad_tfdata.measuring import (
    check_settings,
    check_table,
    trial_networks,
)
from afad_tfdata.training.distributed import strategies

# MiB for each half of a GPU, if there is one GPU only.
_HALF_MIB = 2048


def measure(settings: check_settings.CheckSettings) -> Iterator[check_table.Row]:
    """Makes a float16 overflow on the last replica, which all of them must see."""
    strategy, what = _replicas_to_overflow(settings)
    replicas = strategy.num_replicas_in_sync
    if replicas < 2:
        yield check_table.not_applicable("overflow on one replica", what)
        return
    batch = trial_networks.EXACT_BATCH
    first = (replicas - 1) * (batch // replicas)

    def overflowing(images: tf.Tensor, step: tf.Tensor, offset: tf.Tensor) -> tf.Tensor:
        """The network's input, infinite for one image of the second step."""
        here = tf.logical_and(step == 1, offset == first)
        infinite = tf.where(here, float("inf"), 0.0)
        return trial_networks.normalized(images, step, offset) + infinite

    model = trial_networks.exact_network(strategy)
    trainer = trial_networks.exact_train_step(
        strategy, model, prepare=overflowing, loss_scaling=True
    )
    batches = trial_networks.exact_batches(strategy)
    trainer.run(batches, 0, [1e-3])
    before = _weights_of_replicas(strategy, model)
    scale = strategies.local_value(strategy, trainer.optimizer.dynamic_scale)
    trainer.run(batches, 1, [1e-3])
    skipped = _weights_of_replicas(strategy, model)
    halved = strategies.local_value(strategy, trainer.optimizer.dynamic_scale)
    trainer.run(batches, 2, [1e-3])
    after = _weights_of_replicas(strategy, model)
    for name, is_true in (
        ("every replica skips the step", (before == skipped).all()),
        ("the scale of the loss is halved", float(halved) == float(scale) / 2),
        ("the next step is taken", (after != skipped).any()),
        ("the replicas stay equal", (after == after[0]).all()),
        ("the weights stay finite", np.isfinite(after).all()),
    ):
        yield check_table.holds(
            f"{name}, {what}",
            bool(is_true),
            target="so",
            measured="so" if is_true else "not so",
            why="" if is_true else "an overflow is not seen by all replicas",
        )


def _weights_of_replicas(
    strategy: tf.distribute.Strategy, model: keras.Model
) -> np.ndarray:
    """All weights on each replica after an overflow, ``[replicas, weights]``."""
    copies: list[list[np.ndarray]] = []
    for variable in model.variables:
        values = strategy.experimental_local_results(variable.value)
        copies.append([value.numpy().ravel() for value in values])
    return np.stack([np.concatenate(one) for one in zip(*copies, strict=True)])


def _replicas_to_overflow(
    settings: check_settings.CheckSettings,
) -> tuple[tf.distribute.Strategy, str]:
    """The replicas, one of which is to overflow, and what they are."""
    # Each replica gets the same share of the batch.
    if trial_networks.EXACT_BATCH % settings.replicas:
        names = settings.devices[:2]
        return strategies.create_strategy(",".join(names)), f"on {len(names)} devices"
    if settings.replicas > 1:
        strategy = strategies.create_strategy(settings.all_devices)
        return strategy, f"on {settings.replicas} devices"
    if not settings.gpus:
        strategy = strategies.create_strategy(settings.all_devices)
        return strategy, "there is one CPU device: try --devices=cpu:2"
    # NCCL does not work on two halves of one GPU.
    chosen = tf.config.list_physical_devices("GPU")[int(settings.first_device[4:])]
    tf.config.set_visible_devices(chosen, "GPU")
    tf.config.set_logical_device_configuration(
        chosen, [tf.config.LogicalDeviceConfiguration(memory_limit=_HALF_MIB)] * 2
    )
    strategy = tf.distribute.MirroredStrategy(
        ["GPU:0", "GPU:1"], cross_device_ops=tf.distribute.ReductionToOneDevice()
    )
    return strategy, "on two halves of one GPU"
