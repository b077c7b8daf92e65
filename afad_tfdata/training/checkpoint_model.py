"""Builds the network of a checkpoint from what the file and its run recorded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from afad_tfdata.common import errors, options
from afad_tfdata.common.lazy_imports import keras, tf
from afad_tfdata.models import facts, model_weights, networks
from afad_tfdata.training import checkpoints, run_dir, run_state


def load_model(path: str, run: Mapping[str, Any]) -> keras.Model:
    """Builds the network of a checkpoint and fills in its weights.

    They are the weights of the step itself, not their moving average.

    Args:
      path: ``step-*.ckpt``, in a run directory or copied out of it.
      run: ``config.json`` of its run, as `run_dir.read_config` returns it; empty if
        there is none.

    Returns:
      The model with its facts (`facts.of`).

    Raises:
      UsageError: The network is not recorded, or the weights belong to another one.
      DataError: The checkpoint is damaged.
    """
    stored = checkpoints.load(path)
    known = facts.from_dict(stored.state.get(run_state.FACTS_KEY), where=path)
    known = run_dir.known_facts(known, run)
    if not known.network:
        raise errors.UsageError(
            f"{path} does not say which network its values belong to, nor does a"
            f" {run_dir.CONFIG_NAME} in its run directory: version 0.1.0 wrote it, or"
            f" the run trained a model of your own; name the run's {run_dir.BEST_NAME}"
        )
    config = options.from_dict(networks.ModelConfig, known.network, where=path)
    # The checkpoint has every weight, so that no pre-trained weights are needed.
    model = networks.build_model(config, load_weights=False)
    built = facts.of(model).preset
    if known.preset and built != known.preset:
        raise errors.UsageError(
            f"{path} was trained with another preset than {config.backbone} is now"
            f" ({known.preset} there, {built} here): put the earlier preset back, or"
            f" name the run's {run_dir.BEST_NAME}"
        )
    groups = {"model": networks.stored_variables(model)}
    checkpoints.assign(tf.distribute.get_strategy(), groups, stored.arrays, where=path)
    model_weights.update_derived(model)
    facts.attach(model, known)
    return model
