"""Unusable files and byte-identical images: named, counted, and looked at again."""

from __future__ import annotations

import shutil

import pytest

from afad_tfdata.bin import write_records
from afad_tfdata.common import errors
from afad_tfdata.storage import schema
from afad_tfdata.writing import data_set_verification
from tests import bad_files
from tests.writing.data_sets import keys_by_split, make_tree, rejected, write


def test_too_many_bad_files_stop_before_the_manifest(sample_tree, tmp_path):
    tree = tmp_path / "tree"
    shutil.copytree(sample_tree, tree)
    bad_files.add_to_tree(str(tree))
    out = tmp_path / "out"
    with pytest.raises(errors.DataError, match=r"more than --max_rejected=3; .*names"):
        write(tree, out, max_rejected=3)
    assert not (out / schema.MANIFEST_NAME).exists()
    assert "20/111/empty.jpg" in rejected(out)
    assert write(tree, out, max_rejected=100).rejected == 25


def test_mended_files_are_looked_at_again(tmp_path):
    tree = make_tree(tmp_path / "tree")
    face = next(tree.rglob("*.jpg"))
    content = face.read_bytes()
    face.write_bytes(b"\0" * len(content))
    with pytest.raises(errors.DataError, match="1 of 24 files cannot be used"):
        write(tree, tmp_path / "out", max_rejected=0)
    face.write_bytes(content)
    assert write(tree, tmp_path / "out", max_rejected=0).written == 24


def _with_copies(sample_tree, tree):
    """Adds a copy under the same labels, and one under another age; all four paths."""
    shutil.copytree(sample_tree, tree)
    faces = sorted(str(p.relative_to(tree)) for p in tree.rglob("*.jpg"))
    same, other = faces[3], faces[50]
    age, gender, _ = same.split("/")
    copy = f"{age}/{gender}/zz-copy.jpg"
    shutil.copy(tree / same, tree / copy)
    age, gender, _ = other.split("/")
    conflict = f"{int(age) + 1}/{gender}/zz-conflict.jpg"
    (tree / conflict).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(tree / other, tree / conflict)
    return same, copy, other, conflict


def test_copies_are_found_over_all_splits(sample_tree, tmp_path):
    tree = tmp_path / "tree"
    same, copy, other, conflict = _with_copies(sample_tree, tree)
    manifest = write(tree, tmp_path / "out")
    assert rejected(tmp_path / "out") == {
        copy: f"same bytes as {same}",
        other: f"same bytes as {conflict}, under different labels",
        conflict: f"same bytes as {other}, under different labels",
    }
    assert manifest.written == 239
    assert data_set_verification.verify(str(tmp_path / "out")) == []
    manifest = write(tree, tmp_path / "all", duplicates="all", conflicts="all")
    assert manifest.written == 242
    manifest = write(tree, tmp_path / "first", conflicts="first", format="hdf5")
    kept = sum(keys_by_split(tmp_path / "first").values(), [])
    assert {same, other} <= set(kept)
    assert not {copy, conflict} & set(kept)
    assert data_set_verification.verify(str(tmp_path / "first")) == []


def _damage(tree, faces):
    for face in faces:
        face.write_bytes(face.read_bytes()[:300])


@pytest.mark.parametrize(
    ("count", "message"),
    [
        (80, "80 of 90 files cannot be used"),
        (13, "13 of 90 .* Most frequent: 13 x cannot be decoded"),
        (5, None),
    ],
)
def test_losses_are_counted_against_what_was_found(count, message, tmp_path):
    """Up to 100 files were once tolerated in the smallest data sets."""
    tree = make_tree(tmp_path / "tree", 90)
    _damage(tree, sorted(tree.rglob("*.jpg"))[:count])
    if message:
        with pytest.raises(errors.DataError, match=message):
            write(tree, tmp_path / "out")
    flags = {"max_rejected": 80} if message else {}
    assert write(tree, tmp_path / "out", **flags).written == 90 - count


def test_a_class_is_not_lost_among_many_others(tmp_path):
    tree = make_tree(tmp_path / "tree", 180)
    women = sorted(tree.rglob("112/*.jpg"))
    for face in women[9:]:
        face.unlink()
    _damage(tree, women[:8])
    with pytest.raises(errors.DataError, match="8 of 9 files of class female"):
        write(tree, tmp_path / "out")
    assert write(tree, tmp_path / "out", max_rejected=8).written == 91


def test_a_split_is_not_lost_among_the_others(tmp_path):
    tree = make_tree(tmp_path / "tree", 200)
    faces = sorted(tree.rglob("*.jpg"))
    _damage(tree, faces[::10][:12])  # A twentieth of all, and of each class.
    rows = ["path,age,gender,split"]
    for i, face in enumerate(faces):
        age, gender = face.parts[-3:-1]
        split = "train" if i % 10 else "test"
        rows.append(f"{face.relative_to(tree)},{age},{gender},{split}")
    path = tmp_path / "l.csv"
    path.write_text("\n".join(rows))
    with pytest.raises(errors.DataError, match="12 of 20 files of split test"):
        write(tree, tmp_path / "out", labels_csv=str(path))


def test_the_last_line_says_what_was_not_written(tmp_path, capsys, monkeypatch):
    tree = make_tree(tmp_path / "tree", 60)
    faces = sorted(tree.rglob("*.jpg"))
    _damage(tree, faces[:6])
    for face in faces[10:14]:
        face.with_name(f"copy-of-{face.name}").write_bytes(face.read_bytes())
    command = ["write", f"--data_dir={tree}", f"--output_dir={tmp_path / 'out'}"]
    monkeypatch.setattr("sys.argv", [*command, "--image_size=24", "--num_workers=1"])
    for _ in range(2):  # The second run finds the data set finished.
        with pytest.raises(SystemExit) as caught:
            write_records.run()
        assert caught.value.code == 0
        last = capsys.readouterr().out.splitlines()[-1]
        assert last.startswith("10 of 64 files are not written: 6 x cannot be decoded")
        assert last.endswith("4 x same bytes as another")
