"""Settings of the stages, as jobs and runs record them: how images are coded, given back and verified."""

from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from cnnbatch.choices import FORMATS, LAYOUTS, LEVELS
from cnnbatch.codec import DEFAULT_QUALITY, MAX_QUALITY
from cnnbatch.codec.codec import Decoder, Objective
from cnnbatch.codec.container.bitstream import QUALITY_STEPS
from cnnbatch.stages.quality import QualityPolicy

MAX_EFFORT = 100
"""More than anybody has patience for: after a dozen passes nothing is gained."""

DEFAULT_FLOOR: Final = 75.0
"""SSIMULACRA2 that a codec for the eye stays above where nobody asked for a quality: five points below what the default
quality gives most photographs."""

MSE_TOLERANCE: Final = 0.05
"""Squared grey levels: a tenth of a dB at 45 dB."""

Level = Literal["log", "checksums", "decode", "source"]

GOALS = ("quality", "target_psnr", "target_bpp", "target_ssimulacra2", "lossless", "min_psnr", "min_ssimulacra2")
"""The settings by which a user asks for a quality."""

OPTIONS = (*GOALS, "measure", "effort", "decode")
"""The settings that are options of the commands, too."""


class CompressionSettings(BaseModel):
    """How images are coded; the same for every shard of a run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    quality: float | None = Field(None, ge=0, le=MAX_QUALITY)
    """None: `DEFAULT_QUALITY`, and by a codec for the eye as much more as an image needs to reach `DEFAULT_FLOOR`."""
    target_psnr: float | None = Field(None, gt=0, lt=100)
    """dB over RGB, for each image."""
    target_bpp: float | None = Field(None, gt=0, le=24)
    """Bits per pixel, for each image."""
    target_ssimulacra2: float | None = Field(None, gt=0, lt=100)
    """Score of each image; one that no quality brings there is stored."""
    lossless: bool = False
    """Store every input so that it comes back byte for byte; JPEGs as JPEG XL transcodes."""
    min_psnr: float | None = Field(None, gt=0, lt=100)
    """Floor in dB: quality is raised until an image meets it; one that cannot is stored."""
    min_ssimulacra2: float | None = Field(None, gt=0, lt=100)
    """The same for the score."""
    measure: Literal["ssimulacra2"] | None = None
    """Recorded beside the PSNR also where neither a target nor a floor needs it."""
    effort: int = Field(0, ge=0, le=MAX_EFFORT)
    """Passes of refinement over the latents of each image: fewer bytes for more time."""
    decode: bool = False
    """Code also HEIC, JPEG 2000 and JPEG XL, which come back as AVIF, and 16-bit PNG and TIFF whose samples are 8-bit ones,
    which come back with 8. HEIC needs pillow-heif."""
    max_pixels: int = Field(200_000_000, gt=0)
    """Larger images are stored, never decoded."""
    max_source_bytes: int = Field(1 << 30, gt=0, lt=2**31 - 2**20)
    """Larger objects fail: a row could not hold them."""
    fetch_bytes: int = Field(256 << 20, gt=0)
    """Bytes in flight between the store and the decoder."""
    fetch_concurrency: int = Field(32, gt=0)
    decode_threads: int = Field(4, gt=0)
    decode_pixels: int = Field(64 << 20, gt=0)
    """Pixels, by their headers, of the pictures that are decoded ahead of the codec; a larger one is decoded alone."""
    batch_pixels: int = Field(8 << 20, gt=0)
    """Pixels coded in one call, and decoded ahead of it."""

    @field_validator("quality")
    @classmethod
    def _in_steps(cls, quality: float | None) -> float | None:
        """As the codec rounds it, so that the row says what was coded and ``--recompress`` finds it unchanged."""
        return None if quality is None else round(quality * QUALITY_STEPS) / QUALITY_STEPS

    @model_validator(mode="after")
    def _one_goal(self) -> "CompressionSettings":
        targets = (self.target_psnr, self.target_bpp, self.target_ssimulacra2)
        if sum(target is not None for target in targets) + self.lossless > 1:
            raise ValueError("target_psnr, target_bpp, target_ssimulacra2 and lossless exclude each other")
        return self

    def policy(self, objective: Objective) -> QualityPolicy:
        """For `cnnbatch.stages.quality.code`, with a codec of this ``objective``."""
        asked = any(getattr(self, goal) not in (None, False) for goal in GOALS)
        promised = objective == "ssimulacra2" and not asked
        return QualityPolicy(
            DEFAULT_QUALITY if self.quality is None else self.quality,
            target_psnr_db=self.target_psnr,
            target_bpp=self.target_bpp,
            target_ssimulacra2=self.target_ssimulacra2,
            min_psnr_db=self.min_psnr,
            min_ssimulacra2=DEFAULT_FLOOR if promised else self.min_ssimulacra2,
            measures_ssimulacra2=self.measure == "ssimulacra2",
            effort=self.effort,
        )


class ReconstructionSettings(BaseModel):
    """How images are written."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: str = Field("original", pattern=f"^({'|'.join(FORMATS)})$")
    decoder: Decoder = "full"
    """``draft``: in a third of the time, without the network."""
    force: bool = False
    """Replace what is there already."""
    batch_pixels: int = Field(8 << 20, gt=0)
    write_threads: int = Field(8, gt=0)
    layout: str = Field("original", pattern=f"^({'|'.join(LAYOUTS)})$")
    """In which files: those that they came in, one each with side files beside it, or one for each shard."""


class VerifySettings(BaseModel):
    """How deep to look."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    level: Level = "checksums"
    ssimulacra2_tolerance: float = Field(0.5, ge=0)
    """Between the recorded score and the one measured again; above a score of 95, where the last roundings of pixels are most
    of what differs, twice as much."""
    psnr_tolerance_db: float = Field(0.1, ge=0)
    """Between the recorded PSNR and the one measured again, or `MSE_TOLERANCE`, whichever is more: other machines round a few
    pixels otherwise."""
    max_pixels: int = Field(1 << 28, gt=0)
    """Larger originals are not decoded: their PSNR is not compared."""
    batch_pixels: int = Field(8 << 20, gt=0)
    batch_images: int = Field(256, gt=0)
    fetch_bytes: int = Field(256 << 20, gt=0)
    fetch_concurrency: int = Field(32, gt=0)

    def reaches(self, level: Level) -> bool:
        """Whether that level is part of this one."""
        return LEVELS.index(self.level) >= LEVELS.index(level)
