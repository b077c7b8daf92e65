"""Compares a written graph, which runs in a fresh process, with its model.

The process that froze the model computes what the graph must return.  A new process,
which knows only the file, loads and runs it; then the two results are compared::

    cases = [verification.Case("real images, batch of 7", images, {"age": ages})]
    candidate = verification.Candidate("face.pb", "root_input", fetches, cases)
    (comparison,) = verification.check([candidate])
    comparison.failure(tolerance=1.0)    # None, or one sentence
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

from afad_tfdata.common import child_process, errors
from afad_tfdata.freezing import loaded_graph

# Largest difference between a frozen graph and its model at equal batch size.  Sums of
# float32 in another order differ by about 1e-7 of their size in each layer; a wrong
# weight or a forgotten operation shows far above 1e-5.
PROBABILITY_TOLERANCE = 1e-5
AGE_TOLERANCE = 1e-5  # Relative to the largest age, which counts as at least 1 year.
# On input that is not an image (`Case.is_image`), a graph may differ by this many times
# the model's own rounding.  Runtimes add in different orders, and the few inputs that
# are tried do not show the largest effect of that.
ROUNDING_FACTOR = 4
# The median of five runs ignores two that were disturbed by other processes.
_LATENCY_REPEATS = 5
# Loading and running the largest networks takes minutes on one busy core; a process
# that takes longer than this hangs.
_TIMEOUT_SECS = 1800
# Outputs by case, and the median time of a run by case in milliseconds.
_RunResult = tuple[list[dict[str, np.ndarray]], list[float]]


@dataclasses.dataclass(frozen=True)
class Case:
    """One batch and the model's outputs for it.

    Attributes:
      name: What the batch is, for people: ``"real images, batch of 7"``.
      inputs: What the graph is fed: an array, or a list of byte strings.
      expected: The model's outputs by label, float32.
      is_image: False for random input, far from everything that a model was trained
        on: float32 may determine its output to fewer digits than the tolerance.
      is_timed: Whether the time of a run is measured, which takes several runs.
    """

    name: str
    inputs: np.ndarray | list[bytes]
    expected: Mapping[str, np.ndarray]
    is_image: bool = True
    is_timed: bool = True


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A written graph that is to be verified.

    Attributes:
      path: File or directory that `loaded_graph` can load.
      feed: Name of the input.
      fetches: Names of the outputs by label.
      cases: What it is run on; at least one.
    """

    path: str
    feed: str
    fetches: Mapping[str, str]
    cases: Sequence[Case]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How far a graph's outputs are from its model's.

    Attributes:
      cases: The largest absolute difference by case name and label; infinite if a shape
        or dtype differs or a value is not finite.
      largest: Largest expected value by label, at least 1.
      latency_ms: Median time of a run by case name, in milliseconds; NaN if it was not
        measured.
      random: Names of the cases that are not images.
      mean_difference: Mean absolute difference over all images, by label; infinite
        like those in `cases`.
      equal_genders: Share of the images with the gender that the model predicts; None
        without this label.
      num_images: Number of images in the cases.
    """

    cases: dict[str, dict[str, float]]
    largest: dict[str, float]
    latency_ms: dict[str, float]
    random: tuple[str, ...] = ()
    mean_difference: dict[str, float] = dataclasses.field(default_factory=dict)
    equal_genders: float | None = None
    num_images: int = 0

    @property
    def max_difference(self) -> dict[str, float]:
        """The largest difference of a verified graph over all cases, by label."""
        return {
            label: max(by_label[label] for by_label in self.cases.values())
            for label in self.largest
        }

    def allowed(self, tolerance: float) -> dict[str, float]:
        """The largest difference with which a graph passes verification, by label."""
        return {
            label: tolerance
            * (PROBABILITY_TOLERANCE if label == "gender" else AGE_TOLERANCE * largest)
            for label, largest in self.largest.items()
        }

    def failure(
        self, tolerance: float, rounding: Mapping[str, float] | None = None
    ) -> str | None:
        """The verification's first difference that is too large, in words, or None.

        Args:
          tolerance: Factor on what is allowed; 1 is the promise.
          rounding: How far the model differs from itself on random input, by label.
            On random input only, `ROUNDING_FACTOR` times that is allowed as well.
        """
        for name, by_label in self.cases.items():
            allowed = self.allowed(tolerance)
            if rounding and name in self.random:
                allowed = {
                    label: max(value, ROUNDING_FACTOR * rounding[label])
                    for label, value in allowed.items()
                }
            for label, difference in by_label.items():
                # "not <=" and not ">": NaN must fail.
                if not difference <= allowed[label]:
                    return (
                        f"{label} differs from the model's by {difference:.3g} on"
                        f" {name}, and {allowed[label]:.3g} is allowed"
                    )
        return None


def check(candidates: Sequence[Candidate]) -> list[Comparison]:
    """Verifies written graphs: runs them in one fresh process, compares outputs.

    Args:
      candidates: The graphs.

    Returns:
      One comparison for each candidate, in order.

    Raises:
      DataError: The fresh process could not load or run a graph.
    """
    return [
        compare(candidate, outputs, latency)
        for candidate, (outputs, latency) in zip(
            candidates, _run_fresh(candidates), strict=True
        )
    ]


def compare(
    candidate: Candidate,
    outputs: Sequence[Mapping[str, np.ndarray]],
    latency: Sequence[float],
) -> Comparison:
    """Compares the outputs of a graph to be verified with the expected ones.

    Args:
      candidate: The graph and its cases.
      outputs: What it returned for each case, by label.
      latency: Milliseconds of each case.
    """
    differences: dict[str, dict[str, float]] = {}
    # Ages below 1 year would make the relative tolerance meaningless.
    largest = dict.fromkeys(candidate.fetches, 1.0)
    for case, output in zip(candidate.cases, outputs, strict=True):
        differences[case.name] = {
            label: _largest_difference(output[label], case.expected[label])
            for label in candidate.fetches
        }
        for label in candidate.fetches:
            reached = float(np.max(np.abs(case.expected[label]), initial=0.0))
            largest[label] = max(largest[label], reached)
    times = {case.name: ms for case, ms in zip(candidate.cases, latency, strict=True)}
    random = tuple(case.name for case in candidate.cases if not case.is_image)
    means, equal, count = _mean_differences(candidate, outputs)
    return Comparison(differences, largest, times, random, means, equal, count)


def _mean_differences(
    candidate: Candidate, outputs: Sequence[Mapping[str, np.ndarray]]
) -> tuple[dict[str, float], float | None, int]:
    """The verification's mean differences, share of equal genders, number of images."""
    pairs = [
        (output, case.expected)
        for case, output in zip(candidate.cases, outputs, strict=True)
        if case.is_image
    ]
    means, equal, count = {}, None, 0
    for label in candidate.fetches:
        largest = [
            _largest_difference(out[label], wanted[label]) for out, wanted in pairs
        ]
        if not pairs or not np.isfinite(largest).all():
            means[label] = float("inf")
            continue
        found = np.concatenate([output[label].ravel() for output, _ in pairs])
        wanted = np.concatenate([expected[label].ravel() for _, expected in pairs])
        means[label], count = float(np.mean(np.abs(found - wanted))), len(found)
        if label == "gender":
            equal = float(np.mean((found >= 0.5) == (wanted >= 0.5)))
    return means, equal, count


def median_latency_ms(
    call: Callable[[], Any], repeats: int = _LATENCY_REPEATS
) -> float:
    """Median time of a call in milliseconds, for the verification's latencies."""
    call()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return 1000 * float(np.median(times))


def _largest_difference(output: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference of a graph's output; infinite for NaN or another shape."""
    if output.shape != expected.shape or output.dtype != expected.dtype:
        return float("inf")
    # Two NaN do not count as equal: a model that returns them is broken.
    if not (np.isfinite(output).all() and np.isfinite(expected).all()):
        return float("inf")
    return float(np.max(np.abs(output - expected), initial=0.0))


def _run_fresh(candidates: Sequence[Candidate]) -> list[_RunResult]:
    """Runs the candidates of a verification in a process with nothing of this one."""
    with tempfile.TemporaryDirectory(prefix="afad-verify-") as directory:
        root = pathlib.Path(directory)
        _store_candidates(root, candidates)
        _start_fresh_process(directory)
        latency = json.loads((root / "latency.json").read_text())
        results = []
        for i, candidate in enumerate(candidates):
            # Pickle is not allowed, because the files contain only plain arrays.
            with np.load(root / f"outputs-{i}.npz", allow_pickle=False) as stored:
                outputs = [
                    {label: stored[f"{j}/{label}"] for label in candidate.fetches}
                    for j in range(len(candidate.cases))
                ]
            results.append((outputs, latency[i]))
    return results


def _store_candidates(root: pathlib.Path, candidates: Sequence[Candidate]) -> None:
    """Writes what the verification's process needs: candidates.json, inputs-N.npz."""
    descriptions = []
    for i, candidate in enumerate(candidates):
        arrays: dict[str, np.ndarray] = {}
        strings = []  # How many byte strings each case has; 0 for an array.
        for j, case in enumerate(candidate.cases):
            if isinstance(case.inputs, np.ndarray):
                strings.append(0)
                arrays[f"{j}"] = case.inputs
            else:
                strings.append(len(case.inputs))
                # Stored as uint8, because numpy's own byte strings lose zeros at their
                # end.
                for k, text in enumerate(case.inputs):
                    arrays[f"{j}/{k}"] = np.frombuffer(text, np.uint8)
        np.savez(root / f"inputs-{i}.npz", **arrays)
        descriptions.append(
            {
                "path": os.path.abspath(candidate.path),
                "feed": candidate.feed,
                "fetches": dict(candidate.fetches),
                "strings": strings,
                "timed": [case.is_timed for case in candidate.cases],
            }
        )
    (root / "candidates.json").write_text(json.dumps(descriptions))


def _start_fresh_process(directory: str) -> None:
    """Starts the verification's process, which runs `_main`, and waits for it."""
    # Like the model, the graph runs without GPUs: they round products to fewer digits,
    # and the process that froze the model may have taken their memory.  TensorFlow must
    # write no log, so that the last line on standard error is the program's own.
    environment = dict(os.environ, CUDA_VISIBLE_DEVICES="-1", TF_CPP_MIN_LOG_LEVEL="3")
    command = child_process.command(f"{__name__}:_main", directory)
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",  # Libraries print file names, too.
            timeout=_TIMEOUT_SECS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise errors.DataError(
            f"the frozen graph did not finish in a fresh process in {_TIMEOUT_SECS} s:"
            " run the command again on a machine with less load"
        ) from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        raise errors.DataError(
            "the frozen graph could not be run in a fresh process:"
            f" {errors.one_line(lines[-1])}"
        )


def _run_candidate(
    path: str,
    feed: str,
    fetches: Mapping[str, str],
    inputs: Sequence[Any],
    timed: Sequence[bool],
) -> _RunResult:
    """Runs a graph to be verified on all inputs, in the fresh process."""
    # The CPU is used, as for the model, because GPUs round products to fewer digits.
    graph = loaded_graph.LoadedGraph(path, feed, fetches, device="cpu")
    outputs, latency = [], []
    for value, is_timed in zip(inputs, timed, strict=True):
        outputs.append(graph.run(value))
        call = functools.partial(graph.run, value)
        latency.append(median_latency_ms(call) if is_timed else float("nan"))
    return outputs, latency


def _main(arguments: list[str]) -> int:
    """The verification's process: reads the candidates, runs them, writes outputs."""
    root = pathlib.Path(arguments[0])
    times = []
    for i, candidate in enumerate(json.loads((root / "candidates.json").read_text())):
        with np.load(root / f"inputs-{i}.npz", allow_pickle=False) as stored:
            inputs = [
                [stored[f"{j}/{k}"].tobytes() for k in range(count)]
                if count
                else stored[f"{j}"]
                for j, count in enumerate(candidate["strings"])
            ]
        try:
            outputs, latency = _run_candidate(
                candidate["path"],
                candidate["feed"],
                candidate["fetches"],
                inputs,
                candidate["timed"],
            )
        except (errors.AfadError, loaded_graph.GraphInputError) as error:
            sys.exit(str(error))  # One line on standard error, and status 1.
        arrays = {f"{j}/{k}": v for j, o in enumerate(outputs) for k, v in o.items()}
        np.savez(root / f"outputs-{i}.npz", **arrays)
        times.append(latency)
    (root / "latency.json").write_text(json.dumps(times))
    return 0
