"""The steps of an epoch, in calls of about a second; signals are seen between them.

TensorFlow takes the steps of one call without Python.  Between two calls the loop looks
for signals, checks the losses, records them, and saves a checkpoint if one is due.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from afad_tfdata.common import preemption, progress
from afad_tfdata.common.lazy_imports import tf
from afad_tfdata.training import (
    callbacks,
    divergence,
    epoch_metrics,
    metrics_log,
    recipe,
    run_dir,
    run_state,
    step,
)
from afad_tfdata.training import config as train_config
from afad_tfdata.training.distributed import multi_worker

# Long enough that the time of Python does not count, and short enough that a signal is
# seen soon.
_CALL_SECS = 1.0
# Keeps divisions by measured times defined, however coarse the clock is.
_SMALLEST_SECS = 1e-6


@dataclasses.dataclass(frozen=True)
class Speed:
    """How fast an epoch was.

    Attributes:
      waiting: Share of the time in which steps waited for input.
      images_per_second: Over all replicas.
    """

    waiting: float
    images_per_second: float


class EpochLoop:
    """Takes the steps of epochs of one phase.

    Args:
      config: Batch size, steps of a call, checkpoints, profile, spikes.
      phases: From `recipe.phases`.
      train_step: Takes the steps of a call.
      steps_per_epoch: Steps that are called an epoch.
      directory: Where the profile goes.
      log: Records the steps.
      workers: The workers of the job, which must take the same calls.
      called: The caller's callbacks.
      report: Passes the metrics of the last steps to the callbacks.
      save: Saves a checkpoint of the present step.
      stop: Saves everything and raises `PreemptedError`.
      end_early: Saves everything and raises `callbacks.EndEarlyError`.
    """

    def __init__(
        self,
        config: train_config.TrainConfig,
        phases: Sequence[recipe.Phase],
        train_step: step.TrainStep,
        *,
        steps_per_epoch: int,
        directory: run_dir.RunDir,
        log: metrics_log.MetricsLog,
        workers: multi_worker.Workers,
        called: callbacks.Callbacks,
        report: Callable[[dict[str, float]], None],
        save: Callable[[], None],
        stop: Callable[[], None],
        end_early: Callable[[], None],
    ) -> None:
        self._config, self._phases = config, tuple(phases)
        self._train_step, self._steps_per_epoch = train_step, steps_per_epoch
        self._dir, self._metrics_log, self._workers = directory, log, workers
        self._called, self._report = called, report
        self._save, self._stop, self._end_early = save, stop, end_early
        # One step at first: how long a step takes is not known yet.
        self._steps_per_call = config.steps_per_loop or 1
        self._is_traced = False

    def run(self, state: run_state.RunState, iterator: Iterator[Any]) -> Speed:
        """Takes the rest of the steps of the present epoch.

        Args:
          state: Its step, sums and loss mean are updated.
          iterator: Distributed batches from that step on.

        Raises:
          DivergedError: A loss is not finite, or a spike.
          PreemptedError: From `stop`, if any worker was asked to stop.
          EndEarlyError: From `end_early`, if a callback ends the training.
        """
        batch, per_epoch = self._config.input.global_batch_size, self._steps_per_epoch
        end = (state.epoch + 1) * per_epoch
        phase = self._phases[state.course.phase]
        last_epoch = state.epoch + phase.epochs - state.course.epochs
        began, first_step, waited = time.monotonic(), state.step, 0.0
        every = self._config.checkpoint_steps
        with progress.Progress(
            per_epoch * batch,
            f"epoch {state.epoch + 1}/{last_epoch} {phase.stage}",
            initial=(per_epoch - (end - state.step)) * batch,
        ) as bar:
            while state.step < end:
                self._agree_on_next_call()
                rates = self.rates(state, self._steps_of_next_call(state, end))
                rows, wait = self._take_steps(state, iterator, rates)
                waited += wait
                seconds = max(time.monotonic() - began, _SMALLEST_SECS)
                speed = {
                    "waiting": waited / seconds,
                    # The bar's own rate would be 0 at first, because the bar is updated
                    # below.
                    "images_per_second": (state.step - first_step) * batch / seconds,
                }
                notes = self._metrics_log.steps(
                    state.step, rows, rate=rates[-1], **speed
                )
                self._report({"step_loss": epoch_metrics.mean_loss(rows), **speed})
                bar.update(len(rates) * batch, **notes)
                # The end of the epoch is saved with its validation, by the run.
                if every and state.step % every == 0 and state.step < end:
                    self._save()
        # Validation takes time: a signal is obeyed before it.
        self._agree_on_next_call()
        seconds = max(time.monotonic() - began, _SMALLEST_SECS)
        images = (state.step - first_step) * batch
        return Speed(waiting=waited / seconds, images_per_second=images / seconds)

    def rates(
        self,
        state: run_state.RunState,
        count: int,
        *,
        first_step: int | None = None,
    ) -> list[float]:
        """Learning rates of `count` steps from `first_step`, or the present one, on."""
        return recipe.rates(
            self._config,
            self._phases,
            state.course,
            first_step=state.step if first_step is None else first_step,
            count=count,
            steps_per_epoch=self._steps_per_epoch,
            scale=state.scale,
        )

    def _agree_on_next_call(self) -> None:
        """Stops if any worker was asked to; all take as many steps as the chief."""
        said = self._workers.exchange(
            [
                preemption.requested(),
                self._steps_per_call,
                self._called.ends_training,
            ]
        )
        self._steps_per_call = int(said[0, 1])
        if said[:, 0].any():
            self._stop()
        if said[:, 2].any():
            self._end_early()

    def _steps_of_next_call(self, state: run_state.RunState, end: int) -> int:
        """How many steps the next call takes."""
        count = min(self._steps_per_call, end - state.step, step.MAX_STEPS_PER_CALL)
        if every := self._config.checkpoint_steps:
            count = min(count, every - state.step % every)
        return count

    def _take_steps(
        self,
        state: run_state.RunState,
        iterator: Iterator[Any],
        rates: Sequence[float],
    ) -> tuple[np.ndarray, float]:
        """Takes and counts steps; returns their sums and the seconds of waiting."""
        count = len(rates)
        first, last = self._config.profile_steps()
        if last and state.step <= first < state.step + count:
            tf.profiler.experimental.start(self._dir.events("train"))
        began = time.monotonic()
        rows, waited = self._train_step.run(iterator, state.step, rates)
        rows = rows.numpy()
        seconds = time.monotonic() - began
        if last and state.step < last <= state.step + count:
            tf.profiler.experimental.stop()
        divergence.check_losses(rows, state, spike_factor=self._config.spike_factor)
        # Added one by one: the sums must not depend on how steps are divided over
        # calls.
        for row in rows:
            state.sums = [a + float(b) for a, b in zip(state.sums, row, strict=True)]
        state.step += count
        if not self._is_traced:
            self._is_traced = True  # The first call mostly compiled.
        elif not self._config.steps_per_loop:
            fitting = int(_CALL_SECS * count / max(seconds, _SMALLEST_SECS))
            self._steps_per_call = max(1, fitting)
        # TensorFlow reads the clock of the system, which may be set forward meanwhile.
        return rows, min(float(waited), seconds)
