"""Lists the source of images that the flags name, whichever scan it needs."""

from __future__ import annotations

import os
from collections.abc import Sequence

from afad_tfdata.common import errors
from afad_tfdata.writing import (
    age_folders,
    archive_members,
    archive_parts,
    gender_codes,
    source,
)
from afad_tfdata.writing.config import WriteConfig
from afad_tfdata.writing.importers import importer_choice
from afad_tfdata.writing.labels import cell_values, label_scan


def scan(config: WriteConfig) -> source.Listing:
    """Scans the source that the flags name: a label file, an archive or a tree."""
    codes = gender_codes.parse(config.data_set.gender_codes)
    if config.labels_csv:
        return label_scan.scan(
            config.labels_csv,
            config.data_dir,
            cell_values.Genders(config.gender_codes),
            age_ranges=config.age_ranges,
            find_faces=config.find_faces,
            missing_labels=config.missing_labels,
        )
    if not config.data_dir:
        raise errors.UsageError(
            "--data_dir is missing: name the folder that contains AGE/GENDER/IMAGE, or"
            " give --labels_csv"
        )
    is_tree = config.source in ("", "afad")
    if is_tree and (parts := archive_parts.find(config.data_dir)):
        return archive_members.scan(parts, codes)
    if config.source:
        importer_choice.check(config.source, config.data_dir)
    # Links are resolved, because they can hide that one is inside the other.
    output_dir = os.path.realpath(config.output_dir) + os.sep
    if output_dir.startswith(os.path.realpath(config.data_dir) + os.sep):
        raise errors.UsageError(
            f"--output_dir={config.output_dir} is inside --data_dir, where a second"
            " run would list it as a part of the source: name a directory outside"
        )
    if not is_tree:
        return label_scan.scan_source(
            config.source,
            config.data_dir,
            cell_values.Genders(config.data_set.gender_codes),
            age_ranges=config.age_ranges,
            missing_labels=config.missing_labels,
            follow_links=config.follow_links,
        )
    return age_folders.scan(config.data_dir, codes, follow_links=config.follow_links)


def nothing_found_error(
    config: WriteConfig,
    listing: source.Listing,
    left_out: Sequence[source.Rejection],
) -> errors.UsageError:
    """The error of a scan of the source that found no image to write."""
    where = f"--data_dir={config.data_dir}"
    expected = "AGE/GENDER/IMAGE.jpg"
    if config.labels_csv:
        where = f"--labels_csv={config.labels_csv}"
        expected = f"paths of images below {listing.root} (--data_dir names another)"
    first = next(iter([*listing.rejected, *left_out]), None)
    found = f"{listing.found} files" if listing.found else "no file at all"
    because = (
        f"; the first one refused is {first.path}: {first.reason}" if first else ""
    )
    if listing.first_fault:
        because = f"; the first fault: {listing.first_fault}"
    elif not (config.labels_csv or config.source):
        likely = importer_choice.looks_like(config.data_dir)
        if likely not in (None, "afad"):
            because += f"; the folder looks like --source={likely}"
    return errors.UsageError(
        f"{where} has no image to write: expected {expected}, found {found}{because}"
    )
