"""One step on a small batch with a caller's parts, before anything trains.

Most mistakes in a model raise no error: a softmax over one unit, for example, trains
without learning anything.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from afad_tfdata.common import errors
from afad_tfdata.common.lazy_imports import keras, tf
from afad_tfdata.training import config as train_config
from afad_tfdata.training import train_data
from afad_tfdata.training.caller import augmentation as caller_augmentation
from afad_tfdata.training.caller import example_parser, objects
from afad_tfdata.training.caller import loss as caller_loss
from afad_tfdata.training.caller import model as caller_model

# Number of examples in the trial of a caller's parts: cheap, and some of each gender.
_TRIED_EXAMPLES = 8


@dataclasses.dataclass(frozen=True)
class Trial:
    """What a step on a small batch showed.

    Attributes:
      loss_names: Those of ``loss``, ``age_loss`` and ``gender_loss`` that exist.
      unconnected: Weights that the loss does not depend on.
    """

    loss_names: tuple[str, ...]
    unconnected: tuple[keras.Variable, ...] = ()


def try_parts(
    config: train_config.TrainConfig,
    own: objects.CallerObjects,
    strategy: tf.distribute.Strategy,
    network: keras.Model,
    loss: Callable[..., Any],
    changed: Callable[..., Any] | None,
    normalize: Callable[[tf.Tensor], tf.Tensor],
    data: train_data.TrainData,
    sides: tuple[int, int],
    ages: tuple[int, int],
) -> Trial:
    """Tries a caller's parts on a small batch, which shows most mistakes in them."""
    batch, validation_labels = data.first_batch(), data.validation_labels()
    count = network.inputs[0].shape[0] or min(
        _TRIED_EXAMPLES, config.input.global_batch_size
    )
    images, labels = _trial_examples(batch, sides, ages, count, config.input.seed)
    if own.augment is not None and changed is not None:
        caller_augmentation.check_augmentation(changed, images)
    inputs = normalize(tf.constant(images))
    result = try_step(strategy, network, loss, inputs, labels)
    if isinstance(loss, caller_loss.OwnLoss) and validation_labels is not None:
        outputs = network_outputs(strategy, network, inputs)
        caller_loss.check_validation_labels(loss, outputs, labels, validation_labels)
    return result


def try_step(
    strategy: tf.distribute.Strategy,
    network: keras.Model,
    loss: Callable[..., Mapping[str, tf.Tensor]],
    inputs: tf.Tensor,
    labels: Mapping[str, np.ndarray],
) -> Trial:
    """The trial step: computes outputs, losses and gradients, and changes nothing.

    Args:
      strategy: The strategy of the variables.
      network: A model that returns a dict of outputs.
      loss: From `losses.build`, or a `caller_loss.OwnLoss`.
      inputs: float32 ``[n, H, W, 3]``, normalised.
      labels: Labels in our form, ``[n]``.

    Raises:
      UsageError: Outputs, losses or gradients cannot be trained on.
    """
    count = int(inputs.shape[0])
    given = {name: tf.constant(value) for name, value in labels.items()}
    outputs = network_outputs(strategy, network, inputs)
    for name in ("age_output", "gender_output"):
        if name in outputs:
            caller_model.check_output_shape(name, tuple(outputs[name].shape))
            if len(tf.reshape(outputs[name], [-1])) != count:
                raise errors.UsageError(
                    f"the model's {name} has shape {list(outputs[name].shape)} for"
                    f" {count} images; wanted [{count}, 1]"
                )
    # A sigmoid stays in its range for any input; a logit near 0 does not.
    far = [network_outputs(strategy, network, inputs * scale) for scale in (1e3, -1e3)]
    for found in (outputs, *far):
        if "gender_output" in found:
            _check_probability(found["gender_output"])
    _refuse_bounded_outputs(outputs, far)
    if isinstance(loss, caller_loss.OwnLoss):
        caller_loss.check_returned_losses(loss, outputs, given, count)
        caller_loss.refuse_constant_loss(loss, outputs, given)
    names: list[str] = []
    missing: list[int] = []
    weights = list(network.trainable_variables)

    @tf.function(autograph=False)
    def once() -> tf.Tensor:
        """The step, on the replicas."""

        def replica() -> tf.Tensor:
            """Loss and gradients of a replica; whether any gradient is not 0."""
            with tf.GradientTape() as tape:
                found = loss(network(inputs, training=False), given)
                total = tf.reduce_sum(found["loss"])
            names[:] = [n for n in ("loss", *caller_loss.PARTS) if n in found]
            gradients = tape.gradient(total, [weight.value for weight in weights])
            missing[:] = [i for i, g in enumerate(gradients) if g is None]
            steep = [
                tf.reduce_any(tf.convert_to_tensor(g) != 0)
                for g in gradients
                if g is not None
            ]
            return tf.reduce_any(tf.stack(steep)) if steep else tf.constant(False)

        return strategy.run(replica)

    moves = strategy.experimental_local_results(once())[0]
    if not weights:
        raise errors.UsageError(
            "nothing in the model trains: set trainable=True on the layers that should"
        )
    if len(missing) == len(weights):
        raise errors.UsageError(
            "the loss does not depend on any weight that trains: compute it from the"
            " outputs by differentiable operations (no argmax, round or comparison)"
        )
    if not moves:
        raise caller_loss.constant_loss_error("its gradient is 0 for every weight")
    return Trial(tuple(names), tuple(weights[i] for i in missing))


def network_outputs(
    strategy: tf.distribute.Strategy, network: keras.Model, inputs: tf.Tensor
) -> dict[str, tf.Tensor]:
    """The outputs of a network in a trial, on the first replica."""

    @tf.function(autograph=False)
    def run() -> Any:
        """The outputs of all replicas."""
        return strategy.run(lambda: network(inputs, training=False))

    try:
        found = run()
    except Exception as error:  # The caller's layers may raise anything.
        raise errors.UsageError(
            f"the model raised {errors.cause(error)} on images {list(inputs.shape)}"
        ) from error
    first = {n: strategy.experimental_local_results(v)[0] for n, v in found.items()}
    return {n: tf.convert_to_tensor(v) for n, v in first.items()}


def _check_probability(output: tf.Tensor) -> None:
    """Refuses a model whose gender output is not a probability in the trial."""
    values = tf.cast(output, tf.float32).numpy()
    values = values[np.isfinite(values)]
    if values.size and not (values.min() >= -1e-6 and values.max() <= 1 + 1e-6):
        shown = f"in [{values.min():.3g}, {values.max():.3g}]"
        raise caller_model.logits_error(shown)


def _refuse_bounded_outputs(
    near: Mapping[str, tf.Tensor], far: Sequence[Mapping[str, tf.Tensor]]
) -> None:
    """Refuses, in the trial, a softmax over one unit, and years of at most 1."""

    def values(found: Mapping[str, tf.Tensor], name: str) -> np.ndarray:
        """An output as a vector."""
        return tf.cast(found[name], tf.float32).numpy().reshape(-1)

    for name in ("age_output", "gender_output"):
        if name not in near:
            continue
        beyond = np.concatenate([values(found, name) for found in far])
        everywhere = np.concatenate([values(near, name), beyond])
        # Some processors compute 0.99999994 as the softmax of one number.
        if (np.abs(everywhere - 1) < 1e-6).all():
            raise errors.UsageError(
                f"the model's {name} is 1 for every image, as a softmax over one unit"
                " is: end it with"
                f" activation={'sigmoid' if name == 'gender_output' else None!r}"
            )
        # Far inputs saturate a sigmoid or tanh, whose outputs are then -1, 0 or 1.  A
        # sum of weights would leave [-1, 1], and a sum after a normalisation would be
        # between these three values, as a few saturated outputs may also be.
        near_whole = np.abs(beyond - np.round(beyond)) < 1e-3
        saturated = near_whole.mean() > 0.75
        if name == "age_output" and saturated and np.ptp(everywhere):
            if np.abs(everywhere).max() <= 1 + 1e-6:
                raise errors.UsageError(
                    "the model's age_output stays in"
                    f" [{everywhere.min():.3g}, {everywhere.max():.3g}] for any image;"
                    " wanted years: end it without an activation, or multiply it, such"
                    " as by keras.layers.Rescaling(100)"
                )


def _trial_examples(
    batch: example_parser.FirstBatch | None,
    sides: tuple[int, int],
    ages: tuple[int, int],
    count: int,
    seed: int,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The examples of the trial: some of the caller's, or random ones in that form."""
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
