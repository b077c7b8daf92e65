"""Augmentation on the device: the public name of `afad_tfdata.images.augmentation`."""

from afad_tfdata.images.augmentation import (
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
