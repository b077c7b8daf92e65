"""Messages between workers are data only, and come back as they were."""

from __future__ import annotations

import numpy as np
import pytest

from afad_tfdata.common import errors
from afad_tfdata.training.distributed import messages


def test_values_and_arrays_come_back():
    value = {
        "state": {"loss": float("inf"), "best": None, "sums": [0.1, 2, True]},
        "arrays": {"model/0": np.arange(6, dtype=np.float16).reshape(2, 3)},
        "more": [np.float32(2.5), [], {}, "text"],
    }
    found = messages.decode_message(messages.encode_message(value))
    assert found["state"] == value["state"]
    np.testing.assert_array_equal(
        found["arrays"]["model/0"], np.arange(6).reshape(2, 3)
    )
    assert found["arrays"]["model/0"].dtype == np.float16
    assert found["more"][0].shape == () and found["more"][1:] == [[], {}, "text"]
    assert messages.decode_message(messages.encode_message(None)) is None


@pytest.mark.parametrize("value", [object(), {1: 2}, (1, 2), {"a": {3}}, b"bytes"])
def test_other_values_are_refused_where_they_are_sent(value):
    with pytest.raises(TypeError, match="a message cannot contain"):
        messages.encode_message(value)


@pytest.mark.parametrize("kind", [errors.UsageError, errors.DataError])
def test_an_error_is_raised_on_the_other_side(kind):
    message = messages.encode_error_message(kind("shard 3 is missing"))
    with pytest.raises(kind, match="^shard 3 is missing$"):
        messages.decode_message(message)


def test_an_error_of_a_subclass_arrives_as_its_base():
    class OwnError(errors.DataError):
        pass

    with pytest.raises(errors.DataError):
        messages.decode_message(messages.encode_error_message(OwnError("x")))


def test_a_damaged_message_is_one_line():
    message = bytearray(messages.encode_message({"a": np.zeros(3)}))
    message[-1] ^= 1
    with pytest.raises(errors.WorkerLostError, match="arrived damaged") as caught:
        messages.decode_message(bytes(message))
    assert "\n" not in str(caught.value)
