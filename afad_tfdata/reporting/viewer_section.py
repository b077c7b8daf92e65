"""The viewer: thumbnails of records, which one can filter, sort and page through."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from afad_tfdata.common import errors, files
from afad_tfdata.reporting import html_elements, page, page_faces, viewer_predictions
from afad_tfdata.storage import joined_data_sets, schema

# Pixels and JPEG quality, with which 2,000 faces take about 3 MB as text.
_SIDE, _QUALITY = 64, 65


def build(
    records_dir: str,
    *,
    thumbnails: int,
    said: Mapping[str, viewer_predictions.SplitPredictions] | None = None,
) -> list[html_elements.Element]:
    """The report's section with the viewer of faces.

    Args:
      records_dir: Directories of local data sets, separated by commas.
      thumbnails: Largest number of faces.
      said: Predictions by split.  The records whose labels differ most from them come
        first.

    Raises:
      UsageError: There is no such data set.
      DataError: An index is damaged.
    """
    places = joined_data_sets.directories(records_dir)
    remote = [place for place in places if files.is_remote(place)]
    if remote:
        return [
            html_elements.note(f"The faces of {remote[0]} are not on this machine.")
        ]
    manifest = joined_data_sets.load_manifest(records_dir)
    splits = [n for n, split in manifest.splits.items() if split.num_examples]
    total = sum(manifest.splits[name].num_examples for name in splits)
    chosen = _records_to_show(places, splits, thumbnails, said)
    number = sum(len(rows) for rows in chosen.values())
    if not number:
        return [html_elements.note("There is no face to show.")]
    shards: dict[str, int] = {}
    rows, pictures = [], []
    for (place, split), records in chosen.items():
        start = _first_row(places, split, place)
        one = schema.load_manifest(places[place])
        faces = page_faces.read(places[place], one, split, records)
        for face in faces:
            pictures.append(page_faces.thumbnail(face, _SIDE, _QUALITY))
            row = _face_entry(face, place, splits.index(split), shards)
            row |= _prediction_entry(face, start, (said or {}).get(split))
            rows.append(row)
    head = _common_jpeg_head(pictures)
    for row, picture in zip(rows, pictures, strict=True):
        row["image"] = base64.b64encode(picture[len(head) :]).decode()
    rows.sort(key=lambda row: -row.pop("order"))
    lost = sum("fault" in row for row in rows)
    values = {
        "classes": [errors.printable(name) for name in manifest.class_names],
        "splits": splits,
        "directories": [errors.printable(place) for place in places],
        "shards": [errors.printable(name) for name in shards],
        "head": base64.b64encode(head).decode(),
        "faces": rows,
    }
    about = f"{number:,} of {total:,} faces"
    if said:
        about += ", first those whose labels differ most from the predictions"
    elif number < total:
        about += ", spread evenly over all"
    return [
        html_elements.new("p", f"{about}. A click on a face shows its record."),
        *([html_elements.note(f"{lost:,} of them cannot be read.")] if lost else []),
        html_elements.new(
            "noscript",
            html_elements.new(
                "p", "The viewer is a program, which this browser does not run."
            ),
        ),
        _filter_form(manifest, splits, with_errors=bool(said)),
        html_elements.new("div", id="face", hidden=True, aria_live="polite"),
        html_elements.new("ul", id="grid"),
        html_elements.new(
            "div",
            html_elements.new("button", "Previous", type="button", id="previous"),
            html_elements.new("span", id="count", aria_live="polite"),
            html_elements.new("button", "Next", type="button", id="next"),
            class_="pager",
        ),
        page.json_data("faces-data", values),
    ]


def _records_to_show(
    places: Sequence[str],
    splits: Sequence[str],
    thumbnails: int,
    said: Mapping[str, viewer_predictions.SplitPredictions] | None,
) -> dict[tuple[int, str], np.ndarray]:
    """Numbers of the records that the viewer shows, by data set and split."""
    parts = []
    for place, directory in enumerate(places):
        manifest = schema.load_manifest(directory)
        for split in splits:
            if split in manifest.splits and manifest.splits[split].num_examples:
                parts.append((place, split, manifest))
    sizes = [m.splits[split].num_examples for _, split, m in parts]
    starts = np.cumsum([0, *sizes])
    if said:
        scores = np.concatenate(
            [
                _suspicion_of_labels(places, place, split, manifest, said.get(split))
                for place, split, manifest in parts
            ]
        )
        known = int((scores > 0).sum())
        order = np.argsort(-scores, kind="stable")[: min(thumbnails, known)]
        sample = np.sort(order)
    else:
        sample = page_faces.even_sample(int(starts[-1]), thumbnails)
    found = {}
    for (place, split, _), first, last in zip(
        parts, starts[:-1], starts[1:], strict=True
    ):
        here = sample[(sample >= first) & (sample < last)] - first
        if len(here):
            found[place, split] = here
    return found


def _suspicion_of_labels(
    places: Sequence[str],
    place: int,
    split: str,
    manifest: schema.Manifest,
    said: viewer_predictions.SplitPredictions | None,
) -> np.ndarray:
    """How wrong the labels look to the viewer, in [0, 2]; 0 without a prediction."""
    index = schema.load_index(places[place], manifest, split)
    scores = np.zeros(len(index))
    if said is None:
        return scores
    start = _first_row(places, split, place)
    age, gender = viewer_predictions.label_errors(
        said, slice(start, start + len(index)), index["age"], index["gender"]
    )
    if age is not None:
        # An age that is wrong by 20 years looks as wrong as the other gender.
        scores += np.minimum(np.nan_to_num(age) / 20, 1)
    if gender is not None:
        scores += np.nan_to_num(gender)
    return scores


def _first_row(places: Sequence[str], split: str, place: int) -> int:
    """The row at which a data set begins in the viewer's predictions of a split."""
    start = 0
    for directory in places[:place]:
        found = schema.load_manifest(directory).splits.get(split)
        start += found.num_examples if found else 0
    return start


def _face_entry(
    face: page_faces.Face, place: int, split: int, shards: dict[str, int]
) -> dict[str, Any]:
    """What the viewer's program gets about a face."""
    row = {
        "directory": place,
        "split": split,
        "age": face.age,
        "gender": face.gender,
        "shard": shards.setdefault(face.shard, len(shards)),
        "position": face.position,
        "record": face.record,
        "key": errors.printable(face.key),
        "crc32": f"{face.crc32:08x}",
        "order": 0.0,
    }
    if face.sha256:
        row["sha256"] = face.sha256
    if face.fault:
        row["fault"] = errors.printable(face.fault)
    return row


def _prediction_entry(
    face: page_faces.Face, start: int, said: viewer_predictions.SplitPredictions | None
) -> dict[str, Any]:
    """What the viewer shows of a face's predictions, and how far its labels are off."""
    if said is None:
        return {}
    row = start + face.record
    age, gender = viewer_predictions.label_errors(
        said, slice(row, row + 1), np.array([face.age]), np.array([face.gender])
    )
    found: dict[str, Any] = {"order": 0.0}
    for name, value, error, scale in (
        ("age", said.age, age, 20),
        ("gender", said.gender, gender, 1),
    ):
        if value is None or row >= len(value):
            continue
        found[f"said_{name}"] = round(float(value[row]), 4)
        if error is not None and np.isfinite(error[0]):
            found[f"{name}_error"] = round(float(error[0]), 4)
            found["order"] += min(float(error[0]) / scale, 1)
    return found


def _common_jpeg_head(pictures: Sequence[bytes]) -> bytes:
    """The bytes that all of the viewer's thumbnails begin with, to store them once.

    They are the tables of the JPEGs, a third of all bytes.  Their number is a multiple
    of 3, so that the base64 texts of both parts can be joined.
    """
    found = [picture for picture in pictures if picture]
    head: Any = os.path.commonprefix(found) if found else b""
    # Only up to the pixels, which thumbnails of a single colour also have in common.
    head = head[: max(head.find(b"\xff\xda"), 0)]
    return head[: len(head) // 3 * 3]


def _filter_form(
    manifest: schema.Manifest, splits: Sequence[str], *, with_errors: bool
) -> html_elements.Element:
    """The viewer's form that filters and sorts the faces."""
    new = html_elements.new
    genders = [(str(i), name) for i, name in enumerate(manifest.class_names)]
    if schema.NO_GENDER in manifest.counted_classes:
        genders.append(("-1", "no gender"))
    orders = [("", "as stored"), ("age", "by age")]
    if with_errors:
        orders = [
            ("", "labels that look wrong first"),
            ("error", "largest error of the age first"),
            ("gender_error", "largest error of the gender first"),
            ("age", "by age"),
        ]
    ages = sorted({age for split in manifest.splits.values() for age in split.ages})
    limits: dict[str, Any] = {"type": "number", "min": 0, "max": 150}
    low, high = (str(ages[0]), str(ages[-1])) if ages else ("", "")
    return new(
        "form",
        new("label", "Split", _select_element("split", _with_all(enumerate(splits)))),
        new("label", "Gender", _select_element("gender", _with_all(genders))),
        new("label", "Age from", new("input", name="low", placeholder=low, **limits)),
        new("label", "to", new("input", name="high", placeholder=high, **limits)),
        new("label", "Order", _select_element("order", orders)),
        id="filter",
    )


def _with_all(choices: Any) -> Iterator[tuple[str, str]]:
    """Choices of one of the viewer's filters, after the one that chooses all."""
    yield "", "all"
    for value, text in choices:
        yield str(value), text


def _select_element(name: str, choices: Any) -> html_elements.Element:
    """An HTML element of the viewer to choose from a list."""
    return html_elements.new(
        "select",
        *(html_elements.new("option", text, value=value) for value, text in choices),
        name=name,
    )
