"""Small pictures as files, the same for the same arguments, and a source folder to put them in."""

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
EXIF_ROTATED = b"Exif\0\0" + b"MM\0*\0\0\0\x08" + b"\0\x01" + b"\x01\x12\0\x03\0\0\0\x01\0\x06\0\0" + b"\0\0\0\0"


def waves(height: int, width: int, seed: int = 0, *, gray: bool = False) -> Pixels:
    """A smooth picture with a little grain, so that a codec makes it much smaller than PNG does."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    phases = rng.uniform(0, 6, size=(3, 2))
    channels = [100 * np.sin(x / 9 + a) * np.cos(y / 13 + b) + 128 for a, b in phases]
    picture = np.stack(channels, axis=-1) + rng.normal(0, 3, size=(height, width, 3))
    pixels = np.clip(picture, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(pixels[..., 0]) if gray else pixels


def as_file(pixels: Pixels, format: str = "png", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format, **options)
    return buffer.getvalue()


def with_alpha(pixels: Pixels) -> Pixels:
    alpha = np.linspace(0, 255, pixels.shape[0] * pixels.shape[1]).reshape(pixels.shape[:2]).astype(np.uint8)
    return np.dstack((pixels, alpha))


def cmyk_jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(waves(32, 32)).convert("CMYK").save(buffer, "jpeg", quality=90)
    return buffer.getvalue()


def deep_png() -> bytes:
    """16 bits a sample."""
    buffer = io.BytesIO()
    Image.fromarray((np.arange(1024, dtype=np.uint16) * 60).reshape(32, 32)).save(buffer, "png")
    return buffer.getvalue()


def pixels_of(data: bytes) -> Pixels:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


def write_files(folder: Path, files: Mapping[str, bytes]) -> Path:
    for key, data in files.items():
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def touch_later(path: Path, seconds: int = 5) -> None:
    """Move a file's modification time, as a new version of it would."""
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + seconds * 10**9))
