"""Findings in one shard, and what its images came to."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from cnnbatch.archive.schema import ArchiveRow
from cnnbatch.stages.records import MAX_MESSAGE, Finding, Tally, VerifyResult, VerifyTask
from cnnbatch.stages.settings import Level

MAX_RESULT_BYTES: Final = 64 << 10
"""Size of the findings in one shard's result, which must stay below 100 KB; what is left out is counted in one more."""


@dataclass(slots=True)
class ShardFindings:
    """Findings in one shard, and counts made on the way."""

    path: str
    findings: list[Finding] = field(default_factory=list)
    keys: set[str | None] = field(default_factory=set)
    seen: int = 0
    unchecked: int = 0
    source_bytes: int = 0
    payload_bytes: int = 0
    pixels: int = 0
    codec_ids: set[str] = field(default_factory=set)

    def add(self, level: Level, kind: str, message: object, key: str | None = None) -> None:
        self.findings.append(Finding(level, kind, self.path, key, str(message)[:MAX_MESSAGE]))
        self.keys.add(key)

    def count(self, batch: Sequence[ArchiveRow]) -> None:
        self.seen += len(batch)
        self.codec_ids.update(row.codec_id for row in batch if row.codec_id)
        self.source_bytes += sum(row.source_size for row in batch)
        self.payload_bytes += sum(len(row.payload) for row in batch)

    def of_one_row(self) -> bytes:
        """Findings in the only row, for `take` in another process."""
        findings = [(finding.level, finding.kind, finding.message) for finding in self.findings]
        return json.dumps([findings, self.unchecked, self.pixels]).encode()

    def take(self, seen: bytes, key: str) -> None:
        """Add another process's findings in one row (`of_one_row`)."""
        findings, unchecked, pixels = json.loads(seen)
        for level, kind, message in findings:
            self.add(level, kind, message, key)
        self.unchecked += unchecked
        self.pixels += pixels

    def result(self, task: VerifyTask) -> VerifyResult:
        return VerifyResult(task.number, self.tally(task.shard.num_rows), self.capped(), frozenset(self.codec_ids))

    def tally(self, num_rows: int) -> Tally:
        damaged = [finding.key for finding in self.findings if finding.kind == "damaged-row"]
        faulty = len(self.keys - {None}) + damaged.count(None)
        sound = self.seen + len(damaged) - faulty - self.unchecked
        lost = max(0, num_rows - self.seen - len(damaged))
        counts = {"sound": sound, "faulty": faulty, "unchecked": self.unchecked, "lost": lost}
        images = {name: count for name, count in counts.items() if count}
        return Tally(images, source_bytes=self.source_bytes, payload_bytes=self.payload_bytes, pixels=self.pixels)

    def capped(self) -> tuple[Finding, ...]:
        kept: list[Finding] = []
        size = 0
        for finding in self.findings:
            size += len(finding.message.encode("utf-8", "replace")) + len((finding.key or "").encode("utf-8", "replace")) + 200
            if size > MAX_RESULT_BYTES:
                message = f"{len(self.findings) - len(kept)} more findings in this shard"
                return (*kept, Finding(finding.level, "more", self.path, None, message))
            kept.append(finding)
        return tuple(kept)
