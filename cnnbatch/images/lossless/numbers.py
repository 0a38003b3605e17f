"""Numbers in bytes: LEB128, as in a bitstream."""

from typing import Final

MAX_NUMBER: Final = 1 << 40
"""No size in a payload is larger."""


def number(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the last byte has the high bit clear."""
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


class Reader:
    """Takes numbers and bytes from the front; raises ValueError at the end of the data."""

    def __init__(self, data: bytes) -> None:
        self._data, self.position = memoryview(data), 0

    def take(self, count: int) -> bytes:
        """The next bytes."""
        if not 0 <= count <= len(self._data) - self.position:
            raise ValueError(f"{count} bytes wanted, {len(self._data) - self.position} left")
        self.position += count
        return bytes(self._data[self.position - count : self.position])

    def number(self, most: int = MAX_NUMBER) -> int:
        """The next number; one over ``most`` is refused."""
        value = shift = 0
        while True:
            [byte] = self.take(1)
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
            if shift > 63:
                raise ValueError("a number without an end")
        if value > most:
            raise ValueError(f"{value}, the limit is {most}")
        return value
