"""A backbone with weights, and a file of them."""

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
