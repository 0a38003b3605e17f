"""PNG structure: a walk over the chunks with their checksums, and the file reduced to what its pixels need.

Pillow checks neither the checksum of pixel data nor all that a text chunk may do, so chunks are checked here and Pillow
sees only the ones in `PIXEL_CHUNKS`.
"""

import struct
import zlib
from collections.abc import Iterator
from typing import Final

import imagecodecs
import numba
import numpy as np
from numpy.typing import NDArray

from cnnbatch.errors import Undecodable
from cnnbatch.images.model import MAX_DROPPED_BYTES, MAX_METADATA_BYTES, ImageHeader, Scan

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
PIXEL_CHUNKS: Final = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
COLOUR_CHUNKS: Final = {"gAMA": 4, "cHRM": 32, "sRGB": 1, "cICP": 4}
"""Chunks that say what the numbers mean, with their lengths: carried in the mode string where there is no profile."""
DECORATION: Final = {b"bKGD", b"hIST", b"sBIT", b"tIME", b"acTL", b"fcTL", b"fdAT", b"eXIf", b"iCCP", b"pHYs"}
TINY_BYTES: Final = 1 << 12
"""Unpacked bytes up to which a PNG is read and written here."""

KNOWN: Final = PIXEL_CHUNKS | DECORATION | {name.encode() for name in COLOUR_CHUNKS}
XMP_KEYWORD: Final = b"XML:com.adobe.xmp\0"
MODES: Final = {0: "L", 2: "RGB", 3: "P", 4: "LA", 6: "RGBA"}
BIT_DEPTHS: Final = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}

_HEAD: Final = struct.Struct(">I4s")
_CHECKSUM: Final = struct.Struct(">I")


def chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Type and bytes (length and checksum included) of each chunk up to IEND; raises Undecodable where one is damaged."""
    view, position = memoryview(data), len(SIGNATURE)
    while True:
        try:
            length, kind = _HEAD.unpack_from(view, position)
            end = position + _HEAD.size + length
            (checksum,) = _CHECKSUM.unpack_from(view, end)
        except struct.error as error:
            raise Undecodable("truncated", "PNG ends inside a chunk") from error
        if zlib.crc32(view[position + 4 : end]) != checksum:
            raise Undecodable("corrupt", f"PNG chunk {kind!r} with a wrong checksum")
        yield kind, view[position : end + _CHECKSUM.size]
        position = end + _CHECKSUM.size
        if kind == b"IEND":
            if len(data) - position > MAX_DROPPED_BYTES:
                raise Undecodable("trailing-data", f"{len(data) - position} bytes after the end of the PNG")
            return


def scan(data: bytes) -> Scan:
    """Header and metadata of a PNG or APNG."""
    found: dict[bytes, bytes] = {}
    texts: list[bytes] = []
    dropped = 0
    for kind, raw in chunks(data):
        body = raw[8:-4]
        if not found and kind != b"IHDR":
            raise Undecodable("corrupt", f"PNG begins with {kind!r}")
        if kind in (b"tEXt", b"zTXt", b"iTXt"):
            texts.append(bytes(body))
        elif kind == b"IDAT":
            found[kind] = b""
        elif kind in KNOWN:
            found.setdefault(kind, bytes(body))
        else:
            dropped += len(body)
    xmp = next((text for text in texts if text.startswith(XMP_KEYWORD)), None)
    dropped += sum(len(text) for text in texts if text is not xmp)
    return Scan(
        header=_header(found),
        exif=found.get(b"eXIf") or None,
        icc=_icc(found.get(b"iCCP")),
        xmp=_xmp(xmp) if xmp is not None else None,
        words=_words(found),
        refusal=_refusal(texts, dropped),
    )


def _refusal(texts: list[bytes], dropped: int) -> str | None:
    # ImageMagick hides EXIF, IPTC and profiles in text chunks; long texts are somebody's content (prompts, workflows).
    hidden = any(text.startswith(b"Raw profile type") for text in texts)
    return "metadata" if hidden or dropped > MAX_DROPPED_BYTES else None


def _header(found: dict[bytes, bytes]) -> ImageHeader:
    if len(found[b"IHDR"]) != 13 or b"IDAT" not in found:
        raise Undecodable("corrupt", "PNG without a header or without pixel data")
    width, height, bits, colour, compression, filtering, interlace = struct.unpack(">IIBBBBB", found[b"IHDR"])
    if bits not in BIT_DEPTHS.get(colour, ()) or compression or filtering or interlace > 1:
        raise Undecodable("corrupt", f"PNG of colour type {colour} with {bits} bits")
    num_frames = int.from_bytes(found.get(b"acTL", b"\0\0\0\1")[:4], "big")
    mode = "1" if (colour, bits) == (0, 1) else MODES[colour]
    return ImageHeader("png", width, height, mode, bits_per_sample=bits, num_frames=max(num_frames, 1))


def _words(found: dict[bytes, bytes]) -> tuple[str, ...]:
    colour, bits = found[b"IHDR"][9], found[b"IHDR"][8]
    words = [f"bits={bits}"] if colour == 0 and bits in (2, 4) else []
    bodies = ((name, found.get(name.encode(), b"")) for name in COLOUR_CHUNKS)
    words += [f"{name}={body.hex()}" for name, body in bodies if len(body) == COLOUR_CHUNKS[name]]
    density = found.get(b"pHYs", b"")
    if len(density) == 9 and density[8] == 1:
        x, y, _ = struct.unpack(">IIB", density)
        words.append(f"dpi={x * 0.0254:g}x{y * 0.0254:g}")
    return tuple(words)


def _icc(body: bytes | None) -> bytes | None:
    if body is None:
        return None
    return _inflate(body.partition(b"\0")[2][1:]) or None


def _xmp(text: bytes) -> bytes | None:
    """The packet of an iTXt body: keyword, compression flag and method, language and translation, text."""
    rest = text[len(XMP_KEYWORD) :]
    parts = rest[2:].split(b"\0", 2)
    if len(parts) < 3:
        return None
    return (_inflate(parts[2]) if rest[0] else parts[2]) or None


def _inflate(data: bytes) -> bytes:
    inflater = zlib.decompressobj()
    plain = inflater.decompress(data, MAX_METADATA_BYTES)
    if inflater.unconsumed_tail:
        raise Undecodable("metadata", f"PNG metadata inflates to more than {MAX_METADATA_BYTES} bytes")
    return plain


def read_tiny(data: bytes, header: ImageHeader) -> NDArray[np.uint8] | None:
    """Pixels uint8 [H, W] or [H, W, 3] of a tiny, plain, sound PNG that `scan` has read; None: a job for a whole decoder.

    Such a decoder takes longer to set up than this one to end: a third of the time that a picture of 28 × 28 took.
    """
    samples = {"L": 1, "RGB": 3}.get(header.mode, 0)
    size = header.height * (1 + header.width * samples)
    if not samples or header.bits_per_sample != 8 or size > TINY_BYTES or b"tRNS" in data or data[28]:  # interlaced
        return None
    packed = b"".join(raw[8:-4] for kind, raw in chunks(data) if kind == b"IDAT")
    inflater = zlib.decompressobj()
    try:
        rows = inflater.decompress(packed, size + 1)
    except zlib.error:
        return None
    if len(rows) != size or not inflater.eof:
        return None
    pixels = np.empty((header.height, header.width * samples), np.uint8)
    if not _unfilter(np.frombuffer(rows, np.uint8).reshape(header.height, -1), samples, pixels):
        return None
    return pixels if samples == 1 else pixels.reshape(header.height, header.width, samples)


@numba.njit(nogil=True, cache=True)
def _unfilter(rows, samples, pixels):  # type: ignore[no-untyped-def]
    """Undoes the filter of each row (PNG specification, section 9); returns whether all are known ones."""
    for y in range(len(rows)):
        kind = rows[y, 0]
        if kind > 4:
            return False
        for x in range(pixels.shape[1]):
            left = np.int32(pixels[y, x - samples]) if x >= samples else np.int32(0)
            above = np.int32(pixels[y - 1, x]) if y else np.int32(0)
            corner = np.int32(pixels[y - 1, x - samples]) if y and x >= samples else np.int32(0)
            guess = np.int32(0)
            if kind == 1:
                guess = left
            elif kind == 2:
                guess = above
            elif kind == 3:
                guess = (left + above) >> 1
            elif kind == 4:
                guess = _paeth(left, above, corner)
            pixels[y, x] = np.uint8((np.int32(rows[y, x + 1]) + guess) & 0xFF)
    return True


@numba.njit(nogil=True, cache=True)
def _paeth(left, above, corner):  # type: ignore[no-untyped-def]
    by_left, by_above, by_corner = abs(above - corner), abs(left - corner), abs(left + above - 2 * corner)
    if by_left <= by_above and by_left <= by_corner:
        return left
    return above if by_above <= by_corner else corner


def write_tiny(samples: NDArray[np.uint8]) -> bytes | None:
    """uint8 [H, W] or [H, W, 3] as a plain PNG of unfiltered rows; None: too large, filters would pay there."""
    height, width = samples.shape[:2]
    if samples.size + height > TINY_BYTES:
        return None
    rows = np.zeros((height, 1 + samples.size // height), np.uint8)
    rows[:, 1:] = samples.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, 0 if samples.ndim == 2 else 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", imagecodecs.deflate_encode(rows.tobytes(), 6)), (b"IEND", b""))
    return SIGNATURE + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    )


def pixels_only(data: bytes) -> bytes:
    """The same picture as a PNG of `PIXEL_CHUNKS` alone."""
    return b"".join([SIGNATURE, *(raw for kind, raw in chunks(data) if kind in PIXEL_CHUNKS)])
