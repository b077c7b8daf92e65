"""TF32: GPUs round the factors of float32 products to 10 bits, which is faster."""

from __future__ import annotations

from afad_tfdata.common.lazy_imports import tf


def turn_off() -> None:
    """Turns TF32 off: GPUs then compute float32 products in full.

    TensorFlow rounds by default.  Training may gain from that, but predictions would
    differ from those of a CPU, and from those of other programs, by about 1e-3.
    """
    tf.config.experimental.enable_tensor_float_32_execution(False)
