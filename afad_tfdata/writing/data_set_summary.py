"""Summaries of a data set as text for people."""

from __future__ import annotations

from afad_tfdata.storage import schema

_BAR_WIDTH = 40  # Characters of the longest bar.


def heading(manifest: schema.Manifest) -> str:
    """The heading of a data set's summary: its name, format, encoding and means."""
    mean = ", ".join(f"{name} {value:.2f}" for name, value in manifest.mean.items())
    return (
        f"{manifest.name}: {manifest.format}, images {manifest.image_encoding}"
        f" (size {manifest.image_size}), mean {mean}"
    )


def table(manifest: schema.Manifest) -> str:
    """The table in a data set's summary: examples by split and class, files by fate."""
    classes = manifest.counted_classes
    head = ("split", "shards", "examples", *classes, "ages", "MB")
    rows = [head]
    for name, split in manifest.splits.items():
        ages = split.ages
        counts = [f"{sum(split.counts.get(label, {}).values()):,}" for label in classes]
        size = sum(shard.num_bytes for shard in split.shards) / 1e6
        rows.append(
            (
                name,
                str(len(split.shards)),
                f"{split.num_examples:,}",
                *counts,
                f"{min(ages)}-{max(ages)}" if ages else "-",
                f"{size:,.1f}",
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    lines.append(
        f"found {manifest.found:,} = written {manifest.written:,} + rejected"
        f" {manifest.rejected:,} + skipped {manifest.passed_over:,}"
    )
    return "\n".join(lines)


def ages(manifest: schema.Manifest) -> list[str]:
    """The histogram in a data set's summary, in text: one line for each age."""
    totals: dict[int, int] = {}
    for split in manifest.splits.values():
        for age, count in split.ages.items():
            totals[age] = totals.get(age, 0) + count
    top = max(totals.values(), default=1)
    without = sum(split.num_without("age") for split in manifest.splits.values())
    return [f"no age  {without:>7,}"] * bool(without) + [
        f"age {age:>3} {totals[age]:>7,} {'#' * round(_BAR_WIDTH * totals[age] / top)}"
        for age in sorted(totals)
    ]
