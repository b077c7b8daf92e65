"""Contact sheets: size, captions, and the same bytes each time."""

from __future__ import annotations

import numpy as np
from PIL import Image

from afad_tfdata.images import contact_sheet


def test_sheets_of_large_images_stay_small(tmp_path):
    large = [np.full((1024, 1024, 3), 99, np.uint8)] * 6
    contact_sheet.draw(str(tmp_path / "s.png"), large, ["x"] * 6, columns=3)
    width, height = Image.open(tmp_path / "s.png").size
    assert width * height < 1_000_000


def test_the_same_pictures_give_the_same_bytes(tmp_path):
    pictures = [np.full((20, 20, 3), value, np.uint8) for value in (0, 90, 180)]
    captions = ["male 23", "", "a caption that is wider than its picture"]
    for name in ("one.png", "other.png"):
        contact_sheet.draw(str(tmp_path / name), pictures, captions, columns=2)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "other.png").read_bytes()
    width, height = Image.open(tmp_path / "one.png").size
    assert width < height * 1.2  # Two columns and two rows, captions included.
