"""The measures of distortion: what each is called, how it is printed, and on which scale curves are drawn and compared.

word           measures                         compared over
psnr           PSNR over RGB                    dB
msssim         MS-SSIM                          −10·log₁₀(1 − MS-SSIM) dB
ssimulacra2    SSIMULACRA2                      its score, 30…90
butteraugli    Butteraugli, 3-norm and maximum  −10·log₁₀(distance) dB
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from cnnbatch.errors import UsageError
from cnnbatch.evaluation.summary import Measure


@dataclass(frozen=True, slots=True)
class Scale:
    """``bend`` makes of a value what rises with quality, in ``unit``; None where the picture is exact.

    Curves are compared between ``low`` and ``high``, and not where they have less than ``shortest`` in common. ``digits``: of a
    value in print.
    """

    name: str
    unit: str
    digits: int
    bend: Callable[[float], float | None]
    low: float = -math.inf
    high: float = math.inf
    shortest: float = 0.5
    suffix: str = ""

    def show(self, value: float) -> str:
        """A value as it is printed behind its name, or alone for PSNR: ``34.21 dB``, ``0.9812``."""
        return f"{value:.{self.digits}f}{self.suffix}"


def _similarity_db(value: float) -> float | None:
    return -10 * math.log10(1 - value) if value < 1 else None


def _distance_db(value: float) -> float | None:
    return -10 * math.log10(value) if value > 0 else None


SCALES: Final[dict[Measure, Scale]] = {
    "psnr_db": Scale("PSNR", "dB", 2, float, suffix=" dB"),
    "ms_ssim": Scale("MS-SSIM", "−10·log10(1 − MS-SSIM) dB", 4, _similarity_db),
    "ssimulacra2": Scale("SSIMULACRA2", "points", 1, float, low=30, high=90, shortest=5),
    "butteraugli": Scale("Butteraugli 3-norm", "−10·log10(distance) dB", 3, _distance_db),
    "butteraugli_max": Scale("Butteraugli maximum", "−10·log10(distance) dB", 3, _distance_db),
}

WORDS: Final[dict[str, tuple[Measure, ...]]] = {
    "psnr": ("psnr_db",),
    "msssim": ("ms_ssim",),
    "ssimulacra2": ("ssimulacra2",),
    "butteraugli": ("butteraugli", "butteraugli_max"),
}
"""Measures that people ask for; PSNR is always measured."""

USUAL: Final = ("psnr", "msssim", "ssimulacra2")


def measures_of(words: Sequence[str]) -> tuple[Measure, ...]:
    """The measures of these words, in the order of `SCALES`; raises UsageError for an unknown word."""
    unknown = [word for word in words if word not in WORDS]
    if unknown:
        raise UsageError(f"unknown measure {unknown[0]!r}: choose from {', '.join(WORDS)}")
    asked = {measure for word in ("psnr", *words) for measure in WORDS[word]}
    return tuple(measure for measure in SCALES if measure in asked)
