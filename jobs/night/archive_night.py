"""The night of one archive: lease → diff → compress → verify → compact → retention → report.

A step that fails does not keep the later ones from their work, with two exceptions: without the lease nothing is done, and
nothing is merged or deleted unless verification is done and found nothing. What a killed night left undone the next one does:
compression goes on from the log, and `Record` says what has been verified and which shards are damaged.
"""

import logging
import random
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final

from cnnbatch import signals
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
from jobs.night.record import RECORD, Record, damaged_shards
from jobs.night.report import PREFIX, ArchiveReport, Figures, NightReport, Outcome, Step, add_run
from jobs.night.settings import NightlyConfig
from jobs.settings import ArchiveEntry
from jobs.verify import VerifyJob

CLOCK_SECONDS: Final = 600.0
"""How far the clocks may be apart before nothing is deleted by its age."""
AHEAD_SECONDS: Final = 8 * 86400.0
"""A night a week is usual; a clock that is further ahead may have jumped."""

logger = logging.getLogger(__name__)


class _LeftOut(Exception):
    """A step that has nothing to do, or must not: says why."""


class ArchiveNight:
    """One archive's night: `begin` takes the lease, `run` does the steps, `end` lets the lease go."""

    def __init__(self, config: NightlyConfig, entry: ArchiveEntry, night: NightReport) -> None:
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
        self._show_newest()
        if self._step("diff", self._record_start):
            self.report.steps.pop()  # compress will say what the diff found
            self._compress_steps()
        else:
            self.report.steps.append(Step("compress", "skipped", message="the diff failed"))
        self.show_steps()
        self._step("verify", self._verify)
        self.show_steps()
        verified = self.report.steps[-1]
        for name, action in (("compact", self._compact), ("retention", self._retain)):
            self._step(name, partial(_leave_evidence, verified) if verified.outcome == "failed" else action)
            self.show_steps()
        self._step("report", lambda: self._account(meter))
        self.show_steps()

    def show_steps(self) -> None:
        """Sets the metric of every step that has been done or left out."""
        for step in self.report.steps:
            show("cnnbatch_step_outcome", step.exit_code, archive=self.report.archive, step=step.name)

    def _show_newest(self) -> None:
        """How old the archive is before this night; compression sets it again at each commit."""
        try:
            last = self._log().last_commit(besides=("compact-", "erase-"))
        except (CnnbatchError, _LeftOut) as reason:  # a step will say so
            logger.info("%s: no newest shard: %s", self.report.archive, reason)
        else:
            if last is not None:
                show("cnnbatch_newest_shard_timestamp_seconds", last.timestamp(), archive=self.report.archive)

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
        except KeyboardInterrupt:
            self.report.steps.append(Step(name, "failed", _since(started), signals.exit_code(), signals.ending(), figures))
            raise
        except Exception as error:  # a full disk, a dead cluster, a bug: the report has to say it
            logger.exception("%s: %s", self.report.archive, name)
            outcome, code, message = "failed", 1, f"{type(error).__name__}: {error}"
        self.report.steps.append(Step(name, outcome, _since(started), code, message, figures))
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
            Record(-1 if new else self._log().snapshot().version).write(self.store)
        return {}

    def _compress_steps(self) -> None:
        self.job: CompressJob | None = None
        most = self.config.attempts.most
        for number in range(1, most + 1):
            if self._step("compress", self._compress) or not self._may_pass() or number == most:
                break
            failed = self.report.steps.pop()
            logger.warning("%s: attempt %d of %d failed: %s", self.report.archive, number, most, failed.message)
            time.sleep(self.config.attempts.pause_seconds)
        compress = self.report.steps.pop()
        if self.job is None or not self.job.compared:
            self.report.steps.append(Step("diff", "failed", compress.seconds, compress.exit_code, compress.message))
            self.report.steps.append(Step("compress", "skipped", message="the diff failed"))
            return
        report = self.job.report
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
        log, record = self._log(), Record.read(self.store)
        level = self.config.verify.level
        config = self.config.verify_config(self.entry, level="checksums" if record.damaged and level == "log" else level)
        job = VerifyJob(config)
        now = job.newest.snapshot
        before = log.snapshot_at(record.verified_log_version)
        known = set() if before is None else {shard.path for shard in before.shards}
        damaged = [shard.path for shard in now.shards if shard.path in record.damaged]
        new = [shard.path for shard in now.shards if shard.path not in known.union(damaged)]
        old = [shard.path for shard in now.shards if shard.path in known.difference(damaged)]
        sample = random.Random(self.night.seed).sample(old, min(len(old), self.config.verify.sample_shards))
        job.only = frozenset((*new, *sample, *damaged))
        figures: dict[str, int | float | str] = {"new_shards": len(new), "of_the_old_shards": len(sample)}
        figures |= {"known_as_damaged": len(damaged)} if damaged else {}
        try:
            job.execute()
        except VerifyFailed:
            again = damaged_shards(job.findings, opened=job.only, live=[shard.path for shard in now.shards])
            if again:  # told of; without findings the log is as unverified as before
                replace(record, verified_log_version=now.version, damaged=again).write(self.store)
            raise
        finally:
            self.report.findings = tuple(job.findings)
        replace(record, verified_log_version=now.version, damaged=()).write(self.store)
        return figures | {"level": config.verification.level}

    def _compact(self) -> Figures:
        if not self.config.compact:
            raise _LeftOut("compact is false")
        result = compact(self._log(), run_id=f"compact-{self.night.run_id}")
        return {"merged": result.merged, "written": result.written, "left_damaged": len(result.damaged)}

    def _retain(self) -> Figures:
        log = self._log()
        grace = timedelta(hours=self.config.retention.grace_hours)
        fault = clock_fault(self.store, *self._started) or since_last_night(Record.read(self.store).wall_seconds, time.time())
        if fault is not None:
            raise _LeftOut(fault)
        swept = sweep(log, grace=grace)
        reports = forget_reports(self.store, keep=self.config.retention.reports, grace=grace)
        return {"files_swept": swept.files, "bytes_swept": swept.num_bytes, "reports_forgotten": reports}

    def _account(self, meter: NodeMeter) -> Figures:
        figures: dict[str, int | float | str] = {}
        if self.store.head(RECORD) is not None:
            replace(Record.read(self.store), wall_seconds=time.time()).write(self.store)
        if self.store.head(FORMAT_PATH) is not None:
            archive = open_archive(self.store.url, self.storage)
            info = archive.info()
            self.report.held = info.source_bytes, info.archive_bytes
            figures = {"images": info.num_images, "shards": info.num_shards, "archive_bytes": info.archive_bytes}
        report, (seconds, unanswered) = self.report, meter.take()
        prices = self.config.prices
        report.cost = cost_of(seconds, prices, images=report.images, source_bytes=report.source_bytes, held=report.held)
        return figures | ({"times_nodes_were_not_counted": unanswered} if unanswered else {})


def _since(started: float) -> float:
    return round(time.monotonic() - started, 3)


def _leave_evidence(verified: Step) -> Figures:
    if verified.exit_code == VerifyFailed.exit_code:
        raise _LeftOut("verification found damage: nothing is merged or deleted until somebody has looked")
    raise _LeftOut("verification did not finish: nothing is merged or deleted before it does")


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


def since_last_night(last: float | None, now: float) -> str | None:
    """Why ages cannot be trusted: this clock's distance from the end of the last night. A local disk's times are this clock's,
    so that nothing else tells; the next night believes it."""
    if last is None:
        return None
    if now < last - CLOCK_SECONDS:
        return f"the clock is {last - now:,.0f} s before the end of the last night: nothing is deleted by its age this once"
    if now > last + AHEAD_SECONDS:
        days = (now - last) / 86400
        return (
            f"{days:,.0f} days have passed since the last night, if the clock is right: nothing is deleted by its age this once"
        )
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
