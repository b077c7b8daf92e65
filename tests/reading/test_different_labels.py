"""Data sets with different labels, such as one of ages and one of genders."""

from __future__ import annotations

import pathlib

import pytest

from afad_tfdata import input_fn, records
from afad_tfdata.common import errors


def test_they_are_not_read_as_one_and_the_error_says_what_to_do(sample_tree, tmp_path):
    paths = sorted(pathlib.Path(sample_tree).rglob("*.jpg"))[:20]
    for label in ("age", "gender"):
        rows = [f"path,{label}"]
        for path in paths:
            age, gender, name = path.parts[-3:]
            value = age if label == "age" else gender
            rows.append(f"{age}/{gender}/{name},{value}")
        (tmp_path / f"{label}.csv").write_text("\n".join(rows))
        records.write_records(
            records.WriteConfig(
                labels_csv=str(tmp_path / f"{label}.csv"),
                data_dir=sample_tree,
                output_dir=str(tmp_path / label),
                num_workers=1,
                test_fraction=0,
                validation_fraction=0,
            )
        )
    config = input_fn.InputConfig(
        records_dir=f"{tmp_path / 'age'},{tmp_path / 'gender'}", global_batch_size=4
    )
    with pytest.raises(errors.UsageError) as caught:
        input_fn.train_input_fn(config)
    assert "(age and gender): write one data set" in str(caught.value)
    assert "afad-write-records --missing_labels=keep" in str(caught.value)
