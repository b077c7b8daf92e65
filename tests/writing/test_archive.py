"""Archives as a source: they give the bytes of the folder, and nothing unsafe."""

from __future__ import annotations

import io
import json
import lzma
import os
import pathlib
import tarfile

import pytest

from afad_tfdata import records
from afad_tfdata.common import errors
from afad_tfdata.storage import schema
from afad_tfdata.writing import archive, inspection, payloads, runners, work_directory
from tests import bad_files
from tests.writing.data_sets import digests, face_file, make_tree, rejected, write

_PART_BYTES = 100_000


def _tar(tree: str, top: str, extra=()) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.add(tree, arcname=top)
        for member, content in extra:
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _split(content: bytes, directory) -> list[str]:
    """Compresses an archive and cuts it into parts, as the data set is sold."""
    directory.mkdir()
    packed = lzma.compress(content, preset=0)
    names = []
    for i, start in enumerate(range(0, len(packed), _PART_BYTES)):
        suffix = chr(97 + i // 26) + chr(97 + i % 26)
        path = directory / f"AFAD-Full.tar.xz{suffix}"
        path.write_bytes(packed[start : start + _PART_BYTES])
        names.append(path)
    return names


def _in_one_file(tree, directory: pathlib.Path) -> pathlib.Path:
    """Writes a plain tar of a tree into a directory of its own, which it returns."""
    directory.mkdir(exist_ok=True)
    (directory / "faces.tar").write_bytes(_tar(str(tree), "faces"))
    return directory


@pytest.mark.parametrize("format", schema.FORMATS)
def test_parts_and_folder_give_the_same_bytes(format, sample_tree, tmp_path):
    parts = _split(_tar(sample_tree, "AFAD-Full"), tmp_path / "parts")
    assert len(parts) > 3
    write(sample_tree, tmp_path / "tree", format=format)
    write(tmp_path / "parts", tmp_path / "out", format=format, num_workers=2)
    assert digests(tmp_path / "tree") == digests(tmp_path / "out")


def test_odd_files_are_treated_as_in_a_folder(sample_tree, tmp_path):
    tree = tmp_path / "tree"
    os.makedirs(tree)
    bad_files.add_to_tree(str(tree))
    os.symlink(sample_tree + "/../AFAD-Drawn/15", tree / "15")
    os.remove(tree / "15")
    for age in ("22", "23"):
        os.makedirs(tree / age / "111")
        for name, (content, outcome) in bad_files.contents().items():
            if outcome == bad_files.WRITTEN:
                (tree / age / "111" / os.path.basename(name)).write_bytes(
                    content + age.encode()
                )
    flags = {"test_fraction": 0.1, "duplicates": "all", "conflicts": "all"}
    flags["max_rejected"] = 25
    folder = write(tree, tmp_path / "folder", **flags)
    _split(_tar(str(tree), "faces"), tmp_path / "parts")
    parts = write(tmp_path / "parts", tmp_path / "out", **flags)
    expected = rejected(tmp_path / "folder")
    expected["20/111/broken-link.jpg"] = "a link or device in the archive"
    got = {
        key.removeprefix("faces/"): r for key, r in rejected(tmp_path / "out").items()
    }
    assert got == expected
    assert parts.splits == folder.splits
    assert parts.found == folder.found


def test_members_that_point_elsewhere_are_rejected(sample_tree, tmp_path):
    content = next(iter(bad_files.contents().values()))[0]
    link = tarfile.TarInfo("AFAD-Full/20/111/link.jpg")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    extra = [
        (tarfile.TarInfo("../evil.jpg"), content),
        (tarfile.TarInfo("/abs/20/111/evil.jpg"), content),
        (tarfile.TarInfo("AFAD-Full/20/../../evil.jpg"), content),
        (link, b""),
    ]
    _split(_tar(sample_tree, "AFAD-Full", extra), tmp_path / "parts")
    manifest = write(tmp_path / "parts", tmp_path / "out")
    assert rejected(tmp_path / "out") == {
        "../evil.jpg": "a path that leaves the archive",
        "/abs/20/111/evil.jpg": "a path that leaves the archive",
        "AFAD-Full/20/../../evil.jpg": "a path that leaves the archive",
        "AFAD-Full/20/111/link.jpg": "a link or device in the archive",
    }
    assert manifest.written == 240
    assert sorted(os.listdir(tmp_path)) == ["out", "parts"]
    assert inspection.verify(str(tmp_path / "out")) == []


def test_a_run_that_stopped_continues_from_the_archive(
    sample_tree, tmp_path, monkeypatch
):
    _split(_tar(sample_tree, "AFAD-Full"), tmp_path / "parts")
    write(sample_tree, tmp_path / "tree")
    write(tmp_path / "parts", tmp_path / "out", shard_range="1:3")
    left = os.listdir(tmp_path / "out" / ".work")
    assert not [name for name in left if name.endswith((".spool", ".spool.npy"))]
    write(tmp_path / "parts", tmp_path / "out")
    assert digests(tmp_path / "tree") == digests(tmp_path / "out")


def test_missing_and_damaged_parts_are_named(sample_tree, tmp_path):
    parts = _split(_tar(sample_tree, "AFAD-Full"), tmp_path / "parts")
    content = parts[1].read_bytes()
    parts[1].unlink()
    with pytest.raises(errors.UsageError, match=f"lacks the part {parts[1].name}"):
        write(tmp_path / "parts", tmp_path / "out")
    parts[1].write_bytes(content[:500] + b"?" + content[501:])
    with pytest.raises(errors.DataError, match="missing or damaged"):
        write(tmp_path / "parts", tmp_path / "out")
    parts[1].write_bytes(content)
    parts[-1].unlink()
    with pytest.raises(errors.DataError, match="missing or damaged"):
        write(tmp_path / "parts", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_published_md5_is_checked(sample_tree, tmp_path, monkeypatch):
    parts = _split(_tar(sample_tree, "AFAD-Full"), tmp_path / "parts")
    known = ("AFAD-Full.tar.xz", len(parts))
    monkeypatch.setitem(archive._KNOWN_MD5, known, "0" * 32)
    with pytest.raises(errors.DataError, match="the published one is 000"):
        write(tmp_path / "parts", tmp_path / "out")


def test_an_archive_in_one_file_and_a_tree_next_to_it(sample_tree, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "faces.tar").write_bytes(_tar(sample_tree, "."))
    write(sample_tree, tmp_path / "tree")
    write(folder, tmp_path / "out")
    assert digests(tmp_path / "tree") == digests(tmp_path / "out")
    (folder / "other.tgz").write_bytes(b"")
    with pytest.raises(errors.UsageError, match="several archives"):
        archive.find_parts(str(folder))
    (folder / "20").mkdir()
    assert archive.find_parts(str(folder)) == []


def test_log_names_the_run(sample_records):
    with open(os.path.join(sample_records, records.LOG_NAME)) as f:
        log = json.load(f)
    assert log["config"]["num_shards"] == 3
    assert log["images_per_second"] > 0


def test_writing_the_same_range_of_an_archive_twice_keeps_its_payloads(tmp_path):
    tree = make_tree(tmp_path / "tree")
    parts = _in_one_file(tree, tmp_path / "parts")
    write(tree, tmp_path / "expected")
    write(parts, tmp_path / "out", shard_range="0:2")
    write(parts, tmp_path / "out", shard_range="0:2")
    assert write(parts, tmp_path / "out").written == 24
    assert digests(tmp_path / "out") == digests(tmp_path / "expected")


def test_a_missing_spool_is_an_error_and_not_a_rejection(tmp_path, monkeypatch):
    tree = make_tree(tmp_path / "tree")
    parts = _in_one_file(tree, tmp_path / "parts")
    monkeypatch.setattr(runners.archive, "spool", lambda *arguments: None)
    with pytest.raises(errors.UsageError, match="the spool .* is missing"):
        write(parts, tmp_path / "out")


def test_two_writers_cannot_spool_the_same_shards(tmp_path):
    tree = make_tree(tmp_path / "tree")
    parts = _in_one_file(tree, tmp_path / "parts")
    work = tmp_path / "out" / work_directory.WORK_NAME
    work.mkdir(parents=True)
    name = "afad-train.tfrecord-00000-of-00003"
    with payloads.locked(str(work / f"{name}.spool")):
        with pytest.raises(errors.UsageError, match="another process is writing"):
            write(parts, tmp_path / "out", shard_range="0:1")


@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_a_plain_tar_that_ends_early_is_an_error(damage, tmp_path):
    tree = make_tree(tmp_path / "tree")
    with tarfile.open(tmp_path / "faces.tar", "w") as tar:
        tar.add(tree, arcname="faces")
    with tarfile.open(tmp_path / "faces.tar") as tar:
        middle = [m for m in tar.getmembers() if m.isfile()][12].offset
    data = bytearray((tmp_path / "faces.tar").read_bytes())
    if damage == "flip":
        data[middle + 3] ^= 1
    else:
        del data[middle:]
    parts = tmp_path / "parts"
    parts.mkdir()
    (parts / "faces.tar").write_bytes(data)
    with pytest.raises(errors.DataError, match="missing or damaged"):
        write(parts, tmp_path / "out")


def test_large_members_of_an_archive_are_not_read(tmp_path):
    tree = make_tree(tmp_path / "tree")
    (tree / "20/111/large.jpg").write_bytes(face_file(99) + bytes(50_000))
    parts = _in_one_file(tree, tmp_path / "parts")
    for name, data_dir in (("a", tree), ("b", parts)):
        write(data_dir, tmp_path / name, max_file_bytes=20_000)
        (reason,) = rejected(tmp_path / name).values()
        assert reason.endswith("bytes; --max_file_bytes is 20000")
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


def test_an_archive_that_changes_between_its_two_readings(tmp_path, monkeypatch):
    """Its missing images were once rejected as empty files."""
    tree = make_tree(tmp_path / "tree")
    parts = _in_one_file(tree, tmp_path / "parts")
    spool = archive.spool

    def change_and_spool(*arguments):
        (tree / "20/111/0-0.jpg").unlink()
        _in_one_file(tree, parts)
        spool(*arguments)

    monkeypatch.setattr(archive, "spool", change_and_spool)
    with pytest.raises(errors.DataError, match="changed .* 1 images .* 20/111/0-0.jpg"):
        write(parts, tmp_path / "out")
