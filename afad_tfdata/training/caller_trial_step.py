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
from afad_tfdata.training import caller_loss, caller_model


@dataclasses.dataclass(frozen=True)
class Trial:
    """What a step on a small batch showed.

    Attributes:
      loss_names: Those of ``loss``, ``age_loss`` and ``gender_loss`` that exist.
      unconnected: Weights that the loss does not depend on.
    """

    loss_names: tuple[str, ...]
    unconnected: tuple[keras.Variable, ...] = ()


def try_step(
    strategy: tf.distribute.Strategy,
    network: keras.Model,
    loss: Callable[..., Mapping[str, tf.Tensor]],
    inputs: tf.Tensor,
    labels: Mapping[str, np.ndarray],
) -> Trial:
    """Computes outputs, losses and gradients once; nothing is changed.

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
    outputs = outputs_of(strategy, network, inputs)
    for name in ("age_output", "gender_output"):
        if name in outputs:
            caller_model.check_shape(name, tuple(outputs[name].shape))
            if len(tf.reshape(outputs[name], [-1])) != count:
                raise errors.UsageError(
                    f"the model's {name} has shape {list(outputs[name].shape)} for"
                    f" {count} images; wanted [{count}, 1]"
                )
    # A sigmoid stays in its range for any input; a logit near 0 does not.
    far = [outputs_of(strategy, network, inputs * scale) for scale in (1e3, -1e3)]
    for found in (outputs, *far):
        if "gender_output" in found:
            _check_probability(found["gender_output"])
    _refuse_bounded(outputs, far)
    if isinstance(loss, caller_loss.OwnLoss):
        caller_loss.check_losses(loss, outputs, given, count)
        caller_loss.refuse_constant(loss, outputs, given)
    names: list[str] = []
    missing: list[int] = []
    weights = list(network.trainable_variables)

    @tf.function
    def once() -> tf.Tensor:
        def replica() -> tf.Tensor:
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
        raise caller_loss.teaches_nothing("its gradient is 0 for every weight")
    return Trial(tuple(names), tuple(weights[i] for i in missing))


def outputs_of(
    strategy: tf.distribute.Strategy, network: keras.Model, inputs: tf.Tensor
) -> dict[str, tf.Tensor]:
    """The outputs of a network on the first replica, without training."""

    @tf.function(autograph=False)
    def run() -> Any:
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
    """Refuses a caller's model whose gender output is no probability."""
    values = tf.cast(output, tf.float32).numpy()
    values = values[np.isfinite(values)]
    if values.size and not (values.min() >= -1e-6 and values.max() <= 1 + 1e-6):
        shown = f"in [{values.min():.3g}, {values.max():.3g}]"
        raise caller_model.logits_error(shown)


def _refuse_bounded(
    near: Mapping[str, tf.Tensor], far: Sequence[Mapping[str, tf.Tensor]]
) -> None:
    """Refuses a softmax over one unit, and years that cannot be more than 1."""

    def values(found: Mapping[str, tf.Tensor], name: str) -> np.ndarray:
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
