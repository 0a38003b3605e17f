"""Configuration of the jobs: one frozen model each, from a YAML file, flags and ``name=value`` words, in that order."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cnnbatch.archive.lease import HEARTBEAT_SECONDS, LAPSE_SECONDS, POLL_SECONDS, WAIT_SECONDS
from cnnbatch.codec.hyperprior import HyperpriorSettings
from cnnbatch.errors import UsageError
from cnnbatch.stages.compress import CompressionSettings
from cnnbatch.stages.reconstruct import ReconstructionSettings
from cnnbatch.stages.verify import VerifySettings
from cnnbatch.training.trainer import TrainingConfig
from jobs.engine import Workers

Model = TypeVar("Model", bound=BaseModel)


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


class Shards(BaseModel):
    """Size of a shard, and how often finished ones are committed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source_bytes: int = Field(512 << 20, gt=0)
    """Source bytes of a shard: about 128 MiB of output or a minute of a GPU, whichever comes first."""
    images: int = Field(2000, gt=0)
    commit_every: int = Field(8, gt=0)
    commit_seconds: float = Field(30, gt=0)


class LeaseTimes(BaseModel):
    """See `cnnbatch.archive.Lease`; all runs on one archive should have the same."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    wait_seconds: float = Field(WAIT_SECONDS, ge=0)
    lapse_seconds: float = Field(LAPSE_SECONDS, gt=0)
    heartbeat_seconds: float = Field(HEARTBEAT_SECONDS, gt=0)
    poll_seconds: float = Field(POLL_SECONDS, gt=0)


class CompressConfig(BaseModel):
    """`jobs.compress`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    archive: str
    codec: str | None = None
    """A codec file; None: the shipped one."""
    exclude: tuple[str, ...] = ()
    mirror_deletes: bool = False
    recompress: bool = False
    retry_failed: str | None = None
    compression: CompressionSettings = CompressionSettings()
    shards: Shards = Shards()
    workers: Workers = Workers()
    thresholds: Thresholds = Thresholds()
    lease: LeaseTimes = LeaseTimes()
    storage: dict[str, Any] = Field(default_factory=dict)
    """Overrides of what the environment says: endpoint, region, …; see `cnnbatch.storage.StorageConfig`."""


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


class VerifyConfig(BaseModel):
    """`jobs.verify`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    archive: str
    source: str | None = None
    """What was archived: for the level ``source``, and for the PSNR at the level ``decode``."""
    exclude: tuple[str, ...] = ()
    """As `jobs.compress` was told, so that what it left out is not missed."""
    verification: VerifySettings = VerifySettings()
    workers: Workers = Workers()
    storage: dict[str, Any] = Field(default_factory=dict)


class TrainConfig(BaseModel):
    """`jobs.train`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    codec_file: Path
    resume: bool = False
    model: HyperpriorSettings = HyperpriorSettings()
    training: TrainingConfig = TrainingConfig()
    storage: dict[str, Any] = Field(default_factory=dict)


def resolve(model: type[Model], *, file: str | None, flags: Mapping[str, Any], words: Sequence[str]) -> Model:
    """Raises UsageError naming the first wrong or unknown setting."""
    values = _read_yaml(file) if file else {}
    for name, value in flags.items():
        if value is not None:
            _set(values, name, value)
    for word in words:
        name, separator, text = word.partition("=")
        if not separator:
            raise UsageError(f"expected name=value, got {word!r}")
        _set(values, name, _value(text))
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"setting {name or model.__name__}: {first['msg']}") from None


def _value(text: str) -> Any:
    """A value as YAML reads it; text that is no YAML, such as ``*.tif``, as it is."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _read_yaml(path: str) -> dict[str, Any]:
    try:
        values = yaml.safe_load(Path(path).read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"cannot read the configuration {path}: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise UsageError(f"the configuration {path} is not a mapping of names to values")
    return values


def _set(values: dict[str, Any], name: str, value: Any) -> None:
    """``compression.quality`` names the key ``quality`` in the mapping ``compression``."""
    *path, last = name.split(".")
    for part in path:
        values = values.setdefault(part, {})
        if not isinstance(values, dict):
            raise UsageError(f"setting {name}: {part} is not a group")
    values[last] = value
