"""Checks whether a training has diverged, and reports repeated divergence."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from afad_tfdata.common import errors, files
from afad_tfdata.training import run_dir, run_state

REPORT_NAME = "failure.json"
# The running mean of the loss follows a change within about 1 / 0.02 = 50 steps; before
# the 50th step it is not used.
_MEAN_SHARE, _MEAN_STEPS = 0.02, 50
# Number of examples that the error names; the file names all of them.
_SHOWN_EXAMPLES = 3


class DivergedError(errors.DataError):
    """The loss or the weights of a step are wrong.

    Attributes:
      step: The step with this loss or these weights.
      what: What is wrong with them.
    """

    def __init__(self, step: int, what: str) -> None:
        super().__init__(f"{what} at step {step}")
        self.step, self.what = step, what


def check_losses(
    rows: np.ndarray, state: run_state.RunState, *, spike_factor: float
) -> None:
    """Checks whether the losses of steps diverge, and follows their running mean.

    Args:
      rows: float64 ``[steps, len(step.SUMS)]`` of the steps that follow `state.step`.
      state: Its ``loss_mean`` and ``loss_steps`` are updated.
      spike_factor: A loss that is this many times the mean is a spike; 0 for no check.

    Raises:
      DivergedError: A loss is not finite, or a spike.
    """
    mean, count = state.loss_mean, state.loss_steps
    for i, row in enumerate(rows):
        loss = float(row[1] / row[0])
        if not math.isfinite(loss):
            raise DivergedError(state.step + i, f"the loss is {loss}")
        if spike_factor and count >= _MEAN_STEPS and loss > spike_factor * mean:
            raise DivergedError(
                state.step + i, f"the loss leapt from {mean:.4g} to {loss:.4g}"
            )
        count += 1
        # At first this is the plain mean, and later an exponential mean.
        mean += (loss - mean) * max(1 / count, _MEAN_SHARE)
    state.loss_mean, state.loss_steps = mean, count


def divergence_error(
    error: DivergedError,
    *,
    recoveries: int,
    global_batch_size: int,
    examples: Callable[[int, int], list[str]],
    directory: run_dir.RunDir,
) -> errors.DataError:
    """The error that ends a run that keeps diverging; writes the suspected examples.

    Args:
      error: What is wrong, and at which step.
      recoveries: How often the run has gone back before.
      global_batch_size: Number of examples in a step.
      examples: ``(first, end)``: names of the examples at these positions.
      directory: Where ``failure.json`` is written.
    """
    # The step before may have damaged the weights; this step is where it was noticed.
    first = max(0, error.step - 1)
    names = examples(first * global_batch_size, (error.step + 1) * global_batch_size)
    path = directory.join(REPORT_NAME)
    files.write_json(
        path, {"what": error.what, "steps": [first, error.step], "examples": names}
    )
    return errors.DataError(
        f"{error.what} at step {error.step}, after {recoveries} recoveries; {path}"
        f" names the examples of the steps {first} to {error.step}, the first of them"
        f" {', '.join(names[:_SHOWN_EXAMPLES])}: look at them, lower --learning_rate or"
        " set --clip_norm"
    )
