"""Compresses the images below SOURCE into ARCHIVE; run again, it takes what is new or changed.

list → diff against the archive → plan shards → compress actors → commit while running → run report
"""

import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec

import pyarrow as pa
import pyarrow.compute as pc

from cnnbatch.archive import ArchiveLog, Lease, LiveShard, Snapshot
from cnnbatch.archive.erased import read_erased
from cnnbatch.archive.leftovers import RUNS, clear_run_folder
from cnnbatch.archive.maintenance import compact
from cnnbatch.codec import Codec
from cnnbatch.codec.runtime.process import dedicate_process
from cnnbatch.containers import keeping_indexes, open_source
from cnnbatch.errors import CnnbatchError, UsageError
from cnnbatch.job_options import job_parser
from cnnbatch.spill import Scratch
from cnnbatch.stages.codec_shelf import CodecShelf
from cnnbatch.stages.commit import Committer
from cnnbatch.stages.compress import ShardCompressor
from cnnbatch.stages.difference import ArchivedRows, Difference, Recoding, compare, compare_some, removals
from cnnbatch.stages.estimate import Estimate, estimate
from cnnbatch.stages.guarded import GuardedCompressor
from cnnbatch.stages.listing import Scan, without_erased
from cnnbatch.stages.mirror import still_there, why_kept
from cnnbatch.stages.plan import Plan, plan_shards, shard_limits
from cnnbatch.stages.records import CompressResult, CompressTask, Failure, Tally
from cnnbatch.stages.settings import OPTIONS, CompressionSettings
from cnnbatch.storage import Source, StorageConfig, Store, open_store, overlaps
from cnnbatch.storage.urls import parse_url
from cnnbatch.text import visible_lines
from jobs import engine
from jobs.command import run_as_module, run_job
from jobs.compress_outcome import check_complete, check_some_archived, describe
from jobs.configuration import read_codec, resolve
from jobs.metrics import record_shard, show
from jobs.progress import Progress
from jobs.report import RunReport, failed_keys, new_run_id, shown
from jobs.settings import CompressConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Build:
    """Makes a `ShardCompressor` on its actor. Stores travel as URL and configuration, passwords in the URL included."""

    source: Source
    archive: Store
    codec_id: str
    settings: CompressionSettings
    run_id: str
    threads: int

    def __call__(self) -> ShardCompressor:
        dedicate_process()
        codec = CodecShelf(self.archive, threads=self.threads)[self.codec_id]
        return ShardCompressor(self.source, self.archive, codec, self.settings, run_id=self.run_id)


class CompressJob:
    """One run. `execute` does the work, `preview` only says what there is to do."""

    def __init__(self, config: CompressConfig) -> None:
        """Checks all that can be wrong before anything is written.

        Raises UsageError, StorageError, CodecFileError.
        """
        if overlaps(config.source, config.archive):
            source, archive = parse_url(config.source).url, parse_url(config.archive).url
            raise UsageError(f"SOURCE and ARCHIVE must not lie inside one another: {source}, {archive}")
        self.config = config
        self.storage = StorageConfig.from_environment(**config.storage)
        self.codec_data = read_codec(config.codec)
        self.codec = Codec(self.codec_data, device="cpu")
        self.archive = open_store(config.archive, self.storage)
        store = open_store(config.source, self.storage)
        self.source = open_source(store, config.source_settings, archive=self.archive, config=self.storage)
        self.source.check()
        self.archive.check_writable()
        if config.compression.decode and find_spec("pillow_heif") is None:
            logger.warning("--decode: HEIC is kept as it is, pillow-heif is missing: pip install 'cnnbatch[heif]'")
        self.report = RunReport("compress", new_run_id(), shown(config, self.storage), codec_id=self.codec.id)
        self.scratch = Scratch(config.planning.folder, memory_bytes=config.planning.memory_bytes)
        self.failures: list[Failure] = []
        self.faults: Sequence[Failure] = ()  # of the listing
        self.rows = 0  # of the archive before the run
        self.compared = False  # whether the run got so far as to know what there is to do
        self.retried = None if config.retry_failed is None else failed_keys(self.archive, config.retry_failed)

    def survey(self) -> Difference:
        """Plans the work, its counts noted in the report; writes nothing and reads no image."""
        log = None if self.archive.head("_cnnbatch/format.json") is None else ArchiveLog.open(self.archive.url, self.storage)
        return self._difference(() if log is None else log.snapshot().shards)

    def why_kept(self) -> str | None:
        """Once source and archive are compared: why no row may be removed although its original is gone; None: they may."""
        return why_kept(
            vanished=self.report.vanished,
            rows=self.rows,
            inputs=self.report.inputs,
            faults=self.faults,
            limit=self.config.delete_limit,
        )

    def preview(self) -> Estimate:
        """Previews a run; writes nothing, and reads a few images to estimate the rest."""
        with self.scratch:
            return replace(
                estimate(self.source, self.archive, self.survey(), self.codec, self.config.compression),
                failures=tuple(self.failures),
                kept=self.why_kept() if self.config.mirror_deletes else None,
            )

    def execute(self, *, held: Lease | None = None) -> None:
        """Runs to the end; what was committed stays when it fails. The report is in the archive either way.

        ``held``: the archive's lease, where the caller has it already.

        Raises LeaseHeld, TooManyFailures, and CnnbatchError where the run must be repeated.
        """
        log = ArchiveLog.create_or_open(self.archive.url, self.storage, codec_files=[self.codec_data])
        lease = Lease(self.archive, run_id=self.report.run_id, **self.config.lease.model_dump())
        with self.scratch, lease if held is None else nullcontext(held):
            self.source = keeping_indexes(self.source)
            try:
                self._run(log)
                self.report.finish(0)
            except (CnnbatchError, KeyboardInterrupt) as error:
                self.report.fail(error)
                raise
            finally:
                self.report.write(self.archive)
                clear_run_folder(self.archive, self.report.run_id)

    def _run(self, log: ArchiveLog) -> None:
        base = log.snapshot()
        started = time.monotonic()
        difference = self._difference(base.shards)
        self.compared = True
        self.report.diff_seconds = round(time.monotonic() - started, 3)
        shards = self.config.shards
        committer = Committer(log, self.report.run_id, base, shards.commit_every, shards.commit_seconds)
        progress = Progress(difference.images, difference.source_bytes)
        try:
            self._commit_all(committer, difference, progress)
            self.config.thresholds.check(len(self.failures), self.report.unchanged + self.report.tally.total, self.failures)
            check_some_archived(self.report, self.failures)
            self._mirror_deletes(committer, difference)
            if self.config.compact and (difference.changed or self.report.removed):
                merged = compact(log, run_id=f"{self.report.run_id}-compact")
                logger.info("%d shards merged into %d", merged.merged, merged.written)
        finally:
            self.report.commits, self.report.superseded = committer.commits, len(committer.superseded)
            self.report.blocked = len(committer.blocked)
            progress.finish()
        check_complete(self.report, self.archive.url, self._left_by_others(log, committer.superseded))

    def _commit_all(self, committer: Committer, difference: Difference, progress: Progress) -> None:
        """Commits what is done, also when the rest failed or somebody interrupts."""
        try:
            for result, held in self._results(difference, committer.base):
                committer.add(result, held)
                self._show_newest(committer)
                progress.add(result.tally)
                record_shard("compress", self.archive.url, result.number, result.tally)
                self._count(result)
        except (CnnbatchError, KeyboardInterrupt):
            with suppress(CnnbatchError):  # the store may be what is in trouble; the first error is the one to tell
                committer.flush()
            raise
        committer.flush()
        self._show_newest(committer)

    def _show_newest(self, committer: Committer) -> None:
        if committer.commits > self.report.commits:
            self.report.commits = committer.commits
            show("cnnbatch_newest_shard_timestamp_seconds", time.time(), archive=self.archive.url)

    def _left_by_others(self, log: ArchiveLog, superseded: Sequence[str]) -> int:
        """How many of the keys that another run wrote meanwhile are still not as this run wants them."""
        if not superseded:
            return 0
        scan, shards = Scan(self.source, exclude=self.config.exclude), log.snapshot().shards
        found = compare_some(self.scratch, frozenset(superseded), scan, self.archive, shards, self._recoding)
        return found.images + (found.vanished if self.config.mirror_deletes else 0)

    @property
    def _recoding(self) -> Recoding | None:
        return Recoding(self.codec.id, self.config.compression, self.codec.objective) if self.config.recompress else None

    def _difference(self, shards: Sequence[LiveShard]) -> Difference:
        """The source against the archive, its counts noted in the report."""
        report, scan = self.report, Scan(self.source, exclude=self.config.exclude)
        rows = ArchivedRows(self.archive, shards, self._recoding)
        difference = compare(
            self.scratch,
            self._inputs(scan),
            rows,
            num_shards=len(shards),
            hides=scan.hides if self.retried is None else None,
            unreadable=rows.unreadable,
        )
        if difference.repeated:
            logger.warning("%d objects were listed more than once", difference.repeated)
        self.faults, self.rows = tuple(scan.unreadable), sum(shard.num_rows for shard in shards)
        self.failures = [failure for failure in self.faults if self.retried is None or failure.key in self.retried]
        report.failures, report.left_out = self.failures, scan.left_out
        report.tally = Tally.of_failures(self.failures)
        report.hidden = difference.hidden
        report.inputs = difference.images + difference.unchanged + difference.hidden + report.erased + len(self.failures)
        report.unchanged, report.new, report.changed = difference.unchanged, difference.new, difference.changed
        report.vanished, report.outdated = difference.vanished, difference.outdated
        return difference

    def _inputs(self, scan: Scan) -> Iterator[pa.Table]:
        """The part of the listing that is an input of this run, and not erased from the archive."""
        erased, self.report.erased = read_erased(self.archive), 0
        retried = None if self.retried is None else pa.array(sorted(self.retried), type=pa.string())
        for listed in scan:
            table = listed if retried is None else listed.filter(pc.is_in(listed.column("key"), value_set=retried))
            table, count = without_erased(table, erased)
            self.report.erased += count
            yield table

    def _results(self, difference: Difference, base: Snapshot) -> Iterator[tuple[CompressResult, dict[str, str]]]:
        """The shards as they finish, each with what of it ``base`` holds; Ray is started only if there is something to do."""
        if not difference.images:
            return
        config = self.config
        engine.connect()
        pool = engine.size_pool(config.workers)
        limits = shard_limits(
            difference, workers=pool.size, source_bytes=config.shards.source_bytes, images=config.shards.images
        )
        plan = plan_shards(self.scratch, difference, limits, shards=base.shards, keep_together=config.recompress)
        self.report.shards = plan.num_shards
        logger.info("run %s: %d images in %d shards", self.report.run_id, difference.images, plan.num_shards)
        for result in self._on_workers(plan, pool):
            yield result, plan.held(result.number)

    def _on_workers(self, plan: Plan, pool: engine.Pool) -> Iterator[CompressResult]:
        threads = max(1, int(pool.cpus))
        make = Build(self.source, self.archive, self.codec.id, self.config.compression, self.report.run_id, threads)
        build: Callable[[], engine.Worker[CompressTask, CompressResult]] = partial(GuardedCompressor, make)
        if plan.is_small:
            return engine.run(plan.tasks(), build, pool)
        parts = plan.publish(self.archive, f"{RUNS}/{self.report.run_id}/plan")  # goes with the run's folder at its end
        return engine.run_parts(parts, plan.num_shards, build, pool)

    def _count(self, result: CompressResult) -> None:
        self.report.tally = Tally.sum((self.report.tally, result.tally))
        self.failures += result.failures
        listed = sum(failure.stage == "list" for failure in self.failures)  # known from the start, no sign of a trend
        done = self.report.unchanged + self.report.tally.total
        self.config.thresholds.check(len(self.failures) - listed, done - listed, self.failures)

    def _mirror_deletes(self, committer: Committer, difference: Difference) -> None:
        if not self.config.mirror_deletes or self.retried is not None or not difference.vanished:
            return
        if (reason := self.why_kept()) is not None:
            vanished = f"{difference.vanished:,} images are gone from {self.source.url}"
            raise CnnbatchError(f"{vanished} and stay in the archive: {reason}")
        for keys in removals(difference.gone, committer.base.shards):
            there = still_there(self.source, keys)
            if there:
                logger.warning("%d images were not listed but still exist: kept, first %r", len(there), min(there))
            gone = {key: shard for key, shard in keys.items() if key not in there}
            committer.remove(gone)
            self.report.removed += len(gone)


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit code."""
    args = job_parser("compress").parse_intermixed_args(argv)
    names = ("source", "archive", "codec", "exclude", "recompress", "retry_failed", "compact", "mirror_deletes", "delete_limit")
    flags = {name: getattr(args, name) for name in names}
    for name in OPTIONS:
        flags[f"compression.{name}"] = getattr(args, name)
    job = CompressJob(resolve(CompressConfig, file=args.config, flags=flags, words=args.settings))
    if args.dry_run:
        preview = job.preview()
        print(preview.to_json(job.report) if args.json else visible_lines(preview.describe(job.report)))
        return 0
    run_job(job, describe, as_json=args.json)
    return 0


if __name__ == "__main__":
    sys.exit(run_as_module("jobs.compress"))
