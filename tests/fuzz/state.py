"""What a fuzzing process tells its parent, in a file that both have mapped: it outlives any death of the process."""

import mmap
import struct
from pathlib import Path
from typing import Self

FIELDS = struct.Struct("<QQQQdQ")
ROOM = 1 << 21


class State:
    """Counters, and the input under way. Sizes in KiB; ``started`` on the monotonic clock, 0 between inputs."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(FIELDS.size + ROOM))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        self.read()

    def read(self) -> Self:
        """Take over what the other process wrote."""
        values = FIELDS.unpack_from(self._map)
        self.executions, self.findings, self.base_kib, self.peak_kib, self.started, self._length = values
        return self

    def begin(self, data: bytes, now: float) -> None:
        """An input is about to be run."""
        self.started, self._length = now, min(len(data), ROOM)
        self._map[FIELDS.size : FIELDS.size + self._length] = data[:ROOM]
        self._write()

    def end(self) -> None:
        """It has returned."""
        self.executions, self.started = self.executions + 1, 0.0
        self._write()

    @property
    def input(self) -> bytes:
        """The one under way, or the last one."""
        return self._map[FIELDS.size : FIELDS.size + self._length]

    def _write(self) -> None:
        values = (self.executions, self.findings, self.base_kib, self.peak_kib, self.started, self._length)
        FIELDS.pack_into(self._map, 0, *values)
