"""Sizes and ranges of one hyperprior, which live in its codec file."""

import math
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cnnbatch.codec.interface import Objective
from cnnbatch.codec.runtime.levels import MOST_INPUTS
from cnnbatch.codec.transforms.quality_laws import Number, Positive, ScaleRange, high_rate_step, lmbda_at

if TYPE_CHECKING:
    from torch import Tensor

BlockCount = Annotated[int, Field(ge=0, le=64)]

MEAN_BLOCKS = 2
"""Blocks of the mean net, at 1/16 of the resolution."""

STEP_FACTORS = 8
"""Numbers at each latent position that the steps of all its channels follow from."""

STEP_LIMIT = 2.0
"""Largest natural logarithm of a local step, in units of Δ(q)."""


class HyperpriorSettings(BaseModel):
    """Sizes of one model; they live in its codec file and nowhere else."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width_8: int = Field(96, ge=8, le=MOST_INPUTS // 2)
    width_16: int = Field(192, ge=8, le=MOST_INPUTS // 2)
    synthesis_blocks: tuple[BlockCount, BlockCount] = (4, 4)
    """At 1/8 and at 1/16 of the resolution."""
    latent_channels: int = Field(320, ge=8, le=MOST_INPUTS)
    hyper_channels: int = Field(96, ge=8, le=512)
    hyper_width: int = Field(96, ge=8, le=512)
    predicted_channels: int = Field(8, ge=1, le=64)
    """Latent channels, the first, whose means are also predicted from decoded neighbours, see `known_neighbours`; at most
    ``latent_channels``."""
    lmbda_range: tuple[Positive, Positive] = (0.0009, 0.6)
    num_scales: int = Field(64, ge=2, le=64)
    scale_range: ScaleRange = (0.11, 128.0)
    coded_from: int = Field(1, ge=0, le=63)
    """Symbols of smaller scale indexes are taken as zero and not coded."""
    objective: Objective = "psnr"
    """The distortion that the codec is trained for and that an encoder chooses by; a decoder does not look at it."""
    trellis_states: Literal[64, 256, 1024] = 256
    """States of dependent quantisation: the more, the fewer bytes, and the longer an encoder searches."""

    @model_validator(mode="after")
    def _context_in_latents(self) -> "HyperpriorSettings":
        if self.predicted_channels > self.latent_channels:
            raise ValueError(f"predicted_channels {self.predicted_channels} of {self.latent_channels} latent_channels")
        return self

    def lmbda(self, quality: Number) -> Number:
        """λ(q), see `lmbda_at`."""
        return lmbda_at(quality, self.lmbda_range)

    def step(self, quality: Number) -> Number:
        """Δ(q) in grey levels of an orthonormal transform."""
        return high_rate_step(self.lmbda(quality))

    def scales(self) -> "Tensor":
        """[num_scales] float64, log-spaced, in quantisation steps."""
        from cnnbatch.codec.transforms.quality import log_spaced  # torch takes seconds, and a decoder has tables

        return log_spaced(self.scale_range, self.num_scales)

    def scale_at(self, positions: "Tensor") -> "Tensor":
        """Scales, in quantisation steps, of scale indexes or of what lies between them."""
        scales: Tensor = self.scale_range[0] * (positions / self.indexes_per_nat).exp()
        return scales

    @property
    def indexes_per_nat(self) -> float:
        """Scale indexes for a factor e of scale."""
        return (self.num_scales - 1) / math.log(self.scale_range[1] / self.scale_range[0])
