"""Pixels → files, metadata back in place."""

import io
import struct
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from cnnbatch.choices import CONVERTED, CONVERTED_TO
from cnnbatch.errors import ImageError, Undecodable
from cnnbatch.images import gif, ifd, jpeg, png, rasters, tiff, webp
from cnnbatch.images.alpha import decode_alpha
from cnnbatch.images.jpeg_coding import of_quality, parse_word
from cnnbatch.images.model import FORMATS, LARGEST_SIDE, DecodedImage
from cnnbatch.images.segments import Segment, unpack

Pixels = NDArray[np.uint8]
Words = dict[str, str]
EXIF_PREFIX: Final = b"Exif\0\0"
COARSER: Final = (1, 1.15, 1.35, 1.6, 2, 2.6, 3.5, 5, 8, 16, 40, 128)
"""Factors of a JPEG's steps that are tried one after the other."""

FALLING: Final = (95, 90, 85, 80, 72, 64, 56, 48, 38, 28, 18, 8)
"""Qualities of WebP and AVIF that are."""


def encode(image: DecodedImage, *, format: str, max_bytes: int | None = None) -> bytes:
    """The picture as a file of ``format``: ``original`` (that of ``image.format``, AVIF for one of
    `CONVERTED`) or one of `FORMATS`.

    ``original``: a JPEG as its original was coded (tables, subsampling, progressive), a lossy WebP as one, and JPEG, WebP and
    AVIF coarser than that where they would else take more than ``max_bytes``, as far as they can be.
    Else JPEG: 4:4:4, quality 95. PNG, WebP, BMP, TIFF (deflate), PPM: lossless. GIF: 256 colours chosen for the picture.
    AVIF: 4:4:4, quality 95, alpha too. Samples of 1, 2 and 4 bits go back to the nearest of their levels.

    What a format cannot hold is left out and nothing is blended: JPEG, BMP and PPM keep the colours
    without the alpha (those under transparent pixels come to light), GIF keeps it as on or off from 128; JPEG leaves out
    EXIF and XMP over 64 KiB; GIF, BMP and PPM hold no metadata. Segments are put back where the format is the original's.

    Raises ValueError for an unknown format, ImageError where alpha, EXIF or segments are damaged (``alpha``, ``metadata``) or
    the format cannot hold the picture (``size``).
    """
    own = CONVERTED_TO if image.format in CONVERTED else image.format
    target = own if format == "original" else format
    if target not in WRITERS:
        raise ValueError(f"format {target!r} is not one of {', '.join(('original', *FORMATS))}")
    words = dict(word.split("=", 1) for word in image.mode.split()[1:] if "=" in word)
    height, width = image.pixels.shape[:2]
    if max(height, width) > LARGEST_SIDE.get(target, max(height, width)):
        raise ImageError("size", f"{width}x{height} pixels, {target} holds at most {LARGEST_SIDE[target]} a side")
    samples = _samples(image, words)
    segments = unpack(image.segments) if target == image.format else []

    def finished(data: bytes) -> bytes:
        return SEGMENT_WRITERS[target](data, segments) if segments else data

    if format != "original" or target not in LOSSY:
        return finished(WRITERS[target](samples, image, words))
    files = map(finished, LOSSY[target](samples, image, words))
    data = next(files)
    while max_bytes is not None and len(data) > max_bytes and (coarser := next(files, None)) is not None:
        data = min(data, coarser, key=len)
    return data


def _samples(image: DecodedImage, words: Words) -> Pixels:
    """uint8 [H, W] or [H, W, 2…4]: levels restored, alpha joined."""
    pixels = image.pixels
    bits = "1" if image.mode.split()[:1] == ["1"] else words.get("bits")
    if bits in ("1", "2", "4") and pixels.ndim == 2:
        step = 255 // ((1 << int(bits)) - 1)
        pixels = (np.rint(pixels / np.float32(step)) * step).astype(np.uint8)
    if image.alpha is None:
        return pixels
    height, width = pixels.shape[:2]
    return np.dstack((pixels, decode_alpha(image.alpha, (height, width))))


def _save(samples: Pixels, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(samples).save(buffer, format, **{name: value for name, value in options.items() if value})
    return buffer.getvalue()


def _opaque(samples: Pixels) -> Pixels:
    if samples.ndim == 2 or samples.shape[2] == 3:
        return samples
    return np.ascontiguousarray(samples[..., 0] if samples.shape[2] == 2 else samples[..., :3])


def _colour(samples: Pixels) -> Pixels:
    """Gray with alpha as RGBA, for formats that have no such mode."""
    return samples[..., [0, 0, 0, 1]] if samples.ndim == 3 and samples.shape[2] == 2 else samples


def _is_bilevel(samples: Pixels, image: DecodedImage) -> bool:
    return samples.ndim == 2 and image.mode.split()[:1] == ["1"]


def _dpi(words: Words) -> tuple[float, float] | None:
    try:
        x, y = (float(number) for number in words.get("dpi", "").split("x"))
    except ValueError:
        return None
    return (x, y) if 0 < x < 65535 and 0 < y < 65535 else None


def _jpeg(samples: Pixels, image: DecodedImage, words: Words) -> bytes:
    return _save_jpeg(samples, image, words, quality=95, subsampling="4:4:4")


def _jpegs_as_before(samples: Pixels, image: DecodedImage, words: Words) -> Iterator[bytes]:
    """As the original was coded, then ever coarser; where nothing is known of it, from what `_jpeg` writes on."""
    coding = parse_word(words.get("jpeg")) or of_quality(95)
    for factor in COARSER:
        yield _save_jpeg(samples, image, words, **coding.coarser(factor).options())


def _save_jpeg(samples: Pixels, image: DecodedImage, words: Words, **options: Any) -> bytes:
    exif, xmp, icc = image.exif or b"", image.xmp or b"", image.icc or b""
    return _save(
        _opaque(samples),
        "JPEG",
        **options,
        exif=EXIF_PREFIX + exif if 0 < len(exif) <= jpeg.MAX_EXIF else None,
        xmp=xmp if len(xmp) <= jpeg.MAX_XMP else None,
        icc_profile=icc if len(icc) <= jpeg.MAX_ICC else None,
        dpi=_dpi(words),
    )


def _png(samples: Pixels, image: DecodedImage, words: Words) -> bytes:
    plain = image.exif is None and image.icc is None and image.xmp is None and not words and not _is_bilevel(samples, image)
    if plain and (samples.ndim == 2 or samples.shape[2] == 3) and (tiny := png.write_tiny(samples)) is not None:
        return tiny
    info = PngInfo()
    for name, size in png.COLOUR_CHUNKS.items():
        if _is_hex(words.get(name, ""), size):
            info.add(name.encode(), bytes.fromhex(words[name]))
    if image.xmp:
        info.add(b"iTXt", png.XMP_KEYWORD + b"\0\0\0\0" + image.xmp)
    picture = np.not_equal(samples, 0) if _is_bilevel(samples, image) else samples
    return _save(picture, "PNG", pnginfo=info, exif=image.exif, icc_profile=image.icc, dpi=_dpi(words))


def _is_hex(text: str, num_bytes: int) -> bool:
    return len(text) == 2 * num_bytes and set(text) <= set("0123456789abcdef")


def _webp(samples: Pixels, image: DecodedImage, words: Words) -> bytes:
    return _save_webp(samples, image, lossless=True, method=2, quality=40)


def _webps_as_before(samples: Pixels, image: DecodedImage, words: Words) -> Iterator[bytes]:
    """Lossless unless the original was not, then ever coarser."""
    if "lossy" not in words:
        yield _webp(samples, image, words)
    for quality in FALLING:
        yield _save_webp(samples, image, quality=quality, method=4)


def _save_webp(samples: Pixels, image: DecodedImage, **options: Any) -> bytes:
    return _save(
        _colour(samples),
        "WEBP",
        exact=True,
        **options,
        exif=image.exif,
        icc_profile=image.icc,
        xmp=image.xmp,
    )


def _bmp(samples: Pixels, image: DecodedImage, words: Words) -> bytes:
    picture = np.not_equal(samples, 0) if _is_bilevel(samples, image) else _opaque(samples)
    return _save(picture, "BMP", dpi=_dpi(words))


def _ppm(samples: Pixels, image: DecodedImage, words: Words) -> bytes:
    picture = _opaque(samples)
    return _save(np.not_equal(picture, 0) if _is_bilevel(picture, image) else picture, "PPM")


def _check_exif(image: DecodedImage) -> None:
    try:
        ifd.read(image.exif or b"II*\0\x08\0\0\0\0\0")
    except (Undecodable, ValueError, struct.error) as error:
        raise ImageError("metadata", f"EXIF that cannot be written: {error}") from error


def _tiff(samples: Pixels, image: DecodedImage, words: Words) -> bytes:
    _check_exif(image)
    picture = np.not_equal(samples, 0) if _is_bilevel(samples, image) else samples
    data = _save(picture, "TIFF", compression="tiff_adobe_deflate")
    segments = unpack(image.segments) if image.format == "tiff" else []  # in the same directory
    return tiff.graft(data, exif=image.exif, icc=image.icc, xmp=image.xmp, segments=segments)


def _gif(samples: Pixels, image: DecodedImage, words: Words) -> bytes:
    colours = Image.fromarray(_opaque(samples))
    if samples.ndim == 2 or samples.shape[2] == 3:
        return _save_gif(colours.quantize(256) if colours.mode == "RGB" else colours)
    # 255 colours, then one index for what is transparent.
    quantized = colours.convert("RGB").quantize(255)
    indices = np.array(quantized)
    palette = (quantized.getpalette("RGB") or [])[: 3 * 255]
    indices[samples[..., -1] < 128] = 255
    picture = Image.fromarray(indices).convert("P")
    picture.putpalette(palette + [0] * (768 - len(palette)))
    return _save_gif(picture, transparency=255)


def _save_gif(picture: Image.Image, **options: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "GIF", optimize=False, **options)
    return buffer.getvalue()


def _avif(samples: Pixels, image: DecodedImage, words: Words) -> bytes:
    return _save_avif(samples, image, 95)


def _avifs_as_before(samples: Pixels, image: DecodedImage, words: Words) -> Iterator[bytes]:
    for quality in FALLING:
        yield _save_avif(samples, image, quality)


def _save_avif(samples: Pixels, image: DecodedImage, quality: int) -> bytes:
    _check_exif(image)  # Pillow parses it for the orientation and would warn of damage
    return _save(
        _colour(samples),
        "AVIF",
        quality=quality,
        subsampling="4:4:4" if samples.ndim == 3 else "4:0:0",
        speed=8,
        max_threads=1,
        exif=image.exif,
        icc_profile=image.icc,
        xmp=image.xmp,
    )


WRITERS: Final[dict[str, Callable[[Pixels, DecodedImage, Words], bytes]]] = {
    "jpeg": _jpeg,
    "png": _png,
    "gif": _gif,
    "webp": _webp,
    "bmp": _bmp,
    "tiff": _tiff,
    "avif": _avif,
    "ppm": _ppm,
}

LOSSY: Final[dict[str, Callable[[Pixels, DecodedImage, Words], Iterator[bytes]]]] = {
    "jpeg": _jpegs_as_before,
    "webp": _webps_as_before,
    "avif": _avifs_as_before,
}
"""Formats whose files can be made coarser: from the best one on."""

SEGMENT_WRITERS: Final[dict[str, Callable[[bytes, list[Segment]], bytes]]] = {
    "jpeg": jpeg.with_segments,
    "png": png.with_segments,
    "gif": gif.with_segments,
    "webp": webp.with_segments,
    "bmp": rasters.with_segments_bmp,
    "tiff": lambda data, _: data,
    "avif": lambda data, _: data,  # a file with segments is kept as it is
    "ppm": rasters.with_segments_ppm,
}
