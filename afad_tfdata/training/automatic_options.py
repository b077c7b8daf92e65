"""Decides on the options that the user leaves open, once, when a run begins.

The best value of some options depends on the stage, the network, the task or another
option.  The default value of each leaves the choice to this module (`ASKING`)::

    choice = automatic_options.resolve(config, pretrained=False)
    choice.config.schedule        # "cosine", and no longer "auto"
    choice.chosen                 # {"schedule": "cosine", ...}

``config.json`` records the values.  A run that continues takes them from there, because
another version of this package may choose others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from afad_tfdata.models import backbones
from afad_tfdata.storage import schema
from afad_tfdata.training import config as train_config

# The options that are decided here, and the value that leaves each of them open.
ASKING: dict[str, Any] = {
    "recipe": "default",
    "schedule": "auto",
    "cosine_floor": None,
    "optimizer": "auto",
    "learning_rate": 0,
    "weight_decay": None,
    "augment": "auto",
    "age_head": "auto",
    "gender_weight": None,
    "stem_halvings": 0,
}

# Chosen by the trials that docs/training.md lists.
_SMALL_RATE, _OTHER_RATE = 6e-3, 1e-3
_LARGE_IMAGE = 80  # Pixels from which on the first block halves the image twice.
_BATCH_SIZE = 128  # The rate is for this batch size; smaller ones take less of it.
_WEIGHT_DECAY = 0.05
_AVERAGED_FLOOR = 0.1  # Where a cosine ends if the weights are averaged.
_MILD = "none,rotation=8,zoom=0.08,shift=0.05,flip=true,brightness=0.2,contrast=0.2"
_AGE_HEAD = "dldl_v2"
# Factors of the gender's loss, by what the age is trained on.  The first is from the
# original project's successor.
_GENDER_WEIGHTS = {"mse": 500.0, "mae": 10.0, "huber": 10.0, "logits": 10.0}


class AutomaticChoice(NamedTuple):
    """A config without open options.

    Attributes:
      config: What to train with.
      chosen: The values that were chosen, by the option's name.
    """

    config: train_config.TrainConfig
    chosen: dict[str, Any]

    def text(self) -> str:
        """The options that were chosen, as a line for the log; empty without any."""
        values = " ".join(f"--{name}={value}" for name, value in self.chosen.items())
        return f"chosen automatically: {values}" if values else ""


def resolve(
    config: train_config.TrainConfig,
    *,
    pretrained: bool,
    image_size: int = 0,
    initial: Mapping[str, Any] | None = None,
    recorded: Mapping[str, Any] | None = None,
    own_age_head: str | None = None,
    own_augment: bool = False,
    own_loss: bool = False,
) -> AutomaticChoice:
    """Decides automatically on the options that a config leaves open.

    Args:
      config: The command's config.
      pretrained: Whether the backbone has pre-trained weights.
      image_size: Side of the images in pixels, if it is known.
      initial: The network of ``--init_from``, as far as it is known, as
        `networks.ModelConfig` names its parts: its weights fit only the same parts.
      recorded: ``config.json`` of the run that continues; None for a new run.
      own_age_head: Age head of the caller's model; None if the model is not passed.
      own_augment: Whether the caller passes an augmentation.
      own_loss: Whether the caller passes a loss.

    Returns:
      The config, with a value for each open option that has an effect.  Optimizer and
      rate stay open if `recipe.phases` has one for each phase.
    """
    asked = [name for name, value in ASKING.items() if getattr(config, name) == value]
    if recorded is not None:
        stored = {**train_config.EARLIER, **recorded["train"]}
        values = {name: stored[name] for name in asked if name in stored}
        return AutomaticChoice(
            dataclasses.replace(config, **values), dict(recorded.get("auto", {}))
        )
    initial = initial or {}
    values = _automatic_values(
        config, pretrained, own_age_head, initial.get("age_head")
    )
    is_large = image_size >= _LARGE_IMAGE and config.recipe != "original"
    values["stem_halvings"] = 2 if is_large else 1
    if initial:
        values["stem_halvings"] = initial.get("stem_halvings") or 1
    optimizer = values.get("optimizer", "")
    if config.optimizer != ASKING["optimizer"]:
        optimizer = config.optimizer
    schedule = values["schedule"]
    if config.schedule != ASKING["schedule"]:
        schedule = config.schedule
    task = config.input.task
    for name, is_used in {
        # Without an average the cosine ends at 0, which goes without saying.
        "cosine_floor": schedule == "cosine" and config.ema_decay > 0,
        "age_head": own_age_head is None and "age" in schema.labels_of(task),
        "stem_halvings": own_age_head is None
        and config.model.backbone in backbones.SMALL,
        "augment": not own_augment,
        "gender_weight": not own_loss and task == "age_gender",
        "weight_decay": optimizer == "adamw",
    }.items():
        if not is_used:
            del values[name]
    chosen = {name: values[name] for name in asked if name in values}
    return AutomaticChoice(dataclasses.replace(config, **chosen), chosen)


def age_loss(config: train_config.TrainConfig) -> str:
    """The loss of the regression head: what ``auto`` stands for, or the given one."""
    if config.age_loss != "auto":
        return config.age_loss
    return "mse" if config.input.task == "age_gender" else "mae"


def _automatic_values(
    config: train_config.TrainConfig,
    pretrained: bool,
    own_age_head: str | None,
    initial_age_head: str | None,
) -> dict[str, Any]:
    """A value for each open option but ``recipe``; used only where it is open."""
    original = config.recipe == "original"
    values = _original_values()
    if not original:
        values = _values_from_trials(config, pretrained, own_age_head)
    if initial_age_head:
        values["age_head"] = initial_age_head
    if own_age_head is None and config.model.age_head != ASKING["age_head"]:
        own_age_head = config.model.age_head
    head = own_age_head or values["age_head"]
    trained_on = age_loss(config) if head == "regression" else "logits"
    weight = _GENDER_WEIGHTS[trained_on]
    if original:
        weight = _GENDER_WEIGHTS["mse"]
    return {**values, "gender_weight": weight}


def _original_values() -> dict[str, Any]:
    """For open options, the values of the original project."""
    return {
        "schedule": "constant",
        "cosine_floor": 0.0,
        "weight_decay": 1e-4,
        "augment": "default",
        "age_head": "regression",
    }


def _values_from_trials(
    config: train_config.TrainConfig, pretrained: bool, own_age_head: str | None
) -> dict[str, Any]:
    """For open options, the values that were best in trials on real faces."""
    values = {
        **_original_values(),
        "cosine_floor": _AVERAGED_FLOOR,
        "augment": _MILD,
    }
    if config.input.records_dir:
        # A distribution needs the range of the ages, which only records tell.
        values["age_head"] = _AGE_HEAD
    if pretrained:
        # The phases of the recipe end when nothing improves, at any time, whereas a
        # cosine must know its length.
        schedule = "constant" if config.stage == "recipe" else "cosine"
        return {**values, "schedule": schedule}
    is_small = own_age_head is None and config.model.backbone in backbones.SMALL
    share = min(1.0, config.input.global_batch_size / _BATCH_SIZE)
    return {
        **values,
        "schedule": "cosine",
        "optimizer": "adamw",
        "learning_rate": _SMALL_RATE * share if is_small else _OTHER_RATE,
        "weight_decay": _WEIGHT_DECAY,
    }
