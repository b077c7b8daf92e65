"""Pictures inside the page: faces as data URIs, so that nothing is requested."""

from __future__ import annotations

import base64

from afad_tfdata.reporting import html_elements, stored_faces

# Pixels and JPEG quality of the faces of a contact sheet.
_SIDE, _QUALITY = 96, 80


def jpeg_uri(content: bytes) -> str:
    """A data URI with the bytes of a JPEG."""
    return "data:image/jpeg;base64," + base64.b64encode(content).decode()


def face(
    shown: stored_faces.Face, *caption: html_elements.Element | str
) -> html_elements.Element:
    """A face with a caption below it; a box with the reason if it cannot be read."""
    content = stored_faces.thumbnail(shown, _SIDE, _QUALITY)
    text = html_elements.extend(html_elements.new("figcaption"), caption)
    if not content:
        reason = shown.fault or "without image"
        return html_elements.new(
            "figure", html_elements.new("span", reason, class_="no-face"), text
        )
    image = html_elements.new(
        "img",
        src=jpeg_uri(content),
        alt=shown.key,
        width=_SIDE,
        height=_SIDE,
    )
    return html_elements.new("figure", image, text)


def sheet(faces: list[html_elements.Element]) -> html_elements.Element:
    """Faces in rows, as many in a row as fit on the screen."""
    return html_elements.new("div", *faces, class_="faces")
