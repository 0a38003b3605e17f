"""Bjøntegaard's difference in rate (VCEG-M33), by monotone cubic interpolation (PCHIP) of log rate over distortion."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from cnnbatch.evaluation.summary import BdRate, Curve, Measure

RatePoints = Sequence[tuple[float, float]]
"""(bits per pixel, distortion in dB), in any order."""

GRID: Final = 200
SHORTEST_DB: Final = 0.5
"""Overlaps shorter than this are no basis for a mean."""


@dataclass(frozen=True, slots=True)
class Difference:
    """``percent`` more bits at equal dB, over ``low_db`` … ``high_db``."""

    percent: float
    low_db: float
    high_db: float


def bd_rate(anchor: RatePoints, other: RatePoints, *, low_db: float = -math.inf, high_db: float = math.inf) -> Difference | str:
    """Percent more bits ``other`` takes than ``anchor``, over the range that both reach inside ``low_db`` … ``high_db``.

    A string says why there is no figure. Points that are worse than a cheaper one are left out, as nobody would use them.
    """
    from scipy.interpolate import PchipInterpolator

    curves = [_rising(points) for points in (anchor, other)]
    if min(len(curve) for curve in curves) < 2:
        return "fewer than two points"
    low = max(low_db, *(curve[0][1] for curve in curves))
    high = min(high_db, *(curve[-1][1] for curve in curves))
    if high - low < SHORTEST_DB:
        return f"the curves overlap over {max(0.0, high - low):.2f} dB only"
    grid = np.linspace(low, high, GRID)
    logs = [PchipInterpolator([db for _, db in curve], np.log([bpp for bpp, _ in curve]))(grid) for curve in curves]
    percent = 100 * math.expm1(float(np.trapezoid(logs[1] - logs[0], grid)) / (high - low))
    return Difference(percent, low, high)


def _rising(points: RatePoints) -> list[tuple[float, float]]:
    """By rising rate, each with more dB than all before."""
    rising: list[tuple[float, float]] = []
    for bpp, db in sorted(points):
        if not rising or db > rising[-1][1]:
            rising.append((bpp, db))
    return rising


def rate_points(curve: Curve, measure: Measure) -> list[tuple[float, float]]:
    """A curve's points in dB; MS-SSIM as −10·log₁₀(1 − MS-SSIM). Exact points have no distortion and are left out."""
    if measure == "psnr_db":
        return [(p.bpp if p.psnr_bpp is None else p.psnr_bpp, p.psnr_db) for p in curve.points if p.exact_images < p.images]
    return [
        (p.ms_ssim_bpp, -10 * math.log10(1 - p.ms_ssim))
        for p in curve.points
        if p.ms_ssim is not None and p.ms_ssim_bpp is not None and p.ms_ssim < 1
    ]


def bd_rates(curves: Sequence[Curve]) -> Iterator[BdRate]:
    """Every ordered pair of the lossy curves, by both measures."""
    lossy = [curve for curve in curves if not curve.lossless]
    measures: tuple[Measure, ...] = ("psnr_db", "ms_ssim")
    for measure, (anchor, other) in itertools.product(measures, itertools.permutations(lossy, 2)):
        found = bd_rate(rate_points(anchor, measure), rate_points(other, measure))
        if isinstance(found, str):
            yield BdRate(
                anchor=anchor.codec, codec=other.codec, measure=measure, percent=None, low_db=None, high_db=None, reason=found
            )
        else:
            yield BdRate(
                anchor=anchor.codec,
                codec=other.codec,
                measure=measure,
                percent=found.percent,
                low_db=found.low_db,
                high_db=found.high_db,
            )
