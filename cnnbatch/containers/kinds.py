"""The kinds of containers: how what one holds is listed, and how it is read."""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

from cnnbatch.archive.fields import Field
from cnnbatch.containers.index import Index, Rows
from cnnbatch.containers.names import is_tar, tar_compression
from cnnbatch.containers.part import Part
from cnnbatch.containers.samples import TarInputs
from cnnbatch.containers.table import Table
from cnnbatch.containers.tar import DIGITS, TarScan, pack_blocks
from cnnbatch.containers.window import RangeWindow, StreamWindow, Window
from cnnbatch.containers.zip import Zip
from cnnbatch.storage import ObjectInfo, Store


class Kind(Protocol):
    """One kind of containers."""

    name: str

    def matches(self, key: str) -> bool:
        """Whether an object of that name is one."""

    def index(self, store: Store, info: ObjectInfo) -> Index | None:
        """Its index; None where it is none, or holds nothing: then it is a file like any other."""

    def ranges(self, part: Part) -> Sequence[tuple[int, int]] | None:
        """Where the bytes of a part lie, the picture first; None where they are not ranges of the object."""

    def values(self, part: Part, stored: Sequence[bytes]) -> list[bytes]:
        """The picture and the fields, from what is stored in the ranges."""

    def fields(self, part: Part, values: Sequence[bytes]) -> list[Field]:
        """The fields beside the picture, from its values behind the first."""

    def digest(self, value: bytes) -> str:
        """The identity of a value, as the row of a part has it."""

    def class_names(self, part: Part) -> Mapping[str, Sequence[str]]:
        """For fields that are numbers of classes the names of those."""

    def stream(self, store: Store, parts: Sequence[Part]) -> Iterator[tuple[int, list[bytes]]]:
        """Number and values of the parts of one container that are no ranges, in the order in which they lie."""


class Tar:
    """``.tar``, and compressed with gzip or Zstandard."""

    name = "tar"

    def matches(self, key: str) -> bool:
        return is_tar(key)

    def index(self, store: Store, info: ObjectInfo) -> Index | None:
        compression = tar_compression(info.key)
        scan = TarScan(_window(store, info, compression), info.size)
        inputs, rows = TarInputs(scan, info), Rows()
        for found in inputs:
            rows.add(found)
        table = rows.table()
        if not table.num_rows:
            return None
        column: dict[str, Any] = {
            "kind": "tar",
            "key": info.key,
            "compression": compression,
            "header": pack_blocks(inputs.template),
        }
        column |= {"prefix": inputs.prefix, "tail": scan.tail}
        return Index(info, json.dumps(column, separators=(",", ":")), table)

    def ranges(self, part: Part) -> Sequence[tuple[int, int]] | None:
        if json.loads(part.column)["compression"] is not None:
            return None
        return [part.row["image"], *((offset, size) for _, offset, size in part.row["fields"])]

    def values(self, part: Part, stored: Sequence[bytes]) -> list[bytes]:
        return list(stored)

    def fields(self, part: Part, values: Sequence[bytes]) -> list[Field]:
        return [Field(where[0], value) for where, value in zip(part.row["fields"], values, strict=True)]

    def digest(self, value: bytes) -> str:
        return hashlib.sha256(value).hexdigest()[:DIGITS]

    def class_names(self, part: Part) -> Mapping[str, Sequence[str]]:
        return {}

    def stream(self, store: Store, parts: Sequence[Part]) -> Iterator[tuple[int, list[bytes]]]:
        window = _window(store, parts[0].container, json.loads(parts[0].column)["compression"])
        for number in sorted(range(len(parts)), key=lambda number: min(_offsets(parts[number]))):
            row = parts[number].row
            wanted = [row["image"], *(where[1:] for where in row["fields"])]
            found = {offset: _whole(window, offset, size) for offset, size in sorted(wanted)}
            yield number, [found[offset] for offset, _ in wanted]


def _offsets(part: Part) -> list[int]:
    return [part.row["image"][0], *(offset for _, offset, _ in part.row["fields"])]


def _whole(window: Window, offset: int, size: int) -> bytes:
    """All bytes of a member, as far as they are there."""
    window.seek(offset)
    pieces: list[bytes] = []
    while size and (piece := window.read(min(size, 8 << 20))):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def _window(store: Store, info: ObjectInfo, compression: str | None) -> Window:
    window = RangeWindow(store, info.key, info.size or 0)
    return window if compression is None else StreamWindow(window, compression)


KINDS: Final[Mapping[str, Kind]] = {kind.name: kind for kind in (Tar(), Table(), Zip())}
"""By the word in the column ``container``."""


def kinds_of(names: Collection[str], image_columns: Sequence[str]) -> tuple[Kind, ...]:
    """The kinds of these names."""
    found: dict[str, Kind] = {"tar": Tar(), "parquet": Table(image_columns), "zip": Zip()}
    return tuple(found[name] for name in sorted(names))
