"""Graphs that take images as they are: the frozen one with preprocessing before it.

Two forms, both for TensorFlow 1.15 too, both with ``root_input`` as the name of what
the network then sees:

* ``bytes``: JPEG or PNG files, string ``[n]``, decoded one after the other;
* ``pixels``: uint8 ``[n, height, width, 3]`` RGB in [0, 255], of any size.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from afad_tfdata.common.lazy import tf
from afad_tfdata.freezing import graphdef
from afad_tfdata.images import preprocess

FEEDS = {"bytes": "image_bytes", "pixels": "image_pixels"}


def build(
    graph: Any,
    kind: str,
    *,
    feed: str,
    fetches: Collection[str],
    size: int,
    mean: Sequence[float],
) -> Any:
    """A frozen graph with decoding, resizing and normalisation before it.

    Args:
      graph: GraphDef.
      kind: ``bytes`` or ``pixels``.
      feed: Name of its placeholder.
      fetches: Names of its outputs, which they keep.
      size: Side of the network's input.
      mean: By channel, in [0, 255].
    """
    # Loops of the old kind: those of the new kind are functions in a library.
    tf.compat.v1.disable_control_flow_v2()
    try:
        with tf.Graph().as_default() as whole:
            if kind == "bytes":
                given = tf.compat.v1.placeholder(tf.string, [None], FEEDS[kind])
                pixels = tf.map_fn(
                    lambda encoded: preprocess.decode_and_resize(encoded, size),
                    given,
                    fn_output_signature=tf.uint8,
                )
                pixels = tf.ensure_shape(pixels, [None, size, size, 3])
            else:
                shape = [None, None, None, 3]
                given = tf.compat.v1.placeholder(tf.uint8, shape, FEEDS[kind])
                pixels = preprocess.resize(given, size)
            inputs = tf.identity(preprocess.normalize(pixels, mean), name=feed)
            tf.import_graph_def(graph, {f"{feed}:0": inputs}, name="")
            result = whole.as_graph_def()
    finally:
        tf.compat.v1.enable_control_flow_v2()
    return graphdef.reachable(result, fetches)


def reference(encoded: bytes, size: int, mean: Sequence[float]) -> Any:
    """What the network sees of a file: float32 ``[size, size, 3]``."""
    pixels = preprocess.decode_and_resize(tf.constant(encoded), size)
    return preprocess.normalize(pixels, mean).numpy()


def description(kind: str) -> dict[str, Any]:
    """What a graph of that kind is fed; empty where that is normalised input."""
    if kind == "bytes":
        feed: dict[str, Any] = {
            "name": FEEDS[kind],
            "dtype": "string",
            "shape": [None],
            "content": "JPEG or PNG files, each whole",
        }
    elif kind == "pixels":
        feed = {
            "name": FEEDS[kind],
            "dtype": "uint8",
            "shape": [None, None, None, 3],
            "layout": "NHWC",
            "channel_order": "RGB",
            "value_range": [0, 255],
        }
    else:
        return {}
    return {"feeds": [feed]}
