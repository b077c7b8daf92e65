"""The network of a checkpoint, built from what its run recorded."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from afad_tfdata.common import errors, options
from afad_tfdata.common.lazy_imports import keras, tf
from afad_tfdata.models import networks, saved
from afad_tfdata.training import checkpoints, run_dir


def run_directory(path: str) -> str:
    """The run directory of a checkpoint, which is one folder above its own."""
    return os.path.dirname(os.path.dirname(os.path.abspath(path)))


def load(path: str, run: Mapping[str, Any]) -> keras.Model:
    """Builds the network and fills in the weights of the checkpoint.

    They are the weights of the step itself, not their moving average.

    Args:
      path: ``step-*.ckpt`` in a run directory.
      run: ``config.json`` of its run, as `run_dir.read_config` returns it; empty if
        there is none.

    Raises:
      UsageError: What network it is, is not recorded, or it is another one.
      DataError: The checkpoint is damaged.
    """
    if not run.get("model"):
        raise errors.UsageError(
            f"{path}: a checkpoint contains only values; {run_dir.CONFIG_NAME} of its"
            " run directory describes the network: that file does not exist, or the run"
            f" trained a model of your own; name the run's {run_dir.BEST_NAME}"
        )
    stored = checkpoints.load(path)
    config = options.from_dict(
        networks.ModelConfig,
        run["model"],
        where=os.path.join(run_directory(path), run_dir.CONFIG_NAME),
    )
    # The checkpoint has every weight: pre-trained ones need not be looked for.
    model = networks.build_model(config, load_weights=False)
    groups = {"model": model.variables}
    checkpoints.assign(tf.distribute.get_strategy(), groups, stored.arrays, where=path)
    saved.update_derived(model)
    return model
