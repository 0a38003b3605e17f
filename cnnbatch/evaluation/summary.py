"""The result of an evaluation, as the report page, the JSON file and the table on stdout show it.

Everything here is plain data and JSON: ``EvaluationSummary.model_validate_json(path.read_text())`` gives it back.
"""

from typing import Final, Literal

from pydantic import BaseModel, ConfigDict

SMALL_BYTES: Final = 10_000
"""Mean of the files below which pictures count as small."""

Measure = Literal["psnr_db", "ms_ssim", "ssimulacra2", "butteraugli", "butteraugli_max"]
"""`cnnbatch.evaluation.scales` says what each is."""


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Point(_Data):
    """Means over the same images for every codec, at one quality of one codec.

    ``quality`` is in the codec's own scale (0 for a lossless one). ``bytes`` and ``bpp``: of a picture. ``psnr_db`` is the mean
    of each image's PSNR over RGB and ``psnr_bpp`` the bits per pixel of just those: the ``psnr_images`` that no lossy codec
    gave back exactly at any of its qualities, for which no dB can be said. Where there are no others it is over all, an exact
    image as 100 dB; so it is for a lossless codec. ``exact_images``: that came back exactly at this quality. ``ms_ssim`` is in
    0…1, the mean over the ``ms_ssim_images`` that are not smaller than its window, and ``ms_ssim_bpp`` the bits per pixel of
    just those; both None where there are none. ``ssimulacra2`` and ``butteraugli``, 3-norm and maximum, are means over all
    images; None: not measured. ``encode_mps``, ``decode_mps``: megapixels of all images over the seconds they took.
    """

    quality: float
    bpp: float
    psnr_db: float
    ms_ssim: float | None
    encode_mps: float | None
    decode_mps: float | None
    images: int
    exact_images: int = 0
    ms_ssim_images: int = 0
    ms_ssim_bpp: float | None = None
    bytes: float = 0.0
    psnr_images: int = 0
    psnr_bpp: float | None = None
    ssimulacra2: float | None = None
    butteraugli: float | None = None
    butteraugli_max: float | None = None


class Curve(_Data):
    """One codec's points, by rising bpp. ``codec`` is its word on the command line, ``label`` its name for people.

    ``version`` names the libraries. ``threads``: how many one encode or decode call uses. A lossless codec has one point.
    """

    codec: str
    label: str
    lossless: bool
    threads: int
    version: str
    points: tuple[Point, ...]


class BdRate(_Data):
    """How many percent more bits ``codec`` takes than ``anchor`` at equal distortion (negative: fewer).

    Averaged over ``low`` … ``high``, which both reach, on the measure's scale (`cnnbatch.evaluation.scales`). ``percent`` is
    None where the ranges do not overlap or a curve is too short, and ``reason`` says which.
    """

    anchor: str
    codec: str
    measure: Measure
    percent: float | None
    low: float | None
    high: float | None
    reason: str | None = None


class Estimate(_Data):
    """Bytes of the whole source, estimated from a sample, with the limits of its confidence interval."""

    bytes: int
    low_bytes: int
    high_bytes: int


class Stratum(_Data):
    """A part of the source that was sampled for itself: ``format`` by the names of its files, then by their size."""

    format: str
    smallest_bytes: int
    largest_bytes: int
    files: int
    bytes: int
    sampled: int


class Choice(_Data):
    """The weight that the source would have with one codec at the quality that reaches the target.

    ``psnr_db``, ``ms_ssim`` and ``ssimulacra2`` are the sample's means at that quality. Where each picture has a quality of its
    own, ``qualities`` are the lowest and the highest, and ``out_of_reach`` counts the pictures that none brings to the target:
    they are kept without loss. ``total`` is None where no quality reaches it; ``reason`` says so.
    """

    codec: str
    label: str
    quality: float | None
    psnr_db: float | None
    ms_ssim: float | None
    total: Estimate | None
    reason: str | None = None
    ssimulacra2: float | None = None
    qualities: tuple[float, float] | None = None
    out_of_reach: int = 0

    @property
    def at(self) -> str:
        """The quality as it is said: ``quality 32``, or ``qualities 12…41`` where each picture has its own."""
        if self.qualities is not None:
            return f"qualities {self.qualities[0]:g}…{self.qualities[1]:g}"
        return "no quality" if self.quality is None else f"quality {self.quality:g}"


class Recommendation(_Data):
    """Advice for the source: as it is, with its JPEGs transcoded without loss, or coded by one of ``choices``.

    ``measure`` and ``target`` are what the user asked for, as a mean or of ``each`` picture; None: nothing, and ``choices`` has
    ours at its usual quality. ``source_bytes`` and ``files`` count every object below the source. ``confidence`` is that of
    each interval.
    """

    measure: Measure | None
    target: float | None
    each: bool = False
    files: int
    source_bytes: int
    sampled: int
    transcoded: Estimate
    choices: tuple[Choice, ...]
    confidence: float
    method: str
    strata: tuple[Stratum, ...]


class Unmeasured(_Data):
    """An image left out of the means: by one codec (``codec``), or altogether (None), at ``stage``, and why.

    ``stage`` is ``list``, ``read``, ``decode`` (the file), ``encode``, ``reconstruct`` (the codec) or ``worker``.
    """

    key: str
    codec: str | None
    stage: str
    error: str


class Published(_Data):
    """A curve that others published; ``name`` is that of its file."""

    label: str
    points: tuple[tuple[float, float], ...]
    """(bpp, PSNR over RGB in dB), by rising bpp."""
    source: str = ""
    name: str = ""


class Panel(_Data):
    """One codec's version of an `Example`.

    ``bytes``, ``bpp``, ``psnr_db``, ``ms_ssim`` and ``ssimulacra2`` are of the whole picture. ``image`` is a file in base64 of
    type `Example.media_type`: the example's crop, pixel for pixel what the codec gave back.
    """

    codec: str
    label: str
    quality: float
    bytes: int
    bpp: float
    psnr_db: float
    ms_ssim: float | None
    image: str
    ssimulacra2: float | None = None


class Example(_Data):
    """One picture before and after, by several codecs at about equal bpp.

    ``width``, ``height``: of the whole picture. ``left``, ``top``, ``crop_width``, ``crop_height``: the part in ``original``
    and in the panels, the whole picture where it fits the page's budget. ``original`` and each panel's image are lossless
    files in base64.
    """

    key: str
    width: int
    height: int
    left: int
    top: int
    crop_width: int
    crop_height: int
    source_bytes: int
    media_type: str
    original: str
    panels: tuple[Panel, ...]


class LeftOut(_Data):
    """A codec that was asked for and could not be measured, and why: its library is missing, or it failed on most images."""

    codec: str
    label: str
    reason: str


class EvaluationSummary(_Data):
    """One evaluation. ``images`` are those behind the means, with ``pixels`` and ``source_bytes`` in their files;
    ``created_at`` is ISO 8601 in UTC; ``hardware`` one line; ``timing`` how speeds were measured."""

    source: str
    images: int
    pixels: int
    source_bytes: int
    created_at: str
    hardware: str
    timing: str
    curves: tuple[Curve, ...]
    bd_rates: tuple[BdRate, ...]
    recommendation: Recommendation | None
    unmeasured: tuple[Unmeasured, ...]
    left_out: tuple[LeftOut, ...]
    examples: tuple[Example, ...]
    published: tuple[Published, ...]

    @property
    def small(self) -> bool:
        """Whether the pictures are so small that bytes a picture say more than bits a pixel."""
        return bool(self.images) and self.source_bytes / self.images < SMALL_BYTES
