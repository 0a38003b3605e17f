"""Static integer tables of the entropy coder, and those of Gaussians."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cnnbatch.errors import BitstreamError, CodecFileError

PRECISION = 16
"""Bits of a frequency: each table sums to 2¹⁶."""

SYMBOL_LIMIT = 32767
"""Largest magnitude of a symbol; what a table does not hold is escaped as 16 raw bits."""

TAIL_SIGMAS = 5.0
BUCKET_BITS = 8
Symbols = npt.NDArray[np.int16]
Indexes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Tables:
    """T static tables over symbols −radius…radius and one escape.

    ``frequencies`` uint32: the tables one after another, each of 2·radius + 2 entries (escape last) summing to 2¹⁶;
    ``radius`` int32 [T].
    """

    frequencies: npt.NDArray[np.uint32]
    radius: npt.NDArray[np.int32]
    start: npt.NDArray[np.int32]
    cumulative: npt.NDArray[np.uint32]
    buckets: npt.NDArray[np.uint16]

    @classmethod
    def from_frequencies(cls, frequencies: npt.NDArray[np.uint32], radius: npt.NDArray[np.int32]) -> "Tables":
        """Raises BitstreamError if the frequencies are not T proper tables."""
        sizes = 2 * radius.astype(np.int64) + 2
        if radius.ndim != 1 or (radius < 0).any() or (radius > SYMBOL_LIMIT).any() or sizes.sum() != len(frequencies):
            raise BitstreamError(f"entropy tables: {len(frequencies)} frequencies do not fit radii of {len(radius)} tables")
        start = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int32)
        cumulative = np.empty(len(frequencies), np.uint32)
        buckets = np.empty((len(radius), 1 << BUCKET_BITS), np.uint16)
        for table, (begin, size) in enumerate(zip(start, sizes, strict=True)):
            part = frequencies[begin : begin + size].astype(np.int64)
            if (part < 1).any() or part.sum() != 1 << PRECISION:
                raise BitstreamError(f"entropy tables: table {table} sums to {part.sum()}, expected {1 << PRECISION}")
            edges = np.concatenate([[0], np.cumsum(part)])
            cumulative[begin : begin + size] = edges[:-1]
            slots = np.arange(1 << BUCKET_BITS) << (PRECISION - BUCKET_BITS)
            buckets[table] = np.searchsorted(edges, slots, side="right") - 1
        return cls(np.ascontiguousarray(frequencies, np.uint32), radius.astype(np.int32), start, cumulative, buckets)

    @property
    def compiled(self) -> tuple[npt.NDArray[Any], ...]:
        """All arrays for a compiled loop: (frequencies, cumulative, start, radius, buckets)."""
        return self.frequencies, self.cumulative, self.start, self.radius, self.buckets

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> "Tables":
        """Reads ``tables.frequencies`` and ``tables.radius`` of a codec file; raises CodecFileError if they are no tables."""
        try:
            return cls.from_frequencies(
                arrays["tables.frequencies"].astype(np.uint32), arrays["tables.radius"].astype(np.int32)
            )
        except BitstreamError as error:
            raise CodecFileError(str(error)) from error


def gaussian_tables(scales: npt.NDArray[np.float64]) -> Tables:
    """Tables of zero-mean Gaussians of the given standard deviations, integrated over each integer ± ½."""
    radii = np.maximum(1, np.ceil(TAIL_SIGMAS * scales)).astype(np.int32)
    parts = [integer_frequencies(_gaussian_mass(s, int(r))) for s, r in zip(scales, radii, strict=True)]
    return Tables.from_frequencies(np.concatenate(parts), radii)


def joined(*parts: Tables) -> Tables:
    """The tables of all parts, one after the other."""
    return Tables.from_frequencies(
        np.concatenate([part.frequencies for part in parts]), np.concatenate([part.radius for part in parts])
    )


def _gaussian_mass(scale: float, radius: int) -> npt.NDArray[np.float64]:
    edges = [0.5 * math.erfc(-(k - 0.5) / (scale * math.sqrt(2))) for k in range(-radius, radius + 2)]
    mass = np.diff(edges)
    return np.append(mass, max(0.0, 1 - mass.sum()))


def integer_frequencies(mass: npt.NDArray[np.float64]) -> npt.NDArray[np.uint32]:
    """Frequencies ≥ 1 summing to 2¹⁶; what rounding leaves over goes to the likeliest symbol."""
    total = 1 << PRECISION
    frequencies = np.maximum(1, np.floor(mass * (total - len(mass)) + 0.5)).astype(np.int64)
    frequencies[np.argmax(frequencies)] += total - frequencies.sum()
    return frequencies.astype(np.uint32)
