"""Prediction: runs images through a frozen graph of any format.

::

    result = prediction.predict(
        prediction.PredictConfig(graph="out/face.pb"), ["faces/", "one.jpg"])
    result.rows[0]     # {"image": ..., "age": 31.2, "gender": "female", ...}

Threads decode and resize the images ahead of the graph.  An image that cannot be used
is reported and skipped.  With `PredictConfig.find_faces` the images are photos: there
is one row for each face, and none for a photo without a face.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import logging
import os
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from afad_tfdata.common import errors, files, options, progress, resources
from afad_tfdata.freezing import graph_description
from afad_tfdata.images import codec, contact_sheet, face_crop, face_detector
from afad_tfdata.predicting import (
    annotated_photos,
    face_finder,
    graph_outputs,
    image_names,
    image_reader,
    prediction_rows,
)

_log = logging.getLogger(__name__)
_OUTPUT_FORMATS = ("table", "json", "csv")
_SHEET_IMAGES = 60  # six rows of ten
_SHEET_SIDE = 112  # pixels of a thumbnail


@dataclasses.dataclass(frozen=True)
class PredictConfig:
    """Which graph to run, and how to show the results."""

    graph: str = options.option(
        "",
        "Graph that afad-freeze wrote: NAME.pb, NAME_bytes.pb, NAME_pixels.pb,"
        " NAME.tflite, NAME.onnx or NAME_saved_model. NAME.json must be next to it.",
    )
    output_format: str = options.option(
        "table",
        "What is printed: a table, JSON with one object per line, or CSV.",
        choices=_OUTPUT_FORMATS,
    )
    sheet: str = options.option(
        "",
        f"PNG file in which the first {_SHEET_IMAGES} images are drawn with their"
        " results. Without this flag, none is drawn.",
    )
    find_faces: bool = options.option(
        False,
        "Find the faces in each photo, and predict each face on its own. Without this"
        " flag an image must show one face, as AFAD's do. Needs the extra: pip install"
        " 'afad-tfdata[faces]'.",
    )
    face_detector: str = options.option(
        face_detector.MTCNN,
        "What finds the faces: mtcnn, or MODULE:FUNCTION for a function of yours that"
        " takes a uint8 photo [height, width, 3] and returns boxes [n, 4] as x1, y1,"
        " x2, y2.",
    )
    draw_dir: str = options.option(
        "",
        "Folder for a picture of each photo with the boxes of its faces and their"
        " results. Without this flag, none is drawn. Used with --find_faces only.",
    )
    batch_size: int = options.option(
        64, "Number of images that the graph is fed at once."
    )
    threads: int = options.option(
        0, "Number of threads that decode images; 0 starts one for each core."
    )
    device: str = options.option(
        "auto",
        "Where the graph runs: on a GPU if TensorFlow sees one (auto), or on the CPU.",
        choices=("auto", "cpu"),
    )

    def __post_init__(self) -> None:
        options.check_choices(self)
        if not self.graph:
            raise errors.UsageError(
                "--graph is missing: name a graph that afad-freeze wrote"
            )
        face_detector.check_detector_name(self.face_detector)
        if self.draw_dir and not self.find_faces:
            raise errors.UsageError("--draw_dir can only be used with --find_faces")
        if self.batch_size < 1:
            raise errors.UsageError(
                f"--batch_size takes a number from 1 up; got {self.batch_size}"
            )
        if self.threads < 0:
            raise errors.UsageError(
                f"--threads takes a number from 0 up; got {self.threads}"
            )


@dataclasses.dataclass(frozen=True)
class Predictions:
    """The results of `predict`.

    Attributes:
      rows: A dict for each image, in order: ``image`` (its path), ``age`` (years),
        ``gender`` (a class name) and ``probability`` (of the second class), as far as
        the graph predicts them; ``low``, ``high`` (years) and ``coverage`` (a share) of
        the age interval, if the graph's description has one.  With
        `PredictConfig.find_faces` there is a dict for each face, from left to right and
        then from top to bottom; ``x1``, ``y1``, ``x2``, ``y2`` are the square that was
        cut out, in pixels of the upright photo.
      bad: Path and reason of each image that could not be used.
      images_per_sec: Images per second, from the first image that was read to the
        last result.
      no_face: Paths of the photos in which no face was found.
    """

    rows: list[dict[str, Any]]
    bad: list[tuple[str, str]]
    images_per_sec: float
    no_face: list[str] = dataclasses.field(default_factory=list)

    def face_counts(self) -> str:
        """How many faces and photos were predicted, in one line for people."""
        photos = len({row["image"] for row in self.rows})
        return (
            f"{len(self.rows)} faces in {photos} photos,"
            f" {len(self.no_face)} photos without a face"
        )

    def text(self, output_format: str) -> str:
        """The predictions as ``table``, ``json`` (lines) or ``csv``."""
        if not self.rows:
            return "" if output_format == "json" else "image"
        form = prediction_rows.RowFormat(
            output_format,
            [row["image"] for row in self.rows],
            [row.get("gender", "") for row in self.rows],
        )
        return "\n".join(form.lines(row) for row in self.rows)


def predict(
    config: PredictConfig,
    paths: Iterable[str],
    on_error: Callable[[str, str], None] = lambda path, reason: None,
    on_row: Callable[[str, dict[str, Any]], None] = lambda text, row: None,
    on_no_face: Callable[[str], None] = lambda path: None,
    *,
    detector: face_detector.Detector | None = None,
) -> Predictions:
    """Predicts age and gender of images, or of the faces in photos, with a graph.

    Args:
      config: Which graph to run, and how.
      paths: Images, folders and patterns; ``-`` reads such names from standard input.
      on_error: Called with path and reason for each image that cannot be used, as soon
        as it is known.
      on_row: Called with the text of each row in the config's format, and with the row,
        as soon as it is known.  The first text begins with a header, except in JSON.
      on_no_face: Called with the path of each photo in which no face is found.
      detector: Finds the faces instead of `PredictConfig.face_detector`; see
        `faces.find_faces`.

    Returns:
      A row for each image or face, and the images that could not be used.

    Raises:
      UsageError: The graph cannot be used, no image is named, or the detector of faces
        is not installed or fails.
      DataError: The graph is not the one that was verified.
    """
    names = image_names.expand_names(paths)
    description = graph_description.load_description(config.graph)
    wanted = (detector or config.face_detector) if config.find_faces else None
    finder = face_finder.choose_face_finder(description, wanted, graph=config.graph)
    kind, graph = graph_outputs.open_graph(config.graph, description, config.device)
    threads = config.threads or resources.cores()
    decode = graph_description.decode_of_training(description, where=config.graph)
    thumbnail = _SHEET_SIDE if config.sheet else 0
    reader = image_reader.reader_for(
        kind, description, thumbnail, finder, fast=decode == "fast"
    )
    # Made now, so that a folder that cannot be made is an error before the work.
    if config.sheet:
        files.make_dirs(os.path.dirname(config.sheet) or ".")
    results = _ResultCollector(config, names, description, on_error, on_row, on_no_face)
    started = time.perf_counter()
    with (
        concurrent.futures.ThreadPoolExecutor(threads) as pool,
        progress.Progress(len(names), "predicting") as bar,
    ):
        for loaded in image_reader.read_batches(
            pool, reader.read, names, config.batch_size, threads
        ):
            for item, outputs in graph_outputs.run_batch(graph, kind, loaded):
                results.add_prediction(item, outputs)
            bar.update(sum(item.is_last for item in loaded))
    elapsed = time.perf_counter() - started
    results.draw_sheet()
    return Predictions(results.rows, results.bad, len(names) / elapsed, results.no_face)


class _ResultCollector:
    """Collects predictions, and reports and draws each as soon as it is known."""

    def __init__(
        self,
        config: PredictConfig,
        names: Sequence[str],
        description: dict[str, Any],
        on_error: Callable[[str, str], None],
        on_row: Callable[[str, dict[str, Any]], None],
        on_no_face: Callable[[str], None],
    ) -> None:
        self.rows: list[dict[str, Any]] = []
        self.bad: list[tuple[str, str]] = []
        self.no_face: list[str] = []
        self._config, self._description = config, description
        self._on_error, self._on_row, self._on_no_face = on_error, on_row, on_no_face
        self._form = prediction_rows.RowFormat(
            config.output_format, names, description["class_names"] or ()
        )
        self._thumbnails: list[np.ndarray] = []
        self._pictures = (
            annotated_photos.PhotoAnnotator(config.draw_dir)
            if config.draw_dir
            else None
        )
        # Squares and captions of the photo whose faces are not all known yet.
        self._faces: list[tuple[face_crop.Square, str]] = []

    def add_prediction(
        self, item: image_reader.LoadedImage, outputs: dict[str, float]
    ) -> None:
        """Adds what is predicted for one image or face."""
        if item.is_empty:
            self.no_face.append(item.path)
            self._on_no_face(item.path)
            return
        if reason := item.error or graph_outputs.fault_of_outputs(outputs):
            self._add_bad_image(item.path, reason)
        else:
            row = prediction_rows.prediction_row(item, outputs, self._description)
            self.rows.append(row)
            self._on_row(self._form.lines(row), row)
            if item.picture is not None and len(self._thumbnails) < _SHEET_IMAGES:
                self._thumbnails.append(item.picture)
            if item.square is not None:
                self._faces.append((item.square, prediction_rows.caption_of_row(row)))
        if item.is_last:
            self._draw_faces(item.path)

    def draw_sheet(self) -> None:
        """Draws the first predicted images, if the config names a file for them."""
        pictures = self._thumbnails
        if not pictures:
            return
        captions = [
            prediction_rows.caption_of_row(row) for row in self.rows[: len(pictures)]
        ]
        contact_sheet.draw(
            self._config.sheet, pictures, captions, columns=min(10, len(pictures))
        )
        _log.info("images with their results: %s", self._config.sheet)

    def _add_bad_image(self, path: str, reason: str) -> None:
        """Adds an image that cannot be predicted, and reports it."""
        self.bad.append((path, reason))
        self._on_error(path, reason)

    def _draw_faces(self, path: str) -> None:
        """Draws the boxes and predictions of a photo's faces."""
        found, self._faces = self._faces, []
        if not (self._pictures and found):
            return
        squares, captions = zip(*found, strict=True)
        try:
            target = self._pictures.draw(path, squares, captions)
            _log.info("faces of %s: %s", path, target)
        except (codec.ImageError, OSError) as error:
            self._add_bad_image(path, f"cannot be drawn: {errors.one_line(error)}")
