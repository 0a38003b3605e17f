"""Small dense models with random weights: what the tests of the dense architecture run on."""

from functools import cache

import numpy as np
import torch

from cnnbatch.codec import Codec
from cnnbatch.codec.codec_file import dump_codec
from cnnbatch.codec.dense.model import Dense
from cnnbatch.codec.dense.settings import DenseSettings
from cnnbatch.training.dense_data import pca
from tests.codec.models import Pixels, picture

GRAY = DenseSettings(
    height=9,
    width=14,
    channels=1,
    analysis_channels=(4, 6),
    synthesis_channels=(5, 3),
    hidden=8,
    latents=24,
    context_width=40,
    head_width=6,
    classes=("a", "b", "c"),
)
COLOUR = GRAY.model_copy(update={"height": 8, "width": 12, "channels": 3, "classes": ()})


def pictures(settings: DenseSettings, count: int, *, seed: int = 0) -> list[Pixels]:
    """Cut from larger ones, so that neighbours are alike and pictures differ."""
    height, width = settings.height, settings.width
    large = picture(40 * height, 10 * width, seed=seed)
    places = [(row * height, column * width) for row in range(40) for column in range(10)]
    chosen = np.random.default_rng(seed).permutation(len(places))[:count]
    cut = [large[top : top + height, left : left + width] for top, left in (places[n] for n in chosen)]
    return [part if settings.channels == 3 else part[..., 0].copy() for part in cut]


@cache
def dense_model(settings: DenseSettings = GRAY, seed: int = 0) -> Dense:
    """A PCA coder whose learned layers and context model, zero in a new model, are random: every path counts."""
    torch.manual_seed(seed)
    model = Dense(settings)
    pixels = np.stack(pictures(settings, 300)).reshape(300, settings.height, settings.width, settings.channels)
    model.initialise_from_pca(*pca(pixels, settings.latents, seed=0))
    with torch.no_grad():
        for layer in (model.g_a.leave, model.g_a.project, model.g_s.conv_2, model.g_s.project):
            layer.weight.copy_(0.02 * torch.randn(layer.weight.shape))
        for name, parameter in model.named_parameters():
            if name.endswith("_gain.anchors"):
                parameter.copy_(0.1 * torch.randn(parameter.shape))
        model.g_s.latent_gain.anchors.copy_(-model.g_a.latent_gain.anchors)
        model.context.mean.copy_(0.02 * torch.randn(model.context.mean.shape))
        model.context.scale.copy_(0.02 * torch.randn(model.context.scale.shape))
    return model.eval()


@cache
def dense_codec_file(settings: DenseSettings = GRAY) -> bytes:
    return dump_codec(dense_model(settings), training={"seed": 0})


@cache
def dense_codec(settings: DenseSettings = GRAY) -> Codec:
    return Codec(dense_codec_file(settings), device="cpu")
