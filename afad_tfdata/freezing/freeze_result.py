"""What `freeze` returns, and its summary for people."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from afad_tfdata.freezing import corrected_source, verification


@dataclasses.dataclass(frozen=True)
class FreezeResult:
    """What `freeze.freeze` wrote.

    Attributes:
      path: NAME.pb.
      max_difference: Largest difference from the model over all formats that must equal
        it, by label.
      allowed: The largest difference with which NAME.pb would still pass, by label.
      description: The content of NAME.json.
      paths: Every file and directory that was written, NAME.pb first.
    """

    path: str
    max_difference: dict[str, float]
    allowed: dict[str, float]
    description: dict[str, Any]
    paths: tuple[str, ...]

    def summary(self) -> str:
        """The result of `freeze` in a few lines, for people."""
        about = self.description["graph"]
        text = [
            f"{self.path}: {about['bytes'] / 1e6:.1f} MB, {about['nodes']} nodes,"
            f" {about['flops_per_image'] / 1e9:.2f} GFLOPs per image"
        ]
        for label, value in self.max_difference.items():
            text.append(
                f"{label}: differs from the model by at most {value:.2g}"
                f" ({self.allowed[label]:.2g} is allowed)"
            )
        for label, value in self.description["parity"].get("rounding", {}).items():
            text.append(
                f"{label}: on random input the model differs from itself by"
                f" {value:.2g} through rounding alone, so"
                f" {verification.ROUNDING_FACTOR} times that was allowed there"
                " (not on images)"
            )
        text += _correction_lines(self.description)
        for name, times in self.description["latency_ms"].items():
            shown = ", ".join(f"{k} {v:.1f} ms" for k, v in times.items())
            text.append(f"{name}: {shown}")
        text += _quantization_lines(self.description)
        if len(self.paths) > 1:
            text.append(f"also written: {', '.join(self.paths[1:])}")
        return "\n".join(text)


def _quantization_lines(description: Mapping[str, Any]) -> list[str]:
    """What the files with fewer bits lose, for the summary of a result."""
    lines = []
    for about in description["others"].values():
        if "quantization" not in about:
            continue
        means = about["mean_difference"]
        parts = [f"{about['bytes'] / 1e6:.1f} MB"]
        if "age" in means:
            parts.append(f"ages differ by {means['age']:.2g} years on average")
        if "gender" in means:
            parts.append(f"probabilities by {means['gender']:.2g}")
            parts.append(f"{about['equal_genders']:.1%} of the genders are equal")
        parts += [f"{k} {v:.1f} ms" for k, v in about["latency_ms"].items()]
        lines.append(f"{about['file']}: {', '.join(parts)}")
    return lines


def _correction_lines(description: Mapping[str, Any]) -> list[str]:
    """The corrections in the graph, for the summary of a result."""
    found = [name for name, value in description["corrections"].items() if value]
    lines = [f"corrections in the graph: {', '.join(found)}"] if found else []
    if interval := description["age_interval"]:
        labels = {fetch["label"] for fetch in description["fetches"]}
        width = f"{interval['half_width']:.1f} years"
        if corrected_source.SPREAD in labels and "scaled" in interval:
            width = f"{interval['scaled']['half_width']:.2f} times the spread"
        share = f"{interval['coverage']:.0%}"
        lines.append(f"age intervals of {share}: {width} to each side")
    return lines
