"""Augmentation on the device: the public name of `afad_tfdata.images.augment`."""

from afad_tfdata.images.augment import (
    FORMS,
    AugmentConfig,
    augment_images,
    parameters,
    parse,
    preview,
)

__all__ = [
    "FORMS",
    "AugmentConfig",
    "augment_images",
    "parameters",
    "parse",
    "preview",
]
