"""The synthesis in eight bits: products of integers and of floats give the same, and steps are fitted to pictures."""

from collections.abc import Iterator
from functools import cache
from unittest import mock

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from cnnbatch.codec import Codec, Limits
from cnnbatch.codec.codec_file import dump_codec, parse_codec
from cnnbatch.codec.hyperprior.model import Hyperprior
from cnnbatch.codec.hyperprior.settings import HyperpriorSettings
from cnnbatch.codec.runtime.levels import LEVEL_MAX, MOST_INPUTS, ZERO_POINT
from cnnbatch.codec.runtime.onednn import cpu_has_int8
from cnnbatch.codec.transforms.int8 import HIDDEN_ZERO_POINT, Int8Block, Int8Linear
from cnnbatch.codec.transforms.layers import Block, keep_variance
from cnnbatch.metrics import psnr_db
from cnnbatch.training.int8_calibration import calibrate_int8
from tests.codec.models import TINY, picture, tiny_model

SETTINGS = TINY.model_copy(update={"synthesis_blocks": (2, 2)})
PICTURES = [picture(128, 192, seed=n) for n in range(6)]


@cache
def model() -> Hyperprior:
    made = tiny_model(settings=SETTINGS)
    calibrate_int8(made, PICTURES)
    return made


@cache
def codec(limits: Limits | None = None) -> Codec:
    return Codec(dump_codec(model(), training={}), device="cpu", limits=limits)


@pytest.fixture(params=["integers", "floats"])
def arithmetic(request: pytest.FixtureRequest) -> Iterator[str]:
    """Layers that are rounded meanwhile multiply so."""
    if request.param == "integers" and not cpu_has_int8():
        pytest.skip("this CPU has no VNNI")
    with mock.patch("cnnbatch.codec.transforms.int8.cpu_has_int8", return_value=request.param == "integers"):
        yield request.param


def block(channels: int = 24) -> Block:
    torch.manual_seed(0)
    made = Block(channels)
    keep_variance(made)
    torch.nn.init.normal_(made.project.weight, std=0.2)
    torch.nn.init.normal_(made.project.bias)
    return made.requires_grad_(False)


def by_definition(made: Block, x: torch.Tensor, step: float, hidden_step: float) -> torch.Tensor:
    """docs/format.md, *Eight bits*, of one image, in float64."""

    def product(layer: torch.nn.Linear, levels: torch.Tensor, step: float) -> torch.Tensor:
        scale = (layer.weight.abs().amax(1) / 127).double()
        whole = torch.round(layer.weight / scale[:, None].float()).double()
        return (levels @ whole.T) * step * scale + layer.bias.double()

    filtered = made.filtered(x).double()
    levels = (torch.round(filtered / step) + 128).clamp(0, 255) - 128
    hidden = torch.nn.functional.hardswish(product(made.expand, levels, step))
    levels = (torch.round(hidden / hidden_step) + 64).clamp(0, 255) - 64
    return x + product(made.project, levels, hidden_step)


@torch.inference_mode()
def test_a_block_is_what_the_specification_says(arithmetic: str) -> None:
    made, x = block(), torch.randn(3, 5, 7, 24, generator=torch.Generator().manual_seed(1))
    steps, hidden_steps = torch.tensor([0.03, 0.01, 0.02]), torch.tensor([0.02, 0.05, 0.01])
    found = Int8Block(made)(x.clone(), steps, hidden_steps)
    expected = torch.cat([by_definition(made, x[n : n + 1], float(steps[n]), float(hidden_steps[n])) for n in range(3)])
    off = (found - expected).abs() > 1e-3
    assert float(off.float().mean()) < 0.02  # a value between two levels
    assert float((found - expected).abs().max()) < 0.1
    assert float((found - made(x)).abs().max()) > 1e-3, arithmetic


@torch.inference_mode()
def test_a_batch_is_its_images(arithmetic: str) -> None:
    rounded, x = Int8Block(block()), torch.randn(4, 6, 5, 24)
    for steps in (torch.full((4,), 0.02), torch.tensor([0.01, 0.02, 0.02, 0.03])):
        together = rounded(x.clone(), steps, 2 * steps)
        alone = [rounded(x[n : n + 1].clone(), steps[n : n + 1], 2 * steps[n : n + 1]) for n in range(4)]
        assert torch.equal(together, torch.cat(alone)), arithmetic


@torch.inference_mode()
def test_extremes_are_cut_off_and_a_layer_without_weights_gives_its_bias(arithmetic: str) -> None:
    layer = torch.nn.Linear(3, 2).requires_grad_(False)
    layer.weight.copy_(torch.tensor([[1.0, 0, 0], [0, 0, 0]]))
    layer.bias.copy_(torch.tensor([0.0, 5.0]))
    x = torch.tensor([1e6, 0, 0, -1e6, 0, 0]).reshape(1, 1, 2, 3)
    found = Int8Linear(layer)(x, torch.tensor([0.5]))
    assert found.flatten().tolist() == pytest.approx([0.5 * (LEVEL_MAX - ZERO_POINT), 5, -0.5 * ZERO_POINT, 5]), arithmetic
    assert LEVEL_MAX - ZERO_POINT == 127
    assert HIDDEN_ZERO_POINT == 64


class Floats:
    """In the place of `Int8Layers`: the layers as they are trained."""

    def at(self, quality: torch.Tensor) -> "Floats":
        return self

    def linear(self, layer: torch.nn.Linear, x: torch.Tensor) -> torch.Tensor:
        return layer(x)

    blocks = linear


@pytest.mark.parametrize("quality", [0, 30, 63])
def test_a_picture_is_nearly_that_of_the_floats(quality: int, arithmetic: str) -> None:
    data = dump_codec(model(), training={})
    exact, rounded = codec(), Codec(data, device="cpu")
    floats = Codec(data, device="cpu")
    floats.coder.decoder.synthesis._layers = Floats()
    for image in PICTURES[:2]:
        [bitstream] = exact.compress([image], quality)
        a, b = exact.reconstruct([bitstream])[0], rounded.reconstruct([bitstream])[0]
        assert np.mean(np.abs(a.astype(int) - b) > 1) < 1e-3, arithmetic
        [bitstream] = floats.compress([image], quality)
        assert psnr_db(image, b) == pytest.approx(psnr_db(image, floats.reconstruct([bitstream])[0]), abs=0.2)


def test_windows_and_batches_change_nothing() -> None:
    images = [picture(1100, 1040), picture(90, 140, seed=1)]
    in_windows, whole = codec(Limits(window_side=1024)), codec()
    bitstreams = whole.compress(images, [50, 20])
    for a, b in zip(in_windows.reconstruct(bitstreams), [whole.reconstruct([one])[0] for one in bitstreams], strict=True):
        assert int(np.abs(a.astype(int) - b).max()) <= 1


def test_training_goes_on_in_floats() -> None:
    trained = parse_codec(dump_codec(model(), training={})).trainable_model()
    x = torch.from_numpy(np.stack(PICTURES[:2])).float()
    x_hat, bits = trained(x, torch.tensor([5.0, 50.0]), noise=True)
    torch.autograd.backward((x_hat - x).square().mean() + bits.mean())
    fitted = ("activation_scales.anchors", "adaptive_filter.anchors")
    assert all((p.grad is None) == (name in fitted) for name, p in trained.g_s.named_parameters())


def test_steps_grow_with_what_the_layers_read() -> None:
    anchors = model().g_s.activation_scales.anchors.detach()
    assert bool(anchors.isfinite().all())
    louder = tiny_model(settings=SETTINGS)
    with torch.no_grad():
        louder.g_s.gain.anchors += 2.0  # features e² times as large
    calibrate_int8(louder, PICTURES)
    assert float((louder.g_s.activation_scales.anchors.detach() - anchors)[:, 1].mean()) == pytest.approx(2.0, abs=0.3)


@pytest.mark.parametrize(
    "product",
    [mock.Mock(side_effect=RuntimeError("another signature")), mock.Mock(return_value=torch.zeros(33, 48))],
    ids=["raises", "saturates"],
)
def test_a_product_that_is_not_exact_is_not_used(product: mock.Mock) -> None:
    vnni = mock.patch.object(torch.cpu, "get_capabilities", return_value={"avx512_vnni": True})
    with vnni, mock.patch("cnnbatch.codec.runtime.onednn.product_of_integers", product):
        assert not cpu_has_int8.__wrapped__()


def test_a_cpu_without_vnni_multiplies_floats() -> None:
    with mock.patch.object(torch.cpu, "get_capabilities", return_value={"avx2": True}):
        assert not cpu_has_int8.__wrapped__()


@pytest.mark.parametrize("changes", [{"width_16": MOST_INPUTS // 2 + 1}, {"latent_channels": MOST_INPUTS + 1}])
def test_sums_in_eight_bits_must_fit(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="less than or equal to"):
        HyperpriorSettings.model_validate(SETTINGS.model_dump() | changes)
