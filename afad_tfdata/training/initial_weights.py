"""The weights that a training begins with."""

from __future__ import annotations

import logging
import os

from afad_tfdata.common import errors
from afad_tfdata.common.lazy_imports import keras, tf
from afad_tfdata.models import backbones, networks, saved
from afad_tfdata.training import checkpoint_model, run_dir

_log = logging.getLogger(__name__)
# Paths of weights that a log line names.
_SHOWN = 4


def backbone_is_pretrained(
    config: networks.ModelConfig, model: keras.Model | None = None
) -> bool:
    """Whether the backbone has weights that a warm-up of the head keeps frozen.

    Args:
      config: What network is built where there is no `model`.
      model: The caller's own; a foreign one has no backbone that could be frozen.
    """
    if model is not None:
        return saved.info(model).get("weights", "none") != "none"
    return config.weights != "none" and config.backbone not in backbones.SMALL


def copy_from(path: str, model: keras.Model, strategy: tf.distribute.Strategy) -> None:
    """Copies the weights of another model that have the same place and shape.

    Args:
      path: ``--init_from``: a ``.keras`` file, a run directory (its best model), or
        a checkpoint in one.
      model: The model to be trained, changed in place.
      strategy: That of its variables.

    Raises:
      UsageError: There is no such model, or none of its weights fits.
    """
    if os.path.isdir(path):
        path = os.path.join(path, run_dir.BEST_NAME)
    if path.endswith(".ckpt"):
        run = run_dir.read_config(checkpoint_model.run_directory(path))
        source = checkpoint_model.load(path, run)
    else:
        source = saved.load(path)
    with strategy.scope():
        taken, left = saved.transfer(source, model)
    if not taken:
        raise errors.UsageError(
            f"--init_from: no weight of {path} has a place in this network; name a"
            " model with the same --backbone"
        )
    unchanged = ""
    if left:
        shown = ", ".join(left[:_SHOWN]) + (", ..." if len(left) > _SHOWN else "")
        unchanged = f", {len(left)} left as they were: {shown}"
    _log.info("weights of %s: %d taken%s", path, taken, unchanged)
