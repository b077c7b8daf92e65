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

import collections
import concurrent.futures
import dataclasses
import glob
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from afad_tfdata.common import errors, files, options, progress, resources
from afad_tfdata.freezing import export_formats, graph_description, loaded_graph
from afad_tfdata.images import codec, contact_sheet, face_crop, face_detector
from afad_tfdata.metrics import age_intervals
from afad_tfdata.models import output_checks
from afad_tfdata.predicting import face_finder, face_pictures, image_reader

_log = logging.getLogger(__name__)
_EXTENSIONS = (".jpg", ".jpeg", ".png")
_OUTPUT_FORMATS = ("table", "json", "csv")
_SHEET_IMAGES = 60  # six rows of ten
_SHEET_SIDE = 112  # pixels of a thumbnail
# Batches that are decoded ahead: enough to bridge an image that takes long, few enough
# to keep little memory.
_BATCHES_AHEAD = 4


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
            raise errors.UsageError("--graph is missing: name a .pb that freeze wrote")
        face_detector.check_name(self.face_detector)
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
        """How many faces and photos there were, in one line for people."""
        photos = len({row["image"] for row in self.rows})
        return (
            f"{len(self.rows)} faces in {photos} photos,"
            f" {len(self.no_face)} photos without a face"
        )

    def text(self, output_format: str) -> str:
        """The rows as ``table``, ``json`` (lines) or ``csv``."""
        if not self.rows:
            return "" if output_format == "json" else "image"
        form = _RowFormat(
            output_format,
            [row["image"] for row in self.rows],
            [row.get("gender", "") for row in self.rows],
        )
        return "\n".join(form.lines(row) for row in self.rows)


class _RowFormat:
    """Turns rows into lines of text, one row at a time.

    Args:
      output_format: ``table``, ``json`` or ``csv``.
      images: Every path that a row may have; they decide the width of a column.
      class_names: Every class name that a row may have, for the same purpose.
    """

    def __init__(
        self, output_format: str, images: Iterable[str], class_names: Iterable[str]
    ) -> None:
        self._format = output_format
        # Three digits, a point and one more digit for an age.
        self._widths = {
            "image": max(map(len, map(_cell, images)), default=0),
            "age": 5,
            "interval": len("100 to 100 at 90 %"),
            "gender": max(map(len, class_names), default=0),
        }
        self._is_first = True

    def lines(self, row: dict[str, Any]) -> str:
        """The line of a row; the first row has a header before it, except in JSON."""
        if self._format == "json":
            return json.dumps(row)
        if self._format == "table":
            row = _with_interval_in_words(row)
        lines = [list(row)] if self._is_first else []
        self._is_first = False
        if self._format == "csv":
            return "\n".join(map(files.csv_line, [*lines, row.values()]))
        lines.append([_cell(value) for value in row.values()])
        widths = [max(len(name), self._widths.get(name, 0)) for name in row]
        return "\n".join(
            "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip()
            for line in lines
        )


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
    names = expand(paths)
    description = graph_description.load_description(config.graph)
    finder = _finder(config, description, detector)
    kind, graph = _open(config.graph, description, config.device)
    threads = config.threads or resources.cores()
    decode = graph_description.decode_of(description, where=config.graph)
    thumbnail = _SHEET_SIDE if config.sheet else 0
    reader = _reader(kind, description, thumbnail, finder, fast=decode == "fast")
    # Now: an impossible path for pictures is an error before the work, not after it.
    if config.sheet:
        files.make_dirs(os.path.dirname(config.sheet) or ".")
    results = _Results(config, names, description, on_error, on_row, on_no_face)
    started = time.perf_counter()
    with (
        concurrent.futures.ThreadPoolExecutor(threads) as pool,
        progress.Progress(len(names), "predicting") as bar,
    ):
        for loaded in _batches(pool, reader.read, names, config.batch_size, threads):
            for item, outputs in _run(graph, kind, loaded):
                results.add(item, outputs)
            bar.update(sum(item.is_last for item in loaded))
    elapsed = time.perf_counter() - started
    results.draw_sheet()
    return Predictions(results.rows, results.bad, len(names) / elapsed, results.no_face)


class _Results:
    """Collects the results, and reports and draws each as soon as it is known."""

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
        self._form = _RowFormat(
            config.output_format, names, description["class_names"] or ()
        )
        self._thumbnails: list[np.ndarray] = []
        self._pictures = (
            face_pictures.FacePictures(config.draw_dir) if config.draw_dir else None
        )
        # Squares and captions of the photo whose faces are not all known yet.
        self._faces: list[tuple[face_crop.Square, str]] = []

    def add(self, item: image_reader.LoadedImage, outputs: dict[str, float]) -> None:
        """Adds what is known of one image or face."""
        if item.is_empty:
            self.no_face.append(item.path)
            self._on_no_face(item.path)
            return
        if reason := item.error or _fault(outputs):
            self._refuse(item.path, reason)
        else:
            row = _row(item, outputs, self._description)
            self.rows.append(row)
            self._on_row(self._form.lines(row), row)
            if item.picture is not None and len(self._thumbnails) < _SHEET_IMAGES:
                self._thumbnails.append(item.picture)
            if item.square is not None:
                self._faces.append((item.square, _caption(row)))
        if item.is_last:
            self._draw_faces(item.path)

    def draw_sheet(self) -> None:
        """Draws the first images, if the config names a file for them."""
        pictures = self._thumbnails
        if not pictures:
            return
        captions = [_caption(row) for row in self.rows[: len(pictures)]]
        contact_sheet.draw(
            self._config.sheet, pictures, captions, columns=min(10, len(pictures))
        )
        _log.info("images with their results: %s", self._config.sheet)

    def _refuse(self, path: str, reason: str) -> None:
        """Notes an image that cannot be predicted, and reports it."""
        self.bad.append((path, reason))
        self._on_error(path, reason)

    def _draw_faces(self, path: str) -> None:
        """Draws the boxes of a photo's faces."""
        found, self._faces = self._faces, []
        if not (self._pictures and found):
            return
        squares, captions = zip(*found, strict=True)
        try:
            target = self._pictures.draw(path, squares, captions)
            _log.info("faces of %s: %s", path, target)
        except (codec.ImageError, OSError) as error:
            self._refuse(path, f"cannot be drawn: {errors.one_line(error)}")


def _finder(
    config: PredictConfig,
    description: dict[str, Any],
    detector: face_detector.Detector | None,
) -> face_finder.FaceFinder | None:
    """What finds the faces; None if the images are used as they are."""
    if not config.find_faces:
        if description.get("face_crop"):
            _log.warning(
                "%s was trained on faces that were cut out of photos: --find_faces"
                " finds and cuts them in the same way, if these are whole photos",
                config.graph,
            )
        return None
    finder, warning = face_finder.choose(description, detector or config.face_detector)
    if warning:
        _log.warning("%s", warning)
    return finder


def expand(paths: Iterable[str], lines: Iterable[str] | None = None) -> list[str]:
    """Paths of image files, in the order given; folders and globs are sorted.

    Args:
      paths: Files, folders, globs, or ``-``.  A file that is named is used whatever
        its name ends in.  A remote path names one file.
      lines: Read instead of ``-``, one path per line; default: standard input.

    Raises:
      UsageError: Nothing is named, or a folder or glob contains no image.
    """
    names: list[str] = []
    for path in map(files.local_path, paths):
        if path == "-":
            stream = sys.stdin if lines is None else lines
            names += [n for line in stream if (n := line.strip())]
        elif os.path.isdir(path):
            names += _images_below(path)
        elif files.is_remote(path):
            names.append(path)  # A "?" or "*" in it belongs to the name.
        # A file that exists may have a "[" or "*" in its name.
        elif glob.has_magic(path) and not os.path.exists(path):
            found = sorted(glob.glob(path, recursive=True))
            if not found:
                raise errors.UsageError(f"no file matches {path}")
            for name in found:
                names += _images_below(name) if os.path.isdir(name) else [name]
        else:
            names.append(path)
    if not names:
        raise errors.UsageError(
            "no image is named: give files, folders, globs, or - for names on standard"
            " input"
        )
    return names


def _images_below(directory: str) -> list[str]:
    names = []
    for folder, folders, found in os.walk(directory):
        # In place: os.walk then skips hidden folders and goes in this order.
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        names += [
            os.path.join(folder, name)
            for name in sorted(found)
            if name.lower().endswith(_EXTENSIONS) and not name.startswith(".")
        ]
    if not names:
        raise errors.UsageError(
            f"{directory} and its folders contain no {', '.join(_EXTENSIONS)} file"
        )
    return names


def _open(
    graph_path: str, description: dict[str, Any], device: str
) -> tuple[str, loaded_graph.LoadedGraph]:
    """The graph, and what it is fed: ``normalized``, ``bytes`` or ``pixels``."""
    name = os.path.basename(graph_path.rstrip("/"))
    others = description["others"].items()
    # NAME.json lists every format except NAME.pb under "others".
    found = next((key for key, v in others if v["file"] == name), "graph")
    export_format = export_formats.FORMATS.get(found)
    if export_format is None:
        raise errors.UsageError(
            f"{name} has the format {found!r}, which this version does not know: use"
            " the version of afad-tfdata that wrote it"
        )
    feed, fetches = export_format.names(
        description["feeds"][0]["name"],
        {fetch["label"]: fetch["name"] for fetch in description["fetches"]},
    )
    kind = export_format.name if export_format.image_input else "normalized"
    if kind == "normalized" and description["mean"] is None:
        raise errors.UsageError(
            f"the description of {name} has no mean, so that images cannot be"
            " normalised: run afad-freeze again with --mean_json or --records_dir"
        )
    return kind, loaded_graph.LoadedGraph(graph_path, feed, fetches, device=device)


def _reader(
    kind: str,
    description: dict[str, Any],
    thumbnail: int,
    faces: face_finder.FaceFinder | None,
    *,
    fast: bool,
) -> image_reader.ImageReader:
    """The reader of image files that a graph of this kind needs."""
    mean = description["mean"]
    return image_reader.ImageReader(
        kind=kind,
        size=description["image_size"],
        # The description of a graph that is fed files or pixels may have no mean.
        mean=tuple(mean[c] for c in "RGB") if mean else None,
        divisor=description["divisor"],
        thumbnail=thumbnail,
        faces=faces,
        fast=fast,
    )


def _batches(
    pool: concurrent.futures.Executor,
    read: Callable[[str], list[image_reader.LoadedImage]],
    names: Sequence[str],
    batch_size: int,
    threads: int,
) -> Iterator[list[image_reader.LoadedImage]]:
    """Batches in order; a bounded number of files is read ahead."""
    waiting: collections.deque[
        concurrent.futures.Future[list[image_reader.LoadedImage]]
    ] = collections.deque()
    remaining = iter(names)
    # With small batches, still enough to keep every thread busy.
    limit = max(_BATCHES_AHEAD * batch_size, 2 * threads)
    done = False
    ready: list[image_reader.LoadedImage] = []
    while waiting or not done:
        while len(waiting) < limit and not done:
            name = next(remaining, None)
            if name is None:
                done = True
            else:
                waiting.append(pool.submit(read, name))
        while waiting and len(ready) < batch_size:
            ready += waiting.popleft().result()
        # A photo of many faces fills more than one batch.
        while len(ready) >= batch_size or (ready and done and not waiting):
            yield ready[:batch_size]
            del ready[:batch_size]


def _run(
    graph: loaded_graph.LoadedGraph, kind: str, loaded: list[image_reader.LoadedImage]
) -> Iterator[tuple[image_reader.LoadedImage, dict[str, float]]]:
    """The images of a batch in order, each with its outputs by label."""
    good = [item for item in loaded if not (item.error or item.is_empty)]
    # Pixels of different sizes cannot be one array: they are run one by one.
    whole = kind == "normalized" or (
        kind == "pixels" and len({item.value.shape for item in good}) == 1
    )
    results: list[dict[str, float] | str] = []
    if whole and good:
        results += _by_image(graph.run(np.stack([item.value for item in good])))
    elif kind == "pixels":
        for item in good:
            results += _by_image(graph.run(item.value[np.newaxis]))
    elif good:
        results = _run_bytes(graph, [item.value for item in good])
    by_path = iter(results)
    for item in loaded:
        outputs = {} if item.error or item.is_empty else next(by_path)
        if isinstance(outputs, str):
            item, outputs = item._replace(error=outputs), {}
        yield item, outputs


def _run_bytes(
    graph: loaded_graph.LoadedGraph, encoded: list[bytes]
) -> list[dict[str, float] | str]:
    """Outputs by image, or the reason where the graph cannot decode the image.

    The graph refuses a whole batch for one bad image and does not say which one, so
    that the batch is halved until the bad image is alone.
    """
    try:
        return [*_by_image(graph.run(encoded))]
    except loaded_graph.InputError as error:
        if len(encoded) == 1:
            return [_why_refused(encoded[0], error)]
        middle = len(encoded) // 2
        return [
            *_run_bytes(graph, encoded[:middle]),
            *_run_bytes(graph, encoded[middle:]),
        ]


def _why_refused(data: bytes, error: loaded_graph.InputError) -> str:
    """Why a graph refused an image, in the words of `codec`: the graph's are long."""
    try:
        codec.decode(data, codec.read_header(data))
    except codec.ImageError as reason:
        return str(reason)
    return f"cannot be decoded: {errors.one_line(error)}"


def _fault(outputs: dict[str, float]) -> str:
    """Why a graph's outputs for an image mean nothing; empty if they do."""
    found = [output_checks.fault(label, value) for label, value in outputs.items()]
    return next((reason for reason in found if reason), "")


def _by_image(outputs: dict[str, np.ndarray]) -> list[dict[str, float]]:
    """The outputs of each image of a batch."""
    flat = {label: np.reshape(v, -1).tolist() for label, v in outputs.items()}
    return [
        dict(zip(flat, row, strict=True)) for row in zip(*flat.values(), strict=True)
    ]


def _row(
    item: image_reader.LoadedImage,
    outputs: dict[str, float],
    description: dict[str, Any],
) -> dict[str, Any]:
    """What the graph says about an image, as a row of the results."""
    # Rounded to what the labels and float32 support.
    row: dict[str, Any] = {"image": item.path}
    if item.square is not None:
        row |= zip(("x1", "y1", "x2", "y2"), item.square, strict=True)
    gender = None
    if "gender" in outputs:
        second = outputs["gender"] >= description["threshold"]
        gender = description["class_names"][int(second)]
    if "age" in outputs:
        row["age"] = round(outputs["age"], 2)
        # Graphs of earlier versions have none.
        if interval := description.get("age_interval"):
            spread = outputs.get("age_spread")
            low, high = age_intervals.bounds(interval, outputs["age"], gender, spread)
            row.update(low=round(low, 2), high=round(high, 2))
            row["coverage"] = interval["coverage"]
    if gender is not None:
        row.update(gender=gender, probability=round(outputs["gender"], 6))
    return row


def _with_interval_in_words(row: dict[str, Any]) -> dict[str, Any]:
    """A row whose three numbers of an interval are one cell: ``21 to 33 at 90 %``."""
    if "coverage" not in row:
        return row
    first, last = age_intervals.whole_years(row["low"], row["high"])
    cell = f"{first} to {last} at {100 * row['coverage']:g} %"
    words: dict[str, Any] = {}
    for name, value in row.items():
        if name == "low":
            words["interval"] = cell
        elif name not in ("high", "coverage"):
            words[name] = value
    return words


def _cell(value: Any) -> str:
    """A value of a row as text."""
    if isinstance(value, float):
        return f"{value:.3f}" if 0 <= value <= 1 else f"{value:.1f}"
    return errors.printable(str(value))


def _caption(row: dict[str, Any]) -> str:
    """Age and gender, as the caption of a picture."""
    parts = [f"{row['age']:.0f}"] if "age" in row else []
    return ", ".join([*parts, row["gender"]] if "gender" in row else parts)
