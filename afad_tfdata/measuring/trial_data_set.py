"""The data set that the other parts read: drawn faces, or a folder of the caller's."""

from __future__ import annotations

import os
from collections.abc import Iterator

from afad_tfdata import records
from afad_tfdata.images import drawn_faces
from afad_tfdata.measuring import check_settings, check_table

# So many that batches differ, and so few that they stay in the page cache after the
# first pass.
_FACES, _FACES_IF_TINY = 3000, 160


def measure(settings: check_settings.CheckSettings) -> Iterator[check_table.Row]:
    """Writes the trial data set that the other parts of the GPU check read."""
    data_dir = settings.data_dir
    if not data_dir:
        data_dir = os.path.join(settings.work_dir, "faces")
        count = _FACES_IF_TINY if settings.tiny else _FACES
        drawn_faces.make_sample(
            drawn_faces.SampleConfig(output_dir=data_dir, num_images=count)
        )
    manifest = records.write_records(
        records.WriteConfig(
            data_dir=data_dir,
            output_dir=settings.records_dir,
            image_size=settings.image_size,
            num_shards=2,
        )
    )
    if manifest is not None:  # It is None only with shard_range.
        yield check_table.fact("records", f"{manifest.written:,} faces as JPEG")
