"""In which order the symbols of a tile are in its stream.

As a decoder's state goes on from symbol to symbol, an encoder cannot tell which path is the cheapest before its end, but
predicted channels need what is restored at their neighbours. So their symbols come first, in wavefronts: rows go on
together, each two places behind the one above, so that whatever a prediction reads lies in an earlier front, and a path
ends only with a front. All other symbols, which nothing predicts, follow in raster order.

Shapes: a × b positions, M channels, of which the first K are predicted, see `cnnbatch.codec.quantisation.predict`.
"""

from functools import lru_cache
from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from cnnbatch.codec.entropy_coding.tables import Indexes
from cnnbatch.codec.quantisation.dependent import TrellisSettings

LAG = 2
"""Places that a row is behind the one above: a prediction reads what lies above right."""

AT_ONCE = 32
"""Places that are looked at together."""

KEPT_SCANS = 64
"""Number of shapes whose scans are kept; 66 kB for the largest tile."""


class Scan(NamedTuple):
    """Symbols of a tile [a·b·M], numbered in raster order with channels innermost, as runs of consecutive ones."""

    runs: npt.NDArray[np.int32]
    """[runs, 2]: number of the first symbol of each, and of the first behind it. A run lies within one position."""
    fronts: npt.NDArray[np.int32]
    """[fronts]: how many runs there are up to the end of each front. Only in the first run of a position are predicted
    channels, and what predicts them is in fronts before."""


class Coded(NamedTuple):
    """Those symbols of a tile that are in its stream, as a `Scan` has them."""

    places: npt.NDArray[np.int32]
    """[n]: their numbers."""
    ends: npt.NDArray[np.int32]
    """[runs]: how many there are up to the end of each run."""


def coded(indexes: npt.NDArray[np.uint8], first: int, scan: Scan) -> Coded:
    """Places in a tile whose scale index in ``indexes`` [a, b, M] is at least ``first``."""
    return Coded(*_coded(indexes.reshape(-1), first, scan.runs))


@lru_cache(KEPT_SCANS)
def scan_order(a: int, b: int, channels: int, known: int) -> Scan:
    """Order of a tile: the first ``known`` channels, which are predicted, in wavefronts, then the others in one front."""
    first = np.arange(a * b, dtype=np.int32) * channels
    row, column = np.divmod(np.arange(a * b), b)
    front = column + LAG * row
    places = first[np.argsort(front, kind="stable")]
    sizes = np.bincount(front) if known else np.zeros(0, np.int64)
    runs = [np.stack([places, places + known], 1)] if known else []
    if known < channels:
        runs.append(np.stack([first + known, first + channels], 1))
        sizes = np.append(sizes, a * b)
    return Scan(np.concatenate(runs), np.cumsum(sizes[sizes > 0]).astype(np.int32))


@numba.njit(nogil=True, cache=True)
def _coded(indexes, first, runs):  # type: ignore[no-untyped-def]
    """Without a branch that no processor would predict; where nothing is coded, many places at once."""
    places, ends = np.empty(indexes.size + 1, np.int32), np.empty(len(runs), np.int32)
    count = 0
    for run in range(len(runs)):
        for begin in range(runs[run, 0], runs[run, 1], AT_ONCE):
            part = indexes[begin : min(begin + AT_ONCE, runs[run, 1])]
            largest = np.uint8(0)
            for index in part:
                largest = max(largest, index)
            if largest < first:
                continue
            for place in range(begin, begin + len(part)):
                places[count] = place
                count += indexes[place] >= first
        ends[run] = count
    return places[:count], ends


def stream_symbols(settings: TrellisSettings, indexes: Indexes, known: int) -> Coded:
    """Which symbols of a tile are in its stream, from its scale ``indexes`` [a, b, M]; ``known``: see `scan_order`."""
    a, b, channels = indexes.shape
    return coded(indexes, settings.coded_from, scan_order(a, b, channels, known))
