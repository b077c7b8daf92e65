#!/usr/bin/env python3
"""Other loaders for input.py: FFCV, DALI, and torchvision with PyTorch's DataLoader.

    benchmarks/input_peers.py DIRECTORY    writes FFCV's files of the data sets there

The interpreter of ``input.py --peers_python`` runs this file.  It needs numpy and what
it measures of ffcv, nvidia-dali, torch with torchvision, and simplejpeg and OpenCV for
this package's records.  TensorFlow is not used.

All read the same images in a random order of the whole data set (DALI: of a buffer of
10,000), with two threads or two processes.  FFCV stores the same JPEG bytes, and copies
them or pixels into batches of its own.  FFCV and DALI decode with the fast DCT.
"""

from __future__ import annotations

import glob
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

SIZE, WORKERS, BUFFER = 150, 2, 10_000


def main(place: str) -> None:
    """Writes what FFCV reads: the stored JPEGs, those at size, and pixels."""
    try:
        from ffcv import fields, writer
        from ffcv.fields import rgb_image
    except ImportError:
        return
    import simplejpeg

    from afad_tfdata.reading import index_loading, memory_store

    class Stored:
        """The images of a data set; the encoder gets their bytes from here."""

        encoded = np.empty(0, np.uint8)

        def __init__(self, form: str) -> None:
            index = index_loading.load_split(os.path.join(place, form), "train")
            self.images = list(memory_store.stored_images(index))
            self.ages, self.raw = index.entries["age"].tolist(), bool(index.pixel)

        def __len__(self) -> int:
            return len(self.images)

        def __getitem__(self, number: int) -> tuple[np.ndarray, int]:
            Stored.encoded = np.frombuffer(self.images[number], np.uint8)
            if self.raw:
                image = Stored.encoded.reshape(SIZE, SIZE, 3)
            else:
                image = simplejpeg.decode_jpeg(self.images[number], "RGB")
            return image, self.ages[number]

    # FFCV would decode and encode JPEGs again, and read other images than the others.
    rgb_image.encode_jpeg = lambda image, quality: Stored.encoded
    for form in ("original", "jpeg", "raw"):
        path = _beton(place, form)
        if os.path.exists(path):
            continue
        images = Stored(form)
        mode = "raw" if images.raw else "jpg"
        described = {
            "image": fields.RGBImageField(write_mode=mode),
            "age": fields.IntField(),
        }
        writer.DatasetWriter(
            f"{path}.part", described, num_workers=1
        ).from_indexed_dataset(images)
        os.replace(f"{path}.part", path)


def _beton(place: str, form: str) -> str:
    return os.path.join(place, f"ffcv_{form}.beton")


def ffcv(place: str, form: str, batch_size: int) -> Iterator[int]:
    from ffcv import loader, transforms
    from ffcv.fields import basics, decoders

    decoder = decoders.SimpleRGBImageDecoder()
    if form == "original":
        decoder = decoders.CenterCropRGBImageDecoder((SIZE, SIZE), ratio=1)
    batches = loader.Loader(
        _beton(place, form),
        batch_size=batch_size,
        num_workers=WORKERS,
        os_cache=True,
        order=loader.OrderOption.RANDOM,
        pipelines={
            "image": [decoder, transforms.ToTensor()],
            "age": [basics.IntDecoder(), transforms.ToTensor()],
        },
    )
    while True:
        for images, _ in batches:
            yield len(images)


def dali(place: str, form: str, batch_size: int) -> Iterator[int]:
    from nvidia.dali import fn, pipeline_def, tfrecord, types

    shards = sorted(glob.glob(os.path.join(place, form, "*-train.tfrecord-*")))

    @pipeline_def(batch_size=batch_size, num_threads=WORKERS, device_id=None)
    def faces() -> Any:
        found = fn.readers.tfrecord(
            path=shards,
            index_path=[path.replace(".tfrecord-", ".idx-") for path in shards],
            features={
                "image/encoded": tfrecord.FixedLenFeature((), tfrecord.string, ""),
                "label/age": tfrecord.FixedLenFeature([1], tfrecord.int64, 0),
            },
            random_shuffle=True,
            initial_fill=BUFFER,
            name="reader",
        )
        images = fn.decoders.image(found["image/encoded"], device="cpu")
        if form == "original":
            # The fastest of its ways to resize.
            images = fn.resize(images, size=(SIZE, SIZE), interp_type=types.INTERP_NN)
        return images, found["label/age"]

    pipeline = faces()
    pipeline.build()
    while True:
        images, _ = pipeline.run()
        yield len(np.asarray(images.as_array()))


def image_folder(place: str, form: str, batch_size: int) -> Iterator[int]:
    del form
    import torch
    from torchvision import datasets, transforms

    faces = datasets.ImageFolder(
        os.path.join(place, "by_class"),
        transforms.Compose([transforms.Resize((SIZE, SIZE)), transforms.PILToTensor()]),
    )
    loader = torch.utils.data.DataLoader(
        faces,
        batch_size,
        shuffle=True,
        num_workers=WORKERS,
        drop_last=True,
        persistent_workers=True,
    )
    while True:
        for images, _ in loader:
            yield len(images)


def open_records(place: str, form: str, batch_size: int) -> Iterator[int]:
    """This package through PyTorch's DataLoader."""
    import torch

    from afad_tfdata import input_fn

    faces = input_fn.open_records(os.path.join(place, form), "train", keys=False)
    batches = input_fn.Batches(len(faces), batch_size)
    loader = torch.utils.data.DataLoader(
        faces, batch_size=None, sampler=batches, num_workers=WORKERS
    )
    for batch in loader:
        yield len(batch["image"])


_Make = Callable[[str, str, int], Iterator[int]]
CONTESTANTS: dict[str, tuple[_Make, str, str]] = {
    "original: FFCV": (ffcv, "original", "ffcv"),
    "original: DALI, nearest": (dali, "original", "nvidia.dali"),
    "original: ImageFolder": (image_folder, "original", "torchvision"),
    "original: open_records in PyTorch": (open_records, "original", "torch"),
    "at size: FFCV": (ffcv, "jpeg", "ffcv"),
    "at size: DALI": (dali, "jpeg", "nvidia.dali"),
    "at size: open_records in PyTorch": (open_records, "jpeg", "torch"),
    "raw: FFCV": (ffcv, "raw", "ffcv"),
    "raw: open_records in PyTorch": (open_records, "hdf5", "torch"),
}


def import_library(name: str) -> None:
    """Imports what a contestant needs, so that its first batch does not pay for it."""
    importlib.import_module(CONTESTANTS[name][2])


def batches(name: str, place: str, batch_size: int) -> Iterator[int]:
    """Yields the number of images in each batch of a contestant."""
    make, form, _ = CONTESTANTS[name]
    return make(place, form, batch_size)


if __name__ == "__main__":
    main(sys.argv[1])
