"""From encoded bytes to a model's input: every way gives the same pixels."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from afad_tfdata.images import codec, tensor_preprocessing


@pytest.fixture(scope="module")
def jpeg() -> bytes:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (9, 7, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(coarse).resize((63, 91)).save(out, "JPEG", quality=90)
    return out.getvalue()


@pytest.mark.latest
@pytest.mark.parametrize("size", [24, 63, 150])
def test_same_pixels_as_without_tensorflow(jpeg, size):
    found = tensor_preprocessing.decode_and_resize(jpeg, size).numpy().astype(int)
    wanted = codec.resize(codec.decode(jpeg), size).astype(int)
    assert found.shape == (size, size, 3)
    assert np.abs(found - wanted).max() <= 1


def test_decoding_is_the_accurate_one(jpeg):
    decoded = np.asarray(Image.open(io.BytesIO(jpeg)))  # PIL uses the accurate DCT.
    square = decoded[:63]
    out = io.BytesIO()
    Image.fromarray(square).save(out, "JPEG", quality=95)
    found = tensor_preprocessing.decode_and_resize(
        out.getvalue(), 63, stored_size=63
    ).numpy()
    assert (found == np.asarray(Image.open(out))).all()


def test_png_is_decoded_too():
    pixels = np.random.default_rng(1).integers(0, 256, (20, 20, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    assert (
        tensor_preprocessing.decode_and_resize(out.getvalue(), 20).numpy() == pixels
    ).all()


def test_normalize_has_the_range_that_models_expect():
    image = np.zeros((2, 4, 4, 3), np.uint8)
    image[1] = 255
    found = tensor_preprocessing.normalize(image, (10.0, 127.5, 255.0)).numpy()
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[0, 0, 0], [-10 / 127.5, -1, -2], rtol=1e-6)
    np.testing.assert_allclose(found[1, 0, 0], [245 / 127.5, 1, 0], rtol=1e-6)
