"""Sizes of the dense architecture: its layers, the pictures it takes and the classes it knows."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from cnnbatch.codec.transforms.quality_laws import Number, Positive, ScaleRange, high_rate_step, lmbda_at

if TYPE_CHECKING:
    from torch import Tensor

POOLED = 4
"""Pixels that a position after both pools covers in each direction."""

MAX_SIDE = 512
MAX_CLASSES = 4096
Channels = Annotated[int, Field(ge=1, le=1024)]
ClassName = Annotated[str, Field(min_length=1, max_length=200)]


class DenseLayers(BaseModel):
    """Sizes of the layers, whatever the pictures."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    analysis_channels: tuple[Channels, Channels] = (32, 64)
    """Channels of the convolutions before the first and before the second pool."""
    synthesis_channels: tuple[Channels, Channels] = (32, 16)
    """At a quarter and at half of the resolution."""
    hidden: int = Field(512, ge=1, le=16384)
    """Width of the dense layer beside the convolutions, in both directions."""
    latents: int = Field(176, ge=2, le=2048)
    context_width: int = Field(256, ge=2, le=4096)
    lmbda_range: tuple[Positive, Positive] = (0.0001, 0.1)
    num_scales: int = Field(64, ge=2, le=64)
    scale_range: ScaleRange = (0.11, 128.0)
    head_width: int = Field(128, ge=1, le=4096)
    """Hidden units of the head that recognises classes."""


class DenseSettings(DenseLayers):
    """One model: its layers, the pictures it takes and the classes it knows. They live in its codec file."""

    height: int = Field(28, ge=4, le=MAX_SIDE)
    width: int = Field(28, ge=4, le=MAX_SIDE)
    channels: Literal[1, 3] = 1
    classes: tuple[ClassName, ...] = Field((), max_length=MAX_CLASSES)
    """Names in the order of the head's outputs; empty: no head."""

    @property
    def pixels(self) -> int:
        """Numbers in one picture."""
        return self.height * self.width * self.channels

    @property
    def pooled(self) -> tuple[int, int]:
        """(rows, columns) after both pools."""
        return -(-self.height // POOLED), -(-self.width // POOLED)

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
