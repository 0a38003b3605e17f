"""Zip files: their directory tells what they hold and its checksums, so nothing else is read to list them."""

import io
import json
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Final

from cnnbatch.archive.fields import Field
from cnnbatch.containers.index import Index, Rows
from cnnbatch.containers.part import Part, without_last_nulls
from cnnbatch.containers.samples import SampleInputs
from cnnbatch.containers.tar import Member
from cnnbatch.storage import ObjectInfo, Store
from cnnbatch.storage.ranged_file import RangedFile

METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_LOCAL_BYTES: Final = 30
_ENCRYPTED: Final = 1
_WINDOW_BITS: Final = -15


class ZipScan:
    """Iterate it once: the files of a zip file, in the order of its directory."""

    def __init__(self, store: Store, info: ObjectInfo) -> None:
        """Raises zipfile.BadZipFile, OSError, ValueError and the like for what is none."""
        file = io.BufferedReader(RangedFile(store, info.key, info.size or 0), 1 << 16)
        with zipfile.ZipFile(file) as found:
            self.entries = found.infolist()
            self._end = found.start_dir
        self.after = b""
        self.fault: str | None = None
        starts = sorted({entry.header_offset for entry in self.entries} | {self._end})
        self._ends = dict(pairwise(starts))

    def __iter__(self) -> Iterator[Member]:
        files = (entry for entry in self.entries if not entry.is_dir())
        for number, entry in enumerate(files):
            ok = entry.compress_type in METHODS and not entry.flag_bits & _ENCRYPTED and entry.header_offset in self._ends
            digest = digest_of(entry.CRC, entry.file_size)
            yield Member(
                number, entry.filename, entry.header_offset, entry.file_size, digest, fault=None if ok else "unsupported"
            )

    def end(self, offset: int) -> int:
        """Where the file that begins at ``offset`` ends at the latest."""
        return self._ends[offset]


class ZipInputs(SampleInputs):
    """The inputs of a zip file."""

    def __init__(self, scan: ZipScan, container: ObjectInfo) -> None:
        super().__init__(scan, container)
        self._zip = scan
        self._entries = {entry.header_offset: entry for entry in scan.entries}

    def begin(self, member: Member, name: str) -> None:
        pass

    def row(self, members: Sequence[Member], names: Sequence[str]) -> dict[str, Any]:
        stored = [[one.offset, self._zip.end(one.offset) - one.offset] for one in members]
        entries = [self._entries[one.offset] for one in members]
        return {
            "image": stored[0],
            "fields": [[name, *where] for name, where in zip(names, stored[1:], strict=True)],
            "packed": [[entry.compress_type, entry.compress_size, entry.file_size] for entry in entries],
        }

    def place(self, member: Member, usual: str, after: bytes) -> list[Any]:
        entry = self._entries[member.offset]
        name = None if member.name == usual else member.name
        return without_last_nulls(
            [member.number, name, list(entry.date_time), entry.compress_type, entry.external_attr or None]
        )


class Zip:
    """``.zip``."""

    name = "zip"

    def matches(self, key: str) -> bool:
        return key.lower().endswith(".zip")

    def index(self, store: Store, info: ObjectInfo) -> Index | None:
        rows = Rows()
        folders: list[str] = []
        try:
            scan = ZipScan(store, info)
            folders = [entry.filename for entry in scan.entries if entry.is_dir()]
            for found in ZipInputs(scan, info):
                rows.add(found)
        except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError, EOFError):
            rows.add(ObjectInfo(info.key, None, fault="damaged"))
        table = rows.table()
        column = {"kind": self.name, "key": info.key, "folders": folders[:1000]}
        return Index(info, json.dumps(column, separators=(",", ":")), table) if table.num_rows else None

    def ranges(self, part: Part) -> Sequence[tuple[int, int]] | None:
        return [part.row["image"], *((offset, size) for _, offset, size in part.row["fields"])]

    def values(self, part: Part, stored: Sequence[bytes]) -> list[bytes]:
        return [_unpacked(data, *how) for data, how in zip(stored, part.row["packed"], strict=True)]

    def fields(self, part: Part, values: Sequence[bytes]) -> list[Field]:
        return [Field(where[0], value) for where, value in zip(part.row["fields"], values, strict=True)]

    def digest(self, value: bytes) -> str:
        return digest_of(zlib.crc32(value), len(value))

    def class_names(self, part: Part) -> dict[str, list[str]]:
        return {}

    def stream(self, store: Store, parts: Sequence[Part]) -> Iterator[tuple[int, list[bytes]]]:
        raise NotImplementedError("a zip file is read by ranges")


def digest_of(crc: int, size: int) -> str:
    """The identity of a member's content, as far as a directory tells."""
    return f"{crc:08x}-{size:x}"


def _unpacked(data: bytes, method: int, packed_size: int, size: int) -> bytes:
    """The content of a file, from its local header on; fewer bytes where it is damaged."""
    start = _LOCAL_BYTES + int.from_bytes(data[26:28], "little") + int.from_bytes(data[28:30], "little")
    packed = data[start : start + packed_size]
    if method == zipfile.ZIP_STORED:
        return packed
    try:
        return zlib.decompressobj(_WINDOW_BITS).decompress(packed, size + 1)
    except zlib.error:
        return b""
