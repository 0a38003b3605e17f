"""Figures of an archive: of a version as a whole, and of its images by format, outcome and reason."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

PAYLOAD_BYTES = "payload_bytes"
"""A column that is asked for as others are, and is not stored: the length of the payload, None where it is not known."""

_KIND: Final = ("source_format", "outcome", "reason")
KIND_COLUMNS: Final = (*_KIND, "source_size", PAYLOAD_BYTES)
"""Columns that `kinds_of` counts by and adds up."""


@dataclass(frozen=True, slots=True)
class ArchiveInfo:
    """Figures of one version of an archive. Sizes in bytes: ``archive_bytes`` of the shards, ``codec_bytes`` of the
    codec files; ``codecs`` maps codec id to the rows that need it."""

    url: str
    format_version: int
    created_by: str
    log_version: int
    num_images: int
    num_shards: int
    outcomes: Mapping[str, int]
    codecs: Mapping[str, int]
    source_bytes: int
    payload_bytes: int
    archive_bytes: int
    codec_bytes: int = 0

    @property
    def ratio(self) -> float:
        """Source bytes ÷ bytes of all shards and codec files; 0 for an empty archive."""
        return self.source_bytes / (self.archive_bytes + self.codec_bytes) if self.archive_bytes else 0.0


@dataclass(frozen=True, slots=True)
class Kind:
    """Images of one format that became the same for the same reason. Sizes in bytes; ``payload_bytes``: None: not known."""

    format: str
    outcome: str
    reason: str | None
    images: int
    source_bytes: int
    payload_bytes: int | None


def kinds_of(table: pa.Table) -> list[Kind]:
    """The images of a table of `KIND_COLUMNS`, counted."""
    sums = table.group_by(list(_KIND)).aggregate(
        [([], "count_all"), ("source_size", "sum"), (PAYLOAD_BYTES, "sum", pc.ScalarAggregateOptions(skip_nulls=False))]
    )
    columns = (*_KIND, "count_all", "source_size_sum", f"{PAYLOAD_BYTES}_sum")
    return [Kind(*(row[name] for name in columns)) for row in sums.to_pylist()]


def added_up(kinds: Iterable[Kind]) -> list[Kind]:
    """Each kind once, the most bytes of originals first."""
    found: dict[tuple[str, str, str | None], Kind] = {}
    for kind in kinds:
        place = kind.format, kind.outcome, kind.reason
        found[place] = kind if place not in found else _together(found[place], kind)
    return sorted(found.values(), key=lambda kind: (-kind.source_bytes, kind.format, kind.outcome, kind.reason or ""))


def _together(a: Kind, b: Kind) -> Kind:
    payload = None if a.payload_bytes is None or b.payload_bytes is None else a.payload_bytes + b.payload_bytes
    return replace(a, images=a.images + b.images, source_bytes=a.source_bytes + b.source_bytes, payload_bytes=payload)
