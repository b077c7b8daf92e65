"""Backbones of keras-hub, such as ViT and DINO, from a preset.

A preset is a directory that keras-hub's ``save_to_preset`` wrote, with the network, its
weights and an image converter, or a name that keras-hub downloads::

    backbone = hub_backbones.build("keras_hub:presets/vit", 224)
    hub_backbones.load_weights(backbone, "keras_hub:presets/vit", 224)
    hub_backbones.image_converter("keras_hub:presets/vit")(pixels)   # what they expect

Only keras-hub's public names are used.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import socket
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from afad_tfdata.common import errors, files, lazy_imports
from afad_tfdata.common.lazy_imports import keras
from afad_tfdata.storage import hdf5

PREFIX = "keras_hub:"
MODULE = "keras_hub"
# The extra that installs it.  Metadata of packages spells extras with hyphens, and pip
# before 23.3 does not find one that is typed with an underscore.
EXTRA = "keras-hub"
# The value of ``ModelConfig.weights`` for the weights in the preset.
WEIGHTS = "preset"
_CONFIG_NAME = "config.json"
_CONVERTER_NAME = "image_converter.json"
# Seconds.  Without a limit, a machine behind a firewall would wait for ever.
_DOWNLOAD_TIMEOUT_SECS = 30.0
# Backbones whose first token stands for the whole image, although their configuration
# does not say so.
_WITH_CLASS_TOKEN = ("DINOV2", "DINOV3", "DeiT")


def is_preset(name: str) -> bool:
    """Whether a backbone's name names a preset of keras-hub."""
    return name.startswith(PREFIX)


def check_name(name: str) -> None:
    """Raises `UsageError` unless keras-hub is installed and knows such a preset."""
    preset = _preset_of(name)
    if not preset:
        raise errors.UsageError(
            f"--backbone={name} names no preset: add the directory that keras-hub's"
            f" save_to_preset wrote, such as {PREFIX}presets/vit"
        )
    hub = _keras_hub(name)
    if os.path.isdir(preset):
        if not os.path.exists(os.path.join(preset, _CONFIG_NAME)):
            raise errors.UsageError(
                f"--backbone={name}: {preset} has no {_CONFIG_NAME}, so it is not a"
                " preset: name the directory that keras-hub's save_to_preset wrote"
            )
        return
    known = hub.models.Backbone.presets
    if preset in known or "://" in preset:
        return
    close = difflib.get_close_matches(preset, known, n=3, cutoff=0.5)
    nearest = f"; nearest: {', '.join(close)}" if close else ""
    raise errors.UsageError(
        f"--backbone={name}: {preset} is neither a directory here nor the name of a"
        f" preset of keras-hub{nearest}"
    )


def build(name: str, size: int) -> keras.Model:
    """Builds the backbone of a preset of keras-hub, with random weights.

    Args:
      name: `PREFIX` and the preset.
      size: Side of the image in pixels.

    Returns:
      A model from one image to a feature map ``[n, h, w, channels]`` or to tokens
      ``[n, tokens, channels]``.

    Raises:
      UsageError: keras-hub or the preset is missing, or the network takes no image of
        this size.
    """
    backbone = _backbone_of_preset(name, load_weights=False)
    _check_ends(backbone, name)
    sides = _image_sides(backbone)
    if sides is None or sides == (size, size):
        return backbone
    try:
        backbone = _backbone_of_preset(
            name, load_weights=False, image_shape=(size, size, 3)
        )
    except errors.UsageError as error:
        raise errors.UsageError(
            f"--image_size={size}: --backbone={name} takes images of"
            f" {sides[0]} pixels, and cannot be built for {size}"
            f" ({errors.one_line(error.__cause__)}): take --image_size={sides[0]}"
        ) from error
    return backbone


def load_weights(backbone: keras.Model, name: str, size: int) -> None:
    """Puts the weights of a preset of keras-hub into a backbone.

    Args:
      backbone: From `build`.
      name: As for `build`.
      size: As for `build`.

    Raises:
      UsageError: The preset has no weights, or they do not fit the size.
    """
    own = _image_sides(_backbone_of_preset(name, load_weights=False))
    shape = {} if own in (None, (size, size)) else {"image_shape": (size, size, 3)}
    try:
        donor = _backbone_of_preset(name, load_weights=True, **shape)
    except errors.UsageError as error:
        if not shape:
            raise
        raise errors.UsageError(
            f"--image_size={size}: the weights of --backbone={name} are for"
            f" {own[0] if own else '?'} pixels, and do not fit"
            f" ({errors.one_line(error.__cause__)}): take"
            f" --image_size={own[0] if own else '?'}, or --weights=none"
        ) from error
    backbone.set_weights(donor.get_weights())


def image_converter(name: str) -> Callable[[np.ndarray], np.ndarray]:
    """What turns pixels into what the weights of a preset of keras-hub expect.

    Args:
      name: As for `build`.

    Raises:
      UsageError: The preset does not say it.
    """
    hub, preset = _keras_hub(name), _preset_of(name)
    try:
        with _limited_downloads():
            layer = hub.layers.ImageConverter.from_preset(preset, dtype="float32")
    except Exception as error:  # keras-hub raises many kinds.
        raise errors.UsageError(
            f"--backbone={name}: nothing says what its weights expect, because the"
            f" preset has no usable {_CONVERTER_NAME} ({errors.one_line(error)}): save"
            " the image converter into it with save_to_preset, too, or take"
            " --normalization=original if they expect (x - mean) / 127.5"
        ) from error
    # Images have the network's size already.
    layer.image_size = None
    return lambda pixels: np.asarray(layer(pixels.astype(np.float32)))


def preset_facts(backbone: keras.Model, name: str) -> dict[str, Any]:
    """What a backbone of keras-hub is: its ``class``, and its preset's digest.

    Args:
      backbone: From `build`.
      name: As for `build`.
    """
    path = os.path.join(_preset_of(name), _CONFIG_NAME)
    digest = files.sha256(path) if os.path.isfile(path) else None
    return {"class": type(backbone).__name__, "config_sha256": digest}


def usual_pooling(backbone: keras.Model) -> str:
    """The usual pooling of a backbone's features in keras-hub's own classifiers."""
    if len(backbone.output.shape) == 3 and _has_class_token(backbone):
        return "token"
    return "avg"


def layers_with_blocks(backbone: keras.Model) -> list[keras.layers.Layer]:
    """The layers of a backbone of keras-hub from the bottom, with an encoder's blocks.

    Keras sees a transformer as three layers: the input, the embedding and the encoder.
    Here each layer that contains others is replaced by these.
    """
    found: list[keras.layers.Layer] = []
    for layer in backbone.layers:
        inner = _inner_layers(layer)
        found += inner or [layer]
    return found


def freeze_bottom(backbone: keras.Model, count: int) -> None:
    """Lets all but the bottom layers of a backbone of keras-hub train.

    Args:
      backbone: All its layers are trainable.
      count: How many do not train, from the bottom.
    """
    frozen = {id(unit) for unit in layers_with_blocks(backbone)[:count]}
    for layer in backbone.layers:
        inner = _inner_layers(layer)
        if not inner:
            if id(layer) in frozen:
                layer.trainable = False
            continue
        if all(id(part) in frozen for part in inner):
            layer.trainable = False
            continue
        # An earlier stage may have frozen variables that belong to no part.  Keras sets
        # their flags only when the flag of the layer changes.
        layer.trainable = False
        layer.trainable = True
        # Of a layer that is not trainable, Keras counts no part as trainable.
        inside = {id(v) for part in inner for v in part.variables}
        for part in inner:
            if id(part) in frozen:
                part.trainable = False
        if any(id(part) in frozen for part in inner):
            for variable in layer.trainable_variables:
                if id(variable) not in inside:  # Such as the class token.
                    variable.trainable = False


def _inner_layers(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The layers in a layer of a keras-hub backbone, such as an encoder's blocks."""
    # This method is private in Keras, but the only way to the layers in a layer.
    return list(layer._flatten_layers(include_self=False, recursive=False))


def _preset_of(name: str) -> str:
    """The preset in a backbone's name: a directory, or a name of keras-hub."""
    return name.removeprefix(PREFIX)


def _keras_hub(name: str) -> types.ModuleType:
    """The module keras_hub, or an error that says how to install it."""
    return lazy_imports.import_optional(
        MODULE, extra=EXTRA, purpose=f"--backbone={name}"
    )


def _backbone_of_preset(
    name: str, *, load_weights: bool, **changes: Any
) -> keras.Model:
    """The backbone of a preset, as keras-hub builds it.

    Args:
      name: `PREFIX` and the preset.
      load_weights: Whether it gets the weights of the preset, or random ones.
      **changes: Replace arguments in the preset's config.
    """
    hub, preset = _keras_hub(name), _preset_of(name)
    if os.path.isdir(preset):
        _refuse_outside(preset, name)
    try:
        with _limited_downloads(), warnings.catch_warnings():
            # Keras only warns if a file lacks weights of a layer.
            warnings.filterwarnings("error", message=".*could not be loaded")
            return hub.models.Backbone.from_preset(
                preset,
                load_weights=load_weights,
                # The preset may have been saved under another policy.
                dtype=keras.config.dtype_policy().name,
                **changes,
            )
    except Exception as error:  # keras-hub raises many kinds.
        if os.path.isdir(preset):
            advice = "write it again with keras-hub's save_to_preset"
        else:
            advice = (
                "without a network, write it into a directory elsewhere with"
                f" save_to_preset, copy that here, and take {PREFIX}DIRECTORY"
            )
        raise errors.UsageError(
            f"--backbone={name}: keras-hub cannot load"
            f" {'the weights of ' if load_weights else ''}this preset"
            f" ({errors.one_line(error)}): {advice}"
        ) from error


def _refuse_outside(preset: str, name: str) -> None:
    """Refuses a preset of keras-hub with links to other files of this machine."""
    import h5py

    for found in sorted(os.listdir(preset)):
        if not found.endswith(".h5"):
            continue
        path = os.path.join(preset, found)
        try:
            with h5py.File(path, "r") as file:
                hdf5.refuse_outside(file, path)
        # h5py raises the last two for files that are damaged further inside.
        except (OSError, RuntimeError, KeyError) as error:
            raise errors.UsageError(
                f"--backbone={name}: {path} is not HDF5 ({errors.one_line(error)}):"
                " copy the preset again"
            ) from error


def _check_ends(backbone: keras.Model, name: str) -> None:
    """Raises `UsageError` unless a keras-hub backbone maps one image to features."""
    kind = type(backbone).__name__
    # Several inputs are a dict or a list of shapes.
    shape = backbone.input_shape
    if not (isinstance(shape, tuple) and len(shape) == 4 and shape[-1] == 3):
        raise errors.UsageError(
            f"--backbone={name} is a {kind} with the input {shape}: name a preset that"
            " takes images [n, height, width, 3] only"
        )
    shape = backbone.output_shape
    if not (isinstance(shape, tuple) and len(shape) in (3, 4)):
        raise errors.UsageError(
            f"--backbone={name} is a {kind} with the output {shape}: name a preset that"
            " returns one feature map or tokens"
        )


def _image_sides(backbone: keras.Model) -> tuple[int, int] | None:
    """Height and width of the images that a keras-hub backbone takes; None if any."""
    height, width = backbone.input_shape[1:3]
    return None if height is None or width is None else (height, width)


def _has_class_token(backbone: keras.Model) -> bool:
    """Whether the first token of a keras-hub backbone stands for the whole image."""
    # Of all backbones, only ViT's configuration says it.
    own = getattr(backbone, "use_class_token", None)
    return type(backbone).__name__.startswith(_WITH_CLASS_TOKEN) if own is None else own


@contextlib.contextmanager
def _limited_downloads() -> Iterator[None]:
    """Within it, a download of a keras-hub preset without an answer fails in time."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_DOWNLOAD_TIMEOUT_SECS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
