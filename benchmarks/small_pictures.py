"""Fashion-MNIST at one quality: the codec beside everything else that makes small pictures small, and a sheet to look at.

    python -m benchmarks.small_pictures FASHION_CODEC [--quality Q] [--pictures N] [--sheet FILE.png]

``dB at the same bytes``: of PCA coefficients (every one at the entropy of its own symbols), of a codebook of templates
(4 × 4 pixels each, its numbers at fixed length, nothing for the codebook), and of whole files. ``bytes at the same dB``: of
the same, headers included where a file has them. A dash: no setting is as good.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.cluster import MiniBatchKMeans

from benchmarks import fashion_mnist
from benchmarks.fashion_mnist import (
    FILE_QUALITIES,
    Point,
    at_bytes,
    db_or_why_not,
    mean_psnr,
    measure_codec,
    measure_files,
    measure_pca,
)
from benchmarks.hardware import hardware
from cnnbatch.codec import Codec
from cnnbatch.codec.runtime.process import dedicate_process
from cnnbatch.evaluation.sheet import grid

BLOCK = 4
"""Pixels a side of a template: with 256 of them a picture of 28 × 28 has 49 bytes, a tenth of its PNG."""

TEMPLATES = (4, 16, 64, 256, 1024)
TRAINING_BLOCKS = 60_000
SHEET_COLUMNS, SHEET_ROWS, SHEET_SCALE = 16, 5, 2


@dataclass(frozen=True, slots=True)
class Rival:
    """One way to code the pictures: its points, and what it makes of the codec's bytes and of its PSNR."""

    name: str
    points: Sequence[Point]

    def db_at(self, num_bytes: float) -> float:
        """NaN where no setting makes files as small or as large."""
        return at_bytes(self.points, num_bytes)

    def bytes_at(self, psnr_db: float) -> float:
        """Bytes of the cheapest settings, between the points; NaN where none is as good or as bad."""
        best: list[Point] = []
        for point in sorted(self.points, key=lambda p: p.num_bytes):
            if not best or point.psnr_db > best[-1].psnr_db:
                best.append(point)
        return float(np.interp(psnr_db, [p.psnr_db for p in best], [p.num_bytes for p in best], left=np.nan, right=np.nan))


def blocks_of(pictures: np.ndarray) -> np.ndarray:
    """uint8 [N, H, W], sides multiples of `BLOCK` → float32 [N · blocks, BLOCK²]."""
    count, height, width = pictures.shape
    cut = pictures.reshape(count, height // BLOCK, BLOCK, width // BLOCK, BLOCK).transpose(0, 1, 3, 2, 4)
    return cut.reshape(-1, BLOCK * BLOCK).astype(np.float32)


def pictures_of(blocks: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The inverse of `blocks_of`, rounded."""
    count, height, width = shape
    laid = blocks.reshape(count, height // BLOCK, width // BLOCK, BLOCK, BLOCK).transpose(0, 1, 3, 2, 4)
    return np.clip(np.rint(laid.reshape(shape)), 0, 255).astype(np.uint8)


def measure_templates(train: np.ndarray, test: np.ndarray, *, seed: int = 0) -> list[Point]:
    """A point for each number of `TEMPLATES`, learned on blocks of ``train``."""
    blocks = blocks_of(train)
    chosen = blocks[np.random.default_rng(seed).permutation(len(blocks))[:TRAINING_BLOCKS]]
    points = []
    for count in TEMPLATES:
        means = MiniBatchKMeans(count, random_state=seed, n_init=1, batch_size=8192).fit(chosen)
        found = means.cluster_centers_[means.predict(blocks_of(test))]
        num_bytes = len(found) / len(test) * np.log2(count) / 8
        points.append(Point(float(num_bytes), mean_psnr(test, pictures_of(found, test.shape))))
    return points


def sheet(originals: Sequence[np.ndarray], decoded: Sequence[np.ndarray]) -> Image.Image:
    """Rows of originals, each above the row of what came back."""
    most = SHEET_COLUMNS * SHEET_ROWS
    return grid((originals[:most], decoded[:most]), columns=SHEET_COLUMNS, scale=SHEET_SCALE)


def table(ours: Point, rivals: Sequence[Rival]) -> str:
    """For people."""
    lines = [f"{'':10} {'dB at the same bytes':>21} {'bytes at the same dB':>21}"]
    lines.append(f"{'dense':10} {ours.psnr_db:21.2f} {ours.num_bytes:21.1f}")
    for rival in rivals:
        num_bytes = rival.bytes_at(ours.psnr_db)
        shown = "-" if np.isnan(num_bytes) else f"{num_bytes:.1f}"
        lines.append(f"{rival.name:10} {db_or_why_not(rival.points, ours.num_bytes):>21} {shown:>21}")
    return "\n".join(lines)


def rivals_of(train: np.ndarray, test: np.ndarray) -> list[Rival]:
    """PCA, templates and files."""
    files = [Rival(kind, measure_files(test, kind)) for kind in FILE_QUALITIES]
    return [Rival("PCA", measure_pca(train, test)), Rival("templates", measure_templates(train, test)), *files]


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.small_pictures", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("codec", type=Path, metavar="FASHION_CODEC")
    parser.add_argument("--quality", type=float, default=32.0)
    parser.add_argument("--pictures", type=int, default=1000, help="test pictures; default 1000")
    parser.add_argument("--sheet", type=Path, metavar="FILE.png", help="write originals and reconstructions to look at")
    args = parser.parse_args(argv)
    fashion_mnist.require_source()
    dedicate_process()
    codec = Codec.load(args.codec, device="cpu")
    test = fashion_mnist.images("test")[: args.pictures]
    [ours] = measure_codec(codec, test, [args.quality])
    [png] = measure_files(test, "PNG")
    print(f"codec {codec.id[:12]}, quality {args.quality:g}, {len(test):,} test pictures; PNG {png.num_bytes:.1f} bytes")
    print(table(ours, rivals_of(fashion_mnist.images("train"), test)))
    print(", ".join(f"{name} {value}" for name, value in hardware().items()))
    if args.sheet is not None:
        shown = list(test[: SHEET_COLUMNS * SHEET_ROWS])
        sheet(shown, codec.reconstruct(codec.compress(shown, args.quality))).save(args.sheet)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
