"""Trains on records or on your own data, and continues a training that was stopped.

::

    config = trainer.TrainConfig(records_dir="records", run_dir="run", task="age")
    result = trainer.train(config)
    print(result.text())

The same call continues a run that was stopped at any step, with the same numbers:
everything that decides them is in a checkpoint and in the config.  The outer loop is in
`training.run`, which handles no batches; the inner loop is in `training.step`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from afad_tfdata import input_fn
from afad_tfdata.common import errors, options, preemption, progress
from afad_tfdata.common.lazy_imports import keras
from afad_tfdata.training import (
    automatic_options,
    idle_flags,
    initial_weights,
    process_settings,
    recipe,
    run_dir,
    run_state,
    train_data,
    train_result,
    training_parts,
)
from afad_tfdata.training import callbacks as train_callbacks
from afad_tfdata.training import config as train_config
from afad_tfdata.training import run as training_run
from afad_tfdata.training.caller import data_sets, objects
from afad_tfdata.training.caller import model as caller_model
from afad_tfdata.training.distributed import cluster, multi_worker

TrainConfig = train_config.TrainConfig
TrainResult = train_result.TrainResult
TrainEvent = train_callbacks.TrainEvent
StopTraining = train_callbacks.StopTraining

_log = logging.getLogger(__name__)


def train(
    config: TrainConfig,
    model: keras.Model | None = None,
    train_dataset: Any = None,
    validation_dataset: Any = None,
    augment: Callable[..., Any] | None = None,
    loss: Callable[..., Any] | None = None,
    callbacks: Sequence[Any] = (),
) -> TrainResult:
    """Trains a model, or continues a training that was stopped.

    The caller's parts and the first batch are checked before the first step.

    Args:
      config: The options of the training.
      model: Your own model of Keras 3: input float32 ``[n, S, S, 3]`` of
        ``(x - mean) / 127.5``, outputs ``age_output`` ``[n, 1]`` in years and/or
        ``gender_output`` ``[n, 1]``, the probability of class 1.  If the task has one
        label, the only output may have any name.  Layers that you froze stay frozen.
        After training, the model has the weights of the last step.
      train_dataset: Your own ``tf.data.Dataset`` of global batches ``({"image": uint8
        or float [B, S, S, 3] in [0, 255]}, {"age": [B] years, "gender": [B] 0 or 1})``;
        a function of the first step that returns one; or a pair of arrays ``(images,
        labels)``, which is shuffled as records are.  If the task has one label, images
        and labels may be plain tensors.  The last batch of a pass may be smaller.  The
        data set must give the same batches each time it is read; otherwise a run does
        not continue exactly.
      validation_dataset: Like `train_dataset`, but finite, in batches of any size, and
        not shuffled;
        ``features["mask"]`` is False on padding.  None takes the validation split of
        the records, if there are records.
      augment: Your own function of ``(images, seed=, step=, offset=)`` that takes
        images ``[B, S, S, 3]`` in [0, 255] and returns such images.  It may leave out
        any of the keywords.
      loss: Your own function of ``(outputs, labels)``, two dicts by name, that returns
        losses ``[B]``, or a dict of them, of which ``loss`` is minimised.
      callbacks: Your own objects with any of the methods ``on_start``, ``on_steps``,
        ``on_epoch``, ``on_checkpoint`` and ``on_end``, which are called with a
        `TrainEvent`; with several workers, only on the chief.  A callback that raises
        `StopTraining` ends the training, and so does one that fails.  In both cases
        everything is saved, and the same call continues.

    Returns:
      The best epoch, and where the models are.

    Raises:
      UsageError: The flags, the records or your own parts cannot be used, or the run
        directory has a run with other flags or parts, or a callback failed: its
        exception is then the cause of this error.
      PreemptedError: A signal or Ctrl-C asked to stop; everything is saved.
      DataError: The weights to begin with are not finite, or the training still
        diverges after `TrainConfig.max_recoveries` recoveries.
    """
    if config.find_learning_rate or config.folds:
        raise errors.UsageError(
            "train does not take find_learning_rate and folds: call rate_search.search"
            " or cross_validation.train instead"
        )
    own = objects.CallerObjects(model, train_dataset, validation_dataset, augment, loss)
    train_callbacks.check_callbacks(callbacks)
    if model is not None:
        caller_model.check_kind(model)
    if cluster.find():
        # Before joining the job, which starts TensorFlow with the threads set by then.
        process_settings.set_threads(config.threads)
    with (
        multi_worker.join(config.devices, config.all_reduce) as workers,
        run_dir.hold(config.run_dir, workers) as directory,
        input_fn.readable_errors(),
        data_sets.readable_errors(own_data=not own.builds_data()),
        caller_model.trainable_flags_restored(model),
        process_settings.settings_kept(),
        preemption.interruptible(),
        progress.lines_shown(),
    ):
        pretrained = initial_weights.backbone_is_pretrained(config.model, model)
        choice = automatic_options.resolve(
            config,
            pretrained=pretrained,
            image_size=train_data.image_size(config),
            initial=initial_weights.network_of(config.init_from),
            # Only the chief has the directory.
            recorded=workers.from_chief(directory.stored),
            **own.decides(),
        )
        given, config = config, choice.config
        phases = recipe.phases(config, pretrained=pretrained)
        # Only the chief reads the directory, because other workers might read it a
        # moment later and find it changed.
        found, has_models = workers.from_chief(
            lambda: [
                run_state.snapshot_to_plain(
                    run_state.find_snapshot(
                        directory, config, train_data.load_manifest(config)
                    )
                ),
                directory.has_models(),
            ]
        )
        snapshot = run_state.snapshot_of_plain(found)
        if snapshot is None:
            # Only in new runs: earlier versions began runs with such flags, and those
            # runs must continue.
            idle_flags.refuse(given, config, phases)
        if snapshot is not None and own == objects.CallerObjects() and has_models:
            if snapshot.state.course.current_or_next_phase(phases) is None:
                # Returns before anything is built, so that a repeated call is quick.
                _log.info("this run is finished: nothing is left to do")
                return train_result.result_of(config, snapshot.state, snapshot.history)
        parts = training_parts.assemble(
            config,
            own,
            begun=snapshot is not None,
            strategy=workers.strategy,
            chosen=choice.chosen,
        )
        workers.from_chief(lambda: directory.check_parts(parts.facts["parts"]))
        parts.data.refuse_short(
            sum(phase.epochs for phase in phases) * parts.steps_per_epoch
        )
        if snapshot is None:  # A checkpoint has its own weights.
            if choice.chosen:
                _log.info("%s", choice.text())
            initial_weights.set_initial_weights(
                config, parts.model, parts.strategy, passed=model is not None
            )
        called = train_callbacks.Callbacks(
            callbacks if workers.is_chief else (), options.to_dict(config)
        )
        with called.ended(directory.model_paths):
            run = training_run.Run(
                config, parts, phases, directory, workers, snapshot, called
            )
            while not run.is_over and (phase := run.next_phase()) is not None:
                run.begin_phase(phase)
                run.train_epoch()
            run.finish(model)
        return train_result.result_of(
            config, run.state, run.history, stopped=run.stopped
        )
