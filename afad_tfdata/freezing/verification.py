"""Verification: a written graph, loaded in a fresh process, against its model.

The process that froze the model computes what must come out; a new one, which knows the
file and nothing else, loads it, runs it and compares::

    cases = [verification.Case("real images, batch of 7", images, {"age": ages})]
    (report,) = verification.check(
        [verification.Job("face.pb", "root_input", fetches, cases)])
    report.failure(tolerance=1.0)    # None, or one sentence
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

import afad_tfdata
from afad_tfdata.common import errors
from afad_tfdata.freezing import graph_runner

# A frozen graph equals its model to this, at equal batch size; ages relative to the
# largest one.
PROBABILITY_TOLERANCE = 1e-5
AGE_TOLERANCE = 1e-5
# Times the model's own rounding, on input that is no image (`Case.is_image`): the order
# of sums, which differs by runtime, moves some inputs more than the few that are tried.
ROUNDING_FACTOR = 4
_REPEATS = 5
# Outputs by case, and the median time of a run by case in milliseconds.
_Outcome = tuple[list[dict[str, np.ndarray]], list[float]]
_TIMEOUT_SECS = 1800


@dataclasses.dataclass(frozen=True)
class Case:
    """One batch.

    Attributes:
      name: For the report: ``"real images, batch of 7"``.
      inputs: What is fed: an array, or a list of byte strings.
      expected: float32 arrays by label, out of the model.
      is_image: False for random input, far from all that a model was trained on: its
        float32 may determine the answer to fewer digits than the promise has.
    """

    name: str
    inputs: Any
    expected: Mapping[str, np.ndarray]
    is_image: bool = True


@dataclasses.dataclass(frozen=True)
class Report:
    """What came out.

    Attributes:
      cases: By case name and label, the largest absolute difference; infinite where a
        shape or dtype differs or a value is not finite.
      largest: Largest expected value by label, at least 1.
      latency_ms: Median time of a run by case name.
      random: Names of the cases that are no images.
    """

    cases: dict[str, dict[str, float]]
    largest: dict[str, float]
    latency_ms: dict[str, float]
    random: tuple[str, ...] = ()

    @property
    def max_difference(self) -> dict[str, float]:
        """By label, over all cases."""
        return {
            label: max(by_label[label] for by_label in self.cases.values())
            for label in self.largest
        }

    def allowed(self, tolerance: float) -> dict[str, float]:
        """The largest difference by label with which a graph passes."""
        return {
            label: tolerance
            * (AGE_TOLERANCE * largest if label == "age" else PROBABILITY_TOLERANCE)
            for label, largest in self.largest.items()
        }

    def failure(
        self, tolerance: float, rounding: Mapping[str, float] | None = None
    ) -> str | None:
        """What is wrong, or None.

        Args:
          tolerance: Scales what is allowed; 1 is the promise.
          rounding: By label, how far the model is from itself on random input: there,
            and nowhere else, `ROUNDING_FACTOR` times that is allowed too.
        """
        for name, by_label in self.cases.items():
            allowed = self.allowed(tolerance)
            if rounding and name in self.random:
                allowed = {
                    label: max(value, ROUNDING_FACTOR * rounding[label])
                    for label, value in allowed.items()
                }
            for label, difference in by_label.items():
                if not difference <= allowed[label]:
                    return (
                        f"{label} differs from the model's by {difference:.3g} on"
                        f" {name}, and {allowed[label]:.3g} is allowed"
                    )
        return None


@dataclasses.dataclass(frozen=True)
class Job:
    """One written graph and what it must do.

    Attributes:
      path: File or directory that `runner` can load.
      feed: Name of the input.
      fetches: Names of the outputs by label.
      cases: At least one.
    """

    path: str
    feed: str
    fetches: Mapping[str, str]
    cases: Sequence[Case]


def check(jobs: Sequence[Job], *, fresh: bool = True) -> list[Report]:
    """Runs written graphs on cases and compares.

    Args:
      jobs: The graphs.
      fresh: In a new process; False stays in this one.

    Raises:
      DataError: The new process could not load or run a graph.
    """
    if fresh:
        found = _run_fresh(jobs)
    else:
        found = [
            _run(j.path, j.feed, j.fetches, [c.inputs for c in j.cases]) for j in jobs
        ]
    return [
        _compare(job, outputs, latency)
        for job, (outputs, latency) in zip(jobs, found, strict=True)
    ]


def median_ms(call: Callable[[], Any], repeats: int = _REPEATS) -> float:
    """Median time of a call in milliseconds, after one that does not count."""
    call()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return 1000 * float(np.median(times))


def _compare(
    job: Job, outputs: Sequence[Mapping[str, np.ndarray]], latency: Sequence[float]
) -> Report:
    differences, largest = {}, dict.fromkeys(job.fetches, 1.0)
    for case, output in zip(job.cases, outputs, strict=True):
        differences[case.name] = {
            label: _difference(output[label], case.expected[label])
            for label in job.fetches
        }
        for label in job.fetches:
            reached = float(np.max(np.abs(case.expected[label]), initial=0.0))
            largest[label] = max(largest[label], reached)
    times = {case.name: ms for case, ms in zip(job.cases, latency, strict=True)}
    random = tuple(case.name for case in job.cases if not case.is_image)
    return Report(differences, largest, times, random)


def _difference(output: np.ndarray, expected: np.ndarray) -> float:
    if output.shape != expected.shape or output.dtype != expected.dtype:
        return float("inf")
    if not (np.isfinite(output).all() and np.isfinite(expected).all()):
        return float("inf")
    return float(np.max(np.abs(output - expected), initial=0.0))


def _run(
    path: str, feed: str, fetches: Mapping[str, str], inputs: Sequence[Any]
) -> _Outcome:
    # On the CPU, as the model was: accelerators round products to fewer digits.
    graph = graph_runner.Runner(path, feed, fetches, device="cpu")
    outputs, latency = [], []
    for value in inputs:
        outputs.append(graph.run(value))
        latency.append(median_ms(functools.partial(graph.run, value)))
    return outputs, latency


def _run_fresh(jobs: Sequence[Job]) -> list[_Outcome]:
    with tempfile.TemporaryDirectory(prefix="afad-verify-") as directory:
        root = pathlib.Path(directory)
        texts = []
        for i, job in enumerate(jobs):
            arrays, kinds = {}, []
            for j, case in enumerate(job.cases):
                is_array = isinstance(case.inputs, np.ndarray)
                kinds.append(0 if is_array else len(case.inputs))
                if is_array:
                    arrays[f"{j}"] = case.inputs
                else:
                    for k, text in enumerate(case.inputs):
                        arrays[f"{j}/{k}"] = np.frombuffer(text, np.uint8)
            np.savez(root / f"inputs-{i}.npz", **arrays)
            texts.append(
                {
                    "path": os.path.abspath(job.path),
                    "feed": job.feed,
                    "fetches": dict(job.fetches),
                    "strings": kinds,
                }
            )
        (root / "jobs.json").write_text(json.dumps(texts))
        _start(directory)
        latency = json.loads((root / "latency.json").read_text())
        found = []
        for i, job in enumerate(jobs):
            with np.load(root / f"outputs-{i}.npz", allow_pickle=False) as stored:
                outputs = [
                    {label: stored[f"{j}/{label}"] for label in job.fetches}
                    for j in range(len(job.cases))
                ]
            found.append((outputs, latency[i]))
    return found


def _start(directory: str) -> None:
    environment = dict(os.environ, CUDA_VISIBLE_DEVICES="-1", TF_CPP_MIN_LOG_LEVEL="3")
    root = str(pathlib.Path(afad_tfdata.__file__).resolve().parent.parent)
    paths = [root, *filter(None, [environment.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    command = [sys.executable, "-m", __spec__.name, directory]
    try:
        done = subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_SECS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise errors.DataError(
            f"the frozen graph did not finish in a fresh process in {_TIMEOUT_SECS} s"
        ) from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        raise errors.DataError(
            "the frozen graph could not be run in a fresh process:"
            f" {errors.one_line(lines[-1])}"
        )


def _main(directory: str) -> None:
    """The fresh process: reads the jobs, runs the graphs, writes what came out."""
    root = pathlib.Path(directory)
    times = []
    for i, job in enumerate(json.loads((root / "jobs.json").read_text())):
        with np.load(root / f"inputs-{i}.npz", allow_pickle=False) as stored:
            inputs = [
                [stored[f"{j}/{k}"].tobytes() for k in range(count)]
                if count
                else stored[f"{j}"]
                for j, count in enumerate(job["strings"])
            ]
        try:
            outputs, latency = _run(job["path"], job["feed"], job["fetches"], inputs)
        except (errors.AfadError, graph_runner.InputError) as error:
            sys.exit(str(error))
        arrays = {f"{j}/{k}": v for j, o in enumerate(outputs) for k, v in o.items()}
        np.savez(root / f"outputs-{i}.npz", **arrays)
        times.append(latency)
    (root / "latency.json").write_text(json.dumps(times))


if __name__ == "__main__":
    _main(sys.argv[1])
