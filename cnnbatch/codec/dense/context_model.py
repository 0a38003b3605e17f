"""The context model: mean and scale index of each latent from the ones before it, in integers wherever it decides.

A masked autoencoder of one hidden layer (Germain et al. 2015, arXiv 1502.03509): hidden unit k sees the latents before
number `degrees`[k], latent i sees the hidden units whose degree is at most i. It is trained in float; a codec file holds
it as integers (`integers`), and only those are ever used for coding, by `cnnbatch.codec.dense.symbol_coder`: 64-bit sums of
16-bit weights, so mean and scale index are the same on every machine.
"""

import math
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnnbatch.codec.container.bitstream import MAX_QUALITY_STEPS
from cnnbatch.codec.transforms.quality import interpolation_weights
from cnnbatch.codec.transforms.quality_laws import NUM_ANCHORS

LATENT_UNIT: Final = 64.0
"""Grey levels of an orthonormal transform that the context model sees as 1."""

VALUE_BITS: Final = 8
"""ŷ and μ are whole numbers of 2⁻⁸ quantisation steps."""

INPUT_BITS: Final = 8
"""Inputs are whole numbers of 2⁻⁸ `LATENT_UNIT`, at most `INPUT_MAX`."""

INPUT_MAX: Final = 1 << 20
HIDDEN_BITS: Final = 10
HIDDEN_MAX: Final = (1 << 16) - 1
ANCHOR_BITS: Final = 12
MEAN_MAX: Final = 1 << 24

VALUE_MAX: Final = 1 << 22
"""Largest |μ| in 2⁻⁸ steps."""

MIN_SHIFT, MAX_SHIFT = 4, 20
STEPS_BETWEEN_ANCHORS: Final = MAX_QUALITY_STEPS // (NUM_ANCHORS - 1)
PARTS: Final = ("enter", "mean", "scale")
Integers = dict[str, npt.NDArray[np.integer]]


def degrees(latents: int, width: int) -> npt.NDArray[np.int64]:
    """[width], rising: how many latents each hidden unit sees, 1 … latents − 1."""
    return np.minimum(latents - 1, 1 + np.arange(width) * latents // width)


class Context(nn.Module):
    """The float model; `forward` serves training, `integers` a codec file."""

    enter_mask: Tensor
    leave_mask: Tensor

    def __init__(self, *, latents: int, width: int, num_scales: int, scale_range: tuple[float, float]) -> None:
        super().__init__()
        self.num_scales, self.scale_range = num_scales, scale_range
        degree, order = degrees(latents, width), np.arange(latents)
        enter_mask, leave_mask = order < degree[:, None], degree <= order[:, None]
        self.register_buffer("enter_mask", torch.tensor(enter_mask, dtype=torch.float32), persistent=False)
        self.register_buffer("leave_mask", torch.tensor(leave_mask, dtype=torch.float32), persistent=False)
        fan_in = torch.from_numpy(degree[:, None].astype(np.float32))
        # on the CPU even under the device meta, where normal numbers import torch's compiler
        normal = partial(torch.randn, device="cpu")
        self.enter = nn.Parameter(0.1 * normal(width, latents) / fan_in.sqrt())
        self.enter_anchors = nn.Parameter(0.5 * normal(width).expand(NUM_ANCHORS, width).clone())
        self.mean = nn.Parameter(torch.zeros(latents, width))
        self.mean_anchors = nn.Parameter(torch.zeros(NUM_ANCHORS, latents))
        self.scale = nn.Parameter(torch.zeros(latents, width))
        self.scale_anchors = nn.Parameter(torch.zeros(NUM_ANCHORS, latents))

    def forward(self, y_hat: Tensor, step: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
        """``y_hat`` [N, L] in steps, ``step`` [N] in grey levels, ``quality`` [N] → (means, scales), [N, L] in steps."""
        with torch.autocast(y_hat.device.type, enabled=False):
            unit = step[:, None] / LATENT_UNIT
            at = interpolation_weights(quality)
            hidden = F.relu(F.linear(y_hat * unit, self.enter * self.enter_mask) + at @ self.enter_anchors)
            means = F.linear(hidden, self.mean * self.leave_mask) + at @ self.mean_anchors
            log_scales = F.linear(hidden, self.scale * self.leave_mask) + at @ self.scale_anchors
            low, high = (math.log(value) for value in self.scale_range)
            return means / unit, torch.exp(log_scales.clamp(low, high))

    @torch.no_grad()
    def initialise(self, deviations: Tensor, steps: Tensor) -> None:
        """``deviations`` [L] of the latents and ``steps`` Δ at each anchor, in grey levels: independent Gaussians.

        Each input counts alike at first, whatever its deviation.
        """
        self.enter.div_((deviations / LATENT_UNIT).clamp(min=0.3))
        self.enter.mul_(3.0)
        scales = 0.6 * deviations / steps[:, None]
        self.scale_anchors.copy_(torch.log(scales.clamp(*self.scale_range)))

    @torch.no_grad()
    def integers(self, steps: npt.NDArray[np.float64]) -> Integers:
        """The arrays in a codec file; ``steps`` [253]: Δ(q) in grey levels at every quarter step of quality."""
        low, high = self.scale_range
        per_nat = (self.num_scales - 1) / math.log(high / low)
        weights = {
            "enter": self.enter * self.enter_mask,
            "mean": self.mean * self.leave_mask,
            "scale": self.scale * self.leave_mask * per_nat,
        }
        anchors = {
            "enter": self.enter_anchors,
            "mean": self.mean_anchors,
            "scale": (self.scale_anchors - math.log(low)) * per_nat,
        }
        arrays: Integers = {
            "context.input_unit": np.rint(steps * 2.0**16 * 2.0 ** (INPUT_BITS - VALUE_BITS) / LATENT_UNIT).astype(np.int32),
            "context.mean_unit": np.rint(LATENT_UNIT / steps * 2.0 ** (20 + VALUE_BITS - ANCHOR_BITS)).astype(np.int32),
        }
        for part in PARTS:
            shift = _shift(weights[part])
            arrays[f"context.{part}.weight"] = np.rint(weights[part].double().numpy() * 2.0**shift).astype(np.int16)
            arrays[f"context.{part}.shift"] = np.array([shift], np.int8)
            arrays[f"context.{part}.anchors"] = np.rint(anchors[part].double().numpy() * 2.0**ANCHOR_BITS).astype(np.int32)
        return arrays

    @torch.no_grad()
    def take(self, arrays: Integers) -> None:
        """The inverse of `integers`, within its rounding: to go on training from a codec file."""
        low, high = self.scale_range
        per_nat = (self.num_scales - 1) / math.log(high / low)
        for part in PARTS:
            unit = 2.0 ** -float(arrays[f"context.{part}.shift"][0]) / (per_nat if part == "scale" else 1.0)
            weight = torch.from_numpy(arrays[f"context.{part}.weight"].astype(np.float32)) * unit
            anchors = torch.from_numpy(arrays[f"context.{part}.anchors"].astype(np.float32)) * 2.0**-ANCHOR_BITS
            getattr(self, part).copy_(weight)
            getattr(self, f"{part}_anchors").copy_(anchors / per_nat + math.log(low) if part == "scale" else anchors)


def _shift(weight: Tensor) -> int:
    """The largest for which every |w| · 2^shift fits 16 bits."""
    largest = float(weight.abs().max().clamp(min=2.0**-20))
    return min(MAX_SHIFT, max(MIN_SHIFT, math.floor(math.log2(32767 / largest))))


def bias_table(anchors: npt.NDArray[np.integer], bits: int) -> npt.NDArray[np.int64]:
    """[8, n] in 2^-`ANCHOR_BITS` → [253, n] in 2^-``bits``, linear between the anchors, rounded down: exact."""
    steps = np.arange(MAX_QUALITY_STEPS + 1)
    first = np.minimum(steps // STEPS_BETWEEN_ANCHORS, NUM_ANCHORS - 2)
    part = (steps - first * STEPS_BETWEEN_ANCHORS)[:, None]
    wide = anchors.astype(np.int64)
    total = wide[first] * (STEPS_BETWEEN_ANCHORS - part) + wide[first + 1] * part
    table: npt.NDArray[np.int64] = (total << (bits - ANCHOR_BITS)) // STEPS_BETWEEN_ANCHORS
    return table
