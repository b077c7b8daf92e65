"""Options that would not act, because the caller passes the object that they describe.

These options are refused, because an option without effect misleads whoever reads the
log.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from afad_tfdata.common import errors, options
from afad_tfdata.training import config as train_config

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


def refuse_idle(
    config: train_config.TrainConfig,
    *,
    model: bool,
    known: Mapping[str, Any],
    train_dataset: bool,
    augment: bool,
    loss: bool,
) -> None:
    """Refuses options that have no effect.

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
        for name in names:
            # The config that built the model may be used for its training, too.
            if given[name] not in (usual[name], known.get(name, usual[name])):
                raise errors.UsageError(
                    f"--{name}={_shown(given[name])} has no effect, because {what}:"
                    f" {advice}"
                )

    if loss:
        refuse(_OF_LOSS, "the loss is your own", "leave it out, or weigh in your loss")
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
                " --class_weight=0:1.0,1:1.6, or weigh in a loss of your own"
            )


def _shown(value: Any) -> str:
    """The value of a flag as it is typed."""
    return str(value).lower() if isinstance(value, bool) else str(value)
