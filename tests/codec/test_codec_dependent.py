"""Dependent quantisation: the path is the cheapest, the decoder follows it, and it buys distortion at the same rate."""

from collections.abc import Iterable
from itertools import pairwise, product
from typing import get_args

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from cnnbatch.codec.entropy_coding.rans import Decoder, encode
from cnnbatch.codec.entropy_coding.tables import Tables, gaussian_tables, joined
from cnnbatch.codec.hyperprior.settings import HyperpriorSettings
from cnnbatch.codec.quantisation.dependent import MASKS, SPACING, dequantise, state_machine
from cnnbatch.codec.quantisation.prediction import restore
from cnnbatch.codec.quantisation.prices import gaussian_prices, table_prices
from cnnbatch.codec.quantisation.quantised import QuantisedLatents, chosen_values
from cnnbatch.codec.quantisation.scan import scan_order
from cnnbatch.codec.quantisation.trellis_search import TrellisQuantiser
from cnnbatch.codec.quantisation.trellis_tables import symbol_mass, trellis_tables
from cnnbatch.codec.quantisation.viterbi import WINDOW
from cnnbatch.errors import BitstreamError
from tests.codec.reference import in_order, ones

SCALES = torch.tensor([0.11, *(0.5,) * 6, 2.0, 20.0], dtype=torch.float64)
SETTINGS = HyperpriorSettings(num_scales=len(SCALES))
"""Scale index 0 is not coded, 1 to 6 are of integers on their own, 7 and 8 of dependent symbols."""

KINDS = np.array([0, 6, 7, 8], np.uint8)
"""Scale indexes of every kind."""

TABLES = joined(gaussian_tables(SCALES.numpy()), trellis_tables(SCALES))
PRICES = gaussian_prices(SCALES)
MACHINES = {states: SETTINGS.model_copy(update={"trellis_states": states}) for states in MASKS}
QUANTISERS = {states: TrellisQuantiser(PRICES, settings) for states, settings in MACHINES.items()}
NO_PREDICTION = np.zeros((0, 0), np.float32)
PROPERTY = settings(deadline=None)  # the first call compiles

Values = npt.NDArray[np.float32]
Indexes = npt.NDArray[np.uint8]


def level(symbol: int, second: int) -> int:
    return 2 * symbol - second * ((symbol > 0) - (symbol < 0))


def cost(symbols: Iterable[int], values: Values, indexes: Indexes, weights: Values, states: int) -> float:
    """Of dependent symbols in the order of the stream."""
    flips, quantisers = MASKS[states]
    state, total = 0, 0.0
    for symbol, value, index, weight in zip(symbols, values, indexes, weights, strict=True):
        second = ones(state & quantisers) % 2
        error = float(value) - SPACING * level(symbol, second)
        total += float(weight) * error**2 + float(PRICES[1 + second, index, abs(symbol)])
        state = (2 * state + (symbol + ones(state & flips)) % 2) % states
    return total


@pytest.mark.parametrize("states", MASKS)
@PROPERTY
@given(
    arrays.arrays(np.float32, 4, elements=st.floats(-3, 3, width=32)),
    arrays.arrays(np.uint8, 4, elements=st.integers(7, 8)),
    arrays.arrays(np.float32, 4, elements=st.floats(8, 64, width=32)),
)
def test_no_other_sequence_of_symbols_is_cheaper(states: int, v: Values, i: Indexes, w: Values) -> None:
    found = QUANTISERS[states](v[None, None], i[None, None], w, NO_PREDICTION).symbols[0, 0]
    least = min(cost(symbols, v, i, w, states) for symbols in product(range(-3, 4), repeat=4))
    assert cost((int(s) for s in found), v, i, w, states) <= least + 1e-4


@pytest.mark.parametrize("states", MASKS)
def test_a_path_that_is_decided_in_parts_is_nearly_as_cheap(states: int) -> None:
    """Several windows long, cost for cost with one that is short enough for a single one."""
    rng = np.random.default_rng(0)
    values = np.tile((2 * rng.normal(size=(1, 1, WINDOW // 2))).astype(np.float32), 6)
    one = values[..., : WINDOW // 2]
    assert total(states, values) < 6.003 * total(states, one)


@pytest.mark.parametrize("states", [n for n in MASKS if n > min(MASKS)])
def test_more_states_cost_less(states: int) -> None:
    values = (2 * np.random.default_rng(1).normal(size=(1, 1, 20000))).astype(np.float32)
    assert total(states, values) < 0.999 * total(max(n for n in MASKS if n < states), values)


def total(states: int, values: Values) -> float:
    """Cost of what is found for ``values`` [1, 1, M] of one scale."""
    indexes, weights = np.full(values.shape, 7, np.uint8), np.full(values.shape[-1], 8.0, np.float32)
    symbols = QUANTISERS[states](values, indexes, weights, NO_PREDICTION).symbols[0, 0]
    return cost((int(s) for s in symbols), values[0, 0], indexes[0, 0], weights, states)


def quantised(
    shape: tuple[int, int, int], seed: int, predicted_channels: int = 0, states: int = 64
) -> tuple[QuantisedLatents, Values, Indexes, Values]:
    rng = np.random.default_rng(seed)
    indexes = KINDS[rng.integers(0, len(KINDS), shape)]
    values = (SCALES.numpy()[indexes] * rng.normal(size=shape)).astype(np.float32)
    prediction = rng.uniform(-0.2, 0.2, (predicted_channels, 4 * predicted_channels)).astype(np.float32)
    weights = rng.uniform(0.5, 2, shape[-1]).astype(np.float32)
    return QUANTISERS[states](values, indexes, weights, prediction), values, indexes, prediction


@pytest.mark.parametrize("states", MASKS)
@PROPERTY
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 6), st.data())
def test_the_decoder_finds_what_the_encoder_saw(
    states: int, rows: int, columns: int, channels: int, drawn: st.DataObject
) -> None:
    known, shape = drawn.draw(st.integers(0, channels)), (rows, columns, channels)
    choice, _, indexes, prediction = quantised(shape, drawn.draw(st.integers(0, 99)), known, states)
    order = [place for place in in_order(shape, known) if indexes[place] >= 1]
    coded = tuple(np.array(order, int).reshape(-1, 3).T)
    data = encode(choice.symbols[coded], choice.tables[coded], TABLES)
    decoder = Decoder(data, TABLES)
    symbols = decoder.decode(indexes[coded], state_machine(MACHINES[states]))
    decoder.finish()
    places = np.ravel_multi_index(coded, shape).astype(np.int32)
    values = dequantise(symbols, indexes[coded], places, shape, MACHINES[states])
    assert (symbols == choice.symbols[coded]).all()
    assert (values == chosen_values(choice, MACHINES[states])).all()
    assert (choice.symbols[indexes < 1] == 0).all()
    assert (restore(values, prediction) == choice.restored).all()


@PROPERTY
@given(st.integers(1, 7), st.integers(1, 7), st.integers(1, 5), st.data())
def test_predicted_symbols_come_first_and_after_what_predicts_them(
    rows: int, columns: int, channels: int, drawn: st.DataObject
) -> None:
    known, shape = drawn.draw(st.integers(0, channels)), (rows, columns, channels)
    order = scan_order(*shape, known)
    places = [place for first, last in order.runs for place in range(first, last)]
    expected = in_order(shape, known)
    assert [tuple(map(int, np.unravel_index(place, shape))) for place in places] == expected
    assert order.fronts[-1] == len(order.runs)
    front = np.full(shape, -1)
    for number, (begin, end) in enumerate(pairwise([0, *order.fronts])):
        assert begin < end
        for first, last in order.runs[begin:end]:
            front.reshape(-1)[first:last] = number
    for i, j in np.ndindex(rows, columns):
        for k, m in ((i, j - 1), (i - 1, j), (i - 1, j - 1), (i - 1, j + 1)):
            if known and k >= 0 and 0 <= m < columns:
                assert front[k, m, :known].max() < front[i, j, :known].min()


def test_the_settings_allow_the_machines_that_there_are() -> None:
    assert get_args(HyperpriorSettings.model_fields["trellis_states"].annotation) == tuple(MASKS)


@PROPERTY
@given(st.binary(max_size=80), st.integers(1, 40), st.sampled_from(list(MASKS)))
def test_random_bytes_never_do_more_than_raise(data: bytes, count: int, states: int) -> None:
    indexes = np.resize(KINDS[1:], count)
    try:
        decoder = Decoder(data, TABLES)
        symbols = decoder.decode(indexes, state_machine(MACHINES[states]))
        decoder.finish()
    except BitstreamError:
        return
    places = np.arange(count, dtype=np.int32)
    assert np.isfinite(dequantise(symbols, indexes, places, (1, 1, count), MACHINES[states])).all()


@pytest.mark.parametrize("states", MASKS)
def test_symbols_are_near_their_values_with_a_context_too(states: int) -> None:
    choice, values, indexes, _ = quantised((6, 7, 9), 3, 4, states)
    known = choice.restored.shape[-1]
    found = np.concatenate([choice.restored, chosen_values(choice, MACHINES[states])[..., known:]], -1)
    error = np.abs(found - values)[indexes >= 1]
    assert np.median(error) < SPACING
    assert np.sqrt((error**2).mean()) < 2 * SPACING  # what the prediction adds here is dearer to code than to leave


def test_of_a_large_value_the_symbol_is_as_large_as_can_be() -> None:
    values = np.array([[[1e6, -1e6, 20000.0]]], np.float32)
    choice = QUANTISERS[64](values, np.full((1, 1, 3), 8, np.uint8), np.ones(3, np.float32), NO_PREDICTION)
    assert np.abs(choice.symbols[0, 0, :2]).min() >= 32766
    assert abs(chosen_values(choice, MACHINES[64])[0, 0, 2] - 20000) < 2


@pytest.mark.parametrize("states", MASKS)
def test_both_ways_out_of_a_state_lead_on_and_two_lead_into_each(states: int) -> None:
    machine = state_machine(MACHINES[states])
    assert sorted(machine.moves.ravel().tolist()) == sorted([*range(states), *range(states)])
    assert (machine.offsets // len(SCALES) - 1).sum() == states // 2  # half of them of the second quantiser


@pytest.mark.parametrize("quantiser", [0, 1, 2])
def test_the_masses_of_all_symbols_are_one(quantiser: int) -> None:
    mass = symbol_mass(torch.arange(-150, 151), torch.tensor(quantiser), SCALES[:, None])
    assert mass.sum(1).numpy() == pytest.approx(1)
    assert (mass >= 0).all()


def test_prices_are_what_the_entropy_coder_takes() -> None:
    found = table_prices(TABLES, len(SCALES))
    assert found.shape == PRICES.shape
    likely = PRICES < 10
    assert np.abs(found - PRICES)[likely].max() < 0.2  # what rounding leaves over is in the likeliest symbol


@pytest.mark.parametrize("scale", [2.0, 6.0])
def test_it_has_less_distortion_than_rounding_at_the_same_rate(scale: float) -> None:
    """By the entropies of what comes up: 0.4 dB and more of the 1.53 that any quantiser could gain."""
    values = (scale * np.random.default_rng(0).normal(size=(1, 200, 100))).astype(np.float32)
    alike = SETTINGS.model_copy(update={"trellis_states": 256})

    def point(index: int, weight: float, step: float = 1.0) -> tuple[float, float]:
        """(bits a symbol, mean squared error), with integers as far as a ``step`` apart."""
        prices = gaussian_prices(torch.full((len(SCALES),), scale / step, dtype=torch.float64))
        indexes, weights = np.full(values.shape, index, np.uint8), np.full(100, weight, np.float32)
        choice = TrellisQuantiser(prices, alike)(values / np.float32(step), indexes, weights, NO_PREDICTION)
        return rate_of(choice), float(np.square(values - step * chosen_values(choice, alike)).mean())

    rate, distortion = point(1, 6.0, step=1.65)
    rates, distortions = np.array(sorted(point(7, weight) for weight in (1, 1.5, 2, 3, 4, 6, 9, 14, 60))).T
    assert rates[0] < rate < rates[-1]
    at_the_rate = np.exp(np.interp(rate, rates, np.log(distortions)))
    assert 10 * np.log10(distortion / at_the_rate) > 0.4


def rate_of(choice: QuantisedLatents) -> float:
    """Bits a symbol, each table by what is found in it."""
    bits = 0.0
    for table in np.unique(choice.tables):
        counts = np.unique_counts(choice.symbols[choice.tables == table]).counts
        bits -= float((counts * np.log2(counts / counts.sum())).sum())
    return bits / choice.symbols.size


def test_joined_tables_are_the_tables_of_both() -> None:
    a, b = gaussian_tables(np.array([0.5])), gaussian_tables(np.array([2.0, 3.0]))
    both: Tables = joined(a, b)
    assert both.radius.tolist() == [*a.radius.tolist(), *b.radius.tolist()]
    assert both.frequencies.sum() == 3 << 16
