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
    """Writes the JSON files and the class names for TensorFlow Datasets."""
    value = {"image": _image_feature(manifest), "label": _label_feature(manifest)}
    files.write_json(os.path.join(directory, NAMES[0]), _features_dict(value))
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


def _image_feature(manifest: schema.Manifest) -> dict[str, Any]:
    """The image feature, as TensorFlow Datasets describes it."""
    side = str(manifest.image_size)
    if manifest.image_encoding == "raw":
        pixels = _feature_of_class(
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
        pixels = _feature_of_class(
            "image_feature.Image",
            image={"shape": {"dimensions": dimensions}, "dtype": "uint8"},
        )
    text = _feature_of_class("text_feature.Text", text={})
    features = {
        "encoded": pixels,
        "filename": text,
        "format": text,
        "height": _integer_feature(),
        "width": _integer_feature(),
    }
    if manifest.config.get("groups"):
        features["group"] = text
    return _features_dict(features)


def _label_feature(manifest: schema.Manifest) -> dict[str, Any]:
    """The features of labels, as TensorFlow Datasets describes them."""
    classes = {"numClasses": str(len(manifest.class_names))}
    gender = _feature_of_class("class_label_feature.ClassLabel", classLabel=classes)
    return _features_dict({"age": _integer_feature(), "gender": gender})


def _features_dict(features: dict[str, Any]) -> dict[str, Any]:
    """A dict of features, as TensorFlow Datasets describes it."""
    return _feature_of_class(
        "features_dict.FeaturesDict", featuresDict={"features": features}
    )


def _integer_feature() -> dict[str, Any]:
    """An integer feature, as TensorFlow Datasets describes it."""
    return _feature_of_class(
        "scalar.Scalar", tensor={"shape": {}, "dtype": "int64", "encoding": "none"}
    )


def _feature_of_class(name: str, **content: Any) -> dict[str, Any]:
    """A feature of this class of TensorFlow Datasets."""
    return {"pythonClassName": _FEATURES + name, **content}
