"""Small graphs that TensorFlow 1.15 loads, but cannot run or computes differently."""

import numpy as np

from afad_tfdata.common.lazy_imports import tf

SHAPE = (2, 8, 8, 8)


def values(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def _pool(name, dims, data_format):
    sizes = [1, 1] + [2] * dims
    key = "value" if name == "AvgPool" else "input"
    return lambda x: getattr(tf.raw_ops, name)(
        **{key: x if dims == 2 else x[:, None]},
        ksize=sizes,
        strides=sizes,
        padding="SAME",
        data_format=data_format,
    )


REFUSED = {
    "Conv2D": lambda x: tf.raw_ops.Conv2D(
        input=x,
        filter=values(3, 3, 8, 4),
        strides=[1] * 4,
        padding="SAME",
        data_format="NCHW",
    ),
    "DepthwiseConv2dNative": lambda x: tf.raw_ops.DepthwiseConv2dNative(
        input=x,
        filter=values(3, 3, 8, 1),
        strides=[1] * 4,
        padding="SAME",
        data_format="NCHW",
    ),
    "DepthwiseConv2dNative dilated": lambda x: tf.raw_ops.DepthwiseConv2dNative(
        input=x,
        filter=values(3, 3, 8, 1),
        strides=[1] * 4,
        padding="SAME",
        dilations=[1, 2, 2, 1],
    ),
    "Conv2DBackpropInput": lambda x: tf.raw_ops.Conv2DBackpropInput(
        input_sizes=[2, 4, 16, 16],
        filter=values(3, 3, 4, 8),
        out_backprop=x,
        strides=[1, 1, 2, 2],
        padding="SAME",
        data_format="NCHW",
    ),
    "Conv2DBackpropInput dilated": lambda x: tf.raw_ops.Conv2DBackpropInput(
        input_sizes=[2, 8, 8, 4],
        filter=values(3, 3, 4, 8),
        out_backprop=x,
        strides=[1] * 4,
        padding="SAME",
        dilations=[1, 2, 2, 1],
    ),
    "Conv3D": lambda x: tf.raw_ops.Conv3D(
        input=x[:, None],
        filter=values(3, 3, 2, 1, 4),
        strides=[1] * 5,
        padding="SAME",
        data_format="NCDHW",
    ),
    "Conv3D dilated": lambda x: tf.raw_ops.Conv3D(
        input=x[..., None],
        filter=values(3, 3, 2, 1, 4),
        strides=[1] * 5,
        padding="SAME",
        dilations=[1, 2, 2, 1, 1],
    ),
    "MaxPool": _pool("MaxPool", 2, "NCHW"),
    "AvgPool": _pool("AvgPool", 2, "NCHW"),
    "MaxPool3D": _pool("MaxPool3D", 3, "NCDHW"),
    "AvgPool3D": _pool("AvgPool3D", 3, "NCDHW"),
    "DepthToSpace": lambda x: tf.raw_ops.DepthToSpace(
        input=x, block_size=2, data_format="NCHW"
    ),
    "SpaceToDepth": lambda x: tf.raw_ops.SpaceToDepth(
        input=x, block_size=2, data_format="NCHW"
    ),
    "FusedBatchNormV3": lambda x: (
        tf.raw_ops.FusedBatchNormV3(
            x=x,
            scale=values(8),
            offset=values(8),
            mean=np.zeros(0, np.float32),
            variance=np.zeros(0, np.float32),
            is_training=True,
            data_format="NCHW",
        ).y
    ),
    "Einsum": lambda x: tf.raw_ops.Einsum(
        inputs=[x, values(8, 6)], equation="...c,cd->...d"
    ),
    "StridedSlice": lambda x: tf.reshape(x, [-1, 2, 2, 2, 2, 2, 2, 8])[:, :1, ..., 1:],
    "Slice": lambda x: tf.slice(
        tf.reshape(x, [-1, 2, 2, 2, 2, 2, 2, 8]), [0] * 8, [-1] + [1] * 7
    ),
}
# Refused graphs that 1.15 computes wrongly on some machines only.
WRONG_ON_SOME_MACHINES = {"Einsum"}
# Similar graphs that 1.15 runs.
ACCEPTED = {
    "Conv2D dilated": lambda x: tf.raw_ops.Conv2D(
        input=x,
        filter=values(3, 3, 8, 4),
        strides=[1] * 4,
        padding="SAME",
        dilations=[1, 2, 2, 1],
    ),
    "DepthwiseConv2dNative": lambda x: tf.raw_ops.DepthwiseConv2dNative(
        input=x, filter=values(2, 3, 8, 2), strides=[1, 2, 2, 1], padding="SAME"
    ),
    "BiasAdd": lambda x: tf.raw_ops.BiasAdd(
        value=x, bias=values(8), data_format="NCHW"
    ),
    "FusedBatchNormV3": lambda x: (
        tf.raw_ops.FusedBatchNormV3(
            x=x,
            scale=values(8),
            offset=values(8),
            mean=values(8),
            variance=np.abs(values(8)),
            is_training=False,
            data_format="NCHW",
        ).y
    ),
    "Einsum": lambda x: tf.raw_ops.Einsum(
        inputs=[x, values(8, 6)], equation="abcd,de->abce"
    ),
    "StridedSlice": lambda x: tf.reshape(x, [-1, 2, 2, 2, 2, 4, 8])[:, :1, ..., 1:],
}


def graph(build):
    """A GraphDef from ``root_input`` to ``out``."""
    with tf.Graph().as_default() as built:
        images = tf.compat.v1.placeholder(
            tf.float32, [None, *SHAPE[1:]], name="root_input"
        )
        tf.identity(build(images), name="out")
        return built.as_graph_def()
