"""Rows compared with their originals: the same bytes in the source, and decoded again as near as was recorded."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Final

import numpy as np

from cnnbatch.archive.schema import ArchiveRow
from cnnbatch.codec.codec import Pixels
from cnnbatch.errors import Undecodable, Unreadable
from cnnbatch.images import DecodedImage, decode
from cnnbatch.images.alpha import decode_alpha
from cnnbatch.metrics import LOSSLESS_DB, psnr_db
from cnnbatch.ssimulacra2 import ssimulacra2
from cnnbatch.stages.findings import ShardFindings
from cnnbatch.stages.isolation import Keyed
from cnnbatch.stages.settings import MSE_TOLERANCE, VerifySettings
from cnnbatch.storage import ObjectInfo, Source

SCORES_OF_ROUNDING: Final = 95
"""A SSIMULACRA2 above which the last roundings of pixels are most of what differs."""

Decoded = tuple[ArchiveRow, Pixels | None]
"""A row and its pixels; None: it was stored, and gives its original back."""


class Comparison:
    """Compares rows with their originals in ``source``; ``watch`` surrounds each call of a decoder."""

    def __init__(
        self, source: Source, settings: VerifySettings, watch: Callable[[Keyed], AbstractContextManager[None]]
    ) -> None:
        self.source, self.settings, self.watch = source, settings, watch

    def compare(self, decoded: Sequence[Decoded], originals: Mapping[str, ObjectInfo], found: ShardFindings) -> None:
        """Add to ``found`` how rows differ from their ``originals``; a row without one is not compared."""
        by_key = {row.key: (row, pixels) for row, pixels in decoded if row.key in originals}
        infos = [originals[key] for key in by_key]
        most = max((info.known_bytes for info in infos), default=0)
        fetched = self.source.get_many(
            infos, max_bytes=max(self.settings.fetch_bytes, most), concurrency=self.settings.fetch_concurrency
        )
        for info, data in fetched:
            if isinstance(data, Unreadable):
                self._add_of_source(found, "unreadable-source", data, info.key)
            else:
                self._compare_one(*by_key[info.key], data, found)

    def _compare_one(self, row: ArchiveRow, pixels: Pixels | None, data: bytes, found: ShardFindings) -> None:
        if hashlib.sha256(data).digest() != row.source_sha256:
            message = f"SOURCE has other {len(data)} bytes than the {row.source_size} that were archived"
            self._add_of_source(found, "source-changed", message, row.key)
        elif pixels is not None:
            try:
                with self.watch(row):
                    original = decode(data, max_pixels=self.settings.max_pixels, convert=True)
            except Undecodable as error:
                self._add_of_source(found, "unreadable-source", f"cannot be decoded any more: {error}", row.key)
                return
            self._compare_images(row, pixels, original, found)

    def _compare_images(self, row: ArchiveRow, pixels: Pixels, original: DecodedImage, found: ShardFindings) -> None:
        if pixels.shape != original.pixels.shape:
            found.add("decode", "wrong-psnr", f"shape {pixels.shape}, the original has {original.pixels.shape}", row.key)
            return
        measured = psnr_db(original.pixels, pixels)
        if row.psnr_db is not None and not _same_psnr(measured, row.psnr_db, self.settings.psnr_tolerance_db):
            found.add("decode", "wrong-psnr", f"PSNR is {measured:.2f} dB, recorded {row.psnr_db:.2f} dB", row.key)
        elif row.ssimulacra2 is not None:
            self._compare_scores(row.ssimulacra2, ssimulacra2(original.pixels, pixels), row.key, found)
        names = [name for name in ("exif", "icc", "xmp", "segments") if getattr(row, name) != getattr(original, name)]
        if names or not _same_alpha(row.alpha, original.alpha, (pixels.shape[0], pixels.shape[1])):
            self._add_of_source(found, "wrong-metadata", f"{', '.join(names) or 'alpha'} is not the original's", row.key)

    def _compare_scores(self, recorded: float, measured: float, key: str, found: ShardFindings) -> None:
        tolerance = self.settings.ssimulacra2_tolerance * (2 if recorded > SCORES_OF_ROUNDING else 1)
        if abs(measured - recorded) > tolerance:
            found.add("decode", "wrong-ssimulacra2", f"SSIMULACRA2 is {measured:.1f}, recorded {recorded:.1f}", key)

    def _add_of_source(self, found: ShardFindings, kind: str, message: object, key: str) -> None:
        if self.settings.reaches("source"):
            found.add("source", kind, message, key)


def _same_psnr(a: float, b: float, tolerance_db: float) -> bool:
    """In dB or, where hardly an error is left and a few pixels that round otherwise are many dB, in squared levels."""
    return abs(a - b) <= tolerance_db or abs(_mse(a) - _mse(b)) <= MSE_TOLERANCE


def _mse(psnr: float) -> float:
    return float(255**2 / 10 ** (min(max(psnr, 0.0), LOSSLESS_DB) / 10))  # a damaged row may hold any number


def _same_alpha(one: bytes | None, other: bytes | None, shape: tuple[int, int]) -> bool:
    if one is None or other is None or one == other:
        return one == other
    return bool(np.array_equal(decode_alpha(one, shape), decode_alpha(other, shape)))
