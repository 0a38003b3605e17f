"""``--dry-run``: what a night would do, how long it would take and what it would cost. Writes nothing and reads no image."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from cnnbatch.archive.layout import check_place
from jobs.compress import CompressJob
from jobs.night.cost import HEAD, cost_of
from jobs.night.report import last_costs
from jobs.night.settings import Entry, NightlyConfig


@dataclass(frozen=True, slots=True)
class Forecast:
    """Of one archive. ``node_hours`` by kind; ``basis``: what the estimate rests on; ``amount`` None: a price is missing."""

    source: str
    archive: str
    inputs: int
    unchanged: int
    new: int
    changed: int
    vanished: int
    source_bytes: int
    node_hours: Mapping[str, float]
    basis: Literal["the last night", "the configuration"]
    amount: float | None
    currency: str

    def describe(self) -> str:
        """For people."""
        hours = ", ".join(f"{kind} {hours:,.2f} h" for kind, hours in self.node_hours.items())
        cost = "price unknown" if self.amount is None else f"{self.amount:,.2f} {self.currency}"
        return (
            f"{self.source} → {self.archive}\n"
            f"  {self.inputs:,} inputs: {self.unchanged:,} unchanged, {self.new:,} new, {self.changed:,} changed; "
            f"{self.vanished:,} only in the archive\n"
            f"  {self.source_bytes / 1e6:,.1f} MB to read; about {hours} of nodes, {cost}, as {self.basis} says"
        )


def forecast(config: NightlyConfig, entry: Entry) -> Forecast:
    """Raises CnnbatchError where the source or the archive cannot be looked at."""
    job = CompressJob(config.compress_config(entry))
    check_place(job.archive)
    with job.scratch:
        todo = job.survey().source_bytes
    last = last_costs(job.archive)
    if last is not None:
        seconds = {kind: spent * todo / last[1] for kind, spent in last[0].items()}
    else:
        seconds = {config.expected.kind or HEAD: todo / 1e6 / config.expected.source_mb_per_second}
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
        source_bytes=todo,
        node_hours={kind: round(spent / 3600, 4) for kind, spent in seconds.items()},
        basis="the configuration" if last is None else "the last night",
        amount=cost.amount,
        currency=config.prices.currency,
    )
