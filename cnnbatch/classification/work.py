"""A job's work on one shard: writing its features for training, or its predictions.

Results are small; features and predictions go through a store, where a task that runs twice writes the same object twice.
"""

import io
import time
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from cnnbatch.archive import Archive
from cnnbatch.classification.recognition import Heads, Recogniser
from cnnbatch.classification.shards import Features, LeftOut, read_features
from cnnbatch.errors import ArchiveError, CnnbatchError
from cnnbatch.stages.codec_shelf import CodecShelf
from cnnbatch.stages.records import MAX_MESSAGE, Failure, ShardResult, ShardTask, Tally
from cnnbatch.storage import Store

LABELLED: Final = "labelled"
PREDICTED: Final = "predicted"

PREDICTIONS: Final = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("probability", pa.float32()),
        pa.field("outcome", pa.string(), nullable=False),
    ]
)
"""A row a picture, sorted by key within a file. ``label`` and ``probability`` are null unless ``outcome`` is `PREDICTED`."""

MAX_FAILURES: Final = 100
"""Kept of one shard's, whose result must stay below 100 KB; all of them are counted."""


@dataclass(slots=True)
class _Counts:
    """The contents of one shard."""

    images: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    pixels: int = 0
    started: float = field(default_factory=time.monotonic)

    def leave_out(self, row: LeftOut, path: str) -> None:
        self.images[row.outcome] += row.count
        if row.message and row.outcome == "failed":
            self.failures.append(Failure(row.key or path, "features", "damaged", row.message[:MAX_MESSAGE]))

    def result(self, task: ShardTask) -> ShardResult:
        reasons = {name: count for name, count in self.images.items() if name not in (LABELLED, PREDICTED)}
        seconds = {"classify": time.monotonic() - self.started}
        tally = Tally(images=dict(self.images), reasons=reasons, pixels=self.pixels, seconds=seconds)
        return ShardResult(task.number, tally, tuple(self.failures[:MAX_FAILURES]))


class FeatureWriter:
    """Writes the features of one shard's labelled pictures below ``scratch``; see `read_written`."""

    def __init__(self, archive: Store, scratch: Store, codecs: CodecShelf, codec_id: str) -> None:
        self.archive, self.scratch, self.codecs, self.codec_id = archive, scratch, codecs, codec_id

    def __call__(self, task: ShardTask) -> ShardResult:
        """Every key of ``task``, which names them, is `LABELLED` or left out."""
        places = {key: place for place, key in enumerate(task.keys or ())}
        counts, found = _Counts(), list[Features]()
        for part in _read(self.archive, task, self.codecs, frozenset((self.codec_id,))):
            if isinstance(part, LeftOut):
                counts.leave_out(part, task.path)
            else:
                found.append(part)
                counts.images[LABELLED] += len(part.keys)
                counts.pixels += part.pixels
        if found:
            where = np.array([places[key] for part in found for key in part.keys], np.int64)
            arrays = {"places": where, "features": np.concatenate([part.values for part in found])}
            self.scratch.put(_scratch_key(task), save_safetensors(arrays))
        return counts.result(task)


def read_written(scratch: Store, task: ShardTask) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """(places in ``task.keys`` int64 [N], features float32 [N, F]) that `FeatureWriter` wrote for a task with some."""
    arrays = load_safetensors(scratch.read(_scratch_key(task)))
    return arrays["places"], arrays["features"]


class Predictor:
    """Writes one shard's predictions below ``out``, as part-NUMBER.parquet with the columns of `PREDICTIONS`."""

    def __init__(self, archive: Store, out: Store, codecs: CodecShelf, heads: Heads, codec_ids: frozenset[str]) -> None:
        self.archive, self.out, self.codecs, self.heads, self.codec_ids = archive, out, codecs, heads, codec_ids
        self._recognisers: dict[str, Recogniser] = {}

    def __call__(self, task: ShardTask) -> ShardResult:
        """Every row of ``task`` that can be named is a row there."""
        counts = _Counts()
        rows: list[tuple[str, str | None, float | None, str]] = []
        for part in _read(self.archive, task, self.codecs, self.codec_ids):
            if isinstance(part, LeftOut):
                counts.leave_out(part, task.path)
                if part.key is not None:
                    rows.append((part.key, None, None, part.outcome))
                continue
            labels, probabilities = self._predict(part)
            rows += [
                (key, label, probability, PREDICTED)
                for key, label, probability in zip(part.keys, labels, probabilities.tolist(), strict=True)
            ]
            counts.images[PREDICTED] += len(part.keys)
            counts.pixels += part.pixels
        self._write(task, sorted(rows))
        return counts.result(task)

    def _predict(self, part: Features) -> tuple[list[str], npt.NDArray[np.float32]]:
        if part.codec_id not in self._recognisers:
            self._recognisers[part.codec_id] = self.heads.of(part.codec_id)
        labels, probabilities = self._recognisers[part.codec_id].predict(part.values)
        if not np.isfinite(probabilities).all():
            raise CnnbatchError(f"the head gives no probabilities for pictures coded by {part.codec_id[:12]}: it is damaged")
        return labels, probabilities

    def _write(self, task: ShardTask, rows: list[tuple[str, str | None, float | None, str]]) -> None:
        columns = list(zip(*rows, strict=True)) or [()] * len(PREDICTIONS)
        arrays = [pa.array(column, type=field.type) for column, field in zip(columns, PREDICTIONS, strict=True)]
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_arrays(arrays, schema=PREDICTIONS), buffer, compression="zstd")
        self.out.put(f"part-{task.number:05}.parquet", buffer.getvalue())


def _read(store: Store, task: ShardTask, codecs: CodecShelf, wanted: frozenset[str]) -> Iterator[Features | LeftOut]:
    keys = None if task.keys is None else frozenset(task.keys)
    return read_features(store, task.path, codecs, wanted=wanted, keys=keys, num_bytes=task.num_bytes, num_rows=task.num_images)


def _scratch_key(task: ShardTask) -> str:
    return f"{task.number:05}.safetensors"


def label_tasks(archive: Archive, labels: Mapping[str, str]) -> list[ShardTask]:
    """One task for each shard that holds labelled keys, with these keys."""
    ordered = sorted(labels)
    tasks: list[ShardTask] = []
    for shard in archive.shards():
        if bisect_left(ordered, shard.min_key) == bisect_right(ordered, shard.max_key):
            continue
        try:
            keys = tuple(key for key in archive.shard_keys(shard) if key in labels)
        except ArchiveError:  # its worker will say so
            tasks.append(ShardTask(len(tasks), shard.path, shard.num_bytes, 0, ()))
            continue
        if keys:
            tasks.append(ShardTask(len(tasks), shard.path, shard.num_bytes, len(keys), keys))
    return tasks
