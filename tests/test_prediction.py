"""Prediction: every format of a graph, bad images, kinds of output, names of images."""

import csv
import dataclasses
import io
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from afad_tfdata import prediction
from afad_tfdata.bin import predict as predict_command
from afad_tfdata.common import errors, files
from afad_tfdata.common.lazy_imports import keras, tf
from afad_tfdata.freezing import (
    export_formats,
    frozen_model_facts,
    graph_description,
    graph_files,
    model_source,
    verification,
)
from afad_tfdata.images import codec
from afad_tfdata.models import facts
from afad_tfdata.predicting import image_names, image_reader
from tests.freezing import small_graphs


def write_formats(directory, source):
    """Formats of a graph with their description, without the fresh process."""
    frozen = small_graphs.frozen(source)
    comparison = verification.Comparison(
        {"case": dict.fromkeys(source.labels, 0.0)},
        dict.fromkeys(source.labels, 1.0),
        {},
    )
    formats = [
        export_formats.FORMATS[name]
        for name in ("graph", "bytes", "pixels", "saved_model")
    ]
    with graph_files.VerifiedFiles(directory, "face") as output:
        output.write(frozen, formats)
        description = graph_description.describe(
            source,
            frozen_model_facts.collect(source),
            frozen,
            output.written,
            [comparison] * len(formats),
            tolerance=1.0,
            images="none",
            latency_ms={},
            rounding={},
        )
        output.take_names(None, description)
    # Without the checksum, so that tests may change it.
    files.write_json(os.path.join(directory, "face.json"), description)


@pytest.fixture(scope="module")
def source():
    return model_source.from_model(small_graphs.build())


@pytest.fixture(scope="module")
def frozen(source, tmp_path_factory):
    directory = str(tmp_path_factory.mktemp("frozen"))
    write_formats(directory, source)
    return directory


def test_nothing_in_a_folder_is_left_out_without_a_word(tmp_path, monkeypatch):
    """Linked folders, other formats and folders without permission once were."""
    folder, linked = tmp_path / "faces", tmp_path / "elsewhere"
    for path in ("a.jpg", "b.JFIF", "c.webp", "notes.txt", ".hidden.jpg", "no/x.jpg"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()
    linked.mkdir()
    (linked / "d.png").touch()
    (folder / "link").symlink_to(linked)
    (linked / "back").symlink_to(folder)  # A loop.
    scan = os.scandir

    def refuse(path):
        if os.path.basename(path) == "no":
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = image_names.expand_names([str(folder)])
    wanted = ["a.jpg", "b.JFIF", "c.webp", "link/d.png", "no"]
    assert found == [str(folder / name) for name in wanted]


def test_links_change_no_names_and_lead_to_no_folder_above(tmp_path):
    """The link was read first; a link to ``..`` predicted what was not asked for."""
    folder, linked = tmp_path / "faces", tmp_path / "elsewhere"
    for path in ("faces/b/x.jpg", "faces/b/.c/z.jpg", "elsewhere/y.jpg", "above.jpg"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    (folder / "a").symlink_to("b")
    (folder / "b/up").symlink_to("..")  # Read already: no loss.
    (folder / "c_up").symlink_to("..")
    (folder / "d").symlink_to(linked)
    (folder / "e").symlink_to(linked)
    (folder / "f").symlink_to("b/.c")  # Only names that begin with a dot are hidden.
    (linked / "root").symlink_to("/")
    found = image_names.expand_names([str(folder)])
    wanted = ["b/x.jpg", "c_up", "d/y.jpg", "d/root", "f/z.jpg"]
    assert found == [str(folder / name) for name in wanted]
    for name in ("c_up", "d/root"):
        with pytest.raises(codec.ImageError, match="a folder that contains it; to"):
            image_reader.read_image_file(str(folder / name))


def predict(frozen, names, ending=".pb", **changes):
    config = prediction.PredictConfig(
        graph=os.path.join(frozen, "face" + ending), **changes
    )
    return prediction.predict(config, names)


def expected(source, paths, fast=False):
    """The model's outputs, image by image."""
    rows = []
    for path in paths:
        image = codec.decode(files.read_bytes(path), fast=fast)
        image = codec.resize(image, small_graphs.SIZE)
        value = image[None] - np.array(small_graphs.MEAN, np.float32)
        value /= np.float32(127.5)
        rows.append({k: float(v[0, 0]) for k, v in source.call(value).items()})
    return rows


@pytest.mark.latest
@pytest.mark.parametrize("ending", [".pb", "_bytes.pb", "_pixels.pb", "_saved_model"])
def test_every_format_gives_the_model_s_outputs(ending, frozen, source, sample_tree):
    names = image_names.expand_names([sample_tree])[:30]
    result = predict(frozen, names, ending, batch_size=8, threads=2)
    assert [row["image"] for row in result.rows] == names and not result.bad
    # TensorFlow resizes inside the graph: pixels differ by one level at most.
    tolerance = 1e-4 if ending in (".pb", "_saved_model") else 2e-2
    for row, values in zip(result.rows, expected(source, names), strict=True):
        assert row["age"] == pytest.approx(values["age"], abs=0.006 + 50 * tolerance)
        assert row["probability"] == pytest.approx(values["gender"], abs=tolerance)
        assert row["gender"] == ("male" if row["probability"] >= 0.5 else "female")


@pytest.mark.parametrize("ending", [".pb", "_bytes.pb", "_pixels.pb"])
def test_jpegs_are_decoded_as_in_training(ending, sample_tree, tmp_path):
    model = small_graphs.build()
    facts.attach(model, dataclasses.replace(facts.of(model), decode="fast"))
    source = model_source.from_model(model)
    write_formats(str(tmp_path), source)
    description = files.read_json(str(tmp_path / "face.json"), what="", advice="")
    assert description["decode"] == {
        "dct_method": "INTEGER_FAST",
        "fancy_upscaling": False,
    }
    names = image_names.expand_names([sample_tree])[:12]
    rows = predict(str(tmp_path), names, ending).rows
    errors_of = {
        fast: max(
            abs(row["probability"] - values["gender"])
            for row, values in zip(rows, expected(source, names, fast), strict=True)
        )
        for fast in (True, False)
    }
    assert errors_of[True] < errors_of[False]


def test_a_description_that_does_not_say_how_jpegs_are_decoded(
    frozen, sample_tree, tmp_path
):
    shutil.copytree(frozen, tmp_path / "copy")
    path = str(tmp_path / "copy" / "face.json")
    description = files.read_json(path, what="", advice="")
    names = image_names.expand_names([sample_tree])[:3]
    del description["decode"]
    files.write_json(path, description)
    usual = predict(frozen, names).rows
    assert predict(str(tmp_path / "copy"), names).rows == usual
    description["decode"] = {"dct_method": "quick"}
    files.write_json(path, description)
    with pytest.raises(errors.DataError, match="says .decode.: .*quick.*INTEGER_FAST"):
        predict(str(tmp_path / "copy"), names)


@pytest.mark.parametrize("ending", [".pb", "_bytes.pb", "_pixels.pb"])
def test_a_bad_image_is_reported_and_skipped(ending, frozen, sample_tree, tmp_path):
    names = image_names.expand_names([sample_tree])[:6]
    data = files.read_bytes(names[0])
    torn, text = tmp_path / "torn.jpg", tmp_path / "text.jpg"
    torn.write_bytes(data[: len(data) // 2])
    text.write_bytes(b"hello")
    mixed = [*names[:2], str(torn), str(text), str(tmp_path / "none.jpg"), *names[2:]]
    said = []
    config = prediction.PredictConfig(
        graph=os.path.join(frozen, "face" + ending), batch_size=5
    )
    result = prediction.predict(
        config, mixed, on_error=lambda path, reason: said.append((path, reason))
    )
    assert [row["image"] for row in result.rows] == names
    assert [path for path, _ in result.bad] == mixed[2:5]
    assert said == result.bad
    assert "decoded: " in said[0][1] and "Graph" not in said[0][1]
    assert "not a JPEG or PNG" in dict(result.bad)[str(text)]
    good = predict(frozen, names, ending)
    np.testing.assert_allclose(
        [row["probability"] for row in result.rows],
        [row["probability"] for row in good.rows],
        atol=1e-5,
    )


@pytest.mark.parametrize(
    "error",
    [
        OSError("the server has gone"),
        RuntimeError("from a store's library"),
        errors.UsageError("needs the file system hdfs://"),
    ],
)
def test_a_remote_path_that_fails_costs_no_other_result(
    error, frozen, sample_tree, monkeypatch
):
    def fail(path):
        raise error

    monkeypatch.setattr(prediction.files.remote_files, "read_bytes", fail)
    names = image_names.expand_names([sample_tree])[:3]
    remote = "http://127.0.0.1/faces/a.jpg?size=*"
    said, printed = [], []
    config = prediction.PredictConfig(
        graph=os.path.join(frozen, "face.pb"), batch_size=2, output_format="csv"
    )
    result = prediction.predict(
        config,
        [names[0], remote, *names[1:]],
        on_error=lambda path, reason: said.append((path, reason)),
        on_row=lambda text, row: printed.append(text),
    )
    assert [row["image"] for row in result.rows] == names
    assert [path for path, _ in said] == [remote] and str(error) in said[0][1]
    assert "\n".join(printed) == result.text("csv")
    assert printed[0].startswith("image,age,gender,probability\n")


def test_the_command_goes_on_after_a_path_that_fails(
    frozen, sample_tree, tmp_path, monkeypatch, capfd
):
    """Such a path once cost all results, with a traceback or an abort."""
    names = image_names.expand_names([sample_tree])[:2]
    bad = ["http://127.0.0.1:9/a.jpg", "hdfs://127.0.0.1:9/a.jpg", "no/such.jpg"]
    graph = os.path.join(frozen, "face.pb")
    arguments = [f"--graph={graph}", "--json", names[0], *bad, names[1]]
    monkeypatch.setattr("sys.argv", ["afad-predict", *arguments])
    with pytest.raises(SystemExit) as caught:
        predict_command.run()
    assert caught.value.code == 1
    captured = capfd.readouterr()
    rows = [json.loads(line) for line in captured.out.splitlines()]
    assert [row["image"] for row in rows] == [names[0], *bad, names[1]]
    assert ["error" in row for row in rows] == [False, True, True, True, False]
    said = [line for line in captured.err.splitlines() if "error: " in line]
    assert [line.split("error: ")[1].split(": ")[0] for line in said] == bad
    assert "Traceback" not in captured.err


def test_an_image_with_an_output_of_nan_is_named(sample_tree, tmp_path):
    """The root of a negative number; a bright image alone has one."""
    image = keras.Input((small_graphs.SIZE, small_graphs.SIZE, 3), name="root_input")
    mean = keras.layers.GlobalAveragePooling2D()(image)
    age = keras.layers.Dense(1, name="age_output")(keras.ops.sqrt(0.5 - mean))
    gender = keras.layers.Dense(1, activation="sigmoid", name="gender_output")(mean)
    model = keras.Model(image, [age, gender])
    known = facts.Facts(
        class_names=("male", "female"),
        mean=small_graphs.MEAN,
        input_range="normalized",
    )
    facts.attach(model, known)
    write_formats(str(tmp_path), model_source.from_model(model))
    white = str(tmp_path / "white.png")
    pixels = np.full((small_graphs.SIZE, small_graphs.SIZE, 3), 255, np.uint8)
    files.write_atomic(white, tf.io.encode_png(pixels).numpy())
    names = image_names.expand_names([sample_tree])[:2]
    result = predict(str(tmp_path), [names[0], white, names[1]])
    assert [row["image"] for row in result.rows] == names
    ((path, reason),) = result.bad
    assert path == white and "the age is nan, which is not finite" in reason


def test_rows_are_printed_before_the_last_image_is_read(frozen, sample_tree):
    names = image_names.expand_names([sample_tree])[:1]
    # Images are read ahead, but not this far.
    paths = names * 600
    config = prediction.PredictConfig(
        graph=os.path.join(frozen, "face.pb"), batch_size=4, threads=1
    )
    read, printed = [], []
    load = prediction.codec.read_file

    def reading(path):
        read.append(path)
        return load(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prediction.codec, "read_file", reading)
        prediction.predict(
            config, paths, on_row=lambda text, row: printed.append(len(read))
        )
    assert len(printed) == 600 and printed[0] < 300


def test_all_images_bad(frozen, tmp_path):
    (tmp_path / "x.png").write_bytes(b"")
    result = predict(frozen, [str(tmp_path / "x.png")])
    assert result.rows == [] and len(result.bad) == 1
    assert result.text("table") == "image" and result.text("json") == ""


@pytest.mark.parametrize("ending", [".pb", "_bytes.pb", "_pixels.pb"])
def test_a_turned_photo_is_seen_upright(ending, frozen, sample_tree, tmp_path):
    image = codec.decode(files.read_bytes(image_names.expand_names([sample_tree])[0]))
    upright, turned = tmp_path / "upright.png", tmp_path / "turned.jpg"
    upright.write_bytes(tf.io.encode_png(image).numpy())
    pillow = pytest.importorskip("PIL.Image")
    exif = pillow.Exif()
    exif[0x0112] = 6
    pillow.fromarray(np.rot90(image).copy()).save(turned, quality=100, exif=exif)
    one, other = predict(frozen, [str(upright), str(turned)], ending).rows
    assert other["probability"] == pytest.approx(one["probability"], abs=0.02)


def test_formats(frozen, sample_tree):
    names = image_names.expand_names([sample_tree])[:3]
    result = predict(frozen, names)
    lines = [json.loads(line) for line in result.text("json").splitlines()]
    assert lines == result.rows
    rows = list(csv.DictReader(io.StringIO(result.text("csv"))))
    assert [row["image"] for row in rows] == names
    assert float(rows[0]["age"]) == result.rows[0]["age"]
    table = result.text("table").splitlines()
    assert len(table) == 4 and table[0].split() == list(result.rows[0])
    assert result.images_per_sec > 0


def test_a_sheet(frozen, sample_tree, tmp_path):
    path = str(tmp_path / "sheet.png")
    predict(frozen, image_names.expand_names([sample_tree])[:12], sheet=path)
    header = codec.read_header(files.read_bytes(path))
    assert header.format == "png" and header.width > 300


def test_single_tasks_have_their_columns_only(tmp_path, sample_tree):
    source = model_source.from_model(small_graphs.build(task="gender"))
    write_formats(str(tmp_path), source)
    (row,) = predict(str(tmp_path), image_names.expand_names([sample_tree])[:1]).rows
    assert list(row) == ["image", "gender", "probability"]


def test_names_of_images(tmp_path):
    for name in ("b/2.JPG", "b/1.png", "a.jpeg", ".hidden.jpg", "b/.x/3.jpg", "n.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.touch()
    folder = str(tmp_path)

    def below(*names):
        return [os.path.join(folder, name) for name in names]

    assert image_names.expand_names([folder]) == below("a.jpeg", "b/1.png", "b/2.JPG")
    assert image_names.expand_names([folder + "/b/*.png"]) == below("b/1.png")
    everything = below("a.jpeg", "b/1.png", "b/2.JPG", "n.txt")
    assert image_names.expand_names([folder + "/*"]) == everything
    # A file that is named is used whatever its name, and need not exist yet.
    assert image_names.expand_names(["x.txt", "y.jpg"]) == ["x.txt", "y.jpg"]
    lines = ["one.jpg\n", "\n", "two.jpg"]
    assert image_names.expand_names(["-"], lines) == ["one.jpg", "two.jpg"]
    (tmp_path / "odd[1].jpg").touch()
    assert image_names.expand_names(below("odd[1].jpg")) == below("odd[1].jpg")


@pytest.mark.parametrize(
    ("paths", "message"),
    [([], "no image is named"), (["*.none"], "no file matches"), (["."], "contain no")],
)
def test_names_that_name_nothing(paths, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(errors.UsageError, match=message):
        image_names.expand_names(paths)


def test_graphs_that_cannot_be_used(frozen, sample_tree, tmp_path):
    names = image_names.expand_names([sample_tree])[:1]
    with pytest.raises(errors.UsageError, match="does not exist"):
        predict(str(tmp_path), names)
    lonely = tmp_path / "face.pb"
    lonely.write_bytes(files.read_bytes(os.path.join(frozen, "face.pb")))
    with pytest.raises(errors.UsageError, match="description"):
        predict(str(tmp_path), names)
    about = json.loads(files.read_bytes(os.path.join(frozen, "face.json")))
    files.write_json(str(tmp_path / "face.json"), {**about, "mean": None})
    with pytest.raises(errors.UsageError, match="no mean"):
        predict(str(tmp_path), names)
    about["fetches"][0]["name"] = "other/name"
    files.write_json(str(tmp_path / "face.json"), about)
    with pytest.raises(errors.UsageError, match="no node 'other/name'"):
        predict(str(tmp_path), names)
    lonely.write_bytes(b"\x00not a graph")
    about["graph"]["sha256"] = files.sha256(str(lonely))
    files.write_json(str(tmp_path / "face.json"), about)
    with pytest.raises(errors.UsageError, match="is not a frozen graph"):
        predict(str(tmp_path), names)
    lonely.write_bytes(b"changed")
    with pytest.raises(errors.DataError, match="SHA-256 differs"):
        predict(str(tmp_path), names)


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({"graph": ""}, "--graph"),
        ({"output_format": "xml"}, "--output_format"),
        ({"batch_size": 0}, "--batch_size"),
        ({"threads": -1}, "--threads"),
        ({"device": "tpu"}, "--device"),
    ],
)
def test_flags_are_checked(changes, flag):
    with pytest.raises(errors.UsageError, match=flag):
        prediction.PredictConfig(**{"graph": "x.pb", **changes})


def test_the_mean_of_a_foreign_model(tmp_path):
    source = model_source.from_model(small_graphs.dense((20, 20, 3)))
    assert frozen_model_facts.collect(source).mean is None
    files.write_json(
        str(tmp_path / "mean.json"), dict(zip("RGB", small_graphs.MEAN, strict=True))
    )
    facts = frozen_model_facts.collect(source, mean_json=str(tmp_path / "mean.json"))
    assert facts.mean == small_graphs.MEAN and facts.age_range is None
    with pytest.raises(errors.UsageError, match="has no channel means"):
        files.write_json(str(tmp_path / "bad.json"), {"R": 1})
        frozen_model_facts.collect(source, mean_json=str(tmp_path / "bad.json"))


def test_the_c_client_of_the_examples(tmp_path):
    source = model_source.from_model(small_graphs.build())
    path, nodes = small_graphs.frozen_file(tmp_path, source)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)
    np.save(tmp_path / "pixels.npy", pixels)
    about = {
        "mean": dict(zip("RGB", small_graphs.MEAN, strict=True)),
        "divisor": 127.5,
        "feeds": [{"name": "root_input"}],
        "fetches": [{"label": k, "name": v} for k, v in nodes.items()],
    }
    (tmp_path / "graph.json").write_text(json.dumps(about))
    here = pathlib.Path(tf.__file__).parent
    client = pathlib.Path(__file__).parents[1] / "examples" / "tf_c_client.py"
    mean = np.array(small_graphs.MEAN, np.float32)
    expected = source.call((pixels - mean) / np.float32(127.5))
    command = [sys.executable, str(client)]
    command += [f"--library={here / 'libtensorflow_cc.so.2'}"]
    command += [f"--graph={path}", f"--pixels={tmp_path / 'pixels.npy'}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    for i, line in enumerate(lines):
        age, gender = (float(part.split()[1]) for part in line.split(", "))
        assert age == pytest.approx(float(expected["age"][i, 0]), rel=1e-5)
        assert gender == pytest.approx(float(expected["gender"][i, 0]), abs=1e-5)


def test_a_changed_saved_model_is_not_the_verified_one(frozen, tmp_path):
    shutil.copytree(frozen, tmp_path / "copy")
    path = str(tmp_path / "copy" / "face_saved_model")
    graph_description.load_description(path)
    with open(os.path.join(path, "saved_model.pb"), "ab") as f:
        f.write(b"\0")
    with pytest.raises(errors.DataError, match="SHA-256 differs"):
        graph_description.load_description(path)


@pytest.mark.parametrize(
    "name, message",
    [("", "is a folder: name the NAME.pb"), ("best.keras", "is a model: freeze it")],
)
def test_a_path_that_is_not_a_graph_is_named_for_what_it_is(name, message, tmp_path):
    path = tmp_path / name
    if name:
        path.write_bytes(b"model")
    with pytest.raises(errors.UsageError, match=message):
        prediction.predict(prediction.PredictConfig(graph=str(path)), ["a.jpg"])


def test_a_sheet_that_cannot_be_is_an_error_before_the_work(
    frozen, sample_tree, tmp_path
):
    names = image_names.expand_names([sample_tree])[:2]
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.UsageError, match="cannot make the directory"):
        predict(frozen, names, sheet=str(tmp_path / "file" / "x.png"))
    predict(frozen, names, sheet=str(tmp_path / "new" / "x.png"))
    assert os.listdir(tmp_path / "new") == ["x.png"]
