"""Indexes of containers, kept below the archive's ``_cnnbatch/indexes/``: an unchanged one is not read again.

An index is a file of Arrow's, named by the container's key. It holds which version of the container it is of.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from cnnbatch.containers.part import head_of, identity
from cnnbatch.storage import ObjectInfo, Store

INDEXES: Final = "_cnnbatch/indexes"
VERSION: Final = 1
SCHEMA: Final = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("size", pa.int64()),
        pa.field("etag", pa.string()),
        pa.field("part", pa.string()),
        pa.field("fault", pa.string()),
    ]
)
_ROWS: Final = 10_000
_MARK: Final = b"cnnbatch.index"


@dataclass(frozen=True, slots=True)
class Index:
    """The inputs of one container: rows of `SCHEMA`, ``part`` being the row of a `Part`; ``column`` is the same for all."""

    container: ObjectInfo
    column: str
    table: pa.Table

    def inputs(self) -> Iterator[ObjectInfo]:
        """The inputs as a listing has them."""
        head = head_of(self.container, self.column)
        for batch in self.table.to_batches():
            for key, size, etag, row, fault in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                yield ObjectInfo(key, size, etag, self.container.mtime, None if row is None else head + row, fault)

    def get(self, key: str) -> ObjectInfo | None:
        """The input of that key."""
        return next((info for info in self.inputs() if info.key == key and info.fault is None), None)


class Rows:
    """Collects inputs into a table without holding them as objects."""

    def __init__(self) -> None:
        self._rows: list[ObjectInfo] = []
        self._batches: list[pa.RecordBatch] = []

    def add(self, info: ObjectInfo) -> None:
        """One more."""
        self._rows.append(info)
        if len(self._rows) == _ROWS:
            self._flush()

    def table(self) -> pa.Table:
        """All of them."""
        self._flush()
        return pa.Table.from_batches(self._batches, schema=SCHEMA)

    def _flush(self) -> None:
        columns = [pa.array([getattr(info, field.name) for info in self._rows], field.type) for field in SCHEMA]
        self._batches.append(pa.RecordBatch.from_arrays(columns, schema=SCHEMA))
        self._rows = []


def read_index(archive: Store, container: ObjectInfo, reading: str) -> Index | None:
    """The index of this very version of a container, as ``reading`` made it (see `write_index`); None where there is none."""
    if container.etag is None and container.mtime is None:
        return None
    try:
        with pa.ipc.open_file(pa.BufferReader(archive.read(_path(container)))) as reader:
            noted = json.loads(reader.schema.metadata[_MARK])
            if noted["of"] != [VERSION, reading, *identity(container)]:
                return None
            table = reader.read_all().replace_schema_metadata()
        table.validate(full=True)
        return Index(container, str(noted["column"]), table.cast(SCHEMA))
    except (FileNotFoundError, pa.ArrowException, LookupError, TypeError, ValueError):
        return None  # it is there to save time: whatever is wrong with it, the container is read


def write_index(archive: Store, index: Index, reading: str) -> None:
    """Keeps an index; ``reading`` says how the container was read: another way of reading makes another one."""
    noted: dict[str, Any] = {"of": [VERSION, reading, *identity(index.container)], "column": index.column}
    schema = SCHEMA.with_metadata({_MARK: json.dumps(noted).encode()})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(index.table.replace_schema_metadata(schema.metadata))
    archive.put(_path(index.container), sink.getvalue().to_pybytes())


def _path(container: ObjectInfo) -> str:
    return f"{INDEXES}/{hashlib.sha256(container.key.encode()).hexdigest()[:32]}.arrow"
