"""A float16 overflow on one replica: all of them must skip the same step."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from afad_tfdata.common.lazy_imports import keras, tf
from afad_tfdata.measuring import (
    check_settings,
    exact_network,
    row_verdicts,
    trial_networks,
)
from afad_tfdata.training.distributed import strategies

# MiB for each half of a GPU, if there is one GPU only.
_HALF_MIB = 2048


def measure(settings: check_settings.CheckSettings) -> Iterator[row_verdicts.Row]:
    """Makes one image of the last replica infinite in the second of three steps."""
    strategy, what = _replicas(settings)
    replicas = strategy.num_replicas_in_sync
    if replicas < 2:
        yield row_verdicts.not_applicable("overflow on one replica", what)
        return
    batch = exact_network.BATCH
    first = (replicas - 1) * (batch // replicas)

    def overflowing(images: tf.Tensor, step: tf.Tensor, offset: tf.Tensor) -> tf.Tensor:
        here = tf.logical_and(step == 1, offset == first)
        infinite = tf.where(here, float("inf"), 0.0)
        return trial_networks.normalized(images, step, offset) + infinite

    model = exact_network.build(strategy)
    trainer = exact_network.train_step(
        strategy, model, prepare=overflowing, loss_scaling=True
    )
    batches = exact_network.batches(strategy)
    trainer.run(batches, 0, [1e-3])
    before = _copies(strategy, model)
    scale = strategies.local_value(strategy, trainer.optimizer.dynamic_scale)
    trainer.run(batches, 1, [1e-3])
    skipped = _copies(strategy, model)
    halved = strategies.local_value(strategy, trainer.optimizer.dynamic_scale)
    trainer.run(batches, 2, [1e-3])
    after = _copies(strategy, model)
    for name, is_true in (
        ("every replica skips the step", (before == skipped).all()),
        ("the scale of the loss is halved", float(halved) == float(scale) / 2),
        ("the next step is taken", (after != skipped).any()),
        ("the replicas stay equal", (after == after[0]).all()),
        ("the weights stay finite", np.isfinite(after).all()),
    ):
        yield row_verdicts.holds(
            f"{name}, {what}",
            bool(is_true),
            target="so",
            measured="so" if is_true else "not so",
            why="" if is_true else "an overflow is not seen by all replicas",
        )


def _copies(strategy: tf.distribute.Strategy, model: keras.Model) -> np.ndarray:
    """All weights on each replica, ``[replicas, weights]``."""
    copies: list[list[np.ndarray]] = []
    for variable in model.variables:
        values = strategy.experimental_local_results(variable.value)
        copies.append([value.numpy().ravel() for value in values])
    return np.stack([np.concatenate(one) for one in zip(*copies, strict=True)])


def _replicas(
    settings: check_settings.CheckSettings,
) -> tuple[tf.distribute.Strategy, str]:
    """Replicas on all devices, and what they are."""
    # Each replica gets the same share of the batch.
    if exact_network.BATCH % settings.replicas:
        names = settings.devices[:2]
        return strategies.create_strategy(",".join(names)), f"on {len(names)} devices"
    if settings.replicas > 1:
        strategy = strategies.create_strategy(settings.all)
        return strategy, f"on {settings.replicas} devices"
    if not settings.gpus:
        strategy = strategies.create_strategy(settings.all)
        return strategy, "there is one CPU device: try --devices=cpu:2"
    # NCCL does not work on two halves of one GPU.
    chosen = tf.config.list_physical_devices("GPU")[int(settings.first[4:])]
    tf.config.set_visible_devices(chosen, "GPU")
    tf.config.set_logical_device_configuration(
        chosen, [tf.config.LogicalDeviceConfiguration(memory_limit=_HALF_MIB)] * 2
    )
    strategy = tf.distribute.MirroredStrategy(
        ["GPU:0", "GPU:1"], cross_device_ops=tf.distribute.ReductionToOneDevice()
    )
    return strategy, "on two halves of one GPU"
