"""Calibration of int8 inference: the activation scale of each layer of the synthesis at each quality.

Chosen on pictures for the least squared error of what each layer reads, between rounding coarsely and cutting off the largest
values. int8 weights and scales so chosen cost 0.1 to 0.25 % of the loss without any training, where one scale for all qualities
costs 2 %: what the layers read grows eightfold from the lowest quality to the highest.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from cnnbatch.codec.hyperprior.model import Hyperprior
from cnnbatch.codec.hyperprior.synthesis import Synthesis
from cnnbatch.codec.runtime.levels import LEVEL_MAX, ZERO_POINT
from cnnbatch.codec.transforms.int8 import HIDDEN_ZERO_POINT
from cnnbatch.codec.transforms.layers import Block
from cnnbatch.training.data import Pixels, crops

PICTURES = 48
SIDE = 128
"""Pixels a side of the crops that are looked at."""

SHARES = np.geomspace(1, 0.05, 24)
"""Shares of the scale that holds the largest value: what is tried."""


@torch.no_grad()
def calibrate_int8(model: Hyperprior, pictures: Sequence[Pixels], *, count: int | None = None) -> None:
    """Sets the activation scales of ``model``'s synthesis in place, by ``count`` crops; None: as many as usual."""
    source = crops(pictures, size=SIDE, rng=np.random.default_rng(0))
    x = torch.from_numpy(np.stack([next(source) for _ in range(count or PICTURES)])).float()
    anchors, layers = model.g_s.activation_scales.anchors, _layers(model.g_s)
    for anchor, quality in enumerate(torch.linspace(0, 63, len(anchors))):
        inputs = _inputs(model, [layer for layer, _ in layers], x, quality)
        found = [_best_scale(values, zero_point) for values, (_, zero_point) in zip(inputs, layers, strict=True)]
        anchors[anchor] = torch.log(torch.tensor(found))


def _inputs(model: Hyperprior, layers: Sequence[nn.Linear], x: Tensor, quality: Tensor) -> list[Tensor]:
    """Inputs of ``layers``, in the order in which they run."""
    inputs: list[Tensor] = []
    hooks = [layer.register_forward_pre_hook(lambda _, args: inputs.append(args[0])) for layer in layers]
    try:
        model(x, quality.expand(len(x)), noise=False)
    finally:
        for hook in hooks:
            hook.remove()
    return inputs


def _layers(synthesis: Synthesis) -> list[tuple[nn.Linear, int]]:
    """1×1 layers, as the synthesis runs them, and the zero points of what they read."""
    layers: list[tuple[nn.Linear, int]] = []
    for layer in synthesis.rounded_layers():
        if isinstance(layer, Block):
            layers += [(layer.expand, ZERO_POINT), (layer.project, HIDDEN_ZERO_POINT)]
        else:
            layers.append((layer, ZERO_POINT))
    return layers


def _best_scale(values: Tensor, zero_point: int) -> float:
    """The scale of least squared error; of nothing but zeros, 1."""
    most = max(float(values.max()) / (LEVEL_MAX - zero_point), -float(values.min()) / zero_point)
    if most <= 0:
        return 1.0
    return min((float(most * share) for share in SHARES), key=lambda scale: _error(values, scale, zero_point))


def _error(values: Tensor, scale: float, zero_point: int) -> float:
    levels = torch.round(values / scale).clamp_(-zero_point, LEVEL_MAX - zero_point)
    return float((levels * scale - values).square().mean())
