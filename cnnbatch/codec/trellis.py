"""Dependent quantisation: which levels a latent can take depends on the symbols before it.

Levels are the multiples of a spacing. One quantiser has the even ones, the other the odd ones and zero; a machine of some
states, moved on by the parity of each symbol, says which of the two comes next. So the levels of a whole sequence lie denser
in space than those of one latent on its own, at the same rate, and the more states the denser. The encoder looks for the
cheapest path (`cnnbatch.codec.viterbi`), the decoder follows it with one table look-up a symbol, however many states there
are. Latents of small scales, nearly all of them zero, have nothing to gain and would only move the state: below the scale index
`FIRST_DEPENDENT` each is an integer on its own.

(Trellis-coded quantisation: Marcellin and Fischer, IEEE Trans. Communications 38(1), 1990; with entropy coding: Fischer and
Wang, IEEE Trans. Information Theory 38(1), 1992; in VVC, with four states: Schwarz et al., DCC 2019. Machines of up to 256
states: Ungerboeck, IEEE Trans. Information Theory 28(1), 1982, table I.)

A symbol k stands for the level 2k in the first quantiser and for 2k less its sign in the second. What each costs is in
tables of their own: with T scale indexes, index i has table T + i in the first and 2T + i in the second; tables 0 … T − 1
are those of integers on their own, hyper-latents among them. A *quantiser* below is 0 (integers), 1 or 2.

Shapes: a × b positions of one unit, M channels. K channels, the first, have a context, see `cnnbatch.codec.quantisation`.
"""

from functools import lru_cache
from typing import Final, NamedTuple, Protocol

import numba
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cnnbatch.codec.order import Coded, coded, stream_order
from cnnbatch.codec.quantisation import LEVELS, Choice, Values, dearer, magnitude_bits
from cnnbatch.codec.viterbi import FIRST_DEPENDENT, SPACING, level, meant, search
from cnnbatch.rans import TAIL_SIGMAS, Indexes, StateMachine, Symbols, Tables, integer_frequencies

MASKS: Final = {64: (44, 19), 256: (189, 127), 1024: (972, 319)}
"""Of the machine with so many states, see `Machine`: which bits of a state count for its flip and for its quantiser. They cost
least, over all qualities, of some thousand that were tried on dev crops."""

LEAST_MASS: Final = 1e-9
"""What a symbol has at least, so that its bits are finite."""


class Machine(NamedTuple):
    """A shift register of S states, of which s and s + S/2 differ in the oldest bit: for each such pair [S/2] float32, 0 or 1.

    A symbol k leads from s to 2s + ((k + flip) mod 2), mod S.
    """

    second: Values
    """1: the symbol in state s or s + S/2 is of the second quantiser."""
    flip: Values
    """Of state s; that of s + S/2 is the opposite."""
    register: tuple[int, ...]
    """The bits of a state, from 0 on: compilers know how many there are, and so how far loops over states go."""


@lru_cache
def machine(states: int) -> Machine:
    """That of ``states`` states."""
    flips, quantisers = MASKS[states]
    second, flip = (
        np.array([(s & mask).bit_count() % 2 for s in range(states // 2)], np.float32) for mask in (quantisers, flips)
    )
    return Machine(second, flip, tuple(range(states.bit_length() - 1)))


class TrellisSettings(Protocol):
    """What the quantiser needs of a codec file's settings."""

    @property
    def num_scales(self) -> int: ...
    @property
    def dependent_states(self) -> int: ...
    @property
    def coded_from(self) -> int: ...
    def scales(self) -> Tensor: ...


def gaussian_prices(scales: Tensor) -> Values:
    """[3, T, LEVELS + 1]: bits of each magnitude in each quantiser, for zero-mean Gaussians of these ``scales`` [T]."""
    magnitudes, quantisers = torch.arange(LEVELS + 1), torch.arange(3)[:, None, None]
    mass = symbol_mass(magnitudes, quantisers, scales[:, None])
    prices: Values = -torch.log2(mass.clamp(min=LEAST_MASS)).float().numpy()
    return prices


def table_prices(tables: Tables, num_scales: int) -> Values:
    """The same of the entropy coder's own tables."""
    return magnitude_bits(tables, LEVELS).reshape(3, num_scales, LEVELS + 1).astype(np.float32)


def trellis_tables(scales: Tensor) -> Tables:
    """Of Gaussians: those of the first quantiser, then those of the second."""
    radii = np.maximum(1, np.ceil(TAIL_SIGMAS * scales.numpy() / (2 * SPACING))).astype(np.int32)
    frequencies = []
    for quantiser in (1, 2):
        for scale, radius in zip(scales, radii, strict=True):
            mass = symbol_mass(torch.arange(-radius, radius + 1), torch.tensor(quantiser), scale).numpy()
            frequencies.append(integer_frequencies(np.append(mass, max(0.0, 1 - mass.sum()))))
    return Tables.from_frequencies(np.concatenate(frequencies), np.tile(radii, 2))


def symbol_mass(symbols: Tensor, quantisers: Tensor, scales: Tensor) -> Tensor:
    """Of a zero-mean Gaussian, between the middles to the next lower and the next higher level of the same quantiser."""
    magnitude, second = symbols.abs().to(scales.dtype), (quantisers == 2).to(scales.dtype)
    upper = 2 * magnitude + 1 - torch.where(magnitude > 0, second, second / 2)
    lower = 2 * magnitude - 1 - torch.where(magnitude > 1, second, second / 2)
    lower = torch.where(magnitude > 0, lower, -upper)
    unit = torch.where(quantisers > 0, SPACING, 0.5) / scales
    mass: Tensor = torch.special.ndtr(-lower * unit) - torch.special.ndtr(-upper * unit)
    return mass


class TrellisQuantiser:
    """The symbols with the least bits + weighted squared error of the whole sequence."""

    def __init__(self, prices: Values, settings: TrellisSettings) -> None:
        """``prices``: see `gaussian_prices`."""
        self._settings = settings
        self._parameters = tuple(machine(settings.dependent_states)), prices, dearer(prices[0])

    def __call__(
        self,
        values: Values,
        indexes: Indexes,
        weights: Values,
        context: Values,
        *,
        means: Values | None = None,
        in_stream: Coded | None = None,
    ) -> Choice:
        """One unit: ``values`` [a, b, M], latents in quantisation steps, and their scale ``indexes``.

        ``weights`` [M]: bits of a squared unit of error; ``context`` [K, 4·K], see `Hyperprior.context_weights`; ``means``:
        what is still in the ``values``, if anything; ``in_stream``: see `stream_symbols`, where it is known already.
        """
        choice = Choice(
            np.zeros(values.shape, np.int16),
            np.zeros((*values.shape[:2], len(context)), np.float32),
            np.zeros(values.shape, np.uint8),
        )
        order = stream_order(*values.shape, len(context))
        if in_stream is None:
            in_stream = stream_symbols(self._settings, indexes, len(context))
        if means is None:
            means = np.zeros_like(values)
        search(values, means, indexes, weights, context, tuple(order), tuple(in_stream), *self._parameters, *choice)
        return choice


def stream_symbols(settings: TrellisSettings, indexes: Indexes, known: int) -> Coded:
    """Which symbols of a unit are in its stream, from its scale ``indexes`` [a, b, M]; ``known``: see `stream_order`."""
    a, b, channels = indexes.shape
    return coded(indexes, settings.coded_from, stream_order(a, b, channels, known))


def state_machine(settings: TrellisSettings) -> StateMachine:
    """Which table each symbol of a unit has."""
    second, moves = _moves(settings.dependent_states)
    return StateMachine(settings.num_scales * (1 + second), moves, FIRST_DEPENDENT)


@lru_cache
def _moves(states: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Of each state whether its symbol is of the second quantiser [S], and the states after an even and an odd one [S, 2]."""
    second, flip = (part.astype(np.int64) for part in machine(states)[:2])
    shifted = np.concatenate([flip, 1 - flip])[:, None] ^ np.arange(2)
    return np.tile(second, 2), (2 * np.arange(states)[:, None] + shifted) % states


def dequantise(symbols: Symbols, indexes: Indexes, settings: TrellisSettings) -> Values:
    """What the symbols of one unit stand for; symbols and their scale indexes in the order of the stream [n]."""
    values = np.empty(len(symbols), np.float32)
    _follow(symbols, indexes, *_moves(settings.dependent_states), values)
    return values


def chosen_values(choice: Choice, settings: TrellisSettings) -> Values:
    """What the symbols of a `Choice` stand for, of one unit or several; those that are in no stream are zero."""
    values = np.empty(choice.symbols.shape, np.float32)
    flat = (part.reshape(-1) for part in (choice.symbols, choice.tables, values))
    _stand_for(*flat, settings.num_scales)
    return values


@numba.njit(nogil=True, cache=True)
def _stand_for(symbols, tables, values, num_scales):  # type: ignore[no-untyped-def]
    for i in range(len(symbols)):
        values[i] = meant(symbols[i], tables[i], num_scales)


@numba.njit(nogil=True, cache=True)
def _follow(symbols, indexes, second, moves, values):  # type: ignore[no-untyped-def]
    state = 0
    for i in range(len(symbols)):
        symbol = np.int64(symbols[i])
        if indexes[i] < FIRST_DEPENDENT:
            values[i] = symbol
        else:
            values[i] = np.float32(SPACING) * level(symbol, second[state])
            state = moves[state, symbol & 1]
