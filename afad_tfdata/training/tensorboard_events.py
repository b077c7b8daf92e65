"""TensorBoard event files that can be cut back.

``tf.summary`` starts a new file in each process, so that steps which are taken again
after a restart would be drawn twice.  Here each part of a run has one file, which is
appended to, and cut back to a step when the run continues from it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from afad_tfdata.common import files
from afad_tfdata.common.lazy_imports import tf
from afad_tfdata.storage import tfrecord

_NAME = "events.out.tfevents.0000000000.run"


def append(directory: str, step: int, scalars: Mapping[str, float]) -> None:
    """Adds the scalars of one step to a TensorBoard event file.

    Args:
      directory: Of the part of the run: ``train`` or ``validation``.
      step: Number of the step.
      scalars: Values by tag, such as ``loss``.
    """
    path = os.path.join(directory, _NAME)
    new = not os.path.exists(path)
    files.make_dirs(directory)
    summary = tf.compat.v1.Summary(
        value=[
            tf.compat.v1.Summary.Value(tag=tag, simple_value=value)
            for tag, value in scalars.items()
        ]
    )
    event = tf.compat.v1.Event(wall_time=time.time(), step=step, summary=summary)
    with open(path, "ab") as f:
        if new:
            version = tf.compat.v1.Event(
                wall_time=time.time(), file_version="brain.Event:2"
            )
            f.write(tfrecord.frame(version.SerializeToString()))
        f.write(tfrecord.frame(event.SerializeToString()))


def read(directory: str) -> list[tuple[int, dict[str, float]]]:
    """Steps and scalars of a TensorBoard event file, in order, up to a torn record."""
    return [
        (event.step, {v.tag: v.simple_value for v in event.summary.value})
        for event in _read_events(os.path.join(directory, _NAME))
        if event.HasField("summary")
    ]


def cut(directory: str, step: int) -> None:
    """Removes TensorBoard events after a step, and a torn last one."""
    path = os.path.join(directory, _NAME)
    if not os.path.exists(path):
        return
    kept = [e for e in _read_events(path) if e.step <= step]
    content = b"".join(tfrecord.frame(event.SerializeToString()) for event in kept)
    if os.path.getsize(path) != len(content):
        files.write_atomic(path, content)


def _read_events(path: str) -> list[Any]:
    """The TensorBoard events of a file, up to one that was cut short."""
    events: list[Any] = []
    try:
        for record in tf.data.TFRecordDataset(path).as_numpy_iterator():
            events.append(tf.compat.v1.Event.FromString(record))
    except tf.errors.DataLossError:
        pass  # The process was killed while it wrote the last one.
    return events
