"""Configs become flags and JSON, and back."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import os
import pathlib
import pickle

import numpy as np
import pytest

from afad_tfdata import (
    doctor,
    evaluation,
    freeze,
    input_benchmark,
    input_fn,
    models,
    prediction,
    records,
    trainer,
)
from afad_tfdata.common import errors, options
from afad_tfdata.images import drawn_faces
from afad_tfdata.reading import data_service
from afad_tfdata.writing import inspection

CONFIGS = (
    *(evaluation.EvaluateConfig, freeze.FreezeConfig, input_fn.InputConfig),
    *(input_benchmark.BenchmarkConfig, prediction.PredictConfig, trainer.TrainConfig),
    *(models.ModelConfig, records.WriteConfig, inspection.InspectConfig),
    *(data_service.DataServiceConfig, doctor.DoctorConfig, drawn_faces.SampleConfig),
)


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


@dataclasses.dataclass(frozen=True)
class Typed:
    path: str = options.option("", "A path.")
    count: int = options.option(1, "A count.")
    limit: int | None = options.option(None, "A limit.")
    rate: float = options.option(0.5, "A rate.")
    deep: bool = options.option(False, "Whether deep.")
    parts: tuple[str, ...] = options.option((), "Some parts.")

    def __post_init__(self):
        options.check_choices(self)


@pytest.mark.parametrize(
    ("name", "given", "wanted"),
    [
        ("path", pathlib.Path("/a/b"), "/a/b"),
        ("path", "file:///a/b", "/a/b"),
        ("path", "file://localhost/a", "/a"),
        ("path", "s3://a/b", "s3://a/b"),
        ("path", "~/records", os.path.join(os.path.expanduser("~"), "records")),
        ("path", pathlib.Path("~"), os.path.expanduser("~")),
        ("path", "a/~/b", "a/~/b"),
        ("count", np.int64(3), 3),
        ("count", 128.0, 128),
        ("count", np.int64(2**63 - 1), 2**63 - 1),
        ("limit", None, None),
        ("limit", np.uint8(3), 3),
        ("rate", 1, 1),
        ("rate", np.float32(0.25), 0.25),
        ("deep", np.bool_(True), True),
        ("parts", ["a", pathlib.Path("b")], ("a", "b")),
    ],
)
def test_a_value_that_can_only_mean_one_thing_is_taken(name, given, wanted):
    value = getattr(Typed(**{name: given}), name)
    assert value == wanted and type(value) is type(wanted)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("path", None, "--path takes a string or a path; got None"),
        ("path", 3, r"got 3 \(int\)"),
        ("path", b"/a", "got b'/a'"),
        ("path", ["/a"], r"\(list\)"),
        ("count", "3", "--count takes a whole number; got '3'"),
        ("count", 1.5, "got 1.5"),
        ("count", True, "got True"),
        ("count", None, "got None"),
        ("count", float("nan"), "got nan"),
        ("count", float("inf"), "got inf"),
        ("limit", "3", "--limit takes a whole number"),
        ("rate", "0.5", "--rate takes a finite number"),
        ("rate", float("nan"), "got nan"),
        ("rate", True, "got True"),
        ("deep", "yes", "--deep takes True or False; got 'yes'"),
        ("deep", 1, "got 1"),
        ("parts", "ab", "--parts takes a tuple or list of strings; got 'ab'"),
        ("parts", (1,), "got"),
        ("path", "a\0b", r"--path has a character that no path .*: 'a\\x00b'"),
        ("path", "\ud800", "--path has a character that no path"),
        ("parts", ("a", "b\0"), "--parts has a character"),
    ],
)
def test_a_value_of_another_type_is_refused_in_one_line(name, value, text):
    with pytest.raises(errors.UsageError, match=text) as caught:
        Typed(**{name: value})
    assert "\n" not in str(caught.value)


def test_a_part_of_another_type_is_refused_in_one_line():
    with pytest.raises(errors.UsageError, match="first takes an object of the class"):
        Whole(first={"name": "a"})


@pytest.mark.parametrize("config_class", CONFIGS)
def test_every_config_of_the_package_checks_types(config_class):
    """Each field, with an object of a type that no option has."""
    for spec in options.specs(config_class):
        with pytest.raises(errors.UsageError) as caught:
            config_class(**{spec.name: object()})
        assert f"--{spec.name} takes" in str(caught.value)
