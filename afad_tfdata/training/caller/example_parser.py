"""The elements of a caller's data set: where image and labels are, and their values.

Shapes and dtypes are checked before anything is read, and values in the first batch.
Each later batch is checked again when it is read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from afad_tfdata.common import errors
from afad_tfdata.common.lazy_imports import tf
from afad_tfdata.storage import schema

# Marks the text of our own assertions inside TensorFlow's longer messages.
MARK, END = "afad_tfdata: ", " (end)"
_HIGHEST_LEVEL = 255.0
# Rounding and interpolation may leave [0, 255] by this many levels.
_LEVEL_SLACK = 1.0
# The highest level of images in [0, 1], with the same kind of slack.
_UNIT = 1.01
_HIGHEST_AGE = 150.0


@dataclasses.dataclass(frozen=True)
class WantedExamples:
    """What the examples of a data set must be.

    Attributes:
      task: Decides which labels are needed.
      batch_size: Number of examples in the global batch.
      sides: Height and width in pixels that the model takes; None if it takes any.
      ages: First and last age that the age head knows, in years; None for no limits.
      all_labels: Whether to keep also labels that the task does not need, because the
        caller's loss may use them.
      seed: Seed of the order in which arrays are read.
    """

    task: str
    batch_size: int
    sides: tuple[int | None, int | None] = (None, None)
    ages: tuple[int, int] | None = None
    all_labels: bool = False
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class FirstBatch:
    """The first batch, as the caller's data set gives it.

    Attributes:
      images: ``[n, H, W, 3]``.
      labels: ``age`` and/or ``gender``, ``[n]`` or ``[n, 1]``, and with `all_labels`
        any others.
    """

    images: np.ndarray
    labels: dict[str, np.ndarray]


class ExampleParser:
    """Finds image and labels in the elements of a data set, and converts them."""

    def __init__(
        self, spec: Any, name: str, wanted: WantedExamples, *, training: bool
    ) -> None:
        self._name, self.wanted, self._training = name, wanted, training
        features, labels = self._pair(spec)
        self._image_key, self._has_mask = self._find_image(features)
        self._label_keys = self._find_labels(labels)
        if self._has_mask:
            self._check_mask(features["mask"])
        image = self._image(features)
        for part, value in {"image": image, **self._named(labels)}.items():
            if not isinstance(value, tf.TensorSpec):
                raise errors.UsageError(
                    f"{name}: the {part} is a {type(value).__name__}, and a plain"
                    " tensor is wanted: convert it with .map()"
                )
        self.static_batch = self._check_static(image)
        self._check_label_specs(labels)

    # Finding the parts of an element.

    def _pair(self, spec: Any) -> tuple[Any, Any]:
        """Images and labels of an element."""
        if isinstance(spec, list | tuple) and len(spec) == 2:
            return spec[0], spec[1]
        wanted = f"{self._name} takes pairs (images, labels)"
        if isinstance(spec, list | tuple) and len(spec) == 3:
            raise errors.UsageError(
                f"{wanted}; got (images, labels, weights): weights do not act here;"
                " multiply a loss of your own by them, and mark padding in"
                ' features["mask"]'
            )
        if isinstance(spec, dict):
            raise errors.UsageError(
                f"{wanted}; got one dict with {_quoted_names(spec)}: map it to"
                ' ({"image": ...}, {"age": ..., "gender": ...})'
            )
        raise errors.UsageError(f"{wanted}; got elements {_spec_text(spec)}")

    def _find_image(self, features: Any) -> tuple[str | None, bool]:
        """Finds the images among the features of an element."""
        if not isinstance(features, Mapping):
            if isinstance(features, list | tuple):
                raise errors.UsageError(
                    f"{self._name}: features are one image tensor or a dict with the"
                    f' key "image"; got {len(features)} parts'
                )
            return None, False
        has_mask = "mask" in features
        if has_mask and self._training:
            raise errors.UsageError(
                f'{self._name} has features["mask"], which marks padding in'
                " validation; training would train on the padding: leave it out"
            )
        rest = [key for key in features if key != "mask"]
        if "image" in rest:
            return "image", has_mask
        if len(rest) == 1:
            return rest[0], has_mask
        raise errors.UsageError(
            f'{self._name}: features have no key "image"; got {_quoted_names(features)}'
        )

    def _check_mask(self, spec: Any) -> None:
        """Refuses a mask that is not one value for each example."""
        if isinstance(spec, tf.TensorSpec) and spec.shape.rank:
            others = spec.shape.as_list()[1:]
            if spec.dtype != tf.string and all(size in (1, None) for size in others):
                return
        raise errors.UsageError(
            f'{self._name}: features["mask"] is {_spec_text(spec)}; wanted bool [B],'
            " False on padding"
        )

    def _find_labels(self, labels: Any) -> dict[str, Any]:
        """Finds age and gender among the labels of an element."""
        needed = schema.labels_of(self.wanted.task)
        if not isinstance(labels, Mapping):
            if isinstance(labels, list | tuple) or len(needed) > 1:
                raise errors.UsageError(
                    f"{self._name}: labels of --task={self.wanted.task} are a dict with"
                    f" {_quoted_names(needed)}; got {_spec_text(labels)}, which does"
                    " not say which is which"
                )
            return {needed[0]: None}
        keys: dict[str, Any] = {}
        for name in ("age", "gender"):
            for key in (name, f"{name}_output"):
                if key in labels and (name in needed or self.wanted.all_labels):
                    keys.setdefault(name, key)
        for name in needed:
            if name not in keys:
                raise errors.UsageError(
                    f'{self._name}: labels have no key "{name}", which'
                    f" --task={self.wanted.task} needs; got {_quoted_names(labels)}"
                )
        if self.wanted.all_labels:
            taken = {"age_output", "gender_output"}
            keys.update({k: k for k in labels if k not in keys and k not in taken})
        return keys

    def _image(self, features: Any) -> Any:
        """The images among the features of an element."""
        return features if self._image_key is None else features[self._image_key]

    def _named(self, labels: Any) -> dict[str, Any]:
        """The labels of an element, by our names."""
        return {
            name: labels if key is None else labels[key]
            for name, key in self._label_keys.items()
        }

    # Checks before anything is read.

    def _check_static(self, image: tf.TensorSpec) -> int | None:
        """Checks dtype and shape of the images, as far as they are known."""
        if image.dtype == tf.string:
            raise errors.UsageError(
                f"{self._name}: images are strings; decode them to uint8 [B, H, W, 3]"
            )
        if not (image.dtype.is_floating or image.dtype.is_integer):
            raise errors.UsageError(
                f"{self._name}: images are {image.dtype.name}; wanted uint8 or float32"
                " in [0, 255]"
            )
        if image.shape.rank is None:
            return None
        self._check_image_shape(image.shape.as_list())
        return image.shape[0]

    def _check_image_shape(self, shape: Sequence[int | None]) -> None:
        """Refuses images of another shape than the model takes."""
        shown = "[" + ", ".join("?" if d is None else str(d) for d in shape) + "]"
        high, wide = (s or "H" for s in self.wanted.sides)
        high, wide = (high, "W") if high == "H" else (high, wide)
        wanted = f"[B, {high}, {wide}, 3]"
        if len(shape) == 3:
            size = self.wanted.batch_size
            raise errors.UsageError(
                f"{self._name}: an element has one image {shown}, and batches {wanted}"
                f" are wanted: add .batch({size})"
            )
        fits = len(shape) == 4 and shape[3] in (3, None)
        if fits:
            for found, side in zip(shape[1:3], self.wanted.sides, strict=True):
                fits &= side is None or found in (side, None)
        if fits:
            return
        advice = "resize them, or use another image_size"
        if len(shape) != 4 or shape[3] != 3:
            advice = "the last axis is red, green, blue"
            if len(shape) == 4 and shape[1] == 3:
                advice += ": transpose channels-first images"
            elif len(shape) == 4 and shape[3] == 1:
                advice += ": tf.image.grayscale_to_rgb repeats a gray one"
        raise errors.UsageError(
            f"{self._name}: images have shape {shown}; wanted {wanted}: {advice}"
        )

    def _check_label_specs(self, labels: Any) -> None:
        """Checks dtypes and shapes of the labels."""
        for name, spec in self._named(labels).items():
            if name not in ("age", "gender"):
                continue
            where = f"{self._name}: the labels {name}"
            if spec.dtype == tf.string:
                raise errors.UsageError(
                    f"{where} are strings; wanted numbers: {_MEANING[name]}"
                )
            shape = spec.shape
            if shape.rank is not None:
                _check_label_shape(where, shape.as_list(), name)

    # Checks of what is read.

    def first_batch(self, element: Any) -> FirstBatch:
        """Checks the first element of a data set."""
        features, labels = self._pair(element)
        images = np.asarray(self._image(features))
        found = {name: np.asarray(v) for name, v in self._named(labels).items()}
        mask = None
        if self._has_mask:
            mask = np.asarray(features["mask"]).astype(bool).reshape(-1)
        return self._checked(images, found, mask)

    def columns(
        self, images: np.ndarray, labels: Any
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The arrays of an element that are needed, after a check of their shapes."""
        images = np.asarray(self._image(images))
        found = {name: np.asarray(v) for name, v in self._named(labels).items()}
        self._check_image_shape(images.shape)
        for name, value in found.items():
            _check_label_count(self._name, name, value, len(images))
        return images, found

    def _checked(
        self,
        images: np.ndarray,
        labels: dict[str, np.ndarray],
        mask: np.ndarray | None,
    ) -> FirstBatch:
        """The first batch, with its shapes and values checked."""
        self._check_image_shape(images.shape)
        for name, value in labels.items():
            _check_label_count(self._name, name, value, len(images))
        if mask is not None:
            if len(mask) != len(images) or not mask.any():
                raise errors.UsageError(
                    f'{self._name}: features["mask"] has {int(mask.sum())} True of'
                    f" {len(mask)} for {len(images)} images in the first batch; wanted"
                    " bool [B], False on padding only"
                )
            # Padding may have any values.
            images = images[mask]
            labels = {name: value[mask] for name, value in labels.items()}
        check_first_images(images, self._name, finite=not self._training)
        check_first_labels(labels, self.wanted, self._name, finite=not self._training)
        return FirstBatch(images, labels)

    def example(self, *element: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """One batch in our form; a function to map over the data set."""
        features, labels = self._pair(element)
        mask = None
        if self._has_mask:
            mask = tf.reshape(tf.cast(features["mask"], tf.bool), [-1])
        converted, found = self.converted(
            self._image(features), self._named(labels), mask
        )
        if mask is not None:
            converted["mask"] = mask
        return converted, found

    def converted(
        self,
        image: tf.Tensor,
        labels: Mapping[str, tf.Tensor],
        mask: tf.Tensor | None = None,
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Image and labels with our dtypes and shapes; their values are checked.

        Args:
          image: Images of a batch.
          labels: Their labels.
          mask: bool ``[B]``, False on padding, whose values may be anything; None if
            all examples count.
        """
        batch = image.shape[0] if image.shape.rank else None
        sides = self.wanted.sides
        image = tf.ensure_shape(image, [batch, *sides, 3])
        if image.dtype != tf.uint8:
            image = self._levels(image, mask)
        found = {}
        for name, label in labels.items():
            if name == "gender":
                label = self._genders(
                    tf.cast(_flat_label(label, batch), tf.float32), mask
                )
                label = tf.cast(label, tf.int32)
            elif name == "age":
                label = self._ages(tf.cast(_flat_label(label, batch), tf.float32), mask)
            found[name] = label
        return {"image": image}, found

    def _levels(self, image: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
        """Image levels, checked to be in [0, 255]."""
        levels = tf.cast(image, tf.float32)
        low, high = -_LEVEL_SLACK, _HIGHEST_LEVEL + _LEVEL_SLACK
        wrong = self._outside(levels, low, high)
        # One value for each example, so that padding can be left out.
        wrong = tf.reduce_any(wrong, list(range(1, image.shape.rank)))
        what = "image levels outside [0, 255]"
        return self._sound(levels, wrong, mask, what, 0.0)

    def _genders(self, label: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
        """Genders, checked to be 0 or 1."""
        wrong = (label != 0) & (label != 1)
        return self._sound(label, wrong, mask, "genders other than 0 and 1", 0.0)

    def _ages(self, label: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
        """Ages, checked to be in the range that the network knows."""
        low, high = self.wanted.ages or (0, _HIGHEST_AGE)
        wrong = self._outside(label, low, high)
        return self._sound(label, wrong, mask, f"ages outside [{low}, {high}]", low)

    def _outside(self, values: tf.Tensor, low: float, high: float) -> tf.Tensor:
        """Which values are out of range."""
        wrong = (values < low) | (values > high)
        # In training, NaN shows in the loss, and the run reports the step.  A metric of
        # the validation would be NaN, or leave the example out, without a word.
        return wrong if self._training else wrong | tf.math.is_nan(values)

    def _sound(
        self,
        values: tf.Tensor,
        wrong: tf.Tensor,
        mask: tf.Tensor | None,
        what: str,
        padding: float,
    ) -> tf.Tensor:
        """Values, if those of all examples are right; padding gets a right value."""
        if mask is not None:
            wrong &= mask
            shape = [-1, *([1] * (values.shape.rank - 1))]
            kept = tf.reshape(mask, shape)
            values = tf.where(kept, values, tf.constant(padding, values.dtype))
        text = f"{MARK}{self._name}: a later batch has {what}{END}"
        check = tf.debugging.Assert(~tf.reduce_any(wrong), [text])
        with tf.control_dependencies([check]):
            return tf.identity(values)


_MEANING = {
    "age": "age is in years",
    "gender": "gender is 0 or 1, in the order of the class names",
}


def check_first_images(images: np.ndarray, name: str, *, finite: bool) -> None:
    """Refuses examples whose images are not in [0, 255], and with `finite` also NaN."""
    if not images.size:
        raise errors.UsageError(f"{name}: the first batch has no image")
    if finite and images.dtype.kind == "f" and np.isnan(images).any():
        raise errors.UsageError(f"{name}: images have NaN; wanted RGB in [0, 255]")
    low, high = float(np.nanmin(images)), float(np.nanmax(images))
    where = f"{name}: images are {images.dtype.name} in [{low:.4g}, {high:.4g}]"
    usual = "wanted RGB in [0, 255], which train normalises by itself"
    if low < -_LEVEL_SLACK or (low < 0 and high <= _UNIT * 2):
        raise errors.UsageError(
            f"{where}; {usual}: pass them before they are normalised"
        )
    if high > _HIGHEST_LEVEL + _LEVEL_SLACK:
        raise errors.UsageError(f"{where}; {usual}: scale them to that range")
    if high <= _UNIT:
        raise errors.UsageError(f"{where}; {usual}: multiply them by 255")


def check_first_labels(
    labels: Mapping[str, np.ndarray], wanted: WantedExamples, name: str, *, finite: bool
) -> None:
    """Refuses examples with genders other than 0 and 1, or ages that no head learns.

    With `finite`, an age that is NaN is refused, too.
    """
    if "gender" in labels:
        values = np.unique(labels["gender"].astype(np.float64))
        if not np.isin(values, (0, 1)).all():
            shown = ", ".join(f"{v:g}" for v in values[:6])
            least = f"{values[0]:g}"
            advice = ""
            if len(values) <= 2 and np.isin(values - values[0], (0, 1)).all():
                advice = f"subtract {least}"
            elif values[0] >= 0 and values[-1] <= 1:
                advice = "round them; a loss of your own may smooth labels"
            if set(values.tolist()) <= {-1.0, 1.0}:
                advice = "(x + 1) / 2 maps -1 and 1"
            raise errors.UsageError(
                f"{name}: the labels gender are {shown}; wanted 0 and 1, in the order"
                f" of the class names{f': {advice}' if advice else ''}"
            )
    if "age" in labels:
        values = labels["age"].astype(np.float64)
        if finite and np.isnan(values).any():
            raise errors.UsageError(
                f"{name}: {int(np.isnan(values).sum())} of {values.size} labels age are"
                " NaN; wanted years: leave these examples out"
            )
        if np.isnan(values).all():
            return  # The loss will be NaN, which has an error of its own.
        low, high = float(np.nanmin(values)), float(np.nanmax(values))
        # Whole numbers up to 1 are the ages of babies.
        if 0 <= low and high <= 1 and (values != np.round(values)).any():
            raise errors.UsageError(
                f"{name}: the labels age are from {low:g} to {high:g}; wanted years:"
                " multiply them by what they were divided by"
            )
        if low < 0 or high > _HIGHEST_AGE:
            raise errors.UsageError(
                f"{name}: the labels age are from {low:g} to {high:g}; wanted years"
                f" from 0 to {_HIGHEST_AGE:g}"
            )
        if wanted.ages and (low < wanted.ages[0] or high > wanted.ages[1]):
            raise errors.UsageError(
                f"{name}: the labels age are from {low:g} to {high:g}, and the age head"
                f" knows {wanted.ages[0]} to {wanted.ages[1]} only: leave other ages"
                " out, use --age_head=regression, or pass a model whose ModelConfig has"
                " your min_age and max_age"
            )


def _check_label_count(name: str, part: str, value: np.ndarray, count: int) -> None:
    """Refuses a caller's batch with another number of labels than images."""
    if not value.ndim or len(value) != count:
        raise errors.UsageError(
            f"{name}: the labels {part} have shape {list(value.shape)} for {count}"
            f" images; wanted [{count}], one for each image"
        )
    if part in ("age", "gender"):
        where = f"{name}: the labels {part}"
        _check_label_shape(where, value.shape, part)
        if not (np.issubdtype(value.dtype, np.number) or value.dtype == bool):
            raise errors.UsageError(
                f"{where} are {value.dtype.name}; wanted numbers: {_MEANING[part]}"
            )


def _check_label_shape(where: str, shape: Sequence[int | None], name: str) -> None:
    """Refuses examples whose labels are not one number each."""
    if not shape:
        raise errors.UsageError(
            f"{where} have shape [] in an element, which is one example; wanted"
            " batches: add .batch(global_batch_size)"
        )
    if all(size in (1, None) for size in shape[1:]):
        return
    shown = ", ".join(["B", *("?" if s is None else str(s) for s in shape[1:])])
    advice = "one number for each image"
    if len(shape) == 2 and name == "gender" and shape[1] == 2:
        advice = "tf.argmax(label, axis=1) is the class of a one-hot label"
    raise errors.UsageError(f"{where} have shape [{shown}]; wanted [B]: {advice}")


def _flat_label(label: tf.Tensor, batch: int | None) -> tf.Tensor:
    """A label of a caller's batch as a vector."""
    return tf.ensure_shape(tf.reshape(label, [-1]), [batch])


def _quoted_names(names: Any) -> str:
    """Names of the parts of an example as text, for errors."""
    return ", ".join(f'"{name}"' for name in names) or "nothing"


def _spec_text(spec: Any) -> str:
    """The form of a data set's element as a short text, for errors."""
    text = errors.one_line(str(spec))
    return text if len(text) <= 100 else f"{text[:97]}..."
