"""The sample data set: drawn faces in AFAD's layout, to try and test every command.

The faces are drawn, not photographed: an oval with hair, eyes, brows and a mouth, in
varying pose, light and size.  Age and gender are visible, so that a small network can
learn both:

* age: hair greys, lines cross the forehead, eyes get smaller, cheeks get paler;
* gender: 112 (female) has long hair next to the face, fuller and redder lips and thin
  brows; 111 (male) has short hair, thick brows and a shadow of beard.

Ages are distributed as in AFAD.  Some photos show several faces.  As in AFAD, these
share one age label and may be in both gender folders.  A face depends only on the seed
and its number: the first 100 faces of a sample of 2,000 are those of a sample of 100.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from afad_tfdata.common import errors, files, options, progress
from afad_tfdata.images import codec

# Images by age from 15 to 40, from the list that comes with AFAD-Full.
_COUNTS_15_TO_40 = (
    *(1251, 2423, 2482, 5585, 12477, 13232, 12560, 13572, 10510, 12891, 11261, 7676),
    *(6481, 5170, 4730, 4806, 4456, 3996, 3701, 3856, 4246, 4234, 3898, 3798, 3791),
    1335,
)
# 1,083 images have the ages 41 to 70 and 72.  Only their sum is known; it is spread
# here as a geometric series.
_COUNT_ABOVE_40 = 1083
_AGES_ABOVE_40 = (*range(41, 71), 72)
_DECLINE = 0.88

_MALE_SHARE = 100_752 / (100_752 + 63_680)  # AFAD's published counts.
_FACES_IN_PHOTO = (0.7, 0.2, 0.1)  # Shares of photos with one, two and three faces.
# In pixels.  Sides are distributed log-normally, within the limits of AFAD's images.
_MEDIAN_SIDE, _SIDE_SIGMA, _MIN_SIDE, _MAX_SIDE = 120, 0.45, 20, 500
# The first photo id; large, so that all ids have the same length.
_FIRST_PHOTO = 100_000
_JPEG_QUALITY = 95
_STAMP = ".sample.json"


@dataclasses.dataclass(frozen=True)
class SampleConfig:
    """Draws faces into OUTPUT_DIR/<age>/<111|112>/<photo>-<face>.jpg."""

    output_dir: str = options.option(
        "", "Directory to fill; it must be empty, or not exist yet."
    )
    num_images: int = options.option(2000, "Number of faces that are drawn.")
    seed: int = options.option(
        1, "Decides every pixel, and the ages, genders and sizes."
    )

    def __post_init__(self) -> None:
        options.check_choices(self)
        if not self.output_dir:
            raise errors.UsageError("--output_dir is missing: name the folder to fill")
        if self.num_images < 1:
            raise errors.UsageError(
                f"--num_images takes a number from 1; got {self.num_images}"
            )


class Face(NamedTuple):
    """The person in a drawing, and the file that contains it.

    Attributes:
      photo: The photo's id.
      number: The face's number in its photo, from 0.
      age: Years.
      female: Gender: 112 if true, else 111.
    """

    photo: int
    number: int
    age: int
    female: bool

    @property
    def path(self) -> str:
        """The relative path of a drawn face with forward slashes, as AFAD has it."""
        return (
            f"{self.age}/{112 if self.female else 111}/{self.photo}-{self.number}.jpg"
        )


def make_sample(config: SampleConfig) -> list[str]:
    """Draws the faces of a sample data set and writes their files.

    Args:
      config: What to draw, and into which directory.

    Returns:
      The paths below ``output_dir``, in drawing order.  A directory that already
      contains this sample is not changed.

    Raises:
      UsageError: The directory contains something else, or cannot be written.
    """
    stamp = os.path.join(config.output_dir, _STAMP)
    drawn = {"num_images": config.num_images, "seed": config.seed}
    if os.path.isdir(config.output_dir) and os.listdir(config.output_dir):
        if not _is_drawn(stamp, drawn):
            raise errors.UsageError(
                f"{config.output_dir} is not empty and contains another sample or other"
                " files: name a new directory, or remove this one"
            )
        return [face.path for face in faces(config.num_images, config.seed)]
    files.make_dirs(config.output_dir)
    paths = []
    with progress.Progress(config.num_images, "drawing") as bar:
        for face in faces(config.num_images, config.seed):
            path = os.path.join(config.output_dir, *face.path.split("/"))
            files.make_dirs(os.path.dirname(path))
            try:
                with open(path, "wb") as f:
                    f.write(encode_jpeg(draw(face, config.seed)))
            except OSError as error:
                raise files.write_error(path, error) from error
            paths.append(face.path)
            bar.update(1)
    files.write_json(stamp, drawn)
    return paths


def faces(num_images: int, seed: int) -> Iterator[Face]:
    """The people in the drawings of a sample, in drawing order."""
    ages, shares = _age_shares()
    yielded = 0
    photo = 0
    while yielded < num_images:
        rng = np.random.default_rng((seed, 0, photo))
        age = int(rng.choice(ages, p=shares))
        in_photo = 1 + int(rng.choice(len(_FACES_IN_PHOTO), p=_FACES_IN_PHOTO))
        for number in range(min(in_photo, num_images - yielded)):
            female = bool(rng.random() >= _MALE_SHARE)
            yield Face(_FIRST_PHOTO + photo, number, age, female)
            yielded += 1
        photo += 1


def draw(face: Face, seed: int) -> np.ndarray:
    """Draws one face of a sample.

    Args:
      face: Age, gender and identity.
      seed: The sample's seed.

    Returns:
      uint8 ``[side, side, 3]``, RGB; the side is log-normal with median 120 px.
    """
    rng = np.random.default_rng((seed, 1, face.photo, face.number))
    side = _MEDIAN_SIDE * math.exp(rng.normal(0, _SIDE_SIGMA))
    side = int(min(max(side, _MIN_SIDE), _MAX_SIDE))
    canvas = _FaceCanvas(side, rng)
    # The square root puts half of the change into the ages that are most frequent.
    aged = math.sqrt((face.age - 15) / 57)

    skin = np.array([222, 178, 146]) * rng.uniform(0.85, 1.08)
    dark_hair = np.array([38, 28, 24]) * rng.uniform(0.6, 1.6)
    hair = dark_hair + (np.array([225, 225, 228]) - dark_hair) * aged * 0.95

    if face.female:
        canvas.ellipse((0, 0.2), (0.78, 1.0), hair)
    canvas.ellipse((0, -0.22), (0.66, 0.68), hair)
    canvas.ellipse((0, 0.08), (0.56, 0.74), skin)
    canvas.ellipse((0, -0.62), (0.5, 0.2 + 0.05 * rng.normal()), hair)
    _draw_features(canvas, face.female, aged, skin, hair, rng)
    return canvas.finish()


def encode_jpeg(image: np.ndarray) -> bytes:
    """Encodes a drawn face, uint8 RGB, as the JPEG that the sample contains."""
    return codec.encode_jpeg(image, _JPEG_QUALITY)


class _FaceCanvas:
    """Draws soft shapes on a square, in coordinates from -1 to 1.

    Args:
      side: Pixels.
      rng: Decides pose, background and light.
    """

    def __init__(self, side: int, rng: np.random.Generator) -> None:
        self._rng, self._side = rng, side
        grid = (np.arange(side, dtype=np.float32) + 0.5) / side * 2 - 1
        self._column, self._row = grid[None, :], grid[:, None]
        self._turn = rng.normal(0, 0.12)
        self._size = rng.uniform(0.92, 1.12)
        self._shift = rng.normal(0, 0.05, 2)
        self._softness = 3.0 / side
        low, high = rng.uniform(30, 225, (2, 3)).astype(np.float32)
        across, down = rng.normal(size=2).astype(np.float32)
        slope = np.clip(0.5 + 0.5 * (self._column * across + self._row * down), 0, 1)
        self._rgb = low + (high - low) * slope[..., None]

    def ellipse(
        self,
        center: tuple[float, float],
        radii: tuple[float, float],
        color: np.ndarray,
        opacity: float = 1.0,
    ) -> None:
        """Fills an ellipse of a drawn face; its edge is a few pixels soft."""
        box, x, y = self._square_around(center, max(radii))
        radius = np.sqrt(
            ((x - center[0]) / radii[0]) ** 2 + ((y - center[1]) / radii[1]) ** 2
        )
        # The distance to the edge is about (radius - 1) times the smaller radius.
        edge = (1 - radius) * (min(radii) / self._softness) + 0.5
        self._paint_masked(box, np.clip(edge, 0, 1), color, opacity)

    def line(
        self, y: float, bend: float, half_width: float, thick: float, opacity: float
    ) -> None:
        """Darkens a bent horizontal line of a drawn face."""
        box, across, down = self._square_around((0, y), half_width)
        distance = np.abs(down - y - bend * across**2) / max(thick, self._softness)
        mask = np.clip(1 - distance, 0, 1) * (np.abs(across) < half_width)
        self._paint_masked(box, mask, np.array([70.0, 45.0, 35.0]), opacity)

    def finish(self) -> np.ndarray:
        """Adds light and noise; uint8."""
        light = 1 + 0.15 * self._rng.normal() * self._column
        light = light + 0.08 * self._rng.normal()
        noise = 4 * self._rng.standard_normal(self._rgb.shape, dtype=np.float32)
        return np.clip(self._rgb * light[..., None] + noise, 0, 255).astype(np.uint8)

    def _square_around(
        self, center: tuple[float, float], reach: float
    ) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray]:
        """The square of pixels within reach, and the face's coordinates there."""
        cos, sin = math.cos(self._turn), math.sin(self._turn)
        x = (center[0] * cos - center[1] * sin) / self._size + self._shift[0]
        y = (center[0] * sin + center[1] * cos) / self._size + self._shift[1]
        reach = reach / self._size + 2 * self._softness
        box = (
            self._pixel_range(y - reach, y + reach),
            self._pixel_range(x - reach, x + reach),
        )
        right = self._column[:, box[1]] - np.float32(self._shift[0])
        below = self._row[box[0]] - np.float32(self._shift[1])
        turned_x = (right * cos + below * sin) * self._size
        turned_y = (below * cos - right * sin) * self._size
        return box, turned_x, turned_y

    def _pixel_range(self, low: float, high: float) -> slice:
        """The pixels between two coordinates in [-1, 1]."""
        first = math.floor((low + 1) / 2 * self._side)
        last = math.ceil((high + 1) / 2 * self._side)
        return slice(max(first, 0), max(last, 0))

    def _paint_masked(
        self,
        box: tuple[slice, slice],
        mask: np.ndarray,
        color: np.ndarray,
        opacity: float,
    ) -> None:
        """Paints a colour where the mask is set."""
        part = self._rgb[box]
        weight = (mask * opacity).astype(np.float32)[..., None]
        part += weight * (color.astype(np.float32) - part)


def _draw_features(
    canvas: _FaceCanvas,
    female: bool,
    aged: float,
    skin: np.ndarray,
    hair: np.ndarray,
    rng: np.random.Generator,
) -> None:
    """Draws eyes, brows, nose, mouth, beard and lines of a face.

    `aged` is 0 at 15 years and 1 at 72.
    """
    eye = 0.115 - 0.05 * aged + 0.006 * rng.normal()
    brow = 0.018 if female else 0.045
    for side in (-1, 1):
        canvas.ellipse((side * 0.24, -0.06), (1.4 * eye, eye), np.full(3, 245.0))
        canvas.ellipse((side * 0.24, -0.06), (0.7 * eye, 0.8 * eye), np.full(3, 30.0))
        canvas.ellipse((side * 0.24, -0.26), (0.17, brow), hair * 0.7)
        blush = np.array([225.0, 120.0, 110.0])
        canvas.ellipse((side * 0.32, 0.2), (0.14, 0.1), blush, 0.55 * (1 - aged))
    canvas.ellipse((0, 0.14), (0.06, 0.13), skin * 0.86)
    if not female:
        canvas.ellipse((0, 0.6), (0.36, 0.24), skin * 0.62 + hair * 0.12, 0.6)
    lips = np.array([200.0, 50.0, 70.0]) if female else np.array([165.0, 105.0, 95.0])
    canvas.ellipse((0, 0.44), (0.2, 0.075 if female else 0.035), lips)
    for row in range(4):
        opacity = float(np.clip(1.6 * aged - 0.3 * row, 0, 1)) * 0.8
        canvas.line(-0.34 - 0.06 * row, 0.05 * rng.normal(), 0.3, 0.018, opacity)


def _age_shares() -> tuple[np.ndarray, np.ndarray]:
    """Ages in years, and the share of the drawn faces that each has."""
    series = _DECLINE ** np.arange(len(_AGES_ABOVE_40))
    above = _COUNT_ABOVE_40 * series / series.sum()
    ages = np.array([*range(15, 41), *_AGES_ABOVE_40])
    counts = np.concatenate([np.array(_COUNTS_15_TO_40, float), above])
    return ages, counts / counts.sum()


def _is_drawn(stamp: str, drawn: dict[str, int]) -> bool:
    """Whether the directory contains the whole sample: its stamp is written last."""
    try:
        return json.loads(files.read_bytes(stamp)) == drawn
    except (OSError, ValueError):
        return False
