"""``--dry-run``: what a night would do, how long it would take and what it would cost. Writes nothing and reads no image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from cnnbatch.archive.layout import check_place
from jobs.compress import CompressJob
from jobs.night.cost import HEAD, Expected, cost_of
from jobs.night.report import Spent, last_costs
from jobs.night.settings import NightlyConfig
from jobs.settings import ArchiveEntry

NIGHTS: Final = 7
LEAST_BYTES: Final = 100_000_000
"""A night that compressed less tells the overhead, not the speed."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """Forecast for one archive. ``node_hours`` by kind; ``basis``: what the estimate rests on; ``amount`` None: a price is
    missing."""

    source: str
    archive: str
    inputs: int
    unchanged: int
    new: int
    changed: int
    vanished: int
    unreadable: int
    """Inputs listed with a fault."""
    kept: str | None
    """Why ``mirror_deletes`` would remove none of the vanished; None: it would, or is not wanted."""
    source_bytes: int
    node_hours: Mapping[str, float]
    basis: Literal["the last nights", "the configuration"]
    amount: float | None
    currency: str

    def describe(self) -> list[str]:
        """For people."""
        hours = ", ".join(f"{kind} {hours:,.2f} h" for kind, hours in self.node_hours.items())
        cost = "price unknown" if self.amount is None else f"{self.amount:,.2f} {self.currency}"
        lines = [
            f"{self.source} → {self.archive}",
            f"  {self.inputs:,} inputs: {self.unchanged:,} unchanged, {self.new:,} new, {self.changed:,} changed, "
            f"{self.unreadable:,} unreadable; {self.vanished:,} only in the archive",
            f"  {self.source_bytes / 1e6:,.1f} MB to read; about {hours} of nodes, {cost}, by {self.basis}",
        ]
        if self.kept is not None:
            lines.insert(2, f"  they would stay there: {self.kept}")
        return lines


def forecast(config: NightlyConfig, entry: ArchiveEntry) -> Forecast:
    """Raises CnnbatchError where the source or the archive cannot be looked at."""
    job = CompressJob(config.compress_config(entry))
    check_place(job.archive)
    with job.scratch:
        todo = job.survey().source_bytes
    past = last_costs(job.archive, nights=NIGHTS, least_bytes=LEAST_BYTES)
    seconds = seconds_of(todo, past, config.expected)
    cost = cost_of(seconds, config.prices, images=0, source_bytes=0, held=None)
    report = job.report
    return Forecast(
        source=job.source.url,
        archive=job.archive.url,
        inputs=report.inputs,
        unchanged=report.unchanged,
        new=report.new,
        changed=report.changed,
        vanished=report.vanished,
        unreadable=len(job.faults),
        kept=job.why_kept() if entry.mirror_deletes and report.vanished else None,
        source_bytes=todo,
        node_hours={kind: round(spent / 3600, 4) for kind, spent in seconds.items()},
        basis="the last nights" if past else "the configuration",
        amount=cost.amount,
        currency=config.prices.currency,
    )


def seconds_of(todo: int, past: Sequence[Spent], expected: Expected) -> dict[str, float]:
    """Node-seconds by kind for ``todo`` bytes: an overhead that is there every night, and what beyond it ``past`` nights took a
    byte. A kind that was not up every night has a share of both."""
    if not past:
        return {expected.kind or HEAD: expected.overhead_seconds + todo / 1e6 / expected.source_mb_per_second}
    total = sum(spent.source_bytes for spent in past)
    found = {}
    for kind in sorted({kind for spent in past for kind in spent.node_seconds}):
        taken = [spent.node_seconds.get(kind, 0.0) for spent in past]
        overheads = [min(seconds, expected.overhead_seconds) for seconds in taken]
        found[kind] = sum(overheads) / len(past) + (sum(taken) - sum(overheads)) * todo / total
    return found
