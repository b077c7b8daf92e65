"""History: trimming, the picture, the lines that are cut back."""

import json

import pytest

from afad_tfdata.training import (
    epoch_metrics,
    history,
    metrics_log,
    step,
    tensorboard_events,
)


def row(epoch, **more):
    return {
        "epoch": epoch,
        "stage": "warmup",
        "step": epoch * 10,
        "learning_rate": 1e-3,
        "train": {"loss": 1.0 / epoch, "accuracy": 0.5},
        "validation": {"loss": 1.1 / epoch, "accuracy": 0.4},
        **more,
    }


def test_a_restart_forgets_the_epochs_after_it_and_stays_marked(tmp_path):
    found = history.History([row(e) for e in range(1, 6)])
    found.event(20, "restart", "from epoch 2 at 1e-4")
    found.trim(2)
    found.save(str(tmp_path))
    stored = json.loads((tmp_path / history.JSON_NAME).read_text())
    assert [r["epoch"] for r in stored["epochs"]] == [1, 2]
    assert stored["events"][0]["text"] == "from epoch 2 at 1e-4"
    assert (tmp_path / history.PICTURE_NAME).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "rows, events",
    [
        ([row(1)], [(0, "stage"), (5, "recovery"), (10, "restart")]),
        ([row(1, validation={})], []),
        ([row(1, train={"loss": float("nan"), "mae": 3.0}, validation={})], []),
    ],
)
def test_odd_histories_are_drawn(tmp_path, rows, events):
    found = history.History(rows)
    for at, kind in events:
        found.event(at, kind, kind)
    found.draw(str(tmp_path / "a.png"))
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_lines_after_a_step_and_a_torn_one_are_cut(tmp_path):
    for at in (5, 10, 15):
        metrics_log.append_line(str(tmp_path), {"step": at, "loss": 0.5})
    path = tmp_path / metrics_log.LINES_NAME
    with path.open("a") as f:
        f.write('{"step": 3, "lo')
    metrics_log.cut_lines(str(tmp_path), 10)
    assert [json.loads(x)["step"] for x in path.read_text().splitlines()] == [5, 10]
    metrics_log.append_line(str(tmp_path), {"step": 11})
    assert json.loads(path.read_text().splitlines()[-1]) == {"step": 11}
    metrics_log.cut_lines(str(tmp_path / "missing"), 10)


@pytest.mark.latest
def test_events_after_a_step_and_a_torn_one_are_cut(tmp_path):
    directory = str(tmp_path / "train")
    for at in (5, 10, 15):
        tensorboard_events.append(directory, at, {"loss": at / 10, "rate": 1e-3})
    (path,) = (tmp_path / "train").iterdir()
    with path.open("ab") as f:
        f.write(b"torn")
    tensorboard_events.cut(directory, 10)
    tensorboard_events.append(directory, 11, {"loss": 1.1})
    read = tensorboard_events.read(directory)
    assert [at for at, _ in read] == [5, 10, 11]
    assert read[0][1] == pytest.approx({"loss": 0.5, "rate": 1e-3})
    tensorboard_events.cut(str(tmp_path / "missing"), 10)


def test_means_divide_by_examples_and_rename():
    sums = dict(zip(step.SUMS, [4, 8.0, 2.0, 6.0, 12.0, 3, 4, 4], strict=True))
    means = epoch_metrics.means_of_sums([sums[name] for name in step.SUMS])
    assert means == {
        "loss": 2.0,
        "age_loss": 0.5,
        "gender_loss": 1.5,
        "mae": 3.0,
        "accuracy": 0.75,
    }


def test_what_is_drawn(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(
        history.figures, "save", lambda path, figure: figures.append(figure)
    )
    found = history.History([row(1), row(2, validation={}), row(3)])
    found.event(20, "restart", "again")
    found.draw(str(tmp_path / "a.png"))
    panels = figures[0].axes
    assert [panel.get_title() for panel in panels] == ["loss", "gender: accuracy"]
    drawn = {
        line.get_label(): line.get_xydata().tolist()
        for line in panels[0].lines
        if not line.get_label().startswith("_")
    }
    assert drawn == {
        "train": [[1, 1.0], [2, 0.5], [3, pytest.approx(1 / 3)]],
        "validation": [[1, 1.1], [3, pytest.approx(1.1 / 3)]],
    }
    (mark,) = (line for line in panels[0].lines if line.get_label().startswith("_"))
    assert list(mark.get_xdata()) == [2.5, 2.5]
