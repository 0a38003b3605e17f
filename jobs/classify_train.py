"""Training of a head: the command ``jobs.classify train``."""

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from cnnbatch.classification import (
    CODEC_HEAD,
    FeatureWriter,
    Fitted,
    dump_head,
    fit,
    label_tasks,
    learned_classes,
    read_written,
)
from cnnbatch.classification.work import LABELLED
from cnnbatch.codec.runtime.process import dedicate_process
from cnnbatch.errors import UsageError
from cnnbatch.stages.codec_shelf import CodecShelf
from cnnbatch.stages.records import ShardTask, Tally
from cnnbatch.storage import Store, open_object, open_store, overlaps, read_object
from cnnbatch.storage.urls import plain_url
from cnnbatch.training.dense_data import read_labels
from jobs.classify_job import ClassifyJob
from jobs.settings import ClassifyConfig

logger = logging.getLogger(__name__)

UNLABELLED: Final = "unlabelled"
SAW_LABELS: Final = (
    "its codec file learned from labels itself: where these were labels of the archive's pictures, the accuracy on held-out "
    "ones is too high, as their latents were taught theirs"
)


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
            raise UsageError(f"{plain_url(self.config.head)} was created by another process meanwhile: choose another name")

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


def _clear(scratch: Store) -> None:
    """Removes what lies there, and the folder where a store has folders."""
    for info in list(scratch.list()):
        scratch.delete(info.key)
    if scratch.url.startswith("/"):
        with suppress(OSError):  # never made
            Path(scratch.url).rmdir()
