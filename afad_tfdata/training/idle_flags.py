"""Options of a training that could not act, because of other options.

They are refused: who reads the command or ``flags.txt`` would think that they acted.
`caller_idle_flags` does the same for options that describe a part of the caller's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from afad_tfdata.common import errors, options
from afad_tfdata.storage import schema
from afad_tfdata.training import config as train_config
from afad_tfdata.training import recipe


def refuse(
    given: train_config.TrainConfig,
    resolved: train_config.TrainConfig,
    phases: Sequence[recipe.Phase],
) -> None:
    """Refuses options without an effect on a new run.

    Args:
      given: The options before `automatic_options.resolve`.
      resolved: The options after it.
      phases: From `recipe.phases`.

    Raises:
      UsageError: Such an option is not at its default; the text names it.
    """
    values = options.to_dict(given)
    usual = options.defaults(train_config.TrainConfig)
    for name, why in _idle(resolved, phases):
        if values[name] != usual[name]:
            raise errors.UsageError(
                f"--{name}={values[name]} has no effect, because {why}: leave it out"
            )


def _idle(
    config: train_config.TrainConfig, phases: Sequence[recipe.Phase]
) -> Iterator[tuple[str, str]]:
    """Names of options that have no effect, and why."""
    task = config.input.task
    optimizers = sorted({phase.optimizer for phase in phases})
    used = f"the optimizer is {' and '.join(optimizers)}"
    if "sgd" not in optimizers:
        yield "momentum", f"{used}, and it is the momentum of sgd"
    if "adamw" not in optimizers:
        yield "weight_decay", f"{used}, and it is the weight decay of adamw"
    if config.schedule != "step":
        yield "decay_epochs", f"it is for --schedule=step, not {config.schedule}"
    if config.schedule not in ("step", "plateau"):
        why = f"it is for --schedule=step and plateau, not {config.schedule}"
        yield "decay_factor", why
    if config.schedule != "plateau" and not any(phase.patience for phase in phases):
        yield "patience", "neither the schedule nor a phase of the recipe waits"
    labels = schema.labels_of(task)
    if len(labels) == 1:
        for label in ("age", "gender"):
            why = f"--task={task} has one loss, and the weight is relative to another"
            yield f"{label}_weight", why
    for label in {"age", "gender"} - set(labels):
        yield f"{label}_dropout", f"--task={task} has no {label} head"
    if "age" not in labels:
        yield "age_head", f"--task={task} has no age head"
        yield "age_loss", f"--task={task} has no age head"
    if not config.init_from:
        yield "init_class_names", "no model is named by --init_from"
