"""Means predicted from decoded neighbours: what is fitted, and that encoder and decoder see the same."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnbatch.codec import Codec
from cnnbatch.codec.file import dump_codec
from cnnbatch.codec.hyperprior import Hyperprior, known_neighbours
from cnnbatch.codec.hyperprior_settings import HyperpriorSettings
from cnnbatch.codec.quantisation import Quantiser, restore
from cnnbatch.rans import gaussian_tables
from cnnbatch.training.context import with_context
from tests.codec.models import TINY, picture, tiny_model

SLOPE = [np.add.outer(np.arange(192), 2 * np.arange(256))[..., None].repeat(3, 2).astype(np.uint8) // 3 for _ in range(4)]
"""Pictures whose blocks continue their neighbours."""


def fitted(channels: int = 4) -> Hyperprior:
    plain = tiny_model(settings=TINY.model_copy(update={"context_channels": 0}))
    return with_context(plain, SLOPE, channels).eval()


def bits(model: Hyperprior, quality: float = 40.0) -> float:
    with torch.no_grad():
        _, found = model(torch.from_numpy(SLOPE[0])[None].float(), torch.tensor([quality]), noise=False)
    return float(found)


def test_a_context_lowers_the_bits_of_pictures_that_go_on_from_block_to_block() -> None:
    plain = tiny_model(settings=TINY.model_copy(update={"context_channels": 0}))
    assert bits(fitted()) < 0.9 * bits(plain)


def test_what_a_context_predicts_is_coded_and_comes_back() -> None:
    codec = Codec(dump_codec(fitted(), training={}), device="cpu")
    plain = Codec(dump_codec(tiny_model(settings=TINY.model_copy(update={"context_channels": 0})), training={}), device="cpu")
    images = [SLOPE[0], picture(70, 1100, seed=3), picture(1, 1)]
    found = codec.reconstruct(codec.compress(images, 45))
    for image, out, other in zip(images, found, plain.reconstruct(plain.compress(images, 45)), strict=True):
        assert np.abs(image.astype(int) - out).mean() <= 1.15 * np.abs(image.astype(int) - other).mean() + 0.5
    assert len(codec.compress([SLOPE[0]], 45)[0]) < len(plain.compress([SLOPE[0]], 45)[0])


def test_the_prediction_sees_what_is_decoded_before_and_nothing_else() -> None:
    values = torch.arange(2 * 3 * 2, dtype=torch.float32).reshape(1, 2, 3, 2)
    at_last = known_neighbours(values)[0, 1, 2].tolist()
    assert at_last == [*values[0, 1, 1].tolist(), *values[0, 0, 2].tolist(), *values[0, 0, 1].tolist(), 0, 0]
    assert known_neighbours(values)[0, 0, 0].tolist() == [0] * 8


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 3), st.integers(0, 2**31))
def test_the_decoder_restores_what_the_encoder_saw(rows: int, columns: int, channels: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(0, 5, (rows, columns, channels + 2)).astype(np.float32)
    context = rng.normal(0, 0.2, (channels, 4 * channels)).astype(np.float32)
    indexes = rng.integers(0, 2, values.shape).astype(np.uint8)
    quantise = Quantiser(gaussian_tables(np.array([0.5, 6.0])))
    symbols, found, *_ = quantise(values, indexes, np.full(channels + 2, 8, np.float32), context)
    assert (restore(symbols, context) == found).all()
    assert (np.abs(found - values[..., :channels]) < 1).all()
    expected = torch.einsum("nhwj,kj->nhwk", known_neighbours(torch.from_numpy(found)[None]), torch.from_numpy(context))[
        0
    ].numpy()
    np.testing.assert_allclose(found - symbols[..., :channels], expected, atol=1e-3)


def test_without_a_context_nothing_is_predicted() -> None:
    symbols = np.ones((2, 2, 3), np.int16)
    assert restore(symbols, np.zeros((0, 0), np.float32)).shape == (2, 2, 0)


def test_more_context_than_latents_is_refused() -> None:
    with pytest.raises(ValueError, match="context_channels"):
        HyperpriorSettings(latent_channels=16, context_channels=17)
