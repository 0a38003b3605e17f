"""TIFF: what the first directory says, and metadata put into a TIFF that Pillow wrote.

Only plain pictures pass. A second page, a sub-directory (where camera raw files keep the picture, the first directory
being its thumbnail) or an unknown tag (GeoTIFF coordinates, layers) means: the original is kept.
"""

import struct
from typing import Final

import numpy as np
from PIL import TiffTags

from cnnbatch.errors import Undecodable
from cnnbatch.images import ifd
from cnnbatch.images.ifd import SUB_IFDS, Entry, Ifd
from cnnbatch.images.model import MAX_TRAILING_BYTES, ImageHeader, Scan
from cnnbatch.images.segments import AFTER, BEFORE, Segment, joined

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, SAMPLES = 256, 257, 258, 259, 262, 277
WHITE_IS_ZERO, ASSOCIATED = 0, 1
PLANAR, SEPARATE = 284, 2
TILE_WIDTH, TILE_HEIGHT, EXTRA_SAMPLES, SAMPLE_FORMAT = 322, 323, 338, 339
XMP, ICC = 700, 34675
ASCII, BYTE, UNDEFINED, JPEG_COMPRESSION = 2, 1, 7, 7

CARRIED: Final = frozenset((270, 271, 272, 274, 282, 283, 296, 301, 305, 306, 315, 316, 318, 319, 33432))
"""Descriptive tags, orientation, resolution, white point …: they travel as EXIF."""
SEGMENTS: Final = frozenset((269, 285, 297, 33723, 34377))
"""Document and page name, page number, IPTC, Photoshop: they travel as a directory of their own among the segments."""
STRUCTURE: Final = frozenset(
    {*range(254, 260), 262, 263, 264, 265, 266, 273, 277, 278, 279, 280, 281, 284, 290, 291, 292, 293, 317, 320, 321}
    | {*range(322, 326), 332, 333, 334, 336, 338, 339, 340, 341, 347, *range(512, 522), 529, 530, 531, 532}
)
STRIPS: Final = ((273, 279), (324, 325))  # offsets and byte counts, of strips and of tiles
MAKER_NOTE: Final = 37500
OLD_JPEG: Final = 6
MAX_TILE_PIXELS: Final = 1 << 24
MAX_VALUES: Final = 1 << 20
"""Values of one structural tag, such as the strips of a picture, at most."""


def scan(data: bytes) -> Scan:
    """Header and metadata of a TIFF, and what is in it beside them."""
    directory = ifd.read(data)
    header = _header(directory)
    icc, xmp = directory.entries.get(ICC), directory.entries.get(XMP)
    trailing, unreferenced = _beside(directory, data)
    too_much = max(len(trailing), unreferenced) > MAX_TRAILING_BYTES
    return Scan(
        header=header,
        exif=_exif(directory),
        icc=icc.value if icc else None,
        xmp=xmp.value if xmp else None,
        words=(f"bits={header.bits_per_sample}",) if header.bits_per_sample in (2, 4) and header.mode == "L" else (),
        refusal=_refusal(directory, header) or ("trailing-data" if too_much else None),
        segments=() if too_much else _segments(directory, trailing),
        dropped=("unreferenced",) if unreferenced else (),
    )


def _segments(directory: Ifd, trailing: bytes) -> tuple[Segment, ...]:
    tags = Ifd({tag: entry for tag, entry in directory.entries.items() if tag in SEGMENTS})
    found = [Segment(BEFORE, ifd.write(tags))] if tags.entries else []
    return tuple(found + ([Segment(AFTER, trailing)] if trailing else []))


def _beside(directory: Ifd, data: bytes) -> tuple[bytes, int]:
    """Bytes after all that the directory refers to, and the number of others that it does not; runs of zeros count as none."""
    if directory.ints(COMPRESSION, (1,))[0] == OLD_JPEG:  # its tables have no lengths
        return b"", 0
    extents = [*directory.extents]
    for offsets, counts in STRIPS:
        if offsets not in directory.entries:
            continue
        if counts not in directory.entries or directory.entries[offsets].count > MAX_VALUES:
            return b"", 0
        if directory.entries[offsets].count == directory.entries[counts].count:
            starts, lengths = (directory.entries[tag].array().astype(np.int64) for tag in (offsets, counts))
            extents += zip(starts.tolist(), (starts + lengths).tolist(), strict=True)
    end = unreferenced = 0
    for start, stop in sorted(extents):
        unreferenced += len(data[end:start].strip(b"\0"))
        end = max(end, stop)
    trailing = data[end:]
    return trailing if trailing.strip(b"\0") else b"", unreferenced


def _header(directory: Ifd) -> ImageHeader:
    if WIDTH not in directory.entries or HEIGHT not in directory.entries:
        raise Undecodable("corrupt", "TIFF without width or height")
    bits = max(directory.ints(BITS, (1,)))
    frames = 2 if directory.has_next or SUB_IFDS in directory.entries else 1
    width, height = directory.ints(WIDTH)[0], directory.ints(HEIGHT)[0]
    return ImageHeader("tiff", width, height, _mode(directory, bits), bits_per_sample=bits, num_frames=frames)


def _mode(directory: Ifd, bits: int) -> str:
    photometric, samples = directory.ints(PHOTOMETRIC, (1,))[0], directory.ints(SAMPLES, (1,))[0]
    has_alpha = directory.ints(EXTRA_SAMPLES) in ((1,), (2,))  # associated or unassociated, not "unspecified"
    if photometric == 6 and directory.ints(COMPRESSION, (1,))[0] == JPEG_COMPRESSION:
        photometric = 2  # libtiff gives RGB
    modes = {(0, 1): "L", (1, 1): "L", (2, 3): "RGB", (3, 1): "P", (5, 4): "CMYK", (8, 3): "LAB"}
    with_alpha = {(1, 2): "LA", (2, 4): "RGBA"}
    mode = (with_alpha if has_alpha else modes).get((photometric, samples), f"photometric-{photometric}-{samples}")
    return "1" if (mode, bits) == ("L", 1) else mode


def _refusal(directory: Ifd, header: ImageHeader) -> str | None:
    known = STRUCTURE | CARRIED | SEGMENTS | {XMP, ICC, SUB_IFDS}
    notes = any(MAKER_NOTE in child.entries for child in directory.children.values())  # they may hold positions in the file
    if directory.entries.keys() - known or directory.is_odd or notes:
        return "metadata"
    if set(directory.ints(SAMPLE_FORMAT, (1,))) != {1}:
        return "mode"
    tile = directory.ints(TILE_WIDTH, (1,))[0] * directory.ints(TILE_HEIGHT, (1,))[0]
    if tile > max(MAX_TILE_PIXELS, 4 * header.width * header.height):
        return "corrupt"
    return "corrupt" if any(_too_many(tag, entry) for tag, entry in directory.entries.items()) else None


def _too_many(tag: int, entry: Entry) -> bool:
    """More values than the tag may have, of which Pillow warns, or than Pillow should make numbers of."""
    if tag in STRUCTURE and entry.count > MAX_VALUES:
        return True
    return TiffTags.lookup(tag).length == 1 and entry.count > 1 and entry.type not in (ASCII, BYTE, UNDEFINED)


def _exif(directory: Ifd) -> bytes | None:
    carried = {tag: entry for tag, entry in directory.entries.items() if tag in CARRIED}
    return ifd.write(Ifd(carried, directory.children)) if carried or directory.children else None


def pixels_only(data: bytes) -> bytes:
    """The same picture as a little-endian TIFF of `STRUCTURE` tags alone (8-bit samples have no byte order).

    Without it Pillow would turn the picture by its orientation tag and read EXIF directories it then warns about.
    """
    structure = {tag: entry for tag, entry in ifd.read(data).entries.items() if tag in STRUCTURE}
    return _with_directory(data, Ifd(structure))


def graft(data: bytes, *, exif: bytes | None, icc: bytes | None, xmp: bytes | None, segments: list[Segment]) -> bytes:
    """The little-endian TIFF ``data`` with metadata: a new directory at its end, the pixels untouched.

    Raises Undecodable where ``exif`` or a directory among ``segments`` is not sound.
    """
    directory = ifd.read(data)
    if exif:
        source = ifd.read(exif)
        directory.entries |= {tag: entry for tag, entry in source.entries.items() if tag in CARRIED}
        directory.children |= source.children
    if icc:
        directory.entries[ICC] = Entry(UNDEFINED, len(icc), icc)
    if xmp:
        directory.entries[XMP] = Entry(BYTE, len(xmp), xmp)
    for segment in segments:
        if segment.place == BEFORE:
            directory.entries |= ifd.read(segment.data).entries
    pixels = bytearray(data)
    for start, end in directory.extents:  # the old directory
        pixels[start:end] = bytes(end - start)
    return _with_directory(bytes(pixels), directory) + joined(segments, AFTER)


def _with_directory(data: bytes, directory: Ifd) -> bytes:
    end = len(data) + len(data) % 2  # directories begin on a word boundary
    return b"".join((b"II*\0", struct.pack("<I", end), data[8:].ljust(end - 8, b"\0"), ifd.block(directory, end)))
