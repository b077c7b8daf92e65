"""Options of a training that could not act, because of other options or objects.

They are refused, because somebody who reads the command or ``flags.txt`` would think
that they have an effect.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from afad_tfdata.common import errors, options
from afad_tfdata.storage import schema
from afad_tfdata.training import config as train_config
from afad_tfdata.training import recipe

_OF_LOSS = (
    *("class_weight", "age_class_weight"),
    *("age_loss", "age_weight", "gender_weight"),
)
_OF_MODEL = (
    *("backbone", "weights"),
    *("hidden_units", "age_dropout", "gender_dropout"),
    *("pooling", "normalization", "stem_halvings"),
)
_OF_ORDER = ("balance", "shuffle_window")
_OF_RECORDS = (
    *(*_OF_ORDER, "cache", "cache_dir", "cache_dir_gib", "data_service"),
    *("engine", "max_bad_records", "max_examples", "verify", "decode"),
    *("num_parallel_calls", "prefetch", "memory_budget_mib"),
)


def refuse(
    given: train_config.TrainConfig,
    resolved: train_config.TrainConfig,
    phases: Sequence[recipe.Phase],
) -> None:
    """Refuses flags of a new run that have no effect, because of other flags.

    Args:
      given: The options before `automatic_options.resolve`.
      resolved: The options after it.
      phases: From `recipe.phases`.

    Raises:
      UsageError: Such an option is not at its default; the text names it.
    """
    values = options.to_dict(given)
    usual = options.defaults(train_config.TrainConfig)
    for name, why in _idle_flags(resolved, phases):
        if values[name] != usual[name]:
            raise errors.UsageError(
                f"--{name}={values[name]} has no effect, because {why}: leave it out"
            )


def _idle_flags(
    config: train_config.TrainConfig, phases: Sequence[recipe.Phase]
) -> Iterator[tuple[str, str]]:
    """Names of flags that have no effect, because of other flags, and why."""
    task = config.input.task
    optimizers = sorted({phase.optimizer for phase in phases})
    used = f"the optimizer is {' and '.join(optimizers)}"
    if "sgd" not in optimizers:
        yield "momentum", f"{used}, and it is the momentum of sgd"
    if "adamw" not in optimizers:
        yield "weight_decay", f"{used}, and it is the weight decay of adamw"
    if config.schedule != "cosine":
        yield "cosine_floor", f"it is for --schedule=cosine, not {config.schedule}"
    if config.schedule != "step":
        yield "decay_epochs", f"it is for --schedule=step, not {config.schedule}"
    if config.schedule not in ("step", "plateau"):
        why = f"it is for --schedule=step and plateau, not {config.schedule}"
        yield "decay_factor", why
    if config.schedule != "plateau" and not any(phase.patience for phase in phases):
        yield "patience", "no schedule or phase of the recipe waits for improvements"
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


def refuse_beside_objects(
    config: train_config.TrainConfig,
    *,
    model: bool,
    known: Mapping[str, Any],
    train_dataset: bool,
    augment: bool,
    loss: bool,
) -> None:
    """Refuses flags without an effect, because the caller passes what they describe.

    Args:
      config: The options.
      model: Whether the caller passes a model.
      known: `networks.ModelConfig` of that model; empty if it is not one of ours.
      train_dataset: Whether the caller passes training data.
      augment: Whether the caller passes an augmentation.
      loss: Whether the caller passes a loss.

    Raises:
      UsageError: Such an option is set; the text names it.
    """
    of_ours = bool(known)
    # No weights are loaded into a model that is passed, which "none" says, too.
    known = {"weights": "none", **known}
    given, usual = options.to_dict(config), options.defaults(train_config.TrainConfig)

    def refuse(names: tuple[str, ...], what: str, advice: str) -> None:
        """Refuses these flags, unless they are at their defaults."""
        for name in names:
            # The config that built the model may be used for its training, too.
            if given[name] not in (usual[name], known.get(name, usual[name])):
                raise errors.UsageError(
                    f"--{name}={_flag_value(given[name])} has no effect, because"
                    f" {what}: {advice}"
                )

    if loss:
        advice = "leave it out, or use weights in your loss"
        refuse(_OF_LOSS, "the loss is your own", advice)
    if augment and config.augment not in ("none", usual["augment"]):
        refuse(("augment",), "the augmentation is your own", "leave it out")
    if augment:
        refuse(("augment_preview",), "the augmentation is your own", "leave it out")
    if model:
        advice = "leave it out, or change the model"
        refuse(_OF_MODEL, "the model was passed to train", advice)
        if not of_ours:
            refuse(
                ("trainable_layers",),
                "the model is not one of models.build_model",
                "set trainable=False on the layers that should stay",
            )
            refuse(
                ("age_head",),
                "the model is not one of models.build_model",
                "leave it out, or pass a loss",
            )
    if train_dataset:
        names = _OF_ORDER if config.input.records_dir else _OF_RECORDS
        refuse(names, "the training data set is your own", "leave it out")
        # Counts of the records are not those of the caller's data.
        if config.class_weight == "balanced" or config.age_class_weight != "none":
            name = "class_weight" if config.class_weight == "balanced" else ""
            name = name or "age_class_weight"
            raise errors.UsageError(
                f"--{name}={given[name]} counts the labels of records, and the training"
                " data set is your own: name the weights, such as"
                " --class_weight=0:1.0,1:1.6, or use weights in a loss of"
                " your own"
            )


def _flag_value(value: Any) -> str:
    """The value of an idle flag, as it is typed."""
    return str(value).lower() if isinstance(value, bool) else str(value)
