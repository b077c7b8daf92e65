"""Which examples of each global batch an input pipeline and its replicas get."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from afad_tfdata.common import errors
from afad_tfdata.common.lazy_imports import tf


@dataclasses.dataclass(frozen=True)
class ReplicaBatches:
    """The slices of every global batch that one input pipeline reads.

    Each replica gets a contiguous slice of the global batch.  A pipeline yields the
    batches of its own replicas in turn: its batch number b belongs to step
    ``b // num_local_replicas`` and to replica
    ``first_replica + b % num_local_replicas``.

    Attributes:
      per_replica_batch_size: Examples that one replica gets in a step.
      global_batch_size: Examples of a step over all replicas.
      num_local_replicas: Replicas that this pipeline feeds.
      first_replica: Number of the first of those replicas.
    """

    per_replica_batch_size: int
    global_batch_size: int
    num_local_replicas: int
    first_replica: int

    @classmethod
    def of_pipeline(
        cls,
        global_batch_size: int,
        input_context: tf.distribute.InputContext | None,
        *,
        pad: bool,
    ) -> ReplicaBatches:
        """Returns the slices of one input pipeline.

        Args:
          global_batch_size: Examples of a step over all replicas.
          input_context: Says which pipeline this is; None for one pipeline and one
            replica.
          pad: Whether a batch that the replicas cannot divide is enlarged until they
            can.

        Raises:
          UsageError: The number of replicas does not divide the batch, or the number of
            pipelines does not divide the replicas.
        """
        replicas = input_context.num_replicas_in_sync if input_context else 1
        pipelines = input_context.num_input_pipelines if input_context else 1
        pipeline = input_context.input_pipeline_id if input_context else 0
        if replicas % pipelines and pipelines % replicas:
            raise errors.UsageError(
                f"{pipelines} input pipelines do not divide {replicas} replicas: give"
                " each pipeline the same number of replicas"
            )
        # A context that a program builds may give only the number of pipelines.
        replicas = max(replicas, pipelines)
        if not pad and global_batch_size % replicas:
            raise errors.UsageError(
                f"--global_batch_size={global_batch_size} cannot be divided by"
                f" {replicas} replicas: choose a multiple"
            )
        per_replica = -(-global_batch_size // replicas)
        local = replicas // pipelines
        return cls(per_replica, per_replica * replicas, local, pipeline * local)

    @classmethod
    def of_training(
        cls,
        global_batch_size: int,
        input_context: tf.distribute.InputContext | None,
        *,
        num_examples: int,
    ) -> ReplicaBatches:
        """Returns the slices of the training batches that one input pipeline reads.

        Args:
          global_batch_size: As for `of_pipeline`.
          input_context: As for `of_pipeline`.
          num_examples: Examples in the split.

        Raises:
          UsageError: As for `of_pipeline`, or there are more replicas than examples.
        """
        # Batches are not padded: the model would be trained on the padding, and the
        # order would depend on the number of replicas.
        slices = cls.of_pipeline(global_batch_size, input_context, pad=False)
        if slices.num_replicas > num_examples:
            raise errors.UsageError(
                f"the train split has {num_examples} examples for"
                f" {slices.num_replicas} replicas or input pipelines: use fewer"
            )
        return slices

    @property
    def num_replicas(self) -> int:
        """Replicas of all pipelines."""
        return self.global_batch_size // self.per_replica_batch_size

    def positions(self, batches: tf.Tensor) -> tf.Tensor:
        """Returns the positions of batches in the stream of all examples.

        Args:
          batches: int64 of any shape: numbers of this pipeline's batches.

        Returns:
          int64 ``[..., per_replica_batch_size]``.
        """
        batches = tf.convert_to_tensor(batches, tf.int64)
        within = tf.range(self.per_replica_batch_size, dtype=tf.int64)
        return self._first_position(batches)[..., tf.newaxis] + within

    def numpy_positions(self, batches: np.ndarray) -> np.ndarray:
        """Computes `positions` by numpy."""
        within = np.arange(self.per_replica_batch_size)
        return self._first_position(batches)[..., np.newaxis] + within

    def _first_position(self, batches: Any) -> Any:
        """Returns the position of the first example of a pipeline's batch."""
        step = batches // self.num_local_replicas
        replica = self.first_replica + batches % self.num_local_replicas
        return step * self.global_batch_size + replica * self.per_replica_batch_size

    def padded_positions(self, batches: tf.Tensor, num_examples: int) -> tf.Tensor:
        """Returns `positions` in a stream of `num_examples`, and -1 after its end."""
        positions = self.positions(batches)
        padding = tf.constant(-1, tf.int64)
        return tf.where(positions < num_examples, positions, padding)
