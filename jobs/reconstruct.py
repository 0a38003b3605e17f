"""Gives the images of ARCHIVE back below DESTINATION: everything, or the keys that a glob names.

read the log → one task a shard → reconstruct actors → report
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from cnnbatch.archive import Archive, open_archive
from cnnbatch.errors import CnnbatchError, TooManyFailures, UsageError
from cnnbatch.stages.codecs import CodecShelf
from cnnbatch.stages.reconstruct import ReconstructionSettings, ShardReconstructor, clear_marks, plan_tasks, remaining
from cnnbatch.stages.records import Tally
from cnnbatch.storage import StorageConfig, open_store, overlaps
from jobs import engine
from jobs.command import add_common, run_command
from jobs.progress import Progress
from jobs.report import RunReport, new_run_id
from jobs.settings import ReconstructConfig, resolve

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Build:
    """Makes a `ShardReconstructor` on its actor."""

    archive: str
    destination: str
    storage: StorageConfig
    settings: ReconstructionSettings
    threads: int

    def __call__(self) -> ShardReconstructor:
        torch.set_num_threads(self.threads)
        archive, destination = open_store(self.archive, self.storage), open_store(self.destination, self.storage)
        return ShardReconstructor(archive, destination, CodecShelf(archive), self.settings)


def reconstruct(config: ReconstructConfig) -> RunReport:
    """Runs the job; a rerun after a kill leaves out the shards that are back already.

    Raises UsageError, StorageError, ArchiveError, TooManyFailures, and CnnbatchError where some images failed.
    """
    if overlaps(config.archive, config.destination):
        raise UsageError(f"ARCHIVE and DESTINATION must not lie inside one another: {config.archive}, {config.destination}")
    storage = StorageConfig.from_environment(**config.storage)
    archive = open_archive(config.archive, storage)
    destination = open_store(config.destination, storage)
    destination.check_writable()
    report = RunReport("reconstruct", new_run_id(), config.model_dump(mode="json"))
    _run(config, storage, archive, report)
    if report.failures:
        first = report.failures[0]
        raise CnnbatchError(
            f"{len(report.failures)} of {report.inputs} images could not be given back, first {first.key!r}: {first.message}"
        )
    clear_marks(destination)
    report.finish(0)
    return report


def _run(config: ReconstructConfig, storage: StorageConfig, archive: Archive, report: RunReport) -> None:
    destination = open_store(config.destination, storage)
    tasks = plan_tasks(archive, config.keys)
    left = list(remaining(tasks, destination, config.reconstruction))
    report.inputs = sum(task.num_images for task in tasks)
    report.unchanged = report.inputs - sum(task.num_images for task in left)
    report.shards = len(left)
    if not left:
        return
    engine.connect()
    pool = engine.size_pool(config.workers)
    progress = Progress(sum(task.num_images for task in left), 0)
    build = Build(archive.store.url, destination.url, storage, config.reconstruction, max(1, int(pool.cpus)))
    for result in engine.run(left, build, pool):
        progress.add(result.tally)
        report.tally = Tally.sum((report.tally, result.tally))
        report.failures = [*report.failures, *result.failures]
        if config.thresholds.passed(len(report.failures), report.tally.total):
            raise TooManyFailures(f"{len(report.failures)} of {report.tally.total} images failed: {report.failures[0]}")
    progress.finish()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m jobs.reconstruct", description="Give the images of an archive back.")
    parser.add_argument("archive", metavar="ARCHIVE", help="folder or URL of the archive")
    parser.add_argument("destination", metavar="DESTINATION", help="folder or URL to write the images to")
    parser.add_argument("--keys", metavar="GLOB", help="only these keys; * crosses /")
    parser.add_argument("--format", choices=("original", "png", "webp", "jpeg"), help="default: original")
    add_common(parser)
    return parser


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit code."""
    args = _parser().parse_args(argv)
    flags = {"archive": args.archive, "destination": args.destination, "keys": args.keys}
    flags["reconstruction.format"] = args.format
    report = reconstruct(resolve(ReconstructConfig, file=args.config, flags=flags, words=args.settings))
    print(report.to_json() if args.json else describe(report))
    return 0


def describe(report: RunReport) -> str:
    """The report in a line for people."""
    written = report.tally.images.get("written", 0)
    size = report.tally.source_bytes / 1e6
    return f"{report.inputs:,} images: {written:,} written ({size:,.1f} MB), {report.unchanged:,} were there already"


if __name__ == "__main__":
    sys.exit(run_command(main))
