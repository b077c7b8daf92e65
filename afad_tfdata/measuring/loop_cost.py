"""What the training loop adds to the bare step of a network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from afad_tfdata.common.lazy_imports import keras, tf
from afad_tfdata.images import tensor_preprocessing
from afad_tfdata.measuring import (
    check_settings,
    check_table,
    step_timing,
    trial_networks,
)
from afad_tfdata.models import losses
from afad_tfdata.training import process_settings
from afad_tfdata.training.distributed import strategies

# The loop may add this share to a step.
LIMIT = 0.01


def measure(settings: check_settings.CheckSettings) -> Iterator[check_table.Row]:
    """Times the training loop in turn with the bare step of a network."""
    strategy = strategies.create_strategy(settings.first_device)
    precision = process_settings.resolve_precision(
        "auto" if settings.gpus else "float32"
    )
    for backbone in settings.networks:
        ways = {
            "bare": _bare_step(strategy, settings, backbone, precision),
            "loop": _training_loop(strategy, settings, backbone, precision).run_steps,
        }
        found = step_timing.time_in_turn(
            ways, seconds=settings.seconds, rounds=settings.rounds
        )
        bare, loop = (float(np.median(found[name])) for name in ways)
        yield check_table.at_most(
            f"{backbone} in {precision}, the loop compared with the bare step",
            float(np.median(found["loop"] / found["bare"])) - 1,
            LIMIT,
            "{:+.1%}",
            not_applicable=settings.unjudged,
            measured=f"{bare * 1e3:.2f} ms bare, {loop * 1e3:.2f} ms in the loop",
            bare_seconds=bare,
            loop_seconds=loop,
        )


def _noise_batches(
    strategy: tf.distribute.Strategy, settings: check_settings.CheckSettings
) -> Iterator[Any]:
    """Batches of noise, for the training loop and the bare step that are timed."""
    return trial_networks.distributed_batches(
        strategy,
        lambda _: trial_networks.batches_in_memory(settings.batch, settings.image_size),
    )


def _training_loop(
    strategy: tf.distribute.Strategy,
    settings: check_settings.CheckSettings,
    backbone: str,
    precision: str,
) -> step_timing.TimedLoop:
    """The package's training loop around a network, to compare with the bare step."""
    with strategy.scope():
        model = trial_networks.trial_network(backbone, settings.image_size, precision)
    batches = _noise_batches(strategy, settings)
    return step_timing.TimedLoop(strategy, model, settings.batch, batches)


def _bare_step(
    strategy: tf.distribute.Strategy,
    settings: check_settings.CheckSettings,
    backbone: str,
    precision: str,
) -> Callable[[int], Any]:
    """Forward pass, backward pass and update, without the training loop.

    It has the same batches on the device, and the same scaling of the loss.
    """
    with strategy.scope():
        model = trial_networks.trial_network(backbone, settings.image_size, precision)
        optimizer: Any = keras.optimizers.Adam(1e-5)
        if precision == "mixed_float16":
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        optimizer.build(model.trainable_variables)
    loss_fn = losses.build(losses.LossConfig())
    batches = _noise_batches(strategy, settings)

    def one(images: tf.Tensor, labels: dict[str, tf.Tensor]) -> tf.Tensor:
        """One step on one replica."""
        with tf.GradientTape() as tape:
            outputs = model(
                tensor_preprocessing.normalize(images, trial_networks.MEAN),
                training=True,
            )
            loss = tf.reduce_mean(loss_fn(outputs, labels)["loss"])
            scaled = loss
            if precision == "mixed_float16":
                scaled = optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, model.trainable_variables)
        optimizer.apply_gradients(
            zip(gradients, model.trainable_variables, strict=True)
        )
        return loss

    @tf.function(autograph=False)
    def step(iterator: Iterator[Any]) -> tf.Tensor:
        """One step on all replicas."""
        features, labels = next(iterator)
        return strategy.run(one, args=(features["image"], labels))

    def run(steps: int) -> None:
        """Takes a number of bare steps, and waits for the last one."""
        for _ in range(steps):
            loss = step(batches)
        strategy.experimental_local_results(loss)[0].numpy()

    return run
