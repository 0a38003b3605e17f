"""Which format a file has and what its header says: magic numbers, and the small formats whole."""

import re
import struct
from collections.abc import Callable, Iterator
from typing import Final

from cnnbatch.errors import Undecodable
from cnnbatch.images import isobmff, jpeg, png, tiff
from cnnbatch.images.model import MAX_DROPPED_BYTES, MAX_METADATA_BYTES, ImageHeader, Scan, bad_image


def probe(data: bytes) -> ImageHeader:
    """Format, size in pixels, mode, bits and number of frames of an image file; no pixel is decoded or allocated.

    Raises Undecodable: ``unknown-format``, ``corrupt``, ``truncated``. A header that `decode` would refuse (16 bit,
    animated, huge) is returned all the same.
    """
    return scan(data).header


def scan(data: bytes) -> Scan:
    """Header, metadata and refusal of a file of any format; raises Undecodable."""
    scanner = next((scanner for magic, scanner in SCANNERS if magic.match(data)), None)
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


def _webp(data: bytes) -> Scan:
    (size,) = struct.unpack_from("<I", data, 4)
    if size + 8 > len(data):
        raise Undecodable("truncated", f"WebP of {size + 8} bytes has {len(data)}")
    chunks: dict[bytes, bytes] = {}
    for kind, body in _riff_chunks(data, min(size + 8, len(data))):
        chunks.setdefault(kind, body)
    width, height, has_alpha, animated = _webp_size(chunks)
    return Scan(
        ImageHeader("webp", width, height, "RGBA" if has_alpha else "RGB", num_frames=2 if animated else 1),
        exif=chunks.get(b"EXIF", b"").removeprefix(b"Exif\0\0") or None,
        icc=chunks.get(b"ICCP") or None,
        xmp=chunks.get(b"XMP ") or None,
        refusal="trailing-data" if len(data) - size - 8 > MAX_DROPPED_BYTES else None,
    )


def _riff_chunks(data: bytes, end: int) -> Iterator[tuple[bytes, bytes]]:
    position = 12
    while position + 8 <= end:
        kind, length = struct.unpack_from("<4sI", data, position)
        if position + 8 + length > end:
            raise Undecodable("truncated", "WebP ends inside a chunk")
        yield kind, data[position + 8 : position + 8 + length]
        position += 8 + length + length % 2


def _webp_size(chunks: dict[bytes, bytes]) -> tuple[int, int, bool, bool]:
    """Width, height, alpha, animation (RFC 9649, sections 2.5 to 2.7)."""
    extended = chunks.get(b"VP8X")
    if extended is not None:
        canvas = int.from_bytes(extended[4:7], "little") + 1, int.from_bytes(extended[7:10], "little") + 1
        if extended[0] & 2 or b"ANIM" in chunks:
            return *canvas, bool(extended[0] & 0x10), True
    if b"VP8L" in chunks:
        (bits,) = struct.unpack_from("<I", chunks[b"VP8L"], 1)
        size, has_alpha = ((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1), bool(bits >> 28 & 1)
    else:
        width, height = struct.unpack_from("<HH", chunks[b"VP8 "], 6)
        size, has_alpha = (width & 0x3FFF, height & 0x3FFF), b"ALPH" in chunks
    if extended is not None and size != canvas:
        raise Undecodable("corrupt", f"WebP picture of {size} on a canvas of {canvas}")
    return *size, has_alpha, False


def _gif(data: bytes) -> Scan:
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    position = 13 + _palette_bytes(flags)
    frames = dropped = 0
    while position < len(data) and data[position] != 0x3B and frames < 2:
        start = position
        if data[position] == 0x2C:
            frames += 1
            left, top, w, h, flags = struct.unpack_from("<HHHHB", data, position + 1)
            # A frame beyond the logical screen enlarges the picture, as in browsers and Pillow.
            width, height = max(width, left + w), max(height, top + h)
            position = _skip_blocks(data, position + 11 + _palette_bytes(flags))
        elif data[position] == 0x21:
            position = _skip_blocks(data, position + 2)
            dropped += position - start
        else:
            raise Undecodable("corrupt", f"GIF block {data[position]:#x}")
    if not frames:
        raise Undecodable("truncated", "GIF without a picture")
    refusal = "metadata" if dropped > MAX_DROPPED_BYTES and frames < 2 else None
    return Scan(ImageHeader("gif", width, height, "P", num_frames=frames), refusal=refusal)


def _palette_bytes(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _skip_blocks(data: bytes, position: int) -> int:
    while position < len(data) and data[position]:
        position += data[position] + 1
    if position >= len(data):
        raise Undecodable("truncated", "GIF ends inside a block")
    return position + 1


def _bmp(data: bytes) -> Scan:
    (size,) = struct.unpack_from("<I", data, 14)
    width, height, _, bits = struct.unpack_from("<HHHH" if size == 12 else "<iiHH", data, 18)
    mode = {1: "P", 4: "P", 8: "P", 16: "RGB", 24: "RGB", 32: "RGBA"}.get(bits, f"{bits}-bit")
    density = struct.unpack_from("<ii", data, 38) if size >= 40 else (0, 0)
    words = (f"dpi={density[0] * 0.0254:g}x{density[1] * 0.0254:g}",) if min(density) > 0 else ()
    profile = size >= 124 and struct.unpack_from("<I", data, 70)[0] in (0x4C494E4B, 0x4D424544)  # 'LINK', 'MBED'
    refusal = "metadata" if profile else None
    return Scan(ImageHeader("bmp", width, abs(height), mode), words=words, refusal=refusal)


def _ppm(data: bytes) -> Scan:
    match = (PBM if data[1:2] in b"14" else PPM).match(data, 0, 1024)
    if match is None:
        raise Undecodable("corrupt", "PPM header that is none")
    width, height, maximum = (int(number) for number in (*match.groups(), b"1")[:3])
    mode = {0: "RGB", 1: "1", 2: "L"}[data[1] % 3]
    row = {"1": (width + 7) // 8, "L": width, "RGB": 3 * width}[mode]
    trailing = data[1:2] in b"456" and maximum < 256 and data[match.end() + height * row :].strip()
    header = ImageHeader("ppm", width, height, mode, bits_per_sample=max(maximum.bit_length(), 1))
    return Scan(header, refusal="trailing-data" if trailing else None)


PPM_SPACE: Final = rb"(?:\s|#[^\n]*\n)+"
PBM: Final = re.compile(rb"P." + (PPM_SPACE + rb"([0-9]{1,9})") * 2 + rb"\s", re.DOTALL)
PPM: Final = re.compile(rb"P." + (PPM_SPACE + rb"([0-9]{1,9})") * 3 + rb"\s", re.DOTALL)
SCANNERS: Final[tuple[tuple[re.Pattern[bytes], Callable[[bytes], Scan]], ...]] = (
    (re.compile(rb"\xff\xd8\xff"), jpeg.scan),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), png.scan),
    (re.compile(rb"GIF8[79]a"), _gif),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), _webp),
    (re.compile(rb"II[*+]\0|MM\0[*+]"), tiff.scan),
    (re.compile(rb"....ftyp", re.DOTALL), isobmff.scan),
    (re.compile(rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0", re.DOTALL), _bmp),
    (re.compile(rb"P[1-6]\s"), _ppm),
)
