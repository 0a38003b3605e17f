"""Training pictures of one size with their labels, all in memory as bytes."""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import torch
from torch import Tensor

from cnnbatch.errors import ImageError, UsageError
from cnnbatch.storage import Source
from cnnbatch.training.data import PICTURE, decoded
from cnnbatch.training.sources import DEV_SHARE

logger = logging.getLogger(__name__)

Pixels = npt.NDArray[np.uint8]
"""uint8 [H, W, 3] or [H, W]."""

MAX_PIXELS = 1 << 20
FETCH_BYTES = 64 << 20
FETCH_CONCURRENCY = 32
PCA_SAMPLES = 20_000
UNLABELLED = -1


@dataclass(frozen=True, slots=True)
class SmallPictures:
    """``pixels`` uint8 [N, H, W, C]; ``labels`` int64 [N], places in ``classes``, `UNLABELLED` where there is none."""

    pixels: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...] = ()

    def split(self) -> "tuple[SmallPictures, SmallPictures]":
        """(training, dev): every twentieth is dev."""
        dev = np.zeros(len(self.pixels), bool)
        dev[:: round(1 / DEV_SHARE)] = len(self.pixels) > 1
        parts = (SmallPictures(self.pixels[part], self.labels[part], self.classes) for part in (~dev, dev))
        return next(parts), next(parts)


def read_labels(data: bytes, name: str) -> dict[str, str]:
    """Key → label of a CSV or Parquet file with the columns ``key`` and ``label``; ``name`` is for people.

    Raises UsageError: no such file, other columns, a key twice with two labels, or a single class.
    """
    try:
        table = _read_parquet(data) if data[:4] == b"PAR1" else _read_csv(data)
        keys, labels = (table.column(column).cast(pa.string()).to_pylist() for column in ("key", "label"))
    except (pa.ArrowException, KeyError, UnicodeDecodeError) as error:
        detail = " ".join(str(error).split())[:200]
        raise UsageError(f"{name}: expected a CSV or Parquet file with the columns key and label: {detail}") from error
    found: dict[str, str] = {}
    for key, label in zip(keys, labels, strict=True):
        if not key or not label:
            raise UsageError(f"{name}: a row without a key or a label: {key!r}, {label!r}")
        if found.setdefault(key, label) != label:
            raise UsageError(f"{name}: {key!r} has two labels, {found[key]!r} and {label!r}")
    if len(set(found.values())) < 2:
        raise UsageError(f"{name}: {len(set(found.values()))} class in {len(found)} labels, expected at least 2")
    return found


def _read_parquet(data: bytes) -> pa.Table:
    return pq.ParquetFile(pa.BufferReader(data), pre_buffer=False).read(use_threads=False)


def _read_csv(data: bytes) -> pa.Table:
    """Only an empty field is none: ``NA``, ``null`` and ``None`` are labels like others.

    From a copy that is Arrow's own: its threads must not be the last to hold an object of Python (apache/arrow#34314).
    """
    copy = pa.BufferOutputStream()
    copy.write(data)
    types = {"key": pa.string(), "label": pa.string()}
    text = pa.csv.ConvertOptions(column_types=types, strings_can_be_null=True, null_values=[""])
    return pa.csv.read_csv(pa.BufferReader(copy.getvalue()), convert_options=text)


def decoded_files(source: Source) -> Iterator[tuple[str, Pixels]]:
    """Key and pixels of every picture below ``source``; what cannot be read or decoded is left out with a warning."""
    infos = [info for info in source.list() if PICTURE.search(info.key) or info.part]
    most = max((info.known_bytes for info in infos), default=0)
    fetched = source.get_many(infos, max_bytes=max(FETCH_BYTES, most), concurrency=FETCH_CONCURRENCY)
    with ThreadPoolExecutor(2, thread_name_prefix="decode") as pool:
        for info, picture in pool.map(lambda pair: (pair[0], decoded(pair[1], max_pixels=MAX_PIXELS)), fetched):
            if isinstance(picture, ImageError):
                logger.warning("left out %s: %s", info.key, picture)
            else:
                yield info.key, picture


def gather(pictures: Iterable[tuple[str, Pixels]], labels: Mapping[str, str] | None, *, where: str) -> SmallPictures:
    """The pictures of the commonest size and mode, in the order of their keys.

    Others, labels without a picture and pictures without a label are counted in a warning. Raises UsageError where
    nothing is left, or the labelled pictures are of one class.
    """
    ordered = sorted(pictures, key=lambda item: item[0])
    shapes = Counter(picture.shape for _, picture in ordered)
    if not shapes:
        raise UsageError(f"no pictures to train on below {where}")
    shape = shapes.most_common(1)[0][0]
    kept = [(key, picture) for key, picture in ordered if picture.shape == shape]
    if len(kept) < len(ordered):
        logger.warning("left out %d of %d pictures that are not %s", len(ordered) - len(kept), len(ordered), list(shape))
    pixels = np.stack([picture for _, picture in kept])
    pixels = pixels[..., None] if pixels.ndim == 3 else pixels
    if labels is None:
        return SmallPictures(pixels, np.full(len(kept), UNLABELLED, np.int64))
    classes = tuple(sorted({labels[key] for key, _ in kept if key in labels}))
    if len(classes) < 2:
        raise UsageError(f"the labels of pictures below {where} name {len(classes)} classes, expected at least 2")
    places = {name: place for place, name in enumerate(classes)}
    numbers = np.array([places[labels[key]] if key in labels else UNLABELLED for key, _ in kept], np.int64)
    labelled = int((numbers != UNLABELLED).sum())
    if labelled < len(kept) or labelled < len(labels):
        logger.warning("%d of %d pictures have one of the %d labels", labelled, len(kept), len(labels))
    return SmallPictures(pixels, numbers, classes)


def pca(pixels: npt.NDArray[np.uint8], components: int, *, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """(mean [D], basis [components, D] with orthonormal rows, deviations [components] in grey levels), float32.

    From at most `PCA_SAMPLES` pictures; where these are fewer than D, through the products of pictures instead of pixels.
    """
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.permutation(len(pixels))[:PCA_SAMPLES])
    x = torch.from_numpy(pixels[chosen].reshape(len(chosen), -1)).double()
    if x.shape[0] <= x.shape[1]:
        x = x[: 4 * components]
    mean = x.mean(0)
    x = x - mean
    if x.shape[0] > x.shape[1]:
        values, vectors = torch.linalg.eigh(x.T @ x / len(x))
        basis = vectors.flip(1)[:, :components].T
        deviations = values.flip(0)[:components].clamp(min=1e-3).sqrt()
    else:
        _, singular, rows = torch.linalg.svd(x, full_matrices=False)
        basis, deviations = rows[:components], (singular[:components] / len(x) ** 0.5).clamp(min=1e-3**0.5)
    if missing := components - len(basis):  # fewer pictures than latents: the others begin as directions nothing uses
        extra = torch.zeros(missing, x.shape[1], dtype=torch.float64)
        basis, deviations = torch.cat([basis, extra]), torch.cat([deviations, torch.full((missing,), 1e-3**0.5).double()])
    return mean.float(), basis.float().contiguous(), deviations.float()


def varied(pixels: Pixels, rng: np.random.Generator, *, shift: int, mirror: bool) -> Pixels:
    """``pixels`` [N, H, W, C], each picture moved by up to ``shift`` pixels over its repeated edge, half of them mirrored."""
    if mirror:
        flipped = rng.random(len(pixels)) < 0.5
        pixels = np.where(flipped[:, None, None, None], pixels[:, :, ::-1], pixels)
    if not shift:
        return pixels
    _, height, width, _ = pixels.shape
    padded = np.pad(pixels, ((0, 0), (shift, shift), (shift, shift), (0, 0)), mode="edge")
    tops, lefts = rng.integers(0, 2 * shift + 1, (2, len(pixels)))
    rows, columns = tops[:, None] + np.arange(height), lefts[:, None] + np.arange(width)
    moved: Pixels = padded[np.arange(len(pixels))[:, None, None], rows[:, :, None], columns[:, None, :]]
    return moved
