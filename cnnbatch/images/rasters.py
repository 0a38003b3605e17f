"""BMP and PPM (PBM, PGM): plain rows of samples behind a small header."""

import re
import struct
from typing import Final

import numpy as np

from cnnbatch.errors import Undecodable
from cnnbatch.images.model import MAX_TRAILING_BYTES, ImageHeader, Scan
from cnnbatch.images.segments import AFTER, BEFORE, Segment, joined

PPM_SPACE: Final = rb"(?:\s|#[^\n]*\n)+"
PBM: Final = re.compile(rb"P." + (PPM_SPACE + rb"([0-9]{1,9})") * 2 + rb"\s", re.DOTALL)
PPM: Final = re.compile(rb"P." + (PPM_SPACE + rb"([0-9]{1,9})") * 3 + rb"\s", re.DOTALL)
MAX_PPM_HEADER: Final = 1024
COMMENT: Final = re.compile(rb"#[^\n]*\n")

BMP_MODES: Final = {1: "P", 4: "P", 8: "P", 16: "RGB", 24: "RGB", 32: "RGBA"}
UNPACKED, WITH_MASKS, WITH_ALPHA_MASK = 0, 3, 6
SRGB_SPACES: Final = (0x73524742, 0x57696E20)  # 'sRGB', 'Win '
LINKED_PROFILE, OWN_PROFILE = 0x4C494E4B, 0x4D424544


def scan_bmp(data: bytes) -> Scan:
    """Header of a BMP, and what is after its pixels."""
    offset, size = struct.unpack_from("<II", data, 10)
    width, height, _, bits = struct.unpack_from("<HHHH" if size == 12 else "<iiHH", data, 18)
    packing = struct.unpack_from("<I", data, 30)[0] if size >= 40 else UNPACKED
    density = struct.unpack_from("<ii", data, 38) if size >= 40 else (0, 0)
    words = (f"dpi={density[0] * 0.0254:g}x{density[1] * 0.0254:g}",) if min(density) > 0 else ()
    header = ImageHeader("bmp", width, abs(height), BMP_MODES.get(bits, f"{bits}-bit"))
    refusal = "metadata" if _has_colours_of_its_own(data, size) else None
    if data[_end_of_palette(data, size, bits, packing) : offset].strip(b"\0"):
        refusal = "metadata"  # something between the header and the pixels
    trailing = data[_end_of_pixels(data, header, offset, bits, packing) :]
    if len(trailing) > MAX_TRAILING_BYTES and trailing.strip(b"\0"):
        refusal = "trailing-data"
    segments = (Segment(AFTER, trailing),) if 0 < len(trailing) <= MAX_TRAILING_BYTES else ()
    dropped = ("padding",) if len(trailing) > MAX_TRAILING_BYTES else ()
    return Scan(header, words=words, refusal=refusal, segments=segments, dropped=dropped)


def _has_colours_of_its_own(data: bytes, size: int) -> bool:
    """A profile, or primaries and gamma."""
    if size < 108:
        return False
    (space,) = struct.unpack_from("<I", data, 70)
    return space in (LINKED_PROFILE, OWN_PROFILE) or (space not in SRGB_SPACES and any(data[74:122]))


def _end_of_palette(data: bytes, size: int, bits: int, packing: int) -> int:
    (used,) = struct.unpack_from("<I", data, 46) if size >= 40 else (0,)
    colours = used or (1 << bits if bits <= 8 else 0)
    masks = {WITH_MASKS: 12, WITH_ALPHA_MASK: 16}.get(packing, 0) if size == 40 else 0
    return 14 + size + masks + colours * (3 if size == 12 else 4)


def _end_of_pixels(data: bytes, header: ImageHeader, offset: int, bits: int, packing: int) -> int:
    """Where they end; of packed rows by what the header says, or the end of the file."""
    if packing in (UNPACKED, WITH_MASKS, WITH_ALPHA_MASK):
        return offset + (header.width * bits + 31) // 32 * 4 * header.height
    (packed,) = struct.unpack_from("<I", data, 34)
    return offset + packed if packed else len(data)


def with_segments_bmp(data: bytes, segments: list[Segment]) -> bytes:
    """The BMP ``data`` with the bytes after its end."""
    return data + joined(segments, AFTER)


def scan_ppm(data: bytes) -> Scan:
    """Header, comments and end of a PBM, PGM or PPM."""
    match = (PBM if data[1:2] in b"14" else PPM).match(data, 0, MAX_PPM_HEADER)
    if match is None:
        raise Undecodable("corrupt", "PPM without a valid header")
    width, height, maximum = (int(number) for number in (*match.groups(), b"1")[:3])
    mode = {0: "RGB", 1: "1", 2: "L"}[data[1] % 3]
    header = ImageHeader("ppm", width, height, mode, bits_per_sample=max(maximum.bit_length(), 1))
    segments = [Segment(BEFORE, comment) for comment in COMMENT.findall(data, 0, match.end())]
    if data[1:2] in b"123":
        return Scan(header, refusal=_refusal_of_text(data, match.end(), header), segments=tuple(segments))
    row = {"1": (width + 7) // 8, "L": width, "RGB": 3 * width}[mode]
    trailing = data[match.end() + height * row :] if maximum < 256 else b""
    refusal = "trailing-data" if trailing.strip() or len(trailing) > MAX_TRAILING_BYTES else None
    segments += [Segment(AFTER, trailing)] if trailing else []
    return Scan(header, refusal=refusal, segments=tuple(segments))


def _refusal_of_text(data: bytes, start: int, header: ImageHeader) -> str | None:
    """Refusal of samples in decimal: comments among them, or more samples than the picture has."""
    if data.find(b"#", start) >= 0:
        return "metadata"
    if header.mode == "1":
        found = data.count(b"0", start) + data.count(b"1", start)
    else:
        is_space = np.frombuffer(data, np.uint8, offset=start - 1) <= ord(" ")
        found = int(np.count_nonzero(is_space[:-1] & ~is_space[1:]))
    return "trailing-data" if found > header.width * header.height * (3 if header.mode == "RGB" else 1) else None


def with_segments_ppm(data: bytes, segments: list[Segment]) -> bytes:
    """The PPM ``data`` with comments in its header, and bytes after its end."""
    return data[:3] + joined(segments, BEFORE) + data[3:] + joined(segments, AFTER)
