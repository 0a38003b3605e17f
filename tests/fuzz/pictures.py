"""Image files."""

import random
import struct
import zlib
from pathlib import Path

from cnnbatch.errors import ImageError
from cnnbatch.images import decode, encode, png, probe
from cnnbatch.images.lossless import keep, restore
from tests.fuzz.target import Target
from tests.images.test_image_converting import SOUND, heic
from tests.images.test_image_segments import CARRIED
from tests.stages.pictures import EXIF_ROTATED, as_file, cmyk_jpeg, deep_png, waves, with_alpha

HARD = Path(__file__).parents[2].parent / "shared" / "data" / "hard"
MAX_PIXELS = 1 << 20
MAX_FILE_BYTES = 1 << 16
MAX_SAMPLES_BACK = 1 << 14
"""Larger pictures are not encoded again: it is the decoders that see bytes of others."""


def files() -> list[bytes]:
    """Every format and option that is decoded, a few that are refused, and the difficult files where they are at hand."""
    picture, small = waves(40, 60), waves(24, 31)
    own = [as_file(picture, name) for name in ("png", "jpeg", "gif", "webp", "bmp", "tiff", "avif", "ppm")]
    own += [as_file(small, "jpeg", quality=97, exif=EXIF_ROTATED, icc_profile=bytes(200), progressive=True)]
    own += [as_file(with_alpha(small), name) for name in ("png", "webp", "tiff", "avif")]
    own += [as_file(waves(20, 20, gray=True), name) for name in ("png", "jpeg", "tiff")]
    own += [as_file(small, "tiff", compression=name) for name in ("tiff_lzw", "jpeg", "packbits")]
    own += [as_file(small, "webp", lossless=True, exif=EXIF_ROTATED, xmp=b"<x/>"), cmyk_jpeg(), deep_png()]
    own += [data for data, _ in CARRIED.values()] + [data for data, *_ in SOUND.values()] + [heic(small)]
    hard = [path.read_bytes() for path in sorted(HARD.glob("*")) if path.stat().st_size <= MAX_FILE_BYTES]
    return [*own, *(data for data in hard if data)]


def read(data: bytes) -> None:
    """What a job does with an input, and the way back."""
    kept = keep(data)
    assert restore(kept.payload, kept.coding, num_bytes=len(data)) == data
    try:
        probe(data, convert=True)
        image = decode(data, max_pixels=MAX_PIXELS, convert=True)
        assert image.pixels.shape[0] * image.pixels.shape[1] <= MAX_PIXELS
        if image.pixels.size <= MAX_SAMPLES_BACK:
            encode(image, format="original")
    except ImageError:
        return


def with_right_chunks(data: bytes, rng: random.Random) -> bytes:
    """PNG with right checksums; no other format here has any."""
    if not data.startswith(png.SIGNATURE):
        return data
    position, parts = len(png.SIGNATURE), [png.SIGNATURE]
    while position + 12 <= len(data):
        length = min(int.from_bytes(data[position : position + 4], "big"), len(data) - position - 12)
        body = data[position + 4 : position + 8 + length]
        parts += [struct.pack(">I", length), body, struct.pack(">I", zlib.crc32(body))]
        position += 12 + length
    return b"".join(parts)


IMAGES = Target("images", files, read, with_right_chunks, MAX_FILE_BYTES)
