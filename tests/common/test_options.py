"""Configs become flags and JSON, and back."""

from __future__ import annotations

import dataclasses

import pytest

from afad_tfdata.common import errors, options


@dataclasses.dataclass(frozen=True)
class Config:
    name: str = options.option("a", "A name.", choices=("a", "b"))
    count: int | None = options.option(None, "A count.")
    parts: tuple[str, ...] = options.option((), "Some parts.")
    deep: bool = options.option(False, "Whether deep.")
    inner: str = options.option("x", "Not a flag.", flag=False)

    def __post_init__(self):
        options.check_choices(self)


def test_specs_tell_what_a_flag_parser_needs():
    specs = {spec.name: spec for spec in options.specs(Config)}
    assert list(specs) == ["name", "count", "parts", "deep"]
    assert [spec.type for spec in specs.values()] == [str, int, list, bool]
    assert specs["name"].choices == ("a", "b") and specs["count"].default is None


def test_a_wrong_choice_is_named_with_the_right_ones():
    with pytest.raises(errors.UsageError, match=r"--name takes one of a, b; got 'c'"):
        Config(name="c")


def test_dict_round_trip():
    config = Config(count=3, parts=("x", "y"), deep=True)
    values = options.to_dict(config)
    assert values["parts"] == ["x", "y"]
    assert options.from_dict(Config, values, where="config.json") == config


def test_unknown_field_is_named():
    with pytest.raises(errors.UsageError, match="config.json.*colour"):
        options.from_dict(Config, {"colour": 1}, where="config.json")


def test_a_field_that_no_flag_can_carry_is_a_programming_error():
    @dataclasses.dataclass(frozen=True)
    class Odd:
        table: dict = options.option(None, "A table.")

    with pytest.raises(TypeError, match="table"):
        list(options.specs(Odd))
