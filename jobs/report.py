"""The run report: the JSON that a run leaves in its archive, and what ``--json`` prints."""

import json
import logging
import platform
import re
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from cnnbatch import signals
from cnnbatch.archive.leftovers import RUNS
from cnnbatch.errors import CnnbatchError, StorageError, UsageError
from cnnbatch.stages.records import Failure, Finding, Tally
from cnnbatch.storage import StorageConfig, Store, parse_json
from cnnbatch.storage.urls import parse_url, plain_url
from cnnbatch.version import VERSION

MAX_REPORT_BYTES = 64 << 20
REPORTS_AT_ONCE = 16
_COMPRESS_REPORT = re.compile(rf"{RUNS}/\d[^/]*\.json")
"""Run ids of other jobs begin with the job's name."""

logger = logging.getLogger(__name__)


def new_run_id(prefix: str = "") -> str:
    """Sortable by the second, unique by chance; ``prefix`` tells the runs apart that only read the archive."""
    return f"{prefix}{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"


def shown(config: BaseModel, storage: StorageConfig) -> dict[str, Any]:
    """The configuration without credentials: those in ``storage`` are masked, and those in a URL cut out."""
    values: dict[str, Any] = without_credentials(config.model_dump(mode="json"))
    masked = storage.model_dump(mode="json")
    values["storage"] = {name: masked[name] for name in values["storage"]}
    values |= {name: parse_url(values[name]).url for name in ("source", "archive", "destination", "out") if values.get(name)}
    return values


def without_credentials(values: Any) -> Any:
    """The same mappings, lists and texts; of a text that is a URL, what may be shown."""
    if isinstance(values, dict):
        return {name: without_credentials(value) for name, value in values.items()}
    if isinstance(values, list):
        return [without_credentials(value) for value in values]
    return plain_url(values) if isinstance(values, str) else values


@dataclass(slots=True)
class RunReport:
    """A run's request, its findings and its work.

    ``inputs`` = ``unchanged`` + ``erased`` + ``hidden`` + ``tally.total`` when it is complete. ``hidden`` are those that may be
    in shards that cannot be read. Of the ``vanished``, whose originals are gone from the source, ``outdated`` have rows that
    ``--recompress`` would have taken. ``left_out`` are no inputs: what file managers leave behind, and markers of folders.
    ``superseded``: another run's rows of these images were first.
    """

    job: str
    run_id: str
    config: Mapping[str, Any]
    version: str = VERSION
    host: str = field(default_factory=platform.node)
    started_at: str = field(default_factory=lambda: _now())
    finished_at: str | None = None
    exit_code: int | None = None
    error: str | None = None
    codec_id: str | None = None
    inputs: int = 0
    unchanged: int = 0
    erased: int = 0
    left_out: int = 0
    hidden: int = 0
    new: int = 0
    changed: int = 0
    vanished: int = 0
    outdated: int = 0
    removed: int = 0
    superseded: int = 0
    blocked: int = 0
    diff_seconds: float = 0.0
    shards: int = 0
    commits: int = 0
    tally: Tally = field(default_factory=Tally)
    failures: Sequence[Failure] = ()
    findings: Sequence[Finding] = ()

    @property
    def complete(self) -> bool:
        """Whether every input has exactly one outcome."""
        return self.inputs == self.unchanged + self.erased + self.hidden + self.tally.total

    def finish(self, exit_code: int, error: str | None = None) -> None:
        """Notes how the run ended."""
        self.finished_at, self.exit_code, self.error = _now(), exit_code, error

    def fail(self, error: CnnbatchError | KeyboardInterrupt) -> None:
        """Notes what ended the run."""
        if isinstance(error, CnnbatchError):
            self.finish(error.exit_code, str(error))
        else:
            self.finish(signals.exit_code(), signals.ending())

    def to_json(self) -> str:
        """The report as JSON."""
        tally = asdict(replace(self.tally, kept={}, converted={})) | self.tally.kinds_as_lists()
        return json.dumps({**asdict(self), "tally": tally, "complete": self.complete}, indent=2, sort_keys=True)

    def write(self, archive: Store) -> None:
        """Puts the report into the archive."""
        archive.put(f"{RUNS}/{self.run_id}.json", self.to_json().encode())

    def leave(self, archive: Store) -> bool:
        """Puts it there if the archive can be written, which a job that only reads does not need; tells whether it could."""
        try:
            self.write(archive)
        except StorageError as error:
            logger.info("the run report could not be written to the archive: %s", error)
            return False
        return True


def failed_keys(archive: Store, run_id: str) -> frozenset[str]:
    """Keys that failed in an earlier run; raises UsageError if there is no such run."""
    try:
        failures = parse_json(archive.read(f"{RUNS}/{run_id}.json", max_bytes=MAX_REPORT_BYTES))["failures"]
        return frozenset(str(failure["key"]) for failure in failures)
    except FileNotFoundError:
        raise UsageError(f"{archive.url} has no report of a run {run_id!r}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"the report of run {run_id!r} is not readable: {error}") from error


def is_run_report(file: Path) -> bool:
    """Tells whether a local file is what ``--report`` writes."""
    try:
        report = json.loads(file.read_bytes()) if file.stat().st_size <= MAX_REPORT_BYTES else None
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(report, dict) and {"job", "run_id", "tally"} <= report.keys()


def known_sources(archive: Store) -> frozenset[str]:
    """The URLs of what runs of `jobs.compress` have read, by those of their reports that are there."""
    reports = (info for info in archive.list(RUNS) if _COMPRESS_REPORT.fullmatch(info.key))
    found: set[str] = set()
    for _, report in archive.get_many(reports, max_bytes=MAX_REPORT_BYTES, concurrency=REPORTS_AT_ONCE):
        if isinstance(report, bytes):
            with suppress(ValueError, LookupError, TypeError):  # not one of ours
                found.add(str(parse_json(report)["config"]["source"]))
    return frozenset(found)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
