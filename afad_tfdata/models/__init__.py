"""Networks: built by `build_model`, with fixed names at both ends.

Programs import this folder's public names from here.  Modules of this package import
the modules of the folder one by one.
"""

from afad_tfdata.models.networks import (
    DEFAULT_TRAINABLE_LAYERS,
    INPUT_NAME,
    STAGES,
    ModelConfig,
    build_model,
    set_trainable,
    training_model,
)
from afad_tfdata.models.saved import (
    copy_weights,
    info,
    load,
    rebuild_float32,
    save,
    transfer,
)

__all__ = [
    "DEFAULT_TRAINABLE_LAYERS",
    "INPUT_NAME",
    "STAGES",
    "ModelConfig",
    "build_model",
    "copy_weights",
    "info",
    "load",
    "rebuild_float32",
    "save",
    "set_trainable",
    "training_model",
    "transfer",
]
