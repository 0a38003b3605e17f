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
from cnnbatch.images.model import MAX_METADATA_BYTES, MAX_TRAILING_BYTES, ImageHeader, Scan
from cnnbatch.images.segments import AFTER, BEFORE, BEHIND, Segment, joined

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
PIXEL_CHUNKS: Final = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
COLOUR_CHUNKS: Final = {"gAMA": 4, "cHRM": 32, "sRGB": 1, "cICP": 4}
"""Chunks that say what the numbers mean, with their lengths: carried in the mode string where there is no profile."""
CODING_CHUNKS: Final = {b"iDOT", b"acTL", b"fcTL"}
"""Apple's offsets into the pixel data, an animation of one frame: they say how this file holds its picture."""
SAMPLE_CHUNKS: Final = {b"bKGD", b"sBIT", b"hIST"}
"""In terms of the file's samples: carried where those come back as they were."""
_AS_COLUMN: Final = {b"eXIf", b"iCCP", b"gAMA", b"cHRM", b"sRGB", b"cICP", b"pHYs"}  # among the segments where there are two
MOVABLE_CHUNKS: Final = _AS_COLUMN | {b"tIME", b"sCAL", b"pCAL", b"sTER", b"mDCV", b"mDCv", b"cLLI", b"cLLi"}
"""Chunks that may be copied although their names say that an editor who does not know them must not."""
TINY_BYTES: Final = 1 << 12
"""Unpacked bytes up to which a PNG is read and written here."""

TEXT_CHUNKS: Final = {b"tEXt", b"zTXt", b"iTXt"}
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
            return


def scan(data: bytes) -> Scan:
    """Header, metadata and all other chunks of a PNG or APNG."""
    found: dict[bytes, bytes] = {}
    others: list[tuple[bytes, memoryview, int]] = []
    xmp = None
    end = len(SIGNATURE)
    for kind, raw in chunks(data):
        end += len(raw)
        body = raw[8:-4]
        if not found and kind != b"IHDR":
            raise Undecodable("corrupt", f"PNG begins with {kind!r}")
        if kind in PIXEL_CHUNKS:
            found.setdefault(kind, b"" if kind == b"IDAT" else bytes(body))
        elif kind == b"iTXt" and xmp is None and (packet := _xmp(body)) is not None:
            xmp = packet
        elif kind not in found and _is_column(kind, body):
            found[kind] = bytes(body)
        else:
            others.append((kind, raw, BEHIND if b"IDAT" in found else BEFORE))
    trailing = data[end:]
    header = _header(found, num_frames=_num_frames(others))
    dropped = CODING_CHUNKS if _samples_come_back(header, found) else CODING_CHUNKS | SAMPLE_CHUNKS
    segments = [Segment(place, bytes(raw)) for kind, raw, place in others if kind not in dropped]
    return Scan(
        header=header,
        exif=found.get(b"eXIf") or None,
        icc=_icc(found.get(b"iCCP")),
        xmp=xmp,
        words=_words(found),
        refusal="trailing-data" if len(trailing) > MAX_TRAILING_BYTES else _refusal(others),
        segments=tuple(segments + ([Segment(AFTER, trailing)] if trailing else [])),
        dropped=tuple(sorted({kind.decode() for kind, _, _ in others if kind in dropped})),
    )


def _is_column(kind: bytes, body: memoryview) -> bool:
    """Whether a chunk's content travels in a column or a word."""
    if kind == b"pHYs":
        return len(body) == 9 and body[8] == 1
    return kind in (b"eXIf", b"iCCP") or len(body) == COLOUR_CHUNKS.get(kind.decode("latin-1"))


def _num_frames(others: list[tuple[bytes, memoryview, int]]) -> int:
    """Pictures of an APNG; a frame of its own beside the still picture makes two."""
    counts = [int.from_bytes(raw[8:12], "big") for kind, raw, _ in others if kind == b"acTL"]
    return max([2 if any(kind == b"fdAT" for kind, _, _ in others) else 1, *counts[:1]])


def _samples_come_back(header: ImageHeader, found: dict[bytes, bytes]) -> bool:
    return header.bits_per_sample == 8 and header.mode != "P" and b"tRNS" not in found


def _refusal(others: list[tuple[bytes, memoryview, int]]) -> str | None:
    """Whether a chunk forbids to be copied into a PNG of other pixels (PNG specification, section 5.4), as C2PA's do, or
    hides EXIF, IPTC and profiles in text, as ImageMagick does."""
    for kind, raw, _ in others:
        known = kind in CODING_CHUNKS | SAMPLE_CHUNKS | MOVABLE_CHUNKS
        ancillary, safe_to_copy = kind[0] & 0x20, kind[3] & 0x20
        if not known and not (ancillary and safe_to_copy):
            return "metadata"
        if kind in TEXT_CHUNKS and bytes(raw[8:24]) == b"Raw profile type":
            return "metadata"
    return None


def _header(found: dict[bytes, bytes], *, num_frames: int) -> ImageHeader:
    if len(found[b"IHDR"]) != 13 or b"IDAT" not in found:
        raise Undecodable("corrupt", "PNG without a header or without pixel data")
    width, height, bits, colour, compression, filtering, interlace = struct.unpack(">IIBBBBB", found[b"IHDR"])
    if bits not in BIT_DEPTHS.get(colour, ()) or compression or filtering or interlace > 1:
        raise Undecodable("corrupt", f"PNG of colour type {colour} with {bits} bits")
    mode = "1" if (colour, bits) == (0, 1) else MODES[colour]
    return ImageHeader("png", width, height, mode, bits_per_sample=bits, num_frames=num_frames)


def _words(found: dict[bytes, bytes]) -> tuple[str, ...]:
    colour, bits = found[b"IHDR"][9], found[b"IHDR"][8]
    words = [f"bits={bits}"] if colour == 0 and bits in (2, 4) else []
    bodies = ((name, found.get(name.encode(), b"")) for name in COLOUR_CHUNKS)
    words += [f"{name}={body.hex()}" for name, body in bodies if len(body) == COLOUR_CHUNKS[name]]
    if b"pHYs" in found:
        x, y, _ = struct.unpack(">IIB", found[b"pHYs"])
        words.append(f"dpi={x * 0.0254:g}x{y * 0.0254:g}")
    return tuple(words)


def _icc(body: bytes | None) -> bytes | None:
    if body is None:
        return None
    return _inflate(body.partition(b"\0")[2][1:]) or None


def _xmp(text: memoryview) -> bytes | None:
    """The packet of an iTXt body: keyword, compression flag and method, language and translation, text. None for another
    text, and for a packet with a language."""
    if bytes(text[: len(XMP_KEYWORD)]) != XMP_KEYWORD:
        return None
    rest = bytes(text[len(XMP_KEYWORD) :])
    if rest[1:4] != b"\0\0\0":
        return None
    return (_inflate(rest[4:]) if rest[0] else rest[4:]) or None


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
    if not unfilter(np.frombuffer(rows, np.uint8).reshape(header.height, -1), samples, pixels):
        return None
    return pixels if samples == 1 else pixels.reshape(header.height, header.width, samples)


@numba.njit(nogil=True, cache=True)
def unfilter(rows, samples, pixels):  # type: ignore[no-untyped-def]
    """Undoes the filter of each of ``rows`` [H, 1 + bytes] into ``pixels``; ``samples``: bytes of a pixel.

    PNG specification, section 9. Returns whether all filters are known ones.
    """
    for y in range(len(rows)):
        kind = rows[y, 0]
        if kind > 4:
            return False
        for x in range(pixels.shape[1]):
            left = np.int32(pixels[y, x - samples]) if x >= samples else np.int32(0)
            above = np.int32(pixels[y - 1, x]) if y else np.int32(0)
            corner = np.int32(pixels[y - 1, x - samples]) if y and x >= samples else np.int32(0)
            pixels[y, x] = np.uint8((np.int32(rows[y, x + 1]) + predicted(kind, left, above, corner)) & 0xFF)
    return True


@numba.njit(nogil=True, cache=True)
def predicted(kind, left, above, corner):  # type: ignore[no-untyped-def]
    """The prediction that the filter of this kind takes off a byte with these neighbours (section 9.2)."""
    guess = np.int32(0)
    if kind == 1:
        guess = left
    elif kind == 2:
        guess = above
    elif kind == 3:
        guess = (left + above) >> 1
    elif kind == 4:
        guess = paeth(left, above, corner)
    return guess


@numba.njit(nogil=True, cache=True)
def paeth(left, above, corner):  # type: ignore[no-untyped-def]
    """The predictor of that name (section 9.4)."""
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


def with_segments(data: bytes, segments: list[Segment]) -> bytes:
    """The PNG ``data`` with further chunks before and behind its pixels, and bytes after its end."""
    own = list(chunks(data))
    first = next(index for index, (kind, _) in enumerate(own) if kind == b"IDAT")
    raw = [chunk for _, chunk in own]
    before, behind, after = (joined(segments, place) for place in (BEFORE, BEHIND, AFTER))
    return b"".join((SIGNATURE, *raw[:first], before, *raw[first:-1], behind, raw[-1], after))
