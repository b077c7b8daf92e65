"""What a frozen graph of any format returns for images that were read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from afad_tfdata.common import errors
from afad_tfdata.freezing import export_formats, loaded_graph
from afad_tfdata.images import codec
from afad_tfdata.models import output_checks
from afad_tfdata.predicting import image_reader


def open_graph(
    graph_path: str, description: dict[str, Any], device: str
) -> tuple[str, loaded_graph.LoadedGraph]:
    """Opens a graph to predict with.

    Returns:
      What it is fed, ``normalized``, ``bytes`` or ``pixels``, and the graph.
    """
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


def run_batch(
    graph: loaded_graph.LoadedGraph, kind: str, loaded: list[image_reader.LoadedImage]
) -> Iterator[tuple[image_reader.LoadedImage, dict[str, float]]]:
    """Predicts a batch: its images in order, each with the graph's outputs."""
    good = [item for item in loaded if not (item.error or item.is_empty)]
    # Pixels of different sizes cannot be one array: they are run one by one.
    whole = kind == "normalized" or (
        kind == "pixels" and len({item.value.shape for item in good}) == 1
    )
    results: list[dict[str, float] | str] = []
    if whole and good:
        results += _outputs_by_image(graph.run(np.stack([item.value for item in good])))
    elif kind == "pixels":
        for item in good:
            results += _outputs_by_image(graph.run(item.value[np.newaxis]))
    elif good:
        results = _run_encoded(graph, [item.value for item in good])
    by_path = iter(results)
    for item in loaded:
        outputs = {} if item.error or item.is_empty else next(by_path)
        if isinstance(outputs, str):
            item, outputs = item._replace(error=outputs), {}
        yield item, outputs


def _run_encoded(
    graph: loaded_graph.LoadedGraph, encoded: list[bytes]
) -> list[dict[str, float] | str]:
    """The graph's outputs for encoded images, or why it cannot decode one.

    The graph refuses a whole batch for one bad image and does not say which one, so
    that the batch is halved until the bad image is alone.
    """
    try:
        return [*_outputs_by_image(graph.run(encoded))]
    except loaded_graph.GraphInputError as error:
        if len(encoded) == 1:
            return [_why_not_decoded(encoded[0], error)]
        middle = len(encoded) // 2
        return [
            *_run_encoded(graph, encoded[:middle]),
            *_run_encoded(graph, encoded[middle:]),
        ]


def _why_not_decoded(data: bytes, error: loaded_graph.GraphInputError) -> str:
    """Why a graph cannot decode an image to predict, in the words of `codec`."""
    try:
        codec.decode(data, codec.read_header(data))
    except codec.ImageError as reason:
        return str(reason)
    return f"cannot be decoded: {errors.one_line(error)}"


def _outputs_by_image(outputs: dict[str, np.ndarray]) -> list[dict[str, float]]:
    """A graph's outputs for a batch of images to predict, image by image."""
    flat = {label: np.reshape(v, -1).tolist() for label, v in outputs.items()}
    return [
        dict(zip(flat, row, strict=True)) for row in zip(*flat.values(), strict=True)
    ]


def fault_of_outputs(outputs: dict[str, float]) -> str:
    """Why a graph's outputs for an image to predict mean nothing; empty if they do."""
    found = [output_checks.fault(label, value) for label, value in outputs.items()]
    return next((reason for reason in found if reason), "")
