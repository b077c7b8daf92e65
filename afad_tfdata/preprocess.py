"""The public name of `afad_tfdata.images.tensor_preprocessing`."""

from afad_tfdata.images.tensor_preprocessing import (
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
