"""The learning rate range test: growing rates, the loss by rate, and a suggestion.

The test trains one step at each of many rates, from very small to large.  The rate at
which the loss falls fastest is a good one; a rate at which it rises again is too large
(Smith, 2017, arXiv:1506.01186, section 3.3).  Then the weights are restored.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from afad_tfdata import input_fn
from afad_tfdata.common import errors, figures, files
from afad_tfdata.common.lazy_imports import keras, tf
from afad_tfdata.training import (
    automatic_options,
    checkpoints,
    initial_weights,
    process_settings,
    recipe,
    run_dir,
    step,
    train_data,
    training_parts,
)
from afad_tfdata.training import config as train_config
from afad_tfdata.training.caller import data_sets, objects
from afad_tfdata.training.caller import model as caller_model
from afad_tfdata.training.distributed import cluster

JSON_NAME = "learning_rate.json"
PICTURE_NAME = "learning_rate.png"

_STEPS = 100
_LOWEST, _HIGHEST = 1e-6, 1.0
_SMOOTHING = 0.9  # A mean over about ten steps.
# The test ends when the smoothed loss is this many times its smallest value.
_DIVERGED = 4.0
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """The rates that were tried, and their losses.

    Attributes:
      rates: Learning rates, ascending.
      losses: Mean loss of the step at each rate.
      smoothed: The losses, smoothed over neighbours.
      suggestion: The rate at which the loss falls fastest; None if it never falls.
      picture: Path of the curve.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    suggestion: float | None
    picture: str

    def text(self) -> str:
        """A summary of the rate search in two lines."""
        if self.suggestion is None:
            found = "the loss falls at none of the rates"
        else:
            found = f"the loss falls fastest at --learning_rate={self.suggestion:.2g}"
        return (
            f"{len(self.rates)} steps at rates from {self.rates[0]:.1g} to"
            f" {self.rates[-1]:.1g}: {found}\ncurve: {self.picture}; its numbers:"
            f" {files.join(os.path.dirname(self.picture), JSON_NAME)}"
        )

    def to_dict(self) -> dict[str, Any]:
        """The result of the rate search as JSON values."""
        return dataclasses.asdict(self)


def search(
    config: train_config.TrainConfig,
    model: keras.Model | None = None,
    train_dataset: tf.data.Dataset | Callable[[int], tf.data.Dataset] | None = None,
    loss: Callable[..., Any] | None = None,
) -> SearchResult:
    """Searches a learning rate: tries growing rates, and restores the weights.

    Args:
      config: As for `trainer.train`; the first phase of its stage is tried.
      model: As for `trainer.train`.
      train_dataset: As for `trainer.train`.
      loss: As for `trainer.train`.

    Returns:
      The curve, which is also written to the run directory.
    """
    cluster.refuse_several_workers("--find_learning_rate")
    if model is not None:
        caller_model.check_kind(model)
    own = objects.CallerObjects(model=model, train_dataset=train_dataset, loss=loss)
    directory = run_dir.RunDir(config.run_dir)
    with (
        contextlib.closing(directory),
        input_fn.readable_errors(),
        data_sets.readable_errors(own_data=train_dataset is not None),
        caller_model.trainable_flags_restored(model),
        process_settings.settings_kept(),
    ):
        pretrained = initial_weights.backbone_is_pretrained(config.model, model)
        config = automatic_options.resolve(
            config,
            pretrained=pretrained,
            image_size=train_data.image_size(config),
            initial=initial_weights.network_of(config.init_from),
            **own.decides(),
        ).config
        parts = training_parts.assemble(config, own)
        initial_weights.set_initial_weights(
            config, parts.model, parts.strategy, passed=model is not None
        )
        phase = recipe.phases(config, pretrained=pretrained)[0]
        train_step = training_parts.train_step_of(parts, config, phase)
        groups = {"model": parts.model.variables}
        before = checkpoints.variable_values(parts.strategy, groups)
        try:
            rates, losses = _losses_by_rate(train_step, parts.train_data(0))
        finally:
            checkpoints.assign(parts.strategy, groups, before, where="the model")
        smoothed = _smoothed_losses(losses)
        result = SearchResult(
            rates=tuple(rates),
            losses=tuple(losses),
            smoothed=tuple(smoothed),
            suggestion=_steepest_rate(rates, smoothed),
            picture=directory.join(PICTURE_NAME),
        )
        files.write_json(directory.join(JSON_NAME), result.to_dict())
        _draw_loss_by_rate(result)
        return result


def _losses_by_rate(
    train_step: step.TrainStep, iterator: Iterator[Any]
) -> tuple[list[float], list[float]]:
    """Takes a step at each learning rate, until the loss is far above its smallest."""
    planned = np.geomspace(_LOWEST, _HIGHEST, _STEPS).tolist()
    losses: list[float] = []
    for i, rate in enumerate(planned):
        rows, _ = train_step.run(iterator, i, [rate])
        row = rows.numpy()[0]
        loss = float(row[1] / row[0])
        if not math.isfinite(loss):
            if not losses:
                raise errors.DataError(
                    f"the loss of the first step is {loss}, at the smallest rate: an"
                    " image or a label of its batch is not finite, or the loss"
                    " overflows; check the data before the rate"
                )
            break
        losses.append(loss)
        smoothed = _smoothed_losses(losses)
        if i >= 10 and smoothed[-1] > _DIVERGED * min(smoothed):
            break
        if i % 20 == 19:
            _log.info("rate %.2g: loss %.4g", rate, loss)
    return planned[: len(losses)], losses


def _smoothed_losses(losses: Sequence[float]) -> list[float]:
    """Losses by rate, smoothed: an exponential mean without the bias of its start."""
    mean, result = 0.0, []
    for i, loss in enumerate(losses, 1):
        mean = _SMOOTHING * mean + (1 - _SMOOTHING) * loss
        result.append(mean / (1 - _SMOOTHING**i))
    return result


def _steepest_rate(rates: Sequence[float], smoothed: Sequence[float]) -> float | None:
    """The learning rate at which the smoothed loss falls fastest by its logarithm."""
    if len(rates) < 3:
        return None
    slopes = np.gradient(np.asarray(smoothed), np.log(np.asarray(rates)))
    # Each of the first values is a mean of few steps.
    start = min(10, len(rates) - 2)
    at = start + int(np.argmin(slopes[start:]))
    return float(rates[at]) if slopes[at] < 0 else None


def _draw_loss_by_rate(result: SearchResult) -> None:
    """Draws the loss by learning rate."""
    figure = figures.new(7, 4)
    axes = figure.subplots()
    axes.plot(result.rates, result.losses, lw=0.6, alpha=0.5, label="loss")
    axes.plot(result.rates, result.smoothed, label="smoothed")
    if result.suggestion is not None:
        axes.axvline(
            result.suggestion,
            ls="--",
            color="tab:red",
            label=f"{result.suggestion:.2g}",
        )
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss")
    axes.grid(alpha=0.3)
    axes.legend()
    figures.save(result.picture, figure)
