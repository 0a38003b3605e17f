"""Whole numbers in exponential Golomb codes, for side information in a header."""

from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from cnnbatch.errors import BitstreamError

LARGEST_NUMBER: Final = 1 << 14
"""Magnitude of a picture's own number."""

Numbers = npt.NDArray[np.int64]


def packed(numbers: Numbers) -> bytes:
    """Numbers in exponential Golomb codes of order 1 (Teuhola 1978), most significant bit first, filled up with zeros.

    >>> packed(np.array([0, 1, -1, 2])).hex()
    'b450'
    >>> unpacked(packed(np.array([0, 1, -1, 2])), 4).tolist()
    [0, 1, -1, 2]
    """
    bits = "".join(_golomb(2 * int(n) - 1 if n > 0 else -2 * int(n)) for n in numbers.flat)
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


def _golomb(number: int) -> str:
    text = f"{number + 2:b}"
    return "0" * (len(text) - 2) + text


def unpacked(data: bytes, count: int) -> Numbers:
    """The inverse of `packed`; raises BitstreamError for anything that it cannot have made."""
    bits = iter(f"{int.from_bytes(data, 'big'):0{8 * len(data)}b}" if data else "")
    numbers = np.array([_next_number(bits) for _ in range(count)], np.int64)
    rest = "".join(bits)
    if len(rest) >= 8 or "1" in rest:
        raise BitstreamError("bitstream header: something follows the numbers of its filter")
    return numbers


def _next_number(bits: Iterator[str]) -> int:
    zeros = 0
    while (bit := next(bits, None)) == "0":
        zeros += 1
    text = "1" + "".join(next(bits, "") for _ in range(zeros + 1))
    code = int(text, 2) - 2
    number = (code + 1) // 2 if code % 2 else -code // 2
    if bit is None or len(text) != zeros + 2 or abs(number) > LARGEST_NUMBER:
        raise BitstreamError("bitstream header: the numbers of its filter end too early or are too large")
    return number
