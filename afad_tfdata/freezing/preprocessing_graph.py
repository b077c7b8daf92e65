"""Graphs that take images as they are: preprocessing, then the frozen graph.

There are two kinds of input.  Both work in TensorFlow 1.15 too, and in both
``root_input`` is the name of what the network then sees:

* ``bytes``: JPEG or PNG files, string ``[n]``, decoded one after the other;
* ``pixels``: uint8 ``[n, height, width, 3]`` RGB in [0, 255], of any size.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from afad_tfdata.common.lazy_imports import tf
from afad_tfdata.freezing import graphdef
from afad_tfdata.images import tensor_preprocessing


@dataclasses.dataclass(frozen=True)
class ImageInput:
    """One kind of input before preprocessing.

    Attributes:
      feed: Name of the placeholder.
      placeholder: Creates the placeholder, given its name.
      resize: Maps the placeholder to uint8 ``[n, size, size, 3]``, given the size, and
        how JPEGs are decoded.
      description: Its entry in NAME.json, without the name.
    """

    feed: str
    placeholder: Callable[[str], tf.Tensor]
    resize: Callable[[tf.Tensor, int, str], tf.Tensor]
    description: dict[str, Any]


def build(
    graph: tf.compat.v1.GraphDef,
    image_input: ImageInput,
    *,
    feed: str,
    fetches: Collection[str],
    size: int,
    mean: Sequence[float],
    divisor: float = tensor_preprocessing.DIVISOR,
    decode: str = "accurate",
) -> tf.compat.v1.GraphDef:
    """Builds a graph with preprocessing: decoding, resizing, normalisation, network.

    Args:
      graph: The frozen graph.
      image_input: One of `INPUTS`.
      feed: Name of the frozen graph's placeholder.
      fetches: Names of its outputs, which stay the same.
      size: Side of the network's input in pixels.
      mean: Channel means R, G, B in [0, 255].
      divisor: What ``x - mean`` is divided by.
      decode: How JPEGs are decoded, one of `codec.DECODES`.
    """
    # Loops of TensorFlow 2 are functions in a library, which a graph of constants does
    # not have.  The switch is global; "enabled" is TensorFlow 2's default.
    tf.compat.v1.disable_control_flow_v2()
    try:
        with tf.Graph().as_default() as whole:
            given = image_input.placeholder(image_input.feed)
            pixels = image_input.resize(given, size, decode)
            value = tensor_preprocessing.normalize(pixels, mean, divisor)
            inputs = tf.identity(value, name=feed)
            tf.import_graph_def(graph, {f"{feed}:0": inputs}, name="")
            result = whole.as_graph_def()
    finally:
        tf.compat.v1.enable_control_flow_v2()
    return graphdef.reachable(result, fetches)


def expected_input(
    encoded: bytes,
    size: int,
    mean: Sequence[float],
    divisor: float = tensor_preprocessing.DIVISOR,
    decode: str = "accurate",
) -> np.ndarray:
    """What preprocessing makes of an image file: float32 ``[size, size, 3]``."""
    pixels = tensor_preprocessing.decode_and_resize(
        tf.constant(encoded), size, decode=decode
    )
    return tensor_preprocessing.normalize(pixels, mean, divisor).numpy()


def _bytes_placeholder(name: str) -> tf.Tensor:
    """The node of a graph with preprocessing that is fed encoded images."""
    return tf.compat.v1.placeholder(tf.string, [None], name)


def _pixels_of_files(encoded: tf.Tensor, size: int, decode: str) -> tf.Tensor:
    """Preprocessing in the graph: decodes and resizes encoded images."""
    pixels = tf.map_fn(
        lambda one: tensor_preprocessing.decode_and_resize(one, size, decode=decode),
        encoded,
        fn_output_signature=tf.uint8,
    )
    # The loop does not know the shape, and layers need it.
    return tf.ensure_shape(pixels, [None, size, size, 3])


def _resized_pixels(pixels: tf.Tensor, size: int, decode: str) -> tf.Tensor:
    """Preprocessing in the graph: resizes pixels that are fed."""
    del decode  # The program that feeds pixels has decoded them.
    return tensor_preprocessing.resize(pixels, size)


def _pixels_placeholder(name: str) -> tf.Tensor:
    """The node of a graph with preprocessing that is fed pixels."""
    return tf.compat.v1.placeholder(tf.uint8, [None, None, None, 3], name)


INPUTS = {
    "bytes": ImageInput(
        feed="image_bytes",
        placeholder=_bytes_placeholder,
        resize=_pixels_of_files,
        description={
            "dtype": "string",
            "shape": [None],
            "content": "JPEG or PNG files, each whole",
        },
    ),
    "pixels": ImageInput(
        feed="image_pixels",
        placeholder=_pixels_placeholder,
        resize=_resized_pixels,
        description={
            "dtype": "uint8",
            "shape": [None, None, None, 3],
            "layout": "NHWC",
            "channel_order": "RGB",
            "value_range": [0, 255],
        },
    ),
}
