"""Entropy coding of the latents of many small pictures: y ↔ bytes, each picture alone, all in one compiled call.

A bitstream is one byte of quality and one small rANS stream (`cnnbatch.codec.entropy_coding.byte_rans`). Latent by latent the
context model gives mean and scale index from the latents before, in 64-bit integers; nothing that a decoder needs is ever
float.

Shapes: N pictures, L latents, K hidden units. Values v are whole numbers of 2⁻⁸ quantisation steps.
"""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from cnnbatch.codec.container.bitstream import MAX_QUALITY_STEPS
from cnnbatch.codec.dense.context_model import (
    ANCHOR_BITS,
    HIDDEN_BITS,
    HIDDEN_MAX,
    INPUT_BITS,
    INPUT_MAX,
    MEAN_MAX,
    PARTS,
    VALUE_BITS,
    VALUE_MAX,
    bias_table,
    degrees,
)
from cnnbatch.codec.entropy_coding.byte_rans import SMALL_LOWER, SMALL_STATE_BYTES, pop, push_stream
from cnnbatch.codec.entropy_coding.tables import PRECISION, SYMBOL_LIMIT, Tables
from cnnbatch.codec.geometry import Array
from cnnbatch.errors import BitstreamError

HEADER_BYTES = 1
SMALLEST = HEADER_BYTES + SMALL_STATE_BYTES

_BYTES_PER_SYMBOL = 5
"""More than an escaped symbol takes."""

Values = npt.NDArray[np.int32]


class SymbolCoder:
    """Codes with the tables and integers of one codec file; safe to call from several threads."""

    def __init__(self, arrays: Mapping[str, Array], *, check_with: bytes) -> None:
        """``check_with``: what a bitstream is bound to beside its quality; another gives an error, not other symbols."""
        t = self.tables = Tables.from_arrays(arrays)
        enter, mean, scale = (arrays[f"context.{part}.weight"].astype(np.int32) for part in PARTS)
        shifts = [int(arrays[f"context.{part}.shift"][0]) for part in PARTS]
        bits = [shifts[0] + INPUT_BITS, shifts[1] + HIDDEN_BITS, shifts[2] + HIDDEN_BITS]
        biases = [bias_table(arrays[f"context.{part}.anchors"], b) for part, b in zip(PARTS, bits, strict=True)]
        self.latents = mean.shape[0]
        degree = degrees(self.latents, enter.shape[0])
        units = [arrays[f"context.{name}_unit"].astype(np.int64) for name in ("input", "mean")]
        downs = np.array([bits[0] - HIDDEN_BITS, bits[1] - ANCHOR_BITS, bits[2] - VALUE_BITS], np.int64)
        self._context = (enter, mean, scale, *biases, *units, downs, degree)
        self._costs = PRECISION - np.log2(t.frequencies).astype(np.float32)
        checks = [zlib.crc32(bytes([q]), zlib.crc32(check_with)) & 0xFFFF for q in range(MAX_QUALITY_STEPS + 1)]
        self._ends = np.array(checks, np.int64) + SMALL_LOWER

    def encode(self, y: npt.NDArray[np.float32], steps: npt.NDArray[np.uint8], weight: npt.NDArray[np.float32]) -> list[bytes]:
        """``y`` [N, L] in quantisation steps, ``steps`` [N]: quality in quarters → one bitstream each.

        ``weight`` [N, L]: bits that an error of one step is worth. Of the two nearest symbols, that which costs less is taken.
        """
        width = _BYTES_PER_SYMBOL * self.latents + SMALLEST
        out = np.empty((len(y), width), np.uint8)
        starts = np.empty(len(y), np.int64)
        _encode((y, steps, weight), self._costs, self._ends, self._context, self.tables.compiled, out, starts)
        return [row[start:].tobytes() for row, start in zip(out, starts.tolist(), strict=True)]

    def decode(self, bitstreams: Sequence[bytes]) -> tuple[Values, npt.NDArray[np.uint8]]:
        """→ (values [N, L], quality in quarters [N]); raises BitstreamError if one is damaged."""
        lengths = np.array([len(data) for data in bitstreams], np.int64)
        if (short := np.flatnonzero(lengths < SMALLEST)).size:
            raise _damaged(f"{lengths[short[0]]} bytes, the shortest has {SMALLEST}")
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        data = np.frombuffer(b"".join(bitstreams), np.uint8)
        steps = data[starts[:-1]]
        if (high := np.flatnonzero(steps > MAX_QUALITY_STEPS)).size:
            raise _damaged(f"quality of {steps[high[0]]} quarter steps, the highest is {MAX_QUALITY_STEPS}")
        values = np.empty((len(bitstreams), self.latents), np.int32)
        damaged = _decode(data, starts, self._ends, self._context, self.tables.compiled, values)
        if damaged:
            raise _damaged("it does not end where its symbols end: damaged, or of another codec")
        return values, steps.copy()


def _damaged(why: str) -> BitstreamError:
    return BitstreamError(f"small bitstream: {why}")


@numba.njit(nogil=True, cache=True)
def _predict(i, q, known, context, inputs, hidden):  # type: ignore[no-untyped-def]
    """(μ in 2⁻⁸ steps, scale position in 2⁻⁸ indexes, hidden units known) of latent ``i``."""
    enter, mean, scale, enter_bias, mean_bias, scale_bias, _, mean_unit, downs, degree = context
    while known < len(degree) and degree[known] <= i:
        total = enter_bias[q, known]
        for j in range(degree[known]):
            total += np.int64(enter[known, j]) * np.int64(inputs[j])
        hidden[known] = min(max(total >> downs[0], 0), HIDDEN_MAX)
        known += 1
    m, s = mean_bias[q, i], scale_bias[q, i]
    for j in range(known):
        m += np.int64(mean[i, j]) * np.int64(hidden[j])
        s += np.int64(scale[i, j]) * np.int64(hidden[j])
    m = min(max(m >> downs[1], -MEAN_MAX), MEAN_MAX)
    return min(max(m * mean_unit[q] >> 20, -VALUE_MAX), VALUE_MAX), s >> downs[2], known


@numba.njit(nogil=True, cache=True)
def _index(position, count):  # type: ignore[no-untyped-def]
    return min(max((position + 128) >> VALUE_BITS, 0), count - 1)


@numba.njit(nogil=True, cache=True)
def _input(value, unit):  # type: ignore[no-untyped-def]
    return np.int32(min(max(value * unit >> 16, -INPUT_MAX), INPUT_MAX))


@numba.njit(nogil=True, cache=True)
def _choose(distance, weight, start, radius, costs):  # type: ignore[no-untyped-def]
    """The nearest symbol to ``distance``, or the next one towards zero if it costs less."""
    nearest = min(max(int(np.floor(distance + 0.5)), -SYMBOL_LIMIT), SYMBOL_LIMIT)
    if nearest > radius or nearest < -radius or abs(distance) >= abs(nearest):
        return nearest
    smaller = nearest - 1 if nearest > 0 else nearest + 1
    more = (distance - smaller) ** 2 - (distance - nearest) ** 2
    saved = costs[start + radius + nearest] - costs[start + radius + smaller]
    return smaller if weight * more < saved else nearest


@numba.njit(nogil=True, cache=True)
def _encode(latents, costs, ends, context, tables, out, starts):  # type: ignore[no-untyped-def]
    (y, steps, weight), (_, _, start, radius, _) = latents, tables
    count = y.shape[1]
    inputs, hidden = np.zeros(count, np.int32), np.zeros(len(context[9]), np.int32)
    symbols, indexes = np.empty(count, np.int64), np.empty(count, np.int64)
    for n in range(len(y)):
        q = np.int64(steps[n])
        known = 0
        for i in range(count):
            mean, position, known = _predict(i, q, known, context, inputs, hidden)
            table = indexes[i] = _index(position, len(radius))
            distance = y[n, i] - mean / 256.0
            symbols[i] = _choose(distance, weight[n, i], start[table], radius[table], costs)
            inputs[i] = _input((symbols[i] << VALUE_BITS) + mean, context[6][q])
        starts[n] = _write(symbols, indexes, q, ends[q], tables, out[n])


@numba.njit(nogil=True, cache=True)
def _write(symbols, indexes, q, x, tables, out):  # type: ignore[no-untyped-def]
    """The stream from its last symbol to its first, to the end of ``out``; returns where it begins."""
    position = push_stream(x, symbols, indexes, tables, out)
    out[position - 1] = q
    return position - 1


@numba.njit(nogil=True, cache=True)
def _decode(data, starts, ends, context, tables, values):  # type: ignore[no-untyped-def]
    """Fills ``values``; returns whether a bitstream is damaged."""
    count, num_scales = values.shape[1], len(tables[3])
    inputs, hidden = np.zeros(count, np.int32), np.zeros(len(context[9]), np.int32)
    for n in range(len(values)):
        position, end = starts[n], starts[n + 1]
        q = np.int64(data[position])
        x = np.int64(data[position + 1]) | np.int64(data[position + 2]) << 8 | np.int64(data[position + 3]) << 16
        position += 4
        known = 0
        for i in range(count):
            mean, scale, known = _predict(i, q, known, context, inputs, hidden)
            table = _index(scale, num_scales)
            symbol, x, position = pop(x, table, tables, data, position, end)
            if position < 0:
                return True
            value = (symbol << VALUE_BITS) + mean
            values[n, i] = value
            inputs[i] = _input(value, context[6][q])
        if x != ends[q] or position != end:
            return True
    return False


def known_answer(coder: SymbolCoder) -> dict[str, npt.NDArray[Any]]:
    """A bitstream of fixed pseudo-random latents, and the values it decodes to."""
    y = np.random.default_rng(0).laplace(0, 2, (1, coder.latents)).astype(np.float32)
    [data] = coder.encode(y, np.array([128], np.uint8), np.full_like(y, 1e9))
    return {"known_answer.bitstream": np.frombuffer(data, np.uint8), "known_answer.values": coder.decode([data])[0][0]}
