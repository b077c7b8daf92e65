"""Published protocols: files that say which image belongs to which split.

::

    path,split                    a CSV or JSON of this package's own form
    AFAD-Full.json                Paplham and Franc, "A Call to Reflect on Evaluation
                                  Practices for Age Estimation", CVPR 2024: each image
                                  is in one of ten folders, which give five splits
    afad_train.csv, ...           CORAL, CORN and RLEL: a list for each split

The ages and genders in these files are not read: those of the lists are class numbers.
"""

from __future__ import annotations

import collections
import json
import logging
import os
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from afad_tfdata.common import errors, files
from afad_tfdata.storage import image_keys, sharding
from afad_tfdata.writing import source
from afad_tfdata.writing.labels import cell_values, header_columns, table_files

FLAG = "split_file"
# Folders of the training split; the next two validate, and the two after them test.
# These numbers are from the README of their databases.
_FIRST_FOLDERS = (0, 2, 4, 5, 6)
_NUM_FOLDERS, _TRAIN_FOLDERS, _OTHER_FOLDERS = 10, 6, 2
# In data sets that have a split of their own, the number of the folder gives it.
_OWN_SPLIT = dict(enumerate((sharding.TRAIN, sharding.VALIDATION, sharding.TEST)))
# A path in a protocol may have up to this many folders more or fewer than the key.
_MAX_FOLDERS = 6
_log = logging.getLogger(__name__)


def load(text: str, *, fold: int = 0) -> dict[str, str]:
    """Reads published splits: the split of each path that the protocol names.

    Args:
      text: A file; several files, separated by commas; or a folder with a list for each
        split.
      fold: Which of the five splits of a JSON file with folders.

    Returns:
      One of `sharding.SPLITS` by path, as the protocol writes the path.

    Raises:
      UsageError: A file cannot be read, names another split, or names two splits for
        one path.
    """
    splits: dict[str, str] = {}
    for path in _files_of_flag(text):
        for key, split in _splits_of_file(path, fold):
            named = cell_values.split(split) if isinstance(split, str) else None
            if not isinstance(key, str) or named is None:
                raise errors.UsageError(
                    f"--split_file={path} puts {key} into {split!r}; expected one of"
                    f" {', '.join(sharding.SPLITS)}"
                )
            key = key.strip().replace("\\", "/").removeprefix("./")
            if splits.setdefault(key, named) != named:
                raise errors.UsageError(
                    f"--split_file={text} puts {key} into {splits[key]} and into"
                    f" {named}: a face can be in one split only"
                )
    return splits


def match(splits: Mapping[str, str], keys: Collection[str]) -> dict[str, str]:
    """The published splits by key, if their paths are relative to another folder.

    The same number of folders is removed from all paths of the protocol, or from all
    keys: the number with which most images are found.

    Args:
      splits: From `load`.
      keys: Of the images.  A face that a box gives may also have the path of its image.

    Returns:
      Splits by key or by path of an image; a path without an image stays as it is.

    Raises:
      UsageError: Two paths of different splits become one.
    """
    # Several faces of one image have keys of their own, which no protocol names.
    known = {image_keys.image_path(key) for key in keys}.union(keys)
    best = sum(path in known for path in splits)
    if 2 * best > min(len(splits), len(known)):
        return dict(splits)
    cut, cut_key = _folders_to_remove(splits, known)
    tails = _keys_by_tail(known, cut_key)
    result: dict[str, str] = {}
    origins: dict[str, str] = {}
    for path, split in splits.items():
        tail = _without_folders(path, cut)
        key = tails.get(tail or path) or path
        origin = origins.setdefault(key, path)
        if result.setdefault(key, split) != split:
            raise errors.UsageError(
                f"--{FLAG} puts {origin} into {result[key]} and {path} into {split},"
                f" and both would be the image {key}: write the paths as they are"
                " below --data_dir"
            )
    return result


def _folders_to_remove(
    splits: Mapping[str, str], known: Collection[str]
) -> tuple[int, int]:
    """How many folders to remove from the published paths, and from the keys."""
    tails = [_keys_by_tail(known, cut) for cut in range(_MAX_FOLDERS)]
    found: tuple[int, int, int] = (0, 0, 0)
    for cut in range(_MAX_FOLDERS):
        # A set, so that two paths that become one count once.
        shortened = {tail for path in splits if (tail := _without_folders(path, cut))}
        for cut_key in range(_MAX_FOLDERS if cut == 0 else 1):
            hits = sum(tails[cut_key].get(tail) is not None for tail in shortened)
            # If several choices find equally many images, the one that removes least is
            # taken.
            found = max(found, (hits, -cut, -cut_key))
    hits, cut, cut_key = found[0], -found[1], -found[2]
    if hits and (cut or cut_key):
        what = f"paths of --{FLAG} without their first {cut} folders"
        if cut_key:
            what = f"paths of the images without their first {cut_key} folders"
        _log.info("--%s: the %s name %d images", FLAG, what, hits)
    return cut, cut_key


def _without_folders(path: str, cut: int) -> str | None:
    """A path of published splits without its first folders; None if it has fewer."""
    parts = path.split("/", cut)
    return parts[cut] if len(parts) > cut else None


def _keys_by_tail(keys: Collection[str], cut: int) -> dict[str, str | None]:
    """Keys by the path that published splits may have for them; None for two keys."""
    tails: dict[str, str | None] = {}
    for key in keys:
        tail = _without_folders(key, cut)
        if tail is not None:
            tails[tail] = None if tail in tails else key
    return tails


def _files_of_flag(text: str) -> list[str]:
    """The files with published splits that ``--split_file`` names."""
    if os.path.exists(text) and not os.path.isdir(text):
        return [text]  # Its name may contain a comma.
    if not os.path.isdir(text):
        return [part.strip() for part in text.split(",") if part.strip()] or [text]
    lists = collections.defaultdict(list)
    for name in sorted(os.listdir(text)):
        split = _split_of_name(name)
        if split and name.lower().endswith((".csv", ".tsv", ".txt")):
            lists[split].append(name)
    for split, names in lists.items():
        if len(names) > 1:
            raise errors.UsageError(
                f"--split_file={text} has several lists for {split}: name the files of"
                f" one protocol, such as --split_file={text}/{names[0]},..."
            )
    if sharding.TRAIN not in lists or len(lists) < 2:
        raise errors.UsageError(
            f"--split_file={text} is a folder without lists whose names say train and"
            " test, such as afad_train.csv and afad_test.csv: name a file"
        )
    return [os.path.join(text, names[0]) for names in lists.values()]


def _split_of_name(path: str) -> str | None:
    """The split that a list's name says, such as ``afad_train.csv``; None if none."""
    words = re.split(r"[\W_]+", os.path.basename(path))
    found = {split for word in words if (split := cell_values.split(word))}
    return found.pop() if len(found) == 1 else None


def _splits_of_file(path: str, fold: int) -> Sequence[tuple[Any, Any]]:
    """Path and published split of each row of a file; their types are not checked."""
    if path.lower().endswith(".json"):
        return _splits_of_json(path, fold)
    found = table_files.read(
        path, flag=FLAG, known=(*header_columns.NAMES["path"], "split")
    )
    names = [header_columns.normalized_name(cell) for cell in found.header]
    where = _path_column(names, found.rows)
    split_columns = [i for i, name in enumerate(names) if name in ("split", "subset")]
    split = _split_of_name(path)
    if where is None or not (split_columns or split):
        raise errors.UsageError(
            f"--split_file={path} must be a CSV with the columns path and split, a list"
            " whose name says its split, such as afad_train.csv, or JSON; its columns"
            f" are {', '.join(map(repr, found.header[:8])) or 'none'}"
        )
    width = max(where, *split_columns, 0)
    rows = [[*cells, *[""] * (width + 1 - len(cells))] for _, cells in found.rows]
    if split_columns:
        return [(cells[where], cells[split_columns[0]]) for cells in rows]
    return [(cells[where], split) for cells in rows]


def _path_column(names: Sequence[str], rows: Sequence[Any]) -> int | None:
    """The column of a published list that has the paths, by its name or content."""
    for name in header_columns.NAMES["path"]:
        if name in names:
            return names.index(name)
    first = rows[0][1] if rows else []
    for position, (name, cell) in enumerate(zip(names, first, strict=False)):
        if not name and cell.strip().lower().endswith(source.EXTENSIONS):
            return position
    return None


def _splits_of_json(path: str, fold: int) -> Sequence[tuple[Any, Any]]:
    """Path and published split of each row of a JSON file."""
    try:
        content = files.read_bytes(path)
    except errors.AfadError:
        raise
    except Exception as error:  # Each remote file system raises its own errors.
        reason = getattr(error, "strerror", None) or errors.one_line(error)
        raise errors.UsageError(f"cannot read --split_file={path}: {reason}") from error
    try:
        value = json.loads(content.decode("utf-8-sig"))
        if isinstance(value, dict):
            return list(value.items())
        if value and "folder" in value[0] and "split" not in value[0]:
            return _splits_of_folders(path, value, fold)
        return [(row["path"], row["split"]) for row in value]
    # JSON that is nested thousands deep raises RecursionError.
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise errors.UsageError(
            f"--split_file={path} must be a CSV with the columns path and split, or"
            " JSON with the same columns; reading it raised"
            f" {errors.one_line(repr(error))}"
        ) from error


def _splits_of_folders(
    path: str, rows: Sequence[Mapping[str, Any]], fold: int
) -> Sequence[tuple[Any, Any]]:
    """Path and published split of each row of Paplham and Franc's file."""
    folders = {int(row["folder"]) for row in rows}
    if folders <= set(_OWN_SPLIT):
        if fold:
            raise errors.UsageError(
                f"--split_fold={fold}: {path} has one split only; leave the flag out"
            )
        split_of = _OWN_SPLIT
    elif folders <= set(range(_NUM_FOLDERS)):
        first = _FIRST_FOLDERS[fold]
        names = [sharding.TRAIN] * _TRAIN_FOLDERS
        names += [sharding.VALIDATION] * _OTHER_FOLDERS
        names += [sharding.TEST] * _OTHER_FOLDERS
        split_of = {(first + i) % _NUM_FOLDERS: name for i, name in enumerate(names)}
    else:
        raise errors.UsageError(
            f"--split_file={path} has {len(folders)} folders, one for each person: a"
            f" split needs {_NUM_FOLDERS} of them"
        )
    return [(row["img_path"], split_of[int(row["folder"])]) for row in rows]
