"""Formats that are known by name and decoded by nothing here: what a file is, and its size where its head tells.

Only the first bytes and boxes are looked at; a file that is cut off or damaged behind them has its name all the same.
"""

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cnnbatch.images import jxl

MOST_BYTES: Final = 1 << 20
"""Bytes at the beginning in which a size is looked for."""

HEAD_BYTES: Final = 4096
"""Bytes in which the text of a drawing begins."""

MAX_ENTRIES: Final = 512
SUB_DIRECTORIES, DNG_VERSION, MAKE = 330, 50706, 271

BRANDS: Final = {
    **dict.fromkeys((b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs", b"mif1", b"msf1"), "heic"),
    **dict.fromkeys((b"mp41", b"mp42", b"isom", b"iso2", b"iso4", b"iso5", b"iso6", b"avc1", b"dash", b"M4V ", b"mmp4"), "mp4"),
    **{b"crx ": "cr3", b"qt  ": "mov", b"3gp4": "3gp", b"3gp5": "3gp", b"3gp6": "3gp"},
}
"""Major brands of ISO media files (ISO/IEC 14496-12) that are no AVIF."""

RAW_MAKES: Final = {b"NIKON": "nef", b"SONY": "arw", b"PENTAX": "pef"}
"""Makers whose TIFF files with further directories inside are raw data of a camera."""


@dataclass(frozen=True, slots=True)
class Foreign:
    """A format's name, which is its usual ending, and the size in pixels, where it is told."""

    name: str
    width: int | None = None
    height: int | None = None


def recognise(data: bytes) -> Foreign | None:
    """Name and size of a file that no reader of this package takes; None: one that is read here, or unknown."""
    found = (
        next((name for magic, name in SIGNATURES if magic.match(data)), None) or _iso_media(data) or _raw(data) or _svg(data)
    )
    if found is None:
        return None
    width, height = SIZES[found](data[:MOST_BYTES]) if found in SIZES else (None, None)
    return Foreign(found, width or None, height or None)


SIGNATURES: Final = tuple(
    (re.compile(pattern, re.DOTALL), name)
    for pattern, name in (
        (rb"\x00\x00\x00\x0cjP  \r\n\x87\n", "jp2"),
        (rb"\xff\x4f\xff\x51", "j2k"),
        (rb"\xff\x0a|\x00\x00\x00\x0cJXL \r\n\x87\n", "jxl"),
        (rb"8BPS\x00[\x01\x02]", "psd"),
        (rb"II\*\x00.{4}CR\x02", "cr2"),
        (rb"IIR[OS]|MMOR", "orf"),
        (rb"IIU\x00", "rw2"),
        (rb"FUJIFILMCCD-RAW", "raf"),
        (rb"II\xbc\x01", "jxr"),
        (rb"%PDF-", "pdf"),
        (rb"%!PS", "ps"),
        (rb"\x00\x00\x01\x00[\x01-\xff]\x00", "ico"),
        (rb"v/1\x01", "exr"),
        (rb"#\?R(?:ADIANCE|GBE)", "hdr"),
        (rb"P[fF]\n", "pfm"),
        (rb".{128}DICM", "dcm"),
        (rb"SIMPLE  =", "fits"),
        (rb"\x1aE\xdf\xa3", "mkv"),
        (rb"RIFF....AVI ", "avi"),
    )
)


def _iso_media(data: bytes) -> str | None:
    if data[4:8] != b"ftyp":
        return None
    others = {data[start : start + 4] for start in range(16, min(int.from_bytes(data[:4], "big"), len(data), 1024) - 3, 4)}
    if data[8:12] == b"avis" and b"moov" in data[:MOST_BYTES]:
        return "avif-sequence"
    if {data[8:12], *others} & {b"avif", b"avis"}:
        return None
    return BRANDS.get(data[8:12]) or next((BRANDS[brand] for brand in sorted(others) if brand in BRANDS), None)


def _svg(data: bytes) -> str | None:
    head = data[:HEAD_BYTES].removeprefix(b"\xef\xbb\xbf").lstrip()
    if not head.startswith((b"<svg", b"<?xml", b"<!")) or b"<html" in head.lower():
        return None
    return "svg" if re.search(rb"<svg[\s>]", head) else None


def _raw(data: bytes) -> str | None:
    """A camera's raw file in the structure of a TIFF."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if order is None or len(data) < 8:
        return None
    tags = _entries(data, order)
    if DNG_VERSION in tags:
        return "dng"
    count, at = tags.get(MAKE, (0, 0))
    make = data[at : at + min(count, 64)].upper()
    if SUB_DIRECTORIES not in tags:
        return None
    return next((name for start, name in RAW_MAKES.items() if make.startswith(start)), None)


def _entries(data: bytes, order: str) -> dict[int, tuple[int, int]]:
    """Tags of the first directory, each with its count and value or offset; fewer where the file is cut off."""
    (start,) = struct.unpack_from(f"{order}I", data, 4)
    if start + 2 > len(data):
        return {}
    (count,) = struct.unpack_from(f"{order}H", data, start)
    found: dict[int, tuple[int, int]] = {}
    for position in range(start + 2, start + 2 + 12 * min(count, MAX_ENTRIES), 12):
        if position + 12 > len(data):
            break
        tag, _, number, value = struct.unpack_from(f"{order}HHII", data, position)
        found.setdefault(tag, (number, value))
    return found


_Size = tuple[int | None, int | None]


def _largest_item(data: bytes) -> _Size:
    """The largest of the sizes that items of a HEIC file have (ISO/IEC 23008-12, 6.5.3): that of the whole picture."""
    sizes = [struct.unpack(">II", found[1]) for found in re.finditer(rb"ispe\0{4}(.{8})", data, re.DOTALL)]
    width, height = max(sizes, key=lambda size: size[0] * size[1], default=(None, None))
    return width, height


def _jp2(data: bytes) -> _Size:
    at = data.find(b"ihdr")
    if at < 0 or at + 12 > len(data):
        return None, None
    height, width = struct.unpack_from(">II", data, at + 4)
    return width, height


def _j2k(data: bytes) -> _Size:
    if len(data) < 24:
        return None, None
    right, bottom, left, top = struct.unpack_from(">IIII", data, 8)
    return max(0, right - left), max(0, bottom - top)


def _psd(data: bytes) -> _Size:
    if len(data) < 22:
        return None, None
    height, width = struct.unpack_from(">II", data, 14)
    return width, height


def _jxl(data: bytes) -> _Size:
    try:
        return jxl.size(jxl.Bits(jxl.codestream(data)[2:]))
    except ValueError:
        return None, None


SIZES: Final[dict[str, Callable[[bytes], _Size]]] = {
    "heic": _largest_item,
    "avif-sequence": _largest_item,
    "jp2": _jp2,
    "j2k": _j2k,
    "jxl": _jxl,
    "psd": _psd,
}
