"""Which copies are kept: small cases, and a comparison with a plain loop."""

from __future__ import annotations

import numpy as np
import pytest

from afad_tfdata.writing import duplicate_images


def _decide(digests, labels, duplicates="first", conflicts="reject", keys=None):
    sha256 = np.zeros((len(digests), 32), np.uint8)
    sha256[:, 7] = digests
    keys = np.arange(len(digests)) if keys is None else np.asarray(keys)
    return duplicate_images.decide(
        sha256,
        np.asarray(labels).reshape(-1, 1),
        keys,
        duplicates=duplicates,
        conflicts=conflicts,
    )


@pytest.mark.parametrize(
    ("digests", "labels", "flags", "kept"),
    [
        ([1, 2, 3], [0, 0, 0], {}, [1, 1, 1]),
        ([1, 2, 1], [0, 0, 0], {}, [1, 1, 0]),
        ([1, 2, 1], [0, 0, 0], {"keys": [5, 1, 3]}, [0, 1, 1]),  # Lowest key.
        ([1, 2, 1], [0, 0, 0], {"duplicates": "all"}, [1, 1, 1]),
        ([1, 2, 1], [0, 0, 9], {}, [0, 1, 0]),
        ([1, 1, 1], [4, 4, 9], {}, [0, 0, 0]),  # Two agree, one does not.
        ([1, 1, 1], [4, 4, 9], {"conflicts": "first"}, [1, 0, 0]),
        ([1, 1, 1], [4, 4, 9], {"conflicts": "all"}, [1, 1, 1]),
        ([1, 2, 1], [0, 0, 9], {"duplicates": "all"}, [0, 1, 0]),
        ([], [], {}, []),
    ],
)
def test_small_cases(digests, labels, flags, kept):
    keep, _, _ = _decide(digests, labels, **flags)
    assert keep.tolist() == [bool(k) for k in kept]


def test_decisions_equal_those_of_a_loop():
    rng = np.random.default_rng(2)
    digests, labels = rng.integers(0, 40, 100), rng.integers(0, 2, 100)
    keys = rng.permutation(100)
    keep, first, in_conflict = _decide(digests, labels, keys=keys)
    for i in range(100):
        group = [j for j in range(100) if digests[j] == digests[i]]
        lowest = min(group, key=lambda j: keys[j])
        conflict = len({labels[j] for j in group}) > 1
        assert first[i] == lowest
        assert in_conflict[i] == conflict
        assert keep[i] == (lowest == i and not conflict)
