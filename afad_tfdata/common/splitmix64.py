"""SplitMix64's mixer of integers: every bit depends on every bit.

The order of examples and the augmentation of each image come from it and not from
TensorFlow's generators, so that they are the same for every version and device, inside
XLA and outside.  Steele, Lea and Flood, "Fast splittable pseudorandom number
generators", OOPSLA 2014 (doi:10.1145/2660193.2660195); the constants are those of
S. Vigna's variant.
"""

from __future__ import annotations

import numpy as np

from afad_tfdata.common.lazy_imports import tf

# 2^64 divided by the golden ratio, odd: multiples of it are spread evenly.
GAMMA = 0x9E3779B97F4A7C15
# Right shifts, each with the factor that follows it; a last shift ends the mixing.
ROUNDS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
LAST_SHIFT = 31
ALL_BITS = (1 << 64) - 1


def word(value: int) -> tf.Tensor:
    """An integer modulo 2^64, as uint64 ``[]``, to be mixed."""
    return tf.constant(np.uint64(value % 2**64))


def mix(value: tf.Tensor) -> tf.Tensor:
    """Mixes uint64 values of any shape; a one-to-one map."""
    for shift, factor in ROUNDS:
        value = _xor_shift(value, shift) * word(factor)
    return _xor_shift(value, LAST_SHIFT)


def _xor_shift(value: tf.Tensor, shift: int) -> tf.Tensor:
    """Mixes a word with itself, shifted to the right."""
    return tf.bitwise.bitwise_xor(value, tf.bitwise.right_shift(value, word(shift)))


def mix_by_numpy(value: np.ndarray) -> np.ndarray:
    """Computes SplitMix64's `mix` by numpy, whose arrays wrap around silently."""
    for shift, factor in ROUNDS:
        value = (value ^ (value >> np.uint64(shift))) * np.uint64(factor)
    return value ^ (value >> np.uint64(LAST_SHIFT))


def mix_integer(value: int) -> int:
    """Computes SplitMix64's `mix` for one Python integer, modulo 2^64."""
    return int(mix_by_numpy(np.array([value & ALL_BITS], np.uint64))[0])
