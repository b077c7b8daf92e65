"""How a global batch is cut for input pipelines and replicas."""

from __future__ import annotations

import dataclasses
from typing import Any

from afad_tfdata.common import errors
from afad_tfdata.common.lazy import tf


@dataclasses.dataclass(frozen=True)
class Slices:
    """How global batches are cut.

    A pipeline's elements are the batches of its replicas in turn: element e belongs to
    step ``e // replicas_here``, replica ``first_replica + e % replicas_here``.

    Attributes:
      per_replica: Examples of a replica in a step.
      global_batch: Examples of a step.
      replicas_here: Replicas that this pipeline feeds.
      first_replica: The first of them.
    """

    per_replica: int
    global_batch: int
    replicas_here: int
    first_replica: int

    @classmethod
    def of(cls, global_batch: int, context: Any, *, pad: bool) -> Slices:
        """Slices of a global batch.

        Args:
          global_batch: Examples of a step.
          context: ``tf.distribute.InputContext``, or None for one replica.
          pad: Whether a batch that cannot be divided grows until it can.

        Raises:
          UsageError: It cannot be divided.
        """
        replicas = context.num_replicas_in_sync if context else 1
        pipelines = context.num_input_pipelines if context else 1
        pipeline = context.input_pipeline_id if context else 0
        if replicas % pipelines and pipelines % replicas:
            raise errors.UsageError(
                f"{pipelines} input pipelines do not divide {replicas} replicas"
            )
        # A context made by hand may count pipelines only.
        replicas = max(replicas, pipelines)
        if not pad and global_batch % replicas:
            raise errors.UsageError(
                f"--global_batch_size={global_batch} cannot be divided by {replicas}"
                " replicas: choose a multiple"
            )
        per_replica = -(-global_batch // replicas)
        here = replicas // pipelines
        return cls(per_replica, per_replica * replicas, here, pipeline * here)

    @property
    def num_replicas(self) -> int:
        """Replicas of all pipelines."""
        return self.global_batch // self.per_replica

    def counters(self, elements: Any) -> Any:
        """Positions in the stream: int64 ``[..., per_replica]`` of int64 ``[...]``."""
        elements = tf.convert_to_tensor(elements, tf.int64)
        step = elements // self.replicas_here
        replica = self.first_replica + elements % self.replicas_here
        start = step * self.global_batch + replica * self.per_replica
        return start[..., tf.newaxis] + tf.range(self.per_replica, dtype=tf.int64)

    def padded_counters(self, element: Any, num_examples: int) -> Any:
        """`counters` of a finite stream; -1 behind its end."""
        counters = self.counters(element)
        return tf.where(counters < num_examples, counters, tf.constant(-1, tf.int64))
