"""The course of a training: which phase comes next, at which rate, and when it ends.

A stage alone is one phase.  The recipe does what the original project's author did by
hand: a warm-up of the head, then tuning; when validation turns, back to the best epoch
and on at a lower rate; an end when a lower rate brought no better epoch.

Pure arithmetic: what happened so far is a `Course`, plain numbers that a checkpoint
holds, and what comes next follows from it and the config alone.
"""

from __future__ import annotations

import dataclasses
import itertools

from afad_tfdata.training import config as train_config
from afad_tfdata.training import optimizers

WARMUP_EPOCHS = 24
TUNING_EPOCHS = 50
# At most so many lower rates are tried after the first one of tuning.
LOWERINGS = 4


@dataclasses.dataclass(frozen=True)
class Phase:
    """A stretch of training with one optimizer and one set of trained layers.

    Attributes:
      stage: ``warmup`` or ``tuning``.
      epochs: It is over after so many at the latest.
      rate: Peak learning rate.
      optimizer: One of `optimizers.NAMES`.
      patience: It is over after so many epochs without a better one; 0: not before
        `epochs`.
      must_help: The run ends with it if it brought no better epoch.
    """

    stage: str
    epochs: int
    rate: float
    optimizer: str
    patience: int = 0
    must_help: bool = False

    def __str__(self) -> str:
        """For a log: how long at most, and what may end it sooner."""
        text = f"{self.stage} of up to {self.epochs} epochs at rate {self.rate:g}"
        return text + (" if that still helps" if self.must_help else "")


@dataclasses.dataclass
class Course:
    """What happened so far.

    Attributes:
      phase: Position in `phases`.
      first_step: The step at which the phase began.
      epochs: Epochs of the phase that are done.
      waited: Epochs since its last better one.
      helped: Whether it brought a better one.
      plateau_scale: Factor of the rate that the plateau schedule has come to.
      plateau_waited: Epochs since it last changed, or since the last better one.
    """

    phase: int = 0
    first_step: int = 0
    epochs: int = 0
    waited: int = 0
    helped: bool = False
    plateau_scale: float = 1.0
    plateau_waited: int = 0

    def after_epoch(self, better: bool, config: train_config.TrainConfig) -> None:
        """Counts an epoch; `better`: it is the best of the run so far."""
        self.epochs += 1
        self.helped |= better
        self.waited = 0 if better else self.waited + 1
        self.plateau_waited = 0 if better else self.plateau_waited + 1
        if config.schedule == "plateau" and self.plateau_waited >= config.patience:
            self.plateau_scale *= config.decay_factor
            self.plateau_waited = 0

    def phase_is_over(self, phase: Phase) -> bool:
        """Whether the phase has had its epochs or used up its patience."""
        out_of_patience = bool(phase.patience) and self.waited >= phase.patience
        return self.epochs >= phase.epochs or out_of_patience

    def next_phase(self, plan: tuple[Phase, ...]) -> int | None:
        """The phase after the present one, which is over; None at the end."""
        if plan[self.phase].must_help and not self.helped:
            return None
        return self.phase + 1 if self.phase + 1 < len(plan) else None


def phases(config: train_config.TrainConfig, *, pretrained: bool) -> tuple[Phase, ...]:
    """The phases of a run, in their order; the last ones may not be reached.

    Args:
      config: Its stage, task, epochs, rate and optimizer.
      pretrained: Whether the backbone brings weights, and a warm-up of the head over
        them makes sense.

    Returns:
      One phase, or those of the recipe.  The original's two: gender 24 epochs at 1e-3,
      50 at 5e-4, then 1e-4 from the best; age 24 and more at 1e-3, then 5e-4.
    """
    gender = config.input.task == "gender"
    rate = config.learning_rate
    if config.stage == "warmup":
        return (_warmup(config, config.epochs or WARMUP_EPOCHS, rate or 1e-3),)
    rate = rate or (5e-4 if gender else 1e-3)
    tuning = Phase(
        stage="tuning",
        epochs=config.epochs or TUNING_EPOCHS,
        rate=rate,
        optimizer="adam" if config.optimizer == "auto" else config.optimizer,
    )
    if config.stage == "tuning":
        return (tuning,)
    plan = []
    if pretrained and config.warmup_epochs:
        plan.append(
            dataclasses.replace(
                _warmup(config, config.warmup_epochs, 1e-3), patience=config.patience
            )
        )
    factor = 0.2 if gender else 0.5
    rates = itertools.accumulate([rate] + [factor] * LOWERINGS, lambda a, b: a * b)
    for i, lowered in enumerate(rates):
        plan.append(
            dataclasses.replace(
                tuning, rate=lowered, patience=config.patience, must_help=i > 0
            )
        )
    return tuple(plan)


def rates(
    config: train_config.TrainConfig,
    plan: tuple[Phase, ...],
    course: Course,
    *,
    first_step: int,
    count: int,
    steps_per_epoch: int,
    scale: float = 1.0,
) -> list[float]:
    """Learning rates of the next steps.

    Args:
      config: Its schedule.
      plan: From `phases`.
      course: What happened so far.
      first_step: Number of the first of these steps in the run.
      count: Number of rates wanted.
      steps_per_epoch: Of the run.
      scale: A factor on all of them: what recoveries have come to.
    """
    phase = plan[course.phase]
    plateau = config.schedule == "plateau"
    schedule = optimizers.Schedule(
        kind="constant" if plateau else config.schedule,
        peak=phase.rate,
        total_steps=phase.epochs * steps_per_epoch,
        warmup_steps=config.warmup_steps,
        decay_every=config.decay_epochs * steps_per_epoch,
        decay=config.decay_factor,
    )
    scale *= course.plateau_scale
    begin = first_step - course.first_step
    return [schedule.rate(begin + i) * scale for i in range(count)]


def _warmup(config: train_config.TrainConfig, epochs: int, rate: float) -> Phase:
    optimizer = "rmsprop" if config.optimizer == "auto" else config.optimizer
    return Phase(stage="warmup", epochs=epochs, rate=rate, optimizer=optimizer)
