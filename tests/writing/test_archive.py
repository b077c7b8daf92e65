"""Archives as a source: they give the bytes of the folder, and nothing unsafe."""

from __future__ import annotations

import io
import json
import lzma
import os
import pathlib
import tarfile
import zipfile

import pytest

from afad_tfdata.common import errors
from afad_tfdata.storage import schema
from afad_tfdata.writing import (
    archive_members,
    archive_parts,
    archive_spools,
    data_set_files,
    data_set_verification,
    payloads,
    task_runners,
    work_directory,
)
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
    """Compresses an archive and cuts it into parts, as the data set is published."""
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
    assert data_set_verification.verify(str(tmp_path / "out")) == []


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
    monkeypatch.setitem(archive_members._KNOWN_MD5, known, "0" * 32)
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
        archive_parts.find(str(folder))
    (folder / "20").mkdir()
    assert archive_parts.find(str(folder)) == []


def test_log_names_the_run(sample_records):
    with open(os.path.join(sample_records, data_set_files.LOG_NAME)) as f:
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
    monkeypatch.setattr(
        task_runners.archive_spools, "copy_images", lambda *arguments: None
    )
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
    copy_images = archive_spools.copy_images

    def change_and_copy(*arguments):
        (tree / "20/111/0-0.jpg").unlink()
        _in_one_file(tree, parts)
        copy_images(*arguments)

    monkeypatch.setattr(archive_spools, "copy_images", change_and_copy)
    with pytest.raises(errors.DataError, match="changed .* 1 images .* 20/111/0-0.jpg"):
        write(parts, tmp_path / "out")


def _pack(tree, form: str, *, top="AFAD-Full", extra=()) -> bytes:
    """An archive of a tree; `extra` are names of files next to it."""
    buffer = io.BytesIO()
    names = {f"{top}/{p.relative_to(tree)}": p for p in sorted(tree.rglob("*.jpg"))}
    if form == "zip":
        with zipfile.ZipFile(buffer, "w") as z:
            for name in extra:
                z.writestr(name, b"not an image")
            for name, path in names.items():
                z.write(path, name)
        return buffer.getvalue()
    with tarfile.open(fileobj=buffer, mode=f"w:{form}") as tar:
        for name in extra:
            info = tarfile.TarInfo(name)
            info.size = 12
            tar.addfile(info, io.BytesIO(b"not an image"))
        for name, path in names.items():
            info = tarfile.TarInfo(name)
            info.size = path.stat().st_size
            tar.addfile(info, io.BytesIO(path.read_bytes()))
    return buffer.getvalue()


def _cut(content: bytes, directory, names) -> None:
    directory.mkdir()
    size = -(-len(content) // len(names))
    for i, name in enumerate(names):
        (directory / name).write_bytes(content[i * size : (i + 1) * size])


def _same_data(one, other) -> bool:
    """Whether two data sets have the same shards and indexes."""
    found = [
        {name: digest for name, digest in digests(path).items() if "afad-" in name}
        for path in (one, other)
    ]
    return bool(found[0]) and found[0] == found[1]


_PARTS = {
    "letters": ("xz", ["a.tar.xzaa", "a.tar.xzab", "a.tar.xzac"]),
    "dot": ("xz", ["a.tar.xz.aa", "a.tar.xz.ab"]),
    "three letters": ("xz", ["a.tar.xz.aaa", "a.tar.xz.aab"]),
    "from 0": ("gz", ["a.tar.gz.00", "a.tar.gz.01", "a.tar.gz.02"]),
    "from 1": ("gz", ["a.tgz.001", "a.tgz.002"]),
    "gz letters": ("gz", ["a.tar.gzaa", "a.tar.gzab"]),
    "part": ("xz", [f"a.tar.xz.part{i}" for i in range(1, 12)]),
    "part before": ("bz2", ["a.part1.tar.bz2", "a.part2.tar.bz2"]),
    "bz2": ("bz2", ["a.tar.bz2"]),
    "another name": ("gz", ["a.tar"]),  # The bytes say what it is.
    "zip": ("zip", ["a.zip"]),
    "zip parts": ("zip", ["a.zip.001", "a.zip.002", "a.zip.003"]),
    "upper case": ("xz", ["A.TAR.XZAA", "A.TAR.XZAB"]),
}


@pytest.mark.parametrize("form", _PARTS)
def test_names_of_archives_and_parts(form, tmp_path):
    packing, names = _PARTS[form]
    tree = make_tree(tmp_path / "tree")
    _cut(_pack(tree, packing), tmp_path / "parts", names)
    (tmp_path / "parts" / f"._{names[0]}").write_bytes(b"of macOS")
    (tmp_path / "parts" / "README.txt").write_bytes(b"of somebody")
    write(tree, tmp_path / "expected")
    write(tmp_path / "parts", tmp_path / "out")
    assert digests(tmp_path / "expected") == digests(tmp_path / "out")
    write(tmp_path / "parts" / names[-1], tmp_path / "file")  # The file itself.
    assert digests(tmp_path / "expected") == digests(tmp_path / "file")
    if len(names) > 2:
        (tmp_path / "parts" / names[1]).unlink()
        with pytest.raises(errors.UsageError, match=f"lacks the part {names[1]} of"):
            write(tmp_path / "parts", tmp_path / "gone")


_JUNK = ("._AFAD-Full", ".DS_Store", "__MACOSX/AFAD-Full/20/111/._0-0.jpg")
_JUNK += ("README.md", "AFAD-Full/._20", "AFAD-Full/20/.DS_Store", "__MACOSX/._x")


@pytest.mark.parametrize("form", ["xz", "zip"])
@pytest.mark.parametrize(
    "top", [".", "AFAD-Full", "./a/b/AFAD", "/home/me/AFAD", "20s"]
)
def test_the_images_are_found_beside_other_files(form, top, tmp_path):
    """Such archives were refused whole, because their root was not found."""
    tree = make_tree(tmp_path / "tree")
    content = _pack(tree, form, top=top, extra=_JUNK)
    _cut(content, tmp_path / "parts", ["a.archive.zip"])
    write(tree, tmp_path / "expected")
    manifest = write(tmp_path / "parts", tmp_path / "out")
    assert manifest.passed_over == len(_JUNK) and manifest.rejected == 0
    assert _same_data(tmp_path / "expected", tmp_path / "out")


def test_a_second_folder_beside_the_root(tmp_path):
    tree = make_tree(tmp_path / "tree")
    extra = ["docs/notes.txt", "other/20/111/x.jpg"]
    _cut(_pack(tree, "xz", extra=extra), tmp_path / "parts", ["a.tar.xz"])
    write(tree, tmp_path / "expected")
    write(tmp_path / "parts", tmp_path / "out")
    assert _same_data(tmp_path / "expected", tmp_path / "out")
    reasons = rejected(tmp_path / "out")
    assert reasons["other/20/111/x.jpg"] == "not filed as AGE/GENDER/IMAGE"
    assert "docs/notes.txt" in reasons
    many = [f"other/20/111/x{i}.jpg" for i in range(9)]
    _cut(_pack(tree, "xz", extra=many), tmp_path / "many", ["a.tar.xz"])
    with pytest.raises(errors.UsageError, match=r"AFAD-Full/ \(24\) and other/ \(9\)"):
        write(tmp_path / "many", tmp_path / "none")


@pytest.mark.parametrize("packing", ["", "xz", "gz", "bz2"])
@pytest.mark.parametrize("whole", [True, False])
def test_archives_one_after_the_other(packing, whole, tmp_path):
    """The second one was lost, with exit status 0."""
    trees = [make_tree(tmp_path / name, 12) for name in "ab"]
    for i, face in enumerate(sorted(trees[1].rglob("*.jpg"))):
        face.with_name(f"{100 + i}-0.jpg").write_bytes(face_file(100 + i))
        face.unlink()
    contents = [_pack(tree, packing) for tree in trees]
    name = f"a.tar.{packing}" if packing else "a.tar"
    if not whole:
        contents[1] = contents[1][: len(contents[1]) // 2]
    _cut(b"".join(contents), tmp_path / "parts", [name])
    if whole:
        assert write(tmp_path / "parts", tmp_path / "out").written == 24
        return
    with pytest.raises(errors.DataError, match="a part is missing or damaged"):
        write(tmp_path / "parts", tmp_path / "out")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid",
            "a Git LFS pointer: git lfs",
        ),
        (b"/annex/objects/SHA256E-s1--0", "a git-annex pointer"),
        (b"", "cannot be read to its end"),
        (b"PK\x03\x04 and no directory", "cannot be read to its end"),
        (b"BZh9 and nothing", "cannot be read to its end"),
        (b"BZh9", "cannot be read to its end"),
        (b"\x1f\x8b\x08", "cannot be read to its end"),
        (bytes(5000), "has no image to write"),
    ],
)
def test_what_is_no_archive_is_one_line(content, message, tmp_path):
    _cut(content, tmp_path / "parts", ["AFAD-Full.tar.xzaa"])
    with pytest.raises(errors.AfadError, match=message):
        write(tmp_path / "parts", tmp_path / "out")


def test_a_damaged_zip_is_an_error(tmp_path):
    tree = make_tree(tmp_path / "tree")
    content = bytearray(_pack(tree, "zip"))
    content[300] ^= 1  # The contents have checksums, the names have none.
    _cut(bytes(content), tmp_path / "parts", ["a.zip"])
    with pytest.raises(errors.DataError, match="a part is missing or damaged"):
        write(tmp_path / "parts", tmp_path / "out")


def test_a_file_that_is_no_archive(tmp_path):
    (tmp_path / "faces.rar").write_bytes(b"Rar!")
    with pytest.raises(errors.UsageError, match="its name is not that of an archive"):
        write(tmp_path / "faces.rar", tmp_path / "out")
