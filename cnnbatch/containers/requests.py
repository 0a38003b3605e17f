"""Inputs inside of containers, and the requests that read several of them at once."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from cnnbatch.containers.kinds import KINDS, Kind
from cnnbatch.containers.part import Part
from cnnbatch.storage import ObjectInfo

TOGETHER_BYTES: Final = 4 << 20
"""Bytes that one request reads at most, unless a single input is larger."""

HOLE_BYTES: Final = 64 << 10
"""Between two members that one request reads."""


@dataclass(frozen=True, slots=True)
class Input:
    """An input inside of a container."""

    info: ObjectInfo
    part: Part
    kind: Kind = field(init=False)
    ranges: Sequence[tuple[int, int]] | None = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", KINDS[json.loads(self.part.column)["kind"]])
        object.__setattr__(self, "ranges", self.kind.ranges(self.part))

    @property
    def start(self) -> int:
        return min(offset for offset, _ in self.ranges or ())

    @property
    def end(self) -> int:
        return max(offset + size for offset, size in self.ranges or ())

    def cut(self, data: bytes, start: int) -> list[bytes]:
        """The values, out of the bytes from ``start`` on."""
        stored = [data[offset - start : offset - start + size] for offset, size in self.ranges or ()]
        return self.kind.values(self.part, stored)


@dataclass(slots=True)
class Group:
    """Inputs that one request reads."""

    inputs: list[Input]
    start: int
    end: int

    @property
    def size(self) -> int:
        return self.end - self.start


def grouped(inputs: Iterable[Input], *, max_bytes: int) -> Iterator[Group]:
    """Neighbours together, up to `TOGETHER_BYTES` or ``max_bytes``."""
    most = min(TOGETHER_BYTES, max_bytes)
    group: Group | None = None
    for one in sorted(inputs, key=lambda one: (one.part.container.key, one.start)):
        if group is not None:
            near = one.part.container.key == group.inputs[0].part.container.key and one.start - group.end <= HOLE_BYTES
            if near and one.end - group.start <= most:
                group.inputs.append(one)
                group.end = max(group.end, one.end)
                continue
            yield group
        group = Group([one], one.start, one.end)
    if group is not None:
        yield group
