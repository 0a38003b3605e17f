"""An encoder's choice for one tile, and the values that a decoder will get from it."""

from typing import NamedTuple

import numba
import numpy as np

from cnnbatch.codec.entropy_coding.tables import Indexes, Symbols
from cnnbatch.codec.quantisation.dependent import SPACING, TrellisSettings, Values, level


class QuantisedLatents(NamedTuple):
    """One quantised tile, or several as arrays with an axis more."""

    symbols: Symbols
    """[a, b, M]."""
    restored: Values
    """[a, b, K]: what a decoder will find for the values of the first K channels, prediction included."""
    tables: Indexes
    """[a, b, M]: of each symbol that is in the stream, elsewhere without a meaning."""


def chosen_values(choice: QuantisedLatents, settings: TrellisSettings) -> Values:
    """Values of the symbols of a `QuantisedLatents`, of one tile or several; those in no stream are zero."""
    values = np.empty(choice.symbols.shape, np.float32)
    flat = (part.reshape(-1) for part in (choice.symbols, choice.tables, values))
    _stand_for(*flat, settings.num_scales)
    return values


@numba.njit(nogil=True, cache=True)
def _stand_for(symbols, tables, values, num_scales):  # type: ignore[no-untyped-def]
    for i in range(len(symbols)):
        values[i] = meant(symbols[i], tables[i], num_scales)


@numba.njit(nogil=True, cache=True)
def meant(symbol, table, num_scales):  # type: ignore[no-untyped-def]
    """Value of a symbol of ``table`` in quantisation steps, float32."""
    if table < num_scales:
        return np.float32(symbol)
    return np.float32(SPACING) * np.float32(level(np.int64(symbol), np.int64(table >= 2 * num_scales)))
