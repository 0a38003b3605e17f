"""JPEG files as lossless JPEG XL transcodes: smaller by 12 to 20 %, restored byte for byte."""

import struct
from typing import Final

import imagecodecs

from cnnbatch.errors import ImageError, Undecodable
from cnnbatch.images import jpeg, jxl
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
        width, height = jxl.size(jxl.Bits(jxl.codestream(data, HEADER_BYTES)[2:]))
        if width * height > MAX_PIXELS:
            raise ImageError("jpegxl", f"JPEG XL transcode of {width}x{height} pixels")
        return bytes(imagecodecs.jpegxl_decode_jpeg(data, numthreads=1))
    except (*BAD_JPEGXL, struct.error) as error:
        raise ImageError("jpegxl", f"not a JPEG XL transcode: {error}") from error
