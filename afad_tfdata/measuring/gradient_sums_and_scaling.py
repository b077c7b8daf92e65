"""Several devices: how they sum gradients, and how much faster they are."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from afad_tfdata.common.lazy_imports import tf
from afad_tfdata.measuring import (
    check_settings,
    check_table,
    step_timing,
    trial_networks,
)
from afad_tfdata.training import process_settings
from afad_tfdata.training.distributed import strategies

# float32 numbers that are summed: about the gradient of VGG19 without its top.
_NUMBERS, _NUMBERS_IF_TINY = 20_000_000, 20_000
_SUMS = 10


def sum_over_devices(
    settings: check_settings.CheckSettings, way: str
) -> Iterator[check_table.Row]:
    """Sums a vector as long as a gradient over all devices, and times it.

    Args:
      settings: Devices and sizes.
      way: As for ``--all_reduce``.
    """
    strategy = strategies.create_strategy(settings.all_devices, all_reduce=way)
    count = _NUMBERS_IF_TINY if settings.tiny else _NUMBERS
    replicas = strategy.num_replicas_in_sync

    def total() -> tf.Tensor:
        """The sum over all replicas."""
        context = tf.distribute.get_replica_context()
        mine = tf.cast(context.replica_id_in_sync_group + 1, tf.float32)
        return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.fill([count], mine))

    run = tf.function(strategy.run, autograph=False)
    results = strategy.experimental_local_results(run(total))
    wanted = replicas * (replicas + 1) / 2
    correct = all(bool((result.numpy() == wanted).all()) for result in results)
    began = time.perf_counter()
    for _ in range(_SUMS):
        results = strategy.experimental_local_results(run(total))
    for result in results:
        result[0].numpy()
    took = (time.perf_counter() - began) / _SUMS
    yield check_table.holds(
        f"--all_reduce={way} over {replicas} devices",
        correct,
        target="sums correctly",
        measured=f"{'correct' if correct else 'wrong'}; {count * 4 / 1e6:.3g} MB in"
        f" {took * 1e3:.2f} ms",
        why="take another --all_reduce",
    )
    yield _gather_over_devices(strategy)


def _gather_over_devices(strategy: tf.distribute.Strategy) -> check_table.Row:
    """Gathers int32 over the devices next to the sums, as training does with genders.

    TensorFlow keeps most int32 tensors in the main memory, also for a GPU.
    """
    replicas = strategy.num_replicas_in_sync

    def gather() -> tf.Tensor:
        """The numbers of all replicas."""
        context = tf.distribute.get_replica_context()
        return context.all_gather(tf.fill([2], context.replica_id_in_sync_group), 0)

    run = tf.function(strategy.run, autograph=False)
    results = strategy.experimental_local_results(run(gather))
    wanted = np.repeat(np.arange(replicas, dtype=np.int32), 2)
    correct = all(np.array_equal(result.numpy(), wanted) for result in results)
    return check_table.holds(
        f"int32 labels of {replicas} devices",
        correct,
        target="gathered in the order of the devices",
        measured="correct" if correct else "wrong",
    )


def scale_over_devices(
    settings: check_settings.CheckSettings,
) -> Iterator[check_table.Row]:
    """Takes steps on 1, 2, 4, ... and all devices, with equal batches for each."""
    backbone = settings.slow_network
    precision = process_settings.resolve_precision(
        "auto" if settings.gpus else "float32"
    )
    counts = [2**i for i in range(settings.replicas.bit_length())]
    counts = sorted({c for c in counts if c < settings.replicas} | {settings.replicas})
    rates: dict[int, float] = {}
    for count in counts:
        strategy = strategies.create_strategy(_first_devices(settings, count))
        with strategy.scope():
            model = trial_networks.trial_network(
                backbone, settings.image_size, precision
            )
        batches = trial_networks.distributed_batches(
            strategy,
            lambda _: trial_networks.batches_in_memory(
                settings.batch, settings.image_size
            ),
        )
        loop = step_timing.TimedLoop(strategy, model, settings.batch * count, batches)
        measured = [loop.step_rate(settings.seconds) for _ in range(2)]
        rates[count] = float(np.mean([rate.images_per_second for rate in measured]))
        efficiency = rates[count] / (count * rates[1])
        yield check_table.fact(
            f"{backbone} in {precision} on {count} device(s)",
            f"{rates[count]:,.0f} images/s, {efficiency:.0%} of {count} times one",
            images_per_second=rates[count],
            efficiency=efficiency,
        )


def _first_devices(settings: check_settings.CheckSettings, count: int) -> str:
    """The flag ``--devices`` for the first of the devices that sum or scale."""
    if settings.gpus:
        return ",".join(settings.devices[:count])
    return "cpu" if count == 1 else f"cpu:{count}"
