"""Listed objects in Arrow columns."""

from collections.abc import Iterator, Sequence
from typing import Final

import pyarrow as pa

from cnnbatch.storage.interface import ObjectInfo

LISTING_SCHEMA: Final = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("size", pa.int64()),
        pa.field("etag", pa.string()),
        pa.field("mtime", pa.timestamp("us", tz="UTC")),
        pa.field("part", pa.string()),
    ]
)
FAULTS_SCHEMA: Final = LISTING_SCHEMA.append(pa.field("fault", pa.string()))
"""With what cannot be read. Both have the first fields of `ObjectInfo`, in its order."""


def listing_table(infos: Sequence[ObjectInfo], schema: pa.Schema = LISTING_SCHEMA) -> pa.Table:
    """A row for each of ``infos``."""
    columns = [[getattr(info, field.name) for info in infos] for field in schema]
    return pa.Table.from_arrays([pa.array(c, type=f.type) for c, f in zip(columns, schema, strict=True)], schema=schema)


def object_infos(table: pa.Table | pa.RecordBatch, schema: pa.Schema = LISTING_SCHEMA) -> Iterator[ObjectInfo]:
    """The rows of a table with the columns of ``schema``, as a store takes them."""
    return map(ObjectInfo, *(table.column(name).to_pylist() for name in schema.names))
