"""Situations in which a writer loses something, or hurts something else."""

from __future__ import annotations

import io
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import threading

import numpy as np
import pytest
from PIL import Image

from afad_tfdata.common import errors
from afad_tfdata.images import codec
from afad_tfdata.storage import remote, schema
from afad_tfdata.writing import (
    inspection,
    payloads,
    rejections,
    runners,
    source,
    work_folder,
)
from tests.robustness.chaos import faults
from tests.writing.test_records import digests, rejected, write


def _face(seed: int, form: str = "JPEG", size=(30, 20), **options) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (*size[::-1], 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **options)
    return buffer.getvalue()


def _tree(root: pathlib.Path, count: int = 24) -> pathlib.Path:
    for i in range(count):
        folder = root / str(20 + i % 3) / ("111", "112")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i}-0.jpg").write_bytes(_face(i))
    return root


def test_remote_work_dir_is_a_directory_of_our_own(tmp_path):
    staging = remote.staging_dir("gs://bucket/records", str(tmp_path))
    assert os.path.dirname(staging) == str(tmp_path)
    assert staging == remote.staging_dir("gs://bucket/records", str(tmp_path))
    assert staging != remote.staging_dir("gs://bucket/other", str(tmp_path))


def test_the_same_range_of_an_archive_twice_keeps_what_is_written(tmp_path):
    tree = _tree(tmp_path / "tree")
    parts = tmp_path / "parts"
    parts.mkdir()
    with tarfile.open(parts / "faces.tar", "w") as tar:
        tar.add(tree, arcname="faces")
    write(tree, tmp_path / "wanted")
    write(parts, tmp_path / "out", shard_range="0:2")
    write(parts, tmp_path / "out", shard_range="0:2")
    assert write(parts, tmp_path / "out").written == 24
    assert digests(tmp_path / "out") == digests(tmp_path / "wanted")


def test_a_shard_without_its_spool_is_an_error_and_no_rejection(tmp_path, monkeypatch):
    tree = _tree(tmp_path / "tree")
    parts = tmp_path / "parts"
    parts.mkdir()
    with tarfile.open(parts / "faces.tar", "w") as tar:
        tar.add(tree, arcname="faces")
    monkeypatch.setattr(runners.archive, "spool", lambda *arguments: None)
    with pytest.raises(errors.UsageError, match="the spool .* is missing"):
        write(parts, tmp_path / "out")


def test_two_writers_at_the_same_shards_of_an_archive(tmp_path):
    tree = _tree(tmp_path / "tree")
    parts = tmp_path / "parts"
    parts.mkdir()
    with tarfile.open(parts / "faces.tar", "w") as tar:
        tar.add(tree, arcname="faces")
    work = tmp_path / "out" / work_folder.WORK_NAME
    work.mkdir(parents=True)
    name = "afad-train.tfrecord-00000-of-00003"
    with payloads.locked(str(work / f"{name}.spool")):
        with pytest.raises(errors.UsageError, match="another process is writing"):
            write(parts, tmp_path / "out", shard_range="0:1")


def test_a_writer_that_waited_for_another_looks_again(tmp_path):
    """It finds a finished data set, of this configuration or of another."""
    tree = _tree(tmp_path / "tree")
    out = tmp_path / "out"
    work = out / work_folder.WORK_NAME
    work.mkdir(parents=True)
    outcomes = {}

    def second(seed):
        try:
            outcomes[seed] = write(tree, out, seed=seed)
        except errors.UsageError as error:
            outcomes[seed] = error

    with work_folder.lock(str(work), shared=False):
        waiting = [threading.Thread(target=second, args=(seed,)) for seed in (1, 2)]
        for thread in waiting:
            thread.start()
        ready = tmp_path / "ready"
        first = write(tree, ready)
        for path in ready.iterdir():
            shutil.copy(path, out / path.name)
        work_folder.remove_work(str(work))
    for thread in waiting:
        thread.join()
    assert outcomes[1] == first
    assert "a finished data set of another configuration" in str(outcomes[2])
    assert inspection.verify(str(out)) == []


def test_payloads_of_another_plan_are_not_taken(tmp_path):
    tree = _tree(tmp_path / "tree")
    write(tree, tmp_path / "out", shard_range="0:3")
    (tmp_path / "out" / work_folder.WORK_NAME / "plan.json").unlink()
    write(tree, tmp_path / "out", seed=2)
    write(tree, tmp_path / "wanted", seed=2)
    assert digests(tmp_path / "out") == digests(tmp_path / "wanted")


@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_a_plain_tar_that_ends_early_is_an_error(damage, tmp_path):
    tree = _tree(tmp_path / "tree")
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


def test_mended_files_are_looked_at_again(tmp_path):
    tree = _tree(tmp_path / "tree")
    face = next(tree.rglob("*.jpg"))
    content = face.read_bytes()
    face.write_bytes(b"\0" * len(content))
    with pytest.raises(errors.DataError, match="1 of 24 files cannot be used"):
        write(tree, tmp_path / "out", max_rejected=0)
    face.write_bytes(content)
    assert write(tree, tmp_path / "out", max_rejected=0).written == 24


def test_output_inside_of_the_source_is_refused(tmp_path):
    tree = _tree(tmp_path / "tree")
    with pytest.raises(errors.UsageError, match="is inside of --data_dir"):
        write(tree, tree / "records")
    (tmp_path / "link").symlink_to(tree)
    with pytest.raises(errors.UsageError, match="is inside of --data_dir"):
        write(tree, tmp_path / "link" / "records")


@pytest.mark.parametrize("library", ["fast", "plain"])
def test_a_turned_png_is_turned_by_our_own_code(library, monkeypatch):
    if library == "plain":
        monkeypatch.setattr(codec, "_library", codec._TensorFlowLibrary)
    exif = Image.Exif()
    exif[0x0112] = 6
    data = _face(1, "PNG", exif=exif)
    header = codec.read_header(data)
    assert (header.height, header.width, header.orientation) == (20, 30, 6)
    assert codec.decode(data, header).shape == (30, 20, 3)
    with pytest.raises(codec.ImageError, match="EXIF orientation 6"):
        codec.check_header(header, as_stored=True)


def test_a_gray_png_with_a_transparent_level_is_rejected():
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8), 9, np.uint8)).save(buffer, "PNG", transparency=9)
    with pytest.raises(codec.ImageError, match="one gray is transparent"):
        codec.read_header(buffer.getvalue())


def test_a_full_disk_while_hdf5_is_finished_is_one_line(tmp_path):
    tree = _tree(tmp_path / "tree", 60)
    code = (
        "import resource, signal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (150000, 150000))\n"
        "from afad_tfdata.bin import write_records\n"
        "write_records.run()"
    )
    flags = [f"--data_dir={tree}", f"--output_dir={tmp_path}/out", "--format=hdf5"]
    flags += ["--hdf5_dtype=float32", "--image_size=24", "--num_workers=1"]
    flags += ["--num_shards=1"]
    run = subprocess.run(
        [sys.executable, "-c", code, *flags], capture_output=True, text=True
    )
    assert run.returncode == 1
    assert "Traceback" not in run.stderr, run.stderr
    assert "cannot write" in run.stderr.splitlines()[-1]
    assert not (tmp_path / "out" / schema.MANIFEST_NAME).exists()
    assert not list((tmp_path / "out").glob("*.part"))
    flags = {"format": "hdf5", "hdf5_dtype": "float32", "num_shards": 1}
    write(tree, tmp_path / "out", **flags)
    write(tree, tmp_path / "wanted", **flags)
    assert digests(tmp_path / "out") == digests(tmp_path / "wanted")


def test_links_that_the_file_system_does_not_have(tmp_path, monkeypatch):
    tree = _tree(tmp_path / "tree")
    write(tree, tmp_path / "wanted")

    def no_link(*arguments):
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", no_link)
    write(tree, tmp_path / "out")
    assert digests(tmp_path / "out") == digests(tmp_path / "wanted")


def test_names_that_are_no_text(tmp_path):
    root = os.fsencode(tmp_path) + b"/tr\xffee"
    os.makedirs(root + b"/20/111")
    os.makedirs(root + b"/21/112")
    for i in range(12):
        name = b"/20/111/%d-\xff0.jpg" % i if i % 2 else b"/21/112/new\nline%d.jpg" % i
        with open(root + name, "wb") as f:
            f.write(_face(i))
    out = tmp_path / "out"
    manifest = write(os.fsdecode(root), out, test_fraction=0.1)
    assert manifest.written == 12
    assert inspection.verify(str(out)) == []
    shard = out / manifest.splits["train"].shards[0].name
    data = bytearray(shard.read_bytes())
    data[-200] ^= 1
    shard.write_bytes(data)
    run = subprocess.run(
        [sys.executable, "-m", "afad_tfdata.bin.inspect_records"]
        + [f"--records_dir={out}", "--verify"],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "utf-8:strict"},
    )
    assert run.returncode == 2, run.stderr
    assert shard.name.encode() in run.stdout


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"train": ["15/111/0-0.jpg"]}', "expected one of train"),
        (
            '[{"path": "a", "split": "train"}, {"path": "a", "split": "test"}]',
            "one split",
        ),
        ("[1, 2]", "must be a CSV"),
    ],
)
def test_split_files_that_contradict_are_refused(content, message, tmp_path):
    path = tmp_path / "protocol.json"
    path.write_text(content)
    with pytest.raises(errors.UsageError, match=message):
        write(_tree(tmp_path / "tree"), tmp_path / "out", split_file=str(path))


def test_split_file_paths_without_an_image_are_counted(tmp_path, caplog):
    tree = _tree(tmp_path / "tree")
    faces = [str(p.relative_to(tree)) for p in sorted(tree.rglob("*.jpg"))]
    rows = [f"{face},train" for face in faces[:-1]] + [f"{faces[-1]},test"]
    path = tmp_path / "protocol.csv"
    path.write_text("\n".join(["path,split", *rows, "no\u2028pe/x.jpg,test"]))
    write(tree, tmp_path / "out", split_file=str(path))
    assert "1 of the 25 paths in --split_file name no image" in caplog.text


def test_large_members_of_an_archive_are_not_read(tmp_path):
    tree = _tree(tmp_path / "tree")
    (tree / "20/111/large.jpg").write_bytes(_face(99) + bytes(50_000))
    parts = tmp_path / "parts"
    parts.mkdir()
    with tarfile.open(parts / "faces.tar", "w") as tar:
        tar.add(tree, arcname="faces")
    for name, data_dir in (("a", tree), ("b", parts)):
        write(data_dir, tmp_path / name, max_file_bytes=20_000)
        (reason,) = rejected(tmp_path / name).values()
        assert reason.endswith("bytes; --max_file_bytes is 20000")
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


def test_scans_of_odd_trees(tmp_path):
    tree = _tree(tmp_path / "tree")
    deep = tree / "x"
    for _ in range(60):
        deep = deep / "y"
    deep.mkdir(parents=True)
    (tree / "22/111/.ipynb_checkpoints").mkdir(parents=True)
    (tree / "22/111/.ipynb_checkpoints/copy.jpg").write_bytes(_face(1))
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


def test_a_folder_chain_deeper_than_python_recurses(tmp_path):
    tree = _tree(tmp_path / "tree")
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


def test_manifest_names_stay_the_api(sample_records):
    """What other programs look for by name."""
    manifest = schema.load_manifest(sample_records)
    assert manifest.splits["train"].shards[0].name == (
        "afad-train.tfrecord-00000-of-00003"
    )
    assert manifest.splits["train"].index.name == "afad-train.index.npy"
    assert rejections.FILE_NAME == "rejected.jsonl"


@pytest.mark.parametrize("mebibytes", [64, 89, 110])
def test_workers_without_memory_are_one_line(mebibytes, tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", subprocess.Popen)  # What is put back.
    faults.limit_processes(mebibytes << 20)
    tree = _tree(tmp_path / "faces")
    with pytest.raises(errors.UsageError, match="worker|writer process"):
        write(tree, tmp_path / "out", num_workers=2, num_shards=2)
    monkeypatch.undo()
    write(tree, tmp_path / "out", num_workers=2, num_shards=2)
