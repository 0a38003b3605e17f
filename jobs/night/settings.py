"""Configuration of `jobs.nightly`: one file for any number of archives. Secrets come from the environment only."""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from cnnbatch.errors import UsageError
from cnnbatch.storage import overlaps
from cnnbatch.storage.urls import parse_url
from jobs.configuration import read_yaml, resolve
from jobs.engine import Workers
from jobs.night.cost import Expected, Prices
from jobs.settings import ArchiveEntry, CompressConfig, LeaseTimes, Planning, Shards, VerifyConfig
from jobs.watchdog import Fallback

_SECRET_NAME: Final = re.compile(r"passw|secret|token|credential|access_?key|private_?key|api_?key", re.IGNORECASE)
_SECRET_VALUE: Final = re.compile(
    r"\b(AKIA|ASIA)[A-Z0-9]{16}\b|PRIVATE KEY-----|://[^/\s]*:[^/\s]*@|hooks\.slack\.com/"
    r"|(?i:[?&]([a-z-]*sig(nature)?|[a-z-]*token|[a-z-]*key(id)?|passw(or)?d|policy)=)"
)
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Checks(BaseModel):
    """The shards to verify every night: each that is new since the last night, and some of the others."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    level: Literal["log", "checksums", "decode"] = "checksums"
    """``decode`` decodes every image of these shards, which takes as long as compressing them did."""
    sample_shards: int = Field(4, ge=0)
    seed: int | None = None
    """Seed of the sample; None: another one every night. The report says which."""


class Retention(BaseModel):
    """How long what nothing needs any more stays."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    grace_hours: float = Field(24, ge=1, le=87600)
    """Hours that files without a live image are kept: orphans of killed runs, shards that were replaced, also by an erasure."""
    reports: int = Field(400, ge=1)
    """Run reports kept in an archive, the newest."""


class Attempts(BaseModel):
    """Trouble with a store is waited out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    most: int = Field(3, ge=1)
    pause_seconds: float = Field(60, ge=0)


class NightlyConfig(BaseModel):
    """`jobs.nightly`. Only ``archives`` has no default."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    archives: tuple[ArchiveEntry, ...] = Field(min_length=1)
    """Their ``storage`` wins over the one below."""
    verify: Checks = Checks()
    compact: bool = True
    retention: Retention = Retention()
    attempts: Attempts = Attempts()
    prices: Prices = Prices()
    expected: Expected = Expected()
    fallback: Fallback | None = None
    """On-demand workers while spot is dry; None: none."""
    workers: Workers = Workers()
    shards: Shards = Shards()
    planning: Planning = Planning()
    lease: LeaseTimes = LeaseTimes()
    storage: dict[str, Any] = Field(default_factory=dict)
    """Overrides of what the environment says, for all archives: endpoint, region, …; no keys."""
    reports: str | None = None
    """Folder or URL for the report of the whole night; each archive gets its part in any case."""
    webhook_variable: str | None = None
    """Name of the environment variable that holds the URL to post the report to."""
    log_format: Literal["text", "json"] = "text"

    def compress_config(self, entry: ArchiveEntry) -> CompressConfig:
        """As `jobs.compress` would be called for this entry."""
        own = {name: getattr(entry, name) for name in ArchiveEntry.model_fields if name != "storage"}
        shared = {name: getattr(self, name) for name in ("shards", "planning", "workers", "lease")}
        return CompressConfig(**own, **shared, storage=self.storage | entry.storage)

    def verify_config(self, entry: ArchiveEntry, *, level: str) -> VerifyConfig:
        """As `jobs.verify` would be called for this entry."""
        values = {"archive": entry.archive, "workers": self.workers, "verification": {"level": level}}
        return VerifyConfig.model_validate(values | {"storage": self.storage | entry.storage})


def load(file: str, words: Sequence[str] = ()) -> NightlyConfig:
    """Reads and checks the configuration; ``words`` are name=value overrides.

    Raises:
        UsageError: it cannot be read, has a wrong or unknown setting or a secret, or two places overlap. The message has
            no value of the file that could be a secret.
    """
    refuse_secrets(read_yaml(file), f"the configuration {file}")
    for word in words:
        name, _, value = word.partition("=")
        refuse_secrets({name: value}, "the command line")
    config = resolve(NightlyConfig, file=file, flags={}, words=words)
    if config.webhook_variable is not None and not _VARIABLE.fullmatch(config.webhook_variable):
        raise UsageError("setting webhook_variable: the name of an environment variable, such as NIGHTLY_WEBHOOK, not the URL")
    _check_places(config)
    return config


def refuse_secrets(values: Mapping[str, Any], place: str) -> None:
    """Raises UsageError for what is named like a secret or looks like one, and says where, not what."""
    for path, value in _leaves(values):
        if _SECRET_NAME.search(path) or (isinstance(value, str) and _SECRET_VALUE.search(value)):
            raise UsageError(
                f"{place} has a secret at {path}: secrets come from the environment (AWS_ACCESS_KEY_ID, a profile, a role), "
                "take it out and replace it where it was valid"
            )


def _leaves(values: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Every value with its dotted path."""
    if isinstance(values, Mapping):
        for name, value in values.items():
            yield from _leaves(value, f"{path}.{name}" if path else str(name))
    elif isinstance(values, list):
        for number, value in enumerate(values):
            yield from _leaves(value, f"{path}.{number}")
    else:
        yield path, values


def _check_places(config: NightlyConfig) -> None:
    """No archive lies inside another archive, a source, or the other way round; sources may share images."""
    for one, other in combinations(config.archives, 2):
        if overlaps(one.archive, other.archive):
            raise UsageError(f"two entries of archives overlap: {parse_url(one.archive).url}, {parse_url(other.archive).url}")
    for entry in config.archives:
        for source in (other.source for other in config.archives):
            if overlaps(source, entry.archive):
                names = f"{parse_url(source).url}, {parse_url(entry.archive).url}"
                raise UsageError(f"SOURCE and ARCHIVE must not lie inside one another: {names}")
