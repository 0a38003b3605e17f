"""Gives the images of ARCHIVE back below DESTINATION: everything, or the keys that a glob names.

read the log → one task a shard → reconstruct actors → report
"""

import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from cnnbatch.archive import open_archive
from cnnbatch.archive.layout import FORMAT_PATH
from cnnbatch.codec.runtime.process import dedicate_process
from cnnbatch.errors import CnnbatchError, UsageError
from cnnbatch.job_options import job_parser
from cnnbatch.stages.codec_shelf import CodecShelf
from cnnbatch.stages.guarded import GuardedReconstructor
from cnnbatch.stages.layouts import plan_layout
from cnnbatch.stages.marks import clear_marks, remaining
from cnnbatch.stages.reconstruct import ShardReconstructor
from cnnbatch.stages.records import ShardResult, ShardTask, Tally
from cnnbatch.stages.settings import ReconstructionSettings
from cnnbatch.storage import StorageConfig, Store, open_store, overlaps
from cnnbatch.storage.urls import may_overlap, parse_url
from jobs import engine
from jobs.command import check_report_file, run_as_module, run_job
from jobs.configuration import resolve
from jobs.metrics import record_shard
from jobs.progress import Progress
from jobs.report import RunReport, known_sources, new_run_id, shown
from jobs.settings import ReconstructConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Build:
    """Makes a `ShardReconstructor` on its actor. Stores travel as URL and configuration."""

    archive: Store
    destination: Store
    settings: ReconstructionSettings
    threads: int

    def __call__(self) -> ShardReconstructor:
        dedicate_process()
        codecs = CodecShelf(self.archive, threads=self.threads, lazy=self.settings.decoder == "draft")
        return ShardReconstructor(self.archive, self.destination, codecs, self.settings)


class ReconstructJob:
    """One run; a rerun after a kill leaves out the shards that are back already."""

    def __init__(self, config: ReconstructConfig) -> None:
        """Checks all that can be wrong before anything is written. Raises UsageError, StorageError, ArchiveError."""
        if overlaps(config.archive, config.destination):
            archive, destination = parse_url(config.archive).url, parse_url(config.destination).url
            raise UsageError(f"ARCHIVE and DESTINATION must not lie inside one another: {archive}, {destination}")
        self.config = config
        self.storage = StorageConfig.from_environment(**config.storage)
        self.archive = open_archive(config.archive, self.storage)
        self.destination = open_store(config.destination, self.storage)
        self.destination.check_writable()
        self._check_destination()
        self.report = RunReport("reconstruct", new_run_id("reconstruct-"), shown(config, self.storage))

    def execute(self) -> None:
        """Raises TooManyFailures, and CnnbatchError where some images failed or the run must be repeated."""
        try:
            self._run()
            self._check_complete()
            clear_marks(self.destination)
            self.report.finish(0)
        except (CnnbatchError, KeyboardInterrupt) as error:
            self.report.fail(error)
            raise
        finally:
            self.report.leave(self.archive.store)

    def _check_destination(self) -> None:
        """Raises UsageError where lossy copies would come among originals, or pictures among the files of an archive."""
        place = self.destination.url
        if self.destination.head(FORMAT_PATH) is not None:
            raise UsageError(f"{place} is an archive: choose another DESTINATION")
        if self.config.reconstruction.force:
            return
        for source in sorted(known_sources(self.archive.store)):
            if may_overlap(source, place):
                raise UsageError(
                    f"DESTINATION and SOURCE must not lie inside one another: {place}, {source}, which this archive was made "
                    "of; --force writes there anyway"
                )

    def _run(self) -> None:
        config, report = self.config, self.report
        format = config.reconstruction.format
        tasks = plan_layout(self.archive, config.keys, format=format, layout=config.reconstruction.layout)
        left = list(remaining(tasks, self.destination, format))
        report.inputs = sum(task.num_images for task in tasks)
        report.unchanged = report.inputs - sum(task.num_images for task in left)
        report.shards = len(left)
        if not left:
            return
        engine.connect()
        pool = engine.size_pool(config.workers)
        progress = Progress(sum(task.num_images for task in left), 0)
        make = Build(self.archive.store, self.destination, config.reconstruction, max(1, int(pool.cpus)))
        build: Callable[[], engine.Worker[ShardTask, ShardResult]] = partial(GuardedReconstructor, make, run_id=report.run_id)
        try:
            for result in engine.run(left, build, pool):
                progress.add(result.tally)
                record_shard("reconstruct", self.archive.store.url, result.number, result.tally)
                self._count(result)
        finally:
            progress.finish()

    def _count(self, result: ShardResult) -> None:
        report = self.report
        report.tally = Tally.sum((report.tally, result.tally))
        report.failures = [*report.failures, *result.failures]
        done = report.unchanged + report.tally.total
        self.config.thresholds.check(len(report.failures), done, report.failures, what="images failed")

    def _check_complete(self) -> None:
        report = self.report
        if report.failures:
            raise CnnbatchError(f"{len(report.failures)} of {report.inputs} images could not be given back, {_first(report)}")


def _first(report: RunReport) -> str:
    first = report.failures[0]
    return f"first {first.key!r}: {first.error}: {first.message}"


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit code."""
    args = job_parser("reconstruct").parse_intermixed_args(argv)
    check_report_file(args.report)
    flags = {"archive": args.archive, "destination": args.destination, "keys": args.keys}
    flags |= {f"reconstruction.{name}": getattr(args, name) for name in ("format", "layout", "force")}
    flags |= {"reconstruction.decoder": args.draft}
    job = ReconstructJob(resolve(ReconstructConfig, file=args.config, flags=flags, words=args.settings))
    run_job(job, describe, as_json=args.json, file=args.report)
    return 0


def describe(report: RunReport) -> list[str]:
    """The report in a few lines for people."""
    written, skipped = (report.tally.images.get(outcome, 0) for outcome in ("written", "skipped"))
    size = report.tally.source_bytes / 1e6
    there = report.unchanged + skipped
    lines = [f"{report.inputs:,} images: {written:,} written ({size:,.1f} MB), {there:,} were there already"]
    lines += [f"failed: {f.key}: {f.stage}: {f.error}: {f.message}" for f in report.failures[:10]]
    return lines


if __name__ == "__main__":
    sys.exit(run_as_module("jobs.reconstruct"))
