"""A manifest of two records, without their files."""

from __future__ import annotations

from afad_tfdata.storage import schema


def build_manifest(index_bytes: int = 0, digest: str = "0" * 64) -> schema.Manifest:
    """Builds it.

    Args:
      index_bytes: Size of the index of the training split.
      digest: SHA-256 of that index.
    """
    shard = schema.Shard(name="s", num_examples=2, num_bytes=10, sha256="0" * 64)
    index = schema.Shard("afad-train.index.npy", 2, index_bytes, digest)
    split = schema.Split(2, (shard,), index, {"male": {"20": 1}, "female": {"61": 1}})
    empty = schema.Split(0, (), index, {})
    return schema.Manifest(
        name="afad",
        format="tfrecord",
        image_encoding="original",
        image_size=150,
        config={"seed": 1},
        class_names=("male", "female"),
        gender_codes={"111": 0, "112": 1},
        resize={"method": "bilinear"},
        pixel={},
        mean={"R": 1.5, "G": 2.0, "B": 3.0},
        found=2,
        written=2,
        rejected=0,
        passed_over=0,
        splits={"train": split, "test": empty},
    )
