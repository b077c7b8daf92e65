"""Cuts the face of each photo out, for a data set of faces.

A photo must show exactly one face, because its row has one age and one gender.  If it
shows several, a rule decides which face is meant, or the photo is rejected.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from afad_tfdata.images import codec, face_crop, face_detector

RULES = ("only", "largest")
# ``found_by`` is `_BOXES`, a detector, or both joined by `_AND`: the detector then
# serves the rows of a label file that have no box.
_BOXES, _AND = "boxes", " and "
_NO_FACE, _MANY_FACES = "no face is found", " faces are found"


@dataclasses.dataclass(frozen=True)
class FaceConfig:
    """What decides which part of a photo is stored.

    Attributes:
      rule: Which face of several is meant, one of `RULES`.
      crop: How it is cut; its ``found_by`` names the detector.
    """

    rule: str
    crop: face_crop.FaceCrop

    def to_json(self) -> dict[str, Any]:
        """The value of ``face_crop`` in the manifest of a data set of faces."""
        return {**self.crop.to_json(), "rule": self.rule}


def config_from_json(value: Mapping[str, Any] | None) -> FaceConfig | None:
    """The `FaceConfig` in a manifest; None for a data set of whole images."""
    crop = face_crop.crop_from_json(value)
    if crop is None or value is None:
        return None
    return FaceConfig(value["rule"], crop)


def origin_of_boxes(detector: str, *, has_boxes: bool) -> str:
    """What the manifest of a data set of faces says about the origin of the boxes.

    Args:
      detector: Its name; empty if the faces are not looked for.
      has_boxes: Whether a label file has boxes.

    Raises:
      UsageError: The detector is not installed.
    """
    found = [_BOXES] if has_boxes else []
    return _AND.join(
        [*found, *([face_detector.detector_version(detector)] if detector else [])]
    )


def cut(
    photo: np.ndarray, config: FaceConfig, box: face_crop.Box | None = None
) -> np.ndarray:
    """Cuts the face out of a photo, as a data set of faces stores it.

    Args:
      photo: uint8 ``[height, width, 3]``, upright.
      config: How the face is found and cut.
      box: From a label file; None to find the face.

    Returns:
      uint8 ``[size, size, 3]``.

    Raises:
      ImageError: The photo shows no face, or several and the rule refuses that; or the
        box is not in the photo.
      UsageError: The detector is not installed, or fails.
    """
    if box is not None:
        if reason := face_crop.why_no_crop(box, *photo.shape[:2]):
            raise codec.ImageError(reason)
        return config.crop.cut(photo, config.crop.square(box))
    # Each process loads a detector once.  A version may follow the name.
    name = config.crop.found_by.removeprefix(f"{_BOXES}{_AND}").split()[0]
    detector = face_detector.load_detector(name)
    boxes = face_detector.find_faces(photo, detector)
    if not boxes:
        raise codec.ImageError(_NO_FACE)
    if len(boxes) > 1 and config.rule == "only":
        raise codec.ImageError(
            f"{len(boxes)}{_MANY_FACES}: --face_rule=largest takes the largest"
        )
    # If faces are equally large, `max` takes the first one, which is the leftmost.
    largest = max(boxes, key=lambda box: (box[2] - box[0]) * (box[3] - box[1]))
    return config.crop.cut(photo, config.crop.square(largest))


def is_about_number_of_faces(reason: str) -> bool:
    """Whether an image was rejected for its number of faces: its file is sound."""
    return reason == _NO_FACE or _MANY_FACES in reason
