"""From encoded bytes to what a model takes, in TensorFlow operations.

Training, evaluation, frozen graphs with preprocessing and ``predict`` all go through
here or through `images`, which gives the same pixels within one level of 255.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from afad_tfdata.common.lazy import tf

# Half of the range of pixels: every model's input is (x - mean) / DIVISOR.
DIVISOR = 127.5


def normalize(images: Any, mean_rgb: Sequence[float]) -> Any:
    """A model's input: ``(images - mean) / 127.5``.

    Args:
      images: ``[..., 3]`` RGB in [0, 255], uint8 or floating.
      mean_rgb: Three numbers in [0, 255].

    Returns:
      float32 of the same shape, within [-2, 2].
    """
    mean = tf.constant(tuple(mean_rgb), tf.float32)
    return (tf.cast(images, tf.float32) - mean) / DIVISOR


def decode_and_resize(encoded: Any, size: int, *, stored_size: int = 0) -> Any:
    """Decodes a JPEG or PNG and brings it to size.

    The slow-but-accurate DCT and fancy upsampling give PIL's and simplejpeg's bits.
    Resizing is bilinear with half-pixel centres and without antialiasing, on float32:
    the kernel is slower on integers.

    Args:
      encoded: string ``[]``.
      size: Side of the result, pixels.
      stored_size: Side of the encoded image where that is known, else 0: an image that
        has the size already is left as it is.

    Returns:
      uint8 ``[size, size, 3]`` RGB.

    Raises:
      tf.errors.InvalidArgumentError: The bytes are not a JPEG or PNG, or damaged.
    """
    image = tf.io.decode_jpeg(
        encoded, channels=3, dct_method="INTEGER_ACCURATE", fancy_upscaling=True
    )
    if stored_size == size:
        return tf.ensure_shape(image, [size, size, 3])
    return resize(image[tf.newaxis], size)[0]


def resize(images: Any, size: int) -> Any:
    """Brings a batch to size, as `decode_and_resize` does.

    Args:
      images: ``[n, height, width, 3]`` in [0, 255].
      size: Side of the result, pixels.

    Returns:
      uint8 ``[n, size, size, 3]``, rounded.
    """
    resized = tf.raw_ops.ResizeBilinear(
        images=tf.cast(images, tf.float32),
        size=(size, size),
        half_pixel_centers=True,
    )
    return tf.cast(tf.round(resized), tf.uint8)
