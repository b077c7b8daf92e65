"""Data sets of folders, whose labels are numbers of folders in the order of names."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from afad_tfdata import trainer
from afad_tfdata.common import errors
from afad_tfdata.common.lazy_imports import keras
from afad_tfdata.training.caller import data_sets
from tests.training import own_parts


@pytest.fixture
def folders(tmp_path):
    """A function that fills folders with images, and reads them as Keras does."""

    def read(*names: str, **keywords) -> tf.data.Dataset:
        for name in names:
            (tmp_path / "faces" / name).mkdir(parents=True)
            for i in range(own_parts.BATCH):
                pixels = np.full((own_parts.SIZE, own_parts.SIZE, 3), 9 * i, np.uint8)
                Image.fromarray(pixels).save(tmp_path / "faces" / name / f"{i}.png")
        return keras.utils.image_dataset_from_directory(
            tmp_path / "faces",
            image_size=(own_parts.SIZE, own_parts.SIZE),
            batch_size=own_parts.BATCH,
            verbose=0,
            **keywords,
        )

    return read


def train(dataset, tmp_path, records, task="gender"):
    config = trainer.TrainConfig(
        records_dir=records,
        run_dir=str(tmp_path / "run"),
        task=task,
        stage="tuning",
        epochs=1,
        global_batch_size=own_parts.BATCH,
        augment="none",
    )
    return trainer.train(config, model=own_parts.network(), train_dataset=dataset)


def test_folders_in_another_order_than_the_records(folders, sample_records, tmp_path):
    """The validation accuracy was that of the inverse labels, without a word."""
    with pytest.raises(errors.UsageError) as caught:
        train(folders("female", "male"), tmp_path, sample_records)
    assert "female, male" in str(caught.value)
    assert "class_names=['male', 'female']" in str(caught.value)


def test_folders_of_ages(folders, tmp_path):
    """The ages were 0, 1, 2 and so on, without a word."""
    with pytest.raises(
        errors.UsageError, match="20, 30, so that .* numbers of folders"
    ):
        train(folders("20", "30"), tmp_path, "", task="age")


def test_the_order_of_the_records_is_accepted(folders, sample_records):
    dataset = folders("female", "male", class_names=["male", "female"])
    names = {"records": ("Male", "female"), "the model": ()}
    data_sets.refuse_other_class_order({"train_dataset": dataset}, names, "gender")
    mapped = folders().map(lambda image, label: (image, 1 - label))
    data_sets.refuse_other_class_order({"train_dataset": mapped}, names, "gender")
    data_sets.refuse_other_class_order({"train_dataset": None}, names, "age_gender")


def test_two_data_sets_in_different_orders(folders):
    first = folders("female", "male")
    second = folders(class_names=["male", "female"])
    both = {"train_dataset": first, "validation_dataset": second}
    with pytest.raises(errors.UsageError, match="^validation_dataset .* train_dataset"):
        data_sets.refuse_other_class_order(both, {}, "gender")
