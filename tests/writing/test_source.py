"""Scans of trees and of label files."""

from __future__ import annotations

import os
import pathlib
import subprocess
import tarfile

import pytest

from afad_tfdata import records
from afad_tfdata.common import errors
from afad_tfdata.writing import source
from tests.writing.data_sets import digests, face_file, make_tree, rejected, write


def test_a_csv_as_the_source(sample_tree, tmp_path):
    faces = sorted(
        str(p.relative_to(sample_tree))
        for p in pathlib.Path(sample_tree).rglob("*.jpg")
    )
    rows = ["path,age,gender,split"]
    for i, face in enumerate(faces[:60]):
        age, gender, _ = face.split("/")
        rows.append(f"{face},{age},{gender},{('train', 'test')[i % 2]}")
    rows += ["gone.jpg,20,111,", "../up.jpg,20,111,", f"{faces[0]},20,111,", "a,b,c,d"]
    table = tmp_path / "labels.csv"
    table.write_text("\n".join(rows))
    config = records.WriteConfig(
        labels_csv=str(table),
        data_dir=sample_tree,
        output_dir=str(tmp_path / "out"),
        image_size=24,
    )
    manifest = records.write_records(config)
    assert manifest.splits["train"].num_examples == 30
    assert manifest.splits["test"].num_examples == 30
    counts = (manifest.found, manifest.written, manifest.rejected)
    assert counts == (64, 60, 4) and manifest.passed_over == 0
    assert rejected(tmp_path / "out") == {
        "gone.jpg": "no such file",
        "../up.jpg": "not a path below --data_dir",
        faces[0]: "named twice in the CSV",
        "a": "age 'b' is not a number",
    }


def test_odd_trees(tmp_path):
    tree = make_tree(tmp_path / "tree")
    deep = tree / "x"
    for _ in range(60):
        deep = deep / "y"
    deep.mkdir(parents=True)
    (tree / "22/111/.ipynb_checkpoints").mkdir(parents=True)
    (tree / "22/111/.ipynb_checkpoints/copy.jpg").write_bytes(face_file(1))
    (tree / "30").symlink_to(tree / "20")
    listing = source.scan_tree(str(tree), {"111": 0, "112": 1})
    assert listing.skipped == 1 and len(listing.items) == 24
    assert listing.rejected == [("30", "a link to a folder: links are not followed")]
    (tree / "30").unlink()
    parts = tmp_path / "parts"
    parts.mkdir()
    with tarfile.open(parts / "faces.tar", "w") as tar:
        tar.add(tree, arcname="faces")
    write(tree, tmp_path / "a")
    write(parts, tmp_path / "b")
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    (parts / "faces.tar").rename(parts / "faces.tar.xz")
    (parts / "faces.tar.xzaa").write_bytes(b"")
    with pytest.raises(errors.UsageError, match="and parts of it"):
        write(parts, tmp_path / "c")


def test_folders_nested_deeper_than_python_recurses(tmp_path):
    tree = make_tree(tmp_path / "tree")
    os.chdir(tree)
    try:
        for _ in range(1100):
            os.mkdir("d")
            os.chdir("d")
    finally:
        os.chdir(tmp_path)
    try:
        listing = source.scan_tree(str(tree), {"111": 0, "112": 1})
        assert len(listing.items) == 24
    finally:
        subprocess.run(["rm", "-rf", str(tree)], check=True)


def test_an_age_of_thousands_of_digits(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("path,age,gender\na.jpg," + "9" * 5000 + ",111\n")
    listing = source.scan_csv(str(path), str(tmp_path), {"111": 0})
    assert listing.rejected[0].reason.endswith("is not a number")
