"""Finds the faces in a photo: the detector of the ``faces`` extra, or a caller's own.

::

    detector = face_detector.load_detector("mtcnn")
    boxes = face_detector.find_faces(photo, detector)    # [(x1, y1, x2, y2), ...]
    faces = face_detector.cut_faces(photo, face_crop.FaceCrop(), detector)

A detector is a function of a photo, uint8 ``[height, width, 3]`` RGB, upright.  It
returns the boxes of the faces, ``[n, 4]`` as ``x1, y1, x2, y2`` in pixels, in any order
(a list, or an array of any number type).  Each box should show as much of a face as the
images of AFAD do: from the middle of the forehead to below the chin.

MTCNN comes with its weights in its package: nothing is downloaded.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from afad_tfdata.common import errors
from afad_tfdata.images import face_crop

Detector = Callable[[np.ndarray], Any]

MTCNN = "mtcnn"
EXTRA = "faces"
# A photo is searched at this longer side at most, in pixels: it bounds time and memory.
# MTCNN finds faces from 20 pixels up, that is from 1/80 of the longer side of a photo
# that was reduced.
_SEARCH_SIDE = 1600
_SMALLEST_FACE = 20
# Medians over 120 faces of AFAD: MTCNN's box is 0.815 times as wide and 1.075 times as
# high as AFAD's square, so that the square's side is the geometric mean of both times
# 1.07; the centre of the square is 0.07 sides lower.
_AFAD_SIDE, _AFAD_LOWER = 1.07, 0.07


@functools.cache
def load_detector(name: str) -> Detector:
    """The face detector of a name; each process loads it once.

    Args:
      name: ``mtcnn``, or ``MODULE:FUNCTION`` for a function of yours.

    Returns:
      A function of a photo, uint8 ``[height, width, 3]`` RGB, that returns boxes
      ``[n, 4]`` as ``x1, y1, x2, y2`` in pixels.

    Raises:
      UsageError: It is not installed, or there is no such function.
    """
    if name == MTCNN:
        return _load_mtcnn()
    check_detector_name(name)
    module_name, _, function_name = name.partition(":")
    expected = f"--face_detector takes {MTCNN} or MODULE:FUNCTION"
    try:
        with _callers_modules():
            found = getattr(importlib.import_module(module_name), function_name)
    except Exception as error:  # The user's module may raise anything.
        raise errors.UsageError(
            f"{expected}; importing {name} gave {errors.cause(error)}"
        ) from error
    if not callable(found):
        raise errors.UsageError(f"{expected}; {name} is not a function")
    return found


def check_detector_name(name: str) -> None:
    """Raises `UsageError` unless a text names a face detector; imports nothing."""
    module_name, _, function_name = name.partition(":")
    if name != MTCNN and not (module_name and function_name):
        raise errors.UsageError(
            f"--face_detector takes {MTCNN} or MODULE:FUNCTION; got {name!r}"
        )


def check_detector_installed(name: str) -> None:
    """Raises `UsageError` unless a face detector can be imported; loads no TensorFlow.

    Args:
      name: As for `load_detector`.
    """
    if name != MTCNN:
        load_detector(name)
    elif importlib.util.find_spec(MTCNN) is None:
        raise _missing_detector("no module named 'mtcnn'")


def detector_version(name: str) -> str:
    """A face detector's name with its version, for manifests: ``mtcnn 1.0.0``."""
    if name != MTCNN:
        return name
    try:
        return f"{MTCNN} {importlib.metadata.version(MTCNN)}"
    except importlib.metadata.PackageNotFoundError as error:
        raise _missing_detector(error) from error


def find_faces(
    photo: np.ndarray, detector: Detector | None = None
) -> list[face_crop.Box]:
    """The faces in a photo, from left to right, then from top to bottom.

    Args:
      photo: uint8 ``[height, width, 3]`` RGB, upright.
      detector: From `load_detector`, or a caller's own; None for MTCNN.

    Returns:
      A box ``(x1, y1, x2, y2)`` in pixels for each face; boxes whose centre is outside
      of the photo are left out.

    Raises:
      UsageError: The detector fails, or returns something else than boxes.
    """
    detector = detector or load_detector(MTCNN)
    name = getattr(detector, "__name__", type(detector).__name__)
    try:
        found = detector(photo)
    except (errors.AfadError, MemoryError):
        raise
    except Exception as error:  # A caller's function may raise anything.
        raise errors.UsageError(
            f"the face detector {name} failed: {errors.cause(error)}"
        ) from error
    try:
        boxes = np.asarray(found, np.float64)
    except (TypeError, ValueError):
        boxes = np.full(1, np.nan)
    if boxes.size == 0:
        return []
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not np.isfinite(boxes).all():
        raise errors.UsageError(
            f"the face detector {name} must return boxes [n, 4] as x1, y1, x2, y2; got"
            f" {errors.one_line(repr(found))}"
        )
    # Sorted as tuples: left edge first, then top edge; the rest makes the order unique.
    listed = sorted((x1, y1, x2, y2) for x1, y1, x2, y2 in boxes.tolist())
    height, width = photo.shape[:2]
    return [box for box in listed if not face_crop.why_no_crop(box, height, width)]


def cut_faces(
    photo: np.ndarray,
    crop: face_crop.FaceCrop | None = None,
    detector: Detector | None = None,
) -> list[tuple[face_crop.Square, np.ndarray]]:
    """The faces in a photo, cut out as a network is fed them.

    Args:
      photo: uint8 ``[height, width, 3]`` RGB, upright.
      crop: How each face is cut; None for squares as AFAD has them, without a margin.
      detector: As for `find_faces`.

    Returns:
      For each face, in the order of `find_faces`, the square ``(x1, y1, x2, y2)`` that
      was cut, which may reach beyond the photo, and uint8 ``[size, size, 3]``.

    Raises:
      UsageError: The detector fails, or returns something else than boxes.
    """
    crop = crop or face_crop.FaceCrop()
    squares = [crop.square(box) for box in find_faces(photo, detector)]
    return [(square, crop.cut(photo, square)) for square in squares]


def _load_mtcnn() -> Detector:
    """The face detector MTCNN, with boxes of the size that AFAD's images have."""
    try:
        import mtcnn
        from mtcnn import stages
    except Exception as error:  # A broken installation may raise anything.
        raise _missing_detector(error) from error
    # The paths are absolute: for a name alone, MTCNN would first look in the current
    # directory, and a file of weights may contain code.
    weights = os.path.join(os.path.dirname(mtcnn.__file__), "assets", "weights")
    network = mtcnn.MTCNN(
        stages=[
            kind(weights=os.path.join(weights, f"{name}.lz4"))
            for name, kind in (
                ("pnet", stages.StagePNet),
                ("rnet", stages.StageRNet),
                ("onet", stages.StageONet),
            )
        ]
    )

    def mtcnn_faces(photo: np.ndarray) -> list[face_crop.Box]:
        """The boxes of the faces that MTCNN finds in a photo."""
        small, scale = _reduced_photo(photo)
        if min(small.shape[:2]) < _SMALLEST_FACE:
            return []
        found = network.detect_faces(small, fit_to_image=False)
        return [
            _box_of_afad([value * scale for value in face["box"]]) for face in found
        ]

    return mtcnn_faces


def _reduced_photo(photo: np.ndarray) -> tuple[np.ndarray, float]:
    """The photo at the side at which faces are searched, and the factor back."""
    from PIL import Image

    height, width = photo.shape[:2]
    scale = max(height, width) / _SEARCH_SIDE
    if scale <= 1:
        return photo, 1.0
    # Pillow is used and not OpenCV, because it is always installed: the boxes must not
    # depend on the ``fast`` extra.
    size = max(1, round(width / scale)), max(1, round(height / scale))
    small = Image.fromarray(photo).resize(size, Image.Resampling.BOX)
    return np.asarray(small), scale


def _box_of_afad(box: list[float]) -> face_crop.Box:
    """The square that AFAD would show for MTCNN's box, ``[x, y, width, height]``."""
    x, y, width, height = box
    half = _AFAD_SIDE * (max(width, 1) * max(height, 1)) ** 0.5 / 2
    center = x + width / 2, y + height / 2 + 2 * half * _AFAD_LOWER
    return center[0] - half, center[1] - half, center[0] + half, center[1] + half


def _missing_detector(reason: object) -> errors.UsageError:
    """The error if the detector of faces is not installed."""
    return errors.UsageError(
        "--find_faces needs mtcnn, which is not usable here"
        f" ({errors.one_line(reason)}): pip install 'afad-tfdata[{EXTRA}]'"
    )


@contextlib.contextmanager
def _callers_modules() -> Iterator[None]:
    """Lets a caller's detector be imported as by a script in the current directory.

    A console command does not look in the current directory, and a writer process does
    not look in the directories of PYTHONPATH either.
    """
    before = list(sys.path)
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    # Added at the end, so that no file there takes the place of an installed module.
    sys.path += [os.getcwd(), *filter(None, given)]
    try:
        yield
    finally:
        sys.path[:] = before
