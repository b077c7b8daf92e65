"""Cards of models: every number is the one in the file that it comes from."""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil

import pytest

from afad_tfdata import cards, evaluation
from afad_tfdata.common import errors, files

_OLD = pathlib.Path(__file__).parents[1] / "data" / "written_by_0_1_0"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> pathlib.Path:
    """A run that was evaluated."""
    directory = tmp_path_factory.mktemp("model") / "run"
    shutil.copytree(_OLD / "run", directory)
    evaluation.evaluate(
        evaluation.EvaluateConfig(
            run_dir=str(directory), records_dir=str(_OLD / "records"), pictures=False
        )
    )
    return directory


def _card(**config) -> str:
    result = cards.write_cards(cards.CardsConfig(**config))
    assert os.path.basename(result.paths[-1]) == "model_card.md"
    return pathlib.Path(result.paths[-1]).read_text()


def _rows(text: str) -> dict[str, list[str]]:
    """The rows of all tables by their first cell."""
    rows = [line[2:-2].split(" | ") for line in text.splitlines() if line[:2] == "| "]
    return {row[0]: row[1:] for row in rows}


def test_metrics_are_beside_their_intervals_and_the_constant(run):
    metrics = json.loads((run / "metrics.json").read_text())
    text = _card(run_dir=str(run))
    rows = _rows(text)
    for title, name in (
        ("gender: accuracy", "accuracy"),
        ("age: mean absolute error, years", "mae"),
        ("age: mean of estimate minus age, years", "bias"),
    ):
        low, high = metrics["intervals"][name]
        assert rows[title] == [
            f"{metrics[name]:.4f}",
            f"{low:.4f} to {high:.4f}",
            f"{metrics['constant'][name]:.4f}",
        ]
    for group in (metrics["by_gender"], metrics["by_age_group"]):
        for name, values in group.items():
            assert rows[name][0] == str(values["examples"])
            assert f"{values['mae']:.4f}" in rows[name]
    assert f"of {metrics['examples']} images" in text
    assert "The intervals are 95 % intervals" in text


def test_training_is_that_of_the_run(run):
    config = json.loads((run / "config.json").read_text())
    history = json.loads((run / "history.json").read_text())
    text = _card(run_dir=str(run))
    rows = _rows(text)
    assert rows["backbone"] == [config["train"]["backbone"].replace("_", r"\_")]
    assert rows["seed"] == [str(config["train"]["seed"])]
    last = history["epochs"][-1]
    assert f"{len(history['epochs'])} epochs were trained, {last['step']} steps" in text
    assert rows["loss"][0] == f"{last['train']['loss']:.4f}"
    youngest, oldest = config["model"]["min_age"], config["model"]["max_age"]
    assert f"ages from {youngest} to {oldest}" in text or "ages that it" in text


@pytest.mark.parametrize("weights", ["none", "preset"])
def test_the_weights_are_those_that_the_network_began_with(tmp_path, weights):
    """Of networks without ImageNet weights, the default of the flag is not true."""
    shutil.copytree(_OLD / "run", tmp_path / "run")
    config = json.loads((_OLD / "run" / "config.json").read_text())
    del config["checksum"]
    config["train"]["weights"] = "imagenet"
    config["model"]["weights"] = weights
    (tmp_path / "run" / "config.json").write_text(json.dumps(files.seal_json(config)))
    assert _rows(_card(run_dir=str(tmp_path / "run")))["weights"] == [weights]


def test_a_data_set_is_named_as_far_as_it_is_known(run, tmp_path):
    assert "trained on an unnamed data set: " in _card(run_dir=str(run))
    text = _card(run_dir=str(run), dataset="utkface")
    assert "trained on UTKFace: " in text and "CVPR 2017" in text
    records_dir = str(_OLD / "records")
    named = {"records_dir": records_dir, "output_dir": str(tmp_path)}
    text = _card(run_dir=str(run), title="Mine", **named)
    assert "trained on Mine: " in text


def test_a_card_is_next_to_its_graph(run, tmp_path, monkeypatch):
    shutil.copytree(_OLD / "graph", tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    (run / "model_card.md").unlink(missing_ok=True)
    _card(run_dir=str(run), graph="faces.pb")
    assert (tmp_path / "model_card.md").exists()
    assert not (run / "model_card.md").exists()


def test_a_graph_is_described_as_its_json_says(tmp_path):
    graph = json.loads((_OLD / "graph" / "faces.json").read_text())
    text = _card(graph=str(_OLD / "graph" / "faces.pb"), output_dir=str(tmp_path))
    assert graph["graph"]["sha256"] in text
    assert f"{graph['graph']['bytes']:,} bytes" in text
    for node in (*graph["feeds"], *graph["fetches"]):
        assert node["name"].replace("_", r"\_") in text
    assert "How it was trained is unknown" in text
    if not graph["metrics"]:
        assert "It was not evaluated" in text


def test_the_code_in_a_card_runs(sample_tree, tmp_path, monkeypatch, capsys):
    shutil.copytree(_OLD / "graph", tmp_path, dirs_exist_ok=True)
    text = _card(graph=str(tmp_path / "faces.pb"))
    (block,) = re.findall(r"```python\n(.*?)```", text, re.S)
    face = next(pathlib.Path(sample_tree).rglob("*.jpg"))
    shutil.copy(face, tmp_path / "face.jpg")
    monkeypatch.chdir(tmp_path)
    exec(block, {})
    assert "'image': 'face.jpg'" in capsys.readouterr().out


def test_a_run_without_an_evaluation_says_so(tmp_path):
    run = shutil.copytree(_OLD / "run", tmp_path / "run")
    text = _card(run_dir=str(run))
    assert "It was not evaluated" in text and "model-index" not in text
    (run / "history.json").unlink()
    assert "How many epochs were trained is unknown" in _card(run_dir=str(run))


def test_the_same_files_give_the_same_bytes(run, tmp_path):
    first = _card(run_dir=str(run), output_dir=str(tmp_path / "a"))
    other = shutil.copytree(run, tmp_path / "moved" / "run")
    assert _card(run_dir=str(other), output_dir=str(tmp_path / "b")) == first
    assert str(tmp_path) not in first


def test_a_graph_of_another_run_is_refused(run, tmp_path):
    changed = shutil.copytree(run, tmp_path / "run")
    for name in ("best.keras", "final.keras"):
        if (changed / name).exists():
            (changed / name).write_bytes(b"another model")
    with pytest.raises(errors.UsageError, match="does not have any more") as caught:
        cards.write_cards(
            cards.CardsConfig(
                run_dir=str(changed), graph=str(_OLD / "graph" / "faces.pb")
            )
        )
    assert "\n" not in str(caught.value)


def test_records_of_another_run_are_refused(run, sample_records, tmp_path):
    config = json.loads((run / "config.json").read_text())
    assert config.get("records_digest")
    with pytest.raises(errors.UsageError, match="not the data set that --run_dir"):
        cards.write_cards(
            cards.CardsConfig(
                run_dir=str(run), records_dir=sample_records, output_dir=str(tmp_path)
            )
        )
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("content", ["[]", '{"examples": 3, "by_gender": 7}', "{"])
def test_damaged_metrics_are_one_line(content, tmp_path):
    run = shutil.copytree(_OLD / "run", tmp_path / "run")
    (run / "metrics.json").write_text(content)
    with pytest.raises(errors.AfadError) as caught:
        cards.write_cards(cards.CardsConfig(run_dir=str(run)))
    assert "\n" not in str(caught.value)
    assert not (run / "model_card.md").exists()


def test_names_that_a_user_gives_start_no_markup(tmp_path):
    run = shutil.copytree(_OLD / "run", tmp_path / "run")
    metrics = {"by_gender": {"<b>|x": {"examples": 1, "mae": 2.0}}, "split": "`test`"}
    (run / "metrics.json").write_text(json.dumps(metrics))
    text = _card(
        run_dir=str(run), model_title="<script> | [x](y)", model_license="a\n- b"
    )
    body = text.split("---\n", 2)[2]
    assert "<script>" not in body and "<b>" not in body and "\n- b" not in body
    assert r"| \<b\>\|x | 1 |" in body
    assert "Intervals" not in body  # These metrics have no intervals.


def test_nothing_to_describe_is_one_line():
    with pytest.raises(errors.UsageError, match="name what to describe"):
        cards.CardsConfig()
    with pytest.raises(errors.UsageError, match="--with_images needs --records_dir"):
        cards.CardsConfig(run_dir="a", with_images=True)
