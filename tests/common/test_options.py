"""Configs become flags and JSON, and back."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle

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


@dataclasses.dataclass(frozen=True, init=False)
class Whole(options.Config):
    where: str = options.option("", "A place.")
    first: Config = options.part(
        Config, leave_out=("deep", "inner"), help={"count": "Another text."}
    )
    threads: int = options.option(0, "A number of threads.", aliases=("workers",))

    def __post_init__(self):
        options.check_choices(self)
        if self.threads < 0:
            raise errors.UsageError("--threads is at least 0")


def test_flags_of_a_part_are_flat():
    specs = {spec.name: spec for spec in options.specs(Whole)}
    assert list(specs) == ["where", "name", "count", "parts", "threads"]
    assert specs["name"].help == "A name." and specs["count"].help == "Another text."
    assert specs["name"].choices == ("a", "b")
    assert specs["threads"].aliases == ("workers",) and specs["name"].aliases == ()


def test_a_part_is_given_flat_or_whole():
    flat = Whole(where="x", name="b", count=3)
    assert flat == Whole(where="x", first=Config(name="b", count=3))
    assert flat.first == Config(name="b", count=3)
    assert Whole(first=Config(count=3), count=4).first.count == 4
    assert Whole() == Whole(first=Config()) and hash(Whole()) == hash(Whole())


def test_replace_takes_flat_names():
    config = Whole(where="x", count=3)
    assert dataclasses.replace(config, name="b") == Whole(where="x", name="b", count=3)
    assert dataclasses.replace(config, workers=2).threads == 2
    assert dataclasses.replace(config, first=Config()).first.count is None


def test_fields_of_a_part_can_be_read_flat():
    config = Whole(count=3, workers=2)
    assert config.count == 3 and config.workers == config.threads == 2
    assert not hasattr(config, "inner")
    for other in (copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
        assert other == config and other.count == 3


def test_parts_check_themselves():
    with pytest.raises(errors.UsageError, match="--name takes one of a, b; got 'c'"):
        Whole(name="c")
    with pytest.raises(errors.UsageError, match="--threads"):
        Whole(threads=-1)


def test_names_that_a_nested_config_does_not_have():
    for name in ("colour", "deep"):
        with pytest.raises(TypeError, match=f"Whole has no field {name}"):
            Whole(**{name: 1})
    with pytest.raises(errors.UsageError, match="first.deep is decided by the program"):
        Whole(first=Config(deep=True))
    with pytest.raises(TypeError, match="colour"):
        options.part(Config, leave_out=("colour",))


def test_a_nested_config_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Whole().where = "y"


def test_nested_dict_round_trip_is_flat():
    config = Whole(where="x", parts=("a",), threads=2)
    values = options.to_dict(config)
    flat = {"where": "x", "name": "a", "count": None, "parts": ["a"], "threads": 2}
    assert values == flat
    assert options.from_dict(Whole, values, where="config.json") == config
    assert options.from_dict(Whole, {"workers": 2}, where="x").threads == 2
    assert options.defaults(Whole) == options.to_dict(Whole())
    with pytest.raises(errors.UsageError, match="config.json.*deep"):
        options.from_dict(Whole, {"deep": True}, where="config.json")


def test_the_signature_shows_flat_names():
    names = list(inspect.signature(Whole).parameters)
    assert names == ["first", "where", "name", "count", "parts", "threads"]
