"""Estimate of a run's time and bytes, from its plan and a few images coded on this machine."""

import json
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

from cnnbatch.codec import Codec
from cnnbatch.errors import Unreadable
from cnnbatch.stages.compress import CompressionSettings, ShardCompressor, read_input
from cnnbatch.stages.difference import Difference
from cnnbatch.stages.listing import object_infos
from cnnbatch.stages.records import Failure
from cnnbatch.storage import ObjectInfo, Source, Store

SAMPLE_IMAGES = 5
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
    """Bytes to read, and from ``sampled`` images of them: bytes to write and hours of one worker like this machine.

    ``failures``: what was listed and cannot be read. ``kept``: why what vanished from the source would stay in the archive,
    although it was to go; None: it would not, or was not to.
    """

    source_bytes: int
    sampled: int
    payload_bytes: int | None
    worker_hours: float | None
    failures: Sequence[Failure] = ()
    kept: str | None = None

    def to_json(self, counts: Counts) -> str:
        """With the counts, as JSON."""
        names = ("inputs", "unchanged", "new", "changed", "vanished")
        return json.dumps({**{name: getattr(counts, name) for name in names}, **asdict(self)}, indent=2, sort_keys=True)

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
        lines += [f"failed: {f.key}: {f.error}: {f.message}" for f in self.failures[:SHOWN_FAILURES]]
        if len(self.failures) > SHOWN_FAILURES:
            lines.append(f"… and {len(self.failures) - SHOWN_FAILURES:,} more cannot be read")
        return lines


def estimate(source: Source, archive: Store, difference: Difference, codec: Codec, settings: CompressionSettings) -> Estimate:
    """Makes the rows of up to `SAMPLE_IMAGES` of the inputs, evenly spread over the listing."""
    compressor = ShardCompressor(source, archive, codec, settings, run_id="estimate")  # writes to neither for one row
    total = difference.source_bytes
    read = written = count = 0
    seconds = 0.0
    for info in _sample(difference):
        started = time.monotonic()
        try:
            info, data = read_input(source, info)
        except Unreadable:
            continue
        row = compressor.row(info, data)
        seconds += time.monotonic() - started
        read, written, count = read + len(data), written + len(row.payload), count + 1
    if not read:
        return Estimate(total, 0, None, None)
    return Estimate(total, count, round(total * written / read), total / read * seconds / 3600)


def _sample(difference: Difference) -> Iterator[ObjectInfo]:
    step = max(1, difference.images // SAMPLE_IMAGES)
    wanted, first = deque(range(0, difference.images, step)[:SAMPLE_IMAGES]), 0
    for table in difference.todo:
        while wanted and wanted[0] < first + table.num_rows:
            yield from object_infos(table.slice(wanted.popleft() - first, 1))
        first += table.num_rows
