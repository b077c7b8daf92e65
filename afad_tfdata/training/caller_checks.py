"""What follows from the parts that a caller passes: refusals, sizes, a trial.

`training_parts` builds all other parts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from afad_tfdata.common import errors
from afad_tfdata.common.lazy_imports import keras, tf
from afad_tfdata.models import networks, saved
from afad_tfdata.storage import schema
from afad_tfdata.training import (
    caller_augmentation,
    caller_examples,
    caller_idle_flags,
    caller_loss,
    caller_model,
    caller_trial_step,
    threads_and_precision,
    train_data,
)
from afad_tfdata.training import config as train_config

# Number of examples in the trial of a caller's parts: cheap, and some of each gender.
_TRIED_EXAMPLES = 8


def refuse_unusable(
    config: train_config.TrainConfig, own: train_data.CallerObjects
) -> dict[str, Any]:
    """Refuses a model of another library, and options that have no effect.

    Returns:
      The `networks.ModelConfig` of the caller's model, as plain values; empty if the
      model is not one of ours.
    """
    known: dict[str, Any] = {}
    if own.model is not None:
        caller_model.check_kind(own.model)
        known = saved.info(own.model)
    caller_idle_flags.refuse_idle(
        config,
        model=own.model is not None,
        known=known,
        train_dataset=own.train_dataset is not None,
        augment=own.augment is not None,
        loss=own.loss is not None,
    )
    head = config.model.age_head
    if known and head not in ("auto", known["age_head"]):
        raise errors.UsageError(
            f"--age_head={head} has no effect, because the model that was passed to"
            f" train has the age head {known['age_head']}: leave it out"
        )
    return known


def precision(config: train_config.TrainConfig, model: keras.Model | None) -> str:
    """Name of the dtype policy that the network has."""
    if model is None:
        return threads_and_precision.resolve_precision(config.precision)
    found = caller_model.precision(model)
    if config.precision not in ("auto", found):
        raise errors.UsageError(
            f"--precision={config.precision} has no effect, because the model that was"
            f" passed to train is {found}: leave it out, or build the model under"
            " another dtype policy"
        )
    return found


def wanted(
    config: train_config.TrainConfig,
    own: train_data.CallerObjects,
    ages: tuple[int, int],
    age_head: str,
) -> caller_examples.WantedExamples:
    """What the examples of a caller's data set must be."""
    size = config.input.image_size or None
    sides: tuple[int | None, int | None] = (size, size)
    if own.model is not None:
        sides = caller_model.input_sides(own.model)
    return caller_examples.WantedExamples(
        task=config.input.task,
        batch_size=config.input.global_batch_size,
        sides=sides,
        # A regression learns any age; other heads would take their nearest age instead.
        ages=ages if age_head != "regression" and own.loss is None else None,
        all_labels=own.loss is not None,
        seed=config.input.seed,
    )


def sides(
    config: train_config.TrainConfig,
    own: train_data.CallerObjects,
    manifest: schema.Manifest | None,
    batch: caller_examples.FirstBatch | None,
) -> tuple[int, int]:
    """Height and width of the network's input."""
    size = config.input.image_size or (manifest.image_size if manifest else 150)
    high: int | None = None
    wide: int | None = None
    if own.model is not None:
        high, wide = caller_model.input_sides(own.model)
    taken = (high, wide) if batch is None else batch.images.shape[1:3]
    asked = config.input.image_size
    if asked and any(side not in (asked, None) for side in taken):
        what = "model" if batch is None or high else "data set"
        raise errors.UsageError(
            f"--image_size={asked} has no effect, because the {what} that was passed to"
            f" train has images of {taken[0]} x {taken[1]} pixels: leave it out"
        )
    if batch is not None:
        high, wide = batch.images.shape[1:3]
    sides = (high or size, wide or size)
    reads_records = own.train_dataset is None or manifest is not None
    if sides[0] != sides[1] and (own.model is None or reads_records):
        raise errors.UsageError(
            f"images of {sides[0]} x {sides[1]} pixels are wanted, and records and our"
            " networks have square ones: resize them, or pass a model that takes them"
            " and leave --records_dir out"
        )
    return sides


def try_parts(
    config: train_config.TrainConfig,
    own: train_data.CallerObjects,
    strategy: tf.distribute.Strategy,
    network: keras.Model,
    loss: Callable[..., Any],
    changed: Callable[..., Any] | None,
    normalize: Callable[[tf.Tensor], tf.Tensor],
    data: train_data.TrainData,
    sides: tuple[int, int],
    ages: tuple[int, int],
) -> caller_trial_step.Trial:
    """Computes a small batch once, which shows most mistakes in a caller's parts."""
    batch, validation_labels = data.first_batch(), data.validation_labels()
    count = network.inputs[0].shape[0] or min(
        _TRIED_EXAMPLES, config.input.global_batch_size
    )
    images, labels = _examples(batch, sides, ages, count, config.input.seed)
    if own.augment is not None and changed is not None:
        caller_augmentation.check_augmentation(changed, images)
    inputs = normalize(tf.constant(images))
    trial = caller_trial_step.try_step(strategy, network, loss, inputs, labels)
    if isinstance(loss, caller_loss.OwnLoss) and validation_labels is not None:
        outputs = caller_trial_step.outputs_of(strategy, network, inputs)
        caller_loss.check_validation_labels(loss, outputs, labels, validation_labels)
    return trial


def _examples(
    batch: caller_examples.FirstBatch | None,
    sides: tuple[int, int],
    ages: tuple[int, int],
    count: int,
    seed: int,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Some of the caller's examples, or random ones in the same form."""
    if batch is None:
        draw = np.random.default_rng(seed)
        images = draw.integers(0, 256, (count, *sides, 3)).astype(np.uint8)
        years = np.linspace(*ages, count).round().astype(np.float32)
        return images, {"age": years, "gender": np.arange(count, dtype=np.int32) % 2}
    # A validation batch may be smaller.
    rows = np.arange(count) % len(batch.images)
    images = batch.images[rows]
    if images.dtype != np.uint8:
        images = images.astype(np.float32)
    labels = {name: value[rows] for name, value in batch.labels.items()}
    for name, dtype in (("age", np.float32), ("gender", np.int32)):
        if name in labels:
            labels[name] = labels[name].reshape(-1).astype(dtype)
    return images, labels


def frozen(
    config: train_config.TrainConfig,
    own: train_data.CallerObjects,
    model: keras.Model,
) -> tuple[keras.layers.Layer, ...]:
    """Layers of one of our models that the caller froze, and that stay frozen.

    Raises:
      UsageError: A stage would train layers of the backbone that the caller froze, and
        no flag decides between the two.
    """
    if own.model is None or not saved.info(model):
        return ()  # The flags of a foreign model are not changed.
    backbone = saved.backbone_of(model)
    inside = {id(layer) for layer in backbone._flatten_layers()} if backbone else set()
    frozen = caller_model.frozen(model)
    heads = tuple(layer for layer in frozen if id(layer) not in inside)
    below = [layer for layer in frozen if id(layer) in inside]
    if not below or config.trainable_layers is not None:
        return heads
    stages = ("warmup", "tuning") if config.stage == "recipe" else (config.stage,)
    with caller_model.flags_restored(model):
        for stage in stages:
            networks.set_trainable(model, stage)
            trained = [layer.name for layer in below if layer.trainable]
            if trained:
                raise errors.UsageError(
                    f"{len(trained)} layers of the model's backbone are frozen (such as"
                    f" {trained[-1]}), and --stage={stage} trains them: set"
                    " trainable=True on them, or give --trainable_layers=0 to train the"
                    " heads only"
                )
    return heads
