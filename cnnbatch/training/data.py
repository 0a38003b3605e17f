"""Training pictures: decoded once, kept as bytes in memory, cut and augmented for each step."""

import logging
import math
import re
from collections.abc import Iterable, Iterator, Sequence, Set

import numpy as np
import numpy.typing as npt
from PIL import Image

from cnnbatch.errors import ImageError, UsageError
from cnnbatch.images import decode
from cnnbatch.storage import Source, Store, parse_json

logger = logging.getLogger(__name__)

Pixels = npt.NDArray[np.uint8]
"""uint8 [H, W, 3]."""

PICTURE = re.compile(r"\.(jpe?g|png|webp|tiff?|bmp|avif)$", re.IGNORECASE)
MAX_PIXELS = 100_000_000
GRAY_SHARE = 0.05
DOWNSCALE_SHARE = 0.35
DEV_SHARE = 0.05
LEAST_DEV, MOST_DEV = 8, 64
"""Pictures put aside, as far as they are at most a quarter of all."""

SMALLEST_SIDE = 64
"""Size in pixels of the least crop of a picture that the network takes."""

FETCH_BYTES = 256 << 20
FETCH_CONCURRENCY = 16


def load_pictures(source: Store, inputs: Source | None = None) -> tuple[list[Pixels], list[Pixels]]:
    """Training and dev pictures below ``source``; what cannot be read or decoded is left out with a warning.

    ``inputs`` are those that lie there in tars, tables and zip files; None: files alone. A ``MANIFEST.json`` with ``file`` and
    ``split`` decides the split; without one some are put aside, every twentieth by key of as many as there usually are.
    """
    inputs = inputs or source
    infos = sorted((info for info in inputs.list() if PICTURE.search(info.key) or info.part), key=lambda info: info.key)
    dev_keys = _dev_keys(source, [info.key for info in infos])
    most = max((info.known_bytes for info in infos), default=0)
    found = inputs.get_many(infos, max_bytes=max(FETCH_BYTES, most), concurrency=FETCH_CONCURRENCY)
    decoded = ((info.key, _decoded(body)) for info, body in found)
    return split_pictures(decoded, where=source.url, dev_keys=dev_keys, listed=len(infos))


def split_pictures(
    found: Iterable[tuple[str, Pixels | ImageError]], *, where: str, dev_keys: Set[str] | None = None, listed: int | None = None
) -> tuple[list[Pixels], list[Pixels]]:
    """(training, dev) in the order of their keys, in colour; without ``dev_keys`` every n-th is dev.

    Raises UsageError where nothing is left to train on.
    """
    kept: list[tuple[str, Pixels]] = []
    small = 0
    for key, picture in found:
        if isinstance(picture, ImageError):
            logger.warning("left out %s: %s", key, picture)
        elif min(picture.shape[:2]) < SMALLEST_SIDE:
            small += 1
        else:
            kept.append((key, picture if picture.ndim == 3 else np.dstack([picture] * 3)))
    if small:
        logger.warning("left out %d pictures below %s of fewer than %d pixels a side", small, where, SMALLEST_SIDE)
    kept.sort(key=lambda item: item[0])
    if dev_keys is None:
        dev_keys = set(_put_aside([key for key, _ in kept]))
    train = [picture for key, picture in kept if key not in dev_keys]
    if not train:
        raise UsageError(_nothing_left(where, listed, small, len(kept)))
    return train, [picture for key, picture in kept if key in dev_keys]


def _nothing_left(where: str, listed: int | None, small: int, dev: int) -> str:
    if dev:
        return f"no pictures to train on below {where}: all that can be decoded are dev"
    if small:
        return (
            f"no pictures to train on below {where}: {small} have fewer than {SMALLEST_SIDE} pixels a side; "
            "--architecture dense is for small pictures of one size"
        )
    return f"no pictures to train on below {where}" + (f": none of {listed} can be decoded" if listed else "")


def _decoded(body: bytes | ImageError) -> Pixels | ImageError:
    if isinstance(body, ImageError):
        return body
    try:
        return decode(body, max_pixels=MAX_PIXELS).pixels
    except ImageError as error:
        return error


def _put_aside(keys: Sequence[str]) -> Sequence[str]:
    count = min(max(DEV_SHARE * len(keys), LEAST_DEV), MOST_DEV, len(keys) / 4)
    return keys[:: math.ceil(len(keys) / count)] if len(keys) > 1 else ()


def _dev_keys(source: Store, keys: Sequence[str]) -> Set[str]:
    """Raises UsageError where the manifest is not one."""
    try:
        entries = parse_json(source.read("MANIFEST.json"))
        return {str(entry["file"]) for entry in entries if entry["split"] == "dev"}
    except FileNotFoundError:
        return set(_put_aside(keys))
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(
            f'{source.url}/MANIFEST.json is not a list of {{"file": …, "split": "train" or "dev"}}: {error}'
        ) from error


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
