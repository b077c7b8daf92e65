"""Files, folders, archives and models that were made to do harm."""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import subprocess
import sys
import tarfile
import tracemalloc
import zipfile
import zlib

import h5py
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from afad_tfdata import models, prediction
from afad_tfdata.common import child_process, errors, figures, files
from afad_tfdata.common.lazy_imports import keras
from afad_tfdata.freezing import (
    graph_description,
    loaded_graph,
    model_source,
    untrusted_graphs,
)
from afad_tfdata.images import codec
from afad_tfdata.reading import foreign_files
from afad_tfdata.training import run_dir
from afad_tfdata.writing import (
    age_folders,
    archive_members,
    data_set_verification,
    plan,
    work_directory,
)
from tests import bad_files
from tests.robustness.chaos import faults
from tests.writing.data_sets import digests, rejected, write

_CODES = {"111": 0, "112": 1}


def _jpeg(seed: int = 1, side: int = 20) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (side, side, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def _tree(root, count=24):
    for i in range(count):
        folder = root / str(20 + i % 3) / ("111", "112")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i}-0.jpg").write_bytes(_jpeg(i))
    return root


@pytest.fixture
def little_memory():
    """Fails a test that allocates more than 60 MB, as Python counts it."""
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60e6, f"{peak / 1e6:.0f} MB"


def _frame_header(height: int, width: int) -> bytes:
    return b"\xff\xc0" + struct.pack(">HBHHB", 17, 8, height, width, 3) + bytes(9)


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xd8" + _frame_header(65535, 65535) + b"\xff\xd9",
        b"\xff\xd8" + _frame_header(1, 0) + b"\xff\xd9",
        bad_files.png(2**31 - 1, 2**31 - 1, b"\0"),
        bad_files.png(65_536, 900, b"\0"),
        bad_files.png(0, 7, b""),
        b"\xff\xd8" + b"\xff" * 100_000,
        b"\xff\xd8" + b"\xff\xd0" * 100_000,
        b"\xff\xd8" + b"\xff\xe1\x00\x02" * 50_000,
        b"\x89PNG\r\n\x1a\n" + b"\xff" * 100_000,
    ],
    ids=lambda data: f"{len(data)} bytes",
)
def test_headers_that_promise_too_much(data, little_memory):
    with pytest.raises(codec.ImageError):
        codec.check_header(codec.read_header(data), as_stored=True)


def test_a_png_that_inflates_beyond_its_size(little_memory):
    """134 MB of zeros after a header of 8 x 8: decoders stop, or refuse."""
    packer = zlib.compressobj(9)
    body = b"".join(packer.compress(bytes(1 << 24)) for _ in range(8)) + packer.flush()
    head = struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n"
    for kind, content in ((b"IHDR", head), (b"IDAT", body), (b"IEND", b"")):
        crc = struct.pack(">I", zlib.crc32(kind + content))
        data += struct.pack(">I", len(content)) + kind + content + crc
    try:
        assert codec.decode(data, codec.read_header(data)).shape == (8, 8, 3)
    except codec.ImageError as error:
        assert "decoded" in str(error)


def test_a_jpeg_with_huge_segments(tmp_path, little_memory):
    """A megabyte of them is skipped, and the picture after them is found."""
    jpeg = _jpeg()
    segment = b"\xff\xe5\xff\xff" + bytes(65_533)
    # An EXIF block whose directory says it has 65,535 entries, at its very end.
    exif = b"\xff\xe1\x00\x10Exif\0\0MM\0*\0\0\0\x06"
    tree = _tree(tmp_path / "tree")
    data = jpeg[:2] + exif + segment * 16 + jpeg[2:]
    (tree / "20/111/huge.jpg").write_bytes(data)
    header = codec.read_header(data)
    assert (header.height, header.width, header.orientation) == (20, 20, 1)
    np.testing.assert_array_equal(codec.decode(data), codec.decode(jpeg))
    write(tree, tmp_path / "out", max_file_bytes=1 << 19)
    (reason,) = rejected(tmp_path / "out").values()
    assert "--max_file_bytes" in reason


def test_devices_pipes_and_loops_in_a_tree(tmp_path):
    tree = _tree(tmp_path / "tree")
    os.mkfifo(tree / "20/111/pipe.jpg")
    os.symlink("/dev/zero", tree / "20/111/zero.jpg")
    os.symlink("loop.jpg", tree / "20/111/loop.jpg")
    os.symlink("..", tree / "20/up")
    os.symlink(".", tree / "30")
    write(tree, tmp_path / "out", max_rejected=5)
    reasons = rejected(tmp_path / "out")
    link = "a link to a folder that is listed already"
    odd = "not a file: a broken link or a device"
    assert reasons == {
        "20/111/pipe.jpg": odd,
        "20/111/zero.jpg": odd,
        "20/111/loop.jpg": odd,
        "20/up": link,
        "30": link,
    }
    # The same for files that were replaced after they were listed.
    for name in ("20/111/pipe.jpg", "20/111/zero.jpg"):
        with pytest.raises(codec.ImageError, match="not a file"):
            codec.read_file(str(tree / name))


def test_many_empty_files(tmp_path, little_memory):
    tree = _tree(tmp_path / "tree")
    for i in range(4000):
        (tree / "20/111" / f"empty-{i}.jpg").touch()
    with pytest.raises(errors.DataError, match="4000 of 4024 files cannot be used"):
        write(tree, tmp_path / "out")
    assert not (tmp_path / "out/manifest.json").exists()
    assert write(tree, tmp_path / "out", max_rejected=4000).written == 24


@pytest.mark.parametrize(
    "kind", [tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE]
)
def test_members_that_are_no_files(kind, tmp_path):
    tree = _tree(tmp_path / "tree")
    parts = tmp_path / "parts"
    parts.mkdir()
    with tarfile.open(parts / "faces.tar", "w") as tar:
        tar.add(tree, arcname="faces")
        member = tarfile.TarInfo("faces/20/111/odd.jpg")
        member.type, member.linkname = kind, "/etc/passwd"
        tar.addfile(member)
    write(parts, tmp_path / "out")
    assert rejected(tmp_path / "out") == {
        "faces/20/111/odd.jpg": "a link or device in the archive"
    }


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_a_header_of_a_gigabyte(kind, tmp_path, little_memory):
    """It compresses to almost nothing, and tarfile would read all of it into memory."""
    import gzip

    parts = tmp_path / "parts"
    parts.mkdir()
    member = tarfile.TarInfo("././@LongLink")
    member.type, member.size = kind, 1 << 30
    with gzip.open(parts / "faces.tgz", "wb", compresslevel=1) as f:
        f.write(member.tobuf(tarfile.GNU_FORMAT))
        f.write(bytes(1 << 22))
    with pytest.raises(errors.DataError, match="a header of 1073741824 bytes"):
        archive_members.scan([str(parts / "faces.tgz")], _CODES)


def test_names_do_not_command_the_terminal(tmp_path):
    """Escape sequences in names are printed as text, and a line stays one line."""
    name = "\x1b[2J\nafad-predict: done\r\u202e.jpg"
    text = str(data_set_verification.Fault("shard", 3, name, "bad"))
    assert text.isprintable() and "\\x1b[2J\\n" in text
    assert errors.printable("Größe, 顔.jpg") == "Größe, 顔.jpg"
    rows = [{"image": name, "age": 20.0}]
    table = prediction.Predictions(rows, [], 1.0).text("table")
    assert len(table.splitlines()) == 2 and table.replace("\n", "").isprintable()
    folder = tmp_path / "a\x1b[31m"
    flags = [f"--data_dir={folder}", f"--output_dir={tmp_path}/out"]
    run = subprocess.run(
        [sys.executable, "-m", "afad_tfdata.bin.write_records", *flags],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1 and "a\\x1b[31m" in run.stderr
    assert "\x1b" not in run.stderr


def _with_data_in_other_files(path, how: str) -> None:
    """An HDF5 file whose pixels are stored in other files."""
    other = path.parent / "other.h5"
    pixels = np.random.default_rng(1).integers(0, 255, (4, 8, 8, 3), np.uint8)
    with h5py.File(other, "w") as f:
        f["secret"] = pixels
    (path.parent / "raw").write_bytes(pixels.tobytes())
    with h5py.File(path, "w") as f:
        f["gender"] = np.zeros(4, np.uint8)
        if how == "link":
            f["data"] = h5py.ExternalLink(str(other), "/secret")
        elif how == "nested link":
            f["data"] = pixels
            f.create_group("a/b")["c"] = h5py.ExternalLink(str(other), "/secret")
        elif how == "raw file":
            places = [(str(path.parent / "raw"), 0, pixels.nbytes)]
            f.create_dataset("data", pixels.shape, np.uint8, external=places)
        else:
            layout = h5py.VirtualLayout(pixels.shape, np.uint8)
            layout[:] = h5py.VirtualSource(str(other), "secret", pixels.shape)
            f.create_virtual_dataset("data", layout)


@pytest.mark.parametrize("how", ["link", "nested link", "raw file", "virtual"])
def test_hdf5_with_data_in_other_files(how, tmp_path):
    path = tmp_path / "faces.h5"
    _with_data_in_other_files(path, how)
    with pytest.raises(errors.UsageError, match="faces.h5: .*(link|stored)") as error:
        foreign_files.index_files(str(path), "train", task="gender")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("ending", [".keras", ".h5"])
def test_models_with_weights_in_other_files(ending, tmp_path):
    image = keras.Input((8, 8, 3), name="root_input")
    x = keras.layers.Flatten()(image)
    model = keras.Model(image, keras.layers.Dense(1, name="age_output")(x))
    path = str(tmp_path / f"model{ending}")
    model.save(path)
    assert models.load(path)
    weights = path
    if ending == ".keras":
        weights = str(tmp_path / "weights.h5")
        with zipfile.ZipFile(path) as parts:
            content = {name: parts.read(name) for name in parts.namelist()}
        with open(weights, "wb") as f:
            f.write(content["model.weights.h5"])
    with h5py.File(weights, "a") as f:
        f["more"] = h5py.ExternalLink("/etc/hostname", "/x")
    if ending == ".keras":
        with open(weights, "rb") as f:
            content["model.weights.h5"] = f.read()
        with zipfile.ZipFile(path, "w") as parts:
            for name, data in content.items():
                parts.writestr(name, data)
    for load in (models.load, model_source.open_source):
        with pytest.raises(errors.UsageError, match="link to /etc/hostname"):
            load(path)


def test_graphs_that_reach_outside(tmp_path):
    target = str(tmp_path / "written")

    @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 3])])
    def function(images):
        tf.io.write_file(target, "x")
        return {"age_output": tf.reduce_mean(images, [1, 2, 3])[:, None]}

    graph = function.get_concrete_function().graph.as_graph_def()
    with pytest.raises(errors.UsageError, match="WriteFile, which reaches outside"):
        untrusted_graphs.refuse_effects(untrusted_graphs.all_nodes(graph), "a.pb")
    module = tf.Module()
    module.serve = function
    saved = str(tmp_path / "saved")
    tf.saved_model.save(module, saved, signatures=function)
    with pytest.raises(errors.UsageError, match="reaches outside"):
        model_source.open_source(saved, outputs=["age"])
    assert not os.path.exists(target)


class Writing(tf.saved_model.experimental.TrackableResource):
    """A resource whose initializer, which loading runs, has an effect."""

    def __init__(self, effect):
        super().__init__()
        self._effect = effect

    def _create_resource(self):
        return tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[], shared_name="r")

    def _initialize(self):
        self._effect()

    def _destroy_resource(self):
        pass


@pytest.mark.parametrize("operation", ["WriteFile", "SaveV2"])
def test_a_saved_model_that_reaches_outside_on_loading(operation, tmp_path):
    target = str(tmp_path / "written")

    def effect():
        if operation == "WriteFile":
            tf.io.write_file(target, "x")
        else:
            tf.raw_ops.SaveV2(
                prefix=target,
                tensor_names=["a"],
                shape_and_slices=[""],
                tensors=[tf.zeros([])],
            )

    module = tf.Module()
    module.resource = Writing(effect)

    @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 3])])
    def function(images):
        assert module.resource.resource_handle is not None
        return {"age_output": tf.reduce_mean(images, [1, 2, 3])[:, None]}

    saved = str(tmp_path / "saved")
    tf.saved_model.save(module, saved, signatures=function)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(errors.UsageError, match=f"{operation}, which reaches outside"):
        model_source.open_source(saved, outputs=["age"])
    with pytest.raises(errors.UsageError, match=f"{operation}, which reaches outside"):
        loaded_graph.LoadedGraph(saved, "images", {"age": "age_output"})
    assert sorted(os.listdir(tmp_path)) == before


def test_a_model_that_names_a_module_to_import(tmp_path):
    """Keras imports the modules that a file names; only its own may be named."""
    evil = tmp_path / "evil_of_a_test.py"
    evil.write_text("import pathlib\npathlib.Path(__file__ + '.ran').touch()\n")
    image = keras.Input((8, 8, 3), name="root_input")
    x = keras.layers.Flatten()(image)
    path = str(tmp_path / "model.keras")
    keras.Model(image, keras.layers.Dense(1, name="age_output")(x)).save(path)
    with zipfile.ZipFile(path) as parts:
        content = {name: parts.read(name) for name in parts.namelist()}
    config = json.loads(content["config.json"])
    layer = config["config"]["layers"][1]
    layer.update(module="evil_of_a_test", class_name="Flatten", registered_name="x")
    content["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(path, "w") as parts:
        for name, data in content.items():
            parts.writestr(name, data)
    sys.path.insert(0, str(tmp_path))
    try:
        with pytest.raises(errors.UsageError):
            models.load(path)
    finally:
        sys.path.remove(str(tmp_path))
    assert not os.path.exists(f"{evil}.ran")


# Faults that chaos and fuzzing found.


def test_a_damaged_plan_is_written_again(tmp_path):
    tree = _tree(tmp_path / "tree")
    write(tree, tmp_path / "wanted")
    for name in ("plan.npy", "plan.keys"):
        out = tmp_path / name
        write(tree, out, shard_range="0:1")
        path = out / work_directory.WORK_NAME / name
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        write(tree, out, num_workers=2)
        assert digests(out) == digests(tmp_path / "wanted")
    assert not plan.stored_json(str(tmp_path))


def test_changed_values_are_noticed(tmp_path):
    sealed = files.seal_json({"mean": {"R": 1.5}, "names": ("male", "female"), 1: None})
    assert files.unseal_json(json.loads(json.dumps(sealed)), "x.json") == {
        "mean": {"R": 1.5},
        "names": ["male", "female"],
        "1": None,
    }
    with pytest.raises(errors.DataError, match="x.json was changed"):
        files.unseal_json({**sealed, "names": ["mble", "female"]}, "x.json")
    graph = {"file": "g.pb", "sha256": hashlib.sha256(b"").hexdigest()}
    about = {"format": graph_description.FORMAT, "graph": graph, "others": {}}
    (tmp_path / "g.pb").touch()
    files.write_json(str(tmp_path / "g.json"), files.seal_json(about))
    assert graph_description.load_description(str(tmp_path / "g.pb")) == about
    for change in ({"threshold": 0.4}, {"graph": 3}):
        files.write_json(str(tmp_path / "g.json"), {**files.seal_json(about), **change})
        with pytest.raises(errors.DataError, match="g.json was changed"):
            graph_description.load_description(str(tmp_path / "g.pb"))
    files.write_json(str(tmp_path / "g.json"), {**about, "graph": 3})
    with pytest.raises(errors.DataError, match="g.json is damaged"):
        graph_description.load_description(str(tmp_path / "g.pb"))
    files.write_json(
        str(tmp_path / "config.json"), files.seal_json({"train": {"seed": 1}})
    )
    text = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(text.replace('"seed": 1', '"seed": 3'))
    with pytest.raises(errors.DataError, match="config.json was changed"):
        run_dir.read_config(str(tmp_path))


def test_a_flipped_bit_in_a_model_is_one_line(tmp_path):
    image = keras.Input((8, 8, 3), name="root_input")
    x = keras.layers.Flatten()(image)
    path = str(tmp_path / "model.keras")
    keras.Model(image, keras.layers.Dense(1, name="age_output")(x)).save(path)
    wanted = models.load(path).get_weights()
    with open(path, "rb") as f:
        content = f.read()
    refused = 0
    for where in (0.05, 0.1, 0.3, 0.5, 0.9, 0.999):
        faults.damage(path, "flip", where)
        try:
            found = models.load(path).get_weights()
        except errors.AfadError as error:
            assert "\n" not in str(error)
            refused += 1
        else:  # The bit was in a date of the archive, for example.
            assert all(map(np.array_equal, found, wanted))
        with open(path, "wb") as f:
            f.write(content)
    assert refused >= 4
    os.truncate(path, len(content) // 2)
    with pytest.raises(errors.AfadError):
        models.load(path)


def test_temporary_files_of_a_killed_training_are_removed(tmp_path):
    directory = run_dir.RunDir(str(tmp_path))
    left = ["best.keras.tmp-7.keras", "history.png.tmp-7", "config.json.tmp-12"]
    others = ["metrics.json.tmp-7", "mine.tmp-7", "best.keras"]
    for name in (*left, *others):
        (tmp_path / name).touch()
    (tmp_path / "checkpoints/step-0000000004.ckpt.tmp-7").touch()
    with pytest.raises(errors.UsageError, match="another process"):
        run_dir.RunDir(str(tmp_path))
    assert (tmp_path / left[0]).exists()  # The other process may be writing it.
    directory.close()
    run_dir.RunDir(str(tmp_path)).close()
    assert not [name for name in left if (tmp_path / name).exists()]
    assert all((tmp_path / name).exists() for name in others)
    assert os.listdir(tmp_path / "checkpoints") == []


def test_a_figure_that_cannot_be_written_leaves_nothing(tmp_path):
    from matplotlib.figure import Figure

    (tmp_path / "taken.png").mkdir()
    with pytest.raises(errors.UsageError, match="cannot write"):
        figures.save(str(tmp_path / "taken.png"), Figure())
    assert os.listdir(tmp_path) == ["taken.png"]


def test_a_writer_process_that_cannot_start_says_why(tmp_path, monkeypatch):
    tree = _tree(tmp_path / "tree")
    monkeypatch.setattr(
        child_process,
        "command",
        lambda *_: [sys.executable, "-c", "exit('no room for libraries')"],
    )
    with pytest.raises(errors.UsageError, match="status 1 .*no room for libraries"):
        write(tree, tmp_path / "out", num_workers=2)


def test_scan_of_a_source_that_is_listed_twice_by_links(tmp_path):
    """A hard link is a file like any other, so its image is a duplicate."""
    tree = _tree(tmp_path / "tree")
    os.link(tree / "20/111/0-0.jpg", tree / "20/111/copy-0.jpg")
    assert len(age_folders.scan(str(tree), _CODES).items) == 25
    assert write(tree, tmp_path / "out").written == 24


@pytest.mark.parametrize("pixels", [True, False])
def test_a_png_with_something_after_its_end(pixels, tmp_path):
    # OpenCV reads the rest as a chunk, and allocates the gigabytes that it names.
    png = bad_files.png(1, 1, b"\0\1\2\3")
    if not pixels:
        at = png.index(b"IDAT") - 4
        png = png[:at] + png[png.index(b"IEND") - 4 :]
    path = tmp_path / "face.png"
    path.write_bytes(png + b"\xb1" * 19)
    code = (
        "import resource, sys\n"
        "from afad_tfdata.images import codec\n"
        "codec.load_decoders()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n"
        "    print(codec.decode(open(sys.argv[1], 'rb').read()).tolist())\n"
        "except codec.ImageError as error:\n"
        "    print(error)\n"
        "after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "assert after < before + 200_000, (before, after)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[[[1, 2, 3]]]\n" if pixels else "broken PNG" in done.stdout
