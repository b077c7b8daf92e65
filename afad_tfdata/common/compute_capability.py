"""NVIDIA's rule for which compiled code runs on which GPU."""

from __future__ import annotations

import re
from collections.abc import Sequence


def built_for(capability: tuple[int, int], built: Sequence[str]) -> str:
    """Says how a build of TensorFlow runs on a GPU: as it is, translated, or not.

    Args:
      capability: The GPU's compute capability, such as ``(9, 0)``.
      built: What the build contains, such as ``["sm_80", "compute_90"]``.

    Returns:
      ``kernels`` if it contains code for this GPU, ``translated`` if it contains code
      that the driver translates for newer GPUs, and nothing if it contains neither.
    """
    translated = False
    for text in built:
        match = re.fullmatch(r"(sm|compute)_(\d+)(\d)", text)
        if not match:
            continue  # Such as sm_90a, which runs on that one architecture only.
        kind, (major, minor) = match[1], (int(match[2]), int(match[3]))
        # NVIDIA's rule: code for a GPU runs on later ones of the same major version,
        # and the intermediate code (PTX) is translated for every later one.
        if kind == "sm" and capability[0] == major and capability[1] >= minor:
            return "kernels"
        if (major, minor) == tuple(capability):
            return "kernels"
        translated |= kind == "compute" and tuple(capability) > (major, minor)
    return "translated" if translated else ""
