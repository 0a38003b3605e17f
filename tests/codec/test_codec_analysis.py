"""The analysis: one matrix product for each picture, the same that training sees layer by layer."""

from unittest import mock

import numpy as np
import pytest
import torch

from cnnbatch.codec import Codec, Limits
from cnnbatch.codec.geometry import GREY
from cnnbatch.codec.hyperprior.encoder import FLOATS_FROM
from cnnbatch.codec.hyperprior.folded_analysis import KEPT_MATRICES, FoldedAnalysis
from cnnbatch.codec.transforms.lapped import LappingFilter
from cnnbatch.codec.transforms.lapped_kernels import lapped_blocks
from cnnbatch.codec.transforms.layers import space_to_depth
from cnnbatch.metrics import psnr_db
from tests.codec.models import Pixels, picture, tiny_codec_file, tiny_model

QUALITY = torch.tensor([0.0, 20.25, 63.0])


def shifted(image: Pixels) -> torch.Tensor:
    """[1, H, W, 3], as the encoder gives it to the analysis."""
    return torch.from_numpy(image.astype(np.int16) - GREY).to(torch.int8)[None]


def test_one_matrix_is_all_the_layers() -> None:
    model = tiny_model()
    with torch.no_grad():
        for bias in (model.g_a.enter.bias, model.g_a.down.bias, model.g_a.leave.bias):
            bias.copy_(0.1 * torch.randn(bias.shape))
        x = torch.from_numpy(np.stack([picture(64, 128, seed=n).astype(np.int16) - GREY for n in range(len(QUALITY))])).to(
            torch.int8
        )
        folded, layers = FoldedAnalysis(model.g_a)(x, QUALITY), model.g_a(x, QUALITY)
        model.g_a.leave.weight.zero_()
        without = model.g_a(x, QUALITY)
    torch.testing.assert_close(folded, layers, rtol=1e-4, atol=1e-3)
    assert float((layers - without).abs().max()) > 0.1


def test_bf16_is_near_the_layers_and_training_goes_on_beside_it() -> None:
    model = tiny_model()
    x = shifted(picture(64, 128))
    folded = FoldedAnalysis(model.g_a)
    before = folded(x, QUALITY[:1])
    torch.testing.assert_close(folded(x, QUALITY[:1], bf16=True), before, rtol=0.02, atol=0.02 * float(before.abs().max()))
    with torch.no_grad():
        model.g_a.bypass.weight.zero_()
    assert torch.equal(folded(x, QUALITY[:1]), before)


def test_pictures_are_coded_alone_together_and_in_windows() -> None:
    data = tiny_codec_file()
    codec, in_windows = Codec(data, device="cpu"), Codec(data, device="cpu", limits=Limits(window_side=1024))
    images = [picture(1100, 1040), picture(90, 140, seed=1)]
    together = codec.compress(images, [50, 20])
    for image, quality, bitstream in zip(images, [50, 20], together, strict=True):
        [decoded] = codec.reconstruct([bitstream])
        assert psnr_db(image, decoded) > 20
        for other in (codec, in_windows):
            [alone] = other.compress([image], quality)
            assert len(alone) == pytest.approx(len(bitstream), rel=1e-3)
            assert psnr_db(image, other.reconstruct([alone])[0]) == pytest.approx(psnr_db(image, decoded), abs=0.05)


def test_from_some_quality_on_pictures_are_analysed_in_floats() -> None:
    with mock.patch("cnnbatch.codec.hyperprior.encoder.cpu_has_bf16", return_value=True):
        codec = Codec(tiny_codec_file(), device="cpu")
    kinds: dict[float, torch.dtype] = {}
    analysis = codec.coder.encoder.analysis

    def noting(x: torch.Tensor, quality: torch.Tensor, *, bf16: bool) -> torch.Tensor:
        kinds.update((float(q), torch.bfloat16 if bf16 else torch.float32) for q in quality)
        return analysis(x, quality, bf16=bf16)

    codec.coder.encoder.analysis = noting
    image, qualities = picture(64, 96), [63, FLOATS_FROM - 0.25, FLOATS_FROM, 4]
    together = codec.compress([image] * 4, qualities)
    rough, fine = torch.bfloat16, torch.float32
    assert kinds == {63: fine, FLOATS_FROM - 0.25: rough, FLOATS_FROM: fine, 4: rough}
    for bitstream, quality in zip(together, qualities, strict=True):
        assert len(bitstream) == pytest.approx(len(codec.compress([image], quality)[0]), rel=1e-2)


@pytest.mark.parametrize("shape", [(1, 16, 16), (2, 32, 80), (1, 208, 48)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_compiled_filter_is_the_layers(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-128, 128, (*shape, 3), generator=generator, dtype=torch.int8)
    border = LappingFilter(inverse=False)
    with torch.no_grad():
        border.weight += 0.1 * torch.randn(border.weight.shape, generator=generator)
        expected = space_to_depth(border(x.float()), 16)
    bf16 = dtype == torch.bfloat16
    blocks = lapped_blocks(x.numpy(), border.weight.detach().numpy(), bf16=bf16)
    found = torch.from_numpy(blocks.view(np.int16)).view(dtype) if bf16 else torch.from_numpy(blocks)
    torch.testing.assert_close(found.float(), expected, rtol=2**-8 if dtype == torch.bfloat16 else 1e-5, atol=1e-4)


def test_matrices_are_kept_and_still_those_of_their_quality() -> None:
    g_a = tiny_model().g_a
    x = shifted(picture(64, 128))
    qualities = [torch.tensor([q]) for q in (0.0, 20.25, 63.0)] + [torch.tensor([q / 4]) for q in range(2 * KEPT_MATRICES)]
    expected = [FoldedAnalysis(g_a)(x, q) for q in qualities]
    folded = FoldedAnalysis(g_a)
    for _ in range(2):
        for q, y in zip(qualities, expected, strict=True):
            assert torch.equal(folded(x, q), y)
