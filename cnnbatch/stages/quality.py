"""Which quality an image is coded at: fixed, or searched for a target, and never below the floor."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cnnbatch.codec import MAX_QUALITY, Codec
from cnnbatch.codec.codec import Pixels
from cnnbatch.codec.container.bitstream import QUALITY_STEPS
from cnnbatch.metrics import psnr_db

FLOOR_STEP = 4.0
"""Quality added at a time for an image below the floor: about 1 dB."""

MAX_PROBES = 7
PSNR_TOLERANCE_DB = 0.04
BPP_TOLERANCE = 0.01
FIRST_SLOPE_DB = 0.25
"""dB per unit of quality, and below the same for log bpp: only a first guess, the search measures its own."""

FIRST_SLOPE_LOG_BPP = 0.06


@dataclass(frozen=True, slots=True)
class QualityPolicy:
    """What the user asked for; at most one target. ``min_psnr_db`` is a floor under each image."""

    quality: float
    target_psnr_db: float | None = None
    target_bpp: float | None = None
    min_psnr_db: float | None = None
    effort: int = 0


@dataclass(frozen=True, slots=True)
class Coded:
    """One image coded, and decoded again from its bytes."""

    bitstream: bytes
    quality: float
    psnr_db: float
    bpp: float


def code(codec: Codec, images: Sequence[Pixels], policy: QualityPolicy) -> list[Coded]:
    """Codes each image as the policy says; an image that cannot reach the floor comes back at the highest quality."""
    if policy.target_psnr_db is not None:
        target = policy.target_psnr_db
        coded = _search(
            codec, images, policy, lambda c: (c.psnr_db - target) / FIRST_SLOPE_DB, PSNR_TOLERANCE_DB / FIRST_SLOPE_DB
        )
    elif policy.target_bpp is not None:
        log_target = math.log(policy.target_bpp)
        coded = _search(
            codec,
            images,
            policy,
            lambda c: (math.log(c.bpp) - log_target) / FIRST_SLOPE_LOG_BPP,
            BPP_TOLERANCE / FIRST_SLOPE_LOG_BPP,
        )
    else:
        coded = _probe(codec, images, [policy.quality] * len(images), policy.effort)
    return coded if policy.min_psnr_db is None else _lift(codec, images, coded, policy.min_psnr_db, policy.effort)


def _probe(codec: Codec, images: Sequence[Pixels], qualities: Sequence[float], effort: int) -> list[Coded]:
    bitstreams = codec.compress(images, qualities, effort=effort)
    decoded = codec.reconstruct(bitstreams)
    return [
        Coded(b, q, psnr_db(image, out), 8 * len(b) / (image.shape[0] * image.shape[1]))
        for b, q, image, out in zip(bitstreams, qualities, images, decoded, strict=True)
    ]


def _lift(codec: Codec, images: Sequence[Pixels], coded: list[Coded], floor_db: float, effort: int) -> list[Coded]:
    """Raises quality step by step wherever an image is below the floor."""
    while low := [i for i, c in enumerate(coded) if c.psnr_db < floor_db and c.quality < MAX_QUALITY]:
        qualities = [min(MAX_QUALITY, coded[i].quality + FLOOR_STEP) for i in low]
        for i, better in zip(low, _probe(codec, [images[i] for i in low], qualities, effort), strict=True):
            coded[i] = better
    return coded


@dataclass(slots=True)
class _Bracket:
    """Secant search of one image: ``error`` is in units of quality, rising with quality, zero at the target."""

    low: tuple[float, float] | None = None
    high: tuple[float, float] | None = None
    best: tuple[float, Coded] | None = field(default=None)

    def add(self, quality: float, error: float, coded: Coded) -> None:
        if error < 0:
            self.low = (quality, error)
        else:
            self.high = (quality, error)
        if self.best is None or abs(error) < abs(self.best[0]):
            self.best = (error, coded)

    def next_quality(self) -> float:
        """The next quality to try, in quarters; one already tried means that the search is over."""
        if self.low and self.high:
            (q0, e0), (q1, e1) = self.low, self.high
            guess = q0 - e0 * (q1 - q0) / (e1 - e0)
            step = 1 / QUALITY_STEPS
            return min(max(_quarter(guess), q0 + step), max(q0, q1 - step))
        quality, error = self.low or self.high or (MAX_QUALITY / 2, 0.0)
        return _quarter(min(MAX_QUALITY, max(0.0, quality - error)))


def _quarter(quality: float) -> float:
    return round(quality * QUALITY_STEPS) / QUALITY_STEPS


def _search(
    codec: Codec, images: Sequence[Pixels], policy: QualityPolicy, error: Callable[[Coded], float], tolerance: float
) -> list[Coded]:
    """Probes all images together, each at its own quality, until each is within ``tolerance`` or cannot come nearer."""
    brackets = [_Bracket() for _ in images]
    pending = dict.fromkeys(range(len(images)), policy.quality)
    for _ in range(MAX_PROBES):
        probes = _probe(codec, [images[i] for i in pending], list(pending.values()), policy.effort)
        tried = dict(pending)
        pending = {}
        for (i, quality), coded in zip(tried.items(), probes, strict=True):
            brackets[i].add(quality, error(coded), coded)
            following = brackets[i].next_quality()
            known = {end[0] for end in (brackets[i].low, brackets[i].high) if end}
            if abs(error(coded)) > tolerance and following not in known:
                pending[i] = following
        if not pending:
            break
    return [b.best[1] for b in brackets if b.best is not None]
