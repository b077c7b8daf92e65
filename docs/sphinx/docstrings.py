"""What the reference shows of a config's fields and of signatures.

The help text of an option is its only description, and a config's docstring does not
repeat it.  Therefore the fields are listed from the texts of ``--help``.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator
from typing import Any

from sphinx.util import inspect as _sphinx_inspect


def setup(app: Any) -> dict[str, bool]:
    """Sphinx calls this once."""
    app.connect("autodoc-process-docstring", _add_fields)
    app.connect("autodoc-process-signature", _signature)
    return {"parallel_read_safe": True}


def is_config(thing: Any) -> bool:
    """Whether something is a class whose fields have help texts."""
    return dataclasses.is_dataclass(thing) and any(
        {"help", "part"} & set(field.metadata) for field in dataclasses.fields(thing)
    )


def lines_of(config_class: type) -> Iterator[str]:
    """The fields as a definition list of reStructuredText."""
    yield from (".. rubric:: Fields", "")
    for field, text in _fields(config_class):
        type_name = str(field.type).replace("|", "or")
        shown = _escaped(type_name) + f", default {_literal(field.default)}"
        yield f"``{field.name}`` : {shown}"
        yield f"   {_escaped(text)}"
        if field.metadata["choices"]:
            choices = ", ".join(_literal(c) for c in field.metadata["choices"])
            yield f"   One of {choices}."
        if not field.metadata["flag"]:
            yield "   It is no flag."
        yield ""


def _fields(config_class: type) -> Iterator[tuple[dataclasses.Field, str]]:
    for field in dataclasses.fields(config_class):
        if "part" in field.metadata:
            texts = field.metadata["part_help"]
            for inner, text in _fields(field.metadata["part"]):
                if inner.name not in field.metadata["leave_out"]:
                    yield inner, texts.get(inner.name, text)
        elif "help" in field.metadata:
            yield field, field.metadata["help"]


def _literal(value: Any) -> str:
    return f"``{value!r}``"


def _escaped(text: str) -> str:
    """Text in which reStructuredText sees no markup, and flags as code."""
    pieces = re.split(r"(--[a-z0-9_]+(?:=[\w.,:/]*\w)?|`[^`]+`)", text)
    plain = (re.sub(r"([\\*`|_])", r"\\\1", piece) for piece in pieces[::2])
    code = (f"``{piece.strip('`')}``" for piece in pieces[1::2])
    joined = []
    for piece, literal in zip(plain, [*code, ""], strict=True):
        # Between a literal and the text next to it reStructuredText wants a space.
        joined.append(piece + (f"\\ {literal}\\ " if literal else ""))
    return "".join(joined)


def _add_fields(
    app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]
) -> None:
    del app, name, options
    if what == "class" and is_config(thing):
        lines += ["", *lines_of(thing)]


def _signature(
    app: Any, what: str, name: str, thing: Any, *rest: Any
) -> tuple[str, str | None] | None:
    """The signature with its annotations as they are written in the source.

    Sphinx evaluates them and shows names that no program writes, such as ``DatasetV2``
    for ``tf.data.Dataset``.
    """
    del app, name, rest
    if what == "class" and is_config(thing):
        return "(**fields)", None  # They are listed below it.
    if what not in ("function", "method", "class"):
        return None
    try:
        signature = inspect.signature(thing)
    except (TypeError, ValueError):
        return None
    parameters = [_shown(parameter) for parameter in signature.parameters.values()]
    if what == "method" and parameters and parameters[0].name == "self":
        parameters = parameters[1:]
    if what == "class":
        signature = signature.replace(return_annotation=inspect.Signature.empty)
    text = _sphinx_inspect.stringify_signature(signature.replace(parameters=parameters))
    arguments, _, result = text.rpartition(" -> ")
    return (arguments, result) if arguments else (text, None)


class _Dots:
    """Stands for a default whose text would be an address, such as a function."""

    def __repr__(self) -> str:
        return "..."


def _shown(parameter: inspect.Parameter) -> inspect.Parameter:
    default = parameter.default
    if default is inspect.Parameter.empty or not repr(default).startswith("<"):
        return parameter
    return parameter.replace(default=_Dots())
