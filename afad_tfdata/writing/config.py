"""The options of the writer."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable

from afad_tfdata.common import errors, files, options
from afad_tfdata.images import codec, face_crop, face_detector
from afad_tfdata.storage import hdf5, schema
from afad_tfdata.writing import (
    data_set_config,
    duplicate_images,
    face_images,
    gender_codes,
    source,
    task_runners,
)
from afad_tfdata.writing.importers import importer_choice
from afad_tfdata.writing.labels import cell_values, label_scan

_MAX_AGE = source.MAX_AGE  # Inside the class, `source` is an option.


@dataclasses.dataclass(frozen=True)
class WriteConfig:
    """What to write, from which source, and where to."""

    data_dir: str = options.option(
        "",
        "Folder with images filed as AGE/GENDER/IMAGE, an archive of that folder"
        " (.tar, .tar.xz, .tar.gz, .tar.bz2, .zip), or the folder with the parts of"
        " the archive (AFAD-Full.tar.xzaa, ...). With --labels_csv, it is the folder"
        " that the table's paths are relative to.",
    )
    source: str = options.option(
        "",
        "Name of the published data set that --data_dir contains, in the layout in"
        " which it is published. Its labels, persons, splits and gender codes are then"
        " read as that data set writes them. Without this flag, the folders AGE/GENDER"
        " or --labels_csv give the labels.",
        choices=("", *importer_choice.NAMES),
    )
    labels_csv: str = options.option(
        "",
        "Label file, which gives the labels instead of the folder names: a table with"
        " the columns path, age, gender and, optionally, split, group and x1, y1, x2,"
        " y2 (the box of the face in pixels), as CSV, TSV, JSON lines, Parquet or"
        " .xlsx. Its paths are absolute, or relative to --data_dir. Without"
        " --data_dir, they are relative to the label file's own folder.",
    )
    age_ranges: str = options.option(
        "refuse",
        "What an age such as (25, 32) in the label file means. refuse: the row is"
        " rejected. middle: the middle of the range, a half rounded upwards.",
        choices=cell_values.AGE_RANGES,
    )
    missing_labels: str = options.option(
        "refuse",
        "What happens to an image that lacks one of the two labels. refuse: it is"
        " rejected. keep: it is written, and counts for its other label only. A source"
        " in which no image has one of the labels is written in any case.",
        choices=label_scan.MISSING_LABELS,
    )
    follow_links: bool = options.option(
        False,
        "Also read the files in linked folders below --data_dir. Without this flag,"
        " they are rejected by name; with --source, the linked folder is an error. The"
        " paths in a label file or in a data set's lists lead through links in any"
        " case.",
    )
    output_dir: str = options.option(
        "",
        "Directory of the data set: a local one, or one in a bucket (gs://, s3://).",
    )
    overwrite: bool = options.option(
        False,
        "Remove the data set in --output_dir first, finished or of another"
        " configuration. A directory that contains anything else is refused. An"
        " unfinished data set of the same configuration is continued.",
    )
    max_examples: int = options.option(
        0,
        "Largest number of images that are written, for a first try. They are a"
        " random sample that depends on --seed, and a smaller sample is a part of a"
        " larger one. 0 means all images.",
    )
    work_dir: str = options.option(
        "",
        "Local directory in which the data set is written before it is uploaded, if"
        " --output_dir is remote. The default is a directory in the user's cache.",
    )
    name: str = options.option(
        data_set_config.DEFAULT_NAME,
        "Name of the data set: a letter, then letters, digits and _. Its file names"
        " begin with it.",
    )
    format: str = options.option(
        "tfrecord", "File format of the shards.", choices=schema.FORMATS
    )
    image_encoding: str = options.option(
        "",
        "What a record stores of an image. original: the file's own bytes. jpeg: the"
        " image, resized once with antialiasing. raw: uint8 pixels at the image size."
        " The default is original for tfrecord, or jpeg if faces are cut out, and raw"
        " for hdf5.",
        choices=("", *schema.ENCODINGS),
    )
    image_size: int = options.option(
        150,
        "Side in pixels of jpeg and raw images. The channel means are computed at this"
        " size, too.",
    )
    jpeg_quality: int = options.option(
        95, "JPEG quality, 1 to 100; used with --image_encoding=jpeg only."
    )
    find_faces: bool = options.option(
        False,
        "Find the face in each image and store the square around it, resized to"
        " --image_size, instead of the whole image. Needs the extra: pip install"
        " 'afad-tfdata[faces]'. Images that have a box in --labels_csv (columns x1, y1,"
        " x2, y2) are cut to it in any case.",
    )
    face_detector: str = options.option(
        face_detector.MTCNN,
        "What finds the faces: mtcnn, or MODULE:FUNCTION for a function of yours that"
        " takes a uint8 photo [height, width, 3] and returns boxes [n, 4] as x1, y1,"
        " x2, y2. The module is in the current directory, in one on PYTHONPATH, or"
        " installed.",
    )
    face_rule: str = options.option(
        "only",
        "What happens to an image with several faces. only: it is rejected, with the"
        " number of its faces. largest: its largest face is written. An image without"
        " a face is rejected in both cases.",
        choices=face_images.RULES,
    )
    face_margin: float = options.option(
        0.0,
        "Width that is added on each side of a face's box, as a share of its longer"
        " side, 0 to 1. With 0, faces are cut as AFAD's are.",
    )
    face_border: str = options.option(
        "replicate",
        "What the square shows beyond the image's edge: the pixels of the edge"
        " (replicate) or gray (constant).",
        choices=face_crop.BORDERS,
    )
    test_fraction: float = options.option(
        0.2,
        "Share of all images that goes to the test split; 1 writes a data set that is"
        " only a test set.",
    )
    validation_fraction: float = options.option(
        0.2,
        "Share of the images outside the test split that goes to the validation split.",
    )
    split_by: str = options.option(
        "",
        "Which images are assigned to a split together. photo: all faces of one"
        " photo. group: all images with the same value in the column group of"
        " --labels_csv. image: each image is assigned on its own. The default is group"
        " if the source has groups, and photo otherwise.",
        choices=("", "photo", "group", "image"),
    )
    split_file: str = options.option(
        "",
        "A published protocol, which replaces --test_fraction and"
        " --validation_fraction: a CSV or JSON file with the columns path and split;"
        " the JSON of Paplham and Franc; or the lists of CORAL, CORN and RLEL, as a"
        " folder, or as files separated by commas whose names contain train, valid or"
        " test.",
    )
    split_fold: int = options.option(
        0, "Which of the five splits of Paplham and Franc, 0 to 4."
    )
    seed: int = options.option(1, "Seed that decides the splits and the order.")
    num_shards: int | None = options.option(
        None,
        "Number of shards of the training split; the other splits get shards in"
        " proportion. The default depends on the size: shards of up to 128 MiB.",
    )
    num_workers: int = options.option(
        0, "Number of writer processes; 0 starts one for each core."
    )
    runner: str = options.option(
        "local",
        "What runs the tasks that write the shards: processes of this machine (local)"
        " or Apache Beam (beam).",
        choices=task_runners.NAMES,
    )
    beam_options: str = options.option(
        "",
        "Options of the Beam pipeline, such as '--runner=DirectRunner'; used with"
        " --runner=beam only.",
    )
    shard_range: str = options.option(
        "",
        "A:B writes only the shards A to B-1, counted over all splits, so that the"
        " tasks of a batch array can share the work. A last run without this flag"
        " finishes the data set.",
    )
    max_rejected: int | None = options.option(
        None,
        "Number of unusable files that are accepted; more are an error. By"
        " default it is 1 % of the files that were found; in small data sets it is 10"
        " % of them, but at most 100. By default, more than 10 % unusable files in one"
        " class or split are an error, too.",
    )
    min_age: int = options.option(
        0, "Youngest age in years that is written, inclusive."
    )
    max_age: int = options.option(
        _MAX_AGE, "Oldest age in years that is written, inclusive."
    )
    max_faces_per_photo: int = options.option(
        0,
        "Photos with more faces than this are left out, because all faces of a photo"
        " have the same age label; 0 sets no limit.",
    )
    gender_codes: str = options.option(
        "111:male,112:female",
        "Pairs of a folder name (or CSV value) and a class name, in label order. Files"
        " with any other code are rejected by name.",
    )
    duplicates: str = options.option(
        "first",
        "Which byte-identical images are kept: the one with the lowest path (first) or"
        " all of them.",
        choices=duplicate_images.DUPLICATES,
    )
    conflicts: str = options.option(
        "reject",
        "Which byte-identical images are kept if their labels differ: none of them"
        " (reject), the one with the lowest path (first) or all of them.",
        choices=duplicate_images.CONFLICTS,
    )
    max_pixels: int = options.option(
        codec.MAX_PIXELS,
        "Largest height times width, in pixels, of an image that is written.",
    )
    max_file_bytes: int = options.option(
        codec.MAX_BYTES, "Largest image file, in bytes, that is read."
    )
    hdf5_labels: str = options.option(
        "gender",
        "Label that the link `labels` in HDF5 shards points to: the other one if no"
        " image has this label.",
        choices=hdf5.LABELS,
    )
    hdf5_dtype: str = options.option(
        "uint8", "Type of the pixels in HDF5 shards.", choices=hdf5.DTYPES
    )
    hdf5_channels: str = options.option(
        "last",
        "Position of the channel axis in HDF5 shards: [N, H, W, 3] (last) or"
        " [N, 3, H, W] (first).",
        choices=hdf5.CHANNELS,
    )
    hdf5_compression: str = options.option(
        "none",
        "Compression of the pixels in HDF5 shards. none: contiguous pixels, which can"
        " be memory-mapped. gzip: smaller files.",
        choices=hdf5.COMPRESSIONS,
    )

    dali_index: bool = options.option(
        False,
        "Write NAME.idx-* next to each TFRecord shard, which the TFRecord reader of"
        " NVIDIA DALI needs. With the flags of a finished data set, only these files"
        " are added.",
    )

    def __post_init__(self) -> None:
        options.check_choices(self)
        gender_codes.parse(self.gender_codes)
        for name, low, high in (
            ("image_size", 1, 4096),  # Up to 48 MiB of pixels in an image.
            ("jpeg_quality", 1, 100),
            ("num_workers", 0, 1024),
            ("max_faces_per_photo", 0, 1 << 31),
            ("max_examples", 0, 1 << 31),
            ("split_fold", 0, 4),
            ("min_age", 0, source.MAX_AGE),
            ("max_age", self.min_age, source.MAX_AGE),
            ("max_pixels", 1, 1 << 32),
            # The index stores lengths in 32 bits, and a record adds its labels.
            ("max_file_bytes", 1, 1 << 31),
        ):
            if not low <= getattr(self, name) <= high:
                raise errors.UsageError(
                    f"--{name} must be between {low} and {high};"
                    f" got {getattr(self, name)}"
                )
        for name in ("test_fraction", "validation_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise errors.UsageError(
                    f"--{name} is a share, from 0 to 1; got {getattr(self, name)}"
                )
        for name, low in (("num_shards", 1), ("max_rejected", 0)):
            value = getattr(self, name)
            if value is not None and value < low:
                raise errors.UsageError(f"--{name} must be {low} or more; got {value}")
        if self.format == "hdf5" and self.image_encoding not in ("", "raw"):
            raise errors.UsageError(
                "--format=hdf5 stores pixels and can only be used with"
                f" --image_encoding=raw, not {self.image_encoding}"
            )
        if self.dali_index and self.format == "hdf5":
            raise errors.UsageError(
                "--dali_index describes TFRecord shards: leave it out, or use"
                " --format=tfrecord"
            )
        face_detector.check_detector_name(self.face_detector)
        face_crop.check_margin(self.face_margin)
        self._encoding_for(cuts=self.find_faces)  # Refuses whole files.
        if self.source and self.labels_csv:
            raise errors.UsageError(
                "--source and --labels_csv both say where the labels are: leave one out"
            )
        if self.beam_options and self.runner != "beam":
            raise errors.UsageError(
                "--beam_options can only be used with --runner=beam"
            )
        # TensorFlow Datasets reads only such names.
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,63}", self.name):
            raise errors.UsageError(
                "--name takes a letter and then up to 63 letters, digits and _; got"
                f" {self.name!r}"
            )
        if self.overwrite and self.shard_range:
            raise errors.UsageError(
                "--overwrite cannot be used with --shard_range: each task would remove"
                " what the others have written; run --overwrite without it, or remove"
                " the directory first"
            )
        if files.is_remote(self.work_dir):
            raise errors.UsageError(
                f"--work_dir={self.work_dir} is not a local directory: name one on a"
                " disk of this machine"
            )
        if self.overwrite and files.is_remote(self.output_dir):
            raise errors.UsageError(
                "--overwrite needs a local --output_dir: remove the remote data set"
                " with the tools of its store"
            )
        if self.shard_range and not re.fullmatch(r"\d+:\d+", self.shard_range):
            raise errors.UsageError(
                f"--shard_range takes A:B, such as 0:4; got {self.shard_range!r}"
            )

    def with_absolute_paths(self) -> WriteConfig:
        """The same with absolute paths, because a program may change its directory."""
        names = ("data_dir", "labels_csv", "output_dir", "work_dir", "split_file")
        paths = {name: getattr(self, name) for name in names}
        local = {n: p for n, p in paths.items() if p and not files.is_remote(p)}
        if "," in local.get("split_file", ""):  # Several files.
            del local["split_file"]
        return dataclasses.replace(
            self, **{name: os.path.abspath(path) for name, path in local.items()}
        )

    @property
    def encoding(self) -> str:
        """The encoding of images, with the format's default filled in."""
        return self._encoding_for(cuts=self.find_faces)

    def _encoding_for(self, *, cuts: bool) -> str:
        """How images are stored, if ``--image_encoding`` does not say it."""
        default = "jpeg" if cuts else "original"
        if self.format == "hdf5":
            default = "raw"
        encoding = self.image_encoding or default
        if cuts and encoding == "original":
            raise errors.UsageError(
                "--image_encoding=original stores whole files, and faces that are cut"
                " out of images need jpeg or raw"
            )
        return encoding

    @property
    def data_set(self) -> data_set_config.DataSetConfig:
        """The options that decide the bytes of the data set."""
        return self.data_set_of(has_boxes=False)

    def data_set_of(self, *, has_boxes: bool) -> data_set_config.DataSetConfig:
        """The options that decide the bytes of the data set.

        Args:
          has_boxes: Whether the source has boxes of faces.

        Raises:
          UsageError: Faces are to be cut, and the encoding or the detector does not
            allow it.
        """
        cuts = has_boxes or self.find_faces
        encoding = self._encoding_for(cuts=cuts)
        hdf5_config = data_set_config.Hdf5Config(
            labels=self.hdf5_labels,
            dtype=self.hdf5_dtype,
            channels=self.hdf5_channels,
            compression=self.hdf5_compression,
        )
        return data_set_config.DataSetConfig(
            format=self.format,
            images=data_set_config.ImageConfig(
                encoding=encoding,
                size=self.image_size,
                jpeg_quality=self.jpeg_quality if encoding == "jpeg" else None,
                max_pixels=self.max_pixels,
                max_file_bytes=self.max_file_bytes,
                faces=self._face_config(has_boxes) if cuts else None,
            ),
            splits=data_set_config.SplitConfig(
                seed=self.seed,
                split_by=self.split_by,
                test_fraction=self.test_fraction,
                validation_fraction=self.validation_fraction,
            ),
            selection=data_set_config.SelectionConfig(
                min_age=self.min_age,
                max_age=self.max_age,
                max_faces_per_photo=self.max_faces_per_photo,
                max_examples=self.max_examples,
            ),
            gender_codes=self._own_or_of_source(
                "gender_codes", lambda name: importer_choice.importer(name).CODES
            ),
            duplicates=self.duplicates,
            conflicts=self.conflicts,
            split_file=bool(self.split_file),
            hdf5=hdf5_config if self.format == "hdf5" else None,
            name=self._own_or_of_source("name", lambda name: name),
            source=self.source if self.source != "afad" else "",
            age_ranges=self.age_ranges,
            missing_labels=self.missing_labels,
        )

    def _face_config(self, has_boxes: bool) -> face_images.FaceConfig:
        """The options of finding and cutting faces.

        Raises:
          UsageError: The detector is not installed.
        """
        return face_images.FaceConfig(
            self.face_rule,
            face_crop.FaceCrop(
                margin=self.face_margin,
                border=self.face_border,
                size=self.image_size,
                found_by=face_images.origin_of_boxes(
                    self.face_detector if self.find_faces else "", has_boxes=has_boxes
                ),
            ),
        )

    def _own_or_of_source(self, option: str, value: Callable[[str], str]) -> str:
        """The value of an option, or that of ``--source`` in its place."""
        own: str = getattr(self, option)
        if self.source in ("", "afad") or own != getattr(WriteConfig, option):
            return own
        return value(self.source)
