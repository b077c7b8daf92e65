"""Each data set in its layout, with its traps, gives the right labels."""

from __future__ import annotations

import datetime
import os

import pytest

from afad_tfdata import input_fn
from afad_tfdata.common import errors
from afad_tfdata.writing import source_scan
from afad_tfdata.writing.importers import imdb_wiki, importer_choice
from tests.writing.data_sets import config, rejected, write
from tests.writing.importers import layouts


def _scan(name, root, tmp_path, **flags):
    flags = {"source": name, "age_ranges": "middle", **flags}
    return source_scan.scan(config(root, tmp_path / "out", **flags))


def test_every_importer_is_tested():
    assert set(layouts.ALL) == set(importer_choice.NAMES)


@pytest.mark.parametrize("name", importer_choice.NAMES)
def test_a_data_set_gives_the_right_labels(name, tmp_path):
    wanted = layouts.ALL[name](tmp_path / "set")
    listing = _scan(name, tmp_path / "set", tmp_path)
    found = {i.key: (i.age, i.gender, i.split, i.group) for i in listing.items}
    assert found == wanted
    assert not listing.rejected
    assert listing.found == len(listing.items) + len(listing.left_out)


@pytest.mark.parametrize("other", importer_choice.NAMES)
@pytest.mark.parametrize("name", importer_choice.NAMES)
def test_a_wrong_source_is_noticed(name, other, tmp_path):
    layouts.ALL[name](tmp_path / "set")
    if name == other:
        assert importer_choice.looks_like(str(tmp_path / "set")) == name
        return
    with pytest.raises(errors.UsageError, match=f"like --source={name}") as said:
        _scan(other, tmp_path / "set", tmp_path)
    assert "\n" not in str(said.value)


def test_a_folder_of_nothing_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in importer_choice.NAMES:
        for folder in (tmp_path / "empty", tmp_path / "none"):
            with pytest.raises(errors.UsageError, match=f"--source={name} expects"):
                _scan(name, folder, tmp_path)


def test_a_data_set_without_source_is_recognised(tmp_path):
    layouts.utkface(tmp_path / "set")
    with pytest.raises(errors.UsageError, match="looks like --source=utkface"):
        write(tmp_path / "set", tmp_path / "out")


_BY_NAME = ("utkface", "agedb", "morph")


@pytest.mark.parametrize("name", _BY_NAME)
def test_linked_folders_are_refused_or_followed(name, tmp_path):
    """They were skipped, and nothing said so."""
    wanted = layouts.ALL[name](tmp_path / "set")
    (tmp_path / "set").rename(tmp_path / "disk")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "part").symlink_to(tmp_path / "disk")
    with pytest.raises(errors.UsageError, match="folder part is a link, .*--follow_li"):
        _scan(name, tmp_path / "set", tmp_path)
    (tmp_path / "disk" / "up").symlink_to(tmp_path / "set")  # A loop.
    listing = _scan(name, tmp_path / "set", tmp_path, follow_links=True)
    assert {item.key for item in listing.items} == {f"part/{key}" for key in wanted}
    assert ("part/up", "a link to a folder that is listed already") in listing.left_out


@pytest.mark.parametrize("name", _BY_NAME)
def test_a_folder_that_cannot_be_listed_is_refused(name, tmp_path, monkeypatch):
    wanted = layouts.ALL[name](tmp_path / "set")
    for folder in ("locked", ".trash"):
        (tmp_path / "set" / folder).mkdir()
    locked = [str(tmp_path / "set" / ".trash")]

    def refuse(path):
        if str(path).rstrip("/") in locked:
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", refuse)
    assert len(_scan(name, tmp_path / "set", tmp_path).items) == len(wanted)
    locked.append(str(tmp_path / "set" / "locked"))
    with pytest.raises(errors.UsageError, match="locked cannot be listed .Permission"):
        _scan(name, tmp_path / "set", tmp_path)
    locked.append(str(tmp_path / "set"))
    with pytest.raises(errors.UsageError, match="cannot list --data_dir"):
        _scan(name, tmp_path / "set", tmp_path)


@pytest.mark.parametrize("name", _BY_NAME)
def test_files_that_are_no_images_are_left_out_by_name(name, tmp_path):
    wanted = layouts.ALL[name](tmp_path / "set")
    before = _scan(name, tmp_path / "set", tmp_path).found
    for file in ("a.webp", "labels.txt", ".hidden.jpg", "Thumbs.db"):
        (tmp_path / "set" / file).write_bytes(b"x")
    listing = _scan(name, tmp_path / "set", tmp_path)
    assert len(listing.items) == len(wanted) and listing.found == before + 4
    reason = "not named .jpg, .jpeg, .jpe, .jfif or .png"
    named = [row.path for row in listing.left_out if row.reason == reason]
    assert named == ["a.webp", "labels.txt"] and listing.skipped == 2


@pytest.mark.parametrize("name", _BY_NAME)
def test_a_misnamed_image_is_rejected_with_the_form_of_the_names(
    name, tmp_path, caplog
):
    wanted = layouts.ALL[name](tmp_path / "set")
    (tmp_path / "set" / "me 2.jpg").write_bytes(b"x")
    listing = _scan(name, tmp_path / "set", tmp_path)
    assert {item.key for item in listing.items} == set(wanted)
    ((path, reason),) = listing.rejected
    assert path == "me 2.jpg" and reason.endswith(importer_choice.importer(name).LAYOUT)
    assert "its name has no labels; expected images named" in listing.first_fault
    assert f"--source={name}, me 2.jpg: {reason}" in caplog.text


@pytest.mark.parametrize(
    ("name", "pattern", "missing"),
    [
        ("fairface", "*_val.csv", ["fairface_label_val.csv"]),
        ("appa_real", "gt_avg_valid.csv", ["gt_avg_valid.csv"]),
        ("adience", "fold_0_*", [f"fold_{i}_data.txt" for i in (0, 2, 3, 4)]),
        ("megaage", "*/list/test_*.txt", ["list/test_name.txt"]),
    ],
)
def test_a_list_that_is_not_there_is_named(name, pattern, missing, tmp_path, caplog):
    layouts.ALL[name](tmp_path / "set")
    for path in (tmp_path / "set").glob(pattern):
        path.unlink()
    _scan(name, tmp_path / "set", tmp_path)
    assert all(part in caplog.text for part in (*missing, "is not there"))


def test_ranges_of_ages_need_the_flag(tmp_path):
    for name in ("fairface", "adience"):
        layouts.ALL[name](tmp_path / name)
        with pytest.raises(errors.UsageError, match="add --age_ranges=middle"):
            _scan(name, tmp_path / name, tmp_path, age_ranges="refuse")


def test_images_without_a_label_are_kept_on_request(tmp_path):
    layouts.adience(tmp_path / "set")
    listing = _scan("adience", tmp_path / "set", tmp_path, missing_labels="keep")
    assert sorted((i.age, i.gender) for i in listing.items) == [
        *((-1, 1), (1, -1), (5, -1), (29, 1), (35, 0), (80, 0))
    ]
    assert not listing.left_out


def test_appa_real_without_genders(tmp_path):
    wanted = layouts.appa_real(tmp_path / "set", genders=False)
    listing = _scan("appa_real", tmp_path / "set", tmp_path)
    assert {i.key: (i.age, i.gender, i.split, i.group) for i in listing.items} == wanted


def test_lists_that_do_not_belong_together_are_refused(tmp_path):
    layouts.megaage(tmp_path / "set")
    path = tmp_path / "set/megaage_asian/list/train_age.txt"
    path.write_text("1\n2\n")
    with pytest.raises(errors.UsageError, match="3 lines and train_age.txt has 2"):
        _scan("megaage", tmp_path / "set", tmp_path)


@pytest.mark.parametrize("content", [b"", b"MATLAB 5.0 MAT-file" + b"\0" * 200])
def test_a_damaged_mat_file_is_one_line(content, tmp_path):
    layouts.imdb_wiki(tmp_path / "set")
    (tmp_path / "set/imdb_crop/imdb.mat").write_bytes(content)
    with pytest.raises(errors.UsageError, match=r"cannot read .*imdb\.mat") as said:
        _scan("imdb_wiki", tmp_path / "set", tmp_path)
    assert "\n" not in str(said.value)


def test_ages_from_dates():
    """The photo is taken on 1 July; MATLAB counts the days from the year 0."""
    for year in (1900, 1980, 2000):
        for month, day in ((1, 1), (6, 30), (7, 1), (7, 2), (12, 31)):
            born = datetime.date(year, month, day).toordinal() + 366
            wanted = 2010 - year - ((month, day) > (7, 1))
            assert imdb_wiki.age_of(born + 0.5, 2010.0) == wanted
    for born in (-5.0, 0.0, 366.0, float("nan"), float("inf"), 1e9):
        assert imdb_wiki.age_of(born, 2010.0) is None


def test_persons_without_a_name_have_no_group(tmp_path):
    """They once were one person, so that all of their photos shared a split."""
    nan = float("nan")
    layouts.imdb_wiki(
        tmp_path / "set",
        persons=["", "  ", "Ada", "Ada", "", "", ""],
        numbers=[nan, 0, 5, nan, nan, nan, nan],
    )
    listing = _scan("imdb_wiki", tmp_path / "set", tmp_path, missing_labels="keep")
    assert [item.group for item in listing.items] == [
        *(None, None, "imdb 5", "imdb Ada"),
        *(None, None, "wiki Ada", "wiki Ada"),
    ]


def test_columns_of_different_lengths_are_refused(tmp_path):
    layouts.imdb_wiki(tmp_path / "set", numbers=[1, 2, 3])
    with pytest.raises(errors.UsageError, match=r"columns have \[3, 7\] rows"):
        _scan("imdb_wiki", tmp_path / "set", tmp_path)


def test_a_written_data_set_has_the_names_of_its_source(tmp_path):
    layouts.imdb_wiki(tmp_path / "set")
    flags = {"source": "imdb_wiki", "test_fraction": 1}
    manifest = write(tmp_path / "set", tmp_path / "out", duplicates="all", **flags)
    assert manifest.name == "imdb_wiki" and manifest.config["split_by"] == "group"
    assert manifest.class_names == ("male", "female")
    assert manifest.gender_codes == {"1": 0, "0": 1}
    assert manifest.written == 6 and manifest.rejected == 8
    reasons = list(rejected(tmp_path / "out").values())
    assert reasons.count("no face was found in it") == 2
    assert sum("second face" in reason for reason in reasons) == 2
    assert sum("no gender" in reason for reason in reasons) == 2


def test_an_age_only_data_set_is_recorded_as_such(tmp_path):
    layouts.megaage(tmp_path / "set")
    manifest = write(tmp_path / "set", tmp_path / "out", source="megaage")
    assert manifest.labels == ("age",) and manifest.written == 5
    assert manifest.splits["train"].num_without("gender") == 3
    assert os.path.exists(tmp_path / "out" / "age_gender.png")


def test_records_without_a_label_are_not_trained_on(tmp_path):
    layouts.megaage(tmp_path / "set")
    write(tmp_path / "set", tmp_path / "out", source="megaage")
    config = input_fn.InputConfig(records_dir=str(tmp_path / "out"), task="gender")
    with pytest.raises(errors.UsageError, match="needs the label 'gender'"):
        input_fn.train_input_fn(config)
