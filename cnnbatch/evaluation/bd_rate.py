"""Bjøntegaard's difference in rate (VCEG-M33), by monotone cubic interpolation (PCHIP) of log rate over distortion."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from cnnbatch.evaluation.scales import SCALES
from cnnbatch.evaluation.summary import BdRate, Curve, Measure, Point

RatePoints = Sequence[tuple[float, float]]
"""(bits per pixel, what rises with quality: dB or a score), in any order."""

GRID: Final = 200


@dataclass(frozen=True, slots=True)
class Difference:
    """``percent`` more bits at equal distortion, over ``low`` … ``high``."""

    percent: float
    low: float
    high: float


def bd_rate(
    anchor: RatePoints, other: RatePoints, *, low: float = -math.inf, high: float = math.inf, measure: Measure = "psnr_db"
) -> Difference | str:
    """Percent more bits ``other`` takes than ``anchor``, over the range that both reach inside ``low`` … ``high``.

    A string says why there is no figure. Points that are worse than a cheaper one are left out, as nobody would use them.
    """
    from scipy.interpolate import PchipInterpolator

    curves = [_rising(points) for points in (anchor, other)]
    if min(len(curve) for curve in curves) < 2:
        return "fewer than two points"
    low = max(low, *(curve[0][1] for curve in curves))
    high = min(high, *(curve[-1][1] for curve in curves))
    if high - low < SCALES[measure].shortest:
        return f"the curves overlap over {max(0.0, high - low):.2f} {SCALES[measure].unit.split()[-1]} only"
    grid = np.linspace(low, high, GRID)
    logs = [PchipInterpolator([y for _, y in curve], np.log([bpp for bpp, _ in curve]))(grid) for curve in curves]
    percent = 100 * math.expm1(float(np.trapezoid(logs[1] - logs[0], grid)) / (high - low))
    return Difference(percent, low, high)


def _rising(points: RatePoints) -> list[tuple[float, float]]:
    """By rising rate, each better than all before."""
    rising: list[tuple[float, float]] = []
    for bpp, y in sorted(points):
        if not rising or y > rising[-1][1]:
            rising.append((bpp, y))
    return rising


def rate_points(curve: Curve, measure: Measure) -> list[tuple[float, float]]:
    """A curve's points on the measure's scale. Exact points have no distortion and are left out."""
    found = ((bpp_of(point, measure), _bent(point, measure)) for point in curve.points if point.exact_images < point.images)
    return [(bpp, y) for bpp, y in found if y is not None]


def bpp_of(point: Point, measure: Measure) -> float:
    """Over the images behind the measure's mean."""
    own = {"psnr_db": point.psnr_bpp, "ms_ssim": point.ms_ssim_bpp}.get(measure)
    return point.bpp if own is None else own


def _bent(point: Point, measure: Measure) -> float | None:
    value: float | None = getattr(point, measure)
    return None if value is None else SCALES[measure].bend(value)


def bd_rates(curves: Sequence[Curve]) -> Iterator[BdRate]:
    """Every ordered pair of the lossy curves, by each measure that any of them has."""
    lossy = [curve for curve in curves if not curve.lossless]
    for measure, scale in SCALES.items():
        points = {curve.codec: rate_points(curve, measure) for curve in lossy}
        for anchor, other in itertools.permutations(points, 2) if any(points.values()) else ():
            found = bd_rate(points[anchor], points[other], low=scale.low, high=scale.high, measure=measure)
            if isinstance(found, str):
                percent, low, high, reason = None, None, None, found
            else:
                percent, low, high, reason = found.percent, found.low, found.high, None
            yield BdRate(anchor=anchor, codec=other, measure=measure, percent=percent, low=low, high=high, reason=reason)
