"""Where a training's batches come from: the records, or the caller."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from afad_tfdata import input_fn
from afad_tfdata.common import errors
from afad_tfdata.common.lazy_imports import keras, tf
from afad_tfdata.reading import engines
from afad_tfdata.storage import schema, sharding
from afad_tfdata.training import config as train_config
from afad_tfdata.training.distributed import strategies


@dataclasses.dataclass(frozen=True)
class CallerObjects:
    """What a caller passes instead of what the config builds; None: the config's.

    Attributes:
      model: Keras model with the outputs that `networks.build_model` describes.
      train_dataset: ``tf.data.Dataset`` of global batches ``(features, labels)``, or
        a function of the first step that returns one.
      validation_dataset: A finite one, unaugmented.
      augment: ``(images, seed=, step=, offset=)`` to float images in [0, 255].
      loss: As `losses.build` returns it.
    """

    model: keras.Model | None = None
    train_dataset: tf.data.Dataset | Callable[[int], tf.data.Dataset] | None = None
    validation_dataset: tf.data.Dataset | None = None
    augment: Callable[..., tf.Tensor] | None = None
    loss: Callable[..., Mapping[str, tf.Tensor]] | None = None

    def builds_data(self) -> bool:
        """Whether the data sets are the config's."""
        return self.train_dataset is None and self.validation_dataset is None


class TrainData:
    """The data sets, from the records or the caller."""

    def __init__(
        self,
        config: train_config.TrainConfig,
        own: CallerObjects,
        strategy: tf.distribute.Strategy,
        manifest: schema.Manifest | None,
        image_size: int,
    ) -> None:
        self._config, self._own, self._strategy = config, own, strategy
        self._manifest = manifest
        self._input: Any = None
        if strategies.spans_workers(strategy) and not own.builds_data():
            raise errors.UsageError(
                "a training over several workers reads records, each worker its part"
                " of a batch: leave train_dataset and validation_dataset out"
            )
        if strategies.spans_workers(strategy) and config.input.data_service:
            raise errors.UsageError(
                "--data_service feeds one process: under several workers each reads"
                " its part of a batch by itself; leave it out"
            )
        if manifest is None:
            if own.train_dataset is None:
                raise errors.UsageError(
                    "--records_dir is needed: a directory that write_records has"
                    " finished"
                )
            return
        self._input = dataclasses.replace(config.input, image_size=image_size)

    def num_examples(self) -> int:
        """Examples of the training data."""
        if self._own.train_dataset is None:
            return input_fn.num_examples(self._input, "train")
        if self._config.steps_per_epoch:
            return self._config.steps_per_epoch * self._config.input.global_batch_size
        own = self._own.train_dataset
        steps = int((own(0) if callable(own) else own).cardinality())
        if steps <= 0:
            raise errors.UsageError(
                "the training data set has no known length: set"
                " TrainConfig.steps_per_epoch"
            )
        return steps * self._config.input.global_batch_size

    def engine(self) -> str:
        """What reads the records, for the record."""
        if self._own.train_dataset is not None:
            return "own"
        index = engines.open_index(self._input, sharding.TRAIN)
        return engines.choose(self._input, index).engine

    def names(self, first: int, end: int) -> list[str]:
        """Names of the examples at these positions of the endless stream."""
        if self._own.train_dataset is not None:
            return [f"position {i} of the stream" for i in range(first, end)]
        index = engines.open_index(self._input, sharding.TRAIN)
        stream = input_fn.order_of(self._input, index)
        records = stream.records(np.arange(first, end)).numpy()
        return [index.describe(int(record)) for record in records]

    def train(self, first_step: int) -> Iterator[Any]:
        """An endless iterator of distributed batches from a step on."""
        if self._own.train_dataset is not None:
            return iter(self._distribute(self._callers_data(first_step)))
        return iter(
            self._strategy.distribute_datasets_from_function(
                lambda context: input_fn.train_input_fn(
                    self._input, context, start_step=first_step
                )
            )
        )

    def validation(self) -> tf.distribute.DistributedDataset | None:
        """A finite distributed data set, or None."""
        if self._own.validation_dataset is not None:
            return self._distribute(self._own.validation_dataset.map(_with_mask))
        if self._own.train_dataset is not None or self._manifest is None:
            return None
        split = self._manifest.splits.get("validation")
        if split is None or not split.num_examples:
            return None
        return self._strategy.distribute_datasets_from_function(
            lambda context: input_fn.eval_input_fn(self._input, "validation", context)
        )

    def _callers_data(self, first_step: int) -> tf.data.Dataset:
        own = self._own.train_dataset
        if callable(own):
            return own(first_step)
        assert own is not None  # noqa: S101 (else the records are read)
        if int(own.cardinality()) != tf.data.INFINITE_CARDINALITY:
            own = own.repeat()
        return own.skip(first_step)

    def _distribute(self, dataset: tf.data.Dataset) -> tf.distribute.DistributedDataset:
        # Every example must reach a replica once: TensorFlow's own sharding by files or
        # by elements would change which examples a batch has.
        settings = tf.data.Options()
        off = tf.data.experimental.AutoShardPolicy.OFF
        settings.experimental_distribute.auto_shard_policy = off
        return self._strategy.experimental_distribute_dataset(
            dataset.with_options(settings)
        )


def _with_mask(
    features: dict[str, tf.Tensor], labels: dict[str, tf.Tensor]
) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]:
    if "mask" in features:
        return features, labels
    shape = tf.shape(features["image"])[:1]
    return {**features, "mask": tf.ones(shape, tf.bool)}, labels
