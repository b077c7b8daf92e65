"""Presets of keras-hub that tests write: tiny networks with random weights."""

import pytest

from afad_tfdata.common.lazy_imports import keras
from tests.models.small_networks import SIZE

# By channel, so that an exchange of channels would show.
SCALE, OFFSET = (1 / 127.5, 1 / 64.0, 1 / 100.0), (-1.0, -0.5, 0.25)


def library():
    """keras-hub, without which a test is skipped."""
    return pytest.importorskip("keras_hub", exc_type=ImportError)


def vit(directory, *, size=SIZE, converter=True, **changes):
    """Writes a preset of a small ViT; returns its ``--backbone``."""
    hub = library()
    values = {
        "image_shape": (size, size, 3),
        "patch_size": 8,
        "num_layers": 3,
        "num_heads": 2,
        "hidden_dim": 24,
        "mlp_dim": 48,
        "dropout_rate": 0.1,
        "attention_dropout": 0.1,
        "name": "small_vit",
    }
    keras.utils.set_random_seed(3)
    hub.models.ViTBackbone(**{**values, **changes}).save_to_preset(str(directory))
    if converter:
        _converter(hub.layers.ViTImageConverter, directory)
    return f"keras_hub:{directory}"


def dino(directory):
    """Writes a preset of a small DINOv2, whose position embedding fits any size."""
    hub = library()
    keras.utils.set_random_seed(3)
    hub.models.DINOV2Backbone(
        patch_size=8,
        num_layers=2,
        hidden_dim=16,
        num_heads=2,
        intermediate_dim=32,
        num_register_tokens=2,
        image_shape=(SIZE, SIZE, 3),
        position_embedding_shape=(SIZE, SIZE, 3),
        name="small_dino",
    ).save_to_preset(str(directory))
    _converter(hub.layers.DINOV2ImageConverter, directory)
    return f"keras_hub:{directory}"


def resnet(directory):
    """Writes a preset of a small ResNet, which takes images of any size."""
    hub = library()
    keras.utils.set_random_seed(3)
    hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[3],
        stackwise_num_filters=[64],  # keras-hub takes no other number here.
        stackwise_num_blocks=[1],
        stackwise_num_strides=[1],
        block_type="basic_block",
        image_shape=(None, None, 3),
        name="small_resnet",
    ).save_to_preset(str(directory))
    _converter(hub.layers.ResNetImageConverter, directory)
    return f"keras_hub:{directory}"


def _converter(layer, directory):
    layer(
        # Of another size than the network: images are resized before.
        image_size=(64, 64),
        scale=list(SCALE),
        offset=list(OFFSET),
    ).save_to_preset(str(directory))
