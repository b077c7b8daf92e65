"""The file of corrections: whose entry it has, and what is refused."""

import json

import pytest

from afad_tfdata.common import errors
from afad_tfdata.models import corrections_file


def test_an_entry_belongs_to_one_very_file(tmp_path):
    best, final = tmp_path / "best.keras", tmp_path / "final.keras"
    best.write_bytes(b"one")
    final.write_bytes(b"two")
    directory = str(tmp_path)
    assert corrections_file.load_entry(directory, str(best)) is None
    path = corrections_file.store_entry(
        directory, str(best), {"age_interval": {"coverage": 0.9}}
    )
    corrections_file.store_entry(directory, str(final), {"age_interval": None})
    got = corrections_file.load_entry(directory, str(best))
    assert got["age_interval"] == {"coverage": 0.9}
    best.write_bytes(b"trained on")
    assert corrections_file.load_entry(directory, str(best)) is None
    assert corrections_file.load_entry(directory, str(final))["age_interval"] is None
    with open(path) as file:
        value = json.load(file)
    value["models"]["final.keras"]["age_interval"] = {"coverage": 0.1}
    with open(path, "w") as file:
        json.dump(value, file)
    with pytest.raises(errors.DataError, match="calibration.json was changed"):
        corrections_file.load_entry(directory, str(final))


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"format": "afad_tfdata calibration"}', "\x00"]
)
def test_a_damaged_file_is_one_line(tmp_path, content):
    (tmp_path / "m.keras").write_bytes(b"one")
    (tmp_path / "calibration.json").write_text(content)
    with pytest.raises(errors.AfadError, match="calibration.json.*remove it"):
        corrections_file.load_entry(str(tmp_path), str(tmp_path / "m.keras"))


def test_a_saved_model_is_known_by_all_its_files(tmp_path):
    model = tmp_path / "model"
    (model / "variables").mkdir(parents=True)
    (model / "saved_model.pb").write_bytes(b"graph")
    (model / "variables" / "data").write_bytes(b"weights")
    corrections_file.store_entry(
        str(tmp_path), str(model) + "/", {"age_interval": None}
    )
    assert corrections_file.load_entry(str(tmp_path), str(model)) is not None
    (model / "variables" / "data").write_bytes(b"others")
    assert corrections_file.load_entry(str(tmp_path), str(model)) is None
