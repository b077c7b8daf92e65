"""Scans of trees and of label files."""

from __future__ import annotations

import os
import pathlib
import subprocess
import tarfile

import pytest

from afad_tfdata import records
from afad_tfdata.common import errors
from afad_tfdata.writing import age_folders, gender_codes
from afad_tfdata.writing.labels import cell_values, label_scan
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
    rows += ["gone.jpg,20,111,", "../up.jpg,20,111,", rows[1], "a,b,c,d"]
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
        "gone.jpg": "row 62, column path: no such file",
        "../up.jpg": "row 63, column path: not a path below --data_dir",
        faces[0]: "row 64, column path: named in row 2, too",
        "a": "row 65, column path: no such file",
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
    listing = age_folders.scan(str(tree), {"111": 0, "112": 1})
    assert listing.skipped == 1 and len(listing.items) == 24
    assert listing.rejected == [("30", "a link to a folder that is listed already")]
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
        listing = age_folders.scan(str(tree), {"111": 0, "112": 1})
        assert len(listing.items) == 24
    finally:
        subprocess.run(["rm", "-rf", str(tree)], check=True)


def test_an_age_of_thousands_of_digits(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("path,age,gender\na.jpg," + "9" * 5000 + ",111\n")
    (tmp_path / "a.jpg").write_bytes(face_file(1))
    listing = label_scan.scan(
        str(path), str(tmp_path), cell_values.Genders("1:a,111:b")
    )
    assert listing.rejected[0].reason.endswith("is not a number of years")


def _tree_on_two_disks(tmp_path):
    """24 faces, half of which are in a folder that links lead to."""
    tree = make_tree(tmp_path / "tree")
    disk = tmp_path / "disk"
    disk.mkdir()
    for age in ("20", "21"):
        (tree / age / "112").rename(disk / age)
        (tree / age / "112").symlink_to(disk / age)
    (tree / "22").rename(disk / "22")
    (tree / "22").symlink_to(disk / "22")
    return tree


def test_linked_folders_are_followed_on_request(tmp_path):
    expected = make_tree(tmp_path / "expected")
    tree = _tree_on_two_disks(tmp_path)
    write(expected, tmp_path / "out")
    (tree / "23").symlink_to(tree)  # A loop.
    (tree / "20" / "up").symlink_to("..")
    codes = {"111": 0, "112": 1}
    listing = age_folders.scan(str(tree), codes, follow_links=True)
    wanted = age_folders.scan(str(expected), codes)
    assert listing.items == wanted.items
    assert {row.reason for row in listing.rejected} == {
        "a link to a folder that is listed already"
    }
    assert len(listing.rejected) == 2
    write(tree, tmp_path / "links", follow_links=True)
    assert digests(tmp_path / "links").pop("rejected.jsonl")
    for name in ("manifest.json", "rejected.jsonl"):
        (tmp_path / "links" / name).unlink()
        (tmp_path / "out" / name).unlink()
    assert digests(tmp_path / "links") == digests(tmp_path / "out")


def test_a_link_to_a_folder_above_ends(tmp_path):
    tree = make_tree(tmp_path / "all" / "tree")
    (tree / "22" / "above").symlink_to(tmp_path / "all")
    codes = {"111": 0, "112": 1}
    for follow in (False, True):
        listing = age_folders.scan(str(tree), codes, follow_links=follow)
        assert len(listing.items) == 24 and len(listing.rejected) == 1


def test_faces_in_linked_folders_are_lost_with_an_error(tmp_path):
    """Such a folder once counted as one file."""
    tree = _tree_on_two_disks(tmp_path)
    with pytest.raises(errors.DataError, match="16 of 24 .* 16 x in a linked folder"):
        write(tree, tmp_path / "out")
    assert rejected(tmp_path / "out")["22/111/2-0.jpg"].endswith("would list")


@pytest.mark.parametrize("folder", ["20", "20/112", "lost+found"])
def test_folders_that_cannot_be_listed(folder, tmp_path, monkeypatch):
    tree = make_tree(tmp_path / "tree", 60)
    (tree / "lost+found").mkdir()

    def refuse(path):
        if path == os.path.join(tree, folder):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", refuse)
    if folder == "lost+found":
        assert write(tree, tmp_path / "out").written == 60
        return
    with pytest.raises(errors.DataError, match=f"{folder} cannot be listed: Permiss"):
        write(tree, tmp_path / "out")
    assert write(tree, tmp_path / "out", max_rejected=1).written < 60


def test_other_forms_of_ages_and_names(tmp_path):
    names = ["a.jfif", "b.jpe", "c.JFIF"]
    for i, name in enumerate(names):
        (tmp_path / "22.0" / "111").mkdir(parents=True, exist_ok=True)
        (tmp_path / "22.0" / "111" / name).write_bytes(face_file(i))
    (tmp_path / "22.5" / "111").mkdir(parents=True)
    (tmp_path / "22.5" / "111" / "d.jpg").write_bytes(face_file(5))
    listing = age_folders.scan(str(tmp_path), {"111": 0, "112": 1})
    assert [(item.key, item.age) for item in listing.items] == sorted(
        (f"22.0/111/{name}", 22) for name in names
    )
    reason = "age '22.5' is not a whole number of years"
    assert listing.rejected == [("22.5/111/d.jpg", reason)]


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Val", " VALIDATION "])
def test_names_of_the_validation_split_in_a_csv(name, tmp_path):
    """The rows were rejected, and the data set had no validation split."""
    tree = make_tree(tmp_path / "tree")
    rows = [
        f"{p.relative_to(tree)},{p.parts[-3]},{p.parts[-2]},{('train', name)[i % 2]}"
        for i, p in enumerate(sorted(tree.rglob("*.jpg")))
    ]
    (tmp_path / "l.csv").write_text("\n".join(["path,age,gender,split", *rows]))
    manifest = write(tree, tmp_path / "out", labels_csv=str(tmp_path / "l.csv"))
    assert manifest.splits["validation"].num_examples == 12


@pytest.mark.parametrize("name", ["NA", "None", "nan", "n/a", "<NA>", "NULL", "#N/A"])
def test_a_class_name_that_tables_lose_is_refused(name):
    """pandas read the column gender of labels.csv as empty for this class."""
    with pytest.raises(errors.UsageError, match="read in a table of the labels as no"):
        gender_codes.parse(f"0:{name},1:EU")
    assert gender_codes.parse("NA:america,EU:europe") == {"NA": 0, "EU": 1}


def test_a_class_name_that_is_not_utf_8_is_refused():
    """As Python reads it from a command line in another locale: it was a traceback."""
    with pytest.raises(errors.UsageError, match="not UTF-8: set a UTF-8 locale"):
        gender_codes.parse("0:m\udce4nnlich,1:weiblich")
    assert gender_codes.class_names("0:männlich,1:weiblich") == ("männlich", "weiblich")
