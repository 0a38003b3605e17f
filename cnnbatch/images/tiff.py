"""TIFF: what the first directory says, and metadata put into a TIFF that Pillow wrote.

Only plain pictures pass. A second page, a sub-directory (where camera raw files keep the picture, the first directory
being its thumbnail) or an unknown tag (GeoTIFF coordinates, layers) means: the original is kept.
"""

import struct
from typing import Final

from PIL import TiffTags

from cnnbatch.errors import Undecodable
from cnnbatch.images import ifd
from cnnbatch.images.ifd import Entry, Ifd
from cnnbatch.images.model import MAX_DROPPED_BYTES, ImageHeader, Scan

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, SAMPLES = 256, 257, 258, 259, 262, 277
TILE_WIDTH, TILE_HEIGHT, SUB_IFDS, EXTRA_SAMPLES, SAMPLE_FORMAT = 322, 323, 330, 338, 339
XMP, ICC = 700, 34675
ASCII, BYTE, UNDEFINED, JPEG_COMPRESSION = 2, 1, 7, 7

CARRIED: Final = frozenset((270, 271, 272, 274, 282, 283, 296, 301, 305, 306, 315, 316, 318, 319, 33432))
"""Descriptive tags, orientation, resolution, white point …: they travel as EXIF."""
DROPPED: Final = frozenset((269, 285, 297, 33723, 34377))  # document and page name, page number, IPTC, Photoshop
STRUCTURE: Final = frozenset(
    {*range(254, 260), 262, 263, 264, 265, 266, 273, 277, 278, 279, 280, 281, 284, 290, 291, 292, 293, 317, 320, 321}
    | {*range(322, 326), 332, 333, 334, 336, 338, 339, 340, 341, 347, *range(512, 522), 529, 530, 531, 532}
)
MAX_TILE_PIXELS: Final = 1 << 24


def scan(data: bytes) -> Scan:
    """Header and metadata of a TIFF."""
    directory = ifd.read(data)
    header = _header(directory)
    icc, xmp = directory.entries.get(ICC), directory.entries.get(XMP)
    return Scan(
        header=header,
        exif=_exif(directory),
        icc=icc.value if icc else None,
        xmp=xmp.value if xmp else None,
        words=(f"bits={header.bits_per_sample}",) if header.bits_per_sample in (2, 4) and header.mode == "L" else (),
        refusal=_refusal(directory, header),
    )


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
    known = STRUCTURE | CARRIED | DROPPED | {XMP, ICC, SUB_IFDS}
    dropped = sum(len(entry.value) for tag, entry in directory.entries.items() if tag in DROPPED)
    if directory.entries.keys() - known or dropped > MAX_DROPPED_BYTES:
        return "metadata"
    if set(directory.ints(SAMPLE_FORMAT, (1,))) != {1}:
        return "mode"
    tile = directory.ints(TILE_WIDTH, (1,))[0] * directory.ints(TILE_HEIGHT, (1,))[0]
    if tile > max(MAX_TILE_PIXELS, 4 * header.width * header.height):
        return "corrupt"
    return "corrupt" if any(_too_many(tag, entry) for tag, entry in directory.entries.items()) else None


def _too_many(tag: int, entry: Entry) -> bool:
    """More values than the tag may have, of which Pillow warns."""
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


def graft(data: bytes, *, exif: bytes | None, icc: bytes | None, xmp: bytes | None) -> bytes:
    """The little-endian TIFF ``data`` with metadata: a new directory at its end, the pixels untouched.

    Raises Undecodable where ``exif`` is not sound.
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
    return _with_directory(data, directory)


def _with_directory(data: bytes, directory: Ifd) -> bytes:
    end = len(data) + len(data) % 2  # directories begin on a word boundary
    return b"".join((b"II*\0", struct.pack("<I", end), data[8:].ljust(end - 8, b"\0"), ifd.block(directory, end)))
