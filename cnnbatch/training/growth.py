"""A network that starts as a trained one of other sizes: function-preserving growth, cf. Net2Net (arXiv 1511.05641).

New blocks are the identity and begin with the features of the last old one; new channels carry random features that nothing
old reads yet. So the grown model computes what the small one did, and every new weight has a gradient from the first or
second step on. Blocks of the synthesis may also be left out, the last ones with what they computed, and where λ covers another
range, every curve over quality keeps its values at each λ and goes on in a straight line beyond.
"""

import math
import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cnnbatch.codec.hyperprior.model import Hyperprior
from cnnbatch.codec.hyperprior.settings import HyperpriorSettings
from cnnbatch.codec.transforms.layers import Block, keep_variance
from cnnbatch.codec.transforms.quality_laws import NUM_ANCHORS
from cnnbatch.errors import UsageError

SIZES = ("width_8", "width_16", "synthesis_blocks")
"""Settings that may grow."""

FEWER = ("synthesis_blocks",)
"""Settings that may also shrink."""

FREE = ("trellis_states", "objective", "lmbda_range")
"""Settings that no size depends on; all others must be those of the smaller model."""

FITTED = "g_s.activation_scales.anchors"
"""Fitted when the trained network is written, with as many channels as there are layers."""

SPLIT = {"g_a.down.weight": (1, 4), "g_s.up.weight": (4, 1), "g_s.up.bias": (4,)}
"""Axes that hold the channels of several positions one after the other, and of how many: beside a change of resolution."""


@torch.no_grad()
def grown(model: Hyperprior, settings: HyperpriorSettings) -> Hyperprior:
    """A model of ``settings`` that computes what ``model`` does. Raises UsageError where it would have to shrink or change."""
    _check(model.settings, settings)
    larger = Hyperprior(settings)
    for transform in (larger.g_a, larger.g_s):
        keep_variance(transform)
    _identity_blocks(larger)
    small = {name: p for name, p in model.named_parameters() if name != FITTED}
    anchors = _anchors_at(model.settings, settings)
    for name, parameter in larger.named_parameters():
        source = small.get(_last_block(name, model))
        if source is not None:
            _embed(anchors @ source if name.endswith(".anchors") else source, parameter, SPLIT.get(name, ()))
    return larger


def _anchors_at(old: HyperpriorSettings, new: HyperpriorSettings) -> Tensor:
    """[NUM_ANCHORS, NUM_ANCHORS]: times the anchors of a curve gives those of the same curve over λ in the range of ``new``."""
    low, high = (math.log(limit) for limit in old.lmbda_range)
    lmbda = torch.log(new.lmbda(torch.linspace(0, 63, NUM_ANCHORS, dtype=torch.float64)))
    position = (lmbda - low) / (high - low) * (NUM_ANCHORS - 1)
    left = position.floor().clamp(0, NUM_ANCHORS - 2)
    share = (position - left)[:, None]
    one = torch.eye(NUM_ANCHORS, dtype=torch.float64)
    return ((1 - share) * one[left.long()] + share * one[left.long() + 1]).float()


def _last_block(name: str, model: Hyperprior) -> str:
    """The parameter of ``model`` that parameter ``name`` begins with: its own, or in a new block that of the last old one, with
    whose features a block works at once; not its last layer, which must be zero."""
    found = re.fullmatch(r"(g_s\.blocks_\d+)\.(\d+)\.((?:depthwise|expand|project)\..*)", name)
    if found is None:
        return name
    blocks, number, part = found.groups()
    last = len(list(model.get_submodule(blocks).children())) - 1
    return name if int(number) <= last or part.startswith("project") else f"{blocks}.{last}.{part}"


def _check(small: HyperpriorSettings, large: HyperpriorSettings) -> None:
    for name, old in small.model_dump(exclude=set(FREE)).items():
        new = getattr(large, name)
        pairs = list(zip(old, new, strict=True)) if isinstance(old, tuple) else [(old, new)]
        if not all(b == a or (b > a and name in SIZES) or (b < a and name in FEWER) for a, b in pairs):
            raise UsageError(f"model.{name} is {old} in the codec file to start from and cannot become {new}")


def _identity_blocks(model: nn.Module) -> None:
    """Every block passes on what comes in, so that new channels of old blocks do, too."""
    for module in model.modules():
        if isinstance(module, Block):
            nn.init.zeros_(module.project.weight)


def _embed(small: Tensor, large: Tensor, split: Sequence[int]) -> None:
    """Copies ``small`` to the first places along every axis of ``large``; old outputs read no new input."""
    splits = [*split, *(1 for _ in range(large.ndim - len(split)))]
    places = [_places(o, n, s) for o, n, s in zip(small.shape, large.shape, splits, strict=True)]
    large[places[0]] = 0
    large[torch.meshgrid(*places, indexing="ij")] = small


def _places(old: int, new: int, split: int) -> Tensor:
    return torch.cat([torch.arange(old // split) + part * (new // split) for part in range(split)])
