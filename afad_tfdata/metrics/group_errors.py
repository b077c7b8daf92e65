"""The error of ages by group, and the groups between which it differs most."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from afad_tfdata.metrics import bootstrap

# Examples that a group needs to count in the largest gap: the mean of fewer is noise.
MIN_GROUP = 30
_LEVEL = 0.95  # Share of the resampled errors that an interval holds.


def errors_by_group(
    errors: np.ndarray, by_name: Mapping[str, np.ndarray], *, samples: int, seed: int
) -> dict[str, tuple[dict[str, Any], dict[str, np.ndarray]]]:
    """The errors of each group with any example: MAE and bias, and resampled ones."""
    found = {}
    for index, (name, rows) in enumerate(by_name.items()):
        own = errors[rows]
        if not len(own):
            continue
        values = np.stack([np.abs(own), own])
        mae, bias = values.mean(axis=1)
        row: dict[str, Any] = {
            "examples": len(own),
            "mae": float(mae),
            "bias": float(bias),
        }
        # A seed for each group: groups of one size would otherwise draw the same rows.
        drawn = bootstrap.resampled_means(values, samples=samples, seed=(seed, index))
        by_metric = dict(zip(("mae", "bias"), drawn, strict=True))
        if samples:
            row["intervals"] = {
                metric: bootstrap.middle_share(values, _LEVEL)
                for metric, values in by_metric.items()
            }
        found[name] = (row, by_metric)
    return found


def largest_gap(
    found: Mapping[str, tuple[Mapping[str, Any], Mapping[str, np.ndarray]]],
) -> dict[str, Any]:
    """The groups between whose errors, MAE and bias, the gap is the largest."""
    large = {n: v for n, v in found.items() if v[0]["examples"] >= MIN_GROUP}
    result: dict[str, Any] = {"smallest_group": MIN_GROUP}
    if len(large) < 2:
        note = f"fewer than two groups have {MIN_GROUP} examples or more"
        return {**result, "mae": None, "bias": None, "note": note}
    for metric in ("mae", "bias"):
        low, *_, high = sorted(large, key=lambda name: large[name][0][metric])
        gap: dict[str, Any] = {
            "high": high,
            "low": low,
            "years": large[high][0][metric] - large[low][0][metric],
        }
        between = large[high][1][metric] - large[low][1][metric]
        if len(between):
            gap["interval"] = bootstrap.middle_share(between, _LEVEL)
        result[metric] = gap
    return result
