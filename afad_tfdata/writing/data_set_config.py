"""The options that decide the bytes of a data set, grouped by the code that reads them.

The plan and the manifest contain them as one flat JSON object with the names of the
flags.  Options that do not decide bytes (number of processes, paths, limits on rejected
files) are in `config.WriteConfig` only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from afad_tfdata.storage import hdf5, schema
from afad_tfdata.writing import face_images, source

DEFAULT_NAME = "afad"
# Options that were added later.  At their defaults manifests do not contain them.
_LEFT_OUT = ("name", "source", "age_ranges", "missing_labels")


@dataclasses.dataclass(frozen=True)
class ImageConfig:
    """What decides the stored bytes of one image, and whether it can be used.

    Attributes:
      encoding: One of `schema.ENCODINGS`.
      size: Side in pixels of ``jpeg`` and ``raw`` images and of the channel means.
      jpeg_quality: 1 to 100 for ``jpeg``, None for other encodings.
      max_pixels: Largest height times width.
      max_file_bytes: Largest file.
      faces: How the face is cut out of each image; None for whole images.
    """

    encoding: str
    size: int
    jpeg_quality: int | None
    max_pixels: int
    max_file_bytes: int
    faces: face_images.FaceConfig | None = None


@dataclasses.dataclass(frozen=True)
class SplitConfig:
    """What decides an image's split and its place in that split.

    Attributes:
      seed: Salts the hashes of keys.
      split_by: ``photo``, ``image`` or ``group``; empty until the source is known.
      test_fraction: Share of all images.
      validation_fraction: Share of the images that are not in ``test``.
    """

    seed: int
    split_by: str
    test_fraction: float
    validation_fraction: float


@dataclasses.dataclass(frozen=True)
class SelectionConfig:
    """Which images are written, by their names alone.

    Attributes:
      min_age: Years, inclusive.
      max_age: Years, inclusive.
      max_faces_per_photo: Photos with more faces are left out; 0 for no limit.
      max_examples: How many of them are written; 0 for all.
    """

    min_age: int
    max_age: int
    max_faces_per_photo: int
    max_examples: int = 0


@dataclasses.dataclass(frozen=True)
class Hdf5Config:
    """What decides the form of HDF5 shards only.

    Attributes:
      labels: The label that the link ``labels`` points to, one of `hdf5.LABELS`.
      dtype: Type of the pixels, one of `hdf5.DTYPES`.
      channels: Position of the channel axis, one of `hdf5.CHANNELS`.
      compression: One of `hdf5.COMPRESSIONS`.
    """

    labels: str
    dtype: str
    channels: str
    compression: str

    def linked_to_label(self, items: Iterable[source.Item]) -> Hdf5Config:
        """The same, but the link ``labels`` of HDF5 shards leads to a label in use."""
        listed = list(items)
        there = [
            label
            for label in hdf5.LABELS
            if any(getattr(item, label) != schema.MISSING for item in listed)
        ]
        labels = self.labels if self.labels in there else there[0]
        return dataclasses.replace(self, labels=labels)


@dataclasses.dataclass(frozen=True)
class DataSetConfig:
    """Everything but the source that decides the bytes of a data set.

    Attributes:
      format: One of `schema.FORMATS`.
      images: For the code that reads and stores one image.
      splits: For the plan.
      selection: For the scan.
      gender_codes: As `gender_codes.parse` takes it.
      duplicates: One of `duplicate_images.DUPLICATES`.
      conflicts: One of `duplicate_images.CONFLICTS`.
      split_file: Whether a published protocol decided the splits.
      hdf5: For the code that writes HDF5 shards; None for TFRecord.
      name: The first part of every file name.
      source: Name of the importer; empty for folders of ages and for label files.
      age_ranges: What an age such as (25, 32) means.
      missing_labels: What happens to an image without one of the labels.
    """

    format: str
    images: ImageConfig
    splits: SplitConfig
    selection: SelectionConfig
    gender_codes: str
    duplicates: str
    conflicts: str
    split_file: bool
    hdf5: Hdf5Config | None
    name: str = DEFAULT_NAME
    source: str = ""
    age_ranges: str = "refuse"
    missing_labels: str = "refuse"

    @property
    def pixel_layout(self) -> dict[str, str]:
        """The manifest's layout of raw pixels; empty for encoded images."""
        if self.images.encoding != "raw":
            return {}
        if self.hdf5 is None:
            return {"dtype": "uint8", "channels": "last", "compression": "none"}
        return {
            "dtype": self.hdf5.dtype,
            "channels": self.hdf5.channels,
            "compression": self.hdf5.compression,
        }

    def to_json(self) -> dict[str, Any]:
        """One flat JSON object, whose names and order are those of every manifest."""
        value: dict[str, Any] = {
            "format": self.format,
            "image_size": self.images.size,
            "test_fraction": self.splits.test_fraction,
            "validation_fraction": self.splits.validation_fraction,
            "split_by": self.splits.split_by,
            "seed": self.splits.seed,
            **dataclasses.asdict(self.selection),
            "gender_codes": self.gender_codes,
            "duplicates": self.duplicates,
            "conflicts": self.conflicts,
            "max_pixels": self.images.max_pixels,
            "max_file_bytes": self.images.max_file_bytes,
        }
        # Left out if it is 0, so that old manifests still fit.
        if not self.selection.max_examples:
            del value["max_examples"]
        # Options without a meaning for this format are left out, so that data sets do
        # not differ in them.
        if self.hdf5 is not None:
            value |= {
                "hdf5_labels": self.hdf5.labels,
                "hdf5_dtype": self.hdf5.dtype,
                "hdf5_channels": self.hdf5.channels,
                "hdf5_compression": self.hdf5.compression,
            }
        if self.images.jpeg_quality is not None:
            value["jpeg_quality"] = self.images.jpeg_quality
        if self.images.faces is not None:
            value["face_crop"] = self.images.faces.to_json()
        value["image_encoding"] = self.images.encoding
        value["split_file"] = self.split_file
        # Left out at their defaults, so that old manifests still fit.
        for name in _LEFT_OUT:
            if getattr(self, name) != getattr(DataSetConfig, name):
                value[name] = getattr(self, name)
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> DataSetConfig:
        """The config in a manifest or plan; names it does not know are ignored."""
        hdf5 = None
        if value["format"] == "hdf5":
            hdf5 = Hdf5Config(
                labels=value["hdf5_labels"],
                dtype=value["hdf5_dtype"],
                channels=value["hdf5_channels"],
                compression=value["hdf5_compression"],
            )
        return cls(
            format=value["format"],
            images=ImageConfig(
                encoding=value["image_encoding"],
                size=value["image_size"],
                jpeg_quality=value.get("jpeg_quality"),  # Only ``jpeg`` images have it.
                max_pixels=value["max_pixels"],
                max_file_bytes=value["max_file_bytes"],
                faces=face_images.config_from_json(value.get("face_crop")),
            ),
            splits=SplitConfig(
                seed=value["seed"],
                split_by=value["split_by"],
                test_fraction=value["test_fraction"],
                validation_fraction=value["validation_fraction"],
            ),
            selection=SelectionConfig(
                min_age=value["min_age"],
                max_age=value["max_age"],
                max_faces_per_photo=value["max_faces_per_photo"],
                max_examples=value.get("max_examples", 0),
            ),
            gender_codes=value["gender_codes"],
            duplicates=value["duplicates"],
            conflicts=value["conflicts"],
            split_file=value["split_file"],
            hdf5=hdf5,
            **{name: value[name] for name in _LEFT_OUT if name in value},
        )
