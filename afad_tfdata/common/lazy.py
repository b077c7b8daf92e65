"""The former name of `lazy_imports`."""

from afad_tfdata.common.lazy_imports import keras, tf

__all__ = ["keras", "tf"]
