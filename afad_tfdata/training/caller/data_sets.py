"""A caller's data sets in the form that the training step takes.

A caller may pass what ``model.fit`` takes: a ``tf.data.Dataset`` of pairs, or a pair of
arrays.  The first batch is checked before anything trains, because most
mistakes (images in [0, 1], labels 1 and 2, batches of another size) raise no error and
only give wrong numbers.  The values of each later batch are also checked.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from afad_tfdata.common import errors, tensorflow_messages
from afad_tfdata.common.lazy_imports import tf
from afad_tfdata.reading import order
from afad_tfdata.storage import schema
from afad_tfdata.training.caller import example_parser, fingerprints

_log = logging.getLogger(__name__)


class CallerData:
    """A caller's data set, checked and converted to our form.

    Args:
      value: What the caller passed: ``tf.data.Dataset``, a pair of arrays, or (for
        training) a function of the first step that returns a data set.
      name: Name of the argument, for errors.
      wanted: What the examples must be.
      training: Whether the data set is read without end, in full batches.

    Attributes:
      wanted: The argument of this name, with the size of the images added.
      first_batch: The first batch, as the caller's data set gives it.

    Raises:
      UsageError: The data set cannot be used; the text says what was wanted.
    """

    def __init__(
        self,
        value: Any,
        name: str,
        wanted: example_parser.WantedExamples,
        *,
        training: bool,
    ) -> None:
        self._value, self._name, self.wanted = value, name, wanted
        self._training = training
        self._arrays = _arrays_of(value, name)
        if self._arrays is None:
            dataset = self._dataset(0)
            self._parse = example_parser.ExampleParser(
                dataset.element_spec, name, wanted, training=training
            )
            self.cardinality = int(dataset.cardinality())
            self._refuse_length()
            self.first_batch = self._look_at(dataset)
        else:
            images, labels = self._arrays
            spec = tf.nest.map_structure(_array_spec, (images, labels))
            self._parse = example_parser.ExampleParser(
                spec, name, wanted, training=training
            )
            self._arrays = self._parse.columns(images, labels)
            self.first_batch = self._look_at_arrays()
            digest = fingerprints.of_arrays(*self._arrays)
            self._digest = f"arrays {digest[:12]}"
        # All other batches have images of the same size.
        high, wide = self.first_batch.images.shape[1:3]
        self.wanted = dataclasses.replace(wanted, sides=(high, wide))
        self._parse.wanted = self.wanted

    def num_examples(self, steps_per_epoch: int) -> int:
        """Number of examples in an epoch of these steps, or in one pass if that is 0.

        Raises:
          UsageError: The length is not known.
        """
        size = self.wanted.batch_size
        if steps_per_epoch:
            return steps_per_epoch * size
        if self._arrays is not None:
            return len(self._arrays[0])
        if self.cardinality < 0:
            raise errors.UsageError(
                f"{self._name} has no known length: set TrainConfig.steps_per_epoch"
            )
        return self.cardinality * size

    def described(self, steps_per_epoch: int) -> str:
        """What identifies the data set, in words; arrays also by their content."""
        batch = self.first_batch
        forms = [f"{batch.images.dtype.name} {list(batch.images.shape[1:])}"]
        forms += [f"{n} {v.dtype.name}" for n, v in sorted(batch.labels.items())]
        if self._arrays is not None:
            return f"{self._digest} of {len(self._arrays[0])} x {', '.join(forms)}"
        if self.cardinality < 0 or steps_per_epoch:
            return ", ".join(forms)
        return f"{self.cardinality} batches of {', '.join(forms)}"

    def endless(self, first_step: int) -> tf.data.Dataset:
        """An endless data set of full batches, from a step on."""
        if self._arrays is not None:
            return self._shuffled(first_step)
        if callable(self._value):
            dataset = self._dataset(first_step)
            return self._full_batches(dataset.map(self._parse.example))
        dataset = self._value
        if int(dataset.cardinality()) != tf.data.INFINITE_CARDINALITY:
            dataset = dataset.repeat()
        # The batches are formed again: a batch may contain examples from the end of one
        # pass and from the beginning of the next.
        dataset = self._full_batches(dataset.map(self._parse.example))
        return dataset.skip(first_step)

    def refuse_short(self, steps: int) -> None:
        """Refuses a function whose data set ends before this number of steps.

        Raises:
          UsageError: The data set ends before.
        """
        if callable(self._value) and 0 <= self.cardinality < steps:
            raise errors.UsageError(
                f"{self._name} is a function whose data set for step 0 ends after"
                f" {self.cardinality} batches, and up to {steps} steps are trained:"
                " return dataset.repeat().skip(first_step)"
            )

    def padded(self) -> tf.data.Dataset:
        """Every example once, in full batches; the mask is False on padding."""
        size = self.wanted.batch_size
        if self._arrays is not None:
            images, labels = self._arrays
            count = len(images)
            starts = tf.data.Dataset.range(0, count, size)
            dataset = starts.map(
                lambda start: self._gather(
                    tf.range(start, tf.minimum(start + size, count))
                )
            )
        else:
            dataset = self._value.map(self._parse.example)
            if self._parse.static_batch != size:
                dataset = dataset.rebatch(size)
        return dataset.map(lambda features, labels: _pad_batch(features, labels, size))

    def with_doubts(self, batches: Iterable[Any], num_training: int) -> Iterable[Any]:
        """The validation batches, with a warning if they seem to have no end.

        Args:
          batches: From `padded`.
          num_training: Training examples in an epoch.
        """
        if self._arrays is not None or self.cardinality >= 0:
            return batches
        epoch = num_training // self.wanted.batch_size
        return _DoubtedBatches(batches, self._name, max(_MANY_BATCHES, 10 * epoch))

    def _dataset(self, first_step: int) -> tf.data.Dataset:
        """The caller's own data set, unchanged."""
        value = self._value
        if isinstance(value, tf.data.Dataset):
            return value
        if self._training and callable(value) and not isinstance(value, type):
            try:
                made = value(first_step)
            except errors.AfadError:
                raise
            except Exception as error:  # The caller's code may raise anything.
                raise errors.UsageError(
                    f"{self._name} is called with the first step ({first_step}) and"
                    f" raised {errors.cause(error)}; pass a tf.data.Dataset, or a"
                    " function of the first step that returns one"
                ) from error
            if isinstance(made, tf.data.Dataset):
                return made
            raise errors.UsageError(
                f"{self._name} is a function, which must return a tf.data.Dataset for"
                f" the first step; got {errors.kind(made)}"
            )
        allowed = "a tf.data.Dataset or a pair of arrays (images, labels)"
        if self._training:
            allowed += ", or a function of the first step that returns a Dataset"
        advice = ""
        if isinstance(value, Iterator):
            advice = "; an iterator can be read only once, and training reads again"
        raise errors.UsageError(
            f"{self._name} takes {allowed}; got {errors.kind(value)}{advice}"
        )

    def _refuse_length(self) -> None:
        """Refuses a caller's data set that is empty, or endless for validation."""
        if self.cardinality == 0:
            raise errors.UsageError(f"{self._name} is empty: pass at least one batch")
        infinite = self.cardinality == tf.data.INFINITE_CARDINALITY
        if not self._training and infinite:
            raise errors.UsageError(
                f"{self._name} has no end, and validation reads all of it: leave out"
                " repeat(), or add take(N)"
            )

    def _look_at(self, dataset: tf.data.Dataset) -> example_parser.FirstBatch:
        """Reads the first batch of a caller's data set."""
        try:
            element = next(iter(dataset.take(1)), None)
        except tf.errors.OpError as error:
            raise errors.UsageError(
                f"{self._name}: reading its first batch raised {errors.cause(error)}"
            ) from error
        if element is None:
            raise errors.UsageError(f"{self._name} is empty: pass at least one batch")
        batch = self._parse.first_batch(element)
        found, size = len(batch.images), self.wanted.batch_size
        if self._training and found != size:
            raise errors.UsageError(
                f"{self._name} is batched by {found}, and --global_batch_size is"
                f" {size}: make them equal, .batch({size}) or"
                f" global_batch_size={found}"
            )
        return batch

    def _look_at_arrays(self) -> example_parser.FirstBatch:
        """Takes the first batch from a caller's arrays."""
        assert self._arrays is not None  # noqa: S101 (the caller has just set them)
        images, labels = self._arrays
        if not len(images):
            raise errors.UsageError(f"{self._name} is empty: pass at least one image")
        # All labels are checked, because arrays are often sorted by them.
        finite = not self._training
        example_parser.check_first_labels(
            labels, self.wanted, self._name, finite=finite
        )
        example_parser.check_first_images(images[:256], self._name, finite=finite)
        size = min(len(images), self.wanted.batch_size)
        return example_parser.FirstBatch(
            images[:size], {n: v[:size] for n, v in labels.items()}
        )

    def _full_batches(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        """Batches of the global size from a caller's data set."""
        if self._parse.static_batch == self.wanted.batch_size:
            return dataset
        # The last batch of a pass may be smaller.  A step on it would have too small a
        # gradient, and its examples could not be divided over the replicas.
        return dataset.rebatch(self.wanted.batch_size, drop_remainder=True)

    def _shuffled(self, first_step: int) -> tf.data.Dataset:
        """Examples of arrays, shuffled as records are: each pass in another order.

        ``model.fit`` also shuffles arrays, because they are often sorted by labels.
        """
        assert self._arrays is not None  # noqa: S101 (the caller has checked)
        size, count = self.wanted.batch_size, len(self._arrays[0])
        stream = order.Order(count, self.wanted.seed)
        steps = tf.data.Dataset.range(first_step, np.iinfo(np.int64).max // size)
        places = tf.range(size, dtype=tf.int64)
        dataset = steps.map(
            lambda step: self._gather(stream.records(step * size + places))
        )
        return dataset.prefetch(tf.data.AUTOTUNE)

    def _gather(self, rows: tf.Tensor) -> tuple[dict[str, Any], dict[str, Any]]:
        """The examples at these positions of the arrays."""
        assert self._arrays is not None  # noqa: S101 (the caller has checked)
        images, labels = self._arrays
        columns = [images, *labels.values()]
        # The arrays are not constants of the graph, because a graph is limited to 2
        # GiB.
        taken = tf.numpy_function(
            lambda at: [np.ascontiguousarray(c[at]) for c in columns],
            [rows],
            [tf.as_dtype(c.dtype) for c in columns],
            stateful=False,
        )
        for tensor, column in zip(taken, columns, strict=True):
            tensor.set_shape([rows.shape[0], *column.shape[1:]])
        found = dict(zip(labels, taken[1:], strict=True))
        return self._parse.converted(taken[0], found)


@contextlib.contextmanager
def readable_errors(own_data: bool) -> Iterator[None]:
    """Turns errors from a caller's data set into one line.

    Args:
      own_data: Whether a caller passed the data; if not, errors are not changed.

    Raises:
      DataError: A later batch differs in kind from the first one, or there is none.
    """
    try:
        yield
    except (tf.errors.OutOfRangeError, StopIteration) as error:
        if not own_data:
            raise
        raise errors.DataError(
            "the training data set ended before the training did: it must have no end;"
            " return dataset.repeat().skip(first_step)"
        ) from error
    except tf.errors.OpError as error:
        text = str(error.message)
        if not own_data or not (example_parser.MARK in text or _GETS_NEXT in text):
            raise
        if own := tensorflow_messages.own_error(error):
            raise own from error  # Of this package's input, which names the record.
        if example_parser.MARK in text:
            text = text.partition(example_parser.MARK)[2]
            text = text.partition(example_parser.END)[0]
        else:
            what = tensorflow_messages.reason(text) or "it could not be read"
            text = f"a later batch of a data set of your own: {what}"
        raise errors.DataError(errors.one_line(text)) from error


# The operation that reads a data set; an error with this name is from the pipeline.
_GETS_NEXT = "IteratorGetNext"
# How many class names an error shows.
_SHOWN_CLASSES = 4
# Validation data may have no end if they have more batches than this, and more than 10
# epochs of training.
_MANY_BATCHES = 10_000


class _DoubtedBatches:
    """Batches of a data set of unknown length, with a warning if there are many."""

    def __init__(self, batches: Iterable[Any], name: str, many: int) -> None:
        self._batches, self._name, self._many = batches, name, many

    def __iter__(self) -> Iterator[Any]:
        for number, batch in enumerate(self._batches):
            # Not an error: a data set that does not know its length may be this long,
            # and the epoch that was just trained would be lost.
            if number == self._many:
                _log.warning(
                    "%s still goes on after %d batches, and validation reads all of"
                    " it: if it has no end, add take(N)",
                    *(self._name, number),
                )
            yield batch


def _arrays_of(value: Any, name: str) -> tuple[Any, Any] | None:
    """A caller's data set as images and labels, if it is a pair of arrays."""
    if not (isinstance(value, list | tuple) and len(value) in (2, 3)):
        return None
    if len(value) == 3:
        raise errors.UsageError(
            f"{name} takes a pair of arrays (images, labels); got 3 parts: weights do"
            " not act here; multiply a loss of your own by them"
        )
    if any(isinstance(part, tf.data.Dataset) for part in value):
        raise errors.UsageError(
            f"{name} takes one tf.data.Dataset of pairs; got a pair of data sets: join"
            " them with tf.data.Dataset.zip"
        )

    def as_array(part: Any) -> np.ndarray:
        """A part of the pair as an array."""
        if np.ma.is_masked(part):
            raise errors.UsageError(
                f"{name} has an array with masked values, which have no meaning here:"
                " leave these examples out"
            )
        try:
            array = np.asarray(part)
        except Exception as error:  # The caller's objects may raise anything.
            raise errors.UsageError(
                f"{name} takes a pair of arrays (images, labels); got"
                f" {errors.kind(part)}"
            ) from error
        if array.dtype == object:
            raise errors.UsageError(
                f"{name} takes a pair of arrays (images, labels); got"
                f" {errors.kind(part)}, whose parts have different shapes or are no"
                " numbers"
            )
        try:
            tf.as_dtype(array.dtype)
        except TypeError as error:  # Dates, lengths of time, fields.
            raise errors.UsageError(
                f"{name} takes a pair of arrays (images, labels); got one of"
                f" {array.dtype}, and numbers are wanted"
            ) from error
        return array

    return tuple(
        {key: as_array(v) for key, v in part.items()}
        if isinstance(part, Mapping)
        else as_array(part)
        for part in value
    )  # type: ignore[return-value]


def _pad_batch(
    features: dict[str, tf.Tensor], labels: dict[str, tf.Tensor], size: int
) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]:
    """Fills a batch of a caller's data set up with zeros, where its mask is False."""
    features, count = dict(features), tf.shape(features["image"])[0]
    features.setdefault("mask", tf.ones([count], tf.bool))

    def filled(value: tf.Tensor) -> tf.Tensor:
        """One part of the batch, filled up."""
        more = [[0, size - count], *([[0, 0]] * (value.shape.rank - 1))]
        if value.dtype == tf.string:
            value = tf.pad(value, more, constant_values="")
        elif value.dtype == tf.bool:
            value = tf.pad(value, more, constant_values=False)
        else:
            value = tf.pad(value, more)
        return tf.ensure_shape(value, [size, *value.shape[1:]])

    return tf.nest.map_structure(filled, (features, labels))


def _array_spec(array: np.ndarray) -> tf.TensorSpec:
    """Dtype and shape of the examples in a caller's array."""
    kind = array.dtype if array.dtype.kind not in "USO" else tf.string
    return tf.TensorSpec([None, *array.shape[1:]] if array.ndim else [], kind)


def refuse_other_class_order(
    datasets: Mapping[str, Any], references: Mapping[str, Sequence[str]], task: str
) -> None:
    """Refuses a data set whose labels count folders in another order than the classes.

    ``keras.utils.image_dataset_from_directory`` numbers the folders in the order of
    their names, so that ``female`` is 0 and ages begin at 0.  Its attribute
    ``class_names`` says so; `tf.data.Dataset.map` returns a data set without it.

    Args:
      datasets: The caller's data sets by the name of the argument.
      references: Class names in label order, by what has them.
      task: One of `schema.TASKS`.

    Raises:
      UsageError: The labels of a data set are class numbers instead of years, or its
        classes are in another order than those of a reference or of another data set.
    """
    known = {what: tuple(names) for what, names in references.items() if names}
    for name, dataset in datasets.items():
        names = _class_names_of(dataset)
        if not names:
            continue
        if "age" in schema.labels_of(task):
            rest = ", ..." if names[_SHOWN_CLASSES:] else ""
            shown = ", ".join(names[:_SHOWN_CLASSES]) + rest
            raise errors.UsageError(
                f"{name} has the class names {shown}, so that its labels are numbers of"
                " folders, and years are wanted: map them, such as by"
                " .map(lambda image, label: (image, tf.gather(years, label)))"
            )
        for what, others in known.items():
            if _comparable_class_names(names) != _comparable_class_names(others):
                raise errors.UsageError(
                    f"{name} has the class names {', '.join(names)} in the order of its"
                    f" labels, and {what} has {', '.join(others)}: give"
                    " image_dataset_from_directory class_names="
                    f"{list(others)}, or map the labels"
                )
        known[name] = names


def _class_names_of(dataset: Any) -> tuple[str, ...]:
    """The class names that Keras gave a data set of folders; empty if it has none."""
    names = getattr(dataset, "class_names", None)
    if not isinstance(names, list | tuple):
        return ()
    return tuple(map(str, names))


def _comparable_class_names(names: Sequence[str]) -> list[str]:
    """Class names without their case, to compare those of two data sets."""
    return [name.strip().casefold() for name in names]
