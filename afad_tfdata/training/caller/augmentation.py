"""A caller's augmentation as the step calls it, tried once before anything trains.

Images that are in [0, 1] already would be normalised once more, without an error.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from afad_tfdata.common import errors
from afad_tfdata.common.lazy_imports import keras, tf
from afad_tfdata.training.caller import autograph

# Images must span at least this many levels, which images in [0, 1] or [-2, 2] do not.
_SPAN = 16.0
# No change of brightness or contrast leads to levels as far from 0 as this.
_FAR_LEVEL = 1000.0


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
        return autograph.converted(augment)
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
    if (
        len(needed) > 1
        or (not places and not by_place)
        or _takes_images_by_keyword(places)
    ):
        raise errors.UsageError(
            f"{wanted}, of which it may leave out the last three; this one takes"
            f" ({', '.join(p.name for p in parameters)})"
        )

    converted = autograph.converted(augment)

    def called(images: Any, **given: Any) -> Any:
        """Calls it with the keywords that it takes."""
        return converted(images, **{name: given[name] for name in taken})

    return called


def check_augmentation(augment: Callable[..., Any], images: np.ndarray) -> None:
    """Calls a caller's augmentation once, and refuses what the step cannot use.

    Args:
      augment: From `own_augmentation`.
      images: ``[n, H, W, 3]`` in [0, 255].

    Raises:
      UsageError: It fails, or returns other images than the step needs.
    """
    number = tf.constant(0, tf.int64)

    # The call is traced as in training, where NumPy and OpenCV cannot be used.
    @tf.function(autograph=False)
    def once(values: tf.Tensor) -> Any:
        """One call of the augmentation, as in training."""
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


def _augmentation_error(low: float, high: float, advice: str) -> errors.UsageError:
    """The error of a caller's augmentation that returns other levels."""
    return errors.UsageError(
        f"augment returned levels in [{low:.4g}, {high:.4g}]; wanted [0, 255], which"
        f" train normalises by itself: {advice}"
    )


def _takes_images_by_keyword(places: list[inspect.Parameter]) -> bool:
    """Whether a caller's augmentation takes the images by keyword only."""
    return bool(places) and places[0].kind is inspect.Parameter.KEYWORD_ONLY
