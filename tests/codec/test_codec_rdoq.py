"""The encoder's choice of integers on their own: never dearer than rounding, and open to refinement."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from cnnbatch.codec import Codec, Limits
from cnnbatch.codec.entropy_coding.tables import PRECISION, SYMBOL_LIMIT, gaussian_tables, joined
from cnnbatch.codec.hyperprior.settings import HyperpriorSettings
from cnnbatch.codec.hyperprior.synthesis import Synthesis
from cnnbatch.codec.quantisation.prices import ESCAPE_BITS, table_prices
from cnnbatch.codec.quantisation.trellis_search import TrellisQuantiser
from cnnbatch.codec.quantisation.trellis_tables import trellis_tables
from tests.codec.models import picture, tiny_codec, tiny_codec_file

SCALES = np.array([0.11, 0.5, 2.0, 20.0])
TABLES = joined(gaussian_tables(SCALES), trellis_tables(torch.from_numpy(SCALES)))
QUANTISER = TrellisQuantiser(table_prices(TABLES, len(SCALES)), HyperpriorSettings(num_scales=len(SCALES), coded_from=0))
PROPERTY = settings(deadline=None)  # the first call compiles


def chosen_symbols(v: npt.NDArray[np.float32], i: npt.NDArray[np.uint8], w: npt.NDArray[np.float32]) -> npt.NDArray[np.int16]:
    """On their own and without a prediction: values [rows, M] of one row of positions."""
    return QUANTISER(v[None], i[None], w, np.zeros((0, 0), np.float32)).symbols[0]


values = arrays.arrays(np.float32, (3, 5), elements=st.floats(-40, 40, width=32))
indexes = arrays.arrays(np.uint8, (3, 5), elements=st.integers(0, len(SCALES) - 1))
weights = arrays.arrays(np.float32, 5, elements=st.floats(0.125, 1000, width=32))


def bits_of(symbols: npt.NDArray[np.int16], tables: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    radius = TABLES.radius[tables].astype(np.int64)
    escaped = np.abs(symbols) > radius
    place = TABLES.start[tables] + np.where(escaped, 2 * radius + 1, symbols + radius)
    return PRECISION - np.log2(TABLES.frequencies[place]) + ESCAPE_BITS * escaped


def cost(
    symbols: npt.NDArray[np.int16], v: npt.NDArray[np.float32], i: npt.NDArray[np.uint8], w: npt.NDArray[np.float32]
) -> float:
    return float((bits_of(symbols, i) + w * (v.astype(np.float64) - symbols) ** 2).sum())


@PROPERTY
@given(values, indexes, weights)
def test_the_choice_costs_no_more_than_the_nearest_integers(
    v: npt.NDArray[np.float32], i: npt.NDArray[np.uint8], w: npt.NDArray[np.float32]
) -> None:
    nearest = np.floor(v + 0.5).astype(np.int16)
    assert cost(chosen_symbols(v, i, w), v, i, w) <= cost(nearest, v, i, w) + 1e-2


@PROPERTY
@given(values, indexes, weights)
def test_a_latent_moves_less_than_a_step_and_never_away_from_zero(
    v: npt.NDArray[np.float32], i: npt.NDArray[np.uint8], w: npt.NDArray[np.float32]
) -> None:
    chosen = chosen_symbols(v, i, w).astype(np.float32)
    assert (np.abs(v - chosen) < 1).all()
    assert (np.abs(chosen) <= np.abs(np.floor(np.abs(v) + 0.5))).all()
    assert (chosen * v >= 0).all()


def test_values_beyond_all_symbols_are_held_at_the_limit() -> None:
    extreme = np.array([[1e6, -1e6, np.inf, 32767.4]], np.float32)
    found = chosen_symbols(extreme, np.zeros((1, 4), np.uint8), np.ones(4, np.float32))
    assert found.tolist() == [[SYMBOL_LIMIT, -SYMBOL_LIMIT, SYMBOL_LIMIT, SYMBOL_LIMIT]]


def rate_distortion_loss(codec: Codec, images: list[npt.NDArray[np.uint8]], quality: float, effort: int) -> float:
    bitstreams = codec.compress(images, quality, effort=effort)
    lmbda = float(codec.file.settings.lmbda(torch.tensor(quality)))
    total = 0.0
    for image, data, out in zip(images, bitstreams, codec.reconstruct(bitstreams), strict=True):
        total += lmbda * np.square(image.astype(float) - out).mean() + 8 * len(data) / (image.shape[0] * image.shape[1])
    return total


@pytest.mark.parametrize("quality", [8.0, 32.0, 56.0])
def test_effort_lowers_rate_and_distortion_together(quality: float) -> None:
    codec = Codec.load("psnr", device="cpu")
    images = [picture(192, 256, seed=3), picture(300, 540, seed=4)]  # of small ones a stream's last word would count
    losses = [rate_distortion_loss(codec, images, quality, effort) for effort in (0, 2, 4)]
    assert losses[1] < losses[0]
    assert losses[2] < losses[0]


@pytest.mark.parametrize("quality", [8.0, 30.0, 55.0])
def test_effort_makes_no_picture_dearer(quality: float) -> None:
    codec = tiny_codec()
    for seed in range(4):
        image = [picture(96, 128, seed=seed)]
        losses = [rate_distortion_loss(codec, image, quality, effort) for effort in (0, 2, 4)]
        assert max(losses[1:]) <= losses[0] * 1.002  # pixels are rounded, and words have 32 bits


def test_the_same_effort_gives_the_same_bytes() -> None:
    codec, images = Codec.load("psnr", device="cpu"), [picture(130, 170, seed=1)]
    assert codec.compress(images, 30, effort=4) == codec.compress(images, 30, effort=4)
    assert codec.compress(images, 30, effort=4) != codec.compress(images, 30)


def test_effort_leaves_the_weights_free_of_gradients() -> None:
    codec = Codec(tiny_codec_file(), device="cpu", limits=Limits(window_side=1024))
    codec.compress([picture(80, 80)], 20, effort=2)
    g_s = codec.coder.encoder.latents._synthesis  # type: ignore[attr-defined]
    assert isinstance(g_s, Synthesis)
    assert all(p.grad is None for p in g_s.parameters())


def test_effort_works_on_gray_pictures_of_one_pixel_and_over_several_tiles() -> None:
    codec = tiny_codec()
    images = [picture(1, 1)[:, :, 0], picture(1100, 40, seed=2)]
    for image, out in zip(images, codec.reconstruct(codec.compress(images, 40, effort=2)), strict=True):
        assert out.shape == image.shape
