"""Training pictures: decoded once, kept as bytes in memory, cut and augmented for each step."""

import json
import logging
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from cnnbatch.errors import ImageError, UsageError
from cnnbatch.images import decode
from cnnbatch.storage import Store

logger = logging.getLogger(__name__)

Pixels = npt.NDArray[np.uint8]
"""uint8 [H, W, 3]."""

PICTURE = re.compile(r"\.(jpe?g|png|webp|tiff?|bmp|avif)$", re.IGNORECASE)
MAX_PIXELS = 100_000_000
GRAY_SHARE = 0.05
DOWNSCALE_SHARE = 0.35
DEV_SHARE = 0.05


def load_pictures(source: Store) -> tuple[list[Pixels], list[Pixels]]:
    """Training and dev pictures below ``source``; what cannot be read or decoded is left out with a warning.

    A ``MANIFEST.json`` with ``file`` and ``split`` decides the split; without one every twentieth picture by key is dev.
    """
    infos = sorted((info for info in source.list() if PICTURE.search(info.key)), key=lambda info: info.key)
    dev_keys = _dev_keys(source, [info.key for info in infos])
    train: list[Pixels] = []
    dev: list[Pixels] = []
    for info in infos:
        try:
            picture = decode(source.get(info), max_pixels=MAX_PIXELS).pixels
        except ImageError as error:
            logger.warning("left out %s: %s", info.key, error)
            continue
        (dev if info.key in dev_keys else train).append(picture if picture.ndim == 3 else np.dstack([picture] * 3))
    if not train:
        raise UsageError(f"no pictures to train on below {source.url}")
    return train, dev


def _dev_keys(source: Store, keys: Sequence[str]) -> set[str]:
    try:
        entries: list[dict[str, Any]] = json.loads(source.read("MANIFEST.json"))
    except FileNotFoundError:
        return set(keys[:: round(1 / DEV_SHARE)]) if len(keys) > 1 else set()
    return {entry["file"] for entry in entries if entry["split"] == "dev"}


def crops(pictures: Sequence[Pixels], *, size: int, rng: np.random.Generator) -> Iterator[Pixels]:
    """Endless random crops [size, size, 3]: flips, quarter turns, downscales by 0.5…1, some gray.

    Downscaling also removes what an earlier JPEG compression left in a picture.
    """
    while True:
        picture = pictures[int(rng.integers(len(pictures)))]
        side = min(_source_side(size, rng), *picture.shape[:2])
        top = rng.integers(picture.shape[0] - side + 1)
        left = rng.integers(picture.shape[1] - side + 1)
        crop = picture[top : top + side, left : left + side]
        if side != size:
            crop = np.asarray(Image.fromarray(crop).resize((size, size), Image.Resampling.LANCZOS))
        if rng.random() < GRAY_SHARE:
            crop = np.broadcast_to(crop.mean(2, keepdims=True).round().astype(np.uint8), crop.shape)
        crop = np.rot90(crop, int(rng.integers(4)))
        yield crop[:, ::-1] if rng.random() < 0.5 else crop


def _source_side(size: int, rng: np.random.Generator) -> int:
    return round(size / rng.uniform(0.5, 1)) if rng.random() < DOWNSCALE_SHARE else size
