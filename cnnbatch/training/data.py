"""Training pictures: decoded once, kept as bytes in memory, cut and augmented for each step."""

import json
import logging
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

logger = logging.getLogger(__name__)

Pixels = npt.NDArray[np.uint8]
"""uint8 [H, W, 3]."""

GRAY_SHARE = 0.05
DOWNSCALE_SHARE = 0.35
DEV_SHARE = 0.05


def load_pictures(folder: Path) -> tuple[list[Pixels], list[Pixels]]:
    """Training and dev pictures below ``folder``, files that Pillow cannot open left out.

    A ``MANIFEST.json`` with ``file`` and ``split`` decides the split; without one every twentieth picture by name is dev.
    """
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in {".jpg", ".jpeg", ".png", ".webp"})
    dev_names = _dev_names(folder, files)
    train: list[Pixels] = []
    dev: list[Pixels] = []
    for path in files:
        try:
            picture = _load(path)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            logger.warning("left out %s: %s", path, error)
        else:
            (dev if path in dev_names else train).append(picture)
    return train, dev


def _dev_names(folder: Path, files: Sequence[Path]) -> set[Path]:
    manifest = folder / "MANIFEST.json"
    if not manifest.exists():
        return set(files[:: round(1 / DEV_SHARE)])
    entries: list[dict[str, Any]] = json.loads(manifest.read_text())
    return {folder / entry["file"] for entry in entries if entry["split"] == "dev"}


def _load(path: Path) -> Pixels:
    with Image.open(BytesIO(path.read_bytes())) as image:
        return np.asarray(image.convert("RGB"))


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
