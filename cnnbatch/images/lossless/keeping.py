"""How a file is kept: the smallest of what gives it back byte for byte."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import imagecodecs

from cnnbatch.errors import ImageError
from cnnbatch.images.lossless import packing
from cnnbatch.images.lossless.finding import find
from cnnbatch.images.transcode import restore_jpeg, transcode_jpeg

VERBATIM, TRANSCODE, PARTS, ZSTD = CODINGS = ("verbatim", "jpegxl-transcode", "parts", "zstd")
"""How a payload is coded; words of the column ``payload_coding``."""

LEAST_GAIN: Final = 0.02
"""Share of a file's bytes: for less it is kept as it is."""

MIN_PARTS_BYTES: Final = 1024
MIN_ZSTD_BYTES: Final = 128
TRIAL_LEVEL: Final = 3
LEAST_SHARES: Final = {"jpeg": 0.6}
LEAST_SHARE: Final = 0.25
"""Share of a file's bytes, or of what Zstandard makes of them in a hurry, by the file's format and of others: `keep` of a
picture never gets much below."""

MAX_BYTES: Final = 2**31 - 2**20
"""Bytes of a file: the format's limit on a payload."""


@dataclass(frozen=True, slots=True)
class Kept:
    """How a file is kept."""

    coding: str
    payload: bytes


def keep(data: bytes) -> Kept:
    """``data`` as the smallest payload that was made the same file again; never raises for what is in it."""
    best = Kept(VERBATIM, data)
    for kept in _candidates(data):
        most = len(data) - 1 if kept.coding == TRANSCODE else (1 - LEAST_GAIN) * len(data)
        if len(kept.payload) <= most and len(kept.payload) < len(best.payload) and _comes_back(kept, data):
            best = kept
    return best


def can_be_below(num_bytes: int, data: bytes, format: str) -> bool:
    """Whether `keep` may take fewer than ``num_bytes`` for ``data``: a quick guess, as `keep` takes time."""
    share = LEAST_SHARES.get(format, LEAST_SHARE)
    if num_bytes >= share * len(data):
        return True
    return format not in LEAST_SHARES and num_bytes >= share * len(imagecodecs.zstd_encode(data, TRIAL_LEVEL))


def _candidates(data: bytes) -> Iterator[Kept]:
    transcode = transcode_jpeg(data)
    if transcode is not None:
        yield Kept(TRANSCODE, transcode)
    if len(data) >= MIN_PARTS_BYTES and (parts := packing.pack(data, find(data))) is not None:
        yield Kept(PARTS, parts)
    if transcode is None and len(data) >= MIN_ZSTD_BYTES and len(imagecodecs.zstd_encode(data, TRIAL_LEVEL)) < len(data):
        yield Kept(ZSTD, packing.compress(data))


def _comes_back(kept: Kept, data: bytes) -> bool:
    try:
        return restore(kept.payload, kept.coding, num_bytes=len(data)) == data
    except ImageError:
        return False


def restore(payload: bytes, coding: str, *, num_bytes: int) -> bytes:
    """The file of ``num_bytes`` that a payload keeps; raises ImageError where it does not."""
    if coding == VERBATIM:
        return payload
    if coding == TRANSCODE:
        return restore_jpeg(payload)
    if num_bytes > MAX_BYTES:
        raise ImageError(coding, f"a file of {num_bytes} bytes, the limit is {MAX_BYTES}")
    if coding == PARTS:
        return packing.unpack(payload, num_bytes)
    if coding != ZSTD:
        raise ImageError("coding", f"no payload coding {coding!r}")
    try:
        return packing.decompress(payload, num_bytes)
    except ValueError as error:
        raise ImageError(coding, str(error)) from error
