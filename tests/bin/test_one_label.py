"""A source with ages or genders only passes through all the commands."""

from __future__ import annotations

import json
import pathlib

import pytest

from tests.bin import test_paths
from tests.writing.data_sets import face_file

_NETWORK = (
    *("--backbone=small_cnn", "--weights=none", "--image_size=24", "--epochs=1"),
    *("--stage=warmup", "--augment=none", "--global_batch_size=8", "--devices=cpu"),
)
# Column of the result of `afad-predict` by label, and metrics of `afad-evaluate`.
_RESULTS = {
    "age": ({"age"}, {"mae", "rmse", "cs5"}),
    "gender": ({"gender", "probability"}, {"accuracy", "auc", "confusion"}),
}


def _table(root: pathlib.Path, label: str) -> str:
    """Writes 32 images and a table that has no column for the other label."""
    rows = [f"path,{label},split"]
    for i in range(32):
        (root / f"{i}.jpg").write_bytes(face_file(i))
        value = {"age": 20 + i % 9, "gender": "mf"[i // 4 % 2]}[label]
        split = ("train", "train", "validation", "test")[i % 4]
        rows.append(f"{i}.jpg,{value},{split}")
    (root / "l.csv").write_text("\n".join(rows))
    return str(root / "l.csv")


@pytest.mark.parametrize("label", _RESULTS)
def test_a_data_set_with_one_label_passes_through_all_commands(
    label, tmp_path, monkeypatch, capfd
):
    other = {"age": "gender", "gender": "age"}[label]
    data, run, graph = (str(tmp_path / name) for name in ("data", "run", "graph"))

    def call(name, *flags, status=0):
        capfd.readouterr()
        assert test_paths.call(name, flags, monkeypatch) == status, capfd.readouterr()
        return capfd.readouterr()

    table = _table(tmp_path, label)
    small = ("--image_size=24", "--num_workers=1")
    call("write_records", f"--labels_csv={table}", f"--output_dir={data}", *small)
    call("inspect_records", f"--records_dir={data}", "--verify")
    speed = ("--seconds=0.05", "--batch_size=4", "--split=test")
    call("benchmark_input", f"--records_dir={data}", *speed)
    train = (f"--records_dir={data}", f"--run_dir={run}", *_NETWORK)
    for task in (other, "age_gender"):
        refused = call("train", *train, f"--task={task}", status=1).err
        assert f"needs the label '{other}'" in refused or "--task=gender" in refused
    call("train", *train, f"--task={label}")
    call("evaluate", f"--run_dir={run}", "--bootstrap_samples=10")
    metrics = json.loads(pathlib.Path(run, "metrics.json").read_text())
    wanted, unwanted = _RESULTS[label][1], _RESULTS[other][1]
    assert wanted <= set(metrics) and not unwanted & set(metrics)
    call("freeze", f"--model={run}", f"--output_dir={graph}", "--output_name=one")
    description = json.loads(pathlib.Path(graph, "one.json").read_text())
    assert (description["age_range"] is not None) == (label == "age")
    images = [str(tmp_path / f"{i}.jpg") for i in range(2)]
    printed = call("predict", f"--graph={graph}/one.pb", "--json", *images).out
    rows = [json.loads(line) for line in printed.splitlines()]
    assert [set(row) for row in rows] == [{"image", *_RESULTS[label][0]}] * 2
    call("cards", f"--records_dir={data}", f"--output_dir={tmp_path / 'cards'}")
    card = (tmp_path / "cards" / "data_card.md").read_text()
    assert f'InputConfig(records_dir="records", task="{label}")' in card
