"""JPEG XL: size, samples and colours from the headers of the codestream, metadata from the boxes around it.

ISO/IEC 18181-1, annex D (SizeHeader, ImageMetadata), and 18181-2 for the boxes. Nothing here decodes entropy-coded data, so a
colour profile inside the codestream is seen and not read.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from cnnbatch.errors import Undecodable
from cnnbatch.images.model import ImageHeader, Scan

CODESTREAM: Final = b"\xff\x0a"
HEADER_BYTES: Final = 1 << 12
"""Bytes at the beginning of a codestream that are looked at: channels may have long names."""

MAX_BOXES: Final = 10_000
MAX_CHANNELS: Final = 16
EXIF, XMP, TRANSCODE = b"Exif", b"xml ", b"jbrd"
PLAIN_BOXES: Final = frozenset((b"JXL ", b"ftyp", b"jxll", b"jxli", b"jxlc", b"jxlp", b"free", b"skip"))
RATIOS: Final = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
RGB, GRAY, XYB = 0, 1, 2
D65, SRGB_PRIMARIES, SRGB_TRANSFER, CUSTOM = 1, 1, 13, 2
ALPHA = 0
TURNED: Final = 5
"""Orientations from here on swap width and height."""


class Bits:
    """Bits from the lowest, and the numbers that headers are made of (annex B); raises ValueError at the end of the data."""

    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data, "little"), 8 * len(data)

    def take(self, count: int) -> int:
        """So many bits as a number."""
        self._left -= count
        if self._left < 0:
            raise ValueError("a JPEG XL codestream that ends in its header")
        value = self._value & ((1 << count) - 1)
        self._value >>= count
        return value

    def u32(self, *choices: tuple[int, int]) -> int:
        """One of four numbers, each given by its offset and how many bits are added to it."""
        offset, count = choices[self.take(2)]
        return offset + self.take(count)

    def enum(self) -> int:
        """One of the numbers that name something."""
        return self.u32((0, 0), (1, 0), (2, 4), (18, 6))


def size(bits: Bits) -> tuple[int, int]:
    """Width and height of the SizeHeader that is next."""
    small = bits.take(1)

    def side() -> int:
        return 8 * (bits.take(5) + 1) if small else bits.u32((1, 9), (1, 13), (1, 18), (1, 30))

    height = side()
    ratio = bits.take(3)
    if not ratio:
        return side(), height
    across, down = RATIOS[ratio - 1]
    return height * across // down, height


def boxes(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of the contents of each box, the last as far as the data goes; raises ValueError for no box."""
    position = 0
    for _ in range(MAX_BOXES):
        if position + 8 > len(data):
            return
        length, kind = struct.unpack_from(">I4s", data, position)
        start = position + 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", data, start)
            start += 8
        end = min(position + length, len(data)) if length else len(data)  # zero: up to the end
        if not start <= end:
            raise ValueError(f"box {kind!r} of {length} bytes")
        yield kind, start, end
        position = end


def codestream(data: bytes, most: int = HEADER_BYTES) -> bytes:
    """The first bytes of the codestream: naked, or in the container's box ``jxlc`` or its parts ``jxlp``.

    Raises ValueError where there is none.
    """
    found = data[:most] if data.startswith(CODESTREAM) else b""
    if not found:
        for kind, start, end in boxes(data):
            if kind in (b"jxlc", b"jxlp"):
                start += 4 if kind == b"jxlp" else 0
                found += data[start : min(end, start + most - len(found))]
            if len(found) >= most:
                break
    if not found.startswith(CODESTREAM):
        raise ValueError("no JPEG XL codestream")
    return found


@dataclass(slots=True)
class _Picture:
    """The ImageMetadata (D.3): as it is when everything has its default."""

    orientation: int = 1
    bits: int = 8
    is_float: bool = False
    has_preview: bool = False
    is_animated: bool = False
    is_gray: bool = False
    has_alpha: bool = False
    refusal: str | None = None


def scan(data: bytes) -> Scan:
    """Header and metadata of a JPEG XL file, sizes as it is shown; the decoder turns it by the codestream's orientation."""
    bits = Bits(codestream(data)[2:])
    width, height = size(bits)
    picture = _metadata(bits)
    if picture.orientation >= TURNED:
        width, height = height, width
    mode = ("L" if picture.is_gray else "RGB") + ("A" if picture.has_alpha else "")
    header = ImageHeader(
        "jxl",
        width,
        height,
        "float" if picture.is_float else mode,
        bits_per_sample=max(8, picture.bits),
        num_frames=2 if picture.is_animated else 1,
    )
    found = {} if data.startswith(CODESTREAM) else {kind: data[start:end] for kind, start, end in boxes(data)}
    others = found.keys() - PLAIN_BOXES - {EXIF, XMP, TRANSCODE}
    exif = found.get(EXIF, b"")
    return Scan(
        header,
        exif=exif[4 + int.from_bytes(exif[:4], "big") :] or None,
        xmp=found.get(XMP) or None,
        refusal=picture.refusal or ("unsupported" if picture.has_preview else "metadata" if others else None),
        dropped=("jbrd",) if TRANSCODE in found else (),
    )


def _metadata(bits: Bits) -> _Picture:
    found = _Picture()
    if bits.take(1):
        return found
    if bits.take(1):
        found.orientation = bits.take(3) + 1
        if bits.take(1):
            size(bits)  # intrinsic
        found.has_preview = bool(bits.take(1))
        if found.has_preview:
            return found
        found.is_animated = bool(bits.take(1))
        if found.is_animated:
            return found
    found.bits, found.is_float = _depth(bits)
    bits.take(1)  # modular_16bit_buffers
    channels = bits.u32((0, 0), (1, 0), (2, 4), (1, 12))
    if channels > MAX_CHANNELS:
        raise Undecodable("mode", f"JPEG XL of {channels} further channels")
    kinds = [_channel(bits) for _ in range(channels)]
    found.has_alpha = kinds == [(ALPHA, found.bits)]
    found.refusal = "mode" if kinds and not found.has_alpha else None
    is_xyb = bool(bits.take(1))
    if not bits.take(1):
        _colours(bits, found)
    if is_xyb and found.bits > 8:  # its samples were never those of a file
        found.refusal = found.refusal or f"{found.bits}-bit"
    return found


def _depth(bits: Bits) -> tuple[int, bool]:
    """Bits of a sample, and whether it is a float."""
    if not bits.take(1):
        return bits.u32((8, 0), (10, 0), (12, 0), (1, 6)), False
    depth = bits.u32((32, 0), (16, 0), (24, 0), (1, 6))
    bits.take(4)  # of its exponent
    return depth, True


def _channel(bits: Bits) -> tuple[int, int]:
    """Kind and bits of a further channel; one that is no plain alpha has the kind −1, and nothing behind it is read."""
    if bits.take(1):
        return ALPHA, 8
    kind = bits.enum()
    depth, is_float = _depth(bits)
    shift = bits.u32((0, 0), (3, 0), (4, 0), (1, 3))
    for _ in range(bits.u32((0, 0), (0, 4), (16, 5), (48, 10))):
        bits.take(8)
    if kind != ALPHA or is_float or shift or bits.take(1):  # the last: colours were multiplied by it
        raise Undecodable("mode", "JPEG XL of a channel that is no plain alpha")
    return ALPHA, depth


def _colours(bits: Bits, found: _Picture) -> None:
    """Reads a ColourEncoding (D.3.5); only sRGB and gray with its curve mean the same in a file without a profile."""
    has_profile, space = bits.take(1), bits.enum()
    found.is_gray = space == GRAY
    if has_profile or space not in (RGB, GRAY):
        found.refusal = found.refusal or "metadata"
        return
    is_srgb = bits.enum() == D65
    if is_srgb and space == RGB:
        is_srgb = bits.enum() == SRGB_PRIMARIES
    if not is_srgb or bits.take(1) or bits.enum() != SRGB_TRANSFER:  # in the middle: a gamma
        found.refusal = found.refusal or "metadata"
