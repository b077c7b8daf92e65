"""The page of a data set and its models: its numbers, its texts, what it leaves out."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import shutil

import pytest

from afad_tfdata import report
from afad_tfdata.common import errors, files
from afad_tfdata.reading import index_loading
from tests.reporting import dom

_OLD = pathlib.Path(__file__).parents[1] / "data" / "written_by_0_1_0"


def write(tmp_path, **config) -> dom.Node:
    """Writes a report, and reads it."""
    output = str(tmp_path / "page.html")
    result = report.write_report(report.ReportConfig(output=output, **config))
    assert result["report"] == output
    assert result["bytes"] == os.path.getsize(output) < 5_000_000
    return dom.load(output)


def digests(directory) -> dict[str, str]:
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in pathlib.Path(directory).rglob("*")
        if path.is_file()
    }


def test_numbers_are_those_of_the_files(sample_records, tmp_path):
    run = str(_OLD / "run")
    page = write(tmp_path, records_dir=sample_records, run_dir=run)
    found = dom.check_numbers(page)
    assert found["history.json"] > 30
    assert found["config.json"] >= 3
    # Every count by age is a bar.
    manifest = json.loads(files.read_bytes(f"{sample_records}/manifest.json"))
    bars = [n for n in page.all("g") if n.attributes.get("class") == "mark"]
    counts = [
        number
        for split in manifest["splits"].values()
        for by_age in split["counts"].values()
        for number in by_age.values()
    ]
    # As bars and in a table, next to the sums.
    assert found["manifest.json"] == 2 * len(counts) + 8
    assert sorted(counts) == sorted(int(b.attributes["data-value"]) for b in bars)


def test_a_wrong_number_is_noticed(sample_records, tmp_path):
    write(tmp_path, records_dir=sample_records)
    text = (tmp_path / "page.html").read_text()
    assert ">240</data>" in text
    with pytest.raises(AssertionError):
        dom.check_numbers(dom.parse(text.replace(">240</data>", ">241</data>")))


def test_the_page_is_deterministic_and_changes_nothing(sample_records, tmp_path):
    before = digests(sample_records)
    pages = []
    for name in "ab":
        output = str(tmp_path / name)
        report.write_report(
            report.ReportConfig(records_dir=sample_records, output=output)
        )
        pages.append(files.read_bytes(output))
    assert pages[0] == pages[1]
    assert digests(sample_records) == before
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_nothing_can_be_requested(sample_records, tmp_path):
    page = write(tmp_path, records_dir=sample_records)
    (policy,) = [
        n.attributes["content"]
        for n in page.all("meta")
        if n.attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "'unsafe-inline'" not in policy.partition("script-src")[2]
    # Names of XML namespaces are the only addresses, and nobody opens them.
    text = (tmp_path / "page.html").read_text()
    assert "://" not in text.replace("file://", "")


def test_without_images_there_is_none(sample_records, tmp_path):
    page = write(tmp_path, records_dir=sample_records)
    assert len(list(page.all("img"))) == 24
    page = write(tmp_path, records_dir=sample_records, images=False)
    assert "data:image" not in (tmp_path / "page.html").read_text().replace(
        'data:image/jpeg;base64," + data.head', ""
    )
    assert not list(page.all("img"))


@pytest.mark.parametrize("name", ["records", "records_hdf5"])
def test_data_sets_of_version_0_1_0(tmp_path, name):
    before = digests(_OLD)
    page = write(tmp_path, records_dir=str(_OLD / name), run_dir=str(_OLD / "run"))
    assert dom.check_numbers(page)["manifest.json"] > 20
    assert list(page.all("img"))
    assert digests(_OLD) == before


def test_joined_data_sets_are_added(sample_records, tmp_path):
    copy = str(tmp_path / "copy")
    shutil.copytree(sample_records, copy)
    page = write(tmp_path, records_dir=f"{sample_records},{copy}")
    section = page.by_id("data")
    assert "480" in [n.text for n in section.all("data")]
    # All images are there twice.
    assert "of another record: 240;" in section.text
    assert not dom.check_numbers(page)


def test_the_reasons_of_rejected_files_are_counted(sample_records, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(sample_records, copy)
    rows = [
        {"path": "1.jpg", "reason": "same bytes as 0.jpg"},
        {"path": "2.jpg", "reason": "same bytes as 7.jpg"},
        {"path": "3.jpg", "reason": "same bytes as 0.jpg, under different labels"},
        {"path": "4.jpg", "reason": "cannot be decoded: 12 bytes"},
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (copy / "rejected.jsonl").write_text(lines)
    section = write(tmp_path, records_dir=str(copy)).by_id("data")
    (table,) = [t for t in section.all("table") if "by reason" in t.text]
    cells = [[c.text for c in r.children] for r in table.all("tr")][1:]
    assert [row[:2] for row in cells] == [
        ["same bytes as another", "2"],
        ["same bytes as another, under different labels", "1"],
        ["cannot be decoded: ... bytes", "1"],
    ]
    assert cells[0][2] == "1.jpg: same bytes as 0.jpg"


def test_each_source_has_its_licence_and_citation(sample_records, tmp_path):
    """As in the data card; the name of a data set does not say what it is from."""
    from afad_tfdata.describing import licence_and_origin

    places = []
    for source in ("utkface", "adience", ""):
        copy = tmp_path / f"from_{source}"
        shutil.copytree(sample_records, copy)
        manifest = json.loads((copy / "manifest.json").read_text())
        del manifest["checksum"]
        manifest["config"]["source"] = source
        manifest["gender_codes"] = {"m": 0, "f": 1}
        manifest["checksum"] = files.json_checksum(manifest)
        (copy / "manifest.json").write_text(json.dumps(manifest))
        places.append(str(copy))
    for shown in (places[:1], places[1:2], places[:2]):
        text = write(tmp_path, records_dir=",".join(shown)).by_id("data").text
        for source, place in zip(("utkface", "adience"), places, strict=False):
            citation = licence_and_origin.BY_SOURCE[source].citation
            assert (citation in text) == (place in shown)
    text = write(tmp_path, records_dir=places[2]).by_id("data").text
    assert "Niu" not in text and "does not say which published data set" in text
    text = write(tmp_path, records_dir=sample_records).by_id("data").text
    assert licence_and_origin.AFAD.citation in text


@pytest.mark.parametrize("content", [None, b"", b"not json", b"[1]", b'{"path": 3}'])
def test_unreadable_rejections_are_one_sentence(sample_records, tmp_path, content):
    copy = tmp_path / "copy"
    shutil.copytree(sample_records, copy)
    os.remove(copy / "rejected.jsonl")
    if content is not None:
        (copy / "rejected.jsonl").write_bytes(content)
    page = write(tmp_path, records_dir=str(copy))
    assert ("rejected.jsonl cannot be read" in page.text) == (content != b"")


def test_a_damaged_shard_or_index_is_one_sentence(sample_records, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(sample_records, copy)
    (first,) = copy.glob("afad-train.tfrecord-00000*")
    first.write_bytes(b"\0" * first.stat().st_size)
    page = write(tmp_path, records_dir=str(copy))
    lost = [n for n in page.all("span") if n.attributes.get("class") == "no-face"]
    assert 0 < len(lost) < 24
    (copy / "afad-train.index.npy").write_bytes(b"x")
    page = write(tmp_path, records_dir=str(copy))
    notes = [n.text for n in page.all("p") if n.attributes.get("class") == "note"]
    assert len(notes) == 3 and all("afad-train.index.npy" in text for text in notes)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, "--records_dir, --run_dir"),
        ({"records_dir": "/no/where"}, "/no/where/manifest.json"),
        ({"run_dir": "/no/run"}, "/no/run/config.json"),
        ({"run_dir": "a,b,c"}, "one comma"),
        ({"run_dir": "a,./a"}, "twice"),
    ],
)
def test_what_is_not_there_is_one_line(tmp_path, config, words):
    with pytest.raises(errors.UsageError) as caught:
        write(tmp_path, **config)
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    "content", [None, b"", b"[[]]", b'{"epochs": {"a": 1}, "events": 7}', b"\xff{"]
)
def test_a_damaged_run_is_shown_as_far_as_it_goes(tmp_path, content):
    run = tmp_path / "run"
    shutil.copytree(_OLD / "run", run)
    shutil.rmtree(run / "checkpoints")
    for name in ("history.json", "metrics.jsonl"):
        os.remove(run / name)
        if content is not None:
            (run / name).write_bytes(content)
    page = write(tmp_path, run_dir=str(run))
    assert "small_cnn" in page.by_id("run").text


_HOSTILE = "<script>alert(1)</script>\"'&\x1b[31m\u202e\udcff</title>"


def test_hostile_texts_are_shown_and_run_nothing(sample_records, tmp_path):
    copy = tmp_path / "a<b>'\" & c"
    shutil.copytree(sample_records, copy)
    line = {"path": _HOSTILE, "reason": f"cannot be decoded: {_HOSTILE}"}
    (copy / "rejected.jsonl").write_text(json.dumps(line) + "\n")
    run = tmp_path / "run"
    shutil.copytree(_OLD / "run", run)
    history = json.loads((run / "history.json").read_text())
    history["events"] = [{"step": 3, "kind": _HOSTILE, "text": f"$x_{_HOSTILE}"}]
    history["epochs"][0]["stage"] = _HOSTILE
    history["epochs"][0]["train"][_HOSTILE] = 1.5
    (run / "history.json").write_text(json.dumps(history))
    config = json.loads((run / "config.json").read_text())
    del config["checksum"]
    config["train"]["backbone"] = config["class_names"][0] = _HOSTILE
    config["devices"] = _HOSTILE
    (run / "config.json").write_text(json.dumps(config))
    page = write(tmp_path, records_dir=str(copy), run_dir=str(run))
    shown = errors.printable(_HOSTILE)
    assert "\\x1b" in shown and "\\u202e" in shown and "\\udcff" in shown
    texts = [n.text for n in page.by_id("run").all("dd")]
    assert shown in texts and f"{shown}, female" in texts
    assert page.text.count(shown) >= 8
    assert len(list(page.all("script"))) == 2
    assert str(copy) in page.text
    dom.check_numbers(page)


def test_an_evaluation_and_a_graph_are_shown(sample_records, evaluated_runs, tmp_path):
    run, _ = evaluated_runs
    graph = str(_OLD / "graph" / "faces.pb")
    before = digests(run)
    page = write(tmp_path, records_dir=sample_records, run_dir=run, graph=graph)
    assert digests(run) == before
    found = dom.check_numbers(page)
    assert found["metrics.json"] > 150
    assert found["faces.json"] > 30
    metrics = json.loads(files.read_bytes(f"{run}/metrics.json"))
    shown = {
        n.attributes["data-pointer"]
        for n in page.all("data")
        if n.attributes["data-file"].endswith("metrics.json")
    }
    for name in ("mae", "rmse", "cs5", "bias", "accuracy", "auc"):
        wanted = {f"/{name}", f"/intervals/{name}/0", f"/intervals/{name}/1"}
        assert wanted | {f"/constant/{name}"} <= shown
    assert {f"/confusion/{i}/{j}" for i in (0, 1) for j in (0, 1)} <= shown
    assert {f"/by_age/{age}/mae" for age in metrics["by_age"]} <= shown
    assert {f"/by_gender/{n}/mae" for n in ("male", "female")} <= shown
    assert "/age_decisions/thresholds/18/false_negative_rate" in shown
    assert "/age_interval/measured/by_gender/male/coverage" in shown
    # Every wrong face is there, with its key.
    text = page.by_id("evaluation").text
    assert len(metrics["worst"]) == 32
    assert all(row["key"] in text for row in metrics["worst"])
    assert len(list(page.by_id("evaluation").all("img"))) == 32
    graph_text = page.by_id("graph").text
    for word in ("root_input", "gender_output/Sigmoid", "probability of female"):
        assert word in graph_text


def test_the_faces_are_those_of_the_keys(sample_records, evaluated_runs, tmp_path):
    from afad_tfdata.reporting import page_faces

    metrics = json.loads(files.read_bytes(f"{evaluated_runs[0]}/metrics.json"))
    rows = sorted({row["row"] for row in metrics["worst"]})
    faces = page_faces.read_rows(sample_records, "test", rows)
    keys = {face.record: face.key for face in faces}
    assert all(keys[row["row"]] == row["key"] for row in metrics["worst"])
    # In several data sets read as one, the numbers of rows continue.
    copy = str(tmp_path / "copy")
    shutil.copytree(sample_records, copy)
    total = json.loads(files.read_bytes(f"{copy}/manifest.json"))["splits"]["test"]
    more = [row + total["num_examples"] for row in rows]
    both = page_faces.read_rows(f"{sample_records},{copy}", "test", [*rows, *more])
    assert [f.key for f in both] == [keys[row] for row in rows] * 2


def test_the_evaluation_of_another_data_set_shows_keys_only(evaluated_runs, tmp_path):
    page = write(tmp_path, records_dir=str(_OLD / "records"), run_dir=evaluated_runs[0])
    section = page.by_id("evaluation")
    assert "is not the data set that was evaluated" in section.text
    assert not list(section.all("img"))
    metrics = json.loads(files.read_bytes(f"{evaluated_runs[0]}/metrics.json"))
    assert all(row["key"] in section.text for row in metrics["worst"])


def test_a_run_without_evaluation_says_so(tmp_path):
    page = write(tmp_path, run_dir=str(_OLD / "run"))
    assert "afad-evaluate --run_dir=" in page.by_id("evaluation").text


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"mae": "x", "by_age": [1], "confusion": [[1], 2]}']
)
def test_damaged_metrics_are_one_sentence(tmp_path, content):
    run = tmp_path / "run"
    shutil.copytree(_OLD / "run", run)
    (run / "metrics.json").write_text(content)
    page = write(tmp_path, run_dir=str(run))
    notes = [n for n in page.by_id("evaluation").all("p")]
    assert any("metrics" in n.text or "evaluation" in n.text for n in notes)


@pytest.mark.parametrize("damage", ["json", "no json", "graph"])
def test_a_damaged_graph_is_one_sentence(tmp_path, damage):
    graph = tmp_path / "graph"
    shutil.copytree(_OLD / "graph", graph)
    if damage == "json":
        (graph / "faces.json").write_text('{"format": 3}')
    elif damage == "no json":
        os.remove(graph / "faces.json")
    else:
        (graph / "faces.pb").write_bytes(b"x")
    page = write(tmp_path, graph=str(graph / "faces.pb"))
    assert "faces." in page.by_id("graph").text
    (note,) = [n for n in page.all("p") if n.attributes.get("class") == "note"]
    assert "freeze" in note.text


def test_hostile_labels_of_a_graph_are_shown(tmp_path):
    graph = tmp_path / "graph"
    shutil.copytree(_OLD / "graph", graph)
    description = json.loads((graph / "faces.json").read_text())
    del description["checksum"]
    description["class_names"] = [_HOSTILE, "b"]
    description["feeds"][0]["name"] = description["fetches"][0]["name"] = _HOSTILE
    (graph / "faces.json").write_text(json.dumps(description))
    page = write(tmp_path, graph=str(graph / "faces.pb"))
    assert page.text.count(errors.printable(_HOSTILE)) >= 3
    assert len(list(page.all("script"))) == 1


def test_hostile_keys_and_groups_of_an_evaluation_are_shown(evaluated_runs, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(evaluated_runs[0], run)
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["worst"][0]["key"] = metrics["model"] = metrics["split"] = _HOSTILE
    metrics["class_names"] = [_HOSTILE, "b"]
    metrics["by_gender"] = {_HOSTILE: metrics["by_gender"]["male"]}
    challenge = metrics["age_decisions"]["challenge"]
    challenge[_HOSTILE] = challenge.pop("18")
    (run / "metrics.json").write_text(json.dumps(metrics))
    page = write(tmp_path, run_dir=str(run))
    assert page.text.count(errors.printable(_HOSTILE)) >= 6
    assert len(list(page.all("script"))) == 1
    dom.check_numbers(page)


def test_two_runs_are_compared(sample_records, evaluated_runs, tmp_path):
    page = write(tmp_path, run_dir=",".join(evaluated_runs))
    found = dom.check_numbers(page)
    assert found["metrics.json"] > 200 and found["history.json"] > 60
    section = page.by_id("comparison")
    (table,) = [t for t in section.all("table") if "Metrics on the test" in t.text]
    rows = {r.children[0].text: [c.text for c in r.children] for r in table.all("tr")}
    first, second = (
        json.loads(files.read_bytes(f"{run}/metrics.json")) for run in evaluated_runs
    )
    mae = rows["Age: mean absolute error, years"]
    assert mae[1:3] == [f"{first['mae']:.4f}", f"{second['mae']:.4f}"]
    assert float(mae[3]) == pytest.approx(second["mae"] - first["mae"], abs=6e-5)
    low, high = (float(v) for v in mae[4].strip("[]").split(","))
    assert low <= float(mae[3]) <= high
    # The second run's ages are moved by 3 years: the biases surely differ.
    bias = rows["Age: mean of prediction minus label, years"]
    low, high = (float(v) for v in bias[4].strip("[]").split(","))
    assert 0 < low <= high
    options = {r.children[0].text for r in section.all("tr")}
    assert "mean" not in options
    # The curves of both runs are in one chart.
    mine = [n for n in section.all("use") if n.attributes.get("class") == "mark"]
    assert {n.attributes["data-file"] for n in mine} == {
        f"{run}/history.json" for run in evaluated_runs
    }


def test_runs_on_other_examples_get_no_paired_intervals(evaluated_runs, tmp_path):
    runs = [str(tmp_path / name) for name in "ab"]
    for run, source in zip(runs, evaluated_runs, strict=True):
        shutil.copytree(source, run)
    path = pathlib.Path(runs[1]) / "metrics.json"
    metrics = json.loads(path.read_text())
    metrics["predictions"]["rows"] = "other"
    path.write_text(json.dumps(metrics))
    text = write(tmp_path, run_dir=",".join(runs)).by_id("comparison").text
    assert "different records of the split" in text
    (pathlib.Path(runs[1]) / "predictions.npy").write_bytes(b"x")
    text = write(tmp_path, run_dir=",".join(runs)).by_id("comparison").text
    assert "does not belong to the metrics" in text
    path.unlink()
    text = write(tmp_path, run_dir=",".join(runs)).by_id("comparison").text
    assert f"{runs[1]} has no evaluation" in text


def test_classes_in_the_other_order_are_compared(evaluated_runs, tmp_path):
    """A run whose labels are swapped is as good as the same run before that."""
    import numpy as np

    from afad_tfdata.evaluating import stored_predictions
    from afad_tfdata.reporting import comparison_section, json_values

    run = evaluated_runs[0]
    metrics = json.loads(files.read_bytes(f"{run}/metrics.json"))
    columns = stored_predictions.load(run, metrics["predictions"])
    swapped = dict(columns)
    swapped["gender"] = 1 - columns["gender"]
    swapped["label_gender"] = 1 - columns["label_gender"]
    entry = stored_predictions.store(
        str(tmp_path), swapped, rows=metrics["predictions"]["rows"]
    )
    other = {**metrics, "class_names": ["female", "male"], "predictions": entry}
    found = comparison_section._paired_intervals(
        [run, str(tmp_path)], [json_values.Json(metrics), json_values.Json(other)]
    )
    assert found["mae"] == [0, 0]
    np.testing.assert_allclose(found["accuracy"], 0, atol=1e-6)


def viewer(page: dom.Node) -> dict:
    return json.loads(page.by_id("faces-data").text)


def test_the_viewer_knows_every_face(sample_records, tmp_path):
    import base64

    from afad_tfdata.images import codec

    data = viewer(write(tmp_path, records_dir=sample_records))
    assert len(data["faces"]) == 240
    face = data["faces"][77]
    split = data["splits"][face["split"]]
    index = index_loading.load_split(sample_records, split)
    entry = index.entries[face["record"]]
    assert face["key"] == index.filename(face["record"])
    assert (face["age"], face["gender"]) == (entry["age"], entry["gender"])
    assert int(face["crc32"], 16) == entry["crc32"]
    assert data["shards"][face["shard"]] in os.path.basename(
        index.paths[entry["shard"]]
    )
    assert index.rows_in_shards()[face["record"]] == face["position"]
    keys = {f["key"] for f in data["faces"]}
    assert len(keys) == 240
    # The image is the record's, reduced.
    with open(index.paths[entry["shard"]], "rb") as file:
        file.seek(int(entry["image_offset"]))
        content = file.read(int(entry["image_length"]))
    assert hashlib.sha256(content).hexdigest() == face["sha256"]
    picture = codec.decode(base64.b64decode(data["head"] + face["image"]), stored=True)
    wanted = codec.resize(codec.decode(content, stored=True), 64, antialias=True)
    assert abs(picture.astype(float) - wanted).mean() < 12


@pytest.mark.parametrize("limit", [0, 1, 50])
def test_the_number_of_thumbnails_is_bounded(sample_records, tmp_path, limit):
    page = write(tmp_path, records_dir=sample_records, thumbnails=limit)
    if not limit:
        assert "faces-data" not in (tmp_path / "page.html").read_text()[:2000]
        assert not [n for n in page.all("script") if n.attributes.get("id")]
        return
    data = viewer(page)
    assert len(data["faces"]) == limit
    assert all(face["image"] for face in data["faces"])


def test_suspicious_labels_come_first(sample_records, evaluated_runs, tmp_path):
    import numpy as np

    page = write(
        tmp_path,
        records_dir=sample_records,
        evaluation_dir=evaluated_runs[0],
        sort="suspicious",
        thumbnails=10,
    )
    data = viewer(page)
    from afad_tfdata.evaluating import stored_predictions

    metrics = json.loads(files.read_bytes(f"{evaluated_runs[0]}/metrics.json"))
    columns = stored_predictions.load(evaluated_runs[0], metrics["predictions"])
    score = np.minimum(abs(columns["age"] - columns["label_age"]) / 20, 1)
    score += abs(columns["gender"] - columns["label_gender"])
    assert [f["record"] for f in data["faces"]] == np.argsort(-score)[:10].tolist()
    first = data["faces"][0]
    assert first["said_age"] == pytest.approx(columns["age"][first["record"]], abs=1e-3)
    assert first["gender_error"] == pytest.approx(
        abs(columns["gender"] - columns["label_gender"])[first["record"]], abs=1e-3
    )


def test_a_model_predicts_what_was_not_evaluated(
    sample_records, evaluated_runs, tmp_path
):
    data = viewer(
        write(
            tmp_path,
            records_dir=sample_records,
            run_dir=evaluated_runs[0],
            sort="suspicious",
        )
    )
    splits = {data["splits"][face["split"]] for face in data["faces"]}
    assert splits == {"train", "validation", "test"}
    assert all("said_age" in face for face in data["faces"])


def test_hostile_class_names_of_the_viewer_are_texts(sample_records, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(sample_records, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    del manifest["checksum"]
    hostile = "</script><script>alert(1)</script>"
    manifest["class_names"] = [hostile, "b"]
    manifest["gender_codes"] = {"1": 0, "2": 1}
    for split in manifest["splits"].values():
        split["counts"] = {
            {"male": hostile, "female": "b"}[n]: v for n, v in split["counts"].items()
        }
    manifest["checksum"] = files.json_checksum(manifest)
    (copy / "manifest.json").write_text(json.dumps(manifest))
    page = write(tmp_path, records_dir=str(copy))
    assert viewer(page)["classes"] == [hostile, "b"]
    assert len(list(page.all("script"))) == 2
    dom.check_numbers(page)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"records_dir": "r", "sort": "suspicious"}, "name both"),
        ({"records_dir": "r", "run_dir": "a,b", "sort": "suspicious"}, "one run"),
        ({"records_dir": "r", "thumbnails": -1}, "--thumbnails"),
        ({"records_dir": "r", "sort": "best"}, "--sort"),
        ({"run_dir": "a,b", "evaluation_dir": "c"}, "--evaluation_dir"),
    ],
)
def test_flags_that_contradict_each_other_are_one_line(config, words):
    with pytest.raises(errors.UsageError, match=words):
        report.ReportConfig(**config)


@pytest.mark.parametrize("columns", ["age", "gender", "both"])
def test_labels_that_are_not_there(sample_tree, tmp_path, columns):
    """A data set of one label, and one whose records lack some."""
    from afad_tfdata import records

    names = sorted(pathlib.Path(sample_tree).rglob("*.jpg"))[:60]
    lines = ["path" + (",age,gender" if columns == "both" else f",{columns}")]
    for i, path in enumerate(names):
        age, code = path.parts[-3:-1]
        gender = {"111": "male", "112": "female"}[code]
        row = {
            "age": [age],
            "gender": [gender],
            "both": [age if i % 3 else "", gender if i % 3 != 1 else ""],
        }
        lines.append(",".join([str(path.relative_to(sample_tree)), *row[columns]]))
    (tmp_path / "faces.csv").write_text("\n".join(lines) + "\n")
    out = tmp_path / "out"
    records.write_records(
        records.WriteConfig(
            labels_csv=str(tmp_path / "faces.csv"),
            data_dir=sample_tree,
            output_dir=str(out),
            image_size=16,
            num_workers=1,
            missing_labels="keep" if columns == "both" else "refuse",
        )
    )
    page = write(tmp_path, records_dir=str(out))
    assert dom.check_numbers(page)
    faces = viewer(page)["faces"]
    assert len(faces) == 60
    text = page.by_id("data").text
    if columns == "gender":
        assert "No face of this data set has an age." in text
        assert {face["age"] for face in faces} == {-1}
    else:
        assert sum(face["age"] < 0 for face in faces) == (
            20 if columns == "both" else 0
        )
    if columns == "both":
        assert sum(face["gender"] < 0 for face in faces) == 20
        assert "(no gender)" in text and "without age" in text
        options = [n.text for n in page.by_id("filter").all("option")]
        assert "no gender" in options
