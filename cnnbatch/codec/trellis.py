"""Dependent quantisation: which levels a latent can take depends on the symbols before it.

Levels are the multiples of a spacing. One quantiser has the even ones, the other the odd ones and zero; eight states, moved on
by the parity of each symbol, say which of the two comes next. So the levels of a whole sequence lie denser in space than
those of one latent on its own, at the same rate. The encoder looks for the cheapest path by the algorithm of Viterbi, the
decoder follows it with one table look-up a symbol. Latents of small scales, nearly all of them zero, have nothing to gain
and would only move the state: below the setting ``dependent_from`` each is an integer on its own.

(Trellis-coded quantisation: Marcellin and Fischer, IEEE Trans. Communications 38(1), 1990; with entropy coding: Fischer and
Wang, IEEE Trans. Information Theory 38(1), 1992; in VVC, with four states: Schwarz et al., DCC 2019; with eight, cf.
JVET-Q0243.)

A symbol k stands for the level 2k in the first quantiser and for 2k less its sign in the second. What each costs is in
tables of their own: with T scale indexes, index i has table T + i in the first and 2T + i in the second; tables 0 … T − 1
are those of integers on their own, hyper-latents among them. A *quantiser* below is 0 (integers), 1 or 2.

Shapes: a × b positions of one unit, M channels in raster order, channels innermost. K channels, the first, have a context,
see `cnnbatch.codec.quantisation`.
"""

from typing import Final, Protocol

import numba
import numpy as np
import torch
from torch import Tensor

from cnnbatch.codec.quantisation import LEVELS, Choice, Values, choose, dearer, magnitude_bits, predicted
from cnnbatch.rans import SYMBOL_LIMIT, TAIL_SIGMAS, Indexes, StateMachine, Symbols, Tables, integer_frequencies

STATES: Final = 8

NEXT: Final = np.array([[0, 2], [5, 7], [1, 3], [6, 4], [2, 0], [4, 6], [3, 1], [7, 5]])
"""[state, parity of its symbol] → the next state; a unit begins in state 0."""

SECOND: Final = np.array([0, 1, 0, 1, 0, 1, 0, 1])
"""1: the state's symbol is of the second quantiser."""

_WAYS = [[(s, p) for s in range(STATES) for p in range(2) if NEXT[s, p] == state] for state in range(STATES)]
_FROM = np.array([[s for s, _ in ways] for ways in _WAYS])
_BRANCH = np.array([[2 * SECOND[s] + p for s, p in ways] for ways in _WAYS])
"""Into each state lead two ways: the state before, and which of four symbols (quantiser × parity) goes there. `_advance`
has them written out."""

LEAST_MASS: Final = 1e-9
"""What a symbol has at least, so that its bits are finite."""

_NEVER: Final = 1e30
"""Cost of a state that no path leads to."""

DEPENDENT_WEIGHT: Final = 0.55
"""Of an error in a dependent symbol, relative to that in an integer. Between 0.45 and 0.65 the loss is within 0.3 % of its
least at every quality."""


class TrellisSettings(Protocol):
    """What the quantiser needs of a codec file's settings."""

    @property
    def num_scales(self) -> int: ...
    @property
    def dependent_spacing(self) -> float: ...
    @property
    def dependent_from(self) -> int: ...
    @property
    def coded_from(self) -> int: ...
    def scales(self) -> Tensor: ...


def gaussian_prices(scales: Tensor, spacing: float) -> Values:
    """[3, T, LEVELS + 1]: bits of each magnitude in each quantiser, for zero-mean Gaussians of these ``scales`` [T]."""
    magnitudes, quantisers = torch.arange(LEVELS + 1), torch.arange(3)[:, None, None]
    mass = symbol_mass(magnitudes, quantisers, scales[:, None], spacing)
    prices: Values = -torch.log2(mass.clamp(min=LEAST_MASS)).float().numpy()
    return prices


def table_prices(tables: Tables, num_scales: int) -> Values:
    """The same of the entropy coder's own tables."""
    return magnitude_bits(tables, LEVELS).reshape(3, num_scales, LEVELS + 1).astype(np.float32)


def trellis_tables(scales: Tensor, spacing: float) -> Tables:
    """Of Gaussians: those of the first quantiser, then those of the second."""
    radii = np.maximum(1, np.ceil(TAIL_SIGMAS * scales.numpy() / (2 * spacing))).astype(np.int32)
    frequencies = []
    for quantiser in (1, 2):
        for scale, radius in zip(scales, radii, strict=True):
            mass = symbol_mass(torch.arange(-radius, radius + 1), torch.tensor(quantiser), scale, spacing).numpy()
            frequencies.append(integer_frequencies(np.append(mass, max(0.0, 1 - mass.sum()))))
    return Tables.from_frequencies(np.concatenate(frequencies), np.tile(radii, 2))


def symbol_mass(symbols: Tensor, quantisers: Tensor, scales: Tensor, spacing: float) -> Tensor:
    """Of a zero-mean Gaussian, between the middles to the next lower and the next higher level of the same quantiser."""
    magnitude, second = symbols.abs().to(scales.dtype), (quantisers == 2).to(scales.dtype)
    upper = 2 * magnitude + 1 - torch.where(magnitude > 0, second, second / 2)
    lower = 2 * magnitude - 1 - torch.where(magnitude > 1, second, second / 2)
    lower = torch.where(magnitude > 0, lower, -upper)
    unit = torch.where(quantisers > 0, spacing, 0.5) / scales
    mass: Tensor = torch.special.ndtr(-lower * unit) - torch.special.ndtr(-upper * unit)
    return mass


class TrellisQuantiser:
    """The symbols with the least bits + weighted squared error of the whole sequence."""

    def __init__(self, prices: Values, settings: TrellisSettings) -> None:
        """``prices``: see `gaussian_prices`."""
        first = max(settings.dependent_from, settings.coded_from)
        spacing = np.float32(settings.dependent_spacing)
        self._parameters = prices, dearer(prices[0]), spacing, settings.coded_from, first

    def __call__(self, values: Values, indexes: Indexes, weights: Values, context: Values) -> Choice:
        """As `Quantiser` does."""
        choice = Choice(
            np.zeros(values.shape, np.int16),
            np.zeros((*values.shape[:2], len(context)), np.float32),
            np.zeros(values.shape, np.float32),
            np.zeros(values.shape, np.uint8),
        )
        _search(values, indexes, weights, context, *self._parameters, *choice)
        return choice


@numba.njit(nogil=True, cache=True)
def _level(symbol, second):  # type: ignore[no-untyped-def]
    return 2 * symbol - second * ((symbol > 0) - (symbol < 0))


@numba.njit(nogil=True, cache=True)
def _search(  # type: ignore[no-untyped-def]
    values, indexes, weights, context, prices, dearer, spacing, coded_from, first, symbols, found, dequantised, tables
):
    rows, columns, channels = values.shape
    known = len(context)
    flat_values, flat_indexes = values.reshape(-1), indexes.reshape(-1)
    flat_found, half_inverse = dequantised.reshape(-1), np.float32(0.5) / weights
    results = symbols.reshape(-1), flat_found, tables.reshape(-1)
    places = np.empty(values.size + 1, np.int32)  # of the steps
    ways, choices = np.empty(values.size, np.uint8), np.empty((values.size, 4), np.int16)
    costs, origins = np.full(STATES, _NEVER), np.zeros(STATES, np.int64)
    costs[0] = 0
    drawn = np.zeros((STATES, known), np.float32)
    expected = np.zeros(channels, np.float32)
    path = (flat_values, flat_indexes, weights, expected, prices, spacing, places, ways, choices, costs, origins)
    end = 0
    for i in range(rows):
        for j in range(columns):
            for channel in range(known):
                expected[channel] = predicted(found, i, j, context[channel])
            base = (i * columns + j) * channels
            _round(flat_values, flat_indexes, half_inverse, expected, dearer, coded_from, first, base, *results)
            middle = _list_dependent(flat_indexes, base, base + known, first, places, end)
            _advance(end, middle, base, *path)
            for channel in range(known):
                drawn[:, channel] = flat_found[base + channel]
            _draw(flat_indexes[base : base + known], ways, choices, middle, first, spacing, drawn)
            end = _list_dependent(flat_indexes, base + known, base + channels, first, places, middle)
            _advance(middle, end, base, *path)
            costs -= costs.min()
            if known:  # the next positions need what was found: paths that had come to another state by then end here
                kept = origins[np.argmin(costs)]
                costs[origins != kept] = _NEVER
                for channel in range(known):
                    found[i, j, channel] = expected[channel] + drawn[kept, channel]
    _trace(places[:end], ways, choices, np.argmin(costs), flat_indexes, spacing, *results, prices.shape[1])


@numba.njit(nogil=True, cache=True)
def _round(  # type: ignore[no-untyped-def]
    values, indexes, half_inverse, expected, dearer, coded_from, first, base, symbols, dequantised, tables
):
    """The symbols of a position that are integers on their own."""
    for channel in range(len(half_inverse)):
        index = indexes[base + channel]
        if index >= coded_from and index < first:
            symbol = choose(values[base + channel] - expected[channel], dearer[index], half_inverse[channel])
            symbols[base + channel], dequantised[base + channel], tables[base + channel] = symbol, symbol, index


@numba.njit(nogil=True, cache=True)
def _list_dependent(indexes, begin, end, first, places, step):  # type: ignore[no-untyped-def]
    """Adds the places of dependent symbols to ``places``, without a branch that no processor would predict; returns the step
    after them."""
    for place in range(begin, end):
        places[step] = place
        step += indexes[place] >= first
    return step


@numba.njit(nogil=True, cache=True)
def _advance(  # type: ignore[no-untyped-def]
    first, last, base, values, indexes, weights, expected, prices, spacing, places, ways, choices, costs, origins
):
    """Steps ``first`` … ``last`` − 1, all of one position that begins at ``base``: ways and choices of each, the costs of all
    states after them, and at which state the path into each began.

    The states are variables of their own and the ways into them (`_FROM`, `_BRANCH`) written out: four times as fast as arrays.
    """
    half, per_unit = np.float32(0.5), np.float32(1) / spacing
    c0, c1, c2, c3 = np.float32(costs[0]), np.float32(costs[1]), np.float32(costs[2]), np.float32(costs[3])
    c4, c5, c6, c7 = np.float32(costs[4]), np.float32(costs[5]), np.float32(costs[6]), np.float32(costs[7])
    o0, o1, o2, o3, o4, o5, o6, o7 = 0, 1, 2, 3, 4, 5, 6, 7
    for step in range(first, last):
        place = places[step]
        channel, table = place - base, indexes[place]
        value = values[place] - expected[channel]
        # the cheapest even and odd symbol of both quantisers
        away = min(abs(value) * per_unit, np.float32(2 * SYMBOL_LIMIT - 2))  # the next symbol of either parity is in range
        unit = np.float32(DEPENDENT_WEIGHT) * weights[channel] * spacing * spacing
        low, below = int(away * half), int((away + 1) * half)
        k0, k1 = low + (low & 1), low + 1 - (low & 1)
        k2, k3 = below + (below & 1), below + 1 - (below & 1)
        e0, e1 = away - np.float32(2 * k0), away - np.float32(2 * k1)
        e2, e3 = away - np.float32(2 * k2 - (k2 > 0)), away - np.float32(2 * k3 - 1)
        b0 = unit * e0 * e0 + prices[1, table, min(k0, LEVELS)]
        b1 = unit * e1 * e1 + prices[1, table, min(k1, LEVELS)]
        b2 = unit * e2 * e2 + prices[2, table, min(k2, LEVELS)]
        b3 = unit * e3 * e3 + prices[2, table, min(k3, LEVELS)]
        z0, z2 = unit * away * away + prices[1, table, 0], unit * away * away + prices[2, table, 0]
        if z0 < b0:
            k0, b0 = 0, z0
        if z2 < b2:
            k2, b2 = 0, z2
        sign = 1 if value >= 0 else -1
        choices[step, 0], choices[step, 1] = sign * k0, sign * k1
        choices[step, 2], choices[step, 3] = sign * k2, sign * k3
        # the cheaper way into every state
        x0, x1, x2, x3, x4, x5, x6, x7 = c0 + b0, c2 + b0, c0 + b1, c2 + b1, c3 + b3, c1 + b2, c3 + b2, c1 + b3
        y0, y1, y2, y3, y4, y5, y6, y7 = c4 + b1, c6 + b1, c4 + b0, c6 + b0, c5 + b2, c7 + b3, c5 + b3, c7 + b2
        w0, w1, w2, w3, w4, w5, w6, w7 = y0 < x0, y1 < x1, y2 < x2, y3 < x3, y4 < x4, y5 < x5, y6 < x6, y7 < x7
        c0, c1, c2, c3 = min(x0, y0), min(x1, y1), min(x2, y2), min(x3, y3)
        c4, c5, c6, c7 = min(x4, y4), min(x5, y5), min(x6, y6), min(x7, y7)
        ways[step] = w0 | w1 << 1 | w2 << 2 | w3 << 3 | w4 << 4 | w5 << 5 | w6 << 6 | w7 << 7
        o0, o1, o2, o3, o4, o5, o6, o7 = (
            o0 + w0 * (o4 - o0), o2 + w1 * (o6 - o2), o0 + w2 * (o4 - o0), o2 + w3 * (o6 - o2),
            o3 + w4 * (o5 - o3), o1 + w5 * (o7 - o1), o3 + w6 * (o5 - o3), o1 + w7 * (o7 - o1),
        )  # fmt: skip
    costs[0], costs[1], costs[2], costs[3], costs[4], costs[5], costs[6], costs[7] = c0, c1, c2, c3, c4, c5, c6, c7
    origins[0], origins[1], origins[2], origins[3] = o0, o1, o2, o3
    origins[4], origins[5], origins[6], origins[7] = o4, o5, o6, o7


@numba.njit(nogil=True, cache=True)
def _draw(indexes, ways, choices, step, first, spacing, drawn):  # type: ignore[no-untyped-def]
    """What the path into each state has found for dependent symbols of a position's first channels; ``step``: the one after."""
    for last in range(STATES):
        state, place = last, step
        for channel in range(drawn.shape[1] - 1, -1, -1):
            if indexes[channel] >= first:
                place -= 1
                way = ways[place] >> state & 1
                branch = _BRANCH[state, way]
                state = _FROM[state, way]
                drawn[last, channel] = spacing * _level(choices[place, branch], branch >> 1)


@numba.njit(nogil=True, cache=True)
def _trace(  # type: ignore[no-untyped-def]
    places, ways, choices, state, indexes, spacing, symbols, dequantised, tables, num_scales
):
    """The path back from its last state."""
    for step in range(len(places) - 1, -1, -1):
        way = ways[step] >> state & 1
        branch = _BRANCH[state, way]
        place, symbol, state = places[step], choices[step, branch], _FROM[state, way]
        symbols[place] = symbol
        dequantised[place] = spacing * _level(symbol, branch >> 1)
        tables[place] = indexes[place] + num_scales * (1 + (branch >> 1))


def state_machine(settings: TrellisSettings) -> StateMachine:
    """Which table each symbol of a unit has."""
    return StateMachine(settings.num_scales * (1 + SECOND), NEXT, settings.dependent_from)


def dequantise(symbols: Symbols, indexes: Indexes, settings: TrellisSettings) -> Values:
    """What the symbols of one unit stand for; symbols and their scale indexes in the order of the stream [n]."""
    values = np.empty(len(symbols), np.float32)
    _follow(symbols, indexes, np.float32(settings.dependent_spacing), settings.dependent_from, values)
    return values


@numba.njit(nogil=True, cache=True)
def _follow(symbols, indexes, spacing, first, values):  # type: ignore[no-untyped-def]
    state = 0
    for i in range(len(symbols)):
        symbol = np.int64(symbols[i])
        if indexes[i] < first:
            values[i] = symbol
        else:
            values[i] = spacing * _level(symbol, SECOND[state])
            state = NEXT[state, symbol & 1]
