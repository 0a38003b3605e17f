"""The inputs of a source, in Arrow columns as they are listed."""

import fnmatch
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import accumulate, islice

import pyarrow as pa

from cnnbatch.archive.erased import ErasedKeys
from cnnbatch.archive.schema import MAX_BYTES
from cnnbatch.stages.records import Failure
from cnnbatch.storage import ObjectInfo, Source
from cnnbatch.storage.columns import LISTING_SCHEMA, listing_table
from cnnbatch.storage.interface import FAULTS

MAX_KEY_BYTES = MAX_BYTES["key"]
CLUTTER = frozenset((".ds_store", "thumbs.db"))
"""Names, in lower case, of what file managers leave behind."""

RESOURCE_FORK = "._"
"""The beginning of such a name: files that macOS keeps beside another elsewhere than on its own disks."""

FOLDER_MARKERS = ("/", "_$folder$")
"""How the keys of empty objects end by which clients of object stores show folders."""

_CHUNK = 10_000


class Scan:
    """A listing under way: iterate it once; then ``unreadable`` has what was listed but cannot be read.

    ``left_out`` counts what is no input and nobody's picture: see `is_clutter` and `FOLDER_MARKERS`.
    """

    def __init__(self, source: Source, *, exclude: Collection[str] = ()) -> None:
        self._source = source
        self._excluded = tuple(re.compile(fnmatch.translate(glob)) for glob in exclude)
        self.unreadable: list[Failure] = []
        self.left_out = 0

    def __iter__(self) -> Iterator[pa.Table]:
        """Tables of `LISTING_SCHEMA`, of 10,000 objects, without those that a glob of ``exclude`` matches."""
        objects = self._readable()
        while part := list(islice(objects, _CHUNK)):
            yield listing_table(part)

    def _readable(self) -> Iterator[ObjectInfo]:
        for info in self._source.list(markers=True):
            if is_clutter(info.key) or (info.size == 0 and (not info.key or info.key.endswith(FOLDER_MARKERS))):
                self.left_out += 1
                continue
            if any(pattern.match(info.key) for pattern in self._excluded):
                continue
            fault = info.fault or (None if is_row_key(info.key) else "name")
            if fault is None:
                yield info
            else:
                key = info.key.encode(errors="backslashreplace")[:MAX_KEY_BYTES].decode(errors="replace")
                self.unreadable.append(Failure(key, "list", fault, FAULTS.get(fault, fault)))

    def hides(self) -> Callable[[str], bool]:
        """Once it is complete: tells whether the source may have a key although it was not listed, as it is excluded, or is
        or lies below something that cannot be read, such as a folder without permission."""
        faulty = {failure.key for failure in self.unreadable}

        def hides(key: str) -> bool:
            parents = accumulate(key.split("/"), "{}/{}".format)
            left_out = is_clutter(key) or any(pattern.match(key) for pattern in self._excluded)
            return left_out or not faulty.isdisjoint(parents)

        return hides


@dataclass(frozen=True, slots=True)
class Listing:
    """The inputs of a source in memory: ``table`` of `LISTING_SCHEMA`, and what was listed but cannot be read."""

    table: pa.Table
    unreadable: tuple[Failure, ...]


def list_source(source: Source, *, exclude: Collection[str] = ()) -> Listing:
    """Every object below the source, minus the ``exclude`` globs (over keys, ``*`` crosses ``/``)."""
    scan = Scan(source, exclude=exclude)
    table = pa.concat_tables([LISTING_SCHEMA.empty_table(), *scan])
    return Listing(table, tuple(scan.unreadable))


def is_clutter(key: str) -> bool:
    """Whether a key is that of a file that a file manager left behind."""
    name = key.rpartition("/")[2]
    return name.startswith(RESOURCE_FORK) or name.lower() in CLUTTER


def is_row_key(key: str) -> bool:
    """Whether a row of an archive can have this key. An object named like the source itself has an empty one."""
    try:
        return 0 < len(key.encode()) <= MAX_KEY_BYTES
    except UnicodeEncodeError:
        return False


def without_erased(table: pa.Table, erased: ErasedKeys) -> tuple[pa.Table, int]:
    """A listing without the keys that were erased from the archive, and how many those are."""
    if not erased:
        return table, 0
    kept = pa.array([key not in erased for key in table.column("key").to_pylist()], type=pa.bool_())
    left = table.filter(kept)
    return left, table.num_rows - left.num_rows
