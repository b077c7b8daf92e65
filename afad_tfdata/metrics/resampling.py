"""The bootstrap over examples (Efron, 1979), for means.

::

    drawn = resampling.means(np.stack([absolute, error]), samples=1000, seed=1)
    low, high = resampling.interval(drawn[0], 0.95)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_CHUNK = 1 << 20  # Drawn rows that are in memory at once: 8 MB.


def means(values: np.ndarray, *, samples: int, seed: int | Sequence[int]) -> np.ndarray:
    """Means of resampled examples.

    Args:
      values: Rows of quantities over the same examples, ``[quantities, n]``; all of
        them use the same resampled examples.
      samples: How often n examples are drawn, with replacement.
      seed: The same seed draws the same examples.

    Returns:
      ``[quantities, samples]``.
    """
    rng = np.random.default_rng(seed)
    number = values.shape[1]
    at_once = max(1, _CHUNK // number)
    parts = [np.empty((len(values), 0))]
    for start in range(0, samples, at_once):
        count = min(at_once, samples - start)
        drawn = rng.integers(0, number, (count, number), dtype=np.int32)
        parts.append(values[:, drawn].mean(axis=2))
    return np.concatenate(parts, axis=1)


def interval(drawn: np.ndarray, level: float) -> list[float]:
    """The middle share `level` of resampled values: ``[low, high]``."""
    tail = (1 - level) / 2
    return [float(v) for v in np.quantile(drawn, (tail, 1 - tail))]
