"""Which format a file has and what its header says."""

import re
from collections.abc import Callable
from typing import Final

from cnnbatch.choices import CONVERTED
from cnnbatch.errors import Undecodable
from cnnbatch.images import converting, gif, isobmff, jpeg, png, rasters, tiff, webp
from cnnbatch.images.foreign import recognise
from cnnbatch.images.model import MAX_METADATA_BYTES, ImageHeader, Scan, bad_image


def probe(data: bytes, *, convert: bool = False) -> ImageHeader:
    """Format, size in pixels, mode, bits and number of frames of an image file; no pixel is decoded or allocated.

    Raises Undecodable: ``unknown-format``, a format by name, ``corrupt``, ``truncated``. One that `decode` refuses (16 bit,
    animated, huge) is returned all the same. ``convert``: as for `decode`.
    """
    return scan(data, convert=convert).header


def begins_like_a_picture(data: bytes) -> bool:
    """Whether the first bytes are those of a format that is known here."""
    return any(magic.match(data) for magic, _ in SCANNERS)


def scan(data: bytes, *, convert: bool = False) -> Scan:
    """Header, metadata and refusal of a file of any format; raises Undecodable, by the name of a format that is not read.

    ``convert``: formats of `CONVERTED` are read.
    """
    foreign = recognise(data)
    if foreign is not None and not (convert and foreign.name in CONVERTED):
        raise Undecodable(foreign.name, f"no decoder for {foreign.name}")
    known = next((scanner for magic, scanner in SCANNERS if magic.match(data)), None)
    scanner = known if foreign is None else converting.SCANNERS[foreign.name]
    if scanner is None:
        raise Undecodable("unknown-format", f"not an image of a known format: begins with {data[:12]!r}")
    with bad_image("header"):
        found = scanner(data)
    if found.header.width < 1 or found.header.height < 1:
        raise Undecodable("corrupt", f"{found.header.format} of {found.header.width}x{found.header.height} pixels")
    return bounded(found)


def bounded(found: Scan) -> Scan:
    """``found``; raises Undecodable ``metadata`` where EXIF, ICC or XMP are over `MAX_METADATA_BYTES`."""
    if max(len(found.exif or b""), len(found.icc or b""), len(found.xmp or b"")) > MAX_METADATA_BYTES:
        raise Undecodable("metadata", f"EXIF, ICC or XMP over {MAX_METADATA_BYTES} bytes")
    return found


SCANNERS: Final[tuple[tuple[re.Pattern[bytes], Callable[[bytes], Scan]], ...]] = (
    (re.compile(rb"\xff\xd8\xff"), jpeg.scan),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), png.scan),
    (re.compile(rb"GIF8[79]a"), gif.scan),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), webp.scan),
    (re.compile(rb"II[*+]\0|MM\0[*+]"), tiff.scan),
    (re.compile(rb"....ftyp", re.DOTALL), isobmff.scan),
    (re.compile(rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0", re.DOTALL), rasters.scan_bmp),
    (re.compile(rb"P[1-6]\s"), rasters.scan_ppm),
)
