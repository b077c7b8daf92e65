"""Lists the images that a label file names, with their labels.

::

    listing = label_scan.scan("faces.csv", "", cell_values.Genders("m:male,f:female"))
    listing.items[0]      # Item(key="a.jpg", age=25, gender=0, ...)

A row that cannot be used is rejected with its number, its column and the reason.  One
line of the log says how many rows were read in which way.
"""

from __future__ import annotations

import collections
import dataclasses
import logging
import os
import re
from collections.abc import Iterator, Sequence

from afad_tfdata.common import errors
from afad_tfdata.images import face_crop
from afad_tfdata.storage import sharding
from afad_tfdata.writing import source
from afad_tfdata.writing.importers import importer_choice, importer_rows
from afad_tfdata.writing.labels import (
    cell_values,
    header_columns,
    image_paths,
    table_files,
)

FLAG = "labels_csv"
MISSING_LABELS = ("refuse", "keep")
_SHOWN_COLUMNS = 8
_AGE_FOLDER = re.compile(r"(?:^|/)(\d{1,3})/[^/]+/[^/]+\Z", re.ASCII)
# Fewer rows may differ from their folders by the same number by chance.
_FEW_ITEMS = 3
# Rows of a sheet of Excel 97 and of later ones.
_LARGEST_SHEETS = (65_536, 1_048_576)
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class _Row:
    """One row of the file, by field; a field without a column is empty."""

    number: int | str
    cells: dict[str, str]

    def __getitem__(self, field: str) -> str:
        return self.cells.get(field, "")


class _BadRow(Exception):
    """A row that is not used; the texts are the column's field and the reason."""


class _LacksLabel(Exception):
    """A row of a data set that has images without this label."""


def _row_place(number: int | str) -> str:
    """The place of a row in a label file, for errors."""
    return number if isinstance(number, str) else f"row {number}"


def scan(
    path: str,
    root: str,
    genders: cell_values.Genders,
    *,
    age_ranges: str = "refuse",
    missing_labels: str = "refuse",
    find_faces: bool = False,
) -> source.Listing:
    """Lists the images that a label file names, with their labels.

    Args:
      path: The label file, in a form that `table_files.read` reads.
      root: Directory that the paths are relative to; empty for the folder of the label
        file or, if all its paths are absolute, for the folder that contains them all.
      genders: Reads the column ``gender``.
      age_ranges: One of `cell_values.AGE_RANGES`.
      missing_labels: Whether a row without one of the two labels is written (``keep``)
        or rejected (``refuse``).  A file that has no value at all for one of the labels
        is written without that label in both cases.
      find_faces: Whether faces will be looked for in the images without a box.  If
        not, and the file has boxes, a row without one is rejected.

    Raises:
      UsageError: The file cannot be read, or lacks a column.
    """
    found = table_files.read(path, flag=FLAG)
    where = header_columns.find_columns(
        found.header, name=found.name, required=("path",)
    )
    if not {"age", "gender"} & set(where.positions):
        header_columns.find_columns(
            found.header, name=found.name, required=("age", "gender")
        )
    reader = _LabelScan(found, where, genders, age_ranges, find_faces)
    if not root:
        cells = list(reader.column("path"))
        root = image_paths.common_root(cells) or os.path.dirname(path) or "."
    reader.allow_missing(missing_labels)
    return reader.listing(image_paths.ImagePaths(root, found.encoding), root)


def scan_source(
    name: str,
    root: str,
    genders: cell_values.Genders,
    *,
    age_ranges: str = "refuse",
    missing_labels: str = "refuse",
    follow_links: bool = False,
) -> source.Listing:
    """Lists a published data set, whose importer's rows are read like a label file's.

    Args:
      name: One of `importer_choice.NAMES`, but ``afad``.
      root: The folder of the data set, which `importer_choice.check` has accepted.
      genders: Reads the codes of the data set.
      age_ranges: As for `scan`.
      missing_labels: As for `scan`, but with ``refuse`` an image without a label is
        left out like an image that a flag excludes.
      follow_links: Whether to list what is in linked folders, if the names of the
        images have the labels.

    Raises:
      UsageError: A list or a folder cannot be read, or a folder is linked without
        ``follow_links``.
    """
    listed = importer_choice.importer(name).read(root, follow_links=follow_links)
    flag = f"--source={name}"
    if listed.has_ranges and age_ranges == "refuse":
        raise errors.UsageError(
            f"{flag} has ranges of ages, and a record has one age: add"
            " --age_ranges=middle to take the middle of each range"
        )
    found = table_files.Table(flag, importer_rows.HEADER, listed.rows, "utf-8")
    where = header_columns.find_columns(found.header, name=flag, required=("path",))
    # The images of these layouts are taken whole, or searched for faces.
    reader = _LabelScan(found, where, genders, age_ranges, False, lenient=True)
    reader.allow_missing(missing_labels)
    result = reader.listing(image_paths.ImagePaths(root), root)
    result.left_out = sorted([*result.left_out, *listed.left_out])
    result.rejected = sorted([*result.rejected, *listed.misnamed])
    result.skipped = listed.skipped
    if listed.misnamed:
        path, reason = listed.misnamed[0]
        fault = f"{flag}, {errors.printable(path)}: {reason}"
        result.first_fault = result.first_fault or fault
        _log.warning("%s (%d images are misnamed)", fault, len(listed.misnamed))
    if listed.absent:
        _log.warning(
            "%s: %s is not there, so its images are not written",
            flag,
            ", ".join(listed.absent),
        )
    if listed.left_out:
        _log.warning(
            "%s: %d files are left out, such as %s: %s",
            flag,
            len(listed.left_out),
            *listed.left_out[0],
        )
    return result


class _LabelScan:
    """The scan of one label file, or of the rows of an importer."""

    def __init__(
        self,
        found: table_files.Table,
        where: header_columns.Columns,
        genders: cell_values.Genders,
        age_ranges: str,
        find_faces: bool,
        *,
        lenient: bool = False,
    ) -> None:
        self._table, self._columns = found, where
        self._genders, self._ranges = genders, age_ranges
        self._needs_box = header_columns.BOX[0] in where.positions and not find_faces
        self._lenient = lenient
        self._may_lack: set[str] = set()
        self._counts: collections.Counter[str] = collections.Counter()
        self._seen_genders: set[str] = set()

    def column(self, field: str) -> Iterator[str]:
        """The cells of a label file's column, one for each row; empty without it."""
        position = self._columns.positions.get(field)
        for _, cells in self._table.rows:
            known = position is not None and position < len(cells)
            yield cells[position or 0].strip() if known else ""

    def _row_of_cells(self, number: int | str, cells: Sequence[str]) -> _Row:
        """The cells of a row of the label file by field."""
        return _Row(
            number,
            {
                field: cells[position].strip()
                for field, position in self._columns.positions.items()
                if position < len(cells)
            },
        )

    def allow_missing(self, missing_labels: str) -> None:
        """Decides which labels rows may lack: those that the whole label file lacks."""
        rows, name = self._table.rows, self._table.name
        lacking = {
            "age": all(map(cell_values.is_missing, self.column("age"))),
            "gender": all(
                self._genders.label(text) == cell_values.MISSING
                for text in self.column("gender")
            ),
        }
        if rows and all(lacking.values()):
            raise errors.UsageError(
                f"{name} has neither an age nor a gender in any row: fill in one of"
                " the two columns"
            )
        for field, other in (("age", "gender"), ("gender", "age")):
            if lacking[field] or missing_labels == "keep":
                self._may_lack.add(field)
            if lacking[field] and rows:
                _log.warning(
                    "%s has no %s: the data set is written with the label %s alone, for"
                    " --task=%s",
                    *(name, field, other, other),
                )

    def listing(self, keys: image_paths.ImagePaths, root: str) -> source.Listing:
        """Reads all rows of the label file."""
        items: dict[tuple[str, face_crop.Box | None], source.Item] = {}
        rows: dict[tuple[str, face_crop.Box | None], int | str] = {}
        differing: set[tuple[str, face_crop.Box | None]] = set()
        result = source.Listing(root, [], [], 0)
        for number, cells in self._table.rows:
            row = self._row_of_cells(number, cells)
            try:
                item = self._item_of_row(row, cells, keys)
                face = item.key, item.box
                if face in items:
                    again = f"named in {_row_place(rows[face])}, too"
                    if item == items[face]:
                        raise _BadRow("path", again)
                    differing.add(face)
                    raise _BadRow("path", f"{again}, with other values")
            except _LacksLabel as lacking:
                reason = f"no {lacking}: --missing_labels"
                result.left_out.append(source.Rejection(row["path"], reason))
            except _BadRow as bad:
                field, reason = bad.args
                column = f", column {self._name_of(field)}" if field else ""
                fault = source.Rejection(
                    errors.printable(row["path"]) or "(empty)",
                    f"{_row_place(number)}{column}: {reason}",
                )
                result.rejected.append(fault)
                result.lost.append(self._labels_of_rejected(row))
                if not result.first_fault:
                    result.first_fault = f"{self._table.name}, {fault.reason}"
            else:
                items[face], rows[face] = item, number
        for face in differing:
            # Which of the rows is right is not known.
            item, place = items.pop(face), _row_place(rows[face])
            reason = f"{place}, column {self._name_of('path')}: named again below it"
            result.rejected.append(
                source.Rejection(
                    errors.printable(item.key), f"{reason}, with other values"
                )
            )
            gender = None if item.gender == cell_values.MISSING else item.gender
            result.lost.append((gender, item.split))
        result.items = source.with_face_keys(items.values())
        result.rejected.sort()
        if not self._lenient:
            self._refuse_class_numbers(result.items)
            self._refuse_shares(result.items)
            self._refuse_spanish()
        self._log_findings(result)
        return result

    def _refuse_class_numbers(self, items: Sequence[source.Item]) -> None:
        """Refuses ages that count from the youngest age of the data set.

        The published lists of CORAL, CORN and RLEL are like that.  Nothing else in them
        says so, but their paths contain the ages, as AFAD's do.  Real ages differ from
        such a folder by chance only, so that they are never all less by one number.
        """
        aged = [item for item in items if item.age != cell_values.MISSING]
        folders = [_AGE_FOLDER.search(item.key) for item in aged]
        shifts = {
            int(folder[1]) - item.age if folder else 0
            for folder, item in zip(folders, aged, strict=True)
        }
        # At least two ages are needed: a single age always differs from its folder by
        # one number.
        ages = {item.age for item in aged}
        if len(items) >= _FEW_ITEMS and len(ages) >= 2 and len(shifts) == 1:
            shift = shifts.pop()
            if shift <= 0:
                return
            key, age = aged[0].key, aged[0].age
            column = self._name_of("age")
            raise errors.UsageError(
                f"{self._table.name}, column {column}: the ages are not"
                f" years, because every one is {shift} less than the folder in its path"
                f" says ({age} for {key}): for the ages of the folders, leave"
                " --labels_csv out and give the file as --split_file"
            )

    def _refuse_shares(self, items: Sequence[source.Item]) -> None:
        """Refuses ages that some program has divided by the oldest one."""
        oldest = max((item.age for item in items), default=0)
        if self._counts["rounded"] >= _FEW_ITEMS and oldest <= 1:
            raise errors.UsageError(
                f"{self._table.name}, column {self._name_of('age')}: every age is 1 or"
                " less, and some are fractions: write ages in years"
            )

    def _refuse_spanish(self) -> None:
        """Refuses the letters of hombre and mujer, where M would be taken for male."""
        unknown = isinstance(self._genders.label("h"), str)
        if (
            unknown
            and {"h", "m"} <= self._seen_genders
            and "f" not in self._seen_genders
        ):
            raise errors.UsageError(
                f"{self._table.name}, column {self._name_of('gender')}: H and M may be"
                " hombre and mujer, or H and M of another language: say with"
                " --gender_codes which is which, such as H:male,M:female"
            )

    def _item_of_row(
        self, row: _Row, cells: Sequence[str], keys: image_paths.ImagePaths
    ) -> source.Item:
        """The image that a row of the label file names, with its labels.

        Raises:
          _BadRow: The row cannot be used.
        """
        width = len(self._columns.header)
        if any(cell.strip() for cell in cells[width:]):
            raise _BadRow(
                "",
                f"{len(cells)} cells, but the header has {width}: put quotes around a"
                " cell that contains the separator, or name the first column if it has"
                " the numbers of the rows",
            )
        found = keys.find(row["path"])
        if isinstance(found, str):
            raise _BadRow("path", found)
        key, about = found
        age, gender = self._age(row), self._gender(row)
        if age == gender == cell_values.MISSING:
            raise _BadRow("", "neither an age nor a gender")
        return source.Item(
            key,
            age,
            gender,
            about.st_size,
            self._split(row),
            self._group(row),
            self._box(row),
        )

    def _age(self, row: _Row) -> int:
        """The age in a row of the label file."""
        age = cell_values.age(row["age"], ranges=self._ranges)
        if isinstance(age, str):
            raise _BadRow("age", age)
        self._counts["rounded"] += age.rounded and not age.middle
        self._counts["middle"] += age.middle
        return self._present_label("age", age.years)

    def _gender(self, row: _Row) -> int:
        """The gender in a row of the label file."""
        label = self._genders.label(row["gender"])
        self._seen_genders.add(row["gender"].lower())
        if isinstance(label, str):
            raise _BadRow("gender", label)
        return self._present_label("gender", label)

    def _present_label(self, field: str, label: int) -> int:
        """A label in the label file, unless it is missing and must not be."""
        if label == cell_values.MISSING:
            if field not in self._may_lack:
                if self._lenient:
                    raise _LacksLabel(field)
                raise _BadRow(
                    field, "no value; --missing_labels=keep writes the row without it"
                )
            self._counts[f"no {field}"] += 1
        return label

    def _split(self, row: _Row) -> str | None:
        """The split in a row of the label file."""
        text = row["split"]
        split = cell_values.split(text)
        if split is None and not cell_values.is_missing(text):
            raise _BadRow(
                "split", f"{text[:20]!r} is none of {', '.join(sharding.SPLITS)}"
            )
        return split

    def _group(self, row: _Row) -> str | None:
        """The group in a row of the label file."""
        text = row["group"]
        return None if cell_values.is_missing(text) else text.removesuffix(".0")

    def _box(self, row: _Row) -> face_crop.Box | None:
        """The box of the face in a row of the label file."""
        try:
            box = cell_values.face_box(row.cells)
        except cell_values.BadBoxError as error:
            raise _BadRow(*error.args) from error
        if box is None and self._needs_box:
            raise _BadRow(
                header_columns.BOX[0], "no box of the face; --find_faces finds the face"
            )
        self._counts["boxes"] += box is not None
        return box

    def _name_of(self, field: str) -> str:
        """The name that the label file gives to a column."""
        return self._columns.named(field) if field in self._columns.positions else field

    def _labels_of_rejected(self, row: _Row) -> tuple[int | None, str | None]:
        """Gender and split of a rejected row of the label file, if they can be read."""
        label = self._genders.label(row["gender"])
        if isinstance(label, str) or label == cell_values.MISSING:
            return None, cell_values.split(row["split"])
        return label, cell_values.split(row["split"])

    def _log_findings(self, result: source.Listing) -> None:
        """Logs what the label file has that its user might not expect."""
        name = self._table.name
        if unknown := self._columns.unknown:
            shown = ", ".join(unknown[:_SHOWN_COLUMNS])
            more = ", ..." if len(unknown) > _SHOWN_COLUMNS else ""
            _log.warning("%s: the columns %s%s are not read", name, shown, more)
        if count := self._counts["rounded"]:
            _log.warning(
                "%s: %d ages have a fraction, and are rounded to the nearest year, a"
                " half upwards",
                name,
                count,
            )
        if count := self._counts["middle"]:
            _log.warning(
                "%s: %d ages are the middle of a range, a half upwards", name, count
            )
        if count := self._counts["boxes"]:
            _log.warning(
                "%s: %d rows have a box, and the square around it is written instead of"
                " the image (rename the columns %s to write whole images)",
                name,
                count,
                ", ".join(map(self._columns.named, header_columns.BOX)),
            )
        for field in self._may_lack:
            count = self._counts[f"no {field}"]
            if 0 < count < len(result.items):
                _log.warning("%s: %d rows have no %s", name, count, field)
        without = sum(item.split is None for item in result.items)
        if 0 < without < len(result.items):
            _log.warning(
                "%s: %d rows have no value in the column %s, and get a split by"
                " --test_fraction and --validation_fraction",
                *(name, without, self._name_of("split")),
            )
        if len(self._table.rows) + 1 in _LARGEST_SHEETS:
            _log.warning(
                "%s has exactly %d rows, after which a spreadsheet program cuts a table"
                " off: look for its end",
                name,
                len(self._table.rows) + 1,
            )
        if self._table.encoding not in ("utf-8", "utf-8-sig"):
            _log.info("%s is read as %s", name, self._table.encoding)
        if result.first_fault:
            _log.warning(
                "%s (%d rows cannot be used)", result.first_fault, len(result.rejected)
            )
