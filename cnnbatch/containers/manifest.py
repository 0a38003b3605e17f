"""Lists of keys or URLs as somebody else made them: CSV, JSON Lines or Parquet, with any other columns."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import IO, Any, Final
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from cnnbatch.archive.fields import Field, field_of
from cnnbatch.containers.names import clean_name
from cnnbatch.errors import UsageError
from cnnbatch.storage import Store
from cnnbatch.storage.keys import is_readable_key
from cnnbatch.storage.ranged_file import RangedFile
from cnnbatch.storage.urls import OBJECT_STORES, parse_url

KEY_COLUMNS: Final = ("key", "file_name", "url", "path", "file", "filename", "image")
"""Names of the column of keys, where none is told: the first that is there."""

COMPRESSIONS: Final = {".gz": "gzip", ".zst": "zstd"}
DELIMITERS: Final = {".csv": ",", ".tsv": "\t"}
LINES: Final = (".jsonl", ".ndjson")
MAX_VALUE_CHARACTERS: Final = 16 << 20
BATCH_ROWS: Final = 1000
READ_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of a list, counted from 1 with its head: the key or URL as it is written there, and the other columns in order.

    ``value`` None: the row is damaged.
    """

    number: int
    value: str | None
    fields: tuple[Field, ...] = ()


@dataclass(frozen=True, slots=True)
class Manifest:
    """A list in ``store``; ``column`` names its keys, None: one of `KEY_COLUMNS`."""

    store: Store
    name: str
    column: str | None = None

    def check(self) -> None:
        """Raises UsageError where there is no list of that name, or none with a column of keys, and StorageError."""
        if _kind(self.name) is None:
            raise UsageError(f"{self.name!r}: a list ends with .csv, .tsv, .jsonl or .parquet, or .gz or .zst behind these")
        next(iter(self), None)

    def __iter__(self) -> Iterator[Entry]:
        """The rows, a few of them in memory at a time.

        Raises:
            UsageError: it has no column of keys.
        """
        kind = _kind(self.name)
        file = io.BufferedReader(RangedFile(self.store, self.name, self._size()), READ_BYTES)
        if kind == ".parquet":
            yield from self._rows_of_table(file)
            return
        compression = COMPRESSIONS.get(_ending(self.name))
        raw = file if compression is None else pa.CompressedInputStream(pa.PythonFile(file, mode="r"), compression)
        with io.TextIOWrapper(raw, encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
            yield from self._rows_of_csv(text, DELIMITERS[kind]) if kind in DELIMITERS else self._rows_of_lines(text)

    def _size(self) -> int:
        info = self.store.head(self.name)
        if info is None:
            raise UsageError(f"no such list: {self.store.url}/{self.name}")
        return info.known_bytes

    def _rows_of_csv(self, text: IO[str], delimiter: str) -> Iterator[Entry]:
        csv.field_size_limit(MAX_VALUE_CHARACTERS)
        rows = csv.reader(text, delimiter=delimiter, strict=True)
        head: list[str] | None = None
        try:
            for row in rows:
                if head is None:
                    head, column = row, self._column(row)
                elif len(row) > len(head):
                    yield Entry(rows.line_num, None)
                elif row:
                    values = list(zip_longest(head, row))
                    others = (Field(name, value) for index, (name, value) in enumerate(values) if index != column)
                    yield Entry(rows.line_num, values[column][1] or "", tuple(others))
        except (csv.Error, ValueError, OSError):
            yield Entry(rows.line_num + 1, None)
        else:
            if head is None:
                self._column([])

    def _rows_of_lines(self, text: IO[str]) -> Iterator[Entry]:
        number = 0
        name: str | None = None
        try:
            for number, line in enumerate(text, 1):
                if not line.strip():
                    continue
                values = _object(line)
                if values is None:
                    yield Entry(number, None)
                    continue
                if name is None:
                    names = list(values)
                    name = names[self._column(names)]
                value = values.pop(name, None)
                yield Entry(number, value if isinstance(value, str) else "", tuple(Field(*one) for one in values.items()))
        except (ValueError, OSError):
            yield Entry(number + 1, None)

    def _rows_of_table(self, file: IO[bytes]) -> Iterator[Entry]:
        number = 1
        try:
            table = pq.ParquetFile(pa.PythonFile(file, mode="r"), pre_buffer=False)
            column = self._column(table.schema_arrow.names)
            for batch in table.iter_batches(BATCH_ROWS, use_threads=False):
                names = batch.schema.names
                for row in range(batch.num_rows):
                    number += 1
                    value = batch.column(column)[row].as_py()
                    others = (field_of(batch.column(i)[row], name) for i, name in enumerate(names) if i != column)
                    yield Entry(number, value if isinstance(value, str) else "", tuple(others))
        except (pa.ArrowException, OSError, ValueError):
            yield Entry(number + 1, None)

    def _column(self, names: Sequence[str]) -> int:
        """The place of the column of keys."""
        wanted: Iterable[str] = KEY_COLUMNS if self.column is None else (self.column,)
        found = next((name for name in wanted if name in names), None)
        if found is None:
            told = ", ".join(repr(name) for name in names[:20]) or "none"
            names_of_it = ", ".join(wanted)
            raise UsageError(f"{self.name!r} has no column {names_of_it}, but {told}: source.key_column names that of the keys")
        return list(names).index(found)


def key_below(value: str, url: str) -> tuple[str, str | None]:
    """The key below the source ``url`` that a list means by a key, a path or a URL; with the fault ``outside`` or ``name``
    where it is none of it."""
    scheme = parse_url(url).scheme
    is_plain = scheme in OBJECT_STORES or scheme == "file"
    key: str | None = value
    if "://" in value or (value.startswith("/") and scheme == "file"):
        key = _below(value, url, is_plain=is_plain)
    if key is None:
        return value, "outside"
    cleaned = clean_name(key)
    if cleaned is None or not (is_plain or _stays_below(cleaned)):
        return value, "outside" if key.startswith("/") or not {"..", "%2e%2e"}.isdisjoint(key.lower().split("/")) else "name"
    return cleaned, None


def _below(value: str, url: str, *, is_plain: bool) -> str | None:
    """The rest of a URL behind that of the source."""
    start = url if url.endswith("/") else f"{url}/"
    if is_plain:
        try:
            value = parse_url(value).url
        except UsageError:
            return None
    return value.removeprefix(start) if value.startswith(start) else None


def _stays_below(key: str) -> bool:
    """Whether a server takes a key as one below the source, however it reads escapes; whom it asks is no user of another."""
    plain = unquote(key.partition("?")[0])
    return is_readable_key(plain.rstrip("/")) and "\\" not in plain and "@" not in plain.partition("/")[0]


def _object(line: str) -> dict[str, Any] | None:
    """Names and values of a line; what no field holds as it is, is its JSON."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    return {name: value if _is_plain(value) else json.dumps(value, ensure_ascii=False) for name, value in found.items()}


def _is_plain(value: Any) -> bool:
    if isinstance(value, int) and not isinstance(value, bool):
        return -(2**63) <= value < 2**63
    return value is None or isinstance(value, bool | float | str)


def _kind(name: str) -> str | None:
    """The ending that says how a list is written."""
    inner = name[: -len(_ending(name))] if _ending(name) in COMPRESSIONS else name
    ending = _ending(inner)
    return ending if ending in (*DELIMITERS, *LINES) or (ending == ".parquet" and inner == name) else None


def _ending(name: str) -> str:
    return f".{name.lower().rpartition('.')[2]}"
