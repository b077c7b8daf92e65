"""The JSON files that ``tensorflow_datasets.builder_from_directory`` needs.

This module writes them without TFDS, which therefore need not be installed.
"""

from __future__ import annotations

import json
import os
from typing import Any

from afad_tfdata.common import files
from afad_tfdata.storage import schema

NAMES = ("features.json", "dataset_info.json", "label-gender.labels.txt")
_FEATURES = "tensorflow_datasets.core.features."


def write(directory: str, manifest: schema.Manifest) -> None:
    """Writes ``features.json``, ``dataset_info.json`` and the class names."""
    value = {"image": _image(manifest), "label": _label(manifest)}
    files.write_json(os.path.join(directory, NAMES[0]), _dict(value))
    files.write_atomic(
        os.path.join(directory, NAMES[2]),
        "".join(f"{name}\n" for name in manifest.class_names),
    )
    splits = [
        {
            "name": name,
            "shardLengths": [str(shard.num_examples) for shard in split.shards],
            "numBytes": str(sum(shard.num_bytes for shard in split.shards)),
            "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        }
        for name, split in manifest.splits.items()
        if split.num_examples
    ]
    info = {
        "name": manifest.name,
        "version": "1.0.0",
        # This package's version is left out, so that all versions write the same bytes.
        "description": "Faces with age and gender, by afad-tfdata",
        "fileFormat": "tfrecord",
        "moduleName": "",
        "splits": splits,
    }
    files.write_atomic(
        os.path.join(directory, NAMES[1]), json.dumps(info, indent=1) + "\n"
    )


def _image(manifest: schema.Manifest) -> dict[str, Any]:
    """The image feature, as TensorFlow Datasets describes it."""
    side = str(manifest.image_size)
    if manifest.image_encoding == "raw":
        pixels = _kind(
            "tensor_feature.Tensor",
            tensor={
                "shape": {"dimensions": [side, side, "3"]},
                "dtype": "uint8",
                "encoding": "bytes",
            },
        )
    else:
        fixed = manifest.image_encoding == "jpeg"
        dimensions = [side, side, "3"] if fixed else ["-1", "-1", "3"]
        pixels = _kind(
            "image_feature.Image",
            image={"shape": {"dimensions": dimensions}, "dtype": "uint8"},
        )
    text = _kind("text_feature.Text", text={})
    features = {
        "encoded": pixels,
        "filename": text,
        "format": text,
        "height": _integer(),
        "width": _integer(),
    }
    if manifest.config.get("groups"):
        features["group"] = text
    return _dict(features)


def _label(manifest: schema.Manifest) -> dict[str, Any]:
    """The label features, as TensorFlow Datasets describes them."""
    classes = {"numClasses": str(len(manifest.class_names))}
    gender = _kind("class_label_feature.ClassLabel", classLabel=classes)
    return _dict({"age": _integer(), "gender": gender})


def _dict(features: dict[str, Any]) -> dict[str, Any]:
    """A dict of features, as TensorFlow Datasets describes it."""
    return _kind("features_dict.FeaturesDict", featuresDict={"features": features})


def _integer() -> dict[str, Any]:
    """An integer feature, as TensorFlow Datasets describes it."""
    return _kind(
        "scalar.Scalar", tensor={"shape": {}, "dtype": "int64", "encoding": "none"}
    )


def _kind(name: str, **content: Any) -> dict[str, Any]:
    """A feature of this class of TensorFlow Datasets."""
    return {"pythonClassName": _FEATURES + name, **content}
