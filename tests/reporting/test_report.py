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
    assert len(notes) == 2 and all("afad-train.index.npy" in text for text in notes)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, "--records_dir or"),
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
    assert len(list(page.all("script"))) == 1
    assert str(copy) in page.text
    dom.check_numbers(page)
