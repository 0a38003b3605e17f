"""Verifies ARCHIVE at four levels: log, checksums, decode, source; changes nothing, and leaves a run report.

read the log → compare with the objects → one task a shard → verify actors → keys, codec files, source → findings
"""

import logging
import shutil
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial

from cnnbatch.archive import ArchiveLog
from cnnbatch.archive.layout import read_format
from cnnbatch.archive.leftovers import clear_run_folder
from cnnbatch.archive.snapshot import LiveShard
from cnnbatch.codec.runtime.process import dedicate_process
from cnnbatch.containers import open_source
from cnnbatch.errors import CnnbatchError, UsageError, VerifyFailed
from cnnbatch.job_options import job_parser
from cnnbatch.stages import verify_plan
from cnnbatch.stages.attempts import local_marks
from cnnbatch.stages.codec_shelf import CodecShelf
from cnnbatch.stages.guarded import GuardedVerifier
from cnnbatch.stages.listing import Listing, list_source
from cnnbatch.stages.records import Finding, Tally, VerifyResult, VerifyTask
from cnnbatch.stages.settings import VerifySettings
from cnnbatch.stages.verify import ShardVerifier
from cnnbatch.storage import Source, StorageConfig, Store, open_store
from jobs import engine
from jobs.command import check_report_file, run_as_module, run_job
from jobs.configuration import resolve
from jobs.metrics import record_shard
from jobs.progress import Progress
from jobs.report import RunReport, new_run_id, shown
from jobs.settings import VerifyConfig

logger = logging.getLogger(__name__)

SHOWN_FINDINGS = 100
"""Lines for people; ``--json`` has all."""


@dataclass(frozen=True, slots=True)
class Build:
    """Makes a `ShardVerifier` on its actor. Stores travel as URL and configuration."""

    archive: Store
    source: Source | None
    settings: VerifySettings
    threads: int

    def __call__(self) -> ShardVerifier:
        dedicate_process()
        return ShardVerifier(self.archive, CodecShelf(self.archive, threads=self.threads), self.settings, self.source)


class VerifyJob:
    """One verification of the archive as it is now; what is committed while it runs is not looked at."""

    def __init__(self, config: VerifyConfig, *, only: Collection[str] | None = None) -> None:
        """Checks all that can be wrong before anything is read; ``only``: paths of the shards to open, others are just counted.

        Raises UsageError, StorageError, ArchiveError.
        """
        self.config, self.settings, self.only = config, config.verification, only
        if self.settings.level == "source" and config.source is None:
            raise UsageError("the level source compares with the originals: name them with --source")
        if config.source is not None and not self.settings.reaches("decode"):
            raise UsageError(f"the level {self.settings.level} does not look at SOURCE: use --level decode or source")
        self.storage = StorageConfig.from_environment(**config.storage)
        log = ArchiveLog(config.archive, self.storage)
        read_format(log.store)
        self.archive, self.newest = log.store, log.look()
        self.source = None
        if config.source is not None:
            source = open_store(config.source, self.storage)
            self.source = open_source(source, config.source_settings, archive=log.store, config=self.storage)
        if self.source is not None:
            self.source.check()
        self.report = RunReport("verify", new_run_id("verify-"), shown(config, self.storage))
        self.findings: list[Finding] = []
        self.marks: Store | None = None

    def execute(self) -> None:
        """Raises VerifyFailed if something is wrong, and CnnbatchError where a store is in trouble.

        The report is left in the archive where that can be written; nothing else in it changes.
        """
        store, run_id = self.archive, self.report.run_id
        self.marks = store if self.report.leave(store) else None
        try:
            self._run()
            self._check_findings()
            self.report.finish(0)
        except (CnnbatchError, KeyboardInterrupt) as error:
            self.report.fail(error)
            raise
        finally:
            if self.marks is None:
                shutil.rmtree(local_marks(run_id).url, ignore_errors=True)
            elif self.report.leave(store):
                clear_run_folder(store, run_id)

    def _run(self) -> None:
        snapshot, store = self.newest.snapshot, self.archive
        self.report.inputs = snapshot.num_rows
        self.report.findings = self.findings
        self.findings += verify_plan.check_log(store, self.newest)
        bad = {finding.path for finding in self.findings}
        self._count("lost", [shard for shard in snapshot.shards if shard.path in bad])
        sound = [shard for shard in snapshot.shards if shard.path not in bad]
        if not self.settings.reaches("checksums"):
            self._count("sound", sound)
            return
        if self.only is not None:
            self._count("unopened", [shard for shard in sound if shard.path not in self.only])
            sound = [shard for shard in sound if shard.path in self.only]
        self.findings += verify_plan.duplicate_keys(store, sound)
        self._verify(sound)

    def _verify(self, shards: list[LiveShard]) -> None:
        listing = None if self.source is None else list_source(self.source, exclude=self.config.exclude)
        codec_ids = self._verify_shards(shards, listing)
        load = self.settings.reaches("decode")
        self.findings += verify_plan.check_codecs(self.archive, codec_ids, load=load)
        if listing is not None and self.settings.reaches("source"):
            found, self.report.vanished = verify_plan.check_source(self.archive, shards, listing)
            self.findings += found
        elif load and listing is None:
            logger.info("the recorded PSNR was not checked, which needs the originals (--source)")

    def _verify_shards(self, shards: list[LiveShard], listing: Listing | None) -> frozenset[str]:
        """Runs the tasks; returns the ids of the codecs that rows name."""
        if not shards:
            return frozenset()
        engine.connect()
        workers = self.config.workers
        if not self.settings.reaches("decode"):
            workers = workers.model_copy(update={"gpus": 0.0})
        pool = engine.size_pool(workers)
        make = Build(self.archive, self.source, self.settings, max(1, int(pool.cpus)))
        build: Callable[[], engine.Worker[VerifyTask, VerifyResult]] = partial(
            GuardedVerifier, make, run_id=self.report.run_id, marks=self.marks
        )
        tasks = list(verify_plan.plan_tasks(self.archive, shards, listing))
        self.report.shards = len(tasks)
        progress = Progress(sum(shard.num_rows for shard in shards), 0)
        codec_ids: set[str] = set()
        try:
            for result in engine.run(tasks, build, pool):
                progress.add(result.tally)
                record_shard("verify", self.archive.url, result.number, result.tally)
                self._add(result.tally)
                self.findings += result.findings
                codec_ids |= result.codec_ids
        finally:
            progress.finish()
        return frozenset(codec_ids)

    def _count(self, outcome: str, shards: Sequence[LiveShard]) -> None:
        if shards:
            self._add(Tally(images={outcome: sum(shard.num_rows for shard in shards)}))

    def _add(self, tally: Tally) -> None:
        self.report.tally = Tally.sum((self.report.tally, tally))

    def _check_findings(self) -> None:
        report = self.report
        if self.findings:
            first = self.findings[0]
            where = repr(first.key) if first.key is not None else first.path
            raise VerifyFailed(f"{len(self.findings)} findings, first {where}: {first.kind}: {first.message}")
        if not report.complete:
            raise VerifyFailed(f"{report.inputs} images are in the log, but {report.tally.total} were checked")


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit code."""
    args = job_parser("verify").parse_intermixed_args(argv)
    check_report_file(args.report)
    level = args.level or ("source" if args.source else None)
    flags = {"archive": args.archive, "source": args.source, "exclude": args.exclude, "verification.level": level}
    job = VerifyJob(resolve(VerifyConfig, file=args.config, flags=flags, words=args.settings))
    run_job(job, describe, as_json=args.json, file=args.report)
    return 0


def describe(report: RunReport) -> list[str]:
    """The report in a few lines for people; a finding is a row: level, kind, key or file, message."""
    counts = ", ".join(f"{count:,} {name}" for name, count in sorted(report.tally.images.items())) or "none"
    lines = [f"{report.inputs:,} images: {counts}; {len(report.findings):,} findings"]
    if report.vanished:
        lines.append(f"{report.vanished:,} are no longer in SOURCE")
    for finding in report.findings[:SHOWN_FINDINGS]:
        where = finding.path if finding.key is None else repr(finding.key)
        lines.append(f"{finding.level}\t{finding.kind}\t{where}\t{finding.message}")
    if len(report.findings) > SHOWN_FINDINGS:
        lines.append(f"… and {len(report.findings) - SHOWN_FINDINGS:,} more: --json has all")
    return lines


if __name__ == "__main__":
    sys.exit(run_as_module("jobs.verify"))
