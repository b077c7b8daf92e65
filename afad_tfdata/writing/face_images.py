"""Cuts the face of each photo out, for a data set of faces.

A photo must show exactly one face, because its row has one age and one gender.  Which
face is meant in a photo of several is decided by a rule, or the photo is rejected.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from afad_tfdata.images import codec, face_crop, face_detector

RULES = ("only", "largest")
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
        """The value of ``face_crop`` in a manifest."""
        return {**self.crop.to_json(), "rule": self.rule}


def from_json(value: Mapping[str, Any] | None) -> FaceConfig | None:
    """The inverse of `FaceConfig.to_json`; None for whole images."""
    crop = face_crop.from_json(value)
    if crop is None or value is None:
        return None
    return FaceConfig(value["rule"], crop)


def cut(photo: np.ndarray, config: FaceConfig) -> np.ndarray:
    """The face of a photo.

    Args:
      photo: uint8 ``[height, width, 3]``, upright.
      config: How the face is found and cut.

    Returns:
      uint8 ``[size, size, 3]``.

    Raises:
      ImageError: The photo shows no face, or several and the rule refuses that.
      UsageError: The detector is not installed, or fails.
    """
    # Each process loads a detector once.  A version may follow the name.
    detector = face_detector.load_detector(config.crop.found_by.split()[0])
    boxes = face_detector.find_faces(photo, detector)
    if not boxes:
        raise codec.ImageError(_NO_FACE)
    if len(boxes) > 1 and config.rule == "only":
        raise codec.ImageError(
            f"{len(boxes)}{_MANY_FACES}: --face_rule=largest takes the largest"
        )
    # Of equally large faces, `max` takes the first: the leftmost one.
    box = max(boxes, key=lambda box: (box[2] - box[0]) * (box[3] - box[1]))
    return config.crop.cut(photo, config.crop.square(box))


def is_about_faces(reason: str) -> bool:
    """Whether an image was rejected for its number of faces: its file is not bad."""
    return reason == _NO_FACE or _MANY_FACES in reason
