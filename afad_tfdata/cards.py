"""Cards: what a data set and a model are, for people, for catalogues and for loaders.

A data set gets ``croissant.json`` and ``labels.csv``, through which mlcroissant loads
its records, and ``data_card.md``::

    result = cards.write_cards(cards.CardsConfig(records_dir="records"))
    print(result.summary())

Nothing is measured or guessed here: every number is read from a file that another
command wrote, and what is in none of them is called unknown.
"""

from __future__ import annotations

import dataclasses
import os
import re
from typing import Any

from afad_tfdata.common import errors, files, options
from afad_tfdata.describing import (
    croissant,
    data_card,
    image_tables,
    label_table,
    published_sets,
    statements,
)
from afad_tfdata.storage import description_names, joined, schema, tfds_metadata
from afad_tfdata.writing import rejections

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


@dataclasses.dataclass(frozen=True)
class CardsConfig:
    """What to describe, and what is known about it that no file says."""

    records_dir: str = options.option(
        "",
        "Data set to describe.  It gets croissant.json, labels.csv and data_card.md.",
    )
    output_dir: str = options.option(
        "", "Directory that the files are written to.  Default: --records_dir."
    )
    with_images: bool = options.option(
        False,
        "Also write the images as Parquet files, images-*.parquet, for loaders of"
        " Croissant.  They take as much space as the shards; this needs the extra:"
        " croissant.",
    )
    dataset: str = options.option(
        "auto",
        "Published data set that the images are from: its licence and publication are"
        " then cited.  auto takes what --source of afad-write-records named, which the"
        " manifest records for all but afad.",
        choices=("auto", *published_sets.BY_SOURCE),
    )
    title: str = options.option(
        "",
        "Name of the data set, for people.  Default: that of --dataset, or the name in"
        " the manifest.",
    )
    description: str = options.option("", "What the data set is, in a few sentences.")
    license: str = options.option(
        "",
        "Licence of the data set, as a name or an address.  Default: what is published"
        " about --dataset; otherwise it is unknown.",
    )
    citation: str = options.option(
        "",
        "How to cite the data set.  Default: the publication of --dataset; otherwise it"
        " is unknown.",
    )
    url: str = options.option("", "Page of the data set.")
    date_published: str = options.option(
        "", "Day on which the data set was published, as YYYY-MM-DD."
    )

    def __post_init__(self) -> None:
        options.check_choices(self)
        if not self.records_dir:
            raise errors.UsageError("--records_dir is missing: name the data set")
        if self.date_published and not _DATE.fullmatch(self.date_published):
            raise errors.UsageError(
                "--date_published takes a day as YYYY-MM-DD; got"
                f" {self.date_published!r}"
            )


@dataclasses.dataclass(frozen=True)
class CardsResult:
    """What `write_cards` wrote.

    Attributes:
      paths: The files.
      unknown: What the cards call unknown, by the flag that would say it.
    """

    paths: tuple[str, ...]
    unknown: tuple[str, ...]

    def summary(self) -> str:
        """The result in a few lines, for people."""
        lines = [f"written: {', '.join(self.paths)}"]
        if self.unknown:
            flags = ", ".join(f"--{name}" for name in self.unknown)
            lines.append(f"unknown to the cards, unless you say it: {flags}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {"paths": list(self.paths), "unknown": list(self.unknown)}


def write_cards(config: CardsConfig) -> CardsResult:
    """Writes the descriptions of a data set.

    Raises:
      UsageError: There is no such data set, it is not local, a library is missing, or
        a file cannot be written.
      DataError: A file of the data set is missing, damaged or changed.
    """
    records_dir = _local_dir(config.records_dir)
    output_dir = config.output_dir or records_dir
    manifest = schema.load_manifest(records_dir)
    stated = statements.complete(
        statements.Statements(
            title=config.title,
            description=config.description,
            license=config.license,
            citation=config.citation,
            url=config.url,
            date_published=config.date_published,
        ),
        manifest,
        "" if config.dataset == "auto" else config.dataset,
    )
    files.make_dirs(output_dir)
    names = [description_names.LABELS]
    label_table.write(files.join(output_dir, names[0]), records_dir, manifest)
    if config.with_images:
        names += image_tables.write(output_dir, records_dir, manifest)
    listed = [
        *_files_of_records(records_dir, manifest),
        *(_file(output_dir, name, _ABOUT_TABLES) for name in names),
    ]
    description = croissant.describe(
        manifest, stated, listed, folder=_folder(records_dir, output_dir)
    )
    files.write_json(files.join(output_dir, description_names.CROISSANT), description)
    card = data_card.write(
        manifest,
        stated,
        data_card.rejected_reasons(records_dir),
        has_labels=True,
        has_images=config.with_images,
    )
    files.write_atomic(files.join(output_dir, description_names.DATA_CARD), card)
    names += [description_names.CROISSANT, description_names.DATA_CARD]
    asked = ("license", "citation", "url", "date_published")
    return CardsResult(
        paths=tuple(files.join(output_dir, name) for name in names),
        unknown=tuple(name for name in asked if not getattr(stated, name)),
    )


_ABOUT_TABLES = {
    description_names.LABELS: "The labels of all records, and where each image is.",
}


def _local_dir(records_dir: str) -> str:
    if len(joined.directories(records_dir)) != 1:
        raise errors.UsageError(
            f"--records_dir={records_dir} names several data sets: describe each of"
            " them by itself"
        )
    if files.is_remote(records_dir):
        raise errors.UsageError(
            f"--records_dir={records_dir} is remote, and the names of the images are"
            " read from local shards: copy the data set first"
        )
    return files.local_path(records_dir)


def _folder(records_dir: str, output_dir: str) -> str:
    """Where the shards are, as croissant.json names them."""
    if files.is_remote(output_dir):
        raise errors.UsageError(
            f"--output_dir={output_dir} is remote, and croissant.json names the shards"
            " relative to itself: write it next to them, then copy the directory"
        )
    folder = os.path.relpath(
        os.path.realpath(records_dir), os.path.realpath(output_dir)
    )
    return "" if folder == "." else folder.replace(os.sep, "/")


def _files_of_records(
    records_dir: str, manifest: schema.Manifest
) -> list[croissant.FileFacts]:
    """The files that decide what the data set is, with the manifest's checksums."""
    listed = [
        croissant.FileFacts(file.name, file.num_bytes, file.sha256, about)
        for name, split in manifest.splits.items()
        for file, about in (
            *((s, f"A shard of the split {name}.") for s in split.shards),
            (split.index, f"The index of the split {name}: offsets and labels."),
        )
    ]
    others = {
        schema.MANIFEST_NAME: "All files with their checksums, and the options.",
        schema.MEAN_NAME: "The channel means of the training split.",
        rejections.FILE_NAME: "The files that were not written, and why.",
        **dict.fromkeys(tfds_metadata.NAMES, "For tensorflow_datasets."),
    }
    listed += [
        _file(records_dir, name, others)
        for name in others
        if files.exists(files.join(records_dir, name))
    ]
    return listed


def _file(directory: str, name: str, about: dict[str, str]) -> croissant.FileFacts:
    path = files.join(directory, name)
    return croissant.FileFacts(
        name,
        os.path.getsize(path),
        files.sha256(path),
        about.get(name, "Images with their labels, as Parquet."),
    )
