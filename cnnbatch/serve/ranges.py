"""``Range: bytes=…`` (RFC 9110): one range of a file, or the whole."""

import re
from dataclasses import dataclass
from typing import Final

_ONE: Final = re.compile(r"\s*bytes\s*=\s*(?:(\d{1,18})-(\d{0,18})|-(\d{1,18}))\s*", re.ASCII | re.IGNORECASE)


class NotSatisfiable(ValueError):
    """None of its bytes are there: 416."""


@dataclass(frozen=True, slots=True)
class ByteRange:
    """The bytes from ``start`` to before ``end``."""

    start: int
    end: int


def parse_range(header: str | None, size: int) -> ByteRange | None:
    """The range of a file of ``size`` bytes; None for all of it, also where the header is none or names several.

    Raises NotSatisfiable.
    """
    found = _ONE.fullmatch(header or "")
    if found is None:
        return None
    first, last, suffix = found.groups()
    if suffix is not None:
        start, end = max(0, size - int(suffix)), size
    else:
        start, end = int(first), size if not last else min(size, int(last) + 1)
        if last and int(last) < int(first):
            return None
    if start >= end:
        raise NotSatisfiable(f"there are {size} bytes")
    return ByteRange(start, end)
