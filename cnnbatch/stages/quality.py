"""Which quality an image is coded at: fixed, or searched for a target, and never below the floors."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from cnnbatch.codec import MAX_QUALITY, Codec
from cnnbatch.codec.codec import Pixels
from cnnbatch.codec.container.bitstream import QUALITY_STEPS
from cnnbatch.metrics import psnr_db
from cnnbatch.ssimulacra2 import ssimulacra2

MAX_PROBES = 7
PSNR_TOLERANCE_DB = 0.04
BPP_TOLERANCE = 0.01
SSIMULACRA2_TOLERANCE = 0.5
DB_A_QUALITY = 0.25
"""PSNR per unit of quality, and below the same for log bpp: only a first guess, the search measures its own."""

LOG_BPP_A_QUALITY = 0.06

_USUAL_SCORES: Final = (1.5, 27.0, 47.0, 63.0, 75.5, 84.5, 90.0, 92.5)
SSIMULACRA2_CURVE: Final = tuple((9.0 * step, score) for step, score in enumerate(_USUAL_SCORES))
"""(quality, score), the means of photographs by the default codec file as `benchmarks.rate_distortion` prints them: where a
search begins, and how far it goes from a first score. An image's own curve is about this one, moved along the qualities."""

_STEP: Final = 1 / QUALITY_STEPS
_FARTHEST: Final = 18.0
"""Units of quality that a search moves at once where it knows one side only: scores near the top tell little of the way."""

_SLOPES: Final = (0.25, 4.0)
"""Slopes of an image's error over quality, both in units of quality: less or more is noise of two qualities close together."""


@dataclass(frozen=True, slots=True)
class QualityPolicy:
    """The user's request; at most one target. ``min_psnr_db`` and ``min_ssimulacra2`` are floors under each image.

    ``measures_ssimulacra2``: also where neither a target nor a floor needs it.
    """

    quality: float
    target_psnr_db: float | None = None
    target_bpp: float | None = None
    target_ssimulacra2: float | None = None
    min_psnr_db: float | None = None
    min_ssimulacra2: float | None = None
    measures_ssimulacra2: bool = False
    effort: int = 0

    @property
    def searches(self) -> bool:
        """Whether images may get another quality than ``quality``."""
        floors = self.min_psnr_db, self.min_ssimulacra2
        return any(goal is not None for goal in (self.target_psnr_db, self.target_bpp, self.target_ssimulacra2, *floors))

    def with_ssimulacra2(self) -> bool:
        """Whether each image's score is measured."""
        return self.measures_ssimulacra2 or (self.target_ssimulacra2, self.min_ssimulacra2) != (None, None)


@dataclass(frozen=True, slots=True)
class Coded:
    """One image coded, and decoded again from its bytes. ``ssimulacra2`` is None where nobody asked for it."""

    bitstream: bytes
    quality: float
    psnr_db: float
    bpp: float
    ssimulacra2: float | None = None


@dataclass(frozen=True, slots=True)
class _Goal:
    """Where to begin, how far an image is from its target in units of quality, and whether that is near enough.

    ``wavers``: of small images the value goes up and down by more than the tolerance from one quality to the next.
    """

    first: float
    error: Callable[[Coded], float]
    reached: Callable[[Coded], bool]
    wavers: bool = False


def code(codec: Codec, images: Sequence[Pixels], policy: QualityPolicy) -> list[Coded]:
    """Codes each image as the policy says; one that cannot reach its target or a floor comes back at the highest quality."""
    goal = _goal(policy)
    if goal is None:
        coded = _probe(codec, images, [policy.quality] * len(images), policy)
    else:
        coded = _search(codec, images, policy, goal)
    return _lift(codec, images, coded, policy)


def _goal(policy: QualityPolicy) -> _Goal | None:
    if policy.target_psnr_db is not None:
        return _near(policy.target_psnr_db, lambda c: c.psnr_db, DB_A_QUALITY, PSNR_TOLERANCE_DB, policy.quality)
    if policy.target_bpp is not None:
        return _near(math.log(policy.target_bpp), lambda c: math.log(c.bpp), LOG_BPP_A_QUALITY, BPP_TOLERANCE, policy.quality)
    if policy.target_ssimulacra2 is not None:
        return _score_near(policy.target_ssimulacra2)
    return None


def _near(target: float, value: Callable[[Coded], float], slope: float, tolerance: float, first: float) -> _Goal:
    return _Goal(first, lambda c: (value(c) - target) / slope, lambda c: abs(value(c) - target) <= tolerance)


def _score_near(target: float) -> _Goal:
    usual = usual_quality(target)
    return _Goal(
        min(MAX_QUALITY, max(0.0, _quarter(usual))),
        lambda c: usual_quality(_score(c)) - usual,
        lambda c: abs(_score(c) - target) <= SSIMULACRA2_TOLERANCE,
        wavers=True,
    )


def usual_quality(score: float) -> float:
    """The quality at which a usual photograph has this score, on a straight line beyond either end of `SSIMULACRA2_CURVE`."""
    pairs = list(pairwise(SSIMULACRA2_CURVE))
    (quality, lower), (next_quality, upper) = next((pair for pair in pairs if score < pair[1][1]), pairs[-1])
    return quality + (score - lower) * (next_quality - quality) / (upper - lower)


def _score(coded: Coded) -> float:
    assert coded.ssimulacra2 is not None  # measured, as the policy asks for it
    return coded.ssimulacra2


def _probe(codec: Codec, images: Sequence[Pixels], qualities: Sequence[float], policy: QualityPolicy) -> list[Coded]:
    bitstreams = codec.compress(images, qualities, effort=policy.effort)
    decoded = codec.reconstruct(bitstreams)
    scores = [ssimulacra2(*pair) if policy.with_ssimulacra2() else None for pair in zip(images, decoded, strict=True)]
    return [
        Coded(b, q, psnr_db(image, out), 8 * len(b) / (image.shape[0] * image.shape[1]), score)
        for b, q, image, out, score in zip(bitstreams, qualities, images, decoded, scores, strict=True)
    ]


def _lift(codec: Codec, images: Sequence[Pixels], coded: list[Coded], policy: QualityPolicy) -> list[Coded]:
    """Raises quality wherever an image is below a floor: to just above the score, and then by what it still lacks."""
    if policy.min_ssimulacra2 is not None and (low := _below(coded, policy)):
        goal = _score_near(policy.min_ssimulacra2 + SSIMULACRA2_TOLERANCE)
        found = _search(codec, [images[i] for i in low], policy, goal, known=[coded[i] for i in low])
        for i, better in zip(low, found, strict=True):
            coded[i] = better
    while low := _below(coded, policy):
        qualities = [min(MAX_QUALITY, _quarter(coded[i].quality + max(1.0, lack + 0.5))) for i, lack in low.items()]
        for i, better in zip(low, _probe(codec, [images[i] for i in low], qualities, policy), strict=True):
            coded[i] = better
    return coded


def _below(coded: Sequence[Coded], policy: QualityPolicy) -> dict[int, float]:
    """Which images are below a floor although there is a higher quality, and by how much, in units of quality."""
    lacks = ((i, _lack(one, policy)) for i, one in enumerate(coded) if one.quality < MAX_QUALITY)
    return {i: lack for i, lack in lacks if lack > 0}


def _lack(coded: Coded, policy: QualityPolicy) -> float:
    """By how much, in units of quality, an image is below the floors."""
    lacks = [0.0]
    if policy.min_psnr_db is not None:
        lacks.append((policy.min_psnr_db - coded.psnr_db) / DB_A_QUALITY)
    if policy.min_ssimulacra2 is not None:
        lacks.append(usual_quality(policy.min_ssimulacra2) - usual_quality(_score(coded)))
    return max(lacks)


@dataclass(slots=True)
class _Trials:
    """Search of one image: the error, in units of quality, at each quality that was tried, and the best of them coded."""

    errors: dict[float, float] = field(default_factory=dict)
    best: Coded | None = None

    def add(self, coded: Coded, error: float) -> None:
        if self.best is None or abs(error) < abs(self.errors[self.best.quality]):
            self.best = coded
        self.errors[coded.quality] = error

    def next_quality(self, *, wavers: bool) -> float:
        """The next quality to try, in quarters; one already tried means that the search is over."""
        high = min(((q, e) for q, e in self.errors.items() if e >= 0), default=None)
        low = max(((q, e) for q, e in self.errors.items() if e < 0 and (high is None or q < high[0])), default=None)
        if low is not None and high is not None:
            if wavers and high[0] - low[0] <= _STEP:
                return self._beside(low[0], high[0])
            above, below = self._weights()
            guess = low[0] - below * low[1] * (high[0] - low[0]) / (above * high[1] - below * low[1])
            return min(max(_quarter(guess), low[0] + _STEP), max(low[0], high[0] - _STEP))
        (quality, error), *others = sorted(self.errors.items(), key=lambda trial: abs(trial[1]))
        slope = (others[0][1] - error) / (others[0][0] - quality) if others else 1.0
        move = error / min(max(slope, _SLOPES[0]), _SLOPES[1])
        return _quarter(min(MAX_QUALITY, max(0.0, quality - min(max(move, -_FARTHEST), _FARTHEST))))

    def _weights(self) -> tuple[float, float]:
        """Weights of the errors above and below: the older side counts half once two trials in a row fell on the other
        (Illinois method; Dowell and Jarratt, BIT 11, 1971)."""
        last, before = (error >= 0 for error in list(self.errors.values())[:-3:-1])
        return (1.0, 1.0) if last != before else (1.0, 0.5) if last else (0.5, 1.0)

    def _beside(self, low: float, high: float) -> float:
        """The quality next to these two that was not tried yet, the better one first."""
        ring = (q for away in range(1, MAX_PROBES) for q in (high + away * _STEP, low - away * _STEP))
        return next((q for q in ring if 0 <= q <= MAX_QUALITY and q not in self.errors), high)


def _quarter(quality: float) -> float:
    return round(quality * QUALITY_STEPS) / QUALITY_STEPS


def _search(
    codec: Codec, images: Sequence[Pixels], policy: QualityPolicy, goal: _Goal, *, known: Sequence[Coded] | None = None
) -> list[Coded]:
    """Probes all images together, each at its own quality, until each has reached the goal or cannot come nearer.

    ``known``: each image coded at one quality already.
    """
    trials = [_Trials() for _ in images]
    probes = _probe(codec, images, [goal.first] * len(images), policy) if known is None else known
    tried = list(range(len(images)))
    for left in reversed(range(MAX_PROBES)):
        pending = {}
        for i, coded in zip(tried, probes, strict=True):
            trials[i].add(coded, goal.error(coded))
            following = trials[i].next_quality(wavers=goal.wavers)
            if not goal.reached(coded) and following not in trials[i].errors:
                pending[i] = following
        if not pending or not left:
            break
        tried = list(pending)
        probes = _probe(codec, [images[i] for i in pending], list(pending.values()), policy)
    return [one.best for one in trials if one.best is not None]
