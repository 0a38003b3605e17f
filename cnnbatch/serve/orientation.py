"""EXIF as the server needs it: which way up a picture is shown (it is stored as the camera read it), and text for people."""

import struct
from typing import Any, Final

import numpy as np
from PIL import ExifTags, Image

from cnnbatch.codec.geometry import Pixels, Region
from cnnbatch.images.model import BAD_IMAGE

SIDEWAYS: Final = frozenset({5, 6, 7, 8})
"""Orientations in which width and height change places: rows and columns are swapped last."""

COLUMNS_BACKWARDS: Final = frozenset({2, 3, 7, 8})
ROWS_BACKWARDS: Final = frozenset({3, 4, 6, 7})

MOST_CHARACTERS: Final = 200
"""Longest value that is shown."""

_UNSHOWN: Final = frozenset(
    {"ExifOffset", "GPSInfo", "InteroperabilityOffset", "MakerNote", "UserComment", "PrintImageMatching"}
)


def orientation_of(exif: bytes | None) -> int:
    """1 to 8, and 1 for whatever is none; ``exif`` begins with the byte order mark."""
    value = _entries(exif).get(ExifTags.Base.Orientation)
    return value if type(value) is int and 1 <= value <= 8 else 1


def shown_size(width: int, height: int, orientation: int) -> tuple[int, int]:
    """(width, height) of the upright picture."""
    return (height, width) if orientation in SIDEWAYS else (width, height)


def stored_region(region: Region, width: int, height: int, orientation: int) -> Region:
    """Where the pixels of a region of the upright picture are stored, in a picture that is stored as ``width`` × ``height``."""
    top, left, rows, columns = region.top, region.left, region.height, region.width
    if orientation in SIDEWAYS:
        top, left, rows, columns = left, top, columns, rows
    if orientation in COLUMNS_BACKWARDS:
        left = width - left - columns
    if orientation in ROWS_BACKWARDS:
        top = height - top - rows
    return Region(top, left, rows, columns)


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """Pixels as stored → as shown."""
    if orientation in COLUMNS_BACKWARDS:
        pixels = pixels[:, ::-1]
    if orientation in ROWS_BACKWARDS:
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels.swapaxes(0, 1) if orientation in SIDEWAYS else pixels)


def exif_text(exif: bytes | None) -> dict[str, str]:
    """Names and values of EXIF as text, without where the picture was taken and without what only programs read."""
    named = ((ExifTags.TAGS.get(tag), value) for tag, value in _entries(exif).items())
    return {
        name: str(value)[:MOST_CHARACTERS]
        for name, value in named
        if name is not None and name not in _UNSHOWN and not isinstance(value, bytes)
    }


def _entries(exif: bytes | None) -> dict[int, Any]:
    if not exif:
        return {}
    found = Image.Exif()
    try:
        found.load(exif)
        return {**found, **found.get_ifd(ExifTags.IFD.Exif)}
    except (*BAD_IMAGE, struct.error):
        return {}
