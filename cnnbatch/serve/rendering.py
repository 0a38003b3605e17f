"""Pixels of the right size → the file that a plan asks for."""

import io
from typing import Any, Final

import numpy as np
from PIL import Image

from cnnbatch.codec.geometry import Pixels
from cnnbatch.serve.iiif import Plan

OPTIONS: Final[dict[str, dict[str, Any]]] = {
    "jpg": {"format": "JPEG", "quality": 85},
    "png": {"format": "PNG", "compress_level": 3},
    "webp": {"format": "WEBP", "quality": 82, "method": 1},
}
WHITE: Final = 255
SMALL_PROFILE_BYTES: Final = 4 << 10


def render(pixels: Pixels, plan: Plan, *, icc: bytes | None = None) -> bytes:
    """Mirrored, turned, in its quality and format. JPEG shows what is transparent on white."""
    if plan.mirrored:
        pixels = pixels[:, ::-1]
    pixels = np.ascontiguousarray(np.rot90(pixels, -plan.degrees // 90))
    if plan.format == "jpg":
        pixels = on_white(pixels)
    image = Image.fromarray(pixels)
    if plan.quality in ("gray", "bitonal"):
        image = image.convert("LA" if image.mode == "RGBA" else "L")
    if plan.quality == "bitonal":
        gray = image.getchannel(0)
        image = gray.point(lambda level: 255 * (level >= 128)) if plan.format != "png" else gray.convert("1")
    if plan.format == "webp" and image.mode in ("L", "LA"):
        image = image.convert("RGBA" if image.mode == "LA" else "RGB")
    buffer = io.BytesIO()
    keeps = icc if plan.quality in ("default", "color") else None
    options = OPTIONS[plan.format] | ({"icc_profile": keeps} if keeps else {})
    image.save(buffer, **options)
    return buffer.getvalue()


def as_jpeg(pixels: Pixels, *, icc: bytes | None) -> bytes:
    """A whole picture as it is; without a profile that would be larger than the file."""
    buffer = io.BytesIO()
    profile = icc if icc and len(icc) <= SMALL_PROFILE_BYTES else None
    Image.fromarray(np.ascontiguousarray(on_white(pixels))).save(buffer, **OPTIONS["jpg"], icc_profile=profile)
    return buffer.getvalue()


def on_white(pixels: Pixels) -> Pixels:
    """Without its alpha."""
    if pixels.ndim == 2 or pixels.shape[2] == 3:
        return pixels
    alpha = pixels[..., 3:].astype(np.uint16)
    blended = (pixels[..., :3] * alpha + WHITE * (255 - alpha) + 127) // 255
    return blended.astype(np.uint8)
