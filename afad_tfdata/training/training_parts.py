"""Builds the parts of a training from its config and the caller's objects."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from afad_tfdata.common import errors, files, xla
from afad_tfdata.common.lazy_imports import keras, tf
from afad_tfdata.images import augmentation, tensor_preprocessing
from afad_tfdata.models import facts, losses, networks, saved
from afad_tfdata.storage import joined_data_sets, schema
from afad_tfdata.training import (
    automatic_options,
    class_weights,
    initial_weights,
    optimizers,
    program_settings,
    recipe,
    step,
    threads_and_precision,
    train_data,
    training_facts,
)
from afad_tfdata.training import config as train_config
from afad_tfdata.training.caller import augmentation as caller_augmentation
from afad_tfdata.training.caller import fingerprints, objects, trial
from afad_tfdata.training.caller import loss as caller_loss
from afad_tfdata.training.caller import model as caller_model
from afad_tfdata.training.distributed import strategies

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class TrainingParts:
    """The parts of a training, ready to run.

    Attributes:
      strategy: ``tf.distribute.Strategy``.
      model: Keras model that is saved.
      network: A model with the same variables that returns a dict of outputs
        (`networks.training_model`).
      loss: Per-example losses.
      loss_names: Which of ``loss``, ``age_loss`` and ``gender_loss`` it returns.
      gather_labels: Whether the loss needs the labels of all replicas.
      masks: Whether examples may lack a label.
      unconnected: Weights that the loss does not depend on.
      frozen: Layers that the caller froze; no stage trains them.
      prepare: Turns ``(images, step, offset)`` into the network's input.
      normalize: Turns images into the network's input, without augmentation.
      data: Where the batches come from.
      train_data: Function from the first step to an iterator of distributed batches.
      validation_data: A distributed data set, or None.
      examples: Takes ``(first, end)``; returns names of the training examples at these
        positions of the endless stream.
      steps_per_epoch: Number of steps that count as an epoch.
      loss_scaling: Whether the precision is float16.
      manifest: Manifest of the records, or None.
      facts: What ``config.json`` records besides the flags.
    """

    strategy: tf.distribute.Strategy
    model: keras.Model
    network: keras.Model
    loss: Callable[..., Mapping[str, tf.Tensor]]
    loss_names: tuple[str, ...]
    gather_labels: bool
    masks: bool
    unconnected: tuple[keras.Variable, ...]
    frozen: tuple[keras.layers.Layer, ...]
    prepare: Callable[..., tf.Tensor]
    normalize: Callable[[tf.Tensor], tf.Tensor]
    data: train_data.TrainData
    train_data: Callable[[int], Iterator[Any]]
    validation_data: Any
    examples: Callable[[int, int], list[str]]
    steps_per_epoch: int
    loss_scaling: bool
    manifest: schema.Manifest | None
    facts: dict[str, Any]


def assemble(
    config: train_config.TrainConfig,
    own: objects.CallerObjects,
    *,
    begun: bool = False,
    strategy: tf.distribute.Strategy | None = None,
    chosen: Mapping[str, Any] | None = None,
) -> TrainingParts:
    """Builds what the caller did not pass.

    Args:
      config: The options, from `automatic_options.resolve`.
      own: The caller's objects.
      begun: Whether a checkpoint will be restored: no pre-trained weights are needed.
      strategy: The strategy of several workers; None for that of `config`'s devices.
      chosen: `automatic_options.AutomaticChoice.chosen`, to be recorded.

    Raises:
      UsageError: Records that do not fit the task, a batch that the replicas do not
        divide, a device, backbone or file that does not exist, or --jit without XLA.
    """
    # This comes first: the threads must be set before TensorFlow starts.
    threads = threads_and_precision.set_threads(config.threads)
    strategy = strategy or strategies.create_strategy(
        config.devices, all_reduce=config.all_reduce
    )
    per_replica = step.per_replica_batch(
        strategy, config.input.global_batch_size, accumulation=config.accumulation
    )
    # Where XLA does not compile, it may abort the process instead of raising an error.
    if config.jit and (reason := xla.why_not()):
        raise errors.UsageError(
            f"--jit needs XLA, which does not compile here ({reason}): train with"
            " --nojit"
        )
    tf.config.experimental.enable_tensor_float_32_execution(config.tf32)
    network_config = own.refuse_unusable(config)
    precision = own.precision(config)
    manifest = load_manifest(config)
    mean = training_facts.channel_means(manifest, facts.of(own.model))
    ages = training_facts.known_ages(manifest, network_config, config.input.task)
    age_head = _age_head(config, own, network_config)
    data = train_data.TrainData(
        config,
        own,
        strategy,
        manifest,
        own.wanted_examples(config, ages, age_head),
    )
    batch = data.first_batch()
    sides = own.image_sides(config, manifest, batch)
    model, identity = _model(
        config,
        own,
        strategy,
        precision,
        mean,
        ages,
        sides=sides,
        part=per_replica // config.accumulation,
        begun=begun,
    )
    known = training_facts.facts_after(config, own, facts.of(model), manifest, mean)
    facts.attach(model, known)
    data.use_size(sides[0])
    with strategy.scope():
        network = networks.training_model(model)
        if own.loss is None:
            network = caller_model.for_task(network, config.input.task)
    weights, age_weights = _weights(config, manifest, ages)
    masks = _lacks_labels(config, own, manifest)
    loss_config = _loss_config(
        config, ages, age_head, weights, age_weights, masks=masks
    )
    loss: Callable[..., Any] = losses.build(loss_config)
    if own.loss is not None:
        labels = batch.labels if batch else {}
        loss = caller_loss.OwnLoss(own.loss, caller_loss.label_forms(labels))
    changed, form = _augmentation(config, own)
    prepare, normalize = _preparations(changed, mean, seed=config.input.seed)
    if (own.model, own.augment, own.loss) == (None, None, None):
        tried = trial.Trial(("loss", "age_loss", "gender_loss"))
    else:
        tried = trial.try_parts(
            config, own, strategy, network, loss, changed, normalize, data, sides, ages
        )
    frozen = own.frozen_layers(config, model)
    num_examples = data.num_examples()
    steps_per_epoch = _steps_per_epoch(config, num_examples)
    recorded = {
        "auto": dict(chosen or {}),
        "model": saved.info(model),
        **training_facts.record_facts(manifest, known, ages),
        "class_weights": list(weights),
        **training_facts.machine_facts(
            strategy, config.input.global_batch_size, precision
        ),
        "train_examples": num_examples,
        "steps_per_epoch": steps_per_epoch,
        "augmentation": form,
        "engine": data.engine(),
        "threads": threads,
        "parts": {
            **own.described(identity, data.described()),
            **_preset_checksum(known),
        },
    }
    return TrainingParts(
        strategy=strategy,
        model=model,
        network=network,
        loss=loss,
        loss_names=tried.loss_names,
        gather_labels=own.loss is None and losses.weighs_by_batch(loss_config),
        masks=loss_config.masks,
        unconnected=tried.unconnected,
        frozen=frozen,
        prepare=prepare,
        normalize=normalize,
        data=data,
        train_data=data.train,
        validation_data=data.validation(),
        examples=data.names,
        steps_per_epoch=steps_per_epoch,
        loss_scaling=precision == "mixed_float16",
        manifest=manifest,
        facts=recorded,
    )


def train_step_of(
    parts: TrainingParts, config: train_config.TrainConfig, phase: recipe.Phase
) -> step.TrainStep:
    """Sets which layers a phase trains; returns its steps, with a new optimizer."""
    trained = networks.set_trainable(parts.model, phase.stage, config.trainable_layers)
    for layer in parts.frozen:
        layer.trainable = False
    _log.info("%s", trained.description)
    with parts.strategy.scope():
        optimizer = optimizers.build(
            phase.optimizer,
            weight_decay=config.weight_decay or 0.0,
            momentum=config.momentum,
        )
        if parts.unconnected and phase.optimizer == "adamw":
            # The weight decay must not shrink a weight without a gradient.
            optimizer.exclude_from_weight_decay(var_list=list(parts.unconnected))
    return step.TrainStep(
        parts.strategy,
        parts.network,
        optimizer,
        parts.loss,
        parts.prepare,
        step.StepConfig(
            global_batch_size=config.input.global_batch_size,
            accumulation=config.accumulation,
            clip_norm=config.clip_norm,
            loss_scaling=parts.loss_scaling,
            jit=config.jit,
            ema_decay=config.ema_decay,
            gather_labels=parts.gather_labels,
            masks=parts.masks,
        ),
    )


def set_initial_weights(
    config: train_config.TrainConfig,
    own: objects.CallerObjects,
    parts: TrainingParts,
) -> None:
    """Copies the weights of ``--init_from``, if it is given, and checks all weights.

    Raises:
      UsageError: ``--init_from`` names no model that fits.
      DataError: The weights to begin with are not finite.
    """
    origin = f"--weights={config.model.weights}"
    if own.model is not None:
        origin = "the model that was passed to train"
    if config.init_from:
        initial_weights.copy_from(
            config.init_from,
            parts.model,
            parts.strategy,
            class_names=config.init_class_names,
        )
        origin = f"--init_from={config.init_from}"
    saved.check_finite(
        strategies.local_values(parts.strategy, parts.model.variables),
        origin=origin,
        advice="begin with other weights",
    )


def load_manifest(config: train_config.TrainConfig) -> schema.Manifest | None:
    """The manifest of ``--records_dir``; None if the flag is not set."""
    path = config.input.records_dir
    return (
        joined_data_sets.load_manifest(path, config.input.max_examples)
        if path
        else None
    )


def image_size(config: train_config.TrainConfig) -> int:
    """Side of the records' images in pixels; 0 if it is not known before they come."""
    manifest = load_manifest(config)
    if config.input.image_size or manifest is None:
        return config.input.image_size
    return manifest.image_size


def _lacks_labels(
    config: train_config.TrainConfig,
    own: objects.CallerObjects,
    manifest: schema.Manifest | None,
) -> bool:
    """Whether some records lack a label of the task.

    Raises:
      UsageError: They do, and the loss is the caller's, which would count them.
    """
    found = manifest is not None and any(
        split.num_without(label)
        for split in manifest.splits.values()
        for label in schema.labels_of(config.input.task)
    )
    if found and own.loss is not None:
        raise errors.UsageError(
            f"{config.input.records_dir} has records without a label of"
            f" --task={config.input.task}, which a loss of your own would count:"
            " afad-write-records without --missing_labels=keep leaves them out"
        )
    return found


def _steps_per_epoch(config: train_config.TrainConfig, num_examples: int) -> int:
    """The number of steps that is nearest to one pass, if no other is asked for."""
    batch_size = config.input.global_batch_size
    if num_examples < batch_size:
        _log.warning(
            "--global_batch_size=%d is more than the %d training examples: a step takes"
            " some of them more than once",
            batch_size,
            num_examples,
        )
    # A batch may contain the end of one pass and the beginning of the next, so that an
    # epoch need not end with a pass.
    return config.steps_per_epoch or max(1, round(num_examples / batch_size))


def _preset_checksum(known: facts.Facts) -> dict[str, str]:
    """What identifies the preset of a backbone of keras-hub; empty for all others.

    A run that continues builds its network from the preset again.
    """
    return {"preset": files.json_checksum(known.preset)} if known.preset else {}


def _loss_config(
    config: train_config.TrainConfig,
    ages: tuple[int, int],
    age_head: str,
    weights: tuple[float, float],
    age_weights: tuple[float, ...],
    *,
    masks: bool,
) -> losses.LossConfig:
    """The options of the loss, from those of the training."""
    return losses.LossConfig(
        task=config.input.task,
        age_head=age_head,
        age_loss=automatic_options.age_loss(config),
        age_weight=config.age_weight,
        gender_weight=config.gender_weight or 0.0,
        min_age=ages[0],
        max_age=ages[1],
        class_weights=weights,
        age_weights=age_weights,
        masks=masks,
    )


def _preparations(
    changed: Callable[..., Any] | None, mean: tuple[float, ...], *, seed: int
) -> tuple[Callable[..., tf.Tensor], Callable[[tf.Tensor], tf.Tensor]]:
    """Functions that turn images into the network's input: for training, validation."""

    def normalize(images: tf.Tensor) -> tf.Tensor:
        return tensor_preprocessing.normalize(images, mean)

    def prepare(images: tf.Tensor, step: tf.Tensor, offset: tf.Tensor) -> tf.Tensor:
        if changed is not None:
            images = changed(images, seed=seed, step=step, offset=offset)
        return normalize(images)

    return prepare, normalize


def _model(
    config: train_config.TrainConfig,
    own: objects.CallerObjects,
    strategy: tf.distribute.Strategy,
    precision: str,
    mean: tuple[float, ...],
    ages: tuple[int, int],
    *,
    sides: tuple[int, int],
    part: int,
    begun: bool,
) -> tuple[keras.Model, str]:
    """The model to train, and what identifies a caller's."""
    program_settings.seed(config.input.seed)
    if own.model is not None:
        with strategy.scope():
            model = caller_model.adapted(
                own.model, config.input.task, sides, batch=part
            )
        caller_model.check_can_be_saved(model)
        identity = fingerprints.of_model(model)
        model = caller_model.mirrored(model, strategy)
        facts.attach(model, facts.of(own.model))
        return model, identity
    settings = dataclasses.replace(
        config.model,
        task=config.input.task,
        image_size=sides[0],
        min_age=ages[0],
        max_age=ages[1],
        mean=mean,
    )
    with strategy.scope(), threads_and_precision.dtype_policy(precision):
        return networks.build_model(settings, load_weights=not begun), ""


def _weights(
    config: train_config.TrainConfig,
    manifest: schema.Manifest | None,
    ages: tuple[int, int],
) -> tuple[tuple[float, float], tuple[float, ...]]:
    """Weights of the genders and of the ages."""
    if config.class_weight == "none" and config.age_class_weight == "none":
        return (1.0, 1.0), ()
    if manifest is None:
        raise errors.UsageError(
            "class weights are taken from the records: name --records_dir, or bring a"
            " loss of your own that has them"
        )
    task = config.input.task
    for flag, value, label in (
        ("class_weight", config.class_weight, "gender"),
        ("age_class_weight", config.age_class_weight, "age"),
    ):
        if value != "none" and label not in schema.labels_of(task):
            raise errors.UsageError(
                f"--{flag} weighs the examples by {label}, which --task={task}"
                " does not learn: leave it out"
            )
    weights = class_weights.parse(config.class_weight, manifest)
    age_weights = class_weights.parse_ages(config.age_class_weight, manifest, *ages)
    _log.info("%s", class_weights.describe(weights, manifest, age_weights))
    return weights, age_weights


def _age_head(
    config: train_config.TrainConfig,
    own: objects.CallerObjects,
    known: Mapping[str, Any],
) -> str:
    """The age head of the caller's model, or of the one that is built.

    Args:
      config: The options.
      own: The caller's objects.
      known: `networks.ModelConfig` of the caller's model; empty if it is not ours.
    """
    if own.model is None and config.model.age_head != "auto":
        return config.model.age_head
    return known.get("age_head", "regression")  # Any, if there is no age.


def _augmentation(
    config: train_config.TrainConfig, own: objects.CallerObjects
) -> tuple[Callable[..., Any] | None, str]:
    """The augmentation, and its name in ``config.json``."""
    if own.augment is not None:
        return caller_augmentation.own_augmentation(own.augment), "own"
    settings = augmentation.parse(config.augment)
    if settings is None:
        return None, "none"
    # The form is decided once, so that it does not change during the run.
    form = augmentation.resolve_form(settings)
    settings = dataclasses.replace(settings, form=form)

    def changed(images: Any, **keywords: Any) -> Any:
        return augmentation.augment_images(images, config=settings, **keywords)

    return changed, form


def draw_preview(
    config: train_config.TrainConfig, parts: TrainingParts, path: str
) -> None:
    """Writes a sheet of training images and their augmented versions."""
    settings = augmentation.parse(config.augment)
    if settings is None:
        _log.info("--augment=none leaves nothing to preview")
        return
    features, _ = next(parts.train_data(0))
    images = parts.strategy.experimental_local_results(features["image"])[0].numpy()
    augmentation.preview(images, path, settings, config.input.seed)
    _log.info("preview of the augmentation: %s", path)
