"""What the labels of ``keras.utils.image_dataset_from_directory`` mean.

Such a data set numbers the folders in the order of their names, so that ``female`` is 0
and ages begin at 0.  Its attribute ``class_names`` says so; `tf.data.Dataset.map`
returns a data set without it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from afad_tfdata.common import errors
from afad_tfdata.storage import schema

_SHOWN = 4


def check(
    datasets: Mapping[str, Any], references: Mapping[str, Sequence[str]], task: str
) -> None:
    """Refuses labels that count folders in another order than the classes.

    Args:
      datasets: The caller's data sets by the name of the argument.
      references: Class names in label order, by what has them.
      task: One of `schema.TASKS`.

    Raises:
      UsageError: The labels of a data set are no years, or count the classes of a
        reference, or of another data set, otherwise.
    """
    known = {what: tuple(names) for what, names in references.items() if names}
    for name, dataset in datasets.items():
        names = _names_of(dataset)
        if not names:
            continue
        if "age" in schema.labels_of(task):
            shown = ", ".join(names[:_SHOWN]) + (", ..." if names[_SHOWN:] else "")
            raise errors.UsageError(
                f"{name} has the class names {shown}, so that its labels are numbers of"
                " folders, and years are wanted: map them, such as by"
                " .map(lambda image, label: (image, tf.gather(years, label)))"
            )
        for what, others in known.items():
            if _keys(names) != _keys(others):
                raise errors.UsageError(
                    f"{name} has the class names {', '.join(names)} in the order of its"
                    f" labels, and {what} has {', '.join(others)}: give"
                    " image_dataset_from_directory class_names="
                    f"{list(others)}, or map the labels"
                )
        known[name] = names


def _names_of(dataset: Any) -> tuple[str, ...]:
    names = getattr(dataset, "class_names", None)
    if not isinstance(names, list | tuple):
        return ()
    return tuple(map(str, names))


def _keys(names: Sequence[str]) -> list[str]:
    return [name.strip().casefold() for name in names]
