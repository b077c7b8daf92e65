"""Normalisation and resizing: `afad_tfdata.images.preprocess`, by its public name."""

from afad_tfdata.images.preprocess import (
    DIVISOR,
    decode_and_resize,
    normalize,
    resize,
)

__all__ = [
    "DIVISOR",
    "decode_and_resize",
    "normalize",
    "resize",
]
