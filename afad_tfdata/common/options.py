"""Options: the fields of a config, each with its help text, default and choices.

A config is a frozen dataclass whose fields are created by `option`.  The text is
written once; command-line flags, ``--help`` and the JSON form are derived from it::

    @dataclasses.dataclass(frozen=True)
    class InputConfig:
      records_dir: str = option("", "Data set that afad-write-records wrote.")
      seed: int = option(1, "Seed of the order of the examples.")

A config that contains another one does not repeat its fields.  It derives from
`Config`, which takes the fields of its parts as flat keywords.  Fields that the program
itself decides are left out::

    @dataclasses.dataclass(frozen=True, init=False)
    class TrainConfig(Config):
      run_dir: str = option("", "Directory of the run.")
      input: InputConfig = part(InputConfig, leave_out=("as_supervised",))

    config = TrainConfig(run_dir="run", records_dir="records", seed=2)
    config = TrainConfig(run_dir="run", input=InputConfig(records_dir="records"))
    config.input.seed                              # A function gets the part it needs.
    dataclasses.replace(config, records_dir="b")   # Flat keywords work here, too.

Flags (`specs`) and JSON (`to_dict`, `from_dict`) are flat: ``--seed``, ``"seed"``.

This module imports neither absl nor TensorFlow.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import inspect
import io
import math
import numbers
import os
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from afad_tfdata.common import errors

_Config = TypeVar("_Config")


@dataclasses.dataclass(frozen=True)
class OptionSpec:
    """One field of a config, as a flag parser needs it.

    Attributes:
      name: Field and flag name.
      type: ``str``, ``int``, ``float``, ``bool`` or ``list`` (a tuple).
      default: The field's default; None if there is none.
      help: One or two sentences.
      choices: Allowed values, or None.
      aliases: Earlier names, which are accepted but not shown.
      part: Name of the part that the field belongs to; empty for the config's own.
    """

    name: str
    type: type
    default: Any
    help: str
    choices: tuple[str, ...] | None
    aliases: tuple[str, ...] = ()
    part: str = ""


class _FlatSignature:
    """The signature of a `Config`: its flat names, for ``help`` and for editors."""

    def __get__(self, instance: Any, owner: type) -> inspect.Signature:
        parts = [f.name for f in dataclasses.fields(owner) if _is_part(f)]
        values = {**dict.fromkeys(parts), **defaults(owner)}
        kind = inspect.Parameter.KEYWORD_ONLY
        return inspect.Signature(
            [inspect.Parameter(name, kind, default=v) for name, v in values.items()]
        )


class Config:
    """Base class of a config that has parts, or fields with aliases.

    Its subclasses are ``@dataclasses.dataclass(frozen=True, init=False)``.

    Args:
      **fields: Values by name: of the config's own fields, of whole parts, and of the
        fields of its parts.  A flat value replaces the one in a whole part, so that
        `dataclasses.replace` works with flat names.

    Raises:
      TypeError: A name that the config does not have.
      UsageError: A check refuses a value.
    """

    # `inspect.signature` looks here; it cannot be computed before `dataclass` has run.
    __signature__ = _FlatSignature()

    def __init__(self, **fields: Any) -> None:
        fields = _by_present_names(type(self), fields)
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            if _is_part(field):
                value = _part_value(field, fields)
            elif field.name in fields:
                value = fields.pop(field.name)
            else:
                value = field.default
            # The dataclass is frozen; its own __init__ also sets fields this way.
            object.__setattr__(self, field.name, value)
        if fields:
            raise TypeError(
                f"{type(self).__name__} has no field {', '.join(sorted(fields))}"
            )
        if check := getattr(self, "__post_init__", None):  # It is optional.
            check()

    if not typing.TYPE_CHECKING:
        # Type checkers must not see this method, because they would then accept any
        # name: the code of this package names the part.

        def __getattr__(self, name: str) -> Any:
            """The value of a part's field, or of a field by an earlier name."""
            for field in dataclasses.fields(self):
                # getattr is not used: it would call this method without end when copy
                # or pickle looks for attributes before any field is set.
                value = self.__dict__.get(field.name)
                if name in field.metadata.get("aliases", ()):
                    return value
                if _is_part(field) and name in _part_names(field):
                    return getattr(value, name)
            raise AttributeError(f"{type(self).__name__} has no field {name!r}")


def option(
    default: Any,
    help: str,
    *,
    choices: Sequence[str] | None = None,
    flag: bool = True,
    aliases: Sequence[str] = (),
) -> Any:
    """A field of a config: an option with a help text.

    Args:
      default: The field's default value.  None makes an optional value.
      help: What it means, with its unit; shown by ``--help``.
      choices: The values allowed, for a string field; checked by `check_choices`.
      flag: False for a field that only programs set.
      aliases: Earlier names of the field.  They stay valid as flags, in JSON and, in a
        `Config`, as keywords, but no help text shows them.
    """
    metadata = {
        "help": help,
        "choices": tuple(choices) if choices else None,
        "flag": flag,
        "aliases": tuple(aliases),
    }
    return dataclasses.field(default=default, metadata=metadata)


def part(
    config_class: type[_Config],
    *,
    leave_out: Sequence[str] = (),
    help: Mapping[str, str] | None = None,
) -> _Config:
    """A field of a config that is a config itself, with options of its own.

    Args:
      config_class: Frozen dataclass of options, all of which have defaults.
      leave_out: Its fields that the program decides.  They are no flags, and keep
        their defaults until the program replaces them.
      help: Help texts by field, where those of the part do not say enough here.
    """
    names = {field.name for field in dataclasses.fields(config_class)}  # type: ignore[arg-type]
    unknown = (set(leave_out) | set(help or ())) - names
    if unknown:
        raise TypeError(f"{config_class.__name__} has no field {sorted(unknown)}")
    metadata = {
        "part": config_class,
        "leave_out": frozenset(leave_out),
        "part_help": dict(help or {}),
    }
    return dataclasses.field(default_factory=config_class, metadata=metadata)


def specs(config_class: type) -> Iterator[OptionSpec]:
    """The options of a config that are flags, in the order of their definition."""
    hints = typing.get_type_hints(config_class)
    for field in dataclasses.fields(config_class):
        if _is_part(field):
            texts = field.metadata["part_help"]
            for spec in specs(field.metadata["part"]):
                if spec.name not in field.metadata["leave_out"]:
                    text = texts.get(spec.name, spec.help)
                    yield dataclasses.replace(spec, help=text, part=field.name)
        elif "help" in field.metadata and field.metadata["flag"]:
            yield OptionSpec(
                name=field.name,
                type=_flag_type(hints[field.name], field.name),
                default=field.default,
                help=field.metadata["help"],
                choices=field.metadata["choices"],
                aliases=field.metadata["aliases"],
            )


def flag_lines(config: Any) -> list[str]:
    """A config as lines of a flag file: each option that differs from its default.

    Raises:
      ValueError: A field that no flag sets differs from its default, or a value cannot
        be written as a flag.
    """
    values, usual = to_dict(config), defaults(type(config))
    changed = {name for name, value in values.items() if value != usual[name]}
    if unset := changed - {spec.name for spec in specs(type(config))}:
        raise ValueError(f"no flags: {', '.join(sorted(unset))}")
    return sorted(_flag_line(name, values[name]) for name in changed)


def _flag_line(name: str, value: Any) -> str:
    """An option's value as a line of ``flags.txt``."""
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no{name}"
    if isinstance(value, list):
        # The form that absl's list flags read: a part may contain a comma.
        text = io.StringIO()
        csv.writer(text, lineterminator="").writerow(value)
        value = text.getvalue()
    # A flag file is read line by line, without spaces at the end of a line.
    if value is None or str(value) != str(value).rstrip() or "\n" in str(value):
        raise ValueError(f"--{name}={value!r} cannot be written in one line")
    return f"--{name}={value}"


def check_choices(config: Any) -> None:
    """Checks each option's type and choices, and brings its value to the usual form.

    A config calls this in the first line of its ``__post_init__``.  Each part checks
    itself.  A `pathlib.Path` becomes its text, ``file:///a`` becomes ``/a``, ``~/a`` a
    path in the home directory, numpy's numbers become Python's, and a list a tuple.

    Raises:
      UsageError: A value has another type, or is not one of the field's choices.
    """
    hints = _option_types(type(config))  # type: ignore[arg-type]
    for field in dataclasses.fields(config):
        if "help" not in field.metadata:
            continue  # A part, or a field that is no option.
        before = getattr(config, field.name)
        value = _as_option_type(before, hints[field.name], field.name)
        if value is not before:
            # The dataclass is frozen; its own __init__ sets fields this way, too.
            object.__setattr__(config, field.name, value)
        choices = field.metadata["choices"]
        if choices and value not in choices:
            raise errors.UsageError(
                f"--{field.name} takes one of {', '.join(choices)}; got {value!r}"
            )


@functools.cache  # Evaluating annotations takes longer than all the checks.
def _option_types(config_class: Any) -> dict[str, Any]:
    """The types of a config's options."""
    return typing.get_type_hints(config_class)


def _as_option_type(value: Any, hint: Any, name: str) -> Any:
    """An option's value in the form that its annotation names.

    Raises:
      UsageError: It is of another type.
    """
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        if value is None:
            return value
        (hint,) = [kind for kind in typing.get_args(hint) if kind is not type(None)]
    converters: dict[Any, tuple[Callable[[Any], Any], str]] = {
        str: (_option_as_text, "a string or a path"),
        bool: (_option_as_bool, "True or False"),
        int: (_option_as_int, "a whole number"),
        float: (_option_as_float, "a finite number"),
        tuple[str, ...]: (_option_as_texts, "a tuple or list of strings"),
        tuple[int, ...]: (_option_as_ints, "whole numbers, such as 18,21"),
    }
    if hint not in converters:
        return value  # Fields that no flag can set are checked by the config itself.
    convert, wanted = converters[hint]
    converted = convert(value)
    if converted is None:
        raise errors.UsageError(
            f"--{name} takes {wanted}; got {errors.one_line(repr(value))}"
            f" ({type(value).__name__})"
        )
    for text in converted if isinstance(converted, tuple) else (converted,):
        if isinstance(text, str) and not _is_encodable(text):
            raise errors.UsageError(
                f"--{name} has a character that no path and no file can have: {text!r}"
            )
    return converted


def _is_encodable(text: str) -> bool:
    """Whether the operating system can be given an option's text, such as a path."""
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False  # The text has half of a surrogate pair.
    return "\0" not in text


def check_utf8(text: str, flag: str) -> None:
    """Refuses a name in an option that cannot be written into a text or JSON file.

    Where the locale is not UTF-8, Python reads the bytes of a command line that it does
    not know as halves of surrogate pairs.  Paths may have them; names may not.

    Raises:
      UsageError: The text has such a half.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise errors.UsageError(
            f"{flag} has the name {ascii(text)}, which is not UTF-8: set a UTF-8"
            " locale, such as LC_ALL=C.UTF-8, and save flag files as UTF-8"
        ) from None


def _option_as_text(value: Any) -> str | None:
    """An option's value as text; None if it is none."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str):
        return None
    # Such a path is local, but with its scheme it would be opened as a remote path.
    local = re.match(r"file://(?:localhost)?(?=/)", value)
    value = value[local.end() :] if local else value
    # A shell expands ~ only at the beginning of a word, and not in --flag=~/a.
    return os.path.expanduser(value)


def _option_as_texts(value: Any) -> tuple[str, ...] | None:
    """An option's value as several texts; None if it is none."""
    # A string is refused, because it would become a tuple of its letters.
    if not isinstance(value, (tuple, list)):
        return None
    texts = [_option_as_text(item) for item in value]
    known = tuple(text for text in texts if text is not None)
    return known if len(known) == len(texts) else None


def _option_as_ints(value: Any) -> tuple[int, ...] | None:
    """An option's value as whole numbers; None if it is none."""
    if not isinstance(value, (tuple, list)):
        return None
    # Flags and flag files have texts, which may have spaces after the commas.
    plain = [v.strip() if isinstance(v, str) else v for v in value]
    found = [int(v) if _is_whole_number(v) else _option_as_int(v) for v in plain]
    known = tuple(number for number in found if number is not None)
    return known if len(known) == len(found) else None


def _is_whole_number(value: Any) -> bool:
    """Whether the text of a flag is a whole number."""
    return isinstance(value, str) and bool(re.fullmatch(r"[+-]?[0-9]{1,18}", value))


# numpy's numbers are recognised without numpy, because its import would slow --help.
def _option_as_bool(value: Any) -> bool | None:
    """An option's value as a bool; None if it is none."""
    is_bool = isinstance(value, bool) or type(value).__name__ in ("bool", "bool_")
    return bool(value) if is_bool else None


def _option_as_int(value: Any) -> int | None:
    """An option's value as a whole number; None if it is none."""
    number = _option_as_float(value)
    return None if number is None or number != number // 1 else int(number)


def _option_as_float(value: Any) -> float | None:
    """An option's value as a number; None if it is none."""
    # True is refused as a number, although a bool is an int in Python.
    if _option_as_bool(value) is not None or not isinstance(value, numbers.Real):
        return None
    # A whole number stays an int, so that JSON and flag files show it without a point.
    if isinstance(value, numbers.Integral):
        return int(value)
    # NaN is refused here, because every comparison with it is false: checks of a range
    # would not notice it.
    return float(value) if math.isfinite(value) else None


def to_dict(config: Any) -> dict[str, Any]:
    """The options of a config by flat name, as JSON values (tuples become lists)."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if _is_part(field):
            flat, names = to_dict(value), _part_names(field)
            values.update({name: flat[name] for name in names})
        else:
            values[field.name] = _option_as_json(value)
    return values


def from_dict(config_class: type, values: Mapping[str, Any], *, where: str) -> Any:
    """Builds any config from the options in `to_dict`'s form, or their defaults.

    Args:
      config_class: A frozen dataclass of options.
      values: Field values by flat name.
      where: The file that the values come from, for the error message.

    Raises:
      UsageError: The config has no field of that name.
    """
    values = _by_present_names(config_class, values)
    unknown = sorted(set(values) - set(_flat_names(config_class)))
    if unknown:
        raise errors.UsageError(
            f"{where} has fields that {config_class.__name__} does not know:"
            f" {', '.join(unknown)}: install the version of afad-tfdata that wrote it"
        )
    return config_class(
        **{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    )


def defaults(config_class: type) -> dict[str, Any]:
    """The defaults of a config's options by flat name, as in `to_dict`, unchecked."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(config_class):
        if _is_part(field):
            flat, names = defaults(field.metadata["part"]), _part_names(field)
            values.update({name: flat[name] for name in names})
        else:
            values[field.name] = _option_as_json(field.default)
    return values


def _is_part(field: dataclasses.Field) -> bool:
    """Whether a field of a config is a config itself."""
    return "part" in field.metadata


def _part_names(field: dataclasses.Field) -> list[str]:
    """The flat names of the options that a part of a config offers."""
    left_out = field.metadata["leave_out"]
    return [n for n in _flat_names(field.metadata["part"]) if n not in left_out]


def _flat_names(config_class: type) -> list[str]:
    """The names of a config's options, with those of the configs in it."""
    names: list[str] = []
    for field in dataclasses.fields(config_class):
        names += _part_names(field) if _is_part(field) else [field.name]
    return names


def _part_value(field: dataclasses.Field, fields: dict[str, Any]) -> Any:
    """Builds a part of a config from values in `fields`, and removes them there."""
    config_class = field.metadata["part"]
    value = fields.pop(field.name, None)
    flat = {n: fields.pop(n) for n in _part_names(field) if n in fields}
    if value is None:
        return config_class(**flat)
    if not isinstance(value, config_class):
        raise errors.UsageError(
            f"{field.name} takes an object of the class {config_class.__name__}; got"
            f" {errors.one_line(repr(value))} ({type(value).__name__})"
        )
    for name in field.metadata["leave_out"]:
        if getattr(value, name) != defaults(config_class)[name]:
            raise errors.UsageError(
                f"{field.name}.{name} is decided by the program: leave it out of the"
                f" {config_class.__name__}"
            )
    # Without flat values the part stays the same object.
    return dataclasses.replace(value, **flat) if flat else value


def _by_present_names(config_class: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """The options' values by their present names: aliases are replaced."""
    found = dict(values)
    for field in dataclasses.fields(config_class):
        for old in field.metadata.get("aliases", ()):
            if old in found:
                # The alias wins, because `dataclasses.replace` also passes the previous
                # value under the present name.
                found[field.name] = found.pop(old)
    return found


def _flag_type(hint: Any, name: str) -> type:
    """The type of an option's flag: `int | None` -> int, `tuple[str, ...]` -> list."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        inner = [a for a in typing.get_args(hint) if a is not type(None)]
        if len(inner) == 1:
            hint = inner[0]
    if typing.get_origin(hint) is tuple:
        return list
    if hint not in (str, int, float, bool):
        raise TypeError(f"option {name!r} has type {hint!r}, which no flag can carry")
    return hint


def _option_as_json(value: Any) -> Any:
    """An option's value as JSON."""
    if isinstance(value, tuple):
        return [_option_as_json(v) for v in value]
    return value
