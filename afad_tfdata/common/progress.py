"""Progress: a bar on a terminal, plain periodic lines in a batch log."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator
from typing import TextIO

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def lines_shown() -> Iterator[None]:
    """Shows this package's progress and log lines where a program set up no logging.

    Without this, Python would show only warnings.
    """
    ours = logging.getLogger("afad_tfdata")
    if ours.hasHandlers() or ours.level != logging.NOTSET:
        yield
        return
    if sys.stderr is None:  # As in a service, or a program without a console.
        yield
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)
    try:
        yield
    finally:
        ours.removeHandler(handler)
        ours.setLevel(logging.NOTSET)


class Progress:
    """Counts work that is done and shows it; a context manager.

    Args:
      total: Units of work that are expected, or None if that is not known.
      what: What is being done, e.g. ``"writing"``.
      unit: Name of a unit, e.g. ``"images"``.
      initial: Units that were done before this run.
      every_secs: Interval between lines of a batch log, in seconds.
      stream: Where to draw a bar, if it is a terminal; stderr by default.
      clock: Returns seconds; tests pass their own.
    """

    def __init__(
        self,
        total: int | None,
        what: str,
        *,
        unit: str = "images",
        initial: int = 0,
        every_secs: float = 30.0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total, self._what, self._unit = total, what, unit
        self._done = self._initial = initial
        self._every_secs, self._clock = every_secs, clock
        self._started = self._last_line = clock()
        self._note = ""
        # Python has no standard error if it was closed when the program started.
        stream = stream or sys.stderr
        self._bar = None
        # tqdm is imported only where a bar is drawn, so that batch jobs start faster.
        if stream is not None and _shows_bars(stream):
            import tqdm

            self._bar = tqdm.tqdm(
                total=total,
                desc=what,
                unit=f" {unit}",
                initial=initial,
                file=stream,
                dynamic_ncols=True,
            )

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def update(self, count: int, **notes: str) -> None:
        """Adds units that are done.  The notes, e.g. ``loss="0.31"``, are shown too."""
        self._done += count
        if self._bar is not None:
            if notes:
                self._bar.set_postfix(notes, refresh=False)
            self._bar.update(count)
            return
        if notes:
            self._note = " ".join(f"{k}={v}" for k, v in notes.items())
        if self._clock() - self._last_line >= self._every_secs:
            self._log_progress()

    def close(self) -> None:
        """Ends the bar, or logs the last line."""
        if self._bar is not None:
            self._bar.close()
        elif self._done != self._initial:
            self._log_progress()

    def rate(self) -> float:
        """Units per second since the start."""
        elapsed = self._clock() - self._started
        return (self._done - self._initial) / elapsed if elapsed > 0 else 0.0

    def _log_progress(self) -> None:
        """Logs the progress as one line of a batch log."""
        self._last_line = self._clock()
        rate = self.rate()
        text = f"{self._what}: {self._done}"
        if self._total:
            text += f"/{self._total}"
        text += f" {self._unit}, {rate:,.0f} {self._unit}/s"
        if self._total and rate > 0 and self._total > self._done:
            text += f", {(self._total - self._done) / rate:.0f} s left"
        _log.info("%s%s", text, f", {self._note}" if self._note else "")


def _shows_bars(stream: TextIO) -> bool:
    """Whether a stream shows bars of progress: a terminal or a notebook."""
    # A program may have put an object with nothing but `write` in the place of stderr.
    is_terminal = getattr(stream, "isatty", lambda: False)()
    # A notebook's stream is not a terminal, but shows bars as well.
    return is_terminal or type(stream).__module__.startswith("ipykernel")
