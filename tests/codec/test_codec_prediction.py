"""Means predicted from decoded neighbours: encoder and decoder see the same."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnbatch.codec.hyperprior.model import known_neighbours
from cnnbatch.codec.hyperprior.settings import HyperpriorSettings
from cnnbatch.codec.quantisation.prediction import restore
from cnnbatch.codec.quantisation.prices import gaussian_prices
from cnnbatch.codec.quantisation.trellis_search import TrellisQuantiser


def test_the_prediction_sees_what_is_decoded_before_and_nothing_else() -> None:
    values = torch.arange(2 * 3 * 2, dtype=torch.float32).reshape(1, 2, 3, 2)
    at_last = known_neighbours(values)[0, 1, 2].tolist()
    assert at_last == [*values[0, 1, 1].tolist(), *values[0, 0, 2].tolist(), *values[0, 0, 1].tolist(), 0, 0]
    assert known_neighbours(values)[0, 0, 0].tolist() == [0] * 8


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 3), st.integers(0, 2**31))
def test_the_decoder_restores_what_the_encoder_saw(rows: int, columns: int, channels: int, seed: int) -> None:
    """Of integers on their own."""
    rng = np.random.default_rng(seed)
    values = rng.normal(0, 5, (rows, columns, channels + 2)).astype(np.float32)
    prediction = rng.normal(0, 0.2, (channels, 4 * channels)).astype(np.float32)
    indexes = rng.integers(0, 2, values.shape).astype(np.uint8)
    scales = torch.tensor([0.5, 6.0], dtype=torch.float64)
    quantise = TrellisQuantiser(gaussian_prices(scales), HyperpriorSettings(num_scales=2, coded_from=0))
    symbols, found, *_ = quantise(values, indexes, np.full(channels + 2, 8, np.float32), prediction)
    assert (restore(symbols, prediction) == found).all()
    assert (np.abs(found - values[..., :channels]) < 1).all()
    expected = torch.einsum("nhwj,kj->nhwk", known_neighbours(torch.from_numpy(found)[None]), torch.from_numpy(prediction))
    np.testing.assert_allclose(found - symbols[..., :channels], expected[0].numpy(), atol=1e-3)


def test_without_a_context_nothing_is_predicted() -> None:
    symbols = np.ones((2, 2, 3), np.int16)
    assert restore(symbols, np.zeros((0, 0), np.float32)).shape == (2, 2, 0)


def test_more_context_than_latents_is_refused() -> None:
    with pytest.raises(ValueError, match="predicted_channels"):
        HyperpriorSettings(latent_channels=16, predicted_channels=17)
