"""A caller's model in the form that the training takes, and what identifies it.

Every model with a clear meaning is accepted: also one whose only output has another
name, a ``Sequential``, and a subclassed model that can be called.  Any other is refused
before anything trains, with one line.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from afad_tfdata.common import errors
from afad_tfdata.common.lazy_imports import keras, tf
from afad_tfdata.models import model_weights, networks
from afad_tfdata.storage import schema
from afad_tfdata.training.caller import pixel_input

_log = logging.getLogger(__name__)


def check_kind(model: Any) -> None:
    """Refuses anything but a model of Keras 3 as the caller's model.

    Raises:
      UsageError: It is a model of tf_keras, a path, a class or anything else.
    """
    if isinstance(model, keras.Model):
        _refuse_own_steps(model)
        return
    what = errors.kind(model)
    advice = "build it with keras.Model or models.build_model"
    if isinstance(model, str):
        advice = "load the file with models.load(path)"
    elif isinstance(model, type):
        advice = f"{model.__name__} is a class: pass an instance, {model.__name__}()"
    elif type(model).__module__.startswith("tf_keras") or any(
        base.__module__.startswith("tf_keras") for base in type(model).__mro__
    ):
        advice = (
            "tf_keras is Keras 2: build the model with `import keras`, or save it with"
            ' model.save("m.h5") and pass models.load("m.h5")'
        )
    raise errors.UsageError(f"model takes a model of Keras 3; got {what}: {advice}")


def _refuse_own_steps(model: keras.Model) -> None:
    """Refuses a caller's model with methods of ``model.fit``; warns of compile()."""
    for name in ("train_step", "compute_loss"):
        if getattr(type(model), name) is not getattr(keras.Model, name):
            raise errors.UsageError(
                f"{type(model).__name__} has a {name} of its own, which train does not"
                " call: pass loss=, a function (outputs, labels) to losses [B], and a"
                " model without that method"
            )
    if getattr(model, "compiled", False):
        _log.warning(
            "the model is compiled: train uses none of compile()'s optimizer, loss and"
            " metrics, but those of its own options"
        )


def input_sides(model: keras.Model) -> tuple[int | None, int | None]:
    """Height and width of the input of a caller's model; None if it fixes neither.

    Raises:
      UsageError: The model does not take one batch of RGB images.
    """
    inputs = _symbolic_inputs(model)
    if inputs is None:
        return None, None
    if len(inputs) != 1:
        names = ", ".join(str(tensor.name) for tensor in inputs)
        raise errors.UsageError(
            f"a model takes one input, images [n, S, S, 3]; this one takes"
            f" {len(inputs)}: {names}"
        )
    shape = tuple(inputs[0].shape)
    if len(shape) != 4 or shape[3] not in (3, None):
        raise errors.UsageError(
            "a model takes images [n, S, S, 3]; the input of this one is"
            f" {_shape_text(shape)}"
        )
    dtype = keras.backend.standardize_dtype(inputs[0].dtype)
    if "float" not in dtype:
        raise errors.UsageError(
            f"the input of the model is {dtype}; wanted float32, because train passes"
            " (x - mean) / 127.5: leave the dtype out, and any rescaling of pixels"
        )
    return shape[1], shape[2]


def adapted(
    model: keras.Model, task: str, sides: tuple[int, int], *, batch: int | None
) -> keras.Model:
    """The caller's model, or a functional model around it with our names of outputs.

    Args:
      model: From `check_kind`.
      task: One of `schema.TASKS`.
      sides: Height and width in pixels of the images that the model will get.
      batch: Number of examples in one replica's part of a batch.

    Returns:
      A functional model or ``Sequential`` with ``age_output`` and/or ``gender_output``
      and the same variables.

    Raises:
      UsageError: The model cannot be called on such images, or its outputs are not
        those of the task.
    """
    inputs = _symbolic_inputs(model)
    if inputs is None:
        return _functional_model(model, task, sides)
    fixed = inputs[0].shape[0]
    if fixed is not None and fixed != batch:
        raise errors.UsageError(
            f"the model takes batches of {fixed}, and each device gets {batch} images:"
            " leave batch_size out of keras.Input, or change --global_batch_size"
        )
    pixel_input.refuse_pixels(model, sides)
    wanted = [f"{name}_output" for name in schema.labels_of(task)]
    found = networks.named_outputs(model)
    if not set(wanted) <= set(found):
        names = list(map(str, found))
        if len(wanted) > 1 or len(names) > 1 or set(names) & set(networks.OUTPUTS):
            raise _output_names_error(task, wanted, names)
        _log.info("the only output of the model, %s, is %s", names[0], wanted[0])
        found = {wanted[0]: found[names[0]]}
        model = keras.Model(model.inputs[0], found, name="afad_own")
    for name in ("age_output", "gender_output"):
        if name in found:
            check_output_shape(name, tuple(found[name].shape))
    if "gender_output" in wanted:
        _refuse_gender_logit(found["gender_output"])
    return model


def check_output_shape(name: str, shape: tuple[int | None, ...]) -> None:
    """Refuses a caller's model with an output that is not one number for each image.

    Raises:
      UsageError: The shape is another one; the text says how to change the model.
    """
    if all(size in (1, None) for size in shape[1:]):
        return
    advice = "keras.layers.Dense(1)"
    if name == "gender_output":
        advice = "keras.layers.Dense(1, activation='sigmoid')"
        if len(shape) == 2 and shape[1] == 2:
            advice += ", or take column 1 of a softmax over two classes"
    raise errors.UsageError(
        f"the model's {name} has shape {_shape_text(shape)}; wanted [n, 1],"
        f" {_MEANING[name]}: end it with {advice}"
    )


def check_can_be_saved(model: keras.Model) -> None:
    """Refuses a caller's model that Keras cannot save; warns of unknown classes.

    Raises:
      UsageError: Keras raises an error when it describes the model.
    """
    try:
        keras.saving.serialize_keras_object(model)
    except Exception as error:  # A caller's get_config may raise anything.
        raise errors.UsageError(
            f"Keras cannot save the model ({errors.one_line(error)}), and a run saves"
            " it: give its classes a get_config method"
        ) from error
    unknown = sorted(
        {
            type(layer).__name__
            for layer in model._flatten_layers()
            if type(layer).__module__.partition(".")[0] not in ("keras", "afad_tfdata")
            and keras.saving.get_registered_name(type(layer)) == type(layer).__name__
        }
    )
    if unknown:
        _log.warning(
            "%s not registered with Keras: best.keras loads only after a program has"
            " imported them with @keras.saving.register_keras_serializable()",
            f"{', '.join(unknown)} {'is' if len(unknown) == 1 else 'are'}",
        )


def precision(model: keras.Model) -> str:
    """Dtype policy of a caller's model; weights in a 16-bit layer make it mixed."""
    computes = {x.compute_dtype for x in model._flatten_layers() if x.weights}
    for dtype in ("float16", "bfloat16"):
        if dtype in computes:
            return f"mixed_{dtype}"
    return "float64" if computes == {"float64"} else "float32"


def frozen_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """Layers with weights of a caller's model whose ``trainable`` is False."""
    return [x for x in model._flatten_layers() if x.weights and not x.trainable]


def copy_trainable_flags(source: keras.Model, target: keras.Model) -> None:
    """Gives a copy the ``trainable`` flags of the caller's model."""
    set_trainable_flags(target, [layer.trainable for layer in source._flatten_layers()])


def set_trainable_flags(model: keras.Model, flags: list[bool]) -> None:
    """Sets the ``trainable`` flag of each layer of a caller's model."""
    # Keras lists a model before its layers: setting its flag also sets theirs.
    for layer, flag in zip(model._flatten_layers(), flags, strict=True):
        if layer.trainable != flag:
            layer.trainable = flag


@contextlib.contextmanager
def trainable_flags_restored(model: keras.Model | None) -> Iterator[None]:
    """Leaves the ``trainable`` flags of a caller's model as they were."""
    if not isinstance(model, keras.Model):
        yield
        return
    layers = model._flatten_layers()
    before = [(layer, layer.trainable) for layer in layers]
    try:
        yield
    finally:
        for layer, flag in before:
            if layer.trainable != flag:
                layer.trainable = flag


_MEANING = {"age_output": "years", "gender_output": "the probability of class 1"}


def _symbolic_inputs(model: keras.Model) -> list[Any] | None:
    """Symbolic inputs of a caller's model; None if it is subclassed or not built."""
    try:
        inputs = getattr(model, "inputs", None)
    except (AttributeError, ValueError):  # A Sequential without an Input layer.
        return None
    return list(inputs) if inputs and pixel_input.is_graph(model) else None


def _functional_model(
    model: keras.Model, task: str, sides: tuple[int, int]
) -> keras.Model:
    """A functional model around a caller's model that can only be called."""
    image = keras.Input((*sides, 3), dtype="float32", name=networks.INPUT_NAME)
    try:
        result = model(image)
    except Exception as error:  # The caller's code may raise anything.
        raise errors.UsageError(
            f"the model cannot be called on images {_shape_text((None, *sides, 3))}:"
            f" {errors.cause(error)}"
        ) from error
    wanted = [f"{name}_output" for name in schema.labels_of(task)]
    if isinstance(result, dict):
        found = {name: result[name] for name in networks.OUTPUTS if name in result}
        if not set(wanted) <= set(found):
            raise _output_names_error(task, wanted, [str(name) for name in result])
    elif isinstance(result, list | tuple) or len(wanted) > 1:
        raise errors.UsageError(
            f"a call of the model returns {type(result).__name__}; wanted a dict with"
            f" {' and '.join(wanted)}, which says what is what"
        )
    else:
        found = {wanted[0]: result}
    for name in ("age_output", "gender_output"):
        if name in found:
            check_output_shape(name, tuple(found[name].shape))
    wrapped = keras.Model(image, found, name="afad_own")
    pixel_input.refuse_pixels(wrapped, sides)
    if "gender_output" in wanted:
        _refuse_gender_logit(found["gender_output"])
    return wrapped


def _output_names_error(
    task: str, wanted: list[str], names: list[str]
) -> errors.UsageError:
    """The error of a caller's model whose outputs have other names."""
    return errors.UsageError(
        f"--task={task} needs a model with outputs named {' and '.join(wanted)}; this"
        f" one has {', '.join(names) or 'none'}: name the last layers so, or return a"
        " dict with these keys"
    )


def _refuse_gender_logit(output: keras.KerasTensor) -> None:
    """Refuses a caller's model whose gender output has no activation: a logit."""
    layer = getattr(output, "_keras_history", (None,))[0]
    while isinstance(layer, keras.Model) and pixel_input.is_graph(layer):
        # A model's `outputs` are inside it, and its `output` may be that of a call.
        if len(layer.outputs) != 1:
            return
        inside = layer.outputs[0]._keras_history[0]
        if inside is layer:
            return
        layer = inside
    if getattr(layer, "activation", None) is keras.activations.linear:
        raise logits_error()


def logits_error(found: str = "a layer without an activation") -> errors.UsageError:
    """The error of a caller's model whose gender output is not a probability.

    Args:
      found: What the output is instead, for the message.
    """
    return errors.UsageError(
        f"the model's gender_output is {found}; wanted a probability in [0, 1]: end it"
        " with activation='sigmoid', and name the layer before it gender_logits if your"
        " loss takes logits"
    )


def _shape_text(shape: tuple[int | None, ...]) -> str:
    """A shape in an error about a caller's model, with n for an unknown size."""
    return "[" + ", ".join("n" if s is None else str(s) for s in shape) + "]"


def mirrored(model: keras.Model, strategy: tf.distribute.Strategy) -> keras.Model:
    """The caller's model if the strategy has its variables, else a mirrored copy.

    Raises:
      UsageError: Keras cannot copy the model.
    """
    # A Keras variable wraps a TensorFlow variable, which refers to its strategy.  If it
    # was created outside any scope, it has no such attribute.
    if all(
        getattr(getattr(v, "value", v), "distribute_strategy", None) is strategy
        for v in model.variables
    ):
        return model
    if _is_mirrored(model):
        raise errors.UsageError(
            "the model was created in the scope of another tf.distribute strategy:"
            " create it outside of every scope; if there are several devices, train"
            " copies it to them"
        )
    replicas = strategy.num_replicas_in_sync
    if replicas == 1:
        return model
    _log.info("the model was created outside the strategy's scope: training a copy")
    try:
        with strategy.scope():
            copy = _cloned(model)
            # Normalization layers compute with copies of their weights.
            model_weights.copy_weights(model, copy)
    except Exception as error:  # A caller's get_config may raise anything.
        raise errors.UsageError(
            f"the model cannot be copied to {replicas} devices"
            f" ({type(error).__name__}: {errors.one_line(error)}): give its classes a"
            " get_config method, or train on one device, such as --devices=cpu"
        ) from error
    copy_trainable_flags(model, copy)
    return copy


def _cloned(model: keras.Model) -> keras.Model:
    """A copy of the caller's model with new weights; it shares Python functions."""
    if not any(isinstance(x, keras.layers.Lambda) for x in model._flatten_layers()):
        return keras.models.clone_model(model)
    # Keras does not copy a Python function.  Such a layer has no weights, and the copy
    # may therefore share it.
    return keras.models.clone_model(
        model,
        clone_function=lambda layer: (
            layer
            if isinstance(layer, keras.layers.Lambda)
            else layer.__class__.from_config(layer.get_config())
        ),
        recursive=True,
    )


def _is_mirrored(model: keras.Model) -> bool:
    """Whether a strategy with several replicas created a caller's model."""
    for variable in model.variables:
        value = getattr(variable, "value", variable)
        found = getattr(value, "distribute_strategy", None)
        if found is not None and found.num_replicas_in_sync > 1:
            return True
    return False
