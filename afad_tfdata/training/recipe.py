"""The phases of a run: which comes next, at which rate, and when the run ends.

A single stage is one phase.  The recipe repeats what the original project's author did
by hand.  It trains the head (warm-up), and then tunes.  When validation gets worse, it
goes back to the best epoch and continues at a lower rate.  It ends when a lower rate
brings no better epoch.

This module only computes.  `PhaseProgress` has the numbers of what happened so far,
which checkpoints contain; they and the config decide what comes next.
"""

from __future__ import annotations

import dataclasses
import itertools

from afad_tfdata.training import config as train_config
from afad_tfdata.training import optimizers

WARMUP_EPOCHS = 24
TUNING_EPOCHS = 50
# Number of lower rates after the first rate of tuning.  After four, the rate is so
# small that an epoch hardly changes the weights.
LOWERINGS = 4


@dataclasses.dataclass(frozen=True)
class Phase:
    """A stretch of training with one optimizer and one set of trained layers.

    Attributes:
      stage: ``warmup`` or ``tuning``.
      epochs: Largest number of epochs of the phase.
      rate: Peak learning rate.
      optimizer: One of `optimizers.NAMES`.
      patience: Number of epochs without an improvement after which the phase ends; with
        0 it has all of its `epochs`.
      must_help: The run ends with this phase if no epoch of it was an improvement.
    """

    stage: str
    epochs: int
    rate: float
    optimizer: str
    patience: int = 0
    must_help: bool = False

    def __str__(self) -> str:
        """The phase's longest duration and what may end it sooner, for a log."""
        text = f"{self.stage} of up to {self.epochs} epochs at rate {self.rate:g}"
        return text + (" if that still helps" if self.must_help else "")


@dataclasses.dataclass
class PhaseProgress:
    """Progress of a run: all that the recipe needs to know.

    Attributes:
      phase: Position in `phases`.
      first_step: The step at which the phase began.
      epochs: Number of epochs of the phase that are done.
      waited: Number of epochs of the phase since the last improvement.
      helped: Whether an epoch of the phase was an improvement.
      plateau_scale: Factor by which the plateau schedule has lowered the rate.
      plateau_waited: Epochs since that factor changed, or since the last improvement.
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
        """Whether all epochs of the phase are done, or its patience is used up."""
        out_of_patience = bool(phase.patience) and self.waited >= phase.patience
        return self.epochs >= phase.epochs or out_of_patience

    def why_over(self, phases: tuple[Phase, ...]) -> str:
        """Why the present phase is over, and whether the run is; a text for a log."""
        phase = phases[self.phase]
        if self.epochs >= phase.epochs:
            text = f"{phase.stage} ends: all of its {phase.epochs} epochs are done"
        else:
            text = f"{phase.stage} ends: no improvement in {self.waited} epochs"
        if self.next_phase(phases) is not None:
            return text
        if len(phases) == 1:
            return f"{text}; so does the run"
        if phase.must_help and not self.helped:
            return f"{text}; the run ends, because this rate brought no improvement"
        return f"{text}; the run ends, because this was the last phase"

    def next_phase(self, phases: tuple[Phase, ...]) -> int | None:
        """The phase after the present one, which is over; None at the end."""
        if phases[self.phase].must_help and not self.helped:
            return None
        return self.phase + 1 if self.phase + 1 < len(phases) else None

    def current_or_next_phase(self, phases: tuple[Phase, ...]) -> int | None:
        """The phase to go on with, which may be the present one; None at the end."""
        if not self.phase_is_over(phases[self.phase]):
            return self.phase
        return self.next_phase(phases)


def phases(config: train_config.TrainConfig, *, pretrained: bool) -> tuple[Phase, ...]:
    """The phases of the recipe, in order; a run may end before the last ones.

    Args:
      config: From `automatic_options.resolve`; its recipe, stage, task, epochs, rate
        and optimizer are used.
      pretrained: Whether the backbone has pre-trained weights, so that a warm-up of
        the head over them makes sense.

    Returns:
      One phase, or those of the recipe.  The original project trained gender for 24
      epochs at 1e-3, 50 at 5e-4, and then from the best epoch at 1e-4; it trained age
      for 24 epochs and more at 1e-3, and then at 5e-4.  If nothing is pre-trained, the
      default recipe has one phase, in which all layers train.
    """
    gender = config.input.task == "gender"
    rate = config.learning_rate
    if config.stage == "warmup":
        return (_warmup_phase(config, config.epochs or WARMUP_EPOCHS, rate or 1e-3),)
    rate = rate or (5e-4 if gender else 1e-3)
    tuning = Phase(
        stage="tuning",
        epochs=config.epochs or TUNING_EPOCHS,
        rate=rate,
        optimizer="adam" if config.optimizer == "auto" else config.optimizer,
    )
    from_scratch = config.recipe == "default" and not pretrained
    if config.stage == "tuning" or from_scratch:
        return (tuning,)
    found = []
    if pretrained and config.warmup_epochs:
        found.append(
            dataclasses.replace(
                _warmup_phase(config, config.warmup_epochs, 1e-3),
                patience=config.patience,
            )
        )
    factor = 0.2 if gender else 0.5
    rates = itertools.accumulate([rate] + [factor] * LOWERINGS, lambda a, b: a * b)
    for i, lowered in enumerate(rates):
        found.append(
            dataclasses.replace(
                tuning, rate=lowered, patience=config.patience, must_help=i > 0
            )
        )
    return tuple(found)


def rates(
    config: train_config.TrainConfig,
    phases: tuple[Phase, ...],
    course: PhaseProgress,
    *,
    first_step: int,
    count: int,
    steps_per_epoch: int,
    scale: float = 1.0,
) -> list[float]:
    """Learning rates of the next steps, by the recipe's present phase.

    Args:
      config: Its schedule is used.
      phases: From `recipe.phases`.
      course: The run's progress so far.
      first_step: Number of the first of these steps in the run.
      count: Number of rates to return.
      steps_per_epoch: Number of the run's steps in an epoch.
      scale: Factor of all rates: the product of the recoveries' factors.
    """
    phase = phases[course.phase]
    plateau = config.schedule == "plateau"
    schedule = optimizers.Schedule(
        kind="constant" if plateau else config.schedule,
        peak=phase.rate,
        total_steps=phase.epochs * steps_per_epoch,
        warmup_steps=config.warmup_steps,
        floor=config.cosine_floor or 0.0,
        decay_every=config.decay_epochs * steps_per_epoch,
        decay=config.decay_factor,
    )
    scale *= course.plateau_scale
    begin = first_step - course.first_step
    return [schedule.rate(begin + i) * scale for i in range(count)]


def _warmup_phase(config: train_config.TrainConfig, epochs: int, rate: float) -> Phase:
    """The phase of the recipe in which only the new layers train."""
    optimizer = "rmsprop" if config.optimizer == "auto" else config.optimizer
    return Phase(stage="warmup", epochs=epochs, rate=rate, optimizer=optimizer)
