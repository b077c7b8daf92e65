"""Shards' payloads written on Apache Beam, and so on Dataflow, Flink or Spark.

The same function for each shard as the local writer's workers call, so the bytes are
the same.  Source and output lie on a file system that all of Beam's workers see.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from typing import Any

from afad_tfdata.common import errors
from afad_tfdata.writing import plan, shard_writer

_log = logging.getLogger(__name__)


def run(
    root: str,
    tasks: Sequence[plan.ShardTask],
    directory: str,
    *,
    beam_options: str,
) -> None:
    """Writes the payloads of these shards.

    Args:
      root: Directory of the source.
      tasks: Shards that are still to be written.
      directory: Where the plan lies, and where payloads go.
      beam_options: Flags of a Beam pipeline, such as
        ``--runner=DirectRunner --direct_num_workers=2``.

    Raises:
      UsageError: Beam is not installed, refuses its options, or could not go on.
    """
    beam = errors.require("apache_beam", extra="beam", purpose="--runner=beam")
    pipeline_options = errors.require(
        "apache_beam.options.pipeline_options", extra="beam", purpose="--runner=beam"
    )
    if not tasks:
        return
    numbers = [task.number for task in tasks]
    write = _WriteShard(root, directory)
    try:
        options = pipeline_options.PipelineOptions(shlex.split(beam_options))
        with beam.Pipeline(options=options) as pipeline:
            (
                pipeline
                | "shards" >> beam.Create(numbers)
                | "spread" >> beam.Reshuffle()
                | "write" >> beam.Map(write)
            )
    except errors.AfadError:
        raise
    except Exception as error:  # Beam wraps what a worker raised into its own.
        raise errors.UsageError(
            f"Beam could not write the shards: {_reason(error)}; run the same command:"
            " it continues"
        ) from error


class _WriteShard:
    """Writes one shard; picklable, and loads the plan once in each process."""

    def __init__(self, root: str, directory: str) -> None:
        self._root, self._directory = root, directory
        self._plan: plan.Plan | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"_root": self._root, "_directory": self._directory, "_plan": None}

    def __call__(self, number: int) -> int:
        if self._plan is None:
            self._plan = plan.load(self._directory)
        task = self._plan.tasks[number]
        shard_writer.write_payload(
            self._root, self._plan, task, self._directory, lambda count: None
        )
        return number


def _reason(error: Exception) -> str:
    """The package's own error inside of Beam's, if there is one."""
    text = str(error)
    for line in text.splitlines():
        if "errors.UsageError:" in line:
            return line.split("errors.UsageError:")[1].strip()
    return errors.one_line(text)
