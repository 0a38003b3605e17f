"""The inference engine of a trained hyperprior's decoder: its networks in whole numbers and fewer passes over memory.

`decoding_networks` builds it from a trained model, on the model's device; nothing in it changes any more, whatever becomes of
the model. The synthesis computes in int8, as every decoder does: that rounding is part of the format.

Shapes: N images, h × w latent positions of M channels.
"""

import copy
from dataclasses import dataclass
from typing import Protocol, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnnbatch.codec.adaptive_filter.filtering import filtered, surrounded
from cnnbatch.codec.adaptive_filter.kernels import COLOURS, LIMITS, REACH, filter_planes
from cnnbatch.codec.geometry import GREY
from cnnbatch.codec.hyperprior.hyper_transforms import MeanNet, local_steps
from cnnbatch.codec.hyperprior.settings import HyperpriorSettings
from cnnbatch.codec.hyperprior.synthesis import Synthesis, local_means, patches
from cnnbatch.codec.transforms.asinh import asinh
from cnnbatch.codec.transforms.exact_layers import ExactLinear, ExactNet
from cnnbatch.codec.transforms.int8 import Int8Layers
from cnnbatch.codec.transforms.integer_layers import IntegerNet
from cnnbatch.codec.transforms.lapped_kernels import lapped_planes
from cnnbatch.codec.transforms.layers import depth_to_space
from cnnbatch.codec.transforms.quality import FixedCurve, QualityCurve

M = TypeVar("M", bound=nn.Module)


class Decodable(Protocol):
    """The part of a hyperprior that a decoder needs."""

    settings: HyperpriorSettings
    g_s: Synthesis
    scale_net: IntegerNet
    mean_net: MeanNet
    prediction: QualityCurve


@dataclass(frozen=True, slots=True)
class DecodingNetworks:
    """The networks of a decoder; see `decoding_networks`."""

    settings: HyperpriorSettings
    scale_net: ExactNet
    """ẑ → scale positions, exact."""
    mean_net: "ExactMeanNet"
    prediction: FixedCurve
    """See `prediction_weights`."""
    synthesis: "Int8Synthesis"

    def prediction_weights(self, quality: Tensor) -> Tensor:
        """[N, K, 4·K]: what each of the K predicted channels takes of its decoded neighbours."""
        k = self.settings.predicted_channels
        return cast(Tensor, self.prediction(quality)).reshape(len(quality), k, -1)


@torch.no_grad()
def decoding_networks(model: Decodable) -> DecodingNetworks:
    """Builds the decoder's networks from ``model``."""
    return DecodingNetworks(
        model.settings,
        ExactNet(model.scale_net),
        ExactMeanNet(model.mean_net),
        FixedCurve(_frozen(model.prediction)),
        Int8Synthesis(model.g_s),
    )


class ExactMeanNet:
    """A `MeanNet` that is not trained any more."""

    def __init__(self, net: MeanNet) -> None:
        self._net, self._gain = ExactNet(net), FixedCurve(_frozen(net.gain))
        self._step_factors, self._step_mixing = ExactLinear(net.step_factors), net.step_mixing.detach().clone()

    @torch.inference_mode()
    def __call__(self, z_hat: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
        """The result of the `MeanNet`."""
        features = self._net.features(z_hat)
        with torch.autocast(z_hat.device.type, enabled=False):
            means = self._net.leave(features).mul_(torch.exp(self._gain(quality)))
            return means, local_steps(self._step_factors(features), self._step_mixing, means.shape[-1])


class Int8Synthesis:
    """A `Synthesis` that is not trained any more, with the adaptive filter behind it, as the format has it."""

    def __init__(self, synthesis: Synthesis) -> None:
        self._network = _frozen(synthesis)
        self._layers = Int8Layers(self._network.rounded_layers(), self._network.activation_scales)
        on_cpu = self._network.bypass.weight.device.type == "cpu"
        self._merged = _MergedMatrices(self._network) if on_cpu else None

    @torch.inference_mode()
    def pixels(self, y_hat: Tensor, quality: Tensor, own: Tensor | None = None) -> Tensor:
        """``y_hat`` [N, h, w, M], ``quality`` [N] → filtered, rounded half up and clamped: uint8 [N, 16h, 16w, 3].

        ``own`` [N, 3, FEATURES]: what the pictures add to the weights of the filter.
        """
        weights, step = self._network.filter_weights(quality), self._network.settings.step(quality)
        weights = weights if own is None else weights + own
        if self._merged is None:
            return filtered(self._picture(y_hat, quality), weights, step).add_(0.5).clamp_(0, 255).to(torch.uint8)
        return _filtered_pixels(self.planes(y_hat, quality), weights, step)

    @torch.inference_mode()
    def planes(self, y_hat: Tensor, quality: Tensor) -> Tensor:
        """The filter's input: float32 [N, 3, 16h + 2·REACH, 16w + 2·REACH], last pixels repeated beyond the edge."""
        if self._merged is None:
            return surrounded(self._picture(y_hat, quality))
        weight, step = self._network.postfilter.weight, self._network.settings.step(quality)
        linear, learned = (part.contiguous().numpy() for part in self._parts(y_hat, quality))
        return torch.from_numpy(lapped_planes(linear, learned, weight.numpy(), step.float().numpy(), GREY))

    @torch.inference_mode()
    def filter_weights(self, quality: Tensor) -> Tensor:
        """Weights of the adaptive filter, [N, 3, FEATURES]."""
        return self._network.filter_weights(quality)

    @torch.inference_mode()
    def grey_levels(self, quality: Tensor) -> Tensor:
        """[N, M]: grey levels of the bypass that 1 in each channel of ŷ stands for."""
        gain = torch.exp(self._network.latent_gain(quality)).flatten(1)
        return gain * self._network.settings.step(quality)[:, None]

    def _picture(self, y_hat: Tensor, quality: Tensor) -> Tensor:
        linear, learned = self._parts(y_hat, quality)
        picture = self._network.postfilter(depth_to_space(depth_to_space(linear, 2) + learned, 8))
        return cast(Tensor, picture * self._network.settings.step(quality)[:, None, None, None] + GREY)

    def _parts(self, y_hat: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
        """As `Synthesis.parts`."""
        g_s, run = self._network, self._layers.at(quality)
        features = run.linear(g_s.enter, asinh(y_hat)) * torch.exp(g_s.gain(quality))
        features = run.linear(g_s.up, run.blocks(g_s.blocks_16, features))
        scaled = y_hat * torch.exp(g_s.latent_gain(quality))
        if self._merged is None:
            blocks = patches(g_s.bypass(scaled))
            linear, features = blocks.flatten(3), features + g_s.seen(blocks, quality)
        else:
            linear = F.linear(scaled, self._merged.bypass)
            self._merged.add_seen(features, linear, scaled, torch.exp(g_s.see_gain(quality)).flatten(1))
        return linear, g_s.leave(run.blocks(g_s.blocks_8, depth_to_space(features, 2)))


def _filtered_pixels(planes: Tensor, weights: Tensor, step: Tensor) -> Tensor:
    """On a CPU: ``planes`` [N, 3, H + 2·REACH, W + 2·REACH] → uint8 [N, H, W, 3]."""
    n, _, height, width = planes.shape
    pixels = np.empty((n, height - 2 * REACH, width - 2 * REACH, COLOURS), np.uint8)
    limits = (step.float()[:, None] * torch.tensor(LIMITS)).numpy()
    for one in zip(planes.numpy(), weights.contiguous().numpy(), limits, pixels, strict=True):
        filter_planes(*one)
    return torch.from_numpy(pixels)


class _MergedMatrices:
    """Matrices of a synthesis whose products are the patches of the bypass and what the learned layers see of them."""

    def __init__(self, synthesis: Synthesis) -> None:
        blocks = patches(synthesis.bypass.weight.T[None, None])[0, 0]  # [M, 4, 64, 3]
        self.bypass = blocks.flatten(1).T.contiguous()
        self.colours = blocks.mean(2).flatten(1).T.contiguous()
        self.see = synthesis.see.weight
        of_a_colour = self.see.reshape(-1, 8 * 8, 3).sum(1)
        self.see_local = torch.cat([-of_a_colour, synthesis.see.bias[:, None]], 1)

    def add_seen(self, features: Tensor, linear: Tensor, scaled: Tensor, gain: Tensor) -> None:
        """Adds `Synthesis.seen` of the patches ``linear`` to ``features`` [N, h, w, 4·C]; ``gain`` [N, C], ``scaled``: what the
        bypass made the patches of."""
        n, h, w, _ = linear.shape
        local = local_means(F.linear(scaled, self.colours).reshape(n, h, w, 4, 3))
        local = F.pad(local, (0, 1), value=1.0)  # for the bias
        parts = [features, linear, local, gain[:, None]]
        if bool((gain == gain[0]).all()):
            parts = [part[None] for part in (features, linear, local, gain[0])]
        for into, blocks, near, own in zip(*parts, strict=True):
            total = into.view(-1, self.see.shape[0])
            total.addmm_(blocks.view(-1, self.see.shape[1]), (self.see * own.view(-1, 1)).T)
            total.addmm_(near.view(-1, 4), (self.see_local * own.view(-1, 1)).T)


def _frozen(module: M) -> M:
    """A copy that no training reaches, its curves fixed."""
    frozen = copy.deepcopy(module).requires_grad_(False).eval()
    for name, child in list(frozen.named_modules()):
        if isinstance(child, QualityCurve) and name:
            frozen.set_submodule(name, FixedCurve(child))
    return frozen
