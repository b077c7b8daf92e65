"""The source of a training's batches: the records, or the caller."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from afad_tfdata import input_fn
from afad_tfdata.common import errors
from afad_tfdata.common.lazy_imports import tf
from afad_tfdata.models import facts
from afad_tfdata.reading import engine_choice, index_loading, order
from afad_tfdata.storage import joined_data_sets, schema, sharding
from afad_tfdata.training import config as train_config
from afad_tfdata.training.caller import data_sets, example_parser, objects
from afad_tfdata.training.distributed import strategies


class TrainData:
    """The data sets, from the records or the caller.

    Args:
      config: The options.
      own: The caller's objects.
      strategy: The replicas.
      manifest: Of the records, or None.
      wanted: What a caller's examples must be.

    Raises:
      UsageError: The caller's data cannot be used, or there is no data.
    """

    def __init__(
        self,
        config: train_config.TrainConfig,
        own: objects.CallerObjects,
        strategy: tf.distribute.Strategy,
        manifest: schema.Manifest | None,
        wanted: example_parser.WantedExamples,
    ) -> None:
        self._config, self._strategy = config, strategy
        self._manifest = manifest
        self._input: Any = None
        self._train: data_sets.CallerData | None = None
        self._validation: data_sets.CallerData | None = None
        if strategies.spans_workers(strategy) and not own.builds_data():
            raise errors.UsageError(
                "with several workers, each worker reads its part of a batch from"
                " records: leave train_dataset and validation_dataset out"
            )
        if strategies.spans_workers(strategy) and config.input.data_service:
            raise errors.UsageError(
                "--data_service serves one process, and with several workers each of"
                " them reads its part of a batch itself: leave --data_service out"
            )
        if manifest is None and own.train_dataset is None:
            raise errors.UsageError(
                "--records_dir is missing: name a data set that afad-write-records has"
                " finished"
            )
        data_sets.refuse_other_class_order(
            {
                "train_dataset": own.train_dataset,
                "validation_dataset": own.validation_dataset,
            },
            {
                "the model": facts.of(own.model).class_names,
                config.input.records_dir: manifest.class_names if manifest else (),
            },
            config.input.task,
        )
        if own.train_dataset is not None:
            self._train = data_sets.CallerData(
                own.train_dataset, "train_dataset", wanted, training=True
            )
            wanted = self._train.wanted
        if own.validation_dataset is not None:
            self._validation = data_sets.CallerData(
                own.validation_dataset, "validation_dataset", wanted, training=False
            )

    def first_batch(self) -> example_parser.FirstBatch | None:
        """The first batch of the caller's data for training, else for validation."""
        data = self._train or self._validation
        return data.first_batch if data else None

    def described(self) -> dict[str, str]:
        """What identifies the caller's data sets; empty if they are from records."""
        steps = self._config.steps_per_epoch
        return {
            "train_dataset": self._train.described(steps) if self._train else "",
            "validation_dataset": (
                self._validation.described(0) if self._validation else ""
            ),
        }

    def validation_labels(self) -> tuple[str, ...] | None:
        """Names of the labels of the validation data; None if there are no such data.

        Those of records are age and gender, where the task needs them.
        """
        if self._validation is not None:
            return tuple(self._validation.first_batch.labels)
        if self._manifest is None:
            return None
        split = self._manifest.splits.get("validation")
        if split is None or not split.num_examples:
            return None
        return schema.labels_of(self._config.input.task)

    def use_size(self, image_size: int) -> None:
        """Sets the size of the images that are read from records."""
        if self._manifest is not None:
            self._input = dataclasses.replace(self._config.input, image_size=image_size)

    def num_examples(self) -> int:
        """Number of examples in the training data."""
        if self._train is None:
            return input_fn.num_examples(self._input, "train")
        return self._train.num_examples(self._config.steps_per_epoch)

    def refuse_short(self, steps: int) -> None:
        """Refuses training data that is known to end before this number of steps."""
        if self._train is not None:
            self._train.refuse_short(steps)

    def engine(self) -> str:
        """Name of what reads the records, for ``config.json``."""
        if self._train is not None:
            return "own"
        index = index_loading.open_index(self._input, sharding.TRAIN)
        return engine_choice.choose(self._input, index).engine

    def names(self, first: int, end: int) -> list[str]:
        """Names of the examples at these positions of the endless stream."""
        if self._train is not None:
            return [f"position {i} of the stream" for i in range(first, end)]
        index = index_loading.open_index(self._input, sharding.TRAIN)
        stream = order.of_training(index, self._input.seed, self._input.balance)
        records = stream.records(np.arange(first, end)).numpy()
        return [index.describe(int(record)) for record in records]

    def train(self, first_step: int) -> Iterator[Any]:
        """An endless iterator of distributed batches from a step on."""
        if self._train is not None:
            return iter(self._distribute(self._train.endless(first_step)))
        return iter(
            self._strategy.distribute_datasets_from_function(
                lambda context: input_fn.train_input_fn(
                    self._input, context, start_step=first_step
                )
            )
        )

    def validation(self) -> Iterable[Any] | None:
        """Distributed batches, which have an end, or None."""
        if self._validation is not None:
            return self._validation.with_doubts(
                self._distribute(self._validation.padded()), self.num_examples()
            )
        if self._manifest is None:
            return None
        split = self._manifest.splits.get("validation")
        if split is None or not split.num_examples:
            return None
        return self._strategy.distribute_datasets_from_function(
            lambda context: input_fn.eval_input_fn(self._input, "validation", context)
        )

    def _distribute(self, dataset: tf.data.Dataset) -> tf.distribute.DistributedDataset:
        """Distributes a data set to the replicas as it is."""
        # Every example must reach a replica once: TensorFlow's own sharding by files or
        # by elements would change which examples a batch has.
        settings = tf.data.Options()
        off = tf.data.experimental.AutoShardPolicy.OFF
        settings.experimental_distribute.auto_shard_policy = off
        return self._strategy.experimental_distribute_dataset(
            dataset.with_options(settings)
        )


def load_manifest(config: train_config.TrainConfig) -> schema.Manifest | None:
    """The manifest of the training's records; None without ``--records_dir``."""
    if not (path := config.input.records_dir):
        return None
    return joined_data_sets.load_manifest(path, config.input.max_examples)


def image_size(config: train_config.TrainConfig) -> int:
    """Side of the images of the training's records in pixels; 0 if not known yet."""
    manifest = load_manifest(config)
    if config.input.image_size or manifest is None:
        return config.input.image_size
    return manifest.image_size
