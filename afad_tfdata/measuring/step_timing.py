"""How fast steps run: the training loop, timed, and several ways, timed in turn."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from afad_tfdata.common.lazy_imports import keras, tf
from afad_tfdata.measuring import check_settings, trial_networks
from afad_tfdata.models import losses
from afad_tfdata.training import optimizers, step

_LEARNING_RATE = 1e-5  # Small, so that weights stay finite whatever the images are.


class StepRate(NamedTuple):
    """How fast steps were taken.

    Attributes:
      images_per_second: Over all replicas.
      waiting: Share of the time in which steps waited for input.
    """

    images_per_second: float
    waiting: float


class TimedLoop:
    """The package's training loop around a network, which times its steps.

    Args:
      strategy: The replicas.
      model: From `trial_networks.trial_network`.
      batch: Images of a global batch.
      batches: An iterator of the strategy's batches.
      prepare: As for `step.TrainStep`.
      jit: Whether XLA compiles the step.
    """

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        model: keras.Model,
        batch: int,
        batches: Iterator[Any],
        *,
        prepare: Callable[..., tf.Tensor] = trial_networks.normalized,
        jit: bool = False,
    ) -> None:
        self.batch, self._batches, self._done = batch, batches, 0
        with strategy.scope():
            optimizer = optimizers.build("adam", momentum=0.9)
        loss = losses.LossConfig()
        scaling = "mixed_float16" in {layer.dtype_policy.name for layer in model.layers}
        self._step = step.TrainStep(
            strategy,
            model,
            optimizer,
            losses.build(loss),
            prepare,
            step.StepConfig(
                global_batch_size=batch,
                loss_scaling=scaling,
                jit=jit,
                gather_labels=losses.weighs_by_batch(loss),
            ),
        )

    def run_steps(self, steps: int) -> float:
        """Takes steps to their end; returns the seconds of waiting for input."""
        sums, waited = self._step.run(
            self._batches, self._done, [_LEARNING_RATE] * steps
        )
        self._done += steps
        sums.numpy()
        return float(waited)

    def step_rate(self, seconds: float) -> StepRate:
        """Times steps for about this many seconds, after some that are not timed."""
        steps = steps_for(self.run_steps, seconds)
        began = time.perf_counter()
        waited = self.run_steps(steps)
        took = time.perf_counter() - began
        return StepRate(steps * self.batch / took, waited / took)


def steps_for(run: Callable[[int], Any], seconds: float) -> int:
    """The number of steps to time, so that they take about these seconds.

    Args:
      run: Takes a number of steps; it is called until everything is compiled.
      seconds: Wanted length.
    """
    run(2)
    if tf.config.list_physical_devices("GPU"):
        run(2)  # cuDNN tries its algorithms in the first steps.
    began = time.perf_counter()
    run(2)
    one = (time.perf_counter() - began) / 2
    return min(step.MAX_STEPS_PER_CALL, max(2, round(seconds / one)))


def time_in_turn(
    ways: Mapping[str, Callable[[int], Any]], *, seconds: float, rounds: int
) -> dict[str, np.ndarray]:
    """Times several ways to take steps, in turn.

    If the speed of the machine changes, the change affects all of them.

    Args:
      ways: Each takes a number of steps, and waits for the last one.
      seconds: Shortest time of one measurement.
      rounds: How often each is timed.

    Returns:
      Seconds for a step, ``[rounds]``, by name.
    """
    steps = {name: steps_for(run, seconds) for name, run in ways.items()}
    found: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds):
        # The order is reversed in each round, so that no way always follows the same
        # one.
        names = list(ways)
        for name in names if turn % 2 == 0 else reversed(names):
            began = time.perf_counter()
            ways[name](steps[name])
            found[name].append((time.perf_counter() - began) / steps[name])
    return {name: np.array(values) for name, values in found.items()}


def peak_gpu_memory(devices: check_settings.CheckSettings) -> float:
    """Most memory of the first GPU since the last call, in GiB; 0 without a GPU."""
    if not devices.gpus:
        return 0.0
    name = devices.first_device.upper()
    peak = tf.config.experimental.get_memory_info(name)["peak"] / 2**30
    gc.collect()  # What the last network has left must not count for the next one.
    tf.config.experimental.reset_memory_stats(name)
    return peak
