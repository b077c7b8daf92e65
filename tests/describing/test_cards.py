"""Cards of data sets: what a loader of Croissant reads, and what the card says."""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import os
import re
import shutil

import numpy as np
import pytest

from afad_tfdata import cards, input_fn, records
from afad_tfdata.common import errors
from afad_tfdata.describing import card_markdown, labels_csv
from afad_tfdata.images import codec
from afad_tfdata.storage import schema

_STATED = {
    "license": "https://spdx.org/licenses/CC-BY-4.0.html",
    "citation": "A. Author: Drawn Faces. 2026.",
    "url": "https://example.org/faces",
    "date_published": "2026-01-02",
}


@pytest.fixture(scope="module")
def tfrecord(sample_records, tmp_path_factory) -> str:
    """A copy of the sample records, to which files may be added."""
    return shutil.copytree(sample_records, tmp_path_factory.mktemp("cards") / "records")


@pytest.fixture(scope="module")
def hdf5(sample_tree, tmp_path_factory) -> str:
    directory = str(tmp_path_factory.mktemp("cards") / "hdf5")
    records.write_records(
        records.WriteConfig(
            data_dir=sample_tree,
            output_dir=directory,
            format="hdf5",
            image_size=24,
            num_shards=2,
            num_workers=1,
            max_examples=40,
        )
    )
    return directory


def _examples(directory: str) -> dict[str, dict]:
    """Every example by its key, as `input_fn` reads it."""
    manifest = schema.load_manifest(directory)
    found = {}
    for split in manifest.splits:
        faces = input_fn.open_records(directory, split)
        for number in range(len(faces)):
            found[faces[number]["key"]] = {**faces[number], "split": split}
    return found


def _load(path: str, record_set: str, caplog) -> tuple[list[dict], str]:
    """The records that mlcroissant loads, and what it warned of."""
    import mlcroissant

    with caplog.at_level(logging.WARNING):
        dataset = mlcroissant.Dataset(path)
        found = list(dataset.records(record_set))
    return found, "\n".join(r.message for r in caplog.records if r.name == "absl")


@pytest.mark.parametrize("name", ["tfrecord", "hdf5"])
def test_mlcroissant_loads_all_records_without_a_warning(name, request, caplog):
    directory = str(request.getfixturevalue(name))
    result = cards.write_cards(
        cards.CardsConfig(records_dir=directory, with_images=True, **_STATED)
    )
    assert not result.unknown
    path = os.path.join(directory, "croissant.json")
    rows, warnings = _load(path, "records", caplog)
    assert not warnings
    images, _ = _load(path, "images", caplog)
    examples = _examples(directory)
    manifest = schema.load_manifest(directory)
    assert len(rows) == len(images) == len(examples) == manifest.written
    for row in rows:
        example = examples[row["records/key"].decode()]
        assert row["records/age"] == example["age"]
        assert row["records/gender_label"] == example["gender"]
        assert row["records/split"].decode() == example["split"]
        name = manifest.class_names[example["gender"]]
        assert row["records/gender"].decode() == name
    for row in images:
        example = examples[row["images/key"].decode()]
        pixels = codec.resize(
            np.asarray(row["images/image"].convert("RGB")), manifest.image_size
        )
        np.testing.assert_array_equal(pixels, example["image"])
        assert row["images/age"] == example["age"]


def test_rows_name_the_place_of_each_record(tfrecord):
    cards.write_cards(cards.CardsConfig(records_dir=str(tfrecord)))
    manifest = schema.load_manifest(tfrecord)
    with open(os.path.join(tfrecord, "labels.csv"), newline="") as f:
        rows = list(csv.DictReader(f))
    seen = set()
    for row in rows:
        index = schema.load_index(str(tfrecord), manifest, row["split"])
        shards = [s.name for s in manifest.splits[row["split"]].shards]
        mine = index[index["shard"] == shards.index(row["shard"])]
        entry = mine[int(row["position"])]
        with open(os.path.join(tfrecord, row["shard"]), "rb") as f:
            f.seek(int(entry["record_offset"]))
            record = f.read(int(entry["record_length"]))
        assert row["key"].encode() in record
        assert (row["height"], row["width"]) == (
            str(entry["height"]),
            str(entry["width"]),
        )
        seen.add((row["shard"], row["position"]))
    assert len(seen) == manifest.written


def test_every_row_is_one_row_whatever_a_file_is_called(
    tfrecord, tmp_path, monkeypatch
):
    manifest = schema.load_manifest(tfrecord)
    row = next(labels_csv.rows(str(tfrecord), manifest))
    keys = ['15/"a".jpg', "15/a,b.jpg", "15/a\nb.jpg", "15/a\rb.jpg"]
    mine = [row._replace(key=key, gender=None) for key in keys]
    monkeypatch.setattr(labels_csv, "rows", lambda *_: mine)
    labels_csv.write(str(tmp_path / "labels.csv"), str(tfrecord), manifest)
    with open(tmp_path / "labels.csv", newline="") as f:
        found = list(csv.DictReader(f))
    assert [row["key"] for row in found] == keys
    assert {row["gender"] for row in found} == {""}


def test_checksums_and_sizes_are_those_of_the_files(tfrecord):
    cards.write_cards(cards.CardsConfig(records_dir=str(tfrecord)))
    value = json.load(open(os.path.join(tfrecord, "croissant.json")))
    listed = {f["contentUrl"]: f for f in value["distribution"] if "contentUrl" in f}
    shards = {n for n in os.listdir(tfrecord) if ".tfrecord-" in n}
    assert shards | {"labels.csv", "manifest.json", "mean.json"} <= set(listed)
    for name, entry in listed.items():
        content = open(os.path.join(tfrecord, name), "rb").read()
        assert entry["sha256"] == hashlib.sha256(content).hexdigest(), name
        assert entry["contentSize"] == f"{len(content)} B"


def test_what_is_unknown_is_left_out_and_called_unknown(tfrecord, tmp_path, caplog):
    result = cards.write_cards(
        cards.CardsConfig(records_dir=str(tfrecord), output_dir=str(tmp_path))
    )
    assert result.unknown == ("license", "citation", "url", "date_published")
    value = json.load(open(tmp_path / "croissant.json"))
    assert not {"license", "citeAs", "url", "datePublished"} & set(value)
    text = (tmp_path / "data_card.md").read_text()
    assert "- Licence: unknown\n" in text
    # The tree has AFAD's folders, but nothing says that it is AFAD.
    assert "does not say which published data set" in text
    assert "If they are from AFAD" in text
    # The JSON is not next to the shards, and still valid; its records load.
    rows, warnings = _load(str(tmp_path / "croissant.json"), "records", caplog)
    assert len(rows) == schema.load_manifest(str(tfrecord)).written
    assert {
        line.rpartition("/")[2].partition('"')[0]
        for line in warnings.splitlines()
        if "recommended" in line
    } == {"license", "citeAs", "datePublished"}
    shard = next(
        f for f in value["distribution"] if f["@id"].startswith("afad-train.tfrecord")
    )
    assert os.path.exists(tmp_path / shard["contentUrl"])


def test_a_data_set_that_is_said_to_be_afad_is_cited(sample_tree, tmp_path):
    records.write_records(
        records.WriteConfig(
            data_dir=sample_tree,
            output_dir=str(tmp_path),
            image_size=24,
            num_workers=1,
            max_examples=30,
        )
    )
    result = cards.write_cards(
        cards.CardsConfig(records_dir=str(tmp_path), dataset="afad")
    )
    assert result.unknown == ("date_published",)
    text = (tmp_path / "data_card.md").read_text()
    assert "academic research only" in text and "CVPR 2016" in text
    value = json.load(open(tmp_path / "croissant.json"))
    assert "CVPR 2016" in value["citeAs"]


def test_numbers_in_the_card_are_those_of_the_manifest(tfrecord):
    cards.write_cards(cards.CardsConfig(records_dir=str(tfrecord)))
    text = open(os.path.join(tfrecord, "data_card.md")).read()
    manifest = schema.load_manifest(tfrecord)
    for name, split in manifest.splits.items():
        classes = [sum(split.counts[c].values()) for c in manifest.class_names]
        ages = f"{min(split.ages)} to {max(split.ages)}"
        row = [name, split.num_examples, *classes, ages, 0]
        assert f"| {' | '.join(map(str, row))} |" in text
        for shard in split.shards:
            assert shard.sha256 in text
    assert f"{manifest.found:,} files were found: {manifest.written:,}" in text
    assert "Channel means of the training split, in 0 to 255: R " in text


def test_the_card_of_a_test_set_says_whose_means_it_gives(sample_tree, tmp_path):
    directory = str(tmp_path / "records")
    config = records.WriteConfig(
        data_dir=sample_tree,
        output_dir=directory,
        test_fraction=1.0,
        num_workers=1,
        max_examples=20,
    )
    records.write_records(config)
    cards.write_cards(cards.CardsConfig(records_dir=directory))
    text = open(os.path.join(directory, "data_card.md")).read()
    assert "Channel means of all splits, in 0 to 255: R " in text


def test_the_code_in_a_card_runs(tfrecord, tmp_path, monkeypatch, capsys):
    shutil.copytree(tfrecord, tmp_path / "records")
    (path,) = [
        p
        for p in cards.write_cards(
            cards.CardsConfig(records_dir=str(tmp_path / "records"))
        ).paths
        if p.endswith("data_card.md")
    ]
    text = open(path).read()
    first, second = re.findall(r"```python\n(.*?)```", text, re.S)
    monkeypatch.chdir(tmp_path)
    exec(first, {})
    monkeypatch.chdir(tmp_path / "records")
    exec(second, {})
    keys = capsys.readouterr().out.splitlines()
    assert len(keys) == schema.load_manifest(str(tfrecord)).written


def test_the_same_data_set_gives_the_same_bytes(tfrecord, tmp_path):
    other = shutil.copytree(tfrecord, tmp_path / "elsewhere")
    for directory in (tfrecord, other):
        cards.write_cards(
            cards.CardsConfig(records_dir=str(directory), with_images=True)
        )
    for name in os.listdir(other):
        assert (other / name).read_bytes() == open(
            os.path.join(tfrecord, name), "rb"
        ).read(), name


def test_copies_and_conflicts_are_counted(sample_tree, tmp_path):
    tree = shutil.copytree(sample_tree, tmp_path / "faces")
    first = sorted(tree.glob("*/111/*.jpg"))[0]
    shutil.copy(first, first.with_name("900001-0.jpg"))
    other = tree / "61" / "111"
    other.mkdir(parents=True)
    shutil.copy(sorted(tree.glob("*/112/*.jpg"))[0], other / "900002-0.jpg")
    directory = str(tmp_path / "records")
    records.write_records(
        records.WriteConfig(
            data_dir=str(tree), output_dir=directory, image_size=24, num_workers=1
        )
    )
    cards.write_cards(cards.CardsConfig(records_dir=directory))
    text = open(os.path.join(directory, "data_card.md")).read()
    # Of equal files the first is kept; with different labels, none is.
    assert "3 of the rejected files have the same bytes as another file, 2 of" in text
    assert "| same bytes as another, under different labels | 2 |" in text


def test_a_replaced_data_set_keeps_no_description(sample_tree, tmp_path):
    config = {
        "data_dir": sample_tree,
        "output_dir": str(tmp_path),
        "image_size": 24,
        "num_workers": 1,
    }
    records.write_records(records.WriteConfig(**config, max_examples=40, num_shards=2))
    about = cards.CardsConfig(records_dir=str(tmp_path), with_images=True)
    before = {os.path.basename(p) for p in cards.write_cards(about).paths}
    records.write_records(
        records.WriteConfig(**config, max_examples=30, num_shards=1, overwrite=True)
    )
    assert not before & set(os.listdir(tmp_path))


def test_image_files_of_an_earlier_data_set_are_removed(tfrecord, tmp_path):
    about = cards.CardsConfig(
        records_dir=str(tfrecord), output_dir=str(tmp_path), with_images=True
    )
    stale = tmp_path / "images-train-00000-of-00009.parquet"
    stale.write_bytes(b"of another data set")
    kept = tmp_path / "images-of-mine.parquet"
    kept.write_bytes(b"not ours")
    cards.write_cards(about)
    assert not stale.exists() and kept.exists()


def test_a_damaged_record_is_named(tfrecord, tmp_path):
    damaged = shutil.copytree(tfrecord, tmp_path / "damaged")
    shard = sorted(damaged.glob("*train.tfrecord*"))[0]
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(errors.DataError, match=rf"{shard.name} is damaged: record \d+"):
        cards.write_cards(cards.CardsConfig(records_dir=str(damaged)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "--records_dir, --run_dir and --graph are missing"),
        ({"records_dir": "a,b"}, "names several data sets"),
        ({"records_dir": "s3://bucket/records"}, "is remote"),
        ({"records_dir": "/nowhere"}, "manifest"),
        (
            {"records_dir": "a", "date_published": "yesterday"},
            "--date_published takes a day",
        ),
    ],
)
def test_what_cannot_be_described_is_one_line(fields, message):
    with pytest.raises(errors.UsageError, match=message) as caught:
        cards.write_cards(cards.CardsConfig(**fields))
    assert "\n" not in str(caught.value)


def test_text_of_a_user_is_shown_and_starts_no_markup(tfrecord, tmp_path):
    title = "<script>alert(1)</script> [a](b) | `c` *d* $e$ \x1b[31m\n# heading"
    cards.write_cards(
        cards.CardsConfig(
            records_dir=str(tfrecord),
            output_dir=str(tmp_path),
            title=title,
            license="- 1. 'x': \"y\" # no",
        )
    )
    text = (tmp_path / "data_card.md").read_text()
    assert "<script>" not in text.split("---\n", 2)[2]
    assert "\x1b" not in text and "\n# heading" not in text
    # Each line of the header is a name and JSON, which is YAML, too.
    lines = [line.split(": ", 1) for line in text.split("---\n")[1].splitlines()]
    header = {name: json.loads(value) for name, value in lines}
    assert header["license_name"] == "- 1. 'x': \"y\" # no"
    assert header["pretty_name"].startswith("<script>alert(1)</script> [a](b)")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("plain text.", "plain text."),
        (None, "unknown"),
        ("", "unknown"),
        (0, "0"),
        ("a|b", r"a\|b"),
        ("a\nb", "a b"),
        ("- item", r"\- item"),
        ("12. March", r"12\. March"),
        ("0.25", "0.25"),
        ("<b>&amp;", r"\<b\>\&amp;"),
        ("tab\x07", r"tab\\x07"),
    ],
)
def test_markdown_text(value, expected):
    assert card_markdown.text(value) == expected
