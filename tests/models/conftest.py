"""A backbone with weights, a file of them, and one that takes BGR."""

import pytest

from afad_tfdata.models import backbones
from tests.models.small_networks import SIZE, shaken


@pytest.fixture(scope="module")
def donor():
    """A backbone whose weights stand for trained ones."""
    return shaken(backbones.build("MobileNet", SIZE, raw_input=True))


@pytest.fixture(scope="module")
def weights_file(donor, tmp_path_factory):
    path = str(tmp_path_factory.mktemp("weights") / "donor.weights.h5")
    donor.save_weights(path)
    return path


@pytest.fixture
def reversing(monkeypatch):
    """Small networks get a conversion to BGR, as large ones with ImageNet weights."""
    conversion = backbones.Conversion((1.0, 0.5, 2.0), (0.1, 0.2, -0.1), reverse=True)
    monkeypatch.setattr(backbones, "input_conversion", lambda *_: conversion)
    return conversion
