"""Made the other files in this folder, with version 0.1.0 (commit 4aaeb5c).

    git worktree add OLD 4aaeb5c
    mkdir EMPTY && cd EMPTY && PYTHONPATH=OLD python HERE/make.py

It imports the modules of that version and runs with no other.  The paths are relative,
so that no file names a directory of the machine on which it was written.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
from unittest import mock

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras  # noqa: E402
import numpy as np  # noqa: E402

from afad_tfdata import (  # noqa: E402
    backbones,
    branches,
    evaluation,
    freeze,
    heads,
    input_fn,
    models,
    prediction,
    records,
    sample,
    trainer,
)

WRITE = {"image_size": 32, "num_workers": 1, "num_shards": 1, "split_by": "image"}
TRAIN = {
    "records_dir": "records",
    "backbone": "small_cnn",
    "weights": "none",
    "stage": "tuning",
    "global_batch_size": 8,
    "learning_rate": 1e-3,
    "devices": "cpu",
    "threads": 1,
    "tensorboard": False,
    "keep_checkpoints": 1,
    "checkpoint_every": 0,
}
NUM_PREDICTED = 4
NOT_KEPT = ("age_gender.png", "samples.png", "writer_log.json")


def main():
    with small_networks():
        write_records()
        expected = {
            **train(),  # First: --threads has no effect on a runtime that has started.
            "predictions": predict(),
            "input": {name: read(name) for name in ("records", "records_hdf5")},
        }
        save_heads()
    pathlib.Path("expected.json").write_text(json.dumps(expected, indent=1) + "\n")
    for folder in ("continued", "evaluation"):
        shutil.rmtree(folder)
    pathlib.Path("run/history.png").unlink()
    pathlib.Path("run/final.keras").unlink()  # Has the same bytes as best.keras.


@contextlib.contextmanager
def small_networks():
    """Networks of few channels, since a file of the full size would be 4 MB."""
    hidden = branches._hidden

    def few_units(x, name, config):
        return hidden(x, name, dataclasses.replace(config, hidden_units=8))

    with (
        mock.patch.object(backbones, "_SMALL_CHANNELS", (4, 4, 8, 8, 8)),
        mock.patch.object(branches, "_hidden", few_units),
    ):
        yield


def write_records():
    sample.make_sample(sample.SampleConfig(output_dir="faces", num_images=40, seed=5))
    for output_dir, form in (("records", "tfrecord"), ("records_hdf5", "hdf5")):
        records.write_records(
            records.WriteConfig(
                data_dir="faces", output_dir=output_dir, format=form, **WRITE
            )
        )
        for name in NOT_KEPT:
            pathlib.Path(output_dir, name).unlink()


def read(records_dir):
    """Labels and mean pixel of the batches of the test split and of two epochs."""
    config = input_fn.InputConfig(records_dir=records_dir, global_batch_size=4, seed=1)
    return {
        "train": [
            summary(batch)
            for batch in input_fn.train_input_fn(config).take(2 * 24 // 4)
        ],
        "test": [
            summary(batch) for batch in input_fn.eval_input_fn(config, split="test")
        ],
    }


def summary(batch):
    features, labels = batch
    return {
        "age": labels["age"].numpy().tolist(),
        "gender": labels["gender"].numpy().tolist(),
        "mean_pixel": float(np.mean(features["image"].numpy())),
    }


def train():
    """Two epochs, which are kept; two more in a copy; an evaluation after the two."""
    trainer.train(trainer.TrainConfig(run_dir="run", epochs=2, **TRAIN))
    shutil.copytree("run", "continued")
    continued = trainer.train(
        trainer.TrainConfig(run_dir="continued", epochs=4, start_epoch=2, **TRAIN)
    )
    evaluated = evaluation.evaluate(
        evaluation.EvaluateConfig(run_dir="run", split="test", output_dir="evaluation")
    )
    return {"history": continued.history, "evaluation": evaluated}


def predict():
    """The rows of some faces, and of them only the files are kept."""
    freeze.freeze(
        freeze.FreezeConfig(run_dir="run", output_dir="graph", output_name="faces")
    )
    faces = sorted(pathlib.Path("faces").rglob("*.jpg"))
    for face in faces[NUM_PREDICTED:]:
        face.unlink()
    return prediction.predict(
        prediction.PredictConfig(graph="graph/faces.pb"),
        [str(face) for face in faces[:NUM_PREDICTED]],
    ).rows


def save_heads():
    """A model of every age head, and what it gives for the same images."""
    pathlib.Path("heads").mkdir()
    keras.utils.set_random_seed(1)
    images = np.random.default_rng(3).uniform(-1, 1, (4, 32, 32, 3)).astype(np.float32)
    outputs = {"images": images}
    for head in heads.NAMES:
        model = models.build_model(
            models.ModelConfig(
                backbone="small_cnn",
                weights="none",
                age_head=head,
                image_size=32,
                mean=(120.0, 110.0, 100.0),
                min_age=15,
                max_age=30,
            )
        )
        model.save(f"heads/{head}.keras")
        for label, value in zip(("age", "gender"), model(images), strict=True):
            outputs[f"{head}/{label}"] = np.asarray(value)
    np.savez("heads/outputs.npz", **outputs)


if __name__ == "__main__":
    main()
