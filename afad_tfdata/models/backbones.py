"""Backbones: those of ``keras.applications``, two small ones, and those of keras-hub.

A backbone is a Keras model from an image to a feature map, without its classifier.  Its
weights expect a range and an order of the channels, such as BGR in [0, 255] or RGB in
[-1, 1].  This module finds out which by calling Keras' own ``preprocess_input``, or the
image converter of a preset of keras-hub (`hub_backbones`), and builds an affine map
from ``root_input`` to these values.
"""

from __future__ import annotations

import difflib
import inspect
import os
import re
import socket
import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from afad_tfdata.common import errors
from afad_tfdata.common.lazy_imports import keras
from afad_tfdata.images import tensor_preprocessing
from afad_tfdata.models import hub_backbones, keras2_files, model_files
from afad_tfdata.storage import hdf5

# Channels of the convolution of each block.  The first block has stride 2.  The blocks
# between the first and the last end in max pooling; with two halvings, so does the
# first.
_SMALL_CHANNELS = (24, 32, 64, 96, 128)
SMALL = ("small_cnn", "small_cnn_no_bn")
# Pixels: from this size, one stride and three poolings leave a map of 1 x 1.  A second
# halving in the first block needs twice the size.
_MIN_SMALL_SIZE = 16

_GROUP_SIZE = 8  # Channels in a group of `small_cnn_no_bn`; divides all of the above.

# EfficientNetB0 to B7 divide by 255 and then normalise inside the network, with
# variables.  With ``weights="imagenet"`` they normalise differently than with the same
# weights from a file.  Here that layer becomes an identity, and the map after
# ``root_input`` normalises instead.
_EFFICIENTNET = re.compile(r"EfficientNetB\d$")
# What their weights were trained with: channels of ImageNet in [0, 1], as in Keras'
# ``preprocess_input`` in its mode "torch".
_TORCH_MEAN = np.array([0.485, 0.456, 0.406])
_TORCH_STD = np.array([0.229, 0.224, 0.225])

# File names of Keras' downloads, where they differ from the name in the address.
_CACHE_NAMES = {
    "NASNet-mobile-no-top.h5": "nasnet_mobile_no_top.h5",
    "NASNet-large-no-top.h5": "nasnet_large_no_top.h5",
}
# Seconds.  Without a limit, a machine behind a firewall would wait for ever.
_DOWNLOAD_TIMEOUT_SECS = 30.0


class Conversion(NamedTuple):
    """The affine map from ``root_input`` to a backbone's input.

    Attributes:
      scale: Factors of the three channels, in the order of the output.
      offset: Added after the multiplication.
      reverse: Whether RGB becomes BGR first.
    """

    scale: tuple[float, float, float] = (1.0, 1.0, 1.0)
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)
    reverse: bool = False


def names() -> list[str]:
    """Names of the backbones that `build` takes, without the presets of keras-hub."""
    applications = [
        name
        for name in dir(keras.applications)
        if name[0].isupper() and callable(getattr(keras.applications, name))
    ]
    return [*sorted(applications), *SMALL]


def check_name(name: str) -> None:
    """Raises `UsageError` unless the name is exactly that of a backbone."""
    if hub_backbones.is_preset(name):
        hub_backbones.check_name(name)
        return
    known = names()
    if name in known:
        return
    lower = {k.lower(): k for k in known}
    close = difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.5)
    nearest = ", ".join(lower[c] for c in close) or ", ".join(SMALL)
    raise errors.UsageError(
        f"--backbone={name} is not a network of keras.applications nor one of"
        f" {', '.join(SMALL)}, nor {hub_backbones.PREFIX}PRESET; nearest: {nearest}"
    )


def build(
    name: str, size: int, *, raw_input: bool, stem_halvings: int = 1
) -> keras.Model:
    """Builds a backbone with random weights.

    Args:
      name: One of `names()`, or a preset of keras-hub.
      size: Side of the image in pixels.
      raw_input: Whether the network keeps its own preprocessing layers, if it has any.
      stem_halvings: How often the first block of a small network halves the image, 1
        or 2.

    Returns:
      A model from float32 ``[n, size, size, 3]`` to ``[n, h, w, channels]``; some of
      keras-hub return tokens ``[n, tokens, channels]``.

    Raises:
      UsageError: The name is unknown, or the image is too small for the network.
    """
    check_name(name)
    if name in SMALL:
        smallest = _MIN_SMALL_SIZE * stem_halvings
        if size < smallest:
            raise errors.UsageError(
                f"--image_size={size}: --backbone={name} needs at least"
                f" {smallest} pixels"
            )
        return _small_backbone(name, size, stem_halvings)
    if hub_backbones.is_preset(name):
        return hub_backbones.build(name, size)
    constructor = getattr(keras.applications, name)
    kwargs = {}
    if not raw_input and _constructor_has_option(constructor, "include_preprocessing"):
        kwargs["include_preprocessing"] = False
    try:
        backbone = constructor(
            include_top=False, weights=None, input_shape=(size, size, 3), **kwargs
        )
    except ValueError as error:
        # The only thing that Keras can refuse here is an image that is too small.
        # Networks without a stated limit fail at the first empty feature map.
        least = re.search(r"at least (\d+)", str(error))
        wanted = f"{least[1]} pixels" if least else "more pixels"
        raise errors.UsageError(
            f"--image_size={size}: --backbone={name} needs at least {wanted}"
            f" ({errors.one_line(error)})"
        ) from error
    if _EFFICIENTNET.match(name):
        _neutralise_normalization(backbone)
    return backbone


def input_conversion(
    name: str, normalization: str, mean: tuple[float, ...] | None
) -> Conversion:
    """The map from ``root_input`` to a backbone's input.

    Args:
      name: As for `build`.
      normalization: ``original`` gives the backbone ``(x - mean) / 127.5``,
        ``backbone`` what its pre-trained weights were trained with.
      mean: RGB in [0, 255], as in ``root_input``; needed for ``backbone``.
    """
    inside = 255.0 if _EFFICIENTNET.match(name) else 1.0
    if normalization == "original":
        return Conversion(scale=(inside,) * 3)
    if mean is None:
        raise errors.UsageError(
            "--normalization=backbone needs the channel means of root_input: pass"
            " mean=(R, G, B) as in mean.json"
        )
    if _EFFICIENTNET.match(name):
        matrix = np.diag(1 / 255 / _TORCH_STD)
        constant = -_TORCH_MEAN / _TORCH_STD
    else:
        matrix, constant = _preprocessing(name)
    reverse = bool(matrix[0, 0] == 0)
    scale = matrix.sum(axis=1)  # Each row has one entry.
    seen = np.asarray(mean, np.float64)[:: -1 if reverse else 1]
    return Conversion(
        scale=_channel_floats(tensor_preprocessing.DIVISOR * scale * inside),
        offset=_channel_floats((scale * seen + constant) * inside),
        reverse=reverse,
    )


def load_imagenet(backbone: keras.Model, name: str) -> None:
    """Puts ImageNet weights into a backbone, and downloads them if necessary.

    Args:
      backbone: From `build`.
      name: Its name.

    Raises:
      UsageError: The weights are not in Keras' cache and cannot be downloaded; the
        text says which file to copy where.
    """
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_DOWNLOAD_TIMEOUT_SECS)
    try:
        # Built at Keras' own size, because some networks refuse ImageNet weights at
        # other sizes.
        donor = getattr(keras.applications, name)(include_top=False, weights="imagenet")
    except Exception as error:  # Keras raises a bare Exception for a failed download.
        raise errors.UsageError(_download_advice(name, error)) from error
    finally:
        socket.setdefaulttimeout(before)
    backbone.set_weights(donor.get_weights())
    if _EFFICIENTNET.match(name):
        _neutralise_normalization(backbone)


def load_file(backbone: keras.Model, name: str, path: str) -> None:
    """Puts the weights of a file into a backbone.

    Args:
      backbone: From `build`.
      name: Its name, for messages.
      path: ``.h5`` or ``.weights.h5`` of a network without its classifier (as in files
        whose names end in ``notop.h5``), or a model (``.keras``, ``.h5``) that is,
        contains or begins with this backbone.

    Raises:
      UsageError: There is no such file, or its content does not fit.
    """
    if not os.path.isfile(path):
        raise errors.UsageError(
            f"--weights={path}: there is no such file (imagenet, none, or a path to"
            " .h5, .weights.h5 or .keras)"
        )
    is_model = path.endswith(".keras") or _is_whole_model(path)
    if not path.endswith(".keras") and keras2_files.copy_backbone(path, backbone):
        pass  # A flat model, as the original project saved it, or its weights.
    elif is_model:
        _copy_from_model(backbone, name, path, model_files.load(path))
    else:
        # If a file lacks some weights, Keras only warns and skips them.  They are
        # therefore set to NaN first, which shows afterwards.
        unset = [np.full_like(w, np.nan) for w in backbone.get_weights()]
        try:
            backbone.set_weights(unset)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                backbone.load_weights(path)
            missing = sum(np.isnan(w).any() for w in backbone.get_weights())
            if missing:
                raise ValueError(f"{missing} of {len(unset)} weights are not in it")
        except Exception as error:  # h5py and Keras raise many kinds.
            raise errors.UsageError(
                f"--weights={path} does not fit {name} without its classifier: name"
                " the file whose name ends in notop.h5, or a .keras with this"
                f" backbone ({errors.one_line(error)})"
            ) from error
    if _EFFICIENTNET.match(name):
        _neutralise_normalization(backbone)


def _small_backbone(name: str, size: int, stem_halvings: int) -> keras.Model:
    """Builds a small backbone: five convolutions with 0.2 million weights.

    Group normalisation (Wu and He, ECCV 2018) looks at one example at a time, so that
    the results of a batch do not change when it is divided over replicas.
    """
    image = keras.Input((size, size, 3), name="image")
    x = image
    for i, channels in enumerate(_SMALL_CHANNELS, 1):
        x = keras.layers.Conv2D(
            channels,
            3,
            strides=2 if i == 1 else 1,
            padding="same",
            use_bias=False,
            kernel_initializer="he_normal",
            name=f"block{i}_conv",
        )(x)
        if name == "small_cnn":
            # With Keras' default of 0.99, the initial statistics still matter after
            # hundreds of steps, which is too long for a few epochs on a small data set.
            x = keras.layers.BatchNormalization(momentum=0.9, name=f"block{i}_bn")(x)
        else:
            x = keras.layers.GroupNormalization(
                channels // _GROUP_SIZE, name=f"block{i}_gn"
            )(x)
        x = keras.layers.ReLU(name=f"block{i}_relu")(x)
        if i < len(_SMALL_CHANNELS) and i + stem_halvings > 2:
            x = keras.layers.MaxPooling2D(2, name=f"block{i}_pool")(x)
    return keras.Model(image, x, name=name)


def _preprocessing(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Matrix ``[3, 3]`` and constant ``[3]`` of what a backbone's weights expect."""
    if hub_backbones.is_preset(name):
        found = _affine_map_of(hub_backbones.image_converter(name))
        if found is None:
            raise errors.UsageError(
                f"--backbone={name}: the preset's image converter does not just"
                " multiply each channel by a factor and add a number, so that no layer"
                " of this network can repeat it; take another preset, or"
                " --normalization=original"
            )
        return found
    if _constructor_has_option(
        getattr(keras.applications, name), "include_preprocessing"
    ):
        return np.eye(3), np.zeros(3)  # The network preprocesses inside.
    for module in vars(keras.applications).values():
        # Each module of keras.applications contains networks and their preprocessing.
        if inspect.ismodule(module) and hasattr(module, name):
            found = _affine_map_of(module.preprocess_input)
            if found is not None:
                return found
    raise errors.UsageError(
        f"--normalization=backbone: this Keras does not say what {name} expects; take"
        " --normalization=original"
    )


def _affine_map_of(
    function: Callable[[np.ndarray], np.ndarray],
) -> tuple[np.ndarray, np.ndarray] | None:
    """Matrix and constant of a backbone's preprocessing; None if it has others."""
    # Black and the three pure colours determine an affine map; the others, and that the
    # size stays the same, show whether it is one.
    others = np.array([[255.0, 255.0, 255.0], [200.0, 100.0, 30.0]])
    pixels = np.concatenate([np.zeros((1, 3)), 255 * np.eye(3), others])
    out = np.asarray(function(pixels[np.newaxis, np.newaxis].copy()), np.float64)
    if out.shape != (1, 1, *pixels.shape):
        return None
    out = out[0, 0]
    matrix = ((out[1:4] - out[0]) / 255).T
    # Rounding in float32 leaves a little of the other channels.
    matrix[np.abs(matrix) < 1e-6 * np.abs(matrix).max()] = 0
    order = np.abs(matrix).argmax(axis=1).tolist()
    # `Conversion` can express only one factor for each channel, in the order RGB or
    # BGR.
    if np.count_nonzero(matrix) != 3 or order not in ([0, 1, 2], [2, 1, 0]):
        return None
    if not np.allclose(pixels @ matrix.T + out[0], out, rtol=1e-4, atol=1e-4):
        return None
    return matrix, out[0]


def _neutralise_normalization(backbone: keras.Model) -> None:
    """Turns the normalisation inside an EfficientNet backbone into an identity.

    Raises:
      UsageError: The network does not begin as `input_conversion` assumes.
    """
    divisions, normalizations = (
        [layer for layer in backbone.layers if isinstance(layer, kind)]
        for kind in (keras.layers.Rescaling, keras.layers.Normalization)
    )
    if [layer.scale for layer in divisions] != [1 / 255] or len(normalizations) != 1:
        raise errors.UsageError(
            f"Keras {keras.__version__} builds {backbone.name} with another"
            " normalisation inside than this package knows: take another --backbone,"
            " or install an earlier Keras"
        )
    mean, variance, count = normalizations[0].get_weights()
    normalizations[0].set_weights([0 * mean, 1 + 0 * variance, 0 * count])
    # The layer computes with copies of its weights; this updates the copies.
    normalizations[0].finalize_state()


def _copy_from_model(
    backbone: keras.Model, name: str, path: str, source: keras.Model
) -> None:
    """Copies weights to a backbone from the one inside of another model."""
    wanted = [tuple(w.shape) for w in backbone.weights]
    candidates = [layer for layer in source.layers if isinstance(layer, keras.Model)]
    for candidate in (*candidates, source):
        if [tuple(w.shape) for w in candidate.weights] == wanted:
            backbone.set_weights(candidate.get_weights())
            return
    raise errors.UsageError(
        f"--weights={path} is a model without a part that has the {len(wanted)} weights"
        f" of {name} without its classifier"
    )


def _is_whole_model(path: str) -> bool:
    """Whether an HDF5 file for a backbone contains a whole model, not only weights."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            hdf5.refuse_outside(file, f"--weights={path}")
            return "model_config" in file.attrs
    # h5py raises the last two for files that are damaged further inside.
    except (OSError, RuntimeError, KeyError) as error:
        raise errors.UsageError(
            f"--weights={path} is neither HDF5 nor a .keras file"
            f" ({errors.one_line(error)})"
        ) from error


def _download_advice(name: str, error: Exception) -> str:
    """What to do if the weights of a backbone cannot be downloaded."""
    home = os.environ.get("KERAS_HOME") or os.path.join("~", ".keras")
    directory = os.path.join(os.path.expanduser(home), "models")
    found = re.search(r"https?://\S+?\.h5", str(error))
    if found is None:
        return (
            f"--weights=imagenet: the weights of {name} could not be loaded"
            f" ({errors.one_line(error)}); remove a damaged file from {directory}, or"
            " take --weights=FILE or --weights=none"
        )
    address = found[0]
    base = address.rsplit("/", 1)[1]
    place = os.path.join(directory, _CACHE_NAMES.get(base, base))
    return (
        f"--weights=imagenet: {name} is not among the weights here and could not be"
        f" downloaded; copy {address} to {place} (or name it: --weights=FILE), or"
        " train from random weights with --weights=none"
    )


def _constructor_has_option(constructor: Callable[..., keras.Model], name: str) -> bool:
    """Whether the constructor of a backbone has an option."""
    return name in inspect.signature(constructor).parameters


def _channel_floats(values: np.ndarray) -> tuple[float, float, float]:
    """Three channel values of a backbone's input as floats."""
    r, g, b = (float(v) for v in values)
    return r, g, b


def backbone_of(model: keras.Model) -> keras.Model | None:
    """The backbone of a model of this package: the only model inside it, or None."""
    nested = [layer for layer in model.layers if isinstance(layer, keras.Model)]
    return nested[0] if len(nested) == 1 else None
