"""The outer loop: epochs, checkpoints, history, signals.

::

    config = trainer.TrainConfig(records_dir="records", run_dir="run", task="age")
    result = trainer.train(config)
    print(result.text())

The same call continues what was stopped, at any step, with the same numbers: what
matters is in a checkpoint, and what comes next follows from it and the config.
Nothing here sees a batch; that is `step`'s.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from afad_tfdata import input_fn
from afad_tfdata.common import errors, files, preemption, progress
from afad_tfdata.common.lazy import tf
from afad_tfdata.training import (
    checkpoints,
    history,
    initial_weights,
    logbook,
    recipe,
    run_dir,
    run_state,
    scores,
    setup,
    step,
)
from afad_tfdata.training import config as train_config
from afad_tfdata.training import data as train_data
from afad_tfdata.training import result as train_result
from afad_tfdata.training.distributed import cluster, multi_worker

TrainConfig = train_config.TrainConfig
TrainResult = train_result.TrainResult

_log = logging.getLogger(__name__)
# A recovery halves the rate.
_RECOVERY_FACTOR = 0.5
# The running mean of the loss: its inertia, and how many steps it needs to mean much.
_SPIKE_DECAY, _SPIKE_STEPS = 0.02, 50
_LOOP_SECS = 1.0
_PICTURE_SECS = 30.0


def train(
    config: TrainConfig,
    model: Any = None,
    train_dataset: Any = None,
    validation_dataset: Any = None,
    augment: Callable[..., Any] | None = None,
    loss: Callable[..., Any] | None = None,
) -> TrainResult:
    """Trains, or continues what was stopped.

    Args:
      config: The options.
      model: Your own Keras model: input float32 ``[n, S, S, 3]``, outputs
        ``age_output`` ``[n, 1]`` years and/or ``gender_output`` ``[n, 1]`` probability.
        In the end it has the weights of the last step.
      train_dataset: Your own ``tf.data.Dataset`` of global batches ``({"image": uint8
        [B, S, S, 3]}, {"age": float32 [B], "gender": int32 [B]})``, or a function of
        the first step that returns one.  It must repeat itself to resume exactly.
      validation_dataset: Likewise, finite; ``features["mask"]`` is False on padding.
      augment: Your own ``(images, seed=, step=, offset=)`` to float32 images.
      loss: Your own ``(outputs, labels)`` to a dict of per-example losses ``[B]``, of
        which ``loss`` is trained on.

    Returns:
      The best epoch, and where the models are.

    Raises:
      UsageError: Flags or records that cannot be used, or a run of other flags.
      PreemptedError: A signal came; everything is saved.
      DataError: The loss stays not finite after `max_recoveries` recoveries.
    """
    if config.find_learning_rate or config.folds:
        raise errors.UsageError(
            "--find_learning_rate and --folds are rate_search.search and folds.train:"
            " call them instead"
        )
    own = train_data.OwnParts(model, train_dataset, validation_dataset, augment, loss)
    if cluster.find():  # Its servers start TensorFlow, with so many threads.
        setup.set_threads(config.threads)
    with (
        multi_worker.join(config.devices, config.all_reduce) as team,
        run_dir.hold(config.run_dir, team) as directory,
        input_fn.readable_errors(),
    ):
        return _Run(config, own, directory, team).run()


class _SpoiltError(Exception):
    """The loss or the weights are not what they should be, at a step."""

    def __init__(self, at: int, what: str) -> None:
        super().__init__(what)
        self.at, self.what = at, what


class _Run:
    """One process's share of a run."""

    def __init__(
        self,
        config: TrainConfig,
        own: train_data.OwnParts,
        directory: run_dir.RunDir,
        team: multi_worker.Workers,
    ) -> None:
        self._config, self._own, self._dir = config, own, directory
        self._team = team
        pretrained = initial_weights.backbone_is_pretrained(config.model, own.model)
        self._plan = recipe.phases(config, pretrained=pretrained)
        self._state, self._history = run_state.State(), history.History()
        self._logbook = logbook.Logbook(directory, tensorboard=config.tensorboard)
        self._chunk = config.steps_per_loop or 1
        self._built_phase, self._traced, self._drawn_at = -1, False, 0.0

    def run(self) -> TrainResult:
        """All that is left to do."""
        snapshot, has_models = self._team.from_chief(self._find)
        if snapshot is not None and self._own.model is None:
            self._state, self._history = snapshot.state, snapshot.history
            if self._next() is None and has_models:
                _log.info("this run is finished: nothing is left to do")
                return self._result()
        self._parts = setup.assemble(
            self._config,
            self._own,
            begun=snapshot is not None,
            strategy=self._team.strategy,
        )
        if snapshot is None:
            self._begin()
        else:
            self._restore(snapshot)
            logbook.start(
                f"continuing after step {self._state.step}", self._parts.facts
            )
        while (phase := self._next()) is not None:
            if phase != self._state.course.phase:
                self._begin_phase(phase)
            try:
                self._epoch()
            except _SpoiltError as error:
                self._recover(error)
        return self._finish()

    # Beginning and continuing.

    def _find(self) -> tuple[run_state.Snapshot | None, bool]:
        """What to go on from, and whether the models of the end are there."""
        manifest = setup.load_manifest(self._config)
        found = run_state.find(self._dir, self._config, manifest)
        return found, self._dir.has_models()

    def _begin(self) -> None:
        setup.set_initial_weights(self._config, self._own, self._parts)
        self._build(0)
        self._write_config()
        logbook.start("beginning", self._parts.facts)
        if len(self._plan) > 1:
            _log.info("recipe: %s", "; then ".join(map(str, self._plan)))
        if self._config.augment_preview:
            path = self._dir.join(run_dir.PREVIEW_NAME)
            setup.draw_preview(self._config, self._parts, path)
        self._mark_stage()
        self._iterator = self._parts.train_data(0)
        self._save()

    def _restore(self, snapshot: run_state.Snapshot) -> None:
        self._state, self._history = snapshot.state, snapshot.history
        if self._built_phase != self._state.course.phase:
            self._build(self._state.course.phase)
        where = f"the checkpoint of step {self._state.step} in {self._dir.path}"
        checkpoints.assign(
            self._parts.strategy, self._groups(), snapshot.arrays, where=where
        )
        self._dir.cut(self._state.step)
        self._history.save(self._dir.path, picture=False)
        self._write_config()
        self._iterator = self._parts.train_data(self._state.step)

    def _next(self) -> int | None:
        """The phase to go on with; None at the end."""
        course = self._state.course
        if not course.phase_is_over(self._plan[course.phase]):
            return course.phase
        return course.next_phase(self._plan)

    def _begin_phase(self, phase: int) -> None:
        """Goes on from the best epoch, with the next rate and set of layers."""
        state, now = self._state, self._plan[phase]
        before = self._plan[state.course.phase]
        try:
            arrays = self._team.from_chief(
                lambda: run_state.best_arrays(self._dir.checkpoints, state)
            )
        except errors.AfadError as error:
            _log.warning("%s; going on from the last epoch", error)
            arrays = None
        self._build(phase)
        at = "the last epoch"
        if arrays is not None and state.best is not None:
            at = f"epoch {state.best['epoch']}"
            groups = self._groups()
            if state.best["stage"] != now.stage:
                del groups["optimizer"]  # Of other layers.
            checkpoints.assign(self._parts.strategy, groups, arrays, where=at)
        state.course = recipe.Course(phase, first_step=state.step)
        state.loss_mean, state.loss_steps = 0.0, 0
        _log.info("%s from %s, rate %g", now.stage, at, now.rate)
        if now.stage != before.stage:
            self._mark_stage()
        else:
            text = f"from {at}, rate {now.rate:g}"
            self._history.event(state.step, "restart", text)

    def _mark_stage(self) -> None:
        phase = self._plan[self._state.course.phase]
        text = f"{phase.stage}, rate {phase.rate:g}"
        self._history.event(self._state.step, "stage", text)

    def _build(self, phase: int) -> None:
        """Sets what is trained, with a new optimizer."""
        parts = self._parts
        self._trainer = setup.trainer_for(parts, self._config, self._plan[phase])
        self._predictor = step.Predictor(
            parts.strategy, parts.network, parts.loss, parts.normalize
        )
        self._built_phase, self._traced = phase, False

    def _groups(self) -> dict[str, Any]:
        return {
            "model": self._parts.model.variables,
            "optimizer": self._trainer.optimizer.variables,
        }

    def _write_config(self) -> None:
        self._dir.write_config(self._config, **self._parts.facts)

    # Going on.

    def _epoch(self) -> None:
        """The rest of the present epoch."""
        state, per_epoch = self._state, self._parts.steps_per_epoch
        end = (state.epoch + 1) * per_epoch
        batch = self._config.input.global_batch_size
        phase = self._plan[state.course.phase]
        last = state.epoch + phase.epochs - state.course.epochs
        began, begun_at, waited = time.monotonic(), state.step, 0.0
        every = self._config.checkpoint_steps
        with progress.Progress(
            per_epoch * batch,
            f"epoch {state.epoch + 1}/{last} {phase.stage}",
            initial=(per_epoch - (end - state.step)) * batch,
        ) as bar:
            while state.step < end:
                self._agree()
                rates = self._next_rates(end)
                rows, wait = self._take(rates)
                waited += wait
                share = waited / max(time.monotonic() - began, 1e-9)
                notes = self._logbook.steps(
                    state.step,
                    rows,
                    rate=rates[-1],
                    waiting=share,
                    images_per_second=bar.rate(),
                )
                bar.update(len(rates) * batch, **notes)
                if every and state.step % every == 0 and state.step < end:
                    self._save()
        self._agree()
        seconds = max(time.monotonic() - began, 1e-9)
        self._close_epoch(
            waiting=waited / seconds,
            images_per_second=(state.step - begun_at) * batch / seconds,
        )

    def _next_rates(self, end: int) -> list[float]:
        """Rates of the steps to take before the next look at anything."""
        count = min(self._chunk, end - self._state.step, step.MAX_STEPS_PER_CALL)
        if every := self._config.checkpoint_steps:
            count = min(count, every - self._state.step % every)
        return self._rates(self._state.step, count)

    def _rates(self, first_step: int, count: int) -> list[float]:
        return recipe.rates(
            self._config,
            self._plan,
            self._state.course,
            first_step=first_step,
            count=count,
            steps_per_epoch=self._parts.steps_per_epoch,
            scale=self._state.scale,
        )

    def _take(self, rates: list[float]) -> tuple[np.ndarray, float]:
        """Takes steps and counts them."""
        state, count = self._state, len(rates)
        first, last = self._config.profile_steps()
        if last and state.step <= first < state.step + count:
            tf.profiler.experimental.start(self._dir.events("train"))
        began = time.monotonic()
        rows, waited = self._trainer.run(self._iterator, state.step, rates)
        rows = rows.numpy()
        seconds = time.monotonic() - began
        if last and state.step < last <= state.step + count:
            tf.profiler.experimental.stop()
        self._check(rows)
        for row in rows:
            state.sums = [a + float(b) for a, b in zip(state.sums, row, strict=True)]
        state.step += count
        if not self._traced:  # These were compiled on the way.
            self._traced = True
        elif not self._config.steps_per_loop:
            self._chunk = max(1, int(_LOOP_SECS * count / max(seconds, 1e-6)))
        return rows, float(waited)

    def _check(self, rows: np.ndarray) -> None:
        """Raises `_SpoiltError` for a loss that is not finite, or leaps."""
        state, factor = self._state, self._config.spike_factor
        mean, count = state.loss_mean, state.loss_steps
        for i, row in enumerate(rows):
            loss = float(row[1] / row[0])
            if not math.isfinite(loss):
                raise _SpoiltError(state.step + i, f"the loss is {loss}")
            if factor and count >= _SPIKE_STEPS and loss > factor * mean:
                raise _SpoiltError(
                    state.step + i, f"the loss leapt from {mean:.4g} to {loss:.4g}"
                )
            count += 1
            mean += (loss - mean) * max(1 / count, _SPIKE_DECAY)
        state.loss_mean, state.loss_steps = mean, count

    def _close_epoch(self, *, waiting: float, images_per_second: float) -> None:
        state, phase = self._state, self._plan[self._state.course.phase]
        best, task = state.best or {}, self._config.input.task
        with self._averaged():
            validation = self._validate()
            value = validation.get(scores.metric(task))
            better = scores.is_better(task, value, best.get("value"))
            if better:
                # Before the checkpoint that says so: killed in between, the steps
                # since the last checkpoint are repeated, and so is this.
                self._dir.save_model(self._parts.model, run_dir.BEST_NAME)
        row = {
            "epoch": state.epoch + 1,
            "stage": phase.stage,
            "step": state.step,
            "learning_rate": self._rates(state.step - 1, 1)[0],  # Of its last step.
            "train": scores.training(state.sums, task),
            "validation": validation,
        }
        state.epoch += 1
        if better:
            state.best = {
                "epoch": state.epoch,
                "step": state.step,
                "value": value,
                "stage": phase.stage,
            }
        state.course.after_epoch(better, self._config)
        state.sums = [0.0] * len(step.SUMS)
        self._history.epochs.append(row)
        self._logbook.epoch(row, waiting=waiting, images_per_second=images_per_second)
        self._save()
        self._prune()
        picture = time.monotonic() - self._drawn_at > _PICTURE_SECS
        self._history.save(self._dir.path, picture=picture)
        if picture:
            self._drawn_at = time.monotonic()
        _log.info(
            "epoch %d %s%s: %s",
            state.epoch,
            phase.stage,
            " (best)" if better else "",
            logbook.describe(row),
        )

    def _validate(self) -> dict[str, float]:
        if self._parts.validation_data is None:
            return {}
        return scores.validation(self._predictor.run(self._parts.validation_data))

    def _averaged(self) -> contextlib.AbstractContextManager[None]:
        """What is evaluated and saved: the average of the weights, if there is one."""
        if self._config.ema_decay:
            return self._trainer.averaged()
        return contextlib.nullcontext()

    # Saving, stopping, recovering.

    def _save(self) -> None:
        arrays = checkpoints.variable_values(self._parts.strategy, self._groups())
        snapshot = run_state.Snapshot(self._state, self._history, arrays)
        if not snapshot.is_finite():
            raise _SpoiltError(self._state.step - 1, "the weights are not finite")
        if self._team.is_chief:
            snapshot.save(self._dir.checkpoints)

    def _prune(self) -> None:
        per_epoch, every = self._parts.steps_per_epoch, self._config.checkpoint_every
        keep = [self._state.best["step"]] if self._state.best else []
        if every:
            epochs = range(every, self._state.epoch + 1, every)
            keep += [epoch * per_epoch for epoch in epochs]
        last = self._config.keep_checkpoints
        checkpoints.prune(self._dir.checkpoints, keep, last=last)

    def _agree(self) -> None:
        """Stops if any worker is asked to; all take as many steps at a time."""
        said = self._team.exchange([preemption.requested(), self._chunk])
        self._chunk = int(said[0, 1])
        if not said[:, 0].any():
            return
        self._save()
        self._history.save(self._dir.path)
        self._team.meet()  # Not before it is saved does any of them go.
        reason = preemption.reason() or "a signal to another worker"
        raise errors.PreemptedError(
            f"{reason} came: step {self._state.step} is saved in"
            f" {self._config.run_dir}; the same command continues"
        )

    def _recover(self, error: _SpoiltError) -> None:
        """Back to the last checkpoint with half the rate."""
        newest = self._team.from_chief(lambda: run_state.newest(self._dir.checkpoints))
        # A checkpoint that was changed by another program may be no better.
        if (
            newest is None
            or not newest.is_finite()
            or self._state.recoveries >= self._config.max_recoveries
        ):
            raise self._failure(error) from error
        scale = self._state.scale * _RECOVERY_FACTOR
        recoveries = self._state.recoveries + 1
        self._restore(newest)
        self._state.scale, self._state.recoveries = scale, recoveries
        text = f"{error.what} at step {error.at}: rates times {scale:g}"
        self._history.event(self._state.step, "recovery", text)
        _log.warning(
            "%s; back to step %d (%d of %d recoveries)",
            text,
            self._state.step,
            recoveries,
            self._config.max_recoveries,
        )
        self._save()

    def _failure(self, error: _SpoiltError) -> errors.DataError:
        first = max(0, error.at - 1)  # The weights may have been spoilt before.
        batch = self._config.input.global_batch_size
        examples = self._parts.examples(first * batch, (error.at + 1) * batch)
        path = self._dir.join("failure.json")
        files.write_json(
            path,
            {"what": error.what, "steps": [first, error.at], "examples": examples},
        )
        return errors.DataError(
            f"{error.what} at step {error.at}, after {self._state.recoveries}"
            f" recoveries; {path} names the examples of the steps {first} to"
            f" {error.at}, the first of them {', '.join(examples[:3])}: look at them,"
            " lower --learning_rate or set --clip_norm"
        )

    def _finish(self) -> TrainResult:
        with self._averaged():
            self._dir.save_model(self._parts.model, run_dir.FINAL_NAME)
            if self._own.model not in (None, self._parts.model):  # A copy was trained.
                self._own.model.set_weights(self._parts.model.get_weights())
        self._history.save(self._dir.path)
        self._team.meet()
        return self._result()

    def _result(self) -> TrainResult:
        best = self._state.best or {"epoch": 0, "value": None}
        place = self._config.run_dir
        return TrainResult(
            run_dir=place,
            metric=scores.metric(self._config.input.task),
            best_epoch=best["epoch"],
            best_value=best["value"],
            epochs=self._state.epoch,
            steps=self._state.step,
            best_path=files.join(place, run_dir.BEST_NAME),
            final_path=files.join(place, run_dir.FINAL_NAME),
            history=self._history.to_dict(),
        )
