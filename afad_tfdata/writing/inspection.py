"""What a data set contains, and how it differs from another, for people."""

from __future__ import annotations

import dataclasses
from typing import Any

from afad_tfdata.common import errors, options
from afad_tfdata.storage import schema, sharding
from afad_tfdata.writing import (
    data_set_pictures,
    data_set_summary,
    data_set_verification,
)

_SHEET_FACES, _SHEET_COLUMNS = 80, 10


@dataclasses.dataclass(frozen=True, init=False)
class InspectConfig(options.Config):
    """Which data set to inspect, and what to do with it."""

    records_dir: str = options.option("", "Directory of the data set.")
    verify: bool = options.option(
        False,
        "Read and check every record; the exit status is 2 if any of them is bad.",
    )
    diff: str = options.option("", "Directory of another data set to compare with.")
    histogram: str = options.option(
        "", "PNG file that a histogram of the ages by split is written to."
    )
    sheet: str = options.option(
        "", "PNG file that a sample of the faces with their labels is written to."
    )
    split: str = options.option(
        "train", "Split that --sheet shows.", choices=sharding.SPLITS
    )
    num_threads: int = options.option(
        0,
        "Number of threads that read with --verify; 0 starts one for each core.",
        aliases=("num_workers",),  # The name of this flag in 0.1.
    )

    def __post_init__(self) -> None:
        options.check_choices(self)
        if self.num_threads < 0:
            raise errors.UsageError(
                f"--num_threads must be 0 or more; got {self.num_threads}"
            )
        if not self.records_dir:
            raise errors.UsageError(
                "--records_dir is missing: name the directory that write_records filled"
            )


@dataclasses.dataclass(frozen=True)
class InspectResult:
    """What `inspect_records` found.

    Attributes:
      summary: Text for people.
      values: The same as JSON values, for programs.
      faults: From `data_set_verification.verify`; empty without ``--verify``.
    """

    summary: str
    values: dict[str, Any]
    faults: list[data_set_verification.Fault]


def inspect_records(config: InspectConfig) -> InspectResult:
    """Inspects a data set: summary and, on request, verification, comparison, pictures.

    Raises:
      UsageError: The directory is not a data set.
      DataError: Its manifest is damaged, and ``--verify`` is not set.
    """
    faults: list[data_set_verification.Fault] = []
    if config.verify:
        faults = data_set_verification.verify(
            config.records_dir, num_threads=config.num_threads
        )
        if any(fault.file == schema.MANIFEST_NAME for fault in faults):
            # Without a manifest there is nothing else to show.
            text = "\n".join(map(str, faults))
            named = [dataclasses.asdict(fault) for fault in faults]
            return InspectResult(text, {"faults": named}, faults)
    manifest = schema.load_manifest(config.records_dir)
    lines = [data_set_summary.heading(manifest), data_set_summary.table(manifest), ""]
    lines += data_set_summary.ages(manifest)
    values: dict[str, Any] = dataclasses.asdict(manifest)
    lines += _draw_pictures(config, manifest, faults)
    if config.diff:
        differences = diff(config.records_dir, config.diff)
        values["diff"] = differences
        lines += ["", f"against {config.diff}:"]
        lines += [f"  {line}" for line in differences or ("no difference",)]
    if config.verify:
        values["faults"] = [dataclasses.asdict(fault) for fault in faults]
        lines += ["", *map(str, faults)]
        if faults:
            lines.append(f"{len(faults)} fault(s)")
        else:
            lines.append(f"verified: all {manifest.written:,} records are as written")
    return InspectResult("\n".join(lines), values, faults)


def _draw_pictures(
    config: InspectConfig,
    manifest: schema.Manifest,
    faults: list[data_set_verification.Fault],
) -> list[str]:
    """Draws ``--histogram`` and ``--sheet``; returns lines that name the files."""
    lines = []
    if config.histogram:
        data_set_pictures.draw_histogram(config.histogram, manifest)
        lines += ["", f"ages by split: {config.histogram}"]
    if config.sheet and faults:
        # A damaged image would end the command before it names the faults.
        lines += ["", "faces with labels: not drawn, because of the faults"]
    elif config.sheet:
        data_set_pictures.draw_sample(
            config.sheet,
            config.records_dir,
            manifest,
            config.split,
            count=_SHEET_FACES,
            columns=_SHEET_COLUMNS,
        )
        lines += ["", f"faces with labels: {config.sheet}"]
    return lines


def diff(records_dir: str, other_dir: str) -> list[str]:
    """Inspects how two data sets differ: one line for each difference.

    Args:
      records_dir: "here" in the lines.
      other_dir: "there" in the lines.

    Returns:
      The lines; empty for data sets with the same configuration and the same shards.
    """
    one, other = schema.load_manifest(records_dir), schema.load_manifest(other_dir)
    lines = []
    for name in sorted({*one.config, *other.config}):
        mine, theirs = one.config.get(name), other.config.get(name)
        if mine != theirs:
            lines.append(f"configuration {name}: {mine} here, {theirs} there")
    for split in sharding.SPLITS:
        mine_split, other_split = one.splits.get(split), other.splits.get(split)
        # A manifest need not name a split that has no examples.
        if mine_split is None or other_split is None:
            if mine_split or other_split:
                lines.append(f"{split}: only {'here' if mine_split else 'there'}")
            continue
        for label in sorted({*mine_split.counts, *other_split.counts}):
            ours = mine_split.counts.get(label, {})
            theirs = other_split.counts.get(label, {})
            ages = sorted({*ours, *theirs}, key=int)
            moved = [a for a in ages if ours.get(a, 0) != theirs.get(a, 0)]
            if moved:
                lines.append(
                    f"{split}, {label}: {sum(ours.values()):,} here,"
                    f" {sum(theirs.values()):,} there; differs at age"
                    f" {', '.join(moved)}"
                )
        mine_sums = [shard.sha256 for shard in mine_split.shards]
        other_sums = [shard.sha256 for shard in other_split.shards]
        if mine_sums != other_sums:
            same = len(set(mine_sums) & set(other_sums))
            lines.append(
                f"{split}: {len(mine_sums)} shards here, {len(other_sums)} there,"
                f" {same} of them the same"
            )
    if one.mean != other.mean:
        lines.append(f"mean: {one.mean} here, {other.mean} there")
    return lines
