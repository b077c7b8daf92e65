"""Normalisation and resizing: the public name of `afad_tfdata.images.preprocess`."""

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
