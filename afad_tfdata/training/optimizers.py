"""Optimizers by name, and learning rates as a plain function of the step."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from afad_tfdata.common import errors
from afad_tfdata.common.lazy_imports import keras

NAMES = ("rmsprop", "adam", "adamw", "sgd")
SCHEDULES = ("constant", "cosine", "step")


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The learning rate of a phase as a function of its steps.

    Attributes:
      kind: One of `SCHEDULES`.
      peak: The rate after the warm-up.
      total_steps: Length of the phase.
      warmup_steps: Steps over which the rate rises linearly from 0 to the peak.
      floor: ``cosine`` only: where it ends, as a share of the peak.
      decay_every: ``step`` only: steps between two decays.
      decay: ``step`` only: factor of a decay.
    """

    kind: str
    peak: float
    total_steps: int
    warmup_steps: int = 0
    floor: float = 0.0
    decay_every: int = 0
    decay: float = 0.1

    def __post_init__(self) -> None:
        if self.kind not in SCHEDULES:
            raise errors.UsageError(
                f"--schedule takes one of {', '.join(SCHEDULES)}; got {self.kind!r}"
            )

    def rate(self, step: int) -> float:
        """The optimizer's learning rate at a step, counted from 0 in its phase.

        The cosine ends at its floor with the last step (Loshchilov and Hutter, 2017,
        arXiv:1608.03983, without restarts).
        """
        if step < self.warmup_steps:
            return self.peak * (step + 1) / self.warmup_steps
        if self.kind == "cosine":
            length = max(1, self.total_steps - self.warmup_steps)
            share = min(1.0, (step - self.warmup_steps) / length)
            height = 0.5 * (1 + math.cos(math.pi * share))
            return self.peak * (self.floor + (1 - self.floor) * height)
        if self.kind == "step" and self.decay_every > 0:
            return self.peak * self.decay ** (step // self.decay_every)
        return self.peak


def build(
    name: str, *, weight_decay: float = 1e-4, momentum: float
) -> keras.optimizers.Optimizer:
    """A Keras optimizer.  Its learning rate is set anew at each step by the loop.

    Args:
      name: One of `NAMES`.
      weight_decay: For ``adamw`` only.
      momentum: For ``sgd`` only.

    Returns:
      keras.optimizers.Optimizer, not built.
    """
    if name not in NAMES:
        raise errors.UsageError(
            f"--optimizer takes one of {', '.join(NAMES)}; got {name!r}"
        )
    # A plain number, which Keras stores in a variable that the loop can assign.
    common: dict[str, Any] = {"learning_rate": 0.0}
    if name == "sgd":
        return keras.optimizers.SGD(momentum=momentum, **common)
    if name == "adamw":
        return keras.optimizers.AdamW(weight_decay=weight_decay, **common)
    if name == "adam":
        return keras.optimizers.Adam(**common)
    return keras.optimizers.RMSprop(**common)
