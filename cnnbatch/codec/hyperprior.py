"""Decoupled hyperprior: transforms at 1/8 and 1/16, scales from an exact integer net, means in float.

    x ─ g_a ─ y ──────────── r = round(y − μ) ──── ŷ = r + μ ─ g_s ─ x̂
              │                ▲ entropy coder: zero-mean Gaussian of scale index i
              h_a ─ ẑ ─┬─ scale net (integers) ─ i
                       └─ mean net (float) ───── μ      ẑ itself is coded in an exact context, `HyperContext`

(Ballé et al. 2018, arXiv 1802.01436; mean and scale: Minnen et al. 2018, arXiv 1809.02736; decoupled like JPEG AI.)
The few channels that carry the picture's low frequencies go on from block to block, more than ẑ tells: their μ gains a linear
prediction from decoded neighbours (differential coding; the symbols are decoded without it, so it stays in float, too).
A wrong μ moves a pixel by less than one level; a wrong i would destroy everything behind it, which is why only i has to
be exact. Both transforms have a linear bypass (a 16×16 block KLT, cf. AuxT, arXiv 2501.13751), so the untrained model is
already a working transform coder.

Quality q in [0, 63] sets λ(q), hence the quantisation step Δ(q); y, ŷ, μ and the scales are all in units of Δ, the
learned paths see inputs in units that keep their size at every q, and per-channel gains (`QualityCurve`) do the rest.

Shapes: N images, H × W pixels (multiples of 64 here), M latent channels; tensors are [N, H, W, C] float32.
"""

import math
from typing import Annotated, Literal, NamedTuple, cast

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from cnnbatch.codec.hyper_context import HyperContext
from cnnbatch.codec.lapped import lapped_blocks
from cnnbatch.codec.layers import (
    ACTIVATIONS,
    Activation,
    Block,
    BorderFilter,
    FullPrecisionLinear,
    Positive,
    QualityCurve,
    ScaleRange,
    asinh,
    blocks,
    depth_to_space,
    high_rate_step,
    keep_variance,
    lmbda_at,
    log_spaced,
    neighbours,
    space_to_depth,
)
from cnnbatch.codec.likelihood import gaussian_bits, noisy, on_the_trellis, on_their_own
from cnnbatch.codec.scale_net import Z_MAX, ScaleNet, round_half_up, soft_clamp

BLOCK = 16
"""Pixels a latent position covers in each direction."""

HYPER_BLOCK = 4
"""Latent positions a hyper-latent position covers in each direction."""

GREY = 128
"""The level that both transforms take as zero."""

PIXEL_UNIT = 64.0
"""Grey levels that the learned analysis path sees as 1."""

NUM_NEIGHBOURS = 4
"""Decoded latent positions that a mean is predicted from."""

DISTORTION_WEIGHT = 1.7
"""Of an error as the quantiser counts it, relative to what it does through the linear bypass. Between 1.4 and 2.0 the loss is
within 0.1 % of its least at every quality, with integers on their own; see also `dependent_share`."""

LEAST_SPACING = 0.1
"""Of the levels of dependent quantisation."""

COARSER = (1.65, 1.05)
"""Quantisation step that training starts with at quality 0 and 63, in units of the high-rate optimum Δ(q): where most
latents are zero a coarser step is better."""

BlockCount = Annotated[int, Field(ge=0, le=64)]


class HyperpriorSettings(BaseModel):
    """Sizes of one model; they live in its codec file and nowhere else."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width_8: int = Field(96, ge=8, le=1024)
    width_16: int = Field(192, ge=8, le=1024)
    analysis_blocks: tuple[BlockCount, BlockCount] = (4, 4)
    synthesis_blocks: tuple[BlockCount, BlockCount] = (4, 4)
    latent_channels: int = Field(320, ge=8, le=768)
    hyper_channels: int = Field(96, ge=8, le=512)
    hyper_width: int = Field(96, ge=8, le=512)
    activation: Activation = "gelu"
    sees_picture: bool = False
    """Whether the learned synthesis path sees the picture that the bypass makes, and so the edges of its blocks."""
    context_channels: int = Field(0, ge=0, le=64)
    """Latent channels, the first, whose means are also predicted from decoded neighbours, see `known_neighbours`; at most
    ``latent_channels``."""
    hyper_context: bool = False
    """Whether hyper-latents are predicted from each other, and their scales from how busy it is around, see `HyperContext`."""
    lapped: bool = False
    """Whether a lapped transform takes the place of plain blocks: filters across the borders of blocks, see `BorderFilter`."""
    lmbda_range: tuple[Positive, Positive] = (0.0009, 1.0)
    num_scales: int = Field(64, ge=2, le=64)
    scale_range: ScaleRange = (0.11, 128.0)
    coded_from: int = Field(1, ge=0, le=63)
    """Symbols of smaller scale indexes are taken as zero and not coded."""
    dependent_spacing: float = Field(0.0, ge=0, le=2)
    """Distance of levels, in quantisation steps, of dependent quantisation, see `cnnbatch.codec.trellis`, at least
    `LEAST_SPACING`; 0: integers, each on its own."""
    dependent_from: int = Field(0, ge=0, le=63)
    """Symbols of smaller scale indexes are integers on their own all the same."""
    lanes: Literal[1, 4] = 4
    """Of the entropy coder in large units. Each beyond the first takes six bytes of a unit and makes decoding no faster."""

    @model_validator(mode="after")
    def _context_in_latents(self) -> "HyperpriorSettings":
        if self.context_channels > self.latent_channels:
            raise ValueError(f"context_channels {self.context_channels} of {self.latent_channels} latent_channels")
        return self

    @model_validator(mode="after")
    def _levels_apart(self) -> "HyperpriorSettings":
        if 0 < self.dependent_spacing < LEAST_SPACING:
            raise ValueError(f"dependent_spacing {self.dependent_spacing}: 0, or at least {LEAST_SPACING}")
        return self

    def lmbda(self, quality: Tensor) -> Tensor:
        """λ(q), see `lmbda_at`."""
        return lmbda_at(quality, self.lmbda_range)

    def step(self, quality: Tensor) -> Tensor:
        """Δ(q) in grey levels of an orthonormal transform."""
        return high_rate_step(self.lmbda(quality))

    def scales(self) -> Tensor:
        """[num_scales] float64, log-spaced, in quantisation steps."""
        return log_spaced(self.scale_range, self.num_scales)

    @property
    def indexes_per_nat(self) -> float:
        """Scale indexes for a factor e of scale."""
        return (self.num_scales - 1) / math.log(self.scale_range[1] / self.scale_range[0])


class HyperLatents(NamedTuple):
    """What the entropy coder needs of one image: scale positions (before rounding) and means, [N, H/16, W/16, M]."""

    scale_positions: Tensor
    means: Tensor


class Analysis(nn.Module):
    """g_a: pixels → latents in units of Δ(q)."""

    def __init__(self, s: HyperpriorSettings) -> None:
        super().__init__()
        self.settings = s
        if s.lapped:
            self.border = BorderFilter(inverse=False)
        self.bypass = nn.Linear(3 * BLOCK**2, s.latent_channels, bias=False)
        self.enter = nn.Linear(3 * 8**2, s.width_8)
        self.gain = QualityCurve(s.width_8)
        self.blocks_8 = blocks(s.width_8, s.analysis_blocks[0], s.activation)
        self.down = nn.Linear(4 * s.width_8, s.width_16)
        self.blocks_16 = blocks(s.width_16, s.analysis_blocks[1], s.activation)
        self.leave = nn.Linear(s.width_16, s.latent_channels)
        self.latent_gain = QualityCurve(s.latent_channels)

    def forward(self, x: Tensor, quality: Tensor) -> Tensor:
        """``x`` [N, H, W, 3] integers −128…127 of any dtype, pixels less `GREY`; ``quality`` [N] → y [N, H/16, W/16, M]."""
        if not self.training and not any(self.settings.analysis_blocks):
            return self._at_once(x, quality)
        step = self.settings.step(quality)[:, None, None, None]
        if self.settings.lapped:
            x = self.border(x.float())
        x = x.to(_working_dtype(x))  # exact without the filter: eight bits
        patches = space_to_depth(x, 8)
        features = F.linear(patches, self.enter.weight / PIXEL_UNIT, self.enter.bias)
        features = features * torch.exp(self.gain(quality)).to(features.dtype)
        features = self.down(space_to_depth(self.blocks_8(features), 2))
        learned = self.leave(self.blocks_16(features))
        y = torch.add(self.bypass(space_to_depth(x, BLOCK)).float(), learned, alpha=PIXEL_UNIT)
        return y * (torch.exp(self.latent_gain(quality)) / step)

    def _at_once(self, x: Tensor, quality: Tensor) -> Tensor:
        """`forward` where there are no blocks: one matrix product for each image."""
        dtype = _working_dtype(x)
        if self.settings.lapped and x.device.type == "cpu" and x.dtype == torch.int8:
            inputs = lapped_blocks(x, self.border.weight, dtype)
        else:
            filtered = self.border(x.float()) if self.settings.lapped else x
            inputs = space_to_depth(filtered.to(dtype), BLOCK)
        matrix, bias = self._one_matrix(quality)
        y = torch.baddbmm(bias[:, None], inputs.flatten(1, 2), matrix.transpose(1, 2))
        return y.reshape(*inputs.shape[:3], -1)

    def _one_matrix(self, quality: Tensor) -> tuple[Tensor, Tensor]:
        """All of g_a behind the border filter, where it has no blocks: a matrix [N, M, 768] and a bias [N, M]."""
        s = self.settings
        with torch.autocast(quality.device.type, enabled=False):
            behind = self.leave.weight @ self.down.weight
            gain = torch.exp(self.gain(quality)).reshape(-1, 1, 1, s.width_8)
            patches = behind.reshape(-1, 4, s.width_8) * gain  # [N, M, 2·2 patches of 8 × 8, channels]
            learned = (patches @ self.enter.weight).reshape(len(quality), -1, 2, 2, 8, 8 * 3)
            bias = patches.sum(2) @ self.enter.bias + self.leave(self.down.bias)
            unit = torch.exp(self.latent_gain(quality)).flatten(1) / s.step(quality)[:, None]
            return (self.bypass.weight + learned.transpose(3, 4).flatten(2)) * unit[..., None], PIXEL_UNIT * bias * unit


class Synthesis(nn.Module):
    """g_s: latents in units of Δ(q) → pixels."""

    def __init__(self, s: HyperpriorSettings) -> None:
        super().__init__()
        self.settings = s
        self.latent_gain = QualityCurve(s.latent_channels)
        self.bypass = FullPrecisionLinear(s.latent_channels, 3 * BLOCK**2, bias=False)
        self.enter = nn.Linear(s.latent_channels, s.width_16)
        self.gain = QualityCurve(s.width_16)
        self.blocks_16 = blocks(s.width_16, s.synthesis_blocks[1], s.activation)
        self.up = nn.Linear(s.width_16, 4 * s.width_8)
        self.blocks_8 = blocks(s.width_8, s.synthesis_blocks[0], s.activation)
        if s.sees_picture:
            self.see = nn.Linear(3 * 8**2, s.width_8)
            self.see_gain = QualityCurve(s.width_8)
        self.leave = nn.Linear(s.width_8, 3 * 8**2)
        if s.lapped:
            self.border = BorderFilter(inverse=True)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, y_hat: Tensor, quality: Tensor) -> Tensor:
        """``y_hat`` [N, h, w, M], ``quality`` [N] → [N, 16h, 16w, 3], around 0…255, not clamped."""
        step = self.settings.step(quality)[:, None, None, None]
        features = self.enter(asinh(y_hat)) * torch.exp(self.gain(quality))
        features = depth_to_space(self.up(self.blocks_16(features)), 2)
        linear = _patches(self.bypass(y_hat * torch.exp(self.latent_gain(quality))))
        if self.settings.sees_picture:
            features = features + self.see(_without_local_mean(linear)) * torch.exp(self.see_gain(quality))
        out = linear.flatten(3) + self.leave(self.blocks_8(features))
        picture = depth_to_space(out, 8)
        if self.settings.lapped:
            picture = self.border(picture)
        return picture * step + GREY


def _working_dtype(x: Tensor) -> torch.dtype:
    """What autocast, where it is on, makes of the inputs of matrix products."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32


def _patches(picture: Tensor) -> Tensor:
    """[N, h, w, 16·16·3] → [N, 2h, 2w, 8·8, 3]: the same picture in patches of 8×8 pixels."""
    n, h, w, _ = picture.shape
    split = picture.reshape(n, h, w, 2, 8, 2, 8, 3).permute(0, 1, 3, 2, 5, 4, 6, 7)
    return split.reshape(n, 2 * h, 2 * w, 8 * 8, 3)


def _without_local_mean(patches: Tensor) -> Tensor:
    """[N, H/8, W/8, 64, 3] → [N, H/8, W/8, 192], each patch less the mean colour of the 3×3 patches around it.

    What is left is small where the picture is smooth, so that bf16 still holds the edges between blocks.
    """
    colours = patches.mean(3).permute(0, 3, 1, 2)
    local = F.avg_pool2d(colours, 3, 1, 1, count_include_pad=False).permute(0, 2, 3, 1)
    return (patches - local[:, :, :, None]).flatten(3)


class HyperAnalysis(nn.Module):
    """h_a: latents → hyper-latents z at 1/64, before rounding."""

    def __init__(self, s: HyperpriorSettings) -> None:
        super().__init__()
        width = s.hyper_width
        self.enter = nn.Linear(2 * s.latent_channels, width)
        self.gain = QualityCurve(width)
        self.block_16 = Block(width, s.activation)
        self.down_32 = nn.Linear(4 * width, width)
        self.block_32 = Block(width, s.activation)
        self.down_64 = FullPrecisionLinear(4 * width, s.hyper_channels)
        self.activation = ACTIVATIONS[s.activation]

    def forward(self, y: Tensor, quality: Tensor) -> Tensor:
        """``y`` [N, h, w, M] with h, w multiples of 4 → z [N, h/4, w/4, Cz]."""
        level = asinh(y)
        x = self.enter(torch.cat([level, level.abs()], -1)) * torch.exp(self.gain(quality))
        x = self.down_32(space_to_depth(self.activation(self.block_16(x), not x.requires_grad), 2))
        return cast(Tensor, self.down_64(space_to_depth(self.block_32(x), 2)))


class MeanNet(nn.Module):
    """ẑ → means of the latents, in float."""

    def __init__(self, s: HyperpriorSettings) -> None:
        super().__init__()
        width = s.hyper_width
        self.enter = nn.Linear(s.hyper_channels, 4 * width)
        self.block_32 = Block(width, s.activation)
        self.grow = nn.Linear(width, 4 * width)
        self.blocks_16 = blocks(width, 2, s.activation)
        self.leave = FullPrecisionLinear(width, s.latent_channels)
        self.gain = QualityCurve(s.latent_channels)
        self.activation = ACTIVATIONS[s.activation]
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, z_hat: Tensor, quality: Tensor) -> Tensor:
        """``z_hat`` [N, h, w, Cz] → [N, 4h, 4w, M]."""
        x = self.enter(z_hat)
        x = depth_to_space(self.activation(x, not x.requires_grad), 2)
        x = self.grow(self.block_32(x))
        x = depth_to_space(self.activation(x, not x.requires_grad), 2)
        means, gain = self.leave(self.blocks_16(x)), torch.exp(self.gain(quality))
        return cast(Tensor, means * gain if means.requires_grad else means.mul_(gain))


class Hyperprior(nn.Module):
    """The whole model. `forward` is the training pass; the codec calls the parts."""

    def __init__(self, settings: HyperpriorSettings) -> None:
        super().__init__()
        self.settings = settings
        self.g_a = Analysis(settings)
        self.g_s = Synthesis(settings)
        self.h_a = HyperAnalysis(settings)
        self.mean_net = MeanNet(settings)
        self.scale_net = ScaleNet(
            hyper_channels=settings.hyper_channels,
            width=settings.hyper_width,
            latent_channels=settings.latent_channels,
        )
        self.scale_offset = QualityCurve(settings.latent_channels)
        if settings.context_channels:
            self.context = QualityCurve(settings.context_channels * NUM_NEIGHBOURS * settings.context_channels)
        self.z_scale = QualityCurve(settings.hyper_channels)
        if settings.hyper_context:
            self.hyper_context = HyperContext(settings.hyper_channels, settings.scale_range, settings.num_scales)

    def bits_per_square(self, quality: Tensor) -> Tensor:
        """[N, M]: bits that a squared unit of error in one latent of each channel is worth, by the synthesis' bypass alone.

        λ·MSE counts the 256·3 samples of a block as λ·Σe² ÷ (3·256) per pixel, hence λ·Σe² ÷ 3 for the block.
        """
        with torch.no_grad():
            gain = torch.exp(self.g_s.latent_gain(quality)).flatten(1) * self.settings.step(quality)[:, None]
            norm = self.g_s.bypass.weight.square().sum(0)
            return self.settings.lmbda(quality)[:, None] / 3 * gain.square() * norm

    def quantiser_weights(self, quality: Tensor) -> Tensor:
        """[N, M]: bits that the quantiser counts for a squared unit of error."""
        weight = DISTORTION_WEIGHT * self.bits_per_square(quality)
        if self.settings.dependent_spacing:
            weight = weight * dependent_share(quality)[:, None]
        return weight

    def hyper_synthesis(self, z_hat: Tensor, quality: Tensor) -> HyperLatents:
        """``z_hat`` integers → scale positions (real, to be rounded half up and clamped) and means."""
        positions = self.scale_net(z_hat) + round_half_up(self.scale_offset(quality))
        return HyperLatents(positions, self.mean_net(z_hat, quality))

    def forward(self, x: Tensor, quality: Tensor, *, noise: bool, rdo: bool = False) -> tuple[Tensor, Tensor]:
        """``x`` [N, H, W, 3] → (x̂, bits [N]); ``noise``: additive uniform noise for the rate, else that of the symbols.

        The reconstruction always sees symbols, with straight-through gradients: the nearest integers or, with ``rdo`` and
        wherever quantisation is dependent, those that an encoder chooses, to whose rate the scales are then fitted, too.
        """
        s = self.settings
        y = self.g_a(x - GREY, quality)
        z = self.h_a(y, quality)
        z_hat = round_half_up(z.clamp(-Z_MAX, Z_MAX))
        hyper = self.hyper_synthesis(z_hat, quality)
        means = hyper.means
        if s.context_channels:
            means = self._with_context(means, y, quality, noise=noise)
        residual = y - means
        positions = soft_clamp(round_half_up(hyper.scale_positions), 0, s.num_scales - 1, share=1)
        scales = s.scale_range[0] * torch.exp(positions / s.indexes_per_nat)
        if s.dependent_spacing:
            r_hat, bits = on_the_trellis(residual, positions, scales, self.quantiser_weights(quality), s, noise=noise)
        else:
            r_hat, bits = on_their_own(residual, scales, self.quantiser_weights(quality) if rdo else None, noise=noise)
        bits = bits + self._hyper_bits(z, z_hat, quality, noise=noise)
        return self.g_s(r_hat + means, quality), bits

    def _hyper_bits(self, z: Tensor, z_hat: Tensor, quality: Tensor, *, noise: bool) -> Tensor:
        """Of the hyper-latents, noisy or rounded."""
        s = self.settings
        values = noisy(z) if noise else z_hat
        positions = round_half_up(self.z_scale(quality)).clamp(0, s.num_scales - 1)
        if s.hyper_context:
            predicted, positions = self.hyper_context(z_hat, positions)
            values = values - predicted
        scales = s.scale_range[0] * torch.exp(positions.clamp(0, s.num_scales - 1) / s.indexes_per_nat)
        return gaussian_bits(values, scales)

    def context_weights(self, quality: Tensor) -> Tensor:
        """[N, K, 4·K]: what each of the K predicted channels takes of its `known_neighbours`."""
        k = self.settings.context_channels
        return cast(Tensor, self.context(quality)).reshape(-1, k, NUM_NEIGHBOURS * k)

    def _with_context(self, means: Tensor, y: Tensor, quality: Tensor, *, noise: bool) -> Tensor:
        """The means with the prediction added: in parallel, from neighbours that are rounded apart from each other."""
        k = self.settings.context_channels
        deviation = (y - means)[..., :k]
        known = known_neighbours(noisy(deviation) if noise else round_half_up(deviation))
        with torch.autocast(y.device.type, enabled=False):
            predicted = torch.einsum("nhwj,nkj->nhwk", known.float(), self.context_weights(quality))
        return torch.cat([means[..., :k] + predicted, means[..., k:]], -1)

    @torch.no_grad()
    def initialise_from_klt(self, basis: Tensor, deviations: Tensor) -> None:
        """``basis`` [M, 768] orthonormal rows, ``deviations`` [M] in grey levels: KLT of 16×16×3 training blocks."""
        keep_variance(self.g_a)
        keep_variance(self.g_s)
        keep_variance(self.g_s.enter, gain=2.0)  # most of what it reads is zero
        self.g_a.bypass.weight.copy_(basis)
        self.g_s.bypass.weight.copy_(basis.T)
        nn.init.zeros_(self.g_a.leave.weight)
        nn.init.zeros_(self.g_a.leave.bias)
        anchors = torch.linspace(0, 63, self.scale_offset.anchors.shape[0])
        coarser = torch.lerp(torch.tensor(COARSER[0]), torch.tensor(COARSER[1]), anchors / 63)[:, None]
        self.g_a.latent_gain.anchors.copy_(-torch.log(coarser).expand_as(self.g_a.latent_gain.anchors))
        self.g_s.latent_gain.anchors.copy_(torch.log(coarser).expand_as(self.g_s.latent_gain.anchors))
        in_steps = 0.6 * deviations / (coarser * self.settings.step(anchors)[:, None])
        index = torch.log(in_steps / self.settings.scale_range[0]) * self.settings.indexes_per_nat
        self.scale_offset.anchors.copy_(index.clamp(0, self.settings.num_scales - 1))
        self.z_scale.anchors.fill_(self.settings.indexes_per_nat * math.log(1.0 / self.settings.scale_range[0]))


def dependent_share(quality: Tensor) -> Tensor:
    """Of `DISTORTION_WEIGHT`, where quantisation is dependent: the loss was least with 1.6, 1.05, 0.9 and 0.8 at q = 4, 20, 36
    and 52."""
    return 0.82 + 1.1 * torch.exp(-quality / 10)


def known_neighbours(values: Tensor) -> Tensor:
    """[N, h, w, K] → [N, h, w, 4·K]: all `neighbours` of a position, one after the other."""
    return torch.cat(neighbours(values), -1)
