"""Compresses the images below SOURCE into ARCHIVE; run again, it takes what is new or changed.

list → diff against the archive → plan shards → compress actors → commit while running → run report
"""

import argparse
import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import torch

from cnnbatch.archive import ArchiveLog, Inventory, Lease
from cnnbatch.archive.erased import read_erased
from cnnbatch.codec import Codec, shipped_codec
from cnnbatch.errors import CnnbatchError, CodecFileError, TooManyFailures, UsageError
from cnnbatch.stages.codecs import CodecShelf
from cnnbatch.stages.commit import Committer
from cnnbatch.stages.compress import CompressionSettings, ShardCompressor
from cnnbatch.stages.estimate import Estimate, estimate
from cnnbatch.stages.isolation import Attempts, GuardedCompressor
from cnnbatch.stages.plan import Difference, coded_otherwise, compare, list_source, plan_shards, shard_limits, without_erased
from cnnbatch.stages.records import CompressResult, Failure, Tally
from cnnbatch.storage import StorageConfig, Store, open_store, overlaps
from cnnbatch.storage.urls import parse_url
from jobs import engine
from jobs.command import add_common, run_command, run_job
from jobs.progress import Progress
from jobs.report import RunReport, failed_keys, new_run_id, shown
from jobs.settings import CompressConfig, resolve

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Build:
    """Makes a `ShardCompressor` on its actor. Stores travel as URL and configuration, passwords in the URL included."""

    source: Store
    archive: Store
    codec_id: str
    settings: CompressionSettings
    run_id: str
    threads: int

    def __call__(self) -> ShardCompressor:
        torch.set_num_threads(1)  # the codec's threads have one each
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
        self.codec_data = shipped_codec() if config.codec is None else _read_codec(config.codec)
        self.codec = Codec(self.codec_data, device="cpu")
        self.source, self.archive = open_store(config.source, self.storage), open_store(config.archive, self.storage)
        self.source.check()
        self.archive.check_writable()
        self.report = RunReport("compress", new_run_id(), shown(config, self.storage), codec_id=self.codec.id)
        self.failures: list[Failure] = []
        self.retried = None if config.retry_failed is None else failed_keys(self.archive, config.retry_failed)

    def preview(self) -> Estimate:
        """What a run would do; writes nothing, and reads a few images to estimate the rest."""
        log = None if self.archive.head("_cnnbatch/format.json") is None else ArchiveLog.open(self.archive.url, self.storage)
        inventory = Inventory.empty() if log is None else log.inventory(log.snapshot())
        difference = self._difference(inventory)
        return estimate(self.source, difference, self.codec, self.config.compression)

    def execute(self) -> None:
        """Runs to the end; what was committed stays when it fails. The report is in the archive either way.

        Raises LeaseHeld, TooManyFailures, and CnnbatchError where the run must be repeated.
        """
        log = ArchiveLog.create_or_open(self.archive.url, self.storage, codec_files=[self.codec_data])
        with Lease(self.archive, run_id=self.report.run_id, **self.config.lease.model_dump()):
            try:
                self._run(log)
                self.report.finish(0)
            except CnnbatchError as error:
                self.report.finish(error.exit_code, str(error))
                raise
            finally:
                self.report.write(self.archive)
                Attempts(self.archive, self.report.run_id).forget()

    def _run(self, log: ArchiveLog) -> None:
        base = log.snapshot()
        difference = self._difference(log.inventory(base))
        shards = self.config.shards
        committer = Committer(log, self.report.run_id, base, difference.held, shards.commit_every, shards.commit_seconds)
        progress = Progress(difference.todo.num_rows, _size(difference.todo))
        try:
            self._commit_all(committer, difference, progress)
            self._check_failures(len(self.failures), self.report.unchanged + self.report.tally.total)
            self._mirror_deletes(committer, difference)
        finally:
            self.report.commits, self.report.superseded = committer.commits, len(committer.superseded)
            progress.finish()
        self._check_complete()

    def _commit_all(self, committer: Committer, difference: Difference, progress: Progress) -> None:
        """What is done is committed, also when too much else failed."""
        try:
            for result in self._results(difference):
                committer.add(result)
                progress.add(result.tally)
                self._count(result)
        except TooManyFailures:
            committer.flush()
            raise
        committer.flush()

    def _difference(self, inventory: Inventory) -> Difference:
        """The source against the archive, its counts noted in the report."""
        config, report = self.config, self.report
        listing = list_source(self.source, exclude=config.exclude)
        table, unreadable = listing.table, list(listing.unreadable)
        if self.retried is not None:
            retried = pa.array(sorted(self.retried), type=pa.string())
            table = table.filter(pc.is_in(table.column("key"), value_set=retried))
            unreadable = [failure for failure in unreadable if failure.key in self.retried]
        table, report.erased = without_erased(table, read_erased(self.archive))
        difference = compare(table, inventory, again=self._again(inventory), hides=listing.hides)
        self.failures = unreadable
        report.failures = self.failures
        report.tally = Tally.of_failures(self.failures)
        report.inputs = table.num_rows + report.erased + len(unreadable)
        report.unchanged = difference.unchanged
        report.new, report.changed = difference.new.num_rows, difference.changed.num_rows
        report.vanished = 0 if config.retry_failed else difference.vanished.num_rows
        return difference

    def _again(self, inventory: Inventory) -> pa.Array | None:
        if not self.config.recompress:
            return None
        c = self.config.compression
        fixed = c.target_psnr is None and c.target_bpp is None and c.min_psnr is None
        return coded_otherwise(inventory, codec_id=self.codec.id, quality=c.quality if fixed else None, lossless=c.lossless)

    def _results(self, difference: Difference) -> Iterator[CompressResult]:
        """The shards as they finish; Ray is started only if there is something to do."""
        if not difference.todo.num_rows:
            return
        config = self.config
        engine.connect()
        pool = engine.size_pool(config.workers)
        limits = shard_limits(
            difference.todo, workers=pool.size, source_bytes=config.shards.source_bytes, images=config.shards.images
        )
        tasks = list(plan_shards(difference, limits))
        self.report.shards = len(tasks)
        logger.info("run %s: %d images in %d shards", self.report.run_id, difference.todo.num_rows, len(tasks))
        threads = max(1, int(pool.cpus))
        build = Build(self.source, self.archive, self.codec.id, config.compression, self.report.run_id, threads)
        yield from engine.run(tasks, partial(GuardedCompressor, build), pool)

    def _count(self, result: CompressResult) -> None:
        self.report.tally = Tally.sum((self.report.tally, result.tally))
        self.failures += result.failures
        listed = sum(failure.stage == "list" for failure in self.failures)  # known from the start, no sign of a trend
        self._check_failures(len(self.failures) - listed, self.report.unchanged + self.report.tally.total - listed)

    def _check_failures(self, failed: int, done: int) -> None:
        if self.config.thresholds.passed(failed, done):
            first = self.failures[0]
            raise TooManyFailures(f"{failed} of {done} inputs failed, first {first.key!r}: {first.error} {first.message}")

    def _mirror_deletes(self, committer: Committer, difference: Difference) -> None:
        if self.config.mirror_deletes and self.config.retry_failed is None:
            if not self.report.inputs and self.report.vanished:  # a folder that is not mounted, a mistyped prefix
                raise UsageError(f"{self.source.url} is empty: --mirror-deletes would empty the archive, refused")
            gone = difference.vanished
            committer.remove(gone.column("key").to_pylist(), gone.column("shard").to_pylist())
            self.report.removed = gone.num_rows

    def _check_complete(self) -> None:
        report = self.report
        if not report.complete:
            done = report.unchanged + report.erased + report.tally.total
            raise CnnbatchError(f"{report.inputs} inputs have {done} outcomes: run the same command again")
        if report.superseded:
            raise CnnbatchError(f"another run wrote {report.superseded} of these images meanwhile: run the same command again")


def _size(table: pa.Table) -> int:
    return int(pc.sum(table.column("size")).as_py() or 0)


def _read_codec(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise CodecFileError(f"cannot read the codec file {path}: {error.strerror}") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m jobs.compress", description="Compress a folder or bucket of images.")
    parser.add_argument("source", metavar="SOURCE", help="folder or URL with images, such as photos/ or s3://bucket/photos")
    parser.add_argument("archive", metavar="ARCHIVE", help="folder or URL of the archive; made where there is none")
    goal = parser.add_mutually_exclusive_group()
    goal.add_argument("--quality", type=float, help="0…63, default 32")
    goal.add_argument("--target-psnr", type=float, metavar="DB", help="search each image's quality for this PSNR")
    goal.add_argument("--target-bpp", type=float, metavar="B", help="search each image's quality for these bits per pixel")
    goal.add_argument("--lossless", action="store_true", default=None, help="keep every byte; JPEGs as JPEG XL transcodes")
    parser.add_argument("--min-psnr", type=float, metavar="DB", help="raise quality, or store, below this PSNR")
    parser.add_argument("--codec", metavar="FILE", help="codec file; default: the one that comes with cnnbatch")
    parser.add_argument("--exclude", action="append", metavar="GLOB", help="leave out keys; * crosses /; repeatable")
    parser.add_argument("--mirror-deletes", action="store_true", default=None, help="remove images that vanished from SOURCE")
    parser.add_argument("--recompress", action="store_true", default=None, help="also take images coded with other settings")
    parser.add_argument("--retry-failed", metavar="RUN", help="take only the keys that failed in that run")
    parser.add_argument("--dry-run", action="store_true", help="say what there is to do, write nothing")
    add_common(parser)
    return parser


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit code."""
    args = _parser().parse_intermixed_args(argv)
    flags = {name: getattr(args, name) for name in ("source", "archive", "codec", "exclude", "mirror_deletes", "recompress")}
    flags["retry_failed"] = args.retry_failed
    for name in ("quality", "target_psnr", "target_bpp", "lossless", "min_psnr"):
        flags[f"compression.{name}"] = getattr(args, name)
    job = CompressJob(resolve(CompressConfig, file=args.config, flags=flags, words=args.settings))
    if args.dry_run:
        preview = job.preview()
        print(preview.to_json(job.report) if args.json else preview.describe(job.report))
        return 0
    run_job(job, describe, as_json=args.json)
    return 0


def describe(report: RunReport) -> str:
    """The report in a few lines for people."""
    t = report.tally
    outcomes = ", ".join(f"{count:,} {name}" for name, count in sorted(t.images.items())) or "nothing new"
    lines = [f"run {report.run_id}: {report.inputs:,} inputs, {report.unchanged:,} unchanged, {outcomes}"]
    if t.payload_bytes:
        lines.append(
            f"{t.source_bytes / 1e6:,.1f} MB → {t.payload_bytes / 1e6:,.1f} MB, ratio {t.source_bytes / t.payload_bytes:.2f}"
        )
    if report.erased:
        lines.append(f"{report.erased:,} were erased from the archive and stay out")
    if report.removed:
        lines.append(f"{report.removed:,} removed")
    lines += [f"failed: {f.key}: {f.stage}: {f.error}: {f.message}" for f in report.failures[:10]]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run_command(main))
