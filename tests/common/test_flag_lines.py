"""A config as lines of a flag file."""

import dataclasses

import pytest

from afad_tfdata.common import options


@dataclasses.dataclass(frozen=True)
class _Config:
    name: str = options.option("a", "Text.")
    rate: float = options.option(0.5, "A rate.")
    steps: int | None = options.option(3, "Steps.")
    on: bool = options.option(True, "A switch.")
    names: tuple[str, ...] = options.option((), "Names.")
    weights: tuple[float, ...] = options.option((), "Not a flag.", flag=False)


@pytest.mark.parametrize(
    ("fields", "lines"),
    [
        ({}, []),
        ({"rate": 1e-05, "on": False}, ["--noon", "--rate=1e-05"]),
        ({"names": ("a b", 'c,"d')}, ['--names=a b,"c,""d"']),
        ({"name": ""}, ["--name="]),
    ],
)
def test_lines(fields, lines):
    assert options.flag_lines(_Config(**fields)) == lines


@pytest.mark.parametrize(
    "fields", [{"steps": None}, {"name": "a\nb"}, {"name": "a "}, {"weights": (1.0,)}]
)
def test_what_no_flag_can_say(fields):
    with pytest.raises(ValueError):
        options.flag_lines(_Config(**fields))
