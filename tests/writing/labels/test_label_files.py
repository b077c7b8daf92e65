"""Label files as pandas, Excel and data sets write them: right labels, or one line."""

from __future__ import annotations

import bz2
import datetime
import gzip
import io
import json
import logging
import lzma
import os
import pathlib
import pickle
import re
import zipfile

import pytest

from afad_tfdata.common import errors
from afad_tfdata.writing.labels import cell_values, label_scan
from tests.writing.data_sets import face_file, rejected, write

# The images of every case, with the labels that each file below gives them.
_FACES = {
    "a.jpg": (25, 0),
    "b.jpg": (30, 1),
    "deep/c d.jpg": (41, 1),
    "deep/caf\u00e9.jpg": (8, 0),
}
_CODES = "111:male,112:female"
_NUMBERS = "0:male,1:female"


def _table(
    *,
    header=("path", "age", "gender"),
    ages=("25", "30", "41", "8"),
    genders=("111", "112", "112", "111"),
    paths=tuple(_FACES),
    separator=",",
    end="\n",
    extra=(),
) -> str:
    """A text with one row for each of `_FACES`."""
    rows = [header, *zip(paths, ages, genders, *extra, strict=True)]
    return "".join(
        separator.join(f'"{c}"' if separator in c else c for c in row) + end
        for row in rows
    )


# Name: (file name, content, --gender_codes, --age_ranges).
_WORDS = ("male", "female", "female", "male")
_GOOD = {
    "plain": ("l.csv", _table(), _CODES),
    "spreadsheet": (
        "l.csv",
        b"\xef\xbb\xbf" + _table(separator=";", end="\r\n").encode(),
        _CODES,
    ),
    "spreadsheet names its separator": (
        "l.csv",
        "sep=;\r\n" + _table(separator=";", end="\r\n"),
        _CODES,
    ),
    "unicode text of a spreadsheet": (
        "l.txt",
        _table(separator="\t", end="\r\n").encode("utf-16"),
        _CODES,
    ),
    "utf-16 without a mark": ("l.csv", _table().encode("utf-16-le"), _CODES),
    "utf-16 big-endian": (
        "l.csv",
        b"\xfe\xff" + _table().encode("utf-16-be"),
        _CODES,
    ),
    "latin-1": ("l.csv", _table().encode("latin-1"), _CODES),
    "tabs": ("l.tsv", _table(separator="\t"), _CODES),
    "bars": ("l.txt", _table(separator="|"), _CODES),
    "old macintosh": ("l.csv", _table(end="\r"), _CODES),
    "mixed line ends": ("l.csv", _table().replace("\n", "\r\n", 2), _CODES),
    "no line end at the end": ("l.csv", _table().rstrip("\n"), _CODES),
    "empty rows at the end": ("l.csv", _table() + ",,\n\n  \n,,\n", _CODES),
    "empty rows at the start": ("l.csv", "\n\n" + _table(), _CODES),
    "capitals": ("l.csv", _table(header=("PATH", "AGE", "GENDER")), _CODES),
    "spaces in the header": ("l.csv", _table(header=(" Path", "Age ", " Sex")), _CODES),
    "units in the header": (
        "l.csv",
        _table(header=("File Name", "Age (years)", "Sex")),
        _CODES,
    ),
    "quoted header": ("l.csv", _table(header=('"path"', '"age"', '"gender"')), _CODES),
    "another order": (
        "l.csv",
        "gender,path,age\n111,a.jpg,25\n112,b.jpg,30\n112,deep/c d.jpg,41\n"
        "111,deep/caf\u00e9.jpg,8\n",
        _CODES,
    ),
    "numbers of the rows": (
        "l.csv",
        ",path,age,gender\n0,a.jpg,25,111\n1,b.jpg,30,112\n2,deep/c d.jpg,41,112\n"
        "3,deep/caf\u00e9.jpg,8,111\n",
        _CODES,
    ),
    "floats": ("l.csv", _table(ages=("25.0", "30.0", "41.00", "8.")), _CODES),
    "fractions": ("l.csv", _table(ages=("25.4", "29.5", "40.9", "8.49")), _CODES),
    "decimal commas": (
        "l.csv",
        _table(ages=("25,4", "29,5", "41,0", "8,2"), separator=";"),
        _CODES,
    ),
    "quoted decimal commas": (
        "l.csv",
        _table(ages=("25,4", "29,5", "41,0", "8,2")),
        _CODES,
    ),
    "scientific": ("l.csv", _table(ages=("2.5e+01", "3e1", "4.1E+01", "8e0")), _CODES),
    "years": ("l.csv", _table(ages=("25 years", "30y", "41 yrs", "8 year")), _CODES),
    "words": ("l.csv", _table(genders=_WORDS), _CODES),
    "capital words": ("l.csv", _table(genders=("Male", "FEMALE", "Woman", "man"))),
    "letters": ("l.csv", _table(genders=("m", "F", "f", "M"))),
    "codes as floats": ("l.csv", _table(genders=("111.0", "112.0", "112.0", "111.0"))),
    "0.0 and 1.0": ("l.csv", _table(genders=("0.0", "1.0", "1.0", "0.0")), _NUMBERS),
    "words for numbers": ("l.csv", _table(genders=_WORDS), _NUMBERS),
    "backslashes": ("l.csv", _table(paths=[p.replace("/", "\\") for p in _FACES])),
    "dots": ("l.csv", _table(paths=[f"./{p}" for p in _FACES])),
    "absolute": ("l.csv", _table(paths=[f"ROOT/{p}" for p in _FACES])),
    "of another machine": (
        "l.csv",
        _table(paths=[f"/home/someone/faces/{p}" for p in _FACES]),
    ),
    "of Windows": (
        "l.csv",
        _table(paths=["C:\\faces\\" + p.replace("/", "\\") for p in _FACES]),
    ),
    "accents composed otherwise": (
        "l.csv",
        _table(paths=[p.replace("\u00e9", "e\u0301") for p in _FACES]),
    ),
    "ranges": (
        "l.csv",
        _table(ages=("(18, 32)", "29-31", "[40,41]", "(8, 8)")),
        _CODES,
        "middle",
    ),
    "compressed": ("l.csv.gz", gzip.compress(_table().encode()), _CODES),
    "json lines": (
        "l.jsonl",
        "\n".join(
            json.dumps({"path": p, "age": float(a), "gender": 111 + g})
            for p, (a, g) in _FACES.items()
        ),
        _CODES,
    ),
    "columns of pandas": (
        "l.json",
        json.dumps(
            {
                "path": dict(enumerate(_FACES)),
                "age": {i: a for i, (a, _) in enumerate(_FACES.values())},
                "gender": {i: 111 + g for i, (_, g) in enumerate(_FACES.values())},
            }
        ),
        _CODES,
    ),
    "columns whose rows are in another order": (
        "l.json",
        json.dumps(
            {
                "path": dict(enumerate(_FACES)),
                "age": {
                    i: a for i, (a, _) in reversed(list(enumerate(_FACES.values())))
                },
                "gender": {i: 111 + g for i, (_, g) in enumerate(_FACES.values())},
            }
        ),
        _CODES,
    ),
    "rows of pandas by number": (
        "l.json",
        json.dumps(
            {
                str(i): {"path": p, "age": a, "gender": 111 + g}
                for i, (p, (a, g)) in enumerate(_FACES.items())
            }
        ),
        _CODES,
    ),
    "table of pandas with a schema": (
        "l.json",
        json.dumps(
            {
                "schema": {"fields": [{"name": "index", "type": "integer"}]},
                "data": [
                    {"index": i, "path": p, "age": a, "gender": 111 + g}
                    for i, (p, (a, g)) in enumerate(_FACES.items())
                ],
            }
        ),
        _CODES,
    ),
    "objects by image": (
        "l.json",
        json.dumps({p: {"age": a, "sex": "mf"[g]} for p, (a, g) in _FACES.items()}),
        _CODES,
    ),
    "R's write.csv": (
        "l.csv",
        '"","path","age","gender"\n'
        + "".join(
            f'"{i}","{p}",{a},"{"mf"[g]}"\n'
            for i, (p, (a, g)) in enumerate(_FACES.items(), 1)
        ),
        _CODES,
    ),
    "line ends that were converted twice": ("l.csv", _table(end="\r\r\n"), _CODES),
    "slashes and dots in paths": (
        "l.csv",
        _table(paths=[f".//{p.replace('/', '/.//')}" for p in _FACES]),
        _CODES,
    ),
    "backslashes that a database doubles": (
        "l.csv",
        _table(paths=[p.replace("/", "\\\\") for p in _FACES]),
        _CODES,
    ),
    "list of objects": (
        "l.json",
        json.dumps(
            [{"path": p, "age": a, "gender": "mf"[g]} for p, (a, g) in _FACES.items()]
        ),
        _CODES,
    ),
}


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> pathlib.Path:
    """A folder with the files of `_FACES`."""
    root = tmp_path_factory.mktemp("faces")
    for number, key in enumerate(_FACES):
        (root / key).parent.mkdir(exist_ok=True)
        (root / key).write_bytes(face_file(number))
    return root


def _scan(content, root, tmp_path, name="l.csv", codes=_CODES, ranges="refuse"):
    path = tmp_path / name
    if isinstance(content, str):
        content = content.replace("ROOT", str(root)).encode()
    path.write_bytes(content)
    return label_scan.scan(
        str(path), str(root), cell_values.Genders(codes), age_ranges=ranges
    )


def test_there_are_forty_label_files():
    assert len(_GOOD) >= 40


@pytest.mark.parametrize("name", _GOOD)
def test_label_files_give_the_right_labels(name, faces, tmp_path):
    file_name, content, *flags = _GOOD[name]
    listing = _scan(content, faces, tmp_path, file_name, *flags)
    assert {item.key: (item.age, item.gender) for item in listing.items} == _FACES
    assert not listing.rejected


def test_parquet(faces, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table(
        {
            "Path": list(_FACES),
            "age": [float(age) for age, _ in _FACES.values()],
            "sex": pyarrow.array(
                ["MF"[gender] for _, gender in _FACES.values()]
            ).dictionary_encode(),
        }
    )
    parquet.write_table(table, tmp_path / "l.parquet")
    listing = label_scan.scan(
        str(tmp_path / "l.parquet"), str(faces), cell_values.Genders(_CODES)
    )
    assert {item.key: (item.age, item.gender) for item in listing.items} == _FACES


def _sheet(path, change=None, *, header=("path", "age", "gender")) -> None:
    """Writes the table as a spreadsheet, after `change` of the book and its sheet."""
    book = pytest.importorskip("openpyxl").Workbook()
    book.active.append(header)
    for key, (age, gender) in _FACES.items():
        book.active.append([key, age, "mf"[gender]])
    if change:
        change(book, book.active)
    book.save(path)


def _insert_empty(book, sheet):
    book.create_sheet("notes", 0)
    sheet.insert_rows(1, 2)
    sheet.insert_cols(1)


@pytest.mark.parametrize("change", [None, _insert_empty])
def test_spreadsheets(change, faces, tmp_path):
    _sheet(tmp_path / "l.xlsx", change, header=(" Path", "Age (years)", "SEX"))
    listing = _scan((tmp_path / "l.xlsx").read_bytes(), faces, tmp_path, "l.xlsx")
    assert {item.key: (item.age, item.gender) for item in listing.items} == _FACES


def test_rows_beyond_the_stored_size_of_a_sheet_are_read(faces, tmp_path):
    """Some programs store the size that a sheet once had."""
    _sheet(tmp_path / "whole.xlsx")
    with zipfile.ZipFile(tmp_path / "whole.xlsx") as book:
        parts = {name: book.read(name) for name in book.namelist()}
    sheet = "xl/worksheets/sheet1.xml"
    cut = re.sub(rb'(<dimension ref=)"[^"]*"', rb'\1"A1:C3"', parts[sheet])
    assert cut != parts[sheet]
    with zipfile.ZipFile(tmp_path / "l.xlsx", "w") as book:
        for name, content in (parts | {sheet: cut}).items():
            book.writestr(name, content)
    listing = _scan((tmp_path / "l.xlsx").read_bytes(), faces, tmp_path, "l.xlsx")
    assert {item.key: (item.age, item.gender) for item in listing.items} == _FACES


def test_sheets_that_are_not_read_are_named(faces, tmp_path, caplog):
    def add(book, sheet):
        book.create_sheet("more faces").append(["path", "age", "gender"])
        book.create_sheet("empty")

    _sheet(tmp_path / "l.xlsx", add)
    _scan((tmp_path / "l.xlsx").read_bytes(), faces, tmp_path, "l.xlsx")
    assert "only the sheet Sheet is read, and not more faces:" in caplog.text


def test_cells_of_a_spreadsheet_that_are_no_ages(faces, tmp_path):
    def date(book, sheet):
        sheet["B2"] = datetime.datetime(2026, 9, 3)  # What "3-9" becomes.

    def formulas(book, sheet):
        for row in range(2, 6):
            sheet[f"B{row}"] = "=20+5"  # Nothing has computed it.

    _sheet(tmp_path / "l.xlsx", date)
    listing = _scan((tmp_path / "l.xlsx").read_bytes(), faces, tmp_path, "l.xlsx")
    assert "row 2, column age: '2026-09-03" in listing.first_fault
    _sheet(tmp_path / "l.xlsx", formulas)
    with pytest.raises(errors.UsageError, match="row 2, column age: a formula without"):
        _scan((tmp_path / "l.xlsx").read_bytes(), faces, tmp_path, "l.xlsx")


def _zipped(**members: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return buffer.getvalue()


# Name: (the first bytes, what the line calls the file).
_OTHER_FORMS = {
    "opendocument": (_zipped(mimetype="application/vnd.oasis"), "of another program"),
    "zip": (_zipped(faces="path,age,gender"), "is a .zip, not .xlsx"),
    "bzip2": (bz2.compress(_table().encode()), "compressed by bzip2"),
    "xz": (lzma.compress(_table().encode()), "compressed by xz"),
    "pickle": (pickle.dumps({"path": ["a.jpg"] * 40}), "a pickle"),
    "matlab": (b"MATLAB 5.0 MAT-file, Platform: GLNXA64", "--source=imdb_wiki"),
    "hdf5": (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    "sqlite": (b"SQLite format 3\0", "a database of SQLite"),
    "git lfs": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
}


@pytest.mark.parametrize("name", _OTHER_FORMS)
def test_other_forms_are_refused_by_name(name, faces, tmp_path):
    content, what = _OTHER_FORMS[name]
    with pytest.raises(errors.UsageError, match=re.escape(what)) as said:
        _scan(content, faces, tmp_path)
    assert "save it as .csv" in str(said.value) and "\n" not in str(said.value)


def test_tables_without_their_library_are_refused_in_one_line(
    faces, tmp_path, monkeypatch
):
    monkeypatch.setitem(__import__("sys").modules, "openpyxl", None)
    with pytest.raises(errors.UsageError, match=r"needs openpyxl.*pip install") as said:
        _scan(_zipped(**{"xl/workbook.xml": ""}), faces, tmp_path, "l.xlsx")
    assert "\n" not in str(said.value)


# Name: (content, the row and the column that the line names, a part of the line).
_BAD_ROWS = {
    "word for an age": ("a.jpg,old,m", "row 2, column age", "'old' is not a number"),
    "negative age": ("a.jpg,-1,m", "row 2, column age", "not a number of years"),
    "age of nobody": ("a.jpg,200,m", "row 2, column age", "age of a person"),
    "year of birth": ("a.jpg,1984,m", "row 2, column age", "age of a person"),
    "months": ("a.jpg,25 months,m", "row 2, column age", "not a number of years"),
    "range": ('a.jpg,"(25, 32)",m', "row 2, column age", "--age_ranges=middle"),
    "date of a spreadsheet": ("a.jpg,03. Sep,m", "row 2, column age", "not a number"),
    "open range": ("a.jpg,60+,m", "row 2, column age", "without an end"),
    "no age": ("a.jpg,,m", "row 2, column age", "no value"),
    "NaN": ("a.jpg,NaN,m", "row 2, column age", "no value"),
    "no gender": ("a.jpg,25,None", "row 2, column gender", "no value"),
    "NA": ("a.jpg,25,NA", "row 2, column gender", "no value"),
    "unknown code": ("a.jpg,25,0", "row 2, column gender", "0:male,1:female or 0:fem"),
    "unknown word": ("a.jpg,25,x", "row 2, column gender", "--gender_codes"),
    "unknown split": ("a.jpg,25,m,third", "row 2, column split", "'third' is none of"),
    "no file": ("z.jpg,25,m", "row 2, column path", "no such file"),
    "folder": ("deep,25,m", "row 2, column path", "a folder"),
    "above": ("../a.jpg,25,m", "row 2, column path", "not a path below"),
    "twice": ("b.jpg,30,f\nb.jpg,30,f", "row 3, column path", "named in row 2, too"),
    "too many cells": ("a.jpg,25,m,train,x", "row 2", "5 cells, but the header has 4"),
    "after a cell with two lines": (
        'b.jpg,30,f,"train\n"\na.jpg,x,m',
        "row 4, column age",
        "not a number",
    ),
    "NUL": ("a\0.jpg,25,m", "row 2", ""),
    "twice, spelt otherwise": (
        "deep//c d.jpg,41,f\n./deep/./c d.jpg,41,f",
        "row 3, column path",
        "named in row 2, too",
    ),
}


@pytest.mark.parametrize("name", _BAD_ROWS)
def test_a_bad_row_is_one_line_with_file_row_and_column(name, faces, tmp_path, caplog):
    rows, where, reason = _BAD_ROWS[name]
    content = f"path,age,gender,split\n{rows}\ndeep/c d.jpg,41,f\n"
    try:
        listing = _scan(content, faces, tmp_path)
        line = listing.first_fault
        assert line in caplog.text
    except errors.UsageError as error:  # Python 3.10 reads no NUL.
        line = str(error)
    assert line.startswith(f"--labels_csv={tmp_path}/l.csv, {where}"), line
    assert reason in line and "\n" not in line


@pytest.mark.parametrize("other", ["a.jpg,26,m,", "a.jpg,25,f,", "./a.jpg,25,m,test"])
def test_rows_that_contradict_each_other_are_not_guessed(other, faces, tmp_path):
    """Several tables in one: neither row of the image is written."""
    content = f"path,age,gender,split\na.jpg,25,m,\nb.jpg,30,f,\n{other}\na.jpg,25,m,\n"
    listing = _scan(content, faces, tmp_path)
    assert [item.key for item in listing.items] == ["b.jpg"]
    assert sorted(reason for _, reason in listing.rejected) == [
        "row 2, column path: named again below it, with other values",
        "row 4, column path: named in row 2, too, with other values",
        "row 5, column path: named in row 2, too",
    ]
    assert len(listing.lost) == 3


# Name: (content, a part of the line).
_BAD_FILES = {
    "empty": ("", "has no column path"),
    "no label": ("path,split\na.jpg,train\n", "has no column age, gender"),
    "empty labels": ("path,age,gender\na.jpg,,NA\n", "neither an age nor a gender"),
    "no header": ("a.jpg,25,m\nb.jpg,30,f\n", "it has 'a.jpg', '25', 'm'"),
    "no path": ("age,gender\n25,m\n", "no column path"),
    "two ages": ("path,age,gender,age\na.jpg,25,m,26\n", "'age', 'age' could all be"),
    "two names of a path": ("image,file,age,gender\n", "'image', 'file' could all be"),
    "open quote": ('path,age,gender\n"a.jpg,25,m\nb.jpg,30,f\n', "row 2 cannot be"),
    "utf-16 cut short": (b"\xff\xfep\0a", "truncated data"),
    "spaces": ("path age gender\na.jpg 25 m\n", "has spaces between its cells"),
    "old excel": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "save it as .csv or .xlsx"),
    "broken parquet": (b"PAR1" + b"\0" * 40, "cannot read"),
    "broken gzip": (b"\x1f\x8b\x08" + b"\0" * 40, "cannot read"),
    "shares instead of ages": (
        "path,age,gender\na.jpg,0.25,m\nb.jpg,0.3,f\ndeep/c d.jpg,0.41,f\n",
        "column age: every age is 1 or less",
    ),
    "hombre and mujer": (
        "path,age,gender\na.jpg,25,M\nb.jpg,30,H\ndeep/c d.jpg,41,M\n",
        "column gender: H and M may be hombre and mujer",
    ),
}


@pytest.mark.parametrize("name", _BAD_FILES)
def test_a_bad_file_is_one_line(name, faces, tmp_path):
    content, reason = _BAD_FILES[name]
    with pytest.raises(errors.UsageError, match=re.escape(reason)) as said:
        _scan(content, faces, tmp_path)
    line = str(said.value)
    assert f"--labels_csv={tmp_path}/l.csv" in line and "\n" not in line


def test_what_is_read_in_another_way_is_said(faces, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    content = _table(
        header=("path", "age", "gender", "race", "split"),
        ages=("25.4", "30", "41.5", "8"),
        extra=(("x", "y", "z", "x"), ("training", "dev", "tst", "valid")),
    )
    listing = _scan(content, faces, tmp_path)
    assert [item.split for item in listing.items] == [
        *("train", "validation", "test", "validation")
    ]
    assert "the columns race are not read" in caplog.text
    assert "2 ages have a fraction" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            '{"path": "a.jpg", "age": 25, "age": 52}',
            "an object has the name 'age' twice",
        ),
        ('{"path": {"0": "a.jpg"}, "age": [25]}', "columns of different forms"),
        ('{"path": ["a.jpg", "b.jpg"], "age": [25]}', "different lengths, 1 and 2"),
        ('{"path": "a.jpg", "age": 25, "gender": "m"}\n{"path": "b', "row 2 is not"),
    ],
)
def test_json_that_is_not_a_table_is_one_line(content, message, faces, tmp_path):
    for name in ("l.json", "l.jsonl"):
        if name == "l.jsonl" and "[" in content:
            continue
        with pytest.raises(errors.UsageError, match=message) as said:
            _scan(content, faces, tmp_path, name)
        assert "\n" not in str(said.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "path,age,gender,split\na.jpg,25,m,train\nb.jpg,30,f,\n",
            "1 rows have no value in the column split, and get a split by",
        ),
        (
            "path,age,gender\na.jpg,25,m\nb.jpg,30,f\n" + "x.jpg,1,m\n" * 65_533,
            "has exactly 65536 rows, after which a spreadsheet program cuts",
        ),
    ],
)
def test_what_may_be_meant_otherwise_is_said(content, message, faces, tmp_path, caplog):
    _scan(content, faces, tmp_path)
    assert message in caplog.text


def test_absolute_paths_without_a_root(faces, tmp_path):
    """Without --data_dir the root is the folder that contains all the images."""
    path = tmp_path / "l.csv"
    path.write_text(_table(paths=[f"{faces}/{p}" for p in _FACES]))
    listing = label_scan.scan(str(path), "", cell_values.Genders(_CODES))
    assert {item.key: (item.age, item.gender) for item in listing.items} == _FACES
    assert listing.root == str(faces)


def test_an_image_outside_the_root_is_not_mistaken(faces, tmp_path):
    """Another folder may have an image of the same name."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.jpg").write_bytes(face_file(9))
    content = f"path,age,gender\n{tmp_path}/other/a.jpg,25,m\n"
    listing = _scan(content, faces, tmp_path)
    assert not listing.items and "not a path below --data_dir" in listing.first_fault


def test_a_linked_root_and_absolute_paths(faces, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(faces)
    content = _table(paths=[f"{faces}/{p}" for p in _FACES])
    assert len(_scan(content, link, tmp_path).items) == len(_FACES)
    content = _table(paths=[f"{link}/{p}" for p in _FACES])
    assert len(_scan(content, faces, tmp_path).items) == len(_FACES)


def test_class_numbers_are_not_taken_for_ages(tmp_path):
    """The lists of CORAL have 24 for an image in the folder 39."""
    rows = ["file,path,age,gender"]
    for age in (15, 20, 39):
        for gender, word in ((111, "male"), (112, "female")):
            name = f"{age}00{gender}-0.jpg"
            folder = tmp_path / "faces" / str(age) / str(gender)
            folder.mkdir(parents=True)
            (folder / name).write_bytes(face_file(age + gender))
            rows.append(f"{name},{age}/{gender}/{name},{age - 15},{word}")
    with pytest.raises(errors.UsageError, match="15 less than the folder") as said:
        _scan("\n".join(rows), tmp_path / "faces", tmp_path)
    assert "--split_file" in str(said.value)


@pytest.mark.parametrize(
    "rows",
    [
        [("30/x/1.jpg", 25), ("30/x/2.jpg", 25), ("30/x/3.jpg", 25)],
        [("30/x/1.jpg", 35), ("31/x/2.jpg", 36), ("32/x/3.jpg", 37)],
        [("30/x/1.jpg", 25), ("31/x/2.jpg", 26), ("faces/x/3.jpg", 27)],
        [("30/x/1.jpg", 25), ("31/x/2.jpg", 26), ("32/x/3.jpg", 29)],
        [("30/x/1.jpg", 30), ("31/x/2.jpg", 31), ("32/x/3.jpg", 32)],
    ],
    ids=["one age", "more than the folder", "another folder", "other", "the same"],
)
def test_ages_are_not_taken_for_class_numbers(rows, tmp_path):
    """Folders of persons or of videos may have numbers as names."""
    content = ["path,age,gender"]
    for number, (key, age) in enumerate(rows):
        (tmp_path / "faces" / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "faces" / key).write_bytes(face_file(number))
        content.append(f"{key},{age},m")
    listing = _scan("\n".join(content), tmp_path / "faces", tmp_path)
    assert {item.key: item.age for item in listing.items} == dict(rows)


def test_the_error_of_a_data_set_names_the_first_row(faces, tmp_path):
    path = tmp_path / "l.csv"
    path.write_text(_table(ages=("25", "x", "y", "z")))
    with pytest.raises(errors.DataError, match="row 3, column age: 'x' is not"):
        write(faces, tmp_path / "out", labels_csv=str(path), test_fraction=1)
    path.write_text(_table(ages=("w", "x", "y", "z")))
    with pytest.raises(errors.UsageError, match="row 2, column age: 'w' is not"):
        write(faces, tmp_path / "all", labels_csv=str(path))
    path.write_text(_table(ages=("25", "30", "41", "z")))
    write(
        *(faces, tmp_path / "one"),
        **{"labels_csv": str(path), "test_fraction": 0, "validation_fraction": 0},
    )
    assert rejected(tmp_path / "one") == {
        "deep/caf\u00e9.jpg": "row 5, column age: 'z' is not a number of years"
    }


def test_names_that_are_not_utf_8(tmp_path):
    """A disk may have the very bytes that the label file has."""
    name = os.fsdecode(b"caf\xe9.jpg")
    (tmp_path / name).write_bytes(face_file(1))
    content = b"path,age,gender\ncaf\xe9.jpg,25,m\n"
    listing = _scan(content, tmp_path, tmp_path)
    assert [item.key for item in listing.items] == [name]


@pytest.mark.parametrize(
    "content",
    [
        '"path" "age" "gender"\n"1" "a.jpg" 25 "male"\n',  # R's write.table.
        '"path" "age" "gender"\n"a.jpg" 25 "male"\n',
        "path age gender\na.jpg 25 male\n",
        "path   age   gender\na.jpg   25   male\n",
    ],
)
def test_spaces_between_cells_are_refused_with_a_way_on(content, faces, tmp_path):
    with pytest.raises(errors.UsageError) as caught:
        _scan(content, faces, tmp_path)
    text = str(caught.value)
    assert "spaces between its cells" in text and "row.names=FALSE" in text
    assert "\n" not in text
