"""The inputs that a container holds: each picture with what belongs to it, and each other file alone.

Members are those of one sample while they follow each other and are called alike up to the first dot (WebDataset's rule). What
of a sample is no picture goes with its first picture.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Final, Protocol

from cnnbatch.containers.names import clean_name, is_picture, sample_of
from cnnbatch.containers.part import without_last_nulls
from cnnbatch.containers.tar import MAX_BEFORE_BYTES, Member, TarScan, differences, expected_header, pack_blocks
from cnnbatch.storage import ObjectInfo

MAX_FIELDS_BYTES: Final = 16 << 20
"""Bytes of what goes with a picture; what is more is inputs of their own."""


class Scan(Protocol):
    """The files of a container in order; then ``after`` and ``fault``, see `TarScan`."""

    after: bytes
    fault: str | None

    def __iter__(self) -> Iterator[Member]: ...


class SampleInputs(ABC):
    """Iterate it once: the inputs of a container, each ``part`` the row of its `Part`."""

    def __init__(self, scan: Scan, container: ObjectInfo) -> None:
        self._scan, self._container = scan, container

    @abstractmethod
    def begin(self, member: Member, name: str) -> None:
        """Sees each sound member before its sample is made, with its name as a part of a key."""

    @abstractmethod
    def row(self, members: Sequence[Member], names: Sequence[str]) -> dict[str, Any]:
        """Where the picture and its fields, called ``names``, lie."""

    @abstractmethod
    def place(self, member: Member, usual: str, after: bytes) -> list[Any]:
        """All that it takes to write a member again; ``usual`` is the name that its key says."""

    def __iter__(self) -> Iterator[ObjectInfo]:
        waiting: list[Member] | None = None
        for found in self._samples():
            if waiting is not None:
                yield from self._inputs(waiting, b"")
            waiting = None
            if isinstance(found, ObjectInfo):
                yield found
            else:
                waiting = found
        if waiting is not None:
            yield from self._inputs(waiting, self._scan.after)
        if self._scan.fault is not None:
            yield ObjectInfo(self._container.key, None, fault=self._scan.fault)

    def _samples(self) -> Iterator[list[Member] | ObjectInfo]:
        """Members that follow each other and belong to one sample; faults of single ones at once."""
        seen: set[str] = set()
        sample: list[Member] = []
        last: str | None = None
        for member in self._scan:
            name = clean_name(member.name)
            if (fault := self._fault(member, name, seen)) is not None:
                yield ObjectInfo(self._key(member.name if name is None else name), None, fault=fault)
                continue
            assert name is not None
            seen.add(name)
            self.begin(member, name)
            found = sample_of(name)
            prefix = None if found is None else found[0]
            if sample and (prefix is None or prefix != last):
                yield sample
                sample = []
            sample.append(member)
            last = prefix
        if sample:
            yield sample

    def _fault(self, member: Member, name: str | None, seen: set[str]) -> str | None:
        if name is None:
            return "name"
        return member.fault or ("duplicate" if name in seen else None)

    def _inputs(self, sample: list[Member], after: bytes) -> Iterator[ObjectInfo]:
        pictures = [member for member in sample if is_picture(member.name)]
        others = [member for member in sample if member not in pictures]
        fits = sum(member.size for member in others) <= MAX_FIELDS_BYTES
        last = sample[-1]
        for member in sample:
            beside = others if pictures and fits and member is pictures[0] else []
            if member in pictures or not (pictures and fits):
                yield self._input(member, beside, after, last)

    def _input(self, member: Member, beside: list[Member], after: bytes, last: Member) -> ObjectInfo:
        name = clean_name(member.name) or ""
        stem = (sample_of(name) or (name, ""))[0]
        names = [(sample_of(clean_name(one.name) or "") or ("", ""))[1] for one in beside]
        usual = [name, *(f"{stem}.{field}" for field in names)]
        members = [member, *beside]
        place = [self.place(one, expected, after if one is last else b"") for one, expected in zip(members, usual, strict=True)]
        row = self.row(members, names) | {"digests": [one.digest for one in members], "place": place}
        identity = [[one.number, one.name, one.digest] for one in members]
        etag = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]
        return ObjectInfo(self._key(name), member.size, etag, self._container.mtime, json.dumps(row, separators=(",", ":")))

    def _key(self, name: str) -> str:
        return f"{self._container.key}/{name.encode(errors='backslashreplace').decode()}"


class TarInputs(SampleInputs):
    """The inputs of a tar. Then ``template`` has its first header block, and ``prefix`` what the names of its members begin
    with that keys leave out."""

    def __init__(self, scan: TarScan, container: ObjectInfo) -> None:
        super().__init__(scan, container)
        self.template = b""
        self.prefix = ""

    def begin(self, member: Member, name: str) -> None:
        if not self.template:
            self.template, self.prefix = member.header, member.name.removesuffix(name)

    def row(self, members: Sequence[Member], names: Sequence[str]) -> dict[str, Any]:
        image, *others = members
        return {
            "image": [image.offset, image.size],
            "fields": [[name, one.offset, one.size] for name, one in zip(names, others, strict=True)],
        }

    def place(self, member: Member, usual: str, after: bytes) -> list[Any]:
        patch = differences(expected_header(self.template, member.name.encode(), member.size), member.header)
        name = None if member.name == self.prefix + usual else member.name
        after = after if len(after) <= MAX_BEFORE_BYTES else b""
        return without_last_nulls([member.number, name, patch, pack_blocks(member.before), pack_blocks(after)])
