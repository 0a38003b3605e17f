"""Settings of the jobs, one frozen model each; `jobs.configuration` reads them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cnnbatch.archive.lease import HEARTBEAT_SECONDS, LAPSE_SECONDS, POLL_SECONDS, WAIT_SECONDS
from cnnbatch.classification.fit import HeadTraining
from cnnbatch.codec.dense.settings import DenseLayers
from cnnbatch.codec.hyperprior.settings import HyperpriorSettings
from cnnbatch.containers import SourceConfig
from cnnbatch.errors import TooManyFailures
from cnnbatch.evaluation.examples import MOST_EXAMPLES
from cnnbatch.evaluation.recommendation import Goal
from cnnbatch.evaluation.scales import USUAL, measures_of
from cnnbatch.evaluation.selection import WORDS
from cnnbatch.evaluation.summary import Measure
from cnnbatch.stages.mirror import DELETE_LIMIT
from cnnbatch.stages.quality import SSIMULACRA2_TOLERANCE
from cnnbatch.stages.records import Failure
from cnnbatch.stages.settings import CompressionSettings, ReconstructionSettings, VerifySettings
from cnnbatch.training.dense import DenseTraining
from cnnbatch.training.trainer import TrainingConfig
from jobs.engine import Workers


class Thresholds(BaseModel):
    """How many inputs may fail before the job gives up with exit code 3."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    failed: int = Field(1000, ge=0)
    failed_rate: float = Field(0.05, ge=0, le=1)
    grace: int = Field(10, ge=0)
    """The rate counts only beyond this many failures."""

    def passed(self, failed: int, done: int) -> bool:
        """Whether ``failed`` of ``done`` inputs are too many."""
        return failed > self.failed or (failed > self.grace and failed > self.failed_rate * done)

    def check(self, failed: int, done: int, failures: Sequence[Failure], *, what: str = "inputs failed") -> None:
        """Raises TooManyFailures, with the first of them, where ``failed`` of ``done`` are too many."""
        if self.passed(failed, done):
            first = failures[0]
            raise TooManyFailures(f"{failed} of {done} {what}, first {first.key!r}: {first.error} {first.message}")


class Shards(BaseModel):
    """Size of a shard, and how often finished ones are committed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source_bytes: int = Field(512 << 20, gt=0)
    """Source bytes of a shard: about 128 MiB of output or a minute of a GPU, whichever comes first."""
    images: int = Field(2000, gt=0)
    commit_every: int = Field(8, gt=0)
    commit_seconds: float = Field(30, gt=0)


class Planning(BaseModel):
    """Memory and disk for listings: of the driver that compares source and archive, and of processes that train."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    memory_bytes: int = Field(256 << 20, gt=0)
    """For rows of the listing and of the archive; what is more goes to the disk. From 10⁸ images on 2 GiB is faster."""
    folder: str | None = None
    """Local folder for that; None: the system's for temporary files."""


class LeaseTimes(BaseModel):
    """See `cnnbatch.archive.Lease`; all runs on one archive should have the same."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    wait_seconds: float = Field(WAIT_SECONDS, ge=0)
    lapse_seconds: float = Field(LAPSE_SECONDS, gt=0)
    heartbeat_seconds: float = Field(HEARTBEAT_SECONDS, gt=0)
    poll_seconds: float = Field(POLL_SECONDS, gt=0)


class ArchiveEntry(SourceConfig):
    """A source, its archive, and how pictures get from one into the other."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    archive: str
    codec: str | None = None
    """A codec file, or the name of a shipped one; None: ``eye``."""
    exclude: tuple[str, ...] = ()
    mirror_deletes: bool = False
    delete_limit: float = Field(DELETE_LIMIT, ge=0, le=1)
    """Share of the archive's rows: where ``mirror_deletes`` would remove more than that, and than one, it removes none."""
    recompress: bool = False
    compression: CompressionSettings = CompressionSettings()
    thresholds: Thresholds = Thresholds()
    storage: dict[str, Any] = Field(default_factory=dict)
    """Overrides of what the environment says: endpoint, region, …; see `cnnbatch.storage.StorageConfig`."""


class SingleThreaded(Workers):
    """Workers of one thread each."""

    cpus: float = Field(1, gt=0)


class TrainWorkers(SingleThreaded):
    """One worker, where no more are asked for."""

    most: int | None = Field(1, gt=0)


class CompressConfig(ArchiveEntry):
    """`jobs.compress`."""

    compact: bool = False
    """Small shards are merged at the end of a run that replaced or removed rows; their files stay until a sweep."""
    retry_failed: str | None = None
    shards: Shards = Shards()
    planning: Planning = Planning()
    workers: Workers = Workers()
    lease: LeaseTimes = LeaseTimes()


class ReconstructConfig(BaseModel):
    """`jobs.reconstruct`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    archive: str
    destination: str
    keys: str = "*"
    reconstruction: ReconstructionSettings = ReconstructionSettings()
    workers: Workers = Workers()
    thresholds: Thresholds = Thresholds()
    storage: dict[str, Any] = Field(default_factory=dict)


class VerifyConfig(SourceConfig):
    """`jobs.verify`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    archive: str
    source: str | None = None
    """The originals: for the level ``source``, and for the PSNR at the level ``decode``."""
    exclude: tuple[str, ...] = ()
    """As `jobs.compress` was told, so that what it left out is not missed."""
    verification: VerifySettings = VerifySettings()
    workers: Workers = Workers()
    storage: dict[str, Any] = Field(default_factory=dict)


class EvaluateConfig(SourceConfig):
    """`jobs.evaluate`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    out: str | None = None
    """Folder or URL for the page, the figures and the plots; None: the table on stdout is all."""
    codecs: tuple[str, ...] = WORDS
    codec: tuple[str, ...] = ()
    """Codec files or names of shipped ones; none: the default."""
    qualities: dict[str, tuple[float, ...]] = Field(default_factory=dict)
    """Instead of a codec's own, such as ``qualities.webp=[30, 60, 90]``."""
    exclude: tuple[str, ...] = ()
    sample: int = Field(100, ge=0)
    """Files to measure, drawn by format and size; 0: all."""
    seed: int = Field(0, ge=0)
    target_psnr: float | None = Field(None, gt=0, lt=100)
    """Mean over the pictures, dB."""
    target_ms_ssim: float | None = Field(None, gt=0, lt=1)
    target_ssimulacra2: float | None = Field(None, gt=0, lt=100)
    """Target for each picture, as `jobs.compress` has it."""
    measures: tuple[str, ...] = USUAL
    """Words of `cnnbatch.evaluation.scales`; PSNR, and what a target needs, are always measured."""
    examples: int | None = Field(None, ge=0, le=MOST_EXAMPLES)
    """Pictures on the page; None: 6, and of small pictures as many as it can hold."""
    published: Path | None = None
    """A folder with curves of others."""
    max_pixels: int = Field(50_000_000, gt=0)
    """Larger pictures are not measured."""
    max_source_bytes: int = Field(1 << 30, gt=0)
    """Larger files are not read."""
    workers: SingleThreaded = SingleThreaded()
    thresholds: Thresholds = Thresholds()
    storage: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_target(self) -> "EvaluateConfig":
        if sum(goal is not None for goal in (self.target_psnr, self.target_ms_ssim, self.target_ssimulacra2)) > 1:
            raise ValueError("target_psnr, target_ms_ssim and target_ssimulacra2 exclude each other")
        return self

    @property
    def measured(self) -> tuple[Measure, ...]:
        """The measures that are asked for, that of the target among them; raises UsageError for an unknown word."""
        goal = self.goal
        return tuple(dict.fromkeys((*measures_of(self.measures), *(() if goal is None else (goal.measure,)))))

    @property
    def goal(self) -> Goal | None:
        """The goal of the recommendation."""
        if self.target_psnr is not None:
            return Goal("psnr_db", self.target_psnr)
        if self.target_ssimulacra2 is not None:
            return Goal("ssimulacra2", self.target_ssimulacra2, each=True, slack=SSIMULACRA2_TOLERANCE)
        return None if self.target_ms_ssim is None else Goal("ms_ssim", self.target_ms_ssim)


class TrainConfig(SourceConfig):
    """`jobs.train`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    """A source as `jobs.compress` has it, or an archive."""
    codec_file: str
    """Path or URL of the file to write; the run's checkpoints lie beside it."""
    architecture: Literal["hyperprior", "dense"] = "hyperprior"
    resume: bool = False
    start: str | None = None
    """For ``hyperprior``: a codec file, or the name of a shipped one, whose weights a new run starts from, grown to the
    settings of ``model``; or a checkpoint of another run, which goes on as it was."""
    labels: str | None = None
    """For ``dense``: path or URL of a CSV or Parquet file with the columns key and label, to recognise as well."""
    model: HyperpriorSettings = HyperpriorSettings()
    training: TrainingConfig = TrainingConfig()
    dense: DenseLayers = DenseLayers()
    dense_training: DenseTraining = DenseTraining()
    planning: Planning = Planning()
    """For the listing of the source."""
    workers: TrainWorkers = TrainWorkers()
    """Processes whose gradients are averaged, each with one thread that computes, or a GPU, and ``cpus`` that read pictures;
    ``dense`` has one."""
    lease: LeaseTimes = LeaseTimes()
    storage: dict[str, Any] = Field(default_factory=dict)


class ClassifyConfig(BaseModel):
    """`jobs.classify`: ``labels`` to train a head, ``out`` to predict with one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    archive: str
    head: str
    """Path or URL of the head file; ``codec`` when predicting: the head that the archive's own codec file carries."""
    labels: str | None = None
    out: str | None = None
    codec: str | None = None
    """When training on an archive of several codecs: the first digits of the one whose pictures count."""
    keys: str = "*"
    most_labels: int = Field(500_000, gt=0)
    """Their features are held in memory, a few kB each."""
    training: HeadTraining = HeadTraining()
    workers: Workers = Workers()
    thresholds: Thresholds = Thresholds()
    storage: dict[str, Any] = Field(default_factory=dict)
