"""Side files of pictures: ``a.txt``, or ``a.jpg.xmp``, beside ``a.jpg``."""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

import pyarrow as pa

from cnnbatch.containers.beside import with_side_files
from cnnbatch.containers.names import is_picture, sample_of
from cnnbatch.containers.samples import MAX_FIELDS_BYTES
from cnnbatch.spill import Scratch, Spill, in_order, ranges
from cnnbatch.storage import ObjectInfo

USUAL: Final = ("txt", "caption", "cls", "json", "xmp")
"""Endings of side files, where none are told."""

MEMORY_BYTES: Final = 256 << 20
ADD_ROWS: Final = 10_000
_SCHEMA: Final = pa.schema(
    [
        pa.field("key", pa.string()),
        pa.field("size", pa.int64()),
        pa.field("etag", pa.string()),
        pa.field("mtime", pa.timestamp("us", tz="UTC")),
    ]
)


def joined(infos: Iterable[ObjectInfo], endings: Collection[str]) -> Iterator[ObjectInfo]:
    """The same inputs, in which a picture takes the files along that are called as it is, but for an ending of ``endings``.

    A file that could go with several goes with the first by key. What goes with none stays an input.
    """
    with Scratch(None, memory_bytes=MEMORY_BYTES) as scratch:
        spill = Spill(scratch, _SCHEMA, by="key")
        waiting: list[ObjectInfo] = []
        for info in infos:
            if info.fault is not None or info.part is not None or not (is_picture(info.key) or _ending(info.key) in endings):
                yield info
                continue
            waiting.append(info)
            if len(waiting) == ADD_ROWS:
                spill.add(_table(waiting))
                waiting = []
        if waiting:
            spill.add(_table(waiting))
        yield from _joined_in_order(_by_key(spill))


@dataclass(slots=True)
class _File:
    """A file that waits for what belongs to it: a picture (``stem``: its key without its ending), or what may be beside one."""

    info: ObjectInfo
    stem: str
    is_picture: bool
    sides: list[ObjectInfo] = field(default_factory=list)

    def may_meet(self, key: str) -> bool:
        """Whether keys like this one may still belong to it: in order, they are neighbours."""
        return key.startswith(f"{self.stem}.")


def _joined_in_order(infos: Iterable[ObjectInfo]) -> Iterator[ObjectInfo]:
    """The inputs in the order of keys; few of them wait at a time."""
    waiting: list[_File] = []
    for info in infos:
        while waiting and not waiting[-1].may_meet(info.key):
            yield from _finished(waiting.pop())
        one = _File(info, info.key.rpartition(".")[0], is_picture(info.key))
        if one.is_picture:
            if sample_of(info.key) is not None:
                mine = [other for other in waiting if not other.is_picture and other.stem == one.stem]
                one.sides = [other.info for other in mine]
                waiting = [other for other in waiting if other not in mine]
            waiting.append(one)
        elif (picture := _picture_of(one, waiting)) is not None:
            picture.sides.append(info)
        else:
            waiting.append(one)
    while waiting:
        yield from _finished(waiting.pop())


def _picture_of(one: _File, waiting: Iterable[_File]) -> _File | None:
    pictures = [other for other in waiting if other.is_picture and sample_of(other.info.key) is not None]
    alike = (other for other in pictures if other.info.key == one.stem)
    return next(alike, None) or next((other for other in pictures if other.stem == one.stem), None)


def _finished(one: _File) -> Iterator[ObjectInfo]:
    if not one.sides or sum(side.known_bytes for side in one.sides) > MAX_FIELDS_BYTES:
        yield one.info
        yield from one.sides
        return
    found = sample_of(one.info.key)
    assert found is not None
    start = len(found[0]) + 1
    yield with_side_files(one.info, [(side.key[start:], side) for side in sorted(one.sides, key=lambda side: side.key)])


def _ending(key: str) -> str:
    return key.rpartition("/")[2].rpartition(".")[2].lower()


def _table(infos: Iterable[ObjectInfo]) -> pa.Table:
    rows = list(infos)
    arrays = [pa.array([getattr(info, column.name) for info in rows], column.type) for column in _SCHEMA]
    return pa.Table.from_arrays(arrays, schema=_SCHEMA)


def _by_key(spill: Spill) -> Iterator[ObjectInfo]:
    for [table] in ranges(spill):
        for batch in in_order(table, spill.by).to_batches(ADD_ROWS):
            yield from map(ObjectInfo, *(column.to_pylist() for column in batch.columns))
