"""The data card: what a data set is, how it was made, and what it is not good for.

Everything in it comes from the manifest, ``rejected.jsonl`` and `Statements`.  If none
of them states a fact, the card calls it unknown.  The same files give the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from afad_tfdata.common import files
from afad_tfdata.describing import card_markdown, croissant, licence_and_origin
from afad_tfdata.storage import file_names, schema, sharding
from afad_tfdata.writing import rejections

# With fewer training images of an age than this, a network can hardly learn it.
FEW = 100
_GROUP_YEARS = 5
# Size categories of the Hugging Face hub, by the first number that is too large.
_SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
)


def write(
    manifest: schema.Manifest,
    stated: licence_and_origin.Statements,
    rejected: Sequence[str] | None,
    *,
    has_images: bool,
) -> str:
    """The data card as Markdown.

    Args:
      manifest: Of the data set.
      stated: Licence, citation and whatever else is not in the manifest.
      rejected: The reason of each rejected file; None if the file of them is missing.
      has_images: Whether the Parquet files are next to the card.
    """
    parts = [
        _header(manifest, stated),
        f"# Data card: {card_markdown.text(stated.title)}",
        _about_data_set(manifest, stated),
        "## Numbers",
        _records_by_class(manifest),
        "## How it was made",
        _how_written(manifest),
        "## What was left out",
        _images_left_out(manifest, rejected),
        "## Licence and citation",
        _rights_of_data(stated),
        "## Intended use and limits",
        _limits_of_data(manifest, stated),
        "## How to load it",
        _how_to_load(manifest, has_images=has_images),
        "## Files",
        _shards_and_indexes(manifest),
    ]
    return "\n\n".join(parts) + "\n"


def rejected_reasons(records_dir: str) -> list[str] | None:
    """The reasons in ``rejected.jsonl``, for the data card; None without the file.

    Raises:
      DataError: The file is damaged.
    """
    if not files.exists(files.join(records_dir, rejections.FILE_NAME)):
        return None
    return [rejection.reason for rejection in rejections.read(records_dir)]


def _header(manifest: schema.Manifest, stated: licence_and_origin.Statements) -> str:
    """The YAML header of a data card, which the hub reads."""
    size = next((name for limit, name in _SIZES if manifest.written < limit), "n>10M")
    return card_markdown.header(
        {
            "pretty_name": stated.title,
            # The hub accepts only its own identifiers here.  The licence itself is
            # therefore in the next field.
            "license": "other" if stated.license else "unknown",
            "license_name": stated.license,
            "task_categories": ["image-classification"],
            "tags": ["faces", *manifest.labels, "croissant"],
            "size_categories": [size],
        }
    )


def _about_data_set(
    manifest: schema.Manifest, stated: licence_and_origin.Statements
) -> str:
    """The data card's section on what the data set is."""
    lines = [card_markdown.text(stated.description)] if stated.description else []
    labels = " and ".join(manifest.labels) or "no label"
    lines.append(
        f"{manifest.written:,} images of faces with {labels}, as"
        f" {croissant.FORMATS[manifest.format]} shards."
        f" {card_markdown.text(stated.source)}"
    )
    stored = {
        "original": "The images are stored as the bytes of their files.",
        "jpeg": (
            f"The images were resized to {manifest.image_size} x"
            f" {manifest.image_size} pixels and stored as JPEG."
        ),
        "raw": (
            f"The images were resized to {manifest.image_size} x"
            f" {manifest.image_size} pixels and stored as pixels."
        ),
    }
    lines.append(stored[manifest.image_encoding])
    if "gender" in manifest.labels:
        codes = ", ".join(
            f"{card_markdown.text(code)} is"
            f" {card_markdown.text(manifest.class_names[label])} (label {label})"
            for code, label in manifest.gender_codes.items()
        )
        lines.append(
            "The gender is one of two classes, as recorded in the source; the people"
            f" themselves were not asked for this data set. In the source, {codes}."
        )
    if manifest.face_crop:
        crop = card_markdown.text(json.dumps(manifest.face_crop, sort_keys=True))
        lines.append(f"Faces were cut out of the images: {crop}.")
    return "\n\n".join(lines)


def _records_by_class(manifest: schema.Manifest) -> str:
    """The data card's table of records by split and class."""
    filled = {n: s for n, s in manifest.splits.items() if s.num_examples}
    classes = [
        name
        for name in manifest.counted_classes
        if name == schema.NO_GENDER or "gender" in manifest.labels
    ]
    rows: list[list[object]] = []
    for name, split in filled.items():
        ages = split.ages
        rows.append(
            [
                name,
                split.num_examples,
                *(sum(split.counts.get(c, {}).values()) for c in classes),
                f"{min(ages)} to {max(ages)}" if ages else "none",
                split.num_without("age"),
            ]
        )
    head = ["split", "images", *classes, "ages", "without an age"]
    parts = [card_markdown.table(head, rows)]
    if "age" in manifest.labels:
        parts.append(_records_by_age(filled))
    mean = ", ".join(f"{k} {v:.2f}" for k, v in manifest.mean.items())
    # The writer computes them over all images if none is for training.
    of = "the training split" if sharding.TRAIN in filled else "all splits"
    parts.append(f"Channel means of {of}, in 0 to 255: {mean}.")
    return "\n\n".join(parts)


def _records_by_age(splits: dict[str, schema.Split]) -> str:
    """The data card's table of records by age group and split."""
    groups = sorted(
        {age // _GROUP_YEARS for split in splits.values() for age in split.ages}
    )
    rows: list[list[object]] = []
    for group in groups:
        first = group * _GROUP_YEARS
        years = range(first, first + _GROUP_YEARS)
        counts = [sum(s.ages.get(age, 0) for age in years) for s in splits.values()]
        rows.append([f"{first} to {years[-1]}", *counts])
    return card_markdown.table(["age in years", *splits], rows)


def _how_written(manifest: schema.Manifest) -> str:
    """The data card's section on how the data set was written."""
    config = manifest.config
    lines = [
        "The images were written by `afad-write-records`, which decides the split of an"
        " image from a hash of its path and the seed, before any image is looked at.",
    ]
    how = {
        "photo": "All faces of one photo are in one split.",
        "group": "All images of one group (a person, a photo or a video) are in one"
        " split.",
        "image": "Every image was assigned to a split independently, so that images of"
        " one person or photo can be in several splits.",
    }
    if config.get("split_file"):
        lines.append("A published list decided the splits.")
    elif config.get("split_by") in how:
        lines.append(how[config["split_by"]])
    rows = [[name, _option_text(value)] for name, value in config.items()]
    lines.append("The options that determine the bytes of the records:")
    return "\n\n".join([*lines, card_markdown.table(["option", "value"], rows)])


def _images_left_out(manifest: schema.Manifest, rejected: Sequence[str] | None) -> str:
    """The data card's section on images that were rejected or skipped."""
    text = (
        f"{manifest.found:,} files were found: {manifest.written:,} were written,"
        f" {manifest.rejected:,} rejected, and {manifest.passed_over:,} skipped because"
        " they are not meant to be images."
    )
    if rejected is None:
        return f"{text}\n\nWhy files were rejected is unknown: the list is missing."
    copies = [reason for reason in rejected if reason.startswith("same bytes as ")]
    conflicts = [r for r in copies if r.endswith(", under different labels")]
    text += (
        f"\n\n{len(copies):,} of the rejected files have the same bytes as another"
        f" file, {len(conflicts):,} of them under different labels. Copies that differ"
        " in a single byte are not found."
    )
    if not rejected:
        return text
    return f"{text}\n\n" + card_markdown.table(
        ["reason", "files"], rejections.by_kind(rejected).most_common()
    )


def _rights_of_data(stated: licence_and_origin.Statements) -> str:
    """The data card's section on licence and citation."""
    return card_markdown.items(
        [
            f"Licence: {card_markdown.text(stated.license)}",
            f"To cite: {card_markdown.text(stated.citation)}",
            f"Page: {card_markdown.text(stated.url)}",
            f"Published: {card_markdown.text(stated.date_published)}",
        ]
    )


def _limits_of_data(
    manifest: schema.Manifest, stated: licence_and_origin.Statements
) -> str:
    """The data card's section on what the data set is not good for."""
    labels = " and the ".join(manifest.labels)
    use = f"to train and evaluate models that estimate the {labels} of a face"
    lines = [f"It can be used {use}."] if labels else []
    limits = [card_markdown.text(limit) for limit in stated.limits]
    limits += _training_limits(manifest)
    limits.append(
        "An estimate of age or gender from a picture is a guess about how a person"
        " looks. It is not evidence of who somebody is, and no decision about a person"
        " should rest on it alone."
    )
    return "\n\n".join([*lines, card_markdown.items(limits)])


def _training_limits(manifest: schema.Manifest) -> Iterable[str]:
    """What the numbers of the training split say about the data set's limits."""
    split = manifest.splits.get("train")
    if split is None or not split.num_examples:
        yield "It has no training split."
        return
    if split.ages:
        few = [age for age in sorted(split.ages) if split.ages[age] < FEW]
        yield (
            f"The training split has ages from {min(split.ages)} to {max(split.ages)};"
            " a model can say nothing about others."
        )
        if few:
            yield (
                f"The training split has fewer than {FEW} images of each of these ages:"
                f" {_age_ranges(few)}."
            )
    if "gender" in manifest.labels:
        numbers = [sum(split.counts[name].values()) for name in manifest.class_names]
        shares = [
            f"{number / (sum(numbers) or 1):.1%} {card_markdown.text(name)}"
            for name, number in zip(manifest.class_names, numbers, strict=True)
        ]
        yield f"The training split is {' and '.join(shares)}."
    yield "Nothing else is known about the people that it shows."


def _age_ranges(numbers: Sequence[int]) -> str:
    """Ages as ranges for the data card: 15, 38 to 40."""
    found: list[list[int]] = []
    for value in numbers:
        if found and value == found[-1][1] + 1:
            found[-1][1] = value
        else:
            found.append([value, value])
    return ", ".join(f"{a}" if a == b else f"{a} to {b}" for a, b in found)


def _how_to_load(manifest: schema.Manifest, *, has_images: bool) -> str:
    """The data card's section on how to load the records."""
    # Without a task, both labels are required.
    task = "" if len(manifest.labels) > 1 else f', task="{manifest.labels[0]}"'
    parts = [
        "With this package:",
        card_markdown.code(
            "from afad_tfdata import input_fn\n\n"
            f'config = input_fn.InputConfig(records_dir="records"{task})\n'
            "train = input_fn.train_input_fn(config)\n"
            'test = input_fn.eval_input_fn(config, split="test")\n',
            "python",
        ),
        "Without TensorFlow, `input_fn.open_records` opens a split as a sequence of"
        " examples.",
    ]
    if manifest.format == "tfrecord":
        parts.append(
            "`tensorflow_datasets.builder_from_directory` opens the directory, too."
        )
    else:
        parts.append("The shards are HDF5 files, which `h5py` opens.")
    sets = "`records` (all labels, and the place of each image in its shard)"
    if has_images:
        sets += " and `images` (the images with their labels)"
    parts += [
        f"With mlcroissant, which does not read {croissant.FORMATS[manifest.format]},"
        f" the record sets are {sets}:",
        card_markdown.code(
            "import mlcroissant\n\n"
            f'faces = mlcroissant.Dataset("{file_names.CROISSANT}")\n'
            'for record in faces.records("records"):\n'
            '    print(record["records/key"])\n',
            "python",
        ),
        f"`{file_names.LABELS}` is a plain table, which any program reads.",
    ]
    return "\n\n".join(parts)


def _shards_and_indexes(manifest: schema.Manifest) -> str:
    """The data card's table of shards and indexes with their digests."""
    rows: list[list[object]] = []
    for split in manifest.splits.values():
        for shard in (*split.shards, split.index):
            rows.append([shard.name, shard.num_examples, shard.num_bytes, shard.sha256])
    return card_markdown.table(["file", "records", "bytes", "SHA-256"], rows)


def _option_text(value: Any) -> str:
    """An option of the writer for the data card; empty is shown as empty."""
    return value if isinstance(value, str) and value else json.dumps(value)
