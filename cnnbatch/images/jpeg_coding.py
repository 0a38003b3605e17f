"""How a JPEG was coded, as a word of `DecodedImage.mode`, so that its picture is given back as such a JPEG.

``q90,420`` is the quality 90 of IJG's tables with colours at half the size, ``q90,420,progressive`` in several scans.
Other tables stand in place of the quality: 64 or 128 bytes in the order of the file, as base64 for URLs: ``t…,444``.
"""

import base64
import binascii
import io
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

from PIL import Image

COEFFICIENTS: Final = 64
TABLE_BYTES: Final = (COEFFICIENTS, 2 * COEFFICIENTS)
LARGEST_STEP: Final = 255  # of a baseline JPEG
WORD: Final = re.compile(r"(?:q(\d{1,3})|t([\w-]{86,171})),(4\d\d|gray)(,progressive)?", re.ASCII)

SUBSAMPLINGS: Final = {(1, 1): "444", (2, 1): "422", (2, 2): "420", (4, 1): "420", (4, 2): "420"}
"""Sampling factors of luma over those of chroma → what Pillow writes that comes nearest; others come back as 4:4:4."""


def _zigzag() -> list[int]:
    """Places of the coefficients, row by row, in the order of a file (ITU-T T.81, figure A.6)."""
    places = [(row, column) for row in range(8) for column in range(8)]
    order = sorted(places, key=lambda at: (sum(at), at[0] if sum(at) % 2 else at[1]))
    return [8 * row + column for row, column in order]


ZIGZAG: Final = _zigzag()


@dataclass(frozen=True, slots=True)
class JpegCoding:
    """``tables``: quantisation steps of luma and, where there are colours, of chroma, in the order of a file."""

    tables: tuple[bytes, ...]
    subsampling: str = "444"
    is_progressive: bool = False

    def word(self) -> str:
        """The word behind ``jpeg=``."""
        quality = _quality_of(self.tables)
        steps = f"q{quality}" if quality else "t" + base64.urlsafe_b64encode(b"".join(self.tables)).decode().rstrip("=")
        return f"{steps},{self.subsampling}" + (",progressive" if self.is_progressive else "")

    def coarser(self, factor: float) -> "JpegCoding":
        """The same with its steps multiplied."""
        tables = tuple(bytes(min(LARGEST_STEP, round(step * factor)) for step in table) for table in self.tables)
        return replace(self, tables=tables)

    def options(self) -> dict[str, object]:
        """Options of Pillow's writer."""
        tables = []
        for table in self.tables:
            natural = [1] * COEFFICIENTS
            for place, step in zip(ZIGZAG, table, strict=True):
                natural[place] = max(1, step)
            tables.append(natural)
        subsampling = {"422": "4:2:2", "420": "4:2:0"}.get(self.subsampling, "4:4:4")
        return {"qtables": tables, "subsampling": subsampling, "progressive": self.is_progressive, "optimize": True}


def of_quality(quality: int, *, subsampling: str = "444") -> JpegCoding:
    """One of IJG's qualities, 1 to 100."""
    return JpegCoding(_tables(quality), subsampling)


def parse_word(word: str | None) -> JpegCoding | None:
    """The coding that `JpegCoding.word` wrote; None for anything else."""
    found = WORD.fullmatch(word or "")
    if found is None:
        return None
    quality, steps, subsampling, progressive = found.groups()
    if quality is not None:
        if not 1 <= int(quality) <= 100:
            return None
        tables = _tables(int(quality))[: 1 if subsampling == "gray" else 2]
        return JpegCoding(tables, subsampling, progressive is not None)
    try:
        data = base64.urlsafe_b64decode(steps + "=" * (-len(steps) % 4))
    except (binascii.Error, ValueError):
        return None
    if len(data) not in TABLE_BYTES:
        return None
    tables = tuple(data[at : at + COEFFICIENTS] for at in range(0, len(data), COEFFICIENTS))
    return JpegCoding(tables, subsampling, progressive is not None)


def coding_of(marker: int, frame: bytes, tables: dict[int, bytes]) -> JpegCoding | None:
    """The coding that a frame header (ITU-T T.81, B.2.2) and the tables of its file say; None where one is missing."""
    parts = [frame[at : at + 3] for at in range(6, len(frame) - 2, 3)]
    if len(parts) not in (1, 3) or not all(part[2] in tables for part in parts):
        return None
    is_progressive = marker in (0xC2, 0xCA)
    if len(parts) == 1:
        return JpegCoding((tables[parts[0][2]],), "gray", is_progressive)
    (x, y), (u, v) = ((part[1] >> 4, part[1] & 15) for part in parts[:2])
    factors = (x // u, y // v) if u and v else (1, 1)
    return JpegCoding((tables[parts[0][2]], tables[parts[1][2]]), SUBSAMPLINGS.get(factors, "444"), is_progressive)


def tables_of(body: bytes) -> dict[int, bytes]:
    """Tables of one DQT segment (ITU-T T.81, B.2.4.1) by number; steps over 255 as 255, and what is cut off left out."""
    found: dict[int, bytes] = {}
    position = 0
    while position < len(body):
        size, number = 1 + (body[position] >> 4 > 0), body[position] & 15
        raw = body[position + 1 : position + 1 + size * COEFFICIENTS]
        if len(raw) == size * COEFFICIENTS:
            steps = raw if size == 1 else (min(255, int.from_bytes(raw[at : at + 2], "big")) for at in range(0, len(raw), 2))
            found[number] = bytes(steps)
        position += 1 + size * COEFFICIENTS
    return found


@lru_cache(maxsize=100)
def _tables(quality: int) -> tuple[bytes, bytes]:
    """IJG's tables of a quality, as libjpeg makes them."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG", quality=quality)
    with Image.open(buffer) as image:
        natural = image.quantization  # type: ignore[attr-defined]
    return bytes(natural[0][place] for place in ZIGZAG), bytes(natural[1][place] for place in ZIGZAG)


@lru_cache(maxsize=256)
def _quality_of(tables: tuple[bytes, ...]) -> int | None:
    """The quality of which they are IJG's tables."""
    return next((quality for quality in range(100, 0, -1) if _tables(quality)[: len(tables)] == tables), None)
