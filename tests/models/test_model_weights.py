"""The weights of models: in float32, copied, and with the classes swapped."""

import numpy as np
import pytest

from afad_tfdata import models
from afad_tfdata.common import errors
from afad_tfdata.common.lazy_imports import tf
from afad_tfdata.models import backbones, model_weights
from tests.models.small_networks import inputs, make, shaken


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("head", ["regression", "coral"])
def test_mixed_precision_and_its_float32_twin(policy, head, reversing, tmp_path):
    model = make(policy=policy, age_head=head)
    backbone = backbones.backbone_of(model)
    assert backbone.get_layer("block2_conv").compute_dtype == policy[6:]
    assert model.get_layer("input_conversion").compute_dtype == "float32"
    models.save(model, str(tmp_path / "mixed.keras"))
    twin = models.rebuild_float32(models.load(str(tmp_path / "mixed.keras")))
    assert {layer.dtype_policy.name for layer in twin._flatten_layers()} == {"float32"}
    assert models.info(twin) == models.info(model)
    for a, b in zip(model.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(model(inputs()), twin(inputs()), strict=True):
        assert a.dtype == tf.float32
        np.testing.assert_allclose(a, b, rtol=0.05, atol=0.02)


def test_a_layer_that_stays_in_16_bits_is_refused(monkeypatch):
    model = make(policy="mixed_bfloat16")
    monkeypatch.setattr(model_weights, "_config_in_float32", lambda values: values)
    with pytest.raises(errors.UsageError, match="in 16 bits and not in float32"):
        models.rebuild_float32(model)


def test_transfer_copies_weights_of_the_same_place_and_shape():
    source, target = shaken(make(age_head="corn")), make(age_head="regression")
    taken, left = models.transfer(source, target)
    assert sorted(left) == ["age_output/bias", "age_output/kernel"]
    assert taken == len(target.weights) - 2
    for a, b in zip(
        backbones.backbone_of(source).get_weights(),
        backbones.backbone_of(target).get_weights(),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
    other = make("small_cnn_no_bn")
    taken, left = models.transfer(source, other)
    assert any("block1_conv" in path for path in left) and taken


def test_a_transferred_head_can_be_inverted():
    """The age stays, and the probability becomes that of the other class."""
    source, target = shaken(make(age_head="corn")), make(age_head="corn")
    layer = source.get_layer("gender_logits")
    layer.set_weights([layer.get_weights()[0] * 0.01, np.array([0.3], np.float32)])
    models.transfer(source, target, swap_classes=True)
    age, gender = source(inputs())
    other_age, other_gender = target(inputs())
    assert np.all(np.abs(gender - 0.5) > 0.01)
    np.testing.assert_allclose(other_gender, 1 - gender, atol=1e-6)
    np.testing.assert_allclose(other_age, age, rtol=1e-5)


@pytest.mark.parametrize(
    "changes, left",
    [
        ({"age_head": "sord"}, []),
        ({"age_head": "dldl", "min_age": 16, "max_age": 41}, ["bias", "kernel"]),
    ],
)
def test_logits_of_other_ages_are_not_taken_over(changes, left):
    ages = {"min_age": 15, "max_age": 40}
    source = make(age_head="dldl", **ages)
    taken = models.transfer(source, make(**{**ages, **changes}))
    assert sorted(taken[1]) == [f"age_logits/{name}" for name in left]
