"""Builds the parts of a training from its config and the caller's objects."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from afad_tfdata.common import errors, files, xla
from afad_tfdata.common.lazy_imports import keras, tf
from afad_tfdata.images import augmentation, tensor_preprocessing
from afad_tfdata.models import facts, losses, networks, trainable_layers
from afad_tfdata.storage import schema
from afad_tfdata.training import (
    automatic_options,
    class_weights,
    optimizers,
    process_settings,
    recipe,
    step,
    train_data,
    training_facts,
)
from afad_tfdata.training import config as train_config
from afad_tfdata.training.caller import augmentation as caller_augmentation
from afad_tfdata.training.caller import example_parser, fingerprints, objects, trial
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
    """Builds the parts of a training that the caller did not pass.

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
    strategy, per_replica, threads = _start_devices(config, strategy)
    own_network = own.refuse_unusable(config)
    precision = own.precision(config)
    manifest = train_data.load_manifest(config)
    mean = training_facts.channel_means(manifest, facts.of(own.model))
    ages = training_facts.known_ages(manifest, own_network, config.input.task)
    age_head = _age_head(config, own, own_network)
    wanted = own.wanted_examples(config, ages, age_head)
    data = train_data.TrainData(config, own, strategy, manifest, wanted)
    batch = data.first_batch()
    sides = own.image_sides(config, manifest, batch)
    model, fingerprint = _model(
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
            network = _network_for_task(network, config.input.task)
    loss_config = _loss_config(config, own, manifest, ages, age_head)
    loss = _loss(own, loss_config, batch)
    changed, augmentation_name = _augmentation(config, own)
    prepare, normalize = _image_preparations(changed, mean, seed=config.input.seed)
    tried = trial.Trial(("loss", "age_loss", "gender_loss"))
    if (own.model, own.augment, own.loss) != (None, None, None):
        tried = trial.try_parts(
            config, own, strategy, network, loss, changed, normalize, data, sides, ages
        )
    frozen = own.frozen_layers(config, model)
    num_examples = data.num_examples()
    steps_per_epoch = _steps_per_epoch(config, num_examples)
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
        facts={
            "auto": dict(chosen or {}),
            "model": facts.network_of(model),
            **training_facts.record_facts(manifest, known, ages),
            "class_weights": list(loss_config.class_weights),
            **training_facts.machine_facts(
                strategy, config.input.global_batch_size, precision
            ),
            "train_examples": num_examples,
            "steps_per_epoch": steps_per_epoch,
            "augmentation": augmentation_name,
            "engine": data.engine(),
            "threads": threads,
            "parts": {
                **own.described(fingerprint, data.described()),
                **_preset_checksum(known),
            },
        },
    )


def train_step_of(
    parts: TrainingParts, config: train_config.TrainConfig, phase: recipe.Phase
) -> step.TrainStep:
    """Sets which layers a phase trains; builds its steps, with a new optimizer."""
    trained = trainable_layers.set_trainable(
        parts.model, phase.stage, config.trainable_layers
    )
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


def _start_devices(
    config: train_config.TrainConfig, strategy: tf.distribute.Strategy | None
) -> tuple[tf.distribute.Strategy, int, dict[str, int]]:
    """The training's strategy, images of a replica's batch, and numbers of threads."""
    # This comes first: the threads must be set before TensorFlow starts.
    threads = process_settings.set_threads(config.threads)
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
    return strategy, per_replica, threads


def _network_for_task(network: keras.Model, task: str) -> keras.Model:
    """The training's network without the heads that its task does not need.

    Such a head would train, or change its statistics.
    """
    labels = schema.labels_of(task)
    outputs = network.output
    kept = {n: t for n, t in outputs.items() if n.partition("_")[0] in labels}
    if len(kept) == len(outputs):
        return network
    return keras.Model(network.inputs[0], kept, name=network.name)


def _lacks_labels(
    config: train_config.TrainConfig,
    own: objects.CallerObjects,
    manifest: schema.Manifest | None,
) -> bool:
    """Whether some records of a training lack a label of its task.

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
    """Steps of the training's epochs: nearest to one pass, if no number is given."""
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
    """What identifies the preset of the training's backbone of keras-hub, or nothing.

    A run that continues builds its network from the preset again.
    """
    return {"preset": files.json_checksum(known.preset)} if known.preset else {}


def _loss_config(
    config: train_config.TrainConfig,
    own: objects.CallerObjects,
    manifest: schema.Manifest | None,
    ages: tuple[int, int],
    age_head: str,
) -> losses.LossConfig:
    """The options of the training's loss, from its config and the records."""
    weights, age_weights = class_weights.of_config(config, manifest, ages)
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
        masks=_lacks_labels(config, own, manifest),
    )


def _loss(
    own: objects.CallerObjects,
    config: losses.LossConfig,
    batch: example_parser.FirstBatch | None,
) -> Callable[..., Any]:
    """The training's loss: the caller's, or the one that is built."""
    if own.loss is None:
        return losses.build(config)
    labels = batch.labels if batch else {}
    return caller_loss.OwnLoss(own.loss, caller_loss.label_forms(labels))


def _image_preparations(
    changed: Callable[..., Any] | None, mean: tuple[float, ...], *, seed: int
) -> tuple[Callable[..., tf.Tensor], Callable[[tf.Tensor], tf.Tensor]]:
    """Functions that turn images into the network's input: in training, validation."""

    def normalize(images: tf.Tensor) -> tf.Tensor:
        """The network's input without augmentation."""
        return tensor_preprocessing.normalize(images, mean)

    def prepare(images: tf.Tensor, step: tf.Tensor, offset: tf.Tensor) -> tf.Tensor:
        """The network's input with augmentation."""
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
    """The training's model, and the fingerprint of a model that the caller passed."""
    process_settings.seed_generators(config.input.seed)
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
    with strategy.scope(), process_settings.dtype_policy(precision):
        return networks.build_model(settings, load_weights=not begun), ""


def _age_head(
    config: train_config.TrainConfig,
    own: objects.CallerObjects,
    known: Mapping[str, Any],
) -> str:
    """The age head of the training: of the caller's model, or of the one to be built.

    Args:
      config: The options.
      own: The caller's objects.
      known: `networks.ModelConfig` of the caller's model; empty if it is not ours.
    """
    if own.model is None and config.model.age_head != "auto":
        return config.model.age_head
    # Also for models of other programs, and for those that predict no age.
    return known.get("age_head", "regression")


def _augmentation(
    config: train_config.TrainConfig, own: objects.CallerObjects
) -> tuple[Callable[..., Any] | None, str]:
    """The augmentation of the training, and its name in ``config.json``."""
    if own.augment is not None:
        return caller_augmentation.own_augmentation(own.augment), "own"
    settings = augmentation.parse(config.augment)
    if settings is None:
        return None, "none"
    # The form is decided once, so that it does not change during the run.
    form = augmentation.resolve_form(settings)
    settings = dataclasses.replace(settings, form=form)

    def changed(images: Any, **keywords: Any) -> Any:
        """Augments images as the options say."""
        return augmentation.augment_images(images, config=settings, **keywords)

    return changed, form
