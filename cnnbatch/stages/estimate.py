"""Estimate of a run's time and bytes, from its plan and a few images coded on this machine."""

import json
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import PurePosixPath
from typing import Protocol

from cnnbatch.archive.schema import ArchiveRow
from cnnbatch.codec import Codec
from cnnbatch.errors import Unreadable
from cnnbatch.stages.compress import ShardCompressor, kinds_of
from cnnbatch.stages.difference import Difference
from cnnbatch.stages.inputs import fetch_one
from cnnbatch.stages.records import Failure, Tally
from cnnbatch.stages.settings import CompressionSettings
from cnnbatch.storage import ObjectInfo, Source, Store
from cnnbatch.storage.columns import object_infos

SAMPLE_IMAGES = 8
FEWEST = 2
"""Inputs of each format that are looked at, if there are so many."""

MOST_FORMATS = 8
"""Told apart by the endings of their names; the others, with the least bytes, are sampled together."""

ALIASES = {".jpg": ".jpeg", ".jpe": ".jpeg", ".tif": ".tiff"}
_REST = "…"
SHOWN_FAILURES = 10


class Counts(Protocol):
    """The counts of a run report that a preview shows."""

    inputs: int
    unchanged: int
    new: int
    changed: int
    vanished: int
    hidden: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes to read, and from ``sampled`` of the inputs, by format: bytes to write and hours of one worker like this machine.

    ``failures``: what was listed and cannot be read. ``kept``: why what vanished from the source would stay in the archive,
    although it was to go; None: it would not, or was not to.
    """

    source_bytes: int
    sampled: int
    payload_bytes: int | None
    worker_hours: float | None
    failures: Sequence[Failure] = ()
    kept: str | None = None
    sample: Tally = field(default_factory=Tally)
    """Inputs of the sample that would be kept or converted."""

    def to_json(self, counts: Counts) -> str:
        """With the counts, as JSON."""
        names = ("inputs", "unchanged", "new", "changed", "vanished")
        figures = asdict(replace(self, sample=Tally()))
        del figures["sample"]
        figures |= {f"sample_{name}": kinds for name, kinds in self.sample.kinds_as_lists().items()}
        return json.dumps({**{name: getattr(counts, name) for name in names}, **figures}, indent=2, sort_keys=True)

    def describe(self, counts: Counts) -> list[str]:
        """With the counts, for people."""
        lines = [
            f"{counts.inputs:,} inputs: {counts.unchanged:,} unchanged, {counts.new:,} new, {counts.changed:,} changed; "
            f"{counts.vanished:,} only in the archive",
            f"to read: {self.source_bytes / 1e6:,.1f} MB",
        ]
        if counts.hidden:
            lines.append(f"{counts.hidden:,} may be in shards that cannot be read: they would be left alone")
        if self.kept is not None and counts.vanished:
            lines.append(f"they would stay there: {self.kept}")
        if self.payload_bytes is not None and self.worker_hours is not None:
            lines.append(
                f"estimated from {self.sampled} of them: {self.payload_bytes / 1e6:,.1f} MB to write, "
                f"{self.worker_hours:.2f} hours of one worker like this machine"
            )
        lines += [f"of these {line}" for line in self.sample.describe_kinds()]
        lines += [f"failed: {f.key}: {f.error}: {f.message}" for f in self.failures[:SHOWN_FAILURES]]
        if len(self.failures) > SHOWN_FAILURES:
            lines.append(f"… and {len(self.failures) - SHOWN_FAILURES:,} more cannot be read")
        return lines


def estimate(source: Source, archive: Store, difference: Difference, codec: Codec, settings: CompressionSettings) -> Estimate:
    """Makes the rows of a few inputs of each format, evenly spread over the listing, and extrapolates by format."""
    compressor = ShardCompressor(source, archive, codec, settings, run_id="estimate")  # writes to neither for one row
    formats = _formats(difference)
    for listed, found in _sample(difference, formats):
        started = time.monotonic()
        try:
            info, data = fetch_one(source, listed)
        except Unreadable:
            continue
        row = compressor.row(info, data)
        found.add(row, len(data), time.monotonic() - started)
    total, sampled = difference.source_bytes, [found for found in formats.values() if found.read]
    if not sampled:
        return Estimate(total, 0, None, None)
    known = sum(found.num_bytes for found in sampled)
    scale = total / known if known else 1.0  # what no sample could be read of is like the rest
    written = scale * sum(found.num_bytes * found.written / found.read for found in sampled)
    seconds = scale * sum(found.num_bytes * found.seconds / found.read for found in sampled)
    tally = Tally.sum(found.tally for found in sampled)
    count = sum(found.sampled for found in sampled)
    return Estimate(total, count, round(written), seconds / 3600, sample=tally)


@dataclass(slots=True)
class _Format:
    """One ending among the inputs: how much there is of it, and what its samples became."""

    images: int = 0
    num_bytes: int = 0
    sampled: int = 0
    read: int = 0
    written: int = 0
    seconds: float = 0.0
    tally: Tally = field(default_factory=Tally)

    def add(self, row: ArchiveRow, read: int, seconds: float) -> None:
        self.sampled, self.read, self.written = self.sampled + 1, self.read + read, self.written + len(row.payload)
        self.seconds += seconds
        self.tally = Tally.sum((self.tally, kinds_of([row])))


def _formats(difference: Difference) -> dict[str, _Format]:
    """The inputs by the ending of their names; beyond `MOST_FORMATS` together."""
    found: dict[str, _Format] = {}
    for table in difference.todo:
        for key, size in zip(table.column("key").to_pylist(), table.column("size").to_pylist(), strict=True):
            one = found.setdefault(_ending(key), _Format())
            one.images, one.num_bytes = one.images + 1, one.num_bytes + (size or 0)
    by_size = sorted(found, key=lambda name: -found[name].num_bytes)
    rest = [found.pop(name) for name in by_size[MOST_FORMATS:]]
    if rest:
        found[_REST] = _Format(sum(one.images for one in rest), sum(one.num_bytes for one in rest))
    return found


def _ending(key: str) -> str:
    ending = PurePosixPath(key).suffix.lower()
    return ALIASES.get(ending, ending)


def _sample(difference: Difference, formats: Mapping[str, _Format]) -> Iterator[tuple[ObjectInfo, _Format]]:
    """Inputs to look at, with their format: of each its share of `SAMPLE_IMAGES`, at least `FEWEST`, from its whole length."""
    total = max(1, sum(one.num_bytes for one in formats.values()))
    wanted: dict[str, deque[int]] = {}
    for name, one in formats.items():
        number = min(one.images, max(FEWEST, round(SAMPLE_IMAGES * one.num_bytes / total)))
        wanted[name] = deque((2 * index + 1) * one.images // (2 * number) for index in range(number))
    seen: Counter[str] = Counter()
    for table in difference.todo:
        for index, key in enumerate(table.column("key").to_pylist()):
            name = _ending(key) if _ending(key) in formats else _REST
            if wanted[name] and wanted[name][0] == seen[name]:
                wanted[name].popleft()
                for info in object_infos(table.slice(index, 1)):
                    yield info, formats[name]
            seen[name] += 1
