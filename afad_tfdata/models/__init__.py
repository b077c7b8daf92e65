"""Networks: built by `build_model`, with fixed names of input and outputs.

::

    config = models.ModelConfig(backbone="VGG19", image_size=150, mean=(132, 111, 101))
    model = models.build_model(config)        # root_input -> age_output, gender_output
    models.save(model, "face.keras", class_names=("male", "female"))

A model's input is ``root_input``: float32 RGB ``[n, size, size, 3]`` with the values
``(x - mean) / 127.5``.  Other programs import the public names from here.  Modules of
this package import the modules in this folder directly.
"""

from afad_tfdata.models.facts import network_of as info
from afad_tfdata.models.model_files import load, save
from afad_tfdata.models.model_weights import copy_weights, rebuild_float32
from afad_tfdata.models.model_weights import transfer_weights as transfer
from afad_tfdata.models.networks import (
    INPUT_NAME,
    ModelConfig,
    build_model,
    training_model,
)
from afad_tfdata.models.trainable_layers import (
    DEFAULT_TRAINABLE_LAYERS,
    STAGES,
    set_trainable,
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
