"""JPEG 2000: what the codestream's main header and the boxes around it say (ISO/IEC 15444-1, A.5.1 and annex I).

A decoder goes by the marker SIZ of the codestream, not by the box ``ihdr``, so that is what is read here.
"""

import struct
from typing import Final

from cnnbatch.errors import Undecodable
from cnnbatch.images import jxl
from cnnbatch.images.model import ImageHeader, Scan

START: Final = b"\xff\x4f\xff\x51"
END: Final = b"\xff\xd9"
MAX_TILES: Final = 4096
SRGB, GRAY = 16, 17
EXIF_UUID: Final = b"JpgTiffExif->JP2"
XMP_UUID: Final = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
PLAIN_BOXES: Final = frozenset((b"jP  ", b"ftyp", b"jp2h", b"jp2c", b"free"))
HEADER_BOXES: Final = frozenset((b"ihdr", b"colr", b"cdef", b"res ", b"bpcc"))
COLOUR, OPACITY = 0, 1


def scan(data: bytes) -> Scan:
    """Header and metadata of a JP2 file, or of a codestream alone, which is taken for sRGB or gray."""
    if data.startswith(START):
        _check_end(data, len(data))
        header, channels = _siz(data, 0, "j2k")
        return Scan(header, refusal=None if channels in (1, 3) else "mode")
    found: dict[bytes, bytes] = {}
    uuids: dict[bytes, bytes] = {}
    starts = []
    for kind, start, end in jxl.boxes(data):
        if kind == b"jp2c":
            starts.append(start)
            _check_end(data, end)
        elif kind == b"uuid":
            uuids[data[start : start + 16]] = data[start + 16 : end]
        else:
            found[kind] = data[start:end]
    inside = found.get(b"jp2h", b"")
    boxes = [(kind, inside[start:end]) for kind, start, end in jxl.boxes(inside)]
    if len(starts) != 1:
        raise Undecodable("multi-frame" if starts else "truncated", f"JP2 with {len(starts)} codestreams")
    header, channels = _siz(data, starts[0], "jp2")
    colours = [body for kind, body in boxes if kind == b"colr"]
    is_odd = found.keys() - PLAIN_BOXES or uuids.keys() - {EXIF_UUID, XMP_UUID}
    refusal = _refusal(colours, channels, dict(boxes)) or ("metadata" if is_odd else None)
    return Scan(
        header,
        exif=uuids.get(EXIF_UUID, b"").removeprefix(b"Exif\0\0") or None,
        icc=colours[0][3:] if colours and colours[0][:1] == b"\2" else None,
        xmp=uuids.get(XMP_UUID) or None,
        refusal=refusal,
        dropped=("res",) if any(kind == b"res " for kind, _ in boxes) else (),
    )


def _check_end(data: bytes, end: int) -> None:
    """Raises Undecodable where a codestream is cut off: a decoder gives what is left of it."""
    if data[end - len(END) : end] != END:
        raise Undecodable("truncated", "JPEG 2000 codestream without its end")


def _siz(data: bytes, start: int, format: str) -> tuple[ImageHeader, int]:
    """Header from the marker SIZ at the beginning of a codestream, and the number of components."""
    if data[start : start + 4] != START:
        raise Undecodable("corrupt", "JPEG 2000 codestream without its size")
    *sides, channels = struct.unpack_from(">8IH", data, start + 8)
    right, bottom, left, top, tile_width, tile_height = sides[:6]
    width, height = right - left, bottom - top
    if not (1 <= channels <= 4 and width > 0 and height > 0 and tile_width and tile_height):
        raise Undecodable("mode", f"JPEG 2000 of {channels} components, {width}x{height}")
    if -(-right // tile_width) * -(-bottom // tile_height) > MAX_TILES:
        raise Undecodable("unsupported", "JPEG 2000 of more tiles than a picture needs")
    depths = [struct.unpack_from("BBB", data, start + 42 + 3 * index) for index in range(channels)]
    if any(depth & 0x80 or (across, down) != (1, 1) for depth, across, down in depths):
        raise Undecodable("mode", "JPEG 2000 with signed or subsampled components")
    bits = {depth + 1 for depth, _, _ in depths}
    mode = ("L", "LA", "RGB", "RGBA")[channels - 1]
    return ImageHeader(format, width, height, mode if len(bits) == 1 else "depths", bits_per_sample=max(8, *bits)), channels


def _refusal(colours: list[bytes], channels: int, boxes: dict[bytes, bytes]) -> str | None:
    """Refusal of palettes, of colours that are neither sRGB, gray nor in a profile, and of a last channel that is no alpha."""
    if boxes.keys() - HEADER_BOXES:
        return "mode"
    if len(colours) != 1 or (colours[0][:1] == b"\1" and int.from_bytes(colours[0][3:7], "big") not in (SRGB, GRAY)):
        return "metadata"
    if colours[0][:1] not in (b"\1", b"\2"):
        return "metadata"
    if channels in (2, 4):
        kinds = {index: kind for index, kind, _ in struct.iter_unpack(">HHH", boxes.get(b"cdef", b"")[2:])}
        is_plain = all(kinds.get(one, COLOUR) == COLOUR for one in range(channels - 1))
        return None if is_plain and kinds.get(channels - 1) == OPACITY else "mode"
    return None
