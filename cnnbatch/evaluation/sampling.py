"""A sample of a source, drawn from each kind and size of its files, and totals estimated from it.

Files are put into strata by the format that their name says, and within a format by size; each stratum has its share of the
sample by its number of files, at least five. A total is a ratio estimate in each stratum (Cochran, Sampling Techniques,
chapter 6): bytes of the stratum, which the listing tells, times the ratio of the sampled files. Its interval is from the
bootstrap within the strata, narrowed by √(1 − share sampled), so that a source measured whole has none, and widened in each
stratum of n sampled files by √(n / (n − 1)) and by Student's quantile over the normal one: so few files show too little of
their spread.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cnnbatch.evaluation.summary import Estimate
from cnnbatch.evaluation.summary import Stratum as StratumSummary
from cnnbatch.images import FORMATS
from cnnbatch.storage import ObjectInfo

CONFIDENCE: Final = 0.95
RESAMPLES: Final = 2000
METHOD: Final = (
    f"ratio estimate in strata by format and file size; {CONFIDENCE:.0%} interval from {RESAMPLES} bootstrap resamples, "
    "widened for small strata"
)
MOST_SIZES: Final = 4
MOST_LEARNED: Final = 10_000
_FEWEST: Final = 5
_RESAMPLES_AT_ONCE: Final = 100
_ALIASES: Final = {"jpg": "jpeg", "jpe": "jpeg", "jfif": "jpeg", "tif": "tiff", "avifs": "avif", "dib": "bmp"}
_OTHER: Final = "other"


@dataclass(frozen=True, slots=True)
class Stratum:
    """Files of one format and of similar size, and those of them in the sample."""

    format: str
    sizes: npt.NDArray[np.int64]
    sample: tuple[ObjectInfo, ...]

    @property
    def num_bytes(self) -> int:
        """Bytes of all its files."""
        return int(self.sizes.sum())

    def summary(self) -> StratumSummary:
        """As it is reported."""
        return StratumSummary(
            format=self.format,
            smallest_bytes=int(self.sizes.min()),
            largest_bytes=int(self.sizes.max()),
            files=len(self.sizes),
            bytes=self.num_bytes,
            sampled=len(self.sample),
        )


def named_format(key: str) -> str:
    """The format that a file's name says, ``other`` where it says none that is known."""
    suffix = PurePosixPath(key).suffix.lower().removeprefix(".")
    name = _ALIASES.get(suffix, suffix)
    return name if name in FORMATS else _OTHER


def stratify(listing: pa.Table, *, sample: int, seed: int = 0) -> tuple[Stratum, ...]:
    """Strata with about ``sample`` files drawn from them; 0: all files. ``listing``: see `cnnbatch.stages.listing`.

    The same listing, number and seed give the same files.
    """
    ordered = listing.sort_by("key")
    formats = np.array([named_format(key) for key in ordered.column("key").to_pylist()], dtype=object)
    sizes = ordered.column("size").to_numpy()
    wanted = min(sample or len(sizes), len(sizes))
    rng = np.random.default_rng(seed)
    strata = []
    for name in sorted(set(formats)):
        rows = np.flatnonzero(formats == name)
        share = wanted * len(rows) / len(sizes)
        bins = int(np.clip(share // (2 * _FEWEST), 1, MOST_SIZES))
        for part in np.array_split(rows[np.argsort(sizes[rows], kind="stable")], bins):
            number = min(len(part), max(_FEWEST, round(wanted * len(part) / len(sizes))))
            drawn = np.sort(rng.choice(part, number, replace=False))
            strata.append(Stratum(name, sizes[part], tuple(_infos(ordered, drawn))))
    return tuple(strata)


def learning_order(
    listing: pa.Table, strata: Sequence[Stratum], *, most: int = MOST_LEARNED, seed: int = 0
) -> tuple[ObjectInfo, ...]:
    """Up to ``most`` files for a codec to learn from, in an order by chance: such as are not in the sample, which would flatter
    it, unless these are fewer than the sample; then all."""
    sampled = pa.array([info.key for stratum in strata for info in stratum.sample], pa.string())
    ordered = listing.sort_by("key")
    inside = pc.is_in(ordered.column("key"), value_set=sampled).to_numpy()
    rng = np.random.default_rng(seed)
    enough = 2 * int(inside.sum()) <= len(inside)
    rows = np.flatnonzero(~inside) if enough else np.arange(len(inside))
    return tuple(_infos(ordered, rng.permutation(rows)[:most]))


def _infos(listing: pa.Table, rows: npt.NDArray[np.int64]) -> list[ObjectInfo]:
    return [ObjectInfo(r["key"], r["size"], r["etag"], r["mtime"], r["part"]) for r in listing.take(pa.array(rows)).to_pylist()]


def estimate(strata: Sequence[Stratum], result_bytes: Callable[[ObjectInfo], int], *, seed: int = 0) -> Estimate:
    """The source's total if each file became ``result_bytes`` of it, with the interval of `CONFIDENCE`."""
    rng = np.random.default_rng(seed)
    total, resampled = np.float64(0), np.zeros(RESAMPLES)
    for stratum in strata:
        before = np.array([info.size for info in stratum.sample], np.float64)
        after = np.array([result_bytes(info) for info in stratum.sample], np.float64)
        ratio = np.float64(_ratio(before, after))
        spread = np.sqrt(1 - len(stratum.sample) / len(stratum.sizes)) * _widening(len(stratum.sample))
        total += stratum.num_bytes * ratio
        resampled += stratum.num_bytes * (ratio + spread * (_resample(before, after, rng) - ratio))
    low, high = np.quantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(bytes=round(total), low_bytes=max(0, round(low)), high_bytes=round(high))


def _widening(sampled: int) -> float:
    """Factor from the spread that a bootstrap from so few files shows to that which covers as often as `CONFIDENCE` says."""
    from scipy.special import ndtri, stdtrit

    if sampled < 2:  # a file alone in its stratum, which is measured whole
        return 1.0
    level = (1 + CONFIDENCE) / 2
    return math.sqrt(sampled / (sampled - 1)) * float(stdtrit(sampled - 1, level) / ndtri(level))


def _resample(
    before: npt.NDArray[np.float64], after: npt.NDArray[np.float64], rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """The ratio in each of `RESAMPLES` samples drawn with replacement."""
    ratios = []
    for _ in range(RESAMPLES // _RESAMPLES_AT_ONCE):
        drawn = rng.integers(0, len(before), (_RESAMPLES_AT_ONCE, len(before)))
        ratios.append(_ratio(before[drawn], after[drawn]))
    return np.concatenate(ratios)


def _ratio(before: npt.NDArray[np.float64], after: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Ratio of the sums over the last axis; 1 where there is nothing to divide by."""
    sums = before.sum(-1)
    found: npt.NDArray[np.float64] = np.divide(after.sum(-1), sums, out=np.ones_like(sums), where=sums > 0)
    return found
