"""JPEG files as lossless JPEG XL transcodes: smaller by 12 to 20 %, restored byte for byte."""

import struct
from typing import Final

import imagecodecs

from cnnbatch.errors import ImageError, Undecodable
from cnnbatch.images import jpeg
from cnnbatch.images.model import BAD_JPEGXL

MAX_PIXELS: Final = 1 << 27
"""Larger pictures stay verbatim: libjxl keeps the coefficients of all of it in memory."""

HEADER_BYTES: Final = 16
"""Bytes at the beginning of a codestream that hold its size."""


def transcode_jpeg(data: bytes) -> bytes | None:
    """``data`` as JPEG XL, already restored and compared; None where that is not smaller or not possible.

    Never raises for bad input: what is not a sound JPEG is None.
    """
    try:
        found = jpeg.scan(data) if data[:2] == b"\xff\xd8" else None
        if found is None or found.header.width * found.header.height > MAX_PIXELS or found.refusal == "corrupt":
            return None  # "corrupt" also names more scans than an encoder writes, each a pass over the whole picture
        coded = bytes(imagecodecs.jpegxl_encode_jpeg(data, numthreads=1))
        restored = imagecodecs.jpegxl_decode_jpeg(coded, numthreads=1) if len(coded) < len(data) else None
    except (Undecodable, *BAD_JPEGXL):
        return None
    return coded if restored == data else None


def restore_jpeg(data: bytes) -> bytes:
    """The JPEG of a transcode; raises ImageError ``jpegxl`` where the bytes are not one or claim over `MAX_PIXELS` pixels."""
    try:
        width, height = _size(_codestream(data))
        if width * height > MAX_PIXELS:
            raise ImageError("jpegxl", f"JPEG XL transcode of {width}x{height} pixels")
        return bytes(imagecodecs.jpegxl_decode_jpeg(data, numthreads=1))
    except (*BAD_JPEGXL, struct.error) as error:
        raise ImageError("jpegxl", f"not a JPEG XL transcode: {error}") from error


def _codestream(data: bytes) -> bytes:
    """The first bytes of the codestream: naked, or in the container's box ``jxlc`` or its parts ``jxlp``."""
    if data.startswith(b"\xff\x0a"):
        return data[:HEADER_BYTES]
    position, found = 0, b""
    while position < len(data) and len(found) < HEADER_BYTES:
        size, kind = struct.unpack_from(">I4s", data, position)
        start = position + 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, start)
            start += 8
        end = position + size if size else len(data)  # zero: up to the end
        if end < start or end > len(data):
            raise ValueError(f"box {kind!r} of {size} bytes")
        if kind in (b"jxlc", b"jxlp"):
            start += 4 if kind == b"jxlp" else 0
            found += data[start : min(end, start + HEADER_BYTES)]
        position = end
    return found[:HEADER_BYTES]


def _size(codestream: bytes) -> tuple[int, int]:
    """Width and height of the SizeHeader (ISO/IEC 18181-1, section D.2): bits from the lowest."""
    if not codestream.startswith(b"\xff\x0a"):
        raise ValueError("no JPEG XL codestream")
    bits, left = int.from_bytes(codestream[2:], "little"), 8 * len(codestream) - 16

    def take(count: int) -> int:
        nonlocal bits, left
        left -= count
        if left < 0:
            raise ValueError("a JPEG XL codestream that ends in its header")
        value, bits = bits & ((1 << count) - 1), bits >> count
        return value

    def dimension(small: int) -> int:
        return 8 * (take(5) + 1) if small else take((9, 13, 18, 30)[take(2)]) + 1

    small = take(1)
    height = dimension(small)
    ratio = take(3)
    if not ratio:
        return dimension(small), height
    numerator, denominator = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))[ratio - 1]
    return height * numerator // denominator, height
