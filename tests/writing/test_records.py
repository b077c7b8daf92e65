"""Whole data sets: the same bytes whatever happens, and nothing lost silently."""

from __future__ import annotations

import glob
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest

from afad_tfdata import __version__, records
from afad_tfdata.common import errors
from afad_tfdata.storage import image_keys, schema
from afad_tfdata.writing import (
    age_folders,
    data_set_files,
    data_set_verification,
    rejections,
)
from tests import bad_files
from tests.writing.data_sets import (
    digests,
    face_file,
    keys_by_split,
    make_tree,
    rejected,
    write,
)


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"image_encoding": "jpeg"},
        {"image_encoding": "raw"},
        {"format": "hdf5"},
        {"format": "hdf5", "hdf5_compression": "gzip"},
        {"format": "hdf5", "hdf5_dtype": "float32", "hdf5_channels": "first"},
    ],
    ids=lambda flags: "-".join(map(str, flags.values())) or "original",
)
def test_bytes_do_not_depend_on_the_number_of_processes(flags, sample_tree, tmp_path):
    write(sample_tree, tmp_path / "one", **flags)
    write(sample_tree, tmp_path / "three", **flags, num_workers=3)
    assert digests(tmp_path / "one") == digests(tmp_path / "three")
    assert data_set_verification.verify(str(tmp_path / "three")) == []


def test_bytes_do_not_depend_on_the_directory_order(sample_tree, tmp_path, monkeypatch):
    write(sample_tree, tmp_path / "one")
    listed = os.scandir

    def reversed_scandir(path):
        if isinstance(path, str) and path.startswith(sample_tree):
            return reversed(list(listed(path)))
        return listed(path)

    monkeypatch.setattr(os, "scandir", reversed_scandir)
    write(sample_tree, tmp_path / "other")
    assert digests(tmp_path / "one") == digests(tmp_path / "other")


def test_shard_ranges_make_the_same_data_set(sample_tree, tmp_path):
    whole = write(sample_tree, tmp_path / "one")
    total = sum(len(split.shards) for split in whole.splits.values())
    out = tmp_path / "ranges"
    for first in range(0, total, 2):
        part = f"{first}:{min(first + 2, total)}"
        assert write(sample_tree, out, shard_range=part) is None
        assert not (out / schema.MANIFEST_NAME).exists()
    write(sample_tree, out)
    assert digests(tmp_path / "one") == digests(out)
    with pytest.raises(errors.UsageError, match="must be within 0:"):
        write(sample_tree, tmp_path / "bad", shard_range="0:99")


@pytest.mark.parametrize("format", schema.FORMATS)
def test_a_killed_writer_continues_to_the_same_bytes(format, sample_tree, tmp_path):
    """SIGKILL comes at several instants."""
    write(sample_tree, tmp_path / "undisturbed", format=format)
    expected = digests(tmp_path / "undisturbed")
    out = tmp_path / "killed"
    code = (
        "from afad_tfdata import records\n"
        f"records.write_records(records.WriteConfig(data_dir={sample_tree!r},"
        f" output_dir={str(out)!r}, format={format!r}, image_size=24, num_shards=3,"
        " num_workers=2))"
    )
    rng = np.random.default_rng(3)
    for _ in range(4):
        shutil.rmtree(out, ignore_errors=True)
        writer = subprocess.Popen(
            [sys.executable, "-c", code], stderr=subprocess.DEVNULL
        )
        time.sleep(rng.uniform(0.3, 1.6))
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        write(sample_tree, out, format=format)
        assert digests(out) == expected


def test_a_torn_payload_is_written_again(sample_tree, tmp_path, monkeypatch):
    write(sample_tree, tmp_path / "one")
    out = tmp_path / "torn"
    monkeypatch.setattr(data_set_files, "finish", lambda *arguments, **named: _stop())
    with pytest.raises(KeyboardInterrupt):
        write(sample_tree, out)
    monkeypatch.undo()
    payloads = sorted((out / ".work").glob("*.payload"))
    payloads[0].write_bytes(payloads[0].read_bytes()[:-7])
    flipped = bytearray(payloads[1].read_bytes())
    flipped[1000] ^= 4
    payloads[1].write_bytes(flipped)
    write(sample_tree, out)
    assert digests(tmp_path / "one") == digests(out)


def _stop():
    raise KeyboardInterrupt


def test_every_found_file_is_written_rejected_or_skipped(sample_tree, tmp_path):
    tree = tmp_path / "tree"
    shutil.copytree(sample_tree, tree)
    expected = bad_files.add_to_tree(str(tree))
    manifest = write(tree, tmp_path / "out", test_fraction=0.1)
    reasons = rejected(tmp_path / "out")
    for path, outcome in expected.items():
        if outcome in (bad_files.SKIPPED, bad_files.WRITTEN):
            assert path not in reasons, reasons[path]
        else:
            assert reasons.pop(path).startswith(outcome), path
    assert reasons == {}
    outcomes = list(expected.values())
    # AFAD-Full.txt replaces the sample's own list.
    assert manifest.passed_over == 1 + outcomes.count(bad_files.SKIPPED)
    assert manifest.written == 240 + outcomes.count(bad_files.WRITTEN)
    found = sum(len(names) for _, _, names in os.walk(tree))
    assert manifest.found == found
    assert found == manifest.written + manifest.rejected + manifest.passed_over
    assert data_set_verification.verify(str(tmp_path / "out")) == []


def test_raw_pixels_accept_images_that_original_bytes_cannot(sample_tree, tmp_path):
    """Rotated images are turned, and 16-bit images reduced to 8 bits."""
    tree = tmp_path / "tree"
    shutil.copytree(sample_tree, tree)
    bad_files.add_to_tree(str(tree))
    write(tree, tmp_path / "out", image_encoding="raw")
    reasons = rejected(tmp_path / "out")
    assert "20/111/rotated.jpg" not in reasons
    assert "20/112/sixteen.png" not in reasons
    assert "20/111/cmyk.jpg" in reasons


def test_a_bad_file_moves_no_other(sample_tree, tmp_path):
    tree = tmp_path / "tree"
    shutil.copytree(sample_tree, tree)
    write(tree, tmp_path / "before", format="hdf5")
    before = keys_by_split(tmp_path / "before")
    victim = before["train"][7]
    (tree / victim).write_bytes(b"no image")
    (tree / "33/111").mkdir(parents=True, exist_ok=True)
    write(tree, tmp_path / "after", format="hdf5")
    after = keys_by_split(tmp_path / "after")
    before["train"].remove(victim)
    assert after == before


def test_faces_of_a_photo_stay_together(sample_tree, tmp_path):
    write(sample_tree, tmp_path / "out", format="hdf5")
    splits_of: dict[str, set[str]] = {}
    for split, keys in keys_by_split(tmp_path / "out").items():
        for key in keys:
            splits_of.setdefault(image_keys.photo_id(key), set()).add(split)
    assert len(splits_of) < 240  # Some photos have several faces.
    assert all(len(splits) == 1 for splits in splits_of.values())
    write(sample_tree, tmp_path / "image", format="hdf5", split_by="image")
    splits_of = {}
    for split, keys in keys_by_split(tmp_path / "image").items():
        for key in keys:
            splits_of.setdefault(image_keys.photo_id(key), set()).add(split)
    assert any(len(splits) > 1 for splits in splits_of.values())  # The flag matters.


def test_means_are_exact(sample_tree, tmp_path):
    manifest = write(sample_tree, tmp_path / "out", format="hdf5")
    pixels = []
    for path in sorted(glob.glob(f"{tmp_path}/out/afad-train-*.h5")):
        with h5py.File(path) as f:
            pixels.append(f["data"][:])
    expected = np.concatenate(pixels).mean(axis=(0, 1, 2), dtype=np.float64)
    np.testing.assert_allclose(manifest.mean_rgb, expected, rtol=1e-12)
    stored = json.loads((tmp_path / "out/mean.json").read_text())
    assert stored == manifest.mean
    assert list(stored) == ["R", "G", "B"]


def test_hdf5_has_the_names_that_older_programs_read(sample_tree, tmp_path):
    manifest = write(sample_tree, tmp_path / "out", format="hdf5", hdf5_labels="age")
    index = schema.load_index(str(tmp_path / "out"), manifest, "test")
    with h5py.File(tmp_path / "out" / manifest.splits["test"].shards[0].name) as f:
        assert f["data"].shape[1:] == (24, 24, 3)
        assert f["data"].dtype == np.uint8
        rows = index[index["shard"] == 0]
        np.testing.assert_array_equal(f["labels_0"], rows["age"])
        np.testing.assert_array_equal(f["labels_1"], rows["gender"])
        np.testing.assert_array_equal(f["labels"], rows["age"])


@pytest.mark.parametrize(
    ("row", "flag", "there"),
    [("25,", "gender", "age"), (",m", "age", "gender"), ("25,m", "age", "age")],
)
def test_the_link_of_hdf5_leads_to_labels_that_exist(row, flag, there, tmp_path):
    for i in range(4):
        (tmp_path / f"{i}.jpg").write_bytes(face_file(i))
    rows = "".join(f"{i}.jpg,{row}\n" for i in range(4))
    (tmp_path / "labels.csv").write_text(f"path,age,gender\n{rows}")
    manifest = write(
        *(tmp_path, tmp_path / "out"),
        **{"format": "hdf5", "hdf5_labels": flag, "test_fraction": 1},
        labels_csv=str(tmp_path / "labels.csv"),
    )
    assert manifest.config["hdf5_labels"] == there
    with h5py.File(tmp_path / "out" / manifest.splits["test"].shards[0].name) as f:
        assert f["labels"] == f[there]


def test_tfds_opens_the_shards(sample_records, sample_tree):
    tfds = pytest.importorskip("tensorflow_datasets")
    builder = tfds.builder_from_directory(sample_records)
    manifest = schema.load_manifest(sample_records)
    decoders = {"image": {"encoded": tfds.decode.SkipDecoding()}}
    seen = 0
    for example in builder.as_dataset(split="test", decoders=decoders):
        path = pathlib.Path(sample_tree) / example["image"]["filename"].numpy().decode()
        assert example["image"]["encoded"].numpy() == path.read_bytes()
        age, folder, _ = path.parts[-3:]
        assert example["label"]["age"].numpy() == int(age)
        feature = builder.info.features["label"]["gender"]
        name = feature.int2str(int(example["label"]["gender"]))
        assert name == {"111": "male", "112": "female"}[folder]
        seen += 1
    assert seen == manifest.splits["test"].num_examples
    assert len(builder.as_dataset(split="train")) == (
        manifest.splits["train"].num_examples
    )


def test_tensorflow_reads_the_records(sample_records, sample_tree):
    """As other projects read them: TFRecordDataset and the names of the features."""
    import tensorflow as tf

    manifest = schema.load_manifest(sample_records)
    split = manifest.splits["validation"]
    paths = [os.path.join(sample_records, shard.name) for shard in split.shards]
    index = schema.load_index(sample_records, manifest, "validation")
    spec = {
        schema.IMAGE_ENCODED: tf.io.FixedLenFeature([], tf.string),
        schema.IMAGE_FILENAME: tf.io.FixedLenFeature([], tf.string),
        schema.LABEL_AGE: tf.io.FixedLenFeature([], tf.int64),
    }
    examples = [
        tf.io.parse_single_example(data, spec)
        for data in tf.data.TFRecordDataset(paths)
    ]
    assert len(examples) == split.num_examples
    for example, row in zip(examples, index, strict=True):
        name = example[schema.IMAGE_FILENAME].numpy().decode()
        content = (pathlib.Path(sample_tree) / name).read_bytes()
        assert example[schema.IMAGE_ENCODED].numpy() == content
        assert example[schema.LABEL_AGE].numpy() == row["age"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"data_dir": "/no/such/folder"}, "is not a directory"),
        ({"data_dir": "EMPTY"}, "no image to write.*no file at all"),
        ({"data_dir": "", "labels_csv": "/no.csv"}, "cannot read --labels_csv"),
        ({"data_dir": ""}, "--data_dir is missing"),
        ({"output_dir": ""}, "--output_dir is missing"),
        ({"format": "parquet"}, "--format takes one of tfrecord, hdf5; got 'parquet'"),
        (
            {"format": "hdf5", "image_encoding": "jpeg"},
            "--image_encoding=raw, not jpeg",
        ),
        ({"test_fraction": 1.5}, "--test_fraction is a share"),
        ({"gender_codes": "111:male"}, "--gender_codes takes CODE:NAME pairs"),
        ({"shard_range": "1-2"}, "--shard_range takes A:B"),
        ({"min_age": 40, "max_age": 20}, "--max_age must be between 40"),
        ({"image_size": 0}, "--image_size must be between"),
        ({"split_file": "/no.json"}, "cannot read --split_file"),
        ({"num_shards": 0}, "--num_shards must be 1 or more"),
        ({"max_rejected": -1}, "--max_rejected must be 0 or more"),
        ({"work_dir": "s3://a"}, "--work_dir=s3://a is not a local directory"),
    ],
)
def test_wrong_flags_are_one_line(flags, message, sample_tree, tmp_path):
    (tmp_path / "empty").mkdir()
    given = {"data_dir": sample_tree, "output_dir": str(tmp_path / "out"), **flags}
    if given["data_dir"] == "EMPTY":
        given["data_dir"] = str(tmp_path / "empty")
    with pytest.raises(errors.UsageError, match=message) as caught:
        records.write_records(records.WriteConfig(**given))
    assert "\n" not in str(caught.value)


def test_a_record_costs_at_most_320_bytes(sample_records):
    manifest = schema.load_manifest(sample_records)
    split = manifest.splits["train"]
    index = schema.load_index(sample_records, manifest, "train")
    whole = sum(shard.num_bytes for shard in split.shards) + split.index.num_bytes
    cost = (whole - int(index["image_length"].sum())) / len(index)
    assert cost <= 320


def test_only_the_log_names_the_version(sample_records):
    """Another version of the package writes the same bytes."""
    texts = [
        path
        for path in pathlib.Path(sample_records).iterdir()
        if path.suffix in (".json", ".jsonl", ".txt")
    ]
    assert len(texts) >= 6
    named = [path.name for path in texts if __version__ in path.read_text()]
    assert named == ["writer_log.json"]


def test_no_other_files_are_left_in_the_directory(sample_records):
    manifest = schema.load_manifest(sample_records)
    known = {
        *("manifest.json", "mean.json", "features.json", "dataset_info.json"),
        *("label-gender.labels.txt", "rejected.jsonl", "writer_log.json"),
        *("age_gender.png", "samples.png"),
    }
    for split in manifest.splits.values():
        known |= {split.index.name, *(shard.name for shard in split.shards)}
    assert set(os.listdir(sample_records)) == known


def test_an_output_inside_of_the_source_is_refused(tmp_path):
    tree = make_tree(tmp_path / "tree")
    with pytest.raises(errors.UsageError, match="is inside --data_dir"):
        write(tree, tree / "records")
    (tmp_path / "link").symlink_to(tree)
    with pytest.raises(errors.UsageError, match="is inside --data_dir"):
        write(tree, tmp_path / "link" / "records")


def test_file_names_that_are_not_valid_text(tmp_path):
    root = os.fsencode(tmp_path) + b"/tr\xffee"
    os.makedirs(root + b"/20/111")
    os.makedirs(root + b"/21/112")
    for i in range(12):
        name = b"/20/111/%d-\xff0.jpg" % i if i % 2 else b"/21/112/new\nline%d.jpg" % i
        with open(root + name, "wb") as f:
            f.write(face_file(i))
    out = tmp_path / "out"
    manifest = write(os.fsdecode(root), out, test_fraction=0.1)
    assert manifest.written == 12
    assert data_set_verification.verify(str(out)) == []
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


def test_file_names_that_other_programs_rely_on(sample_records):
    manifest = schema.load_manifest(sample_records)
    assert manifest.splits["train"].shards[0].name == (
        "afad-train.tfrecord-00000-of-00003"
    )
    assert manifest.splits["train"].index.name == "afad-train.index.npy"
    assert rejections.FILE_NAME == "rejected.jsonl"


def test_a_remote_data_set_needs_one_scan_of_its_source(
    sample_tree, tmp_path, monkeypatch
):
    """A scan of an archive reads all of its gigabytes."""
    scans = []
    scan_tree = age_folders.scan

    def counted(root, gender_codes, **options):
        scans.append(root)
        return scan_tree(root, gender_codes, **options)

    uploads = []
    monkeypatch.setattr(age_folders, "scan", counted)
    monkeypatch.setattr(
        records.remote_data_set, "stored_manifest", lambda output_dir: None
    )
    monkeypatch.setattr(
        records.remote_data_set, "upload", lambda *names: uploads.append(names)
    )
    manifest = write(sample_tree, "gs://bucket/records", work_dir=str(tmp_path))
    assert manifest.written == 240
    assert len(scans) == 1
    assert [output_dir for _, output_dir in uploads] == ["gs://bucket/records"]


@pytest.mark.parametrize("form", ["fraction", "csv"])
@pytest.mark.parametrize("format", schema.FORMATS)
def test_a_data_set_that_is_only_a_test_set(form, format, sample_tree, tmp_path):
    """The training split was empty, which was refused."""
    flags = {"test_fraction": 1.0, "data_dir": sample_tree}
    if form == "csv":
        faces = sorted(pathlib.Path(sample_tree).rglob("*.jpg"))
        rows = [f"{f},{f.parts[-3]},{f.parts[-2]},TEST" for f in faces]
        table = tmp_path / "labels.csv"
        text = "\n".join(["path,age,gender,split", *rows])
        table.write_text(text.replace(f"{sample_tree}/", ""))
        flags = {"labels_csv": str(table), "data_dir": sample_tree}
    manifest = records.write_records(
        records.WriteConfig(
            output_dir=str(tmp_path / "out"), image_size=24, format=format, **flags
        )
    )
    assert manifest.splits["test"].num_examples == 240
    assert manifest.splits["train"].num_examples == 0
    assert 50 < manifest.mean["R"] < 220  # Of all images, since none is for training.
    assert data_set_verification.verify(str(tmp_path / "out")) == []
    assert schema.load_manifest(str(tmp_path / "out")) == manifest


def test_more_shards_than_images(tmp_path):
    tree = make_tree(tmp_path / "tree")
    manifest = write(tree, tmp_path / "out", num_shards=500)
    for split in manifest.splits.values():
        assert len(split.shards) == split.num_examples
    assert data_set_verification.verify(str(tmp_path / "out")) == []
    few = write(tree, tmp_path / "test", num_shards=2, test_fraction=1.0)
    assert len(few.splits["test"].shards) == 2


@pytest.mark.parametrize("form", ["path", "home", "scheme", "relative"])
def test_forms_of_paths(form, tmp_path, monkeypatch):
    """A directory called ~ was once made in the current one."""
    make_tree(tmp_path / "tree")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    source, output = {
        "path": (pathlib.Path("tree"), pathlib.Path("out")),
        "home": ("~/tree", "~/out"),
        "scheme": (f"file://{tmp_path}/tree", f"file://{tmp_path}/out"),
        "relative": ("tree", "./out"),
    }[form]
    plan_of = records._make_plan

    def change_directory(*arguments):
        monkeypatch.chdir(tmp_path / "elsewhere")  # As another thread may.
        return plan_of(*arguments)

    monkeypatch.setattr(records, "_make_plan", change_directory)
    config = records.WriteConfig(
        data_dir=source, output_dir=output, image_size=24, num_workers=2, num_shards=3
    )
    assert records.write_records(config).written == 24
    assert data_set_verification.verify(str(tmp_path / "out")) == []
    assert sorted(os.listdir(tmp_path)) == ["elsewhere", "out", "tree"]
