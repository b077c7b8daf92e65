"""How a graph's faces are found in photos and cut out: as for its training."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from afad_tfdata.images import face_crop, face_detector

_log = logging.getLogger(__name__)


class FaceFinder(NamedTuple):
    """How faces are found and cut out.

    Attributes:
      detector: The function that finds them.
      crop: How they are cut out.
    """

    detector: face_detector.Detector
    crop: face_crop.FaceCrop


def choose_face_finder(
    description: dict[str, Any],
    detector: str | Callable[[np.ndarray], Any] | None,
    *,
    graph: str,
) -> FaceFinder | None:
    """Chooses how faces to predict are found and cut out: as for the graph's training.

    It warns if the images do not seem to be those that the graph was trained on.

    Args:
      description: Description of the graph; its ``face_crop`` says how faces were cut.
      detector: The name of a detector, or a caller's own; None to use the images as
        they are.
      graph: Path of the graph, for the warning.

    Returns:
      What cuts the faces out; None without a detector.

    Raises:
      UsageError: The detector is not installed.
      DataError: The description is damaged.
    """
    if detector is None:
        if description.get("face_crop"):
            _log.warning(
                "%s was trained on faces that were cut out of photos: --find_faces"
                " finds and cuts them in the same way, if these are whole photos",
                graph,
            )
        return None
    crop = face_crop.crop_from_json(description.get("face_crop"))
    found = detector
    if isinstance(found, str):
        found = face_detector.load_detector(found)
    if crop is None:  # Trained on images that contain one face each, as AFAD's do.
        return FaceFinder(found, face_crop.FaceCrop(size=description["image_size"]))
    ours = detector
    if isinstance(ours, str):
        ours = face_detector.detector_version(ours)
    if crop.found_by and isinstance(ours, str) and crop.found_by != ours:
        _log.warning(
            "the graph was trained on faces found by %s, and %s may cut them"
            " differently",
            crop.found_by,
            ours,
        )
    return FaceFinder(found, crop)
