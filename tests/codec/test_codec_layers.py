"""Layers of the float transforms, and how they start."""

import pytest
import torch
from torch import nn

from cnnbatch.codec.hyperprior.inference import Int8Synthesis
from cnnbatch.codec.hyperprior.synthesis import patches, without_local_mean
from cnnbatch.codec.transforms.asinh import asinh, asinh_and_magnitude
from cnnbatch.codec.transforms.integer_layers import soft_clamp
from cnnbatch.codec.transforms.lapped import LappingFilter, lapping_matrix
from cnnbatch.codec.transforms.layers import Block, depth_to_space, keep_variance, space_to_depth
from cnnbatch.training.trainer import FAN_IN, _relative_rate
from tests.codec.models import TINY, tiny_model


def test_a_new_block_is_the_identity() -> None:
    x = torch.randn(1, 4, 5, 8)
    torch.testing.assert_close(Block(8)(x), x)


def test_the_border_filters_undo_each_other() -> None:
    x = torch.randn(2, 64, 48, 3, generator=torch.manual_seed(0))
    with torch.no_grad():
        filtered = LappingFilter(inverse=False)(x)
        back = LappingFilter(inverse=True)(filtered)
    torch.testing.assert_close(back, x)
    assert not torch.allclose(filtered[:, 8:-8, 8:-8], x[:, 8:-8, 8:-8], atol=0.1)
    assert torch.equal(filtered[:, :8, :8], x[:, :8, :8])


def test_the_border_filter_leaves_a_flat_picture_flat() -> None:
    x = torch.full((1, 32, 32, 3), 77.0)
    torch.testing.assert_close(LappingFilter(inverse=False)(x), x)


def test_a_border_filter_sees_eight_pixels_on_each_side_of_a_border() -> None:
    x = torch.zeros(1, 48, 48, 3)
    x[0, 24, 24] = 1  # the last pixel that the borders at 16 know
    changed = LappingFilter(inverse=False)(x)[0].detach().abs().sum(-1) > 1e-7
    assert changed.any(1).nonzero().flatten().tolist() == list(range(24, 40))
    assert changed.any(0).nonzero().flatten().tolist() == list(range(24, 40))


def test_lapping_has_the_coding_gain_it_is_for() -> None:
    """Of a first-order process of correlation 0.95, in dB: DCT of 16 points 9.46, lapped 9.93."""
    assert coding_gain_db(torch.eye(16, dtype=torch.float64)) == pytest.approx(9.455, abs=0.01)
    assert coding_gain_db(lapping_matrix(16)) == pytest.approx(9.926, abs=0.01)


def coding_gain_db(border: torch.Tensor, blocks: int = 5) -> float:
    size, taps = 16 * blocks, len(border)
    k = torch.arange(16, dtype=torch.float64)
    dct = torch.cos(torch.pi * k[:, None] * (2 * k + 1) / 32) / 8**0.5
    dct[0] /= 2**0.5
    filters = torch.eye(size, dtype=torch.float64)
    for place in range(16, size, 16):
        inner = slice(place - taps // 2, place + taps // 2)
        filters[inner, inner] = border
    analysis = torch.block_diag(*[dct] * blocks) @ filters
    samples = torch.arange(size, dtype=torch.float64)
    covariance = 0.95 ** (samples[:, None] - samples).abs()
    middle = slice(32, 48)
    variances = (analysis @ covariance @ analysis.T).diagonal()[middle]
    norms = torch.linalg.inv(analysis).square().sum(0)[middle]
    return float(-10 * torch.log10(variances * norms).mean())


def test_layers_start_with_outputs_as_large_as_their_inputs() -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(192, 96), nn.Linear(96, 384))
    x = torch.randn(1000, 192)
    with torch.no_grad():
        assert layers(x).std() < 0.5  # as torch starts them
        keep_variance(layers)
        assert float(layers(x).std()) == pytest.approx(1, abs=0.1)


def test_layers_that_start_at_zero_stay_there() -> None:
    block = Block(8)
    keep_variance(block)
    assert not block.project.weight.any()
    assert float(block.depthwise.weight.detach()[:, 0, 1, 1].mean()) == pytest.approx(0.8, abs=0.3)


@pytest.mark.parametrize(
    ("start", "direction", "gradient"),
    [(0.5, 1.0, 1.0), (-1.0, -1.0, 0.25), (-1.0, 1.0, 0.0), (2.0, 1.0, 0.25), (2.0, -1.0, 0.0)],
)
def test_outside_the_clamp_the_gradient_leads_only_back(start: float, direction: float, gradient: float) -> None:
    x = torch.tensor([start], requires_grad=True)
    clamped = soft_clamp(x, 0, 1, share=0.25)
    assert clamped == min(max(start, 0), 1)
    clamped.backward(torch.tensor([direction]))
    assert x.grad == direction * gradient


def test_patches_are_the_picture_in_another_order() -> None:
    blocks = torch.randn(2, 3, 4, 16 * 16 * 3)
    picture = depth_to_space(blocks, 16)
    torch.testing.assert_close(depth_to_space(patches(blocks).flatten(3), 2), space_to_depth(picture, 8))


def test_a_slope_looks_alike_everywhere_inside() -> None:
    """Without its local mean a patch of a smooth slope is the same at any brightness."""
    slope = torch.arange(64.0)[None, :, None, None].expand(1, 64, 64, 3)
    seen = without_local_mean(space_to_depth(space_to_depth(slope, 8), 2).reshape(1, 4, 4, 4, 64, 3))
    seen = depth_to_space(seen.flatten(3), 2)
    torch.testing.assert_close(seen[0, 1], seen[0, 6])
    assert seen.abs().max() <= 8
    flat = torch.full((1, 1, 1, 4, 64, 3), 100.0)
    assert not without_local_mean(flat).any()


def test_matrices_of_the_transforms_learn_by_their_number_of_inputs() -> None:
    weight = nn.Parameter(torch.zeros(96, 192))
    assert _relative_rate("g_s.blocks_8.0.project.weight", weight) == FAN_IN / 192
    assert _relative_rate("mean_net.enter.weight", weight) == 1
    assert _relative_rate("g_s.gain.anchors", weight) == 1
    assert _relative_rate("g_a.bypass.weight", weight) < 1


@pytest.mark.parametrize("gradients", [True, False])
def test_asinh_is_that_of_float64(gradients: bool) -> None:
    magnitudes = torch.cat([torch.zeros(1), torch.logspace(-12, 12, 999)])
    x = torch.cat([magnitudes, -magnitudes]).reshape(2, -1).requires_grad_(gradients)
    with torch.set_grad_enabled(gradients):
        found = asinh(x).detach().double()
    expected = torch.asinh(x.detach().double())
    assert float(((found - expected).abs() / expected.abs().clamp(min=1)).max()) < 2e-7
    assert bool((found * expected >= 0).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(7,), (2, 3, 5, 33)])
def test_asinh_and_its_magnitude_are_the_same_with_gradients_and_without(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x = (30 * torch.randn(shape, generator=torch.Generator().manual_seed(0))).to(dtype)
    with torch.inference_mode():
        found = asinh_and_magnitude(x)
    assert found.dtype == dtype
    expected = torch.asinh(x.double())
    expected = torch.cat([expected, expected.abs()], -1)
    assert bool(((found.double() - expected).abs() <= (1e-6 if dtype == torch.float32 else 2**-8) * expected.abs()).all())
    if dtype == torch.float32:
        torch.testing.assert_close(asinh_and_magnitude(x.requires_grad_()).detach(), found)


@pytest.mark.parametrize("qualities", [[20.0, 20.0, 20.0], [0.0, 31.5, 63.0]])
def test_merged_matrices_give_what_the_layers_give(qualities: list[float]) -> None:
    model = tiny_model().g_s
    generator, quality = torch.Generator().manual_seed(0), torch.tensor(qualities)
    with torch.inference_mode():
        model.see.bias += torch.randn(model.see.bias.shape, generator=generator)
        model.see_gain.anchors += torch.randn(model.see_gain.anchors.shape, generator=generator)
        model.leave.weight += 0.1 * torch.randn(model.leave.weight.shape, generator=generator)
        y_hat = 5 * torch.randn(3, 4, 5, TINY.latent_channels, generator=generator)
        on_cpu, elsewhere = Int8Synthesis(model), Int8Synthesis(model)
        elsewhere._merged = None
        for found, part in zip(on_cpu._parts(y_hat, quality), elsewhere._parts(y_hat, quality), strict=True):
            torch.testing.assert_close(found, part, rtol=1e-4, atol=2e-3)
        a, b = (one.pixels(y_hat, quality).int() for one in (on_cpu, elsewhere))
        torch.testing.assert_close(on_cpu.planes(y_hat, quality), elsewhere.planes(y_hat, quality), rtol=1e-3, atol=0.1)
    assert float((a - b).abs().max()) <= 1
