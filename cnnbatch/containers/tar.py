"""Tars: their members in order, and the blocks that it takes to write the same tar again.

`tarfile` reads the headers. What it makes of them is not enough for the way back, so the blocks themselves are kept, as
differences from what is expected (docs/format.md, *fields, label, container and place*).
"""

import base64
import hashlib
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from cnnbatch.containers.window import StreamWindow, Window

BLOCK: Final = 512
PIECE_BYTES: Final = 1 << 20
DIGITS: Final = 32
"""Digits of a sha256 that a member's digest keeps."""

MAX_BEFORE_BYTES: Final = 1 << 18
"""Bytes of blocks in front of a header, and behind the last file."""

_NAME, _SIZE, _SUM = slice(0, 100), slice(124, 136), slice(148, 156)
_ERRORS = (tarfile.TarError, OSError, EOFError, ValueError, pa.ArrowException)
"""Errors of a damaged tar or stream; of a store in trouble a StorageError comes, which is none of them."""


@dataclass(frozen=True, slots=True)
class Member:
    """A file in a tar; ``before`` are the blocks in front of its header. A ``fault`` of `FAULTS` says that it is of no use."""

    number: int
    name: str
    offset: int
    size: int
    digest: str = ""
    header: bytes = b""
    before: bytes = b""
    fault: str | None = None


@dataclass(slots=True)
class TarScan:
    """Iterate it once: the files of a tar. Then ``tail`` has what is behind the last one: ``after`` are blocks of folders and
    links, ``fault`` says, in a word of `FAULTS`, that it does not end as it should."""

    window: Window
    size: int | None
    tail: int = 0
    after: bytes = b""
    fault: str | None = None

    def __iter__(self) -> Iterator[Member]:
        try:
            yield from self._members()
        except _ERRORS:
            self.fault = "damaged"

    def _members(self) -> Iterator[Member]:
        end = number = 0
        tar = tarfile.TarFile(fileobj=self.window, mode="r", encoding="utf-8", errors="surrogateescape")
        while (info := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]  # it would keep them all
            if not info.isreg():
                self.after += self.window.at(end, min(tar.offset - end, MAX_BEFORE_BYTES + 1))
                end = tar.offset
                continue
            raw = self.window.at(end, min(info.offset_data - end, MAX_BEFORE_BYTES + 1))
            before, self.after = self.after + raw[:-BLOCK], b""
            member = Member(number, info.name, info.offset_data, info.size, "", raw[-BLOCK:], before)
            number, end = number + 1, tar.offset
            yield self._read(member, info)
            if self.fault is not None:
                return
        self._end(end)

    def _read(self, member: Member, info: Any) -> Member:
        """The member with its digest."""
        if info.issparse() or "size" in info.pax_headers or len(member.before) > MAX_BEFORE_BYTES:
            return Member(member.number, member.name, member.offset, member.size, fault="unsupported")
        digest, left = hashlib.sha256(), member.size
        self.window.seek(member.offset)
        while left and (piece := self.window.read(min(left, PIECE_BYTES))):
            digest.update(piece)
            left -= len(piece)
        if left:
            self.fault = "truncated"
            return Member(member.number, member.name, member.offset, member.size, fault="truncated")
        found = digest.hexdigest()[:DIGITS]
        return Member(member.number, member.name, member.offset, member.size, found, member.header, member.before)

    def _end(self, end: int) -> None:
        """Looks at what is behind the last member: a block of zeros ends a tar."""
        block = self.window.at(end, BLOCK)
        if not block:
            self.fault = "truncated"
        elif any(block):
            self.fault = "damaged"
        total = self.window.length() if isinstance(self.window, StreamWindow) else self.size
        self.tail = max(0, (total or 0) - end)


def expected_header(template: bytes, name: bytes, size: int) -> bytes:
    """The header block of a member by that of another one."""
    header = bytearray(template)
    header[_NAME] = name[:100].ljust(100, b"\0")
    header[_SIZE] = b"%011o\0" % size
    return with_sum(bytes(header))


def with_sum(header: bytes) -> bytes:
    """The block with its sum."""
    counted = header[: _SUM.start] + b" " * 8 + header[_SUM.stop :]
    return header[: _SUM.start] + b"%06o\0 " % sum(counted) + header[_SUM.stop :]


def with_size(header: bytes, size: int) -> bytes:
    """The block with another size, and its sum."""
    return with_sum(header[: _SIZE.start] + b"%011o\0" % size + header[_SIZE.stop :])


def differences(expected: bytes, header: bytes) -> list[list[Any]] | None:
    """The patches that have to be put into ``expected`` so that it is ``header``, its sum aside; None where they are equal."""
    found: list[list[Any]] = []
    alike = header[: _SUM.start] + expected[_SUM] + header[_SUM.stop :]
    for position, (one, other) in enumerate(zip(expected, alike, strict=True)):
        if one == other:
            continue
        if found and found[-1][0] + len(found[-1][1]) == position:
            found[-1][1] += chr(other)
        else:
            found.append([position, chr(other)])
    if patched(expected, found) != header:
        found.append([_SUM.start, header[_SUM].decode("latin-1")])
    return found or None


def patched(expected: bytes, patch: list[list[Any]] | None) -> bytes:
    """The other way round. Raises ValueError for what is none of these."""
    header = expected
    for position, text in patch or ():
        if position == _SUM.start:
            header = with_sum(header)  # and then another one
        data = text.encode("latin-1")
        if position < 0 or position + len(data) > BLOCK:
            raise ValueError("a difference outside of the header")
        header = header[:position] + data + header[position + len(data) :]
    return header if any(position == _SUM.start for position, _ in patch or ()) else with_sum(header)


def pack_blocks(data: bytes) -> str | None:
    """Blocks of headers in few characters; None where there are none."""
    return base64.b64encode(zlib.compress(data, 9)).decode() if data else None


def unpack_blocks(text: str | None) -> bytes:
    """The other way round; raises ValueError for what is none."""
    if text is None:
        return b""
    try:
        data = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), MAX_BEFORE_BYTES + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if len(data) > MAX_BEFORE_BYTES or len(data) % BLOCK:
        raise ValueError(f"{len(data)} bytes of headers")
    return data
