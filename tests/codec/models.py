"""Small models with random weights and pictures made from seeds: what the tests of the codec run on."""

import math
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cnnbatch.codec import Codec, Limits
from cnnbatch.codec.codec_file import dump_codec
from cnnbatch.codec.hyperprior.model import Hyperprior
from cnnbatch.codec.hyperprior.settings import HyperpriorSettings
from cnnbatch.codec.transforms.lapped import LappingFilter
from cnnbatch.training.klt import block_klt

Pixels = npt.NDArray[np.uint8]

STEP = 0.05
"""Of all layers in eight bits, coarse enough that nothing is cut off; `calibrate_int8` finds better ones."""

TINY = HyperpriorSettings(
    width_8=8,
    width_16=16,
    synthesis_blocks=(1, 2),
    latent_channels=16,
    hyper_channels=8,
    hyper_width=8,
    predicted_channels=3,
    scale_range=(0.11, 32.0),
    trellis_states=64,
)


def tiny_model(seed: int = 0, settings: HyperpriorSettings = TINY) -> Hyperprior:
    """A KLT coder whose learned layers, zero in a new model, are random: every path counts, and neighbours do."""
    torch.manual_seed(seed)
    model = Hyperprior(settings)
    model.initialise_from_klt(*klt(settings.latent_channels))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("project.weight", "leave.weight", "gain.anchors", "prediction.anchors")):
                parameter.copy_(0.05 * torch.randn(parameter.shape))
        model.mean_net.step_mixing.copy_(0.01 * torch.randn(model.mean_net.step_mixing.shape))
        model.hyper_context.weight.copy_(0.3 * torch.randn(model.hyper_context.weight.shape))
        for block in (*model.g_s.blocks_8, *model.g_s.blocks_16):
            block.project.weight.copy_(0.1 * torch.randn(block.project.weight.shape))
        model.g_s.activation_scales.anchors.fill_(math.log(STEP))
    return model.eval()


@cache
def klt(components: int) -> tuple[Tensor, Tensor]:
    return block_klt([picture(128, 192, seed=n) for n in range(3)], components, prefilter=LappingFilter(inverse=False))


@cache
def tiny_codec_file(seed: int = 0) -> bytes:
    return dump_codec(tiny_model(seed), training={"seed": seed})


@cache
def tiny_codec(seed: int = 0, limits: Limits | None = None) -> Codec:
    return Codec(tiny_codec_file(seed), device="cpu", limits=limits)


def picture(height: int, width: int, *, seed: int = 0) -> Pixels:
    """Smooth colours, edges and a little noise."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    waves = [np.sin(rows / rng.uniform(9, 60) + columns / rng.uniform(9, 60) + phase) for phase in rng.uniform(0, 6, 3)]
    edge = 40 * (rows * rng.uniform(0.3, 2) + columns > rng.uniform(0.3, 1) * (height + width))
    image = 120 + 50 * np.stack(waves, -1) + edge[..., None] + rng.normal(0, 3, (height, width, 3))
    return image.clip(0, 255).astype(np.uint8)
