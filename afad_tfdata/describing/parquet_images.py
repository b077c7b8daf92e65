"""The images of a data set as Parquet files, for loaders that read no records.

There is one file for each shard, with the stored bytes of JPEG and PNG images and, for
raw pixels, PNG files of the same pixels.  Such a file has the columns `COLUMNS`.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator

import numpy as np

from afad_tfdata.common import crc32, errors, files, lazy_imports
from afad_tfdata.describing import labels_csv
from afad_tfdata.storage import file_names, hdf5, schema

COLUMNS = ("key", "split", "age", "gender", "gender_label", "image")


def write(directory: str, records_dir: str, manifest: schema.Manifest) -> list[str]:
    """Writes the images as Parquet files, with one shard in memory at a time.

    Args:
      directory: An existing directory that they are written to.
      records_dir: The data set, in a local directory.
      manifest: Of the data set.

    Returns:
      Their names, in the order of the shards.

    Raises:
      UsageError: pyarrow is not installed, or a file cannot be written.
      DataError: A record is missing, damaged or changed.
    """
    lazy_imports.import_optional(
        "pyarrow", extra="croissant", purpose="writing Parquet files"
    )
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = pa.schema(
        [
            ("key", pa.string()),
            ("split", pa.string()),
            ("age", pa.int16()),
            ("gender", pa.string()),
            ("gender_label", pa.int8()),
            ("image", pa.binary()),
        ]
    )
    names = []
    for shard in labels_csv.shards_with_keys(records_dir, manifest):
        mine = list(labels_csv.rows_of_shard(shard, manifest))
        columns = {name: [getattr(r, name) for r in mine] for name in COLUMNS[:-1]}
        columns["image"] = list(_images_of_shard(shard, manifest))
        content = io.BytesIO()
        # Compression and statistics are off, because images are compressed already and
        # statistics of them are useless.
        pq.write_table(
            pa.table(columns, schema=types),
            content,
            compression="none",
            use_dictionary=False,
            write_statistics=False,
        )
        names.append(
            file_names.images_name(shard.split, shard.number, shard.num_shards)
        )
        files.write_atomic(files.join(directory, names[-1]), content.getvalue())
    # Files of an earlier data set with more shards are removed: loaders would read them
    # as well.
    for name in sorted(os.listdir(directory)):
        if file_names.is_images_name(name) and name not in names:
            files.remove_if_there(files.join(directory, name))
    return names


def _images_of_shard(
    shard: labels_csv.ShardOfKeys, manifest: schema.Manifest
) -> Iterator[bytes]:
    """The images of a shard as files, for a column of its Parquet file."""
    raw = manifest.image_encoding == "raw"
    layout = hdf5.RowLayout.of_pixel(manifest.pixel, manifest.image_size)
    rows = hdf5.RowReader(shard.path, "data") if manifest.format == "hdf5" else None
    with open(shard.path, "rb") as f:
        for position, entry in enumerate(shard.entries):
            if rows:
                content = rows.row(position)
            else:
                f.seek(int(entry["image_offset"]))
                content = f.read(int(entry["image_length"]))
            if crc32.crc32(content) != entry["crc32"]:
                raise errors.DataError(
                    f"{shard.path} is damaged: the image of record {position} has"
                    " another checksum; afad-inspect-records --verify names every fault"
                )
            yield _png_bytes(layout.to_image(content)) if raw else content


def _png_bytes(pixels: np.ndarray) -> bytes:
    """Raw pixels as the bytes of a PNG file, for a Parquet file."""
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()
