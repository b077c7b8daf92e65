"""Decoding, resizing and normalising of images with TensorFlow operations.

Training, evaluation, frozen graphs with preprocessing and ``predict`` all use this
module or `codec`.  The pixels of both are equal within one level of 255.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from afad_tfdata.common.lazy_imports import tf

# Half of the range of pixels: every model's input is (x - mean) / DIVISOR.  The number
# is defined only here; frozen graphs and their descriptions contain its value.
DIVISOR = 127.5


def normalize(
    images: tf.Tensor, mean_rgb: Sequence[float], divisor: float = DIVISOR
) -> tf.Tensor:
    """A model's input as a tensor: ``(images - mean) / divisor``.

    Args:
      images: ``[..., 3]`` RGB in [0, 255], uint8 or floating.
      mean_rgb: Three numbers in [0, 255].
      divisor: `DIVISOR` for models of this package.

    Returns:
      float32 of the same shape, within [-2, 2] for models of this package.
    """
    mean = tf.constant(tuple(mean_rgb), tf.float32)
    return (tf.cast(images, tf.float32) - mean) / divisor


def decode_and_resize(
    encoded: tf.Tensor, size: int, *, stored_size: int = 0, decode: str = "accurate"
) -> tf.Tensor:
    """Decodes a JPEG or PNG by TensorFlow, and resizes it to a square.

    By default, the slow-but-accurate DCT and fancy upsampling give the same bits as
    Pillow and simplejpeg.  Resizing is bilinear with half-pixel centres and without
    antialiasing.

    Args:
      encoded: string ``[]``.
      size: Side of the result, pixels.
      stored_size: Side of the encoded image if that is known, else 0; an image that
        has the wanted size already is not resized.
      decode: How JPEGs are decoded, one of `codec.DECODES`.

    Returns:
      uint8 ``[size, size, 3]`` RGB.

    Raises:
      tf.errors.InvalidArgumentError: The bytes are not a JPEG or PNG, or damaged.
    """
    # In spite of its name, decode_jpeg also decodes PNG.  Unlike decode_image, it
    # returns a tensor of known rank.
    image = tf.io.decode_jpeg(encoded, channels=3, **jpeg_options(decode))
    if stored_size == size:
        return tf.ensure_shape(image, [size, size, 3])
    return resize(image[tf.newaxis], size)[0]


def jpeg_options(decode: str) -> dict[str, Any]:
    """Returns the arguments of ``tf.io.decode_jpeg`` for one of `codec.DECODES`."""
    if decode == "fast":
        return {"dct_method": "INTEGER_FAST", "fancy_upscaling": False}
    return {"dct_method": "INTEGER_ACCURATE", "fancy_upscaling": True}


def resize(images: tf.Tensor, size: int) -> tf.Tensor:
    """Resizes a tensor of images to squares, as `decode_and_resize` does.

    Args:
      images: ``[n, height, width, 3]`` in [0, 255].
      size: Side of the result, pixels.

    Returns:
      uint8 ``[n, size, size, 3]``, rounded.
    """
    # The images are cast to float32, because the kernel is slower on integers.
    resized = tf.raw_ops.ResizeBilinear(
        images=tf.cast(images, tf.float32),
        size=(size, size),
        half_pixel_centers=True,
    )
    return tf.cast(tf.round(resized), tf.uint8)
