"""Time for a batch in the frozen graph, compared with the model's predict, on the CPU.

All run in one process and take turns within each round because rates drift on a shared
machine: compare only ratios within one run.  The graph runs in a session, as
afad-predict runs it.  The model runs by ``predict``, and by ``predict_on_batch``, which
builds no data set around the batch.

    python benchmarks/freeze.py [--backbones=VGG19,small_cnn] [--rounds=5]
"""

from __future__ import annotations

import argparse
import datetime
import functools
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np

BATCHES = (1, 8, 64)


def seconds(call: Callable[[], Any]) -> float:
    """Seconds that a call takes."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def compare(
    calls: dict[str, Callable[[], Any]], rounds: int
) -> dict[str, tuple[float, float]]:
    """By name: median milliseconds, and the median ratio to the first one."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():  # Traces, and allocates memory.
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            # The better of two: the first call after another model's finds cold caches.
            times[name].append(min(seconds(call) for _ in range(2)))
    first = next(iter(times.values()))
    return {
        name: (
            1000 * statistics.median(values),
            statistics.median(v / f for v, f in zip(values, first, strict=True)),
        )
        for name, values in times.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--backbones",
        default="VGG19,ResNet50,EfficientNetB0,MobileNetV2,small_cnn",
        help="names, separated by commas",
    )
    parser.add_argument("--image_size", type=int, default=150, help="side in pixels")
    parser.add_argument("--rounds", type=int, default=5, help="timings of each")
    flags = parser.parse_args()
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

    from afad_tfdata import models
    from afad_tfdata.common import files
    from afad_tfdata.common.lazy_imports import tf
    from afad_tfdata.freezing import build_graph, graphdef, loaded_graph, model_source
    from afad_tfdata.freezing import config as freeze_config

    cores = len(os.sched_getaffinity(0))
    print(
        f"{datetime.date.today()}, {platform.machine()}, {cores} cores, TensorFlow"
        f" {tf.__version__}, {flags.image_size} px; milliseconds for a batch, and"
        " how many times the graph's"
    )
    print(f"{'backbone':16}{'batch':>6}{'graph':>10}{'on_batch':>18}{'predict':>18}")
    size = flags.image_size
    for backbone in flags.backbones.split(","):
        config = models.ModelConfig(backbone=backbone, weights="none", image_size=size)
        source = model_source.from_model(models.build_model(config))
        nodes = dict(freeze_config.DEFAULT_NODES)
        with tempfile.NamedTemporaryFile(suffix=".pb") as f:
            graph = build_graph.build(source, nodes)
            files.write_atomic(f.name, graphdef.serialized(graph))
            frozen = loaded_graph.LoadedGraph(f.name, "root_input", nodes)
        for batch in BATCHES:
            x = np.random.default_rng(0).uniform(-1, 1, (batch, size, size, 3))
            x = x.astype(np.float32)
            model = source.owner
            predict = functools.partial(model.predict, x, batch_size=batch, verbose=0)
            found = compare(
                {
                    "graph": functools.partial(frozen.run, x),
                    "on_batch": functools.partial(model.predict_on_batch, x),
                    "predict": predict,
                },
                flags.rounds,
            )
            cells = [f"{backbone:16}{batch:6d}{found['graph'][0]:10.2f}"]
            for name in ("on_batch", "predict"):
                cells.append(f"{found[name][0]:10.2f} {found[name][1]:6.2f}x")
            print("".join(cells), flush=True)


if __name__ == "__main__":
    main()
