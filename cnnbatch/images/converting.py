"""Pixels of files that come back otherwise than they were: HEIC, JPEG 2000, JPEG XL, and 16-bit samples that are 8-bit ones.

Nothing is rounded: a picture of more than 8 bits is read only where each sample is an 8-bit one in both of its bytes (v · 257,
as PNG and TIFF make one of the other).
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from cnnbatch.choices import CONVERTED
from cnnbatch.errors import Undecodable
from cnnbatch.images import heic, ifd, jp2, jxl, png, tiff
from cnnbatch.images.model import ImageHeader, Scan

Samples = NDArray[Any]

SCANNERS: Final[dict[str, Callable[[bytes], Scan]]] = {"heic": heic.scan, "jp2": jp2.scan, "j2k": jp2.scan, "jxl": jxl.scan}
"""By the name of a format in `CONVERTED`."""

DEEP_FORMATS: Final = frozenset(("png", "tiff", "jp2", "j2k", "jxl"))
DEEP: Final = 16
REDUCED: Final = "16-bit"
"""Among what is dropped: the second byte of each sample, which was the first one."""


def is_deep(header: ImageHeader) -> bool:
    """Whether a picture has 16-bit samples that may be 8-bit ones."""
    return header.bits_per_sample == DEEP and header.format in DEEP_FORMATS


def is_reduced(mode: str) -> bool:
    """Whether ``mode`` of a `DecodedImage` says that its file had 16 bits a sample."""
    words = (word.partition("=") for word in mode.split()[1:])
    return any(name == "dropped" and REDUCED in value.split("+") for name, _, value in words)


def converts(header: ImageHeader) -> bool:
    """Whether a picture can only be read here."""
    return header.format in CONVERTED or is_deep(header)


def read(data: bytes, found: Scan) -> tuple[NDArray[np.uint8], Scan]:
    """Pixels uint8 [H, W] or [H, W, 2…4], and ``found`` with all that is known now.

    Raises Undecodable, ``16-bit`` where samples are no 8-bit ones, and whatever the decoders raise.
    """
    samples, found = READERS[found.header.format](data, found)
    if found.exif:
        ifd.read(found.exif)  # damaged EXIF could not be written back
    if samples.dtype == np.uint16:
        found = replace(found, dropped=(*found.dropped, REDUCED))
    return _in_8_bits(samples), found


def _in_8_bits(samples: Samples) -> NDArray[np.uint8]:
    if samples.dtype == np.uint8:
        return samples
    if samples.dtype != np.uint16:
        raise Undecodable("mode", f"samples of the type {samples.dtype}")
    halves = np.ascontiguousarray(samples).view(np.uint8).reshape(*samples.shape, 2)
    if not np.array_equal(halves[..., 0], halves[..., 1]):
        raise Undecodable("16-bit", "samples of 16 bits that are more than 8-bit ones")
    return np.ascontiguousarray(halves[..., 0])


def _read_png(data: bytes, found: Scan) -> tuple[Samples, Scan]:
    if any(kind == b"tRNS" for kind, _ in png.chunks(data)):
        raise Undecodable("16-bit", "PNG of 16 bits with a transparent colour")
    return imagecodecs.png_decode(png.pixels_only(data)), found


def _read_tiff(data: bytes, found: Scan) -> tuple[Samples, Scan]:
    directory = ifd.read(data)
    if set(directory.ints(tiff.BITS)) != {DEEP} or directory.ints(tiff.EXTRA_SAMPLES) == (tiff.ASSOCIATED,):
        raise Undecodable("mode", "TIFF of several depths, or with colours multiplied by alpha")
    samples = imagecodecs.tiff_decode(data)
    if samples.ndim == 3 and directory.ints(tiff.PLANAR, (1,))[0] == tiff.SEPARATE:
        samples = np.moveaxis(samples, 0, 2)
    is_inverted = directory.ints(tiff.PHOTOMETRIC, (1,))[0] == tiff.WHITE_IS_ZERO
    return (np.iinfo(samples.dtype).max - samples if is_inverted else samples), found


def _read_jxl(data: bytes, found: Scan) -> tuple[Samples, Scan]:
    samples = imagecodecs.jpegxl_decode(data, numthreads=1)
    return samples, replace(found, exif=ifd.upright(found.exif)) if found.exif else found


READERS: Final[dict[str, Callable[[bytes, Scan], tuple[Samples, Scan]]]] = {
    "png": _read_png,
    "tiff": _read_tiff,
    "heic": heic.read,
    "jp2": lambda data, found: (imagecodecs.jpeg2k_decode(data, numthreads=1), found),
    "j2k": lambda data, found: (imagecodecs.jpeg2k_decode(data, numthreads=1), found),
    "jxl": _read_jxl,
}
