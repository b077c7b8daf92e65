"""The options of the writer."""

from __future__ import annotations

import dataclasses
import re

from afad_tfdata.common import errors, options
from afad_tfdata.images import codec
from afad_tfdata.storage import hdf5, schema
from afad_tfdata.writing import duplicate_images, source


@dataclasses.dataclass(frozen=True)
class WriteConfig:
    """What to write, from what, to where.

    Attributes:
      data_dir: Folder filed as AGE/GENDER/IMAGE, or with the archive's parts; with
        `labels_csv` the folder that its paths are relative to (default: the CSV's).
      labels_csv: CSV with the columns path, age, gender and, optionally, split.
      output_dir: The data set's directory, local or remote (``gs://``, ``s3://``).
      work_dir: Local directory for work in progress while `output_dir` is remote.
      format: One of `schema.FORMATS`.
      image_encoding: One of `schema.ENCODINGS`; empty for ``original`` in TFRecord and
        ``raw`` in HDF5.
      image_size: Side in pixels of ``jpeg`` and ``raw`` images and of the mean.
      jpeg_quality: Of ``jpeg`` images, 1 to 100.
      test_fraction: Share of all that goes to ``test``.
      validation_fraction: Share of what is left that goes to ``validation``.
      split_by: ``photo`` keeps faces of one photo together; ``image`` does not.
      split_file: A published protocol instead of fractions.
      seed: Decides split and order.
      num_shards: Of the training split, the others in proportion; None: by size.
      num_workers: Processes; 0 for one for each core.
      runner: ``local`` or ``beam``.
      beam_options: Flags of the Beam pipeline.
      shard_range: ``A:B``: write these shards' payloads only.
      max_rejected: Unusable files that are tolerated; None for 1 %, at least 100.
      min_age: Years, inclusive.
      max_age: Years, inclusive.
      max_faces_per_photo: Photos with more faces are left out; 0 for no limit.
      gender_codes: Folder or CSV value to class name, in label order.
      duplicates: Which byte-identical copies stay: `duplicate_images.DUPLICATES`.
      conflicts: The same where their labels differ: `duplicate_images.CONFLICTS`.
      max_pixels: Largest height times width of an image.
      max_file_bytes: Largest file that is looked at.
      hdf5_labels: What the ``labels`` link of HDF5 shards points to.
      hdf5_dtype: Of pixels in HDF5.
      hdf5_channels: ``last`` or ``first``.
      hdf5_compression: ``none`` (contiguous, memory-mappable) or ``gzip``.
    """

    data_dir: str = options.option(
        "",
        "Folder filed as AGE/GENDER/IMAGE, or the one with the parts of the archive"
        " (AFAD-Full.tar.xzaa, ...).",
    )
    labels_csv: str = options.option(
        "",
        "CSV with the columns path, age, gender[, split] instead of a folder's"
        " structure; paths are relative to --data_dir, or to the CSV's folder.",
    )
    output_dir: str = options.option("", "Directory of the data set.")
    work_dir: str = options.option(
        "",
        "Where work in progress lies while --output_dir is remote (gs://, s3://);"
        " default: the user's cache.",
    )
    format: str = options.option(
        "tfrecord", "File format of the shards.", choices=schema.FORMATS
    )
    image_encoding: str = options.option(
        "",
        "original: the file's own bytes; jpeg: resized once, antialiased; raw: uint8"
        " pixels at the image size. Default: original for tfrecord, raw for hdf5.",
        choices=("", *schema.ENCODINGS),
    )
    image_size: int = options.option(
        150, "Side in pixels of jpeg and raw images, and of the channel means."
    )
    jpeg_quality: int = options.option(95, "Quality of --image_encoding=jpeg.")
    test_fraction: float = options.option(0.2, "Share of all that goes to test.")
    validation_fraction: float = options.option(
        0.2, "Share of what is left after the test split that goes to validation."
    )
    split_by: str = options.option(
        "photo",
        "photo: faces of one photo stay in one split; image: each for itself.",
        choices=("photo", "image"),
    )
    split_file: str = options.option(
        "", "CSV or JSON with path and split, instead of fractions."
    )
    seed: int = options.option(1, "Decides the split and the order of images.")
    num_shards: int | None = options.option(
        None,
        "Shards of the training split; the others in proportion. Default: by size,"
        " up to 128 MiB each.",
    )
    num_workers: int = options.option(0, "Processes; 0 for one for each core.")
    runner: str = options.option(
        "local",
        "Who writes the shards: processes of this machine, or Apache Beam.",
        choices=("local", "beam"),
    )
    beam_options: str = options.option(
        "", "Flags of the Beam pipeline, such as '--runner=DirectRunner'."
    )
    shard_range: str = options.option(
        "",
        "A:B writes only the shards A to B-1 (counted over all splits), for the tasks"
        " of a batch array; a last run without this flag joins them.",
    )
    max_rejected: int | None = options.option(
        None,
        "Unusable files that are tolerated. Default: 1 % of those found, at least 100.",
    )
    min_age: int = options.option(0, "Youngest age that is written, years.")
    max_age: int = options.option(150, "Oldest age that is written, years.")
    max_faces_per_photo: int = options.option(
        0,
        "Leave out photos with more faces (they share one pasted age); 0: no limit.",
    )
    gender_codes: str = options.option(
        "111:male,112:female",
        "Folder or CSV value, and class name, in label order. Other values are"
        " rejected by name.",
    )
    duplicates: str = options.option(
        "first",
        "Byte-identical images: keep the one with the lowest path, or all.",
        choices=duplicate_images.DUPLICATES,
    )
    conflicts: str = options.option(
        "reject",
        "Byte-identical images under different labels: reject all, or keep the one"
        " with the lowest path, or all.",
        choices=duplicate_images.CONFLICTS,
    )
    max_pixels: int = options.option(
        codec.MAX_PIXELS, "Largest height times width of an image."
    )
    max_file_bytes: int = options.option(codec.MAX_BYTES, "Largest image file, bytes.")
    hdf5_labels: str = options.option(
        "gender", "What `labels` in HDF5 shards is.", choices=hdf5.LABELS
    )
    hdf5_dtype: str = options.option(
        "uint8", "Type of pixels in HDF5.", choices=hdf5.DTYPES
    )
    hdf5_channels: str = options.option(
        "last", "Where the channels stand in HDF5.", choices=hdf5.CHANNELS
    )
    hdf5_compression: str = options.option(
        "none", "Filter of HDF5 pixels.", choices=hdf5.COMPRESSIONS
    )

    def __post_init__(self) -> None:
        options.check_choices(self)
        source.parse_gender_codes(self.gender_codes)
        for name, low, high in (
            ("image_size", 1, 4096),
            ("jpeg_quality", 1, 100),
            ("num_workers", 0, 1024),
            ("max_faces_per_photo", 0, 1 << 31),
            ("min_age", 0, 150),
            ("max_age", self.min_age, 150),
            ("max_pixels", 1, 1 << 32),
            ("max_file_bytes", 1, 1 << 31),
        ):
            if not low <= getattr(self, name) <= high:
                raise errors.UsageError(
                    f"--{name} must lie between {low} and {high};"
                    f" got {getattr(self, name)}"
                )
        for name in ("test_fraction", "validation_fraction"):
            if not 0 <= getattr(self, name) < 1:
                raise errors.UsageError(
                    f"--{name} is a share, 0 or more and below 1; got"
                    f" {getattr(self, name)}"
                )
        if self.num_shards is not None and self.num_shards < 1:
            raise errors.UsageError(
                f"--num_shards must be 1 or more; got {self.num_shards}"
            )
        if self.format == "hdf5" and self.image_encoding not in ("", "raw"):
            raise errors.UsageError(
                "--format=hdf5 holds pixels: it goes with --image_encoding=raw, not"
                f" {self.image_encoding}"
            )
        if self.beam_options and self.runner != "beam":
            raise errors.UsageError("--beam_options goes with --runner=beam only")
        if self.shard_range and not re.fullmatch(r"\d+:\d+", self.shard_range):
            raise errors.UsageError(
                f"--shard_range takes A:B, such as 0:4; got {self.shard_range!r}"
            )

    @property
    def encoding(self) -> str:
        """The image encoding, with the format's default filled in."""
        default = "raw" if self.format == "hdf5" else "original"
        return self.image_encoding or default
