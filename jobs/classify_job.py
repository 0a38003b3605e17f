"""The base of both commands of `jobs.classify`."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cnnbatch.archive import Archive, open_archive
from cnnbatch.errors import CnnbatchError, UsageError
from cnnbatch.stages.records import ShardResult, ShardTask, Tally
from cnnbatch.storage import StorageConfig
from jobs import engine
from jobs.metrics import record_shard
from jobs.progress import Progress
from jobs.report import RunReport, new_run_id, shown
from jobs.settings import ClassifyConfig

Build = Callable[[], Callable[[ShardTask], ShardResult]]


@dataclass(slots=True)
class ClassifyReport(RunReport):
    """The run report with what was learned, when training."""

    classification: dict[str, Any] | None = None


class ClassifyJob(ABC):
    """The base of both commands: an archive that is only read, a pool over its shards, and the report."""

    def __init__(self, config: ClassifyConfig) -> None:
        """Raises UsageError, StorageError, ArchiveError."""
        self.config = config
        self.storage = StorageConfig.from_environment(**config.storage)
        self.archive: Archive = open_archive(config.archive, self.storage)
        self.codecs: Mapping[str, int] = self.archive.info().codecs
        if not self.codecs:
            rows = f"{len(self.archive):,} rows"
            raise UsageError(f"{self.archive.store.url} has no coded picture ({rows}): stored originals have no latents")
        self.found = ClassifyReport("classify", new_run_id(), shown(config, self.storage))
        self.report: RunReport = self.found

    def execute(self) -> None:
        """Raises TooManyFailures, UsageError where nothing can be learned, and CnnbatchError where some rows are damaged."""
        try:
            self._run()
            self._finish()
            self.report.finish(0)
        except (CnnbatchError, KeyboardInterrupt) as error:
            self.report.fail(error)
            raise

    @abstractmethod
    def _run(self) -> None: ...

    def _finish(self) -> None:
        """Raises CnnbatchError where some rows are damaged: what came of the others is written."""
        if failed := self.report.tally.images.get("failed", 0):
            first = self.report.failures[0]
            raise CnnbatchError(f"{failed} of {self.report.inputs} pictures are damaged, first {first.key!r}: {first.message}")

    def _work(self, tasks: Sequence[ShardTask], build: Build) -> Iterator[ShardResult]:
        progress = Progress(sum(task.num_images for task in tasks), 0)
        try:
            for result in engine.run(tasks, build, self.pool):
                progress.add(result.tally)
                record_shard("classify", self.archive.store.url, result.number, result.tally)
                self._count(result)
                yield result
        finally:
            progress.finish()

    def _connect(self) -> None:
        engine.connect()
        self.pool = engine.size_pool(self.config.workers)
        self.threads = max(1, int(self.pool.cpus))

    def _count(self, result: ShardResult) -> None:
        report = self.report
        report.tally = Tally.sum((report.tally, result.tally))
        report.failures = [*report.failures, *result.failures]
        failed = report.tally.images.get("failed", 0)
        self.config.thresholds.check(failed, report.tally.total, report.failures, what="pictures are damaged")
