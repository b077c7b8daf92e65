"""Options that would not act next to a caller's parts are refused."""

import pytest

from afad_tfdata import trainer
from afad_tfdata.common import errors
from tests.training import own_parts


def refuse(tmp_path, flag, **changes):
    with pytest.raises(errors.UsageError, match=f"--{flag}=") as caught:
        own_parts.train(tmp_path / "run", **changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "option",
    [
        {"backbone": "MobileNetV2"},
        {"weights": "faces.keras"},
        {"hidden_units": 8},
        {"age_head": "dldl_v2"},
        {"image_size": 2 * own_parts.SIZE},
        {"precision": "mixed_bfloat16"},
        {"trainable_layers": 2},
    ],
)
def test_those_of_the_network_next_to_a_model(option, tmp_path):
    refuse(tmp_path, *option, **option)


@pytest.mark.parametrize(
    "option",
    [
        {"max_examples": 4},
        {"verify": False},
        {"engine": "graph"},
        {"balance": "gender"},
        {"cache": "decoded"},
        {"prefetch": 5},
        {"num_parallel_calls": 3},
        {"decode": "fast"},
    ],
)
def test_those_of_records_next_to_data(option, tmp_path):
    refuse(tmp_path, *option, **option)


@pytest.mark.parametrize(
    "option", [{"class_weight": "balanced"}, {"age_class_weight": "effective"}]
)
def test_weights_from_counts_of_other_data(option, sample_records, tmp_path):
    refuse(tmp_path, *option, records_dir=sample_records, **option)


@pytest.mark.parametrize(
    "option",
    [
        {"class_weight": "0:1.0,1:2.0"},
        {"age_loss": "huber"},
        {"gender_weight": 3.0},
        {"age_weight": 2.0},
    ],
)
def test_those_of_the_loss_next_to_a_loss(option, tmp_path):
    refuse(tmp_path, *option, loss=lambda outputs, labels: 0.0, **option)


@pytest.mark.parametrize("weights", ["balanced", "0:1.0,1:2.0"])
def test_class_weights_of_records_next_to_a_loss(weights, sample_records, tmp_path):
    """They were counted and logged, and the loss did not use them."""
    config = trainer.TrainConfig(
        records_dir=sample_records,
        run_dir=str(tmp_path / "run"),
        backbone="small_cnn",
        weights="none",
        class_weight=weights,
        epochs=1,
        stage="tuning",
        augment="none",
        devices="cpu",
    )
    with pytest.raises(errors.UsageError, match="--class_weight=") as caught:
        trainer.train(config, loss=lambda outputs, labels: 0.0)
    assert "\n" not in str(caught.value)


def test_a_preview_of_the_augmentation_next_to_an_augmentation(tmp_path):
    changes = {"augment_preview": True, "augment": lambda images: images}
    refuse(tmp_path, "augment_preview", **changes)
