"""How a graph's faces are found in photos and cut out: as for its training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from afad_tfdata.images import face_crop, face_detector


class FaceFinder(NamedTuple):
    """How faces are found and cut out.

    Attributes:
      detector: The function that finds them.
      crop: How they are cut out.
    """

    detector: face_detector.Detector
    crop: face_crop.FaceCrop


def choose(
    description: dict[str, Any],
    detector: str | Callable[[np.ndarray], Any],
) -> tuple[FaceFinder, str]:
    """Chooses how faces are found and cut out: as for the training of a graph.

    Args:
      description: Description of the graph; its ``face_crop`` says how faces were cut.
      detector: The name of a detector, or a caller's own.

    Returns:
      What cuts them out, and a warning; empty if there is nothing to warn of.

    Raises:
      UsageError: The detector is not installed.
      DataError: The description is damaged.
    """
    crop = face_crop.from_json(description.get("face_crop"))
    found = detector
    if isinstance(found, str):
        found = face_detector.load_detector(found)
    if crop is None:  # Trained on images that contain one face each, as AFAD's do.
        return FaceFinder(found, face_crop.FaceCrop(size=description["image_size"])), ""
    ours = detector
    if isinstance(ours, str):
        ours = face_detector.version(ours)
    warning = ""
    if crop.found_by and isinstance(ours, str) and crop.found_by != ours:
        warning = (
            f"the graph was trained on faces found by {crop.found_by}, and {ours} may"
            " cut them differently"
        )
    return FaceFinder(found, crop), warning
