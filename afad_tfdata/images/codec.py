"""Images as numpy arrays: reading the header, decoding, resizing.

::

    content = codec.read_file("25/111/100-0.jpg")
    header = codec.read_header(content)           # raises ImageError with the reason
    codec.check_header(header, as_stored=False)
    pixels = codec.resize(codec.decode(content, header), 150)    # uint8 [150, 150, 3]

Decoding is accurate (slow-but-accurate DCT, fancy upsampling) unless the caller asks
for the fast DCT and upsampling.  Resizing is bilinear with half-pixel centres.
simplejpeg decodes JPEGs.  OpenCV does the rest if it is installed (the ``fast`` extra);
otherwise Pillow and numpy do it more slowly, and give the same pixels to the last bit.
This module does not load TensorFlow, so that the processes of the writer stay small.
"""

from __future__ import annotations

import errno
import functools
import io
import os
import stat
import struct
import types
import zlib
from typing import Any

import numpy as np

from afad_tfdata.common import errors, lazy_imports
from afad_tfdata.images import image_header, numpy_resizing

# These names are exported from here as well, because callers that decode need them.
from afad_tfdata.images.image_header import MAX_PIXELS as MAX_PIXELS
from afad_tfdata.images.image_header import ImageError, ImageHeader, read_header
from afad_tfdata.images.image_header import check_header as check_header

# How JPEGs are decoded: by libjpeg's accurate or by its fast DCT and upsampling.
DECODES = ("accurate", "fast")
# Large enough for any photo, small enough that its content fits into memory.
MAX_BYTES = 64 << 20
_SHORTAGES = (errno.EMFILE, errno.ENFILE)
# Alpha of an opaque pixel.
_OPAQUE = 255


def load_decoders() -> None:
    """Imports the libraries that decode, so that they do not delay the first image."""
    _jpeg_library()
    _png_library()


def read_file(path: str | bytes, largest: int = MAX_BYTES) -> bytes:
    """The bytes of an image file, for `decode`; `ImageError` says why it is unusable.

    Args:
      path: The file.
      largest: The most bytes that are read.

    Raises:
      ImageError: It cannot be read, is larger, or is a device or pipe.
      UsageError: The process or the machine has too many open files.
    """
    try:
        # Without O_NONBLOCK, opening a pipe that nobody writes into waits for ever.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
        descriptor = os.open(path, flags)
        try:
            about = os.fstat(descriptor)
            size = about.st_size
            if not stat.S_ISREG(about.st_mode):
                raise ImageError("not a file")
            if size > largest:
                raise too_large(size, largest)
            content = os.read(descriptor, size + 1)
            # A read may return less than was asked for, as on network file systems.
            while len(content) < size and (more := os.read(descriptor, size)):
                content += more
            return content
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno in _SHORTAGES:  # The image itself may be usable.
            raise errors.UsageError(
                f"cannot open {os.fsdecode(path)}: {error.strerror}; raise the limit"
                " (ulimit -n), and run the same command again"
            ) from error
        raise ImageError(f"cannot be read: {error.strerror}") from error


def too_large(size: int, largest: int) -> ImageError:
    """The reason why an image file of this size is not read and decoded."""
    return ImageError(f"{size} bytes; --max_file_bytes is {largest}")


def decode(
    data: bytes,
    header: ImageHeader | None = None,
    *,
    stored: bool = False,
    fast: bool = False,
) -> np.ndarray:
    """Decodes a JPEG or PNG as a viewer shows it.

    Args:
      data: The whole file.
      header: From `read_header`, if that was called already.
      stored: Whether the image comes from a record.  Such an image was checked when it
        was written.  It is not rotated, because plain decoders do not rotate it.
      fast: Whether JPEGs are decoded by the fast DCT and upsampling.

    Returns:
      uint8 ``[height, width, 3]`` RGB, upright.

    Raises:
      ImageError: It cannot be decoded completely, or has transparent pixels.
    """
    header = header or read_header(data)
    if header.format == "jpeg":
        image = _decode_jpeg(data, "RGB", fast=fast)
    else:
        if not stored:
            image_header.check_png_pixels(data, header)
        image = _png_library().decode_png(data[: header.end], header)
    if header.orientation != 1 and not stored:
        image = _turn_upright(image, header.orientation)
    return image


def check_whole(data: bytes, header: ImageHeader) -> tuple[int, int]:
    """Decodes only as much of an image as shows whether it is whole.

    All scans of a JPEG are read, because damage shows there.  Its colours are not
    computed, which saves a third of the time.

    Args:
      data: The whole file.
      header: From `read_header`.

    Returns:
      ``(height, width)``, pixels, before any rotation.

    Raises:
      ImageError: It cannot be decoded; `decode` would raise the same.
    """
    if header.format != "jpeg":
        image_header.check_png_pixels(data, header)
        image = decode(data, header, stored=True)
    else:
        image = _decode_jpeg(data, "GRAY")
    return image.shape[0], image.shape[1]


def resize(
    image: np.ndarray,
    size: int,
    *,
    antialias: bool = False,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Resizes a decoded image to a square, bilinear with half-pixel centres.

    Args:
      image: uint8 ``[height, width, 3]``.
      size: Side of the result, pixels.
      antialias: Whether to average over the area of a pixel if both sides shrink.
      out: uint8 ``[size, size, 3]`` to fill.

    Returns:
      uint8 ``[size, size, 3]``; `out` if that was given.
    """
    if image.shape[0] == size == image.shape[1]:
        if out is None:
            return image
        np.copyto(out, image)
        return out
    averages = antialias and image.shape[0] >= size <= image.shape[1]
    return _png_library().resize(image, size, averages, out)


def channel_sums(image: np.ndarray) -> tuple[int, int, int]:
    """Exact sums of the red, green and blue values of a decoded uint8 image."""
    return _png_library().channel_sums(image)


def encode_jpeg(image: np.ndarray, quality: int) -> bytes:
    """Encodes a uint8 RGB image as a JPEG with 4:2:0 chroma."""
    return _jpeg_library().encode_jpeg(
        np.ascontiguousarray(image), quality=quality, colorsubsampling="420"
    )


def _decode_jpeg(data: bytes, colors: str, *, fast: bool = False) -> np.ndarray:
    """Decodes a JPEG to ``RGB`` or ``GRAY``; `ImageError` if it is not whole."""
    simplejpeg = _jpeg_library()
    try:
        # strict is set, because libjpeg only warns of some damage, such as missing
        # scans.
        return simplejpeg.decode_jpeg(
            data, colors, fastdct=fast, fastupsample=fast, strict=True
        )
    except ValueError as error:
        raise ImageError(f"cannot be decoded: {errors.one_line(error)}") from error


@functools.cache
def _jpeg_library() -> types.ModuleType:
    """The library that decodes JPEGs; no other finds the same damage."""
    return lazy_imports.import_optional(
        "simplejpeg", extra="fast", purpose="decoding JPEGs"
    )


class _OpenCvLibrary:
    """PNG decoding, resizing and sums by OpenCV."""

    def __init__(self, cv2: Any) -> None:
        self._cv2 = cv2

    def decode_png(self, data: bytes, header: ImageHeader) -> np.ndarray:
        """Decodes a PNG file by OpenCV."""
        cv2 = self._cv2
        # `decode` applies the orientation, so that both libraries do it alike.
        color = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        flags = cv2.IMREAD_UNCHANGED if header.transparency else color
        try:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        except cv2.error as error:
            raise ImageError(f"cannot be decoded: {errors.one_line(error)}") from error
        if image is None:
            raise ImageError("cannot be decoded")
        if header.transparency:
            if image.ndim == 3 and image.shape[2] == 4:
                opaque = np.iinfo(image.dtype).max
                if image[..., 3].min() < opaque:
                    raise ImageError(
                        "transparent pixels: viewers show them differently"
                    )
            image = cv2.imdecode(np.frombuffer(data, np.uint8), color)
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)

    def resize(
        self, image: np.ndarray, size: int, averages: bool, out: np.ndarray | None
    ) -> np.ndarray:
        """Resizes an image by OpenCV."""
        method = self._cv2.INTER_AREA if averages else self._cv2.INTER_LINEAR
        return self._cv2.resize(image, (size, size), dst=out, interpolation=method)

    def channel_sums(self, image: np.ndarray) -> tuple[int, int, int]:
        """Sums of the channels of an image, by OpenCV."""
        # OpenCV sums one channel under a mask with vector instructions, but not three
        # channels at once; separating the channels first costs more than the sums.
        rows = image.reshape(image.shape[0], -1)
        red, green, blue = (
            int(self._cv2.norm(rows, self._cv2.NORM_L1, mask))
            for mask in _channel_masks(image.shape[:2])
        )
        return red, green, blue


class _PillowLibrary:
    """PNG decoding, resizing and sums by Pillow and numpy, without any extra."""

    def decode_png(self, data: bytes, header: ImageHeader) -> np.ndarray:
        """Decodes a PNG file by Pillow."""
        from PIL import PngImagePlugin

        try:
            # Image.open has a limit of its own, and would refuse large images that
            # `check_header` accepts on request.
            image = PngImagePlugin.PngImageFile(io.BytesIO(data))
            image.load()
        # The type of the error depends on which chunk is damaged.
        except (OSError, SyntaxError, ValueError, zlib.error, struct.error) as error:
            raise ImageError(f"cannot be decoded: {errors.one_line(error)}") from error
        if header.transparency:
            pixels = np.asarray(image.convert("RGBA"))
            if pixels[..., 3].min() < _OPAQUE:
                raise ImageError("transparent pixels: viewers show them differently")
            return np.ascontiguousarray(pixels[..., :3])
        if image.mode.startswith("I"):
            # 16-bit gray is reduced to its upper byte.  OpenCV does the same, and so
            # does Pillow with 16-bit colours.
            gray = (np.asarray(image) >> 8).astype(np.uint8)
            return np.repeat(gray[..., None], 3, axis=2)
        return np.array(image.convert("RGB"))

    def resize(
        self, image: np.ndarray, size: int, averages: bool, out: np.ndarray | None
    ) -> np.ndarray:
        """Resizes an image as OpenCV does, by numpy."""
        resample = numpy_resizing.area if averages else numpy_resizing.bilinear
        resized = resample(image, size)
        if out is None:
            return resized
        np.copyto(out, resized)
        return out

    def channel_sums(self, image: np.ndarray) -> tuple[int, int, int]:
        """Sums of the channels of an image, by numpy."""
        red, green, blue = image.sum(axis=(0, 1), dtype=np.int64).tolist()
        return red, green, blue


@functools.lru_cache(maxsize=2)
def _channel_masks(shape: tuple[int, int]) -> tuple[np.ndarray, ...]:
    """OpenCV's masks by which `channel_sums` adds up a decoded image's channels."""
    # OpenCV counts the positions at which the mask is not 0.
    masks = np.zeros((3, *shape, 3), np.uint8)
    for channel, mask in enumerate(masks):
        mask[..., channel] = 255
    return tuple(masks.reshape(3, shape[0], -1))


@functools.cache
def _png_library() -> _OpenCvLibrary | _PillowLibrary:
    """The library that decodes PNGs and resizes: OpenCV, or Pillow without it."""
    try:
        import cv2
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "cv2":
            return _PillowLibrary()
        # Pillow must not replace OpenCV silently.  One of several processes may be
        # short of memory, and would then resize to other pixels than the rest.
        raise errors.UsageError(
            f"OpenCV is installed, but cannot be loaded ({errors.one_line(error)}):"
            " install opencv-python-headless, or uninstall OpenCV, and Pillow is used"
        ) from error
    if not hasattr(cv2, "imdecode"):
        where = getattr(cv2, "__file__", None) or ", ".join(cv2.__path__)
        raise errors.UsageError(
            f"the module cv2 in {where} is not OpenCV: give it another name, or call"
            " the program from another folder"
        )
    # The pipeline runs its own threads; OpenCV's would only compete with them.
    cv2.setNumThreads(0)
    return _OpenCvLibrary(cv2)


def _turn_upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Turns a decoded image upright: 5 to 8 are transposed, the rest only mirrored."""
    if orientation in (5, 6, 7, 8):
        image = image.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)
