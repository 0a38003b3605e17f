"""The codecs that are compared, behind one small interface; each through a well-kept library, in one thread.

    word        what                                          quality
    jpeg444     JPEG, full colour, optimised Huffman tables   1…100
    jpeg420     JPEG as most are: half colour, plain tables   1…100
    webp        WebP, method 6                                0…100
    avif        AVIF 4:4:4, speed 6, tuned as libavif does    0…100
    avif420     the same with half colour                     0…100
    avif-psnr   AVIF 4:4:4, speed 6, tuned for PSNR           0…100
    avif@S      any of them at another speed, 0…10 (slowest: 0)  0…100
    jxl         JPEG XL, effort 7                             5…99, a distance as cjxl maps it
    jpeg2000    JPEG 2000, irreversible                       20…60, the PSNR in dB that the encoder aims at
    png         PNG, level 9                                  lossless
    jpegls      JPEG-LS                                       lossless
    vq          a codebook learned on the pictures            0…7 (`cnnbatch.evaluation.vq`)
    pca         principal components learned on the pictures  0…40 (`cnnbatch.evaluation.pca`)
    cnn         ours                                          0…63 (`cnnbatch.evaluation.ours`)

Bytes are those of the whole file. Gray pictures are coded as gray where the format can, alpha is never coded.
"""

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, Protocol

import imagecodecs
import numpy as np
import numpy.typing as npt
import PIL
from PIL import Image, features

Pixels = npt.NDArray[np.uint8]
"""uint8 [H, W, 3] RGB or [H, W] gray."""


def as_rgb(image: Pixels) -> Pixels:
    """uint8 [H, W, 3]; gray as three equal channels."""
    return np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image[..., :3]


LOSSLESS: Final = (0.0,)
"""The qualities of a lossless codec."""

LIBRARY_FAULTS: Final = (OSError, ValueError, OverflowError, RuntimeError, SystemError, struct.error)
"""Errors that the libraries raise for a picture that they cannot code; imagecodecs' own errors are RuntimeErrors."""


@dataclass(frozen=True, slots=True)
class CodecSpec:
    """Facts about a codec before it codes anything.

    ``qualities`` are the points of its curve, inside ``lowest`` … ``highest``; more quality is more bytes and less distortion.
    ``step``: the distance of two qualities that can differ. ``version`` names the libraries. ``threads``: of one call.
    ``on_gpu``: its speed is that of the clock on the wall, not of the CPU.
    """

    name: str
    label: str
    version: str
    qualities: tuple[float, ...]
    lowest: float = 0.0
    highest: float = 100.0
    step: float = 1.0
    threads: int = 1
    on_gpu: bool = False

    @property
    def lossless(self) -> bool:
        """Whether pictures come back exactly, at the one quality 0."""
        return self.qualities == LOSSLESS


class ImageCodec(Protocol):
    """One codec, set up. ``faults`` are the exceptions that are the picture's fault; anything else ends the job."""

    @property
    def spec(self) -> CodecSpec: ...

    @property
    def faults(self) -> tuple[type[Exception], ...]: ...

    def refusal(self, image: Pixels) -> str | None:
        """Why it takes no picture of this size or mode, whatever the quality; None: it does."""

    def encode(self, image: Pixels, quality: float) -> bytes: ...

    def decode(self, data: bytes) -> Pixels: ...


@dataclass(frozen=True, slots=True)
class LibraryCodec:
    """A codec that is two functions of a library."""

    spec: CodecSpec
    write: Callable[[Pixels, float], bytes]
    read: Callable[[bytes], Pixels]
    faults: tuple[type[Exception], ...] = LIBRARY_FAULTS

    def refusal(self, image: Pixels) -> str | None:
        """None: what a format cannot hold, its library says when it codes."""
        return None

    def encode(self, image: Pixels, quality: float) -> bytes:
        """The file."""
        return self.write(image, quality)

    def decode(self, data: bytes) -> Pixels:
        """The picture, gray or RGB."""
        return self.read(data)


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of the table: how to know that a codec's library is here, and how to make it.

    ``needs`` is a name of a Pillow feature or of an imagecodecs codec (in capitals).
    """

    label: str
    needs: str
    qualities: tuple[float, ...]
    write: Callable[[Pixels, float], bytes]
    read: Callable[[bytes], Pixels]
    lowest: float = 0.0
    highest: float = 100.0
    step: float = 1.0


def entry(name: str) -> Entry | None:
    """Entry of `TABLE`, or one with a speed after an ``@``: ``avif-psnr@0``; None: there is no such codec."""
    word, at, speed = name.partition("@")
    if not at:
        return TABLE.get(word)
    if word not in WITH_SPEED or speed not in SPEEDS:
        return None
    known = TABLE[word]
    write: Callable[..., bytes] = known.write
    return replace(known, label=f"{known.label}, speed {speed}", write=partial(write, speed=int(speed)))


def _known(name: str) -> Entry:
    found = entry(name)
    if found is None:
        raise KeyError(name)
    return found


def missing(name: str) -> str | None:
    """Why the classical codec ``name`` cannot run here; None: it can."""
    needs = _known(name).needs
    if needs.isupper():
        return None if getattr(imagecodecs, needs).available else f"imagecodecs was built without {needs}"
    return None if features.check(needs) else f"Pillow was built without {needs}"


def library_spec(name: str) -> CodecSpec:
    """The codec called ``name``, see `entry`; its version is empty where its library is `missing`."""
    found = _known(name)
    return CodecSpec(
        name=name,
        label=found.label,
        version="" if missing(name) else _version(found.needs),
        qualities=found.qualities,
        lowest=found.lowest,
        highest=found.highest,
        step=found.step,
    )


def library_codec(name: str) -> LibraryCodec:
    """The codec called ``name``, see `entry`, whose library is here."""
    found = _known(name)
    return LibraryCodec(library_spec(name), found.write, found.read)


def jxl_distance(quality: float) -> float:
    """The Butteraugli distance of a quality, as libjxl's ``JxlEncoderDistanceFromQuality``."""
    if quality >= 30:
        return 0.1 + (100 - quality) * 0.09
    return 53 / 3000 * quality**2 - 23 / 20 * quality + 25


def _version(needs: str) -> str:
    if needs.isupper():
        library = getattr(imagecodecs, f"{needs.lower()}_version")()
        return f"imagecodecs {imagecodecs.__version__}, {library}"
    names = {"jpg": "libjpeg_turbo"}  # `features` names the interface's version under jpg, the library's here
    return f"Pillow {PIL.__version__}, {names.get(needs, needs)} {features.version(names.get(needs, needs))}"


def _pillow_write(image: Pixels, quality: float, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, quality=round(quality), **options)
    return buffer.getvalue()


def _pillow_read(data: bytes) -> Pixels:
    with Image.open(io.BytesIO(data)) as image:
        return np.array(image)


def _jxl_write(image: Pixels, quality: float) -> bytes:
    return bytes(imagecodecs.jpegxl_encode(image, distance=jxl_distance(quality), effort=7, numthreads=1))


def _jxl_read(data: bytes) -> Pixels:
    pixels: Pixels = imagecodecs.jpegxl_decode(data, numthreads=1)
    return pixels


def _jpeg2000_write(image: Pixels, quality: float) -> bytes:
    options: dict[str, Any] = {"level": quality, "codecformat": "j2k", "reversible": False, "mct": image.ndim == 3}
    return bytes(imagecodecs.jpeg2k_encode(image, **options, numthreads=1))


def _jpeg2000_read(data: bytes) -> Pixels:
    pixels: Pixels = imagecodecs.jpeg2k_decode(data, numthreads=1)
    return pixels


def _png_write(image: Pixels, quality: float) -> bytes:
    return bytes(imagecodecs.png_encode(image, level=9))


def _jpegls_write(image: Pixels, quality: float) -> bytes:
    return bytes(imagecodecs.jpegls_encode(image))


WITH_SPEED: Final = ("avif", "avif420", "avif-psnr")
SPEEDS: Final = tuple(str(speed) for speed in range(11))
_AVIF: Final[dict[str, Any]] = {"format": "AVIF", "subsampling": "4:4:4", "speed": 6, "max_threads": 1}

TABLE: Final[dict[str, Entry]] = {
    "jpeg444": Entry(
        "JPEG 4:4:4",
        "jpg",
        (8, 20, 40, 60, 75, 85, 92, 96),
        partial(_pillow_write, format="JPEG", subsampling="4:4:4", optimize=True),
        _pillow_read,
        lowest=1,
    ),
    "jpeg420": Entry(
        "JPEG 4:2:0",
        "jpg",
        (8, 20, 40, 60, 75, 85, 92, 96),
        partial(_pillow_write, format="JPEG", subsampling="4:2:0"),
        _pillow_read,
        lowest=1,
    ),
    "webp": Entry(
        "WebP", "webp", (2, 12, 30, 50, 65, 80, 90, 96), partial(_pillow_write, format="WEBP", method=6), _pillow_read
    ),
    "avif": Entry("AVIF", "avif", (18, 30, 42, 53, 64, 75, 85, 92), partial(_pillow_write, **_AVIF), _pillow_read),
    "avif420": Entry(
        "AVIF 4:2:0",
        "avif",
        (18, 30, 42, 53, 64, 75, 85, 92),
        partial(_pillow_write, **(_AVIF | {"subsampling": "4:2:0"})),
        _pillow_read,
    ),
    "avif-psnr": Entry(
        "AVIF tuned for PSNR",
        "avif",
        (10, 22, 34, 45, 56, 67, 78, 88),
        partial(_pillow_write, **_AVIF, advanced={"tune": "psnr"}),
        _pillow_read,
    ),
    "jxl": Entry("JPEG XL", "JPEGXL", (10, 30, 50, 65, 77, 85, 91, 95), _jxl_write, _jxl_read, lowest=5, highest=99),
    "jpeg2000": Entry(
        "JPEG 2000",
        "JPEG2K",
        (26, 28, 30, 32, 34, 37, 40, 43),
        _jpeg2000_write,
        _jpeg2000_read,
        lowest=20,
        highest=60,
        step=0.25,
    ),
    "png": Entry("PNG", "PNG", LOSSLESS, _png_write, imagecodecs.png_decode),
    "jpegls": Entry("JPEG-LS", "JPEGLS", LOSSLESS, _jpegls_write, imagecodecs.jpegls_decode),
}
"""The classical codecs, by their words."""
