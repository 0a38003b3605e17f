"""Steps of the eight-bit synthesis: how coarsely each layer's inputs are rounded at each quality.

Chosen on pictures for the least squared error of what each layer reads, between rounding coarsely and cutting off the largest
values. Weights in eight bits and steps so chosen cost 0.1 to 0.25 % of the loss without any training, where one step for all
qualities costs 2 %: what the layers read grows eightfold from the lowest quality to the highest.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from cnnbatch.codec.hyperprior.model import Hyperprior
from cnnbatch.codec.hyperprior.synthesis import Synthesis
from cnnbatch.codec.runtime.onednn import LEVEL_MAX, ZERO
from cnnbatch.codec.transforms.int8 import HIDDEN_ZERO
from cnnbatch.codec.transforms.layers import Block
from cnnbatch.training.data import Pixels, crops

PICTURES = 48
SIDE = 128
"""Pixels a side of the crops that are looked at."""

SHARES = np.geomspace(1, 0.05, 24)
"""Of the step that holds the largest value: what is tried."""


@torch.no_grad()
def fit_steps(model: Hyperprior, pictures: Sequence[Pixels]) -> None:
    """Sets the steps of ``model``'s synthesis in place."""
    source = crops(pictures, size=SIDE, rng=np.random.default_rng(0))
    x = torch.from_numpy(np.stack([next(source) for _ in range(PICTURES)])).float()
    anchors, layers = model.g_s.steps.anchors, _layers(model.g_s)
    for anchor, quality in enumerate(torch.linspace(0, 63, len(anchors))):
        inputs = _inputs(model, [layer for layer, _ in layers], x, quality)
        found = [_best_step(values, zero) for values, (_, zero) in zip(inputs, layers, strict=True)]
        anchors[anchor] = torch.log(torch.tensor(found))


def _inputs(model: Hyperprior, layers: Sequence[nn.Linear], x: Tensor, quality: Tensor) -> list[Tensor]:
    """What ``layers`` read, in the order in which they run."""
    inputs: list[Tensor] = []
    hooks = [layer.register_forward_pre_hook(lambda _, args: inputs.append(args[0])) for layer in layers]
    try:
        model(x, quality.expand(len(x)), noise=False)
    finally:
        for hook in hooks:
            hook.remove()
    return inputs


def _layers(synthesis: Synthesis) -> list[tuple[nn.Linear, int]]:
    """1×1 layers, as the synthesis runs them, and the zeros of what they read."""
    found: list[tuple[nn.Linear, int]] = []
    for layer in synthesis.rounded_layers():
        found += [(layer.expand, ZERO), (layer.project, HIDDEN_ZERO)] if isinstance(layer, Block) else [(layer, ZERO)]
    return found


def _best_step(values: Tensor, zero: int) -> float:
    """The step of least squared error; of nothing but zeros, 1."""
    most = max(float(values.max()) / (LEVEL_MAX - zero), -float(values.min()) / zero)
    if most <= 0:
        return 1.0
    return min((float(most * share) for share in SHARES), key=lambda step: _error(values, step, zero))


def _error(values: Tensor, step: float, zero: int) -> float:
    levels = torch.round(values / step).clamp_(-zero, LEVEL_MAX - zero)
    return float((levels * step - values).square().mean())
