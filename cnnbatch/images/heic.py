"""HEIC: the header from the boxes of the file (ISO/IEC 23008-12), the pixels through pillow-heif, which is optional.

Such a picture comes back as an AVIF. What goes with it in the file (thumbnails, gain and depth maps) is left out and named; a
file of several pictures, or of colours that no profile tells, is refused.
"""

import struct
from dataclasses import replace
from typing import Any

import numpy as np

from cnnbatch.errors import Undecodable
from cnnbatch.images import ifd, isobmff
from cnnbatch.images.hevc import largest_picture
from cnnbatch.images.model import ImageHeader, Scan


def scan(data: bytes) -> Scan:
    """Header of a HEIC file: its primary picture as it is shown. Metadata stays with the decoder."""
    items = isobmff.read_items(data)
    coded = isobmff.size_of(items, items.primary)
    properties = list(isobmff.properties_of(items, items.primary))
    width, height = _as_shown(coded, properties)
    aside, file_boxes = _aside(items), {kind for kind, _ in isobmff.iter_boxes(memoryview(data))}
    is_several = b"moov" in file_boxes or isobmff.has_other_pictures(items, (b"auxl", b"thmb"))
    mode = "RGBA" if "alpha" in aside else "RGB"
    header = ImageHeader("heic", width, height, mode, _hevc_bits(items), num_frames=2 if is_several else 1)
    refusal = _refusal(items, properties, coded[0] * coded[1]) or ("metadata" if file_boxes - isobmff.FILE_BOXES else None)
    return Scan(header, refusal=refusal, dropped=tuple(sorted(aside - {"alpha"})))


def _as_shown(size: tuple[int, int], properties: list[tuple[bytes, bytes]]) -> tuple[int, int]:
    """Width and height once a picture is cut and turned as its properties say, in their order."""
    width, height = size
    for kind, body in properties:
        if kind == b"clap":
            across, across_by, down, down_by = struct.unpack_from(">IIII", body)
            width, height = min(width, across // max(across_by, 1)), min(height, down // max(down_by, 1))
        elif kind == b"irot" and body[0] & 1:
            width, height = height, width
    return width, height


def _refusal(items: isobmff.Items, properties: list[tuple[bytes, bytes]], pixels: int) -> str | None:
    if items.types.get(items.primary) not in (isobmff.HEVC, isobmff.GRID):
        return "unsupported"
    if isobmff.has_larger_frames(items, pixels):
        return "corrupt"
    colours = [body for kind, body in properties if kind == b"colr"]
    has_profile = any(body[:4] in (b"prof", b"rICC") for body in colours)
    return None if has_profile or all(isobmff.is_srgb(body) for body in colours if body[:4] == b"nclx") else "metadata"


def _hevc_bits(items: isobmff.Items) -> int:
    """The depth of the primary picture or its tiles."""
    tiles = (end for kind, start, ends in items.references if (kind, start) == (b"dimg", items.primary) for end in ends)
    planes = (number for number in (items.primary, *tiles) if items.types.get(number) == isobmff.HEVC)
    depths = (largest_picture(isobmff.property_of(items, number, b"hvcC"), items.data[number])[2] for number in planes)
    return max(depths, default=8)


def _aside(items: isobmff.Items) -> set[str]:
    """Names for what a HEIC holds beside its picture; ``alpha`` is that of the primary one."""
    found = set()
    for kind, start, _ in items.references:
        if kind == b"thmb":
            found.add("thumbnail")
        elif kind == b"auxl":
            urn = isobmff.property_of(items, start, b"auxC")
            is_depth = b"depth" in urn or b"disparity" in urn
            is_gain_map = b"gainmap" in urn.lower()
            found.add("alpha" if isobmff.is_alpha(urn) else "gain-map" if is_gain_map else "depth" if is_depth else "auxiliary")
    return found | ({"items"} if items.others else set())


def read(data: bytes, found: Scan) -> tuple[np.ndarray[Any, Any], Scan]:
    """Samples [H, W, 3 or 4] as the picture is shown, and ``found`` with the metadata.

    Raises Undecodable ``heic`` where pillow-heif is missing.
    """
    try:
        import pillow_heif
    except ImportError as error:
        raise Undecodable("heic", "pillow-heif is not installed") from error
    file = pillow_heif.open_heif(data, convert_hdr_to_8bit=False)
    image = file[file.primary_index]
    exif = (image.info.get("exif") or b"").removeprefix(b"Exif\0\0")
    icc, xmp = image.info.get("icc_profile"), image.info.get("xmp")
    metadata = replace(found, exif=ifd.upright(exif) if exif else None, icc=icc or None, xmp=xmp or None)
    return np.asarray(image), metadata
