"""Files → pixels.

JPEG and WebP go through imagecodecs: the same libraries as Pillow's with byte-identical pixels, straight into an
array (a quarter faster than Pillow on JPEG; hidden colour under alpha 0 survives in WebP). The rest goes through
Pillow's plugin classes, called directly: `Image.open` would warn of large pictures by a process-wide limit, while the
limit here is the caller's and is compared with the header before.
"""

import io
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile

from cnnbatch.choices import CONVERTED, CONVERTED_TO
from cnnbatch.errors import Undecodable
from cnnbatch.images import converting, headers, ifd, png, tiff
from cnnbatch.images.alpha import encode_alpha
from cnnbatch.images.model import (
    LARGEST_SIDE,
    MAX_SEGMENT_BYTES,
    DecodedImage,
    ImageHeader,
    Scan,
    bad_image,
)
from cnnbatch.images.segments import pack

# Pillow warns of a damaged EXIF block inside an AVIF, whose bytes are carried as they are. Filters are process-wide and
# not safe to change while threads run, so this is done once, at import, and for that one module.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.TiffImagePlugin")

Pixels = NDArray[np.uint8]
DEEP_BITS: Final = frozenset((*range(9, 17), 24, 32, 64))
MODES: Final = frozenset(("1", "L", "LA", "P", "PA", "RGB", "RGBA"))
PIXELS_ONLY: Final = {"png": png.pixels_only, "tiff": tiff.pixels_only}


class _TiffFile(TiffImageFile):
    def load_prepare(self) -> None:
        """Allocate here, as Pillow would compare with its process-wide limit and warn; ours was compared before."""
        if self._im is None:
            self.im = Image.new(self.mode, self.size).im
        super().load_prepare()


PLUGINS: Final[dict[str, Callable[[io.BytesIO], ImageFile.ImageFile]]] = {
    "png": PngImageFile,
    "gif": GifImageFile,
    "bmp": BmpImageFile,
    "tiff": _TiffFile,
    "avif": AvifImageFile,
    "ppm": PpmImageFile,
}


def decode(data: bytes, *, max_pixels: int, convert: bool = False) -> DecodedImage:
    """The picture of an image file as it is stored: neither orientation nor profile are applied.

    Raises Undecodable (words in `cnnbatch.images.model`) where the file cannot be given back faithfully as 8-bit gray or RGB,
    alpha, EXIF, ICC, XMP and segments, and before allocating where it has more than ``max_pixels`` pixels. What describes how
    the file holds its pixels is not carried (palettes, strips, interlacing), and named in ``mode`` where it is said apart.

    ``convert``: also pictures that come back as files of another format (`CONVERTED`) or depth (16 bits that are 8), turned as
    they are shown where their format turns them itself.
    """
    found = headers.scan(data, convert=convert)
    _check(found, max_pixels, convert=convert)
    header = found.header
    with bad_image(header.format):
        if converting.converts(header):
            pixels, found = converting.read(data, found)
            mode, found = header.mode, headers.bounded(found)
        elif header.format == "jpeg":
            pixels, mode = imagecodecs.jpeg8_decode(data), header.mode
        elif header.format == "webp":
            pixels, mode = imagecodecs.webp_decode(data, hasalpha=header.mode == "RGBA"), header.mode
        elif header.format == "png" and (tiny := png.read_tiny(data, header)) is not None:
            pixels, mode = tiny, header.mode
        else:
            pixels, mode, found = _pillow(data, found)
    if pixels.shape[:2] != (header.height, header.width):
        raise Undecodable("corrupt", f"{pixels.shape[1]}x{pixels.shape[0]} pixels under a header of {header}")
    colour, alpha = _split(pixels)
    dropped = (f"dropped={'+'.join(found.dropped)}",) if found.dropped else ()
    return DecodedImage(
        pixels=colour,
        format=header.format,
        mode=" ".join((mode, *found.words, *dropped)),
        alpha=None if alpha is None else encode_alpha(alpha),
        exif=found.exif,
        icc=found.icc,
        xmp=found.xmp,
        segments=pack(found.segments),
    )


def _check(found: Scan, max_pixels: int, *, convert: bool) -> None:
    """Refuse what the header already shows; the size comes first."""
    header = found.header
    if header.width * header.height > max_pixels:
        raise Undecodable("too-many-pixels", f"{header.width}x{header.height} pixels, the limit is {max_pixels}")
    written = CONVERTED_TO if header.format in CONVERTED else header.format
    if max(header.width, header.height) > LARGEST_SIDE.get(written, max_pixels):
        raise Undecodable("unsupported", f"{header.width}x{header.height} pixels cannot be written as {written}")
    if header.bits_per_sample > 8 and not (convert and converting.is_deep(header)):
        known = header.bits_per_sample in DEEP_BITS
        raise Undecodable(f"{header.bits_per_sample}-bit" if known else "corrupt", f"{header.bits_per_sample} bits a sample")
    if header.num_frames > 1:
        raise Undecodable("multi-frame", f"{header.format} of more than one picture")
    if header.mode not in MODES:
        reason = {"CMYK": "cmyk", "LAB": "lab"}.get(header.mode, "mode")
        raise Undecodable(reason, f"{header.format} of the mode {header.mode}")
    if found.refusal is not None:
        raise Undecodable(found.refusal, f"{header.format} with content that would be lost: {found.refusal}")
    if (size := sum(len(segment.data) for segment in found.segments)) > MAX_SEGMENT_BYTES:
        raise Undecodable("metadata", f"{size} bytes of segments, the limit is {MAX_SEGMENT_BYTES}")


def _pillow(data: bytes, found: Scan) -> tuple[Pixels, str, Scan]:
    """Pixels uint8 [H, W] or [H, W, 2…4], Pillow's mode of the file, and ``found`` with what only Pillow has read."""
    header = found.header
    reduced = PIXELS_ONLY.get(header.format, bytes)(data)
    with PLUGINS[header.format](io.BytesIO(reduced)) as image:
        if image.size != (header.width, header.height):
            raise Undecodable("corrupt", f"Pillow sees {image.size}, the header {header}")
        # Pillow reads an alpha channel of a BMP but writes none that a reader would take for one.
        if image.mode not in MODES or (header.format, image.mode) == ("bmp", "RGBA"):
            raise Undecodable("mode", f"{header.format} of the mode {image.mode}")
        if header.format == "avif":
            found = _with_metadata(found, image)
        mode = image.mode
        image.load()
        return _array(image, header), mode, found


def _with_metadata(found: Scan, image: Image.Image) -> Scan:
    exif = image.info.get("exif", b"").removeprefix(b"Exif\0\0")
    if exif:
        ifd.read(exif)  # damaged EXIF could not be written back into an AVIF
    icc, xmp = image.info.get("icc_profile"), image.info.get("xmp")
    return headers.bounded(replace(found, exif=exif or None, icc=icc, xmp=xmp))


def _array(image: Image.Image, header: ImageHeader) -> Pixels:
    """Samples of the loaded image; palettes resolved, a colour key made an alpha channel."""
    key = image.info.get("transparency")
    if image.mode in ("P", "PA"):
        return np.asarray(image.convert("RGBA" if key is not None or image.mode == "PA" else "RGB"))
    samples = np.asarray(image.convert("L") if image.mode == "1" else image)
    if key is None or image.mode in ("LA", "RGBA"):
        return samples
    # Pillow compares the key, which is in units of the file's depth, with samples scaled to 8 bits: done here instead.
    if header.format == "png":
        key = np.multiply(key, 255 // ((1 << header.bits_per_sample) - 1))
    matches = samples == key
    alpha = np.where(matches if samples.ndim == 2 else matches.all(axis=2), 0, 255).astype(np.uint8)
    return np.dstack((samples, alpha))


def _split(pixels: Pixels) -> tuple[Pixels, Pixels | None]:
    """Colour [H, W] or [H, W, 3], contiguous and writable (torch warns of others), and alpha [H, W] or None."""
    if pixels.ndim == 2 or pixels.shape[2] == 3:
        if pixels.flags.c_contiguous and pixels.flags.writeable:  # `np.require` needs as long as a tiny picture takes to decode
            return pixels, None
        return np.require(pixels, requirements=("C", "W")), None
    colour = pixels[..., 0] if pixels.shape[2] == 2 else pixels[..., :3]
    return np.require(colour, requirements=("C", "W")), pixels[..., -1]
