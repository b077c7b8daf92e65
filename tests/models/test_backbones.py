"""Backbones: conversion of the input, weights from files and from ImageNet."""

import h5py
import numpy as np
import pytest

from afad_tfdata.common import errors
from afad_tfdata.common.lazy_imports import keras
from afad_tfdata.models import backbones, facts, keras2_files, networks
from tests.models.small_networks import MEAN, SIZE, converted, inputs, make


@pytest.mark.parametrize(
    "name, module",
    [
        ("VGG19", "vgg19"),  # BGR without scaling
        ("ResNet101", "resnet"),
        ("ResNet50V2", "resnet_v2"),  # [-1, 1]
        ("InceptionV3", "inception_v3"),
        ("MobileNet", "mobilenet"),
        ("NASNetMobile", "nasnet"),
        ("DenseNet121", "densenet"),  # mean and deviation by channel
        ("EfficientNetV2B0", "efficientnet_v2"),  # takes raw pixels
        ("ConvNeXtTiny", "convnext"),
        ("MobileNetV3Small", "mobilenet_v3"),
    ],
)
def test_conversion_equals_keras_preprocessing(name, module):
    raw = np.random.default_rng(0).integers(0, 256, (2, 5, 5, 3)).astype(np.float32)
    expected = getattr(keras.applications, module).preprocess_input(raw.copy())
    conversion = backbones.input_conversion(name, "backbone", MEAN)
    got = converted(conversion, (raw - MEAN) / 127.5)
    np.testing.assert_allclose(got, expected, atol=2e-4)
    plain = backbones.input_conversion(name, "original", None)
    root = inputs()
    got = converted(plain, root)
    np.testing.assert_array_equal(got, root)


@pytest.mark.parametrize("normalization", ["original", "backbone"])
def test_efficientnet_sees_what_its_imagenet_weights_expect(normalization):
    """The weights that a file has for the layer inside do not matter."""
    backbone = backbones.build("EfficientNetB0", SIZE, raw_input=True)
    inner = next(
        layer
        for layer in backbone.layers
        if isinstance(layer, keras.layers.Normalization)
    )
    values = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225], 0)
    inner.set_weights([np.array(v) for v in values])
    inner.finalize_state()
    backbones._neutralise_normalization(backbone)
    raw = np.random.default_rng(0).uniform(0, 255, (1, SIZE, SIZE, 3)).astype("f4")
    conversion = backbones.input_conversion("EfficientNetB0", normalization, MEAN)

    root = (raw - np.float32(MEAN)) / np.float32(127.5)
    seen = keras.Model(backbone.input, inner.output)(converted(conversion, root))
    expected = root
    if normalization == "backbone":
        expected = keras.applications.imagenet_utils.preprocess_input(
            raw.copy(), mode="torch"
        )
    np.testing.assert_allclose(seen, expected, atol=1e-5)


def test_a_keras_that_normalises_differently_is_refused(monkeypatch):
    backbone = backbones.build("EfficientNetB0", SIZE, raw_input=True)
    layer = next(
        layer for layer in backbone.layers if isinstance(layer, keras.layers.Rescaling)
    )
    monkeypatch.setattr(layer, "scale", 1.0)
    with pytest.raises(errors.UsageError, match="another normalisation inside"):
        backbones._neutralise_normalization(backbone)

    def mixing(pixels):
        return pixels.mean(axis=-1, keepdims=True) + 0 * pixels

    monkeypatch.setattr(keras.applications.mobilenet, "preprocess_input", mixing)
    with pytest.raises(errors.UsageError, match="does not say what MobileNet expects"):
        backbones.input_conversion("MobileNet", "backbone", MEAN)


def legacy_file(backbone, path):
    """The older form of weights, as the files to download have it."""
    whole = str(path) + ".model.h5"
    backbone.save(whole)
    with h5py.File(whole, "r") as source, h5py.File(path, "w") as target:
        group = source["model_weights"]
        for name in group:
            source.copy(group[name], target, name)
        for name, value in group.attrs.items():
            target.attrs[name] = value


@pytest.mark.parametrize("form", ["weights", "legacy", "model_h5", "keras", "ours"])
def test_weights_from_a_file(form, donor, weights_file, tmp_path):
    path = str(tmp_path / "backbone.h5")
    if form == "weights":
        path = weights_file
    elif form == "legacy":
        legacy_file(donor, path)
    elif form == "model_h5":
        donor.save(path)
    else:
        path = str(tmp_path / "backbone.keras")
        whole = donor
        if form == "ours":
            whole = make("MobileNet", weights=weights_file, task="age")
        whole.save(path)
    backbone = backbones.build("MobileNet", SIZE, raw_input=True)
    backbones.load_file(backbone, "MobileNet", path)
    for got, expected in zip(backbone.get_weights(), donor.get_weights(), strict=True):
        np.testing.assert_array_equal(got, expected)


def flat(k, donor):
    """Backbone and head as one model, as the original project built them."""
    base = k.applications.MobileNet(
        include_top=False, weights=None, input_shape=(SIZE, SIZE, 3)
    )
    base.set_weights(donor.get_weights())
    x = k.layers.Dense(4, activation="relu")(k.layers.Flatten()(base.output))
    return k.Model(base.input, k.layers.Dense(1, activation="sigmoid")(x))


@pytest.mark.parametrize("form", ["keras_2", "keras_2_weights", "keras_3"])
def test_the_beginning_of_a_flat_model(form, donor, tmp_path):
    path = str(tmp_path / "epochs_42.h5")
    k = keras if form == "keras_3" else pytest.importorskip("tf_keras")
    model = flat(k, donor)
    model.save_weights(path) if form == "keras_2_weights" else model.save(path)
    backbone = backbones.build("MobileNet", SIZE, raw_input=True)
    backbones.load_file(backbone, "MobileNet", path)
    for got, expected in zip(backbone.get_weights(), donor.get_weights(), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_arrays_in_another_order_are_not_taken(donor, tmp_path):
    """In a nested model, Keras 2 stores the untrained weights after all others."""
    tf_keras = pytest.importorskip("tf_keras")
    path = str(tmp_path / "old.h5")
    flat(tf_keras, donor).save(path)
    with h5py.File(path, "r+") as file:
        layer = file["model_weights"]["conv1_bn"]
        names = list(layer.attrs["weight_names"])
        layer.attrs["weight_names"] = names[
            ::-1
        ]  # All four are vectors of the same length.
    backbone = backbones.build("MobileNet", SIZE, raw_input=True)
    assert not keras2_files.copy_backbone(path, backbone)


def test_weights_that_do_not_fit(donor, weights_file, tmp_path):
    def load(backbone, name, path):
        backbones.load_file(backbone, name, str(path))

    with pytest.raises(errors.UsageError, match="no such file"):
        load(donor, "MobileNet", tmp_path / "nowhere.h5")
    vgg = backbones.build("VGG16", SIZE, raw_input=True)
    with pytest.raises(errors.UsageError, match="does not fit VGG16.*notop"):
        load(vgg, "VGG16", weights_file)
    small = backbones.build("small_cnn", SIZE, raw_input=True)
    whole = make(task="age")
    whole.save_weights(tmp_path / "whole.weights.h5")
    with pytest.raises(errors.UsageError, match="does not fit small_cnn"):
        load(small, "small_cnn", tmp_path / "whole.weights.h5")
    (tmp_path / "text.h5").write_text("not weights")
    with pytest.raises(errors.UsageError, match="neither HDF5"):
        load(vgg, "VGG16", tmp_path / "text.h5")
    linked = str(tmp_path / "linked.weights.h5")
    backbones.build("VGG16", SIZE, raw_input=True).save_weights(linked)
    with h5py.File(linked, "a") as file:
        file["more"] = h5py.ExternalLink("/etc/hostname", "/x")
    with pytest.raises(errors.UsageError, match="link to /etc/hostname"):
        load(vgg, "VGG16", linked)
    whole.save(tmp_path / "small.keras")
    with pytest.raises(errors.UsageError, match="is a model without a part"):
        load(vgg, "VGG16", tmp_path / "small.keras")


def test_a_failed_download_says_which_file_to_copy_where(monkeypatch, tmp_path):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # No server is on this port.
    monkeypatch.setattr(
        keras.applications, "MobileNetV3Small", _without_cache(str(tmp_path))
    )
    with pytest.raises(errors.UsageError) as caught:
        make("MobileNetV3Small", weights="imagenet", mean=MEAN)
    message = str(caught.value)
    assert "\n" not in message
    assert "weights_mobilenet_v3_small_224_1.0_float_no_top_v2.h5" in message
    assert "--weights=FILE" in message and "--weights=none" in message


def _without_cache(directory):
    """The constructor on a machine where nothing was downloaded before."""
    import functools

    original = keras.applications.MobileNetV3Small

    @functools.wraps(original)
    def constructor(*args, weights=None, **kwargs):
        if weights == "imagenet":
            keras.utils.get_file(
                "weights_mobilenet_v3_small_224_1.0_float_no_top_v2.h5",
                "https://storage.googleapis.com/tensorflow/keras-applications/"
                "mobilenet_v3/weights_mobilenet_v3_small_224_1.0_float_no_top_v2.h5",
                cache_dir=directory,
            )
        return original(*args, weights=weights, **kwargs)

    return constructor


def test_no_bn_sees_each_example_alone():
    model = make("small_cnn_no_bn", age_dropout=0.0, gender_dropout=0.0)
    assert not any("bn" in layer.name for layer in backbones.backbone_of(model).layers)
    batch = model(inputs(), training=True)
    for i in range(4):
        alone = model(inputs()[i : i + 1], training=True)
        for whole, one in zip(batch, alone, strict=True):
            np.testing.assert_allclose(whole[i], one[0], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", backbones.names())
def test_every_backbone_builds_at_an_odd_size(name):
    model = make(name, weights="none", image_size=97, pooling="avg", mean=MEAN)
    assert model.inputs[0].shape == (None, 97, 97, 3)
    assert model.output_names == ["age_output", "gender_output"]
    keras.backend.clear_session()


@pytest.mark.parametrize("halvings, side", [(1, 4), (2, 2)])
def test_a_small_network_may_halve_its_image_twice_at_first(halvings, side):
    backbone = backbones.build("small_cnn", 64, raw_input=False, stem_halvings=halvings)
    assert backbone.output_shape == (None, side, side, 128)
    config = networks.ModelConfig(
        backbone="small_cnn", weights="none", image_size=31, stem_halvings=halvings
    )
    if halvings == 1:
        assert facts.network_of(networks.build_model(config))["stem_halvings"] == 1
    else:
        with pytest.raises(errors.UsageError, match="needs at least 32 pixels"):
            networks.build_model(config)


def test_networks_from_before_the_option_halve_once():
    config = networks.ModelConfig(backbone="small_cnn", weights="none", image_size=64)
    model = networks.build_model(config)
    assert facts.network_of(model)["stem_halvings"] == 1
    assert backbones.backbone_of(model).output_shape == (None, 4, 4, 128)
