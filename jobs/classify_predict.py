"""Labels by a head: the command ``jobs.classify predict``."""

from dataclasses import dataclass
from typing import Final

from cnnbatch.classification import (
    CODEC_HEAD,
    CodecHeads,
    FileHead,
    Predictor,
    parse_head,
)
from cnnbatch.codec.runtime.process import dedicate_process
from cnnbatch.errors import UsageError
from cnnbatch.stages.codec_shelf import CodecShelf
from cnnbatch.stages.reconstruct import plan_tasks
from cnnbatch.stages.records import ShardTask
from cnnbatch.storage import Store, open_store, overlaps, read_object
from cnnbatch.storage.urls import plain_url
from jobs.classify_job import ClassifyJob
from jobs.settings import ClassifyConfig

HEAD_COPY: Final = "_head.safetensors"
"""In OUT: the head that its predictions come from, where the workers read it."""
RUN: Final = "_run.json"
"""In OUT: the run report, written last."""


@dataclass(frozen=True, slots=True)
class BuildPredictor:
    """Makes a `Predictor` on its actor; ``from_file``: with the head in ``out``, else with the codecs' own."""

    archive: Store
    out: Store
    from_file: bool
    codec_ids: frozenset[str]
    threads: int

    def __call__(self) -> Predictor:
        dedicate_process()
        codecs = CodecShelf(self.archive, threads=self.threads)
        heads = FileHead(parse_head(self.out.read(HEAD_COPY), HEAD_COPY)) if self.from_file else CodecHeads(codecs)
        return Predictor(self.archive, self.out, codecs, heads, self.codec_ids)


class PredictJob(ClassifyJob):
    """Writes what a head makes of every picture."""

    def __init__(self, config: ClassifyConfig) -> None:
        """Checks all that can be wrong before anything is written. Raises UsageError, StorageError, ArchiveError."""
        if config.out is None:
            raise UsageError("to predict, a folder for the result is needed: jobs.classify predict ARCHIVE HEAD_FILE OUT")
        if overlaps(config.archive, config.out):
            places = f"{plain_url(config.archive)}, {plain_url(config.out)}"
            raise UsageError(f"ARCHIVE and OUT must not lie inside one another: {places}")
        super().__init__(config)
        self.out = open_store(config.out, self.storage)
        self.out.check_writable()
        if next(iter(self.out.list()), None) is not None:
            raise UsageError(f"{self.out.url} holds files already: choose another folder, or empty it")
        self.head_file = None if config.head == CODEC_HEAD else read_object(config.head, self.storage)
        heads = (
            CodecHeads(CodecShelf(self.archive.store))
            if self.head_file is None
            else FileHead(parse_head(self.head_file, config.head))
        )
        self.codec_ids = heads.codec_ids(sorted(self.codecs))
        planned = plan_tasks(self.archive, config.keys)
        self.tasks = [ShardTask(t.number, t.path, t.num_bytes, t.num_images, t.keys) for t in planned]
        if not self.tasks:
            raise UsageError(f"no key of the archive matches {config.keys!r}")

    def _run(self) -> None:
        self.report.inputs, self.report.shards = sum(task.num_images for task in self.tasks), len(self.tasks)
        self._connect()
        if self.head_file is not None:
            self.out.put(HEAD_COPY, self.head_file)
        build = BuildPredictor(self.archive.store, self.out, self.head_file is not None, self.codec_ids, self.threads)
        for _ in self._work(self.tasks, build):
            pass

    def execute(self) -> None:
        """See `ClassifyJob.execute`; the report is put into OUT where every picture has its outcome there."""
        try:
            super().execute()
        finally:
            if self.report.complete and self.report.finished_at is not None:
                self.out.put(RUN, self.report.to_json().encode())
