"""The bootstrap over examples (Efron, 1979): intervals of means and of metrics.

::

    drawn = bootstrap.means(np.stack([absolute, error]), samples=1000, seed=1)
    low, high = bootstrap.middle_share(drawn[0], 0.95)
    {"mae": [low, high], ...} == bootstrap.intervals(predictions)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from afad_tfdata.metrics import prediction_metrics

_CHUNK = 1 << 20  # Drawn rows that are in memory at once: 8 MB.


def resampled_means(
    values: np.ndarray, *, samples: int, seed: int | Sequence[int]
) -> np.ndarray:
    """Means of the examples in each sample of the bootstrap.

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


def middle_share(drawn: np.ndarray, level: float) -> list[float]:
    """The middle share `level` of bootstrapped values: ``[low, high]``."""
    tail = (1 - level) / 2
    return [float(v) for v in np.quantile(drawn, (tail, 1 - tail))]


def intervals(
    predictions: Mapping[str, np.ndarray],
    *,
    samples: int = 1000,
    seed: int = 1,
    level: float = 0.95,
) -> dict[str, list[float]]:
    """Bootstrap intervals of the metrics of predictions (Efron, 1979).

    Args:
      predictions: As for `prediction_metrics.evaluate`.
      samples: Number of resampled data sets.
      seed: Of the resampling; the same seed draws the same samples.
      level: Share of the samples that an interval holds.

    Returns:
      ``{metric: [low, high]}`` for the metrics over all examples.
    """
    rows: dict[str, np.ndarray] = {}
    columns = prediction_metrics.label_columns(predictions)
    for part in prediction_metrics.columns_by_label(columns).values():
        rows |= _resampled_metrics(
            prediction_metrics.CountedMetrics(part), samples=samples, seed=seed
        )
    return _intervals_of(rows, level)


def paired_intervals(
    first: Mapping[str, np.ndarray],
    second: Mapping[str, np.ndarray],
    *,
    samples: int = 1000,
    seed: int = 1,
    level: float = 0.95,
) -> dict[str, list[float]]:
    """Bootstrap intervals of differences ``first - second`` on the same examples.

    Each sample draws the same examples for both, so that faces which are hard for both
    do not widen the interval.  If an interval excludes zero, the two predictions
    differ.

    Args:
      first: As for `prediction_metrics.evaluate`.
      second: Predictions for the same examples in the same order.
      samples: Number of resampled data sets.
      seed: Of the resampling.
      level: Share of the samples that an interval holds.

    Raises:
      ValueError: The two do not have the same labels.
    """
    for name in ("label_age", "label_gender"):
        if name in first and not np.array_equal(first[name], second.get(name, ())):
            raise ValueError(f"{name} of the two predictions differ")
    a = _resampled_metrics(
        prediction_metrics.CountedMetrics(first), samples=samples, seed=seed
    )
    b = _resampled_metrics(
        prediction_metrics.CountedMetrics(second), samples=samples, seed=seed
    )
    return _intervals_of({name: a[name] - b[name] for name in a if name in b}, level)


def _resampled_metrics(
    counted: prediction_metrics.CountedMetrics, *, samples: int, seed: int
) -> dict[str, np.ndarray]:
    """The metrics of each sample of the bootstrap, one row for each."""
    rng = np.random.default_rng(seed)
    number = counted.number
    if not number:
        return {}
    rows = [
        counted.metrics(
            np.bincount(
                rng.integers(0, number, number, dtype=np.int32), minlength=number
            ).astype(np.float64)
        )
        for _ in range(samples)
    ]
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def _intervals_of(
    rows: Mapping[str, np.ndarray], level: float
) -> dict[str, list[float]]:
    """The middle share of the bootstrap's samples in which a metric is defined."""
    tail = (1 - level) / 2
    result = {}
    for name, values in rows.items():
        defined = values[~np.isnan(values)]
        if len(defined):
            result[name] = [float(v) for v in np.quantile(defined, (tail, 1 - tail))]
    return result
