"""Inputs that are whole objects of a store, with what lies beside them: side files, or columns of a list that names them."""

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

from cnnbatch.archive.fields import Field, dump_fields, label_of, parse_fields
from cnnbatch.containers.part import Part, head_of, identified, identity, parse_part
from cnnbatch.errors import StorageError, Unreadable
from cnnbatch.storage import ObjectInfo, Store
from cnnbatch.storage.many import Outcome, read_many

DIGITS: Final = 32
FOLDER, LIST = "folder", "manifest"
"""Kinds of parts: a picture with its side files, and one that a list names."""

SIDE_FILES: Final = json.dumps({"kind": FOLDER})
"""The column of a part, and none of the archive: side files are given back as the files that they were."""


def with_side_files(picture: ObjectInfo, side_files: Sequence[tuple[str, ObjectInfo]]) -> ObjectInfo:
    """A picture as the input that takes its side files along, each under the name of its field."""
    return _with(picture, SIDE_FILES, {"files": [[name, *identity(info)] for name, info in side_files]})


def with_columns(picture: ObjectInfo, name: str, fields: bytes | None) -> ObjectInfo:
    """A picture as the input that takes the columns of the list ``name`` along, as the archive's column ``fields`` has them."""
    column = json.dumps({"kind": LIST, "key": name})
    return _with(picture, column, {"fields": None if fields is None else base64.b64encode(fields).decode()})


def is_beside(part: Part) -> bool:
    """Whether a part is that of an input that is a whole object."""
    return json.loads(part.column)["kind"] in (FOLDER, LIST)


def read_beside(
    base: Store, infos: Iterable[ObjectInfo], *, label: str | None, max_bytes: int, concurrency: int, apart: bool = False
) -> Iterator[Outcome]:
    """Reads inputs with what lies beside them, as they arrive; ``label`` names the field that says the class.

    ``apart``: objects have no server in common, so that one which does not answer is the fault of the object.
    """
    inputs: dict[str, _Input] = {}

    def objects() -> Iterator[ObjectInfo]:
        for info in infos:
            one = _Input(info, parse_part(info.part or ""), {})
            for wanted in one.objects:
                inputs[wanted.key] = one
                yield wanted

    if apart:
        answers = read_many(lambda info: _get(base, info), objects(), max_bytes=max_bytes, concurrency=concurrency)
    else:
        answers = base.get_many(objects(), max_bytes=max_bytes, concurrency=concurrency)
    for info, data in answers:
        one = inputs.pop(info.key)
        one.read[info.key] = data
        if len(one.read) == len(one.objects):
            yield one.outcome(label)


@dataclass(frozen=True)
class _Input:
    """An input, and what was read of it so far."""

    info: ObjectInfo
    part: Part
    read: dict[str, bytes | Unreadable]

    @cached_property
    def objects(self) -> list[ObjectInfo]:
        """The picture, then its side files."""
        return [self.part.container, *(identified(where) for _, *where in self.part.row.get("files", ()))]

    def outcome(self, label: str | None) -> Outcome:
        """The picture and what lies beside it, once all is there; of several faults the first."""
        values = [self.read[wanted.key] for wanted in self.objects]
        fault = next((value for value in values if isinstance(value, Unreadable)), None)
        if fault is not None:
            return self.info, fault
        picture, *others = (value for value in values if isinstance(value, bytes))
        fields = [Field(name, value) for (name, *_), value in zip(self.part.row.get("files", ()), others, strict=True)]
        if (known := self.part.row.get("fields")) is not None:
            fields += parse_fields(base64.b64decode(known))
        beside: dict[str, Any] = {"fields": dump_fields(fields), "label": label_of(fields, label)}
        if self.part.column != SIDE_FILES:
            beside["container"] = self.part.column
        return replace(self.info, beside=beside), picture


def _with(picture: ObjectInfo, column: str, row: dict[str, Any]) -> ObjectInfo:
    """The input; it has changed where the picture or what lies beside it has. One whose version nobody tells has none."""
    told = [identity(picture), row]
    etag = hashlib.sha256(json.dumps(told).encode()).hexdigest()[:DIGITS]
    is_known = (picture.etag, picture.mtime) != (None, None)
    part = head_of(picture, column) + json.dumps(row, separators=(",", ":"))
    return replace(picture, etag=etag if is_known else None, part=part)


def _get(base: Store, info: ObjectInfo) -> bytes:
    try:
        return base.get(info)
    except StorageError as error:
        raise Unreadable("unreachable", f"{info.key}: {error}") from error
