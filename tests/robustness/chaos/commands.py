"""The chain of commands on small inputs, and what of their output is compared."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import zipfile
from collections.abc import Callable
from typing import Any

import h5py

from tests.training import small_runs
from tests.writing import data_sets


@dataclasses.dataclass(frozen=True)
class Command:
    """A command of the chain, on small inputs.

    Attributes:
      name: Name of the program in bin/.
      flags: Its command line; paths are relative to the trial's directory.
      needs: Directories that it reads.
      makes: The directory that it fills; empty for none.
      end: Takes that directory and the standard output, and returns what must be equal
        for two runs that ended alike.
      weight: How often it is chosen, relative to the others.
    """

    name: str
    flags: tuple[str, ...]
    needs: tuple[str, ...]
    makes: str
    end: Callable[[str, str], Any]
    weight: int = 4


def _end_of_writing(directory: str, output: str) -> Any:
    del output
    return data_sets.digests(directory), sorted(os.listdir(directory))


def _end_of_inspection(directory: str, output: str) -> Any:
    del directory
    return json.loads(output)


def _end_of_training(directory: str, output: str) -> Any:
    del output
    end = small_runs.end_of(directory)
    arrays = {name: array.tobytes() for name, array in end.arrays.items()}
    models = [
        _weights(os.path.join(directory, f"{n}.keras")) for n in ("best", "final")
    ]
    return arrays, end.state, end.history, models, files_below(directory)


def _weights(path: str) -> dict[str, bytes]:
    """Weights of a .keras file, whose own bytes contain the time of writing."""
    found = {}
    with zipfile.ZipFile(path) as parts:
        content = io.BytesIO(parts.read("model.weights.h5"))
    with h5py.File(content) as f:
        f.visititems(
            lambda name, item: found.update(
                {name: item[()].tobytes()} if isinstance(item, h5py.Dataset) else {}
            )
        )
    return found


def files_below(directory: str) -> list[str]:
    """Paths of all files below a directory, relative to it, in order."""
    return sorted(
        os.path.relpath(os.path.join(folder, name), directory)
        for folder, _, names in os.walk(directory)
        for name in names
    )


def _end_of_evaluation(directory: str, output: str) -> Any:
    del output
    with open(os.path.join(directory, "metrics.json")) as f:
        return json.load(f), files_below(directory)


def _end_of_freezing(directory: str, output: str) -> Any:
    del output
    with open(os.path.join(directory, "faces.json")) as f:
        description = json.load(f)
    # Times and rounding change from run to run, and the checksum with them.
    for name in ("latency_ms", "checksum", "parity"):
        description.pop(name, None)
    with open(os.path.join(directory, "mean.json")) as f:
        return description, json.load(f), files_below(directory)


def _end_of_prediction(directory: str, output: str) -> Any:
    del directory
    return [json.loads(line) for line in output.splitlines()]


_WRITE = ("--data_dir=faces", "--image_size=24", "--num_shards=3")
WRITE_TFRECORD = Command(
    "write_records",
    (*_WRITE, "--output_dir=records", "--num_workers=2"),
    ("faces",),
    "records",
    _end_of_writing,
)
WRITE_HDF5 = Command(
    "write_records",
    (*_WRITE, "--output_dir=pixels", "--format=hdf5", "--num_workers=1"),
    ("faces",),
    "pixels",
    _end_of_writing,
)
INSPECT = Command(
    "inspect_records",
    ("--records_dir=records", "--verify", "--json"),
    ("records",),
    "",
    _end_of_inspection,
)
TRAIN = Command(
    "train",
    (
        *("--records_dir=records", "--run_dir=run", "--backbone=small_cnn"),
        *("--image_size=16", "--stage=tuning", "--epochs=2", "--devices=cpu"),
        *("--global_batch_size=16", "--steps_per_loop=1", "--checkpoint_steps=2"),
        *("--optimizer=adam", "--augment=default,form=affine_op"),
    ),
    ("records",),
    "run",
    _end_of_training,
    weight=6,
)
EVALUATE = Command(
    "evaluate",
    (
        *("--run_dir=run", "--records_dir=records", "--output_dir=evaluation"),
        *("--bootstrap_samples=20", "--devices=cpu"),
    ),
    ("records", "run"),
    "evaluation",
    _end_of_evaluation,
    weight=3,
)
FREEZE = Command(
    "freeze",
    (
        *("--run_dir=run", "--records_dir=records", "--output_dir=graph"),
        "--output_name=faces",
    ),
    ("records", "run"),
    "graph",
    _end_of_freezing,
    weight=2,
)
PREDICT = Command(
    "predict",
    ("--graph=graph/faces.pb", "--json", "--device=cpu", "--threads=2", "some"),
    ("graph", "some"),
    "",
    _end_of_prediction,
    weight=3,
)
# In the order in which one needs what another makes.
COMMANDS = (WRITE_TFRECORD, WRITE_HDF5, INSPECT, TRAIN, EVALUATE, FREEZE, PREDICT)
WRITERS = (WRITE_TFRECORD, WRITE_HDF5)
