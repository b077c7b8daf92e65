"""The data set: its faces by label, some of their pictures, and what was left out."""

from __future__ import annotations

import collections
import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from afad_tfdata.common import errors, files
from afad_tfdata.describing import licence_and_origin
from afad_tfdata.reporting import (
    charts,
    html_elements,
    json_values,
    page_faces,
)
from afad_tfdata.storage import joined_data_sets, schema
from afad_tfdata.writing import rejections

_SHEET_FACES = 24
# Not in the table of the configuration, because nobody reads a digest.
_LONG = {"source_sha256"}


def build(records_dir: str, *, images: bool) -> list[html_elements.Element]:
    """The report's section on a data set, or on several that are read as one.

    Args:
      records_dir: Directories, separated by commas.
      images: Whether faces are shown.

    Raises:
      UsageError: There is no such data set, or several do not fit together.
      DataError: A manifest is damaged.
    """
    manifest = joined_data_sets.load_manifest(records_dir)
    places = joined_data_sets.directories(records_dir)
    manifests = {place: schema.load_manifest(place) for place in places}
    if len(places) == 1:
        path = files.join(records_dir, schema.MANIFEST_NAME)
        source = json_values.read(path, what="the manifest")
    else:
        # For several data sets, the numbers are sums, which no file contains.
        source = json_values.Json(json.loads(json.dumps(dataclasses.asdict(manifest))))
    return [
        _data_set_facts(records_dir, manifest, source),
        _record_counts(manifest, source),
        *_age_histograms(manifest, source),
        *_face_sheet(manifests, images=images),
        html_elements.new("h3", "Left out"),
        *_files_left_out(places, source),
        *_equal_images(manifests),
        html_elements.new("h3", "Licence and citation"),
        *_licence_of_sources(manifests.values()),
        html_elements.folded(
            "Configuration of the writer", *_writer_options(places, source)
        ),
    ]


def _data_set_facts(
    records_dir: str, manifest: schema.Manifest, source: json_values.Json
) -> html_elements.Element:
    """The report's list of what the data set is."""
    size = sum(
        shard.num_bytes for split in manifest.splits.values() for shard in split.shards
    )
    crop = manifest.face_crop
    return html_elements.facts(
        {
            "Directory": html_elements.new("code", records_dir),
            "Name": manifest.name,
            "Records": html_elements.number(source.at("written")),
            "Format": f"{manifest.format}, images {manifest.image_encoding}",
            "Image size": f"{manifest.image_size} pixels",
            "Size of all shards": f"{size / 1e6:,.1f} MB",
            "Classes": ", ".join(
                f"{label} {name}" for label, name in enumerate(manifest.class_names)
            ),
            "Split by": str(manifest.config.get("split_by", "")),
            "Mean R, G, B": ", ".join(
                f"{manifest.mean.get(channel, float('nan')):.2f}" for channel in "RGB"
            ),
            "Faces cut out": f"by {crop.get('found_by', '')}" if crop else None,
        }
    )


def _record_counts(
    manifest: schema.Manifest, source: json_values.Json
) -> html_elements.Element:
    """The report's table of a data set's records by split and class."""
    classes = manifest.counted_classes
    rows = []
    for name, split in manifest.splits.items():
        ages = split.ages
        rows.append(
            [
                name,
                html_elements.number(source.at("splits", name, "num_examples")),
                *(f"{sum(split.counts.get(c, {}).values()):,}" for c in classes),
                f"{min(ages)} to {max(ages)}" if ages else "no ages",
                f"{split.num_without('age'):,}",
                f"{len(split.shards):,}",
            ]
        )
    head = ["split", "faces", *classes, "ages", "without age", "shards"]
    if not any(split.num_without("age") for split in manifest.splits.values()):
        rows = [[*row[:-2], row[-1]] for row in rows]
        head.remove("without age")
    return html_elements.table(head, rows, caption="Faces by split and gender")


def _age_histograms(
    manifest: schema.Manifest, source: json_values.Json
) -> list[html_elements.Element]:
    """The report's charts of a data set's ages, for each split, stacked by class."""
    if not any(split.ages for split in manifest.splits.values()):
        return [html_elements.note("No face of this data set has an age.")]
    filled = {n: s for n, s in manifest.splits.items() if s.num_examples}
    drawn = []
    for name, split in filled.items():
        chart = charts.Chart(f"ages-{name}", xlabel="age, years", ylabel="faces")
        ages = sorted(split.ages)
        below = np.zeros(len(ages))
        for color, label in enumerate(manifest.counted_classes):
            # The manifest leaves out ages without an example.
            has = split.counts.get(label, {})
            places = [i for i, age in enumerate(ages) if has.get(str(age))]
            found = [
                source.at("splits", name, "counts", label, str(ages[i])) for i in places
            ]
            titles = [
                f"{label}, {ages[i]} years: {html_elements.number_text(value)}"
                for i, value in zip(places, found, strict=True)
            ]
            heights = np.array([value.number or 0 for value in found])
            chart.bars(
                f"{label}: {sum(has.values()):,}",
                [ages[i] for i in places],
                found,
                titles,
                color=color,
                bottom=below[places],
            )
            below[places] += heights
        drawn.append(chart.figure(f"{name}: {split.num_examples:,} faces by age"))
    return [
        html_elements.new("div", *drawn, class_="charts"),
        html_elements.folded("Numbers by age", _age_counts(manifest, source)),
    ]


def _age_counts(
    manifest: schema.Manifest, source: json_values.Json
) -> html_elements.Element:
    """The report's table of a data set's records by age."""
    columns = [(s, c) for s in manifest.splits for c in manifest.counted_classes]
    ages = sorted({age for split in manifest.splits.values() for age in split.ages})
    rows: list[list[Any]] = []
    for age in ages:
        cells = [source.at("splits", s, "counts", c, str(age)) for s, c in columns]
        # The manifest leaves out ages without a face.
        rows.append(
            [str(age), *(html_elements.number(c) if c.value else "0" for c in cells)]
        )
    head = ["age", *(f"{split}, {label}" for split, label in columns)]
    return html_elements.table(head, rows, caption="Faces by age, split and gender")


def _face_sheet(
    manifests: Mapping[str, schema.Manifest], *, images: bool
) -> list[html_elements.Element]:
    """The report's sheet of some faces of the data set, spread over one split."""
    if not images:
        return []
    heading = html_elements.new("h3", "Some of the faces")
    local = [place for place in manifests if not files.is_remote(place)]
    if not local:
        return [
            heading,
            html_elements.note("The faces of a remote data set are not shown."),
        ]
    shown = []
    try:
        for place in local:
            manifest = manifests[place]
            name = next((n for n, s in manifest.splits.items() if s.num_examples), "")
            if not name:
                continue
            total = manifest.splits[name].num_examples
            sample = page_faces.even_sample(total, _SHEET_FACES // len(local))
            for face in page_faces.read(place, manifest, name, sample):
                shown.append(
                    page_faces.figure(face, _face_labels(face, manifest.class_names))
                )
    except errors.AfadError as error:
        return [heading, html_elements.note(f"No faces are shown: {error}")]
    return [heading, page_faces.sheet(shown)] if shown else []


def _face_labels(face: page_faces.Face, class_names: Sequence[str]) -> str:
    """The labels of a face in the report's section on its data set: ``male, 25``."""
    gender = "" if face.gender < 0 else class_names[face.gender]
    age = "" if face.age < 0 else str(face.age)
    return ", ".join(part for part in (gender, age) if part) or "no label"


def _files_left_out(
    places: Sequence[str], source: json_values.Json
) -> list[html_elements.Element]:
    """The report's table of files that the data set does not have, by reason."""
    sums = {
        "Files found": html_elements.number(source.at("found")),
        "Written": html_elements.number(source.at("written")),
        "Rejected": html_elements.number(source.at("rejected")),
        "Skipped, because they are not images": html_elements.number(
            source.at("passed_over")
        ),
    }
    found = [html_elements.facts(sums)]
    kinds: collections.Counter[str] = collections.Counter()
    examples: dict[str, str] = {}
    for place in places:
        try:
            rejected = rejections.read(place)
        except errors.DataError as error:
            found.append(html_elements.note(str(error)))
            continue
        for name, reason in rejected:
            (kind,) = rejections.by_kind([reason])
            kinds[kind] += 1
            examples.setdefault(kind, f"{name}: {reason}")
    if kinds:
        rows = [
            [kind, f"{count:,}", html_elements.new("code", examples[kind])]
            for kind, count in kinds.most_common()
        ]
        found.append(
            html_elements.table(
                ["reason", "files", "the first of them"],
                rows,
                caption="Rejected files by reason",
            )
        )
    return found


def _equal_images(
    manifests: Mapping[str, schema.Manifest],
) -> list[html_elements.Element]:
    """The report's number of a data set's records with the image of another one."""
    columns = ["crc32", "image_length", "age", "gender"]
    parts = []
    for place, manifest in manifests.items():
        try:
            for name, split in manifest.splits.items():
                if split.num_examples:
                    index = schema.load_index(place, manifest, name)
                    parts.append(np.stack([index[c].astype(np.int64) for c in columns]))
        except errors.AfadError as error:
            return [html_elements.note(f"Equal images were not counted: {error}")]
    if not parts:
        return []
    rows = np.concatenate(parts, axis=1)
    rows = rows[:, np.lexsort(rows[::-1])]
    same = (rows[:2, 1:] == rows[:2, :-1]).all(axis=0)
    other_labels = same & (rows[2:, 1:] != rows[2:, :-1]).any(axis=0)
    text = (
        f"Records whose image has the same bytes as that of another record:"
        f" {int(same.sum()):,}; of these under other labels:"
        f" {int(other_labels.sum()):,}. Bytes are compared by length and CRC-32."
    )
    return [html_elements.new("p", text)]


def _licence_of_sources(
    manifests: Iterable[schema.Manifest],
) -> list[html_elements.Element]:
    """The report's licence and citation of each source, as the cards state them."""
    nothing = licence_and_origin.Statements()
    all_stated = [
        licence_and_origin.complete_statements(nothing, manifest)
        for manifest in manifests
    ]
    found: list[html_elements.Element] = []
    for source, license, citation in dict.fromkeys(
        (stated.source, stated.license, stated.citation) for stated in all_stated
    ):
        found.append(html_elements.new("p", source))
        found.append(html_elements.facts({"Licence": license or "unknown"}))
        if citation:
            found.append(html_elements.new("p", "To cite:"))
            found.append(html_elements.new("blockquote", citation))
    text = (
        "Images keep the licence and the terms of their source. The terms also apply to"
        " the faces on this page: read them before you share records, faces or models."
    )
    return [*found, html_elements.new("p", text)]


def _writer_options(
    places: Sequence[str], source: json_values.Json
) -> list[html_elements.Element]:
    """The report's table of the options that each data set was written with."""
    configs = source.at("config", "joined").elements() or [source.at("config")]
    return [
        html_elements.table(
            ["option", "value"],
            [
                [
                    name,
                    html_elements.new("code", html_elements.option_text(value.value)),
                ]
                for name, value in config.items()
                if name not in _LONG
            ],
            caption="What determines the bytes"
            + (f" of {place}" if len(places) > 1 else ""),
        )
        for place, config in zip(places, configs, strict=True)
    ]
