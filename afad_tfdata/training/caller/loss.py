"""A caller's loss as the training step calls it, tried once before anything trains.

Most mistakes raise no error: a loss of shape ``[B, B]`` can be summed just like one of
shape ``[B]``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from afad_tfdata.common import errors
from afad_tfdata.common.lazy_imports import keras, tf
from afad_tfdata.training.caller import autograph

PARTS = ("age_loss", "gender_loss")


@dataclasses.dataclass(frozen=True)
class LabelForms:
    """Forms of the labels in a caller's data set, which the caller's loss also takes.

    Attributes:
      dtypes: Dtypes of the labels by name.
      columns: Names of the labels of shape ``[B, 1]``.
    """

    dtypes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    columns: tuple[str, ...] = ()

    def restored(self, labels: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Labels as the caller's data set gave them, which the caller's loss gets."""
        found = dict(labels)
        for name in ("age", "gender"):
            if name in found and name in self.dtypes:
                found[name] = tf.cast(found[name], self.dtypes[name])
                if name in self.columns:
                    found[name] = found[name][:, tf.newaxis]
        return found


def label_forms(labels: Mapping[str, np.ndarray]) -> LabelForms:
    """The forms that the labels of a first batch have, for the caller's loss."""
    return LabelForms(
        dtypes={name: value.dtype.name for name, value in labels.items()},
        columns=tuple(name for name, value in labels.items() if value.ndim == 2),
    )


class OwnLoss:
    """A caller's loss as the training step calls it.

    Args:
      loss: ``(outputs, labels)`` to losses ``[B]``, or to a dict of them with the key
        ``loss``.
      forms: Dtypes and shapes of the labels in the caller's data set.

    Raises:
      UsageError: The loss is not a function.
    """

    def __init__(self, loss: Callable[..., Any], forms: LabelForms) -> None:
        if not callable(loss) or isinstance(loss, keras.losses.Loss | type):
            raise errors.UsageError(
                "loss takes a function (outputs, labels) to a dict of losses [B];"
                f" got {errors.kind(loss)}: call it in such a function, one loss for"
                " each example"
            )
        self._loss, self._forms = autograph.converted(loss), forms

    def __call__(
        self,
        outputs: Mapping[str, tf.Tensor],
        labels: Mapping[str, tf.Tensor],
        **_: Any,
    ) -> dict[str, tf.Tensor]:
        """Losses ``[B]`` by name, as `losses.build` returns them."""
        found = self.raw(outputs, labels)
        if not isinstance(found, Mapping):
            found = {"loss": found}
        kept = ("loss", *PARTS)
        return {n: tf.reshape(found[n], [-1]) for n in kept if n in found}

    def raw(
        self, outputs: Mapping[str, tf.Tensor], labels: Mapping[str, tf.Tensor]
    ) -> Any:
        """What the caller's loss returns."""
        return self._loss(outputs, self._forms.restored(labels))


def check_validation_labels(
    loss: OwnLoss,
    outputs: Mapping[str, tf.Tensor],
    labels: Mapping[str, np.ndarray],
    names: Collection[str],
) -> None:
    """Calls a caller's loss with the labels that the validation data have.

    Args:
      loss: The caller's.
      outputs: Of the network.
      labels: Labels of the training data for these outputs.
      names: The labels of the validation data.

    Raises:
      UsageError: The loss needs one that they lack.
    """
    if set(labels) <= set(names):
        return
    given = {n: tf.constant(v) for n, v in labels.items() if n in names}
    try:
        tf.function(
            lambda: loss.raw(outputs, given), autograph=False
        ).get_concrete_function()
    except Exception as error:  # The caller's code may raise anything.
        raise errors.UsageError(
            f"loss raised {errors.cause(error)} with the labels of the validation data,"
            f" {', '.join(sorted(given))}: give them the labels that the training data"
            f" have, {', '.join(sorted(labels))}"
        ) from error


def refuse_constant_loss(
    loss: OwnLoss, outputs: Mapping[str, tf.Tensor], labels: Mapping[str, tf.Tensor]
) -> None:
    """Refuses a caller's loss that is the same whatever the outputs are."""
    others = {name: tf.reverse(value, [0]) for name, value in outputs.items()}
    # Weights that are 0 give the same outputs for any image.
    changes = [np.abs(others[name] - value).max() for name, value in outputs.items()]
    if not max(changes) > 1e-3:
        return
    values = tf.function(lambda given: loss(given, labels)["loss"], autograph=False)
    first, second = (np.asarray(values(v), np.float64) for v in (outputs, others))
    if np.abs(second - first).max() <= 1e-6 * np.abs(first).max():
        raise constant_loss_error("it does not change with the outputs")


def constant_loss_error(why: str) -> errors.UsageError:
    """The error of a caller's loss that is the same whatever the model does."""
    return errors.UsageError(
        f"the loss teaches nothing, because {why} on the first examples: take one for"
        " a single number, such as binary_crossentropy, and look for activations that"
        " are 0 everywhere"
    )


def check_returned_losses(
    loss: OwnLoss,
    outputs: Mapping[str, tf.Tensor],
    labels: Mapping[str, tf.Tensor],
    count: int,
) -> None:
    """Refuses a caller's loss that is not one number for each example."""
    told = ", ".join(f"{n} {list(v.shape)}" for n, v in outputs.items())
    told += "; labels: " + ", ".join(f"{n} {list(v.shape)}" for n, v in labels.items())

    @tf.function(autograph=False)
    def once() -> Any:
        """One call of the caller's loss, as in training."""
        return loss.raw(outputs, labels)

    try:
        found = once()
    except Exception as error:  # The caller's code may raise anything.
        raise errors.UsageError(
            f"loss raised {errors.cause(error)}; it is called as loss(outputs, labels)"
            f" with the outputs {told}"
        ) from error
    wanted = f"wanted {count} losses, one for each example"
    if not isinstance(found, Mapping):
        if not tf.is_tensor(found):
            raise errors.UsageError(
                f"loss returned {errors.kind(found)}; wanted a dict with the key loss"
            )
        found = {"loss": found}
    if "loss" not in found:
        raise errors.UsageError(
            "loss returned a dict with"
            f" {', '.join(map(str, found)) or 'no key'}; wanted the key loss, which is"
            " minimised"
        )
    for name in ("loss", *PARTS):
        if name not in found:
            continue
        value = tf.convert_to_tensor(found[name])
        if not value.dtype.is_floating:
            raise errors.UsageError(
                f"loss returned {value.dtype.name} for {name}; wanted floats"
            )
        shape = list(value.shape)
        if shape in ([count], [count, 1]):
            continue
        if shape == [count, count] and count > 1:
            raise _broadcast_error(f"{name} has shape {shape}")
        advice = "reduce all axes but the first"
        if not shape:
            advice = "leave out reduce_mean; train takes the mean of the batch"
        raise errors.UsageError(f"{name} has shape {shape}; {wanted}: {advice}")
    if count > 1 and (place := _broadcast_in_loss(loss, outputs, labels)):
        raise _broadcast_error(place)


def _broadcast_in_loss(
    loss: OwnLoss, outputs: Mapping[str, tf.Tensor], labels: Mapping[str, tf.Tensor]
) -> str:
    """In a caller's loss: the operation that makes [B, B] of [B, 1] and [B], or "".

    Such a loss may be reduced to [B] afterwards, but it compares each example with all
    labels.
    """

    def stand_ins(values: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Placeholders, with which the caller's loss is only traced."""
        return {
            n: tf.compat.v1.placeholder(v.dtype, v.shape) for n, v in values.items()
        }

    graph, eager = tf.Graph(), tf.config.functions_run_eagerly()
    try:
        # The caller's functions then add their operations to this graph.
        tf.config.run_functions_eagerly(True)
        with graph.as_default():
            loss.raw(stand_ins(outputs), stand_ins(labels))
    except Exception:  # A loss that works only in a tf.function is not searched.
        return ""
    finally:
        tf.config.run_functions_eagerly(eager)
    for operation in graph.get_operations():
        if len(operation.inputs) != 2 or operation.type in ("MatMul", "BatchMatMulV2"):
            continue
        shapes = [t.shape.as_list() for t in operation.inputs if t.shape.rank]
        if len(shapes) != 2:
            continue
        shapes.sort(key=len)
        for result in operation.outputs:
            size = shapes[0][0]
            square = result.shape.rank == 2 and result.shape.as_list() == [size, size]
            if square and size > 1 and shapes == [[size], [size, 1]]:
                where = f"in {operation.type}, [{size}, 1] and [{size}]"
                return f"{where} give [{size}, {size}]"
    return ""


def _broadcast_error(where: str) -> errors.UsageError:
    """The error of a caller's loss that compares each example with all labels."""
    return errors.UsageError(
        f"loss compares each example with the labels of all others ({where}): outputs"
        " are [B, 1] and labels [B]; take tf.reshape(output, [-1])"
    )
