"""Pictures inside the page: faces as data URIs, so that nothing is requested."""

from __future__ import annotations

import base64

from afad_tfdata.reporting import elements, stored_faces

# Pixels and JPEG quality of the faces of a contact sheet.
_SIDE, _QUALITY = 96, 80


def jpeg_uri(content: bytes) -> str:
    """A data URI with the bytes of a JPEG."""
    return "data:image/jpeg;base64," + base64.b64encode(content).decode()


def face(
    shown: stored_faces.Face, *caption: elements.Element | str
) -> elements.Element:
    """A face with a caption below it; a box with the reason if it cannot be read."""
    content = stored_faces.thumbnail(shown, _SIDE, _QUALITY)
    text = elements.extend(elements.new("figcaption"), caption)
    if not content:
        reason = shown.fault or "without image"
        return elements.new(
            "figure", elements.new("span", reason, class_="no-face"), text
        )
    image = elements.new(
        "img",
        src=jpeg_uri(content),
        alt=shown.key,
        width=_SIDE,
        height=_SIDE,
    )
    return elements.new("figure", image, text)


def sheet(faces: list[elements.Element]) -> elements.Element:
    """Faces in rows, as many in a row as fit on the screen."""
    return elements.new("div", *faces, class_="faces")
