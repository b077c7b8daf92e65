"""Augmentation on the device: `afad_tfdata.images.augment`, by its public name."""

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
