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
import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from afad_tfdata import (
    assembly,
    checkpoints,
    distribution,
    errors,
    files,
    history,
    input_fn,
    logbook,
    models,
    optimizers,
    preemption,
    progress,
    recipe,
    run_dir,
    run_state,
    schema,
    step,
    train_config,
)
from afad_tfdata._lazy import tf

TrainConfig = train_config.TrainConfig

_log = logging.getLogger(__name__)
# A recovery halves the rate.
_RECOVERY_FACTOR = 0.5
# The running mean of the loss: its inertia, and how many steps it needs to mean much.
_SPIKE_DECAY, _SPIKE_STEPS = 0.02, 50
_LOOP_SECS = 1.0
_PICTURE_SECS = 30.0
# Task -> what the best epoch is best in, and whether more of it is better.
_METRICS = {"gender": ("accuracy", 1), "age": ("mae", -1), "age_gender": ("loss", -1)}


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """What came out of a training.

    Attributes:
      run_dir: Where everything is.
      metric: What decided which epoch is best: ``accuracy``, ``mae`` or ``loss``.
      best_epoch: Counted from 1; 0 where there was none.
      best_value: Of the metric, on the validation split.
      epochs: Epochs of the whole run.
      steps: Steps of the whole run.
      best_path: The model of the best epoch.
      final_path: The model of the last epoch.
      history: As in ``history.json``.
    """

    run_dir: str
    metric: str
    best_epoch: int
    best_value: float | None
    epochs: int
    steps: int
    best_path: str
    final_path: str
    history: dict[str, Any]

    def text(self) -> str:
        """A summary of a few lines."""
        lines = [f"{self.epochs} epochs, {self.steps} steps in {self.run_dir}"]
        rows = {row["epoch"]: row for row in self.history["epochs"]}
        for name, epoch in (("best", self.best_epoch), ("last", self.epochs)):
            if epoch in rows:
                lines.append(f"{name} epoch {epoch}: {logbook.describe(rows[epoch])}")
        lines.append(f"models: {self.best_path} {self.final_path}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """JSON values, without the history."""
        value = dataclasses.asdict(self)
        del value["history"]
        return value


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
    own = assembly.OwnParts(model, train_dataset, validation_dataset, augment, loss)
    directory = run_dir.RunDir(config.run_dir)
    try:
        with input_fn.readable_errors():
            return _Run(config, own, directory).run()
    finally:
        directory.close()


class _SpoiltError(Exception):
    """The loss or the weights are not what they should be, at a step."""

    def __init__(self, at: int, what: str) -> None:
        super().__init__(what)
        self.at, self.what = at, what


class _Run:
    """One process's share of a run."""

    def __init__(
        self, config: TrainConfig, own: assembly.OwnParts, directory: run_dir.RunDir
    ) -> None:
        self._config, self._own, self._dir = config, own, directory
        self._plan = recipe.phases(config, pretrained=assembly.pretrained(config))
        self._state, self._history = run_state.State(), history.History()
        self._logbook = logbook.Logbook(directory, tensorboard=config.tensorboard)
        self._metric, self._sign = _METRICS[config.task]
        self._chunk = config.steps_per_loop or 1
        self._built_phase, self._traced, self._drawn_at = -1, False, 0.0

    def run(self) -> TrainResult:
        """All that is left to do."""
        snapshot = self._find()
        if snapshot is not None and self._own.model is None:
            self._state, self._history = snapshot.state, snapshot.history
            if self._next() is None and self._dir.has_models():
                _log.info("this run is finished: nothing is left to do")
                return self._result()
        self._parts = assembly.assemble(
            self._config, self._own, begun=snapshot is not None
        )
        step.per_replica_batch(self._parts.strategy, self._step_config())
        if snapshot is None:
            self._begin()
        else:
            self._restore(snapshot)
            self._log_start(f"continuing after step {self._state.step}")
        while (phase := self._next()) is not None:
            if phase != self._state.course.phase:
                self._begin_phase(phase)
            try:
                self._epoch()
            except _SpoiltError as error:
                self._recover(error)
        return self._finish()

    # Beginning and continuing.

    def _find(self) -> run_state.Snapshot | None:
        """What to go on from, after a restart from an earlier epoch if asked for."""
        stored = self._dir.stored()
        newest = None
        if stored is not None:
            manifest = assembly.load_manifest(self._config)
            self._dir.check(stored, self._config, run_dir.records_digest(manifest))
            newest = run_state.newest(self._dir.checkpoints)
        epoch = self._config.start_epoch
        if not epoch:
            return newest
        if newest is None:
            raise errors.UsageError(
                f"--start_epoch={epoch} goes back within a run, and {self._dir.path}"
                " holds no checkpoint: leave it out to start from the beginning"
            )
        asked = {
            name: getattr(self._config, name)
            for name in ("start_epoch", *sorted(train_config.RESTART_FIELDS))
        }
        if newest.state.restart == asked:
            return newest  # Applied before; the same command goes on.
        return run_state.go_back(self._dir.checkpoints, epoch, asked)

    def _begin(self) -> None:
        if self._config.init_from:
            assembly.initialize(self._parts, self._config.init_from)
        self._build(0)
        self._write_config()
        self._log_start("beginning")
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
            arrays = run_state.best_arrays(self._dir.checkpoints, state)
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
        parts, now = self._parts, self._plan[phase]
        trained = models.set_trainable(
            parts.model, now.stage, self._config.trainable_layers
        )
        _log.info("%s", trained.description)
        with parts.strategy.scope():
            optimizer = optimizers.build(
                now.optimizer,
                ema_decay=self._config.ema_decay,
                weight_decay=self._config.weight_decay,
                momentum=self._config.momentum,
            )
        self._trainer = step.Trainer(
            parts.strategy,
            parts.network,
            optimizer,
            parts.loss,
            parts.prepare,
            self._step_config(),
        )
        self._predictor = step.Predictor(
            parts.strategy, parts.network, parts.loss, parts.normalize
        )
        self._built_phase, self._traced = phase, False

    def _step_config(self) -> step.StepConfig:
        return step.StepConfig(
            global_batch_size=self._config.global_batch_size,
            accumulation=self._config.accumulation,
            clip_norm=self._config.clip_norm,
            loss_scaling=self._parts.loss_scaling,
            jit=self._config.jit,
        )

    def _groups(self) -> dict[str, Any]:
        return {
            "model": self._parts.model.variables,
            "optimizer": self._trainer.optimizer.variables,
        }

    def _write_config(self) -> None:
        self._dir.write_config(self._config, **self._parts.facts)

    def _log_start(self, what: str) -> None:
        facts = self._parts.facts
        _log.info(
            "%s: %s, %d images each; %d examples, %d steps an epoch; %s; input engine"
            " %s; augmentation %s",
            what,
            facts["devices"],
            facts["per_replica_batch_size"],
            facts["train_examples"],
            facts["steps_per_epoch"],
            facts["precision"],
            facts["engine"],
            facts["augmentation"],
        )

    # Going on.

    def _epoch(self) -> None:
        """The rest of the present epoch."""
        state, per_epoch = self._state, self._parts.steps_per_epoch
        end = (state.epoch + 1) * per_epoch
        batch = self._config.global_batch_size
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
                self._stop_if_asked()
                rates = self._rates(end)
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
        self._stop_if_asked()
        seconds = max(time.monotonic() - began, 1e-9)
        self._close_epoch(
            waiting=waited / seconds,
            images_per_second=(state.step - begun_at) * batch / seconds,
        )

    def _rates(self, end: int) -> list[float]:
        """Rates of the steps to take before the next look at anything."""
        count = min(self._chunk, end - self._state.step, step.MAX_STEPS_PER_CALL)
        if every := self._config.checkpoint_steps:
            count = min(count, every - self._state.step % every)
        return recipe.rates(
            self._config,
            self._plan,
            self._state.course,
            first_step=self._state.step,
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
        with self._averaged():
            validation = self._validate()
            better = self._is_better(validation)
            if better:
                # Before the checkpoint that says so: killed in between, the steps
                # since the last checkpoint are repeated, and so is this.
                self._dir.save_model(self._parts.model, run_dir.BEST_NAME)
        row = {
            "epoch": state.epoch + 1,
            "stage": phase.stage,
            "step": state.step,
            "learning_rate": self._rates(state.step + 1)[0],
            "train": self._of_task(history.means(state.sums, step.SUMS)),
            "validation": validation,
        }
        state.epoch += 1
        if better:
            state.best = {
                "epoch": state.epoch,
                "step": state.step,
                "value": validation.get(self._metric),
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
        columns = self._predictor.run(self._parts.validation_data)
        values = {
            name: float(np.mean(columns[name], dtype=np.float64))
            for name in ("loss", "age_loss", "gender_loss")
            if name in columns
        }
        if "age" in columns:
            error = np.abs(columns["age"] - columns["label_age"])
            values["mae"] = float(np.mean(error, dtype=np.float64))
        if "gender" in columns:
            predicted = columns["gender"] >= 0.5
            values["accuracy"] = float(np.mean(predicted == columns["label_gender"]))
        return values

    def _of_task(self, means: dict[str, float]) -> dict[str, float]:
        labels = schema.labels_of(self._config.task)
        metrics = {"age": {"age_loss", "mae"}, "gender": {"gender_loss", "accuracy"}}
        kept = {"loss"}.union(*(metrics[label] for label in labels))
        return {name: value for name, value in means.items() if name in kept}

    def _is_better(self, validation: dict[str, float]) -> bool:
        """Without a validation split the last epoch counts as the best."""
        value, best = validation.get(self._metric), self._state.best
        if value is None:
            return True
        if not math.isfinite(value):
            return False
        if best is None or best["value"] is None:
            return True
        return self._sign * value > self._sign * best["value"]

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[None]:
        """The moving average of the weights in their place, for a while."""
        if not self._config.ema_decay:
            yield
            return
        strategy, weights = (
            self._parts.strategy,
            self._parts.network.trainable_variables,
        )
        own = [distribution.local_value(strategy, weight) for weight in weights]
        with strategy.scope():
            self._trainer.optimizer.finalize_variable_values(weights)
        try:
            yield
        finally:
            with strategy.scope():
                for weight, value in zip(weights, own, strict=True):
                    weight.assign(value)

    # Saving, stopping, recovering.

    def _save(self) -> None:
        arrays = checkpoints.variable_values(self._parts.strategy, self._groups())
        snapshot = run_state.Snapshot(self._state, self._history, arrays)
        if not snapshot.is_finite():
            raise _SpoiltError(self._state.step - 1, "the weights are not finite")
        snapshot.save(self._dir.checkpoints)

    def _prune(self) -> None:
        per_epoch, every = self._parts.steps_per_epoch, self._config.checkpoint_every
        keep = [self._state.best["step"]] if self._state.best else []
        if every:
            epochs = range(every, self._state.epoch + 1, every)
            keep += [epoch * per_epoch for epoch in epochs]
        last = self._config.keep_checkpoints
        checkpoints.prune(self._dir.checkpoints, keep, last=last)

    def _stop_if_asked(self) -> None:
        if not preemption.requested():
            return
        self._save()
        self._history.save(self._dir.path)
        raise errors.PreemptedError(
            f"{preemption.reason()} came: step {self._state.step} is saved in"
            f" {self._dir.path}; the same command continues"
        )

    def _recover(self, error: _SpoiltError) -> None:
        """Back to the last checkpoint with half the rate."""
        newest = run_state.newest(self._dir.checkpoints)
        if newest is None or self._state.recoveries >= self._config.max_recoveries:
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
        batch = self._config.global_batch_size
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
        self._history.save(self._dir.path)
        return self._result()

    def _result(self) -> TrainResult:
        best = self._state.best or {"epoch": 0, "value": None}
        return TrainResult(
            run_dir=self._dir.path,
            metric=self._metric,
            best_epoch=best["epoch"],
            best_value=best["value"],
            epochs=self._state.epoch,
            steps=self._state.step,
            best_path=self._dir.join(run_dir.BEST_NAME),
            final_path=self._dir.join(run_dir.FINAL_NAME),
            history=self._history.to_dict(),
        )
