"""The records that pass between a file's header, its pixels and the file written back, and the words of a refusal.

Reason words of `Undecodable` (stable: they end up in the archive's ``reason`` column):

    heic, jxl, pdf … a format that is known by name only (`cnnbatch.images.foreign`)
    unknown-format   not one of the formats below            truncated        the file ends too early
    corrupt          structure, checksum or pixel data wrong too-many-pixels  width × height over ``max_pixels``
    9-bit … 16-bit, 24-bit, 32-bit, 64-bit                   more than 8 bits a sample
    cmyk             CMYK or YCCK                            lab              CIE Lab
    multi-frame      animation, pages, stereo or gain map    mode             samples of another kind
    trailing-data    data after the picture (motion photo)   metadata         what cannot be put back, holds for these very
                                                                              bytes (C2PA), or is most of the file
    unsupported      a variant not read (BigTIFF, lossless JPEG) or not written (sides over `LARGEST_SIDE`)
"""

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cnnbatch.errors import Undecodable
from cnnbatch.images.segments import Segment

FORMATS: Final = ("jpeg", "png", "gif", "webp", "bmp", "tiff", "avif", "ppm")
"""Formats that are decoded and written; names as in the column ``source_format``."""

LARGEST_SIDE: Final = {"jpeg": 65500, "webp": 16383, "gif": 65535, "avif": 65536}
"""Pixels a side that a format can be written with; JPEG: libjpeg's limit. Formats not named here have none that matters."""

MAX_TRAILING_BYTES: Final = 4096
"""After the end of a picture: more than that is a file of its own (a film, a second picture), and the whole is kept."""

MAX_SEGMENT_BYTES: Final = 1 << 16
"""Segments that are carried, together: more are what the file is about (readings, layers), and it is kept as it is."""

MAX_METADATA_BYTES: Final = 1 << 24
"""Limit on EXIF, ICC and XMP each, also after decompression: the largest real ICC profiles have a few MB."""

BAD_IMAGE: Final = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    EOFError,
    OverflowError,
    RuntimeError,
    UserWarning,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
    imagecodecs.Jpeg8Error,
    imagecodecs.WebpError,
)

BAD_JPEGXL: Final = (imagecodecs.JpegxlError, ValueError, RuntimeError)
"""Errors of the JPEG XL reader for bytes that are none; RuntimeError where it cannot count the frames."""


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """A file's header, as far as it concerns its picture; ``width`` and ``height`` in pixels as stored, before any orientation.

    ``mode`` is ``1``, ``L``, ``LA``, ``P``, ``RGB``, ``RGBA``, ``CMYK``, ``LAB``, or the format's own word for others.
    ``num_frames`` is 1 for a still picture; counting may stop at 2, which then means "more than one".
    """

    format: str
    width: int
    height: int
    mode: str
    bits_per_sample: int = 8
    num_frames: int = 1


@dataclass(frozen=True, slots=True)
class Scan:
    """A file read without decoding: header, metadata, and the reason word if the file cannot be given back faithfully.

    ``exif`` begins with the TIFF byte order mark; ``words`` are the small things that `DecodedImage.mode` carries; ``dropped``
    names what neither is carried nor makes the file be kept: it describes how this file holds its pixels.
    """

    header: ImageHeader
    exif: bytes | None = None
    icc: bytes | None = None
    xmp: bytes | None = None
    words: tuple[str, ...] = ()
    refusal: str | None = None
    segments: tuple[Segment, ...] = field(default=(), repr=False)
    dropped: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class DecodedImage:
    """A picture and what its file needs beside the pixels.

    ``pixels``: uint8 [H, W, 3] or [H, W] as stored: neither orientation nor profile are applied.
    ``format``: one of `FORMATS`, or of `CONVERTED`. ``mode``: the original's mode, then ``key=value`` words separated by
    a space, of which unknown ones are ignored: ``bits=1|2|4`` gray levels, ``dpi=300x300``, PNG colour chunks in hex
    (``gAMA=0000b18f``), and ``dropped=iDOT+sBIT`` for what does not come back.
    ``alpha``: the losslessly coded channel (`cnnbatch.images.alpha`), None where the file has none.
    ``exif`` (from the byte order mark on), ``icc``, ``xmp``: as in the file. ``segments``: what else is in it
    (`cnnbatch.images.segments`), for a file of the same format.
    """

    pixels: NDArray[np.uint8] = field(repr=False)
    format: str
    mode: str
    alpha: bytes | None = field(default=None, repr=False)
    exif: bytes | None = field(default=None, repr=False)
    icc: bytes | None = field(default=None, repr=False)
    xmp: bytes | None = field(default=None, repr=False)
    segments: bytes | None = field(default=None, repr=False)

    @property
    def side_bytes(self) -> int:
        """Bytes of what goes with the pixels."""
        return sum(len(blob) for blob in (self.alpha, self.exif, self.icc, self.xmp, self.segments) if blob)


@contextmanager
def bad_image(what: str) -> Iterator[None]:
    """Turn every exception that readers raise for a bad file into `Undecodable`; the only place that does.

    Wrap nothing but a call into Pillow or imagecodecs or a parser of untrusted bytes. MemoryError passes: sizes were
    checked before, so it is the machine's.
    """
    try:
        yield
    except Undecodable:
        raise
    except BAD_IMAGE as error:
        reason = "truncated" if "truncated" in str(error).lower() else "corrupt"
        raise Undecodable(reason, f"{what}: {type(error).__name__}: {error}") from error
