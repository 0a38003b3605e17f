"""The context of the hyper-latents: what is coded comes back, training sees the same, and damage is told."""

import numpy as np
import numpy.typing as npt
import pytest
import torch

from cnnbatch.codec.entropy_coding.rans import Decoder, encode
from cnnbatch.codec.entropy_coding.tables import Indexes, Symbols, gaussian_tables
from cnnbatch.codec.hyperprior.hyper_context import HyperContext
from cnnbatch.codec.hyperprior.hyper_latents import EDGES, WEIGHT_UNIT, HyperTables
from cnnbatch.codec.transforms.integer_kernels import Z_MAX
from cnnbatch.errors import BitstreamError

SCALE_RANGE = (0.11, 64.0)
NUM_SCALES = 40
TABLES = gaussian_tables(np.geomspace(*SCALE_RANGE, NUM_SCALES))


def context(channels: int, seed: int = 0) -> HyperContext:
    torch.manual_seed(seed)
    found = HyperContext(channels, SCALE_RANGE, NUM_SCALES)
    with torch.no_grad():
        found.weight.copy_(0.4 * torch.randn(channels, 4))
    return found


def hyper_latents(shape: tuple[int, int, int], seed: int = 0) -> tuple[Symbols, Indexes]:
    """Busy here and quiet there, with values at the limits; and the scale index of each channel."""
    rng = np.random.default_rng(seed)
    scale = np.exp(rng.normal(0, 1.5, (*shape[:2], 1)) + rng.normal(0, 1, shape[2]))
    z = rng.normal(0, scale).round().clip(-Z_MAX, Z_MAX).astype(np.int16)
    z[0, 0, :2] = (-Z_MAX, Z_MAX)
    return z, rng.integers(0, NUM_SCALES, shape[2]).astype(np.uint8)


@pytest.mark.parametrize("shape", [(1, 1, 8), (1, 9, 8), (7, 1, 8), (5, 6, 96), (16, 16, 8)], ids=str)
def test_what_is_encoded_is_decoded(shape: tuple[int, int, int]) -> None:
    z, static = hyper_latents(shape)
    tables = context(shape[2]).tables()
    symbols, indexes = tables.encode(z, static)
    decoder = Decoder(encode(symbols, indexes, TABLES), TABLES)
    assert np.array_equal(tables.decode(decoder, shape[:2], static), z)
    decoder.finish()


def test_other_symbols_may_lie_before_and_behind() -> None:
    z, static = hyper_latents((3, 4, 8))
    tables = context(8).tables()
    symbols, indexes = tables.encode(z, static)
    other, other_index = np.array([3, -1, 0], np.int16), np.array([20, 9, 4], np.uint8)
    parts = [(other, other_index), (symbols, indexes), (other, other_index)]
    data = encode(np.concatenate([s for s, _ in parts]), np.concatenate([i for _, i in parts]), TABLES)
    decoder = Decoder(data, TABLES)
    assert np.array_equal(decoder.decode(other_index), other)
    assert np.array_equal(tables.decode(decoder, (3, 4), static), z)
    assert np.array_equal(decoder.decode(other_index), other)
    decoder.finish()


@pytest.mark.parametrize("channels", [8, 96, 200])
def test_training_sees_the_symbols_and_indexes_of_the_coder(channels: int) -> None:
    z, static = hyper_latents((9, 7, channels), seed=channels)
    net = context(channels, seed=1)
    predicted, indexes = net(torch.from_numpy(z).float()[None], torch.from_numpy(static).float()[None, None, None])
    symbols, coded = net.tables().encode(z, static)
    assert np.array_equal((torch.from_numpy(z).float()[None] - predicted).detach().numpy().ravel(), symbols)
    assert np.array_equal(indexes.clamp(0, NUM_SCALES - 1).detach().numpy().ravel(), coded)
    assert len(np.unique(coded - np.tile(static, 63).astype(int))) > 10  # the classes are not all one


def test_gradients_reach_the_hyper_latents_and_the_weights() -> None:
    net = context(8)
    torch.nn.init.constant_(net.weight, 0.25)
    z = torch.randn(1, 4, 4, 8, requires_grad=True)
    predicted, _ = net(z, torch.full((1, 1, 1, 8), 10.0))
    torch.autograd.backward(predicted.sum())
    assert z.grad is not None
    assert bool((z.grad[0, :3, :3] != 0).all())
    assert net.weight.grad is not None
    assert bool((net.weight.grad != 0).any())


def test_a_larger_weight_than_a_file_can_hold_is_held_at_its_limit() -> None:
    net = context(8)
    with torch.no_grad():
        net.weight[0, 0], net.weight[0, 1] = 5, -5
    assert net.tables().weights[0, :2].tolist() == [127, -127]
    predicted, _ = net(torch.ones(1, 1, 2, 8), torch.zeros(1, 1, 1, 8))
    assert float(predicted[0, 0, 1, 0].detach()) == np.floor(127 / WEIGHT_UNIT + 0.5)


def test_correlated_hyper_latents_cost_less() -> None:
    rng = np.random.default_rng(0)
    z = (np.cumsum(rng.normal(0, 1, (12, 12, 8)), axis=1)).round().astype(np.int16)
    static = np.full(8, 22, np.uint8)
    weights = np.zeros((8, 4), np.int64)
    weights[:, 0] = WEIGHT_UNIT
    tables = HyperTables(weights, context(8).tables().shifts, context(8).tables().inverse)
    assert size(*tables.encode(z, static)) < 0.8 * size(z.ravel(), np.tile(static, 144))


def size(symbols: Symbols, indexes: Indexes) -> int:
    return len(encode(symbols, indexes, TABLES))


def test_damage_is_told() -> None:
    z, static = hyper_latents((6, 6, 8))
    tables = context(8).tables()
    data = encode(*tables.encode(z, static), TABLES)
    with pytest.raises(BitstreamError, match="ends too early"):
        tables.decode(Decoder(data[:40], TABLES), (6, 6), static)
    beyond: npt.NDArray[np.int16] = np.full((1, 2, 8), Z_MAX + 1, np.int16)
    data = encode(*tables.encode(beyond, static), TABLES)
    with pytest.raises(BitstreamError, match="a value that cannot be"):
        tables.decode(Decoder(data, TABLES), (1, 2), static)


def test_the_edges_are_those_of_the_specification() -> None:
    assert tuple(int(256 * 2 ** (k / 4) + 0.5) for k in range(-14, 7)) == EDGES
