"""The state of a run at a step, as a checkpoint contains it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from afad_tfdata.common import errors, files
from afad_tfdata.storage import schema
from afad_tfdata.training import checkpoints, history, recipe, run_dir, step
from afad_tfdata.training import config as train_config

# A key in checkpoint files: never change it.
FACTS_KEY = "facts"


@dataclasses.dataclass
class RunState:
    """The outer loop's numbers: plain JSON values.

    Attributes:
      step: Number of steps done.
      epoch: Number of epochs done.
      sums: Sums over the steps of the present epoch, in the order of `step.SUMS`.
      course: Progress in the phases; checkpoint files contain this name.
      best: ``epoch``, ``step``, ``value`` and ``stage`` of the best epoch, or None.
      scale: Factor of the rates: the product of the recoveries' factors.
      recoveries: Number of recoveries.
      loss_mean: Running mean of the steps' losses in this phase.
      loss_steps: Number of steps in that mean.
      restart: The last ``--start_epoch`` that was applied, with its flags, or None.
    """

    step: int = 0
    epoch: int = 0
    sums: list[float] = dataclasses.field(
        default_factory=lambda: [0.0] * len(step.SUMS)
    )
    course: recipe.PhaseProgress = dataclasses.field(
        default_factory=recipe.PhaseProgress
    )
    best: dict[str, Any] | None = None
    scale: float = 1.0
    recoveries: int = 0
    loss_mean: float = 0.0
    loss_steps: int = 0
    restart: dict[str, Any] | None = None

    @property
    def ends_epoch(self) -> bool:
        """Whether an epoch is done and the next one has not begun."""
        return not any(self.sums)


@dataclasses.dataclass
class RunSnapshot:
    """A run at a step.

    Attributes:
      state: The outer loop's numbers.
      history: Epochs and events up to this step.
      arrays: Variables by ``group/position``.
      facts: What the model's input and outputs mean, as JSON values
        (`facts.Facts.to_dict`); empty in checkpoints of 0.1.0.
      paths: Keras' paths of the variables, by ``group/position``.
    """

    state: RunState
    history: history.History
    arrays: Mapping[str, np.ndarray]
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    paths: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def save(self, directory: str) -> str:
        """Writes the checkpoint of this step; returns its path."""
        path = checkpoints.path_of(directory, self.state.step)
        checkpoints.save(path, self.arrays, self.values(), self.paths)
        return path

    def values(self) -> dict[str, Any]:
        """The JSON values that a checkpoint contains in addition to the arrays."""
        return {
            "state": dataclasses.asdict(self.state),
            "history": self.history.to_dict(),
            FACTS_KEY: dict(self.facts),
        }

    def is_finite(self) -> bool:
        """Whether no variable contains infinity or NaN."""
        return all(
            np.isfinite(array).all()
            for array in self.arrays.values()
            if np.issubdtype(array.dtype, np.floating)
        )


def snapshot_in(checkpoint: checkpoints.Checkpoint) -> RunSnapshot:
    """The snapshot of a run in a checkpoint."""
    return RunSnapshot(
        state=_run_state_of(checkpoint.state["state"]),
        history=history.History(**checkpoint.state["history"]),
        arrays=checkpoint.arrays,
        facts=checkpoint.state.get(FACTS_KEY, {}),
        paths=checkpoint.paths,
    )


def snapshot_to_plain(snapshot: RunSnapshot | None) -> dict[str, Any] | None:
    """A snapshot of a run as JSON values and arrays, which workers can exchange."""
    if snapshot is None:
        return None
    return {
        "state": snapshot.values(),
        "arrays": dict(snapshot.arrays),
        "paths": dict(snapshot.paths),
    }


def snapshot_of_plain(value: Mapping[str, Any] | None) -> RunSnapshot | None:
    """The snapshot of a run of which `snapshot_to_plain` made these values."""
    return None if value is None else snapshot_in(checkpoints.Checkpoint(**value))


def _run_state_of(value: Mapping[str, Any]) -> RunState:
    """The state of a run from a checkpoint's JSON values."""
    sums = list(value["sums"])
    # Earlier checkpoints do not count the examples of each label: all had both.
    sums += sums[:1] * (len(step.SUMS) - len(sums))
    course = recipe.PhaseProgress(**value["course"])
    return RunState(**{**value, "course": course, "sums": sums})


def newest_snapshot(directory: str) -> RunSnapshot | None:
    """The snapshot of a run in its newest undamaged checkpoint; None without any."""
    found = checkpoints.load_newest(directory)
    return snapshot_in(found) if found else None


def find_snapshot(
    directory: run_dir.RunDir,
    config: train_config.TrainConfig,
    manifest: schema.Manifest | None,
) -> RunSnapshot | None:
    """The snapshot from which a run continues; obeys ``--start_epoch``.

    Args:
      directory: The run's directory.
      config: The command's config.
      manifest: Manifest of the records, or None.

    Raises:
      UsageError: The run there has another configuration, or the checkpoint of the
        epoch to go back to was not kept.
      DataError: There are checkpoints, but all are damaged.
    """
    stored = directory.stored()
    found = None
    if stored is not None:
        directory.check(stored, config, run_dir.records_digest(manifest))
        found = newest_snapshot(directory.checkpoints)
    epoch = config.start_epoch
    if not epoch:
        return found
    if found is None:
        raise errors.UsageError(
            f"--start_epoch={epoch} goes back within a run, and {directory.path} has"
            " no checkpoint: leave it out to start from the beginning"
        )
    asked = {
        name: getattr(config, name)
        for name in ("start_epoch", *sorted(train_config.RESTART_FIELDS))
    }
    if found.state.restart == asked:
        return found  # The restart was done before, and the same command goes on.
    return go_back_to_epoch(directory.checkpoints, epoch, asked)


def steps_of_epoch_ends(directory: str) -> dict[int, int]:
    """Steps of a run's checkpoints whose state ends an epoch, by epoch.

    Damaged checkpoints are left out.

    Args:
      directory: Where the checkpoints are.
    """
    ends = {}
    for at in checkpoints.steps(directory):
        try:
            stored = checkpoints.load_state(checkpoints.path_of(directory, at))
            state = _run_state_of(stored["state"])
        except (errors.DataError, LookupError, TypeError):
            continue  # Another checkpoint may be good.
        if state.ends_epoch:
            ends[state.epoch] = at
    return ends


def go_back_to_epoch(directory: str, epoch: int, asked: dict[str, Any]) -> RunSnapshot:
    """Makes the state of a run at the end of an earlier epoch its newest checkpoint.

    Args:
      directory: Directory of the checkpoints.
      epoch: The epoch to go back to.
      asked: The flags of the restart; they are recorded, so that the same command does
        not go back again.

    Raises:
      UsageError: The end of that epoch was not kept.
    """
    ends = steps_of_epoch_ends(directory)
    if epoch not in ends:
        kept = ", ".join(str(e) for e in sorted(ends)) or "none"
        raise errors.UsageError(
            f"--start_epoch={epoch}: the end of that epoch is not in {directory},"
            f" which has: {kept}"
        )
    snapshot = snapshot_in(
        checkpoints.load(checkpoints.path_of(directory, ends[epoch]))
    )
    state, there = snapshot.state, set(checkpoints.steps(directory))
    if state.best is not None and state.best["step"] not in there:
        # A later, better epoch has replaced the best one of that time: from here on,
        # the next epoch counts as the best.
        state.best = None
    state.restart, state.scale, state.recoveries = asked, 1.0, 0
    state.course.waited = state.course.plateau_waited = 0
    state.course.plateau_scale = 1.0
    text = f"back to epoch {epoch}"
    if asked["learning_rate"]:
        text += f", rate {asked['learning_rate']:g}"
    snapshot.history.event(state.step, "restart", text)
    snapshot.history.trim(epoch)
    # This checkpoint is saved first, because its state says that the restart was done.
    # If the process is killed before later checkpoints are removed, the same command
    # goes back again.
    snapshot.save(directory)
    for at in there:
        if at > state.step:
            files.remove_if_there(checkpoints.path_of(directory, at))
    return snapshot


def arrays_of_best_epoch(
    directory: str, state: RunState
) -> dict[str, np.ndarray] | None:
    """Variables of a run at the end of its best epoch; None if there is none yet.

    Raises:
      UsageError: The checkpoint is gone.
      DataError: The checkpoint is damaged.
    """
    if state.best is None:
        return None
    path = checkpoints.path_of(directory, state.best["step"])
    return checkpoints.load(path).arrays
