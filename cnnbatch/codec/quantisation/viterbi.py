"""The cheapest path through the states of the machine of dependent quantisation (Viterbi, IEEE Trans. Information Theory 13(2),
1967).

In a shift register the states j and j + S/2 lead to the same two, 2j and 2j + 1: a step is S/2 butterflies without a
branch or a look-up, which compilers turn into vector instructions.

Shapes: a × b positions of one tile, M channels; a *step* is one dependent symbol in scan order.
"""

from typing import Final

import numba
import numpy as np

from cnnbatch.codec.entropy_coding.tables import SYMBOL_LIMIT
from cnnbatch.codec.quantisation.dependent import FIRST_DEPENDENT, SPACING
from cnnbatch.codec.quantisation.prediction import predict
from cnnbatch.codec.quantisation.prices import LEVELS
from cnnbatch.codec.quantisation.quantised import meant
from cnnbatch.codec.quantisation.rdoq import choose

WINDOW: Final = 8192
"""Steps that are decided at once."""

LOOKAHEAD: Final = 256
"""Steps after them that count for which path is the cheapest; they are then gone again, from where it was decided."""

_NEVER: Final = np.float32(1e30)
"""Cost of a state that no path leads to."""

_SETTLED: Final = 64
"""Steps after which costs are taken down to begin near zero again."""


@numba.njit(nogil=True, cache=True)
def search(latents, scan, coded, machine, prices, quantised):  # type: ignore[no-untyped-def]
    """Fills ``quantised`` (symbols, restored, tables: the fields of `QuantisedLatents`), all zero before.

    ``latents``: (values, means, scale indexes, weights, prediction) as `TrellisQuantiser` has them; ``scan``, ``coded``,
    ``machine``: fields of a `Scan`, a `Coded` and a `Machine`; ``prices``: those of both quantisers, and what the integers'
    `dearer` says. All are plain tuples: numba's cache names the classes that compiled functions saw, and fails where another
    version lacks one.
    """
    values, means, indexes, weights, prediction = latents
    symbols, restored, tables = quantised
    by_magnitude, dearer = prices
    (runs, fronts), (coded_places, ends) = scan, coded
    columns, channels = values.shape[1:]
    known, turned = len(prediction), np.ascontiguousarray(prediction.T)
    flat_values, flat_means, flat_indexes = values.reshape(-1), means.reshape(-1), indexes.reshape(-1)
    results = symbols.reshape(-1), tables.reshape(-1)
    half_inverse = np.float32(0.5) / weights
    units = np.float32(SPACING) * np.float32(SPACING) * weights
    expected = np.zeros(channels, np.float32)
    most = len(coded_places) + 1
    steps = np.empty(most, np.int32), np.empty(most, np.float32), np.empty(most, np.float32)
    single = np.empty(channels + 1, np.int32)
    states = 2 * len(machine[0])
    kept = np.empty((WINDOW + LOOKAHEAD, states // 2), np.uint8), np.empty((WINDOW + LOOKAHEAD, 4), np.int16)
    costs = np.full((2, states), _NEVER, np.float32)
    state, begin, listed = np.int64(0), np.int64(0), np.int64(0)  # literals would make versions of their own of what they go to
    for end in fronts:
        count = np.int64(0)
        for run in range(begin, end):
            base, i, j = _position(runs[run, 0], columns, channels)
            first_of_position = runs[run, 0] == base
            if first_of_position:
                predict(restored, i, j, turned, expected[:known])
            before = count
            places, listed = coded_places[listed : ends[run]], ends[run]
            count, singles = _split(flat_indexes, places, steps[0], count, single)
            for place in single[:singles]:
                channel, table = place - base, flat_indexes[place]
                value = flat_values[place] - flat_means[place] - expected[channel]
                results[0][place] = choose(value, dearer[table], half_inverse[channel])
                results[1][place] = table
            for step in range(before, count):
                place = steps[0][step]
                steps[1][step] = flat_values[place] - flat_means[place] - expected[place - base]
                steps[2][step] = units[place - base]
            for channel in range(known if first_of_position else 0):
                restored[i, j, channel], expected[channel] = expected[channel], 0
        state = _find_path(state, count, (*steps, flat_indexes), machine, by_magnitude, (kept, costs), results)
        _add(runs, begin, end, channels, results, by_magnitude.shape[1], restored)
        begin = end


@numba.njit(nogil=True, cache=True)
def _position(first, columns, channels):  # type: ignore[no-untyped-def]
    """Where a run lies whose first symbol is ``first``: the number of the first symbol there, row, column."""
    number = first // channels
    return number * channels, number // columns, number % columns


@numba.njit(nogil=True, cache=True)
def _add(runs, begin, end, channels, results, num_scales, restored):  # type: ignore[no-untyped-def]
    """To what was expected of the predicted channels, what their symbols stand for."""
    for run in range(begin, end):
        base, i, j = _position(runs[run, 0], restored.shape[1], channels)
        if runs[run, 0] == base:
            for channel in range(restored.shape[2]):
                restored[i, j, channel] += meant(results[0][base + channel], results[1][base + channel], num_scales)


@numba.njit(nogil=True, cache=True)
def _split(indexes, places, dependent, count, single):  # type: ignore[no-untyped-def]
    """Adds those of ``places`` with dependent symbols to ``dependent``, after the ``count`` there, and writes the others to
    ``single``, without a branch that no processor would predict; returns how many there are of each."""
    singles = 0
    for place in places:
        depends = indexes[place] >= FIRST_DEPENDENT
        dependent[count] = single[singles] = place
        count += depends
        singles += not depends
    return count, singles


@numba.njit(nogil=True, cache=True)
def _find_path(state, count, steps, machine, prices, trellis, results):  # type: ignore[no-untyped-def]
    """The symbols of ``count`` steps from ``state`` on; returns the state after them.

    ``steps``: (places, targets, weights, scale indexes of all places); ``trellis``: ((ways, choices), costs), to work in.
    """
    begin, costs = np.int64(0), trellis[1]
    while begin < count:
        costs[0] = _NEVER
        costs[0, state] = 0
        end = min(count, begin + WINDOW + LOOKAHEAD)
        _advance(begin, end, steps, machine, prices, trellis)
        certain = count if end == count else end - LOOKAHEAD
        state = _trace((begin, certain, end), steps, machine, trellis, results, prices.shape[1])
        begin = certain
    return state


@numba.njit(nogil=True, cache=True)
def _advance(begin, end, steps, machine, prices, trellis):  # type: ignore[no-untyped-def]
    """Steps ``begin`` … ``end`` − 1: ways and choices of each, and the costs of all states after them for those before them."""
    places, targets, weights, indexes = steps
    (ways, choices), costs = trellis
    half, per_level = np.float32(0.5), np.float32(1) / np.float32(SPACING)
    now, then = costs[0], costs[1]
    for step in range(begin, end):
        table, value, weight = indexes[places[step]], targets[step], weights[step]
        # the cheapest even and odd symbol of both quantisers
        away = min(abs(value) * per_level, np.float32(2 * SYMBOL_LIMIT - 2))  # the next symbol of either parity is in range
        low, below = int(away * half), int((away + 1) * half)
        k0, k1 = low + (low & 1), low + 1 - (low & 1)
        k2, k3 = below + (below & 1), below + 1 - (below & 1)
        e0, e1 = away - np.float32(2 * k0), away - np.float32(2 * k1)
        e2, e3 = away - np.float32(2 * k2 - (k2 > 0)), away - np.float32(2 * k3 - 1)
        b0 = weight * e0 * e0 + prices[1, table, min(k0, LEVELS)]
        b1 = weight * e1 * e1 + prices[1, table, min(k1, LEVELS)]
        b2 = weight * e2 * e2 + prices[2, table, min(k2, LEVELS)]
        b3 = weight * e3 * e3 + prices[2, table, min(k3, LEVELS)]
        zero = weight * away * away
        z0, z2 = zero + prices[1, table, 0], zero + prices[2, table, 0]
        if z0 < b0:
            k0, b0 = 0, z0
        if z2 < b2:
            k2, b2 = 0, z2
        sign, place = 1 if value >= 0 else -1, step - begin
        if place % _SETTLED == _SETTLED - 1:  # by then a path leads to every state
            b0, b1, b2, b3 = b0 - now[0], b1 - now[0], b2 - now[0], b3 - now[0]
        choices[place, 0], choices[place, 1] = sign * k0, sign * k1
        choices[place, 2], choices[place, 3] = sign * k2, sign * k3
        _butterflies(now, then, ways[place], machine, (b0, b1, b2, b3))
        now, then = then, now
    for state in range(costs.shape[1]):
        costs[0, state] = now[state]


@numba.njit(nogil=True, cache=True, fastmath={"contract", "nnan", "nsz"})
def _butterflies(now, then, ways, machine, bits):  # type: ignore[no-untyped-def]
    """The cheaper way into every state: from j or from j + S/2 into 2j (bit 0 of ``ways[j]``) and into 2j + 1 (bit 1).

    ``bits``: costs of the even and of the odd symbol of the first quantiser, then of the second.
    """
    (second, flip, register), (b0, b1, b2, b3) = machine, bits
    half = 1 << (len(register) - 1)
    odd, other, both, first = b1 - b0, b2 - b0, (b3 - b2) - (b1 - b0), b0 + b1
    others = (b2 + b3) - first
    lows, highs = now[:half], now[half:]  # `now[j + half]` could be from the end, for all that a compiler knows: 4 times slower
    none = np.uint8(0)
    for j in range(half):
        stays = b0 + second[j] * other + flip[j] * (odd + second[j] * both)
        moves = first + second[j] * others - stays
        x0, y0, x1, y1 = lows[j] + stays, highs[j] + moves, lows[j] + moves, highs[j] + stays
        then[2 * j], then[2 * j + 1] = min(x0, y0), min(x1, y1)
        ways[j] = (np.uint8(1) if y0 < x0 else none) + (np.uint8(2) if y1 < x1 else none)


@numba.njit(nogil=True, cache=True)
def _trace(span, steps, machine, trellis, results, num_scales):  # type: ignore[no-untyped-def]
    """The path that is the cheapest after step ``end`` − 1, back from there: symbols of the steps ``begin`` … ``certain`` − 1;
    returns the state after them."""
    (begin, certain, end), (second, flip, _), ((ways, choices), costs) = span, machine, trellis
    (places, _, _, indexes), (symbols, tables) = steps, results
    half, state = len(second), np.argmin(costs[0])
    decided = state
    for step in range(end - 1, begin - 1, -1):
        if step == certain - 1:
            decided = state
        j, shifted = state >> 1, state & 1
        way = np.int64(ways[step - begin, j]) >> shifted & 1
        quantiser, parity = np.int64(second[j]), shifted ^ np.int64(flip[j]) ^ way
        state = j + half * way
        if step < certain:
            place = places[step]
            symbols[place] = choices[step - begin, 2 * quantiser + parity]
            tables[place] = indexes[place] + num_scales * (1 + quantiser)
    return decided
