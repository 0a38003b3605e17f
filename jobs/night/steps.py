"""The night of one archive: lease → diff → compress → verify → compact → retention → report.

A step that fails does not keep the later ones from their work, with two exceptions: without the lease nothing is done, and
where verification found damage nothing is merged or deleted any more. What a killed night left undone the next one does:
compression goes on from the log, and `RECORD` says up to which version of the log the shards have been verified.
"""

import json
import logging
import random
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Final

from cnnbatch.archive import ArchiveLog, Lease, open_archive
from cnnbatch.archive.layout import FORMAT_PATH, check_place
from cnnbatch.archive.lease import LEASE_PATH
from cnnbatch.archive.leftovers import RUNS
from cnnbatch.archive.maintenance import compact
from cnnbatch.archive.orphans import sweep
from cnnbatch.errors import CnnbatchError, LeaseHeld, StorageError, VerifyFailed
from cnnbatch.storage import StorageConfig, Store, open_store
from cnnbatch.storage.urls import parse_url
from jobs.compress import CompressJob
from jobs.metrics import show
from jobs.night.cost import NodeMeter, cost_of
from jobs.night.report import PREFIX, ArchiveReport, Figures, NightReport, Outcome, Step, add_run
from jobs.night.settings import Entry, NightlyConfig
from jobs.verify import VerifyJob

RECORD: Final = "_cnnbatch/nightly.json"
CLOCK_SECONDS: Final = 600.0
"""How far the clocks may be apart before nothing is deleted by its age."""

logger = logging.getLogger(__name__)


class _LeftOut(Exception):
    """A step that has nothing to do, or must not: says why."""


class ArchiveNight:
    """One archive's night: `begin` takes the lease, `run` does the steps, `end` lets the lease go."""

    def __init__(self, config: NightlyConfig, entry: Entry, night: NightReport) -> None:
        self.config, self.entry, self.night = config, entry, night
        self.report = ArchiveReport(parse_url(entry.source).url, parse_url(entry.archive).url)
        self.storage = StorageConfig()
        self._held = ExitStack()
        self._started = time.time(), time.monotonic()

    def begin(self) -> bool:
        """Takes the lease; without it nothing of the archive is touched, and the report says why."""
        return self._step("lease", self._take_lease)

    def run(self, meter: NodeMeter) -> None:
        """Does the steps; raises nothing that is one archive's fault."""
        if self._step("diff", self._record_start):
            self.report.steps.pop()  # compress will say what the diff found
            self._compress_steps()
        else:
            self.report.steps.append(Step("compress", "skipped", message="the diff failed"))
        self._step("verify", self._verify)
        damaged = self.report.steps[-1].exit_code == VerifyFailed.exit_code
        for name, action in (("compact", self._compact), ("retention", self._retain)):
            self._step(name, self._leave_evidence if damaged else action)
        self._step("report", lambda: self._account(meter))
        for step in self.report.steps:
            show("cnnbatch_step_outcome", step.exit_code, archive=self.report.archive, step=step.name)

    def end(self) -> None:
        """Lets the lease go."""
        self._held.close()

    def write(self) -> None:
        """Puts this archive's part of the report into it; raises StorageError."""
        self.night.part(self.report).write(self.store, RUNS)

    def _step(self, name: str, action: Callable[[], Figures]) -> bool:
        """The only place that catches what a step raises: another archive is not to suffer from it."""
        started = time.monotonic()
        figures: Figures = {}
        outcome: Outcome = "done"
        code, message = 0, ""
        self._trouble = False
        try:
            if name != "lease" and self.lease.lost:
                raise LeaseHeld("another run has taken the lease from this one")
            figures = action()
        except _LeftOut as reason:
            outcome, message = "skipped", str(reason)
        except CnnbatchError as error:
            outcome, code, message = "failed", error.exit_code, str(error)
            self._trouble = isinstance(error, StorageError)
        except Exception as error:  # a full disk, a dead cluster, a bug: the report has to say it
            logger.exception("%s: %s", self.report.archive, name)
            outcome, code, message = "failed", 1, f"{type(error).__name__}: {error}"
        seconds = round(time.monotonic() - started, 3)
        self.report.steps.append(Step(name, outcome, seconds, code, message, figures))
        logger.info("%s: %s %s%s", self.report.archive, name, outcome, message and f": {message}")
        return not code

    def _take_lease(self) -> Figures:
        self.storage = StorageConfig.from_environment(**(self.config.storage | self.entry.storage))
        self.store: Store = open_store(self.entry.archive, self.storage)
        self.store.check_writable()
        check_place(self.store)
        lease = Lease(self.store, run_id=f"{PREFIX}{self.night.run_id}", **self.config.lease.model_dump())
        self.lease = self._held.enter_context(lease)
        return {}

    def _log(self) -> ArchiveLog:
        if self.store.head(FORMAT_PATH) is None:
            raise _LeftOut("there is no archive yet")
        return ArchiveLog.open(self.store.url, self.storage)

    def _record_start(self) -> Figures:
        """The first night on an archive takes what is there already for verified: it is the old, of which a sample is."""
        if self.store.head(RECORD) is None:
            new = self.store.head(FORMAT_PATH) is None
            self._put_record(-1 if new else self._log().snapshot().version)
        return {}

    def _put_record(self, version: int) -> None:
        self.store.put(RECORD, json.dumps({"verified_log_version": version}).encode())

    def _compress_steps(self) -> None:
        self.job: CompressJob | None = None
        most = self.config.attempts.most
        for number in range(1, most + 1):
            if self._step("compress", self._compress) or not self._may_pass() or number == most:
                break
            failed = self.report.steps.pop()
            logger.warning("%s: attempt %d of %d failed: %s", self.report.archive, number, most, failed.message)
            time.sleep(self.config.attempts.pause_seconds)
        compress, report = self.report.steps.pop(), None if self.job is None else self.job.report
        if report is None or not report.diff_seconds:
            self.report.steps.append(Step("diff", "failed", compress.seconds, compress.exit_code, compress.message))
            self.report.steps.append(Step("compress", "skipped", message="the diff failed"))
            return
        found = {name: getattr(report, name) for name in ("inputs", "unchanged", "new", "changed", "vanished", "erased")}
        self.report.steps.append(Step("diff", "done", report.diff_seconds, figures=found))
        self.report.steps.append(compress)

    def _compress(self) -> Figures:
        self.job = None
        job = self.job = CompressJob(self.config.compress_config(self.entry))
        try:
            job.execute(held=self.lease)
        finally:
            add_run(self.report, job.report)
        return dict(job.report.tally.images) | {"shards": job.report.shards, "removed": job.report.removed}

    def _may_pass(self) -> bool:
        """Whether trying again may help: trouble with a store, or another writer that was faster."""
        superseded = self.job is not None and self.job.report.superseded
        return bool(self._trouble or superseded)

    def _verify(self) -> Figures:
        log = self._log()
        job = VerifyJob(self.config.verify_config(self.entry))
        now = job.archive.snapshot
        before = log.snapshot_at(json.loads(self.store.read(RECORD))["verified_log_version"])
        known = {shard.path for shard in before.shards} if before is not None else set()
        new = [shard.path for shard in now.shards if shard.path not in known]
        old = [shard.path for shard in now.shards if shard.path in known]
        sample = random.Random(self.night.seed).sample(old, min(len(old), self.config.verify.sample_shards))
        job.only = frozenset((*new, *sample))
        try:
            job.execute()
        finally:
            self.report.findings = tuple(job.findings)
        self._put_record(now.version)
        return {"new_shards": len(new), "of_the_old_shards": len(sample), "level": self.config.verify.level}

    def _compact(self) -> Figures:
        if not self.config.compact:
            raise _LeftOut("compact is false")
        result = compact(self._log(), run_id=f"compact-{self.night.run_id}")
        return {"merged": result.merged, "written": result.written, "left_damaged": len(result.damaged)}

    def _leave_evidence(self) -> Figures:
        raise _LeftOut("verification found damage: nothing is merged or deleted until somebody has looked")

    def _retain(self) -> Figures:
        log = self._log()
        grace = timedelta(hours=self.config.retention.grace_hours)
        fault = clock_fault(self.store, *self._started)
        if fault is not None:
            raise _LeftOut(fault)
        swept = sweep(log, grace=grace)
        reports = forget_reports(self.store, keep=self.config.retention.reports, grace=grace)
        return {"files_swept": swept.files, "bytes_swept": swept.num_bytes, "reports_forgotten": reports}

    def _account(self, meter: NodeMeter) -> Figures:
        held = None
        figures: dict[str, int | float | str] = {}
        if self.store.head(FORMAT_PATH) is not None:
            archive = open_archive(self.store.url, self.storage)
            info = archive.info()
            held = info.source_bytes, info.archive_bytes
            figures = {"images": info.num_images, "shards": info.num_shards, "archive_bytes": info.archive_bytes}
            self._show_age()
        report = self.report
        prices = self.config.prices
        report.cost = cost_of(meter.take(), prices, images=report.images, source_bytes=report.source_bytes, held=held)
        return figures

    def _show_age(self) -> None:
        last = self._log().last_commit(besides=("compact-", "erase-"))
        if last is not None:
            age = max(0.0, (datetime.now(UTC) - last).total_seconds())
            show("cnnbatch_newest_shard_age_seconds", age, archive=self.report.archive)


def clock_fault(store: Store, wall: float, monotonic: float) -> str | None:
    """Why ages cannot be trusted: this machine's clock jumped since (``wall``, ``monotonic``), or the store's is another.

    The lease is the store's clock: its heartbeat is at most seconds old.
    """
    jump = (time.time() - wall) - (time.monotonic() - monotonic)
    if abs(jump) > CLOCK_SECONDS:
        return f"the clock jumped by {jump:+,.0f} s during the night: nothing is deleted by its age"
    beat = store.head(LEASE_PATH)
    if beat is not None and beat.mtime is not None:
        apart = time.time() - beat.mtime.timestamp()
        if abs(apart) > CLOCK_SECONDS:
            return f"this clock and the store's are {apart:+,.0f} s apart: nothing is deleted by its age"
    return None


def forget_reports(store: Store, *, keep: int, grace: timedelta) -> int:
    """Deletes all but the newest ``keep`` reports of each kind, and marks that killed runs left before ``grace``."""
    names = list(store.list(RUNS))
    limit = datetime.now(UTC) - grace
    gone = [info.key for info in names if info.key.count("/") > 2 and info.mtime is not None and info.mtime < limit]
    reports = [info.key for info in names if info.key.count("/") == 2]
    by_kind: dict[str, list[str]] = defaultdict(list)
    for name in sorted(reports):  # ids end in their time, behind what tells the kinds apart: nothing, nightly-, verify- …
        by_kind[name.removeprefix(f"{RUNS}/").partition("20")[0]].append(name)
    for kind, of_kind in by_kind.items():
        gone += of_kind[: -keep * (2 if kind == PREFIX else 1)]  # a night has a page as well
    for name in gone:
        store.delete(name)
    return len(gone)
