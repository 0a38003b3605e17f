"""Which pictures are shown: a folder, a glob, a condition, limits on figures, and an order."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cnnbatch.archive.where import parse_condition
from cnnbatch.errors import UsageError
from cnnbatch.reading import Archive
from cnnbatch.serve.index import COLUMNS, Index, Rows

SORTS: Final = {"key": "key", "date": "source_mtime", "bytes": "source_size", "psnr": "psnr_db", "ssimulacra2": "ssimulacra2"}
ROWS_AT_ONCE: Final = 1 << 16
MOST_CHARACTERS: Final = 1000
"""Longest glob or condition."""

_RANGED: Final = {"psnr": "psnr_db", "ssimulacra2": "ssimulacra2", "bytes": "source_size"}
_GLOB_PART: Final = re.compile(r"\*|\?|\[!?\]?[^\]]*\]|.", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Query:
    """A search; None, or empty: whatever it is."""

    folder: str = ""
    glob: str = ""
    where: str = ""
    outcome: str = ""
    format: str = ""
    psnr_min: float | None = None
    psnr_max: float | None = None
    ssimulacra2_min: float | None = None
    ssimulacra2_max: float | None = None
    bytes_min: float | None = None
    bytes_max: float | None = None
    since: date | None = None
    until: date | None = None
    sort: str = "key"
    descending: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether it is a folder, or a folder backwards, and nothing else."""
        return Query(self.folder, descending=self.descending) == self


def parse_query(values: Iterable[tuple[str, str]]) -> Query:
    """A query from the parameters of a URL; raises UsageError. What is none of its names is ignored."""
    kinds = {field.name: str(field.type) for field in fields(Query)}
    found: dict[str, Any] = {}
    for name, text in values:
        if name in kinds and text:
            if len(text) > MOST_CHARACTERS and name != "folder":
                raise UsageError(f"{name} has more than {MOST_CHARACTERS} characters")
            found[name] = _value(name, kinds[name], text)
    query = Query(**found)
    if query.sort not in SORTS:
        raise UsageError(f"sort is one of {', '.join(SORTS)}")
    if query.folder and not query.folder.endswith("/"):
        raise UsageError("a folder ends with /")
    return query


def _value(name: str, kind: str, text: str) -> Any:
    try:
        if "float" in kind:
            number = float(text)
            if not np.isfinite(number):
                raise ValueError
            return number
        if "date" in kind:
            return date.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{name} is {'a number' if 'float' in kind else 'a date as 2026-11-30'}, got {text!r}") from None
    return text == "1" if kind == "bool" else text


def select(archive: Archive, index: Index, query: Query) -> Rows:
    """The rows that it holds of, in its order; raises UsageError. A condition reads its columns out of the archive."""
    rows = index.below(query.folder)
    if query.is_plain:
        return rows[::-1] if query.descending else rows
    table = index.table.slice(rows.start, len(rows))
    mask = np.ones(len(rows), bool)
    for part in _masks(table, query):
        mask &= part
    if query.where:
        mask &= _condition_mask(archive, index, query, rows)
    found = np.flatnonzero(mask) + rows.start
    if query.sort == "key":
        return found[::-1] if query.descending else found
    order = pc.sort_indices(
        index.table.column(SORTS[query.sort]).take(pa.array(found)),
        sort_keys=[("", "descending" if query.descending else "ascending")],
    )
    ordered: Rows = found[order.to_numpy()]
    return ordered


def _masks(table: pa.Table, query: Query) -> Iterable[npt.NDArray[np.bool_]]:
    if query.glob:
        try:
            yield _truth(pc.match_substring_regex(table.column("key"), pattern(query.glob)))
        except pa.ArrowInvalid:
            raise UsageError(f"not a glob: {query.glob!r}") from None
    for name, column in (("outcome", "outcome"), ("format", "source_format")):
        if wanted := getattr(query, name):
            yield _truth(pc.equal(table.column(column), wanted))
    for name, column in _RANGED.items():
        if (low := getattr(query, f"{name}_min")) is not None:
            yield _truth(pc.greater_equal(table.column(column), low))
        if (high := getattr(query, f"{name}_max")) is not None:
            yield _truth(pc.less_equal(table.column(column), high))
    if query.since:
        yield _truth(pc.greater_equal(table.column("source_mtime"), _moment(query.since)))
    if query.until:
        yield _truth(pc.less(table.column("source_mtime"), _moment(query.until + timedelta(days=1))))


def _condition_mask(archive: Archive, index: Index, query: Query, rows: range) -> npt.NDArray[np.bool_]:
    condition = parse_condition(query.where)
    if set(condition.columns) <= set(COLUMNS):  # the index has all that it asks for
        table = index.table.slice(rows.start, len(rows)).select(list(condition.columns))
        batches = table.to_batches(max_chunksize=ROWS_AT_ONCE)
        return np.fromiter((condition.holds(row) for batch in batches for row in batch.to_pylist()), bool, len(rows))
    prefix = re.sub(r"([*?\[])", r"[\1]", query.folder)
    keys = [row["key"] for row in archive.listing(f"{prefix}*", condition, columns=("key",))]
    return _truth(pc.is_in(index.table.column("key").slice(rows.start, len(rows)), value_set=pa.array(keys, pa.string())))


def _truth(values: Any) -> npt.NDArray[np.bool_]:
    found: npt.NDArray[np.bool_] = pc.fill_null(values, False).to_numpy(zero_copy_only=False)
    return found


def _moment(day: date) -> pa.Scalar:
    return pa.scalar(datetime(day.year, day.month, day.day, tzinfo=UTC), pa.timestamp("us", tz="UTC"))


def pattern(glob: str) -> str:
    """A glob in which ``*`` crosses ``/`` as a regular expression of RE2, which takes linear time; a word without wildcards is
    looked for anywhere."""
    if not re.search(r"[*?\[]", glob):
        return f"(?is){re.escape(glob)}"
    return f"(?s)^{''.join(map(_translated, _GLOB_PART.findall(glob)))}$"


def _translated(part: str) -> str:
    if part == "*":
        return ".*"
    if part == "?":
        return "."
    if len(part) > 1:
        inner = part[1:-1].replace("\\", r"\\").replace("[", r"\[")
        inner = f"^{inner[1:]}" if inner.startswith("!") else inner.replace("^", r"\^", 1) if inner.startswith("^") else inner
        return f"[{inner}]"
    return re.escape(part)
