"""Where a model to be frozen comes from: a file, a checkpoint, a run, a SavedModel.

Each of them becomes a `Source`: a float32 function from normalised images to outputs by
label, and what is known about the model::

    source = model_source.open_source("runs/first/best.keras")
    source.call(images)          # {"age": [n, 1], "gender": [n, 1]}
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from afad_tfdata.common import errors, files
from afad_tfdata.common.lazy_imports import keras, tf
from afad_tfdata.freezing import untrusted_graphs
from afad_tfdata.models import (
    facts,
    input_range,
    keras2_files,
    model_files,
    model_weights,
)
from afad_tfdata.storage import schema
from afad_tfdata.training import checkpoints, run_dir, run_state

_LABELS = ("age", "gender")
# Ending of a label in --outputs whose output is not yet a probability.
LOGITS = "_logits"
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Source:
    """A model to be frozen.

    Attributes:
      call: Maps float32 ``[n, size, size, 3]`` to float32 ``[n, 1]`` or ``[n]`` by
        label, in inference.
      predict: The model's own function to predict a batch, to compare the speed with;
        None for a SavedModel, which has none.
      labels: The labels of its outputs: ``age``, ``gender`` or both, in this order.
      image_size: Side of the input in pixels.
      name: Default name of its graph.
      path: The file or directory that it came from; empty for an object.
      layers: Names of its layers, nested ones too; empty for a SavedModel.
      input_range: One of `facts.INPUT_RANGES` if its input or first layers prove it;
        else empty.
      facts: What the model or its file says about its input and outputs; what its run
        says is in `run`.
      run: ``config.json`` of its run, with the key ``directory``; empty for none.
      owner: The object that owns the variables and must live as long as `call`.
      parts: Like `call`, but also returns ``age_logits`` and ``gender_logits``, as far
        as the network has these layers; None if it has neither.
    """

    call: Callable[[tf.Tensor], dict[str, tf.Tensor]]
    predict: Callable[[np.ndarray], Any] | None
    labels: tuple[str, ...]
    image_size: int
    name: str
    path: str
    layers: tuple[str, ...]
    input_range: str
    facts: facts.Facts
    run: dict[str, Any]
    owner: Any
    parts: Callable[[tf.Tensor], dict[str, tf.Tensor]] | None = None


def open_source(
    path: str,
    *,
    which: str = "best",
    epoch: int = 0,
    outputs: Sequence[str] = (),
    image_size: int = 0,
    unsafe_load: bool = False,
    advice: str = "freeze another model",
) -> Source:
    """Opens the source of a model: a file, a checkpoint, a run or a SavedModel.

    Args:
      path: ``.keras``; ``.h5`` of Keras 3 or 2; ``step-*.ckpt`` in a run directory; a
        run directory; the directory of a SavedModel.
      which: Which model of a run directory: ``best`` or ``final``.
      epoch: In a run directory, the checkpoint after this epoch instead; 0 for none.
      outputs: Labels of the model's outputs in order, if their names do not tell.
      image_size: Side of the input in pixels, for a model that takes any size.
      unsafe_load: Run code that the file contains (Lambda layers).
      advice: What to do instead if the weights are not finite.

    Raises:
      UsageError: The path does not exist, is not a model, or the model does not fit.
      DataError: A checkpoint or config is damaged.
    """
    # A trailing slash would hide the directory's name.
    path = path.rstrip("/") or path
    if not files.exists(path):
        raise errors.UsageError(
            f"--model: {path} does not exist; name a .keras or .h5 file, a checkpoint,"
            " a SavedModel or a run directory"
        )
    name = os.path.splitext(os.path.basename(os.path.abspath(path)))[0]
    if os.path.isdir(path):
        if os.path.exists(os.path.join(path, "saved_model.pb")):
            return _open_saved_model(path, name, outputs, image_size)
        if not os.path.exists(os.path.join(path, run_dir.CONFIG_NAME)):
            raise errors.UsageError(
                f"{path} is neither a run directory (it has no {run_dir.CONFIG_NAME})"
                " nor a SavedModel (it has no saved_model.pb): name one of these, or a"
                " model file"
            )
        path = model_of_run(path, which, epoch)
    elif epoch:
        raise errors.UsageError(
            f"--epoch can only be used with a run directory, and {path} is a file:"
            " leave the flag out"
        )
    run = run_dir.config_of(path)
    model = _load_model_file(path, run, unsafe_load)
    source = from_model(
        model, outputs=outputs, image_size=image_size, origin=path, advice=advice
    )
    return dataclasses.replace(source, name=name, path=path, run=run)


def from_model(
    model: Any,
    *,
    outputs: Sequence[str] = (),
    image_size: int = 0,
    origin: str = "the model that was passed to freeze",
    advice: str = "freeze another model",
) -> Source:
    """Makes a source of a model object of Keras 3 or tf-keras.

    Args:
      model: Functional or Sequential: one image input, one or two outputs.
      outputs: As for `open_source`.
      image_size: As for `open_source`.
      origin: Where the model is from, for messages.
      advice: As for `open_source`.

    Raises:
      UsageError: Its input or outputs are not those of a face model.
      DataError: Its weights are not finite.
    """
    model_weights.check_finite(
        # tf-keras names a variable by `name`, Keras 3 by `path`.
        ((getattr(v, "path", v.name), np.asarray(v)) for v in model.variables),
        origin=origin,
        advice=advice,
    )
    known = facts.of(model)
    model = _model_in_float32(model)
    try:
        shape = model.input_shape
    except AttributeError as error:
        raise errors.UsageError(
            "the model is neither Functional nor Sequential, or was never built: its"
            " input and outputs cannot be known"
        ) from error
    size = _input_size(shape, image_size or known.network.get("image_size", 0))
    # A batch of one shows the names and shapes of the outputs.
    first = _outputs_by_name(model, model(tf.zeros([1, size, size, 3]), training=False))
    for name, value in first.items():
        if value.shape.num_elements() != 1:
            raise errors.UsageError(
                f"the model's output {name} has shape {tuple(value.shape)} for one"
                " image; one number is expected"
            )
    labels = labels_of_outputs(list(first), outputs, known.network.get("task", ""))
    logits = labels_of_logits(list(first), outputs)

    def call(images: tf.Tensor) -> dict[str, tf.Tensor]:
        """The outputs of the model by label, as those of a source."""
        values = _outputs_by_name(model, model(images, training=False)).values()
        return {
            label: _as_probability(value, label in logits)
            for label, value in zip(labels, values, strict=True)
        }

    return Source(
        call=call,
        predict=model.predict_on_batch,
        labels=tuple(label for label in _LABELS if label in labels),
        image_size=size,
        name=re.sub(r"\W+", "_", model.name),
        path="",
        layers=tuple(_layer_names(model)),
        input_range=input_range.range_of_layers(model),
        facts=known,
        run={},
        owner=model,
        parts=_outputs_with_logits(model, known)
        if isinstance(model, keras.Model)
        else None,
    )


def _outputs_with_logits(
    model: keras.Model, known: facts.Facts
) -> Callable[[tf.Tensor], dict[str, tf.Tensor]] | None:
    """A source's outputs with the logits behind them, for networks of this package."""
    names = {layer.name for layer in model.layers}
    # Layers of other programs may have these names, too, and mean something else.
    if not known.network or not names & {"age_logits", "gender_logits"}:
        return None
    from afad_tfdata.models import networks

    whole = networks.training_model(model)

    def parts(images: tf.Tensor) -> dict[str, tf.Tensor]:
        """The outputs and the logits of the network by name."""
        return {
            name.removesuffix("_output"): tf.cast(value, tf.float32)
            for name, value in whole(images, training=False).items()
        }

    return parts


def _load_model_file(path: str, run: Mapping[str, Any], unsafe: bool) -> Any:
    """The model in a source's file: of Keras 3, or of tf-keras if Keras 2 wrote it."""
    kind = os.path.splitext(path)[1].lower()
    if kind == ".ckpt":
        return _load_checkpoint(path, run)
    # The version is read first, because Keras 3 does not know all layers and options in
    # files of Keras 2.
    if kind in (".keras", ".h5", ".hdf5"):
        if model_files.keras_version(path) < 3:
            return keras2_files.load_model(path, unsafe=unsafe)
        return model_files.load(path, unsafe=unsafe)
    raise errors.UsageError(
        "--model takes a .keras or .h5 file, a step-*.ckpt, a SavedModel or a run"
        f" directory; got {path}"
    )


def _model_in_float32(model: Any) -> Any:
    """The source's model, or one built again in float32, as its graph must be."""
    if not keras2_files.HALF_POLICY.search(json.dumps(model.get_config(), default=str)):
        return model
    if isinstance(model, keras.Model):
        return model_weights.rebuild_float32(model)
    return keras2_files.in_float32(model)


def labels_of_outputs(
    names: Sequence[str], given: Sequence[str], task: str
) -> list[str]:
    """Which label each output of a model source has: by flag, names, or task.

    Args:
      names: Names of the model's outputs, in order.
      given: The flag ``--outputs``; empty to go by the names.
      task: The task that the model was built for; empty if it is unknown.

    Raises:
      UsageError: The labels cannot be told, or the flag does not fit.
    """
    if given:
        plain = {name.removesuffix(LOGITS) for name in given}
        if len(given) != len(names) or len(plain) != len(given):
            raise errors.UsageError(
                f"--outputs names {','.join(given)}, and the model has {len(names)}"
                f" outputs: {', '.join(names)}"
            )
        return [name.removesuffix(LOGITS) for name in given]
    labels = []
    for name in names:
        # Whole words only: "image" contains "age".
        words = re.split(r"[^a-z]+", name.lower())
        found = [label for label in _LABELS if label in words]
        labels.append(found[0] if len(found) == 1 else "")
    if len(names) == 1 and not labels[0] and len(schema.labels_of(task)) == 1:
        labels = list(schema.labels_of(task))
    if "" in labels or len(set(labels)) != len(labels):
        raise errors.UsageError(
            f"the model's outputs are named {', '.join(names)}: which is the age and"
            " which the gender? Say it in their order with --outputs=age,gender (or"
            " one of them), or name the layers age_output and gender_output"
        )
    return labels


def labels_of_logits(names: Sequence[str], given: Sequence[str]) -> tuple[str, ...]:
    """Labels of a model source's outputs that are logits: by the flag, or the names.

    Args:
      names: Names of the model's outputs, in order.
      given: The flag ``--outputs``; empty to go by the names.
    """
    if given:
        return ("gender",) if f"gender{LOGITS}" in given else ()
    for name in names:
        words = re.split(r"[^a-z]+", name.lower())
        if "gender" in words and {"logits", "logit"} & set(words):
            return ("gender",)
    return ()


def _as_probability(value: tf.Tensor, is_logits: bool) -> tf.Tensor:
    """An output of a model source in float32, and as a probability if it is logits."""
    value = tf.cast(value, tf.float32)
    return tf.sigmoid(value) if is_logits else value


def _outputs_by_name(model: Any, value: Any) -> dict[str, Any]:
    """The return value of a source's model, by the names of its outputs."""
    if isinstance(value, Mapping):
        return dict(value)
    parts = list(value) if isinstance(value, list | tuple) else [value]
    names = getattr(model, "output_names", None)
    if not names or len(names) != len(parts):  # Sequential has none.
        names = [layer.name for layer in model.layers[-len(parts) :]]
    return dict(zip(names, parts, strict=True))


def _input_size(shape: Any, image_size: int) -> int:
    """Side of the square images that the model of a source takes."""
    if (
        not isinstance(shape, tuple)
        or len(shape) != 4
        or shape[-1] != 3
        or isinstance(shape[0], list | tuple)  # Several inputs: a tuple of shapes.
    ):
        raise errors.UsageError(
            f"the model's input has shape {shape}; one of [n, size, size, 3] is"
            " expected"
        )
    if shape[0] is not None:
        raise errors.UsageError(
            f"the model takes batches of {shape[0]} only; build it without a batch size"
        )
    sides = {side for side in shape[1:3] if side is not None} or {image_size}
    if len(sides) != 1 or 0 in sides:
        raise errors.UsageError(
            f"the model's input has shape {shape}: a square of a known size is"
            " expected (--image_size gives it for a model that takes any size)"
        )
    (size,) = sides
    if image_size and size != image_size:
        raise errors.UsageError(
            f"--image_size={image_size} does not fit the model's input {shape}: leave"
            " the flag out"
        )
    return size


def _layer_names(model: Any) -> list[str]:
    """Names of the layers of a source's model, with those inside of other models."""
    names = []
    for layer in model.layers:
        names.append(layer.name)
        if getattr(layer, "layers", None):
            names += _layer_names(layer)
    return names


def model_of_run(directory: str, which: str, epoch: int) -> str:
    """The file of the model or checkpoint that a run directory is the source of.

    Args:
      directory: The run directory.
      which: ``best`` or ``final``.
      epoch: The epoch at whose end the checkpoint was saved; 0 for the model.

    Raises:
      UsageError: There is none.
    """
    if not epoch:
        name = run_dir.BEST_NAME if which == "best" else run_dir.FINAL_NAME
        path = os.path.join(directory, name)
        if not os.path.exists(path):
            raise errors.UsageError(
                f"{directory} does not contain {name} yet; name one of its checkpoints"
                " with --epoch, or let the training continue"
            )
        return path
    kept = os.path.join(directory, run_dir.CHECKPOINTS_NAME)
    ends = run_state.steps_of_epoch_ends(kept)
    if epoch not in ends:
        names = ", ".join(str(e) for e in sorted(ends)) or "none"
        raise errors.UsageError(
            f"--epoch={epoch}: the end of that epoch is not in {kept}, which has:"
            f" {names}"
        )
    return checkpoints.path_of(kept, ends[epoch])


def _load_checkpoint(path: str, run: Mapping[str, Any]) -> keras.Model:
    """The model in a checkpoint of a run that is the source."""
    from afad_tfdata.training import checkpoint_model

    model = checkpoint_model.load_model(path, run)
    if run.get("train", {}).get("ema_decay"):
        _log.warning(
            "%s: freezing its weights, not their moving average, which is in %s",
            path,
            run_dir.BEST_NAME,
        )
    return model


def _open_saved_model(
    path: str, name: str, outputs: Sequence[str], image_size: int
) -> Source:
    """Opens a SavedModel as a source, called by its signature."""
    module = untrusted_graphs.load_saved_model(path)
    signatures = dict(module.signatures)
    # Keras calls its own signature "serve".
    function = signatures.get("serving_default") or signatures.get("serve")
    if function is None:
        raise errors.UsageError(
            f"{path} has no signature serving_default; it has"
            f" {', '.join(signatures) or 'none'}"
        )
    specs = function.structured_input_signature[1]
    if len(specs) != 1:
        raise errors.UsageError(
            f"{path} takes {len(specs)} inputs ({', '.join(specs)}); one is expected"
        )
    ((feed, spec),) = specs.items()
    shape = None if spec.shape.rank is None else tuple(spec.shape.as_list())
    names = sorted(function.structured_outputs)  # A dict without an order of its own.
    labels = labels_of_outputs(names, outputs, "")
    logits = labels_of_logits(names, outputs)
    by_label = dict(zip(labels, names, strict=True))

    def call(images: tf.Tensor) -> dict[str, tf.Tensor]:
        """The outputs of the SavedModel's signature by label."""
        results = function(**{feed: tf.cast(images, spec.dtype)})
        return {
            label: _as_probability(results[name], label in logits)
            for label, name in by_label.items()
        }

    return Source(
        call=call,
        predict=None,
        labels=tuple(label for label in _LABELS if label in labels),
        image_size=_input_size(shape, image_size),
        name=name,
        path=path,
        layers=(),
        input_range=_range_of_signature(feed, spec),
        facts=facts.read_saved_model(path),
        run=run_dir.config_of(path),
        owner=module,
    )


def _range_of_signature(feed: str, spec: tf.TensorSpec) -> str:
    """The input range that a source's signature proves; empty if it proves none."""
    if spec.dtype.is_integer:
        return "pixels"
    return "normalized" if feed == "root_input" else ""
