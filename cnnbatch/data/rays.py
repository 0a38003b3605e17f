"""Archives as datasets of Ray Data: the one module of the library that imports Ray."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
from ray.data import Dataset, read_datasource
from ray.data.block import BlockAccessor, BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from cnnbatch.archive.fields import parse_fields
from cnnbatch.archive.schema import SCHEMA, ArchiveRow
from cnnbatch.data.samples import OpenSamples, Samples
from cnnbatch.errors import UsageError
from cnnbatch.storage import StorageConfig

IMAGE: Final = "image"
FIELDS: Final = "fields"
BLOCK_ROWS: Final = 64
DECODED_RATIO: Final = 50
"""How many bytes pixels have for each of a payload, about."""


def read_archive(
    url: str,
    *,
    columns: Sequence[str] = ("key", "label"),
    decode: bool = True,
    pattern: str = "*",
    config: StorageConfig | None = None,
    parallelism: int = -1,
) -> Dataset:
    """The pictures of an archive as a dataset that is read lazily, some row groups a task.

    ``columns`` are columns of the archive, and ``fields``, a dict of what lies beside each picture; with ``decode`` there is
    also ``image``, uint8 [H, W, 3] or [H, W].

    Raises:
        UsageError: there is no such column.
    """
    unknown = set(columns) - set(SCHEMA.names)
    if unknown:
        raise UsageError(f"an archive has no column {', '.join(sorted(unknown))}")
    source = ArchiveDatasource(Samples(url, pattern, config), tuple(columns), decode=decode)
    return read_datasource(source, override_num_blocks=None if parallelism < 0 else parallelism)


@dataclass(frozen=True, slots=True)
class _Read:
    """Reads some row groups where Ray runs it."""

    samples: Samples
    groups: tuple[tuple[int, int], ...]
    columns: tuple[str, ...]
    decode: bool

    def __call__(self) -> Iterator[Any]:
        opened = self.samples.open()
        for shard, group in self.groups:
            rows = [_sound(row) for row in opened.read_group(shard, group)]
            for start in range(0, len(rows), BLOCK_ROWS):
                yield _block(opened, rows[start : start + BLOCK_ROWS], self.columns, decode=self.decode)


class ArchiveDatasource(Datasource):  # type: ignore[misc]
    """The row groups of an archive, as Ray Data reads sources."""

    def __init__(self, samples: Samples, columns: tuple[str, ...], *, decode: bool) -> None:
        self._samples, self._columns, self._decode = samples, columns, decode
        opened = samples.open()
        self._num_bytes = opened.archive.snapshot.num_bytes * (DECODED_RATIO if decode else 1)
        self._groups = [
            (shard, group, rows) for shard in range(len(opened.shards)) for group, rows in enumerate(opened.groups(shard))
        ]

    def get_name(self) -> str:
        return "Archive"

    def estimate_inmemory_data_size(self) -> int | None:
        return int(self._num_bytes)

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any | None = None
    ) -> list[ReadTask]:
        count = max(1, min(parallelism, len(self._groups)))
        tasks = []
        for number in range(count):
            mine = self._groups[number::count]
            if mine:
                read = _Read(self._samples, tuple((shard, group) for shard, group, _ in mine), self._columns, self._decode)
                metadata = BlockMetadata(None, int(self._num_bytes // count), None, None)
                tasks.append(ReadTask(read, metadata, per_task_row_limit=per_task_row_limit))
        return tasks


def _sound(row: Any) -> ArchiveRow:
    if isinstance(row, ArchiveRow):
        return row
    raise row


def _block(opened: OpenSamples, rows: Sequence[ArchiveRow], columns: Iterable[str], *, decode: bool) -> pa.Table:
    """Some rows as a block: columns of Arrow, pictures as tensors that may differ in size."""
    arrays = {name: _array(rows, name) for name in columns}
    if not decode:
        return pa.table(arrays)
    images = np.empty(len(rows), dtype=object)
    for number, image in enumerate(opened.images(rows)):
        if isinstance(image, Exception):
            raise image
        images[number] = image
    tensors: pa.Table = BlockAccessor.batch_to_block({IMAGE: images})
    return pa.table(arrays | {IMAGE: tensors.column(IMAGE)})


def _array(rows: Sequence[ArchiveRow], name: str) -> pa.Array:
    if name == FIELDS:
        return pa.array([{field.name: field.plain() for field in parse_fields(row.fields)} or None for row in rows])
    return pa.array([getattr(row, name) for row in rows], SCHEMA.field(name).type)
