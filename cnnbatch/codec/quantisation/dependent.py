"""Dependent quantisation: which levels a latent can take depends on the symbols before it.

Levels are the multiples of a spacing. One quantiser has the even ones, the other the odd ones and zero; a machine of some
states, moved on by the parity of each symbol, says which of the two comes next. So the levels of a whole sequence lie denser
in space than those of one latent on its own, at the same rate, and the more states the denser. The encoder looks for the
cheapest path (`cnnbatch.codec.quantisation.viterbi`), the decoder follows it with one table look-up a symbol, however many
states there are. Latents of small scales, nearly all of them zero, have nothing to gain and would only move the state: below
the scale index `FIRST_DEPENDENT` each is an integer on its own.

(Trellis-coded quantisation: Marcellin and Fischer, IEEE Trans. Communications 38(1), 1990; with entropy coding: Fischer and
Wang, IEEE Trans. Information Theory 38(1), 1992; in VVC, with four states: Schwarz et al., DCC 2019. Machines of up to 256
states: Ungerboeck, IEEE Trans. Information Theory 28(1), 1982, table I.)

A symbol k stands for the level 2k in the first quantiser and for 2k less its sign in the second. What each costs is in
tables of their own: with T scale indexes, index i has table T + i in the first and 2T + i in the second; tables 0 … T − 1
are those of integers on their own, hyper-latents among them. A *quantiser* below is 0 (integers), 1 or 2.

Shapes: a × b positions of one tile, M channels. K channels, the first, are predicted, see `cnnbatch.codec.quantisation.rdoq`.
"""

from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import numba
import numpy as np
import numpy.typing as npt

from cnnbatch.codec.entropy_coding.rans import StateMachine
from cnnbatch.codec.entropy_coding.tables import Indexes, Symbols

if TYPE_CHECKING:
    from torch import Tensor

Values = npt.NDArray[np.float32]

SPACING: Final = 0.86
"""Distance of levels, in quantisation steps."""

FIRST_DEPENDENT: Final = 7
"""Scale index from which symbols are dependent."""

MASKS: Final = {64: (44, 19), 256: (189, 127), 1024: (972, 319)}
"""Number of states → masks of its `Machine`: which bits of a state count for its flip and for its quantiser. They cost
least, over all qualities, of some thousand that were tried on dev crops."""


class Machine(NamedTuple):
    """A shift register of S states, of which s and s + S/2 differ in the oldest bit: for each such pair [S/2] float32, 0 or 1.

    A symbol k leads from s to 2s + ((k + flip) mod 2), mod S.
    """

    second: Values
    """1: the symbol in state s or s + S/2 is of the second quantiser."""
    flip: Values
    """Flip of state s; that of s + S/2 is the opposite."""
    register: tuple[int, ...]
    """The bits of a state, from 0 on: compilers know how many there are, and so how far loops over states go."""


@lru_cache
def machine(states: int) -> Machine:
    """The machine of ``states`` states."""
    flips, quantisers = MASKS[states]
    second, flip = (
        np.array([(s & mask).bit_count() % 2 for s in range(states // 2)], np.float32) for mask in (quantisers, flips)
    )
    return Machine(second, flip, tuple(range(states.bit_length() - 1)))


class TrellisSettings(Protocol):
    """The part of a codec file's settings that the quantiser needs."""

    @property
    def num_scales(self) -> int: ...
    @property
    def trellis_states(self) -> int: ...
    @property
    def coded_from(self) -> int: ...
    def scales(self) -> "Tensor": ...


def state_machine(settings: TrellisSettings) -> StateMachine:
    """Which table each symbol of a tile has."""
    second, moves = _moves(settings.trellis_states)
    return StateMachine(settings.num_scales * (1 + second), moves, FIRST_DEPENDENT)


@lru_cache
def _moves(states: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """For each state, whether its symbol is of the second quantiser [S], and the states after an even and an odd one [S, 2]."""
    second, flip = (part.astype(np.int64) for part in machine(states)[:2])
    shifted = np.concatenate([flip, 1 - flip])[:, None] ^ np.arange(2)
    return np.tile(second, 2), (2 * np.arange(states)[:, None] + shifted) % states


def dequantise(
    symbols: Symbols, indexes: Indexes, places: npt.NDArray[np.int32], shape: tuple[int, ...], settings: TrellisSettings
) -> Values:
    """Values of the symbols of one tile at their ``places`` in its ``shape`` [a, b, M], zeros elsewhere; symbols, their scale
    indexes and places in the order of the stream [n]."""
    values = np.zeros(shape, np.float32)
    _follow(symbols, indexes, places, *_moves(settings.trellis_states), values.reshape(-1))
    return values


@numba.njit(nogil=True, cache=True)
def _follow(symbols, indexes, places, second, moves, values):  # type: ignore[no-untyped-def]
    state = 0
    for i in range(len(symbols)):
        symbol = np.int64(symbols[i])
        if indexes[i] < FIRST_DEPENDENT:
            values[places[i]] = symbol
        else:
            values[places[i]] = np.float32(SPACING) * level(symbol, second[state])
            state = moves[state, symbol & 1]


@numba.njit(nogil=True, cache=True)
def level(symbol, second):  # type: ignore[no-untyped-def]
    """Value of a symbol in spacings; ``second``: 1 in the second quantiser."""
    return 2 * symbol - second * ((symbol > 0) - (symbol < 0))
