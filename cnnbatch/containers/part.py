"""Where in a container an input lies: what travels in a listing from the planning to the reading."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cnnbatch.storage import ObjectInfo

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def padded(values: Sequence[Any], count: int) -> list[Any]:
    """The same with nulls up to ``count``; raises ValueError where there are more."""
    if len(values) > count:
        raise ValueError(f"{len(values)} elements where {count} are expected")
    return [*values, *[None] * (count - len(values))]


def without_last_nulls(values: Iterable[Any]) -> list[Any]:
    """The same without the nulls at its end."""
    found = list(values)
    while found and found[-1] is None:
        found.pop()
    return found


def identity(info: ObjectInfo) -> list[Any]:
    """The identity of one version of an object."""
    return [info.key, info.size, info.etag, None if info.mtime is None else (info.mtime - _EPOCH) // timedelta(microseconds=1)]


def identified(identity: Sequence[Any]) -> ObjectInfo:
    """The object of an `identity`."""
    key, size, etag, mtime = identity
    return ObjectInfo(key, size, etag, None if mtime is None else _EPOCH + timedelta(microseconds=mtime))


@dataclass(frozen=True, slots=True)
class Part:
    """``container`` is the object as it was listed, ``column`` what the archive says of it, ``row`` what its reader noted."""

    container: ObjectInfo
    column: str
    row: dict[str, Any]


def head_of(container: ObjectInfo, column: str) -> str:
    """The first two lines of the texts of all parts of a container; the third is the row, in JSON."""
    return f"{json.dumps(identity(container))}\n{column}\n"


def parse_part(text: str) -> Part:
    """A part from its text."""
    first, column, row = text.split("\n", 2)
    return Part(identified(json.loads(first)), column, json.loads(row))
