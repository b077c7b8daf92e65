"""Options: the fields of a config, each with its help text, default and choices.

A config is a frozen dataclass whose fields are made by `option`.  The text stands
there once; command-line flags, ``--help`` and the JSON form are derived from it::

    @dataclasses.dataclass(frozen=True)
    class WriteConfig:
      data_dir: str = option("", "Folder with the images.")
      seed: int = option(1, "Decides split and order.")

This module knows neither absl nor TensorFlow.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from afad_tfdata.common import errors


@dataclasses.dataclass(frozen=True)
class OptionSpec:
    """One field of a config, as a flag parser needs it.

    Attributes:
      name: Field and flag name.
      type: ``str``, ``int``, ``float``, ``bool`` or ``list`` (a tuple of strings).
      default: The field's default; None where there is none.
      help: One or two sentences.
      choices: Allowed values, or None.
    """

    name: str
    type: type
    default: Any
    help: str
    choices: tuple[str, ...] | None


def option(
    default: Any,
    help: str,
    *,
    choices: Sequence[str] | None = None,
    flag: bool = True,
) -> Any:
    """A dataclass field with a help text.

    Args:
      default: The field's default value.  None makes an optional value.
      help: What it means, with its unit; shown by ``--help``.
      choices: The values allowed, for a string field; checked by `check_choices`.
      flag: False for a field that only programs set.
    """
    metadata = {
        "help": help,
        "choices": tuple(choices) if choices else None,
        "flag": flag,
    }
    return dataclasses.field(default=default, metadata=metadata)


def specs(config_class: type) -> Iterator[OptionSpec]:
    """The fields of a config class that are flags, in their order."""
    hints = typing.get_type_hints(config_class)
    for field in dataclasses.fields(config_class):
        if "help" not in field.metadata or not field.metadata["flag"]:
            continue
        yield OptionSpec(
            name=field.name,
            type=_plain_type(hints[field.name], field.name),
            default=field.default,
            help=field.metadata["help"],
            choices=field.metadata["choices"],
        )


def check_choices(config: Any) -> None:
    """Raises `UsageError` for the first field whose value is not one of its choices.

    Meant as the first line of a config's ``__post_init__``.
    """
    for field in dataclasses.fields(config):
        choices = field.metadata.get("choices")
        value = getattr(config, field.name)
        if choices and value not in choices:
            raise errors.UsageError(
                f"--{field.name} takes one of {', '.join(choices)}; got {value!r}"
            )


def to_dict(config: Any) -> dict[str, Any]:
    """The config as plain JSON values (tuples become lists), in field order."""
    return {
        field.name: _plain_value(getattr(config, field.name))
        for field in dataclasses.fields(config)
    }


def from_dict(config_class: type, values: Mapping[str, Any], *, where: str) -> Any:
    """Builds a config from `to_dict`'s form.

    Args:
      config_class: A frozen dataclass of options.
      values: Field values by name.
      where: File that they come from, for the error message.

    Raises:
      UsageError: A name that the config does not have.
    """
    known = {field.name for field in dataclasses.fields(config_class)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise errors.UsageError(
            f"{where} has fields that {config_class.__name__} does not know:"
            f" {', '.join(unknown)}; was it written by another version?"
        )
    return config_class(
        **{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    )


def _plain_type(hint: Any, name: str) -> type:
    """`int | None` -> int, `tuple[str, ...]` -> list."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        inner = [a for a in typing.get_args(hint) if a is not type(None)]
        if len(inner) == 1:
            hint = inner[0]
    if typing.get_origin(hint) is tuple:
        return list
    if hint not in (str, int, float, bool):
        raise TypeError(f"option {name!r} has type {hint!r}, which no flag can carry")
    return hint


def _plain_value(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain_value(v) for v in value]
    return value
