"""Numbers and bytes as the parts of a payload hold them."""

from typing import Final

from cnnbatch.leb128 import read_leb128

MAX_NUMBER: Final = 1 << 40
"""No size in a payload is larger."""


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
        """The next number, in LEB128; one over ``most`` is refused."""
        value, self.position = read_leb128(self._data, self.position)
        if value > most:
            raise ValueError(f"{value}, the limit is {most}")
        return value
