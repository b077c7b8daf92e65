"""Prediction of the faces in photos: rows, order, crops, pictures, photos without."""

import io
import json
import os
import shutil

import numpy as np
import pytest

from afad_tfdata import prediction, records, trainer
from afad_tfdata.common import errors, files
from afad_tfdata.common.lazy_imports import tf
from afad_tfdata.freezing import frozen_model_facts, model_source
from afad_tfdata.images import codec, face_crop
from tests import test_prediction
from tests.freezing import small_graphs

# A detector for tests: the bright squares of a photo are its faces.
_MARK = 255


def bright_squares(photo):
    """Boxes of the connected bright squares, the last ones first."""
    boxes = []
    rest = (photo[..., 0] >= _MARK - 8).copy()
    while rest.any():
        y, x = np.argwhere(rest)[0]
        width = np.argmin(np.append(rest[y, x:], False))
        height = np.argmin(np.append(rest[y:, x], False))
        rest[y : y + height, x : x + width] = False
        if width > 3 and height > 3:
            boxes.insert(0, (x, y, x + width, y + height))
    return boxes


def photo_of(squares, height=90, width=160):
    """A dark photo with bright squares, each with green values of its own."""
    photo = np.full((height, width, 3), 20, np.uint8)
    for number, (x1, y1, x2, y2) in enumerate(squares):
        photo[y1:y2, x1:x2] = (_MARK, 40 + 60 * number, 60)
    return photo


def write_png(path, photo):
    path.write_bytes(tf.io.encode_png(photo).numpy())
    return str(path)


SQUARES = [(100, 10, 130, 40), (10, 50, 40, 80), (10, 5, 30, 25)]
IN_ORDER = [SQUARES[2], SQUARES[1], SQUARES[0]]


@pytest.fixture(scope="module")
def source():
    return model_source.from_model(small_graphs.build())


@pytest.fixture(scope="module")
def frozen(source, tmp_path_factory):
    directory = str(tmp_path_factory.mktemp("frozen"))
    test_prediction.write_formats(directory, source)
    return directory


def predict(frozen, names, ending=".pb", detector=bright_squares, **changes):
    config = prediction.PredictConfig(
        graph=os.path.join(frozen, "face" + ending), find_faces=True, **changes
    )
    lines, nothing = [], []
    result = prediction.predict(
        config,
        names,
        on_row=lambda text, row: lines.append(text),
        on_no_face=nothing.append,
        detector=detector,
    )
    assert nothing == result.no_face
    return result, lines


def boxes(rows):
    return [tuple(row[name] for name in ("x1", "y1", "x2", "y2")) for row in rows]


@pytest.mark.parametrize("ending", [".pb", "_bytes.pb", "_pixels.pb"])
def test_each_face_is_a_row_in_the_order_of_the_boxes(frozen, source, tmp_path, ending):
    photo = photo_of(SQUARES)
    name = write_png(tmp_path / "photo.png", photo)
    result, _ = predict(frozen, [name], ending)
    assert boxes(result.rows) == IN_ORDER
    assert {row["image"] for row in result.rows} == {name}
    assert not result.bad and not result.no_face
    # The graph sees each face as it sees the same face in a file of its own.
    crop = face_crop.FaceCrop(size=small_graphs.SIZE)
    for row, square in zip(result.rows, IN_ORDER, strict=True):
        alone = write_png(tmp_path / "alone.png", crop.cut(photo, square))
        (expected,) = test_prediction.predict(frozen, [alone], ending).rows
        assert row["age"] == pytest.approx(expected["age"], abs=0.02)
        assert row["gender"] == expected["gender"]


def test_a_photo_without_a_face_has_no_row(frozen, tmp_path):
    empty = write_png(tmp_path / "empty.png", photo_of([]))
    full = write_png(tmp_path / "full.png", photo_of(SQUARES))
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    result, lines = predict(frozen, [empty, full, str(broken), empty])
    assert result.no_face == [empty, empty]
    assert boxes(result.rows) == IN_ORDER
    assert [path for path, _ in result.bad] == [str(broken)]
    assert lines[0].split()[:6] == ["image", "x1", "y1", "x2", "y2", "age"]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 64])
def test_more_faces_than_a_batch(frozen, tmp_path, batch_size):
    names = [
        write_png(tmp_path / f"{i}.png", photo_of(SQUARES[: i % 4])) for i in range(9)
    ]
    result, _ = predict(frozen, names, batch_size=batch_size)
    expected = [n for i, n in enumerate(names) for _ in range(i % 4)]
    assert [row["image"] for row in result.rows] == expected
    assert result.no_face == names[::4]


def test_exif_orientation_is_undone_first(frozen, tmp_path):
    from PIL import Image

    photo = photo_of(SQUARES)
    path = tmp_path / "turned.png"
    exif = Image.Exif()
    exif[0x0112] = 6  # Shown turned right by 90 degrees; stored turned left.
    stored = np.rot90(photo)
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(stored)).save(
        out, "JPEG", exif=exif, quality=100, subsampling=0
    )
    path = tmp_path / "turned.jpg"
    path.write_bytes(out.getvalue())
    assert codec.read_header(path.read_bytes()).orientation == 6
    result, _ = predict(frozen, [str(path)])
    np.testing.assert_allclose(boxes(result.rows), IN_ORDER, atol=1)


def test_the_crop_is_that_of_the_graphs_description(frozen, tmp_path):
    directory = str(tmp_path / "with_crop")
    shutil.copytree(frozen, directory)
    path = os.path.join(directory, "face.json")
    description = files.read_json(path, what="it", advice="none")
    crop = face_crop.FaceCrop(0.5, "constant", 40, "mtcnn 1.0.0")
    files.write_json(path, description | {"face_crop": crop.to_json()})
    photo = photo_of(SQUARES)
    name = write_png(tmp_path / "photo.png", photo)
    result, _ = predict(directory, [name])
    assert boxes(result.rows) == [crop.square(square) for square in IN_ORDER]
    for row, square in zip(result.rows, IN_ORDER, strict=True):
        pixels = crop.cut(photo, crop.square(square))
        alone = write_png(tmp_path / "alone.png", pixels)
        (expected,) = test_prediction.predict(frozen, [alone]).rows
        assert row["age"] == pytest.approx(expected["age"], abs=0.02)


def test_whole_images_for_a_graph_of_cut_faces_are_warned_of(frozen, tmp_path, caplog):
    directory = str(tmp_path / "with_crop")
    shutil.copytree(frozen, directory)
    path = os.path.join(directory, "face.json")
    description = files.read_json(path, what="it", advice="none")
    crop = face_crop.FaceCrop(found_by="boxes")
    files.write_json(path, description | {"face_crop": crop.to_json()})
    name = write_png(tmp_path / "photo.png", photo_of(SQUARES))
    test_prediction.predict(directory, [name])
    assert "--find_faces" in caplog.text


def test_a_picture_shows_the_boxes(frozen, tmp_path):
    photo = photo_of(SQUARES, 300, 400)
    os.makedirs(tmp_path / "a")
    names = [
        write_png(tmp_path / "photo.png", photo),
        write_png(tmp_path / "a" / "photo.png", photo),
        write_png(tmp_path / "empty.png", photo_of([])),
    ]
    drawn = tmp_path / "drawn"
    predict(frozen, names, draw_dir=str(drawn), sheet=str(tmp_path / "sheet.png"))
    assert sorted(os.listdir(drawn)) == ["photo_faces.jpg", "photo_faces_2.jpg"]
    picture = codec.decode((drawn / "photo_faces.jpg").read_bytes())
    assert picture.shape == photo.shape
    changed = np.abs(picture.astype(int) - photo).max(axis=-1) > 60
    for x1, y1, x2, y2 in SQUARES:
        assert changed[y1:y2, x1].mean() > 0.9  # The lines of the box.
        assert changed[y2, x1:x2].mean() > 0.9
    assert changed.mean() < 0.2


def test_a_failing_detector_ends_in_one_line(frozen, tmp_path):
    def broken(photo):
        raise ValueError("no weights")

    name = write_png(tmp_path / "photo.png", photo_of(SQUARES))
    with pytest.raises(errors.UsageError, match="broken failed: ValueError"):
        predict(frozen, [name], detector=broken)


def test_flags_that_do_not_fit():
    with pytest.raises(errors.UsageError, match="--draw_dir"):
        prediction.PredictConfig(graph="face.pb", draw_dir="drawn")
    with pytest.raises(errors.UsageError, match="--face_detector"):
        prediction.PredictConfig(graph="face.pb", face_detector="yolo")


def test_the_rows_as_csv_and_json(frozen, tmp_path):
    name = write_png(tmp_path / "photo.png", photo_of(SQUARES))
    result, lines = predict(frozen, [name], output_format="csv")
    header = "image,x1,y1,x2,y2,age,gender,probability"
    assert lines[0].splitlines()[0] == header
    assert len(result.text("csv").splitlines()) == 4
    rows = [json.loads(line) for line in result.text("json").splitlines()]
    assert boxes(rows) == IN_ORDER


def test_the_crop_of_the_data_set_reaches_the_graph(tmp_path, monkeypatch):
    """Through training, checkpoint and freezing, without a flag of the user's."""
    monkeypatch.chdir(tmp_path)
    tmp_path.joinpath("whole_photo.py").write_text(
        "def find(photo):\n    return [(10, 10, 40, 40)]\n"
    )
    rng = np.random.default_rng(0)
    for number in range(24):
        folder = tmp_path / "photos" / str(20 + number % 3) / ("111", "112")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        photo = rng.integers(0, 256, (50, 60, 3), np.uint8)
        write_png(folder / f"{1000 + number}-0.png", photo)
    manifest = records.write_records(
        records.WriteConfig(
            data_dir="photos",
            output_dir="records",
            find_faces=True,
            face_detector="whole_photo:find",
            face_margin=0.25,
            image_size=32,
            num_workers=1,
        )
    )
    trainer.train(
        trainer.TrainConfig(
            records_dir="records",
            run_dir="run",
            backbone="small_cnn",
            stage="tuning",
            epochs=1,
            global_batch_size=4,
            image_size=32,
        )
    )
    # The data set may be gone: the run and the model's file say it, too.
    shutil.rmtree("records")
    for model in ("run", "run/final.keras"):
        source = model_source.open_source(model)
        stored = frozen_model_facts.collect(source).stored
        assert stored.face_crop == manifest.config["face_crop"]
    assert face_crop.crop_from_json(stored.face_crop).margin == 0.25
    os.mkdir("frozen")
    test_prediction.write_formats("frozen", source)
    photo = write_png(tmp_path / "photo.png", np.zeros((50, 60, 3), np.uint8))
    config = prediction.PredictConfig(
        graph="frozen/face.pb", find_faces=True, face_detector="whole_photo:find"
    )
    assert boxes(prediction.predict(config, [photo]).rows) == [(3, 3, 48, 48)]
