"""Two codec files on the same pictures: the bytes that the second one takes at the quality of the first.

Bytes are those of real bitstreams. Of each picture the logarithm of the rate is interpolated over the measure, and its mean
difference over the range that both reach is one figure (Bjøntegaard, VCEG-M33, with straight lines between the points); the
interval is the bootstrap's, over pictures.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from cnnbatch.codec import Codec
from cnnbatch.metrics import psnr_db
from cnnbatch.ssimulacra2 import ssimulacra2
from cnnbatch.training.data import Pixels, middle

QUALITIES: Final = (10.0, 24.0, 38.0, 52.0)
MOST_PICTURES: Final = 24
LONGEST_SIDE: Final = 512
"""Larger pictures are cut to their middle."""

RESAMPLES: Final = 2000
CONFIDENCE: Final = 0.95
GRID: Final = 64
BEYOND: Final = 1.0
"""Difference of the logarithms that stands for curves with nothing in common."""

_Point = tuple[float, float]
"""Measure and logarithm of the bytes."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """``percent`` more bytes at equal quality, negative where there are fewer, with the interval of `CONFIDENCE`."""

    measure: str
    percent: float
    low: float
    high: float
    pictures: int

    @property
    def helps(self) -> bool:
        """Whether fewer bytes are certain, as far as the interval says it."""
        return self.high < 0

    def __str__(self) -> str:
        interval = f"{self.low:+.1f} to {self.high:+.1f} %"
        return f"{self.percent:+.1f} % bytes at equal {self.measure} ({interval}, {self.pictures} pictures put aside)"


def compare(before: bytes, after: bytes, pictures: Sequence[Pixels], *, objective: str) -> Comparison | None:
    """Compares two codec files by PSNR or SSIMULACRA2; None where no picture can be compared."""
    step = max(1, len(pictures) // MOST_PICTURES)
    chosen = [middle(picture, LONGEST_SIDE) for picture in pictures[::step][:MOST_PICTURES]]
    curves = [_curves(Codec(data, device="cpu"), chosen, objective) for data in (before, after)]
    differences = [_difference(*pair) for pair in zip(*curves, strict=True)]
    logs = np.array([d for d in differences if d is not None])
    if not len(logs):
        return None
    draws = np.random.default_rng(0).choice(logs, (RESAMPLES, len(logs))).mean(1)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    percent, least, most = (100 * math.expm1(float(log)) for log in (logs.mean(), low, high))
    return Comparison("PSNR" if objective == "psnr" else "SSIMULACRA2", percent, least, most, len(logs))


def _curves(codec: Codec, pictures: Sequence[Pixels], objective: str) -> list[list[_Point]]:
    """The points of each picture, one for each of `QUALITIES`."""
    measure = psnr_db if objective == "psnr" else ssimulacra2
    curves: list[list[_Point]] = [[] for _ in pictures]
    for quality in QUALITIES:
        bitstreams = codec.compress(pictures, quality=quality)
        for curve, picture, bitstream, decoded in zip(curves, pictures, bitstreams, codec.reconstruct(bitstreams), strict=True):
            curve.append((measure(picture, decoded), math.log(len(bitstream))))
    return curves


def _difference(before: Sequence[_Point], after: Sequence[_Point]) -> float | None:
    """Mean difference of the logarithms over the range that both curves reach; `BEYOND` for the one that is wholly above.

    None where a curve has fewer than two points: a picture that comes back exactly has no PSNR.
    """
    before, after = ([point for point in curve if math.isfinite(point[0])] for curve in (before, after))
    if min(len(before), len(after)) < 2:
        return None
    low = max(min(curve)[0] for curve in (before, after))
    high = min(max(curve)[0] for curve in (before, after))
    if low >= high:
        return -BEYOND if max(after) > max(before) else BEYOND
    grid = np.linspace(low, high, GRID)
    rates = [np.interp(grid, *np.array(sorted(curve)).T) for curve in (before, after)]
    return float(np.mean(rates[1] - rates[0]))
