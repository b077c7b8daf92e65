"""A caller's loss and augmentation, called once on a batch before anything trains.

Most mistakes in them raise no error: a loss of shape ``[B, B]`` can be summed just like
one of shape ``[B]``, and images that are in [0, 1] already are normalised once more.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from afad_tfdata.common import errors
from afad_tfdata.common.lazy_imports import keras, tf
from afad_tfdata.training import caller_model

# Images must span at least this many levels, which images in [0, 1] or [-2, 2] do not.
_SPAN = 16.0
# No change of brightness or contrast leads to levels as far from 0 as this.
_FAR_LEVEL = 1000.0
_PARTS = ("age_loss", "gender_loss")


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
        """Labels as the caller's data set gave them."""
        found = dict(labels)
        for name in ("age", "gender"):
            if name in found and name in self.dtypes:
                found[name] = tf.cast(found[name], self.dtypes[name])
                if name in self.columns:
                    found[name] = found[name][:, tf.newaxis]
        return found


def forms_of(labels: Mapping[str, np.ndarray]) -> LabelForms:
    """The forms of the labels of a first batch."""
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
        self._loss, self._forms = loss, forms

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
        kept = ("loss", *_PARTS)
        return {n: tf.reshape(found[n], [-1]) for n in kept if n in found}

    def raw(
        self, outputs: Mapping[str, tf.Tensor], labels: Mapping[str, tf.Tensor]
    ) -> Any:
        """What the caller's function returns."""
        return self._loss(outputs, self._forms.restored(labels))


def own_augmentation(augment: Callable[..., Any]) -> Callable[..., Any]:
    """A caller's augmentation as the training step calls it.

    Args:
      augment: ``(images, seed=, step=, offset=)``; it may take fewer keywords.

    Raises:
      UsageError: It is not a function, or takes other arguments.
    """
    wanted = "augment takes a function (images, seed=, step=, offset=)"
    if isinstance(augment, keras.layers.Layer):
        raise errors.UsageError(
            f"{wanted}; got the Keras layer {augment.name}, whose random state is not"
            " saved, so that a run would not continue exactly: write a function with"
            " tf.image.stateless_random_*, or put the layer into the model"
        )
    if not callable(augment) or isinstance(augment, type):
        raise errors.UsageError(f"{wanted}; got {errors.kind(augment)}")
    try:
        parameters = list(inspect.signature(augment).parameters.values())
    except (TypeError, ValueError):  # Some built-in functions have no signature.
        return augment
    keywords = ("seed", "step", "offset")
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    named = {p.name for p in parameters}
    taken = [name for name in keywords if takes_all or name in named]
    places = [
        p
        for p in parameters
        if p.name not in keywords and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    ]
    needed = [p.name for p in places if p.default is p.empty]
    by_place = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    if len(needed) > 1 or (not places and not by_place) or _keyword_only(places):
        raise errors.UsageError(
            f"{wanted}, of which it may leave out the last three; this one takes"
            f" ({', '.join(p.name for p in parameters)})"
        )

    def called(images: Any, **given: Any) -> Any:
        return augment(images, **{name: given[name] for name in taken})

    return called


def check_augmentation(augment: Callable[..., Any], images: np.ndarray) -> None:
    """Calls an augmentation once.

    Args:
      augment: From `own_augmentation`.
      images: ``[n, H, W, 3]`` in [0, 255].

    Raises:
      UsageError: It fails, or returns other images than the step needs.
    """
    number = tf.constant(0, tf.int64)

    # The call is traced as in training, where NumPy and OpenCV cannot be used.
    @tf.function
    def once(values: tf.Tensor) -> Any:
        return augment(values, seed=0, step=number, offset=tf.constant(0))

    try:
        found = once(tf.constant(images))
    except Exception as error:  # The caller's code may raise anything.
        raise errors.UsageError(
            f"augment raised {errors.cause(error)}; it gets a tensor"
            f" {images.dtype.name} {list(images.shape)} inside a tf.function, and"
            " seed=, step=, offset="
        ) from error
    wanted = f"wanted images {list(images.shape)} in [0, 255]"
    if not tf.is_tensor(found) or not found.dtype.is_floating | found.dtype.is_integer:
        raise errors.UsageError(f"augment returned {errors.kind(found)}; {wanted}")
    if tuple(found.shape) != images.shape:
        raise errors.UsageError(
            f"augment returned shape {list(found.shape)}; {wanted}: it gets a batch and"
            " not one image"
        )
    values = found.numpy().astype(np.float64)
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    if max(-low, high) > _FAR_LEVEL:
        raise _augmentation_error(low, high, "it gets levels in [0, 255] already")
    if np.ptp(images.astype(np.float64)) > _SPAN * 2 and high - low < _SPAN:
        advice = "multiply by 255, or leave out its normalising, which train does"
        raise _augmentation_error(low, high, advice)


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
      loss: From `losses.build`, or an `OwnLoss`.
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
    if isinstance(loss, OwnLoss):
        _check_losses(loss, outputs, given, count)
        _refuse_constant(loss, outputs, given)
    names: list[str] = []
    missing: list[int] = []
    weights = list(network.trainable_variables)

    @tf.function
    def once() -> tf.Tensor:
        def replica() -> tf.Tensor:
            with tf.GradientTape() as tape:
                found = loss(network(inputs, training=False), given)
                total = tf.reduce_sum(found["loss"])
            names[:] = [n for n in ("loss", *_PARTS) if n in found]
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
        raise _teaches_nothing("its gradient is 0 for every weight")
    return Trial(tuple(names), tuple(weights[i] for i in missing))


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
        tf.function(lambda: loss.raw(outputs, given)).get_concrete_function()
    except Exception as error:  # The caller's code may raise anything.
        raise errors.UsageError(
            f"loss raised {errors.cause(error)} with the labels of the validation data,"
            f" {', '.join(sorted(given))}: give them the labels that the training data"
            f" have, {', '.join(sorted(labels))}"
        ) from error


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
        if (everywhere == 1).all():
            raise errors.UsageError(
                f"the model's {name} is 1 for every image, as a softmax over one unit"
                " is: end it with"
                f" activation={'sigmoid' if name == 'gender_output' else None!r}"
            )
        # Far inputs saturate a sigmoid or tanh.  A sum of weights would leave [-1, 1],
        # and one behind a normalisation would have other values than these three.
        # A few of the inputs may be where its argument is about 0.
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


def _refuse_constant(
    loss: OwnLoss, outputs: Mapping[str, tf.Tensor], labels: Mapping[str, tf.Tensor]
) -> None:
    """Refuses a loss that is the same whatever the outputs are."""
    others = {name: tf.reverse(value, [0]) for name, value in outputs.items()}
    # Weights that are 0 give the same outputs for any image.
    changes = [np.abs(others[name] - value).max() for name, value in outputs.items()]
    if not max(changes) > 1e-3:
        return
    values = tf.function(lambda given: loss(given, labels)["loss"])
    first, second = (np.asarray(values(v), np.float64) for v in (outputs, others))
    if np.abs(second - first).max() <= 1e-6 * np.abs(first).max():
        raise _teaches_nothing("it does not change with the outputs")


def _teaches_nothing(why: str) -> errors.UsageError:
    return errors.UsageError(
        f"the loss teaches nothing, because {why} on the first examples: take one for"
        " a single number, such as binary_crossentropy, and look for activations that"
        " are 0 everywhere"
    )


def _check_losses(
    loss: OwnLoss,
    outputs: Mapping[str, tf.Tensor],
    labels: Mapping[str, tf.Tensor],
    count: int,
) -> None:
    """Refuses anything but one loss for each example."""
    told = ", ".join(f"{n} {list(v.shape)}" for n, v in outputs.items())
    told += "; labels: " + ", ".join(f"{n} {list(v.shape)}" for n, v in labels.items())

    @tf.function
    def once() -> Any:
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
    for name in ("loss", *_PARTS):
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
    if count > 1 and (place := _broadcast_in(loss, outputs, labels)):
        raise _broadcast_error(place)


def _broadcast_in(
    loss: OwnLoss, outputs: Mapping[str, tf.Tensor], labels: Mapping[str, tf.Tensor]
) -> str:
    """The operation that makes [B, B] of [B, 1] and [B]; empty if there is none.

    Such a loss may be reduced to [B] afterwards, but it compares each example with all
    labels.
    """

    def stand_ins(values: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
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
    return errors.UsageError(
        f"loss compares each example with the labels of all others ({where}): outputs"
        " are [B, 1] and labels [B]; take tf.reshape(output, [-1])"
    )


def _augmentation_error(low: float, high: float, advice: str) -> errors.UsageError:
    return errors.UsageError(
        f"augment returned levels in [{low:.4g}, {high:.4g}]; wanted [0, 255], which"
        f" train normalises by itself: {advice}"
    )


def _keyword_only(places: list[inspect.Parameter]) -> bool:
    return bool(places) and places[0].kind is inspect.Parameter.KEYWORD_ONLY
