"""Backbones of keras-hub: presets, sizes, what they see, which layers train."""

import json
import os
import shutil
import sys

import h5py
import numpy as np
import pytest

from afad_tfdata import models
from afad_tfdata.common import errors
from afad_tfdata.common.lazy_imports import keras
from afad_tfdata.models import (
    backbones,
    facts,
    hub_backbones,
    model_files,
    model_weights,
    trainable_layers,
)
from tests.models import hub_presets
from tests.models.small_networks import MEAN, SIZE, inputs, make


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    return hub_presets.vit(tmp_path_factory.mktemp("presets") / "vit")


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    return hub_presets.resnet(tmp_path_factory.mktemp("presets") / "resnet")


@pytest.fixture(scope="module")
def dino(tmp_path_factory):
    return hub_presets.dino(tmp_path_factory.mktemp("presets") / "dino")


def changed(vit, tmp_path):
    """A copy of a preset to be changed; its directory and its ``--backbone``."""
    directory = tmp_path / "vit"
    shutil.copytree(vit.removeprefix("keras_hub:"), directory)
    return directory, f"keras_hub:{directory}"


def features_of(model):
    """The model up to the output of its backbone."""
    names = {layer.name for layer in model.layers}
    after = model.get_layer("first_token" if "first_token" in names else "pooling")
    return keras.Model(model.inputs[0], after.input)


def raw_images(count=2):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, SIZE, SIZE, 3)).astype(np.float32)


@pytest.mark.parametrize("kind", ["vit", "dino", "resnet"])
def test_a_network_sees_what_the_converter_of_its_preset_makes(kind, request):
    """And has the weights of the preset."""
    name = request.getfixturevalue(kind)
    hub, preset = hub_presets.library(), name.removeprefix("keras_hub:")
    model = make(name, mean=MEAN)
    raw = raw_images()
    converter = hub.layers.ImageConverter.from_preset(preset)
    converter.image_size = None
    theirs = hub.models.Backbone.from_preset(preset)
    expected = theirs(converter(raw), training=False).numpy()
    got = features_of(model)((raw - np.float32(MEAN)) / np.float32(127.5)).numpy()
    np.testing.assert_allclose(got, expected, atol=2e-4)
    known = facts.of(model)
    assert known.network["weights"] == "preset"
    assert known.network["normalization"] == "backbone"
    scale, offset = np.array(hub_presets.SCALE), np.array(hub_presets.OFFSET)
    np.testing.assert_allclose(known.preset["scale"], 127.5 * scale, rtol=1e-5)
    np.testing.assert_allclose(
        known.preset["offset"], scale * MEAN + offset, rtol=1e-5, atol=1e-6
    )
    assert known.preset["class"] == type(theirs).__name__


@pytest.mark.parametrize(
    "kind, pooling, wanted",
    [
        ("vit", "auto", lambda tokens: tokens[:, 0]),
        ("vit", "token", lambda tokens: tokens[:, 0]),
        ("vit", "avg", lambda tokens: tokens.mean(1)),
        ("vit", "flatten", lambda tokens: tokens.reshape(len(tokens), -1)),
        ("dino", "auto", lambda tokens: tokens[:, 0]),
        ("resnet", "auto", lambda features: features.mean((1, 2))),
        ("resnet", "flatten", lambda features: features.reshape(len(features), -1)),
    ],
)
def test_pooling(kind, pooling, wanted, request):
    model = make(request.getfixturevalue(kind), weights="none", pooling=pooling)
    before = features_of(model)(inputs())
    after = keras.Model(model.inputs[0], model.get_layer("pooling").output)(inputs())
    np.testing.assert_allclose(after, wanted(before.numpy()), atol=1e-5)
    auto = "avg" if kind == "resnet" else "token"
    expected = auto if pooling == "auto" else pooling
    assert facts.network_of(model)["pooling"] == expected


def test_a_feature_map_has_no_token(resnet):
    with pytest.raises(errors.UsageError, match="--pooling=token: .* take auto, avg"):
        make(resnet, weights="none", pooling="token")


def test_a_vit_without_a_class_token_is_averaged(tmp_path):
    name = hub_presets.vit(tmp_path / "vit", use_class_token=False)
    assert facts.network_of(make(name, weights="none"))["pooling"] == "avg"


def test_a_network_of_any_size_is_built_for_the_images(resnet):
    for size in (32, 48):
        model = make(resnet, mean=MEAN, image_size=size)
        assert model.input_shape == (None, size, size, 3)


def test_random_weights_may_have_another_size_than_the_preset(vit):
    model = make(vit, weights="none", image_size=48)
    assert backbones.backbone_of(model).output_shape == (None, 37, 24)
    assert facts.network_of(model)["normalization"] == "original"
    root = inputs(size=48)
    # Nothing is between the input and the network.
    expected = backbones.backbone_of(model)(root)
    np.testing.assert_allclose(features_of(model)(root), expected, atol=1e-5)


@pytest.mark.parametrize(
    "values, message",
    [
        (
            {"image_size": 48},
            "--image_size=48: the weights of .* are for 32 pixels.*--image_size=32,",
        ),
        (
            {"image_size": 50, "weights": "none"},
            "takes images of 32 pixels, and cannot be built for 50.*divisible by patch",
        ),
    ],
)
def test_a_size_that_does_not_fit_is_one_line(vit, values, message):
    with pytest.raises(errors.UsageError, match=message) as caught:
        make(vit, mean=MEAN, **values)
    assert "\n" not in str(caught.value)


def test_a_preset_that_says_nothing_of_its_input_is_refused(vit, tmp_path):
    directory, name = changed(vit, tmp_path)
    os.remove(directory / "image_converter.json")
    with pytest.raises(errors.UsageError, match="no usable image_converter.json"):
        make(name, mean=MEAN)
    # Without the weights there is nothing that expects anything, and whoever knows
    # better may say so.
    assert facts.network_of(make(name, weights="none"))["normalization"] == "original"
    assert facts.network_of(make(name, normalization="original"))["weights"] == "preset"


def test_a_converter_that_is_no_factor_and_summand_is_refused(vit, monkeypatch):
    for wrong in (
        lambda pixels: pixels**2,
        lambda pixels: pixels @ np.ones((3, 3)),
        lambda pixels: pixels[:, :, :4],
        lambda pixels: 0 * pixels,
    ):
        monkeypatch.setattr(hub_backbones, "image_converter", lambda name, f=wrong: f)
        reason = "image converter does not just multiply each channel"
        with pytest.raises(errors.UsageError, match=reason):
            backbones.input_conversion(vit, "backbone", MEAN)


@pytest.mark.parametrize(
    "backbone, message",
    [
        ("keras_hub:", "names no preset: add the directory"),
        ("keras_hub:/no/such/place", "is neither a directory here nor the name"),
        ("keras_hub:vit_base_patch16_224", "nearest: .*vit_base_patch16_224_imagenet"),
    ],
)
def test_a_wrong_preset_is_one_line(backbone, message):
    hub_presets.library()
    with pytest.raises(errors.UsageError, match=message):
        make(backbone)


def test_without_a_preset_weights_called_preset_are_a_file():
    with pytest.raises(errors.UsageError, match="preset") as caught:
        make("VGG16", weights="preset")
    assert "keras-hub" not in str(caught.value)


def test_a_directory_that_is_no_preset_is_one_line(vit, tmp_path):
    with pytest.raises(errors.UsageError, match="has no config.json, so it is not a"):
        make(f"keras_hub:{tmp_path}")
    directory, name = changed(vit, tmp_path)
    (directory / "config.json").write_text('{"registered_name": "keras_hub>Nothing"}')
    expected = r"keras-hub cannot load this preset \(.*\): write it again with"
    with pytest.raises(errors.UsageError, match=expected):
        make(name)


@pytest.mark.parametrize(
    "preset", ["vit_base_patch16_224_imagenet", "hf://somebody/vit", "s3://bucket/vit"]
)
def test_a_preset_that_cannot_be_downloaded_is_one_line(preset, monkeypatch):
    def no_network(*args, **kwargs):
        raise ConnectionError("Name or service\nnot known")

    backbone = hub_presets.library().models.Backbone
    monkeypatch.setattr(backbone, "from_preset", no_network)
    expected = r"\(Name or service not known\): without a network, write it into a dir"
    with pytest.raises(errors.UsageError, match=expected):
        make(f"keras_hub:{preset}")


def test_a_network_that_takes_no_image_is_refused(tmp_path):
    hub = hub_presets.library()
    bert = hub.models.BertBackbone(
        vocabulary_size=10, num_layers=1, num_heads=1, hidden_dim=4, intermediate_dim=4
    )
    bert.save_to_preset(str(tmp_path / "bert"))
    with pytest.raises(errors.UsageError, match="is a BertBackbone with the input"):
        make(f"keras_hub:{tmp_path / 'bert'}")


@pytest.mark.parametrize("kind", ["missing", "cut", "partial", "link"])
def test_weights_that_are_not_there_are_refused(vit, tmp_path, kind):
    directory, name = changed(vit, tmp_path)
    path = directory / "model.weights.h5"
    if kind == "missing":
        path.unlink()
    elif kind == "cut":
        path.write_bytes(path.read_bytes()[:2000])
    else:
        with h5py.File(path, "a") as file:
            del file["layers/vi_t_encoder"]
            if kind == "link":
                link = h5py.ExternalLink(os.path.abspath(__file__), "/")
                file["layers/vi_t_encoder"] = link
    with pytest.raises(errors.UsageError, match="weights") as caught:
        make(name, mean=MEAN)
    assert "\n" not in str(caught.value)


def test_without_keras_hub_an_error_says_how_to_get_it(monkeypatch, vit, tmp_path):
    path = str(tmp_path / "m.keras")
    model_files.save(make(vit, weights="none"), path)
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    wanted = "needs keras_hub, .*pip install 'afad-tfdata.keras-hub.'"
    with pytest.raises(errors.UsageError, match=f"--backbone={vit} {wanted}"):
        make(vit)
    with pytest.raises(errors.UsageError, match=f"{path}, .* of keras-hub, {wanted}"):
        model_files.load(path)


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_a_saved_model_is_the_same_and_needs_no_preset(kind, request, tmp_path):
    directory, name = changed(request.getfixturevalue(kind), tmp_path)
    model = make(name, mean=MEAN)
    path = str(tmp_path / "m.keras")
    model_files.save(model, path, class_names=("female", "male"))
    shutil.rmtree(directory)
    loaded = model_files.load(path)
    for ours, theirs in zip(model(inputs()), loaded(inputs()), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert facts.of(loaded).preset == facts.of(model).preset
    assert json.loads(json.dumps(facts.of(model).preset)) == facts.of(model).preset


def test_half_precision_and_back(vit):
    model = make(vit, policy="mixed_float16", mean=MEAN)
    assert backbones.backbone_of(model).compute_dtype == "float16"
    assert all(v.dtype == "float32" for v in model.trainable_variables)
    again = model_weights.rebuild_float32(model)
    assert backbones.backbone_of(again).compute_dtype == "float32"
    for ours, theirs in zip(model(inputs()), again(inputs()), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0.02, atol=0.02)


def test_the_stages_train_the_blocks_of_a_transformer(vit):
    model = make(vit, mean=MEAN)
    backbone = backbones.backbone_of(model)
    every = {v.path for v in backbone.trainable_variables}
    heads = {v.path for v in model.trainable_variables} - every
    assert [unit.name for unit in hub_backbones.layers_with_blocks(backbone)] == [
        *("images", "patch_embedding", "position_embedding"),
        *("transformer_block_1", "transformer_block_2", "transformer_block_3"),
        *("dropout", "ln"),
    ]

    def trained(stage, layers=None):
        trainable_layers.set_trainable(model, stage, layers)
        found = {v.path for v in model.trainable_variables}
        assert heads <= found
        return found - heads

    assert trained("warmup") == set()
    top = trained("tuning")  # The default of four: two blocks, dropout and ln.
    assert {p.split("/")[1] for p in top} == {
        *("transformer_block_2", "transformer_block_3", "ln")
    }
    assert trained("tuning", 1) == {p for p in every if "/ln/" in p}
    assert trained("tuning", -1) == every
    # One part of the embedding: what belongs to no part stays as it is, too.
    assert every - trained("tuning", 6) == {
        p for p in every if "/patch_embedding/" in p or "class_token" in p
    }
    assert trained("tuning", 8) == every
    assert trained("warmup") == set()


def test_a_stage_names_the_layer_from_which_it_trains(vit):
    line = trainable_layers.set_trainable(make(vit, mean=MEAN), "tuning").description
    assert "the top 4 of 8 layers" in line and "(from transformer_block_2)" in line


def test_weights_of_another_model_with_this_backbone(vit, tmp_path):
    model = make(vit, mean=MEAN)
    rng = np.random.default_rng(0)
    backbone = backbones.backbone_of(model)
    backbone.set_weights(
        [
            w + rng.normal(0, 0.1, w.shape).astype(w.dtype) if w.dtype == "f4" else w
            for w in backbone.get_weights()
        ]
    )
    path = str(tmp_path / "m.keras")
    model_files.save(model, path)
    again = models.build_model(
        models.ModelConfig(backbone=vit, weights=path, image_size=SIZE, mean=MEAN)
    )
    for ours, theirs in zip(
        backbone.trainable_variables,
        backbones.backbone_of(again).trainable_variables,
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)
    assert facts.network_of(again)["normalization"] == "backbone"
