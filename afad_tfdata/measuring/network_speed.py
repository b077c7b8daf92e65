"""Steps of a network: images per second, memory, and waiting, in each precision."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from afad_tfdata.common.lazy_imports import tf
from afad_tfdata.measuring import (
    check_settings,
    check_table,
    step_timing,
    trial_networks,
)
from afad_tfdata.training.distributed import strategies

_PRECISIONS = ("float32", "tf32", "mixed_float16")
# A batch that does not fit into the memory is halved at most this often.
_HALVINGS = 3


def measure(
    settings: check_settings.CheckSettings, backbone: str
) -> Iterator[check_table.Row]:
    """Times the steps of one network in each precision, with batches in memory.

    Args:
      settings: Devices and sizes.
      backbone: As for ``--backbone``.
    """
    strategy = strategies.create_strategy(settings.first_device)
    for precision in _PRECISIONS:
        reason = _why_not_timed(settings, backbone, precision)
        if reason:
            yield check_table.not_applicable(precision, reason)
        else:
            yield _speed_row(strategy, settings, backbone, precision)


def _why_not_timed(
    settings: check_settings.CheckSettings, backbone: str, precision: str
) -> str:
    """Why a network's speed is not measured in a precision; empty if it is."""
    if settings.tiny and backbone not in ("VGG19", "small_cnn"):
        return "it takes long to compile; VGG19 and small_cnn show that steps run"
    if settings.gpus:
        return ""
    if precision == "tf32":
        return "a CPU has no TF32"
    if precision == "mixed_float16" and backbone != "small_cnn":
        return "float16 on a CPU takes 100 times as long; small_cnn shows that it runs"
    return ""


def _speed_row(
    strategy: tf.distribute.Strategy,
    settings: check_settings.CheckSettings,
    backbone: str,
    precision: str,
) -> check_table.Row:
    """The row on the speed of one network in one precision."""
    tf.config.experimental.enable_tensor_float_32_execution(precision != "float32")
    batch = settings.batch
    for _ in range(_HALVINGS):
        step_timing.peak_gpu_memory(settings)
        try:
            rate = _step_rate(strategy, settings, backbone, precision, batch)
        except tf.errors.ResourceExhaustedError:
            batch //= 2
            continue
        memory = step_timing.peak_gpu_memory(settings)
        text = f"{rate.images_per_second:,.0f} images/s in batches of {batch}"
        if settings.gpus:
            text += f", {memory:.1f} GiB"
        return check_table.fact(
            precision,
            f"{text}, {rate.waiting:.1%} of the time waiting for input",
            images_per_second=rate.images_per_second,
            batch=batch,
            memory_gib=memory,
            waiting=rate.waiting,
        )
    return dataclasses.replace(
        check_table.failed(f"a batch of {batch * 2} does not fit into the memory"),
        name=precision,
    )


def _step_rate(
    strategy: tf.distribute.Strategy,
    settings: check_settings.CheckSettings,
    backbone: str,
    precision: str,
    batch: int,
) -> step_timing.StepRate:
    """The speed of a network in steps with a batch of this size."""
    with strategy.scope():
        model = trial_networks.trial_network(backbone, settings.image_size, precision)
    batches = trial_networks.distributed_batches(
        strategy, lambda _: trial_networks.batches_in_memory(batch, settings.image_size)
    )
    return step_timing.TimedLoop(strategy, model, batch, batches).step_rate(
        settings.seconds
    )
