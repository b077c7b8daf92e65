"""HDF5 shards: contiguous pixels and labels, under the names older programs read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from afad_tfdata.common import errors

DTYPES = ("uint8", "float32")
CHANNELS = ("last", "first")
COMPRESSIONS = ("none", "gzip")
LABELS = ("gender", "age")


def write(
    path: str,
    blocks: Iterator[np.ndarray],
    *,
    num_examples: int,
    image_size: int,
    ages: Sequence[int],
    genders: Sequence[int],
    filenames: Sequence[bytes],
    options: Mapping[str, Any],
) -> int:
    """Writes one shard.

    Args:
      path: Where to; the caller renames it when it is whole.
      blocks: uint8 ``[n, S, S, 3]``, together `num_examples` rows.
      num_examples: Rows.
      image_size: S.
      ages: ``[num_examples]`` years.
      genders: ``[num_examples]`` 0 or 1.
      filenames: ``[num_examples]`` relative paths.
      options: ``hdf5_dtype``, ``hdf5_channels``, ``hdf5_compression``,
        ``hdf5_labels``.

    Returns:
      Byte offset of the pixels in the file; 0 for chunked (compressed) storage.
    """
    import h5py

    channels_first = options["hdf5_channels"] == "first"
    side = image_size
    shape = (3, side, side) if channels_first else (side, side, 3)
    storage: dict[str, Any] = {}
    if options["hdf5_compression"] == "gzip" and num_examples:
        storage = {"compression": "gzip", "compression_opts": 4, "chunks": (1, *shape)}
    longest = max((len(name) for name in filenames), default=1)
    # The versions bound what old readers must know, and keep the bytes the same.
    with h5py.File(path, "w", libver=("earliest", "v110")) as f:
        f.create_dataset("age", data=np.asarray(ages, "<i8"))
        f.create_dataset("gender", data=np.asarray(genders, "<i8"))
        f.create_dataset("filename", data=np.asarray(filenames, f"S{max(1, longest)}"))
        data = f.create_dataset(
            "data", (num_examples, *shape), options["hdf5_dtype"], **storage
        )
        f["labels_0"], f["labels_1"] = f["age"], f["gender"]
        f["labels"] = f[options["hdf5_labels"]]
        row = 0
        for block in blocks:
            if channels_first:
                block = block.transpose(0, 3, 1, 2)
            data[row : row + len(block)] = block
            row += len(block)
        offset = data.id.get_offset() if not storage else 0
    return offset or 0


def row_bytes(image_size: int, options: Mapping[str, Any]) -> int:
    """Bytes of one image in the file, uncompressed."""
    item = np.dtype(options["hdf5_dtype"]).itemsize
    return image_size * image_size * 3 * item


def stored_row(image: np.ndarray, options: Mapping[str, Any]) -> bytes:
    """The bytes that a uint8 ``[S, S, 3]`` image has in the file."""
    if options["hdf5_channels"] == "first":
        image = image.transpose(2, 0, 1)
    return np.ascontiguousarray(image, options["hdf5_dtype"]).tobytes()


def refuse_outside(file: Any, path: str) -> None:
    """Refuses a file that takes data from other files, which nobody named.

    Args:
      file: ``h5py.File``.
      path: Its name, for the message.

    Raises:
      UsageError: It has an external link, or a data set stored elsewhere.
    """
    import h5py

    found: list[str] = []

    def look_at_link(name: str, link: Any) -> None:
        if isinstance(link, h5py.ExternalLink):
            found.append(f"{name} is a link to {link.filename}")

    def look_at_item(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and (item.external or item.is_virtual):
            found.append(f"{name} is stored in another file")

    file.visititems_links(look_at_link)
    file.visititems(look_at_item)
    if found:
        raise errors.UsageError(
            f"{path}: {found[0]}, which is not read: copy its data into this file"
        )
