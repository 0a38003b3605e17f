"""Recognises what is on an archive's pictures from their latents, which are entropy-decoded and never made pixels.

    train     labels ∩ keys → one task a shard → features → head, its accuracy on held-out pictures → HEAD_FILE
    predict   one task a shard → features → head → a Parquet file of key, label, probability, outcome below OUT

A head knows the features of the codec file that it was trained on and of no other: pictures of other codecs, stored originals
and damaged rows are counted, and are rows without a label in OUT. HEAD_FILE is ``codec`` for the head that a codec file of
`jobs.train --architecture dense --labels` carries itself.
"""

import logging
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cnnbatch.archive import Archive, open_archive
from cnnbatch.classification import (
    CODEC_HEAD,
    CodecHeads,
    FeatureWriter,
    FileHead,
    Fitted,
    Predictor,
    dump_head,
    fit,
    label_tasks,
    learned_classes,
    parse_head,
    read_written,
)
from cnnbatch.classification.work import LABELLED
from cnnbatch.codec.runtime.process import dedicate_process
from cnnbatch.errors import CnnbatchError, TooManyFailures, UsageError
from cnnbatch.job_options import classify_parser, job_parser
from cnnbatch.stages.codec_shelf import CodecShelf
from cnnbatch.stages.reconstruct import plan_tasks
from cnnbatch.stages.records import ShardResult, ShardTask, Tally
from cnnbatch.storage import StorageConfig, Store, open_object, open_store, overlaps, read_object
from cnnbatch.storage.urls import plain_url
from cnnbatch.training.dense_data import read_labels
from jobs import engine
from jobs.command_line import run_as_module, run_job
from jobs.metrics import record_shard
from jobs.progress import Progress
from jobs.report import RunReport, new_run_id, shown
from jobs.settings import ClassifyConfig, resolve

logger = logging.getLogger(__name__)

Build = Callable[[], Callable[[ShardTask], ShardResult]]

UNLABELLED: Final = "unlabelled"
HEAD_COPY: Final = "_head.safetensors"
"""In OUT: the head that its predictions come from, where the workers read it."""
SAW_LABELS: Final = (
    "its codec file learned from labels itself: where these were labels of the archive's pictures, the accuracy on held-out "
    "ones is too high, as their latents were taught theirs"
)
RUN: Final = "_run.json"
"""In OUT: the run report, written last."""


@dataclass(slots=True)
class ClassifyReport(RunReport):
    """The run report with what was learned, when training."""

    classification: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class BuildFeatureWriter:
    """Makes a `FeatureWriter` on its actor. Stores travel as URL and configuration."""

    archive: Store
    scratch: Store
    codec_id: str
    threads: int

    def __call__(self) -> FeatureWriter:
        dedicate_process()
        return FeatureWriter(self.archive, self.scratch, CodecShelf(self.archive, threads=self.threads), self.codec_id)


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
        if self.config.thresholds.passed(failed, report.tally.total):
            first = report.failures[0]
            raise TooManyFailures(
                f"{failed} of {report.tally.total} pictures are damaged, first {first.key!r}: {first.message}"
            )


class TrainJob(ClassifyJob):
    """Learns a head from the labelled pictures of one codec."""

    def __init__(self, config: ClassifyConfig) -> None:
        """Checks all that can be wrong before a feature is read. Raises UsageError, StorageError, ArchiveError."""
        if config.labels is None:
            raise UsageError("to train a head, labels are needed: jobs.classify train ARCHIVE LABELS HEAD_FILE")
        if config.head == CODEC_HEAD:
            raise UsageError(f"HEAD_FILE {CODEC_HEAD!r} means the head of a codec file when predicting: choose another name")
        super().__init__(config)
        if overlaps(config.head, config.archive):
            raise UsageError(f"HEAD_FILE must not lie inside ARCHIVE: {plain_url(config.head)}")
        self.head_store, self.head_key = open_object(config.head, self.storage)
        self.head_store.check_writable()
        if self.head_store.head(self.head_key) is not None:
            raise UsageError(f"{plain_url(config.head)} exists: choose another name, or remove it")
        self.labels = read_labels(read_object(config.labels, self.storage), config.labels)
        if len(self.labels) > config.most_labels:
            raise UsageError(f"{len(self.labels):,} labels, at most {config.most_labels:,} (most_labels): a sample is enough")
        self.codec_id = self._chosen_codec()
        self.report.codec_id = self.codec_id

    def _chosen_codec(self) -> str:
        names = ", ".join(f"{codec_id[:12]} ({count:,} pictures)" for codec_id, count in sorted(self.codecs.items()))
        start = (self.config.codec or "").lower()
        chosen = [codec_id for codec_id in self.codecs if codec_id.startswith(start)]
        if len(chosen) == 1:
            return chosen[0]
        if self.config.codec is None:
            raise UsageError(f"the archive mixes codecs, whose features differ: choose one with --codec: {names}")
        raise UsageError(f"--codec {self.config.codec} names {len(chosen)} of the archive's codecs, which are {names}")

    def _run(self) -> None:
        tasks = label_tasks(self.archive, self.labels)
        report, known = self.report, sum(task.num_images for task in tasks)
        report.inputs, report.shards = len(self.archive), len(tasks)
        if not tasks:
            label, key = next(iter(self.labels)), next(self.archive.keys())
            raise UsageError(
                f"none of the {len(self.labels):,} labels names a picture of the archive: "
                f"the first label is of {label!r}, the archive's first key is {key!r}"
            )
        self._warn(f"{len(self.labels) - known:,} labels name no picture of the archive", len(self.labels) - known)
        self._warn(f"{report.inputs - known:,} pictures of the archive have no label", report.inputs - known)
        self.codec_saw_labels = bool(learned_classes(CodecShelf(self.archive.store)[self.codec_id]))
        self._warn(f"codec {self.codec_id[:12]}: {SAW_LABELS}", int(self.codec_saw_labels))
        features, names = self._features(tasks)
        report.tally = Tally.sum((report.tally, Tally(images={UNLABELLED: report.inputs - known})))
        fitted = self._fit(features, names)
        self._tell(fitted, len(self.labels) - known)
        notes = {**(self.found.classification or {}), "config": self.config.training.model_dump(mode="json")}
        if not self.head_store.put_if_absent(self.head_key, dump_head(fitted.head, training=notes)):
            raise UsageError(f"{plain_url(self.config.head)} was made by somebody else meanwhile: choose another name")

    def _features(self, tasks: Sequence[ShardTask]) -> tuple[npt.NDArray[np.float32], list[str]]:
        """Features [N, F] of the labelled pictures in the order of the tasks, and their labels."""
        self._connect()
        scratch = open_store(f"{self.config.head}.features-{self.report.run_id}", self.storage)
        build = BuildFeatureWriter(self.archive.store, scratch, self.codec_id, self.threads)
        try:
            done = {result.number for result in self._work(tasks, build) if result.tally.images.get(LABELLED)}
            filled = [task for task in tasks if task.number in done]
            parts = [read_written(scratch, task) for task in filled]
        finally:
            _clear(scratch)
        if not parts:
            others = ", ".join(f"{count:,} {name}" for name, count in sorted(self.report.tally.images.items()))
            raise UsageError(f"no labelled picture has features of the codec {self.codec_id[:12]}: {others}")
        keys = [(task.keys or ())[place] for task, (places, _) in zip(filled, parts, strict=True) for place in places.tolist()]
        return np.concatenate([values for _, values in parts]), [self.labels[key] for key in keys]

    def _fit(self, features: npt.NDArray[np.float32], names: Sequence[str]) -> Fitted:
        classes = tuple(sorted(set(names)))
        places = {name: place for place, name in enumerate(classes)}
        labels = np.array([places[name] for name in names], np.int64)
        logger.info("%d pictures of %d classes, %d features each", len(names), len(classes), features.shape[1])
        return fit(features, labels, classes=classes, codec_id=self.codec_id, config=self.config.training)

    def _tell(self, fitted: Fitted, missing: int) -> None:
        tally = self.report.tally
        images = {name: count for name, count in tally.images.items() if name != LABELLED and count}
        parts = {"training": fitted.training, "stopping": fitted.stopping, "held-out": fitted.held_out}
        self.report.tally = replace(tally, images=images | {name: count for name, count in parts.items() if count})
        self.found.classification = {
            "accuracy": fitted.accuracy,
            "commonest": fitted.commonest,
            "epochs": fitted.epochs,
            "features": fitted.head.settings.features,
            "classes": list(fitted.head.settings.classes),
            "labels": len(self.labels),
            "labels_without_picture": missing,
            "codec_saw_labels": self.codec_saw_labels,
            **parts,
        }

    def _warn(self, message: str, count: int) -> None:
        if count:
            logger.warning(message)


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


def _clear(scratch: Store) -> None:
    """Removes what lies there, and the folder where a store has folders."""
    for info in list(scratch.list()):
        scratch.delete(info.key)
    if scratch.url.startswith("/"):
        with suppress(OSError):  # never made
            Path(scratch.url).rmdir()


def describe(report: RunReport) -> list[str]:
    """The report in a few lines for people."""
    outcomes = ", ".join(f"{count:,} {name}" for name, count in sorted(report.tally.images.items())) or "none"
    lines = [f"run {report.run_id}: {report.inputs:,} pictures: {outcomes}"]
    if isinstance(report, ClassifyReport) and (found := report.classification) is not None:
        lines.append(
            f"accuracy {100 * found['accuracy']:.1f} % on {found['held-out']:,} held-out pictures of {len(found['classes'])} "
            f"classes (always the commonest class: {100 * found['commonest']:.1f} %)"
        )
        if found["codec_saw_labels"]:
            lines.append(SAW_LABELS)
        if found["labels_without_picture"]:
            lines.append(f"{found['labels_without_picture']:,} of {found['labels']:,} labels name no picture of the archive")
    lines += [f"failed: {f.key}: {f.message}" for f in report.failures[:10]]
    return lines


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit code."""
    command = classify_parser().parse_args(argv[:1]).command
    args = job_parser(f"classify {command}").parse_intermixed_args(argv[1:])
    job: ClassifyJob
    if command == "train":
        flags = {"archive": args.archive, "labels": args.labels, "head": args.head, "codec": args.codec}
        flags["training.kind"] = args.kind
        job = TrainJob(resolve(ClassifyConfig, file=args.config, flags=flags, words=args.settings))
    else:
        flags = {"archive": args.archive, "head": args.head, "out": args.out, "keys": args.keys}
        job = PredictJob(resolve(ClassifyConfig, file=args.config, flags=flags, words=args.settings))
    run_job(job, describe, as_json=args.json)
    return 0


if __name__ == "__main__":
    sys.exit(run_as_module("jobs.classify"))
