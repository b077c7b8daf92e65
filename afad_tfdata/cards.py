"""Cards: what a data set and a model are, for people, for catalogues and for loaders.

A data set gets ``croissant.json`` and ``labels.csv``, through which mlcroissant loads
its records, and ``data_card.md``; a run or a frozen graph gets ``model_card.md``::

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
    labels_csv,
    licence_and_origin,
    model_card,
    model_card_files,
    parquet_images,
)
from afad_tfdata.storage import (
    file_names,
    joined_data_sets,
    schema,
)
from afad_tfdata.training import run_dir

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


@dataclasses.dataclass(frozen=True)
class CardsConfig:
    """What to describe, and what is known about it that no file says."""

    records_dir: str = options.option(
        "",
        "Data set to describe. It gets croissant.json, labels.csv and data_card.md.",
    )
    run_dir: str = options.option(
        "", "Run to describe. It gets model_card.md, with what afad-evaluate measured."
    )
    graph: str = options.option(
        "",
        "Frozen graph NAME.pb to describe, with its NAME.json. It gets model_card.md;"
        " with --run_dir both are in one card.",
    )
    output_dir: str = options.option(
        "",
        "Directory that the files are written to. Default: the data set's go to"
        " --records_dir, and the model's next to --graph or to --run_dir.",
    )
    with_images: bool = options.option(
        False,
        "Also write the images as Parquet files, images-*.parquet, for loaders of"
        " Croissant. They take as much space as the shards; this needs the extra:"
        " croissant.",
    )
    dataset: str = options.option(
        "auto",
        "Published data set that the images are from: its licence and publication are"
        " then cited.  auto takes what --source of afad-write-records named, which the"
        " manifest records for all but afad.",
        choices=("auto", *licence_and_origin.BY_SOURCE),
    )
    title: str = options.option(
        "",
        "Name of the data set, for people. Default: that of --dataset, or the name in"
        " the manifest.",
    )
    description: str = options.option("", "What the data set is, in a few sentences.")
    license: str = options.option(
        "",
        "Licence of the data set, as a name or an address. Default: what is published"
        " about --dataset; otherwise it is unknown.",
    )
    citation: str = options.option(
        "",
        "How to cite the data set. Default: the publication of --dataset; otherwise it"
        " is unknown.",
    )
    model_title: str = options.option(
        "", "Name of the model, for people. Default: that of its files."
    )
    model_license: str = options.option(
        "", "Licence of the model. Default: it is unknown."
    )
    url: str = options.option("", "Page of the data set.")
    date_published: str = options.option(
        "", "Day on which the data set was published, as YYYY-MM-DD."
    )

    def __post_init__(self) -> None:
        options.check_choices(self)
        if not (self.records_dir or self.run_dir or self.graph):
            raise errors.UsageError(
                "--records_dir, --run_dir and --graph are missing: name what to"
                " describe"
            )
        if self.with_images and not self.records_dir:
            raise errors.UsageError("--with_images needs --records_dir")
        if self.date_published and not _DATE.fullmatch(self.date_published):
            raise errors.UsageError(
                "--date_published takes a day as YYYY-MM-DD; got"
                f" {self.date_published!r}"
            )


@dataclasses.dataclass(frozen=True)
class CardsResult:
    """What `write_cards` wrote, and what the cards call unknown.

    Attributes:
      paths: The files.
      unknown: What the cards call unknown, by the flag that would say it.
    """

    paths: tuple[str, ...]
    unknown: tuple[str, ...]

    def summary(self) -> str:
        """What was written, in a few lines for people."""
        lines = [f"written: {', '.join(self.paths)}"]
        if self.unknown:
            flags = ", ".join(f"--{name}" for name in self.unknown)
            lines.append(f"unknown to the cards, unless you say it: {flags}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """The written cards and what they call unknown, as JSON values."""
        return {"paths": list(self.paths), "unknown": list(self.unknown)}


def write_cards(config: CardsConfig) -> CardsResult:
    """Writes the cards of a data set, of a model, or of both.

    Raises:
      UsageError: There is no such data set, run or graph, it is not local, a library is
        missing, or a file cannot be written.
      DataError: A file is missing, damaged or changed.
    """
    # Everything is read before anything is written.
    known = None
    if config.run_dir or config.graph:
        known = model_card_files.read(config.run_dir, config.graph)
    manifest = None
    given = licence_and_origin.Statements(
        title=config.title,
        description=config.description,
        license=config.license,
        citation=config.citation,
        url=config.url,
        date_published=config.date_published,
    )
    dataset = "" if config.dataset == "auto" else config.dataset
    paths: list[str] = []
    if config.records_dir:
        records_dir = _local_records_dir(config.records_dir)
        manifest = schema.load_manifest(records_dir)
    stated = licence_and_origin.complete_statements(given, manifest, dataset)
    if manifest:
        if known:
            _check_trained_on(known, manifest)
        paths += _describe_data_set(config, records_dir, manifest, stated)
    if known:
        paths.append(_describe_model(config, known, stated))
    asked = ["license", "citation"]
    asked += ["url", "date_published"] if manifest else []
    unknown = [name for name in asked if not getattr(stated, name)]
    if known and not config.model_license:
        unknown.append("model_license")
    return CardsResult(tuple(paths), tuple(unknown))


def _check_trained_on(
    known: model_card_files.ModelFiles, manifest: schema.Manifest
) -> None:
    """Refuses to describe a data set together with a run of another data set."""
    digest = known.run.get("records_digest")
    if digest and digest != run_dir.records_digest(manifest):
        raise errors.UsageError(
            "--records_dir is not the data set that --run_dir was trained on: describe"
            " each of them by itself, or name the right one"
        )


def _describe_model(
    config: CardsConfig,
    known: model_card_files.ModelFiles,
    stated: licence_and_origin.Statements,
) -> str:
    """Writes the model card; returns its path."""
    next_to_graph = os.path.dirname(config.graph.rstrip("/")) or "."
    usual = next_to_graph if config.graph else config.run_dir
    directory = config.output_dir or usual
    files.make_dirs(directory)
    path = files.join(directory, model_card.FILE_NAME)
    try:
        card = model_card.write(
            known,
            title=config.model_title,
            license=config.model_license,
            stated=stated,
        )
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise errors.DataError(
            "the files of the model are not as this package writes them"
            f" ({errors.one_line(repr(error))}): evaluate or freeze the model again"
        ) from error
    files.write_atomic(path, card)
    return path


def _describe_data_set(
    config: CardsConfig,
    records_dir: str,
    manifest: schema.Manifest,
    stated: licence_and_origin.Statements,
) -> list[str]:
    """Writes the files that describe a data set; returns their paths."""
    output_dir = config.output_dir or records_dir
    folder = croissant.folder_of_shards(records_dir, output_dir)
    rejected = data_card.rejected_reasons(records_dir)
    files.make_dirs(output_dir)
    names = [file_names.LABELS]
    labels_csv.write(files.join(output_dir, names[0]), records_dir, manifest)
    if config.with_images:
        names += parquet_images.write(output_dir, records_dir, manifest)
    listed = [
        *croissant.described_files(records_dir, manifest),
        *(croissant.table_facts(output_dir, name) for name in names),
    ]
    description = croissant.describe(manifest, stated, listed, folder=folder)
    files.write_json(files.join(output_dir, file_names.CROISSANT), description)
    card = data_card.write(manifest, stated, rejected, has_images=config.with_images)
    files.write_atomic(files.join(output_dir, file_names.DATA_CARD), card)
    names += [file_names.CROISSANT, file_names.DATA_CARD]
    return [files.join(output_dir, name) for name in names]


def _local_records_dir(records_dir: str) -> str:
    """The one local directory of records that a card describes."""
    if len(joined_data_sets.directories(records_dir)) != 1:
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
