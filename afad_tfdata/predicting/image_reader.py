"""Reads an image file in the form that a graph takes: the whole image, or each face."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from afad_tfdata.common import errors, files
from afad_tfdata.common.lazy_imports import tf
from afad_tfdata.images import codec, face_crop, face_detector
from afad_tfdata.predicting import face_finder
from afad_tfdata.writing import tree_walk

# How many photos are decoded and searched at a time, whatever the number of threads: a
# photo of 50 megapixels takes 150 MB, and the detector uses every core by itself.
_PHOTOS_AT_A_TIME = 2
# Batches that are decoded ahead: enough to bridge an image that takes long, few enough
# to keep little memory.
_BATCHES_AHEAD = 4


class LoadedImage(NamedTuple):
    """An image or a face that was read to be predicted, or why it could not be.

    Attributes:
      path: The path as the user named it.
      value: What the graph is fed: pixels, or the file's bytes.
      picture: uint8 thumbnail for the sheet, or None.
      error: Why the image cannot be used; empty if it can.
      square: The part of the photo that was cut out; None for a whole image.
      is_last: Whether nothing of the same file follows.
    """

    path: str
    value: Any = None
    picture: np.ndarray | None = None
    error: str = ""
    square: face_crop.Square | None = None
    is_last: bool = True

    @property
    def is_empty(self) -> bool:
        """Whether this stands for a photo to predict without a face."""
        return self.value is None and not self.error


@dataclasses.dataclass(frozen=True)
class ImageReader:
    """Reads image files for a graph; safe to use in several threads.

    Attributes:
      kind: What the graph is fed: ``normalized``, ``bytes`` or ``pixels``.
      size: Side in pixels of normalized images.
      mean: Channel means R, G, B in [0, 255]; None if the graph is fed files or pixels.
      divisor: Normalized images are ``(x - mean) / divisor``.
      thumbnail: Side in pixels of the pictures for the sheet; 0 for none.
      faces: How faces are found; None to feed whole images.
      fast: Whether JPEGs are decoded by the fast DCT and upsampling, as in training.
    """

    kind: str
    size: int
    mean: tuple[float, ...] | None
    divisor: float
    thumbnail: int
    faces: face_finder.FaceFinder | None
    fast: bool = False
    _few: threading.Semaphore = dataclasses.field(
        default_factory=lambda: threading.Semaphore(_PHOTOS_AT_A_TIME)
    )

    def read(self, path: str) -> list[LoadedImage]:
        """Reads an image file for a graph: one item, or one for each face.

        It raises no error for a bad image, because that must not stop the others.

        Args:
          path: The file, local or remote.

        Raises:
          UsageError: The face detector failed.
        """
        with self._few if self.faces else contextlib.nullcontext():
            try:
                found = self._read_image(path)
            except codec.ImageError as error:
                return [LoadedImage(path, error=str(error))]
            except OSError as error:
                reason = error.strerror or errors.one_line(error)
                return [LoadedImage(path, error=f"cannot be read: {reason}")]
            except Exception as error:  # A remote store may raise any error.
                reason = errors.one_line(error)
                return [LoadedImage(path, error=f"cannot be read: {reason}")]
            # Outside of the try: an error of the detector concerns every photo.
            if self.faces:
                return self._cut_faces(path, found, self.faces)
            return [found]

    def _read_image(self, path: str) -> Any:
        """One item for the graph; upright pixels if faces are to be found."""
        data = read_image_file(path)
        header = codec.read_header(data)
        codec.check_header(header, as_stored=False)
        if self.faces:
            return codec.decode(data, header, fast=self.fast)
        plain = header.orientation == 1 and header.bits == 8 and not header.transparency
        if self.kind == "bytes" and plain and not self.thumbnail:
            return LoadedImage(path, data)
        image = codec.decode(data, header, fast=self.fast)
        # The graph's decoder ignores EXIF orientation, transparency and 16 bits: it
        # then gets the image as people see it.
        value = data if self.kind == "bytes" and plain else self._graph_input(image)
        return LoadedImage(path, value, self._thumbnail(image))

    def _cut_faces(
        self, path: str, photo: np.ndarray, finder: face_finder.FaceFinder
    ) -> list[LoadedImage]:
        """Cuts each face out of a photo, for the graph."""
        found = face_detector.cut_faces(photo, finder.crop, finder.detector)
        items = [
            LoadedImage(
                path, self._graph_input(pixels), self._thumbnail(pixels), "", square
            )
            for square, pixels in found
        ] or [LoadedImage(path)]
        items[:-1] = [item._replace(is_last=False) for item in items[:-1]]
        return items

    def _graph_input(self, image: np.ndarray) -> Any:
        """What the graph that predicts is fed for upright pixels."""
        if self.kind == "pixels":
            return image
        if self.kind == "bytes":
            return tf.io.encode_png(image).numpy()  # PNG loses nothing.
        pixels = codec.resize(image, self.size).astype(np.float32)
        center = np.array(self.mean or [0] * 3, np.float32)
        return (pixels - center) / np.float32(self.divisor)

    def _thumbnail(self, image: np.ndarray) -> np.ndarray | None:
        """The thumbnail of an image for the sheet, if one is wanted."""
        return codec.resize(image, self.thumbnail) if self.thumbnail else None


def reader_for(
    kind: str,
    description: dict[str, Any],
    thumbnail: int,
    faces: face_finder.FaceFinder | None,
    *,
    fast: bool,
) -> ImageReader:
    """The reader of image files for a graph that predicts images of this kind."""
    mean = description["mean"]
    return ImageReader(
        kind=kind,
        size=description["image_size"],
        # The description of a graph that is fed files or pixels may have no mean.
        mean=tuple(mean[c] for c in "RGB") if mean else None,
        divisor=description["divisor"],
        thumbnail=thumbnail,
        faces=faces,
        fast=fast,
    )


def read_batches(
    pool: concurrent.futures.Executor,
    read: Callable[[str], list[LoadedImage]],
    names: Sequence[str],
    batch_size: int,
    threads: int,
) -> Iterator[list[LoadedImage]]:
    """Reads the images to predict in batches and in order, some of them ahead."""
    waiting: collections.deque[concurrent.futures.Future[list[LoadedImage]]] = (
        collections.deque()
    )
    remaining = iter(names)
    # With small batches, still enough to keep every thread busy.
    limit = max(_BATCHES_AHEAD * batch_size, 2 * threads)
    done = False
    ready: list[LoadedImage] = []
    while waiting or not done:
        while len(waiting) < limit and not done:
            name = next(remaining, None)
            if name is None:
                done = True
            else:
                waiting.append(pool.submit(read, name))
        while waiting and len(ready) < batch_size:
            ready += waiting.popleft().result()
        # A photo of many faces fills more than one batch.
        while len(ready) >= batch_size or (ready and done and not waiting):
            yield ready[:batch_size]
            del ready[:batch_size]


def read_image_file(path: str) -> bytes:
    """The bytes of a local or remote image to predict; `codec.ImageError` if bad."""
    if files.is_remote(path):
        return files.read_bytes(path)
    try:
        return codec.read_file(path)
    except codec.ImageError as error:
        if os.path.islink(path) and os.path.isdir(path) and tree_walk.leads_up(path):
            raise codec.ImageError(
                "a link to a folder that contains it; to predict what is there, name"
                " that folder"
            ) from error
        raise
