"""Gives a trained hyperprior a mean net of integers: taught to code the latents as well as the old one, all else as it is.

Everything but the new net is known, so a step costs a twentieth of one of training: analysis, hyper-analysis and scales of a
few crops, and then the small net forward and back.
"""

import logging
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from cnnbatch.codec.hyperprior import Hyperprior, IntegerMeanNet
from cnnbatch.codec.hyperprior_settings import HyperpriorSettings
from cnnbatch.codec.integer_net import round_half_up
from cnnbatch.codec.likelihood import gaussian_bits, noisy
from cnnbatch.training.context import analysed_pixels
from cnnbatch.training.data import Pixels, crops

logger = logging.getLogger(__name__)

CROPS, SIDE = 24, 128
"""Of a step; pixels a side."""

LEARNING_RATE = 3e-3
CONSTANT_SHARE = 0.5
"""Of the steps with that rate; then it falls."""

GUIDED_SHARE, GUIDANCE = 0.4, 0.1
"""Of the steps that also look at the old means, which shows the way at first; the weight of that."""

REPORT_STEPS = 500
FEWEST_BITS = 100.0
"""That a crop is counted with, so that those of nearly none do not outvote all others."""


def with_integer_means(model: Hyperprior, pictures: Sequence[Pixels], steps: int) -> Hyperprior:
    """A copy of ``model``, whose means are in float, with a mean net of integers after so many steps of learning."""
    values = model.settings.model_dump() | {"integer_means": True}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # every process of a run must find the same
        changed = Hyperprior(HyperpriorSettings.model_validate(values))
        kept = {name: value for name, value in model.state_dict().items() if not name.startswith("mean_net.")}
        changed.load_state_dict(kept, strict=False)
        net = changed.mean_net
        assert isinstance(net, IntegerMeanNet)
        with torch.no_grad():
            net.gain.anchors.copy_(model.mean_net.gain.anchors)
        _learn(net, model, pictures, steps)
    return changed


def _learn(net: IntegerMeanNet, model: Hyperprior, pictures: Sequence[Pixels], steps: int) -> None:
    optimiser = torch.optim.Adam(net.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98))
    source = crops(pictures, size=SIDE, rng=np.random.default_rng(0))
    for step in range(steps):
        share = step / steps
        for group in optimiser.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, step / 100, (1 - share) / (1 - CONSTANT_SHARE))
        x = torch.from_numpy(np.stack([next(source) for _ in range(CROPS)])).float()
        quality = torch.rand(CROPS) * 63
        loss, dearer = _loss(net, model, x, quality, guidance=GUIDANCE if share < GUIDED_SHARE else 0.0)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        if step % REPORT_STEPS == REPORT_STEPS - 1:
            logger.info("integer means, step %d: %+.2f %% of the bits", step + 1, 100 * dearer)


def _loss(net: IntegerMeanNet, model: Hyperprior, x: Tensor, quality: Tensor, *, guidance: float) -> tuple[Tensor, float]:
    """(what to lower, by what share the new means make latents dearer than the old ones)."""
    s = model.settings
    with torch.no_grad():
        y, z_hat = analysed_pixels(model, x, quality)
        hyper = model.hyper_synthesis(z_hat, quality)
        positions = round_half_up(hyper.scale_positions).clamp(0, s.num_scales - 1)
        scales = s.scale_at(positions)
        before = gaussian_bits(noisy(y - _means(model, hyper.means, y, quality)), scales)
    means = net(z_hat, quality)
    bits = gaussian_bits(noisy(y - _means(model, means, y, quality)), scales)
    loss = (bits / before.clamp(min=FEWEST_BITS)).mean()
    if guidance:
        loss = loss + guidance * ((means - hyper.means) / (scales + 0.3)).square().clamp(max=100).mean()
    return loss, float(bits.detach().sum() / before.sum()) - 1


def _means(model: Hyperprior, means: Tensor, y: Tensor, quality: Tensor) -> Tensor:
    if not model.settings.context_channels:
        return means
    return model.with_context(means, y, quality, noise=True)
