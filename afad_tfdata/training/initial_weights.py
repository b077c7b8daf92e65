"""The weights that a training begins with."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

from afad_tfdata.common import errors
from afad_tfdata.common.lazy_imports import keras, tf
from afad_tfdata.models import backbones, facts, model_files, model_weights, networks
from afad_tfdata.training import checkpoint_model, run_dir
from afad_tfdata.training import config as train_config
from afad_tfdata.training.distributed import strategies

_log = logging.getLogger(__name__)
# Number of paths of weights that a log line names.
_SHOWN = 4


def backbone_is_pretrained(
    config: networks.ModelConfig, model: keras.Model | None = None
) -> bool:
    """Whether the backbone begins with weights that a warm-up keeps frozen.

    Args:
      config: Config of the network that is built if there is no `model`.
      model: The caller's model; a foreign one has no backbone that could be frozen.
    """
    if model is not None:
        return facts.network_of(model).get("weights", "none") != "none"
    return config.weights != "none" and config.backbone not in backbones.SMALL


def network_of(path: str) -> Mapping[str, Any]:
    """The network of ``--init_from``: `networks.ModelConfig` as plain values.

    Args:
      path: As for `copy_from`; empty without ``--init_from``.

    Returns:
      Empty if the file does not say it or cannot be read, which `copy_from` reports.
    """
    if not path:
        return {}
    if os.path.isdir(path):
        path = os.path.join(path, run_dir.BEST_NAME)
    if not os.path.isfile(path):
        return {}  # A device, for example, could be read without an end.
    try:
        own = facts.Facts() if path.endswith(".ckpt") else facts.read_file(path)
        return run_dir.known_facts(own, run_dir.config_of(path)).network or {}
    except (errors.AfadError, OSError):
        return {}


def set_initial_weights(
    config: train_config.TrainConfig,
    model: keras.Model,
    strategy: tf.distribute.Strategy,
    *,
    passed: bool,
) -> None:
    """Copies the weights of ``--init_from``, if it is given, and checks all weights.

    Args:
      config: The options.
      model: The model to be trained; changed in place.
      strategy: The strategy of its variables.
      passed: Whether the caller passed the model.

    Raises:
      UsageError: ``--init_from`` names no model that fits.
      DataError: The weights to begin with are not finite.
    """
    origin = f"--weights={config.model.weights}"
    if passed:
        origin = "the model that was passed to train"
    if config.init_from:
        copy_from(
            config.init_from, model, strategy, class_names=config.init_class_names
        )
        origin = f"--init_from={config.init_from}"
    model_weights.check_finite(
        strategies.local_values(strategy, model.variables),
        origin=origin,
        advice="begin with other weights",
    )


def copy_from(
    path: str,
    model: keras.Model,
    strategy: tf.distribute.Strategy,
    *,
    class_names: Sequence[str] = (),
) -> None:
    """Copies the weights of another model that have the same place and shape.

    If the other model has the classes in the other order, its gender head is inverted.

    Args:
      path: ``--init_from``: a ``.keras`` or ``.h5`` file, a run directory (its best
        model), or a checkpoint.
      model: The model to be trained, with its facts; changed in place.
      strategy: The strategy of its variables.
      class_names: ``--init_class_names``.

    Raises:
      UsageError: There is no such model, none of its weights fits, or it is not known
        what its gender output means.
    """
    if os.path.isdir(path):
        path = os.path.join(path, run_dir.BEST_NAME)
    if path.endswith(".ckpt"):
        run = run_dir.config_of(path)
        source = checkpoint_model.load_model(path, run)
    else:
        source = _load_initial_model(path)
    swapped = _gender_head_is_swapped(path, source, model, class_names)
    with strategy.scope():
        taken, left = model_weights.transfer_weights(
            source, model, swap_classes=swapped
        )
    if not taken:
        raise errors.UsageError(
            f"--init_from: no weight of {path} has a place in this network; name a"
            " model with the same --backbone, or a .h5 file of Keras 2 as --weights,"
            " which takes its backbone"
        )
    unchanged = ""
    if left:
        shown = ", ".join(left[:_SHOWN]) + (", ..." if len(left) > _SHOWN else "")
        unchanged = f", {len(left)} left as they were: {shown}"
    _log.info("weights of %s: %d taken%s", path, taken, unchanged)


def _load_initial_model(path: str) -> keras.Model:
    """Loads the model of ``--init_from``, with whose weights the training begins."""
    try:
        return model_files.load(path)
    except errors.UsageError as error:
        # Keras 3 loads some files of Keras 2 and refuses others, as it does files of
        # weights without a network.
        if not path.endswith(".h5") or not os.path.isfile(path):
            raise
        raise errors.UsageError(
            f"--init_from: {error}; --weights takes the backbone of such a file"
        ) from error


def _gender_head_is_swapped(
    path: str, source: keras.Model, model: keras.Model, class_names: Sequence[str]
) -> bool:
    """Whether the model of ``--init_from`` has its two classes in inverse order."""
    heads = [
        "gender_logits" in {layer.name for layer in one.layers}
        for one in (source, model)
    ]
    if not all(heads):
        return False  # No gender head is copied.
    flag, ours = "--init_class_names", facts.of(model).class_names
    known = run_dir.known_facts(
        facts.of(source), run_dir.config_of(path), path=path, model=source
    )
    theirs = facts.chosen_class_names(
        known.class_names, class_names, what=path, flag=flag
    )
    if not ours:
        _log.warning(
            "the gender output of %s is the probability of %s: nothing says whether"
            " label 1 of your own data means the same",
            *(path, theirs[1]),
        )
        return False
    swapped = facts.is_swapped(theirs, ours, what=path, other="the data set", flag=flag)
    if swapped:
        _log.info(
            "%s has the classes %s, the data set %s: its gender head is inverted",
            *(path, ", ".join(theirs), ", ".join(ours)),
        )
    return swapped
