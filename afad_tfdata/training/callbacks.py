"""The caller's own objects that a training calls, such as a logger of experiments.

::

    class Printer:
        def on_epoch(self, event):
            print(event.epoch, event.metrics["validation/mae"])

    trainer.train(config, callbacks=[Printer()])

An object has any of the methods `NAMES`.  Each gets its own copy of a `TrainEvent`,
which consists of plain values: nothing that is done with it changes the training.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import inspect
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from afad_tfdata.common import errors
from afad_tfdata.common.lazy_imports import keras

NAMES = ("on_start", "on_steps", "on_epoch", "on_checkpoint", "on_end")

_log = logging.getLogger(__name__)


class StopTraining(Exception):
    """A callback raises it to end the training.

    Args:
      reason: What the log and `TrainResult.stopped` say.
    """

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)


class EndEarlyError(Exception):
    """Leaves the loops of a training that a callback ended, after saving."""


@dataclasses.dataclass(frozen=True)
class TrainEvent:
    """What a callback gets: the state of the training, in plain values.

    Attributes:
      run_dir: The run directory.
      step: Number of steps done.  After a recovery it is smaller than before.
      epoch: Number of epochs done.
      phase: Number of the recipe's phase, counted from 0.
      stage: ``warmup`` or ``tuning``.
      learning_rate: Rate of the last step, or of the first step if there was none yet.
      metrics: ``on_steps``: ``step_loss`` (mean since the last call),
        ``images_per_second`` and ``waiting`` (share of the time spent waiting for
        input) of the epoch so far.  ``on_epoch``: the metrics of ``history.json``,
        called ``train/loss``, ``validation/mae`` and so on.  Otherwise empty.
      paths: ``on_epoch``: ``best``, the model of this epoch, if it is the best so far.
        ``on_checkpoint``: ``checkpoint``.  ``on_end``: ``best`` and ``final``, those
        that exist.  Otherwise empty.
      status: ``running``.  In ``on_end``: ``finished``, ``stopped`` (by a callback),
        ``preempted`` (by a signal) or ``failed``.
      reason: In ``on_end``, why the training was stopped or failed.
      config: All options, as in ``config.json``.
    """

    run_dir: str
    step: int
    epoch: int
    phase: int
    stage: str
    learning_rate: float
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    paths: dict[str, str] = dataclasses.field(default_factory=dict)
    status: str = "running"
    reason: str = ""
    config: dict[str, Any] = dataclasses.field(default_factory=dict)


class Callbacks:
    """Calls the caller's objects, and remembers whether one of them ends the training.

    Args:
      objects: As they were passed to `trainer.train`, checked by `check_callbacks`.
      config: The options, as JSON values.
    """

    def __init__(self, objects: Sequence[Any], config: Mapping[str, Any]) -> None:
        self._objects, self._config = tuple(objects), dict(config)
        self._last: TrainEvent | None = None
        self._failure: errors.UsageError | None = None
        self._stop, self._is_over = "", False
        self._warned: set[str] = set()

    @property
    def ends_training(self) -> bool:
        """Whether a callback failed or asked for the end."""
        return bool(self._stop or self._failure)

    @property
    def stopped(self) -> str:
        """Which callback ended the training and why; empty if none did."""
        return self._stop if self._is_over else ""

    def over(self) -> None:
        """Notes that the training ends before its last epoch."""
        self._is_over = True

    def call(self, name: str, event: TrainEvent) -> None:
        """Calls a method of all objects that have it.

        An error in the method is not raised here, in the middle of a training.  It ends
        the training at the next moment at which everything can be saved.

        Args:
          name: One of `NAMES`.
          event: What it gets; its ``config`` is added here.
        """
        self._last = event = dataclasses.replace(event, config=self._config)
        for number, called in enumerate(self._objects):
            if self._failure is not None:
                return
            self._call(f"callbacks[{number}]", called, name, event)

    def _call(self, label: str, called: Any, name: str, event: TrainEvent) -> None:
        """Calls a method of a callback; its error ends the training."""
        method = getattr(called, name, None)
        if method is None:
            return
        title = f"{label} ({type(called).__name__}), in {name}"
        try:
            result = method(copy.deepcopy(event))
        except StopTraining as error:
            self._stop = self._stop or f"{title}: {str(error) or 'no reason given'}"
        except Exception as error:  # A caller's code may raise anything.
            what = (
                "the training is over" if name == "on_end" else "the training stopped"
            )
            self._failure = errors.UsageError(
                f"{title}, after step {event.step}: {errors.cause(error)}; {what}, and"
                f" everything is saved in {event.run_dir}: mend the callback; the same"
                " call continues"
            )
            self._failure.__cause__ = error
        else:
            if result is True and title not in self._warned:
                self._warned.add(title)
                _log.warning(
                    "%s returned True, which does nothing: raise trainer.StopTraining"
                    " to end the training",
                    title,
                )

    def outcome(self) -> str:
        """`stopped`, unless a callback failed.

        Raises:
          UsageError: It names the callback; its cause is what the callback raised.
        """
        if self._failure is not None:
            raise self._failure
        return self.stopped

    @contextlib.contextmanager
    def ended(self, paths: Callable[[], dict[str, str]]) -> Iterator[None]:
        """Calls ``on_end`` of the callbacks after the block, however it ends.

        Args:
          paths: Returns the paths of the models.
        """
        try:
            yield
        except BaseException as error:
            is_stop = isinstance(error, errors.PreemptedError)
            reason = str(error)
            if not isinstance(error, errors.AfadError):
                reason = f"{type(error).__name__}: {errors.one_line(error)}"
            self._end("preempted" if is_stop else "failed", reason, paths())
            raise
        status = "stopped" if self.stopped else "finished"
        self._end(status, self.stopped, paths())
        self.outcome()

    def _end(self, status: str, reason: str, paths: dict[str, str]) -> None:
        """Tells all callbacks how the training has ended."""
        if self._last is None:  # The training has not begun: no callback was called.
            return
        before, self._failure = self._failure, None
        for number, called in enumerate(self._objects):
            event = dataclasses.replace(
                self._last, metrics={}, paths=paths, status=status, reason=reason
            )
            self._call(f"callbacks[{number}]", called, "on_end", event)
            if status == "failed" and self._failure is not None:
                # The error that ended the training is raised, and not this one.
                _log.warning("%s", self._failure)
        self._failure = before or self._failure


def check_callbacks(callbacks: Any) -> None:
    """Refuses callbacks that could not be called, or never would be.

    Raises:
      UsageError: It says which object, and what is wrong with it.
    """
    wanted = f"callbacks takes a list of objects with methods {', '.join(NAMES)}"
    if not isinstance(callbacks, list | tuple):
        raise errors.UsageError(
            f"{wanted}; got {errors.kind(callbacks)}: put the object into a list"
        )
    for number, called in enumerate(callbacks):
        label = f"callbacks[{number}]"
        if isinstance(called, type):
            raise errors.UsageError(
                f"{wanted}; {label} is the class {called.__name__}: pass an object,"
                f" {called.__name__}(...)"
            )
        if isinstance(called, keras.callbacks.Callback):
            raise errors.UsageError(
                f"{wanted}; {label} is the Keras callback {type(called).__name__},"
                " which only model.fit can call: write an object with such methods"
            )
        label = f"{label} ({type(called).__name__})"
        for name in dir(called):
            if (
                name.startswith("on_")
                and name not in NAMES
                and callable(getattr(called, name, None))
            ):
                raise errors.UsageError(
                    f"{wanted}; {label} has {name}, which would never be called:"
                    " rename it"
                )
        found = [name for name in NAMES if getattr(called, name, None) is not None]
        for name in found:
            _check_callback_method(label, called, name)
        if not found:
            raise errors.UsageError(f"{wanted}; {label} has none of them")


def _check_callback_method(label: str, called: Any, name: str) -> None:
    """Refuses a callback whose method cannot be called."""
    method = getattr(called, name)
    if not callable(method):
        raise errors.UsageError(
            f"{label}: {name} must be a method; got {errors.kind(method)}"
        )
    if inspect.iscoroutinefunction(method) or inspect.isgeneratorfunction(method):
        raise errors.UsageError(
            f"{label}: {name} must be a plain method, because what an async method or a"
            " generator returns would not be run"
        )
    try:
        signature = inspect.signature(method)
    except (TypeError, ValueError):  # Functions written in C do not say.
        return
    try:
        signature.bind(None)
    except TypeError as error:
        raise errors.UsageError(
            f"{label}: {name} must take one argument, the event; it takes {signature}"
        ) from error
