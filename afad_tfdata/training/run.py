"""One process's share of a run: its state, checkpoints, phases and epochs.

`trainer.train` is the outline of a run, and this module has its parts.  Everything that
decides what comes next is in the state, and checkpoints contain the state.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from afad_tfdata.common import errors, preemption
from afad_tfdata.common.lazy_imports import keras
from afad_tfdata.images import augmentation
from afad_tfdata.models import facts, networks
from afad_tfdata.training import (
    best_epoch_age_interval,
    callbacks,
    checkpoints,
    divergence,
    epoch_loop,
    epoch_metrics,
    history,
    metrics_log,
    recipe,
    replica_predictor,
    run_dir,
    run_state,
    step,
    training_facts,
    training_parts,
    weight_average,
)
from afad_tfdata.training import config as train_config
from afad_tfdata.training.caller import model as caller_model
from afad_tfdata.training.distributed import multi_worker

_log = logging.getLogger(__name__)
# Half of a rate at which the loss diverges is small enough in most cases.
_RECOVERY_FACTOR = 0.5
# Drawing takes about a second.  If epochs are short, drawing after each of them would
# take most of the time.
_PICTURE_SECS = 30.0


class Run:
    """A run that begins, or goes on from a snapshot.

    Args:
      config: The options.
      parts: The model, the data and everything else that training needs.
      phases: From `recipe.phases`.
      directory: The run directory, into which everything is written.
      workers: The workers of the job.
      snapshot: The snapshot to go on from; None at the beginning.
      called: The caller's callbacks.
    """

    def __init__(
        self,
        config: train_config.TrainConfig,
        parts: training_parts.TrainingParts,
        phases: tuple[recipe.Phase, ...],
        directory: run_dir.RunDir,
        workers: multi_worker.Workers,
        snapshot: run_state.RunSnapshot | None,
        called: callbacks.Callbacks,
    ) -> None:
        self.is_over = False  # Whether a callback has ended the run.
        self.stopped = ""  # Which callback asked for that, and why.
        self._called = called
        self._config, self._parts, self._phases = config, parts, phases
        self._dir, self._workers = directory, workers
        self.state, self.history = run_state.RunState(), history.History()
        if snapshot is not None:
            self.state, self.history = snapshot.state, snapshot.history
        self._metrics_log = metrics_log.MetricsLog(
            directory.path, directory.events if config.tensorboard else None
        )
        self._drawn_at = 0.0
        self._predictor = replica_predictor.Predictor(
            *(parts.strategy, parts.network, parts.loss, parts.normalize),
            derive=functools.partial(
                replica_predictor.age_spread_output,
                network=facts.of(parts.model).network,
            ),
        )
        self._built_phase = self.state.course.phase
        self._train_step, self._loop = self._build(self._built_phase)
        self._iterator: Iterator[Any]
        if snapshot is None:
            self._begin()
        else:
            self._continue_from(snapshot)

    # Beginning and continuing.

    def _begin(self) -> None:
        """Begins a new run: its files, and the state before the first step."""
        self._write_config()
        self._log_start("beginning")
        if len(self._phases) > 1:
            _log.info("recipe: %s", "; then ".join(map(str, self._phases)))
        if self._config.augment_preview:
            self._draw_preview(self._dir.join(run_dir.PREVIEW_NAME))
        self._mark_stage()
        self._warn_of_decay()
        self._iterator = self._parts.train_data(0)
        self._report("on_start")
        # A run that diverges in its first epoch goes back to this checkpoint.
        self._save_checkpoint()

    def _continue_from(self, snapshot: run_state.RunSnapshot) -> None:
        """Continues the run from a checkpoint."""
        before = self._dir.stored() or {}
        self._restore(snapshot)
        self._log_start(f"continuing after step {self.state.step}")
        if changes := training_facts.rounding_changes(before, self._parts.facts):
            _log.warning(
                "from here on, numbers are rounded differently than without the stop,"
                " because the run continues with %s (docs/determinism.md)",
                "; ".join(changes),
            )
        self._report("on_start")

    def _log_start(self, what: str) -> None:
        """Logs at the start of a run what follows from flags, records and devices."""
        known = self._parts.facts
        _log.info(
            "%s: %s, %d images each; %d examples, %d steps an epoch; %s; input engine"
            " %s; augmentation %s; %d threads",
            what,
            known["devices"],
            known["per_replica_batch_size"],
            known["train_examples"],
            known["steps_per_epoch"],
            known["precision"],
            known["engine"],
            known["augmentation"],
            known["threads"]["intra_op"] or known["threads"]["cores"],
        )

    def _draw_preview(self, path: str) -> None:
        """Draws, at the start of a run, some images and their augmented versions."""
        config, parts = self._config, self._parts
        settings = augmentation.parse(config.augment)
        if settings is None:
            _log.info("--augment=none leaves nothing to preview")
            return
        features, _ = next(parts.train_data(0))
        images = parts.strategy.experimental_local_results(features["image"])[0].numpy()
        augmentation.preview(images, path, settings, config.input.seed)
        _log.info("preview of the augmentation: %s", path)

    def _restore(self, snapshot: run_state.RunSnapshot) -> None:
        """Sets state, variables, files and input back to those of a snapshot."""
        self.state, self.history = snapshot.state, snapshot.history
        if self._built_phase != self.state.course.phase:
            self._enter(self.state.course.phase)
        where = f"the checkpoint of step {self.state.step} in {self._dir.path}"
        arrays = self._upgraded(snapshot.arrays)
        checkpoints.assign(self._parts.strategy, self._variables(), arrays, where=where)
        self._dir.cut(self.state.step)
        self.history.save(self._dir.path, picture=False)
        self._write_config()
        self._iterator = self._parts.train_data(self.state.step)

    def _write_config(self) -> None:
        """Writes ``config.json`` of the run."""
        self._dir.write_config(self._config, **self._parts.facts)

    # Phases.

    def next_phase(self) -> int | None:
        """The phase to go on with; None at the end of the run."""
        course = self.state.course
        following = course.current_or_next_phase(self._phases)
        if following != course.phase:
            _log.info("%s", course.why_over(self._phases))
        return following

    def begin_phase(self, phase: int) -> None:
        """Goes on from the best epoch, with the next rate and set of layers.

        Args:
          phase: Position in the phases; if it is the present one, nothing is done.
        """
        state, now = self.state, self._phases[phase]
        if phase == state.course.phase:
            return
        before = self._phases[state.course.phase]
        arrays = self._best_arrays()
        self._enter(phase)
        at = "the last epoch"
        if arrays is not None and state.best is not None:
            at = f"epoch {state.best['epoch']}"
            arrays, groups = self._upgraded(arrays), self._variables()
            groups.pop("average", None)  # It begins anew with each phase.
            if state.best["stage"] != now.stage:
                # The optimizer's state belongs to another set of layers.
                del groups["optimizer"]
            checkpoints.assign(self._parts.strategy, groups, arrays, where=at)
        state.course = recipe.PhaseProgress(phase, first_step=state.step)
        # At another rate, the losses are of another size.
        state.loss_mean, state.loss_steps = 0.0, 0
        _log.info("%s from %s, rate %g", now.stage, at, now.rate)
        if now.stage != before.stage:
            self._mark_stage()
        else:
            text = f"from {at}, rate {now.rate:g}"
            self.history.event(state.step, "restart", text)
        self._warn_of_decay()

    def _best_arrays(self) -> Any:
        """Variables of the best epoch; None if its checkpoint is gone or damaged."""
        try:
            return self._workers.from_chief(
                lambda: run_state.arrays_of_best_epoch(
                    self._dir.checkpoints, self.state
                )
            )
        except errors.AfadError as error:
            _log.warning("%s; going on from the last epoch", error)
            return None

    def _mark_stage(self) -> None:
        """Notes in the history that a stage begins."""
        phase = self._phases[self.state.course.phase]
        text = f"{phase.stage}, rate {phase.rate:g}"
        self.history.event(self.state.step, "stage", text)

    def _warn_of_decay(self) -> None:
        """Warns if the average of the weights is too long for the run."""
        phase = self._phases[self.state.course.phase]
        steps = phase.epochs * self._parts.steps_per_epoch
        if text := weight_average.too_long_decay(self._config.ema_decay, steps):
            _log.warning("%s", text)

    def _enter(self, phase: int) -> None:
        """Builds the steps of a phase."""
        self._built_phase = phase
        self._train_step, self._loop = self._build(phase)

    def _build(self, phase: int) -> tuple[step.TrainStep, epoch_loop.EpochLoop]:
        """The object that takes the steps of a phase, with a new optimizer."""
        train_step = training_parts.train_step_of(
            self._parts, self._config, self._phases[phase]
        )
        loop = epoch_loop.EpochLoop(
            self._config,
            self._phases,
            train_step,
            steps_per_epoch=self._parts.steps_per_epoch,
            directory=self._dir,
            log=self._metrics_log,
            workers=self._workers,
            called=self._called,
            report=lambda metrics: self._report("on_steps", metrics),
            save=self._save_checkpoint,
            stop=self._save_and_stop,
            end_early=self._save_and_end_early,
        )
        return train_step, loop

    # Epochs.

    def train_epoch(self) -> None:
        """Trains the rest of an epoch; goes back to a checkpoint if it diverges.

        `is_over` is then True if a callback has ended the run.
        """
        try:
            speed = self._loop.run(self.state, self._iterator)
            self._close_epoch(speed)
        except divergence.DivergedError as error:
            self._go_back(error)
        except callbacks.EndEarlyError:
            self.is_over = True

    def _close_epoch(self, speed: epoch_loop.Speed) -> None:
        """Validates, saves, and records the epoch whose steps are done."""
        state, phase = self.state, self._phases[self.state.course.phase]
        task = self._config.input.task
        validation, is_better = self._validate_and_save_best()
        last_rate = self._loop.rates(state, 1, first_step=state.step - 1)[0]
        row = {
            "epoch": state.epoch + 1,
            "stage": phase.stage,
            "step": state.step,
            "learning_rate": last_rate,
            "train": epoch_metrics.training_metrics(
                state.sums, task, self._parts.loss_names, self._loss_weights
            ),
            "validation": validation,
        }
        state.epoch += 1
        if is_better:
            state.best = {
                "epoch": state.epoch,
                "step": state.step,
                "value": validation.get(epoch_metrics.deciding_metric(task)),
                "stage": phase.stage,
            }
        state.course.after_epoch(is_better, self._config)
        state.sums = [0.0] * len(step.SUMS)
        self.history.epochs.append(row)
        self._metrics_log.epoch(
            row, waiting=speed.waiting, images_per_second=speed.images_per_second
        )
        # Reported before saving: if the process is killed in between, the epoch is
        # reported again, and not lost.
        self._report_epoch(row, is_better)
        self._save_checkpoint()
        # Removed after saving, because the new checkpoint may be the best one.
        self._remove_old_checkpoints()
        is_drawn = time.monotonic() - self._drawn_at > _PICTURE_SECS
        self.history.save(self._dir.path, picture=is_drawn)
        if is_drawn:
            self._drawn_at = time.monotonic()
        _log.info(
            "epoch %d %s%s: %s",
            state.epoch,
            phase.stage,
            " (best)" if is_better else "",
            epoch_metrics.text(row),
        )

    @property
    def _loss_weights(self) -> dict[str, float]:
        """Factors of the losses of the labels in the joint loss."""
        return {
            "age_loss": self._config.age_weight,
            "gender_loss": self._config.gender_weight or 0.0,
        }

    def _report_epoch(self, row: dict[str, Any], is_better: bool) -> None:
        """Tells the callbacks the metrics of an epoch."""
        metrics = {
            f"{part}/{name}": value
            for part in ("train", "validation")
            for name, value in row[part].items()
        }
        best = self._dir.join(run_dir.BEST_NAME)
        self._report("on_epoch", metrics, {"best": best} if is_better else {})

    def _report(
        self,
        name: str,
        metrics: Mapping[str, float] | None = None,
        paths: Mapping[str, str] | None = None,
    ) -> None:
        """Calls the callbacks."""
        phase = self.state.course.phase
        last = max(self.state.course.first_step, self.state.step - 1)
        self._called.call(
            name,
            callbacks.TrainEvent(
                run_dir=self._dir.path,
                step=self.state.step,
                epoch=self.state.epoch,
                phase=phase,
                stage=self._phases[phase].stage,
                learning_rate=self._loop.rates(self.state, 1, first_step=last)[0],
                metrics=dict(metrics or {}),
                paths=dict(paths or {}),
            ),
        )

    def _validate_and_save_best(self) -> tuple[dict[str, float], bool]:
        """The epoch's validation metrics, and whether the epoch is the best so far."""
        best, task = self.state.best or {}, self._config.input.task
        validation: dict[str, float] = {}
        columns: dict[str, np.ndarray] = {}
        with self._train_step.averaged():
            if self._parts.validation_data is not None:
                columns = self._predictor.run(self._parts.validation_data)
                _check_probabilities(columns)
                validation = epoch_metrics.validation_metrics(
                    columns, self._loss_weights
                )
            value = validation.get(epoch_metrics.deciding_metric(task))
            is_better = epoch_metrics.is_better(task, value, best.get("value"))
            if is_better:
                # The model is saved before the checkpoint that names this epoch.  If
                # the process is killed in between, the next start repeats both the
                # steps and this.
                self._dir.save_model(self._parts.model, run_dir.BEST_NAME)
        if is_better and self._workers.is_chief:
            best_epoch_age_interval.store(
                self._dir.join(run_dir.BEST_NAME),
                columns,
                facts.of(self._parts.model).class_names,
                coverage=self._config.interval_coverage,
            )
        return validation, is_better

    # Saving, stopping, going back.

    def _variables(self) -> dict[str, Any]:
        """The variables that a checkpoint contains, by group."""
        groups: dict[str, Any] = {
            "model": networks.stored_variables(self._parts.model),
            "optimizer": self._train_step.optimizer.variables,
        }
        if self._train_step.average is not None:
            groups["average"] = self._train_step.average.variables
        return groups

    def _upgraded(self, arrays: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """A checkpoint's arrays, where an older version may have written them."""
        average = self._train_step.average
        if average is None:
            return arrays
        return average.with_keras_averages(
            arrays,
            self._train_step.optimizer,
            networks.stored_variables(self._parts.model),
        )

    def _save_checkpoint(self) -> None:
        """Saves a checkpoint of the run."""
        # Every worker reads the values, because some can only be read by all together.
        groups = self._variables()
        snapshot = run_state.RunSnapshot(
            self.state,
            self.history,
            checkpoints.variable_values(self._parts.strategy, groups),
            facts=facts.of(self._parts.model).to_dict(),
            paths=checkpoints.variable_paths(groups),
        )
        if not snapshot.is_finite():
            at = max(0, self.state.step - 1)  # This is the last step that was taken.
            raise divergence.DivergedError(at, "the weights are not finite")
        if self._workers.is_chief:
            path = snapshot.save(self._dir.checkpoints)
            self._report("on_checkpoint", paths={"checkpoint": path})

    def _remove_old_checkpoints(self) -> None:
        """Removes checkpoints that need not be kept."""
        per_epoch, every = self._parts.steps_per_epoch, self._config.checkpoint_every
        keep = [self.state.best["step"]] if self.state.best else []
        if every:
            epochs = range(every, self.state.epoch + 1, every)
            keep += [epoch * per_epoch for epoch in epochs]
        last = self._config.keep_checkpoints
        checkpoints.prune(self._dir.checkpoints, keep, last=last)

    def _save_and_stop(self) -> None:
        """Saves, and stops because a signal asked for it."""
        self._save_checkpoint()
        self.history.save(self._dir.path)
        # No worker may end before the chief has saved.
        self._workers.meet()
        reason = preemption.reason() or "a signal to another worker"
        raise errors.PreemptedError(
            f"{reason} came: step {self.state.step} is saved in"
            f" {self._config.run_dir}; the same command continues"
        )

    def _save_and_end_early(self) -> None:
        """Saves, and ends because a callback asked for it."""
        self._save_checkpoint()
        self._called.over()
        if self._called.stopped:
            _log.info(
                "stopped after step %d by %s; the same call continues",
                self.state.step,
                self._called.stopped,
            )
        raise callbacks.EndEarlyError

    def _go_back(self, error: divergence.DivergedError) -> None:
        """Goes back to the last checkpoint and lowers the rate."""
        newest = run_state.snapshot_of_plain(
            self._workers.from_chief(
                lambda: run_state.snapshot_to_plain(
                    run_state.newest_snapshot(self._dir.checkpoints)
                )
            )
        )
        # The checkpoint may be just as bad, if another program changed it.
        if (
            newest is None
            or not newest.is_finite()
            or self.state.recoveries >= self._config.max_recoveries
        ):
            raise divergence.divergence_error(
                error,
                recoveries=self.state.recoveries,
                global_batch_size=self._config.input.global_batch_size,
                examples=self._parts.examples,
                directory=self._dir,
            ) from error
        # Both come from the present state, because the checkpoint may be older than the
        # last recovery.
        scale = self.state.scale * _RECOVERY_FACTOR
        recoveries = self.state.recoveries + 1
        self._restore(newest)
        self.state.scale, self.state.recoveries = scale, recoveries
        text = f"{error}: rates times {scale:g}"
        self.history.event(self.state.step, "recovery", text)
        _log.warning(
            "%s; back to step %d (%d of %d recoveries)",
            text,
            self.state.step,
            recoveries,
            self._config.max_recoveries,
        )
        # If the process is killed after this, the run goes on at the lower rate, and
        # this recovery is counted.
        self._save_checkpoint()

    def finish(self, callers_model: keras.Model | None) -> None:
        """Saves the last model and the picture, and waits for the other workers.

        Args:
          callers_model: The caller's model, which gets the weights if a copy of it was
            trained.

        Raises:
          UsageError: A callback failed.
        """
        with self._train_step.averaged():
            self._dir.save_model(self._parts.model, run_dir.FINAL_NAME)
            if callers_model not in (None, self._parts.model):
                callers_model.set_weights(self._parts.model.get_weights())
        self.history.save(self._dir.path)
        self._workers.meet()
        self.stopped = self._workers.from_chief(self._called.outcome)


def _check_probabilities(columns: Mapping[str, np.ndarray]) -> None:
    """Refuses a model whose gender output is not a probability in validation."""
    values = columns.get("gender", np.zeros(0))
    values = values[np.isfinite(values)]
    if values.size and not (values.min() >= -1e-6 and values.max() <= 1 + 1e-6):
        raise caller_model.logits_error(f"in [{values.min():.3g}, {values.max():.3g}]")
