"""The entropy coder of small pictures: what it costs beyond the entropy, escapes, and that nothing is believed."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnbatch.codec.dense.context_model import bias_table, degrees
from cnnbatch.codec.dense.symbol_coder import SMALLEST, SymbolCoder
from cnnbatch.codec.entropy_coding.tables import SYMBOL_LIMIT
from cnnbatch.errors import BitstreamError
from tests.codec.dense_models import GRAY, dense_codec_file, dense_model
from tests.codec.test_dense_file import arrays_of

ARRAYS = arrays_of(dense_codec_file())
CODER = SymbolCoder(ARRAYS, check_with=b"codec")
EXACT = np.float32(1e9)
"""A weight at which the nearest symbol is always taken."""


def encode(y: np.ndarray, steps: int = 128, weight: np.float32 = EXACT) -> list[bytes]:
    return CODER.encode(y.astype(np.float32), np.full(len(y), steps, np.uint8), np.full(y.shape, weight, np.float32))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 252), st.floats(0, 6), st.integers(0, 2**32 - 1))
def test_latents_of_any_size_come_back_within_half_a_step(steps: int, log_size: float, seed: int) -> None:
    y = np.random.default_rng(seed).laplace(0, 10**log_size, (3, GRAY.latents)).clip(-30000, 30000)
    values, found = CODER.decode(encode(y, steps))
    assert np.abs(values / 256 - y).max() <= 0.5 + 1 / 256 + 1e-3
    assert (found == steps).all()


def test_what_no_symbol_reaches_is_clipped() -> None:
    y = np.zeros((1, GRAY.latents))
    y[0, 0], y[0, 5] = 1e7, -1e7
    values, _ = CODER.decode(encode(y))
    assert abs(values[0, 0]) < 256 * (SYMBOL_LIMIT + 1) + (1 << 22)


def test_a_stream_costs_three_bytes_and_a_half_more_than_its_entropy() -> None:
    """One of quality, two that the first state holds for the check, half of one that the last state leaves empty."""
    rng = np.random.default_rng(0)
    model, quality = dense_model(), 128
    y = rng.normal(0, 1, (400, GRAY.latents)) * 3
    sizes = [len(data) for data in encode(y, quality)]
    bits = np.array([entropy(row) for row in CODER.decode(encode(y, quality))[0]])
    assert model.settings.latents == CODER.latents
    assert 3.3 < np.mean(sizes) - np.mean(bits) / 8 < 3.8


def entropy(values: np.ndarray) -> float:
    """Bits of the symbols of one picture by their tables, the context model computed in Python."""
    from cnnbatch.codec.dense.symbol_coder import _index, _input, _predict

    hidden, inputs = np.zeros(GRAY.context_width, np.int32), np.zeros(GRAY.latents, np.int32)
    known, bits = 0, 0.0
    frequencies, _, start, radius, _ = CODER.tables.compiled
    for i, value in enumerate(values.tolist()):
        mean, place, known = _predict(i, 128, known, CODER._context, inputs, hidden)
        table = _index(place, len(radius))
        symbol = (value - mean) >> 8
        inside = abs(symbol) <= radius[table]
        entry = start[table] + (symbol + radius[table] if inside else 2 * radius[table] + 1)
        bits += 16 - math.log2(frequencies[entry]) + (0 if inside else 16)
        inputs[i] = _input(value, CODER._context[6][128])
    return bits


def test_a_cheaper_symbol_is_taken_where_an_error_weighs_little() -> None:
    y = np.random.default_rng(1).laplace(0, 1, (200, GRAY.latents))
    light, heavy = (sum(map(len, encode(y, weight=np.float32(w)))) for w in (3, 1e9))
    assert light < 0.95 * heavy
    values = CODER.decode(encode(y, weight=np.float32(3)))[0]
    assert np.abs(values / 256 - y).max() < 1 + 1 / 256  # one of the two nearest, never further


@pytest.mark.parametrize("length", range(SMALLEST))
def test_a_bitstream_without_a_state_is_refused(length: int) -> None:
    with pytest.raises(BitstreamError, match=f"{length} bytes, the shortest has 4"):
        CODER.decode([bytes(length)])


def test_a_quality_over_the_highest_is_refused() -> None:
    with pytest.raises(BitstreamError, match="quality of 253"):
        CODER.decode([b"\xfd" + encode(np.zeros((1, GRAY.latents)))[0][1:]])


def test_the_check_binds_a_stream_to_what_it_was_made_for() -> None:
    other = SymbolCoder(ARRAYS, check_with=b"other")
    with pytest.raises(BitstreamError, match="of another codec"):
        other.decode(encode(np.zeros((1, GRAY.latents))))


@pytest.mark.parametrize(("latents", "width"), [(2, 2), (24, 40), (40, 7), (176, 256)])
def test_every_latent_but_the_first_is_seen_by_a_later_one(latents: int, width: int) -> None:
    found = degrees(latents, width)
    assert (np.diff(found) >= 0).all()
    assert found.min() >= 1
    assert found.max() <= latents - 1


def test_biases_are_linear_between_their_anchors() -> None:
    anchors = np.arange(8)[:, None] * 36 * np.array([1, -1])
    table = bias_table(anchors, 12)
    assert (table[:, 0] == np.arange(253)).all()
    assert (table[:, 1] == -np.arange(253)).all()
