"""The faces in a photo: finds them and cuts them out, as both commands do.

::

    for square, pixels in faces.cut_faces(photo):    # uint8 [height, width, 3]
        ...                             # (x1, y1, x2, y2), uint8 [150, 150, 3]
    faces.find_faces(photo, detector=my_detector)    # boxes only

A photo is uint8 ``[height, width, 3]`` RGB, upright.  The code is in
`images.face_detector` and `images.face_crop`; programs import the short name.
"""

from afad_tfdata.images.face_crop import FaceCrop
from afad_tfdata.images.face_detector import cut_faces, find_faces, load_detector

__all__ = ["FaceCrop", "cut_faces", "find_faces", "load_detector"]
