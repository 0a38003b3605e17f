"""The checksums that S3 keeps beside an object: ``x-amz-checksum-*``, base64 of the big-endian value.

botocore checks some of them, and the two that S3 itself makes by default (CRC64NVME, CRC32C) only with a further package.
"""

import base64
import hashlib
import zlib
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any, Final

import numpy as np

CRC32C: Final = 0x82F63B78
CRC64NVME: Final = 0x9A6C9329AC4BC9B5
"""Generator polynomials, reflected."""


def crc(data: bytes, *, polynomial: int, bits: int) -> int:
    """A reflected CRC that begins with ones and ends inverted, as both of ours do."""
    ones = (1 << bits) - 1
    return int(_compiled()(np.frombuffer(data, np.uint8), _table(polynomial), np.uint64(ones))) ^ ones


@cache
def _table(polynomial: int) -> "np.ndarray[Any, np.dtype[np.uint64]]":
    entries = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (polynomial if value & 1 else 0)
        entries.append(value)
    return np.array(entries, np.uint64)


@cache
def _compiled() -> Callable[[Any, Any, Any], Any]:
    import numba  # takes longer than most commands, which need none of this

    compiled: Callable[[Any, Any, Any], Any] = numba.njit(cache=True, nogil=True)(_run)
    return compiled


def _run(data: Any, table: Any, value: Any) -> Any:
    for byte in data:
        value = table[(value ^ np.uint64(byte)) & np.uint64(0xFF)] ^ (value >> np.uint64(8))
    return value


def _crc_bytes(data: bytes, *, polynomial: int, bits: int) -> bytes:
    return crc(data, polynomial=polynomial, bits=bits).to_bytes(bits // 8, "big")


_ALGORITHMS: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    "ChecksumCRC32": lambda data: zlib.crc32(data).to_bytes(4, "big"),
    "ChecksumCRC32C": partial(_crc_bytes, polynomial=CRC32C, bits=32),
    "ChecksumCRC64NVME": partial(_crc_bytes, polynomial=CRC64NVME, bits=64),
    "ChecksumSHA1": lambda data: hashlib.sha1(data, usedforsecurity=False).digest(),
    "ChecksumSHA256": lambda data: hashlib.sha256(data).digest(),
}


def agree(data: bytes, answer: Mapping[str, Any]) -> bool:
    """Whether ``data`` has the checksums in S3's answer; those over parts of an upload (``…-3``) say nothing of the whole."""
    told = {name: str(answer[name]) for name in _ALGORITHMS if name in answer and "-" not in str(answer[name])}
    return all(base64.b64encode(_ALGORITHMS[name](data)).decode() == value for name, value in told.items())
